//! `smokegate lint`: what it says, in which form, and how it ends.

use std::fs;

use serde_json::Value;
use smokegate_image::Digest;
use smokegate_test_support::{ImageFixture, RunAs, Smokegate, fixture_dir};

const BINARY: &str = env!("CARGO_BIN_EXE_smokegate");

const SCRIPT: &str = "entrypoint: /start\n\
    layer\n\
    file /bin/sh 0755 0:0 @probe-target\n\
    file /probe-target 0755 0:0 @probe-target\n\
    file /start 0755 0:0 #!/bin/sh\\nif [ -n \"$PLUGIN_URL\" ]; then\\n  echo plugin\\nfi\\nexec /probe-target serve\\n";

/// With a broken image, an image with a hint, and one without any findings.
fn smokegate() -> Smokegate {
    let context = Smokegate::without_sandbox(BINARY);
    context.archive("missing", &ImageFixture::load("entrypoint-missing").build());
    context.archive("script", &ImageFixture::parse(SCRIPT).unwrap().build());
    context.archive("serve", &ImageFixture::load("serve").build());
    context
}

#[test]
fn cli_lint_says_the_cause_first_and_how_to_mend_it() {
    let context = smokegate();
    let run = context.run(["lint", "missing.oci.tar"]);
    run.assert_code(1);
    let lines: Vec<_> = run.stdout.lines().collect();
    assert_eq!(
        lines[0],
        "error[program-not-found]: the entrypoint `/usr/local/bin/server` does not exist in the image"
    );
    assert!(
        lines.iter().any(|line| line.starts_with("  fix: copy")),
        "{lines:?}"
    );
    assert!(
        lines
            .last()
            .unwrap()
            .ends_with("errors: 1, warnings: 0, hints: 0"),
        "{lines:?}"
    );

    let run = context.run(["lint", "serve.oci.tar", "--quiet"]);
    run.assert_code(0);
    assert_eq!(run.stdout.lines().count(), 1, "{}", run.stdout);
    assert_eq!(run.stderr, "");
}

#[test]
fn cli_lint_as_json_and_as_sarif() {
    let context = smokegate();
    let run = context.run(["lint", "missing.oci.tar", "--format", "json"]);
    run.assert_code(1);
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    let finding = &document["findings"][0];
    assert_eq!(finding["id"], "program-not-found");
    assert_eq!(finding["severity"], "error");
    assert_eq!(finding["evidence"][0]["path"], "/usr");
    assert!(document["image"].as_str().unwrap().starts_with("sha256:"));

    let run = context.run(["lint", "missing.oci.tar", "--format", "sarif"]);
    run.assert_code(1);
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(document["version"], "2.1.0");
    let log = &document["runs"][0];
    assert_eq!(log["tool"]["driver"]["name"], "smokegate");
    assert_eq!(log["tool"]["driver"]["rules"][0]["id"], "program-not-found");
    let result = &log["results"][0];
    assert_eq!(result["ruleId"], "program-not-found");
    assert_eq!(result["level"], "error");
    let place = &result["locations"][0]["physicalLocation"]["artifactLocation"];
    assert_eq!(place["uri"], "usr");

    let run = context.run(["lint", "serve.oci.tar", "--format", "sarif"]);
    run.assert_code(0);
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(document["runs"][0]["results"], serde_json::json!([]));
}

#[test]
fn cli_lint_alone_speaks_sarif() {
    let context = smokegate();
    for words in [
        &["inspect", "serve.oci.tar"][..],
        &["gate", "serve.oci.tar"],
        &["push", "serve.oci.tar", "--tag", "localhost:1/a:b"],
        &["cache", "list"],
    ] {
        let run = context.run([words, &["--format", "sarif"]].concat());
        run.assert_code(2);
        assert!(
            run.stderr
                .contains("`--format sarif` is for `smokegate lint`"),
            "{}",
            run.stderr
        );
        assert_eq!(run.stdout, "", "{words:?}");
    }
}

