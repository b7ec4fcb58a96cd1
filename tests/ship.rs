//! From an archive to a registry.

mod ahead;
mod credentials;
mod debian;
mod ecr;
mod killed;
mod memory;
mod promote;
mod pull;
mod push;
mod receipts;
mod registry;
mod targets;
mod traced;
mod way;

use std::fs;
use std::path::{Path, PathBuf};

use smokegate_image::Digest;
use smokegate_test_support::{
    BuiltImage, DockerRegistry, Finished, ImageFixture, Need, RegistryOptions, RunAs, Smokegate,
    program, require,
};
use tempfile::TempDir;

/// A registry in a directory of its own.
struct Registry {
    server: DockerRegistry,
    _dir: TempDir,
}

impl Registry {
    /// None where the host has no docker-registry or skopeo.
    fn start(options: RegistryOptions) -> Option<Self> {
        if !(require(Need::DockerRegistry) && require(Need::Skopeo)) {
            return None;
        }
        let dir = tempfile::tempdir().expect("making the registry's directory");
        let server = DockerRegistry::start(dir.path(), options);
        Some(Self { server, _dir: dir })
    }

    /// One that asks for [`DockerRegistry::USER`] and the password.
    fn with_password() -> Option<Self> {
        Self::start(RegistryOptions {
            htpasswd: true,
            ..RegistryOptions::default()
        })
    }

    /// One that speaks TLS; `None` where the host has no openssl either.
    fn with_tls(client_certificate: bool) -> Option<Self> {
        let options = RegistryOptions {
            tls: true,
            client_certificate,
            ..RegistryOptions::default()
        };
        require(Need::Openssl).then(|| Self::start(options))?
    }

    /// `127.0.0.1:PORT/NAME`, with a tag where `name` has one.
    fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.server.address())
    }

    /// Fails the test unless a blob is stored, and is what its digest says.
    #[track_caller]
    fn assert_blob(&self, digest: &Digest) {
        let path = self.server.blob_path(digest);
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{digest}: {error}"));
        assert_eq!(Digest::sha256(&bytes), *digest);
    }

    /// Fails the test unless manifest, configuration and layers are stored byte for byte.
    #[track_caller]
    fn assert_image(&self, image: &BuiltImage) {
        let stored = |digest: &Digest| {
            let path = self.server.blob_path(digest);
            fs::read(&path).unwrap_or_else(|error| panic!("{digest}: {error}"))
        };
        assert_eq!(stored(&image.digest()), image.manifest);
        assert_eq!(stored(&image.config_digest()), image.config);
        for layer in &image.layers {
            let made = fs::read(layer.file.path()).expect("reading the layer that was built");
            assert!(stored(&layer.digest) == made, "layer {}", layer.digest);
        }
    }

    /// Fails the test if a manifest or a tag was written.
    #[track_caller]
    fn assert_no_manifest(&self) {
        let log = self.server.log();
        let written = |line: &&str| line.contains("\"PUT /v2/") && line.contains("/manifests/");
        assert_eq!(log.lines().find(written), None);
    }

    /// How many requests of this method the registry has answered.
    fn requests(&self, method: &str) -> usize {
        self.server
            .log()
            .matches(&format!("\"{method} /v2/"))
            .count()
    }
}

fn smokegate(run_as: RunAs) -> Option<Smokegate> {
    Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as)
}

/// A context and an empty registry beside it.
fn beside_registry(run_as: RunAs) -> Option<(Smokegate, Registry)> {
    Some((
        smokegate(run_as)?,
        Registry::start(RegistryOptions::default())?,
    ))
}

/// The fixture as an OCI archive in the run's directory.
fn oci_archive(context: &Smokegate, fixture: &str) -> (BuiltImage, PathBuf) {
    let image = ImageFixture::load(fixture).build();
    let file = context.archive(fixture, &image);
    (image, file)
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the tests' paths are UTF-8")
}

/// Runs `ship IMAGE --tag REF…` with any free port.
fn ship(context: &Smokegate, image: &Path, tags: &[&str], more: &[&str]) -> Finished {
    let mut words = vec!["ship", text(image), "--publish", "0:8080"];
    tags.iter().for_each(|tag| words.extend(["--tag", tag]));
    words.extend(more);
    context.run(words)
}

/// The digest of what an independent reader finds under `reference` (with its transport).
#[track_caller]
fn skopeo_digest(reference: &str) -> String {
    let mut command = program("skopeo");
    command.args(["inspect", "--raw"]);
    if reference.starts_with("docker://") {
        command.arg("--tls-verify=false");
    }
    let output = command.arg(reference).output().expect("starting skopeo");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "skopeo inspect {reference}: {message}"
    );
    Digest::sha256(&output.stdout).to_string()
}
