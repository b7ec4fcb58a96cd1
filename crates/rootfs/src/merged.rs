//! Several layer directories seen as one, by overlayfs's rules but in user space and without privilege.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, OFlags, Stat, fgetxattr, readlinkat, statat};
use rustix::io::Errno;

use crate::RootDir;
use crate::layer_tree::{MAX_SYMLINKS, PORTABLE_OPAQUE, file_type, is_whiteout};
use crate::metadata::OPAQUE;
use crate::path::components;
use crate::remove::list;
use crate::root_dir::open_beneath;

/// Layers, the topmost first.
#[derive(Clone, Debug)]
pub struct MergedView<'a>(Vec<&'a RootDir>);

/// A directory of the view: the directories of those layers that show through, topmost first.
#[derive(Debug)]
pub struct MergedDir {
    pub(crate) parts: Vec<(usize, OwnedFd)>,
}

/// What a name of the view is.
#[derive(Debug)]
pub enum Node {
    /// A directory, merged.
    Dir(MergedDir),
    /// Anything else, which is of one layer only.
    Other {
        /// Which layer it is in, 0 being the topmost.
        layer: usize,
        /// Its inode.
        stat: Stat,
    },
}

/// Where a path leads in the view.
pub(crate) enum Resolved {
    /// A path without symlinks, whose last components may be missing.
    Dir {
        path: Vec<u8>,
        dir: Option<MergedDir>,
    },
    /// Something at this path is not a directory.
    NotDirectory(Vec<u8>),
    /// Too many symlinks.
    Loop(Vec<u8>),
}

impl<'a> MergedView<'a> {
    /// A view of `layers`, the topmost first.
    pub fn new(layers: Vec<&'a RootDir>) -> Self {
        Self(layers)
    }

    /// The root, which every layer has.
    ///
    /// # Errors
    /// What open(2) answers.
    pub fn root(&self) -> io::Result<MergedDir> {
        let open = |(layer, root): (usize, &&RootDir)| {
            root.directory(b"", OFlags::RDONLY).map(|fd| (layer, fd))
        };
        let parts = self
            .0
            .iter()
            .enumerate()
            .map(open)
            .collect::<rustix::io::Result<_>>()?;
        Ok(MergedDir { parts })
    }

    /// The directory at `path`, which has no symlinks; `None` if there is none.
    pub(crate) fn find_dir(&self, path: &[u8]) -> io::Result<Option<MergedDir>> {
        let path: Vec<Vec<u8>> = components(path).map(<[u8]>::to_vec).collect();
        self.walk(&path)
    }

    fn walk(&self, path: &[Vec<u8>]) -> io::Result<Option<MergedDir>> {
        let mut dir = self.root()?;
        for name in path {
            match dir.child(name)? {
                Some(Node::Dir(inner)) => dir = inner,
                _ => return Ok(None),
            }
        }
        Ok(Some(dir))
    }

    /// Follows symlinks of the view from `base`, an existing directory; `..` stops at the root.
    ///
    /// Only the directory it stands in is kept open: each takes as many descriptors as there are layers.
    pub(crate) fn resolve(&self, base: &[u8], target: &[u8]) -> io::Result<Resolved> {
        let mut at = Some(self.root()?);
        let mut path: Vec<Vec<u8>> = Vec::new();
        let mut hops = 0;
        let mut todo: Vec<Vec<u8>> = Vec::new();
        let schedule = |todo: &mut Vec<Vec<u8>>, path: &[u8]| {
            let first = todo.len();
            todo.extend(components(path).map(<[u8]>::to_vec));
            todo[first..].reverse();
        };
        schedule(&mut todo, target);
        if !target.starts_with(b"/") {
            schedule(&mut todo, base);
        }
        while let Some(name) = todo.pop() {
            if name == b".." {
                path.pop();
                at = self.walk(&path)?;
                continue;
            }
            let Some(dir) = &at else {
                path.push(name);
                continue;
            };
            let (layer, stat) = match dir.child(&name)? {
                None => {
                    path.push(name);
                    at = None;
                    continue;
                }
                Some(Node::Dir(inner)) => {
                    path.push(name);
                    at = Some(inner);
                    continue;
                }
                Some(Node::Other { layer, stat }) => (layer, stat),
            };
            let Some(link) = dir.read_link(layer, &name, &stat)? else {
                path.push(name);
                return Ok(Resolved::NotDirectory(path.join(&b'/')));
            };
            hops += 1;
            if hops > MAX_SYMLINKS {
                path.push(name);
                return Ok(Resolved::Loop(path.join(&b'/')));
            }
            if link.starts_with(b"/") {
                path.clear();
                at = Some(self.root()?);
            }
            schedule(&mut todo, &link);
        }
        Ok(Resolved::Dir {
            path: path.join(&b'/'),
            dir: at,
        })
    }
}

