//! `--upload-ahead`, and what else is done for publishing while the gate runs.

use std::time::Duration;

use rustix::process::Signal;
use smokegate_test_support::{EcrManners, FakeEcr, Fault, FaultSchedule, ImageFixture, RunAs};

use super::{beside_registry, oci_archive, ship, skopeo_digest, smokegate, text};

const AHEAD: [&str; 1] = ["--upload-ahead"];

fn passes(run_as: RunAs) {
    let Some((context, registry)) = beside_registry(run_as) else {
        return;
    };
    let (image, archive) = oci_archive(&context, "layers-packed");
    let reference = registry.reference("team/app:v1");
    let second = registry.reference("team/other:v1");
    let run = ship(&context, &archive, &[&reference, &second], &AHEAD);
    run.assert_code(0);
    assert_eq!(
        skopeo_digest(&format!("docker://{reference}")),
        image.digest().to_string()
    );
    registry.assert_image(&image);
    assert!(!run.stderr.contains("no manifest refers"), "{}", run.stderr);
    let timings = &context.receipt()["timings_ms"];
    for stage in ["check", "plan", "upload_ahead", "upload", "tags", "publish"] {
        assert!(timings[stage].is_u64(), "{stage}: {timings}");
    }
    // Every blob was there before a manifest was.
    let log = registry.server.log();
    let written = |part: &str| {
        let lines = log
            .lines()
            .enumerate()
            .filter(move |(_, line)| line.contains("\"PUT /v2/") && line.contains(part));
        lines.map(|(at, _)| at).collect::<Vec<_>>()
    };
    let (blobs, manifests) = (written("/blobs/uploads/"), written("/manifests/"));
    assert!(!blobs.is_empty(), "{log}");
    assert!(blobs.iter().max() < manifests.iter().min(), "{log}");

    // What is there is not sent again.
    ship(&context, &archive, &[&reference, &second], &AHEAD).assert_code(0);
    let log = registry.server.log();
    let uploads = log.lines().filter(|line| line.contains("\"PUT /v2/"));
    let again = uploads.filter(|line| line.contains("/blobs/uploads/"));
    assert_eq!(again.count(), blobs.len(), "{log}");
}

#[test]
fn registry_real_rootless_ships_what_was_sent_ahead() {
    passes(RunAs::OrdinaryUser);
}

#[test]
fn registry_real_root_ships_what_was_sent_ahead() {
    passes(RunAs::Root);
}

#[test]
fn registry_real_rootless_what_was_sent_ahead_of_a_failure_is_said() {
    let Some((context, registry)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    let (image, archive) = oci_archive(&context, "serve");
    let reference = registry.reference("team/app:v1");
    let failing = ["--http", "/nothing-here", "--within", "3s"];
    // By default nothing is sent before the verdict.
    ship(&context, &archive, &[&reference], &failing).assert_code(1);
    assert!(registry.server.is_empty(), "{}", registry.server.log());

    let more = [failing.as_slice(), &AHEAD].concat();
    let run = ship(&context, &archive, &[&reference], &more);
    run.assert_code(1);
    assert_eq!(run.stdout, "");
    registry.assert_no_manifest();
    registry.assert_blob(&image.config_digest());
    for layer in &image.layers {
        registry.assert_blob(&layer.digest);
    }
    let said = run
        .stderr
        .find("were sent ahead, and no manifest refers to them");
    let failure = run.stderr.find("\nerror: ");
    assert!(said.is_some() && said < failure, "{}", run.stderr);
    assert_eq!(context.receipt()["published"], serde_json::json!([]));
}

#[test]
fn registry_real_rootless_interrupted_with_blobs_sent_ahead() {
    let Some((context, registry)) = beside_registry(RunAs::OrdinaryUser) else {
        return;
    };
    let (image, archive) = oci_archive(&context, "serve");
    let tag = registry.reference("team/app:v1");
    // It answers at a path that it has not, so that the run goes on.
    let mut running = context.start([
        "ship",
        text(&archive),
        "--publish",
        "0:8080",
        "--http",
        "/nothing-here",
        "--tag",
        &tag,
        "--upload-ahead",
        "-v",
    ]);
    let sent = format!("{} ", image.layers[0].digest.short());
    running.wait_for_stderr(&sent, Duration::from_secs(60));
    running.wait_for_stderr("uploaded", Duration::from_secs(60));
    running.signal(Signal::INT);
    let run = running.wait(Duration::from_secs(60));
    run.assert_code(130);
    assert!(
        run.stderr.contains("no manifest refers to them"),
        "{}",
        run.stderr
    );
    registry.assert_no_manifest();
}

#[test]
fn rootless_a_registry_that_fails_while_the_gate_runs_is_asked_again() {
    let Some(mut context) = smokegate(RunAs::OrdinaryUser) else {
        return;
    };
    let fake = FakeEcr::start(EcrManners::default());
    for (name, value) in fake.environment() {
        context.env(&name, value);
    }
    let config = context.write("registries.toml", fake.registry_config());
    let (image, archive) = oci_archive(&context, "serve");
    let reference = format!("{}/team/app:v1", FakeEcr::HOST);
    fake.create("team/app");
    let words = [
        "ship",
        text(&archive),
        "--publish",
        "0:8080",
        "--tag",
        &reference,
        "--registry-config",
        text(&config),
        "--upload-ahead",
    ];
    let refusing =
        FaultSchedule::default().and_lasting("POST", "/blobs/uploads/", 0, Fault::Refuse(503));
    fake.set_faults(refusing);
    let mut running = context.start(words);
    running.wait_for_stderr("is left for after the verdict", Duration::from_secs(60));
    fake.set_faults(FaultSchedule::default());
    running.wait(Duration::from_secs(60)).assert_code(0);
    let digest = image.digest().to_string();
    assert_eq!(context.receipt()["published"][0]["digest"], digest);

    // What is there is not sent again.
    let puts = fake.state().count("PUT", "/blobs/uploads/");
    context.run(words).assert_code(0);
    assert_eq!(fake.state().count("PUT", "/blobs/uploads/"), puts);
}

#[test]
fn cli_uploading_ahead_of_nothing_is_refused() {
    let context =
        smokegate_test_support::Smokegate::without_sandbox(env!("CARGO_BIN_EXE_smokegate"));
    let image = ImageFixture::load("serve").build();
    let archive = context.archive("serve", &image);
    let words = [
        "ship",
        text(&archive),
        "--tag",
        "127.0.0.1:1/a:b",
        "--upload-ahead",
        "--dry-run",
    ];
    let run = context.run(words);
    run.assert_code(2);
    assert!(run.stderr.contains("--upload-ahead"), "{}", run.stderr);
}
