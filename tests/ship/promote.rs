//! `promote`: tags for what is in a registry, with all that belongs to it.

use std::path::PathBuf;

use smokegate_test_support::{
    Attestations, EcrManners, FakeEcr, Finished, ImageFixture, OciContent, RegistryOptions, RunAs,
    Smokegate,
};

use super::receipts::key_pair;
use super::{Registry, beside_registry, oci_archive, ship, skopeo_digest, smokegate, text};

fn promote(context: &Smokegate, source: &str, tags: &[&str], more: &[&str]) -> Finished {
    let mut words = vec!["promote", source];
    tags.iter().for_each(|tag| words.extend(["--tag", tag]));
    words.extend(more);
    context.run(words)
}

/// An index of two platforms with attestations.
fn index(context: &Smokegate) -> (OciContent, PathBuf) {
    let foreign = if cfg!(target_arch = "x86_64") {
        "linux/arm64"
    } else {
        "linux/amd64"
    };
    let own = ImageFixture::load("serve").build();
    let other = ImageFixture::load("two-ports")
        .for_platform(foreign)
        .build();
    let index = OciContent::index_of(&[other, own], Attestations::PerImage);
    let archive = context.dir().join("index.tar");
    index.write_archive(&archive);
    (index, archive)
}

fn everywhere(run_as: RunAs) {
    let Some((context, registry)) = beside_registry(run_as) else {
        return;
    };
    let Some(other) = Registry::start(RegistryOptions::default()) else {
        return;
    };
    let Some((key, public)) = key_pair(&context, "own") else {
        return;
    };
    let (index, archive) = index(&context);
    let source = registry.reference("team/build:ci");
    let sign = ["--attach-receipt", "--sign-key", text(&key)];
    ship(&context, &archive, &[&source], &sign).assert_code(0);
    let uploads = registry.requests("PUT");

    let same = registry.reference("team/build:stable");
    let beside = registry.reference("team/app:1.0.0");
    let (there, latest) = (
        other.reference("shop/app:1.0.0"),
        other.reference("shop/app:latest"),
    );
    let tags = [latest.as_str(), &same, &beside, &there];
    let required = ["--require-receipt", "--verify-key", text(&public)];
    let shown = promote(&context, &source, &tags, &["--dry-run"]);
    shown.assert_code(0);
    assert!(
        shown.stdout.contains(" from team/build"),
        "{}",
        shown.stdout
    );
    assert!(!registry.server.has_repository("team/app") && other.server.is_empty());

    let run = promote(&context, &source, &tags, &required);
    run.assert_code(0);
    // In the order in which they were moved: `latest` at the very end.
    let digest = index.digest();
    let order = [&beside, &there, &same, &latest];
    let lines: String = order
        .iter()
        .map(|tag| format!("{tag}@{digest}\n"))
        .collect();
    assert_eq!(run.stdout, lines);
    for reference in order {
        assert_eq!(
            skopeo_digest(&format!("docker://{reference}")),
            digest.to_string()
        );
        let run = context.run(["verify", reference, "--verify-key", text(&public)]);
        run.assert_code(0);
    }
    // Nothing was sent again inside the registry.
    let log = registry.server.log();
    assert!(!log.contains("\"PUT /v2/team/app/blobs/"), "{log}");
    assert!(uploads < registry.requests("PUT"));
    // An independent reader gets all of it.
    let copied = format!("dir:{}", context.dir().join("copied").display());
    let status = smokegate_test_support::program("skopeo")
        .args(["copy", "--quiet", "--all", "--src-tls-verify=false"])
        .args([&format!("docker://{there}"), &copied])
        .status()
        .unwrap();
    assert!(status.success());

    // Once more: there is nothing to do.
    let before = (registry.requests("PUT"), other.requests("PUT"));
    let posts = other.requests("POST");
    promote(&context, &source, &tags, &required).assert_code(0);
    assert_eq!((registry.requests("PUT"), other.requests("PUT")), before);
    assert_eq!(other.requests("POST"), posts);
}

#[test]
fn registry_real_root_promotes_what_was_tested() {
    everywhere(RunAs::Root);
}

#[test]
fn registry_real_rootless_promotes_what_was_tested() {
    everywhere(RunAs::OrdinaryUser);
}

