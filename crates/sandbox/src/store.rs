//! The parent's side of filling the layer store.
//!
//! Layers are unpacked by a helper of their own, in the same id map as the pods: owners are then right by
//! construction, and a hostile layer meets a process that has no credential and nothing else to lose. Unlike
//! the pod's helper it may have threads.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use smokegate_image::{Content, LayerDigest, Limits, PlatformImage, StageTimes};
use smokegate_rootfs::{
    FillLayer, FillPlan, LayerStore, ListedLayer, Owners, Policy, StoredLayer, Unkept,
};

use crate::error::{FillError, HostError, Step};
use crate::helper::STORE_ROLE;
use crate::id_map::{IdMap, MAPPED_STORE};
use crate::isolation::Isolation;
use crate::launcher::Helper;
use crate::protocol::{
    Answer, FillRequest, LayerSource, Message, PruneRequest, Request, RequestBody,
};
use crate::wire::{MAX_FILES, peer_is_gone};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Which image's layers are wanted, and where.
#[derive(Debug)]
pub struct StoreRequest<'a> {
    /// Root of the store.
    pub store: PathBuf,
    /// The id map that containers will have.
    pub id_map: &'a IdMap,
    /// Whose layers.
    pub image: &'a PlatformImage,
    /// What a layer may cost.
    pub limits: Limits,
}

/// The layers of an image in the store. While it lives, `cache prune` spares them.
#[derive(Debug)]
pub struct FilledStore {
    layers: Vec<FilledLayer>,
    stages: StageTimes,
    _held: Vec<StoredLayer>,
}

/// A layer as it stands in the store.
#[derive(Clone, Debug)]
pub struct FilledLayer {
    /// Its directory, relative to the store's root.
    pub path: PathBuf,
    /// Whether it was there before.
    pub cached: bool,
    /// Bytes of file content in it.
    pub bytes: u64,
    /// What could not be kept at this isolation level, each a sentence without its count.
    pub not_kept: Vec<String>,
}

impl FilledStore {
    /// The layers, lowest first.
    pub fn layers(&self) -> &[FilledLayer] {
        &self.layers
    }

    /// What unpacking was busy with; nothing where the store had all.
    pub fn stages(&self) -> StageTimes {
        self.stages
    }
}

pub(crate) fn open_store(root: &std::path::Path) -> Result<LayerStore, smokegate_rootfs::Error> {
    let boot_id = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
    LayerStore::open(root, boot_id.trim())
}

pub(crate) fn policy(isolation: Isolation, limits: &Limits) -> Policy {
    let owners = if isolation.has_all_ids() {
        Owners::Keep
    } else {
        Owners::Ignore
    };
    let defaults = smokegate_rootfs::Limits::default();
    let limits = smokegate_rootfs::Limits {
        entries: limits.layer_entries,
        file_bytes: limits.file_bytes,
        // The reader of the layer stops earlier, at a limit of its own.
        total_bytes: defaults.total_bytes.max(limits.layer_bytes),
        ..defaults
    };
    Policy { owners, limits }
}

/// Whether the store has all layers of an image, so that [`fill_store`] will not read it.
///
/// # Errors
/// [`FillError::Host`]: the store cannot be read.
pub fn has_layers(request: &StoreRequest<'_>) -> Result<bool, FillError> {
    let store = open_store(&request.store)?;
    Ok(store.find(&fill_plan(request))?.is_some())
}

fn fill_plan(request: &StoreRequest<'_>) -> FillPlan {
    let layers = request.image.layers.iter().map(|layer| FillLayer {
        blob: LayerDigest(layer.blob.digest().clone()),
        diff_id: layer.diff_id.clone(),
        size: layer.blob.size(),
    });
    FillPlan {
        layers: layers.collect(),
        policy: policy(request.id_map.isolation(), &request.limits),
    }
}

/// Answers with all layers of an image in the store, having unpacked those that were missing.
///
/// # Errors
/// [`FillError`] says whose fault it is. Nothing incomplete stays in the store.
pub async fn fill_store(request: StoreRequest<'_>) -> Result<FilledStore, FillError> {
    let store = open_store(&request.store).map_err(FillError::from)?;
    let plan = fill_plan(&request);
    if let Some(held) = store.find(&plan).map_err(FillError::from)? {
        let layers = held
            .iter()
            .map(|layer| describe(&request, layer, true))
            .collect();
        // A filled layer counts after a reboot only when the disk has it. Waiting for that in the run that
        // filled it would cost seconds; by the next run the kernel has written most of it anyway.
        std::thread::spawn(move || {
            if let Err(error) = store.sync() {
                tracing::debug!(%error, "the layer store could not be flushed");
            }
        });
        return Ok(FilledStore {
            layers,
            stages: StageTimes::default(),
            _held: held,
        });
    }
    let (cached, stages) = unpack(&request).await?;
    let held = store.find(&plan).map_err(FillError::from)?.ok_or_else(|| {
        FillError::Host(HostError {
            step: Step::Store,
            call: "looking up the layers just unpacked".into(),
            errno: None,
            detail: "they were removed meanwhile; run again".into(),
        })
    })?;
    let layers = held.iter().zip(cached);
    let layers = layers
        .map(|(layer, cached)| describe(&request, layer, cached))
        .collect();
    Ok(FilledStore {
        layers,
        stages,
        _held: held,
    })
}

