//! The first phase of a push: every blob and manifest to every destination.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use smokegate_image::{Blob, Content, Document, subject_of};
use tokio::task::JoinSet;

use crate::archive_target::{ArchiveTarget, WrittenArchive};
use crate::layout_target::LayoutTarget;
use crate::push_run::Run;
use crate::tasks::{blocking, bounded, joined};
use crate::transport::Repository;
use crate::{Action, BlobOutcome, Destination, Error, Publisher, PushPlan, Step};

/// Archives that are complete and wait for their names.
pub(crate) type Archives = HashMap<Destination, WrittenArchive>;

impl Publisher {
    /// Brings the blobs to every destination; archives are complete, with their manifests, but have no name yet.
    pub(crate) async fn blobs(&self, run: &Arc<Run>, plan: &PushPlan) -> Result<Archives, Error> {
        let mut layouts: BTreeMap<&Destination, Vec<Blob>> = BTreeMap::new();
        for Step {
            destination,
            action,
        } in plan.steps()
        {
            match action {
                Action::KeepBlob { digest, .. } => {
                    run.blob_done(destination, run.blob(digest), BlobOutcome::Present);
                }
                Action::UploadBlob { digest, .. }
                    if matches!(destination, Destination::Layout(_)) =>
                {
                    let blob = run.blob(digest).clone();
                    layouts.entry(destination).or_default().push(blob);
                }
                // Sent to registries, or part of an archive that is written as a whole, below.
                _ => {}
            }
        }
        // Registries and disks do not slow each other down, so they are served side by side.
        let mut local = JoinSet::new();
        for (destination, blobs) in layouts {
            let (run, destination) = (Arc::clone(run), destination.clone());
            local.spawn(async move {
                let blobs = run.all_at_hand(blobs).await?;
                blocking(move || fill_layout(&run, &destination, &blobs)).await
            });
        }
        let mut writing = JoinSet::new();
        for (destination, tags) in archive_tags(plan) {
            let run = Arc::clone(run);
            writing.spawn(async move {
                let blobs = run.all_at_hand(run.image.blobs().to_vec()).await?;
                blocking(move || {
                    let written = write_archive(&run, &destination, blobs, &tags)?;
                    Ok((destination, written))
                })
                .await
            });
        }
        let sharing = Arc::clone(run);
        Transfers::of(self, run, plan)?
            .carry_out(move |transfer| {
                let run = Arc::clone(&sharing);
                async move { transfer.run(&run).await.map(drop) }
            })
            .await?;
        joined(local).await?;
        Ok(joined(writing).await?.into_iter().collect())
    }

    /// Writes the manifests: in each destination in their order, in all destinations at once.
    pub(crate) async fn manifests(&self, run: &Arc<Run>, plan: &PushPlan) -> Result<(), Error> {
        let mut steps: BTreeMap<&Destination, Vec<(Document, bool)>> = BTreeMap::new();
        for Step {
            destination,
            action,
        } in plan.steps()
        {
            let (digest, write) = match action {
                Action::KeepManifest { digest } => (digest, false),
                Action::PutManifest { digest } => (digest, true),
                _ => continue,
            };
            let document = run.document(digest).clone();
            steps
                .entry(destination)
                .or_default()
                .push((document, write));
        }
        let mut writing = JoinSet::new();
        for (destination, documents) in steps {
            let run = Arc::clone(run);
            let destination = destination.clone();
            let repository = match destination {
                Destination::Repository { .. } => Some(self.repository(&destination)?),
                _ => None,
            };
            writing.spawn(async move {
                for (document, write) in documents {
                    match (&destination, &repository) {
                        (_, Some(repository)) => {
                            put(repository, &document, write).await?;
                        }
                        (Destination::Layout(path), _) => {
                            let (layout, document) = (LayoutTarget::new(path), document.clone());
                            blocking(move || {
                                if write {
                                    layout.put_document(&document)?;
                                }
                                layout.list_referrer(&document)
                            })
                            .await?;
                        }
                        // An archive was written with them.
                        _ => {}
                    }
                    run.manifest_done(&destination, &document.digest, write);
                }
                Ok(())
            });
        }
        joined(writing).await.map(drop)
    }
}

/// Writes a document unless it is there, and has it listed if it refers to another.
async fn put(repository: &Repository, document: &Document, write: bool) -> Result<(), Error> {
    let put = async {
        if write {
            repository.put_document(document).await?;
        }
        repository.list_referrer(document).await
    };
    put.await
        .map_err(|error| match subject_of(&document.bytes) {
            None => error,
            Some(subject) => Error::Attach {
                digest: document.digest.clone(),
                subject,
                source: Box::new(error),
            },
        })
}

