//! `docker save` archives: `manifest.json`, configs and layers, but no manifest that a registry would take.

use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::BlobName;
use crate::manifest::{parse, select, sniff};
use crate::media_type::{OCI_CONFIG, OCI_MANIFEST, oci_layer};
use crate::names::{Candidate, choose};
use crate::store::{Store, read_all};
use crate::{
    Blob, Compression, Content, Digest, Document, DocumentKind, Error, Image, ImageConfig,
    ImageParts, Layer, OpenOptions, PlatformImage,
};

/// An entry of `manifest.json` (moby, image/tarexport).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
    #[serde(default)]
    layer_sources: Option<HashMap<String, LayerSource>>,
}

/// What a foreign layer has in place of its file.
#[derive(Deserialize)]
struct LayerSource {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    #[serde(default)]
    urls: Option<Vec<String>>,
}

/// Opens the image called `tag`, or the only one, and makes a manifest for it.
pub(crate) fn open(
    store: &dyn Store,
    tag: Option<&str>,
    options: &OpenOptions,
) -> Result<Image, Error> {
    let what = "`manifest.json`";
    let bytes = store.text("manifest.json", options.limits.manifest_bytes)?;
    let entries: Vec<Entry> = parse(&bytes, what)?;
    let mut candidates: Vec<Candidate<Entry>> = Vec::new();
    for mut entry in entries {
        let names = entry.repo_tags.take().unwrap_or_default();
        if let Some(same) = candidates
            .iter_mut()
            .find(|one| one.image.config == entry.config)
        {
            same.names.extend(names);
            continue;
        }
        let fallback = format!("`{}`", entry.config);
        let digest = file_hex(&entry.config).map_or(String::new(), |hex| format!("sha256:{hex}"));
        candidates.push(Candidate {
            image: entry,
            names,
            digest,
            fallback,
        });
    }
    if candidates.is_empty() {
        let problem = "it lists no image".to_owned();
        return Err(Error::Document {
            what: what.to_owned(),
            problem,
        });
    }
    let chosen = choose(candidates, tag)?;
    load(store, &chosen.image, chosen.names, options)
}

fn load(
    store: &dyn Store,
    entry: &Entry,
    names: Vec<String>,
    options: &OpenOptions,
) -> Result<Image, Error> {
    let config_file = format!("config `{}`", entry.config);
    let raw = read_all(
        &store.file(&entry.config)?,
        &config_file,
        options.limits.config_bytes,
    )?;
    let digest = Digest::sha256(&raw);
    if let Some(hex) = file_hex(&entry.config)
        && hex != digest.hex()
    {
        let problem = format!("digest mismatch (got {digest})");
        return Err(Error::Document {
            what: config_file,
            problem,
        });
    }
    let config = ImageConfig::parse(&raw, &config_file)?;
    let no_layers = Vec::new();
    let files = entry.layers.as_ref().unwrap_or(&no_layers);
    let count = files.len();
    if config.diff_ids.len() != count {
        let ids = config.diff_ids.len();
        let problem = format!("it lists {count} layers, but the config {ids} diff_ids");
        return Err(Error::Document {
            what: "`manifest.json`".to_owned(),
            problem,
        });
    }
    let mut layers = Vec::with_capacity(count);
    for (index, (file, diff_id)) in files.iter().zip(&config.diff_ids).enumerate() {
        let role = format!("layer {} of {count}, `{file}`", index + 1);
        let name = BlobName {
            digest: diff_id.0.clone(),
            role,
        };
        refuse_foreign(entry, &name)?;
        let range = store.file(file)?;
        if range.len == 0 {
            return Err(Error::EmptyLayer { blob: name });
        }
        let compression = sniff(&range, &name)?;
        // A plain layer is named by its diff_id, which is verified when it is read; another must be hashed.
        let digest = match compression {
            Compression::None => diff_id.0.clone(),
            Compression::Gzip | Compression::Zstd => {
                let hashed = Digest::sha256_reader(&mut range.reader());
                hashed
                    .map_err(|source| Error::Read {
                        what: name.to_string(),
                        source,
                    })?
                    .0
            }
        };
        let media_type = oci_layer(compression).to_owned();
        let blob = Blob::new(digest, range.len, media_type, Content::File(range));
        layers.push(Layer {
            blob,
            diff_id: diff_id.clone(),
            compression,
        });
    }
    let platform = config.platform();
    select(&[&platform], options)?;
    let notes = vec![
        "a docker-archive has no manifest: one was made from its config and layers, and the digest \
         computed here"
            .to_owned(),
    ];
    let config_blob = Blob::new(
        digest,
        raw.len() as u64,
        OCI_CONFIG.to_owned(),
        Content::Bytes(raw),
    );
    Ok(synthesize(config, config_blob, layers, names, notes))
}

