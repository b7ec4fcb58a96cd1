//! What goes wrong at the fake, and when: a schedule that a seed decides.

use std::collections::BTreeMap;
use std::time::Duration;

use super::http::FakeRequest;
use crate::Noise;

/// One thing that goes wrong with one request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The connection ends before anything is done.
    Reset,
    /// The connection ends in the middle of the request's body.
    ResetInBody,
    /// What was asked for is done, and the connection ends instead of an answer.
    LostAnswer,
    /// The answer begins after this time.
    Stall(Duration),
    /// Nothing is done and nothing answered, and the connection stays open.
    Hold,
    /// The answer ends in its middle.
    Truncated,
    /// Busy: this status, with so many seconds of `Retry-After`.
    Status {
        /// 429 or 5xx.
        status: u16,
        /// Seconds.
        retry_after: Option<u64>,
    },
    /// Refused for good.
    Refuse(u16),
    /// All tokens end just before this request; once in a schedule, as a new token lives for hours.
    EndTokens,
    /// `Docker-Content-Digest` is that of something else.
    LyingDigest,
}

/// Decides for each request whether and how it fails.
#[derive(Clone, Debug, Default)]
pub struct FaultSchedule {
    noise: Option<Noise>,
    /// Percent of requests that fail in passing.
    rate: u64,
    /// What may go wrong.
    kinds: Vec<Fault>,
    /// Most passing failures of one kind of request, so that retries suffice.
    most: u32,
    failed: BTreeMap<String, u32>,
    /// From the `n`th matching request on, every one fails so.
    lasting: Option<(String, String, u32, Fault)>,
    matched: u32,
    tokens_ended: bool,
}

impl FaultSchedule {
    /// Passing faults of `kinds`, in `rate` percent of requests, at most `most` times for one method and path.
    pub fn passing(seed: u64, rate: u64, most: u32, kinds: Vec<Fault>) -> Self {
        Self {
            noise: Some(Noise::new(seed)),
            rate,
            kinds,
            most,
            ..Self::default()
        }
    }

    /// Besides, requests of `method` whose path contains `part` fail for good, after `allowed` of them.
    #[must_use]
    pub fn and_lasting(mut self, method: &str, part: &str, allowed: u32, fault: Fault) -> Self {
        self.lasting = Some((method.to_owned(), part.to_owned(), allowed, fault));
        self
    }

    pub(super) fn next(&mut self, request: &FakeRequest) -> Option<Fault> {
        if let Some((method, part, allowed, fault)) = &self.lasting
            && request.method == *method
            && request.target.contains(part.as_str())
        {
            self.matched += 1;
            if self.matched > *allowed {
                return Some(fault.clone());
            }
        }
        let noise = self.noise.as_mut()?;
        // Two draws for every request, so that one fault more or less does not change all that follow.
        let (chance, choice) = (noise.next_word(), noise.next_word());
        if chance % 100 >= self.rate || self.kinds.is_empty() {
            return None;
        }
        // An upload's requests have a path of their own each: they count together, by repository.
        let subject = request
            .target
            .split("/blobs/uploads/")
            .next()
            .unwrap_or_default();
        let failed = self
            .failed
            .entry(format!("{} {subject}", request.method))
            .or_default();
        if *failed >= self.most {
            return None;
        }
        let index = usize::try_from(choice % self.kinds.len() as u64).unwrap_or_default();
        let fault = self.kinds[index].clone();
        if fault == Fault::EndTokens && std::mem::replace(&mut self.tokens_ended, true) {
            return None;
        }
        *failed += 1;
        Some(fault)
    }
}
