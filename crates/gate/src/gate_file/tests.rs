//! The files of fixtures/gatefiles: what parses, and what a stranger is told about each mistake.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;

use smokegate_sandbox::Capability;

use super::*;
use crate::port::HostPort;

/// Set to write expected messages and the schema anew instead of comparing them.
const UPDATE: &str = "SMOKEGATE_UPDATE_SNAPSHOTS";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn variables(name: &str) -> Option<String> {
    match name {
        "GIT_SHA" => Some("c0ffee".to_owned()),
        "EMPTY" => Some(String::new()),
        "WORD" => Some("s3cret".to_owned()),
        "PORT" => Some("9000".to_owned()),
        _ => None,
    }
}

fn parse_named(name: &str, bytes: &[u8], fill_publish: bool) -> Result<GateFile, GateFileError> {
    let options = ParseOptions {
        lookup: &variables,
        fill_publish,
    };
    GateFile::parse(&Source::read(name, bytes)?, &options)
}

fn parse(text: &str) -> Result<GateFile, GateFileError> {
    parse_named("smokegate.yaml", text.as_bytes(), true)
}

fn first_message(text: &str) -> String {
    parse(text).unwrap_err().diagnostics[0].message.clone()
}

/// Compares with a file that is checked in.
fn matches_file(path: &Path, actual: &str) -> bool {
    if std::env::var_os(UPDATE).is_some() {
        fs::write(path, actual).unwrap();
    }
    fs::read_to_string(path).unwrap_or_default() == actual
}

#[test]
fn each_mistake_has_its_message() {
    let dir = root().join("fixtures/gatefiles/mistakes");
    let (mut seen, mut wrong) = (0, Vec::new());
    for entry in fs::read_dir(&dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        seen += 1;
        let message = match parse_named("smokegate.yaml", &fs::read(&path).unwrap(), true) {
            Ok(_) => "accepted\n".to_owned(),
            Err(error) => format!("{error}\n"),
        };
        if message == "accepted\n" || !matches_file(&path.with_extension("txt"), &message) {
            wrong.push(format!("{}:\n{message}", path.display()));
        }
    }
    assert!(seen >= 30, "{seen} mistakes");
    assert!(
        wrong.is_empty(),
        "set {UPDATE} to write them anew\n{}",
        wrong.join("\n")
    );
}

#[test]
fn the_schema_is_current() {
    let schema = serde_json::to_string_pretty(&json_schema()).unwrap() + "\n";
    let path = root().join("schema/smokegate.schema.json");
    assert!(
        matches_file(&path, &schema),
        "set {UPDATE} to write it anew"
    );
}

/// Every `$ref` of the schema leads somewhere, and every mapping refuses what it does not know.
#[test]
fn the_schema_is_whole() {
    fn walk(value: &Value, schema: &Value) {
        if let Some(reference) = value["$ref"].as_str() {
            let target = schema.pointer(&reference[1..]).unwrap();
            assert_eq!(target["additionalProperties"], false, "{reference}");
        }
        match value {
            Value::Array(items) => items.iter().for_each(|item| walk(item, schema)),
            Value::Object(map) => map.values().for_each(|item| walk(item, schema)),
            _ => {}
        }
    }
    let schema = json_schema();
    walk(&schema, &schema);
    let properties = |name: &str| {
        schema["$defs"][name]["properties"]
            .as_object()
            .unwrap()
            .len()
    };
    assert_eq!(properties("Service"), properties("Container") + 3);
    assert_eq!(properties("Variant"), properties("Container") + 5);
}

