//! Against ferro-oci-server, which differs from docker-registry where the distribution spec leaves room: relative
//! `Location`s, no mounting, a referrers API, no deletion of tags.

use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use smokegate_image::{Digest, Image, Limits};
use smokegate_registry::{Documents, ErrorKind};
use smokegate_test_support::{Need, find_program, free_port, require, wait_for};

use crate::docker_registry::client;
use crate::images::{chain, corrupt, index, index_with, layer, publisher, push, referred};

/// Keeps everything in memory; ended when dropped.
struct Ferro {
    process: Child,
    port: u16,
}

impl Ferro {
    /// Starts it; `None` where it is not installed.
    fn start() -> Option<Self> {
        if !require(Need::Ferro) {
            return None;
        }
        let port = free_port().unwrap();
        let mut command = Command::new(find_program("ferro-oci-server").unwrap());
        command
            .env_clear()
            .env("FERRO_OCI_LISTEN", format!("127.0.0.1:{port}"));
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let ferro = Self {
            process: process.unwrap(),
            port,
        };
        wait_for("ferro-oci-server answers", Duration::from_secs(60), || {
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Some(ferro)
    }

    fn name(&self, rest: &str) -> String {
        format!("127.0.0.1:{}/{rest}", self.port)
    }

    async fn get(&self, path: &str) -> (u16, Vec<u8>) {
        let url = format!("http://127.0.0.1:{}/v2/{path}", self.port);
        let answer = client().get(url).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, answer.bytes().await.unwrap().to_vec())
    }
}

impl Drop for Ferro {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Two platforms with their attestations, a referrer of the index, one of a manifest and one of a referrer.
fn image() -> Image {
    let layers = vec![vec![layer(1, 3_000_000), layer(2, 10)], vec![layer(3, 700)]];
    let image = index_with(layers, true);
    let child = image.documents()[0].digest.clone();
    let image = referred(&image, &image.digest().clone(), "of the index");
    let of_index = image.referrers()[0].digest.clone();
    let image = referred(&image, &child, "of a manifest");
    referred(&image, &of_index, "of a referrer")
}

#[tokio::test]
async fn all_of_an_image_arrives_once_and_comes_back() {
    let Some(ferro) = Ferro::start() else {
        return;
    };
    let (publisher, image) = (publisher(), image());
    let names = ["one/app:1.0.0", "one/app:latest", "two/app:latest"].map(|name| ferro.name(name));
    let report = push(&publisher, &image, &names)
        .await
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(report.targets.iter().all(|target| target.moved));
    for repository in ["one/app", "two/app"] {
        let (status, bytes) = ferro.get(&format!("{repository}/manifests/latest")).await;
        assert_eq!((status, bytes), (200, image.root().bytes.to_vec()));
        for document in image.published() {
            let path = format!("{repository}/manifests/{}", document.digest);
            assert_eq!(ferro.get(&path).await.1, *document.bytes);
        }
        for blob in image.blobs() {
            let path = format!("{repository}/blobs/{}", blob.digest());
            assert_eq!(Digest::sha256(&ferro.get(&path).await.1), *blob.digest());
        }
        let path = format!("{repository}/referrers/{}", image.digest());
        let list: Value = serde_json::from_slice(&ferro.get(&path).await.1).unwrap();
        let listed = list["manifests"].as_array().unwrap();
        assert_eq!(listed.len(), 1, "{list}");
        assert_eq!(listed[0]["digest"], image.referrers()[0].digest.to_string());
        // The registry lists them itself.
        let (_, tags) = ferro.get(&format!("{repository}/tags/list")).await;
        assert!(!String::from_utf8_lossy(&tags).contains("sha256-"));
    }

    let again = push(&publisher, &image, &names).await.unwrap();
    assert!(again.targets.iter().all(|target| !target.moved));
    for sent in &again.destinations {
        assert_eq!((sent.uploaded.blobs, sent.manifests_written), (0, 0));
    }

    let layout = tempfile::tempdir().unwrap();
    let limits = Limits::default();
    let documents = Documents::WithReferrers(&limits);
    let reference = names[2].parse().unwrap();
    let puller = publisher.puller();
    let remote = puller.documents(&reference, documents, layout.path());
    let remote = remote.await.unwrap();
    assert_eq!(remote.digest(), image.digest());
    remote.blobs(image.blobs()).await.unwrap();
    let digests = image.published().map(|one| &one.digest);
    for digest in digests.chain(image.blobs().iter().map(|blob| blob.digest())) {
        let path = layout.path().join("blobs/sha256").join(digest.hex());
        assert_eq!(Digest::sha256(&std::fs::read(path).unwrap()), *digest);
    }
}

#[tokio::test]
async fn a_corrupt_blob_leaves_no_tag_there_either() {
    let Some(ferro) = Ferro::start() else {
        return;
    };
    let bad = corrupt(&layer(3, 2_000_000));
    let digest = bad.digest().clone();
    let image = index(vec![vec![layer(1, 1000), bad]]);
    let error = push(&publisher(), &image, &[ferro.name("app:1")])
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Image, "{}", chain(&error));
    assert!(!error.tags_moved() && chain(&error).contains(&digest.to_string()));
    assert_eq!(ferro.get("app/manifests/1").await.0, 404);
    assert_eq!(ferro.get(&format!("app/blobs/{digest}")).await.0, 404);
}
