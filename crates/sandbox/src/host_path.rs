//! A file or directory of the host that containers may read: found beneath one directory, and held open from then on.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

/// A file or directory beneath a directory, by descriptor. `Debug` shows its path there.
#[derive(Clone)]
pub struct HostPath {
    path: String,
    dir: Arc<OwnedFd>,
    found: Arc<OwnedFd>,
}

/// Why there is no such path.
#[derive(Debug, thiserror::Error)]
pub enum HostPathError {
    /// Nothing is there.
    #[error("nothing is there")]
    Missing,
    /// A symbolic link on the way, absolute or with `..`, leads out of the directory.
    #[error("a symbolic link leads out of the directory")]
    LeadsOut,
    /// A socket, a pipe or a device would reach the host itself.
    #[error("it is neither a file nor a directory")]
    NotAFile,
    /// What the kernel answered.
    #[error("it cannot be opened")]
    Io(#[source] io::Error),
}

impl HostPath {
    /// Finds `path` beneath `dir`; no component may lead out of it (openat2(2), `RESOLVE_BENEATH`).
    ///
    /// # Errors
    /// [`HostPathError`].
    pub fn find(dir: &Path, path: &str) -> Result<Self, HostPathError> {
        let dir = if dir.as_os_str().is_empty() {
            Path::new(".")
        } else {
            dir
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = openat(CWD, dir, flags, Mode::empty())
            .map_err(|errno| HostPathError::Io(errno.into()))?;
        let found = find_beneath(dir.as_fd(), path)?;
        Ok(Self {
            path: path.to_owned(),
            dir: Arc::new(dir),
            found: Arc::new(found),
        })
    }

    /// The path, relative to the directory.
    pub fn path(&self) -> &str {
        &self.path
    }

    pub(crate) fn dir(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }

    pub(crate) fn found(&self) -> BorrowedFd<'_> {
        self.found.as_fd()
    }
}

impl fmt::Debug for HostPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HostPath").field(&self.path).finish()
    }
}

/// Two are equal when they were found at the same path; both are of one gate file.
impl PartialEq for HostPath {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for HostPath {}

/// An `O_PATH` descriptor of a file or directory beneath `dir`.
pub(crate) fn find_beneath(dir: BorrowedFd<'_>, path: &str) -> Result<OwnedFd, HostPathError> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let found = loop {
        match openat2(dir, path, flags, Mode::empty(), resolve) {
            Ok(found) => break found,
            // A rename elsewhere made the kernel unsure about a `..` of a link; it asks to try again.
            Err(Errno::AGAIN) => {}
            Err(Errno::NOENT | Errno::NOTDIR) => return Err(HostPathError::Missing),
            Err(Errno::XDEV) => return Err(HostPathError::LeadsOut),
            Err(errno) => return Err(HostPathError::Io(errno.into())),
        }
    };
    let stat = fstat(&found).map_err(|errno| HostPathError::Io(errno.into()))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile | FileType::Directory => Ok(found),
        _ => Err(HostPathError::NotAFile),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn only_files_and_directories_beneath_are_found() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "x").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("conf")).unwrap();
        fs::write(at("conf/a"), "a").unwrap();
        symlink("conf/a", at("inside")).unwrap();
        symlink("../conf/a", at("conf/up")).unwrap();
        symlink(outside.path(), at("absolute")).unwrap();
        symlink("..", at("parent")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for path in [".", "conf", "./conf/a", "inside", "conf/up"] {
            assert!(HostPath::find(dir.path(), path).is_ok(), "{path}");
        }
        let find = |path: &str| HostPath::find(dir.path(), path).unwrap_err();
        for path in [
            "absolute",
            "absolute/secret",
            "parent",
            "parent/x",
            "conf/../../x",
        ] {
            assert!(matches!(find(path), HostPathError::LeadsOut), "{path}");
        }
        assert!(matches!(find("missing"), HostPathError::Missing));
        assert!(matches!(find("conf/a/b"), HostPathError::Missing));
        assert!(matches!(find("socket"), HostPathError::NotAFile));
        assert!(matches!(find("loop"), HostPathError::Io(_)));
    }
}
