//! What a layer holds, without its bytes: enough of each file to tell whether it could be run.

use std::io::BufRead;

use serde::{Deserialize, Serialize};
use smokegate_rootfs::{Entry, EntryData, EntryKind, Error, LayerVisitor, Limits, scan_layer};

use crate::elf::Elf;
use crate::elf_stream::ElfStream;

/// The longest script or account file that is kept; a longer one is kept up to here.
const MAX_TEXT: usize = 64 * 1024;
/// What is looked at to tell what a file is.
const HEAD: usize = 64;
/// What is kept of all scripts of a layer together; of those behind it only as much as the kernel reads of them.
const MAX_TEXTS: usize = 64 << 20;
/// The kernel reads no more of a script's first line (BINPRM_BUF_SIZE).
const MAX_SHEBANG: usize = 256;

/// The entries of one layer, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerIndex {
    pub(crate) entries: Vec<IndexEntry>,
    /// Bytes of all texts.
    texts: usize,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IndexEntry {
    /// Below the root, without leading slash, any bytes.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: IndexKind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum IndexKind {
    Dir,
    File(FileSummary),
    Symlink(Vec<u8>),
    Hardlink(Vec<u8>),
    /// A device or a pipe.
    Special,
    Whiteout,
    Opaque,
}

/// What is known of a regular file's content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FileSummary {
    pub(crate) size: u64,
    pub(crate) content: Content,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Content {
    /// An ELF file that the kernel and the dynamic linker would take, as far as it was read.
    Elf(Box<Elf>),
    /// It begins like an ELF file and is none.
    BrokenElf(String),
    /// Text that is wanted whole: a script, or a file that decides about accounts or libraries.
    Text(Vec<u8>),
    /// Anything else, by its first bytes where it is executable: of others nobody asks what they are.
    Other(Vec<u8>),
    /// A file with holes: what is stored of it is not what a reader would get.
    Sparse,
}

impl LayerIndex {
    /// Reads the layer `tar` (uncompressed) to its end, where a reader that verifies itself comes to its verdict.
    ///
    /// # Errors
    /// A layer that is damaged, not what its digest says, or over the limits.
    pub fn read(tar: impl BufRead, limits: &Limits) -> Result<Self, Error> {
        let mut indexer = Indexer::default();
        scan_layer(tar, limits, &mut indexer)?;
        Ok(indexer.index)
    }
}

/// Makes the index of one layer.
#[derive(Debug, Default)]
struct Indexer {
    index: LayerIndex,
    elf: ElfStream,
}

impl Indexer {
    fn content<R: BufRead>(
        &mut self,
        path: &[u8],
        executable: bool,
        data: &mut EntryData<'_, R>,
    ) -> Result<Content, Error> {
        let mut head = Vec::new();
        let rest = loop {
            let chunk = data.chunk()?;
            let (taken, rest) = chunk.split_at(chunk.len().min(HEAD - head.len()));
            head.extend_from_slice(taken);
            if chunk.is_empty() || head.len() == HEAD {
                break rest;
            }
        };
        if head.starts_with(b"\x7fELF") {
            self.elf.push(&head);
            self.elf.push(rest);
            while !self.elf.is_done() {
                let chunk = data.chunk()?;
                if chunk.is_empty() {
                    break;
                }
                self.elf.push(chunk);
            }
            let read = Elf::read(&self.elf);
            // Other layers are read beside this one: memory that few files need is not held until the next.
            self.elf.clear();
            return Ok(match read {
                Ok(elf) => Content::Elf(Box::new(elf)),
                Err(problem) => Content::BrokenElf(problem),
            });
        }
        let script = head.starts_with(b"#!") || head.starts_with(b"\xef\xbb\xbf#!");
        if script || is_wanted(path) {
            // The cache names every library; what is behind its first half megabyte is looked for as it stands.
            let most = match path {
                b"etc/ld.so.cache" => 8 * MAX_TEXT,
                _ if self.index.texts < MAX_TEXTS => MAX_TEXT,
                _ => MAX_SHEBANG,
            };
            head.extend_from_slice(&rest[..rest.len().min(most - head.len())]);
            while head.len() < most {
                let chunk = data.chunk()?;
                if chunk.is_empty() {
                    break;
                }
                head.extend_from_slice(&chunk[..chunk.len().min(most - head.len())]);
            }
            head.shrink_to_fit();
            self.index.texts += head.len();
            return Ok(Content::Text(head));
        }
        if !executable {
            head = Vec::new();
        }
        Ok(Content::Other(head))
    }
}

impl LayerVisitor for Indexer {
    fn entry<R: BufRead>(
        &mut self,
        entry: &Entry,
        data: &mut EntryData<'_, R>,
    ) -> Result<(), Error> {
        let kind = match &entry.kind {
            EntryKind::Dir => IndexKind::Dir,
            EntryKind::File { size, sparse } => {
                let content = match sparse {
                    Some(_) => Content::Sparse,
                    None => self.content(&entry.path, entry.mode() & 0o111 != 0, data)?,
                };
                IndexKind::File(FileSummary {
                    size: *size,
                    content,
                })
            }
            EntryKind::Symlink(target) => IndexKind::Symlink(target.clone()),
            EntryKind::Hardlink(target) => IndexKind::Hardlink(target.clone()),
            EntryKind::Fifo | EntryKind::CharDevice { .. } | EntryKind::BlockDevice { .. } => {
                IndexKind::Special
            }
            EntryKind::Whiteout => IndexKind::Whiteout,
            EntryKind::Opaque => IndexKind::Opaque,
        };
        let (uid, gid) = entry.owner();
        self.index.entries.push(IndexEntry {
            path: entry.path.clone(),
            kind,
            mode: entry.mode(),
            uid,
            gid,
        });
        Ok(())
    }
}

/// Files that are read whole though they are no scripts.
fn is_wanted(path: &[u8]) -> bool {
    matches!(
        path,
        b"etc/passwd" | b"etc/group" | b"etc/ld.so.conf" | b"etc/ld.so.cache"
    ) || path.starts_with(b"etc/ld.so.conf.d/")
        || path.starts_with(b"etc/ld-musl-")
}
