//! Images fetched from registries into OCI layout directories, where they are opened as any other.
//!
//! First the documents and configs, which say what there is; then of the blobs what the caller wants. Each is
//! verified against the digest and size that named it before it has its name in the layout.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use oci_spec::distribution::Reference;
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};
use serde_json::{Value, json};
use smokegate_image::{
    Algorithm, Blob, Digest, Document, Limits, OpenOptions, manifest_for_platform, subject_of,
};

use crate::auth::Access;
use crate::blob_file::{cannot_keep, keep, path_in};
use crate::layout_target::{LAYOUT_FILE, REF_NAME, index_of};
use crate::manifest::{INDEX, MANIFEST, ServedManifest, digest};
use crate::registries::Registries;
use crate::tasks::bounded;
use crate::transport::Repository;
use crate::{Error, PullError};

/// Which documents of an image are fetched.
#[derive(Clone, Copy, Debug)]
pub enum Documents<'a> {
    /// All: its root stays what the reference names.
    All(&'a Limits),
    /// All, and what refers to them: for an image that may be published.
    WithReferrers(&'a Limits),
    /// Of an index only the manifest for the platform of these options, which is the layout's image then.
    ForPlatform(&'a OpenOptions),
}

/// Fetches images, with the tokens and connections of the [`Publisher`](crate::Publisher) that gave it.
#[derive(Debug)]
pub struct Puller {
    registries: Arc<Registries>,
}

/// An image in a registry whose documents are in a layout.
#[derive(Debug)]
pub struct Remote {
    pub(crate) repository: Repository,
    reference: String,
    digest: Digest,
    layout: PathBuf,
}

impl Puller {
    pub(crate) fn of(registries: Arc<Registries>) -> Self {
        Self { registries }
    }

    /// Finds what a reference names and fetches its documents and configs into `layout`, an empty directory.
    ///
    /// # Errors
    /// [`PullError`] says whose fault it is. The directory may then hold a part of the image.
    pub async fn documents(
        &self,
        reference: &Reference,
        documents: Documents<'_>,
        layout: &Path,
    ) -> Result<Remote, PullError> {
        let shown = shown(reference);
        let fetched = self.fetch(reference, &shown, documents, layout).await;
        fetched.map_err(|source| PullError {
            reference: shown,
            source,
        })
    }

    async fn fetch(
        &self,
        reference: &Reference,
        shown: &str,
        documents: Documents<'_>,
        layout: &Path,
    ) -> Result<Remote, Error> {
        // The registry's name is not case sensitive, as any host name.
        let registry = reference.registry().to_ascii_lowercase();
        let repository = self
            .registries
            .repository(&registry, reference.repository())?;
        let root = Root::find(&repository, reference).await?;
        let limits = match documents {
            Documents::All(limits) | Documents::WithReferrers(limits) => limits,
            Documents::ForPlatform(options) => &options.limits,
        };
        let mut walk = Walk {
            repository: &repository,
            layout,
            limits,
            bytes: root.bytes.len() as u64,
            seen: HashSet::from([root.digest.clone()]),
            manifests: vec![root.digest.clone()],
        };
        let mut entry = root.entry();
        let chosen = match documents {
            Documents::ForPlatform(options) if root.is_index() => {
                manifest_for_platform(&root.bytes, options).map_err(Error::Image)?
            }
            _ => None,
        };
        match chosen {
            Some(manifest) => {
                entry = serde_json::to_value(&manifest).expect("a descriptor is JSON");
                walk.below(vec![manifest]).await?;
            }
            None => {
                keep(layout, &root.digest, &root.bytes)?;
                let children = children(&root.bytes);
                walk.below(children).await?;
            }
        }
        entry["annotations"] = json!({ REF_NAME: shown });
        let mut entries = vec![entry];
        if let Documents::WithReferrers(_) = documents {
            entries.extend(walk.referrers().await?);
        }
        write_index(layout, entries)?;
        Ok(Remote {
            repository,
            reference: shown.to_owned(),
            digest: root.digest,
            layout: layout.to_owned(),
        })
    }
}

impl Remote {
    /// The digest that the reference stands for: the index's, where there is one.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The reference in full, which is the image's name in the layout.
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// Fetches blobs into the layout, those that it has not; answers how many bytes came.
    ///
    /// # Errors
    /// [`PullError`]; the layout keeps what was complete.
    pub async fn blobs<'a>(
        &self,
        blobs: impl IntoIterator<Item = &'a Blob>,
    ) -> Result<u64, PullError> {
        let mut seen = HashSet::new();
        let missing = blobs.into_iter().filter(|blob| {
            !path_in(&self.layout, blob.digest()).exists() && seen.insert(blob.digest().clone())
        });
        let fetching = missing.map(|blob| {
            let (repository, layout) = (self.repository.clone(), self.layout.clone());
            let (digest, size) = (blob.digest().clone(), blob.size());
            async move {
                repository.get_blob(&digest, size, &layout).await?;
                Ok(size)
            }
        });
        let limit = self.repository.registry.options.parallel_uploads;
        let fetched = bounded(limit, fetching).await;
        let fetched = fetched.map_err(|source| PullError {
            reference: self.reference.clone(),
            source,
        })?;
        Ok(fetched.iter().sum())
    }
}

/// What a reference names.
struct Root {
    digest: Digest,
    media_type: String,
    bytes: Vec<u8>,
}

impl Root {
    async fn find(repository: &Repository, reference: &Reference) -> Result<Self, Error> {
        let access = Access::pull(&repository.name);
        // A digest counts, whatever tag stands before it (docker).
        let pinned: Option<Digest> = match reference.digest() {
            None => None,
            Some(text) => Some(text.parse().map_err(|_| {
                repository.has_no(format!("digest `{text}` that could be verified"))
            })?),
        };
        let (name, what) = match (&pinned, reference.tag().unwrap_or("latest")) {
            (Some(digest), _) => (digest.to_string(), format!("manifest {digest}")),
            (None, tag) => (tag.to_owned(), format!("tag `{tag}`")),
        };
        let served = repository.get_manifest(&name, &access).await?;
        let served = served.ok_or_else(|| repository.has_no(what))?;
        let algorithm = pinned.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let digest = digest(algorithm, &served.bytes);
        if let Some(pinned) = pinned.filter(|pinned| *pinned != digest) {
            return Err(other_bytes(&pinned, &digest));
        }
        Ok(Self {
            digest,
            media_type: served.media_type,
            bytes: served.bytes,
        })
    }

    fn is_index(&self) -> bool {
        serde_json::from_slice::<ImageIndex>(&self.bytes).is_ok()
    }

    fn entry(&self) -> Value {
        entry(&self.media_type, &self.digest, self.bytes.len())
    }
}

/// The way from the root to every manifest and config.
struct Walk<'a> {
    repository: &'a Repository,
    layout: &'a Path,
    limits: &'a Limits,
    /// Of all documents so far.
    bytes: u64,
    seen: HashSet<Digest>,
    /// The manifests and indexes so far.
    manifests: Vec<Digest>,
}