fn describe(request: &StoreRequest<'_>, layer: &StoredLayer, cached: bool) -> FilledLayer {
    let path = layer
        .path
        .strip_prefix(&request.store)
        .unwrap_or(&layer.path)
        .to_owned();
    let mut unkept: Vec<Unkept> = layer.stats.unkept.keys().copied().collect();
    if !request.id_map.isolation().has_all_ids() && layer.stats.entries > 0 {
        unkept.push(Unkept::Owner);
    }
    let not_kept = unkept.into_iter().filter_map(describe_unkept);
    let not_kept = not_kept.map(str::to_owned).collect();
    FilledLayer {
        path,
        cached,
        bytes: layer.stats.bytes,
        not_kept,
    }
}

/// Has a helper fill the store; which layers were there before, and what it was busy with.
async fn unpack(request: &StoreRequest<'_>) -> Result<(Vec<bool>, StageTimes), FillError> {
    let host = |call: &str, error| FillError::Host(HostError::new(Step::Store, call, error));
    let mut files: Vec<Arc<File>> = Vec::new();
    let mut sources = Vec::new();
    for layer in &request.image.layers {
        let (file, offset) = match layer.blob.content() {
            Content::File(range) => (Arc::clone(&range.file), range.offset),
            Content::Bytes(bytes) => {
                let file = rustix::fs::memfd_create("layer", MemfdFlags::CLOEXEC)
                    .map_err(|errno| host("memfd_create", errno.into()))?;
                let mut file = File::from(file);
                std::io::Write::write_all(&mut file, bytes).map_err(|e| host("write", e))?;
                (Arc::new(file), 0)
            }
            Content::Absent => {
                return Err(FillError::Host(HostError {
                    step: Step::Store,
                    call: "looking up the layers of an image in a registry".into(),
                    errno: None,
                    detail: "they were removed meanwhile; run again".into(),
                }));
            }
        };
        let known = files.iter().position(|known| Arc::ptr_eq(known, &file));
        let file = known.unwrap_or_else(|| {
            files.push(file);
            files.len() - 1
        });
        sources.push(LayerSource {
            diff_id: layer.diff_id.clone(),
            digest: LayerDigest(layer.blob.digest().clone()),
            size: layer.blob.size(),
            file,
            offset,
            compression: layer.compression,
        });
    }
    if files.len() > MAX_FILES {
        return Err(FillError::Host(HostError {
            step: Step::Store,
            call: "sendmsg(SCM_RIGHTS)".into(),
            errno: None,
            detail: format!(
                "the layers are {} files, and at most {MAX_FILES} can be passed on; \
                 pack the image as one archive",
                files.len()
            ),
        }));
    }
    let body = RequestBody::Fill(FillRequest {
        store: request.store.clone(),
        isolation: request.id_map.isolation(),
        layers: sources,
        limits: request.limits,
    });
    match ask_helper(STORE_ROLE, body, files, request.id_map).await? {
        Answer::Filled { cached, stages } => Ok((cached, stages)),
        Answer::FillFailed(error) => Err(error),
        answer => Err(unexpected(&answer)),
    }
}

/// The complete layers of a store directory, of all id maps.
///
/// # Errors
/// [`FillError::Host`]: what could not be read.
pub fn list_store(store: &Path) -> Result<Vec<ListedLayer>, FillError> {
    let mut layers = open_store(store)?.list()?;
    let entries = std::fs::read_dir(store)
        .map_err(|error| FillError::Host(HostError::new(Step::Store, "readdir(store)", error)))?;
    for entry in entries.filter_map(Result::ok) {
        if entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(MAPPED_STORE.as_bytes())
        {
            layers.extend(open_store(&entry.path())?.list()?);
        }
    }
    Ok(layers)
}

