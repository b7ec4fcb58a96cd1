//! Fills the store with the layers of an image: unpacks in parallel, settles in chain order.

use std::collections::VecDeque;
use std::io::{self, BufRead, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, mkdirat, openat, renameat};
use rustix::io::Errno;
use smokegate_image::{ChainId, DiffId, LayerDigest};

use crate::apply::apply_buffered;
use crate::mark::Mark;
use crate::root_dir::open_beneath;
use crate::store::{Scratch, entry_path};
use crate::{Applied, Error, LayerStore, Policy, RootDir, Stats, StoredLayer, settle};

/// Each thread keeps up to 64 directories open.
const MAX_THREADS: usize = 8;

/// The layers to have, the lowest first.
#[derive(Clone, Debug)]
pub struct FillPlan {
    /// The layers of one image.
    pub layers: Vec<FillLayer>,
    /// How they are applied; its owners choose the flavour of the store.
    pub policy: Policy,
}

/// One layer of a [`FillPlan`].
#[derive(Clone, Debug)]
pub struct FillLayer {
    /// Digest of the blob, compressed or not.
    pub blob: LayerDigest,
    /// Digest of what it unpacks to.
    pub diff_id: DiffId,
    /// Size of the blob; the largest are begun first.
    pub size: u64,
}

/// Progress; the index is the layer's place in the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FillEvent {
    /// The store has it.
    Cached(usize),
    /// The store may not have it; waits if another process is filling it.
    Waiting(usize),
    /// Its blob is being unpacked.
    Unpacking(usize),
    /// The store has it, but not from this blob, which is read and verified.
    Verifying(usize),
    /// Its files were written; how long that took, without the reading of its blob.
    Unpacked(usize, Duration),
    /// It was unpacked and is in the store.
    Stored(usize, Stats),
    /// The blob was found to be the stored layer.
    Verified(usize),
}

enum Slot {
    Stored(StoredLayer),
    Missing { lock: OwnedFd },
}

#[derive(Clone, Copy)]
enum Job {
    Unpack(usize),
    Verify(usize),
}

impl Job {
    fn index(self) -> usize {
        match self {
            Self::Unpack(index) | Self::Verify(index) => index,
        }
    }
}

impl LayerStore {
    /// Answers with all layers of `plan` in the store, in its order, having unpacked those that were missing.
    ///
    /// `open` gives the uncompressed tar of a layer through a reader that verifies itself: it must fail, rather
    /// than end, if the blob or the tar is not what the plan's digests name. Every reader is read to its end
    /// before its layer counts. Several processes may fill one store: each layer is unpacked by one of them, the
    /// others wait for it.
    ///
    /// # Errors
    /// The first layer that failed. Layers below it that were done remain; nothing incomplete does.
    pub fn fill(
        &self,
        plan: &FillPlan,
        open: impl Fn(usize) -> io::Result<Box<dyn BufRead + Send>> + Sync,
        observer: &(dyn Fn(FillEvent) + Sync),
    ) -> Result<Vec<StoredLayer>, Error> {
        self.remove_abandoned()?;
        let scratch = Scratch::create(self)?;
        let mut chain: Vec<ChainId> = Vec::with_capacity(plan.layers.len());
        let mut slots = Vec::with_capacity(plan.layers.len());
        let mut jobs = Vec::new();
        // Locks are taken upwards along one chain. Chains only share beginnings, so nobody waits in a circle.
        for (index, layer) in plan.layers.iter().enumerate() {
            let chain_id = ChainId::new(chain.last(), &layer.diff_id);
            let slot = self.claim(plan, &chain_id, index, &scratch, observer)?;
            match &slot {
                Slot::Missing { .. } => jobs.push(Job::Unpack(index)),
                Slot::Stored(stored) if !stored.blobs.contains(&layer.blob) => {
                    jobs.push(Job::Verify(index));
                }
                Slot::Stored(_) => observer(FillEvent::Cached(index)),
            }
            slots.push(slot);
            chain.push(chain_id);
        }
        jobs.sort_by_key(|job| std::cmp::Reverse(plan.layers[job.index()].size));

        let mut applied = self.read_layers(plan, jobs, &scratch, &open, observer)?;

        let mut stored: Vec<StoredLayer> = Vec::with_capacity(slots.len());
        let mut lowers: Vec<RootDir> = Vec::with_capacity(slots.len());
        for (index, slot) in slots.into_iter().enumerate() {
            let in_layer = in_layer(plan, index);
            let layer = match slot {
                Slot::Stored(layer) => layer,
                Slot::Missing { lock } => {
                    let applied = applied[index]
                        .take()
                        .expect("every missing layer was unpacked");
                    let layer = self
                        .publish(plan, index, &chain[index], applied, &lowers, &scratch)
                        .map_err(in_layer)?;
                    observer(FillEvent::Stored(index, layer.stats.clone()));
                    drop(lock);
                    layer
                }
            };
            let blob = &plan.layers[index].blob;
            if !layer.blobs.contains(blob) {
                self.update_mark(plan.policy.owners, &chain[index], &layer.entry, |mark| {
                    mark.blobs.push(blob.clone());
                })?;
            }
            let diff = open_beneath(
                layer.entry.as_fd(),
                b"diff",
                OFlags::PATH | OFlags::DIRECTORY,
            )
            .map_err(|errno| Error::host("open", b"diff", errno))?;
            lowers.push(RootDir::from(diff));
            stored.push(layer);
        }
        Ok(stored)
    }

