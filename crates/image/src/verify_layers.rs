//! Reading a whole image to the end: what makes it fit to be pushed without having been run.

use std::collections::HashSet;
use std::io::{self, Read};
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::error::BlobName;
use crate::{Blob, Content, DiffId, Error, Image, Layer, LayerDigest, Limits};

enum Task<'a> {
    Layer(&'a Layer, String),
    Blob(&'a Blob),
}

impl Image {
    /// Reads all layers of all platforms, and every other blob, on all cores, and compares digest, size and
    /// diff_id of each. Leaves out the layers that `skip` knows as verified.
    ///
    /// # Errors
    /// [`Error::Verify`] for the first layer or blob, in the image's order, that differs.
    pub fn verify_layers(
        &self,
        skip: impl Fn(&LayerDigest, &DiffId) -> bool + Sync,
    ) -> Result<(), Error> {
        let tasks = self.tasks();
        let next = AtomicUsize::new(0);
        // The lowest task that failed: the same whatever the number of threads.
        let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
        let work = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                let Some(task) = tasks.get(at) else { return };
                if let Err(error) = run(task, self.limits(), &skip) {
                    // Tasks are handed out in order, so that all below this one have been taken.
                    next.store(tasks.len(), Ordering::Relaxed);
                    let mut failed = failed.lock().expect("no thread panics holding it");
                    if failed.as_ref().is_none_or(|(other, _)| at < *other) {
                        *failed = Some((at, error));
                    }
                }
            }
        };
        let cores = std::thread::available_parallelism().map_or(2, NonZero::get);
        std::thread::scope(|scope| {
            for _ in 0..cores.min(tasks.len()) {
                scope.spawn(work);
            }
        });
        match failed.into_inner().expect("no thread panics holding it") {
            Some((_, error)) => Err(error),
            None => Ok(()),
        }
    }

    fn tasks(&self) -> Vec<Task<'_>> {
        let mut tasks = Vec::new();
        let (mut layers, mut digests) = (HashSet::new(), HashSet::new());
        for platform in self.platforms() {
            let count = platform.layers.len();
            for (index, layer) in platform.layers.iter().enumerate() {
                digests.insert(layer.blob.digest());
                if layers.insert((layer.blob.digest(), &layer.diff_id)) {
                    tasks.push(Task::Layer(
                        layer,
                        format!("layer {} of {count}", index + 1),
                    ));
                }
            }
        }
        // What is in memory was verified when the image was opened.
        let others = self.blobs().iter().filter(|blob| {
            matches!(blob.content(), Content::File(_)) && !digests.contains(blob.digest())
        });
        tasks.extend(others.map(Task::Blob));
        tasks
    }
}

fn run(
    task: &Task<'_>,
    limits: &Limits,
    skip: &(impl Fn(&LayerDigest, &DiffId) -> bool + Sync),
) -> Result<(), Error> {
    let (blob, role, result) = match task {
        Task::Layer(layer, role) => {
            if skip(&LayerDigest(layer.blob.digest().clone()), &layer.diff_id) {
                return Ok(());
            }
            let read = layer
                .open_tar_within(limits)
                .and_then(crate::LayerTar::finish);
            (&layer.blob, role.as_str(), read)
        }
        Task::Blob(blob) => (*blob, "attached", drain(&mut blob.open())),
    };
    result.map_err(|source| {
        let name = BlobName {
            digest: blob.digest().clone(),
            role: role.to_owned(),
        };
        Error::Verify { blob: name, source }
    })
}

fn drain(reader: &mut impl Read) -> io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    while reader.read(&mut buffer)? > 0 {}
    Ok(())
}
