//! Reads OCI content and guarantees that bytes match the digests that name them.
//!
//! An [`Image`] is opened from an [`ImageSource`] and is an immutable view: parsed documents beside the raw
//! bytes they came from, and [`Blob`]s that are byte ranges of the file they are stored in. No network, no
//! privilege, no async. Manifests are never encoded again: the bytes read are the bytes that are pushed.

mod archive;
mod blob;
mod causes;
mod compress;
mod compression;
mod config;
mod digest;
mod docker_archive;
mod error;
mod gzip;
mod image;
mod layer_tar;
mod layout;
mod limits;
mod loader;
mod manifest;
mod media_type;
mod names;
mod oci;
mod open;
mod platform;
mod source;
mod stage_times;
mod staged_tar;
mod store;
mod users;
mod verify;
mod verify_layers;

pub use blob::{Blob, Content, FileRange, FileRangeReader};
pub use causes::with_causes;
pub use compress::Recompressed;
pub use compression::{Compression, Decoder};
pub use config::{DEFAULT_PATH, Healthcheck, HealthcheckTest, ImageConfig};
pub use digest::{Algorithm, ChainId, DiffId, Digest, Hasher, LayerDigest, ParseDigestError};
pub use error::{BlobName, Error, ErrorKind};
pub use image::{Document, DocumentKind, Image, ImageParts, Layer, PlatformImage};
pub use layer_tar::LayerTar;
pub use limits::Limits;
pub use manifest::{manifest_for_platform, subject_of};
pub use open::OpenOptions;
pub use platform::{ParsePlatformError, Platform};
pub use source::{ImageSource, ParseSourceError};
pub use stage_times::{StageClock, StageTimes};
pub use staged_tar::{LayerTap, StagedTar};
pub use users::{Identity, UserError, resolve_user};
pub use verify::VerifiedReader;
