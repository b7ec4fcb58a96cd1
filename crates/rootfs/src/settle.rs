//! Fits an applied layer onto those below it: implied directories, links to lower files, metadata of directories.
//!
//! It costs a few lookups for each thing the layer refers to and does not have, so it runs in chain order
//! while the costly part, writing the files, was done in any order.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, fstat, linkat, renameat, unlinkat};

use crate::apply::Applied;
use crate::layer_tree::{Cause, LayerTree, fault, file_type, is_whiteout, keys_below};
use crate::merged::{MergedDir, MergedView, Node, Resolved};
use crate::metadata::{Metadata, Stats};
use crate::path::{Shown, is_below, join, split_last};
use crate::remove::list;
use crate::root_dir::open_beneath;
use crate::{EntryProblem, Error, Policy, RootDir};

/// Finishes the layer in `dir` on `lowers`, which are settled themselves, the topmost first.
///
/// An implied directory that is a directory below takes its metadata; one that is a symlink below has its
/// contents moved to where the symlink leads. A hard link to a lower file becomes another name of that very
/// inode: lower layers are read-only to overlayfs, and the two names stay one file as seen through it.
///
/// # Errors
/// A target that no layer has, a parent that is a file below, and failed system calls. The directory is then to
/// be thrown away.
pub fn settle(
    dir: &RootDir,
    applied: Applied,
    lowers: &[&RootDir],
    policy: &Policy,
) -> Result<Stats, Error> {
    let tree = LayerTree::new(dir, applied.unsettled, &policy.limits)?;
    let root_is_opaque = tree
        .state
        .dirs
        .get(b"".as_slice())
        .is_some_and(|record| record.opaque);
    let visible = if root_is_opaque { &[] } else { lowers };
    let layers = std::iter::once(dir)
        .chain(visible.iter().copied())
        .collect();
    let mut settle = Settle {
        tree,
        view: MergedView::new(layers),
        policy,
        stats: applied.stats,
        last: None,
    };
    settle.root(visible.first().copied())?;
    settle.implied()?;
    settle.links()?;
    if root_is_opaque {
        settle.hide_all(lowers)?;
    }
    settle.finish()
}

struct Settle<'a> {
    tree: LayerTree<'a>,
    /// This layer (0) on those below it.
    view: MergedView<'a>,
    policy: &'a Policy,
    stats: Stats,
    /// The directory of the view that was looked into last.
    last: Option<(Vec<u8>, MergedDir)>,
}

/// What lower layers have where this one has an implied directory.
enum Below {
    Nothing,
    Dir(MergedDir),
    Symlink(Vec<u8>),
    NotDirectory,
}

fn looking(path: &[u8]) -> impl Fn(std::io::Error) -> Error + '_ {
    move |error| Error::host("look below the layer at", path, error)
}

