//! A tar header and its extensions as one entry of a layer (OCI image spec, layer.md).

use tar::Header;

use crate::metadata::{Metadata, Mtime};
use crate::path::{components, normalize, split_last};
use crate::sparse::{self, SparseMap};
use crate::tar_reader::{Extensions, Pairs, TarReader, number};
use crate::{EntryProblem, Error, Limits};

/// One entry of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Path below the root without leading or trailing slash; empty for the root itself. For a whiteout it is
    /// the path that is hidden, for an opaque mark the directory's.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: EntryKind,
    pub(crate) name: Vec<u8>,
    pub(crate) metadata: Metadata,
}

/// What an entry makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Dir,
    /// A regular file.
    File {
        /// Its apparent size.
        size: u64,
        /// Offset and length of each piece of data, where it has holes.
        sparse: Option<Vec<(u64, u64)>>,
    },
    /// A symbolic link with this target, any bytes.
    Symlink(Vec<u8>),
    /// Another name of the file at this path.
    Hardlink(Vec<u8>),
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDevice {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// `.wh.NAME`: what lower layers have at the path is gone.
    Whiteout,
    /// `.wh..wh..opq`: what lower layers have in the directory is gone.
    Opaque,
}

impl Entry {
    /// Permission bits with set-user-id, set-group-id and sticky.
    pub fn mode(&self) -> u32 {
        self.metadata.mode
    }

    /// The owner and group that the layer records.
    pub fn owner(&self) -> (u32, u32) {
        (self.metadata.uid, self.metadata.gid)
    }

