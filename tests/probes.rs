//! What is asked of the app and what is expected of it besides: every kind of probe, passing and failing.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use smokegate_test_support::{
    Entry, EntryKind, FileContent, Finished, ImageFixture, LayerContent, LayerFixture, Need,
    Packing, RunAs, Smokegate, program, require,
};

/// A variant, and what is to become of it.
struct Case {
    name: &'static str,
    /// The keys of the variant.
    keys: &'static str,
    /// `passed`, or a part of the cause.
    ends: &'static str,
}

const fn case(name: &'static str, keys: &'static str, ends: &'static str) -> Case {
    Case { name, keys, ends }
}

/// Runs every case as a variant of one gate file; the receipt's variants by name, and what was written.
fn judged(run_as: RunAs, image: &ImageFixture, cases: &[Case]) -> Option<(Value, Finished)> {
    let mut context = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as)?;
    context.limit(std::time::Duration::from_secs(240));
    let image = context.archive("image", &image.build());
    let mut file = "version: 1\napp: {ports: [\"0:8080\"]}\nvariants:\n".to_owned();
    for case in cases {
        let keys = case.keys.trim_matches('\n').trim_end();
        let depth = keys.len() - keys.trim_start().len();
        let keys = keys.lines().map(|line| &line[depth..]);
        let keys: String = keys.map(|line| format!("    {line}\n")).collect();
        file.push_str(&format!("  {}:\n{keys}", case.name));
    }
    context.write("smokegate.yaml", file);
    let finished = context.run(["gate", image.to_str().unwrap(), "--parallel", "4"]);
    assert_ne!(finished.code(), Some(2), "{}", finished.stderr);
    let receipt = context.receipt();
    let mut variants = serde_json::Map::new();
    for (variant, case) in receipt["variants"].as_array().unwrap().iter().zip(cases) {
        let name = case.name;
        assert_eq!(variant["name"], name);
        let cause = variant["cause"].as_str().unwrap_or_default();
        if case.ends == "passed" {
            assert_eq!(variant["verdict"], "passed", "{name}: {cause}\n{variant:#}");
        } else {
            assert_eq!(variant["verdict"], "failed", "{name}: {variant:#}");
            assert!(
                cause.contains(case.ends),
                "{name}: `{cause}` has no `{}`",
                case.ends
            );
            let first = format!("error: {cause}");
            assert!(
                finished.stderr.contains(&first),
                "{first}\n{}",
                finished.stderr
            );
        }
        variants.insert(name.to_owned(), variant.clone());
    }
    assert_eq!(variants.len(), cases.len());
    Some((variants.into(), finished))
}

