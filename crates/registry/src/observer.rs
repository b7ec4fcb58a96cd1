//! What happens during a push, as it happens.

use smokegate_image::Digest;

use crate::{Destination, Target};

/// How a blob got to its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlobOutcome {
    /// Its bytes were sent.
    Uploaded,
    /// The registry took it from another of its repositories.
    Mounted,
    /// It was there.
    Present,
}

/// One thing that happened.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum PushEvent<'a> {
    /// A blob is being sent.
    BlobProgress {
        /// Where to.
        destination: &'a Destination,
        /// Which.
        digest: &'a Digest,
        /// Bytes sent in this try.
        sent: u64,
        /// Bytes in all.
        size: u64,
    },
    /// A try failed and is made again from the start.
    BlobRetried {
        /// Where to.
        destination: &'a Destination,
        /// Which.
        digest: &'a Digest,
        /// Why.
        reason: &'a crate::Error,
    },
    /// A blob could not be sent ahead, and is left to the push.
    BlobLeft {
        /// Where to.
        destination: &'a Destination,
        /// Which.
        digest: &'a Digest,
        /// Why.
        reason: &'a crate::Error,
    },
    /// A blob is where it should be.
    BlobDone {
        /// Where.
        destination: &'a Destination,
        /// Which.
        digest: &'a Digest,
        /// Its size.
        size: u64,
        /// How it got there.
        outcome: BlobOutcome,
    },
    /// A manifest is where it should be and was read back.
    ManifestDone {
        /// Where.
        destination: &'a Destination,
        /// Which.
        digest: &'a Digest,
        /// Whether it had to be sent.
        written: bool,
    },
    /// A tag was put back after the move of another one failed.
    TagPutBack {
        /// Which.
        target: &'a Target,
    },
    /// A tag points to the image and was read back.
    TagDone {
        /// Which.
        target: &'a Target,
        /// The image.
        digest: &'a Digest,
        /// Where it pointed before.
        previous: Option<&'a Digest>,
    },
}

/// Is told of every [`PushEvent`], from many tasks at once; must not block.
pub trait PushObserver: Send + Sync {
    /// Takes note of an event.
    fn event(&self, event: PushEvent<'_>);
}

/// Takes no note of anything.
#[derive(Clone, Copy, Debug)]
pub struct Unobserved;

impl PushObserver for Unobserved {
    fn event(&self, _: PushEvent<'_>) {}
}
