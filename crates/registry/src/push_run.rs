//! What the tasks of one push share: the image, who is told, and the counts.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use smokegate_image::{Blob, DiffId, Digest, Document, Image, LayerDigest};

use crate::tasks::bounded;
use crate::{
    BlobOutcome, BlobSource, Destination, DestinationReport, Error, PushEvent, PushObserver,
    PushOptions, PushPlan,
};

/// Blobs that are fetched for a destination on disk at the same time.
const FETCHES: usize = 4;

/// What the tasks of one push share.
pub(crate) struct Run {
    pub(crate) image: Image,
    pub(crate) observer: Arc<dyn PushObserver>,
    source: Option<BlobSource>,
    known_layers: Arc<HashSet<(LayerDigest, DiffId)>>,
    reports: Mutex<BTreeMap<Destination, DestinationReport>>,
    has_ended: AtomicBool,
}

/// Ends the threads of a push with the push, however it ends.
pub(crate) struct EndOnDrop(pub(crate) Arc<Run>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.has_ended.store(true, Ordering::Relaxed);
    }
}

impl Run {
    pub(crate) fn new(
        image: &Image,
        plan: &PushPlan,
        options: &PushOptions,
        observer: Arc<dyn PushObserver>,
    ) -> Self {
        let reports = plan.targets().iter().map(|target| {
            let destination = target.destination().clone();
            (destination.clone(), DestinationReport::new(destination))
        });
        let reports = Mutex::new(reports.collect());
        Self {
            image: image.clone(),
            observer,
            source: options.source.clone(),
            known_layers: Arc::clone(&options.known_layers),
            reports,
            has_ended: AtomicBool::new(false),
        }
    }

    /// Reads all that is not known to be what its digests say. Blocks.
    pub(crate) fn verify(&self) -> Result<(), smokegate_image::Error> {
        let is_known = |digest: &LayerDigest, diff_id: &DiffId| {
            self.known_layers
                .contains(&(digest.clone(), diff_id.clone()))
        };
        self.image.verify_layers(is_known, &self.has_ended)
    }

    /// The blob with its bytes at hand.
    pub(crate) async fn at_hand(&self, blob: &Blob) -> Result<Blob, Error> {
        match &self.source {
            Some(source) => source.blob(blob).await,
            None => Ok(blob.clone()),
        }
    }

    /// Several, a few at a time.
    pub(crate) async fn all_at_hand(
        self: &Arc<Self>,
        blobs: Vec<Blob>,
    ) -> Result<Vec<Blob>, Error> {
        let fetching = blobs.into_iter().map(|blob| {
            let run = Arc::clone(self);
            async move { run.at_hand(&blob).await }
        });
        bounded(FETCHES, fetching).await
    }

    pub(crate) fn blob(&self, digest: &Digest) -> &Blob {
        let found = self
            .image
            .blobs()
            .iter()
            .find(|blob| blob.digest() == digest);
        found.expect("the plan was made for this image")
    }

    pub(crate) fn document(&self, digest: &Digest) -> &Document {
        let found = self
            .image
            .published()
            .find(|document| document.digest == *digest);
        found.expect("the plan was made for this image")
    }

    /// Tells of bytes written to a file; fails when nobody waits for them any more.
    pub(crate) fn written(
        &self,
        destination: &Destination,
        blob: &Blob,
        sent: u64,
    ) -> io::Result<()> {
        if self.has_ended.load(Ordering::Relaxed) {
            return Err(io::Error::other("the push has ended"));
        }
        let (digest, size) = (blob.digest(), blob.size());
        self.observer.event(PushEvent::BlobProgress {
            destination,
            digest,
            sent,
            size,
        });
        Ok(())
    }

    pub(crate) fn blob_done(&self, destination: &Destination, blob: &Blob, outcome: BlobOutcome) {
        self.report(destination, |report| {
            let count = match outcome {
                BlobOutcome::Uploaded => &mut report.uploaded,
                BlobOutcome::Mounted => &mut report.mounted,
                BlobOutcome::Present => &mut report.present,
            };
            count.add(blob.size());
        });
        let (digest, size) = (blob.digest(), blob.size());
        self.observer.event(PushEvent::BlobDone {
            destination,
            digest,
            size,
            outcome,
        });
    }

    pub(crate) fn manifest_done(&self, destination: &Destination, digest: &Digest, written: bool) {
        self.report(destination, |report| {
            let count = if written {
                &mut report.manifests_written
            } else {
                &mut report.manifests_present
            };
            *count += 1;
        });
        self.observer.event(PushEvent::ManifestDone {
            destination,
            digest,
            written,
        });
    }

    fn report(&self, destination: &Destination, change: impl FnOnce(&mut DestinationReport)) {
        let mut reports = self.reports.lock().expect("no panic while held");
        change(
            reports
                .get_mut(destination)
                .expect("every destination has a report"),
        );
    }

    pub(crate) fn reports(&self) -> Vec<DestinationReport> {
        self.reports
            .lock()
            .expect("no panic while held")
            .values()
            .cloned()
            .collect()
    }
}
