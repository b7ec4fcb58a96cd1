//! A real registry: Debian's `docker-registry`, one per test, on a free port of 127.0.0.1.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use smokegate_image::Digest;

use crate::Authority;
use crate::requirements::program;
use crate::wait::wait_for;

/// How the registry greets its clients.
#[derive(Clone, Copy, Debug, Default)]
pub struct RegistryOptions {
    /// Asks for HTTP Basic authentication: [`DockerRegistry::USER`] and [`DockerRegistry::PASSWORD`].
    pub htpasswd: bool,
    /// Speaks HTTPS with a certificate of a CA of its own, [`DockerRegistry::ca_file`].
    pub tls: bool,
    /// With TLS: wants a certificate of its clients too, from the same CA.
    pub client_certificate: bool,
    /// Refuses every write.
    pub read_only: bool,
}

/// What the certificate of a registry is for.
const SERVER_NAMES: &str = "IP:127.0.0.1,DNS:localhost,DNS:registry.test";

/// A running registry; dropping it ends the process and leaves the directory to the caller.
#[derive(Debug)]
pub struct DockerRegistry {
    child: Child,
    dir: PathBuf,
    port: u16,
}

impl DockerRegistry {
    /// The only user where a password is asked for.
    pub const USER: &str = "smoke";
    /// That user's password.
    pub const PASSWORD: &str = "smoketest";
    /// htpasswd(1) line of the two, bcrypt, which is all the registry takes.
    const HTPASSWD: &str = "smoke:$2y$05$abcdefghijklmnopqrstuuV/V9SApo2p7TRg4ucVpIpteZLTU7jsy\n";

    /// Starts a registry that keeps everything in `dir`, and waits until it answers.
    ///
    /// # Panics
    /// When it is not installed or does not answer; ask for [`crate::Need::DockerRegistry`] first (and
    /// [`crate::Need::Openssl`] for `tls`).
    pub fn start(dir: &Path, options: RegistryOptions) -> Self {
        // Somebody else may take the port between our look and the registry's bind: then try another.
        for _ in 0..5 {
            if let Some(registry) = Self::try_start(dir, options) {
                return registry;
            }
        }
        let log = fs::read_to_string(dir.join("registry.log")).unwrap_or_default();
        panic!("docker-registry did not start:\n{log}");
    }

