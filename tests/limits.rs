//! What a container may use: memory, processors, processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use smokegate_test_support::{Need, RunAs, Running, require, wait_for};

use crate::volumes::Bench;

const PATIENCE: Duration = Duration::from_secs(60);

/// Reads without end into memory.
const HUNGRY: &str = "entrypoint: [/probe-target, cat, /dev/zero]";

fn bench(gate_file: &str) -> Option<Bench> {
    if !(require(Need::Root) && require(Need::Cgroups)) {
        return None;
    }
    Bench::new(RunAs::Root, gate_file)
}

#[test]
fn root_a_container_killed_for_memory_is_called_that() {
    let file = format!("version: 1\napp: {{{HUNGRY}, command: [], mem_limit: 64m}}\n");
    let Some(bench) = bench(&file) else {
        return;
    };
    let run = bench.gate(&[]);
    run.assert_code(1);
    let cause =
        "error: memory limit of 64 MiB exceeded: the kernel killed it (exit code 137) after";
    assert!(run.stderr.contains(cause), "{}", run.stderr);
    assert!(
        run.stderr.contains("hint: raise `mem_limit`"),
        "{}",
        run.stderr
    );
    assert_eq!(bench.context.receipt()["variants"][0]["exit"]["signal"], 9);
    assert_nothing_is_left(&bench);
}

#[test]
fn root_a_service_killed_for_memory_is_not_the_images_fault() {
    let service = format!("{{image: app, {HUNGRY}, command: [], mem_limit: 32m, one_shot: true}}");
    let file = format!("version: 1\nservices: {{db: {service}}}\napp: {{depends_on: [db]}}\n");
    let Some(bench) = bench(&file) else {
        return;
    };
    let run = bench.gate(&[]);
    run.assert_code(4);
    let cause = "error: service `db`: memory limit of 32 MiB exceeded: the kernel killed it";
    assert!(run.stderr.contains(cause), "{}", run.stderr);
    assert_nothing_is_left(&bench);
}

#[test]
fn root_files_a_container_writes_are_not_its_memory() {
    let file = "version: 1\napp: {mem_limit: 48m, entrypoint: [/probe-target], \
                command: [fill, \"150\", /tmp/file, then, fill, \"150\", /v/file, then, serve], volumes: [\"v:/v\"], \
                probes: [{http: {path: /healthz}, within: 60s}]}\n";
    let Some(bench) = bench(file) else {
        return;
    };
    bench.gate(&[]).assert_code(0);
    assert_nothing_is_left(&bench);
}

#[test]
fn root_a_container_has_no_more_processes_than_its_limit() {
    let file = "version: 1\napp: {entrypoint: [/probe-target], command: [fork-bomb, \"30\", serve], pids_limit: 9}\n";
    let Some(bench) = bench(file) else {
        return;
    };
    let run = bench.gate(&[]);
    run.assert_code(1);
    let evidence = "the kernel refused it a process or thread: it has `pids_limit: 9`";
    assert!(run.stderr.contains(evidence), "{}", run.stderr);
    assert_nothing_is_left(&bench);
}

/// Two limited containers; what is exec'd into one stays until the end of the run.
const LIMITED: &str = r#"
version: 1
services:
  db: {image: app, pids_limit: 50, mem_limit: 100m, probes: [{tcp: 8080, within: 20s}]}
app:
  command: [--status, "500"]
  mem_limit: 64m
  cpus: 0.5
  pids_limit: 20
  depends_on: [db]
  probes:
    - {http: {path: /healthz}, within: 300s}
    - {exec: [/probe-target, hang], timeout: 300s, within: 300s}
"#;

/// Starts a run and waits until what is exec'd runs too; the cgroups of the app.
fn start(bench: &Bench) -> (Running, Vec<PathBuf>) {
    let mut running = bench.context.start(bench.words(&["-v"]));
    running.wait_for_stderr("answered 500", PATIENCE);
    let cgroups = cgroups(bench.context.dir(), "-default-app");
    wait_for(
        "the app and what is exec'd are in every cgroup",
        PATIENCE,
        || {
            let has_both = |dir: &PathBuf| {
                let procs = fs::read_to_string(dir.join("cgroup.procs")).ok()?;
                (procs.lines().count() == 2).then_some(())
            };
            cgroups
                .iter()
                .all(|dir| has_both(dir).is_some())
                .then_some(())
        },
    );
    (running, cgroups)
}

