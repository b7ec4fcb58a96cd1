//! What applying a layer may do and how much of it.

use serde::{Deserialize, Serialize};

/// What becomes of the owners that a layer records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owners {
    /// Files get the recorded owner; needs privilege over the ids (root, or a user namespace that maps them).
    Keep,
    /// Everything belongs to the creator: only one id is mapped.
    Ignore,
}

impl Owners {
    /// Name of the store's subtree for this flavour: the same layer differs between the two.
    pub(crate) fn directory(self) -> &'static str {
        match self {
            Self::Keep => "kept",
            Self::Ignore => "single",
        }
    }
}

/// How a layer is applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// What becomes of owners.
    pub owners: Owners,
    /// What is too much.
    pub limits: Limits,
}

/// Bounds that no honest layer comes near, each checked before the work it bounds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Entries in one layer.
    pub entries: u64,
    /// Bytes of one layer's uncompressed tar stream, also after its end mark.
    pub total_bytes: u64,
    /// Apparent size of one file; a sparse file counts its holes.
    pub file_bytes: u64,
    /// Bytes of one path, before and after its symlinks are expanded.
    pub path_bytes: u64,
    /// Components of one path, likewise.
    pub path_depth: u64,
    /// Bytes of all extended headers (PAX, GNU long names, sparse maps) of one entry.
    pub header_bytes: u64,
    /// Bytes of all extended attributes of one entry.
    pub xattr_bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            entries: 4_000_000,
            total_bytes: 256 << 30,
            file_bytes: 128 << 30,
            // PATH_MAX counts the closing NUL.
            path_bytes: 4095,
            path_depth: 512,
            header_bytes: 1 << 20,
            xattr_bytes: 128 << 10,
        }
    }
}
