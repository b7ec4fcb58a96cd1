//! Joins layers with overlayfs (kernel documentation, filesystems/overlayfs.rst), as root or in a user namespace.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount,
};

use crate::StoredLayer;

/// The lower directories of an overlay, the topmost first, as overlayfs wants them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OverlayLayers {
    /// Directories of layers.
    pub lowers: Vec<PathBuf>,
}

impl OverlayLayers {
    /// Of an image's layers, which come lowest first.
    pub fn new(layers: &[StoredLayer]) -> Self {
        Self {
            lowers: layers
                .iter()
                .rev()
                .map(|layer| layer.path.clone())
                .collect(),
        }
    }
}

/// Mounts `lowers` with the writable `upper` at `target`; `work` is an empty directory on `upper`'s filesystem.
/// The mode and owner of `/` are those of `upper`, which the caller makes like the topmost layer's root.
///
/// Device nodes in it cannot be opened, be they from a layer or made later: there is no device cgroup.
///
/// Layers are given by descriptor (kernel 6.13), else by name one at a time (6.5), else all in one option
/// string, which holds a page. Needs CAP_SYS_ADMIN in the caller's user namespace, and there kernel 5.11.
///
/// # Errors
/// What the mount calls answer; `E2BIG` where the layers do not fit the option string of an older kernel.
pub fn mount_overlay(
    layers: &OverlayLayers,
    upper: &Path,
    work: &Path,
    target: &Path,
) -> io::Result<()> {
    let create = |context: &OwnedFd| -> rustix::io::Result<()> {
        fsconfig_create(context)?;
        let mount = fsmount(
            context,
            FsMountFlags::FSMOUNT_CLOEXEC,
            MountAttrFlags::MOUNT_ATTR_NODEV,
        )?;
        move_mount(
            &mount,
            c"",
            CWD,
            target,
            MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    for configure in [by_descriptor, by_name] {
        if let Some(context) = configure(layers, upper, work)? {
            return Ok(create(&context)?);
        }
    }
    let options = option_string(layers, upper, work)?;
    Ok(mount(
        "overlay",
        target,
        "overlay",
        MountFlags::NODEV,
        Some(options.as_c_str()),
    )?)
}

/// `None` where the kernel does not know the way a layer is given.
type Configured = rustix::io::Result<Option<OwnedFd>>;

fn context() -> rustix::io::Result<OwnedFd> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_flag(&context, "userxattr")?;
    Ok(context)
}

fn by_descriptor(layers: &OverlayLayers, upper: &Path, work: &Path) -> Configured {
    let context = context()?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let lowers = layers
        .lowers
        .iter()
        .map(|lower| ("lowerdir+", lower.as_path()));
    for (key, path) in lowers.chain([("upperdir", upper), ("workdir", work)]) {
        let dir = openat(CWD, path, flags, Mode::empty())?;
        match fsconfig_set_fd(&context, key, dir.as_fd()) {
            Err(Errno::INVAL) => return Ok(None),
            result => result?,
        }
    }
    Ok(Some(context))
}

fn by_name(layers: &OverlayLayers, upper: &Path, work: &Path) -> Configured {
    // fsconfig(2) takes no longer values.
    const LONGEST: usize = 255;
    let context = context()?;
    let lowers = layers
        .lowers
        .iter()
        .map(|lower| ("lowerdir+", lower.as_path()));
    for (key, path) in lowers.chain([("upperdir", upper), ("workdir", work)]) {
        if path.as_os_str().len() > LONGEST {
            return Ok(None);
        }
        match fsconfig_set_string(&context, key, path) {
            Err(Errno::INVAL) => return Ok(None),
            result => result?,
        }
    }
    Ok(Some(context))
}

fn option_string(
    layers: &OverlayLayers,
    upper: &Path,
    work: &Path,
) -> io::Result<std::ffi::CString> {
    const PAGE: usize = 4096;
    // `:` separates layers, `,` options, and `\` escapes both.
    let escaped = |path: &Path| {
        let bytes = path.as_os_str().as_bytes().iter();
        bytes
            .flat_map(|byte| {
                let escape = matches!(byte, b'\\' | b':' | b',').then_some(b'\\');
                escape.into_iter().chain([*byte])
            })
            .collect::<Vec<u8>>()
    };
    let lowers: Vec<Vec<u8>> = layers.lowers.iter().map(|lower| escaped(lower)).collect();
    let mut options = b"userxattr,lowerdir=".to_vec();
    options.extend(lowers.join(&b':'));
    options.extend([b",upperdir=".as_slice(), &escaped(upper)].concat());
    options.extend([b",workdir=".as_slice(), &escaped(work)].concat());
    if options.len() >= PAGE {
        return Err(Errno::TOOBIG.into());
    }
    Ok(std::ffi::CString::new(options)?)
}
