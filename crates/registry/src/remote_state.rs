//! What the destinations of a push already have.

use std::collections::{BTreeMap, BTreeSet};

use smokegate_image::{Digest, Document, Image};

use crate::layout_target::LayoutTarget;
use crate::tasks::{blocking, bounded};
use crate::transport::Repository;
use crate::{Ahead, Destination, Error, Publisher, Target};

/// What one destination has of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationState {
    /// The image's blobs that are there.
    pub blobs: BTreeSet<Digest>,
    /// The image's manifests and indexes that are there, byte for byte.
    pub documents: BTreeSet<Digest>,
    /// What the wanted tags point to; a tag that does not exist has no entry.
    pub tags: BTreeMap<String, Digest>,
}

/// What every destination has. A destination without an entry has nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RemoteState {
    /// By destination.
    pub destinations: BTreeMap<Destination, DestinationState>,
}

/// What a look at a target before the gate found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetCheck {
    /// The target; it may be written to.
    pub target: Target,
    /// What it points to now.
    pub current: Option<Digest>,
}

/// The most bytes of a manifest at ECR (`PutImage`).
const ECR_MANIFEST_LIMIT: usize = 4 << 20;

/// Refuses before anything is sent what ECR would refuse in the middle of it, in words of its own.
fn takes(repository: &Repository, image: &Image) -> Result<(), Error> {
    if repository.registry.ecr().is_none() {
        return Ok(());
    }
    let unsupported = |what, digest: &Digest| {
        Err(Error::Unsupported {
            registry: repository.registry.name().to_owned(),
            what,
            digest: digest.clone(),
        })
    };
    if let Some(blob) = image.blobs().iter().find(|blob| blob.size() == 0) {
        return unsupported("empty blob", blob.digest());
    }
    let large = |document: &&Document| document.bytes.len() > ECR_MANIFEST_LIMIT;
    match image.published().find(large) {
        Some(document) => unsupported("manifest of more than 4 MiB", &document.digest),
        None => Ok(()),
    }
}

impl Publisher {
    /// Asks every destination what it has of an image, except for the blobs that `ahead` knows. An archive has
    /// nothing, as it is written anew.
    ///
    /// # Errors
    /// When a destination does not answer, or not well.
    pub async fn remote_state(
        &self,
        image: &Image,
        targets: &[Target],
        ahead: Option<&Ahead>,
    ) -> Result<RemoteState, Error> {
        let mut tags: BTreeMap<&Destination, Vec<String>> = BTreeMap::new();
        for target in targets {
            tags.entry(target.destination())
                .or_default()
                .push(target.tag().to_owned());
        }
        let mut state = RemoteState::default();
        for (destination, tags) in tags {
            let found = match destination {
                Destination::Repository { .. } => {
                    takes(&self.repository(destination)?, image)?;
                    self.repository_state(destination, image, tags, ahead)
                        .await?
                }
                Destination::Layout(path) => {
                    let (layout, image) = (LayoutTarget::new(path), image.clone());
                    blocking(move || layout.state(&image, &tags)).await?
                }
                Destination::Archive(_) => DestinationState::default(),
            };
            state.destinations.insert(destination.clone(), found);
        }
        Ok(state)
    }

    async fn repository_state(
        &self,
        destination: &Destination,
        image: &Image,
        tags: Vec<String>,
        ahead: Option<&Ahead>,
    ) -> Result<DestinationState, Error> {
        let repository = self.repository(destination)?;
        let mut state = DestinationState::default();
        // The tags first: they say soonest that the repository cannot be reached at all.
        for tag in tags {
            let digest = repository
                .resolve_tag(&tag, image.digest().algorithm())
                .await?;
            state.tags.extend(digest.map(|digest| (tag, digest)));
        }
        let limit = repository.registry.options.parallel_uploads;
        let blobs = image.blobs().iter().map(|blob| {
            let (repository, digest) = (repository.clone(), blob.digest().clone());
            let known = ahead.and_then(|ahead| ahead.has(destination, &digest));
            async move {
                let is_there = match known {
                    Some(is_there) => is_there,
                    None => repository.has_blob(&digest).await?,
                };
                Ok(is_there.then_some(digest))
            }
        });
        state.blobs = bounded(limit, blobs).await?.into_iter().flatten().collect();
        let documents = image.published().map(|document| {
            let (repository, document) = (repository.clone(), document.clone());
            async move {
                Ok(repository
                    .has_document(&document)
                    .await?
                    .then_some(document.digest))
            }
        });
        state.documents = bounded(limit, documents)
            .await?
            .into_iter()
            .flatten()
            .collect();
        Ok(state)
    }
}
