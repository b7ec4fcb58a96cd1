//! Images and indexes as OCI layouts, in a directory or an archive (OCI image spec, image-layout.md).

use std::path::Path;

use serde_json::{Value, json};
use smokegate_image::Digest;

use crate::BuiltImage;
use crate::file_tree::{Content, FileTree};
use crate::image_builder::{MANIFEST, descriptor, encode, platform_object};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What one OCI layout holds: blobs, and the roots that its `index.json` names.
#[derive(Clone, Debug, Default)]
pub struct OciContent {
    roots: Vec<Value>,
    blobs: FileTree,
}

/// Whether an index also holds an attestation manifest per image, as `docker buildx build` makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attestations {
    /// One per image, with platform `unknown/unknown`.
    PerImage,
    /// None.
    Absent,
}

impl BuiltImage {
    /// The image as the only root of a layout.
    pub fn oci(&self) -> OciContent {
        let mut content = OciContent::default();
        content.add_image_blobs(self);
        content.roots.push(self.descriptor());
        content
    }

    /// Writes an OCI layout directory; `tag` becomes the root's ref name.
    ///
    /// # Panics
    /// When it cannot be written; so do the other writers.
    pub fn write_oci_layout(&self, dir: &Path, tag: Option<&str>) {
        self.oci().tagged(tag).write_layout(dir);
    }

    /// Writes an OCI archive: a tar of the layout.
    pub fn write_oci_archive(&self, file: &Path, tag: Option<&str>) {
        self.oci().tagged(tag).write_archive(file);
    }
}

impl OciContent {
    /// One root: an index of `images`, each under its platform.
    pub fn index_of(images: &[BuiltImage], attestations: Attestations) -> Self {
        let mut content = Self::default();
        let mut children = Vec::new();
        for image in images {
            content.add_image_blobs(image);
            let mut child = image.descriptor();
            child["platform"] = platform_object(&image.platform);
            children.push(child);
        }
        if attestations == Attestations::PerImage {
            children.extend(images.iter().map(|image| content.add_attestation(image)));
        }
        content.roots.push(Value::Null);
        content.set_index(children);
        content
    }

    /// The same content under one more index, as some tools nest them.
    #[must_use]
    pub fn nested(mut self) -> Self {
        let children = self.roots.clone();
        self.roots.truncate(1);
        self.set_index(children);
        self
    }

    /// Both contents in one layout, each with its own roots.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.roots.extend(other.roots.iter().cloned());
        self.blobs.merge(&other.blobs);
        self
    }

    /// Names the last root.
    #[must_use]
    pub fn tagged(mut self, tag: Option<&str>) -> Self {
        if let (Some(root), Some(tag)) = (self.roots.last_mut(), tag) {
            root["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        }
        self
    }

    /// The digest of the last root.
    ///
    /// # Panics
    /// When there is no root.
    pub fn digest(&self) -> Digest {
        let digest = self.roots.last().and_then(|root| root["digest"].as_str());
        digest
            .expect("the content has a root")
            .parse()
            .expect("made by this module")
    }

    /// Writes a layout directory, which is made where there is none.
    pub fn write_layout(&self, dir: &Path) {
        std::fs::create_dir_all(dir)
            .and_then(|()| self.files().write_dir(dir))
            .unwrap_or_else(|error| panic!("writing layout `{}`: {error}", dir.display()));
    }

    /// Writes a tar of the layout.
    pub fn write_archive(&self, file: &Path) {
        self.files()
            .write_tar(file)
            .unwrap_or_else(|error| panic!("writing archive `{}`: {error}", file.display()));
    }

    pub(crate) fn files(&self) -> FileTree {
        let mut files = self.blobs.clone();
        files.add_bytes("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": self.roots});
        files.add_bytes("index.json", encode(&index));
        files
    }

    fn add_blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let descriptor = descriptor(media_type, &bytes);
        self.blobs
            .add_bytes(blob_name(&Digest::sha256(&bytes)), bytes);
        descriptor
    }

    fn add_image_blobs(&mut self, image: &BuiltImage) {
        self.blobs
            .add_bytes(blob_name(&image.digest()), image.manifest.clone());
        self.blobs
            .add_bytes(blob_name(&image.config_digest()), image.config.clone());
        for layer in &image.layers {
            self.blobs
                .add(blob_name(&layer.digest), Content::Blob(layer.file.clone()));
        }
    }

    fn set_index(&mut self, children: Vec<Value>) {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": children});
        let root = self.add_blob(INDEX, encode(&index));
        *self.roots.last_mut().expect("callers leave one root") = root;
    }

    /// As BuildKit stores them: docs/attestations/attestation-storage.md.
    fn add_attestation(&mut self, image: &BuiltImage) -> Value {
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v0.1",
            "predicateType": "https://slsa.dev/provenance/v0.2",
            "subject": [{"name": "_", "digest": {"sha256": image.digest().hex()}}],
            "predicate": {},
        });
        let statement = encode(&statement);
        let diff_id = Digest::sha256(&statement).to_string();
        let mut layer = self.add_blob("application/vnd.in-toto+json", statement);
        layer["annotations"] =
            json!({"in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2"});
        let config = json!({
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        });
        let config = self.add_blob("application/vnd.oci.image.config.v1+json", encode(&config));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": config,
            "layers": [layer],
        });
        let mut child = self.add_blob(MANIFEST, encode(&manifest));
        child["platform"] = json!({"os": "unknown", "architecture": "unknown"});
        child["annotations"] = json!({
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": image.digest().to_string(),
        });
        child
    }
}

pub(crate) fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}
