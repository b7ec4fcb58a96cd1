//! What of the host a pod's containers may mount: cloned into the pod's own root, read-only, before the host's is left.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::fstat;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use rustix::process::fchdir;

use super::root::make_dir;
use crate::error::{HostError, Step};
use crate::host_path::find_beneath;

/// Where the binds are, in the pod's root, by number.
pub(super) const BINDS: &str = "/binds";

/// The binds as the parent handed them over.
pub(super) struct Binds {
    paths: Vec<String>,
    /// What the parent found at each path.
    found: Vec<OwnedFd>,
}

impl Binds {
    /// Takes over the paths and the descriptors that came with them, and enters the directory they are beneath.
    ///
    /// A mount can be cloned in the mount namespace it belongs to only (open_tree(2)), and the parent's descriptors
    /// belong to its own. Of all that a process holds, `unshare` moves the working directory alone into the copy, so
    /// that is where the paths are found again; each must then be what the parent found.
    pub(super) fn take(paths: Vec<String>, fds: Vec<OwnedFd>) -> Result<Self, HostError> {
        let mut fds = fds.into_iter();
        if let Some(dir) = fds.next() {
            fchdir(&dir).map_err(|errno| {
                HostError::new(Step::Mounts, "fchdir(the gate file's directory)", errno)
            })?;
        }
        let found: Vec<OwnedFd> = fds.collect();
        if found.len() != paths.len() {
            return Err(HostError::lost("a bind came without its descriptor"));
        }
        Ok(Self { paths, found })
    }

    /// Clones every bind below `root`. The working directory must be the one of [`Binds::take`], and mounts private.
    pub(super) fn mount(&self, root: &Path) -> Result<(), HostError> {
        if self.paths.is_empty() {
            return Ok(());
        }
        let place = root.join(BINDS.trim_start_matches('/'));
        make_dir(&place)?;
        for (number, (path, found)) in self.paths.iter().zip(&self.found).enumerate() {
            let to = place.join(number.to_string());
            self.mount_one(path, found, &to)?;
        }
        Ok(())
    }

    fn mount_one(&self, path: &str, found: &OwnedFd, to: &Path) -> Result<(), HostError> {
        let failed = |call: &str, error: std::io::Error| {
            HostError::new(Step::Mounts, format!("{call}({path})"), error)
        };
        let changed = || {
            let mut error = HostError::lost(format!("`{path}` changed while the run began"));
            error.step = Step::Mounts;
            error.call = format!("openat2({path})");
            error
        };
        let here = rustix::fs::open(
            ".",
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .map_err(|errno| failed("open", errno.into()))?;
        let again = find_beneath(here.as_fd(), path).map_err(|_| changed())?;
        let identity =
            |fd: &OwnedFd| fstat(fd).map(|stat| (stat.st_dev, stat.st_ino, stat.st_mode));
        let (before, now) = (identity(found), identity(&again));
        let now = now.map_err(|errno| failed("fstat", errno.into()))?;
        if before != Ok(now) {
            return Err(changed());
        }
        if rustix::fs::FileType::from_raw_mode(now.2).is_dir() {
            make_dir(to)?;
        } else {
            std::fs::write(to, "").map_err(|error| failed("open", error))?;
        }
        // Recursive: what is mounted below belongs to it, and in a user namespace must not be uncovered.
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_EMPTY_PATH
            | OpenTreeFlags::AT_RECURSIVE;
        let clone =
            open_tree(&again, c"", flags).map_err(|errno| failed("open_tree", errno.into()))?;
        make_read_only(&clone).map_err(|error| failed("mount_setattr", error))?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(&clone, c"", rustix::fs::CWD, to, flags)
            .map_err(|errno| failed("move_mount", errno.into()))
    }
}

/// `mount_setattr(2)` on a whole tree of mounts: read-only, no devices, no setuid programs.
fn make_read_only(tree: &OwnedFd) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOSUID,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the path ends with a zero, and the structure is as long as is said and lives until the call returns.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_RECURSIVE,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    match answer {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}
