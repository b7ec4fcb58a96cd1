//! The completion mark of a store entry: without a valid one a directory is not a layer.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, Mode, OFlags, openat, renameat, unlinkat};
use serde::{Deserialize, Serialize};
use smokegate_image::{ChainId, DiffId, LayerDigest};

use crate::Stats;

pub(crate) const FILE: &str = "complete";
const VERSION: u32 = 1;

/// What is known about a complete entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mark {
    version: u32,
    pub(crate) chain_id: ChainId,
    pub(crate) diff_id: DiffId,
    /// Blobs that were read to their end and found to unpack to `diff_id`.
    pub(crate) blobs: Vec<LayerDigest>,
    pub(crate) stats: Stats,
    /// The boot it was filled in. Nothing was flushed, so after another boot only a synced entry is whole.
    pub(crate) boot_id: String,
    pub(crate) synced: bool,
}

/// Whether overlayfs can show the layer whose directory in the store is `diff`: its filesystem took every whiteout.
///
/// # Errors
/// What reading the layer's mark answers; one without a mark is no layer.
pub fn is_overlay_layer(diff: &std::path::Path) -> io::Result<bool> {
    let entry = diff.parent().unwrap_or(diff);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = openat(rustix::fs::CWD, entry, flags, Mode::empty())?;
    let mark = Mark::read(dir.as_fd())?.ok_or(io::ErrorKind::NotFound)?;
    Ok(mark.stats.portable_marks == 0)
}

impl Mark {
    pub(crate) fn new(
        chain_id: ChainId,
        diff_id: DiffId,
        blob: LayerDigest,
        stats: Stats,
        boot_id: &str,
    ) -> Self {
        let (blobs, boot_id) = (vec![blob], boot_id.to_owned());
        Self {
            version: VERSION,
            chain_id,
            diff_id,
            blobs,
            stats,
            boot_id,
            synced: false,
        }
    }

    /// Reads the mark of the entry `dir`; `None` if it has none or one that means nothing.
    pub(crate) fn read(dir: BorrowedFd<'_>) -> io::Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match openat(dir, FILE, flags, Mode::empty()) {
            Err(rustix::io::Errno::NOENT) => return Ok(None),
            result => File::from(result?),
        };
        let mut text = Vec::new();
        file.take(1 << 20).read_to_end(&mut text)?;
        // A power cut may leave a mark cut short or full of zeros.
        let mark: Option<Self> = serde_json::from_slice(&text).ok();
        Ok(mark.filter(|mark| mark.version == VERSION))
    }

    /// Writes the mark beside and renames it into place, so that a reader sees the old or the new one.
    pub(crate) fn write(&self, dir: BorrowedFd<'_>) -> io::Result<()> {
        const NEW: &str = "complete.new";
        match unlinkat(dir, NEW, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let mut file = File::from(openat(dir, NEW, flags, Mode::RUSR | Mode::WUSR)?);
        file.write_all(&serde_json::to_vec(self)?)?;
        Ok(renameat(dir.as_fd(), NEW, dir.as_fd(), FILE)?)
    }

    pub(crate) fn is_trusted(&self, boot_id: &str) -> bool {
        self.synced || self.boot_id == boot_id
    }
}
