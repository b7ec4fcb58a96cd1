//! Every check and every test, the failures of all of them, and one line of counts at the end.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use crate::test_counts::TestCounts;
use crate::workspace::{cargo, is_installed, metadata, root};
use crate::{Result, packages};

/// What becomes of a test whose needs the host does not meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unmet {
    /// It is reported as not run.
    Skip,
    /// It fails.
    Fail,
}

struct Step {
    name: &'static str,
    command: Command,
}

/// Whether all went well. The counts are the last line, whatever happened before.
pub(crate) fn test(unmet: Unmet) -> Result<bool> {
    packages::ensure();
    let record = not_run_record()?;
    let mut counts = TestCounts::default();
    let mut failed = Vec::new();
    let target = record.parent();
    let installed = [
        target.and_then(packages::ensure_moto),
        target.and_then(packages::ensure_ferro),
    ];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::env::split_paths(&path).chain(installed.into_iter().flatten());
    let path = std::env::join_paths(places)?;
    for mut step in checks(unmet).into_iter().chain(tests(unmet, &record)) {
        step.command.env("PATH", &path);
        println!("== {}", step.name);
        let (succeeded, counted) = watch(step.command)?;
        counts += counted;
        if !succeeded {
            failed.push(step.name);
        }
    }

    let text = fs::read_to_string(&record).unwrap_or_default();
    let not_run: BTreeSet<&str> = text.lines().collect();
    // To the runner a test that returned early has passed.
    counts.passed = counts.passed.saturating_sub(not_run.len());
    counts.skipped += not_run.len();
    for line in not_run {
        println!("not run: {line}");
    }
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
    }
    println!(
        "{} passed, {} failed, {} skipped",
        counts.passed, counts.failed, counts.skipped
    );
    // No test at all is a failure too.
    Ok(failed.is_empty() && counts.failed == 0 && counts.passed > 0)
}

fn checks(unmet: Unmet) -> Vec<Step> {
    let mut doc = cargo([
        "doc",
        "--quiet",
        "--no-deps",
        "--workspace",
        "--document-private-items",
    ]);
    doc.env("RUSTDOCFLAGS", "-Dwarnings");
    let clippy = cargo([
        "clippy",
        "--quiet",
        "--workspace",
        "--all-targets",
        "--",
        "-Dwarnings",
    ]);
    // No target of any package: the build script of the test support compiles it.
    let mut probe_target = Command::new("rustfmt");
    probe_target.args([
        "--check",
        "--edition=2024",
        "tests/support/probe_target/main.rs",
    ]);
    probe_target.current_dir(root());
    let mut steps = vec![
        Step {
            name: "fmt",
            command: cargo(["fmt", "--check"]),
        },
        Step {
            name: "fmt of the probe target",
            command: probe_target,
        },
        Step {
            name: "clippy",
            command: clippy,
        },
        Step {
            name: "doc",
            command: doc,
        },
    ];
    // The advisory database cannot be fetched everywhere, so of cargo-deny the parts that need no network.
    if unmet == Unmet::Fail && is_installed("cargo-deny") {
        let command = cargo(["deny", "--offline", "check", "bans", "licenses", "sources"]);
        steps.push(Step {
            name: "deny",
            command,
        });
    }
    steps
}

fn tests(unmet: Unmet, record: &Path) -> Vec<Step> {
    let mut commands = if is_installed("cargo-nextest") {
        let profile = if unmet == Unmet::Fail {
            "ci"
        } else {
            "default"
        };
        vec![
            (
                "tests",
                cargo(["nextest", "run", "--workspace", "--profile", profile]),
            ),
            (
                "doctests",
                cargo(["test", "--quiet", "--workspace", "--doc"]),
            ),
        ]
    } else {
        vec![("tests", cargo(["test", "--workspace", "--no-fail-fast"]))]
    };
    for (_, command) in &mut commands {
        command.env("SMOKEGATE_TEST_NOT_RUN", record);
        if unmet == Unmet::Fail {
            command.env("SMOKEGATE_TEST_REQUIRE", "all");
        }
    }
    commands
        .into_iter()
        .map(|(name, command)| Step { name, command })
        .collect()
}

/// An empty place for the tests to record what did not run.
fn not_run_record() -> Result<PathBuf> {
    let metadata = metadata(&["--no-deps"])?;
    let dir = Path::new(
        metadata["target_directory"]
            .as_str()
            .ok_or("no target directory")?,
    );
    let dir = dir.join("xtask");
    fs::create_dir_all(&dir)?;
    let record = dir.join("not-run.txt");
    fs::write(&record, "")?;
    Ok(record)
}

/// Runs a step, passes its output on, and counts.
fn watch(mut command: Command) -> Result<(bool, TestCounts)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("starting a step: {error}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let errors = thread::spawn(move || pass_on(stderr, |line| eprintln!("{line}")));
    let mut counts = pass_on(stdout, |line| println!("{line}"));
    counts += errors.join().map_err(|_| "reading the output failed")?;
    Ok((child.wait()?.success(), counts))
}

fn pass_on(stream: Option<impl Read>, print: impl Fn(&str)) -> TestCounts {
    let mut counts = TestCounts::default();
    let Some(stream) = stream else { return counts };
    for line in BufReader::new(stream)
        .split(b'\n')
        .map_while(|line| line.ok())
    {
        let line = String::from_utf8_lossy(&line);
        counts += TestCounts::of_line(&line);
        print(&line);
    }
    counts
}