const PROBES: &[Case] = &[
    case(
        "everything",
        r#"
        entrypoint: [/probe-target, serve, --body, '{"status":"ok","deps":[1,2]}', --status, "204"]
        probes:
          - http: {path: /healthz, method: POST, status: [200, 204-205], headers: {X-Probe: "1"}}
            name: by post
            successes: 3
            interval: 50ms
            within: 20s
          - {tcp: 8080, within: 20s}
          - {exec: [/probe-target, print, "the word is PONG", exit, "0"], expect: PONG, timeout: 10s, within: 20s}
          - {log: {regex: "^POST /healthz HTTP/1.1 204$$", count: 3}, within: 20s}
          - {log: {regex: "^listening on "}, within: 20s}
        "#,
        "passed",
    ),
    case(
        "body",
        r#"
        entrypoint: [/probe-target, serve, --body, '{"status":"ok","deps":[1,2]}']
        probes:
          - http: {path: /healthz, body: {contains: '"ok"', regex: "deps.*2", json: {/status: ok, /deps/1: 2}}}
            within: 20s
        "#,
        "passed",
    ),
    case(
        "wrong-body",
        r#"
        entrypoint: [/probe-target, serve, --body, '{"status":"degraded"}']
        probes: [{http: {path: /healthz, body: {json: {/status: ok}}}, interval: 100ms, within: 1s}]
        "#,
        r#"it answered 200 OK, but its body has "degraded" at `/status`, not "ok""#,
    ),
    case(
        "redirect",
        r#"
        entrypoint: [/probe-target, serve, --status, "301", --header, "Location: /login"]
        probes: [{http: {path: /healthz}, interval: 100ms, within: 1s, name: front page}]
        "#,
        "`front page` (GET /healthz on port 8080) did not pass in",
    ),
    case(
        "redirect-wanted",
        r#"
        entrypoint: [/probe-target, serve, --status, "301", --header, "Location: /login"]
        probes: [{http: {path: /healthz, status: 300-399}, within: 20s}]
        "#,
        "passed",
    ),
    case(
        "wrong-output",
        r#"
        entrypoint: [/probe-target, serve]
        probes: [{exec: [/probe-target, print, PING, exit, "0"], expect: PONG, timeout: 10s, interval: 200ms, within: 2s}]
        "#,
        "it did not print `PONG`",
    ),
    case(
        "no-line",
        r#"
        entrypoint: [/probe-target, serve]
        probes: [{log: {regex: "ready to rumble"}, timeout: 300ms, interval: 100ms, within: 1s}]
        "#,
        "the app did not write a log line that matches `ready to rumble` in",
    ),
    case(
        "too-few-lines",
        r#"
        entrypoint: [/probe-target, serve]
        probes: [{log: {regex: "^listening", count: 2}, timeout: 300ms, interval: 100ms, within: 1s}]
        "#,
        "the app did not write 2 log lines that match `^listening` in",
    ),
    case(
        "many-lines",
        r#"
        entrypoint: [/probe-target, log-lines, "20000"]
        probes: [{log: {regex: "^(out|err) ", count: 40000}, within: 20s}]
        expect: {exit_code: 0}
        "#,
        "passed",
    ),
    case(
        "retries",
        r#"
        entrypoint: [/probe-target, serve, --status, "500"]
        probes: [{http: {path: /healthz}, interval: 100ms, retries: 2, start_period: 100ms, within: 60s}]
        "#,
        "it answered 500 Internal Server Error",
    ),
    case(
        "flaps",
        r#"
        entrypoint: [/probe-target, flap]
        probes: [{http: {path: /healthz}, interval: 50ms, successes: 2, within: 1s}]
        "#,
        "GET /healthz on port 8080 did not pass",
    ),
    case(
        "not-tls",
        r#"
        entrypoint: [/probe-target, serve]
        probes: [{http: {path: /healthz, scheme: https, insecure: true}, interval: 100ms, within: 1s}]
        "#,
        "TLS failed: the connection was closed in the middle of the handshake",
    ),
];

fn every_probe(run_as: RunAs) {
    let Some((variants, finished)) = judged(run_as, &ImageFixture::load("serve"), PROBES) else {
        return;
    };
    finished.assert_code(1);
    let attempts = |name: &str, probe: usize| {
        variants[name]["probes"][probe]["attempts"]
            .as_array()
            .unwrap()
            .clone()
    };
    for (name, class) in [
        ("wrong-body", "wrong_body"),
        ("redirect", "http_status"),
        ("wrong-output", "wrong_output"),
        ("no-line", "log"),
        ("not-tls", "tls"),
    ] {
        let asked = attempts(name, 0);
        assert!(
            asked.iter().any(|attempt| attempt["class"] == class),
            "{name}: {asked:?}"
        );
    }
    let asked = attempts("everything", 0);
    let passed = asked.iter().filter(|attempt| attempt["class"] == "passed");
    assert_eq!(passed.count(), 3, "{asked:?}");
    assert_eq!(variants["everything"]["probes"][0]["name"], "by post");
    let told = variants["retries"]["probes"][0]["attempts_in_short"]
        .as_str()
        .unwrap();
    assert!(told.contains("HTTP 500 "), "{told}");
    assert!(
        finished
            .stderr
            .contains("to `/login`; redirects are not followed"),
        "{}",
        finished.stderr
    );
}

