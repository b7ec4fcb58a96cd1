//! What the gate file runs: services beside the app, variants beside each other.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rustix::process::Signal;
use smokegate_test_support::{Finished, ImageFixture, RunAs, Smokegate};

/// A service on port 9090, a migration that needs it, and two variants.
const GATE_FILE: &str = r#"
version: 1
services:
  backend:
    image: serve.oci.tar
    entrypoint: [/probe-target, serve]
    command: [--port, "9090", --path, /ready]
    probes:
      - {http: {port: 9090, path: /ready}, within: 5s}
      - {tcp: 9090, within: 5s}
    post_ready:
      - [/probe-target, check-http, "9090", /ready]
  migrate:
    image: app
    entrypoint: [/probe-target, connect]
    command: ["backend:9090"]
    one_shot: true
    depends_on: [backend]
app:
  environment: {NAME: shared}
  ports: ["0:8080"]
  depends_on: [backend]
  probes:
    - {http: {path: /healthz}, interval: 100ms, within: 5s}
variants:
  full: {environment: {MODE: full}}
  bare: {environment: {MODE: bare, NAME: null}}
publish:
  tags: ["oci:published:${TAG}"]
"#;

/// Longer than any of these runs takes.
const LIMIT: Duration = Duration::from_secs(60);

struct Bench {
    context: Smokegate,
    image: String,
}

impl Bench {
    fn new(run_as: RunAs, gate_file: &str) -> Option<Self> {
        let context = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as)?;
        let image = context.archive("serve", &ImageFixture::load("serve").build());
        context.write("smokegate.yaml", gate_file);
        Some(Self {
            context,
            image: image.display().to_string(),
        })
    }

    fn run(&self, args: &[&str]) -> Finished {
        let (command, rest) = args.split_first().unwrap();
        self.context
            .run([&[*command, self.image.as_str()], rest].concat())
    }
}

fn everything_passes(run_as: RunAs) {
    let Some(mut bench) = Bench::new(run_as, GATE_FILE) else {
        return;
    };
    bench.context.env("TAG", "v1");
    let finished = bench.run(&["ship"]);
    finished.assert_code(0);
    assert!(
        finished.stdout.starts_with("oci:published:v1@sha256:"),
        "{}",
        finished.stdout
    );
    let receipt = bench.context.receipt();
    assert_eq!(receipt["verdict"], "passed");
    assert_eq!(receipt["partial"], false);
    let names: Vec<_> = receipt["variants"]
        .as_array()
        .unwrap()
        .iter()
        .map(|v| v["name"].clone())
        .collect();
    assert_eq!(names, ["full", "bare"]);
    for variant in receipt["variants"].as_array().unwrap() {
        let services = variant["services"].as_array().unwrap();
        assert_eq!(services.len(), 2, "{variant}");
        assert_eq!(services[1]["exit"]["code"], 0, "the migration: {variant}");
    }
    for (variant, container) in [("full", "backend"), ("bare", "migrate"), ("bare", "app")] {
        let log = format!("smokegate-report/logs/{variant}/{container}.log");
        assert!(bench.context.dir().join(&log).exists(), "{log}");
    }
}

#[test]
fn root_services_and_variants_pass_and_are_published() {
    everything_passes(RunAs::Root);
}

#[test]
fn rootless_services_and_variants_pass_and_are_published() {
    everything_passes(RunAs::OrdinaryUser);
}

