//! A directory that lookups cannot leave.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};

/// An `O_PATH` descriptor of a directory, the `/` of everything looked up through it.
#[derive(Debug)]
pub struct RootDir(OwnedFd);

impl RootDir {
    /// Opens the directory at `path`, which is the caller's and trusted.
    ///
    /// # Errors
    /// What open(2) answers.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(openat(CWD, path, flags, Mode::empty())?))
    }

    /// Opens what `path` names when this directory is `/`: absolute symlinks start here, `..` stops here, and
    /// magic links of /proc are refused (openat2(2), `RESOLVE_IN_ROOT`).
    ///
    /// # Errors
    /// What openat2(2) answers.
    pub fn lookup(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        loop {
            match openat2(
                &self.0,
                path,
                flags | OFlags::CLOEXEC,
                Mode::empty(),
                resolve,
            ) {
                // A rename or mount elsewhere made the kernel unsure about a `..`; it asks to try again.
                Err(rustix::io::Errno::AGAIN) => {}
                result => return Ok(result?),
            }
        }
    }

    /// Opens the directory at `path`, none of whose components may be a symlink.
    pub(crate) fn directory(&self, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
        let path = if path.is_empty() {
            b".".as_slice()
        } else {
            path
        };
        open_beneath(self.0.as_fd(), path, flags | OFlags::DIRECTORY)
    }
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<OwnedFd> for RootDir {
    fn from(fd: OwnedFd) -> Self {
        Self(fd)
    }
}

/// Opens `path` beneath `dir` without following any symlink.
pub(crate) fn open_beneath(
    dir: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    openat2(
        dir,
        path,
        flags | OFlags::NOFOLLOW | OFlags::CLOEXEC,
        Mode::empty(),
        resolve,
    )
}
