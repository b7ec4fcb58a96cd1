//! What a user may do with a file, by the owners that the layers record (path_resolution(7)).

use crate::tree::{Found, Node};

/// Who the container's process is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Who {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    Read,
    Execute,
}

impl Who {
    /// The path at which it ends, if it may not: a directory on the way or the file itself.
    pub(crate) fn refused(&self, found: &Found<'_>, wish: Wish) -> Option<String> {
        let bit = match wish {
            Wish::Read => 0o4,
            Wish::Execute => 0o1,
        };
        let closed = found.passed.iter().find(|(_, dir)| !self.has(dir, 0o1));
        if let Some((path, _)) = closed {
            return Some(path.clone());
        }
        (!self.has(found.node, bit)).then(|| found.path.clone())
    }

    fn has(&self, node: &Node, bit: u32) -> bool {
        // CAP_DAC_OVERRIDE is among Docker's defaults; it executes files that anybody may execute.
        if self.uid == 0 {
            return bit != 0o1 || node.is_dir() || node.mode & 0o111 != 0;
        }
        let class = if node.uid == self.uid {
            6
        } else if node.gid == self.gid || self.groups.contains(&node.gid) {
            3
        } else {
            0
        };
        node.mode >> class & bit != 0
    }
}

impl Node {
    pub(crate) fn is_dir(&self) -> bool {
        matches!(self.kind, crate::tree::NodeKind::Dir)
    }
}
