//! A tree as text, one line a file, so that two trees are equal exactly when their dumps are.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use rustix::fs::{FileType, OFlags, Stat, fstat, major, minor};
use smokegate_image::Digest;

use crate::layer_tree::file_type;
use crate::metadata::{is_overlay, read_xattrs};
use crate::path::{Shown, join};
use crate::root_dir::open_beneath;
use crate::{MergedDir, MergedView, Node};

/// Dumps a view (of one directory, or of layers as overlayfs would join them): path, type, mode, owner, mtime, and
/// by type the size and SHA-256, link target or device; files with several names in the tree say which was
/// the first; extended attributes last, without overlayfs's own. Sorted by path, names escaped.
///
/// # Errors
/// What the system calls answer; every file must be readable.
pub fn tree_dump(view: &MergedView<'_>) -> io::Result<String> {
    let mut dump = Dump {
        text: String::new(),
        first_names: HashMap::new(),
    };
    dump.directory(b"", &view.root()?)?;
    Ok(dump.text)
}

struct Dump {
    text: String,
    first_names: HashMap<(u64, u64), Vec<u8>>,
}

impl Dump {
    fn directory(&mut self, path: &[u8], dir: &MergedDir) -> io::Result<()> {
        self.line(path, "dir", &fstat(dir.descriptor())?);
        self.xattrs(dir.descriptor().as_fd())?;
        for name in dir.names()? {
            let path = join(path, &name);
            match dir.child(&name)? {
                Some(Node::Dir(inner)) => self.directory(&path, &inner)?,
                Some(Node::Other { layer, stat }) => self.other(&path, &name, dir, layer, &stat)?,
                None => {}
            }
        }
        Ok(())
    }

    fn line(&mut self, path: &[u8], kind: &str, stat: &Stat) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        let mode = stat.st_mode & 0o7777;
        let _ = write!(
            self.text,
            "/{} {kind} {mode:04o} {}:{}",
            Shown(path),
            stat.st_uid,
            stat.st_gid
        );
        let _ = write!(self.text, " {}.{:09}", stat.st_mtime, stat.st_mtime_nsec);
    }

    fn xattrs(&mut self, fd: std::os::fd::BorrowedFd<'_>) -> io::Result<()> {
        for (name, value) in read_xattrs(fd)?
            .into_iter()
            .filter(|(name, _)| !is_overlay(name))
        {
            let _ = write!(self.text, " {}={}", Shown(&name), value.escape_ascii());
        }
        Ok(())
    }

    fn other(
        &mut self,
        path: &[u8],
        name: &[u8],
        dir: &MergedDir,
        layer: usize,
        stat: &Stat,
    ) -> io::Result<()> {
        let kind = match file_type(stat) {
            FileType::RegularFile => "file",
            FileType::Symlink => "symlink",
            FileType::Fifo => "fifo",
            FileType::CharacterDevice => "char",
            FileType::BlockDevice => "block",
            _ => "other",
        };
        self.line(path, kind, stat);
        match kind {
            "file" => {
                let Some(parent) = dir.part(layer) else {
                    return Ok(());
                };
                let mut file = File::from(open_beneath(parent.as_fd(), name, OFlags::RDONLY)?);
                let (digest, size) = Digest::sha256_reader(&mut file)?;
                let _ = write!(self.text, " {size} {digest}");
                self.first_name(path, stat);
                self.xattrs(file.as_fd())?;
            }
            "symlink" => {
                let target = dir.read_link(layer, name, stat)?.unwrap_or_default();
                let _ = write!(self.text, " -> {}", Shown(&target));
                self.first_name(path, stat);
            }
            "char" | "block" => {
                let _ = write!(
                    self.text,
                    " {}:{}",
                    major(stat.st_rdev),
                    minor(stat.st_rdev)
                );
                self.first_name(path, stat);
            }
            _ => self.first_name(path, stat),
        }
        Ok(())
    }

    /// Names of one inode are joined by what the tree shows, not by its link count, which may count others.
    fn first_name(&mut self, path: &[u8], stat: &Stat) {
        if stat.st_nlink < 2 {
            return;
        }
        let key = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.first_names.get(&key) {
            let _ = write!(self.text, " = /{}", Shown(first));
        } else {
            self.first_names.insert(key, path.to_vec());
        }
    }
}
