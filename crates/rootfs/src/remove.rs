//! Removes a tree whatever its modes and depth.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, chmodat, fchmod, renameat, statat, unlinkat,
};
use rustix::io::Errno;

use crate::root_dir::open_beneath;

/// Below this a directory is moved to the top of the tree before it is entered, so that a tree of any depth
/// needs few descriptors.
const DEPTH: usize = 64;

/// Removes `name` in `dir` and all below it, without following symlinks; what is not there is removed already.
///
/// Directories without permission bits (a layer may have them, and overlayfs's `work` is one) are made
/// accessible first, which their owner may do. The tree must not be changed by others meanwhile.
///
/// # Errors
/// The first refusal, after which part of the tree is left.
pub fn remove_tree(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    let name = CString::new(name)?;
    if !is_directory(dir, &name)? {
        return Ok(unlink(dir, &name)?);
    }
    let top = open_directory(dir, &name)?;
    let mut moved = 0;
    loop {
        let children = list(&top)?;
        if children.is_empty() {
            break;
        }
        for child in children {
            remove(top.as_fd(), &child, &top, 1, &mut moved)?;
        }
    }
    Ok(unlinkat(dir, &name, AtFlags::REMOVEDIR)?)
}

fn remove(
    dir: BorrowedFd<'_>,
    name: &CString,
    top: &OwnedFd,
    depth: usize,
    moved: &mut u64,
) -> rustix::io::Result<()> {
    if !is_directory(dir, name)? {
        return unlink(dir, name);
    }
    let inner = open_directory(dir, name)?;
    if depth > DEPTH {
        *moved += 1;
        return renameat(dir, name, top, format!(".smokegate-deep-{moved}"));
    }
    for child in list(&inner)? {
        remove(inner.as_fd(), &child, top, depth + 1, moved)?;
    }
    drop(inner);
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

fn unlink(dir: BorrowedFd<'_>, name: &CString) -> rustix::io::Result<()> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        result => result,
    }
}

fn is_directory(dir: BorrowedFd<'_>, name: &CString) -> rustix::io::Result<bool> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(false),
        result => Ok(FileType::from_raw_mode(result?.st_mode) == FileType::Directory),
    }
}

/// Opens a directory with all permissions of its owner.
fn open_directory(dir: BorrowedFd<'_>, name: &CString) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let all = Mode::RWXU;
    let fd = match open_beneath(dir, name.as_bytes(), flags) {
        Err(Errno::ACCESS) => {
            chmodat(dir, name, all, AtFlags::empty())?;
            open_beneath(dir, name.as_bytes(), flags)?
        }
        result => result?,
    };
    let mode = rustix::fs::fstat(&fd)?.st_mode;
    if mode & all.as_raw_mode() != all.as_raw_mode() {
        fchmod(&fd, all)?;
    }
    Ok(fd)
}

/// The names in a directory, read whole: it must not be changed while it is being read.
pub(crate) fn list(dir: &OwnedFd) -> rustix::io::Result<Vec<CString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}
