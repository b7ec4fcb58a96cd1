//! Images and services that are in a registry.

use smokegate_test_support::{RunAs, Smokegate, free_port};

use super::{Registry, beside_registry, oci_archive, skopeo_digest, smokegate, text};

/// `smoke:smoketest` as an auth file holds it.
const RIGHT: &str = "c21va2U6c21va2V0ZXN0";

fn gate_file(image: &str) -> String {
    format!(
        r#"
version: 1
services:
  backend:
    image: "{image}"
    command: [--port, "9090", --path, /ready]
    probes:
      - {{http: {{port: 9090, path: /ready}}, within: 10s}}
app:
  ports: ["0:8080"]
  depends_on: [backend]
  probes:
    - {{http: {{path: /healthz}}, interval: 100ms, within: 10s}}
"#
    )
}

/// Puts the fixture into the registry by `smokegate push`; the reference with its transport.
fn pushed(context: &Smokegate, registry: &Registry, fixture: &str, name: &str) -> String {
    let (_, archive) = oci_archive(context, fixture);
    let reference = registry.reference(name);
    context
        .run(["push", text(&archive), "--tag", &reference])
        .assert_code(0);
    format!("docker://{reference}")
}

/// How often the registry was asked for something with GET.
fn gets(registry: &Registry, part: &str) -> usize {
    let log = registry.server.log();
    let lines = log.lines().filter(|line| line.contains("\"GET /v2/"));
    lines.filter(|line| line.contains(part)).count()
}

