//! Copies layers into one directory, for hosts where overlayfs cannot join them.
//!
//! The copy is the tree that overlayfs would show: modes, owners, times, extended attributes, hard links and holes
//! of files are kept.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, SeekFrom, Stat, copy_file_range, fstat, ftruncate,
    ioctl_ficlone, linkat, mkdirat, mknodat, openat, seek, symlinkat,
};
use rustix::io::Errno;

use crate::layer_tree::file_type;
use crate::metadata::{Creator, Metadata, Mtime, Stats, Unkept};
use crate::path::join;
use crate::root_dir::open_beneath;
use crate::{Error, MergedDir, MergedView, Node, Owners, RootDir};

/// Descriptors held by directories being copied. Deeper ones are looked up again when their turn comes, as each takes
/// as many descriptors as layers have it and a process has 1024 by default.
const HELD: usize = 256;

/// Copies `layers`, the topmost first, into the empty directory `target`, and answers what could not be kept.
///
/// Devices that may not be made are left out, as an extended attribute is that the filesystem does not take.
///
/// # Errors
/// The first call that failed, with the path in the image; part of the copy is left then.
pub fn copy_merged(layers: &[PathBuf], target: &Path) -> Result<Stats, Error> {
    let open = |path: &Path| {
        RootDir::open(path)
            .map_err(|error| Error::host("open", path.as_os_str().as_encoded_bytes(), error))
    };
    let layers: Vec<RootDir> = layers
        .iter()
        .map(|path| open(path))
        .collect::<Result<_, _>>()?;
    let target = open(target)?;
    let creator =
        Creator::probe(&target).map_err(|errno| Error::host("create a file in", b"", errno))?;
    let mut copy = Copy {
        view: MergedView::new(layers.iter().collect()),
        target,
        creator,
        first_names: HashMap::new(),
        deferred: vec![Vec::new()],
        stats: Stats::default(),
    };
    while let Some(path) = copy.deferred.pop() {
        let dir = copy.view.find_dir(&path).map_err(looking(&path))?;
        if let Some(dir) = dir {
            copy.directory(&path, &dir, dir.parts.len())?;
        }
    }
    Ok(copy.stats)
}

fn looking(path: &[u8]) -> impl Fn(io::Error) -> Error + '_ {
    move |error| Error::host("look at", path, error)
}

fn copying(path: &[u8]) -> impl Fn(Errno) -> Error + '_ {
    move |errno| Error::host("copy", path, errno)
}

struct Copy<'a> {
    view: MergedView<'a>,
    target: RootDir,
    creator: Creator,
    /// Where an inode with several names was copied to.
    first_names: HashMap<(u64, u64), Vec<u8>>,
    /// Directories that exist in the target and are still to be filled.
    deferred: Vec<Vec<u8>>,
    stats: Stats,
}

