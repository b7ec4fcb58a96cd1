//! The command line: usage errors, help, inspect, cache.

use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use smokegate_image::Compression;
use smokegate_test_support::{
    Attestations, Finished, ImageFixture, OciContent, RunAs, Smokegate, compress_archive,
};

const BINARY: &str = env!("CARGO_BIN_EXE_smokegate");

fn smokegate() -> Smokegate {
    Smokegate::without_sandbox(BINARY)
}

#[test]
fn cli_help_and_version() {
    let context = smokegate();
    for words in [
        &["--help"][..],
        &["-h"],
        &["ship", "--help"],
        &["gate", "--help"],
        &["push", "--help"],
        &["lint", "--help"],
        &["inspect", "--help"],
        &["cache", "--help"],
        &["cache", "list", "--help"],
        &["cache", "prune", "--help"],
    ] {
        let run = context.run(words);
        run.assert_code(0);
        assert!(
            run.stdout.contains("Usage: smokegate"),
            "{words:?}: {}",
            run.stdout
        );
        assert_eq!(run.stderr, "", "{words:?}");
    }
    let all = context.run(["--help"]).stdout;
    for command in ["ship", "gate", "push", "lint", "inspect", "cache"] {
        assert!(all.contains(&format!("  {command}")), "{all}");
    }
    let run = context.run(["--version"]);
    run.assert_code(0);
    assert_eq!(
        run.stdout,
        format!("smokegate {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn cli_usage_errors_name_what_is_wrong() {
    let context = smokegate();
    context.archive("serve", &ImageFixture::load("serve").build());
    let image = "serve.oci.tar";
    context.write("vars", "GOOD=1\n=nameless\n");
    let cases: [(&[&str], &str); 29] = [
        (&[], "Usage"),
        (&["frobnicate"], "frobnicate"),
        (&["gate"], "IMAGE"),
        (&["gate", image, "--frobnicate"], "--frobnicate"),
        (&["gate", image, "-q", "-v"], "--verbose"),
        (&["gate", image, "--tag", "a.example/b:c"], "--tag"),
        (&["gate", image, "--format", "yaml"], "yaml"),
        (&["gate", image, "--publish", "18080:"], "18080:"),
        (&["gate", image, "--publish", "x:8080"], "x:8080"),
        (&["gate", image, "--publish", "18080:0"], "18080:0"),
        (&["gate", image, "--publish", "70000:80"], "70000:80"),
        (&["gate", image, "--publish", "host:1:2"], "host:1:2"),
        (&["gate", image, "--within", "0s"], "longer than zero"),
        (&["gate", image, "--within=-5s"], "longer than zero"),
        (&["gate", image, "--within", "5"], "5"),
        (&["gate", image, "--interval", "soon"], "soon"),
        (&["gate", image, "--http", "healthz"], "healthz"),
        (&["gate", image, "--isolation", "subuids"], "subuids"),
        (&["gate", image, "--platform", "windows"], "windows"),
        (&["gate", image, "--env", "=value"], "=value"),
        (&["gate", image, "--env-file", "none"], "none"),
        (&["gate", image, "--env-file", "vars"], "line 2"),
        (&["ship", image], "--tag"),
        (&["push", image], "--tag"),
        (
            &["push", image, "--tag", "registry.example/team/app"],
            "has no tag",
        ),
        (
            &[
                "push",
                image,
                "--tag",
                &format!("registry.example/app@sha256:{}", "0".repeat(64)),
            ],
            "digest",
        ),
        (
            &["push", image, "--tag", "registry.example/App:v1"],
            "registry.example/App:v1",
        ),
        (
            &["push", image, "--tag", "oci:layout:not a tag"],
            "not a tag",
        ),
        (
            &["cache", "prune", "--older-than", "0s"],
            "longer than zero",
        ),
    ];
    for (words, named) in cases {
        let run = context.run(words);
        assert_eq!(run.code(), Some(2), "{words:?}: {}", run.stderr);
        assert_eq!(run.stdout, "", "{words:?}");
        assert!(
            run.stderr.contains(named),
            "{words:?}: no `{named}` in: {}",
            run.stderr
        );
        assert!(
            !context.dir().join("smokegate-report").exists(),
            "{words:?}"
        );
    }
}

#[test]
fn cli_several_exposed_ports_and_none_named() {
    let context = smokegate();
    context.archive("two-ports", &ImageFixture::load("two-ports").build());
    let run = context.run(["gate", "two-ports.oci.tar"]);
    run.assert_code(2);
    for word in ["8080", "9090", "--publish", "hint: "] {
        assert!(run.stderr.contains(word), "no `{word}` in: {}", run.stderr);
    }
}

#[test]
fn rootless_the_gate_file_in_the_working_directory_is_announced() {
    let Some(context) = Smokegate::new(BINARY, RunAs::OrdinaryUser) else {
        return;
    };
    context.archive("serve", &ImageFixture::load("serve").build());
    context.write("smokegate.yaml", "version: 1\nvariants: {only: {}}\n");
    for words in [
        &["gate", "serve.oci.tar", "--publish", "0:8080"][..],
        &[
            "ship",
            "serve.oci.tar",
            "--publish",
            "0:8080",
            "--tag",
            "oci:layout:v1",
        ],
    ] {
        let run = context.run(words);
        run.assert_code(0);
        let announced = "gate file: ./smokegate.yaml (--no-file ignores it)";
        assert!(run.stderr.contains(announced), "{}", run.stderr);
        assert!(
            run.stderr.contains("variant only: passed"),
            "{}",
            run.stderr
        );
        let run = context.run(words.iter().chain(&["--no-file"]));
        run.assert_code(0);
        assert!(
            run.stderr.contains("variant default: passed"),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn rootless_quiet_and_verbose() {
    let Some(context) = Smokegate::new(BINARY, RunAs::OrdinaryUser) else {
        return;
    };
    for name in ["serve", "exits-3"] {
        context.archive(name, &ImageFixture::load(name).build());
    }
    let gate = |image: &str, flag: &str| context.run(["gate", image, "--publish", "0:8080", flag]);
    let quiet = gate("serve.oci.tar", "-q");
    quiet.assert_code(0);
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    let words = [
        "ship",
        "serve.oci.tar",
        "--publish",
        "0:8080",
        "-q",
        "--tag",
        "oci:layout:v1",
    ];
    let quiet = context.run(words);
    quiet.assert_code(0);
    assert_eq!(quiet.stderr, "");
    assert!(
        quiet.stdout.starts_with("oci:layout:v1@sha256:"),
        "{}",
        quiet.stdout
    );
    let quiet = gate("exits-3.oci.tar", "-q");
    quiet.assert_code(1);
    assert!(quiet.stderr.starts_with("error: "), "{}", quiet.stderr);

    let plain = context.run(["gate", "serve.oci.tar", "--publish", "0:8080"]);
    let verbose = gate("serve.oci.tar", "-v");
    let attempts = |run: &Finished| {
        run.stderr
            .lines()
            .filter(|line| line.contains(" s: "))
            .count()
    };
    assert_eq!(attempts(plain.assert_code(0)), 0, "{}", plain.stderr);
    assert!(attempts(verbose.assert_code(0)) >= 1, "{}", verbose.stderr);
    for run in [&plain, &verbose, &quiet] {
        assert!(
            !run.stderr.contains('\u{1b}'),
            "escapes without a terminal: {:?}",
            run.stderr
        );
    }
}

#[test]
fn cli_inspect_shows_every_form() {
    let context = smokegate();
    let image = ImageFixture::load("layers-packed").build();
    let file = |name: &str| context.dir().join(name);
    image.write_oci_layout(&file("layout"), Some("v1"));
    image.write_oci_archive(&file("oci.tar"), Some("v1"));
    image.write_docker_archive(&file("saved.tar"), Some("demo/app:v1"));
    image.write_docker_archive_legacy(&file("legacy.tar"), Some("demo/app:v1"));
    compress_archive(&file("oci.tar"), &file("oci.tar.gz"), Compression::Gzip);
    for source in ["layout", "oci.tar", "oci.tar.gz", "saved.tar", "legacy.tar"] {
        let run = context.run(["inspect", source, "--format", "json"]);
        run.assert_code(0);
        let shown: Value = serde_json::from_str(&run.stdout).unwrap();
        let platform = &shown["platforms"][0];
        assert_eq!(platform["platform"], image.platform, "{source}");
        assert_eq!(
            platform["configDigest"],
            image.config_digest().to_string(),
            "{source}"
        );
        assert_eq!(
            platform["config"],
            serde_json::from_slice::<Value>(&image.config).unwrap()
        );
        let layers = platform["layers"].as_array().unwrap();
        assert_eq!(layers.len(), image.layers.len());
        for (shown, built) in layers.iter().zip(&image.layers) {
            assert_eq!(shown["diffId"], built.diff_id.to_string(), "{source}");
            let legacy = source == "legacy.tar";
            let digest = if legacy {
                &built.diff_id
            } else {
                &built.digest
            };
            assert_eq!(shown["digest"], digest.to_string(), "{source}");
        }
        if source != "legacy.tar" {
            assert_eq!(shown["digest"], image.digest().to_string(), "{source}");
        }

        let run = context.run(["inspect", source]);
        run.assert_code(0);
        assert_eq!(run.stderr, "");
        let digest = shown["digest"].as_str().unwrap();
        for word in [
            digest,
            &image.platform,
            "/probe-target",
            "8080/tcp",
            &image.config_digest().to_string(),
        ] {
            assert!(
                run.stdout.contains(word),
                "{source}: no `{word}` in: {}",
                run.stdout
            );
        }
        for layer in layers {
            assert!(
                run.stdout.contains(layer["digest"].as_str().unwrap()),
                "{source}: {}",
                run.stdout
            );
        }
    }
}

#[test]
fn cli_inspect_shows_platforms_and_attestations() {
    let context = smokegate();
    let images = ["linux/amd64", "linux/arm64/v8", "linux/s390x"]
        .map(|platform| ImageFixture::load("serve").for_platform(platform).build());
    let index = OciContent::index_of(&images, Attestations::PerImage);
    index.write_archive(&context.dir().join("index.tar"));
    let human = context.run(["inspect", "index.tar"]);
    let json = context.run(["inspect", "index.tar", "--format", "json"]);
    human.assert_code(0);
    let shown: Value = serde_json::from_str(&json.assert_code(0).stdout).unwrap();
    assert_eq!(shown["digest"], index.digest().to_string());
    let documents = shown["documents"].as_array().unwrap();
    let count = |kind: &str| {
        documents
            .iter()
            .filter(|document| document["kind"] == kind)
            .count()
    };
    assert_eq!(
        (count("index"), count("image"), count("attached")),
        (1, 3, 3)
    );
    assert_eq!(shown["platforms"].as_array().unwrap().len(), 3);
    for image in &images {
        assert!(
            human
                .stdout
                .contains(&format!("platform {}", image.platform)),
            "{}",
            human.stdout
        );
        assert!(human.stdout.contains(&image.digest().to_string()));
    }
    assert_eq!(
        human.stdout.matches("attached").count(),
        3,
        "{}",
        human.stdout
    );
    // None of them needs to be the host's.
    let foreign = OciContent::index_of(&images[2..], Attestations::Absent);
    foreign.write_archive(&context.dir().join("foreign.tar"));
    context.run(["inspect", "foreign.tar"]).assert_code(0);
}

/// Values may be secrets that were built in by mistake: people see names.
#[test]
fn cli_inspect_shows_no_values_of_variables_and_no_escapes() {
    let context = smokegate();
    let fixture = "entrypoint: [\"/bin/\\u001b[31mred\", \"a\\nb\"]\nenv: TOKEN=hunter2\n\
                   layer\nfile /x 0644 0:0 x\n";
    context.archive("loud", &ImageFixture::parse(fixture).unwrap().build());
    let run = context.run(["inspect", "loud.oci.tar"]);
    run.assert_code(0);
    assert!(
        run.stdout.contains("TOKEN") && !run.stdout.contains("hunter2"),
        "{}",
        run.stdout
    );
    assert!(!run.stdout.contains('\u{1b}'), "{:?}", run.stdout);
}

/// `smokegate inspect … | head -1`: the reader has what it wanted, which is no failure.
#[test]
fn cli_closed_pipe_is_not_a_failure() {
    let context = smokegate();
    let image = ImageFixture::load("layers-packed").build();
    context.archive("image", &image);
    for format in ["human", "json"] {
        let mut command = context.command(["inspect", "image.oci.tar", "--format", format]);
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // Closed before the first line is written, or while it is: either way nobody reads.
        drop(child.stdout.take());
        let mut stderr = String::new();
        child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut stderr)
            .unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{format}: {stderr}");
        assert_eq!(stderr, "", "{format}");
    }
    // Nobody reads standard error: what was asked for is still done.
    let words = ["push", "image.oci.tar", "--tag", "oci:layout:v1"];
    let mut command = context.command(words);
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop((child.stdout.take(), child.stderr.take()));
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(context.dir().join("layout/index.json").exists());
}

#[test]
fn cli_stdin_that_is_no_archive() {
    let context = smokegate();
    let file = context.write("text", "hello\n");
    for (what, stdin) in [
        ("empty", Stdio::null()),
        ("text", fs::File::open(file).unwrap().into()),
    ] {
        let mut command = context.command(["inspect", "-"]);
        command.stdin(stdin);
        let run = context.start_command(command).wait(Duration::from_secs(30));
        run.assert_code(5);
        assert!(run.stderr.starts_with("error: "), "{what}: {}", run.stderr);
    }
}

/// Every refusal for size names the flag that allows more, and the flag does.
#[test]
fn cli_limits_are_named_and_can_be_raised() {
    let context = smokegate();
    let image = context.archive("serve", &ImageFixture::load("serve").build());
    let image = image.to_str().unwrap();
    for (limit, says) in [
        ("layer-size=1k", "which looks like a decompression bomb"),
        ("archive-members=1", "more than 1 members"),
    ] {
        let (name, _) = limit.split_once('=').unwrap();
        let tag = format!("oci:{}:v1", context.dir().join(name).display());
        let refused = context.run(["push", image, "--tag", &tag, "--limit", limit]);
        refused.assert_code(5);
        assert!(refused.stderr.contains(says), "{}", refused.stderr);
        let hint = format!("hint: if you trust this image, raise the limit: --limit {name}=");
        assert!(refused.stderr.contains(&hint), "{}", refused.stderr);
        let more = format!("{name}=500000000");
        let pushed = context.run(["push", image, "--tag", &tag, "--limit", &more]);
        pushed.assert_code(0);
    }
    let unknown = context.run(["inspect", image, "--limit", "layers=1"]);
    unknown.assert_code(2);
    let names = "there is no limit `layers`; the names are layer-size, layer-entries, file-size";
    assert!(unknown.stderr.contains(names), "{}", unknown.stderr);
}