#[test]
fn rootless_a_service_that_fails_is_not_the_images_fault() {
    for (from, to, cause) in [
        (
            r#"[--port, "9090", --path, /ready]"#,
            r#"[--port, "9091"]"#,
            "s: GET /ready on port 9090: connection refused",
        ),
        // Without anything after the probes, the last of them ends the wait.
        (
            r#"/ready}, within: 5s}
      - {tcp: 9090, within: 5s}
    post_ready:
      - [/probe-target, check-http, "9090", /ready]
"#,
            "/never}, within: 1s}\n",
            "s: GET /never on port 9090: ",
        ),
        (
            "entrypoint: [/probe-target, serve]",
            "entrypoint: [/no-such-program]",
            "error: service `backend`: the entrypoint `/no-such-program` does not exist in the image",
        ),
        (
            "entrypoint: [/probe-target, serve]",
            "entrypoint: [/probe-target, exit, \"3\"]",
            "error: service `backend` exited with code 3 after",
        ),
        (
            r#"check-http, "9090", /ready"#,
            r#"check-http, "9090", /wrong"#,
            "error: service `backend`: `/probe-target check-http 9090 /wrong` exited with code 1",
        ),
        (
            r#"["backend:9090"]"#,
            r#"["backend:9999"]"#,
            "error: service `migrate` exited with code",
        ),
    ] {
        assert!(GATE_FILE.contains(from), "{from}");
        let file = GATE_FILE.replace(from, to);
        let Some(bench) = Bench::new(RunAs::OrdinaryUser, &file) else {
            return;
        };
        let finished = bench.run(&["gate", "--variant", "full"]);
        finished.assert_code(4);
        assert!(
            finished.stderr.contains(cause),
            "{cause}:\n{}",
            finished.stderr
        );
        assert!(
            finished
                .stderr
                .contains("hint: the image under test was not judged")
        );
        assert_eq!(bench.context.receipt()["verdict"], "inconclusive");
    }
}

#[test]
fn rootless_one_variant_that_fails_does_not_hide_the_other() {
    let file = GATE_FILE.replace(
        "bare: {environment: {MODE: bare, NAME: null}}",
        "bare: {command: [\"--status\", \"500\"]}",
    );
    let file = file.replace("within: 5s}\nvariants", "within: 2s}\nvariants");
    let Some(bench) = Bench::new(RunAs::OrdinaryUser, &file) else {
        return;
    };
    // The fixture's entrypoint is `/probe-target serve`; the variant adds arguments to it.
    let finished = bench.run(&["gate"]);
    finished.assert_code(1);
    assert!(
        finished.stderr.contains("variant full: passed"),
        "{}",
        finished.stderr
    );
    assert!(
        finished.stderr.contains("variant: bare; asked:"),
        "{}",
        finished.stderr
    );
    let receipt = bench.context.receipt();
    assert_eq!(receipt["verdict"], "failed");
    assert_eq!(receipt["variants"][0]["verdict"], "passed");
    assert_eq!(receipt["variants"][1]["verdict"], "failed");
}

#[test]
fn rootless_localhost_of_the_app_is_the_app_alone() {
    for (host, code) in [("backend", 0), ("localhost", 4)] {
        let file = GATE_FILE.replace("backend:9090", &format!("{host}:9090"));
        let Some(bench) = Bench::new(RunAs::OrdinaryUser, &file) else {
            return;
        };
        bench.run(&["gate", "--variant", "full"]).assert_code(code);
    }
}

#[test]
fn rootless_a_run_of_some_variants_does_not_publish() {
    let Some(mut bench) = Bench::new(RunAs::OrdinaryUser, GATE_FILE) else {
        return;
    };
    bench.context.env("TAG", "v1");
    let refused = bench.run(&["ship", "--variant", "full"]);
    refused.assert_code(2);
    assert!(
        refused
            .stderr
            .contains("hint: leave --variant out, or say --allow-partial")
    );
    bench.run(&["gate", "--variant", "full"]).assert_code(0);
    assert_eq!(bench.context.receipt()["partial"], true);
    let receipt = "smokegate-report/receipt.json";
    let refused = bench.run(&["push", "--receipt", receipt, "--tag", "oci:published:v1"]);
    refused.assert_code(1);
    assert!(
        refused.stderr.contains("is of a partial run"),
        "{}",
        refused.stderr
    );
    bench
        .run(&["ship", "--variant", "full", "--allow-partial"])
        .assert_code(0);
}

