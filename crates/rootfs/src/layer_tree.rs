//! One layer's directory while it is being made: where names lead, and what only lower layers can tell.
//!
//! A parent that the layer does not have is made as an *implied* directory. Below it may be a directory (whose
//! metadata counts) or a symlink (to whose target the contents belong); settling decides. Symlinks of the layer
//! itself are followed here, in user space and a component at a time, as their targets may be implied too.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::fs::{fsetxattr, mkdirat, mknodat, readlinkat, statat, unlinkat};
use rustix::io::Errno;

use crate::metadata::{Creator, Metadata, Mtime, OPAQUE};
use crate::path::{Shown, components, is_below, join, rebase, split_last};
use crate::root_dir::open_beneath;
use crate::{EntryProblem, Error, Limits, RootDir, remove_tree};

/// Descriptors kept open; tars have their entries in directory order, so a few do.
const CACHED: usize = 64;
/// As in the kernel (path_resolution(7)).
pub(crate) const MAX_SYMLINKS: u32 = 40;

/// The entry for whose sake something is done.
#[derive(Clone, Debug)]
pub(crate) struct Cause {
    pub(crate) name: Vec<u8>,
    pub(crate) mtime: Mtime,
}

/// A directory of the layer.
#[derive(Debug)]
pub(crate) struct DirRecord {
    /// `None` while the directory is implied and nobody has looked below.
    pub(crate) metadata: Option<Metadata>,
    pub(crate) cause: Cause,
    /// Hides what lower layers have in it.
    pub(crate) opaque: bool,
    /// Takes the place of whatever lower layers have at its path, also of a symlink.
    pub(crate) replaced: bool,
    /// A symlink of the layer was followed out of it by `..`, which is only right if it is no symlink below.
    pub(crate) climbed: bool,
}

/// A hard link whose target is not in the layer.
#[derive(Clone, Debug)]
pub(crate) struct OutsideLink {
    pub(crate) target: Vec<u8>,
    /// Where the layer had nothing when the link came: what it puts there later is not meant.
    pub(crate) absent: Vec<u8>,
    pub(crate) cause: Cause,
}

/// What remains to be done to an applied layer when those below it are there: references to what it does not
/// have, and the metadata of all its directories, which are private until then.
#[derive(Debug, Default)]
pub struct Unsettled {
    pub(crate) dirs: BTreeMap<Vec<u8>, DirRecord>,
    pub(crate) links: BTreeMap<Vec<u8>, OutsideLink>,
    /// Marks that overlayfs does not know, made because the filesystem refused its own.
    pub(crate) portable_marks: u64,
}

/// An open directory of the layer and its path, which has no symlink in it.
#[derive(Debug)]
pub(crate) struct OpenDir {
    pub(crate) fd: OwnedFd,
    pub(crate) path: Vec<u8>,
}

pub(crate) struct LayerTree<'a> {
    pub(crate) root: &'a RootDir,
    pub(crate) creator: Creator,
    pub(crate) state: Unsettled,
    limits: &'a Limits,
    root_dir: Rc<OpenDir>,
    cache: HashMap<Vec<u8>, Rc<OpenDir>>,
}

/// What to do about a directory that the layer does not have.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Missing {
    Imply,
    Stop,
}

/// Marks a directory as opaque where its filesystem has no `user.*` attributes: no entry of a layer has such a name.
pub(crate) const PORTABLE_OPAQUE: &str = ".wh..wh..opq";

/// A whiteout: in overlayfs form, or a socket, which a tar cannot hold and every filesystem of Linux can.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    match file_type(stat) {
        FileType::CharacterDevice => stat.st_rdev == 0,
        kind => kind == FileType::Socket,
    }
}

pub(crate) fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

impl<'a> LayerTree<'a> {
    pub(crate) fn new(
        root: &'a RootDir,
        state: Unsettled,
        limits: &'a Limits,
    ) -> Result<Self, Error> {
        let creator =
            Creator::probe(root).map_err(|errno| Error::host("create a file in", b"", errno))?;
        let fd = root
            .directory(b"", OFlags::PATH)
            .map_err(|errno| Error::host("open", b"", errno))?;
        let root_dir = Rc::new(OpenDir {
            fd,
            path: Vec::new(),
        });
        Ok(Self {
            root,
            creator,
            state,
            limits,
            root_dir,
            cache: HashMap::new(),
        })
    }

