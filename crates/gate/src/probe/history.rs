//! Many attempts in one line: how long each state lasted.

use super::Observation;
use crate::verdict::seconds;

/// The most states that are told; an app that flaps has hundreds.
const STATES: usize = 6;

/// Attempts with what is alike in a row put together: `refused 41 times over 82 s, then HTTP 503 12 times over 24 s`.
///
/// Of more states than a line can hold the last are told. Empty where nothing was asked.
pub fn history(attempts: &[Observation]) -> String {
    let mut runs: Vec<(String, &Observation, &Observation, usize)> = Vec::new();
    for attempt in attempts {
        let state = attempt.outcome.in_short();
        match runs.last_mut() {
            Some((known, _, last, count)) if *known == state => {
                *last = attempt;
                *count += 1;
            }
            _ => runs.push((state, attempt, attempt, 1)),
        }
    }
    let skipped = runs.len().saturating_sub(STATES);
    let told: Vec<String> = runs[skipped..]
        .iter()
        .map(|(state, first, last, count)| match count {
            1 => format!("{state} once"),
            _ => {
                let lasted = (last.at + last.took).saturating_sub(first.at);
                format!("{state} {count} times over {}", seconds(lasted))
            }
        })
        .collect();
    let told = told.join(", then ");
    match skipped {
        0 => told,
        1 => format!("(1 earlier state), then {told}"),
        _ => format!("({skipped} earlier states), then {told}"),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::Outcome;
    use super::*;

    #[test]
    fn equal_attempts_are_counted_and_states_keep_their_order() {
        let status = |status| Outcome::Status {
            status,
            location: None,
            body: String::new(),
        };
        let attempts = |outcomes: &[(Outcome, usize)]| {
            let all = outcomes
                .iter()
                .flat_map(|(outcome, count)| std::iter::repeat_n(outcome.clone(), *count));
            all.zip(0..)
                .map(|(outcome, number)| Observation {
                    at: Duration::from_secs(2 * number),
                    took: Duration::from_millis(1),
                    outcome,
                })
                .collect::<Vec<_>>()
        };
        for (outcomes, told) in [
            (vec![], ""),
            (vec![(Outcome::Refused, 1)], "refused once"),
            (
                vec![(Outcome::Refused, 41), (status(503), 12)],
                "refused 41 times over 80 s, then HTTP 503 12 times over 22 s",
            ),
            (
                vec![(status(503), 1), (status(500), 1), (Outcome::Passed, 2)],
                "HTTP 503 once, then HTTP 500 once, then passed 2 times over 2.00 s",
            ),
        ] {
            assert_eq!(history(&attempts(&outcomes)), told);
        }
        let flapping = vec![vec![(Outcome::Passed, 1), (Outcome::NoAnswer, 1)]; 4].concat();
        let told = history(&attempts(&flapping));
        assert!(
            told.starts_with("(2 earlier states), then passed once, then "),
            "{told}"
        );
    }
}