/// Removes the layers that no run uses and, if given, that none used for `older_than`, of `id_map` and of those
/// that need no mapping. Answers what it removed.
///
/// Files of subordinate ids can be removed only where those ids are mapped: by a helper.
///
/// # Errors
/// [`FillError::Host`]: what could not be removed.
pub async fn prune_store(
    store: &Path,
    id_map: &IdMap,
    older_than: Option<Duration>,
) -> Result<Vec<ListedLayer>, FillError> {
    let mut removed = open_store(store)?.prune(older_than)?;
    let mapped = id_map.store_in(store);
    if mapped == store || !mapped.exists() {
        return Ok(removed);
    }
    let body = RequestBody::Prune(PruneRequest {
        store: mapped,
        isolation: id_map.isolation(),
        older_than,
    });
    match ask_helper(STORE_ROLE, body, Vec::new(), id_map).await? {
        Answer::Pruned(layers) => removed.extend(layers),
        Answer::FillFailed(error) => return Err(error),
        answer => return Err(unexpected(&answer)),
    }
    Ok(removed)
}

/// Has a helper of its own do one thing.
pub(crate) async fn ask_helper(
    role: &str,
    body: RequestBody,
    files: Vec<Arc<File>>,
    id_map: &IdMap,
) -> Result<Answer, FillError> {
    let mut helper = Helper::spawn(role, id_map).map_err(FillError::Host)?;
    let control = helper.control().map_err(FillError::Host)?;
    // Dropping this future (an interrupt) ends the helper: it watches the socket.
    let _ends_helper = EndsHelper(helper.control().map_err(FillError::Host)?);
    let answer = tokio::task::spawn_blocking(move || {
        let fds: Vec<BorrowedFd<'_>> = files.iter().map(AsFd::as_fd).collect();
        // A helper that ended early is noticed by the receive.
        if let Err(error) = control.send(&Request { id: 0, body }, &fds)
            && !peer_is_gone(&error)
        {
            let _ = rustix::net::shutdown(&control, rustix::net::Shutdown::Both);
            helper.wait();
            return Answer::HostFailed(HostError::new(Step::Store, "sendmsg", error));
        }
        loop {
            match control.receive::<Message>() {
                Ok(Some((Message::MapIds, _))) => {
                    if let Err(error) = helper.map_ids() {
                        return Answer::HostFailed(error);
                    }
                }
                Ok(Some((Message::Answer { body, .. }, _))) => {
                    helper.wait();
                    return body;
                }
                _ => return Answer::HostFailed(helper.epitaph()),
            }
        }
    });
    match answer.await {
        Ok(Answer::HostFailed(error)) => Err(FillError::Host(error)),
        Ok(answer) => Ok(answer),
        Err(error) => Err(FillError::Host(HostError::lost(error.to_string()))),
    }
}

fn unexpected(answer: &Answer) -> FillError {
    FillError::Host(HostError::lost(format!("an unexpected answer: {answer:?}")))
}

struct EndsHelper(crate::wire::Wire);

impl Drop for EndsHelper {
    fn drop(&mut self) {
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }
}

impl From<smokegate_rootfs::Error> for FillError {
    fn from(error: smokegate_rootfs::Error) -> Self {
        let errno = deepest_errno(&error);
        let for_host = error.kind() == smokegate_rootfs::ErrorKind::Host;
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            // A host's error names its errno itself.
            let io = cause.downcast_ref::<std::io::Error>();
            let named = io.is_some_and(|io| errno.is_some() && io.raw_os_error() == errno);
            if !(for_host && named) {
                text = format!("{text}: {cause}");
            }
            source = cause.source();
        }
        match error.kind() {
            smokegate_rootfs::ErrorKind::Image => Self::Image(text),
            smokegate_rootfs::ErrorKind::Host => Self::Host(HostError {
                step: Step::Store,
                call: text,
                errno,
                detail: String::new(),
            }),
        }
    }
}

pub(crate) fn deepest_errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut found = None;
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<std::io::Error>();
        found = io.and_then(std::io::Error::raw_os_error).or(found);
        next = error.source();
    }
    found
}

/// What a level could not keep of a layer, for the list of what a run could not test. A device node or an
/// overlay mark is never kept anywhere, so it says nothing about the level.
pub(crate) fn describe_unkept(cause: Unkept) -> Option<&'static str> {
    match cause {
        Unkept::Owner => Some("owners that the layers record (all files belong to one user)"),
        Unkept::Capability => Some("file capabilities that the layers record"),
        Unkept::Xattr => Some("extended attributes that the layers record"),
        Unkept::Device => Some("device nodes that the layers record"),
        Unkept::OverlayXattr | Unkept::WhiteoutDevice => None,
    }
}