    /// The directory at `path`; symlinks of the layer are followed, missing components are implied.
    pub(crate) fn dir(&mut self, path: &[u8], cause: &Cause) -> Result<Rc<OpenDir>, Error> {
        let dir = self.walk(path, Missing::Imply, &mut 0, cause)?;
        Ok(dir.expect("a missing directory is implied"))
    }

    /// The directory at `path` if the layer has it.
    pub(crate) fn find_dir(
        &mut self,
        path: &[u8],
        cause: &Cause,
    ) -> Result<Option<Rc<OpenDir>>, Error> {
        self.walk(path, Missing::Stop, &mut 0, cause)
    }

    fn walk(
        &mut self,
        path: &[u8],
        missing: Missing,
        hops: &mut u32,
        cause: &Cause,
    ) -> Result<Option<Rc<OpenDir>>, Error> {
        let Some((parent, name)) = split_last(path) else {
            return Ok(Some(self.root_dir.clone()));
        };
        if let Some(dir) = self.cache.get(path) {
            return Ok(Some(dir.clone()));
        }
        let Some(parent) = self.walk(parent, missing, hops, cause)? else {
            return Ok(None);
        };
        let Some(dir) = self.step(&parent, name, missing, hops, cause)? else {
            return Ok(None);
        };
        self.remember(path, &dir);
        Ok(Some(dir))
    }

