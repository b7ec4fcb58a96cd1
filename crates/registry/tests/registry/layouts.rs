//! Layout directories and archives, read back by hand and by skopeo.

use std::fs;
use std::process::Command;

use smokegate_image::Digest;
use smokegate_registry::{ErrorKind, TagPosition};

use crate::docker_registry::not_run;
use crate::images::{chain, corrupt, index, layer, publisher, push, small, targets};

fn skopeo_digest(reference: &str) -> Option<Digest> {
    if !std::path::Path::new("/usr/bin/skopeo").exists() {
        not_run("skopeo");
        return None;
    }
    let output = Command::new("/usr/bin/skopeo")
        .args(["inspect", "--raw", reference])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Some(Digest::sha256(&output.stdout))
}

#[tokio::test]
async fn a_layout_keeps_its_other_tags() {
    let directory = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}/sub/layout", directory.path().display());
    let publisher = publisher();
    let (first, second) = (small(), index(vec![vec![layer(1, 1000)]]));
    let one = [format!("{layout}:one"), format!("{layout}:two")];
    publisher.check_targets(&targets(&one), None).await.unwrap();
    assert!(
        fs::read_dir(directory.path()).unwrap().next().is_none(),
        "the check wrote something"
    );
    let report = push(&publisher, &first, &one).await.unwrap();
    assert_eq!(report.destinations[0].uploaded.blobs, 3);
    let report = push(&publisher, &second, &one[1..]).await.unwrap();
    assert_eq!(report.targets[0].previous.as_ref(), Some(first.digest()));
    assert_eq!(
        report.destinations[0].present.blobs, 2,
        "config and shared layer are there"
    );
    for (tag, image) in [("one", &first), ("two", &second)] {
        if let Some(digest) = skopeo_digest(&format!("{layout}:{tag}")) {
            assert_eq!(&digest, image.digest(), "{tag}");
        }
    }
    let again = push(&publisher, &first, &one[..1]).await.unwrap();
    assert_eq!(
        (again.destinations[0].uploaded.blobs, again.targets[0].moved),
        (0, false)
    );
}

#[tokio::test]
async fn a_blob_that_went_bad_in_a_layout_is_written_again() {
    let directory = tempfile::tempdir().unwrap();
    let names = [format!("oci:{}:v1", directory.path().display())];
    let (publisher, image) = (publisher(), small());
    push(&publisher, &image, &names).await.unwrap();
    let blob = &image.blobs()[1];
    let path = directory
        .path()
        .join("blobs/sha256")
        .join(blob.digest().hex());
    let size = usize::try_from(blob.size()).unwrap();
    fs::write(&path, vec![0; size]).unwrap();
    let report = push(&publisher, &image, &names).await.unwrap();
    assert_eq!(report.destinations[0].uploaded.blobs, 1);
    assert_eq!(&Digest::sha256(&fs::read(&path).unwrap()), blob.digest());
}

#[tokio::test]
async fn an_archive_is_the_same_bytes_each_time() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| format!("oci-archive:{}/{name}", directory.path().display());
    let (publisher, image) = (publisher(), small());
    push(&publisher, &image, &[format!("{}:v1", at("a.tar"))])
        .await
        .unwrap();
    push(&publisher, &image, &[format!("{}:v1", at("b.tar"))])
        .await
        .unwrap();
    let bytes = |name: &str| fs::read(directory.path().join(name)).unwrap();
    assert!(bytes("a.tar") == bytes("b.tar"));
    if let Some(digest) = skopeo_digest(&format!("{}:v1", at("a.tar"))) {
        assert_eq!(&digest, image.digest());
    }
    let both = [
        format!("{}:latest", at("a.tar")),
        format!("{}:v2", at("a.tar")),
    ];
    let report = push(&publisher, &image, &both).await.unwrap();
    assert!(report.targets.iter().all(|target| target.moved));
    for tag in ["v2", "latest"] {
        if let Some(digest) = skopeo_digest(&format!("{}:{tag}", at("a.tar"))) {
            assert_eq!(&digest, image.digest(), "{tag}");
        }
    }
    assert_eq!(
        fs::read_dir(directory.path()).unwrap().count(),
        2,
        "a temporary file is left"
    );
}

#[tokio::test]
async fn nothing_unverified_is_written() {
    let directory = tempfile::tempdir().unwrap();
    let image = index(vec![vec![corrupt(&layer(5, 600_000))]]);
    for name in ["oci:DIR/layout:v1", "oci-archive:DIR/app.tar:v1"] {
        let name = name.replace("DIR", &directory.path().display().to_string());
        let error = push(&publisher(), &image, &[name]).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Image, "{}", chain(&error));
        assert_eq!(error.tags[0].now, TagPosition::Absent);
    }
    assert!(!directory.path().join("app.tar").exists());
    assert!(!directory.path().join("layout/index.json").exists());
    let blobs = fs::read_dir(directory.path().join("layout/blobs/sha256")).unwrap();
    for entry in blobs {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        // Its thread removes it, and may not have seen the end yet.
        if name.starts_with(".smokegate-") {
            continue;
        }
        assert_eq!(name, Digest::sha256(&fs::read(&path).unwrap()).hex());
    }
}

#[tokio::test]
async fn what_a_killed_push_began_can_be_pushed_to() {
    let directory = tempfile::tempdir().unwrap();
    let name = format!("oci:{}:v1", directory.path().display());
    fs::write(directory.path().join(".smokegate-Xy1"), "{").unwrap();
    let image = index(vec![vec![layer(5, 1_000)]]);
    push(&publisher(), &image, std::slice::from_ref(&name))
        .await
        .unwrap();
    fs::remove_file(directory.path().join("index.json")).unwrap();
    push(&publisher(), &image, &[name]).await.unwrap();
    assert!(directory.path().join("index.json").exists());
}

#[tokio::test]
async fn other_directories_are_refused_before_anything_runs() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("precious"), "").unwrap();
    let at = directory.path().display();
    for (name, part) in [
        (format!("oci:{at}:v1"), "not an OCI layout"),
        (format!("oci-archive:{at}:v1"), "is a directory"),
        (
            format!("oci-archive:{at}/missing/app.tar:v1"),
            "is not a directory",
        ),
    ] {
        let error = publisher()
            .check_targets(&targets(&[name]), None)
            .await
            .unwrap_err();
        assert!(chain(&error).contains(part), "{}", chain(&error));
    }
}
