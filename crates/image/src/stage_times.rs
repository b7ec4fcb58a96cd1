//! Where the time of unpacking goes.

use std::ops::AddAssign;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How long threads were busy with each stage of unpacking: as several are at the same time, in sum more than went by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageTimes {
    /// Reading blobs and decompressing them.
    pub inflate: Duration,
    /// Hashing blobs, and what they decompress to.
    pub verify: Duration,
    /// Making files of it.
    pub write: Duration,
}

impl AddAssign for StageTimes {
    fn add_assign(&mut self, other: Self) {
        self.inflate += other.inflate;
        self.verify += other.verify;
        self.write += other.write;
    }
}

/// Adds up the times of several threads; clones add to the same.
#[derive(Clone, Debug, Default)]
pub struct StageClock(Arc<Mutex<StageTimes>>);

impl StageClock {
    /// Adds what a thread was busy with.
    pub fn add(&self, times: StageTimes) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) += times;
    }

    /// All that was added until now.
    pub fn times(&self) -> StageTimes {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
