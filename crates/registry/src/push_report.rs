//! What a push did, and what a push that failed left behind.

use std::path::PathBuf;
use std::time::Duration;

use smokegate_image::Digest;

use crate::{Destination, Error, ErrorKind, Target};

/// A number of blobs and their size in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlobCount {
    /// How many.
    pub blobs: u64,
    /// How large together.
    pub bytes: u64,
}

impl BlobCount {
    pub(crate) fn add(&mut self, size: u64) {
        self.blobs += 1;
        self.bytes += size;
    }
}

/// One tag after a push that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetReport {
    /// Which.
    pub target: Target,
    /// Where it pointed before.
    pub previous: Option<Digest>,
    /// Whether it had to be moved.
    pub moved: bool,
}

/// What one destination got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DestinationReport {
    /// Which.
    pub destination: Destination,
    /// Blobs that were sent.
    pub uploaded: BlobCount,
    /// Blobs that the registry took from another of its repositories.
    pub mounted: BlobCount,
    /// Blobs that were there.
    pub present: BlobCount,
    /// Manifests and indexes that were sent.
    pub manifests_written: u64,
    /// Manifests and indexes that were there.
    pub manifests_present: u64,
}

impl DestinationReport {
    pub(crate) fn new(destination: Destination) -> Self {
        Self {
            destination,
            uploaded: BlobCount::default(),
            mounted: BlobCount::default(),
            present: BlobCount::default(),
            manifests_written: 0,
            manifests_present: 0,
        }
    }
}

/// What a push did. Every tag in it was read back and points to `digest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushReport {
    /// What the tags point to.
    pub digest: Digest,
    /// The tags, in the order in which they were moved.
    pub targets: Vec<TargetReport>,
    /// The destinations.
    pub destinations: Vec<DestinationReport>,
    /// How long it took.
    pub timings: PushTimings,
}

/// How long the stages of a push took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PushTimings {
    /// Asking what is there.
    pub plan: Duration,
    /// Bringing blobs and manifests, and verifying the image meanwhile.
    pub upload: Duration,
    /// Moving the tags.
    pub tags: Duration,
}

/// Where a tag points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagPosition {
    /// To this digest.
    At(Digest),
    /// It does not exist.
    Absent,
    /// It could not be read after a move that may have been made.
    Unknown,
}

impl From<Option<Digest>> for TagPosition {
    fn from(digest: Option<Digest>) -> Self {
        digest.map_or(Self::Absent, Self::At)
    }
}

impl std::fmt::Display for TagPosition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::At(digest) => write!(f, "{digest}"),
            Self::Absent => f.write_str("absent"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

/// One tag after a push that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagState {
    /// Which.
    pub target: Target,
    /// Where it pointed before; unknown when the push failed before that was asked.
    pub was: TagPosition,
    /// Where it points now.
    pub now: TagPosition,
    /// Whether it had moved and was put back.
    pub put_back: bool,
    /// Why it could not be put back.
    pub problem: Option<String>,
}

impl TagState {
    /// Whether the tag is, or may be, elsewhere than before.
    pub fn is_moved(&self) -> bool {
        self.now != self.was
    }
}

/// A push that failed, and where it left every tag.
#[derive(Debug, thiserror::Error)]
#[error(
    "publishing failed{}",
    if self.tags_moved() {
        " after a tag was moved"
    } else if self.tags.iter().any(|tag| tag.put_back) {
        ", and the tags that had moved were put back"
    } else {
        ""
    }
)]
pub struct PushError {
    /// Every tag that was asked for, in the order in which they would have moved.
    pub tags: Vec<TagState>,
    /// Why.
    #[source]
    pub source: Box<Error>,
    /// The journal with which [`Publisher::resume`](crate::Publisher::resume) and
    /// [`Publisher::undo`](crate::Publisher::undo) can finish or undo it; none where nothing is left to do.
    pub journal: Option<PathBuf>,
    /// Whether all content was everywhere, with what refers to the image, so that only tags were missing. It stays.
    pub content_is_there: bool,
}

impl PushError {
    /// Whether a tag is, or may be, elsewhere than before.
    pub fn tags_moved(&self) -> bool {
        self.tags.iter().any(TagState::is_moved)
    }

    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        self.source.kind()
    }

    /// Whether a registry did not take a manifest, with all tags where they were.
    pub(crate) fn may_miss_a_blob(&self) -> bool {
        let refused = matches!(
            *self.source,
            Error::Refused { .. } | Error::InvalidManifest { .. }
        );
        refused && !self.tags_moved()
    }

    pub(crate) fn before_any_tag(targets: &[Target], source: Error) -> Self {
        let tags = targets.iter().map(|target| TagState {
            target: target.clone(),
            was: TagPosition::Unknown,
            now: TagPosition::Unknown,
            put_back: false,
            problem: None,
        });
        Self {
            tags: tags.collect(),
            source: Box::new(source),
            journal: None,
            content_is_there: false,
        }
    }
}
