//! Receipts that travel with an image: signed statements of what was tested, attached to its digest
//! (docs/decisions/0018-receipts-that-travel.md).

mod bundle;
mod key;
mod statement;
mod trust;

pub(crate) use key::{SigningKey, VerifyingKey};
pub(crate) use statement::{Statement, is_complete_pass};
pub(crate) use trust::{Trust, clear_attached, read_file};

use serde_json::json;
use smokegate_image::{Blob, Content, Digest, Document, Image};

use crate::receipt::Receipt;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The config of an artifact that has none (OCI image spec, manifest.md, "Guidance for an Empty Descriptor").
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// A receipt as a manifest that refers to an image, and the blobs of that manifest.
#[derive(Debug)]
pub(crate) struct Attachment {
    manifest: Document,
    blobs: [Blob; 2],
}

impl Attachment {
    /// The statement of `receipt` about `image`, laid out as cosign does (sigstore/cosign, specs/BUNDLE_SPEC.md).
    pub(crate) fn new(receipt: &Receipt, image: &Image, key: Option<&SigningKey>) -> Self {
        let bundle = bundle::seal(&Statement::of(receipt), key);
        let bundle = blob(bundle::MEDIA_TYPE, bundle);
        let config = blob(EMPTY, b"{}".to_vec());
        let root = image.root();
        let title = bundle.digest().to_string().replace(':', "-");
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": bundle::MEDIA_TYPE,
            "config": descriptor(&config),
            "layers": [{
                "mediaType": bundle.media_type(),
                "digest": bundle.digest(),
                "size": bundle.size(),
                "annotations": { "org.opencontainers.image.title": format!("{title}.sigstore.json") },
            }],
            "subject": {
                "mediaType": root.media_type,
                "digest": root.digest,
                "size": root.bytes.len(),
            },
            "annotations": {
                "dev.sigstore.bundle.content": "dsse-envelope",
                "dev.sigstore.bundle.predicateType": statement::PREDICATE_TYPE,
                "org.opencontainers.image.created": receipt.started,
            },
        });
        let bytes = serde_json::to_vec(&manifest).expect("a JSON value");
        let children = vec![config.digest().clone(), bundle.digest().clone()];
        Self {
            manifest: Document::attached(MANIFEST, bytes, children),
            blobs: [config, bundle],
        }
    }

    /// The image with this attached.
    pub(crate) fn to(&self, image: &Image) -> Image {
        image.with_referrer(self.manifest.clone(), self.blobs.clone())
    }
}

fn blob(media_type: &str, bytes: Vec<u8>) -> Blob {
    let (digest, size) = (Digest::sha256(&bytes), bytes.len() as u64);
    Blob::new(
        digest,
        size,
        media_type.to_owned(),
        Content::Bytes(bytes.into()),
    )
}

fn descriptor(blob: &Blob) -> serde_json::Value {
    json!({ "mediaType": blob.media_type(), "digest": blob.digest(), "size": blob.size() })
}