#[test]
fn cli_a_gate_file_that_cannot_be_run_says_where_and_why() {
    let context = Smokegate::without_sandbox(env!("CARGO_BIN_EXE_smokegate"));
    let image = context.archive("serve", &ImageFixture::load("serve").build());
    for (from, to, line) in [
        (
            "command: [--port",
            "comand: [--port",
            "unknown key `comand`; did you mean `command`?",
        ),
        (
            "ports: [\"0:8080\"]",
            "mem_limit: 5m",
            "the least memory is 6m",
        ),
        ("version: 1", "version: 2", "smokegate.yaml:2:10: "),
        ("image: serve.oci.tar", "image: missing.tar", "missing.tar"),
    ] {
        assert!(GATE_FILE.contains(from), "{from}");
        context.write("smokegate.yaml", GATE_FILE.replace(from, to));
        let finished = context.run(["gate", image.to_str().unwrap()]);
        finished.assert_code(2);
        assert!(
            finished.stderr.contains(line),
            "{line}:\n{}",
            finished.stderr
        );
    }
    context.write("smokegate.yaml", GATE_FILE);
    let unset = context.run(["ship", image.to_str().unwrap()]);
    unset.assert_code(2);
    assert!(unset.stderr.contains("TAG"), "{}", unset.stderr);
    let unknown = context.run(["gate", image.to_str().unwrap(), "--variant", "nope"]);
    unknown.assert_code(2);
    assert!(
        unknown
            .stderr
            .contains("no variant `nope`; it has full, bare"),
        "{}",
        unknown.stderr
    );
}

#[test]
fn rootless_min_isolation_is_kept() {
    let file = GATE_FILE.replace("version: 1", "version: 1\nmin_isolation: root");
    let Some(bench) = Bench::new(RunAs::OrdinaryUser, &file) else {
        return;
    };
    let finished = bench.run(&["gate"]);
    finished.assert_code(3);
    assert!(
        finished
            .stderr
            .contains("asks for isolation level `root` at least"),
        "{}",
        finished.stderr
    );
}

fn ports_of_services(run_as: RunAs) {
    let file = GATE_FILE.replace(
        "    probes:\n      - {http: {port: 9090",
        "    ports: [\"0:9090\"]\n    probes:\n      - {http: {port: 9090",
    );
    // The app waits until somebody outside has been let in.
    let file = file.replace(
        "depends_on: [backend]\n  probes:\n    - {http: {path: /healthz}",
        "depends_on: [backend]\n  command: [--released-by, /never]\n  probes:\n    - {http: {path: /healthz}",
    );
    let file = file.replace("100ms, within: 5s}", "100ms, within: 60s}");
    assert!(file.contains("0:9090") && file.contains("/never") && file.contains("60s"));
    let Some(bench) = Bench::new(run_as, &file) else {
        return;
    };
    let mut running = bench.context.start(["gate", &bench.image]);
    running.wait_for_stderr("variant full: asking", LIMIT);
    running.wait_for_stderr("variant bare: asking", LIMIT);
    let stderr = running.stderr_so_far();
    let mut found = 0;
    for line in stderr.lines() {
        let Some(line) = line.strip_suffix(" is port 9090 of service backend") else {
            continue;
        };
        let address = line.rsplit(' ').next().unwrap();
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET /ready HTTP/1.1\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{line}: {answer}");
        found += 1;
    }
    assert_eq!(found, 2, "one for each variant: {stderr}");
    running.signal(Signal::INT);
    running.wait(LIMIT).assert_code(130);
}

#[test]
fn root_ports_of_services_are_mapped_for_each_variant() {
    ports_of_services(RunAs::Root);
}

#[test]
fn rootless_ports_of_services_are_mapped_for_each_variant() {
    ports_of_services(RunAs::OrdinaryUser);
}