impl Walk<'_> {
    /// Fetches `level` and everything below it. What is malformed is left for the one who opens the layout, who
    /// has better words for it.
    async fn below(&mut self, mut level: Vec<Descriptor>) -> Result<(), Error> {
        for _ in 0..=self.limits.index_depth + 1 {
            let mut fetching = Vec::new();
            for descriptor in level {
                let Ok(digest) = descriptor.digest().as_ref().parse::<Digest>() else {
                    continue;
                };
                if !self.seen.insert(digest.clone()) {
                    continue;
                }
                self.count(descriptor.size())?;
                if is_manifest(&descriptor) {
                    self.manifests.push(digest.clone());
                }
                fetching.push(document(
                    self.repository.clone(),
                    self.layout.to_owned(),
                    digest,
                    descriptor,
                ));
            }
            let limit = self.repository.registry.options.parallel_uploads;
            let fetched = bounded(limit, fetching).await?;
            level = fetched.into_iter().flatten().collect();
            if level.is_empty() {
                break;
            }
        }
        Ok(())
    }

    fn count(&mut self, bytes: u64) -> Result<(), Error> {
        self.bytes += bytes;
        if self.bytes <= self.limits.documents_bytes {
            return Ok(());
        }
        Err(Error::Image(smokegate_image::Error::TooLarge {
            what: "all documents of the image together".to_owned(),
            size: self.bytes,
            limit: self.limits.documents_bytes,
        }))
    }

    /// Fetches the manifests of what refers to those of the image, of what refers to these, and so on; answers how a
    /// layout lists them. Of their blobs none is fetched.
    async fn referrers(&mut self) -> Result<Vec<Value>, Error> {
        let limit = self.repository.registry.options.parallel_uploads;
        let mut subjects = std::mem::take(&mut self.manifests);
        let mut found = Vec::new();
        for _ in 0..=self.limits.index_depth {
            let listing = subjects.into_iter().map(|subject| {
                let repository = self.repository.clone();
                async move {
                    let access = Access::pull(&repository.name);
                    let entries = repository.referrers(&subject, &access).await?;
                    Ok((subject, entries))
                }
            });
            let mut fetching = Vec::new();
            for (subject, entries) in bounded(limit, listing).await? {
                for entry in entries {
                    // What is not a manifest of a form that is known here cannot be carried along.
                    let Ok(descriptor) = serde_json::from_value::<Descriptor>(entry) else {
                        continue;
                    };
                    let Ok(digest) = descriptor.digest().as_ref().parse::<Digest>() else {
                        continue;
                    };
                    let media_type = descriptor.media_type().as_ref();
                    if !matches!(media_type, MANIFEST | INDEX) || !self.seen.insert(digest.clone())
                    {
                        continue;
                    }
                    self.count(descriptor.size())?;
                    let (repository, layout) = (self.repository.clone(), self.layout.to_owned());
                    fetching.push(referrer(repository, layout, digest, subject.clone()));
                }
            }
            // Sorted, so that the same referrers are published in the same order.
            let mut fetched = bounded(limit, fetching).await?;
            fetched.retain(Option::is_some);
            let mut level: Vec<Document> = fetched.into_iter().flatten().collect();
            level.sort_by(|one, other| one.digest.cmp(&other.digest));
            if level.is_empty() {
                break;
            }
            found.extend(
                level
                    .iter()
                    .map(|one| entry(&one.media_type, &one.digest, one.bytes.len())),
            );
            subjects = level.into_iter().map(|document| document.digest).collect();
        }
        Ok(found)
    }
}

