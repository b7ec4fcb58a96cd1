//! smokegate itself, and what its receipt tells of the stages.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::alone::{APP, PYTHON};
use super::contender::Place;
use super::meter::measure;
use super::stages::{Run, Stages};
use super::workload::Workload;
use crate::Result;

/// How `ship` runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ship {
    /// Nothing in the store.
    Cold,
    /// Every layer in the store.
    Warm,
    /// Nothing in the store, and the layers are compressed for the registry.
    Compressed,
    /// Nothing in the store, and blobs are sent during the gate.
    Ahead,
}

/// How often `--version` runs.
const VERSIONS: usize = 21;

/// A command of smokegate, with nothing of the caller's environment.
fn command(program: &Path, dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.arg("--quiet").args(words).current_dir(dir);
    command.env_clear().env("HOME", dir);
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command
}

/// Whether `ship` knows `--upload-ahead`.
pub(crate) fn can_upload_ahead(program: &Path) -> bool {
    let help = Command::new(program).args(["ship", "--help"]).output();
    help.is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("--upload-ahead"))
}

pub(crate) fn ship(
    how: Ship,
    workload: &Workload,
    place: &Place<'_>,
    dir: &Path,
    target: &str,
) -> Result<Run> {
    let mut ship = command(place.smokegate, dir, &["ship", "--no-file"]);
    ship.args(["--plain-http", "--publish", "0:8080", "--tag", target]);
    match how {
        Ship::Cold | Ship::Warm => {}
        Ship::Compressed => _ = ship.args(["--compress", "zstd"]),
        Ship::Ahead => _ = ship.arg("--upload-ahead"),
    }
    let store = match how {
        Ship::Warm => place.kept.join("store"),
        _ => dir.join("store"),
    };
    run_and_read(ship, &workload.archive(), &store, dir, &[])
}

/// [`APP`] instead of what the image says, in variants that differ in nothing but their names. One runs twice, and counts
/// the second time: what the machine has dropped from its page cache since the last round is no part of a warm store.
pub(crate) fn gate_variants(
    count: usize,
    workload: &Workload,
    place: &Place<'_>,
    dir: &Path,
) -> Result<Run> {
    let mut text = "version: 1\nvariants:\n".to_owned();
    for number in 1..=count {
        _ = writeln!(text, "  v{number}: {{}}");
    }
    fs::write(dir.join("smokegate.yaml"), text)?;
    let store = place.kept.join("store");
    let run = || {
        let words = ["gate", "--http", "/", "--entrypoint", PYTHON];
        let gate = command(place.smokegate, dir, &words);
        let app = ["--", "-c", APP, "8080"];
        run_and_read(gate, &workload.archive(), &store, dir, &app)
    };
    if count == 1 {
        run()?;
    }
    run()
}

/// From the layout, as skopeo does it.
pub(crate) fn push(
    workload: &Workload,
    place: &Place<'_>,
    dir: &Path,
    target: &str,
) -> Result<Run> {
    let mut push = command(place.smokegate, dir, &["push", "--plain-http"]);
    push.args(["--tag", target, &workload.transport()]);
    let mut stages = Stages::default();
    stages.run("push", &mut push, None)?;
    Ok(stages.0)
}

fn run_and_read(
    mut command: Command,
    archive: &Path,
    store: &Path,
    dir: &Path,
    after: &[&str],
) -> Result<Run> {
    let report = dir.join("report");
    command.arg("--store").arg(store);
    command.arg("--report-dir").arg(&report);
    let (_, whole) = measure(command.arg(archive).args(after), None)?;
    let receipt: Value = serde_json::from_slice(&fs::read(report.join("receipt.json"))?)?;
    let mut stages = stages_of(&receipt);
    let known = ["unpack", "run", "push"].map(|stage| stages[stage]);
    let rest = whole.wall.saturating_sub(known.into_iter().sum());
    stages.insert("rest of the wall".to_owned(), rest);
    Ok(Run {
        whole,
        stages,
        remark: None,
    })
}

/// Every timing of the receipt by its own name, `variant NAME` for the longest of the variants, and the three stages
/// that other tools have too.
fn stages_of(receipt: &Value) -> BTreeMap<String, Duration> {
    let mut stages = BTreeMap::new();
    let mut longest = |name: &str, time: &Value| {
        let Some(time) = time.as_u64().map(Duration::from_millis) else {
            return;
        };
        let known: &mut Duration = stages.entry(name.to_owned()).or_default();
        *known = time.max(*known);
    };
    let timings = &receipt["timings_ms"];
    for (name, time) in timings.as_object().into_iter().flatten() {
        longest(name, time);
    }
    for variant in receipt["variants"].as_array().into_iter().flatten() {
        let timings = &variant["timings_ms"];
        for (name, time) in timings.as_object().into_iter().flatten() {
            longest(&format!("variant {name}"), time);
        }
    }
    let sum = |names: &[&str]| names.iter().filter_map(|name| stages.get(*name)).sum();
    let (unpack, run, push) = (
        sum(&["open", "layers"]),
        sum(&["variant total"]),
        sum(&["publish"]),
    );
    stages.extend([
        ("unpack".to_owned(), unpack),
        ("run".to_owned(), run),
        ("push".to_owned(), push),
    ]);
    stages
}

/// How long `--version` takes: what a process costs before it does anything.
pub(crate) fn time_to_start(program: &Path) -> Result<Duration> {
    let mut times = Vec::new();
    for _ in 0..VERSIONS {
        let began = Instant::now();
        let done = Command::new(program).arg("--version").output()?;
        times.push(began.elapsed());
        if !done.status.success() {
            return Err(format!("`{} --version`: {}", program.display(), done.status).into());
        }
    }
    times.sort();
    Ok(times[VERSIONS / 2])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_timing_is_taken_and_variants_run_side_by_side() {
        let receipt = json!({
            "timings_ms": {"open": 3, "layers": 40, "publish": 7, "inflate": 31},
            "variants": [
                {"timings_ms": {"start": 5, "total": 90}},
                {"timings_ms": {"start": 9, "total": 80, "probe": 2}},
            ],
        });
        let millis: Vec<_> = stages_of(&receipt)
            .into_iter()
            .map(|(name, time)| (name, time.as_millis()))
            .collect();
        let millis: Vec<_> = millis
            .iter()
            .map(|(name, time)| (name.as_str(), *time))
            .collect();
        assert_eq!(
            millis,
            [
                ("inflate", 31),
                ("layers", 40),
                ("open", 3),
                ("publish", 7),
                ("push", 7),
                ("run", 90),
                ("unpack", 43),
                ("variant probe", 2),
                ("variant start", 9),
                ("variant total", 90),
            ]
        );
    }
}