#[test]
fn registry_real_rootless_promotes_into_archives_and_layouts() {
    let Some((context, registry)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    let (image, archive) = oci_archive(&context, "layers-packed");
    let source = registry.reference("team/app:v1");
    ship(&context, &archive, &[&source], &["--attach-receipt"]).assert_code(0);
    let tags = ["oci:layout:v1", "oci-archive:out.tar:v1"];
    let by_digest = format!(
        "docker://{}@{}",
        registry.reference("team/app"),
        image.digest()
    );
    promote(&context, &by_digest, &tags, &[]).assert_code(0);
    for place in ["oci:layout:v1", "oci-archive:out.tar:v1"] {
        let run = context.run(["verify", place, "--allow-unsigned"]);
        run.assert_code(0);
        assert_eq!(run.stdout, format!("{}\n", image.digest()));
        // Every layer is there.
        context
            .run(["push", place, "--tag", "oci:again:v1"])
            .assert_code(0);
    }
}

#[test]
fn registry_real_rootless_what_cannot_be_promoted_is_said() {
    let Some((context, registry)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    let (_, archive) = oci_archive(&context, "serve");
    let source = registry.reference("team/app:v1");
    context
        .run(["push", text(&archive), "--tag", &source])
        .assert_code(0);
    let missing = registry.reference("team/app:v2");
    let nowhere = "127.0.0.1:1/team/app:v1";
    let to = registry.reference("team/app:stable");
    for (source, tags, code, said) in [
        (missing.as_str(), vec![to.as_str()], 4, "has no tag `v2`"),
        (nowhere, vec![&to], 4, "cannot pull"),
        // A file's name, right or wrong, is not looked for at Docker Hub.
        (text(&archive), vec![&to], 2, "names no registry"),
        ("app.tar", vec![&to], 2, "names no registry"),
        (
            "oci-archive:serve.tar",
            vec![&to],
            2,
            "is not in a registry",
        ),
        (&source, vec![], 2, "no tag to promote to"),
        (&source, vec!["127.0.0.1:1/team/app:v1"], 6, "127.0.0.1:1"),
    ] {
        let run = promote(&context, source, &tags, &[]);
        assert_eq!(run.code(), Some(code), "{source}: {}", run.stderr);
        assert!(run.stderr.contains(said), "{}", run.stderr);
        assert!(run.stderr.contains("error: "), "{}", run.stderr);
        assert_eq!(run.stdout, "");
    }
    assert_eq!(registry.server.tags("team/app"), ["v1"]);
}

/// ECR lists referrers itself, mounts only where the account says so, and gives one token for all of it.
#[test]
fn rootless_promotes_within_ecr() {
    for mounts in [true, false] {
        let Some(mut context) = smokegate(RunAs::OrdinaryUser) else {
            return;
        };
        let fake = FakeEcr::start(EcrManners {
            mounts,
            ..EcrManners::default()
        });
        for (name, value) in fake.environment() {
            context.env(&name, value);
        }
        let config = context.write("registries.toml", fake.registry_config());
        let config = ["--registry-config", text(&config)];
        for name in ["team/build", "team/app"] {
            fake.create(name);
            fake.state().repository(name).immutable = true;
        }
        let (image, archive) = oci_archive(&context, "serve");
        let source = format!("{}/team/build:1.0", FakeEcr::HOST);
        let mut more = vec!["--attach-receipt"];
        more.extend(config);
        ship(&context, &archive, &[&source], &more).assert_code(0);

        let asked = {
            let mut state = fake.state();
            state.requests.clear();
            state.token_requests.len()
        };
        let to = format!("{}/team/app:1.0", FakeEcr::HOST);
        let mut more = vec!["--require-receipt", "--allow-unsigned"];
        more.extend(config);
        promote(&context, &source, &[&to], &more).assert_code(0);
        let mut state = fake.state();
        assert_eq!(state.token_requests.len(), asked + 1);
        let sent = state.count("PUT", "/v2/team/app/blobs/uploads/");
        assert_eq!(sent, if mounts { 0 } else { 4 });
        let repository = state.repository("team/app").clone();
        assert_eq!(
            repository.tags.into_iter().collect::<Vec<_>>(),
            [("1.0".to_owned(), image.digest().to_string())]
        );
        // The image and its receipt.
        assert_eq!(repository.manifests.len(), 2);
        assert_eq!(state.premature, Vec::<String>::new());
    }
}
