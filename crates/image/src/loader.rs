//! The walk from an image's root to every document and blob below it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};

use crate::error::BlobName;
use crate::manifest::{check_outline, digest_of, is_attached, parse, platform_of, select, sniff};
use crate::media_type::{DocumentType, LayerType, document_type, is_image_config, layer_type};
use crate::store::{Store, read_all};
use crate::{
    Algorithm, Blob, Compression, Content, Digest, Document, DocumentKind, Error, Hasher, Image,
    ImageConfig, ImageParts, Layer, OpenOptions, Platform, PlatformImage,
};

/// An entry of a layout that refers to another manifest.
pub(crate) struct Referrer<'a> {
    /// What it refers to.
    pub(crate) subject: Digest,
    pub(crate) descriptor: &'a Descriptor,
}

/// Walks the documents of one image and collects what it is made of.
pub(crate) struct Loader<'a> {
    store: &'a dyn Store,
    options: &'a OpenOptions,
    documents: Vec<Document>,
    loaded: HashSet<Digest>,
    blobs: Vec<Blob>,
    blob_at: HashMap<Digest, usize>,
    platforms: Vec<(Platform, PlatformImage)>,
    notes: Vec<String>,
    memory: u64,
    /// Whether what is read only refers to the image: then it is kept as it is, whatever it holds.
    refers: bool,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(store: &'a dyn Store, options: &'a OpenOptions) -> Self {
        Self {
            store,
            options,
            documents: Vec::new(),
            loaded: HashSet::new(),
            blobs: Vec::new(),
            blob_at: HashMap::new(),
            platforms: Vec::new(),
            notes: Vec::new(),
            memory: 0,
            refers: false,
        }
    }

    /// Reads everything below `root` with those of `referrers` that lead to it, and chooses the platform's image.
    pub(crate) fn load(
        mut self,
        root: &Descriptor,
        names: Vec<String>,
        referrers: Vec<Referrer<'_>>,
    ) -> Result<Image, Error> {
        self.document(root, &mut Vec::new())?;
        if self.platforms.is_empty() {
            let what = format!("{} {}", root.media_type(), root.digest());
            let problem = "it holds attestations or other artifacts only".to_owned();
            return Err(Error::NotRunnable { what, problem });
        }
        let platforms: Vec<&Platform> = self
            .platforms
            .iter()
            .map(|(platform, _)| platform)
            .collect();
        let selected = select(&platforms, self.options)?;
        let referrers = self.referrers(referrers)?;
        Ok(Image::new(ImageParts {
            documents: self.documents,
            referrers,
            blobs: self.blobs,
            platforms: self.platforms.into_iter().map(|(_, image)| image).collect(),
            selected,
            names,
            synthesized: false,
            notes: self.notes,
        }))
    }

    /// Reads what refers to the image, and what refers to that, and so on.
    fn referrers(&mut self, mut waiting: Vec<Referrer<'_>>) -> Result<Vec<Document>, Error> {
        let of_image = self.documents.len();
        self.refers = true;
        loop {
            let (next, rest): (Vec<_>, Vec<_>) = waiting
                .into_iter()
                .partition(|one| self.loaded.contains(&one.subject));
            for referrer in &next {
                self.document(referrer.descriptor, &mut Vec::new())?;
            }
            if next.is_empty() {
                break;
            }
            waiting = rest;
        }
        Ok(self.documents.split_off(of_image))
    }

    /// Reads a manifest or index and what it names; `above` are the indexes that led here.
    fn document(&mut self, descriptor: &Descriptor, above: &mut Vec<Digest>) -> Result<(), Error> {
        let media_type = descriptor.media_type().as_ref();
        let kind = document_type(media_type);
        let role = if kind == Some(DocumentType::Index) {
            "index"
        } else {
            "manifest"
        };
        let blob = BlobName {
            digest: digest_of(descriptor)?,
            role: role.to_owned(),
        };
        if above.contains(&blob.digest) {
            return Err(Error::Cycle { blob });
        }
        if above.len() > self.options.limits.index_depth {
            return Err(Error::TooDeep {
                blob,
                limit: self.options.limits.index_depth,
            });
        }
        if self.loaded.contains(&blob.digest) {
            return self.listed_again(&blob, descriptor);
        }
        let kind = match kind {
            Some(DocumentType::Schema1) => {
                return Err(Error::Schema1 {
                    what: blob.to_string(),
                });
            }
            Some(kind) => kind,
            None => {
                return Err(Error::MediaType {
                    blob,
                    media_type: media_type.to_owned(),
                });
            }
        };
        let limit = self.options.limits.manifest_bytes;
        let bytes = self.verified(&blob, descriptor.size(), limit)?;
        check_outline(&bytes, &blob, media_type, kind)?;
        let (kind, children) = match kind {
            DocumentType::Index => {
                above.push(blob.digest.clone());
                let children = self.index(&blob, &bytes, above)?;
                above.pop();
                (DocumentKind::Index, children)
            }
            _ => self.manifest(&blob, &bytes, descriptor)?,
        };
        let platform = match (kind, platform_of(descriptor)) {
            (DocumentKind::Image, None) => self
                .platforms
                .last()
                .map(|(_, image)| image.platform.clone()),
            (_, platform) => platform.map(|platform| platform.to_string()),
        };
        self.loaded.insert(blob.digest.clone());
        self.documents.push(Document {
            digest: blob.digest,
            media_type: media_type.to_owned(),
            bytes,
            kind,
            platform,
            children,
        });
        Ok(())
    }

    /// One manifest may serve several platforms (`arm/v6` and `arm/v7`) and is then listed for each.
    fn listed_again(&mut self, blob: &BlobName, descriptor: &Descriptor) -> Result<(), Error> {
        let same = self
            .platforms
            .iter()
            .find(|(_, image)| image.manifest == blob.digest);
        let (Some((_, image)), Some(platform)) = (same, platform_of(descriptor)) else {
            return Ok(());
        };
        if !is_attached(descriptor) && self.platforms.iter().all(|(known, _)| *known != platform) {
            let image = PlatformImage {
                platform: platform.to_string(),
                ..image.clone()
            };
            // A parsed config for each: an index has room for ten thousands of platforms.
            self.remember(blob, (image.config.raw.len() as u64).max(4096))?;
            self.platforms.push((platform, image));
        }
        Ok(())
    }

    fn index(
        &mut self,
        blob: &BlobName,
        bytes: &[u8],
        above: &mut Vec<Digest>,
    ) -> Result<Vec<Digest>, Error> {
        let index: ImageIndex = parse(bytes, &blob.to_string())?;
        let mut children = Vec::new();
        for child in index.manifests() {
            self.document(child, above)?;
            children.push(digest_of(child)?);
        }
        Ok(children)
    }

    fn manifest(
        &mut self,
        blob: &BlobName,
        bytes: &[u8],
        descriptor: &Descriptor,
    ) -> Result<(DocumentKind, Vec<Digest>), Error> {
        let manifest: ImageManifest = parse(bytes, &blob.to_string())?;
        let config_type = manifest.config().media_type().as_ref();
        let kind = if self.refers || is_attached(descriptor) || !is_image_config(config_type) {
            self.attached(&manifest)?;
            DocumentKind::Attached
        } else {
            self.image(blob, &manifest, descriptor)?;
            DocumentKind::Image
        };
        let named = std::iter::once(manifest.config()).chain(manifest.layers());
        Ok((kind, named.map(digest_of).collect::<Result<_, _>>()?))
    }

    /// The blobs of an attestation or artifact: kept whole, meant for others.
    fn attached(&mut self, manifest: &ImageManifest) -> Result<(), Error> {
        let named = std::iter::once(manifest.config()).chain(manifest.layers());
        for descriptor in named {
            let blob = BlobName {
                digest: digest_of(descriptor)?,
                role: "attached".to_owned(),
            };
            let content = self.content(&blob, descriptor.size())?;
            self.keep(descriptor, blob.digest, content);
        }
        Ok(())
    }

    fn image(
        &mut self,
        manifest_name: &BlobName,
        manifest: &ImageManifest,
        descriptor: &Descriptor,
    ) -> Result<(), Error> {
        let blob = BlobName {
            digest: digest_of(manifest.config())?,
            role: "config".to_owned(),
        };
        let limit = self.options.limits.config_bytes;
        let raw = self.verified(&blob, manifest.config().size(), limit)?;
        let config = ImageConfig::parse(&raw, &blob.to_string())?;
        self.keep(manifest.config(), blob.digest.clone(), Content::Bytes(raw));

        let count = manifest.layers().len();
        if config.diff_ids.len() != count {
            let ids = config.diff_ids.len();
            let problem = format!("it has {count} layers, but its config {ids} diff_ids");
            return Err(Error::Document {
                what: manifest_name.to_string(),
                problem,
            });
        }
        let mut layers = Vec::with_capacity(count);
        for (index, (layer, diff_id)) in manifest.layers().iter().zip(&config.diff_ids).enumerate()
        {
            let role = format!("layer {} of {count}", index + 1);
            let (blob, compression) = self.layer(layer, role)?;
            layers.push(Layer {
                blob,
                diff_id: diff_id.clone(),
                compression,
            });
        }
        let own = config.platform();
        let platform = platform_of(descriptor).unwrap_or_else(|| own.clone());
        if (&platform.os, &platform.architecture) != (&own.os, &own.architecture) {
            self.notes.push(format!(
                "the index says {} is for {platform}, its config says {own}",
                manifest_name.digest
            ));
        }
        let image = PlatformImage {
            manifest: manifest_name.digest.clone(),
            platform: platform.to_string(),
            config_digest: blob.digest,
            config,
            layers,
        };
        self.platforms.push((platform, image));
        Ok(())
    }

    fn layer(
        &mut self,
        descriptor: &Descriptor,
        role: String,
    ) -> Result<(Blob, Compression), Error> {
        let blob = BlobName {
            digest: digest_of(descriptor)?,
            role,
        };
        let media_type = descriptor.media_type().as_ref().to_owned();
        let has_urls = descriptor
            .urls()
            .as_ref()
            .is_some_and(|urls| !urls.is_empty());
        let said = match layer_type(&media_type) {
            Some(LayerType::Foreign) => return Err(Error::Foreign { blob, media_type }),
            Some(LayerType::Tar(_)) if has_urls => return Err(Error::Foreign { blob, media_type }),
            Some(LayerType::Tar(compression)) => compression,
            None => return Err(Error::MediaType { blob, media_type }),
        };
        if descriptor.size() == 0 {
            return Err(Error::EmptyLayer { blob });
        }
        let content = self.content(&blob, descriptor.size())?;
        let compression = match &content {
            Content::File(range) => sniff(range, &blob)?,
            Content::Bytes(_) | Content::Absent => said,
        };
        if compression != said {
            self.notes.push(format!(
                "{blob} is not compressed as its media type `{media_type}` says"
            ));
        }
        let kept = self.keep(descriptor, blob.digest, content);
        Ok((kept, compression))
    }

    /// Where a layer or attachment is; nowhere, if it may be.
    fn content(&self, blob: &BlobName, size: u64) -> Result<Content, Error> {
        match self.store.blob(blob, size) {
            Ok(range) => Ok(Content::File(range)),
            Err(Error::MissingBlob { .. }) if self.options.absent_blobs => Ok(Content::Absent),
            Err(error) => Err(error),
        }
    }

    /// Adds a blob once, and answers the one that is kept.
    fn keep(&mut self, descriptor: &Descriptor, digest: Digest, content: Content) -> Blob {
        let next = self.blobs.len();
        let at = *self.blob_at.entry(digest.clone()).or_insert(next);
        if at == next {
            let media_type = descriptor.media_type().as_ref().to_owned();
            self.blobs
                .push(Blob::new(digest, descriptor.size(), media_type, content));
        }
        self.blobs[at].clone()
    }

    /// Counts what is kept in memory.
    fn remember(&mut self, blob: &BlobName, size: u64) -> Result<(), Error> {
        self.memory += size;
        let limit_of_all = self.options.limits.documents_bytes;
        if self.memory > limit_of_all {
            let problem = format!("with it the image's documents exceed {limit_of_all} bytes");
            return Err(Error::Document {
                what: blob.to_string(),
                problem,
            });
        }
        Ok(())
    }

    /// The bytes of a small blob, which are those its digest names.
    fn verified(&mut self, blob: &BlobName, size: u64, limit: u64) -> Result<Arc<[u8]>, Error> {
        if size > limit {
            return Err(Error::TooLarge {
                what: blob.to_string(),
                size,
                limit,
            });
        }
        self.remember(blob, size)?;
        let range = self.store.blob(blob, size)?;
        let bytes = read_all(&range, &blob.to_string(), limit)?;
        let got = hash(blob.digest.algorithm(), &bytes);
        if got != blob.digest {
            return Err(Error::DigestMismatch {
                blob: blob.clone(),
                got,
            });
        }
        Ok(bytes)
    }
}

fn hash(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}