#[test]
fn root_every_probe_passes_and_fails_for_its_reason() {
    every_probe(RunAs::Root);
}

#[test]
fn rootless_every_probe_passes_and_fails_for_its_reason() {
    every_probe(RunAs::OrdinaryUser);
}

const EXPECTATIONS: &[Case] = &[
    case(
        "all-well",
        r#"
        entrypoint: [/probe-target, serve]
        probes: [{http: {path: /healthz}, interval: 100ms, within: 20s}]
        expect: {stays_healthy: 500ms, logs_never: [panic, ERROR], stops_within: 20s}
        "#,
        "passed",
    ),
    case(
        "falls-ill",
        r#"
        entrypoint: [/probe-target, flap]
        probes: [{http: {path: /healthz}, interval: 100ms, within: 20s}]
        expect: {stays_healthy: 20s}
        "#,
        "GET /healthz on port 8080 passed, and failed after",
    ),
    case(
        "dies-later",
        r#"
        entrypoint: [/probe-target, serve, --exit-after, "2"]
        probes: [{http: {path: /healthz}, interval: 200ms, within: 20s}]
        expect: {stays_healthy: 20s}
        "#,
        "the entrypoint exited with code 3 after",
    ),
    case(
        "says-it",
        r#"
        entrypoint: [/probe-target, serve]
        probes: [{http: {path: /healthz}, within: 20s}]
        expect: {logs_never: ["^nothing", "^listening on"]}
        "#,
        "the app logged `listening on 0.0.0.0:8080`, which matches `^listening on` of `logs_never`",
    ),
    case(
        "deaf",
        r#"
        entrypoint: [/probe-target, ignore-term, serve]
        probes: [{http: {path: /healthz}, within: 20s}]
        expect: {stops_within: 20s}
        "#,
        "the entrypoint never saw SIGTERM (15) and had to be killed: it has no handler for it",
    ),
    case(
        "stubborn",
        r#"
        entrypoint: [/probe-target, outlive-term, serve]
        probes: [{http: {path: /healthz}, within: 20s}]
        expect: {stops_within: 300ms}
        "#,
        "the entrypoint still ran 300 ms after SIGTERM (15) and had to be killed",
    ),
    case(
        "job",
        r#"
        entrypoint: [/probe-target, print-then-exit, "4", "job done"]
        probes: [{log: {regex: "^job done$$"}, within: 20s}]
        expect: {exit_code: 4}
        "#,
        "passed",
    ),
    case(
        "job-without-probes",
        "entrypoint: [/probe-target, exit, \"0\"]\nexpect: {exit_code: 0}",
        "passed",
    ),
    case(
        "wrong-code",
        "entrypoint: [/probe-target, exit, \"3\"]\nexpect: {exit_code: 0}",
        ", and was to exit with code 0",
    ),
    case(
        "not-found",
        "entrypoint: [/probe-target, exit, \"127\"]\nexpect: {exit_code: 0}",
        ", not with 0: a command or library it needs is not in the image",
    ),
    case(
        "too-early",
        r#"
        entrypoint: [/probe-target, exit, "0"]
        probes: [{log: {regex: "^job done$$"}, within: 20s}]
        expect: {exit_code: 0}
        "#,
        ", before a log line that matches `^job done$` passed",
    ),
    case(
        "never-ends",
        r#"
        entrypoint: [/probe-target, serve]
        probes: [{tcp: 8080, within: 2s}]
        expect: {exit_code: 0}
        "#,
        "the entrypoint still ran after 2.00 s, and was to exit with code 0",
    ),
];

fn every_expectation(run_as: RunAs) {
    let image = ImageFixture::load("serve");
    if let Some((variants, finished)) = judged(run_as, &image, EXPECTATIONS) {
        finished.assert_code(1);
        assert_eq!(variants["job"]["exit"]["code"], 4);
        let probed = variants["all-well"]["probes"][0]["attempts"]
            .as_array()
            .unwrap();
        let passed = probed.iter().filter(|attempt| attempt["class"] == "passed");
        assert!(
            passed.count() > 1,
            "asked again while it stays healthy: {probed:?}"
        );
    }
}