/// The digits, where a file is called by a digest: `HEX.json`, `blobs/sha256/HEX`.
fn file_hex(name: &str) -> Option<&str> {
    let file = name.rsplit('/').next()?;
    let stem = file.strip_suffix(".json").unwrap_or(file);
    let is_hex = stem.len() == 64 && stem.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hex.then_some(stem)
}

fn refuse_foreign(entry: &Entry, name: &BlobName) -> Result<(), Error> {
    let sources = entry.layer_sources.as_ref();
    match sources.and_then(|sources| sources.get(&name.digest.to_string())) {
        Some(source)
            if source.media_type.contains("foreign")
                || source.media_type.contains("nondistributable")
                || source.urls.as_ref().is_some_and(|urls| !urls.is_empty()) =>
        {
            let media_type = source.media_type.clone();
            Err(Error::Foreign {
                blob: name.clone(),
                media_type,
            })
        }
        _ => Ok(()),
    }
}

/// The manifest as it is written: the order of fields and the absence of white space are part of the digest.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Manifest<'a> {
    schema_version: u8,
    media_type: &'a str,
    config: Descriptor<'a>,
    layers: Vec<Descriptor<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    media_type: &'a str,
    digest: &'a Digest,
    size: u64,
}

impl<'a> Descriptor<'a> {
    fn of(blob: &'a Blob) -> Self {
        Self {
            media_type: blob.media_type(),
            digest: blob.digest(),
            size: blob.size(),
        }
    }
}

/// An image whose manifest is a function of config and layers alone: docs/decisions/0002.
pub(crate) fn synthesize(
    config: ImageConfig,
    config_blob: Blob,
    layers: Vec<Layer>,
    names: Vec<String>,
    notes: Vec<String>,
) -> Image {
    let manifest = Manifest {
        schema_version: 2,
        media_type: OCI_MANIFEST,
        config: Descriptor::of(&config_blob),
        layers: layers
            .iter()
            .map(|layer| Descriptor::of(&layer.blob))
            .collect(),
    };
    let bytes: Arc<[u8]> = serde_json::to_vec(&manifest)
        .expect("strings and numbers always serialise")
        .into();
    let mut blobs = vec![config_blob.clone()];
    for layer in &layers {
        if blobs
            .iter()
            .all(|known| known.digest() != layer.blob.digest())
        {
            blobs.push(layer.blob.clone());
        }
    }
    let digest = Digest::sha256(&bytes);
    let platform = config.platform().to_string();
    let named = std::iter::once(&config_blob).chain(layers.iter().map(|layer| &layer.blob));
    let document = Document {
        digest: digest.clone(),
        media_type: OCI_MANIFEST.to_owned(),
        bytes,
        kind: DocumentKind::Image,
        platform: Some(platform.clone()),
        children: named.map(|blob| blob.digest().clone()).collect(),
    };
    let config_digest = config_blob.digest().clone();
    let image = PlatformImage {
        manifest: digest,
        platform,
        config_digest,
        config,
        layers,
    };
    Image::new(ImageParts {
        documents: vec![document],
        referrers: Vec::new(),
        blobs,
        platforms: vec![image],
        selected: 0,
        names,
        synthesized: true,
        notes,
    })
}
