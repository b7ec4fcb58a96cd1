//! `push`: what is published without running it, and what is refused.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use smokegate_test_support::{BuiltImage, Finished, RunAs, Smokegate};

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
        for run in [
            ship(&context, &archive, &[&reference], &[]),
            push(&context, &archive, &reference, None),
        ] {
            assert_eq!(run.code(), Some(5), "{packing}: {}", run.stderr);
            assert!(
                run.stderr.contains(&digest),
                "{packing}: the layer is not named: {}",
                run.stderr
            );
            assert_eq!(run.stdout, "");
            assert!(
                registry.server.is_empty(),
                "{packing}: {}",
                registry.server.log()
            );
        }
    }
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
