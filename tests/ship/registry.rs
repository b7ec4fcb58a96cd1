//! Every form of archive into Debian's docker-registry, and what must not get there.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use smokegate_image::Digest;
use smokegate_test_support::{
    Attestations, ImageFixture, OciContent, RegistryOptions, RunAs, Smokegate, free_port,
};

use super::{Registry, beside_registry, oci_archive, ship, skopeo_digest, smokegate, text};

#[test]
fn registry_real_root_ships_every_form() {
    every_form(RunAs::Root);
}

#[test]
fn registry_real_rootless_ships_every_form() {
    every_form(RunAs::OrdinaryUser);
}

fn every_form(run_as: RunAs) {
    let Some((context, registry)) = beside_registry(run_as) else {
        return;
    };
    let image = ImageFixture::load("layers-packed").build();
    let file = |name: &str| context.dir().join(name);
    image.write_oci_layout(&file("layout"), Some("any"));
    image.write_oci_archive(&file("oci.tar"), Some("any"));
    image.write_docker_archive(&file("saved.tar"), Some("demo/app:1"));
    image.write_docker_archive_legacy(&file("legacy.tar"), Some("demo/app:1"));

    // An archive that is both forms is read as OCI: its own manifest is shipped.
    for form in ["layout", "oci.tar", "saved.tar"] {
        let repository = format!("team/{}", form.replace('.', "-"));
        let reference = registry.reference(&format!("{repository}:v1"));
        let run = ship(&context, &file(form), &[&reference], &[]);
        run.assert_code(0);
        assert_eq!(
            run.stdout,
            format!("{reference}@{}\n", image.digest()),
            "{form}"
        );
        assert_receipt_and_tag_agree(&context, &reference);
        assert!(registry.server.has_repository(&repository));
    }
    registry.assert_image(&image);

    let reference = registry.reference("team/stdin:v1");
    let mut command = context.command(["ship", "-", "--publish", "0:8080", "--tag", &reference]);
    command.stdin(File::open(file("oci.tar")).unwrap());
    let run = context.start_command(command).wait(Duration::from_secs(60));
    run.assert_code(0);
    assert_eq!(run.stdout, format!("{reference}@{}\n", image.digest()));
    assert_receipt_and_tag_agree(&context, &reference);

    let reference = registry.reference("team/legacy:v1");
    let run = ship(&context, &file("legacy.tar"), &[&reference], &[]);
    run.assert_code(0);
    assert_receipt_and_tag_agree(&context, &reference);
    let record = &context.receipt()["image"];
    assert_eq!(record["manifest_made_here"], true);
    assert_eq!(
        run.stdout,
        format!("{reference}@{}\n", record["digest"].as_str().unwrap())
    );
    assert!(
        run.stderr
            .contains("note: a docker-archive has no manifest"),
        "{}",
        run.stderr
    );
    // The archive holds plain tars: those travel.
    image
        .layers
        .iter()
        .for_each(|layer| registry.assert_blob(&layer.diff_id));
}

#[track_caller]
fn assert_receipt_and_tag_agree(context: &Smokegate, reference: &str) {
    let receipt = context.receipt();
    assert_eq!(receipt["verdict"], "passed");
    let published = receipt["published"].as_array().unwrap();
    assert_eq!(published.len(), 1);
    assert!(
        published[0]["reference"]
            .as_str()
            .unwrap()
            .ends_with(reference),
        "{receipt}"
    );
    assert_eq!(published[0]["digest"], receipt["image"]["digest"]);
    assert_eq!(
        skopeo_digest(&format!("docker://{reference}")),
        published[0]["digest"]
    );
}

