//! The reports beside the receipt, and what a hostile container can do to them: nothing.

use std::fs;

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use smokegate_test_support::{Finished, ImageFixture, RunAs, Smokegate};

/// What an app might write to become more than text: tags, an entity, the end of a CDATA section, a workflow command,
/// escapes of a terminal, a GitLab section, characters that XML cannot hold.
const HOSTILE: &str = "</pre></testcase><script>alert(1)</script>&lt;]]><!--\\n::error::injected\\n\
    \\u001b[0Ksection_end:0:smokegate_bad_app\\r\\u001b[0Kleft\\u0008\\uffff<img src=x onerror=alert(2)>\\u202eright";

const GATE_FILE: &str = r#"
version: 1
services:
  redis:
    image: app
    entrypoint: [/probe-target, serve]
    command: [--port, "6379"]
    probes: [{tcp: 6379}]
app:
  entrypoint: [/probe-target]
  command: [serve]
  ports: ["0:8080"]
  depends_on: [redis]
  probes:
    - {http: {port: 8080, path: /healthz}, interval: 100ms, within: 10s}
variants:
  good:
    expect: {logs_never: [panic]}
  bad:
    expect: {logs_never: [panic]}
    command: [print-then-exit, "7", "HOSTILE"]
  unwell:
    expect: {logs_never: [panic]}
    command: [serve, --status, "500", --body, "HOSTILE"]
    probes:
      - {name: "<second> & \"last\"", http: {port: 8080, path: /healthz}, interval: 100ms, within: 1s}
  logs:
    expect: {logs_never: [panic], stops_within: 5s}
    command: [print, "panic HOSTILE", serve]
"#;

struct Bench {
    context: Smokegate,
    image: String,
}

impl Bench {
    fn new(run_as: RunAs) -> Option<Self> {
        let context = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as)?;
        let image = context.archive("serve", &ImageFixture::load("serve").build());
        let file = GATE_FILE.replace("HOSTILE", HOSTILE);
        context.write("smokegate.yaml", file);
        let image = image.display().to_string();
        Some(Self { context, image })
    }

    fn gate(&self) -> Finished {
        let run = self.context.run(["gate", &self.image]);
        run.assert_code(1);
        run
    }

    fn report(&self, name: &str) -> String {
        let path = self.context.dir().join("smokegate-report").join(name);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }
}

/// A test case of `junit.xml`.
#[derive(Debug, Default)]
struct Case {
    suite: String,
    name: String,
    /// `failure`, `error`, `skipped`, or nothing where it passed.
    end: String,
    message: String,
    text: String,
}

fn attribute(start: &BytesStart<'_>, name: &str) -> String {
    let found = start.try_get_attribute(name).unwrap();
    let found = found.unwrap_or_else(|| panic!("no `{name}`"));
    found
        .normalized_value(quick_xml::XmlVersion::Explicit1_0)
        .unwrap()
        .into_owned()
}