    /// Reads the next entry that means something, `None` at the end of the archive.
    pub(crate) fn read<R: std::io::BufRead>(
        tar: &mut TarReader<R>,
        limits: &Limits,
    ) -> Result<Option<Self>, Error> {
        while let Some((header, extensions)) = tar.next_header()? {
            if let Some(entry) = Self::decode(tar, &header, &extensions, limits)? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    fn decode<R: std::io::BufRead>(
        tar: &mut TarReader<R>,
        header: &Header,
        extensions: &Extensions,
        limits: &Limits,
    ) -> Result<Option<Self>, Error> {
        // The order of Go's archive/tar, `Reader.next`, which is what Docker shows.
        let name = match (
            sparse::name(extensions),
            &extensions.long_name,
            extensions.pax(b"path"),
        ) {
            (Some(name), ..) | (None, None, Some(name)) => name.to_vec(),
            (None, Some(name), _) => name.clone(),
            (None, None, None) => header.path_bytes().into_owned(),
        };
        let refuse = |problem| Error::entry(&name, problem);
        let over = |what, limit| refuse(EntryProblem::Limit { what, limit });
        let field =
            |bytes: &[u8], what| number(bytes).ok_or_else(|| refuse(EntryProblem::BadHeader(what)));

        let stored = match extensions.pax(b"size") {
            Some(size) => decimal(size),
            None => number(&header.as_old().size).and_then(|size| u64::try_from(size).ok()),
        };
        let stored = stored.ok_or_else(|| refuse(EntryProblem::BadHeader("size")))?;
        let entry_type = header.as_bytes()[156];
        // A hard link, and some writers' directories, may carry a size without any data (Go archive/tar,
        // `isHeaderOnlyType`).
        let has_data = !matches!(entry_type, b'1'..=b'6');
        tar.set_size(if has_data { stored } else { 0 });
        let sparse = sparse::read(tar, header, extensions, stored, limits)
            .map_err(|problem| problem.of(&name))?;

        let path = normalize(&name)?;
        if path.len() as u64 > limits.path_bytes {
            return Err(over("the length of its name", limits.path_bytes));
        }
        if components(&path).count() as u64 > limits.path_depth {
            return Err(over("the depth of its name", limits.path_depth));
        }
        let Some((path, whiteout)) = whiteout(path).map_err(refuse)? else {
            return Ok(None);
        };

        let link = || -> Result<Vec<u8>, Error> {
            let target = match (&extensions.long_link, extensions.pax(b"linkpath")) {
                (Some(target), _) => target.clone(),
                (None, Some(target)) => target.to_vec(),
                (None, None) => header.link_name_bytes().unwrap_or_default().into_owned(),
            };
            match target {
                target if target.is_empty() => Err(refuse(EntryProblem::EmptyTarget)),
                target if target.contains(&0) => Err(refuse(EntryProblem::Nul)),
                target if target.len() as u64 > limits.path_bytes => {
                    Err(over("the length of its link target", limits.path_bytes))
                }
                target => Ok(target),
            }
        };
        let device = || -> Result<(u32, u32), Error> {
            // The kernel has 12 and 20 bits, and mknod(2) drops others without a word: 4096:0 would be made as 0:0,
            // a whiteout.
            let part = |bytes: &[u8], bits: u32| {
                let value = u32::try_from(field(bytes, "device number")?).ok();
                let value = value.filter(|value| value >> bits == 0);
                value.ok_or_else(|| refuse(EntryProblem::BadHeader("device number")))
            };
            // Bytes 329..345 of a ustar or GNU header; an old one has no place for them.
            Ok((
                part(&header.as_bytes()[329..337], 12)?,
                part(&header.as_bytes()[337..345], 20)?,
            ))
        };
        let kind = match entry_type {
            _ if whiteout.is_some() => whiteout.unwrap_or(EntryKind::Whiteout),
            // Only the oldest tars mean a directory by that (Go archive/tar, `TypeRegA`).
            0 if name.ends_with(b"/") => EntryKind::Dir,
            b'0' | 0 | b'7' | b'S' => match sparse {
                Some(SparseMap { size, pieces }) => EntryKind::File {
                    size,
                    sparse: Some(pieces),
                },
                None => EntryKind::File {
                    size: stored,
                    sparse: None,
                },
            },
            b'1' => EntryKind::Hardlink(normalize(&link()?).map_err(|error| match error {
                Error::Entry { problem, .. } => refuse(problem),
                error => error,
            })?),
            b'2' => EntryKind::Symlink(link()?),
            b'3' => device().map(|(major, minor)| EntryKind::CharDevice { major, minor })?,
            b'4' => device().map(|(major, minor)| EntryKind::BlockDevice { major, minor })?,
            b'5' => EntryKind::Dir,
            b'6' => EntryKind::Fifo,
            other => {
                return Err(refuse(EntryProblem::UnknownType(
                    other.escape_ascii().to_string(),
                )));
            }
        };
        if let EntryKind::File { size, .. } = kind
            && size > limits.file_bytes
        {
            return Err(over("its size", limits.file_bytes));
        }
        if path.is_empty() && !matches!(kind, EntryKind::Dir | EntryKind::Opaque) {
            return Err(refuse(EntryProblem::RootNotDirectory));
        }

        let id = |key: &[u8], bytes: &[u8]| -> Result<u32, Error> {
            let value = match extensions.pax(key) {
                Some(value) => decimal(value),
                None => number(bytes).and_then(|value| u64::try_from(value).ok()),
            };
            // The last id means "no change" to chown(2).
            let id = value
                .and_then(|value| u32::try_from(value).ok())
                .filter(|id| *id != u32::MAX);
            id.ok_or_else(|| refuse(EntryProblem::BadHeader("owner")))
        };
        let xattrs = xattrs(extensions).map_err(refuse)?;
        let xattr_bytes: usize = xattrs
            .iter()
            .map(|(key, value)| key.len() + value.len())
            .sum();
        if xattr_bytes as u64 > limits.xattr_bytes {
            return Err(over(
                "the size of its extended attributes",
                limits.xattr_bytes,
            ));
        }
        let mtime = match extensions.pax(b"mtime") {
            Some(value) => {
                Mtime::parse(value).ok_or_else(|| refuse(EntryProblem::BadHeader("mtime")))?
            }
            None => Mtime {
                seconds: field(&header.as_old().mtime, "mtime")?,
                nanos: 0,
            },
        };
        let metadata = Metadata {
            mode: (field(&header.as_old().mode, "mode")? & 0o7777) as u32,
            uid: id(b"uid", &header.as_old().uid)?,
            gid: id(b"gid", &header.as_old().gid)?,
            mtime,
            xattrs,
        };
        Ok(Some(Self {
            path,
            kind,
            name,
            metadata,
        }))
    }
}

/// The path that is meant, and how if it is no ordinary entry.
type Meant = (Vec<u8>, Option<EntryKind>);

/// Tells a whiteout by its name, whatever type it is stored as; `None` for AUFS's own files at the root, which
/// Docker leaves out too.
fn whiteout(path: Vec<u8>) -> Result<Option<Meant>, EntryProblem> {
    let Some((parent, name)) = split_last(&path) else {
        return Ok(Some((path, None)));
    };
    if name == b".wh..wh..opq" {
        return Ok(Some((parent.to_vec(), Some(EntryKind::Opaque))));
    }
    if path.starts_with(b".wh..wh.") {
        return Ok(None);
    }
    match name.strip_prefix(b".wh.") {
        None => Ok(Some((path, None))),
        Some(b"" | b"." | b"..") => Err(EntryProblem::BadWhiteout),
        Some(hidden) => Ok(Some((
            crate::path::join(parent, hidden),
            Some(EntryKind::Whiteout),
        ))),
    }
}

fn xattrs(extensions: &Extensions) -> Result<Pairs, EntryProblem> {
    let mut xattrs = Pairs::new();
    for (key, value) in &extensions.pax {
        let Some(name) = key.strip_prefix(b"SCHILY.xattr.") else {
            continue;
        };
        if name.contains(&0) {
            return Err(EntryProblem::Nul);
        }
        xattrs.push((name.to_vec(), value.clone()));
    }
    Ok(xattrs)
}

pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}
