//! The store helper: enters the user namespace, unpacks the layers it is given, answers, and ends.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::Signal;
use smokegate_image::{Content, FileRange, LayerTar};
use smokegate_rootfs::{FillLayer, FillPlan};

use super::user_ns;
use crate::error::{FillError, HostError};
use crate::protocol::{Answer, FillRequest, Message, Request, RequestBody};
use crate::store::{open_store, policy};
use crate::wire::Wire;

/// From this size of a blob on its layer is inflated, hashed and written by three threads.
const STAGED: u64 = 2 << 20;
const BUFFER: usize = 256 * 1024;

/// Runs the store helper; the result is the process's exit code.
pub(super) fn main(wire: Wire) -> i32 {
    let _ = rustix::process::setsid();
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
                .and_then(|()| perform(&body, fds))
                .unwrap_or_else(Answer::FillFailed)
        }
    };
    match wire.send(&Message::Answer { id, body: answer }, &[]) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

fn perform(body: &RequestBody, fds: Vec<OwnedFd>) -> Result<Answer, FillError> {
    match body {
        RequestBody::Fill(request) => fill(request, fds).map(|cached| Answer::Filled { cached }),
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

fn fill(request: &FillRequest, fds: Vec<OwnedFd>) -> Result<Vec<bool>, FillError> {
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
        )?;
        // Threads of its own are worth while for what takes longer than starting them.
        if layer.size < STAGED {
            return Ok(Box::new(BufReader::with_capacity(BUFFER, tar)));
        }
        Ok(Box::new(tar.in_stages()?))
    };
    let stored = store.fill(&plan, open, &|_| {})?;
    Ok(stored.iter().map(|layer| layer.cached).collect())
}
