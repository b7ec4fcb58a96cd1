//! Writes one layer into its own empty directory, in the form overlayfs reads, without looking at any other.
//!
//! Nothing is flushed: the directory is the atomic unit, and the store decides when it counts. Directories stay
//! private (0700) until [`crate::settle()`] gives them their metadata.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::fs::{ftruncate, linkat, makedev, mknodat, openat, symlinkat};
use rustix::io::Errno;

use crate::entry::{Entry, EntryKind};
use crate::layer_tree::{
    Cause, DirRecord, LayerTree, OpenDir, OutsideLink, fault, file_type, is_whiteout,
};
use crate::metadata::{Creator, Stats, Unkept};
use crate::path::{Shown, is_below, join, split_last};
use crate::tar_reader::TarReader;
use crate::{EntryProblem, Error, Policy, RootDir, Unsettled};

/// How much of a file is written at a time where the source has no buffer.
pub(crate) const BUFFER: usize = 256 * 1024;

/// A layer that was written and waits to be settled on those below it.
#[derive(Debug)]
pub struct Applied {
    /// What was in it and what could not be kept so far.
    pub stats: Stats,
    /// What settling needs to know.
    pub unsettled: Unsettled,
}

/// Writes the layer `tar` (uncompressed) into the empty directory `dir` and reads it to its end.
///
/// Entries whose names were used before replace them, whatever their type. A whiteout beside an entry that
/// makes the same name again, in either order, leaves the entry: a directory then hides the lower one.
///
/// # Errors
/// Entries that are refused, limits, reads and writes. The directory is then to be thrown away.
pub fn apply_layer(dir: &RootDir, tar: impl Read, policy: &Policy) -> Result<Applied, Error> {
    apply_buffered(dir, BufReader::with_capacity(BUFFER, tar), policy)
}

/// The same for a reader with a buffer of its own, which is written from.
pub(crate) fn apply_buffered(
    dir: &RootDir,
    tar: impl BufRead,
    policy: &Policy,
) -> Result<Applied, Error> {
    let mut tar = TarReader::new(tar, &policy.limits);
    let mut apply = Apply {
        tree: LayerTree::new(dir, Unsettled::default(), &policy.limits)?,
        policy,
        stats: Stats::default(),
        left_out: HashMap::new(),
    };
    while let Some(entry) = Entry::read(&mut tar, &policy.limits)? {
        apply.stats.entries += 1;
        if apply.stats.entries > policy.limits.entries {
            let limit = policy.limits.entries;
            let problem = EntryProblem::Limit {
                what: "the number of entries up to it",
                limit,
            };
            return Err(Error::entry(&entry.name, problem));
        }
        apply.entry(&mut tar, entry)?;
    }
    tar.drain()?;
    Ok(Applied {
        stats: apply.stats,
        unsettled: apply.tree.state,
    })
}

struct Apply<'a> {
    tree: LayerTree<'a>,
    policy: &'a Policy,
    stats: Stats,
    /// Devices that were not made, so that hard links to them are not missed either.
    left_out: HashMap<Vec<u8>, Unkept>,
}