    fn step(
        &mut self,
        at: &Rc<OpenDir>,
        name: &[u8],
        missing: Missing,
        hops: &mut u32,
        cause: &Cause,
    ) -> Result<Option<Rc<OpenDir>>, Error> {
        let path = join(&at.path, name);
        if let Some(dir) = self.cache.get(&path) {
            return Ok(Some(dir.clone()));
        }
        let dir = match open_beneath(at.fd.as_fd(), name, OFlags::PATH | OFlags::DIRECTORY) {
            Ok(fd) => Rc::new(OpenDir {
                fd,
                path: path.clone(),
            }),
            Err(Errno::NOENT) if missing == Missing::Stop => return Ok(None),
            Err(Errno::NOENT) => self.imply(at, name, false, cause)?,
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let stat = self.stat(at, name, cause)?;
                let kind = stat.as_ref().map(file_type);
                match kind {
                    Some(FileType::Symlink) => {
                        *hops += 1;
                        if *hops > MAX_SYMLINKS {
                            let path = Shown(&path).to_string();
                            return Err(Error::entry(
                                &cause.name,
                                EntryProblem::SymlinkLoop { path },
                            ));
                        }
                        let target = readlinkat(&at.fd, name, Vec::new())
                            .map_err(|errno| fault("read the symlink", &path, cause, errno))?;
                        let target = target.into_bytes();
                        match self.follow(at, &target, missing, hops, cause)? {
                            Some(dir) => dir,
                            None => return Ok(None),
                        }
                    }
                    _ if stat.as_ref().is_some_and(is_whiteout) && missing == Missing::Stop => {
                        return Ok(None);
                    }
                    _ if stat.as_ref().is_some_and(is_whiteout) => {
                        unlinkat(&at.fd, name, AtFlags::empty())
                            .map_err(|errno| fault("replace the whiteout", &path, cause, errno))?;
                        self.imply(at, name, true, cause)?
                    }
                    _ => {
                        let parent = Shown(&path).to_string();
                        let problem = EntryProblem::BelowNonDirectory {
                            parent,
                            lower: false,
                        };
                        return Err(Error::entry(&cause.name, problem));
                    }
                }
            }
            Err(errno) => return Err(fault("open the directory", &path, cause, errno)),
        };
        self.remember(&path, &dir);
        Ok(Some(dir))
    }

    /// Follows a symlink's target from the directory the symlink is in.
    fn follow(
        &mut self,
        from: &Rc<OpenDir>,
        target: &[u8],
        missing: Missing,
        hops: &mut u32,
        cause: &Cause,
    ) -> Result<Option<Rc<OpenDir>>, Error> {
        let mut at = if target.starts_with(b"/") {
            self.root_dir.clone()
        } else {
            from.clone()
        };
        for name in components(target) {
            let next = if name == b".." {
                if let Some(record) = self.state.dirs.get_mut(&at.path) {
                    record.climbed = true;
                }
                let parent = split_last(&at.path).map_or(b"".as_slice(), |(parent, _)| parent);
                self.walk(parent, missing, hops, cause)?
            } else {
                self.step(&at, name, missing, hops, cause)?
            };
            let Some(next) = next else { return Ok(None) };
            at = next;
        }
        Ok(Some(at))
    }

    fn remember(&mut self, path: &[u8], dir: &Rc<OpenDir>) {
        if self.cache.len() >= CACHED {
            self.cache.clear();
        }
        self.cache.insert(path.to_vec(), dir.clone());
    }

    /// Needed whenever a directory or symlink goes away: cached names may lead through it.
    pub(crate) fn forget_cached(&mut self) {
        self.cache.clear();
    }

    fn imply(
        &mut self,
        at: &Rc<OpenDir>,
        name: &[u8],
        replaced: bool,
        cause: &Cause,
    ) -> Result<Rc<OpenDir>, Error> {
        // A pending hard link is a file of this layer, though not yet there.
        if self.state.links.contains_key(&join(&at.path, name)) {
            let parent = Shown(&join(&at.path, name)).to_string();
            let problem = EntryProblem::BelowNonDirectory {
                parent,
                lower: false,
            };
            return Err(Error::entry(&cause.name, problem));
        }
        self.make_dir(at, name, None, replaced, cause)
    }

    /// Makes a directory where nothing is, and its record.
    pub(crate) fn make_dir(
        &mut self,
        at: &Rc<OpenDir>,
        name: &[u8],
        metadata: Option<Metadata>,
        replaced: bool,
        cause: &Cause,
    ) -> Result<Rc<OpenDir>, Error> {
        let path = join(&at.path, name);
        self.check_path(&path, cause)?;
        mkdirat(&at.fd, name, Mode::RWXU)
            .map_err(|errno| fault("create the directory", &path, cause, errno))?;
        let record = DirRecord {
            metadata,
            cause: cause.clone(),
            opaque: false,
            replaced,
            climbed: false,
        };
        self.state.dirs.insert(path.clone(), record);
        if replaced {
            self.mark_opaque(&path, cause)?;
        }
        let fd = open_beneath(at.fd.as_fd(), name, OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|errno| fault("open the directory", &path, cause, errno))?;
        Ok(Rc::new(OpenDir { fd, path }))
    }

    /// Expanding symlinks may make a path longer than its entry's name.
    pub(crate) fn check_path(&self, path: &[u8], cause: &Cause) -> Result<(), Error> {
        let over = |what, limit| {
            Err(Error::entry(
                &cause.name,
                EntryProblem::Limit { what, limit },
            ))
        };
        if path.len() as u64 > self.limits.path_bytes {
            return over("the length of its path", self.limits.path_bytes);
        }
        if components(path).count() as u64 > self.limits.path_depth {
            return over("the depth of its path", self.limits.path_depth);
        }
        Ok(())
    }

    /// What is at `name`, `None` if nothing.
    pub(crate) fn stat(
        &self,
        at: &OpenDir,
        name: &[u8],
        cause: &Cause,
    ) -> Result<Option<Stat>, Error> {
        match statat(&at.fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(fault("look at", &join(&at.path, name), cause, errno)),
        }
    }

    /// Hides what lower layers have in the directory, which must exist.
    pub(crate) fn mark_opaque(&mut self, path: &[u8], cause: &Cause) -> Result<(), Error> {
        let record = self.state.dirs.get_mut(path);
        if record.as_ref().is_some_and(|record| record.opaque) {
            return Ok(());
        }
        if let Some(record) = record {
            record.opaque = true;
        }
        // overlayfs does not look at this mark on a layer's root; settling takes care of that.
        if path.is_empty() {
            return Ok(());
        }
        let mark = |fd: OwnedFd| match fsetxattr(&fd, OPAQUE, b"y", XattrFlags::empty()) {
            Err(Errno::OPNOTSUPP) => {
                make_portable_mark(&fd, PORTABLE_OPAQUE.as_bytes()).map(|()| 1)
            }
            result => result.map(|()| 0),
        };
        self.root
            .directory(path, OFlags::RDONLY)
            .and_then(mark)
            .map(|portable| self.state.portable_marks += portable)
            .map_err(|errno| fault("mark as opaque the directory", path, cause, errno))
    }

    /// Makes a whiteout where nothing is; a no-op where something is, which is answered.
    pub(crate) fn make_whiteout(
        &mut self,
        at: &OpenDir,
        name: &[u8],
        cause: &Cause,
    ) -> Result<Option<Stat>, Error> {
        let path = join(&at.path, name);
        let made = match mknodat(&at.fd, name, FileType::CharacterDevice, Mode::empty(), 0) {
            // overlayfs keeps the device for itself, and other filesystems have no devices at all.
            Err(Errno::PERM | Errno::OPNOTSUPP | Errno::INVAL) => {
                let made = make_portable_mark(&at.fd, name);
                self.state.portable_marks += u64::from(made.is_ok());
                made
            }
            result => result,
        };
        match made {
            Ok(()) => Ok(None),
            Err(Errno::EXIST) => self.stat(at, name, cause),
            Err(errno) => Err(fault(
                "create a whiteout (character device 0/0 or socket) at",
                &path,
                cause,
                errno,
            )),
        }
    }

    /// Removes what is at `name` together with its records, and answers what it was.
    pub(crate) fn vacate(
        &mut self,
        at: &OpenDir,
        name: &[u8],
        cause: &Cause,
    ) -> Result<Option<FileType>, Error> {
        let path = join(&at.path, name);
        let was_link = self.state.links.remove(&path).is_some();
        let Some(stat) = self.stat(at, name, cause)? else {
            return Ok(was_link.then_some(FileType::RegularFile));
        };
        let kind = file_type(&stat);
        if kind == FileType::Directory {
            remove_tree(at.fd.as_fd(), name)
                .map_err(|error| Error::host("replace the directory", &path, error))?;
            self.state.dirs.remove(&path);
            for below in keys_below(&self.state.dirs, &path) {
                self.state.dirs.remove(&below);
            }
            for below in keys_below(&self.state.links, &path) {
                self.state.links.remove(&below);
            }
        } else {
            unlinkat(&at.fd, name, AtFlags::empty())
                .map_err(|errno| fault("replace", &path, cause, errno))?;
        }
        if matches!(kind, FileType::Directory | FileType::Symlink) {
            self.forget_cached();
        }
        Ok(Some(kind))
    }

    /// Records follow what was renamed from `from` to `to`.
    pub(crate) fn rebase_records(&mut self, from: &[u8], to: &[u8]) {
        self.forget_cached();
        rebase_keys(&mut self.state.dirs, from, to);
        rebase_keys(&mut self.state.links, from, to);
    }
}

