//! OCI layouts and archives.

use std::io::Write;

use serde_json::json;
use smokegate_image::{Compression, DocumentKind, Image, ImageSource};

use crate::content::{
    Content, GZIP_LAYER, MANIFEST, PLAIN_LAYER, gzip, layer_tar, named, on, open_as, open_tar,
    options, read_layers, with,
};

fn check_simple(image: &Image) {
    let compressions: Vec<_> = image
        .selected()
        .layers
        .iter()
        .map(|l| l.compression)
        .collect();
    assert_eq!(
        compressions,
        [Compression::Gzip, Compression::Zstd, Compression::None]
    );
    assert_eq!(
        read_layers(image).unwrap(),
        [layer_tar(1), layer_tar(2), layer_tar(3)]
    );
    assert_eq!(image.selected().config.cmd, ["/bin/app"]);
    assert_eq!((image.documents().len(), image.blobs().len()), (1, 4));
    assert!(
        !image.is_synthesized() && image.notes().is_empty(),
        "{:?}",
        image.notes()
    );
}

#[test]
fn every_way_to_bring_a_layout() {
    let content = Content::simple();
    let tar = content.tar();
    let zstd = zstd::bulk::compress(&tar, 1).unwrap();
    for bytes in [&tar, &gzip(&tar), &zstd] {
        check_simple(&open_as("FILE", bytes).unwrap());
        check_simple(&open_as("oci-archive:FILE", bytes).unwrap());
        check_simple(&open_tar(bytes).unwrap());
    }
    let dir = tempfile::tempdir().unwrap();
    content.write_to(dir.path());
    let path = dir.path().to_str().unwrap();
    for text in [path.to_owned(), format!("oci:{path}")] {
        check_simple(&Image::open(&text.parse().unwrap(), &options()).unwrap());
    }
}

#[test]
fn blobs_of_an_archive_file_are_ranges_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image.tar");
    std::fs::write(&path, Content::simple().tar()).unwrap();
    let spool_dir = dir.path().join("absent");
    let options = smokegate_image::OpenOptions {
        spool_dir,
        ..options()
    };
    let image = Image::open(&ImageSource::Path(path), &options).unwrap();
    check_simple(&image);
}

#[test]
fn a_fifo_is_read_as_a_stream() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    let made = std::process::Command::new("mkfifo")
        .arg(&path)
        .status()
        .unwrap();
    assert!(made.success());
    let tar = Content::simple().tar();
    let writer = {
        let path = path.clone();
        std::thread::spawn(move || {
            std::fs::OpenOptions::new()
                .write(true)
                .open(path)
                .unwrap()
                .write_all(&tar)
                .unwrap();
        })
    };
    check_simple(&Image::open(&ImageSource::Path(path), &options()).unwrap());
    writer.join().unwrap();
}

#[test]
fn an_index_keeps_every_platform_and_its_attestations() {
    let mut content = Content::layout();
    let shared = |content: &mut Content| content.layer(GZIP_LAYER, 1);
    let layers = [shared(&mut content), content.layer(GZIP_LAYER, 2)];
    let arm = content.image("arm64", &layers);
    let layers = [shared(&mut content), content.layer(PLAIN_LAYER, 3)];
    let amd = content.image("amd64", &layers);
    let statement = content.blob("application/vnd.in-toto+json", b"{\"predicate\":1}");
    let config = content.json_blob("application/vnd.oci.image.config.v1+json", &json!({}));
    let attestation = content.manifest(&config, vec![statement.clone()]);
    let attestation = with(
        attestation,
        "annotations",
        json!({"vnd.docker.reference.type": "attestation-manifest"}),
    );
    let attestation = with(
        attestation,
        "platform",
        json!({"os": "unknown", "architecture": "unknown"}),
    );
    let inner = content.index(&[on(amd.clone(), "amd64"), attestation]);
    let root = content.index(&[on(arm, "arm64"), inner.clone()]);
    content.index_json(&[named(root.clone(), "v1")]);

    let image = content.open().unwrap();
    assert_eq!(image.digest().to_string(), root["digest"]);
    assert_eq!(image.names(), ["v1"]);
    assert_eq!(image.selected().manifest.to_string(), amd["digest"]);
    assert_eq!(read_layers(&image).unwrap(), [layer_tar(1), layer_tar(3)]);
    let platforms: Vec<_> = image
        .platforms()
        .iter()
        .map(|one| one.platform.as_str())
        .collect();
    assert_eq!(platforms, ["linux/arm64", "linux/amd64"]);
    let kinds: Vec<_> = image
        .documents()
        .iter()
        .map(|document| document.kind)
        .collect();
    use DocumentKind::{Attached, Image as Runnable, Index};
    assert_eq!(kinds, [Runnable, Runnable, Attached, Index, Index]);
    assert_eq!(image.documents()[3].digest.to_string(), inner["digest"]);
    // Two configs, three layers of which one is shared, the attestation's config and statement.
    assert_eq!(image.blobs().len(), 7);
    let is_statement =
        |blob: &&smokegate_image::Blob| blob.digest().to_string() == statement["digest"];
    assert!(image.blobs().iter().any(|blob| is_statement(&blob)));

    let mut other = options();
    other.platform = "linux/arm64/v8".parse().unwrap();
    let image = Image::read(Box::new(content.tar().as_slice()), &other).unwrap();
    assert_eq!(image.selected().platform, "linux/arm64");
}