#[test]
fn the_documented_file_is_read_whole() {
    let bytes = fs::read(root().join("fixtures/gatefiles/documented.yaml")).unwrap();
    let file = parse_named("smokegate.yaml", &bytes, true).unwrap_or_else(|e| panic!("{e}"));

    assert_eq!(
        file.services.names().collect::<Vec<_>>(),
        ["pgvector", "redis", "migrate"]
    );
    let pgvector = file.services.get("pgvector").unwrap();
    let source = "docker-archive:images/pgvector.tar".to_owned();
    assert_eq!(pgvector.image.value, ServiceImage::Source(source));
    assert_eq!(pgvector.container.user.as_ref().unwrap().value, "postgres");
    assert_eq!(
        pgvector.post_ready.as_ref().unwrap()[0].0.args[6],
        "CREATE EXTENSION IF NOT EXISTS vector"
    );
    let probes = pgvector.container.probes.as_ref().unwrap();
    assert!(matches!(&probes[0].question, Question::Tcp(port) if port.0 == 5432));
    let redis = file.services.get("redis").unwrap();
    let args = &redis.container.command.as_ref().unwrap().args;
    assert_eq!(args[5..], ["--save", ""].map(str::to_owned));
    assert_eq!(args[4], "no");
    match &redis.container.probes.as_ref().unwrap()[0].question {
        Question::Exec { command, expect } => {
            assert_eq!(command.args, ["redis-cli", "PING"]);
            assert_eq!(expect.as_ref().unwrap().value, "PONG");
        }
        other => panic!("{other:?}"),
    }
    let migrate = file.services.get("migrate").unwrap();
    assert!(migrate.is_one_shot() && migrate.image.value == ServiceImage::App);

    let environment = file.app.environment.as_ref().unwrap();
    assert_eq!(
        environment
            .get("PORT")
            .unwrap()
            .value
            .as_ref()
            .unwrap()
            .value,
        "8080"
    );
    assert_eq!(environment.0.len(), 3);
    let ports = file.app.ports.as_ref().unwrap();
    assert_eq!(
        (ports[1].host, ports[1].container),
        (HostPort::Exactly(19100), 9100)
    );
    let probe = &file.app.probes.as_ref().unwrap()[0];
    assert_eq!(
        probe.within.as_ref().unwrap().value,
        Duration::from_secs(180)
    );
    match &probe.question {
        Question::Http(http) => {
            assert_eq!(http.path.as_ref().unwrap().0, "/health");
            assert!(http.status.as_ref().unwrap().contains(200));
        }
        other => panic!("{other:?}"),
    }

    assert_eq!(
        file.variants.names().collect::<Vec<_>>(),
        ["full-env", "memory-plugin-disabled"]
    );
    let full = file.variants.get("full-env");
    let order: Vec<&str> = file
        .services_of(full)
        .iter()
        .map(|(name, _)| name.as_str())
        .collect();
    assert_eq!(order, ["pgvector", "redis", "migrate"]);
    assert!(file.publish.unwrap().tags.0[0].ends_with("tenant:staging-c0ffee"));
}

#[test]
fn every_key_is_read() {
    let bytes = fs::read(root().join("fixtures/gatefiles/every-key.yaml")).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let file = parse(&text).unwrap_or_else(|e| panic!("{e}"));

    // No key of the schema is missing from the fixture.
    let schema = json_schema();
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        for key in definition["properties"].as_object().unwrap().keys() {
            let written = text.contains(&format!("{key}:"));
            assert!(written, "`{key}` of {name} is not in every-key.yaml");
        }
    }

    assert_eq!(file.min_isolation.unwrap().value, Isolation::Subuid);
    assert_eq!(file.parallel.unwrap().0, 4);
    assert_eq!(file.network.unwrap().value, Network::Shared);
    let app = &file.app;
    assert_eq!(
        app.entrypoint.as_ref().unwrap().args,
        ["/bin/app", "--name", "two words"]
    );
    assert_eq!(app.mem_limit.as_ref().unwrap().0, 512 << 20);
    assert_eq!(app.cpus.as_ref().unwrap().thousandths, 1500);
    assert_eq!(app.stop_signal.as_ref().unwrap().0, 3);
    assert_eq!(app.cap_drop.as_ref().unwrap()[0].value, Capability::All);
    let added = Capability::parse("NET_BIND_SERVICE").unwrap();
    assert_eq!(app.cap_add.as_ref().unwrap()[0].value, added);
    let nofile = app.ulimits.as_ref().unwrap().0.get("nofile").unwrap();
    assert_eq!(
        (nofile.soft, nofile.hard),
        (Rlimit(1024), Rlimit::UNLIMITED)
    );
    assert!(
        app.environment
            .as_ref()
            .unwrap()
            .get("UNSET_ME")
            .unwrap()
            .value
            .is_none()
    );
    let volumes = app.volumes.as_ref().unwrap();
    let size = Some(Size(64 << 20));
    assert_eq!(
        volumes[2].source,
        VolumeSource::Tmpfs {
            size,
            mode: Some(0o1777)
        }
    );
    assert!(volumes[1].read_only);
    let secrets = app.secrets.as_ref().unwrap();
    assert!(
        matches!(secrets.get("token"), Some(Secret::Environment(name)) if name.value == "API_TOKEN")
    );
    match &app.probes.as_ref().unwrap()[0].question {
        Question::Http(http) => {
            let body = http.body.as_ref().unwrap();
            let checks = &body.json.as_ref().unwrap().0;
            assert_eq!(checks[0].equals, Some(json!("ok")));
            assert_eq!(checks[1].equals, Some(json!(true)));
            let status = http.status.as_ref().unwrap();
            assert!(status.contains(204) && status.contains(302) && !status.contains(200));
        }
        other => panic!("{other:?}"),
    }
    let expect = file
        .variants
        .get("strict")
        .unwrap()
        .expect
        .as_ref()
        .unwrap();
    assert_eq!(
        expect.stops_within.as_ref().unwrap().value,
        Duration::from_secs(5)
    );
    assert!(expect.logs_never.as_ref().unwrap()[0].is_match("a panic: here"));
    assert_eq!(
        file.variants
            .get("job")
            .unwrap()
            .expect
            .as_ref()
            .unwrap()
            .exit_code
            .as_ref()
            .unwrap()
            .0,
        3
    );
    assert!(matches!(file.platforms, Some(Platforms::These(list)) if list.len() == 2));
}