/// Makes what [`is_whiteout`] knows beside overlayfs's device.
fn make_portable_mark(dir: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    mknodat(dir, name, FileType::Socket, Mode::RUSR, 0)
}

/// A failed call: a name the filesystem cannot hold is the image's fault, the rest the machine's.
pub(crate) fn fault(action: &'static str, path: &[u8], cause: &Cause, errno: Errno) -> Error {
    match errno {
        Errno::NAMETOOLONG => Error::entry(&cause.name, EntryProblem::NameTooLong),
        errno => Error::host(action, path, errno),
    }
}

/// The keys strictly below `path`, which are one range: `/` and the byte after it bound them.
pub(crate) fn keys_below<V>(map: &BTreeMap<Vec<u8>, V>, path: &[u8]) -> Vec<Vec<u8>> {
    if path.is_empty() {
        return map.keys().filter(|key| !key.is_empty()).cloned().collect();
    }
    let bound = |end: u8| [path, &[end]].concat();
    let range = (
        Bound::Excluded(bound(b'/')),
        Bound::Excluded(bound(b'/' + 1)),
    );
    map.range::<Vec<u8>, _>(range)
        .map(|(key, _)| key.clone())
        .collect()
}

fn rebase_keys<V>(map: &mut BTreeMap<Vec<u8>, V>, from: &[u8], to: &[u8]) {
    let mut keys = keys_below(map, from);
    keys.push(from.to_vec());
    for key in keys {
        debug_assert!(key == from || is_below(&key, from));
        if let Some(value) = map.remove(&key) {
            map.insert(rebase(&key, from, to), value);
        }
    }
}
