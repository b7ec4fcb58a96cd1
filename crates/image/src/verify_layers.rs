//! Reading a whole image to the end: what makes it fit to be pushed without having been run.

use std::cmp::Reverse;
use std::collections::HashSet;
use std::io::{self, BufRead, Read};
use std::num::NonZero;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::error::BlobName;
use crate::{Blob, Content, DiffId, Error, Image, Layer, LayerDigest, Limits};

enum Task<'a> {
    Layer(&'a Layer, String),
    Blob(&'a Blob),
}

impl Task<'_> {
    fn blob(&self) -> &Blob {
        match self {
            Self::Layer(layer, _) => &layer.blob,
            Self::Blob(blob) => blob,
        }
    }
}

impl Image {
    /// Reads all layers of all platforms, and every other blob, on all cores and the largest first, and compares
    /// digest, size and diff_id of each. Leaves out the layers that `skip` knows as verified, and what is absent:
    /// who fetches that compares it with its digest. Gives up when `ended` is set, with an error about nothing.
    ///
    /// # Errors
    /// [`Error::Verify`] for the first layer or blob, in the image's order, that differs.
    pub fn verify_layers(
        &self,
        skip: impl Fn(&LayerDigest, &DiffId) -> bool + Sync,
        ended: &AtomicBool,
    ) -> Result<(), Error> {
        let tasks = self.tasks(skip);
        let mut order: Vec<usize> = (0..tasks.len()).collect();
        // The largest take longest, so they are started first.
        order.sort_by_key(|at| Reverse(tasks[*at].blob().size()));
        let cores = std::thread::available_parallelism().map_or(2, NonZero::get);
        let total: u64 = tasks.iter().map(|task| task.blob().size()).sum();
        let next = AtomicUsize::new(0);
        // The lowest task that failed: the same whatever the number of threads.
        let failed: Mutex<Option<(usize, Error)>> = Mutex::new(None);
        let work = || {
            loop {
                let Some(at) = order.get(next.fetch_add(1, Ordering::Relaxed)) else {
                    return;
                };
                // Only what comes before the failure in the image can still be the one to name.
                let lower = |other: &Option<(usize, Error)>| {
                    other.as_ref().is_none_or(|(other, _)| at < other)
                };
                if !lower(&failed.lock().expect("no thread panics holding it")) {
                    continue;
                }
                let task = &tasks[*at];
                // One that outlasts all others together would leave the other cores idle.
                let alone = task.blob().size() > total / cores as u64;
                if let Err(error) = run(task, self.limits(), alone, ended) {
                    let mut failed = failed.lock().expect("no thread panics holding it");
                    if lower(&failed) {
                        *failed = Some((*at, error));
                    }
                }
            }
        };
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

    fn tasks(&self, skip: impl Fn(&LayerDigest, &DiffId) -> bool) -> Vec<Task<'_>> {
        let mut tasks = Vec::new();
        let (mut layers, mut digests) = (HashSet::new(), HashSet::new());
        for platform in self.platforms() {
            let count = platform.layers.len();
            for (index, layer) in platform.layers.iter().enumerate() {
                let (digest, diff_id) = (layer.blob.digest(), &layer.diff_id);
                digests.insert(digest);
                let is_known = matches!(layer.blob.content(), Content::Absent)
                    || skip(&LayerDigest(digest.clone()), diff_id);
                if !is_known && layers.insert((digest, diff_id)) {
                    let role = format!("layer {} of {count}", index + 1);
                    tasks.push(Task::Layer(layer, role));
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

/// Reads what a task names; one that is `alone` in threads of its own.
fn run(task: &Task<'_>, limits: &Limits, alone: bool, ended: &AtomicBool) -> Result<(), Error> {
    let (role, result) = match task {
        Task::Layer(layer, role) => {
            let tar = layer.open_tar_within(limits);
            let read = tar.and_then(|mut tar| match alone {
                true => drain_staged(&mut tar.in_stages()?, ended),
                false => drain(&mut tar, ended),
            });
            (role.as_str(), read)
        }
        Task::Blob(blob) => ("attached", drain(&mut blob.open(), ended)),
    };
    result.map_err(|source| {
        let name = BlobName {
            digest: task.blob().digest().clone(),
            role: role.to_owned(),
        };
        Error::Verify { blob: name, source }
    })
}

fn drain(reader: &mut impl Read, ended: &AtomicBool) -> io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    while reader.read(&mut buffer)? > 0 {
        go_on(ended)?;
    }
    Ok(())
}

fn drain_staged(reader: &mut impl BufRead, ended: &AtomicBool) -> io::Result<()> {
    loop {
        match reader.fill_buf()?.len() {
            0 => return Ok(()),
            count => reader.consume(count),
        }
        go_on(ended)?;
    }
}

fn go_on(ended: &AtomicBool) -> io::Result<()> {
    match ended.load(Ordering::Relaxed) {
        true => Err(io::Error::other("nobody waits for it any more")),
        false => Ok(()),
    }
}
