//! `push`: what is published without running it, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use smokegate_image::Digest;
use smokegate_test_support::{
    Attestations, BuiltImage, Finished, ImageFixture, OciContent, RunAs, Smokegate, program,
};

use super::{beside_registry, oci_archive, ship, skopeo_digest, text};

#[test]
fn registry_real_rootless_push_publishes_without_running() {
    let Some((context, registry)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    // This image could not run.
    let (image, archive) = oci_archive(&context, "entrypoint-missing");
    let reference = registry.reference("team/app:v1");
    let run = push(&context, &archive, &reference, None);
    run.assert_code(0);
    assert_eq!(run.stdout, format!("{reference}@{}\n", image.digest()));
    assert_eq!(
        skopeo_digest(&format!("docker://{reference}")),
        image.digest().to_string()
    );
    registry.assert_image(&image);
    assert!(
        !context.dir().join("cache/smokegate").exists(),
        "push has no business in the store"
    );
}

#[test]
fn registry_real_rootless_push_takes_only_a_receipt_that_clears_the_image() {
    let Some((context, registry)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    let (image, archive) = oci_archive(&context, "serve");
    let (_, failing) = oci_archive(&context, "exits-3");
    let gate = |image: &Path| context.run(["gate", text(image), "--publish", "0:8080"]);

    gate(&failing).assert_code(1);
    let failed = context.write("failed.json", context.receipt().to_string());
    gate(&archive).assert_code(0);
    let passed = context.receipt();
    let good = context.write("passed.json", passed.to_string());
    let altered = |name: &str, change: &dyn Fn(&mut Value)| {
        let mut receipt = passed.clone();
        change(&mut receipt);
        context.write(name, receipt.to_string())
    };

    let reference = registry.reference("team/app:v1");
    let cases: [(&str, &Path, PathBuf, i32); 11] = [
        ("of another image", &failing, good.clone(), 1),
        ("failed", &failing, failed.clone(), 1),
        ("failed, of another image", &archive, failed, 1),
        (
            "without a variant",
            &archive,
            altered("a", &|r| r["variants"] = json!([])),
            1,
        ),
        (
            "partial",
            &archive,
            altered("b", &|r| r["partial"] = json!(true)),
            1,
        ),
        (
            "variant failed",
            &archive,
            altered("c", &|r| r["variants"][0]["verdict"] = json!("failed")),
            1,
        ),
        (
            "of a later version",
            &archive,
            altered("d", &|r| r["version"] = json!(999)),
            1,
        ),
        (
            "nothing tested",
            &archive,
            altered("e", &|r| r["image"]["tested"] = json!([])),
            1,
        ),
        ("not a receipt", &archive, context.write("f", "{}"), 2),
        ("not JSON", &archive, context.write("g", "\0rubbish"), 2),
        ("not there", &archive, context.dir().join("none.json"), 2),
    ];
    for (what, image, receipt, code) in cases {
        let run = push(&context, image, &reference, Some(&receipt));
        assert_eq!(run.code(), Some(code), "{what}: {}", run.stderr);
        assert!(
            run.stderr.starts_with("error: ") || run.stderr.contains("\nerror: "),
            "{}",
            run.stderr
        );
        assert!(
            run.stderr.contains(text(&receipt)),
            "{what}: {}",
            run.stderr
        );
        assert_eq!(run.stdout, "", "{what}");
        assert!(
            registry.server.is_empty(),
            "{what}: {}",
            registry.server.log()
        );
    }

    let run = push(&context, &archive, &reference, Some(&good));
    run.assert_code(0);
    assert_eq!(run.stdout, format!("{reference}@{}\n", image.digest()));
}

#[test]
fn registry_real_rootless_corrupt_layer_is_never_published() {
    let Some((context, registry)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    let reference = registry.reference("team/app:v1");
    for (index, packing) in ["gzip-multi", "gzip", "zstd", "plain"].iter().enumerate() {
        let (image, archive) = oci_archive(&context, "layers-packed");
        flip_a_byte(&archive, &image, index);
        let digest = image.layers[index].digest.to_string();
        let shipped = ship(&context, &archive, &[&reference], &[]);
        // Layers are verified before they are run.
        if index == 0 {
            assert!(registry.server.is_empty(), "{}", registry.server.log());
        }
        for run in [shipped, push(&context, &archive, &reference, None)] {
            assert_eq!(run.code(), Some(5), "{packing}: {}", run.stderr);
            assert!(
                run.stderr.contains(&digest),
                "{packing}: the layer is not named: {}",
                run.stderr
            );
            assert_eq!(run.stdout, "");
            registry.assert_no_manifest();
            // Another round may have sent it as it should be.
            if registry
                .server
                .blob_path(&image.layers[index].digest)
                .exists()
            {
                registry.assert_blob(&image.layers[index].digest);
            }
        }
    }
}

/// What somebody else's client reads back: the very documents and blobs.
#[test]
fn registry_real_rootless_skopeo_pulls_back_every_byte() {
    let Some((context, registry)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    let image = ImageFixture::load("layers-packed").build();
    let other = ImageFixture::load("two-ports")
        .for_platform("linux/s390x")
        .build();
    let index = OciContent::index_of(&[image.clone(), other], Attestations::PerImage);
    let file = |name: &str| context.dir().join(name);
    image.write_oci_archive(&file("single"), None);
    index.write_archive(&file("index"));
    image.write_docker_archive_legacy(&file("docker-archive"), None);
    // Manifest, configuration and layers; of the index four manifests with theirs.
    for form in ["single", "index", "docker-archive"] {
        let reference = registry.reference(&format!("team/{form}:v1"));
        let run = push(&context, &file(form), &reference, None);
        run.assert_code(0);
        let digest = run.stdout.trim().rsplit('@').next().unwrap().to_owned();
        let copy = tempfile::tempdir().unwrap();
        let output = program("skopeo")
            .args(["copy", "--quiet", "--all", "--src-tls-verify=false"])
            .arg(format!("docker://{reference}"))
            .arg(format!("dir:{}", copy.path().display()))
            .output()
            .unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{form}: {message}");
        let mut copied = Vec::new();
        for entry in fs::read_dir(copy.path()).unwrap() {
            let path = entry.unwrap().path();
            // Which form of directory this is.
            if !path.ends_with("version") {
                copied.push(Digest::sha256(&fs::read(&path).unwrap()).to_string());
            }
        }
        assert!(copied.contains(&digest), "{form}: {digest} {copied:?}");
        // Nothing that was pushed is missing.
        let pushed = registry.server.digests(&format!("team/{form}"));
        copied.sort();
        assert_eq!(copied, pushed, "{form}");
    }
}

/// The blobs are what their digests say, and may travel; what they decompress to is not what the configuration says.
#[test]
fn registry_real_rootless_layer_with_another_diff_id_is_never_published() {
    let Some((context, registry)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    let image = ImageFixture::load("layers-packed").build();
    let layout = context.dir().join("layout");
    image.write_oci_layout(&layout, None);
    let write = |bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        let path = layout.join("blobs/sha256").join(digest.hex());
        fs::write(path, bytes).unwrap();
        json!({ "digest": digest.to_string(), "size": bytes.len() })
    };
    let described = |descriptor: Value, other: &mut Value| {
        other["digest"] = descriptor["digest"].clone();
        other["size"] = descriptor["size"].clone();
    };
    let mut config: Value = serde_json::from_slice(&image.config).unwrap();
    // Of two that are wrong the first is named, whichever is read first.
    for layer in [1, 2] {
        let wrong = Digest::sha256(&[layer]).to_string();
        config["rootfs"]["diff_ids"][usize::from(layer)] = json!(wrong);
    }
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    described(
        write(config.to_string().as_bytes()),
        &mut manifest["config"],
    );
    let index = layout.join("index.json");
    let mut root: Value = serde_json::from_slice(&fs::read(&index).unwrap()).unwrap();
    described(
        write(manifest.to_string().as_bytes()),
        &mut root["manifests"][0],
    );
    fs::write(&index, root.to_string()).unwrap();

    let copy = format!("oci:{}:v1", context.dir().join("copy").display());
    for tag in [registry.reference("team/app:v1"), copy] {
        let run = push(&context, &layout, &tag, None);
        run.assert_code(5);
        assert!(run.stderr.contains("diff_id mismatch"), "{}", run.stderr);
        assert!(run.stderr.contains("layer 2 of"), "{}", run.stderr);
        assert!(
            run.stderr.contains("no manifest and no tag was written"),
            "{}",
            run.stderr
        );
        assert_eq!(run.stdout, "");
    }
    registry.assert_no_manifest();
    assert!(!context.dir().join("copy/index.json").exists());
}

/// A complete pass for this digest says of its layers that they are what they should be: none is decompressed again,
/// and each is still compared with its digest as it is sent.
#[test]
fn registry_real_rootless_push_with_a_receipt_still_compares_digests() {
    let Some((context, registry)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    let (image, archive) = oci_archive(&context, "layers-packed");
    let gate = context.run(["gate", text(&archive), "--publish", "0:8080"]);
    gate.assert_code(0);
    let receipt = context.write("passed.json", context.receipt().to_string());
    flip_a_byte(&archive, &image, 0);
    let reference = registry.reference("team/app:v1");
    let run = push(&context, &archive, &reference, Some(&receipt));
    run.assert_code(5);
    let digest = image.layers[0].digest.to_string();
    assert!(run.stderr.contains(&digest), "{}", run.stderr);
    registry.assert_no_manifest();
}

#[test]
fn registry_real_rootless_dry_run_publishes_nothing() {
    let Some((context, registry)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    let (image, archive) = oci_archive(&context, "serve");
    let reference = registry.reference("team/app:v1");
    let shipped = ship(&context, &archive, &[&reference], &["--dry-run"]);
    let pushed = context.run(["push", text(&archive), "--tag", &reference, "--dry-run"]);
    for run in [&shipped, &pushed] {
        run.assert_code(0);
        for digest in [
            image.digest(),
            image.config_digest(),
            image.layers[0].digest.clone(),
        ] {
            assert!(
                run.stdout.contains(&digest.to_string()),
                "{digest}: {}",
                run.stdout
            );
        }
        assert!(
            run.stdout.contains(&reference) || run.stdout.contains("team/app:v1"),
            "{}",
            run.stdout
        );
        assert!(registry.server.is_empty(), "{}", registry.server.log());
    }
    assert_eq!(shipped.stdout, pushed.stdout);
    assert_eq!(registry.requests("POST") + registry.requests("PUT"), 0);
}

pub(super) fn push(
    context: &Smokegate,
    image: &Path,
    tag: &str,
    receipt: Option<&Path>,
) -> Finished {
    let mut words = vec!["push", text(image), "--tag", tag];
    if let Some(receipt) = receipt {
        words.extend(["--receipt", text(receipt)]);
    }
    context.run(words)
}

/// Changes one byte in the middle of a layer, wherever the archive has it.
fn flip_a_byte(archive: &Path, image: &BuiltImage, layer: usize) {
    let blob = fs::read(image.layers[layer].file.path()).unwrap();
    let mut bytes = fs::read(archive).unwrap();
    let place = bytes
        .windows(blob.len())
        .position(|window| window == blob)
        .unwrap();
    bytes[place + blob.len() / 2] ^= 0x20;
    fs::write(archive, bytes).unwrap();
}
