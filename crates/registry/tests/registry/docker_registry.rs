//! Debian's docker-registry on a free port of loopback, ended when dropped.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PROGRAM: &str = "/usr/bin/docker-registry";
/// `user` with the password `s3cret-pw`.
const HTPASSWD: &str = "user:$2b$04$eg1vKJIAUtPTPWN6.86hXej091s99nJLUIIm14APHFZhhDxAxeJ1.\n";

pub(crate) struct DockerRegistry {
    process: Child,
    address: String,
    directory: tempfile::TempDir,
}

impl DockerRegistry {
    /// Starts it; `None` where it is not installed.
    pub(crate) async fn start(with_password: bool) -> Option<Self> {
        if !Path::new(PROGRAM).exists() {
            not_run(PROGRAM);
            return None;
        }
        // The port is chosen by binding it for a moment, so somebody else may take it: then again.
        for _ in 0..10 {
            let directory = tempfile::tempdir().unwrap();
            let port = TcpListener::bind("127.0.0.1:0")
                .unwrap()
                .local_addr()
                .unwrap()
                .port();
            let address = format!("127.0.0.1:{port}");
            let config = directory.path().join("config.yml");
            std::fs::write(
                &config,
                configuration(directory.path(), &address, with_password),
            )
            .unwrap();
            let mut process = Command::new(PROGRAM)
                .arg("serve")
                .arg(&config)
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            if answers(&mut process, &address).await {
                return Some(Self {
                    process,
                    address,
                    directory,
                });
            }
            process.kill().ok();
            process.wait().unwrap();
        }
        panic!("{PROGRAM} does not start");
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Every blob and manifest that it has stored, as `sha256/…` paths, and its tags.
    pub(crate) fn stored(&self) -> Vec<String> {
        let mut found = Vec::new();
        let root = self.directory.path().join("data");
        let mut left = vec![root.clone()];
        while let Some(directory) = left.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                if entry.path().is_dir() {
                    left.push(entry.path());
                } else {
                    let path = entry.path();
                    found.push(path.strip_prefix(&root).unwrap().display().to_string());
                }
            }
        }
        found.sort();
        found
    }

    pub(crate) fn uploads(&self) -> usize {
        self.stored()
            .iter()
            .filter(|path| path.contains("/_uploads/"))
            .count()
    }

    pub(crate) async fn get(&self, path: &str) -> reqwest::Response {
        let url = format!("http://{}/v2/{path}", self.address);
        let accept =
            "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json";
        client()
            .get(url)
            .header("accept", accept)
            .send()
            .await
            .unwrap()
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Says that a test did not run, which is a failure where all are required.
#[expect(
    clippy::print_stderr,
    reason = "what was not run is for whoever reads the test's output"
)]
pub(crate) fn not_run(missing: &str) {
    let required = std::env::var_os("SMOKEGATE_TEST_REQUIRE").is_some();
    assert!(!required, "{missing} is not installed");
    eprintln!("not run: {missing} is not installed");
}

/// A plain client. It never uses TLS, but is not built without a provider.
pub(crate) fn client() -> reqwest::Client {
    rustls::crypto::ring::default_provider()
        .install_default()
        .ok();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

fn configuration(directory: &Path, address: &str, with_password: bool) -> String {
    let data = directory.join("data");
    let mut text = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
        data.display()
    );
    if with_password {
        let passwords = directory.join("htpasswd");
        std::fs::write(&passwords, HTPASSWD).unwrap();
        text += &format!(
            "auth:\n  htpasswd:\n    realm: test\n    path: {}\n",
            passwords.display()
        );
    }
    text
}

async fn answers(process: &mut Child, address: &str) -> bool {
    let client = client();
    for _ in 0..200 {
        if process.try_wait().unwrap().is_some() {
            return false;
        }
        if client
            .get(format!("http://{address}/v2/"))
            .send()
            .await
            .is_ok()
        {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    false
}