    fn try_start(dir: &Path, options: RegistryOptions) -> Option<Self> {
        let port = free_port().expect("finding a free port");
        let config = Self::configure(dir, port, options).expect("writing the registry's files");
        let log = File::create(dir.join("registry.log")).expect("creating the registry's log");
        let child = program("docker-registry")
            .arg("serve")
            .arg(config)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("duplicating a file"))
            .stderr(log)
            .spawn()
            .expect("starting docker-registry");
        let mut registry = Self {
            child,
            dir: dir.to_owned(),
            port,
        };
        let started = wait_for("docker-registry answers", Duration::from_secs(30), || {
            if registry
                .child
                .try_wait()
                .expect("waiting for docker-registry")
                .is_some()
            {
                return Some(false);
            }
            registry.answers(options).then_some(true)
        });
        started.then_some(registry)
    }

    fn configure(dir: &Path, port: u16, options: RegistryOptions) -> io::Result<PathBuf> {
        fs::create_dir_all(dir.join("data"))?;
        let root = dir.display();
        let mut yaml = format!(
            "version: 0.1\n\
             log: {{level: info, accesslog: {{disabled: false}}}}\n\
             storage:\n  \
               filesystem: {{rootdirectory: '{root}/data'}}\n  \
               delete: {{enabled: true}}\n  \
               maintenance: {{readonly: {{enabled: {}}}}}\n\
             http:\n  addr: 127.0.0.1:{port}\n",
            options.read_only,
        );
        if options.tls {
            let authority = Authority::make(dir, "ca")?;
            authority.issue("server", Some(SERVER_NAMES))?;
            let clients = if options.client_certificate {
                format!(", clientcas: ['{root}/ca.pem']")
            } else {
                String::new()
            };
            yaml += &format!(
                "  tls: {{certificate: '{root}/server.pem', key: '{root}/server.key'{clients}}}\n"
            );
        }
        if options.htpasswd {
            fs::write(dir.join("htpasswd"), Self::HTPASSWD)?;
            yaml += &format!("auth: {{htpasswd: {{realm: smokegate, path: '{root}/htpasswd'}}}}\n");
        }
        let config = dir.join("registry.yml");
        fs::write(&config, yaml)?;
        Ok(config)
    }

    fn answers(&self, options: RegistryOptions) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)) else {
            return false;
        };
        // The socket of a TLS registry listens only once its certificate is loaded.
        if options.tls {
            return true;
        }
        let request = b"GET /v2/ HTTP/1.0\r\n\r\n";
        let mut answer = String::new();
        let exchanged = stream
            .write_all(request)
            .and_then(|()| stream.set_read_timeout(Some(Duration::from_secs(5))))
            .and_then(|()| stream.read_to_string(&mut answer));
        exchanged.is_ok() && answer.starts_with("HTTP/1.")
    }

    /// `127.0.0.1:PORT`, the first part of a reference.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The certificate that clients must trust where it speaks TLS.
    pub fn ca_file(&self) -> PathBuf {
        self.authority().certificate()
    }

    /// Its CA, which may sign certificates of clients.
    pub fn authority(&self) -> Authority {
        Authority::in_dir(&self.dir, "ca")
    }

    /// The log with one line per request.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("registry.log")).expect("reading the registry's log")
    }

    /// Where a blob or manifest of any repository is stored.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        let (algorithm, hex) = (digest.algorithm().to_string(), digest.hex());
        self.storage()
            .join("blobs")
            .join(algorithm)
            .join(&hex[..2])
            .join(hex)
            .join("data")
    }

    /// Whether anything was ever put into the repository, an upload not finished included.
    pub fn has_repository(&self, name: &str) -> bool {
        self.storage().join("repositories").join(name).exists()
    }

    /// The repository's tags, sorted.
    pub fn tags(&self, name: &str) -> Vec<String> {
        let tags = self
            .storage()
            .join("repositories")
            .join(name)
            .join("_manifests/tags");
        let Ok(entries) = fs::read_dir(tags) else {
            return Vec::new();
        };
        let mut tags: Vec<_> = entries
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        tags.sort();
        tags
    }

    /// The digests of all blobs and manifests of a repository, sorted.
    pub fn digests(&self, name: &str) -> Vec<String> {
        let repository = self.storage().join("repositories").join(name);
        let links = ["_layers/sha256", "_manifests/revisions/sha256"];
        let mut digests: Vec<String> = links
            .iter()
            .flat_map(|links| fs::read_dir(repository.join(links)))
            .flatten()
            .flatten()
            .map(|entry| format!("sha256:{}", entry.file_name().to_string_lossy()))
            .collect();
        digests.sort();
        digests
    }

    /// Whether it holds nothing at all: no manifest, no blob, no upload begun.
    pub fn is_empty(&self) -> bool {
        !self.storage().exists()
    }

    fn storage(&self) -> PathBuf {
        self.dir.join("data/docker/registry/v2")
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        // Both answer an error when the process has ended already, which is what is wanted.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A port of 127.0.0.1 that nobody listened on a moment ago.
///
/// # Errors
/// What bind(2) answers.
pub fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ImageFixture, Need, require};

    #[test]
    fn registry_real_holds_what_skopeo_pushes() {
        if !(require(Need::DockerRegistry) && require(Need::Skopeo) && require(Need::Openssl)) {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let options = RegistryOptions {
            htpasswd: true,
            tls: true,
            ..RegistryOptions::default()
        };
        let registry = DockerRegistry::start(dir.path(), options);
        assert!(registry.is_empty());
        let image = ImageFixture::load("serve").build();
        let layout = dir.path().join("layout");
        image.write_oci_layout(&layout, Some("demo"));
        let (user, password) = (DockerRegistry::USER, DockerRegistry::PASSWORD);
        let status = program("skopeo")
            .args([
                "copy",
                "--quiet",
                "--dest-creds",
                &format!("{user}:{password}"),
            ])
            .arg(format!(
                "--dest-cert-dir={}",
                trust_dir(dir.path()).display()
            ))
            .arg(format!("oci:{}:demo", layout.display()))
            .arg(format!("docker://{}/team/app:v1", registry.address()))
            .status()
            .unwrap();
        assert!(status.success(), "{}", registry.log());
        assert!(!registry.is_empty());
        assert!(registry.has_repository("team/app") && !registry.has_repository("team/other"));
        assert_eq!(registry.tags("team/app"), ["v1"]);
        assert_eq!(
            fs::read(registry.blob_path(&image.digest())).unwrap(),
            image.manifest
        );
    }

    fn trust_dir(dir: &Path) -> PathBuf {
        let trust = dir.join("trust");
        fs::create_dir(&trust).unwrap();
        fs::copy(dir.join("ca.pem"), trust.join("ca.crt")).unwrap();
        trust
    }
}