#[test]
fn registry_real_rootless_second_run_uploads_nothing() {
    let Some((context, registry)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    let (_, archive) = oci_archive(&context, "serve");
    let reference = registry.reference("team/app:v1");
    ship(&context, &archive, &[&reference], &[]).assert_code(0);
    let (posts, puts) = (registry.requests("POST"), registry.requests("PUT"));
    assert!(posts >= 2 && puts >= 3, "{}", registry.server.log());

    let run = ship(&context, &archive, &[&reference], &[]);
    run.assert_code(0);
    assert_eq!(
        registry.requests("POST"),
        posts,
        "{}",
        registry.server.log()
    );
    assert!(run.stderr.contains("0 blobs uploaded"), "{}", run.stderr);
    assert!(run.stderr.contains("all in the store"), "{}", run.stderr);
}

#[test]
fn registry_real_root_failing_image_leaves_nothing() {
    failing_image(RunAs::Root);
}

#[test]
fn registry_real_rootless_failing_image_leaves_nothing() {
    failing_image(RunAs::OrdinaryUser);
}

fn failing_image(run_as: RunAs) {
    let Some((context, registry)) = beside_registry(run_as) else {
        return;
    };
    let reference = registry.reference("team/app:v1");
    for fixture in ["exits-3", "answers-500", "listens-on-loopback"] {
        let (_, archive) = oci_archive(&context, fixture);
        let run = ship(
            &context,
            &archive,
            &[&reference],
            &["--within", "2s", "--interval", "500ms"],
        );
        run.assert_code(1);
        assert_eq!(run.stdout, "", "{fixture}");
        assert!(
            registry.server.is_empty(),
            "{fixture}: {}",
            registry.server.log()
        );
        let receipt = context.receipt();
        assert_eq!(
            (&receipt["verdict"], &receipt["published"]),
            (&"failed".into(), &serde_json::json!([]))
        );
    }
    assert_eq!(registry.requests("POST") + registry.requests("PUT"), 0);
}

#[test]
fn registry_real_rootless_latest_moves_last() {
    let Some((context, registry)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    let (image, archive) = oci_archive(&context, "serve");
    let names = ["one/app:latest", "one/app:v1", "two/app:v1"];
    let tags = names.map(|name| registry.reference(name));
    let run = ship(
        &context,
        &archive,
        &tags.each_ref().map(String::as_str),
        &["--create-repository=immutable"],
    );
    run.assert_code(0);
    assert!(
        run.stderr
            .contains("--create-repository does nothing for 127.0.0.1"),
        "{}",
        run.stderr
    );

    let mut lines: Vec<_> = run.stdout.lines().collect();
    lines.sort_unstable();
    let mut expected: Vec<_> = tags
        .iter()
        .map(|tag| format!("{tag}@{}", image.digest()))
        .collect();
    expected.sort_unstable();
    assert_eq!(lines, expected);
    for tag in &tags {
        assert_eq!(
            skopeo_digest(&format!("docker://{tag}")),
            image.digest().to_string()
        );
    }

    let log = registry.server.log();
    let put = |path: &str| {
        log.rfind(&format!("\"PUT /v2/{path} "))
            .unwrap_or_else(|| panic!("no PUT of {path}:\n{log}"))
    };
    let latest = put("one/app/manifests/latest");
    assert!(
        put("one/app/manifests/v1") < latest && put("two/app/manifests/v1") < latest,
        "{log}"
    );
    // No tag is moved before every repository holds the whole image.
    let first_tag = put("one/app/manifests/v1").min(put("two/app/manifests/v1"));
    let last_manifest = put(&format!("two/app/manifests/{}", image.digest()));
    assert!(last_manifest < first_tag, "{log}");
    // Each blob travels once: the second repository mounts it.
    let sent = |name: &str| {
        log.matches(&format!("\"PUT /v2/{name}/blobs/uploads/"))
            .count()
    };
    assert_eq!((sent("one/app"), sent("two/app")), (2, 0), "{log}");
}

#[test]
fn rootless_registry_that_does_not_answer_is_noticed_before_anything_runs() {
    let Some(context) = smokegate(RunAs::OrdinaryUser) else {
        return;
    };
    let (_, archive) = oci_archive(&context, "serve");
    let nobody = format!("127.0.0.1:{}", free_port().unwrap());
    let run = ship(&context, &archive, &[&format!("{nobody}/team/app:v1")], &[]);
    run.assert_code(6);
    assert!(
        run.stderr.contains(&nobody) && run.stderr.contains("error: "),
        "{}",
        run.stderr
    );
    assert!(!run.stderr.contains("running"), "{}", run.stderr);
    assert!(!context.dir().join("smokegate-report").exists());
    assert!(!context.dir().join("cache/smokegate/layers").exists());
}

#[test]
fn registry_real_rootless_registry_that_refuses_writes_gets_no_tag() {
    let Some(context) = smokegate(RunAs::OrdinaryUser) else {
        return;
    };
    let options = RegistryOptions {
        read_only: true,
        ..RegistryOptions::default()
    };
    let Some(registry) = Registry::start(options) else {
        return;
    };
    let (_, archive) = oci_archive(&context, "serve");
    let run = ship(
        &context,
        &archive,
        &[&registry.reference("team/app:v1")],
        &[],
    );
    run.assert_code(6);
    assert_eq!(run.stdout, "");
    assert!(
        run.stderr.contains(&registry.server.address()),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("error: "), "{}", run.stderr);
    assert!(registry.server.tags("team/app").is_empty());
}

#[test]
fn registry_real_rootless_ships_an_index_whole() {
    let Some((context, registry)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    let own = ImageFixture::load("serve").build();
    let foreign = if own.platform == "linux/arm64" {
        "linux/amd64"
    } else {
        "linux/arm64"
    };
    let other = ImageFixture::load("two-ports")
        .for_platform(foreign)
        .build();
    let index = OciContent::index_of(&[other.clone(), own.clone()], Attestations::PerImage);
    let archive: PathBuf = context.dir().join("index.tar");
    index.write_archive(&archive);

    let reference = registry.reference("team/index:v1");
    let run = ship(&context, &archive, &[&reference], &[]);
    run.assert_code(0);
    assert_eq!(run.stdout, format!("{reference}@{}\n", index.digest()));
    assert_receipt_and_tag_agree(&context, &reference);
    registry.assert_image(&own);
    registry.assert_image(&other);

    // Every child of the index, the attestations too, and all they name.
    let stored = std::fs::read(registry.server.blob_path(&index.digest())).unwrap();
    let stored: serde_json::Value = serde_json::from_slice(&stored).unwrap();
    let children = stored["manifests"].as_array().unwrap();
    assert_eq!(children.len(), 4);
    for child in children {
        let digest: Digest = child["digest"].as_str().unwrap().parse().unwrap();
        registry.assert_blob(&digest);
        let child = std::fs::read(registry.server.blob_path(&digest)).unwrap();
        let child: serde_json::Value = serde_json::from_slice(&child).unwrap();
        for blob in child["layers"]
            .as_array()
            .unwrap()
            .iter()
            .chain([&child["config"]])
        {
            registry.assert_blob(&blob["digest"].as_str().unwrap().parse().unwrap());
        }
    }

    let record = &context.receipt()["image"];
    assert_eq!(record["tested"][0]["manifest"], own.digest().to_string());
    assert_eq!(record["tested"].as_array().unwrap().len(), 1);
    assert_eq!(
        record["untested"][0]["manifest"],
        other.digest().to_string()
    );
    assert_eq!(record["untested"][0]["platform"], foreign);
    assert_eq!(record["untested"].as_array().unwrap().len(), 1);
}

#[test]
fn registry_real_rootless_json_puts_the_receipt_on_stdout() {
    let Some((context, registry)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    let (image, archive) = oci_archive(&context, "serve");
    let reference = registry.reference("team/app:v1");
    let run = ship(&context, &archive, &[&reference], &["--format", "json"]);
    run.assert_code(0);
    let printed: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(printed, context.receipt());
    assert_eq!(
        printed["published"][0]["digest"],
        image.digest().to_string()
    );

    let words = [
        "push",
        text(&archive),
        "--tag",
        &reference,
        "--format",
        "json",
    ];
    let run = context.run(words);
    run.assert_code(0);
    let printed: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        printed["published"][0]["digest"],
        image.digest().to_string()
    );
    assert_eq!(printed["published"][0]["moved"], false);
    assert!(
        printed.get("verdict").is_none(),
        "nothing was run: {printed}"
    );
}
