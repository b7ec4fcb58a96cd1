//! The one way tests wait: for a condition, with a limit.

use std::thread;
use std::time::{Duration, Instant};

/// Asks `condition` again and again until it gives something.
///
/// # Panics
/// When `limit` has passed; the message says what did not happen.
pub fn wait_for<T>(what: &str, limit: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(answer) = condition() {
            return answer;
        }
        assert!(Instant::now() < end, "{what}: not within {limit:?}");
        thread::sleep(Duration::from_millis(10));
    }
}