#[test]
fn variables_of_publish_are_read_by_commands_that_publish() {
    let text = "version: 1\npublish: {tags: [\"r/app:${NONE}\"]}\n";
    assert_eq!(first_message(text), "the variable `NONE` is not set");
    let file = parse_named("f", text.as_bytes(), false).unwrap();
    assert_eq!(file.publish.unwrap().tags.0[0].value, "r/app:${NONE}");
}

#[test]
fn a_variable_is_a_value_and_never_structure() {
    let text = "version: 1\napp:\n  environment: {A: \"${WORD}\", B: ${EMPTY}, C: \"$${WORD}\"}\n  ports: [\"${PORT}:80\"]\n";
    let text = text.replace("B: ${EMPTY}", "B: \"${EMPTY}\"");
    let app = parse(&text).unwrap().app;
    let environment = app.environment.unwrap();
    let value = |name| {
        environment
            .get(name)
            .unwrap()
            .value
            .as_ref()
            .unwrap()
            .value
            .clone()
    };
    assert_eq!(
        (value("A"), value("B"), value("C")),
        ("s3cret".into(), String::new(), "${WORD}".into())
    );
    assert_eq!(app.ports.unwrap()[0].host, HostPort::Exactly(9000));
    // What a variable holds may be a secret, so that it is not repeated.
    let error = parse("version: 1\napp: {mem_limit: \"${WORD}\"}\n").unwrap_err();
    assert!(!error.to_string().contains("s3cret"), "{error}");
}

#[test]
fn anchors_and_merge_keys_work_as_yaml_has_them() {
    let file = parse(
        "version: 1\n\
         x-probe: &probe {tcp: 80, interval: 1s}\n\
         x-base: &base {user: a, hostname: base}\n\
         x-more: &more {user: b, working_dir: /w}\n\
         app:\n  <<: [*base, *more]\n  hostname: own\n  probes: [*probe, {<<: *probe, interval: 3s}]\n",
    )
    .unwrap_or_else(|e| panic!("{e}"));
    let app = file.app;
    assert_eq!(app.user.unwrap().value, "a");
    assert_eq!(app.hostname.unwrap().0, "own");
    assert_eq!(app.working_dir.unwrap().0, "/w");
    let intervals: Vec<u64> = app
        .probes
        .unwrap()
        .iter()
        .map(|p| p.interval.as_ref().unwrap().as_secs())
        .collect();
    assert_eq!(intervals, [1, 3]);
}

#[test]
fn what_is_too_much_is_refused() {
    let mut bomb = String::from("version: 1\nx-a: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..9 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(",");
        bomb.push_str(&format!("x-{level}: &a{level} [{aliases}]\n"));
    }
    assert!(first_message(&bomb).contains("more than 10000 values"));
    let deep = format!("version: 1\nx-a: {}{}\n", "[".repeat(500), "]".repeat(500));
    assert!(
        first_message(&deep).contains("not YAML"),
        "{}",
        first_message(&deep)
    );
    let mut chain = String::from("x-0: &a0 [x]\n");
    for level in 1..100 {
        chain.push_str(&format!("x-{level}: &a{level} [*a{}]\n", level - 1));
    }
    assert!(first_message(&chain).contains("deep"));
    let large = vec![b'#'; 1024 * 1024 + 1];
    assert!(
        parse_named("f", &large, false)
            .unwrap_err()
            .to_string()
            .contains("1 MiB")
    );
    let latin = parse_named("f", b"version: 1\napp: {user: \xe9}\n", false).unwrap_err();
    assert_eq!(
        (latin.diagnostics[0].line, latin.diagnostics[0].column),
        (2, 13)
    );
    assert!(first_message("version: 1\napp: &a {environment: *a}\n").contains("within the value"));
}

