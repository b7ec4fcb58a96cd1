//! The lines of a log that tell why a program failed: its traceback or panic, or its last error lines.

use std::ops::Range;

use regex::Regex;

/// Lines shown around an error that stands alone.
const CONTEXT: usize = 3;
/// A headline is part of a sentence: what is longer is cut.
const MAX_HEADLINE: usize = 200;

/// What of a log is worth showing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogSlice {
    /// Line numbers of the log, from 0, in order; what is between two of them is left out.
    pub parts: Vec<Range<usize>>,
    /// The line that says it in one sentence.
    pub headline: Option<String>,
}

impl LogSlice {
    /// At most `most` lines of `lines`: of the last traceback its ends, else the last error with what is around it, else
    /// the last lines.
    pub fn of(lines: &[&str], most: usize) -> Self {
        let most = most.max(4);
        let last = lines.len().saturating_sub(most)..lines.len();
        if let Some(trace) = Trace::last(lines) {
            return Self {
                parts: trace.shown(lines.len(), most),
                headline: Some(cut(&trace.headline)),
            };
        }
        let error = (0..lines.len()).rev().find(|at| is_error(lines[*at]));
        let Some(error) = error else {
            return Self {
                parts: non_empty(vec![last]),
                headline: None,
            };
        };
        // The first of a run of error lines is what the others follow from.
        let run = (0..error).rev().take_while(|at| is_error(lines[*at]));
        let first = run
            .last()
            .unwrap_or(error)
            .max((error + 1).saturating_sub(most));
        let parts = if last.contains(&first) {
            std::iter::once(last.start.max(first.saturating_sub(2 * CONTEXT))..last.end).collect()
        } else {
            let around = first.saturating_sub(CONTEXT)..(error + 1 + CONTEXT).min(lines.len());
            let room = most - CONTEXT.min(most / 2);
            let around = around.start.max(around.end.saturating_sub(room))..around.end;
            vec![around, lines.len() - CONTEXT.min(most / 2)..lines.len()]
        };
        Self {
            parts: joined(parts),
            headline: Some(cut(lines[error])),
        }
    }
}

