//! What can go wrong with a layer, and whose fault it is.

use std::io;

use rustix::io::Errno;
use smokegate_image::DiffId;

use crate::path::Shown;

/// Whether the image or the machine is to blame; it decides the exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The layer's bytes are wrong or over a limit.
    Image,
    /// This machine could not do what a good layer asks for: disk full, permissions, a filesystem's limits.
    Host,
}

/// A layer that could not be applied, settled or stored.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One entry of the layer's tar is refused.
    #[error("entry `{entry}`: {problem}")]
    Entry {
        /// Name of the entry as the layer has it, escaped.
        entry: String,
        /// Why it is refused.
        problem: EntryProblem,
    },
    /// The tar stream is broken at a place that no entry's name is known for.
    #[error("not a valid tar stream at byte {offset}: {what}")]
    Tar {
        /// Offset in the uncompressed layer.
        offset: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// The layer could not be read, or its bytes are not those its digest names.
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    /// A system call failed.
    #[error("cannot {action} `{path}`")]
    Host {
        /// What was tried.
        action: &'static str,
        /// On what, escaped; relative to the layer or the store.
        path: String,
        /// The errno.
        source: io::Error,
    },
    /// Which layer of several it was.
    #[error("layer {} (diff id {diff_id})", index + 1)]
    Layer {
        /// Its place, 0 being the lowest.
        index: usize,
        /// Its DiffID.
        diff_id: DiffId,
        /// What went wrong in it.
        source: Box<Error>,
    },
}

/// Why an entry is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryProblem {
    /// `..` in a name.
    #[error("its name has a `..` component, which could lead out of the root directory")]
    ParentComponent,
    /// The name is empty or `/`, and it is not a directory.
    #[error("only a directory can be named `/`")]
    RootNotDirectory,
    /// NUL in a name, which no system call can express.
    #[error("its name, link target or attribute name has a NUL byte")]
    Nul,
    /// `.wh.` with nothing, `.` or `..` after it.
    #[error("a whiteout must name a file")]
    BadWhiteout,
    /// Something that is not a directory stands where a parent directory should be.
    #[error("its parent `{parent}` is not a directory{}", if *lower { " in the layers below" } else { "" })]
    BelowNonDirectory {
        /// The parent, escaped.
        parent: String,
        /// Whether a lower layer has it.
        lower: bool,
    },
    /// Symlinks among its parents lead in a circle or are too many (40, as in the kernel).
    #[error("more than 40 symlinks on the way to `{path}`")]
    SymlinkLoop {
        /// Where it was seen, escaped.
        path: String,
    },
    /// A symlink of this layer climbs with `..` out of a directory which is a symlink in a lower layer.
    #[error(
        "a symlink on its way climbs with `..` out of `{parent}`, which is a symlink in the layers below"
    )]
    ClimbsFromSymlink {
        /// The directory, escaped.
        parent: String,
    },
    /// A hard link to nothing.
    #[error("its hard link target `{target}` is neither in this layer nor in those below")]
    LinkTargetMissing {
        /// The target, escaped.
        target: String,
    },
    /// A hard link to a directory.
    #[error("its hard link target `{target}` is a directory")]
    LinkTargetIsDirectory {
        /// The target, escaped.
        target: String,
    },
    /// A symlink or hard link with an empty target.
    #[error("it is a link with an empty target")]
    EmptyTarget,
    /// Over a limit.
    #[error("{what} is over the limit of {limit}")]
    Limit {
        /// What was counted.
        what: &'static str,
        /// The limit.
        limit: u64,
    },
    /// A path component longer than the store's filesystem allows.
    #[error("a component of its name is too long for the filesystem")]
    NameTooLong,
    /// A header field or extended header that cannot be read.
    #[error("bad {0} in its header")]
    BadHeader(&'static str),
    /// An entry type nobody knows what to do with.
    #[error("unknown entry type `{0}`")]
    UnknownType(String),
}

impl Error {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Entry { .. } | Self::Tar { .. } => ErrorKind::Image,
            // A reader that verifies answers errors of its own; the kernel's carry an errno.
            Self::Read(source) if source.raw_os_error().is_none() => ErrorKind::Image,
            Self::Read(_) | Self::Host { .. } => ErrorKind::Host,
            Self::Layer { source, .. } => source.kind(),
        }
    }

    /// Whether the disk or the quota is full.
    pub fn is_disk_full(&self) -> bool {
        match self {
            Self::Host { source, .. } => {
                matches!(
                    Errno::from_io_error(source),
                    Some(Errno::NOSPC | Errno::DQUOT)
                )
            }
            Self::Layer { source, .. } => source.is_disk_full(),
            _ => false,
        }
    }

    pub(crate) fn entry(name: &[u8], problem: EntryProblem) -> Self {
        Self::Entry {
            entry: Shown(name).to_string(),
            problem,
        }
    }

    pub(crate) fn host(action: &'static str, path: &[u8], source: impl Into<io::Error>) -> Self {
        let path = if path.is_empty() {
            b".".as_slice()
        } else {
            path
        };
        Self::Host {
            action,
            path: Shown(path).to_string(),
            source: source.into(),
        }
    }
}