#[test]
fn cli_lint_knows_the_variables_of_a_gate_file() {
    let context = smokegate();
    let file = |variables: &str| format!("version: 1\napp:\n  environment: {variables}\n");
    let hints = |options: &[&str], code: i32| {
        let run = context.run([&["lint", "script.oci.tar"], options].concat());
        run.assert_code(code);
        run.stdout.matches("hint[variable-never-set]").count()
    };
    assert_eq!(hints(&[], 0), 0, "no variants are known");
    context.write("smokegate.yaml", file("{OTHER: x}"));
    assert_eq!(hints(&[], 0), 1);
    assert_eq!(hints(&["--no-file"], 0), 0);
    context.write("sets.yaml", file("{PLUGIN_URL: x}"));
    assert_eq!(hints(&["--file", "sets.yaml"], 0), 0);
    context.write("vars", "PLUGIN_URL=x\n");
    context.write(
        "reads.yaml",
        "version: 1\nvariants:\n  with: {env_file: vars}\n",
    );
    assert_eq!(hints(&["--file", "reads.yaml"], 0), 0);
    assert_eq!(hints(&["--file", "absent.yaml"], 2), 0);
}

#[test]
fn cli_lint_names_the_layer_it_cannot_read() {
    let context = smokegate();
    context.write("text", "no image");
    context.run(["lint", "text"]).assert_code(5);
    context.run(["lint", "absent.tar"]).assert_code(2);

    let image = ImageFixture::load("serve").build();
    image.write_oci_layout(&context.dir().join("damaged"), None);
    let layer = image.layers[0].digest.clone();
    let blob = context.dir().join("damaged/blobs/sha256").join(layer.hex());
    let mut bytes = fs::read(&blob).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x55;
    fs::write(&blob, bytes).unwrap();
    let run = context.run(["lint", "damaged"]);
    run.assert_code(5);
    assert!(run.stderr.contains(&layer.to_string()), "{}", run.stderr);
}

/// No privilege is needed, nor anything of a sandbox.
#[test]
fn rootless_lint_reads_layers_as_anybody() {
    let Some(context) = Smokegate::new(BINARY, RunAs::OrdinaryUser) else {
        return;
    };
    context.archive("missing", &ImageFixture::load("entrypoint-missing").build());
    context.run(["lint", "missing.oci.tar"]).assert_code(1);
}

fn gate_says_what_lint_sees(run_as: RunAs) {
    let Some(context) = Smokegate::new(BINARY, run_as) else {
        return;
    };
    let recipe = fixture_dir().join("../broken/interpreter-elsewhere.txt");
    let image = ImageFixture::parse(&fs::read_to_string(recipe).unwrap()).unwrap();
    context.archive("broken", &image.build());
    let lines = [
        "error: the script `/start` needs `/usr/local/bin/python3`, which the image has not",
        "  fix: the image has `/usr/bin/python3`: write `#!/usr/bin/python3`",
        "  lint [interpreter-missing]: /start:1: #!/usr/local/bin/python3",
        "hint: the image has `/usr/bin/python3`: write `#!/usr/bin/python3`",
    ];
    let run = context.run(["gate", "broken.oci.tar"]);
    run.assert_code(1);
    for line in lines {
        assert!(
            run.stderr.lines().any(|said| said == line),
            "{line}: {}",
            run.stderr
        );
    }
    let receipt = context.receipt();
    let variant = &receipt["variants"][0];
    assert_eq!(variant["cause_id"], "interpreter-missing");
    let finding = &variant["findings"][0];
    assert_eq!(finding["id"], "interpreter-missing");
    assert_eq!(finding["severity"], "error");
    assert_eq!(finding["container"], "app");
    assert_eq!(finding["evidence"][0]["path"], "/start");
    assert_eq!(finding["evidence"][0]["line"], 1);
    let run = context.run(["gate", "broken.oci.tar", "--no-lint"]);
    run.assert_code(1);
    assert!(!run.stderr.contains("lint"), "{}", run.stderr);
    let receipt = context.receipt();
    assert_eq!(receipt["variants"][0]["findings"], Value::Null);
}

/// A run that passes has what lint found in its receipt, the same whether the layers were read or known.
fn a_pass_has_findings(run_as: RunAs) {
    let Some(context) = Smokegate::new(BINARY, run_as) else {
        return;
    };
    let recipe = fixture_dir().join("../broken/env-without-value.txt");
    let image = ImageFixture::parse(&fs::read_to_string(recipe).unwrap()).unwrap();
    context.archive("image", &image.build());
    let mut all = Vec::new();
    for _ in 0..2 {
        let run = context.run(["gate", "image.oci.tar", "--publish", "0:8080"]);
        run.assert_code(0);
        let says =
            "lint: warning[env-malformed]: the environment has `DEBUG`, which is no NAME=value\n";
        assert!(run.stderr.contains(says), "{}", run.stderr);
        let receipt = context.receipt();
        let findings = receipt["variants"][0]["findings"].clone();
        assert_eq!(findings[0]["id"], "env-malformed", "{findings}");
        assert_eq!(findings[0]["severity"], "warning");
        all.push(findings);
    }
    assert_eq!(all[0], all[1]);
    let summary = context.dir().join("smokegate-report/summary.md");
    let summary = fs::read_to_string(summary).unwrap();
    assert!(
        summary.contains("- lint: warning `env-malformed` in app: "),
        "{summary}"
    );
}