/// Reads the document as strictly as the schema of Jenkins wants it, and checks the sums.
fn junit(text: &str) -> Vec<Case> {
    let is_character = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    assert!(text.chars().all(is_character), "not XML 1.0");
    let mut reader = Reader::from_str(text);
    let (mut path, mut cases) = (Vec::<String>::new(), Vec::<Case>::new());
    let (mut suite, mut sums) = (String::new(), Vec::new());
    loop {
        let event = reader.read_event().unwrap();
        let (start, is_empty) = match &event {
            Event::Start(start) => (Some(start), false),
            Event::Empty(start) => (Some(start), true),
            _ => (None, false),
        };
        if let Some(start) = start {
            let name = start.name().as_ref().to_owned();
            let parent = path
                .last()
                .map(String::as_str)
                .unwrap_or_default()
                .to_owned();
            let allowed = match name.as_str() {
                "testsuites" => "",
                "testsuite" => "testsuites",
                "properties" | "testcase" | "system-out" => "testsuite",
                "property" => "properties",
                "failure" | "error" | "skipped" => "testcase",
                other => panic!("an element `{other}`"),
            };
            assert_eq!(parent, allowed, "{name}");
            match name.as_str() {
                "testsuites" | "testsuite" => {
                    suite = attribute(start, "name");
                    let numbers = ["tests", "failures", "errors", "skipped"];
                    let numbers =
                        numbers.map(|name| attribute(start, name).parse::<usize>().unwrap());
                    sums.push((name.clone(), suite.clone(), numbers));
                }
                "testcase" => {
                    attribute(start, "time").parse::<f64>().unwrap();
                    assert_eq!(attribute(start, "classname"), format!("smokegate.{suite}"));
                    cases.push(Case {
                        suite: suite.clone(),
                        name: attribute(start, "name"),
                        ..Case::default()
                    });
                }
                "failure" | "error" | "skipped" => {
                    let case = cases.last_mut().unwrap();
                    assert_eq!(case.end, "", "two ends");
                    case.end.clone_from(&name);
                    case.message = attribute(start, "message");
                }
                _ => {}
            }
            if !is_empty {
                path.push(name);
            }
        }
        match event {
            Event::End(_) => drop(path.pop()),
            Event::Text(text)
                if matches!(path.last().map(String::as_str), Some("failure" | "error")) =>
            {
                cases.last_mut().unwrap().text += &text;
            }
            Event::Eof => break,
            _ => {}
        }
    }
    assert!(path.is_empty(), "{path:?}");
    for (element, name, numbers) in sums {
        let of = || {
            cases
                .iter()
                .filter(|case| element == "testsuites" || case.suite == name)
        };
        let count = |end: &str| of().filter(|case| case.end == end).count();
        let counted = [
            of().count(),
            count("failure"),
            count("error"),
            count("skipped"),
        ];
        assert_eq!(counted, numbers, "{element} {name}");
    }
    cases
}

/// The causes of the `error:` blocks.
fn causes(run: &Finished) -> Vec<&str> {
    let lines = run.stderr.lines();
    lines
        .filter_map(|line| line.strip_prefix("error: "))
        .collect()
}

fn reports_of_hostile_containers(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as) else {
        return;
    };
    let run = bench.gate();
    let causes = causes(&run);
    assert_eq!(causes.len(), 3, "{}", run.stderr);

    let cases = junit(&bench.report("junit.xml"));
    let ends = |suite: &str| -> Vec<(String, String)> {
        let of = cases.iter().filter(|case| case.suite == suite);
        of.map(|case| (case.name.clone(), case.end.clone()))
            .collect()
    };
    let probe = "probe GET /healthz on port 8080";
    let second = "probe `<second> & \"last\"` (GET /healthz on port 8080)";
    let table: [(&str, &[(&str, &str)]); 4] = [
        (
            "good",
            &[
                ("service redis", ""),
                ("runs", ""),
                (probe, ""),
                ("expect logs_never", ""),
            ],
        ),
        (
            "bad",
            &[
                ("service redis", ""),
                ("runs", "failure"),
                (probe, "skipped"),
                ("expect logs_never", "skipped"),
            ],
        ),
        (
            "unwell",
            &[
                ("service redis", ""),
                ("runs", ""),
                // Both give up; the first of them is named.
                (probe, "failure"),
                (second, "skipped"),
                ("expect logs_never", "skipped"),
            ],
        ),
        ("logs", &[("service redis", ""), ("runs", "")]),
    ];
    for (suite, expected) in table {
        let found = ends(suite);
        let found: Vec<_> = found
            .iter()
            .map(|(name, end)| (name.as_str(), end.as_str()))
            .collect();
        assert_eq!(found[..expected.len()], *expected, "{suite}: {cases:#?}");
    }
    assert!(
        ends("logs").contains(&("expect logs_never".into(), "failure".into())),
        "{cases:#?}"
    );
    for case in cases.iter().filter(|case| case.end == "failure") {
        // The first line of the block that the user saw.
        assert!(
            causes.contains(&case.message.as_str()),
            "{}: {causes:?}",
            case.message
        );
        assert!(
            case.text
                .starts_with(case.message.split(['<', '&', '"']).next().unwrap()),
            "{}",
            case.text
        );
    }

    let html = bench.report("report.html");
    assert!(html.starts_with("<!DOCTYPE html>") && html.ends_with("</html>\n"));
    for tag in [
        "<script", "<img", "<iframe", "<link", "<a ", "src=\"", "href",
    ] {
        assert!(!html.contains(tag), "{tag}: {html}");
    }
    assert!(
        html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"),
        "{html}"
    );
    assert!(html.contains("default-src 'none'"), "{html}");
    let summary = bench.report("summary.md");
    let tags = summary.match_indices('<').map(|(at, _)| at);
    assert!(tags.clone().count() > 2, "{summary}");
    for at in tags {
        assert!(
            summary[..at].ends_with('\\'),
            "a tag in Markdown: {summary}"
        );
    }
    for text in [&html, &bench.report("junit.xml"), &summary, &run.stderr] {
        let bad = |c: char| c.is_control() && !matches!(c, '\n' | '\t') || c == '\u{202e}';
        assert!(!text.contains(bad), "a control character: {text:?}");
    }
    // Every fact of the receipt.
    let receipt = bench.context.receipt();
    let digest = receipt["image"]["digest"].as_str().unwrap();
    for fact in [
        digest,
        "good",
        "unwell",
        "attempts",
        "isolation level",
        "sandbox",
        "service redis",
    ] {
        assert!(html.contains(fact), "{fact}: {html}");
    }
}