impl Settle<'_> {
    /// overlayfs shows the topmost layer's root; without an entry for it that must be like the one below.
    fn root(&mut self, lower: Option<&RootDir>) -> Result<(), Error> {
        if self
            .tree
            .state
            .dirs
            .get(b"".as_slice())
            .is_some_and(|root| root.metadata.is_some())
        {
            return Ok(());
        }
        let cause = Cause {
            name: b"/".to_vec(),
            mtime: crate::Mtime::default(),
        };
        let metadata = match lower {
            Some(lower) => {
                let fd = lower.directory(b"", OFlags::RDONLY);
                fd.and_then(|fd| Metadata::of(fd.as_fd()))
                    .map_err(|errno| fault("read the metadata of", b"", &cause, errno))?
            }
            None => Metadata::implied(&self.tree.creator, cause.mtime),
        };
        let record = self.tree.state.dirs.entry(Vec::new());
        let record = record.or_insert_with(|| crate::layer_tree::DirRecord {
            metadata: None,
            cause,
            opaque: false,
            replaced: false,
            climbed: false,
        });
        record.metadata = Some(metadata);
        Ok(())
    }

    /// Parents sort before what is in them, so each is looked up where its parents really are.
    fn implied(&mut self) -> Result<(), Error> {
        let unsettled = self
            .tree
            .state
            .dirs
            .iter()
            .filter(|(_, record)| record.metadata.is_none());
        let mut todo: BTreeSet<Vec<u8>> = unsettled.map(|(path, _)| path.clone()).collect();
        while let Some(path) = todo.pop_first() {
            let Some(record) = self.tree.state.dirs.get(&path) else {
                continue;
            };
            if record.metadata.is_some() {
                continue;
            }
            let (cause, replaced, climbed) =
                (record.cause.clone(), record.replaced, record.climbed);
            let Some((parent, name)) = split_last(&path) else {
                continue;
            };
            let below = if replaced {
                Below::Nothing
            } else {
                self.below(parent, name, &cause)?
            };
            let shown = || Shown(&path).to_string();
            let metadata = match below {
                Below::Nothing => Metadata::implied(&self.tree.creator, cause.mtime),
                Below::Dir(dir) => Metadata::of(dir.descriptor().as_fd())
                    .map_err(|errno| fault("read the metadata of", &path, &cause, errno))?,
                Below::NotDirectory => {
                    let (parent, lower) = (shown(), true);
                    let problem = EntryProblem::BelowNonDirectory { parent, lower };
                    return Err(Error::entry(&cause.name, problem));
                }
                Below::Symlink(_) if climbed => {
                    let problem = EntryProblem::ClimbsFromSymlink { parent: shown() };
                    return Err(Error::entry(&cause.name, problem));
                }
                Below::Symlink(link) => {
                    let target = self.resolve(parent, &link, &cause)?;
                    self.move_contents(&path, &target, &cause, &mut todo)?;
                    self.last = None;
                    continue;
                }
            };
            if let Some(record) = self.tree.state.dirs.get_mut(&path) {
                record.metadata = Some(metadata);
            }
        }
        Ok(())
    }

    /// Opens the directory `path` of the view, `None` if it has none: from the one opened before where that is the
    /// same or its parent, as the paths come in order.
    fn stand_in(&mut self, path: &[u8], cause: &Cause) -> Result<Option<&MergedDir>, Error> {
        let dir = match (self.last.take(), split_last(path)) {
            (Some((last, dir)), _) if last == path => Some(dir),
            (Some((last, dir)), Some((parent, name))) if last == parent => {
                match dir.child(name).map_err(looking(path))? {
                    Some(Node::Dir(inner)) => Some(inner),
                    _ => None,
                }
            }
            _ => match self.view.resolve(b"", path).map_err(looking(path))? {
                Resolved::Dir { dir, .. } => dir,
                other => return Err(refused(other, cause)),
            },
        };
        self.last = dir.map(|dir| (path.to_vec(), dir));
        Ok(self.last.as_ref().map(|(_, dir)| dir))
    }

    /// What the lower layers show as `name` in the directory `parent`.
    fn below(&mut self, parent: &[u8], name: &[u8], cause: &Cause) -> Result<Below, Error> {
        let Some(dir) = self.stand_in(parent, cause)? else {
            return Ok(Below::Nothing);
        };
        let failed = looking(parent);
        match dir.child_below(0, name).map_err(&failed)? {
            None => Ok(Below::Nothing),
            Some(Node::Dir(dir)) => Ok(Below::Dir(dir)),
            Some(Node::Other { layer, stat }) => {
                let target = dir.read_link(layer, name, &stat).map_err(&failed)?;
                Ok(target.map_or(Below::NotDirectory, Below::Symlink))
            }
        }
    }

    /// Where a symlink of a lower layer leads, as a path without symlinks.
    fn resolve(&self, base: &[u8], target: &[u8], cause: &Cause) -> Result<Vec<u8>, Error> {
        match self.view.resolve(base, target).map_err(looking(target))? {
            Resolved::Dir { path, .. } => Ok(path),
            other => Err(refused(other, cause)),
        }
    }

    /// Moves what the layer has in `from`, a symlink below, to `to`, where that symlink leads.
    fn move_contents(
        &mut self,
        from: &[u8],
        to: &[u8],
        cause: &Cause,
        todo: &mut BTreeSet<Vec<u8>>,
    ) -> Result<(), Error> {
        if to == from || is_below(to, from) {
            let path = Shown(from).to_string();
            return Err(Error::entry(
                &cause.name,
                EntryProblem::SymlinkLoop { path },
            ));
        }
        self.tree.dir(to, cause)?;
        self.merge(from, to, cause)?;
        // What is implied now, at the target or moved there, is looked up at its new place.
        let mut path = to;
        while let Some((parent, _)) = split_last(path) {
            todo.insert(path.to_vec());
            path = parent;
        }
        todo.extend(keys_below(&self.tree.state.dirs, to));
        Ok(())
    }

    /// Merges one directory of the layer into another. Where both have a name, what was written through the
    /// symlink stays, as nothing recorded which came last; a whiteout yields to anything.
    fn merge(&mut self, from: &[u8], to: &[u8], cause: &Cause) -> Result<(), Error> {
        let open = |path: &[u8]| {
            self.tree
                .root
                .directory(path, OFlags::RDONLY)
                .map_err(|errno| fault("open the directory", path, cause, errno))
        };
        let (source, target) = (open(from)?, open(to)?);
        let names = list(&source).map_err(|errno| fault("list", from, cause, errno))?;
        let stat = |fd: &OwnedFd, name: &[u8], path: &[u8]| match rustix::fs::statat(
            fd,
            name,
            AtFlags::SYMLINK_NOFOLLOW,
        ) {
            Ok(stat) => Ok(Some(stat)),
            Err(rustix::io::Errno::NOENT) => Ok(None),
            Err(errno) => Err(fault("look at", path, cause, errno)),
        };
        for name in names {
            let name = name.as_bytes();
            let (old, new) = (join(from, name), join(to, name));
            self.tree.check_path(&new, cause)?;
            let Some(moved) = stat(&source, name, &old)? else {
                continue;
            };
            let existing = stat(&target, name, &new)?;
            let is_dir = |stat: &rustix::fs::Stat| file_type(stat) == FileType::Directory;
            match existing {
                Some(existing) if is_dir(&moved) && is_dir(&existing) => {
                    self.merge(&old, &new, cause)?;
                    continue;
                }
                Some(existing) if is_whiteout(&moved) => {
                    if is_dir(&existing) {
                        self.replace_below(&new, cause)?;
                    }
                    unlinkat(&source, name, AtFlags::empty())
                        .map_err(|errno| fault("remove", &old, cause, errno))?;
                    continue;
                }
                Some(existing) => {
                    let at = self.tree.dir(to, cause)?;
                    self.tree.vacate(&at, name, cause)?;
                    self.rename(&source, &target, name, (&old, &new), cause)?;
                    if is_dir(&moved) && !is_dir(&existing) {
                        self.replace_below(&new, cause)?;
                    }
                }
                None => self.rename(&source, &target, name, (&old, &new), cause)?,
            }
        }
        drop((source, target));
        for link in keys_below(&self.tree.state.links, from) {
            if let Some(value) = self.tree.state.links.remove(&link) {
                self.tree
                    .state
                    .links
                    .insert(crate::path::rebase(&link, from, to), value);
            }
        }
        if let Some(record) = self.tree.state.dirs.remove(from) {
            if record.opaque {
                self.tree.mark_opaque(to, cause)?;
            }
            if let Some(target) = self.tree.state.dirs.get_mut(to) {
                target.replaced |= record.replaced;
                target.climbed |= record.climbed;
                if record.metadata.is_some() {
                    target.metadata = record.metadata;
                }
            }
        }
        self.tree.forget_cached();
        let remove = |(parent, name): (&[u8], &[u8])| {
            let parent = self.tree.root.directory(parent, OFlags::PATH)?;
            unlinkat(&parent, name, AtFlags::REMOVEDIR)
        };
        split_last(from)
            .map_or(Ok(()), remove)
            .map_err(|errno| fault("remove", from, cause, errno))
    }

    fn rename(
        &mut self,
        source: &OwnedFd,
        target: &OwnedFd,
        name: &[u8],
        (old, new): (&[u8], &[u8]),
        cause: &Cause,
    ) -> Result<(), Error> {
        renameat(source, name, target, name).map_err(|errno| fault("move", old, cause, errno))?;
        self.tree.rebase_records(old, new);
        Ok(())
    }

    /// A whiteout beside a directory: the directory hides all below it.
    fn replace_below(&mut self, path: &[u8], cause: &Cause) -> Result<(), Error> {
        self.tree.mark_opaque(path, cause)?;
        if let Some(record) = self.tree.state.dirs.get_mut(path) {
            record.replaced = true;
        }
        Ok(())
    }

    fn links(&mut self) -> Result<(), Error> {
        for (path, link) in std::mem::take(&mut self.tree.state.links) {
            let cause = &link.cause;
            let missing = || {
                let target = Shown(&link.target).to_string();
                Error::entry(&cause.name, EntryProblem::LinkTargetMissing { target })
            };
            let (Some((to, name)), Some((from, target))) =
                (split_last(&path), split_last(&link.target))
            else {
                return Err(missing());
            };
            let Resolved::Dir {
                dir: Some(source),
                path: source_path,
            } = self
                .view
                .resolve(b"", from)
                .map_err(looking(&link.target))?
            else {
                return Err(missing());
            };
            let node = if join(&source_path, target) == link.absent {
                source.child_below(0, target)
            } else {
                source.child(target)
            };
            let layer = match node.map_err(looking(&link.target))? {
                None => return Err(missing()),
                Some(Node::Dir(_)) => {
                    let target = Shown(&link.target).to_string();
                    return Err(Error::entry(
                        &cause.name,
                        EntryProblem::LinkTargetIsDirectory { target },
                    ));
                }
                Some(Node::Other { layer, .. }) => layer,
            };
            let Some(source) = source.part(layer) else {
                return Err(missing());
            };
            let parent = self.tree.dir(to, cause)?;
            self.tree.vacate(&parent, name, cause)?;
            linkat(source, target, &parent.fd, name, AtFlags::empty())
                .map_err(|errno| fault("link a lower file as", &path, cause, errno))?;
        }
        Ok(())
    }

    /// An opaque root: overlayfs always merges roots, so each name below is hidden by itself.
    fn hide_all(&mut self, lowers: &[&RootDir]) -> Result<(), Error> {
        let cause = Cause {
            name: b"/.wh..wh..opq".to_vec(),
            mtime: crate::Mtime::default(),
        };
        let below = MergedView::new(lowers.to_vec());
        let names = below
            .root()
            .and_then(|root| root.names())
            .map_err(looking(b""))?;
        let root = self.tree.dir(b"", &cause)?;
        for name in names {
            let existing = self.tree.make_whiteout(&root, &name, &cause)?;
            if existing.is_some_and(|stat| file_type(&stat) == FileType::Directory) {
                self.tree.mark_opaque(&name, &cause)?;
            }
        }
        Ok(())
    }

    /// Gives directories their metadata, the deepest first: afterwards they may be closed to us, and nothing may
    /// touch their mtimes any more.
    fn finish(mut self) -> Result<Stats, Error> {
        for (path, record) in std::mem::take(&mut self.tree.state.dirs).into_iter().rev() {
            let Some(metadata) = record.metadata else {
                continue;
            };
            let (creator, owners, cause) = (self.tree.creator, self.policy.owners, &record.cause);
            let parent_and_name = split_last(&path);
            let fd = match parent_and_name {
                None => self.tree.root.directory(b"", OFlags::RDONLY),
                Some(_) => open_beneath(
                    self.tree.root.as_fd(),
                    &path,
                    OFlags::RDONLY | OFlags::DIRECTORY,
                ),
            };
            fd.and_then(|fd| {
                let mode = Mode::from_raw_mode(fstat(&fd)?.st_mode & 0o7777);
                creator.finish(&fd, mode, &metadata, owners, &mut self.stats)
            })
            .map_err(|errno| fault("set the metadata of", &path, cause, errno))?;
        }
        self.stats.portable_marks = self.tree.state.portable_marks;
        Ok(self.stats)
    }
}

fn refused(resolved: Resolved, cause: &Cause) -> Error {
    let problem = match resolved {
        Resolved::Loop(path) | Resolved::Dir { path, .. } => EntryProblem::SymlinkLoop {
            path: Shown(&path).to_string(),
        },
        Resolved::NotDirectory(path) => EntryProblem::BelowNonDirectory {
            parent: Shown(&path).to_string(),
            lower: true,
        },
    };
    Error::entry(&cause.name, problem)
}