#[test]
fn one_manifest_listed_for_two_platforms() {
    let mut content = Content::layout();
    let layers = [content.layer(GZIP_LAYER, 1)];
    let image = content.image("amd64", &layers);
    let variant = |v: &str| {
        let platform = json!({"os": "linux", "architecture": "amd64", "variant": v});
        with(image.clone(), "platform", platform)
    };
    let root = content.index(&[variant("v3"), variant("v1")]);
    content.index_json(&[root]);
    let image = content.open().unwrap();
    assert_eq!(image.documents().len(), 2);
    assert_eq!(image.platforms().len(), 2);
    assert_eq!(image.selected().platform, "linux/amd64/v1");
}

#[test]
fn several_entries_are_chosen_by_name() {
    let mut content = Content::layout();
    let one = [content.layer(GZIP_LAYER, 1)];
    let one = content.image("amd64", &one);
    let two = [content.layer(GZIP_LAYER, 2)];
    let two = content.image("amd64", &two);
    content.index_json(&[
        named(one.clone(), "docker.io/library/app:v1"),
        named(one.clone(), "docker.io/library/app:latest"),
        named(two.clone(), "app2:v1"),
    ]);
    let tar = content.tar();
    for (name, expected) in [("app:v1", &one), ("latest", &one), ("app2:v1", &two)] {
        let image = open_as(&format!("oci-archive:FILE:{name}"), &tar).unwrap();
        assert_eq!(image.digest().to_string(), expected["digest"], "{name}");
    }
    let by_digest = format!("oci-archive:FILE:{}", two["digest"].as_str().unwrap());
    assert_eq!(
        open_as(&by_digest, &tar).unwrap().digest().to_string(),
        two["digest"]
    );
    // The same image under two names is one image.
    content.index_json(&[named(one.clone(), "a:1"), named(one, "a:2")]);
    assert_eq!(content.open().unwrap().names(), ["a:1", "a:2"]);
}

#[test]
fn docker_media_types_are_taken_as_they_are() {
    let mut content = Content::layout();
    let layer = content.layer(GZIP_LAYER, 1);
    let config = crate::content::config("amd64", std::slice::from_ref(&layer));
    let config = content.json_blob("application/vnd.docker.container.image.v1+json", &config);
    let docker_layer = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    let manifest_type = "application/vnd.docker.distribution.manifest.v2+json";
    let layers = [with(layer.descriptor, "mediaType", docker_layer.into())];
    let manifest = json!({"schemaVersion": 2, "mediaType": manifest_type,
                          "config": config, "layers": layers});
    let manifest = content.json_blob(manifest_type, &manifest);
    let list_type = "application/vnd.docker.distribution.manifest.list.v2+json";
    let list = json!({"schemaVersion": 2, "mediaType": list_type,
                      "manifests": [on(manifest, "amd64")]});
    let list = content.json_blob(list_type, &list);
    content.index_json(&[list]);
    let image = content.open().unwrap();
    assert_eq!(image.root().media_type, list_type);
    assert_eq!(read_layers(&image).unwrap(), [layer_tar(1)]);
}

#[test]
fn bytes_are_kept_as_they_are_written() {
    let mut content = Content::layout();
    let layer = content.layer(GZIP_LAYER, 1);
    let config = crate::content::config("amd64", std::slice::from_ref(&layer));
    let config = content.json_blob("application/vnd.oci.image.config.v1+json", &config);
    let text = format!(
        "{{\n  \"unknown\": 1e2,\n  \"layers\": [ {} ],\n  \"config\": {config},\n  \"schemaVersion\": 2 }}\n",
        layer.descriptor
    );
    let manifest = content.blob(MANIFEST, text.as_bytes());
    content.index_json(&[manifest]);
    assert_eq!(&*content.open().unwrap().root().bytes, text.as_bytes());
}

#[test]
fn compression_is_told_by_bytes_and_a_wrong_media_type_noted() {
    let mut content = Content::layout();
    let mut layer = content.layer(PLAIN_LAYER, 1);
    layer.descriptor = with(layer.descriptor, "mediaType", GZIP_LAYER.into());
    let image = content.image("amd64", &[layer]);
    content.index_json(&[image]);
    let image = content.open().unwrap();
    assert_eq!(read_layers(&image).unwrap(), [layer_tar(1)]);
    assert!(image.notes()[0].contains("(layer 1 of 1) is not compressed as its media type"));
}

#[test]
fn another_platforms_image_is_opened_where_nothing_is_run() {
    let mut content = Content::layout();
    let layers = [content.layer(GZIP_LAYER, 1)];
    let image = content.image("s390x", &layers);
    content.index_json(&[image]);
    let lax = smokegate_image::OpenOptions {
        require_platform: false,
        ..options()
    };
    let image = Image::read(Box::new(content.tar().as_slice()), &lax).unwrap();
    assert_eq!(image.selected().platform, "linux/s390x");
}
