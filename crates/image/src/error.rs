//! Why an image cannot be read.

use std::fmt;
use std::io;
use std::path::PathBuf;

use crate::Digest;

/// Whose fault an [`Error`] is: what the exit code depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The user named something that is not there (exit 2).
    Usage,
    /// This machine failed: no space, no permission, an input/output error (exit 3).
    Host,
    /// The image cannot be read: corrupt, truncated, ambiguous, unsupported (exit 5).
    Image,
}

/// A blob or document in a message: its digest and what it is to the image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobName {
    /// The digest that names it.
    pub digest: Digest,
    /// "layer 2 of 3", "config", "manifest".
    pub role: String,
}

impl fmt::Display for BlobName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blob {} ({})", self.digest, self.role)
    }
}

/// Why an image cannot be read. Each names what and where.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source is not there or cannot be opened: the user's mistake (exit 2).
    #[error("cannot open `{}`", path.display())]
    Open {
        /// What was asked for.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },

    /// A transport that wants a directory got a file, or the other way round.
    #[error("`{}` is not {wanted}", path.display())]
    WrongFileType {
        /// What was asked for.
        path: PathBuf,
        /// "a directory", "a file".
        wanted: &'static str,
    },

    /// The source is a registry's: this crate has no network.
    #[error("`{0}` is in a registry, not in a file")]
    InRegistry(String),

    /// Reading failed in the operating system.
    #[error("cannot read {what}")]
    Read {
        /// File or blob.
        what: String,
        /// Why not.
        #[source]
        source: io::Error,
    },

    /// The place for temporary files failed: full, read-only, not there.
    #[error("cannot write a temporary file in `{}`", dir.display())]
    Spool {
        /// The directory.
        dir: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },

    /// No fault of the layer's: no memory for a compressor, or what it made is not what it was given.
    #[error("{blob} cannot be compressed")]
    Compress {
        /// The layer.
        blob: BlobName,
        /// Why not.
        #[source]
        source: io::Error,
    },

    /// A compressed or streamed archive is larger than allowed.
    #[error("the archive holds more than {limit} bytes when decompressed")]
    SpoolLimit {
        /// [`Limits::spool_bytes`](crate::Limits::spool_bytes).
        limit: u64,
    },

    /// The stream that wraps the archive cannot be decompressed to its end.
    #[error("the archive's own compression is damaged, or it is truncated")]
    Decompress {
        /// What the decoder said.
        #[source]
        source: io::Error,
    },

    /// Not an image in any form.
    #[error("`{place}` is no OCI layout, OCI archive or docker-archive: {problem}")]
    NotAnImage {
        /// The path, or `-`.
        place: String,
        /// What it is instead, or what it lacks.
        problem: String,
    },

    /// The archive's own structure is damaged.
    #[error("the tar archive is damaged at byte {offset}: {problem}")]
    Archive {
        /// Where the header is.
        offset: u64,
        /// What is wrong with it.
        problem: String,
    },

    /// A file of the layout or archive is not there.
    #[error("`{name}` is missing{}", hint(.truncated))]
    MissingFile {
        /// Its name in the layout.
        name: String,
        /// Whether the archive has no end marker, so that it may have been cut off.
        truncated: bool,
    },

    /// A blob that a document names is not there.
    #[error("{blob} is missing{}", hint(.truncated))]
    MissingBlob {
        /// Which.
        blob: BlobName,
        /// Whether the archive has no end marker, so that it may have been cut off.
        truncated: bool,
    },

    /// The archive ends within a file.
    #[error("{what}: the archive ends {missing} bytes before it does; it is truncated")]
    Truncated {
        /// File or blob.
        what: String,
        /// Bytes of it that are not there.
        missing: u64,
    },

    /// Not as long as the descriptor says.
    #[error("{blob}: size mismatch (got {got}, expected {expected})")]
    Size {
        /// Which.
        blob: BlobName,
        /// The descriptor's size.
        expected: u64,
        /// The size it has.
        got: u64,
    },

    /// Not the bytes that the digest names.
    #[error("{blob}: digest mismatch (got {got})")]
    DigestMismatch {
        /// Which.
        blob: BlobName,
        /// The digest the bytes have.
        got: Digest,
    },

    /// A document larger than any registry takes: refused before it is read.
    #[error("{what} is {size} bytes long; more than {limit} are refused")]
    TooLarge {
        /// File or blob.
        what: String,
        /// Its size.
        size: u64,
        /// The limit.
        limit: u64,
    },

    /// Not JSON, or not of the form the specification gives it.
    #[error("{what} cannot be parsed")]
    Json {
        /// File or blob.
        what: String,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },

    /// A document breaks a rule of its specification.
    #[error("{what}: {problem}")]
    Document {
        /// File or blob.
        what: String,
        /// Which rule, and how.
        problem: String,
    },

    /// Docker's image manifest version 2, schema 1: unsigned and deprecated since 2019.
    #[error(
        "{what} is a Docker schema 1 manifest, which is not supported; build or copy the image again \
         as schema 2 or OCI"
    )]
    Schema1 {
        /// The document.
        what: String,
    },

    /// A layer that must not be, or cannot be, pushed.
    #[error(
        "{blob} is a foreign layer (`{media_type}`): its bytes are elsewhere by design, so the image \
         cannot be pushed whole"
    )]
    Foreign {
        /// Which.
        blob: BlobName,
        /// Its media type.
        media_type: String,
    },

    /// A layer without a byte: not even an empty tar archive is that short.
    #[error("{blob} is zero bytes long, which no tar archive is")]
    EmptyLayer {
        /// Which.
        blob: BlobName,
    },

    /// A media type smokegate does not know how to treat.
    #[error("{blob} has the unsupported media type `{media_type}`")]
    MediaType {
        /// Which.
        blob: BlobName,
        /// Its media type.
        media_type: String,
    },

    /// An index that is reached from itself.
    #[error("{blob} contains itself")]
    Cycle {
        /// Which.
        blob: BlobName,
    },

    /// Indexes nested deeper than allowed.
    #[error("{blob} is nested more than {limit} indexes deep")]
    TooDeep {
        /// Which.
        blob: BlobName,
        /// [`Limits::index_depth`](crate::Limits::index_depth).
        limit: usize,
    },

    /// Several images and none named.
    #[error("there are {count} images and none was named: {}", names.join(", "))]
    SeveralImages {
        /// How many.
        count: usize,
        /// How each could be named.
        names: Vec<String>,
    },

    /// The named image is not among those there.
    #[error("no image is named `{tag}`; there {}", listed(names))]
    NoSuchImage {
        /// What was asked for.
        tag: String,
        /// What is there.
        names: Vec<String>,
    },

    /// A name that fits several images.
    #[error("`{tag}` names several images: {}", names.join(", "))]
    AmbiguousName {
        /// What was asked for.
        tag: String,
        /// What it fits.
        names: Vec<String>,
    },

    /// No image for the platform.
    #[error("no image for {wanted}; there {}", listed(available))]
    NoPlatform {
        /// The platform asked for.
        wanted: String,
        /// The platforms that are there.
        available: Vec<String>,
    },

    /// Nothing that could be run.
    #[error("{what} is not an image that can be run: {problem}")]
    NotRunnable {
        /// The document.
        what: String,
        /// Why not.
        problem: String,
    },

    /// A blob's bytes are not what its descriptor or config says.
    #[error("{blob} cannot be verified")]
    Verify {
        /// Which.
        blob: BlobName,
        /// What differs.
        #[source]
        source: io::Error,
    },

    /// Recompressing would publish other bytes than the image's own manifest names.
    #[error(
        "the image has a manifest of its own ({digest}): compressing its layers would publish \
         another image than that"
    )]
    HasManifest {
        /// Its digest.
        digest: Digest,
    },
}

impl Error {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::Open { .. }
            | Self::WrongFileType { .. }
            | Self::InRegistry(_)
            | Self::HasManifest { .. } => ErrorKind::Usage,
            Self::Read { .. } | Self::Spool { .. } | Self::Compress { .. } => ErrorKind::Host,
            // What a decoder or verifier says has no errno; what the operating system says has one.
            Self::Decompress { source } | Self::Verify { source, .. }
                if source.raw_os_error().is_some() =>
            {
                ErrorKind::Host
            }
            _ => ErrorKind::Image,
        }
    }
}

fn hint(truncated: &bool) -> &'static str {
    if *truncated {
        "; the archive has no end marker and may be truncated"
    } else {
        ""
    }
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "is none with a name".to_owned(),
        [only] => format!("is {only}"),
        _ => format!("are {}", names.join(", ")),
    }
}