impl Apply<'_> {
    fn entry<R: BufRead>(&mut self, tar: &mut TarReader<R>, entry: Entry) -> Result<(), Error> {
        let cause = Cause {
            name: entry.name.clone(),
            mtime: entry.metadata.mtime,
        };
        match &entry.kind {
            EntryKind::Dir => self.directory(entry, &cause),
            EntryKind::Opaque => {
                let path = self.tree.dir(&entry.path, &cause)?.path.clone();
                self.root_record(&path, &cause);
                self.tree.mark_opaque(&path, &cause)
            }
            EntryKind::Whiteout => self.whiteout(&entry, &cause),
            EntryKind::File { size, sparse } => {
                self.stats.bytes += size;
                self.file(tar, &entry, *size, sparse.as_deref(), &cause)
            }
            EntryKind::Hardlink(target) => self.hard_link(&entry, target, &cause),
            EntryKind::Symlink(target) => self.special(&entry, &cause, true, |dir, name| {
                symlinkat(target.as_slice(), dir, name)
            }),
            EntryKind::Fifo => self.node(&entry, &cause, FileType::Fifo, 0),
            EntryKind::CharDevice { major: 0, minor: 0 } => {
                let (parent, name) = self.parent(&entry.path, &cause)?;
                self.leave_out(join(&parent.path, name), Unkept::WhiteoutDevice);
                Ok(())
            }
            EntryKind::CharDevice { major, minor } => self.node(
                &entry,
                &cause,
                FileType::CharacterDevice,
                makedev(*major, *minor),
            ),
            EntryKind::BlockDevice { major, minor } => self.node(
                &entry,
                &cause,
                FileType::BlockDevice,
                makedev(*major, *minor),
            ),
        }
    }

    fn leave_out(&mut self, path: Vec<u8>, cause: Unkept) {
        self.stats.leave_out(cause);
        self.left_out.insert(path, cause);
    }

    /// The directory that holds `path`, and its last component.
    fn parent<'p>(
        &mut self,
        path: &'p [u8],
        cause: &Cause,
    ) -> Result<(Rc<OpenDir>, &'p [u8]), Error> {
        let Some((parent, name)) = split_last(path) else {
            return Err(Error::entry(&cause.name, EntryProblem::RootNotDirectory));
        };
        let dir = self.tree.dir(parent, cause)?;
        self.tree.check_path(&join(&dir.path, name), cause)?;
        Ok((dir, name))
    }

    /// The root exists from the start but has a record only when an entry speaks of it.
    fn root_record(&mut self, path: &[u8], cause: &Cause) {
        if path.is_empty() {
            self.tree
                .state
                .dirs
                .entry(Vec::new())
                .or_insert_with(|| DirRecord {
                    metadata: None,
                    cause: cause.clone(),
                    opaque: false,
                    replaced: false,
                    climbed: false,
                });
        }
    }

    fn directory(&mut self, entry: Entry, cause: &Cause) -> Result<(), Error> {
        self.root_record(&entry.path, cause);
        let path = if entry.path.is_empty() {
            Vec::new()
        } else {
            let (parent, name) = self.parent(&entry.path, cause)?;
            let path = join(&parent.path, name);
            let existing = self.tree.stat(&parent, name, cause)?;
            if existing.is_none_or(|stat| file_type(&stat) != FileType::Directory) {
                // A file, symlink or whiteout before it means that nothing from below shows through.
                let replaced = self.tree.vacate(&parent, name, cause)?.is_some();
                self.tree.make_dir(&parent, name, None, replaced, cause)?;
            }
            path
        };
        if let Some(record) = self.tree.state.dirs.get_mut(&path) {
            record.metadata = Some(entry.metadata);
        }
        Ok(())
    }

    fn whiteout(&mut self, entry: &Entry, cause: &Cause) -> Result<(), Error> {
        let (parent, name) = self.parent(&entry.path, cause)?;
        let path = join(&parent.path, name);
        if self.tree.state.links.contains_key(&path) {
            return Ok(());
        }
        let existing = self.tree.make_whiteout(&parent, name, cause)?;
        if existing.is_some_and(|stat| file_type(&stat) == FileType::Directory) {
            self.tree.mark_opaque(&path, cause)?;
            if let Some(record) = self.tree.state.dirs.get_mut(&path) {
                record.replaced = true;
            }
        }
        Ok(())
    }

    /// Creates what is not a directory with `create`, after removing what stands in its way.
    fn place<T>(
        &mut self,
        parent: &Rc<OpenDir>,
        name: &[u8],
        cause: &Cause,
        mut create: impl FnMut(&OwnedFd, &[u8]) -> rustix::io::Result<T>,
    ) -> Result<T, Error> {
        if !self.tree.state.links.is_empty() {
            self.tree.state.links.remove(&join(&parent.path, name));
        }
        let result = match create(&parent.fd, name) {
            Err(Errno::EXIST) => {
                self.tree.vacate(parent, name, cause)?;
                create(&parent.fd, name)
            }
            result => result,
        };
        result.map_err(|errno| fault("create", &join(&parent.path, name), cause, errno))
    }

    fn file<R: BufRead>(
        &mut self,
        tar: &mut TarReader<R>,
        entry: &Entry,
        size: u64,
        sparse: Option<&[(u64, u64)]>,
        cause: &Cause,
    ) -> Result<(), Error> {
        let (parent, name) = self.parent(&entry.path, cause)?;
        let mode = Creator::initial_mode(&entry.metadata);
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = self.place(&parent, name, cause, |dir, name| {
            openat(dir, name, flags, mode)
        })?;
        let failed = |action, errno| fault(action, &join(&parent.path, name), cause, errno);

        let mut pieces = sparse.map(|pieces| pieces.iter().copied());
        let mut left = 0;
        loop {
            let mut data = tar.data()?;
            if data.is_empty() {
                break;
            }
            while !data.is_empty() {
                let mut count = data.len();
                if let Some(pieces) = &mut pieces {
                    while left == 0 {
                        // The pieces' lengths were checked to sum up to the data.
                        let Some((offset, length)) = pieces.next() else {
                            break;
                        };
                        left = length;
                        rustix::fs::seek(&fd, rustix::fs::SeekFrom::Start(offset))
                            .map_err(|errno| failed("write", errno))?;
                    }
                    count = count.min(usize::try_from(left).unwrap_or(usize::MAX));
                }
                let written = rustix::io::retry_on_intr(|| rustix::io::write(&fd, &data[..count]))
                    .map_err(|errno| failed("write", errno))?;
                left = left.saturating_sub(written as u64);
                data = &data[written..];
            }
        }
        if sparse.is_some() {
            ftruncate(&fd, size).map_err(|errno| failed("write", errno))?;
        }
        self.tree
            .creator
            .finish(
                &fd,
                mode,
                &entry.metadata,
                self.policy.owners,
                &mut self.stats,
            )
            .map_err(|errno| failed("set the metadata of", errno))
    }

    fn node(
        &mut self,
        entry: &Entry,
        cause: &Cause,
        kind: FileType,
        device: u64,
    ) -> Result<(), Error> {
        let mode = Mode::from_raw_mode(entry.metadata.mode & 0o777);
        self.special(entry, cause, false, |dir, name| {
            mknodat(dir, name, kind, mode, device)
        })
    }

    fn special(
        &mut self,
        entry: &Entry,
        cause: &Cause,
        symlink: bool,
        create: impl FnMut(&OwnedFd, &[u8]) -> rustix::io::Result<()>,
    ) -> Result<(), Error> {
        let (parent, name) = self.parent(&entry.path, cause)?;
        match self.place(&parent, name, cause, create) {
            Err(Error::Host { source, .. })
                if Errno::from_io_error(&source) == Some(Errno::PERM)
                    && matches!(
                        entry.kind,
                        EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. }
                    ) =>
            {
                self.leave_out(join(&parent.path, name), Unkept::Device);
                return Ok(());
            }
            result => result?,
        }
        let (creator, owners) = (self.tree.creator, self.policy.owners);
        creator
            .finish_special(
                &parent.fd,
                name,
                &entry.metadata,
                symlink,
                owners,
                &mut self.stats,
            )
            .map_err(|errno| {
                fault(
                    "set the metadata of",
                    &join(&parent.path, name),
                    cause,
                    errno,
                )
            })
    }

    fn hard_link(&mut self, entry: &Entry, target: &[u8], cause: &Cause) -> Result<(), Error> {
        let Some((target_parent, target_name)) = split_last(target) else {
            let problem = EntryProblem::LinkTargetIsDirectory {
                target: "/".to_owned(),
            };
            return Err(Error::entry(&cause.name, problem));
        };
        let (parent, name) = self.parent(&entry.path, cause)?;
        let path = join(&parent.path, name);
        let (target, cause_of) = (target.to_vec(), cause.clone());
        let mut outside = OutsideLink {
            absent: target.clone(),
            target,
            cause: cause_of,
        };
        if let Some(source) = self.tree.find_dir(target_parent, cause)? {
            let source_path = join(&source.path, target_name);
            match self.tree.stat(&source, target_name, cause)? {
                Some(stat) if file_type(&stat) == FileType::Directory => {
                    let problem = EntryProblem::LinkTargetIsDirectory {
                        target: Shown(&outside.target).to_string(),
                    };
                    return Err(Error::entry(&cause.name, problem));
                }
                Some(stat) if !is_whiteout(&stat) && source_path == path => return Ok(()),
                // The directory that has the target makes way for the link.
                Some(stat) if !is_whiteout(&stat) && is_below(&source_path, &path) => {
                    let target = Shown(&outside.target).to_string();
                    let problem = EntryProblem::LinkTargetMissing { target };
                    return Err(Error::entry(&cause.name, problem));
                }
                Some(stat) if !is_whiteout(&stat) => {
                    return self.place(&parent, name, cause, |dir, name| {
                        linkat(&source.fd, target_name, dir, name, AtFlags::empty())
                    });
                }
                _ => {
                    if let Some(unkept) = self.left_out.get(&source_path).copied() {
                        self.leave_out(path, unkept);
                        return Ok(());
                    }
                    if let Some(link) = self.tree.state.links.get(&source_path) {
                        (outside.target, outside.absent) =
                            (link.target.clone(), link.absent.clone());
                    } else {
                        outside.absent = source_path;
                    }
                }
            }
        }
        self.tree.vacate(&parent, name, cause)?;
        self.tree.state.links.insert(path, outside);
        Ok(())
    }
}