    fn claim(
        &self,
        plan: &FillPlan,
        chain_id: &ChainId,
        index: usize,
        scratch: &Scratch,
        observer: &(dyn Fn(FillEvent) + Sync),
    ) -> Result<Slot, Error> {
        let owners = plan.policy.owners;
        if let Some(stored) = self.acquire(owners, chain_id)? {
            return Ok(Slot::Stored(stored));
        }
        observer(FillEvent::Waiting(index));
        let lock = self.lock_entry(owners, chain_id)?;
        if let Some(stored) = self.acquire(owners, chain_id)? {
            return Ok(Slot::Stored(stored));
        }
        // Of another boot and never flushed, or with a mark that means nothing.
        scratch.swallow(self, &entry_path(owners, chain_id))?;
        Ok(Slot::Missing { lock })
    }

    fn read_layers(
        &self,
        plan: &FillPlan,
        jobs: Vec<Job>,
        scratch: &Scratch,
        open: &(impl Fn(usize) -> io::Result<Box<dyn BufRead + Send>> + Sync),
        observer: &(dyn Fn(FillEvent) + Sync),
    ) -> Result<Vec<Option<Applied>>, Error> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = threads.min(jobs.len()).min(MAX_THREADS);
        let queue = Mutex::new(VecDeque::from(jobs));
        let applied = Mutex::new(plan.layers.iter().map(|_| None).collect::<Vec<_>>());
        let failure = Mutex::new(None);
        let cancelled = AtomicBool::new(false);
        // Not in the head of the loop, where the queue would stay locked until the job is done.
        let next = || lock(&queue).pop_front();
        let work = || {
            while let Some(job) = next() {
                if cancelled.load(Ordering::Relaxed) {
                    return;
                }
                let read = || -> Result<(), Error> {
                    let source = open(job.index()).map_err(Error::Read)?;
                    let mut source = Cancellable {
                        source,
                        cancelled: &cancelled,
                        reading: Duration::ZERO,
                    };
                    match job {
                        Job::Unpack(index) => {
                            observer(FillEvent::Unpacking(index));
                            let began = Instant::now();
                            let dir = make_diff(scratch, index)?;
                            let layer = apply_buffered(&dir, &mut source, &plan.policy)
                                .map_err(|error| cause(error, &mut source))?;
                            lock(&applied)[index] = Some(layer);
                            let writing = began.elapsed().saturating_sub(source.reading);
                            observer(FillEvent::Unpacked(index, writing));
                        }
                        Job::Verify(index) => {
                            observer(FillEvent::Verifying(index));
                            io::copy(&mut source, &mut io::sink()).map_err(Error::Read)?;
                            observer(FillEvent::Verified(index));
                        }
                    }
                    Ok(())
                };
                if let Err(error) = read() {
                    // Only the first: the others fail because of it.
                    lock(&failure).get_or_insert_with(|| in_layer(plan, job.index())(error));
                    cancelled.store(true, Ordering::Relaxed);
                    return;
                }
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(work);
            }
            work();
        });
        match lock(&failure).take() {
            Some(error) => Err(error),
            None => Ok(std::mem::take(&mut *lock(&applied))),
        }
    }

    /// Settles an unpacked layer, marks it and moves it into the store in one step.
    fn publish(
        &self,
        plan: &FillPlan,
        index: usize,
        chain_id: &ChainId,
        applied: Applied,
        lowers: &[RootDir],
        scratch: &Scratch,
    ) -> Result<StoredLayer, Error> {
        let (owners, layer) = (plan.policy.owners, &plan.layers[index]);
        let name = index.to_string();
        let failed = |errno: Errno| Error::host("store the layer", name.as_bytes(), errno);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let entry = openat(&scratch.dir, name.as_str(), flags, Mode::empty()).map_err(failed)?;
        let diff = open_beneath(entry.as_fd(), b"diff", OFlags::PATH | OFlags::DIRECTORY);
        let diff = RootDir::from(diff.map_err(failed)?);
        let lowers: Vec<&RootDir> = lowers.iter().rev().collect();
        let stats = settle(&diff, applied, &lowers, &plan.policy)?;
        let (diff_id, blob) = (layer.diff_id.clone(), layer.blob.clone());
        let mark = Mark::new(chain_id.clone(), diff_id, blob, stats, &self.boot_id);
        mark.write(entry.as_fd())
            .map_err(|error| Error::host("mark as complete the layer", name.as_bytes(), error))?;
        // Ours before others can see it, so that nobody prunes it in between.
        flock(&entry, FlockOperation::LockShared).map_err(failed)?;
        match renameat(
            &scratch.dir,
            name.as_str(),
            &self.dir,
            entry_path(owners, chain_id),
        ) {
            Ok(()) => Ok(self.stored(owners, entry, mark, false)),
            // Somebody was first, although the entry's lock is ours: a store on a filesystem without locks.
            Err(Errno::EXIST | Errno::NOTEMPTY) => self
                .acquire(owners, chain_id)?
                .ok_or_else(|| failed(Errno::EXIST)),
            Err(errno) => Err(failed(errno)),
        }
    }
}