impl MergedDir {
    /// What `name`, one component, is in this directory; `None` if nothing.
    ///
    /// # Errors
    /// What the system calls answer.
    pub fn child(&self, name: &[u8]) -> io::Result<Option<Node>> {
        child(&self.parts, name)
    }

    /// As [`MergedDir::child`], leaving out the layer `layer`.
    pub(crate) fn child_below(&self, layer: usize, name: &[u8]) -> io::Result<Option<Node>> {
        let first = self.parts.partition_point(|(part, _)| *part <= layer);
        child(&self.parts[first..], name)
    }

    /// The directory's inode: the topmost layer's counts.
    pub fn descriptor(&self) -> &OwnedFd {
        &self.parts[0].1
    }

    /// The directory of one layer, if it shows through.
    pub(crate) fn part(&self, layer: usize) -> Option<&OwnedFd> {
        self.parts
            .iter()
            .find(|(part, _)| *part == layer)
            .map(|(_, fd)| fd)
    }

    /// All names, sorted.
    ///
    /// # Errors
    /// What getdents(2) and its like answer.
    pub fn names(&self) -> io::Result<Vec<Vec<u8>>> {
        let mut names = BTreeSet::new();
        for (_, fd) in &self.parts {
            names.extend(list(fd)?.into_iter().map(std::ffi::CString::into_bytes));
        }
        let mut visible = Vec::with_capacity(names.len());
        for name in names {
            if self.child(&name)?.is_some() {
                visible.push(name);
            }
        }
        Ok(visible)
    }

    /// A symlink's target; `None` for other files.
    pub(crate) fn read_link(
        &self,
        layer: usize,
        name: &[u8],
        stat: &Stat,
    ) -> io::Result<Option<Vec<u8>>> {
        match self.part(layer) {
            Some(fd) if file_type(stat) == FileType::Symlink => {
                Ok(Some(readlinkat(fd, name, Vec::new())?.into_bytes()))
            }
            _ => Ok(None),
        }
    }
}

fn child(parts: &[(usize, OwnedFd)], name: &[u8]) -> io::Result<Option<Node>> {
    let mut found = Vec::new();
    for (index, (layer, fd)) in parts.iter().enumerate() {
        let stat = match statat(fd, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            result => result?,
        };
        if file_type(&stat) != FileType::Directory {
            if found.is_empty() && !is_whiteout(&stat) {
                return Ok(Some(Node::Other {
                    layer: *layer,
                    stat,
                }));
            }
            break;
        }
        let dir = open_beneath(fd.as_fd(), name, OFlags::RDONLY | OFlags::DIRECTORY)?;
        let last = index + 1 == parts.len() || is_opaque(&dir)?;
        found.push((*layer, dir));
        if last {
            break;
        }
    }
    Ok((!found.is_empty()).then_some(Node::Dir(MergedDir { parts: found })))
}

fn is_opaque(dir: &OwnedFd) -> rustix::io::Result<bool> {
    let mut value = [0u8; 8];
    match fgetxattr(dir, OPAQUE, &mut value[..]) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(Errno::NODATA) => Ok(false),
        Err(Errno::OPNOTSUPP) => match statat(dir, PORTABLE_OPAQUE, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(false),
            result => Ok(is_whiteout(&result?)),
        },
        // Longer than any mark of overlayfs.
        Err(Errno::RANGE) => Ok(false),
        Err(errno) => Err(errno),
    }
}
