//! `--plan` and `--fail-fast`: what is shown without running, and what one failure stops.

use serde_json::Value;
use smokegate_test_support::{ImageFixture, RunAs, Smokegate};

const GATE_FILE: &str = r#"
version: 1
services:
  backend:
    image: serve.oci.tar
    command: [--port, "9090"]
    environment: {DB_PASSWORD: hunter2}
    probes: [{tcp: 9090}]
app:
  environment: {DATABASE_URL: "postgres://smoke:hunter2@db:5432/x", API_TOKEN: hunter2, PLAIN: shown}
  ports: ["0:8080"]
  depends_on: [backend]
  probes:
    - {http: {path: /healthz, headers: {Authorization: Bearer hunter2}}, interval: 50ms, within: 20s}
variants:
  full: {environment: {MODE: full}, expect: {stays_healthy: 10ms, logs_never: [panic]}}
  bare:
publish:
  tags: ["oci:published:${TAG}"]
"#;

#[test]
fn cli_the_plan_is_shown_masked_and_nothing_is_run() {
    let mut context = Smokegate::without_sandbox(env!("CARGO_BIN_EXE_smokegate"));
    let image = context.archive("serve", &ImageFixture::load("serve").build());
    let image = image.to_str().unwrap();
    context.write("smokegate.yaml", GATE_FILE);
    context.env("TAG", "v1");
    let shown = context.run(["ship", image, "--plan"]);
    shown.assert_code(0);
    for line in [
        "publish: [\"oci:published:v1\"]",
        "        API_TOKEN: \"***\"",
        "        DATABASE_URL: \"postgres://smoke:***@db:5432/x\"",
        "        PLAIN: shown",
        "        MODE: full",
        "      stays_healthy: \"10ms\"",
    ] {
        assert!(shown.stdout.contains(line), "{line}:\n{}", shown.stdout);
    }
    assert!(!shown.stdout.contains("hunter2"), "{}", shown.stdout);
    assert_eq!(context.run(["ship", image, "--plan"]).stdout, shown.stdout);
    let json = context.run([
        "gate",
        image,
        "--plan",
        "--format",
        "json",
        "--env",
        "PLAIN=flag",
    ]);
    json.assert_code(0);
    let plan: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(plan["variants"][1]["name"], "bare");
    assert_eq!(plan["variants"][1]["app"]["environment"]["PLAIN"], "flag");
    assert_eq!(
        plan["variants"][0]["services"][0]["container"]["probes"][0]["tcp"],
        9090
    );
    for left in ["smokegate-report", "cache/smokegate", "published"] {
        assert!(!context.dir().join(left).exists(), "{left}");
    }
    context
        .run(["gate", image, "--plan", "--variant", "nope"])
        .assert_code(2);
}

#[test]
fn rootless_the_receipt_has_the_plans_digest() {
    let Some(context) = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), RunAs::OrdinaryUser) else {
        return;
    };
    let image = context.archive("serve", &ImageFixture::load("serve").build());
    let image = image.to_str().unwrap();
    context.write("smokegate.yaml", GATE_FILE);
    let digest = |args: &[&str]| {
        let args = [&["gate", image, "--plan", "--format", "json"], args].concat();
        let plan: Value = serde_json::from_str(&context.run(args).stdout).unwrap();
        plan["digest"].as_str().unwrap().to_owned()
    };
    context.run(["gate", image]).assert_code(0);
    assert_eq!(context.receipt()["plan"], digest(&[]));
    // How many run side by side tests nothing else; another environment does.
    assert_eq!(digest(&["--parallel", "1", "--fail-fast"]), digest(&[]));
    assert_ne!(digest(&["--env", "PLAIN=flag"]), digest(&[]));
}

#[test]
fn rootless_the_first_failure_stops_the_others() {
    let Some(context) = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), RunAs::OrdinaryUser) else {
        return;
    };
    let image = context.archive("serve", &ImageFixture::load("serve").build());
    context.write(
        "smokegate.yaml",
        r#"
version: 1
app: {ports: ["0:8080"], probes: [{http: {path: /healthz}, within: 100s}]}
variants:
  waits: {command: [--status, "503"]}
  fails: {entrypoint: [/probe-target, exit, "3"]}
  waits-too: {command: [--status, "503"]}
  "#,
    );
    let args = [
        "gate",
        image.to_str().unwrap(),
        "--fail-fast",
        "--parallel",
        "2",
    ];
    let finished = context.run(args);
    finished.assert_code(1);
    let receipt = context.receipt();
    assert_eq!(receipt["verdict"], "failed");
    for (number, verdict, stopped) in [
        (0, "inconclusive", true),
        (1, "failed", false),
        (2, "inconclusive", true),
    ] {
        let variant = &receipt["variants"][number];
        assert_eq!(variant["verdict"], verdict, "{variant}");
        assert_eq!(variant["stopped"], stopped, "{variant}");
    }
    assert_eq!(
        receipt["variants"][0]["cause"],
        "stopped, as variant `fails` did not pass (--fail-fast)"
    );
    assert_eq!(
        finished.stderr.matches("error: ").count(),
        1,
        "{}",
        finished.stderr
    );
    assert!(
        finished.stderr.contains("variant waits: stopped"),
        "{}",
        finished.stderr
    );
}
