//! A directory of the oracle's own, with everything it makes; nothing of it is left behind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::Result;
use crate::dockerd::unmount_below;

pub(super) struct Scratch(PathBuf);

impl Scratch {
    pub(super) fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("smokegate-oracle-{}", std::process::id()));
        fs::create_dir(&dir)?;
        // Ordinary users run programs in it.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
        Ok(Self(dir))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub(super) fn dir(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        unmount_below(&self.0);
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("removing `{}`: {error}", self.0.display());
        }
    }
}
