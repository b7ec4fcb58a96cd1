//! A filesystem for one round, or for what a workload keeps through all: empty at its beginning, gone at its end.
//!
//! As root it is an ext4 of its own on a loop device: with a journal, as most machines have it, and removed in a
//! moment. ext4 without a journal fills places that were just freed at a twentieth of its speed, whoever writes, and
//! many gigabytes of small files take minutes to remove.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::workspace::{is_installed, is_root, run};

/// Not all of it is ever used; the file is sparse.
const SIZE: u64 = 64 << 30;
/// What one round of all contenders may take.
const NEEDED: u64 = 10 << 30;

#[derive(Debug)]
pub(crate) struct Disk {
    at: PathBuf,
    image: Option<PathBuf>,
}

impl Disk {
    /// Makes one at `dir`, which is not there yet.
    pub(crate) fn new(dir: PathBuf) -> Result<Self> {
        let below = dir.parent().unwrap_or(&dir);
        if let Some(free) = free_bytes(below).filter(|free| *free < NEEDED) {
            let (free, needed) = (free >> 30, NEEDED >> 30);
            return Err(format!(
                "{free} GiB are free in `{}`, and a round may take {needed}",
                below.display()
            )
            .into());
        }
        fs::create_dir(&dir)?;
        if !Self::is_its_own() {
            return Ok(Self {
                at: dir,
                image: None,
            });
        }
        let image = dir.with_extension("ext4");
        File::create_new(&image)?.set_len(SIZE)?;
        // Tables are not written at first, and not behind the runs' back either.
        let lazy = "lazy_itable_init=1,lazy_journal_init=1";
        let mut format = Command::new("mkfs.ext4");
        run(format.args(["-q", "-m", "0", "-E", lazy]).arg(&image))?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "ext4", "-o", "loop,noinit_itable"]);
        run(mount.arg(&image).arg(&dir))?;
        Ok(Self {
            at: dir,
            image: Some(image),
        })
    }

    /// Whether it is a filesystem, and not just a directory.
    pub(crate) fn is_its_own() -> bool {
        is_root() && is_installed("mkfs.ext4") && Path::new("/dev/loop-control").exists()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.at
    }

    /// Has everything written, so that the next one is not kept waiting for what this one wrote.
    pub(crate) fn settle(&self) {
        _ = Command::new("sync")
            .arg("--file-system")
            .arg(&self.at)
            .status();
    }
}

impl Drop for Disk {
    /// Where something is left, the sweeper tries once more.
    fn drop(&mut self) {
        if let Some(image) = &self.image {
            _ = Command::new("umount").arg(&self.at).status();
            _ = fs::remove_file(image);
        }
        _ = fs::remove_dir_all(&self.at);
    }
}

fn free_bytes(dir: &Path) -> Option<u64> {
    let mut df = Command::new("df");
    df.args(["--output=avail", "--block-size=1"]).arg(dir);
    let output = df.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().nth(1)?.trim().parse().ok()
}