#[test]
fn root_a_pass_has_the_findings_in_its_receipt() {
    a_pass_has_findings(RunAs::Root);
}

#[test]
fn rootless_a_pass_has_the_findings_in_its_receipt() {
    a_pass_has_findings(RunAs::OrdinaryUser);
}

#[test]
fn cli_lint_honours_limits_also_of_layers_it_knows() {
    let context = smokegate();
    context.run(["lint", "serve.oci.tar"]).assert_code(0);
    let run = context.run(["lint", "serve.oci.tar", "--limit", "layer-entries=1"]);
    run.assert_code(5);
    let says = "the number of entries up to it is over the limit of 1";
    assert!(run.stderr.contains(says), "{}", run.stderr);
    let hint = "hint: if you trust this image, raise the limit: --limit layer-entries=";
    assert!(run.stderr.contains(hint), "{}", run.stderr);
    context.run(["lint", "serve.oci.tar"]).assert_code(0);
}

#[test]
fn cli_lint_keeps_an_index_that_prune_removes_with_its_layer() {
    let context = smokegate();
    let count = || {
        let index = context.dir().join("cache/smokegate/index");
        fs::read_dir(index).map_or(0, Iterator::count)
    };
    context.run(["lint", "serve.oci.tar"]).assert_code(0);
    let kept = count();
    assert!(kept > 0);
    context.run(["lint", "serve.oci.tar"]).assert_code(0);
    assert_eq!(count(), kept);
    context.run(["cache", "prune"]).assert_code(0);
    assert_eq!(count(), 0);
}

#[test]
fn root_unpacking_leaves_an_index_of_what_was_verified() {
    unpacking_leaves_an_index(RunAs::Root);
}

#[test]
fn rootless_unpacking_leaves_an_index_of_what_was_verified() {
    unpacking_leaves_an_index(RunAs::OrdinaryUser);
}

/// Of a layer that is large enough for threads of its own; lint itself reads nothing here.
fn unpacking_leaves_an_index(user: RunAs) {
    const FIXTURE: &str = "entrypoint: /probe-target serve\n\
        layer gzip\n\
        file /probe-target 0755 0:0 @probe-target\n\
        file /noise 0644 0:0 random:4M:7\n";
    let Some(context) = Smokegate::new(BINARY, user) else {
        return;
    };
    let index = context.dir().join("cache/smokegate/index");
    let indexed = || -> Vec<_> {
        let files = fs::read_dir(&index).into_iter().flatten().flatten();
        files.map(|file| file.file_name()).collect()
    };
    let image = ImageFixture::parse(FIXTURE).unwrap().build();
    let gate = |image| context.run(["gate", image, "--no-lint", "--publish", "0:8080"]);

    // As long as the right ones, so that nothing else changes.
    let mut wrong = ImageFixture::parse(FIXTURE).unwrap().build();
    let replace = |bytes: &[u8], from: &Digest, to: &Digest| {
        let text = str::from_utf8(bytes).unwrap();
        text.replace(from.hex(), to.hex()).into_bytes()
    };
    let (diff_id, other) = (&image.layers[0].diff_id, Digest::sha256(b"something else"));
    wrong.config = replace(&image.config, diff_id, &other);
    let (config, other) = (image.config_digest(), Digest::sha256(&wrong.config));
    wrong.manifest = replace(&image.manifest, &config, &other);
    context.archive("wrong", &wrong);
    gate("wrong.oci.tar").assert_code(5);
    assert!(indexed().is_empty(), "{:?}", indexed());

    context.archive("large", &image);
    gate("large.oci.tar").assert_code(0);
    assert_eq!(indexed(), [image.layers[0].diff_id.hex()]);
}

#[test]
fn root_gate_says_what_lint_sees() {
    gate_says_what_lint_sees(RunAs::Root);
}

#[test]
fn rootless_gate_says_what_lint_sees() {
    gate_says_what_lint_sees(RunAs::OrdinaryUser);
}
