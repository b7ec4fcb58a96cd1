//! What is learnt, and where it is wanted done, for a push before it is known whether there will be one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use smokegate_image::{Blob, Digest, Image};

use crate::push_content::{Transfer, Transfers};
use crate::push_run::{EndOnDrop, Run};
use crate::tasks::bounded;
use crate::{
    BlobCount, BlobOutcome, Destination, DestinationState, Error, Publisher, PushEvent,
    PushObserver, PushOptions, RemoteState, Target, plan,
};

/// Which blobs of an image the repositories of its targets have, and which of them were sent ahead.
///
/// Clones share what they know, so that it is known also of work that was broken off. Nothing of it concerns
/// manifests or tags: these are neither looked up nor written before a push.
#[derive(Clone, Debug, Default)]
pub struct Ahead(Arc<Mutex<Known>>);

#[derive(Debug, Default)]
struct Known {
    /// By repository: each blob that was asked for, and whether it is there.
    blobs: BTreeMap<Destination, BTreeMap<Digest, bool>>,
    sent: BTreeMap<Destination, BlobCount>,
}

impl Ahead {
    /// What was sent, by repository. Where no push follows, no manifest refers to it.
    pub fn sent(&self) -> BTreeMap<Destination, BlobCount> {
        self.known().sent.clone()
    }

    /// Whether a repository was seen to have a blob; `None` where it was not asked.
    pub(crate) fn has(&self, destination: &Destination, digest: &Digest) -> Option<bool> {
        let known = self.known();
        known.blobs.get(destination)?.get(digest).copied()
    }

    /// Forgets what is there: somebody has removed some of it.
    pub(crate) fn forget(&self) -> bool {
        !std::mem::take(&mut self.known().blobs).is_empty()
    }

    fn note(&self, destination: &Destination, digest: &Digest, is_there: bool) {
        let mut known = self.known();
        let blobs = known.blobs.entry(destination.clone()).or_default();
        blobs.insert(digest.clone(), is_there);
    }

    fn note_sent(&self, destination: &Destination, blob: &Blob) {
        self.note(destination, blob.digest(), true);
        let mut known = self.known();
        let count = known.sent.entry(destination.clone()).or_default();
        count.add(blob.size());
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().expect("no panic while held")
    }
}

impl Publisher {
    /// Asks the repositories of `targets` which blobs of an image they have, for [`PushOptions::ahead`] of a later
    /// push. Destinations on disk are not asked.
    ///
    /// # Errors
    /// When a registry does not answer, or not well. What was learnt until then is kept.
    pub async fn look_ahead(
        &self,
        image: &Image,
        targets: &[Target],
        ahead: &Ahead,
    ) -> Result<(), Error> {
        for destination in repositories(targets) {
            let repository = self.repository(destination)?;
            let limit = repository.registry.options.parallel_uploads;
            let asking = image.blobs().iter().map(|blob| {
                let (repository, digest) = (repository.clone(), blob.digest().clone());
                let (ahead, destination) = (ahead.clone(), destination.clone());
                async move {
                    let is_there = repository.has_blob(&digest).await?;
                    ahead.note(&destination, &digest, is_there);
                    Ok(())
                }
            });
            bounded(limit, asking).await?;
        }
        Ok(())
    }

    /// Sends the blobs that [`look_ahead`](Self::look_ahead) found missing to the repositories of `targets`: no
    /// manifest, and no tag. What cannot be sent is left to the push, so that nothing here is an error; `observer` is
    /// told of it ([`crate::PushEvent::BlobLeft`]). Dropping the future ends what is on its way.
    pub async fn upload_ahead(
        &self,
        image: &Image,
        targets: &[Target],
        ahead: &Ahead,
        observer: Arc<dyn PushObserver>,
    ) {
        let targets: Vec<Target> = targets
            .iter()
            .filter(|target| matches!(target.destination(), Destination::Repository { .. }))
            .cloned()
            .collect();
        let mut state = RemoteState::default();
        for destination in repositories(&targets) {
            let blobs = image.blobs().iter().map(Blob::digest).cloned();
            let there = DestinationState {
                blobs: blobs
                    .filter(|digest| ahead.has(destination, digest) == Some(true))
                    .collect(),
                ..DestinationState::default()
            };
            state.destinations.insert(destination.clone(), there);
        }
        let plan = plan(image, &targets, &state);
        let options = PushOptions::default();
        let run = Arc::new(Run::new(image, &plan, &options, observer));
        let _ended = EndOnDrop(Arc::clone(&run));
        let ahead = ahead.clone();
        let (sharing, ahead) = (Arc::clone(&run), ahead.clone());
        let each = move |transfer: Transfer| {
            let (run, ahead) = (Arc::clone(&sharing), ahead.clone());
            async move {
                let (destination, blob) = (&*transfer.destination, &transfer.blob);
                match transfer.run(&run).await {
                    Ok(BlobOutcome::Uploaded) => ahead.note_sent(destination, blob),
                    Ok(BlobOutcome::Mounted | BlobOutcome::Present) => {
                        ahead.note(destination, blob.digest(), true);
                    }
                    Err(reason) => run.observer.event(PushEvent::BlobLeft {
                        destination,
                        digest: blob.digest(),
                        reason: &reason,
                    }),
                }
                Ok(())
            }
        };
        // A registry that cannot be named has nothing sent to it either; the push says so.
        if let Ok(transfers) = Transfers::of(self, &run, &plan) {
            // No transfer is an error here.
            let _ = transfers.carry_out(each).await;
        }
    }
}

fn repositories(targets: &[Target]) -> BTreeSet<&Destination> {
    let destinations = targets.iter().map(Target::destination);
    destinations
        .filter(|destination| matches!(destination, Destination::Repository { .. }))
        .collect()
}