fn cut(line: &str) -> String {
    let line = line.trim();
    match line.char_indices().nth(MAX_HEADLINE) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

fn non_empty(mut parts: Vec<Range<usize>>) -> Vec<Range<usize>> {
    parts.retain(|part| !part.is_empty());
    parts
}

/// Parts in order, those that touch as one.
fn joined(parts: Vec<Range<usize>>) -> Vec<Range<usize>> {
    let mut whole: Vec<Range<usize>> = Vec::new();
    for part in non_empty(parts) {
        match whole.last_mut() {
            Some(before) if before.end >= part.start => before.end = before.end.max(part.end),
            _ => whole.push(part),
        }
    }
    whole
}

/// A message of a language's runtime that spans lines.
struct Trace {
    lines: Range<usize>,
    headline: String,
    /// Whether the cause stands at its end, as in Python, rather than at its beginning.
    ends_with_cause: bool,
}

impl Trace {
    /// The one that ends last.
    fn last(lines: &[&str]) -> Option<Self> {
        let kinds = [python, node, java, go, rust, ruby, dotnet, php];
        let found = kinds.iter().filter_map(|kind| kind(lines));
        found.max_by_key(|trace| (trace.lines.end, std::cmp::Reverse(trace.lines.start)))
    }

    /// One whose first line is the cause, and all lines after it that belong to it.
    fn from(cause: usize, lines: &[&str], is_part: impl Fn(&str) -> bool) -> Self {
        let mut after = lines[cause + 1..].iter();
        let after = after.position(|line| !is_part(line));
        Self {
            lines: cause..after.map_or(lines.len(), |count| cause + 1 + count),
            headline: lines[cause].to_owned(),
            ends_with_cause: false,
        }
    }

    fn shown(&self, total: usize, most: usize) -> Vec<Range<usize>> {
        let Range { start, end } = self.lines.clone();
        // What follows it is the program's end, and may say more.
        let after = end..(end + CONTEXT.min(most / 4)).min(total);
        let room = most - after.len();
        let parts = if end - start <= room {
            vec![start..end, after]
        } else if self.ends_with_cause {
            vec![start..start + 1, end - (room - 1)..end, after]
        } else {
            vec![start..start + room, after]
        };
        joined(parts)
    }
}

// `ValueError: …`, `sqlalchemy.exc.OperationalError: …`, `KeyboardInterrupt`.
pattern!(
    PYTHON_CAUSE,
    r"^(?:[A-Za-z_][\w]*\.)*[A-Z]\w*(?:Error|Exception|Exit|Interrupt|Iteration|Warning|Timeout|Refused|Closed|Configured|NotFound|DoesNotExist)\b(?::.*)?$"
);
pattern!(
    PYTHON_ANY_CAUSE,
    r"^(?:[A-Za-z_]\w*\.)*[A-Za-z_]\w*(?:: .*)?$"
);
pattern!(
    NODE_CAUSE,
    r"^(?:Uncaught )?(?:\w+ \[\w+\]|[A-Z]\w*(?:Error|Exception)(?: \[\w+\])?|Error)(?::.*)?$"
);
pattern!(
    JAVA_CAUSE,
    r#"^(?:Exception in thread ".*" |Caused by: |Error: |Suppressed: )?(?:[a-z_]\w*\.)+[A-Z][\w$]*(?:Exception|Error|Failure)?(?::.*)?$"#
);
pattern!(GO_PANIC, r"^(?:panic: |fatal error: |SIG[A-Z]+: )");
pattern!(RUST_PANIC, r"^thread '.*'(?: \(\d+\))? panicked at ");
pattern!(
    RUBY_CAUSE,
    r"^\S+\.rb>?:\d+:in [`'].*'?: .+ \(([A-Z]\w*(?:::\w+)*)\)"
);
pattern!(DOTNET_CAUSE, r"^Unhandled exception[.:] ");
pattern!(PHP_CAUSE, r"^(?:PHP )?(?:Fatal|Parse) error: ");
// A log level, or a word that stands for one at the beginning of a message.
pattern!(
    ERROR_LINE,
    r#"(?x)
    (?-i:\b(?:ERROR|FATAL|CRITICAL|EMERG|PANIC|SEVERE)\b)
    | (?i:\blevel"?\s*[=:]\s*"?(?:error|fatal|critical|panic|emerg))
    | (?i:\[(?:error|fatal|crit|critical|emerg|alert|panic)\])
    | (?i:(?:^|[\s:])(?:fatal|error|panic|fatal\ error|critical)\s*:)
    | (?i::\ (?:not\ found|command\ not\ found|permission\ denied|no\ such\ file\ or\ directory|operation\ not\ permitted|exec\ format\ error|symbol\ not\ found)\s*$)
    | (?i:error\ (?:while\ )?loading\ shared\ librar)
    | (?i:^cannot\ |^can't\ |^could\ not\ |^unable\ to\ |^failed\ to\ )
    | (?i:\b(?:address\ already\ in\ use|connection\ refused|out\ of\ memory|segmentation\ fault)\b)"#
);
// Says how many, not that there is one; and commands of CI systems, which are nobody's message.
pattern!(
    NO_ERROR_LINE,
    r"(?i)\b(?:0|no) (?:errors?|failures?|fatal)\b|^\s*(?:::|##\[)"
);

/// Whether a line reports an error by itself.
pub(crate) fn is_error(line: &str) -> bool {
    ERROR_LINE.is_match(line) && !NO_ERROR_LINE.is_match(line)
}

fn is_indented(line: &str) -> bool {
    line.starts_with([' ', '\t'])
}

/// `Traceback (most recent call last):`, or the indented place of a SyntaxError, and the line that names the exception.
fn python(lines: &[&str]) -> Option<Trace> {
    let cause = (1..lines.len()).rev().find(|at| {
        let before = lines[at - 1];
        let is_named = PYTHON_CAUSE.is_match(lines[*at]);
        is_indented(before)
            && !before.trim_start().starts_with("at ")
            && (is_named || PYTHON_ANY_CAUSE.is_match(lines[*at]))
            && (0..*at)
                .rev()
                .find(|above| !is_indented(lines[*above]))
                .map_or(is_named, |above| {
                    lines[above].contains("Traceback (most recent call last)")
                        || (is_named && lines[above + 1].trim_start().starts_with("File \""))
                })
    })?;
    let mut start = (0..cause)
        .rev()
        .find(|at| !is_indented(lines[*at]))
        .map_or(0, |at| {
            if lines[at].contains("Traceback (") {
                at
            } else {
                at + 1
            }
        });
    // An exception that was raised while another one was handled: the first is where it began.
    while let Some(link) = start.checked_sub(2).filter(|at| {
        lines[at + 1].is_empty()
            && (lines[*at].starts_with("During handling of")
                || lines[*at].starts_with("The above exception"))
    }) {
        match (0..link)
            .rev()
            .find(|at| lines[*at].contains("Traceback ("))
        {
            Some(earlier) => start = earlier,
            None => break,
        }
    }
    Some(Trace {
        lines: start..cause + 1,
        headline: lines[cause].to_owned(),
        ends_with_cause: true,
    })
}

/// The error, its properties and `    at …` lines, with the source line that Node shows before it.
fn node(lines: &[&str]) -> Option<Trace> {
    let is_frame = |line: &str| line.starts_with("    at ");
    let frame = (1..lines.len()).rev().find(|at| is_frame(lines[*at]))?;
    let cause = (0..frame)
        .rev()
        .take(40)
        .find(|at| NODE_CAUSE.is_match(lines[*at]))?;
    let mut start = cause;
    // `/app/index.js:3`, the line, carets, an empty line.
    for back in 2..=5 {
        if let Some(at) = cause.checked_sub(back)
            && (lines[at].starts_with("node:")
                || lines[at].starts_with("file://")
                || lines[at].starts_with('/'))
        {
            start = at;
        }
    }
    let mut end = frame + 1;
    if lines
        .get(end)
        .is_some_and(|line| line.starts_with('{') || line.starts_with("  "))
        || lines[frame].ends_with('{')
    {
        end = (end..lines.len())
            .take(12)
            .find(|at| lines[*at] == "}")
            .map_or(end, |at| at + 1);
    }
    Some(Trace {
        lines: start..end,
        headline: lines[cause].to_owned(),
        ends_with_cause: false,
    })
}

/// An exception with its `\tat …` lines; the last `Caused by:` is the root.
fn java(lines: &[&str]) -> Option<Trace> {
    let is_frame = |line: &str| {
        let text = line.trim_start();
        is_indented(line)
            && (text.starts_with("at ") && text.contains('(') || text.starts_with("... "))
    };
    let belongs = |line: &str| {
        is_frame(line)
            || line.starts_with("Caused by: ")
            || line.trim_start().starts_with("Suppressed: ")
    };
    let frame = (1..lines.len()).rev().find(|at| is_frame(lines[*at]))?;
    let first = (0..frame).rev().find(|at| !belongs(lines[*at]))?;
    let begins = |line: &str| {
        // A logger may put its own words in front of it.
        JAVA_CAUSE.is_match(line)
            || line
                .split(' ')
                .any(|word| JAVA_CAUSE.is_match(word.trim_end_matches(':')))
    };
    if !begins(lines[first]) {
        return None;
    }
    let root = (first..frame)
        .rev()
        .find(|at| lines[*at].starts_with("Caused by: "));
    let headline = match root {
        Some(at) => lines[at].trim_start_matches("Caused by: "),
        None => lines[first],
    };
    let end = (frame..lines.len())
        .find(|at| !belongs(lines[*at]))
        .unwrap_or(lines.len());
    Some(Trace {
        // The root alone says more than the wrappers in front of it.
        lines: root.unwrap_or(first)..end,
        headline: headline.to_owned(),
        ends_with_cause: false,
    })
}

/// `panic: …`, the goroutines, `exit status 2`.
fn go(lines: &[&str]) -> Option<Trace> {
    let start = (0..lines.len()).rev().find(|at| {
        let mut after = lines[at + 1..].iter().take(6);
        GO_PANIC.is_match(lines[*at]) && after.any(|line| line.starts_with("goroutine "))
    })?;
    // `panic: … [recovered]` is followed by another `panic:`; the first is what happened.
    let start = (0..start)
        .rev()
        .take_while(|at| GO_PANIC.is_match(lines[*at].trim_start()))
        .last()
        .unwrap_or(start);
    let is_part = |line: &str| {
        line.is_empty()
            || is_indented(line)
            || line.starts_with("goroutine ")
            || line.starts_with("[signal ")
            || line.starts_with("created by ")
            || line.starts_with("exit status ")
            || GO_PANIC.is_match(line)
            || line.ends_with(')')
            || line.ends_with("(...)")
    };
    Some(Trace::from(start, lines, is_part))
}

/// `thread 'main' panicked at src/main.rs:2:5:`, the message, and a backtrace where there is one.
fn rust(lines: &[&str]) -> Option<Trace> {
    let start = last_match(&RUST_PANIC, lines)?;
    let is_part = |line: &str| {
        line.starts_with("stack backtrace:") || line.starts_with("note: ") || line.starts_with("  ")
    };
    // Before 1.73 the message stood in the line.
    let Some(message) = lines.get(start + 1).filter(|_| lines[start].ends_with(':')) else {
        return Some(Trace::from(start, lines, is_part));
    };
    let backtrace = Trace::from(start + 1, lines, is_part);
    Some(Trace {
        lines: start..backtrace.lines.end,
        headline: format!("{} {message}", lines[start]),
        ..backtrace
    })
}

/// `app.rb:1:in `require': … (LoadError)` and its `\tfrom …` lines.
fn ruby(lines: &[&str]) -> Option<Trace> {
    let start = last_match(&RUBY_CAUSE, lines)?;
    let trace = Trace::from(start, lines, |line| {
        line.starts_with("\tfrom ") || line.starts_with("\t ") || line.starts_with("        from ")
    });
    let message = lines[start].split_once("': ");
    Some(Trace {
        headline: message.map_or(trace.headline, |(_, message)| message.to_owned()),
        ..trace
    })
}

/// `Unhandled exception. System.…` and its `   at …` lines.
fn dotnet(lines: &[&str]) -> Option<Trace> {
    let start = last_match(&DOTNET_CAUSE, lines)?;
    Some(Trace::from(start, lines, |line| {
        line.starts_with("   at ") || line.starts_with(" ---> ") || line.starts_with("   --- ")
    }))
}

/// `PHP Fatal error:  Uncaught …`, `Stack trace:`, `#0 …`, `  thrown in …`.
fn php(lines: &[&str]) -> Option<Trace> {
    let start = last_match(&PHP_CAUSE, lines)?;
    Some(Trace::from(start, lines, |line| {
        line.starts_with("Stack trace:")
            || line.starts_with('#')
            || line.starts_with("  thrown in ")
    }))
}

fn last_match(pattern: &Regex, lines: &[&str]) -> Option<usize> {
    lines.iter().rposition(|line| pattern.is_match(line))
}

#[cfg(test)]
mod tests;
