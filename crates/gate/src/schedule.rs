//! When to ask next and when to stop: a state machine without I/O and without a clock.
//!
//! Attempts start close together and back off to the interval, so that the measured time to healthy is the
//! app's and not the poll's: each waits for a share of the time that has passed. Times are durations since the
//! container started.

use std::time::Duration;

/// The least time after a refusal.
const REFUSED_DELAY: Duration = Duration::from_millis(4);
/// What part of the time that has passed is waited for after a refusal, which costs the app nothing.
const REFUSED_PART: u32 = 16;

/// How often to ask, how long, and how many failures are too many.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Time between attempts, once backed off.
    pub interval: Duration,
    /// The least time between two attempts of which the app knows.
    pub first_delay: Duration,
    /// How many eighths of the time that has passed are waited for after such an attempt, up to `interval`. With one, an
    /// app that is ready is asked within an eighth of the time that it took; with eight, times double.
    pub growth: u32,
    /// Time one attempt may take.
    pub timeout: Duration,
    /// Wall clock for the whole wait.
    pub within: Duration,
    /// Failures in a row that end the wait early, as HEALTHCHECK's `retries` does.
    pub retries: Option<Retries>,
    /// Successes in a row that pass; 0 counts as 1.
    pub successes: u32,
}

/// HEALTHCHECK's rule for failures: Docker would have asked once per interval after the start period, so
/// only one failure per interval counts, and none before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retries {
    /// How many failures in a row.
    pub count: u32,
    /// Time in which failures do not count.
    pub start_period: Duration,
}

/// What came of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// What was wanted.
    Passed,
    /// Anything else.
    Failed,
    /// Nothing listens: the kernel answered, and the app knows nothing of it.
    Refused,
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask again at this time.
    AskAt(Duration),
    /// It passed.
    Passed,
    /// It did not pass, and will not be asked again.
    GaveUp(GaveUp),
}

/// Why the wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GaveUp {
    /// The wall clock ran out.
    Within,
    /// Too many failures in a row.
    Retries,
}

/// The state of one probe's wait.
#[derive(Clone, Debug)]
pub struct Schedule {
    timing: Timing,
    failures: u32,
    successes: u32,
    next_counted: Duration,
}

impl Schedule {
    /// A wait that has not asked yet; the first attempt is due at once.
    pub fn new(timing: Timing) -> Self {
        let start = timing
            .retries
            .as_ref()
            .map_or(Duration::ZERO, |r| r.start_period);
        let next_counted = start.saturating_add(timing.interval);
        Self {
            failures: 0,
            successes: 0,
            next_counted,
            timing,
        }
    }

    /// What follows an attempt that began at `began` and ended at `now`.
    pub fn after(&mut self, began: Duration, now: Duration, answer: Answer) -> Next {
        if answer == Answer::Passed {
            self.successes += 1;
            if self.successes >= self.timing.successes {
                return Next::Passed;
            }
            // As in Docker, the first success ends the start period. What is wanted several times in a row is wanted
            // at the interval: attempts that are milliseconds apart would prove nothing more than one.
            self.failures = 0;
            self.next_counted = self.next_counted.min(now);
            return self.ask_at(began.saturating_add(self.timing.interval).max(now));
        }
        self.successes = 0;
        if let Some(retries) = &self.timing.retries
            && now >= self.next_counted
        {
            self.failures += 1;
            self.next_counted = now.saturating_add(self.timing.interval);
            if self.failures >= retries.count.max(1) {
                return Next::GaveUp(GaveUp::Retries);
            }
        }
        let delay = match answer {
            Answer::Refused => REFUSED_DELAY.max(began / REFUSED_PART),
            _ => {
                let part = (began / 8).saturating_mul(self.timing.growth);
                self.timing.first_delay.max(part)
            }
        };
        let delay = delay.min(self.timing.interval);
        self.ask_at(began.saturating_add(delay).max(now))
    }

    fn ask_at(&self, at: Duration) -> Next {
        if at >= self.timing.within {
            Next::GaveUp(GaveUp::Within)
        } else {
            Next::AskAt(at)
        }
    }

    /// How many attempts in a row have passed by now.
    pub fn successes(&self) -> u32 {
        self.successes
    }

