//! What a single manifest, index or descriptor says, and whether it may say so.

use std::os::unix::fs::FileExt;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use crate::error::BlobName;
use crate::media_type::{DocumentType, document_type, is_image_config};
use crate::{Compression, Digest, Error, FileRange, OpenOptions, Platform};

/// BuildKit's mark on what it attaches to an image (moby/buildkit, docs/attestations/attestation-storage.md).
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// What tells one kind of document from another before it is parsed as one of them.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    schema_version: Option<u64>,
    media_type: Option<String>,
    manifests: Option<IgnoredAny>,
    config: Option<IgnoredAny>,
    layers: Option<IgnoredAny>,
    fs_layers: Option<IgnoredAny>,
}

/// The compression that the first bytes show.
pub(crate) fn sniff(range: &FileRange, blob: &BlobName) -> Result<Compression, Error> {
    let mut first = [0; 4];
    let wanted = range.len.min(4) as usize;
    range
        .file
        .read_exact_at(&mut first[..wanted], range.offset)
        .map_err(|source| Error::Read {
            what: blob.to_string(),
            source,
        })?;
    Ok(Compression::sniff(&first[..wanted]))
}

pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, Error> {
    serde_json::from_slice(bytes).map_err(|source| Error::Json {
        what: what.to_owned(),
        source,
    })
}

/// The descriptor's digest, if it is one that can be verified.
pub(crate) fn digest_of(descriptor: &Descriptor) -> Result<Digest, Error> {
    descriptor
        .digest()
        .as_ref()
        .parse()
        .map_err(|error| Error::Document {
            what: format!("a descriptor of type `{}`", descriptor.media_type()),
            problem: format!("{error}"),
        })
}

/// Refuses documents that could be read as two things (GHSA-77vh-xpmg-72qh, CVE-2021-41190) or as none.
pub(crate) fn check_outline(
    bytes: &[u8],
    blob: &BlobName,
    media_type: &str,
    kind: DocumentType,
) -> Result<(), Error> {
    let outline: Outline = parse(bytes, &blob.to_string())?;
    let refused = |problem: String| {
        Err(Error::Document {
            what: blob.to_string(),
            problem,
        })
    };
    if outline.schema_version == Some(1) || outline.fs_layers.is_some() {
        return Err(Error::Schema1 {
            what: blob.to_string(),
        });
    }
    if outline.schema_version != Some(2) {
        return refused("its schemaVersion is not 2".to_owned());
    }
    if let Some(own) = outline.media_type.filter(|own| own != media_type) {
        return refused(format!(
            "its mediaType is `{own}`, its descriptor's `{media_type}`"
        ));
    }
    let is_index = kind == DocumentType::Index;
    if is_index && (outline.config.is_some() || outline.layers.is_some()) {
        return refused("it is an index, yet has `config` or `layers`".to_owned());
    }
    if !is_index && outline.manifests.is_some() {
        return refused("it is a manifest, yet has `manifests`".to_owned());
    }
    Ok(())
}

pub(crate) fn platform_of(descriptor: &Descriptor) -> Option<Platform> {
    descriptor.platform().as_ref().map(|platform| Platform {
        os: platform.os().to_string(),
        architecture: platform.architecture().to_string(),
        variant: platform.variant().clone(),
    })
}

/// Whether an index lists it as something beside the images: BuildKit's attestations.
pub(crate) fn is_attached(descriptor: &Descriptor) -> bool {
    let annotated = descriptor
        .annotations()
        .as_ref()
        .is_some_and(|map| map.contains_key(REFERENCE_TYPE));
    let unknown = platform_of(descriptor)
        .is_some_and(|platform| platform.os == "unknown" && platform.architecture == "unknown");
    annotated || unknown
}

/// What a manifest or index refers to, where it says so (OCI image spec, manifest.md, `subject`).
pub fn subject_of(document: &[u8]) -> Option<Digest> {
    #[derive(Deserialize)]
    struct Referrer {
        subject: Option<Subject>,
    }
    #[derive(Deserialize)]
    struct Subject {
        digest: String,
    }
    let referrer: Referrer = serde_json::from_slice(document).ok()?;
    referrer.subject?.digest.parse().ok()
}

/// Whether a manifest is of an artifact: it could not be run.
pub(crate) fn is_artifact(document: &[u8]) -> bool {
    match serde_json::from_slice::<ImageManifest>(document) {
        Ok(manifest) => !is_image_config(manifest.config().media_type().as_ref()),
        Err(_) => false,
    }
}

/// The entry of an index for the platform that is wanted, if the index alone can tell: else the manifests below it
/// must be read.
///
/// # Errors
/// When it is no index, or has nothing for that platform.
pub fn manifest_for_platform(
    index: &[u8],
    options: &OpenOptions,
) -> Result<Option<Descriptor>, Error> {
    let index: ImageIndex = parse(index, "the index")?;
    let images = index.manifests().iter().filter(|entry| !is_attached(entry));
    let mut entries = Vec::new();
    let mut platforms = Vec::new();
    for entry in images {
        let is_index = document_type(entry.media_type().as_ref()) == Some(DocumentType::Index);
        let Some(platform) = platform_of(entry).filter(|_| !is_index) else {
            return Ok(None);
        };
        entries.push(entry);
        platforms.push(platform);
    }
    if entries.is_empty() {
        return Ok(None);
    }
    let selected = select(&platforms.iter().collect::<Vec<_>>(), options)?;
    Ok(entries.get(selected).map(|entry| (*entry).clone()))
}

/// The best of `platforms` for the one that is wanted; the first of several equally good ones.
pub(crate) fn select(platforms: &[&Platform], options: &OpenOptions) -> Result<usize, Error> {
    let ranked = platforms.iter().enumerate();
    let best = ranked
        .filter_map(|(index, platform)| Some((options.platform.rank(platform)?, index)))
        .min()
        .map(|(_, index)| index);
    match best {
        Some(index) => Ok(index),
        None if !options.require_platform => Ok(0),
        None => Err(Error::NoPlatform {
            wanted: options.platform.to_string(),
            available: platforms.iter().map(ToString::to_string).collect(),
        }),
    }
}
