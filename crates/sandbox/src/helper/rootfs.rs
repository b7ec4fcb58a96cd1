//! A container's root: its layers joined by overlayfs, or copied into one directory where that cannot be had.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{StatVfsMountFlags, statvfs};
use rustix::mount::{MountFlags, mount_bind, mount_remount};
use smokegate_rootfs::{OverlayLayers, copy_merged, is_overlay_layer, mount_overlay};

use super::root;
use crate::error::{HostError, StartError, Step, errno_text};
use crate::pod::{ContainerSpec, Storage};
use crate::store::{deepest_errno, describe_unkept};

/// A root that is ready, and what it lacks.
pub(super) struct Joined {
    pub(super) rootfs: PathBuf,
    pub(super) storage: Storage,
    /// How long joining took.
    pub(super) mount: Duration,
    /// What a copy could not keep, each a phrase for the list of what was not tested.
    pub(super) not_kept: Vec<String>,
}

/// Joins the layers below `dir`, the container's directory.
pub(super) fn join_layers(dir: &Path, spec: &ContainerSpec) -> Result<Joined, StartError> {
    let began = Instant::now();
    root::make_dir(dir).map_err(StartError::Host)?;
    for name in ["upper", "work", "rootfs", "bundle", "empty"] {
        root::make_dir(&dir.join(name)).map_err(StartError::Host)?;
    }
    let mut lowers: Vec<PathBuf> = spec
        .layers
        .iter()
        .map(|layer| Path::new(root::STORE).join(layer))
        .collect();
    let all_are_overlay = lowers
        .iter()
        .map(|layer| {
            is_overlay_layer(layer).map_err(|error| failed(Step::Store, "open", layer, error))
        })
        .try_fold(true, |all, one| Ok(all & one?))?;
    if lowers.is_empty() {
        lowers.push(dir.join("empty"));
    }
    let overlay = if all_are_overlay {
        overlay(dir, &lowers)?
    } else {
        Err("the filesystem of the layer store refuses whiteouts".to_owned())
    };
    match overlay {
        Ok(rootfs) => Ok(Joined {
            rootfs,
            storage: Storage::Overlay,
            mount: began.elapsed(),
            not_kept: Vec::new(),
        }),
        Err(why) => {
            let (rootfs, not_kept) = copy(&spec.name, &lowers)?;
            Ok(Joined {
                rootfs,
                storage: Storage::Copy { why },
                mount: began.elapsed(),
                not_kept,
            })
        }
    }
}

/// Mounts an overlay; the inner error says why there is none.
fn overlay(dir: &Path, lowers: &[PathBuf]) -> Result<Result<PathBuf, String>, StartError> {
    let (upper, rootfs) = (dir.join("upper"), dir.join("rootfs"));
    take_after(&upper, &lowers[0])?;
    let layers = OverlayLayers {
        lowers: lowers.to_vec(),
    };
    let Err(error) = mount_overlay(&layers, &upper, &dir.join("work"), &rootfs) else {
        return Ok(Ok(rootfs));
    };
    match error.raw_os_error() {
        // A copy would need more of what is short.
        Some(libc::ENOSPC | libc::ENOMEM | libc::EMFILE | libc::ENFILE) => Err(StartError::Host(
            HostError::new(Step::Overlay, "mount(overlay)", error),
        )),
        Some(errno) => Ok(Err(format!(
            "mount(overlay) answered {}",
            errno_text(errno)
        ))),
        None => Ok(Err(error.to_string())),
    }
}

/// Copies the layers onto the store's disk: in the pod's tmpfs they would take memory, and set-user-id bits mean
/// nothing there.
fn copy(name: &str, lowers: &[PathBuf]) -> Result<(PathBuf, Vec<String>), StartError> {
    let dir = root::scratch_dir(name);
    root::make_dir(&dir).map_err(StartError::Host)?;
    let rootfs = dir.join("copy");
    root::make_dir(&rootfs).map_err(StartError::Host)?;
    let stats = copy_merged(lowers, &rootfs).map_err(|error| {
        StartError::Host(HostError {
            step: Step::Copy,
            call: error.to_string(),
            errno: deepest_errno(&error),
            detail: String::new(),
        })
    })?;
    // A mount of its own in which no device can be opened, as in the overlay: there is no device cgroup. Flags that
    // the host's mount has cannot be taken away in a user namespace (mount_namespaces(7)).
    let at = |call: &str, errno: rustix::io::Errno| failed(Step::Copy, call, &rootfs, errno.into());
    mount_bind(&rootfs, &rootfs).map_err(|errno| at("mount(bind)", errno))?;
    let host = statvfs(&rootfs)
        .map_err(|errno| at("statvfs", errno))?
        .f_flag;
    let mut flags = MountFlags::BIND | MountFlags::NODEV;
    for (has, keep) in [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        if host.contains(has) {
            flags |= keep;
        }
    }
    mount_remount(&rootfs, flags, c"").map_err(|errno| at("mount(remount, nodev)", errno))?;
    let mut not_kept: Vec<String> = stats
        .unkept
        .keys()
        .filter_map(|cause| describe_unkept(*cause))
        .map(str::to_owned)
        .collect();
    if host.contains(StatVfsMountFlags::NOSUID) {
        not_kept.push("set-user-id programs (the layer store is on a nosuid mount)".to_owned());
    }
    Ok((rootfs, not_kept))
}

/// Gives the upper directory the mode and owner of the image's root: the overlay's root shows those of upper.
fn take_after(upper: &Path, top: &Path) -> Result<(), StartError> {
    let at = |call: &str, path: &Path, error| failed(Step::Overlay, call, path, error);
    let image = fs::metadata(top).map_err(|error| at("stat", top, error))?;
    fs::set_permissions(upper, image.permissions()).map_err(|error| at("chmod", upper, error))?;
    std::os::unix::fs::chown(upper, Some(image.uid()), Some(image.gid()))
        .map_err(|error| at("chown", upper, error))
}

fn failed(step: Step, call: &str, path: &Path, error: io::Error) -> StartError {
    StartError::Host(HostError::new(
        step,
        format!("{call}({})", path.display()),
        error,
    ))
}
