//! An opened image: an immutable view of its documents and blobs.

use std::sync::Arc;

use crate::{Blob, ChainId, Compression, DiffId, Digest, ImageConfig, Limits};

/// What a document is to the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DocumentKind {
    /// A manifest of one platform's image: it can be run and is tested.
    Image,
    /// An image index (or Docker manifest list).
    Index,
    /// Anything else an index lists: BuildKit's attestations (`unknown/unknown`), artifacts. Kept, pushed, never run.
    Attached,
}

/// A manifest or index with the exact bytes that its digest names.
#[derive(Clone, Debug)]
pub struct Document {
    /// Digest of `bytes`.
    pub digest: Digest,
    /// Media type to push it with.
    pub media_type: String,
    /// The bytes, never encoded again.
    pub bytes: Arc<[u8]>,
    /// What it is.
    pub kind: DocumentKind,
    /// `os/architecture[/variant]` that the parent index gives it, or its config.
    pub platform: Option<String>,
    /// Digests of the blobs (manifest) or documents (index) that it names.
    pub children: Vec<Digest>,
}

impl Document {
    /// A document beside the images, such as one that refers to them, of these bytes.
    pub fn attached(media_type: &str, bytes: Vec<u8>, children: Vec<Digest>) -> Self {
        Self {
            digest: Digest::sha256(&bytes),
            media_type: media_type.to_owned(),
            bytes: bytes.into(),
            kind: DocumentKind::Attached,
            platform: None,
            children,
        }
    }
}

/// One layer of a [`PlatformImage`].
#[derive(Clone, Debug)]
pub struct Layer {
    /// The layer as stored and pushed.
    pub blob: Blob,
    /// Digest of its uncompressed bytes.
    pub diff_id: DiffId,
    /// How it is compressed, by its first bytes.
    pub compression: Compression,
}

/// One platform's image: what is run.
#[derive(Clone, Debug)]
pub struct PlatformImage {
    /// Digest of its manifest.
    pub manifest: Digest,
    /// `os/architecture[/variant]`.
    pub platform: String,
    /// Digest of its config.
    pub config_digest: Digest,
    /// The config.
    pub config: ImageConfig,
    /// The layers, lowest first.
    pub layers: Vec<Layer>,
}

impl PlatformImage {
    /// The ChainID of each layer, lowest first.
    pub fn chain_ids(&self) -> Vec<ChainId> {
        let mut chain: Vec<ChainId> = Vec::with_capacity(self.layers.len());
        for layer in &self.layers {
            chain.push(ChainId::new(chain.last(), &layer.diff_id));
        }
        chain
    }
}

/// What an [`Image`] is made of; see its methods for the meaning of each.
#[derive(Clone, Debug)]
pub struct ImageParts {
    /// Children before parents, the root last, each digest once.
    pub documents: Vec<Document>,
    /// Manifests whose `subject` is one of `documents` or one of these: signatures, SBOMs, receipts. Subjects
    /// before what refers to them.
    pub referrers: Vec<Document>,
    /// Every config, layer and other blob that the documents and referrers name, each digest once.
    pub blobs: Vec<Blob>,
    /// Every image that could be run, in the order of the index.
    pub platforms: Vec<PlatformImage>,
    /// Which of `platforms` was chosen.
    pub selected: usize,
    /// The names the source has for the image.
    pub names: Vec<String>,
    /// Whether the manifest was made here, because the source (`docker save`) has none.
    pub synthesized: bool,
    /// Facts worth a line to the user: "docker-archive has no manifest; …".
    pub notes: Vec<String>,
}

/// An image: every document parsed and checked against its digest, every blob known by its place.
///
/// Layers are not read when an image is opened: a [`Blob`]'s reader verifies them as they are used.
#[derive(Clone, Debug)]
pub struct Image {
    parts: Arc<ImageParts>,
    limits: Limits,
}

impl Image {
    /// An image of `parts`, which must not be empty: at least one document and one platform. Its layers are
    /// read within the default limits.
    pub fn new(parts: ImageParts) -> Self {
        assert!(!parts.documents.is_empty() && parts.selected < parts.platforms.len());
        Self {
            parts: Arc::new(parts),
            limits: Limits::default(),
        }
    }

    /// The same image with its layers read within `limits`.
    pub(crate) fn within(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// What its layers may cost to read.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The digest a tag will point to: the index's, where there is one.
    pub fn digest(&self) -> &Digest {
        &self.root().digest
    }

    /// The document a tag will point to.
    pub fn root(&self) -> &Document {
        &self.parts.documents[self.parts.documents.len() - 1]
    }

    /// Children before parents, the root last: the order in which they can be pushed.
    pub fn documents(&self) -> &[Document] {
        &self.parts.documents
    }

    /// What refers to the image, subjects before what refers to them. None is part of what its digest names.
    pub fn referrers(&self) -> &[Document] {
        &self.parts.referrers
    }

    /// All that is published with the image, in an order in which it can be: its documents, then its referrers.
    pub fn published(&self) -> impl Iterator<Item = &Document> {
        self.parts.documents.iter().chain(&self.parts.referrers)
    }

    /// The same image with one more referrer, and the blobs that it names.
    #[must_use]
    pub fn with_referrer(&self, referrer: Document, blobs: impl IntoIterator<Item = Blob>) -> Self {
        let mut parts = (*self.parts).clone();
        if parts
            .referrers
            .iter()
            .any(|one| one.digest == referrer.digest)
        {
            return self.clone();
        }
        parts.referrers.push(referrer);
        for blob in blobs {
            if parts.blobs.iter().all(|one| one.digest() != blob.digest()) {
                parts.blobs.push(blob);
            }
        }
        Self {
            parts: Arc::new(parts),
            limits: self.limits,
        }
    }

    /// Every blob the documents and referrers name, each digest once.
    pub fn blobs(&self) -> &[Blob] {
        &self.parts.blobs
    }

    /// Every image that could be run.
    pub fn platforms(&self) -> &[PlatformImage] {
        &self.parts.platforms
    }

    /// The image that is run: the host's platform, or the one asked for.
    pub fn selected(&self) -> &PlatformImage {
        &self.parts.platforms[self.parts.selected]
    }

    /// The place of [`Self::selected`] among [`Self::platforms`].
    pub fn selected_index(&self) -> usize {
        self.parts.selected
    }

    /// The names the source has for the image.
    pub fn names(&self) -> &[String] {
        &self.parts.names
    }

    /// Whether the manifest was made by smokegate.
    pub fn is_synthesized(&self) -> bool {
        self.parts.synthesized
    }

    /// Facts about the source worth telling the user.
    pub fn notes(&self) -> &[String] {
        &self.parts.notes
    }
}
