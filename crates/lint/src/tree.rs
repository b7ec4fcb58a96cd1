//! The layers of an image as one tree: what a container would find at a path.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use crate::index::{FileSummary, IndexKind, LayerIndex};

/// As many as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Everything in an image, by path; of an image without layers nothing.
#[derive(Debug, Default)]
pub struct ImageTree {
    nodes: BTreeMap<Vec<u8>, Node>,
}

/// What is at a path.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) kind: NodeKind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

#[derive(Clone, Debug)]
pub(crate) enum NodeKind {
    Dir,
    File(FileSummary),
    Symlink(Vec<u8>),
    Special,
}

/// A path that leads to something.
#[derive(Clone, Debug)]
pub(crate) struct Found<'t> {
    /// Without symbolic links, with a leading slash.
    pub(crate) path: String,
    pub(crate) node: &'t Node,
    /// The directories that were passed, root first.
    pub(crate) passed: Vec<(String, &'t Node)>,
}

/// Why a path leads to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// There is no such name; this is the path without links up to it.
    Absent(String),
    /// A symbolic link, and where it points to, which does not exist.
    Dangling { link: String, target: String },
    /// This is used as a directory and is none.
    NotDirectory(String),
    /// Too many symbolic links, or a circle of them.
    Loop,
}

/// The root, where no layer describes it.
const ROOT: Node = Node {
    kind: NodeKind::Dir,
    mode: 0o755,
    uid: 0,
    gid: 0,
};

impl ImageTree {
    /// Lays a layer over those that were added before it (OCI image spec, layer.md).
    pub fn add(&mut self, layer: LayerIndex) {
        // Whiteouts are about lower layers only, wherever they stand among the entries.
        let mut hidden = BTreeSet::new();
        let mut opaque = BTreeSet::new();
        for entry in &layer.entries {
            match entry.kind {
                IndexKind::Whiteout => _ = hidden.insert(self.real_path(&entry.path)),
                IndexKind::Opaque => _ = opaque.insert(self.real_dir(&entry.path)),
                _ => {}
            }
        }
        for path in &hidden {
            self.remove(path);
        }
        for path in &opaque {
            self.remove_below(path);
        }
        // A hard link may stand before the file it is another name of.
        let mut early = Vec::new();
        for entry in layer.entries {
            let path = self.real_path(&entry.path);
            let kind = match entry.kind {
                IndexKind::Whiteout | IndexKind::Opaque => continue,
                IndexKind::Dir => NodeKind::Dir,
                IndexKind::File(summary) => NodeKind::File(summary),
                IndexKind::Symlink(target) => NodeKind::Symlink(target),
                IndexKind::Special => NodeKind::Special,
                IndexKind::Hardlink(target) => {
                    if !self.link(&path, &target) {
                        early.push((path, target));
                    }
                    continue;
                }
            };
            if !matches!(kind, NodeKind::Dir) {
                self.remove_below(&path);
            }
            self.add_parents(&path);
            let node = Node {
                kind,
                mode: entry.mode,
                uid: entry.uid,
                gid: entry.gid,
            };
            self.nodes.insert(path, node);
        }
        for (path, target) in early {
            self.link(&path, &target);
        }
    }

    /// Makes `path` another name of what is at `target`, with its owner and mode; whether there is anything.
    fn link(&mut self, path: &[u8], target: &[u8]) -> bool {
        let target = self.real_path(target);
        let Some(node) = self
            .nodes
            .get(&target)
            .filter(|node| !node.is_dir())
            .cloned()
        else {
            return false;
        };
        if target != path {
            self.remove_below(path);
            self.add_parents(path);
            self.nodes.insert(path.to_vec(), node);
        }
        true
    }

    /// Directories that no layer describes, as unpacking makes them.
    fn add_parents(&mut self, path: &[u8]) {
        let mut at = path;
        while let Some(slash) = at.iter().rposition(|byte| *byte == b'/') {
            at = &at[..slash];
            if self.nodes.contains_key(at) {
                break;
            }
            self.nodes.insert(at.to_vec(), ROOT);
        }
    }

    fn remove(&mut self, path: &[u8]) {
        self.nodes.remove(path);
        self.remove_below(path);
    }

    fn remove_below(&mut self, path: &[u8]) {
        let mut prefix = path.to_vec();
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        let below: Vec<Vec<u8>> = self
            .nodes
            .range(prefix.clone()..)
            .map(|(path, _)| path)
            .take_while(|path| path.starts_with(&prefix))
            .cloned()
            .collect();
        for path in below {
            self.nodes.remove(&path);
        }
    }