fn make_diff(scratch: &Scratch, index: usize) -> Result<RootDir, Error> {
    let path = format!("{index}/diff");
    let failed = |errno: Errno| Error::host("create", path.as_bytes(), errno);
    mkdirat(&scratch.dir, index.to_string(), Mode::RWXU).map_err(failed)?;
    mkdirat(&scratch.dir, path.as_str(), Mode::RWXU).map_err(failed)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    Ok(RootDir::from(
        open_beneath(scratch.dir.as_fd(), path.as_bytes(), flags).map_err(failed)?,
    ))
}

fn in_layer(plan: &FillPlan, index: usize) -> impl Fn(Error) -> Error {
    let diff_id = plan.layers[index].diff_id.clone();
    move |error| Error::Layer {
        index,
        diff_id: diff_id.clone(),
        source: Box::new(error),
    }
}

/// Wrong bytes look like a bad tar before their digest is known: then the reader's complaint is the cause.
fn cause(error: Error, source: &mut impl Read) -> Error {
    if !matches!(error, Error::Entry { .. } | Error::Tar { .. }) {
        return error;
    }
    match io::copy(source, &mut io::sink()) {
        Err(cause) if cause.kind() == io::ErrorKind::InvalidData => Error::Read(cause),
        _ => error,
    }
}

/// A panic elsewhere fails the whole filling anyway.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Stops when another layer failed.
struct Cancellable<'a, R> {
    source: R,
    cancelled: &'a AtomicBool,
    /// Time spent in the source.
    reading: Duration,
}

impl<R> Cancellable<'_, R> {
    fn check(&self) -> io::Result<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            return Err(io::Error::other("another layer failed"));
        }
        Ok(())
    }
}

impl<R: Read> Read for Cancellable<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.check()?;
        let began = Instant::now();
        let read = self.source.read(buffer);
        self.reading += began.elapsed();
        read
    }
}

impl<R: BufRead> BufRead for Cancellable<'_, R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.check()?;
        let began = Instant::now();
        let bytes = self.source.fill_buf();
        self.reading += began.elapsed();
        bytes
    }

    fn consume(&mut self, amount: usize) {
        self.source.consume(amount);
    }
}