/// Fetches a manifest that is listed as referring to `subject`; `None` when it does not.
async fn referrer(
    repository: Repository,
    layout: PathBuf,
    digest: Digest,
    subject: Digest,
) -> Result<Option<Document>, Error> {
    // A list outlives what it lists, where clients keep it.
    let Some(served) = verified(&repository, &digest).await? else {
        return Ok(None);
    };
    if subject_of(&served.bytes) != Some(subject) {
        return Ok(None);
    }
    keep(&layout, &digest, &served.bytes)?;
    let document = Document::attached(&served.media_type, served.bytes, Vec::new());
    Ok(Some(Document { digest, ..document }))
}

/// What the registry has under a digest, if anything.
async fn verified(
    repository: &Repository,
    digest: &Digest,
) -> Result<Option<ServedManifest>, Error> {
    let access = Access::pull(&repository.name);
    let name = digest.to_string();
    let Some(served) = repository.get_manifest(&name, &access).await? else {
        return Ok(None);
    };
    let got = crate::manifest::digest(digest.algorithm(), &served.bytes);
    if got != *digest {
        return Err(other_bytes(digest, &got));
    }
    Ok(Some(served))
}

/// How the layout's index lists a manifest.
fn entry(media_type: &str, digest: &Digest, size: usize) -> Value {
    json!({ "mediaType": media_type, "digest": digest, "size": size })
}

fn is_manifest(descriptor: &Descriptor) -> bool {
    let media_type = descriptor.media_type().as_ref();
    media_type.contains("manifest") || media_type.contains("index")
}

/// Fetches a manifest, index or config; answers what it names of these.
async fn document(
    repository: Repository,
    layout: PathBuf,
    digest: Digest,
    descriptor: Descriptor,
) -> Result<Vec<Descriptor>, Error> {
    if !is_manifest(&descriptor) {
        repository
            .get_blob(&digest, descriptor.size(), &layout)
            .await?;
        return Ok(Vec::new());
    }
    let served = verified(&repository, &digest).await?;
    let served = served.ok_or_else(|| repository.has_no(format!("manifest {digest}")))?;
    keep(&layout, &digest, &served.bytes)?;
    Ok(children(&served.bytes))
}

/// What an index lists, or the config that a manifest names.
fn children(bytes: &[u8]) -> Vec<Descriptor> {
    if let Ok(index) = serde_json::from_slice::<ImageIndex>(bytes) {
        return index.manifests().clone();
    }
    match serde_json::from_slice::<ImageManifest>(bytes) {
        Ok(manifest) => vec![manifest.config().clone()],
        Err(_) => Vec::new(),
    }
}

fn other_bytes(wanted: &Digest, got: &Digest) -> Error {
    let problem = format!("the registry sent bytes whose digest is {got}");
    Error::Content {
        digest: wanted.clone(),
        source: std::io::Error::new(std::io::ErrorKind::InvalidData, problem),
    }
}

fn write_index(layout: &Path, entries: Vec<Value>) -> Result<(), Error> {
    let index = index_of(entries).to_string();
    for (name, text) in [("oci-layout", LAYOUT_FILE), ("index.json", &index)] {
        let path = layout.join(name);
        fs::write(&path, text).map_err(cannot_keep(&path))?;
    }
    Ok(())
}

/// A reference in full: with its registry, and a tag where it has no digest.
fn shown(reference: &Reference) -> String {
    let name = format!(
        "{}/{}",
        reference.registry().to_ascii_lowercase(),
        reference.repository()
    );
    match (reference.tag(), reference.digest()) {
        (Some(tag), Some(digest)) => format!("{name}:{tag}@{digest}"),
        (None, Some(digest)) => format!("{name}@{digest}"),
        (tag, None) => format!("{name}:{}", tag.unwrap_or("latest")),
    }
}
