//! Targets that are files, and images that have no manifest of their own.

use std::fs;
use std::path::Path;
use std::process::Output;

use serde_json::Value;
use smokegate_image::{Compression, Decoder, Digest};
use smokegate_test_support::{ImageFixture, Need, RunAs, program, require};

use super::{beside_registry, oci_archive, ship, skopeo_digest, smokegate, text};

#[test]
fn root_ships_to_layouts_and_archives() {
    layouts_and_archives(RunAs::Root);
}

#[test]
fn rootless_ships_to_layouts_and_archives() {
    layouts_and_archives(RunAs::OrdinaryUser);
}

fn layouts_and_archives(run_as: RunAs) {
    if !require(Need::Skopeo) {
        return;
    }
    let Some(context) = smokegate(run_as) else {
        return;
    };
    let (image, archive) = oci_archive(&context, "layers-packed");
    let place = |name: &str| context.dir().join(name).display().to_string();
    let tags = [
        format!("oci:{}:v1", place("layout")),
        format!("oci-archive:{}:v1", place("out.tar")),
    ];
    let run = ship(
        &context,
        &archive,
        &tags.each_ref().map(String::as_str),
        &[],
    );
    run.assert_code(0);
    let mut expected: Vec<_> = tags
        .iter()
        .map(|tag| format!("{tag}@{}", image.digest()))
        .collect();
    expected.sort_unstable();
    let mut lines: Vec<_> = run.stdout.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, expected);
    for tag in &tags {
        assert_eq!(skopeo_digest(tag), image.digest().to_string(), "{tag}");
        // Copying reads every blob and compares it with its digest.
        let copy = tempfile::tempdir().unwrap();
        assert_success(
            program("skopeo")
                .args(["copy", "-q", tag])
                .arg(format!("dir:{}", copy.path().display()))
                .output()
                .unwrap(),
        );
        for layer in &image.layers {
            let copied = fs::read(copy.path().join(layer.digest.hex())).unwrap();
            assert_eq!(Digest::sha256(&copied), layer.digest);
        }
    }

    // A second tag joins the first one.
    let second = format!("oci:{}:v2", place("layout"));
    ship(&context, &archive, &[&second], &[]).assert_code(0);
    assert_eq!(skopeo_digest(&second), skopeo_digest(&tags[0]));
}

#[test]
fn rootless_docker_archive_has_one_digest_everywhere() {
    if !require(Need::Skopeo) {
        return;
    }
    let image = ImageFixture::load("layers-packed").build();
    for compress in ["none", "gzip", "zstd"] {
        let mut digests = Vec::new();
        for name in ["first.tar", "second.tar"] {
            let Some(context) = smokegate(RunAs::OrdinaryUser) else {
                return;
            };
            let archive = context.dir().join(name);
            image.write_docker_archive_legacy(&archive, Some("demo/app:1"));
            let layout = context.dir().join("layout");
            let tag = format!("oci:{}:v1", layout.display());
            let words = ["--compress", compress];
            for _ in 0..2 {
                ship(&context, &archive, &[&tag], &words).assert_code(0);
                let digest = skopeo_digest(&tag);
                assert_eq!(context.receipt()["image"]["digest"], digest);
                digests.push(digest);
            }
            assert_layers(
                &layout,
                &digests[0],
                compress,
                &image
                    .layers
                    .iter()
                    .map(|layer| layer.diff_id.clone())
                    .collect::<Vec<_>>(),
            );
        }
        assert!(
            digests.iter().all(|digest| *digest == digests[0]),
            "{compress}: {digests:?}"
        );
    }
}

#[test]
fn registry_real_rootless_compressed_layers_come_back() {
    let Some((context, registry)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    let image = ImageFixture::load("layers-packed").build();
    let archive = context.dir().join("legacy.tar");
    image.write_docker_archive_legacy(&archive, None);
    for compress in ["gzip", "zstd"] {
        let reference = registry.reference(&format!("team/{compress}:v1"));
        ship(&context, &archive, &[&reference], &["--compress", compress]).assert_code(0);
        let layout = tempfile::tempdir().unwrap();
        let copy = format!("oci:{}:v1", layout.path().display());
        let from = format!("docker://{reference}");
        assert_success(
            program("skopeo")
                .args(["copy", "-q", "--src-tls-verify=false", &from, &copy])
                .output()
                .unwrap(),
        );
        let digest = skopeo_digest(&from);
        assert_eq!(context.receipt()["image"]["digest"], digest);
        let diff_ids: Vec<_> = image
            .layers
            .iter()
            .map(|layer| layer.diff_id.clone())
            .collect();
        assert_layers(layout.path(), &digest, compress, &diff_ids);
    }
}

#[test]
fn rootless_compressing_what_has_a_manifest_is_refused() {
    let Some(context) = smokegate(RunAs::OrdinaryUser) else {
        return;
    };
    let (_, archive) = oci_archive(&context, "serve");
    let layout = context.dir().join("layout");
    let tag = format!("oci:{}:v1", layout.display());
    let run = ship(&context, &archive, &[&tag], &["--compress", "gzip"]);
    run.assert_code(2);
    assert!(run.stderr.contains("manifest of its own"), "{}", run.stderr);
    assert!(!run.stderr.contains("running"), "{}", run.stderr);
    assert!(!layout.join("index.json").exists());
    let run = context.run(["push", text(&archive), "--tag", &tag, "--compress", "zstd"]);
    run.assert_code(2);
    assert!(!layout.join("index.json").exists());
}

/// Every layer of the image in `layout` is compressed as asked and unpacks to its diff id.
fn assert_layers(layout: &Path, digest: &str, compress: &str, diff_ids: &[Digest]) {
    let blob = |digest: &str| layout.join("blobs").join(digest.replace(':', "/"));
    let manifest: Value = serde_json::from_slice(&fs::read(blob(digest)).unwrap()).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    assert_eq!(layers.len(), diff_ids.len());
    let (compression, suffix) = match compress {
        "gzip" => (Compression::Gzip, "tar+gzip"),
        "zstd" => (Compression::Zstd, "tar+zstd"),
        _ => (Compression::None, "tar"),
    };
    for (layer, diff_id) in layers.iter().zip(diff_ids) {
        let media_type = layer["mediaType"].as_str().unwrap();
        assert!(media_type.ends_with(suffix), "{compress}: {media_type}");
        let file = fs::File::open(blob(layer["digest"].as_str().unwrap())).unwrap();
        let mut tar = Vec::new();
        std::io::copy(&mut Decoder::new(file, compression).unwrap(), &mut tar).unwrap();
        assert_eq!(Digest::sha256(&tar), *diff_id);
    }
    let config: Value = serde_json::from_slice(
        &fs::read(blob(manifest["config"]["digest"].as_str().unwrap())).unwrap(),
    )
    .unwrap();
    let listed: Vec<_> = diff_ids.iter().map(Digest::to_string).collect();
    assert_eq!(config["rootfs"]["diff_ids"], serde_json::json!(listed));
}

#[track_caller]
fn assert_success(output: Output) {
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