/// Blobs on their way to registries, by registry and the largest first.
pub(crate) struct Transfers {
    uploads: BTreeMap<String, Vec<Transfer>>,
    mounts: BTreeMap<String, Vec<Transfer>>,
}

impl Transfers {
    /// What a plan sends and mounts.
    pub(crate) fn of(
        publisher: &Publisher,
        run: &Arc<Run>,
        plan: &PushPlan,
    ) -> Result<Self, Error> {
        let mut transfers = Self {
            uploads: BTreeMap::new(),
            mounts: BTreeMap::new(),
        };
        for Step {
            destination,
            action,
        } in plan.steps()
        {
            let Destination::Repository { registry, .. } = destination else {
                continue;
            };
            let (phase, digest, from) = match action {
                Action::UploadBlob { digest, .. } => (&mut transfers.uploads, digest, None),
                Action::MountBlob { digest, from, .. } => {
                    (&mut transfers.mounts, digest, Some(from.clone()))
                }
                _ => continue,
            };
            phase.entry(registry.clone()).or_default().push(Transfer {
                repository: publisher.repository(destination)?,
                destination: Arc::new(destination.clone()),
                blob: run.blob(digest).clone(),
                from,
            });
        }
        Ok(transfers)
    }

    /// Carries each out by `each`, mounts after all uploads; the first error ends the others.
    pub(crate) async fn carry_out<F>(
        self,
        each: impl Fn(Transfer) -> F + Clone + Send + 'static,
    ) -> Result<(), Error>
    where
        F: Future<Output = Result<(), Error>> + Send + 'static,
    {
        for phase in [self.uploads, self.mounts] {
            let mut registries = JoinSet::new();
            for transfers in phase.into_values() {
                let limit = transfers.first().map_or(1, |first| {
                    first.repository.registry.options.parallel_uploads
                });
                let each = each.clone();
                registries
                    .spawn(async move { bounded(limit, transfers.into_iter().map(each)).await });
            }
            joined(registries).await?;
        }
        Ok(())
    }
}

/// A blob on its way to a repository.
pub(crate) struct Transfer {
    repository: Repository,
    pub(crate) destination: Arc<Destination>,
    pub(crate) blob: Blob,
    from: Option<String>,
}

impl Transfer {
    pub(crate) async fn run(&self, run: &Run) -> Result<BlobOutcome, Error> {
        let Self {
            repository,
            destination,
            blob,
            from,
        } = self;
        let is_absent = matches!(blob.content(), Content::Absent);
        let outcome = match from.as_deref() {
            // What may be mounted is not fetched before it is known that it cannot.
            Some(from) if is_absent && repository.mount_blob(blob, from).await => {
                BlobOutcome::Mounted
            }
            from => {
                let from = from.filter(|_| !is_absent);
                let blob = run.at_hand(blob).await?;
                repository
                    .put_blob(&blob, from, destination, &run.observer)
                    .await?
            }
        };
        run.blob_done(destination, blob, outcome);
        Ok(outcome)
    }
}

fn fill_layout(run: &Run, destination: &Destination, blobs: &[Blob]) -> Result<(), Error> {
    let Destination::Layout(path) = destination else {
        unreachable!("called for layouts")
    };
    let layout = LayoutTarget::new(path);
    for blob in blobs {
        layout.put_blob(blob, &|sent| run.written(destination, blob, sent))?;
        run.blob_done(destination, blob, BlobOutcome::Uploaded);
    }
    Ok(())
}

fn write_archive(
    run: &Run,
    destination: &Destination,
    blobs: Vec<Blob>,
    tags: &[String],
) -> Result<WrittenArchive, Error> {
    let Destination::Archive(path) = destination else {
        unreachable!("called for archives")
    };
    let archive = ArchiveTarget::new(path);
    let progress = |blob: &Blob, sent| run.written(destination, blob, sent);
    let written = archive.write(&run.image, blobs, tags, &progress)?;
    for blob in run.image.blobs() {
        run.blob_done(destination, blob, BlobOutcome::Uploaded);
    }
    Ok(written)
}

fn archive_tags(plan: &PushPlan) -> BTreeMap<Destination, Vec<String>> {
    let mut archives: BTreeMap<Destination, Vec<String>> = BTreeMap::new();
    for target in plan.targets() {
        if let Destination::Archive(_) = target.destination() {
            let tags = archives.entry(target.destination().clone()).or_default();
            tags.push(target.tag().to_owned());
        }
    }
    archives
}
