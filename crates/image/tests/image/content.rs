//! Builds sources of every form in memory.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde_json::{Value, json};
use smokegate_image::{Digest, Error, Image, ImageSource, OpenOptions};

/// Files of a layout by name.
#[derive(Clone, Default)]
pub(crate) struct Content {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
}

/// A layer's stored bytes with what a config and a manifest say of them.
pub(crate) struct StoredLayer {
    pub(crate) descriptor: Value,
    pub(crate) diff_id: Digest,
}

pub(crate) const GZIP_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const ZSTD_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const PLAIN_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

impl Content {
    /// An empty layout.
    pub(crate) fn layout() -> Self {
        let mut content = Self::default();
        content.put("oci-layout", &json!({"imageLayoutVersion": "1.0.0"}));
        content
    }

    pub(crate) fn put(&mut self, name: &str, value: &Value) {
        self.files
            .insert(name.to_owned(), serde_json::to_vec(value).unwrap());
    }

    /// Stores a blob; answers its descriptor.
    pub(crate) fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::sha256(bytes);
        self.files
            .insert(format!("blobs/sha256/{}", digest.hex()), bytes.to_vec());
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }

    pub(crate) fn json_blob(&mut self, media_type: &str, value: &Value) -> Value {
        self.blob(media_type, &serde_json::to_vec(value).unwrap())
    }

    pub(crate) fn layer(&mut self, media_type: &str, seed: u8) -> StoredLayer {
        let tar = layer_tar(seed);
        let stored = match media_type {
            GZIP_LAYER => gzip(&tar),
            ZSTD_LAYER => zstd::bulk::compress(&tar, 3).unwrap(),
            _ => tar.clone(),
        };
        let descriptor = self.blob(media_type, &stored);
        StoredLayer {
            descriptor,
            diff_id: Digest::sha256(&tar),
        }
    }

    /// A manifest with its config; answers its descriptor.
    pub(crate) fn image(&mut self, architecture: &str, layers: &[StoredLayer]) -> Value {
        let config = self.json_blob(CONFIG, &config(architecture, layers));
        self.manifest(
            &config,
            layers
                .iter()
                .map(|layer| layer.descriptor.clone())
                .collect(),
        )
    }

    pub(crate) fn manifest(&mut self, config: &Value, layers: Vec<Value>) -> Value {
        let manifest =
            json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        self.json_blob(MANIFEST, &manifest)
    }

    pub(crate) fn index(&mut self, manifests: &[Value]) -> Value {
        self.json_blob(
            INDEX,
            &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}),
        )
    }

    pub(crate) fn index_json(&mut self, entries: &[Value]) {
        self.put(
            "index.json",
            &json!({"schemaVersion": 2, "manifests": entries}),
        );
    }

    /// A layout with one amd64 image of a gzip, a zstd and a plain layer.
    pub(crate) fn simple() -> Self {
        let mut content = Self::layout();
        let layers = [
            content.layer(GZIP_LAYER, 1),
            content.layer(ZSTD_LAYER, 2),
            content.layer(PLAIN_LAYER, 3),
        ];
        let image = content.image("amd64", &layers);
        content.index_json(&[image]);
        content
    }

    pub(crate) fn tar(&self) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in &self.files {
            append(&mut builder, name, bytes);
        }
        builder.into_inner().unwrap()
    }

    pub(crate) fn write_to(&self, dir: &Path) {
        for (name, bytes) in &self.files {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
    }

    /// Opens it as an archive would be.
    pub(crate) fn open(&self) -> Result<Image, Error> {
        open_tar(&self.tar())
    }
}

pub(crate) fn append(builder: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes.len() as u64);
    header.set_mode(0o644);
    builder.append_data(&mut header, name, bytes).unwrap();
}

/// A tar archive with one file of its own.
pub(crate) fn layer_tar(seed: u8) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let text: Vec<u8> = (0..4000_u32).map(|n| (n % 251) as u8 ^ seed).collect();
    append(&mut builder, &format!("file-{seed}"), &text);
    builder.into_inner().unwrap()
}

pub(crate) fn config(architecture: &str, layers: &[StoredLayer]) -> Value {
    let ids: Vec<&Digest> = layers.iter().map(|layer| &layer.diff_id).collect();
    json!({
        "architecture": architecture, "os": "linux",
        "config": {"Cmd": ["/bin/app"]},
        "rootfs": {"type": "layers", "diff_ids": ids},
    })
}

pub(crate) fn with(mut value: Value, key: &str, extra: Value) -> Value {
    value[key] = extra;
    value
}

pub(crate) fn on(value: Value, architecture: &str) -> Value {
    with(
        value,
        "platform",
        json!({"os": "linux", "architecture": architecture}),
    )
}

pub(crate) fn named(value: Value, name: &str) -> Value {
    with(
        value,
        "annotations",
        json!({"org.opencontainers.image.ref.name": name}),
    )
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// Options for linux/amd64, whatever the machine.
pub(crate) fn options() -> OpenOptions {
    let platform = "linux/amd64".parse().unwrap();
    OpenOptions {
        platform,
        ..OpenOptions::new(std::env::temp_dir())
    }
}

pub(crate) fn open_tar(bytes: &[u8]) -> Result<Image, Error> {
    Image::read(Box::new(bytes), &options())
}

/// Opens `bytes` as the archive file that `transport` (with `FILE` for its path) names.
pub(crate) fn open_as(transport: &str, bytes: &[u8]) -> Result<Image, Error> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    std::fs::write(&path, bytes).unwrap();
    let source: ImageSource = transport
        .replace("FILE", path.to_str().unwrap())
        .parse()
        .unwrap();
    Image::open(&source, &options())
}

/// Verifies everything, and answers the tar bytes of the selected image's layers.
pub(crate) fn read_layers(image: &Image) -> Result<Vec<Vec<u8>>, Error> {
    image.verify_layers(|_, _| false, &Default::default())?;
    let layers = image.selected().layers.iter();
    Ok(layers
        .map(|layer| {
            let mut tar = Vec::new();
            std::io::Read::read_to_end(&mut layer.open_tar().unwrap(), &mut tar).unwrap();
            tar
        })
        .collect())
}

/// The message with all its causes.
pub(crate) fn message(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", message(source)),
        None => error.to_string(),
    }
}
