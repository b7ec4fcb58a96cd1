//! A tree as text, one line a file: what a container sees against what another program unpacked.

use std::collections::HashMap;
use std::ffi::{CString, OsStr, OsString};
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

unsafe extern "C" {
    fn llistxattr(path: *const std::ffi::c_char, list: *mut u8, size: usize) -> isize;
    fn lgetxattr(
        path: *const std::ffi::c_char,
        name: *const std::ffi::c_char,
        value: *mut u8,
        size: usize,
    ) -> isize;
}

/// Writes path, type, mode, owner, mtime, by type size and hash, target or device, the first name of a file with
/// several, and extended attributes, tab between them; sorted, names escaped. What `left_out` names is not in it,
/// nor anything below.
pub(crate) fn tree(root: &Path, left_out: &[String]) -> io::Result<()> {
    let mut tree = Tree {
        root: root.to_owned(),
        left_out: left_out.iter().map(PathBuf::from).collect(),
        out: io::BufWriter::new(io::stdout()),
        first_names: HashMap::new(),
    };
    tree.file(Path::new("/"))?;
    tree.out.flush()
}

struct Tree<W> {
    root: PathBuf,
    left_out: Vec<PathBuf>,
    out: W,
    first_names: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Tree<W> {
    fn file(&mut self, path: &Path) -> io::Result<()> {
        if self.left_out.iter().any(|left_out| left_out == path) {
            return Ok(());
        }
        let real = self.root.join(path.strip_prefix("/").unwrap_or(path));
        let failed = |error: io::Error| io::Error::other(format!("{}: {error}", real.display()));
        let meta = fs::symlink_metadata(&real).map_err(failed)?;
        let kind = match meta.file_type() {
            kind if kind.is_dir() => "dir",
            kind if kind.is_symlink() => "link",
            kind if kind.is_fifo() => "fifo",
            kind if kind.is_char_device() => "char",
            kind if kind.is_block_device() => "block",
            kind if kind.is_socket() => "socket",
            _ => "file",
        };
        let mut line = format!(
            "{}\t{kind}\t{:04o}\t{}:{}\t{}.{:09}\t",
            escaped(path.as_os_str()),
            meta.mode() & 0o7777,
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
        );
        match kind {
            "file" => {
                let hash = hash(&real).map_err(failed)?;
                let _ = write!(line, "{} {hash:016x}", meta.size());
            }
            "link" => line += &escaped(fs::read_link(&real)?.as_os_str()),
            "char" | "block" => {
                let _ = write!(line, "{:x}", meta.rdev());
            }
            _ => {}
        }
        line.push('\t');
        if kind != "dir" && meta.nlink() > 1 {
            // Names of one inode are joined by what the tree shows; its count may count others.
            let key = (meta.dev(), meta.ino());
            if let Some(first) = self.first_names.get(&key) {
                line += &escaped(first.as_os_str());
            } else {
                self.first_names.insert(key, path.to_owned());
            }
        }
        line.push('\t');
        for (name, value) in attributes(&real).map_err(failed)? {
            let value: String = value.iter().map(|byte| format!("{byte:02x}")).collect();
            let _ = write!(line, "{}={value} ", escaped(&name));
        }
        writeln!(self.out, "{}", line.trim_end())?;
        if kind == "dir" {
            let mut names = fs::read_dir(&real)
                .map_err(failed)?
                .map(|entry| Ok(entry?.file_name()))
                .collect::<io::Result<Vec<OsString>>>()?;
            names.sort();
            for name in names {
                self.file(&path.join(name))?;
            }
        }
        Ok(())
    }
}

fn escaped(text: &OsStr) -> String {
    text.as_bytes().escape_ascii().to_string()
}

/// FNV-1a over words of 64 bits, then the rest: it tells contents apart, and nobody tries to deceive it.
fn hash(path: &Path) -> io::Result<u64> {
    let mut file = File::open(path)?;
    let mut buffer = vec![0; 256 << 10];
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut step = |word: u64| {
        hash = (hash ^ word)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(5)
    };
    loop {
        let mut filled = 0;
        while filled < buffer.len() {
            match file.read(&mut buffer[filled..])? {
                0 => break,
                length => filled += length,
            }
        }
        let (words, rest) = buffer[..filled].as_chunks::<8>();
        words
            .iter()
            .for_each(|word| step(u64::from_le_bytes(*word)));
        rest.iter().for_each(|byte| step(u64::from(*byte)));
        if filled < buffer.len() {
            return Ok(hash);
        }
    }
}

/// By name, sorted.
fn attributes(path: &Path) -> io::Result<Vec<(OsString, Vec<u8>)>> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let names = sized(|buffer, size| unsafe { llistxattr(path.as_ptr().cast(), buffer, size) })?;
    let mut attributes = Vec::new();
    for name in names
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let c_name = CString::new(name)?;
        let value = sized(|buffer, size| unsafe {
            lgetxattr(path.as_ptr().cast(), c_name.as_ptr().cast(), buffer, size)
        })?;
        attributes.push((OsString::from_vec(name.to_owned()), value));
    }
    attributes.sort();
    Ok(attributes)
}

fn sized(call: impl Fn(*mut u8, usize) -> isize) -> io::Result<Vec<u8>> {
    // The kernel's limit of either (XATTR_LIST_MAX, XATTR_SIZE_MAX).
    let mut buffer = vec![0; 64 << 10];
    let length = call(buffer.as_mut_ptr(), buffer.len());
    if let Ok(length) = usize::try_from(length) {
        buffer.truncate(length);
        return Ok(buffer);
    }
    let error = io::Error::last_os_error();
    // ENOTSUP: a file system without attributes has none.
    match error.raw_os_error() {
        Some(95) => Ok(Vec::new()),
        _ => Err(error),
    }
}