    /// The path of an entry with the links among its parents followed, as unpacking follows them.
    fn real_path(&self, path: &[u8]) -> Vec<u8> {
        match path.iter().rposition(|byte| *byte == b'/') {
            None => path.to_vec(),
            Some(slash) => {
                let mut real = self.real_dir(&path[..slash]);
                if !real.is_empty() {
                    real.push(b'/');
                }
                real.extend_from_slice(&path[slash + 1..]);
                real
            }
        }
    }

    /// Links are followed as far as there is something; the rest is what the entry makes.
    fn real_dir(&self, path: &[u8]) -> Vec<u8> {
        let mut left: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
        let mut at: Vec<u8> = Vec::new();
        let mut links = 0;
        while let Some(name) = left.pop() {
            let parent = at.len();
            if name == b".." {
                at.truncate(at.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
                continue;
            }
            if !at.is_empty() {
                at.push(b'/');
            }
            at.extend_from_slice(&name);
            if let Some(Node {
                kind: NodeKind::Symlink(target),
                ..
            }) = self.nodes.get(&at)
                && links < MAX_LINKS
            {
                links += 1;
                at.truncate(if target.starts_with(b"/") { 0 } else { parent });
                left.extend(components(target).rev().map(<[u8]>::to_vec));
            }
        }
        at
    }

    /// What a program finds at `path`, links followed to the end; a path without a leading slash is from the root.
    pub(crate) fn find(&self, path: &str) -> Result<Found<'_>, Missing> {
        let (real, passed) = self.walk(path.as_bytes())?;
        let node = self.nodes.get(&real).unwrap_or(&ROOT);
        Ok(Found {
            path: shown(&real),
            node,
            passed,
        })
    }

    /// Whether there is something, of whatever kind.
    pub(crate) fn exists(&self, path: &str) -> bool {
        self.find(path).is_ok()
    }

    /// The names in a directory.
    pub(crate) fn names_in(&self, path: &str) -> Vec<String> {
        let Ok((mut prefix, _)) = self.walk(path.as_bytes()) else {
            return Vec::new();
        };
        if !prefix.is_empty() {
            prefix.push(b'/');
        }
        let below = self.nodes.range(prefix.clone()..);
        below
            .take_while(|(path, _)| path.starts_with(&prefix))
            .filter_map(|(path, _)| {
                let name = &path[prefix.len()..];
                (!name.is_empty() && !name.contains(&b'/'))
                    .then(|| String::from_utf8_lossy(name).into_owned())
            })
            .collect()
    }

    /// Every path whose last component is this, for hints.
    pub(crate) fn named(&self, name: &str) -> Vec<String> {
        let name = name.as_bytes();
        let matches = self.nodes.iter().filter(|(path, node)| {
            !matches!(node.kind, NodeKind::Dir)
                && path.rsplit(|byte| *byte == b'/').next() == Some(name)
        });
        matches.map(|(path, _)| shown(path)).collect()
    }

    #[expect(clippy::type_complexity, reason = "of this file alone")]
    fn walk(&self, path: &[u8]) -> Result<(Vec<u8>, Vec<(String, &Node)>), Missing> {
        let mut left: Vec<Vec<u8>> = components(path).rev().map(<[u8]>::to_vec).collect();
        let mut at: Vec<u8> = Vec::new();
        let mut passed = vec![("/".to_owned(), self.nodes.get(&at).unwrap_or(&ROOT))];
        let mut links = 0;
        // The link whose target is being walked, with how many names follow it.
        let mut link: Option<(String, String, usize)> = None;
        while let Some(name) = left.pop() {
            link = link.filter(|(_, _, behind)| left.len() >= *behind);
            if name == b".." {
                let parent = at.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
                at.truncate(parent);
                continue;
            }
            let parent_length = at.len();
            if !at.is_empty() {
                at.push(b'/');
            }
            at.extend_from_slice(&name);
            let Some(node) = self.nodes.get(&at) else {
                return Err(match link {
                    Some((link, target, _)) => Missing::Dangling { link, target },
                    None => Missing::Absent(shown(&at)),
                });
            };
            match &node.kind {
                NodeKind::Symlink(target) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Missing::Loop);
                    }
                    link.get_or_insert_with(|| {
                        let target = String::from_utf8_lossy(target).into_owned();
                        (shown(&at), target, left.len())
                    });
                    at.truncate(if target.starts_with(b"/") {
                        0
                    } else {
                        parent_length
                    });
                    left.extend(components(target).rev().map(<[u8]>::to_vec));
                }
                NodeKind::Dir => passed.push((shown(&at), node)),
                _ if left.is_empty() => {}
                _ => return Err(Missing::NotDirectory(shown(&at))),
            }
        }
        Ok((at, passed))
    }
}

fn components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
}

fn shown(path: &[u8]) -> String {
    format!("/{}", String::from_utf8_lossy(path))
}
