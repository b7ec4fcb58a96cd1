//! How many tests ran, from the closing lines of nextest and of `cargo test`.

use std::ops::AddAssign;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TestCounts {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl TestCounts {
    /// What a line adds: nothing unless it is a closing line.
    pub(crate) fn of_line(line: &str) -> Self {
        let nextest = line.split_once("Summary [").and_then(|(_, rest)| {
            rest.split_once(" tests run: ")
                .or_else(|| rest.split_once(" test run: "))
        });
        let libtest = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "));
        let Some((_, closing)) = nextest.or(libtest) else {
            return Self::default();
        };
        let mut counts = Self::default();
        for part in without_parentheses(closing).split([',', ';']) {
            let mut words = part.split_whitespace();
            let Some(number) = words.next().and_then(|word| word.parse::<usize>().ok()) else {
                continue;
            };
            match words.next() {
                Some("passed") => counts.passed += number,
                Some("failed" | "timed" | "exec") => counts.failed += number,
                Some("skipped" | "ignored") => counts.skipped += number,
                _ => {}
            }
        }
        counts
    }
}

impl AddAssign for TestCounts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// nextest says more about some numbers: `8 passed (1 slow, 1 flaky), 2 failed`.
fn without_parentheses(text: &str) -> String {
    let mut depth = 0;
    let outside = |letter: &char| {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => return depth == 0,
        }
        false
    };
    text.chars().filter(outside).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_of_both_runners() {
        let cases = [
            (
                "     Summary [   0.599s] 9 tests run: 8 passed, 1 failed, 0 skipped",
                (8, 1, 0),
            ),
            (
                "     Summary [   1.2s] 1 test run: 1 passed, 3 skipped",
                (1, 0, 3),
            ),
            (
                "     Summary [  60.1s] 7/9 tests run: 4 passed (1 slow, 2 flaky), 1 failed, 1 timed out, \
                 1 exec failed, 2 skipped",
                (4, 3, 2),
            ),
            (
                "test result: FAILED. 3 passed; 1 failed; 2 ignored; 0 measured; 5 filtered out; \
                 finished in 0.00s",
                (3, 1, 2),
            ),
            ("test result of another kind", (0, 0, 0)),
            ("        PASS [   0.005s] (1/9) xtask tests::x", (0, 0, 0)),
        ];
        for (line, (passed, failed, skipped)) in cases {
            assert_eq!(
                TestCounts::of_line(line),
                TestCounts {
                    passed,
                    failed,
                    skipped
                },
                "{line}"
            );
        }
    }
}
