//! When a failed try is made again.

use std::time::Duration;

use crate::{Error, RegistryOptions};

/// Longest delay of our own choosing.
const CAP: Duration = Duration::from_secs(30);

/// Counts the tries of one operation and waits between them: exponential, with full jitter.
#[derive(Debug)]
pub(crate) struct Backoff {
    left: u32,
    ceiling: Duration,
}

impl Backoff {
    pub(crate) fn new(options: &RegistryOptions) -> Self {
        Self {
            left: options.attempts.max(1) - 1,
            ceiling: options.backoff,
        }
    }

    /// Waits before the next try; hands the error back when it is final or no try is left.
    pub(crate) async fn after(&mut self, error: Error) -> Result<(), Error> {
        if !error.is_transient() || self.left == 0 {
            return Err(error);
        }
        self.pause(&error).await;
        Ok(())
    }

    /// Waits before the next try of something that failed for a reason the caller judged transient.
    pub(crate) async fn again(&mut self, error: Error) -> Result<(), Error> {
        if self.left == 0 {
            return Err(error);
        }
        self.pause(&error).await;
        Ok(())
    }

    async fn pause(&mut self, error: &Error) {
        self.left -= 1;
        let jittered = self.ceiling.mul_f64(fastrand::f64());
        let delay = error
            .retry_after()
            .map_or(jittered, |asked| asked + jittered);
        tracing::debug!(%error, ?delay, "trying again");
        self.ceiling = (self.ceiling * 2).min(CAP);
        tokio::time::sleep(delay).await;
    }
}
