//! Reads OCI content and guarantees that bytes match the digests that name them.
//!
//! An [`Image`] is opened from an [`ImageSource`] and is an immutable view: parsed documents beside the raw
//! bytes they came from, and [`Blob`]s that are byte ranges of the file they are stored in. No network, no
//! privilege, no async. Manifests are never encoded again: the bytes read are the bytes that are pushed.

mod blob;
mod compression;
mod config;
mod digest;
mod error;
mod image;
mod verify;

pub use blob::{Blob, Content, FileRange, FileRangeReader};
pub use compression::{Compression, Decoder};
pub use config::{Healthcheck, HealthcheckTest, ImageConfig};
pub use digest::{Algorithm, ChainId, DiffId, Digest, Hasher, LayerDigest, ParseDigestError};
pub use error::Error;
pub use image::{Document, DocumentKind, Image, ImageParts, Layer, PlatformImage};
pub use verify::VerifiedReader;
