//! Who runs a program under test: root, or a user that has nothing.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::{fs, io};

use crate::requirements::program as installed;

/// An id that no distribution hands out: no passwd entry, no subordinate ids, no group but its own.
const ORDINARY_ID: u32 = 54321;

/// The user a program under test runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunAs {
    /// Root; the tests must run as root.
    Root,
    /// When the tests run as root, an id without subordinate ids; else the user they run as.
    OrdinaryUser,
}

/// Whether the tests run as root.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

impl RunAs {
    /// A command that runs `program` as this user.
    pub fn command(self, program: &Path) -> Command {
        if self == Self::Root || !is_root() {
            return Command::new(program);
        }
        let mut command = installed("setpriv");
        let id = ORDINARY_ID.to_string();
        command
            .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"])
            .arg(program);
        command
    }

    /// The user's id.
    pub fn uid(self) -> u32 {
        match self {
            Self::Root => 0,
            Self::OrdinaryUser if is_root() => ORDINARY_ID,
            Self::OrdinaryUser => rustix::process::geteuid().as_raw(),
        }
    }

    /// Gives `path` to this user and lets everybody read it.
    ///
    /// # Errors
    /// What chmod(2) and chown(2) answer.
    pub fn own(self, path: &Path) -> io::Result<()> {
        let mode = if fs::metadata(path)?.is_dir() {
            0o755
        } else {
            0o644
        };
        fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
        if is_root() {
            chown(path, Some(self.uid()), Some(self.uid()))
        } else {
            Ok(())
        }
    }
}