fn image_and_service(run_as: RunAs) {
    let Some(mut context) = smokegate(run_as) else {
        return;
    };
    let Some(registry) = Registry::with_password() else {
        return;
    };
    let address = registry.server.address();
    let auths = format!(r#"{{"auths": {{"{address}": {{"auth": "{RIGHT}"}}}}}}"#);
    let auth_file = context.write("auth.json", auths);
    context.env("REGISTRY_AUTH_FILE", auth_file);
    let source = pushed(&context, &registry, "layers-packed", "team/app:v1");
    let service = pushed(&context, &registry, "serve", "team/backend:v1");
    let digest = skopeo_digest_of(&context, &service);
    context.write("smokegate.yaml", gate_file(&format!("{service}@{digest}")));

    let before = gets(&registry, "/blobs/");
    context.run(["gate", &source]).assert_code(0);
    let first = gets(&registry, "/blobs/") - before;
    let receipt = context.receipt();
    assert_eq!(receipt["image"]["source"], source.as_str());
    assert_eq!(receipt["services"][0]["digest"], digest.as_str());
    assert_eq!(
        receipt["services"][0]["source"],
        format!("{service}@{digest}")
    );
    // Again, with the service's layers in the store: of it the config alone is fetched.
    context.run(["gate", &source]).assert_code(0);
    let again = gets(&registry, "/blobs/") - before - first;
    assert_eq!(again, first - 1, "the service has one layer");

    // The very bytes go on to another place.
    let shipped = context.run(["ship", &source, "--tag", "oci:out:v1"]);
    shipped.assert_code(0);
    let tested = context.receipt()["image"]["digest"].clone();
    assert_eq!(
        shipped.stdout,
        format!("oci:out:v1@{}\n", tested.as_str().unwrap())
    );
    let out = format!("oci:{}:v1", context.dir().join("out").display());
    assert_eq!(skopeo_digest(&out), tested.as_str().unwrap());
    // What was fetched is gone.
    let run_dirs = std::fs::read_dir(context.dir().join("cache/smokegate/run")).unwrap();
    assert_eq!(run_dirs.count(), 0);
}

/// The digest of an image in a registry that asks for a password, as `inspect` says it.
fn skopeo_digest_of(context: &Smokegate, source: &str) -> String {
    let shown = context.run(["inspect", source, "--format", "json"]);
    shown.assert_code(0);
    let json: serde_json::Value = serde_json::from_str(&shown.stdout).unwrap();
    json["digest"].as_str().unwrap().to_owned()
}

#[test]
fn registry_real_root_gates_an_image_and_a_service_from_a_registry() {
    image_and_service(RunAs::Root);
}

#[test]
fn registry_real_rootless_gates_an_image_and_a_service_from_a_registry() {
    image_and_service(RunAs::OrdinaryUser);
}

#[test]
fn registry_real_rootless_inspect_fetches_no_layer() {
    let Some((context, registry)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    let source = pushed(&context, &registry, "serve", "team/app:v1");
    let before = gets(&registry, "/blobs/");
    let shown = context.run(["inspect", &source]);
    shown.assert_code(0);
    assert!(shown.stdout.contains("entrypoint:"), "{}", shown.stdout);
    assert_eq!(gets(&registry, "/blobs/") - before, 1, "the config");
}

#[test]
fn registry_real_rootless_a_source_that_cannot_be_had_is_named() {
    let Some((context, registry)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    let (image, archive) = oci_archive(&context, "serve");
    let source = pushed(&context, &registry, "serve", "team/app:v1");
    let nowhere = format!("docker://127.0.0.1:{}/team/app:v1", free_port().unwrap());
    let no_tag = format!("{source}.1");
    let other = format!("{source}@sha256:{}", "a".repeat(64));
    let cases = [
        (&nowhere, "no answer to GET", "bring the image along"),
        (&no_tag, "has no tag `v1.1` in `team/app`", "list-tags"),
        (&other, "has no manifest sha256:aaaa", "list-tags"),
    ];
    for (source, cause, hint) in cases {
        let name = source.trim_start_matches("docker://");
        let as_image = context.run(["gate", "--no-file", source]);
        context.write("smokegate.yaml", gate_file(source));
        let as_service = context.run(["gate", text(&archive)]);
        for run in [&as_image, &as_service] {
            run.assert_code(4);
            let errors: Vec<_> = run
                .stderr
                .lines()
                .filter(|l| l.contains("error:"))
                .collect();
            assert_eq!(errors.len(), 1, "{}", run.stderr);
            assert!(
                errors[0].contains(&format!("cannot pull `{name}`")) && errors[0].contains(cause),
                "{}",
                run.stderr
            );
            assert!(run.stderr.contains(hint), "{}", run.stderr);
        }
        assert_eq!(context.receipt()["verdict"], "inconclusive");
        assert_eq!(context.receipt()["error"]["exit_code"], 4);
    }

    // Corrupt is the image's fault, and of a service nobody's who is judged here.
    let blob = registry.server.blob_path(&image.layers[0].digest);
    let size = std::fs::metadata(&blob).unwrap().len();
    std::fs::write(&blob, vec![0; usize::try_from(size).unwrap()]).unwrap();
    let run = context.run(["gate", "--no-file", &source]);
    run.assert_code(5);
    assert!(run.stderr.contains("is corrupt"), "{}", run.stderr);
    context.write("smokegate.yaml", gate_file(&source));
    let run = context.run(["gate", text(&archive)]);
    run.assert_code(4);
    assert!(run.stderr.contains("is corrupt"), "{}", run.stderr);
}

#[test]
fn registry_real_rootless_limits_hold_for_services_too() {
    let Some((context, registry)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    // The image is no archive here, so that only the service's can have too many members.
    let (_, archive) = oci_archive(&context, "serve");
    let source = pushed(&context, &registry, "serve", "team/app:v1");
    context.write("smokegate.yaml", gate_file(text(&archive)));
    let run = context.run(["gate", &source, "--limit", "archive-members=1"]);
    run.assert_code(4);
    for said in [
        "error: a service's image cannot be read: ",
        "more than 1 members",
        "raise the limit: --limit archive-members=",
    ] {
        assert!(run.stderr.contains(said), "{}", run.stderr);
    }
}

#[test]
fn cli_a_reference_without_its_transport_is_told_apart_from_a_missing_file() {
    let context = Smokegate::without_sandbox(env!("CARGO_BIN_EXE_smokegate"));
    let run = context.run(["inspect", "redis:7"]);
    run.assert_code(2);
    assert!(
        run.stderr.contains("is written docker://redis:7"),
        "{}",
        run.stderr
    );
    let run = context.run(["inspect", "app.tar"]);
    run.assert_code(2);
    assert!(!run.stderr.contains("docker://"), "{}", run.stderr);
}