/// The cgroups of a run's container, from the record that the run keeps.
fn cgroups(dir: &Path, end: &str) -> Vec<PathBuf> {
    let runs = fs::read_dir(dir.join("cache/smokegate/run")).unwrap();
    let run = runs.flatten().next().expect("one run").path();
    let record = fs::read_to_string(run.join("default/cgroups")).unwrap();
    let lines = record.lines().filter(|line| line.ends_with(end));
    let cgroups: Vec<_> = lines.map(PathBuf::from).collect();
    assert!(!cgroups.is_empty(), "{record}");
    cgroups
}

/// The directory of a run goes only after the cgroups that stand in its record.
fn assert_nothing_is_left(bench: &Bench) {
    let runs = fs::read_dir(bench.context.dir().join("cache/smokegate/run")).unwrap();
    assert_eq!(runs.count(), 0);
}

#[test]
fn root_limits_hold_for_the_first_process_and_what_is_executed_beside_it() {
    let Some(bench) = bench(LIMITED) else {
        return;
    };
    let (running, cgroups) = start(&bench);
    let read = |names: [&str; 2]| {
        let files = cgroups
            .iter()
            .flat_map(|dir| names.map(|name| dir.join(name)));
        let text = files
            .filter_map(|file| fs::read_to_string(file).ok())
            .next();
        text.unwrap_or_default().trim().to_owned()
    };
    assert_eq!(read(["memory.max", "memory.limit_in_bytes"]), "67108864");
    assert_eq!(read(["pids.max", "none"]), "20");
    let quota = read(["cpu.max", "cpu.cfs_quota_us"]);
    assert!(
        ["50000", "50000 100000"].contains(&quota.as_str()),
        "{quota}"
    );
    running.signal(Signal::TERM);
    running.wait(PATIENCE).assert_code(143);
    for dir in cgroups {
        assert!(!dir.exists(), "{}", dir.display());
    }
}

#[test]
fn root_cgroups_of_a_killed_run_are_removed_by_the_next() {
    let Some(bench) = bench(LIMITED) else {
        return;
    };
    let (running, cgroups) = start(&bench);
    running.signal(Signal::KILL);
    assert_eq!(running.wait(PATIENCE).signal(), Some(9));
    wait_for("the cgroups are empty", PATIENCE, || {
        let is_empty = |dir: &PathBuf| {
            fs::read_to_string(dir.join("cgroup.procs")).is_ok_and(|procs| procs.is_empty())
        };
        cgroups.iter().all(is_empty).then_some(())
    });
    let other = bench.context.write("other.yaml", "version: 1\napp: {}\n");
    bench
        .gate(&["--file", other.to_str().unwrap()])
        .assert_code(0);
    for dir in cgroups {
        assert!(!dir.exists(), "{}", dir.display());
    }
    assert_nothing_is_left(&bench);
}

#[test]
fn rootless_limits_that_cannot_be_had_are_the_hosts_fault() {
    for (limit, key) in [
        ("mem_limit: 64m", "mem_limit"),
        ("cpus: 0.5", "cpus"),
        ("pids_limit: 9", "pids_limit"),
    ] {
        let file = format!("version: 1\napp: {{{limit}}}\n");
        let Some(bench) = Bench::new(RunAs::OrdinaryUser, &file) else {
            return;
        };
        let run = bench.gate(&[]);
        run.assert_code(3);
        assert!(
            run.stderr
                .contains("error: this host refused limiting what a container uses: "),
            "{}",
            run.stderr
        );
        assert!(
            run.stderr.contains(&format!("needed for `{key}`")),
            "{}",
            run.stderr
        );
        assert!(
            run.stderr
                .contains("hint: run smokegate as root, or where a cgroup"),
            "{}",
            run.stderr
        );
        assert_eq!(bench.context.receipt()["verdict"], "inconclusive");
    }
}
