//! The store helper: enters the user namespace, unpacks the layers it is given, answers, and ends.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use smokegate_image::{
    Content, DiffId, FileRange, LayerTap, LayerTar, Limits, StageClock, StageTimes,
};
use smokegate_rootfs::{FillEvent, FillLayer, FillPlan};

use super::user_ns;
use crate::error::{FillError, HostError};
use crate::isolation::Isolation;
use crate::protocol::{Answer, FillRequest, Message, Request, RequestBody};
use crate::store::{open_store, policy};
use crate::wire::Wire;

/// From this size of a blob on its layer is inflated, hashed and written by three threads.
const STAGED: u64 = 2 << 20;
const BUFFER: usize = 256 * 1024;

/// Reads a layer on a thread of its own while it is unpacked. What it gives back is called once the layer is in the store,
/// and only if it was found to be what its digests say.
pub type LayerIndexer = fn(LayerTap, IndexedLayer) -> Option<Box<dyn FnOnce() + Send>>;

/// What a [`LayerIndexer`] is shown.
#[derive(Clone, Debug)]
pub struct IndexedLayer {
    /// The directory of the store, whatever the id map.
    pub store: PathBuf,
    /// What the layer unpacks to.
    pub diff_id: DiffId,
    /// What it is read under.
    pub limits: Limits,
}

/// Runs the store helper; the result is the process's exit code.
pub(super) fn main(wire: Wire, indexer: Option<LayerIndexer>) -> i32 {
    let _ = rustix::process::setsid();
    give_back_freed_memory();
    let Ok(Some((Request { id, body }, fds))) = wire.receive() else {
        return 1;
    };
    let isolation = match &body {
        RequestBody::Fill(request) => request.isolation,
        RequestBody::Prune(request) => request.isolation,
        _ => return 1,
    };
    let answer = match user_ns::enter_user_namespace(isolation, &wire) {
        Err(error) => Answer::HostFailed(error),
        Ok(()) => {
            let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            end_with_parent(&wire)
                .and_then(|()| perform(&body, fds, indexer))
                .unwrap_or_else(Answer::FillFailed)
        }
    };
    match wire.send(&Message::Answer { id, body: answer }, &[]) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// Has large buffers go back to the system when they are freed, and small ones shared by the threads. glibc keeps both for
/// each thread otherwise (mallopt(3)), and every layer has threads of its own: the sixty of an image took 70 MB.
fn give_back_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it sets numbers of the allocator; no other thread is there yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 2);
        libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20);
    }
}

fn perform(
    body: &RequestBody,
    fds: Vec<OwnedFd>,
    indexer: Option<LayerIndexer>,
) -> Result<Answer, FillError> {
    match body {
        RequestBody::Fill(request) => fill(request, fds, indexer),
        RequestBody::Prune(request) => Ok(Answer::Pruned(
            open_store(&request.store)?.prune(request.older_than)?,
        )),
        _ => Err(FillError::Host(HostError::lost(
            "a store helper got a request of a pod's",
        ))),
    }
}

/// Ends this process as soon as the parent's end of the socket is closed.
fn end_with_parent(wire: &Wire) -> Result<(), FillError> {
    let socket = wire
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| FillError::Host(HostError::lost(error.to_string())))?;
    std::thread::spawn(move || {
        let mut waiting = [PollFd::new(&socket, PollFlags::RDHUP)];
        while poll(&mut waiting, None).is_err() {}
        std::process::exit(1);
    });
    Ok(())
}

/// Threads that read layers which are being unpacked.
type Indexing = Mutex<Vec<JoinHandle<Option<Box<dyn FnOnce() + Send>>>>>;

fn fill(
    request: &FillRequest,
    fds: Vec<OwnedFd>,
    indexer: Option<LayerIndexer>,
) -> Result<Answer, FillError> {
    if request.layers.iter().any(|layer| layer.file >= fds.len()) {
        return Err(FillError::Host(HostError::lost(
            "a layer came without its descriptor",
        )));
    }
    let files: Vec<Arc<File>> = fds.into_iter().map(|fd| Arc::new(File::from(fd))).collect();
    let store = open_store(&request.store)?;
    let layers = request.layers.iter().map(|layer| FillLayer {
        blob: layer.digest.clone(),
        diff_id: layer.diff_id.clone(),
        size: layer.size,
    });
    let plan = FillPlan {
        layers: layers.collect(),
        policy: policy(request.isolation, &request.limits),
    };
    let clock = StageClock::default();
    let indexing = Indexing::default();
    let open = |index: usize| -> std::io::Result<Box<dyn BufRead + Send>> {
        let layer = &request.layers[index];
        let file = Arc::clone(&files[layer.file]);
        let range = FileRange {
            file,
            offset: layer.offset,
            len: layer.size,
        };
        let tar = LayerTar::new(
            Content::File(range),
            layer.digest.clone(),
            layer.size,
            layer.diff_id.clone(),
            layer.compression,
            &request.limits,
        )?
        .timed(clock.clone());
        // Threads of its own are worth while for what takes longer than starting them.
        if layer.size < STAGED {
            return Ok(Box::new(BufReader::with_capacity(BUFFER, tar)));
        }
        let Some(indexer) = indexer else {
            return Ok(Box::new(tar.in_stages()?));
        };
        let (staged, tap) = tar.in_stages_with_tap()?;
        let layer = IndexedLayer {
            store: whole_store(request).to_owned(),
            diff_id: layer.diff_id.clone(),
            limits: request.limits,
        };
        let thread = std::thread::Builder::new().name("index".to_owned());
        let thread = thread.spawn(move || indexer(tap, layer))?;
        let mut indexing = indexing.lock().unwrap_or_else(PoisonError::into_inner);
        indexing.push(thread);
        Ok(Box::new(staged))
    };
    let observer = |event| {
        if let FillEvent::Unpacked(_, write) = event {
            clock.add(StageTimes {
                write,
                ..StageTimes::default()
            });
        }
    };
    let stored = store.fill(&plan, open, &observer)?;
    let indexing = indexing.into_inner();
    for thread in indexing.unwrap_or_else(PoisonError::into_inner) {
        // What cannot be read or kept is missed later, and read then.
        if let Ok(Some(keep)) = thread.join() {
            keep();
        }
    }
    Ok(Answer::Filled {
        cached: stored.iter().map(|layer| layer.cached).collect(),
        stages: clock.times(),
    })
}

/// The directory that holds the stores of all id maps.
fn whole_store(request: &FillRequest) -> &Path {
    let parent = request.store.parent();
    let mapped = parent.filter(|_| request.isolation == Isolation::Subuid);
    mapped.unwrap_or(&request.store)
}