#[test]
fn services_start_in_order_and_variants_choose() {
    let file = parse(
        "version: 1\nservices:\n  c: {image: c.tar, depends_on: [b]}\n  b: {image: b.tar, depends_on: [a]}\n  a: {image: a.tar}\n  once: {image: app, one_shot: true}\n  extra: {image: e.tar}\n\
         app: {depends_on: [c]}\n\
         variants:\n  all:\n  more: {depends_on: [extra]}\n  some: {services: [b]}\n  none: {services: []}\n",
    )
    .unwrap_or_else(|e| panic!("{e}"));
    for (variant, expected) in [
        ("all", "a b c once"),
        ("more", "a b c once extra"),
        ("some", "a b"),
        ("none", ""),
    ] {
        let services = file.services_of(file.variants.get(variant));
        let names: Vec<&str> = services.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.join(" "), expected, "{variant}");
    }
}

#[test]
fn a_resolver_can_point_at_what_it_read() {
    let text = "version: 1\nservices:\n  db: {image: gone.tar}\napp: {depends_on: [db]}\n";
    let source = Source::read("gate.yaml", text.as_bytes()).unwrap();
    let options = ParseOptions {
        lookup: &variables,
        fill_publish: false,
    };
    let file = GateFile::parse(&source, &options).unwrap();
    let image = &file.services.get("db").unwrap().image;
    let shown = source.diagnose(
        image.span,
        "there is no file `gone.tar`",
        Some("build it first"),
    );
    assert_eq!(
        shown.rendered,
        "gate.yaml:3:15: there is no file `gone.tar`\n  |\n3 |   db: {image: gone.tar}\n  |               ^^^^^^^^\nhint: build it first"
    );
}

/// Bits of gate files, so that arbitrary text gets further than the first line.
fn piece() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "version: 1\n",
        "app:\n",
        "  ",
        "services:\n",
        "variants:\n",
        "  a:\n",
        "    image: app\n",
        "probes:",
        "http: {",
        "path: /",
        "}",
        "]",
        "[",
        "- ",
        "&a ",
        "*a",
        "<<: *a\n",
        "${A:-",
        "${",
        "$$",
        "\"",
        "'",
        "\n",
        ": ",
        "|\n",
        "environment:",
        "K=V",
        "depends_on: [a]\n",
        "ports: [\"1:1\"]\n",
        "volumes: [a:/b]\n",
        "!!str ",
        "---\n",
        "\t",
        "é",
        "body: {json: {/a: 1}}\n",
        "null",
        "~",
        "x-a: ",
        "0",
        "2s",
        "command: \"a 'b\"\n",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => "\\PC{0,4}"]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_text_breaks_the_reader(pieces in prop::collection::vec(piece(), 0..40)) {
        if let Err(error) = parse(&pieces.concat()) {
            prop_assert!(!error.diagnostics.is_empty());
            for diagnostic in &error.diagnostics {
                prop_assert!(diagnostic.line >= 1 && diagnostic.rendered.contains('^'));
            }
        }
    }

    #[test]
    fn no_bytes_break_the_reader(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = parse_named("f", &bytes, true);
    }

    /// The documented file with a piece of it cut out or doubled.
    #[test]
    fn no_damage_breaks_the_reader(at in 0_usize..2200, length in 0_usize..80, twice in any::<bool>()) {
        let text = fs::read(root().join("fixtures/gatefiles/documented.yaml")).unwrap();
        let (start, end) = (at.min(text.len()), (at + length).min(text.len()));
        let mut damaged = text[..start].to_vec();
        if twice {
            damaged.extend_from_slice(&text[start..end]);
            damaged.extend_from_slice(&text[start..end]);
        }
        damaged.extend_from_slice(&text[end..]);
        let _ = parse_named("f", &damaged, true);
    }
}
