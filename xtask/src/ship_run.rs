//! A directory of its own in which the built program ships an image, as an ordinary user also when root asks.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::workspace::{is_installed, is_root, run};
use crate::{Result, fixtures};

/// An id without a passwd entry and without subordinate ids, for runs that root starts.
const ORDINARY_ID: u32 = 54321;

/// The directory; it goes away with this.
#[derive(Debug)]
pub(crate) struct ShipRun {
    dir: PathBuf,
    unprivileged: bool,
}

impl ShipRun {
    /// Puts the program and an archive of the `serve` fixture, `demo.oci.tar`, into a new directory.
    pub(crate) fn new(smokegate: &Path) -> Result<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
        let dir = std::env::temp_dir().join(format!("smokegate-demo-{}-{now}", std::process::id()));
        fs::create_dir(&dir)?;
        let unprivileged = is_root() && is_installed("setpriv");
        let run_in = Self { dir, unprivileged };
        run_in.give_away(&run_in.dir)?;
        for name in ["home", "cache"] {
            fs::create_dir(run_in.dir.join(name))?;
            run_in.give_away(&run_in.dir.join(name))?;
        }
        // The checkout may lie where an ordinary user cannot look.
        fs::copy(smokegate, run_in.dir.join("smokegate"))?;
        let archive = run_in.dir.join("demo.oci.tar");
        let mut command = fixtures::program()?;
        command
            .args(["serve", "oci-archive"])
            .arg(&archive)
            .arg("demo");
        run(command.stdout(std::process::Stdio::null()))?;
        fs::set_permissions(&archive, fs::Permissions::from_mode(0o644))?;
        Ok(run_in)
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether root's runs are another user's here.
    pub(crate) fn unprivileged(&self) -> bool {
        self.unprivileged
    }

    /// `smokegate` with these arguments, in the directory, with nothing of the caller's environment.
    pub(crate) fn smokegate(&self, arguments: &[&str]) -> Command {
        let own = self.dir.join("smokegate");
        let mut command = if self.unprivileged {
            let id = ORDINARY_ID.to_string();
            let mut command = Command::new("setpriv");
            command
                .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"])
                .arg(own);
            command
        } else {
            Command::new(own)
        };
        command
            .args(arguments)
            .current_dir(&self.dir)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.dir.join("home"))
            .env("XDG_CACHE_HOME", self.dir.join("cache"));
        command
    }

    fn give_away(&self, path: &Path) -> Result {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        if self.unprivileged {
            chown(path, Some(ORDINARY_ID), Some(ORDINARY_ID))?;
        }
        Ok(())
    }
}

impl Drop for ShipRun {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            eprintln!("removing `{}`: {error}", self.dir.display());
        }
    }
}
