//! The parent's side of filling the layer store.
//!
//! Layers are unpacked by a helper of their own, in the same id map as the pods: owners are then right by
//! construction, and a hostile layer meets a process that has no credential and nothing else to lose. Unlike
//! the pod's helper it may have threads.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::MemfdFlags;
use smokegate_image::{Content, LayerDigest, Limits, PlatformImage};
use smokegate_rootfs::{FillLayer, FillPlan, LayerStore, Owners, Policy, StoredLayer, Unkept};

use crate::error::{FillError, HostError, Step};
use crate::helper::STORE_ROLE;
use crate::isolation::Isolation;
use crate::launcher::Helper;
use crate::protocol::{Answer, FillRequest, LayerSource, Message, Request, RequestBody};

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Which image's layers are wanted, and where.
#[derive(Debug)]
pub struct StoreRequest<'a> {
    /// Root of the store.
    pub store: PathBuf,
    /// The id map that containers will have.
    pub isolation: Isolation,
    /// Whose layers.
    pub image: &'a PlatformImage,
    /// What a layer may cost.
    pub limits: Limits,
}

/// The layers of an image in the store. While it lives, `cache prune` spares them.
#[derive(Debug)]
pub struct FilledStore {
    layers: Vec<FilledLayer>,
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
}

/// Opens the layer store as every run does.
///
/// # Errors
/// What could not be made or opened.
pub fn open_store(root: &std::path::Path) -> Result<LayerStore, smokegate_rootfs::Error> {
    let boot_id = std::fs::read_to_string(BOOT_ID).unwrap_or_default();
    LayerStore::open(root, boot_id.trim())
}

pub(crate) fn policy(isolation: Isolation) -> Policy {
    let owners = if isolation.keeps_owners() {
        Owners::Keep
    } else {
        Owners::Ignore
    };
    Policy {
        owners,
        limits: smokegate_rootfs::Limits::default(),
    }
}

/// Answers with all layers of an image in the store, having unpacked those that were missing.
///
/// # Errors
/// [`FillError`] says whose fault it is. Nothing incomplete stays in the store.
pub async fn fill_store(request: StoreRequest<'_>) -> Result<FilledStore, FillError> {
    let store = open_store(&request.store).map_err(FillError::from)?;
    let layers = request.image.layers.iter().map(|layer| FillLayer {
        blob: LayerDigest(layer.blob.digest().clone()),
        diff_id: layer.diff_id.clone(),
        size: layer.blob.size(),
    });
    let plan = FillPlan {
        layers: layers.collect(),
        policy: policy(request.isolation),
    };
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
            _held: held,
        });
    }
    let cached = unpack(&request).await?;
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
        _held: held,
    })
}

fn describe(request: &StoreRequest<'_>, layer: &StoredLayer, cached: bool) -> FilledLayer {
    let path = layer
        .path
        .strip_prefix(&request.store)
        .unwrap_or(&layer.path)
        .to_owned();
    let not_kept = layer
        .stats
        .unkept
        .keys()
        .filter_map(|cause| describe_unkept(*cause));
    let not_kept = not_kept.map(str::to_owned).collect();
    FilledLayer {
        path,
        cached,
        bytes: layer.stats.bytes,
        not_kept,
    }
}

/// Has a helper fill the store; which layers were there before.
async fn unpack(request: &StoreRequest<'_>) -> Result<Vec<bool>, FillError> {
    let host = |call: &str, error| FillError::Host(HostError::new(Step::Store, call, error));
    let mut files: Vec<Arc<OwnedFd>> = Vec::new();
    let mut sources = Vec::new();
    for layer in &request.image.layers {
        let (file, offset) = match layer.blob.content() {
            Content::File(range) => {
                let file = range.file.as_fd().try_clone_to_owned();
                (
                    file.map_err(|e| host("fcntl(F_DUPFD_CLOEXEC)", e))?,
                    range.offset,
                )
            }
            Content::Bytes(bytes) => {
                let file = rustix::fs::memfd_create("layer", MemfdFlags::CLOEXEC)
                    .map_err(|errno| host("memfd_create", errno.into()))?;
                let mut file = std::fs::File::from(file);
                std::io::Write::write_all(&mut file, bytes).map_err(|e| host("write", e))?;
                (file.into(), 0)
            }
        };
        files.push(Arc::new(file));
        sources.push(LayerSource {
            diff_id: layer.diff_id.clone(),
            digest: LayerDigest(layer.blob.digest().clone()),
            size: layer.blob.size(),
            offset,
            compression: layer.compression,
        });
    }
    let body = RequestBody::Fill(FillRequest {
        store: request.store.clone(),
        isolation: request.isolation,
        layers: sources,
        limits: request.limits,
    });
    let mut helper = Helper::spawn(STORE_ROLE).map_err(FillError::Host)?;
    let control = helper.control().map_err(FillError::Host)?;
    // Dropping this future (an interrupt) ends the helper: it watches the socket.
    let _ends_helper = EndsHelper(control.try_clone().map_err(|e| host("dup", e))?);
    let answer = tokio::task::spawn_blocking(move || {
        let fds: Vec<BorrowedFd<'_>> = files.iter().map(|file| file.as_fd()).collect();
        // A helper that ended early is noticed by the receive.
        let _ = control.send(&Request { id: 0, body }, &fds);
        match control.receive::<Message>() {
            Ok(Some((Message::Answer { body, .. }, _))) => {
                helper.wait();
                body
            }
            _ => Answer::HostFailed(helper.epitaph()),
        }
    });
    match answer.await {
        Ok(Answer::Filled { cached }) => Ok(cached),
        Ok(Answer::FillFailed(error)) => Err(error),
        Ok(Answer::HostFailed(error)) => Err(FillError::Host(error)),
        Ok(answer) => Err(FillError::Host(HostError::lost(format!(
            "an unexpected answer: {answer:?}"
        )))),
        Err(error) => Err(FillError::Host(HostError::lost(error.to_string()))),
    }
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
        let mut text = error.to_string();
        let mut source = std::error::Error::source(&error);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
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

fn deepest_errno(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
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
fn describe_unkept(cause: Unkept) -> Option<&'static str> {
    match cause {
        Unkept::Owner => Some("owners that the layers record (all files belong to one user)"),
        Unkept::Capability => Some("file capabilities that the layers record"),
        Unkept::Xattr => Some("extended attributes that the layers record"),
        Unkept::Device => Some("device nodes that the layers record"),
        Unkept::OverlayXattr | Unkept::WhiteoutDevice => None,
    }
}
