//! Certificates for tests, made by openssl.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::requirements::program;

/// A certificate authority of a test's own.
#[derive(Clone, Debug)]
pub struct Authority {
    dir: PathBuf,
    name: String,
}

impl Authority {
    /// Makes one in `dir`, where its files begin with `name`.
    ///
    /// # Errors
    /// When openssl fails; ask for [`crate::Need::Openssl`] first.
    pub fn make(dir: &Path, name: &str) -> io::Result<Self> {
        let subject = format!("/CN=smokegate test {name}");
        let (key, certificate) = (format!("{name}.key"), format!("{name}.pem"));
        let words = ["-subj", &subject, "-keyout", &key, "-out", &certificate];
        run(openssl(dir).args(words))?;
        Ok(Self::in_dir(dir, name))
    }

    /// One that was made there.
    pub(crate) fn in_dir(dir: &Path, name: &str) -> Self {
        Self {
            dir: dir.to_owned(),
            name: name.to_owned(),
        }
    }

    /// Its own certificate, for those who shall trust it.
    pub fn certificate(&self) -> PathBuf {
        self.dir.join(format!("{}.pem", self.name))
    }

    /// Signs a certificate for `names`, which are openssl's (`DNS:localhost,IP:127.0.0.1`), or for a client, which
    /// needs none; its file and that of its key.
    ///
    /// # Errors
    /// When openssl fails.
    pub fn issue(&self, name: &str, names: Option<&str>) -> io::Result<(PathBuf, PathBuf)> {
        let (key, certificate) = (format!("{name}.key"), format!("{name}.pem"));
        let (ca, ca_key) = (format!("{}.pem", self.name), format!("{}.key", self.name));
        let subject = format!("/CN={name}");
        let mut command = openssl(&self.dir);
        command
            .args(["-subj", &subject, "-keyout", &key, "-out", &certificate])
            .args(["-CA", &ca, "-CAkey", &ca_key])
            .args(["-addext", "basicConstraints=CA:FALSE"]);
        if let Some(names) = names {
            command.args(["-addext", &format!("subjectAltName={names}")]);
        }
        run(&mut command)?;
        Ok((self.dir.join(certificate), self.dir.join(key)))
    }
}

fn openssl(dir: &Path) -> Command {
    let mut command = program("openssl");
    command.args(["req", "-x509", "-newkey", "ec"]);
    command.args(["-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]);
    command.args(["-days", "30"]).current_dir(dir);
    command
}

fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(message.into_owned()))
}