#[test]
fn root_what_is_expected_besides_probes_is_judged() {
    every_expectation(RunAs::Root);
}

#[test]
fn rootless_what_is_expected_besides_probes_is_judged() {
    every_expectation(RunAs::OrdinaryUser);
}

/// An image whose server is `openssl s_server`, with a certificate for `app` from an authority of its own; the
/// authority's certificate.
fn tls_image(dir: &Path) -> (ImageFixture, std::path::PathBuf) {
    let openssl = |args: &[&str]| {
        let mut command = program("openssl");
        let output = command.args(args).current_dir(dir).output().unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {args:?}: {text}");
    };
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "30",
    ];
    let request = |more: &[&str]| openssl(&[&["req", "-x509"], &key[..], more].concat());
    request(&[
        "-subj",
        "/CN=Shop CA",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
    ]);
    request(&[
        "-subj",
        "/CN=the shop",
        "-keyout",
        "key.pem",
        "-out",
        "cert.pem",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-addext",
        "basicConstraints=CA:FALSE",
        "-addext",
        "subjectAltName=DNS:app",
    ]);
    let path = program("openssl").get_program().to_owned();
    let path = std::fs::canonicalize(Path::new(&path)).unwrap();
    let libraries = Command::new("ldd").arg(&path).output().unwrap();
    let libraries = String::from_utf8(libraries.stdout).unwrap();
    let libraries = libraries
        .split_whitespace()
        .filter(|word| word.starts_with('/'));
    let file = |name: &str, mode, path: &Path| Entry {
        name: name.trim_start_matches('/').to_owned(),
        kind: EntryKind::File(FileContent::HostFile(path.to_owned())),
        mode,
        uid: 0,
        gid: 0,
    };
    let mut entries = vec![
        file("openssl", 0o755, &path),
        file("cert.pem", 0o644, &dir.join("cert.pem")),
        file("key.pem", 0o644, &dir.join("key.pem")),
    ];
    entries.extend(libraries.map(|library| file(library, 0o755, Path::new(library))));
    let mut image = ImageFixture::load("serve");
    image.layers.push(LayerFixture {
        packing: Packing::Plain,
        content: LayerContent::Entries(entries),
    });
    (image, dir.join("ca.pem"))
}

#[test]
fn rootless_https_takes_trusted_certificates_only_unless_insecure() {
    if !require(Need::Openssl) {
        return;
    }
    let Some(mut context) = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), RunAs::OrdinaryUser)
    else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let (image, authority) = tls_image(dir.path());
    let image = context.archive("image", &image.build());
    let authority = context.write("ca.pem", std::fs::read(authority).unwrap());
    let gate = |context: &Smokegate, probe: &str| {
        let file = format!(
            "version: 1\napp:\n  ports: [\"0:8443\"]\n  entrypoint: [/openssl, s_server, -accept, \"8443\", -www, \
             -cert, /cert.pem, -key, /key.pem]\n  probes: [{{http: {{port: 8443, path: /, scheme: https{probe}}}, \
             interval: 100ms, within: 3s}}]\n"
        );
        context.write("smokegate.yaml", file);
        context.run(["gate", image.to_str().unwrap()])
    };
    gate(&context, ", insecure: true").assert_code(0);
    let refused = gate(&context, "");
    refused.assert_code(1);
    let words = "TLS failed: the certificate of `CN=the shop` was issued by `CN=Shop CA`, which is not trusted here";
    assert!(refused.stderr.contains(words), "{}", refused.stderr);
    context.env("SSL_CERT_FILE", authority);
    gate(&context, "").assert_code(0);
    let other = gate(&context, ", headers: {Host: shop.example}");
    other.assert_code(1);
    let words = "TLS failed: the certificate is for `app`, not for `shop.example`";
    assert!(other.stderr.contains(words), "{}", other.stderr);
}