#[test]
fn root_reports_of_hostile_containers() {
    reports_of_hostile_containers(RunAs::Root);
}

#[test]
fn rootless_reports_of_hostile_containers() {
    reports_of_hostile_containers(RunAs::OrdinaryUser);
}

#[test]
fn rootless_a_run_without_a_verdict_has_reports_too() {
    let Some(bench) = Bench::new(RunAs::OrdinaryUser) else {
        return;
    };
    fs::remove_file(bench.context.dir().join("smokegate.yaml")).unwrap();
    let run = bench
        .context
        .run(["gate", &bench.image, "--entrypoint", ""]);
    let cases = junit(&bench.report("junit.xml"));
    if run.code() == Some(0) {
        panic!("an empty entrypoint ran: {}", run.stderr);
    }
    assert_eq!(cases.len(), 1, "{cases:?}");
    assert!(bench.report("report.html").contains("</html>"));
}

/// GitLab folds what is between its marks, which consist of escapes and a carriage return.
#[test]
fn rootless_gitlab_sections_cannot_be_ended_by_a_container() {
    let Some(mut bench) = Bench::new(RunAs::OrdinaryUser) else {
        return;
    };
    bench.context.env("GITLAB_CI", "true");
    let run = bench.gate();
    let marks: Vec<_> = run
        .stderr
        .split("\u{1b}[0K")
        .filter_map(|part| part.strip_suffix('\r'))
        .filter_map(|part| part.split(':').next())
        .collect();
    assert!(marks.len() >= 6 && marks.len() % 2 == 0, "{marks:?}");
    for pair in marks.chunks(2) {
        assert_eq!(pair, ["section_start", "section_end"], "{marks:?}");
    }
    // No other escape than ours: two for each mark.
    assert_eq!(run.stderr.matches('\u{1b}').count(), 2 * marks.len());
    assert_eq!(run.stderr.matches('\r').count(), marks.len());
}

#[test]
fn rootless_gitea_gets_groups_and_no_annotations() {
    let Some(mut bench) = Bench::new(RunAs::OrdinaryUser) else {
        return;
    };
    bench
        .context
        .env("GITHUB_ACTIONS", "true")
        .env("GITEA_ACTIONS", "true");
    let run = bench.gate();
    assert!(
        run.stderr.contains("\n::group::smokegate: variant bad: "),
        "{}",
        run.stderr
    );
    assert!(!run.stderr.contains("\n::error"), "{}", run.stderr);
    let fences = run.stderr.matches("::stop-commands::").count();
    assert!(fences >= 3, "{}", run.stderr);
}