    /// How long an attempt that begins at `now` may take.
    pub fn timeout_at(&self, now: Duration) -> Duration {
        self.timing
            .timeout
            .min(self.timing.within.saturating_sub(now))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn timing(retries: Option<Retries>) -> Timing {
        Timing {
            interval: Duration::from_secs(2),
            first_delay: Duration::from_millis(10),
            growth: 8,
            timeout: Duration::from_secs(2),
            within: Duration::from_secs(120),
            retries,
            successes: 1,
        }
    }

    /// Runs a schedule whose attempts take `cost` and always fail; the times of the attempts and the end.
    fn run_failing(timing: Timing, cost: Duration) -> (Vec<Duration>, Duration, GaveUp) {
        run_answered(timing, cost, Answer::Failed)
    }

    fn run_answered(
        timing: Timing,
        cost: Duration,
        answer: Answer,
    ) -> (Vec<Duration>, Duration, GaveUp) {
        let mut schedule = Schedule::new(timing);
        let (mut now, mut asked) = (Duration::ZERO, Vec::new());
        loop {
            asked.push(now);
            let end = now + cost.min(schedule.timeout_at(now));
            match schedule.after(now, end, answer) {
                Next::AskAt(at) => now = at,
                Next::GaveUp(why) => return (asked, end, why),
                Next::Passed => unreachable!("every attempt fails"),
            }
        }
    }

    #[test]
    fn attempts_back_off_to_the_interval_and_stop_at_the_limit() {
        let (asked, end, why) = run_failing(timing(None), Duration::ZERO);
        let millis: Vec<_> = asked.iter().take(10).map(Duration::as_millis).collect();
        assert_eq!(millis, [0, 10, 20, 40, 80, 160, 320, 640, 1280, 2560]);
        assert_eq!(why, GaveUp::Within);
        assert!(
            end < Duration::from_secs(120) && end >= Duration::from_secs(117),
            "{end:?}"
        );
    }

    #[test]
    fn requests_follow_each_other_within_an_eighth_of_the_time_that_has_passed() {
        let requests = Timing {
            growth: 1,
            ..timing(None)
        };
        let (asked, ..) = run_failing(requests, Duration::ZERO);
        let millis: Vec<_> = asked.iter().take(6).map(Duration::as_millis).collect();
        assert_eq!(millis, [0, 10, 20, 30, 40, 50]);
        for pair in asked.windows(2) {
            let gap = pair[1] - pair[0];
            let part = (pair[0] / 8).max(Duration::from_millis(10));
            let most = part.min(Duration::from_secs(2));
            assert!(gap <= most, "{gap:?} after {:?}", pair[0]);
        }
        assert!(asked.len() < 120, "{}", asked.len());
    }

    #[test]
    fn after_a_refusal_the_next_comes_within_a_sixteenth_of_the_time_that_has_passed() {
        let (asked, ..) = run_answered(timing(None), Duration::ZERO, Answer::Refused);
        let millis: Vec<_> = asked.iter().take(4).map(Duration::as_millis).collect();
        assert_eq!(millis, [0, 4, 8, 12]);
        for pair in asked.windows(2) {
            let part = (pair[0] / 16).max(Duration::from_millis(4));
            assert_eq!(pair[1] - pair[0], part.min(Duration::from_secs(2)));
        }
        assert!(asked.len() < 180, "{}", asked.len());
        let often = Timing {
            interval: Duration::from_millis(1),
            ..timing(None)
        };
        let (asked, ..) = run_answered(often, Duration::ZERO, Answer::Refused);
        assert_eq!(asked[1], Duration::from_millis(1), "the interval is kept");
    }

    #[test]
    fn healthcheck_failures_count_once_per_interval_after_the_start_period() {
        let retries = Retries {
            count: 3,
            start_period: Duration::from_secs(10),
        };
        let (_, end, why) = run_failing(timing(Some(retries)), Duration::from_millis(1));
        assert_eq!(why, GaveUp::Retries);
        // Docker: failures at 12, 14 and 16 s.
        assert!(
            (Duration::from_secs(16)..Duration::from_secs(20)).contains(&end),
            "{end:?}"
        );
    }

    #[test]
    fn successes_are_counted_in_a_row_and_at_the_interval() {
        let three = Timing {
            successes: 3,
            ..timing(None)
        };
        let mut schedule = Schedule::new(three);
        let mut now = Duration::ZERO;
        let mut asked = Vec::new();
        use Answer::{Failed, Passed};
        for answer in [Passed, Passed, Failed, Passed, Passed, Passed] {
            asked.push(now.as_millis());
            match schedule.after(now, now, answer) {
                Next::AskAt(at) => now = at,
                next => assert_eq!(next, Next::Passed),
            }
        }
        assert_eq!(asked, [0, 2_000, 4_000, 6_000, 8_000, 10_000]);
    }

    #[test]
    fn a_success_ends_the_start_period() {
        let retries = Retries {
            count: 1,
            start_period: Duration::from_secs(60),
        };
        let mut schedule = Schedule::new(Timing {
            successes: 2,
            ..timing(Some(retries))
        });
        let second = Duration::from_secs(1);
        assert!(matches!(
            schedule.after(second, second, Answer::Failed),
            Next::AskAt(_)
        ));
        assert!(matches!(
            schedule.after(second * 2, second * 2, Answer::Passed),
            Next::AskAt(_)
        ));
        let after = schedule.after(second * 4, second * 4, Answer::Failed);
        assert_eq!(after, Next::GaveUp(GaveUp::Retries));
    }

    proptest! {
        #[test]
        fn the_wait_is_bounded_and_success_always_passes(
            interval in 1u64..5_000, first in 0u64..5_000, timeout in 1u64..5_000,
            within in 1u64..20_000, cost in 1u64..10_000, growth in 1u32..=8, retries in proptest::option::of(1u32..5),
        ) {
            let timing = Timing {
                interval: Duration::from_millis(interval),
                first_delay: Duration::from_millis(first.max(1)),
                growth,
                timeout: Duration::from_millis(timeout),
                within: Duration::from_millis(within),
                retries: retries.map(|count| Retries { count, start_period: Duration::ZERO }),
                successes: 1,
            };
            let (asked, end, _) = run_failing(timing.clone(), Duration::from_millis(cost));
            prop_assert!(end <= timing.within);
            prop_assert!(asked.is_sorted());
            let mut schedule = Schedule::new(timing);
            prop_assert_eq!(schedule.after(Duration::ZERO, Duration::MAX, Answer::Passed), Next::Passed);
        }
    }
}