impl Copy<'_> {
    /// Fills a directory that is in the target already; `held` descriptors are open.
    fn directory(&mut self, path: &[u8], dir: &MergedDir, held: usize) -> Result<(), Error> {
        let target = self
            .target
            .directory(path, OFlags::RDONLY)
            .map_err(copying(path))?;
        for name in dir.names().map_err(looking(path))? {
            let inner_path = join(path, &name);
            match dir.child(&name).map_err(looking(&inner_path))? {
                Some(Node::Dir(inner)) => {
                    mkdirat(&target, name.as_slice(), Mode::RWXU).map_err(copying(&inner_path))?;
                    let held = held + inner.parts.len() + 1;
                    if held > HELD {
                        self.deferred.push(inner_path);
                    } else {
                        self.directory(&inner_path, &inner, held)?;
                    }
                }
                Some(Node::Other { layer, stat }) => {
                    if let Some(from) = dir.part(layer) {
                        self.other(from, &target, &name, &inner_path, &stat)?;
                    }
                }
                None => {}
            }
        }
        // Last, as a new name changes the time. Ours to write into whatever its mode, as the copier is root here.
        let metadata = Metadata::of(dir.descriptor().as_fd()).map_err(copying(path))?;
        let created = Mode::from_raw_mode(fstat(&target).map_err(copying(path))?.st_mode & 0o7777);
        let (owners, stats) = (Owners::Keep, &mut self.stats);
        self.creator
            .finish(&target, created, &metadata, owners, stats)
            .map_err(copying(path))
    }

    /// Copies what is not a directory.
    fn other(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &[u8],
        path: &[u8],
        stat: &Stat,
    ) -> Result<(), Error> {
        let failed = copying(path);
        self.stats.entries += 1;
        if stat.st_nlink > 1 {
            let inode = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.first_names.get(&inode) {
                // No directory of the copy is a symlink, so the path leads nowhere else.
                return linkat(&self.target, first.as_slice(), to, name, AtFlags::empty())
                    .map_err(failed);
            }
            self.first_names.insert(inode, path.to_vec());
        }
        let kind = file_type(stat);
        let device = match kind {
            FileType::RegularFile => return self.file(from, to, name).map_err(failed),
            FileType::Symlink => {
                let link = rustix::fs::readlinkat(from, name, Vec::new()).map_err(&failed)?;
                symlinkat(&link, to, name).map_err(&failed)?;
                0
            }
            FileType::CharacterDevice | FileType::BlockDevice => stat.st_rdev,
            _ => 0,
        };
        if kind != FileType::Symlink {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            match mknodat(to, name, kind, mode, device) {
                Err(Errno::PERM) if device != 0 => {
                    self.stats.leave_out(Unkept::Device);
                    return Ok(());
                }
                result => result.map_err(&failed)?,
            }
        }
        let metadata = Metadata {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime: Mtime {
                seconds: stat.st_mtime,
                nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            },
            xattrs: Vec::new(),
        };
        let (symlink, owners) = (kind == FileType::Symlink, Owners::Keep);
        self.creator
            .finish_special(to, name, &metadata, symlink, owners, &mut self.stats)
            .map_err(failed)
    }

    fn file(&mut self, from: &OwnedFd, to: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
        let source = open_beneath(from.as_fd(), name, OFlags::RDONLY)?;
        let metadata = Metadata::of(source.as_fd())?;
        let created = Creator::initial_mode(&metadata);
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let copy = openat(to, name, flags, created)?;
        let length = u64::try_from(fstat(&source)?.st_size).unwrap_or(0);
        self.stats.bytes += length;
        // Shares the blocks where the filesystem can.
        if ioctl_ficlone(&copy, &source).is_err() {
            copy_content(&source, &copy, length)?;
        }
        let owners = Owners::Keep;
        self.creator
            .finish(&copy, created, &metadata, owners, &mut self.stats)
    }
}

/// Copies what is not a hole, and makes the file as long as it was.
fn copy_content(source: &OwnedFd, copy: &OwnedFd, length: u64) -> rustix::io::Result<()> {
    let mut at = 0;
    while at < length {
        let data = match seek(source, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => break,
            // A filesystem that knows no holes.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => at,
            result => result?,
        };
        let end = seek(source, SeekFrom::Hole(data)).unwrap_or(length);
        copy_range(source, copy, data, end)?;
        at = end;
    }
    ftruncate(copy, length)
}

fn copy_range(source: &OwnedFd, copy: &OwnedFd, start: u64, end: u64) -> rustix::io::Result<()> {
    let (mut from, mut to) = (start, start);
    while from < end {
        let left = usize::try_from(end - from).unwrap_or(usize::MAX);
        match copy_file_range(source, Some(&mut from), copy, Some(&mut to), left) {
            Ok(0) => return Err(Errno::IO), // The file became shorter: somebody changed the store.
            Ok(_) => {}
            // Not between these two filesystems.
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return copy_by_hand(source, copy, from, end);
            }
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn copy_by_hand(source: &OwnedFd, copy: &OwnedFd, start: u64, end: u64) -> rustix::io::Result<()> {
    use std::os::unix::fs::FileExt;
    let failed = |error: io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let (source, copy) = (
        File::from(source.try_clone().map_err(failed)?),
        File::from(copy.try_clone().map_err(failed)?),
    );
    let mut buffer = vec![0; 256 * 1024];
    let mut at = start;
    while at < end {
        let wanted = usize::try_from(end - at).map_or(buffer.len(), |left| left.min(buffer.len()));
        let read = source.read_at(&mut buffer[..wanted], at).map_err(failed)?;
        if read == 0 {
            return Err(Errno::IO);
        }
        copy.write_all_at(&buffer[..read], at).map_err(failed)?;
        at += read as u64;
    }
    Ok(())
}
