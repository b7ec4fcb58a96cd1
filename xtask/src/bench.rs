//! How long it takes from an archive to a registry, next to the tools people use today.
//!
//! Everybody runs once for warm-up and then in turns, so that a busy machine is busy for all. Each round has a disk
//! of its own, and each run directories, a registry and, where it needs one, a daemon.

mod alone;
mod contender;
mod curl;
mod disk;
mod docker;
mod instructions;
mod machine;
mod meter;
mod options;
mod outcome;
mod registry;
mod skopeo;
mod smokegate;
mod stages;
mod storage;
mod sweeper;
mod table;
mod targets;
mod workload;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::{Value, json};

use crate::workspace::{build_programs, root};
use crate::{Result, packages};

use contender::{Contender, Place};
use disk::Disk;
use options::Options;
use outcome::Outcome;
use sweeper::Sweeper;
pub(crate) use sweeper::{CHORE as SWEEP, sweep};
use workload::Workload;

/// Whether everything that was to be compared with something is as good as it.
pub(crate) fn bench(words: &[&str]) -> Result<bool> {
    let options = Options::parse(words)?;
    if let Some(counts) = options.instructions {
        packages::ensure_counters();
        return instructions::count(counts);
    }
    packages::ensure_contenders();
    println!("building smokegate with optimisation");
    let release = build_programs(&["smokegate"], true)?;
    let target = release.parent().unwrap_or(&release);
    let images = target.join("bench");
    let workloads = Workload::named(&options.workloads, &images)?;
    fs::create_dir_all(&images)?;
    for workload in &workloads {
        workload.make()?;
    }
    let program = release.join("smokegate");
    let machine = machine::describe(&images);
    let started = smokegate::time_to_start(&program)?;
    let program_facts = json!({
        "version_ms": started.as_secs_f64() * 1e3,
        "bytes": fs::metadata(&program)?.len(),
    });
    let mut document = Value::Null;
    for workload in &workloads {
        let outcome = compare(workload, &options, &program, &images)?;
        println!("{outcome}");
        let file;
        (file, document) = record(&outcome, &machine, &program_facts)?;
        println!("recorded in {}\n", file.strip_prefix(root())?.display());
    }
    let (measured, not_measured): (Vec<_>, Vec<_>) = targets::all(&document)
        .into_iter()
        .partition(targets::Target::is_measured);
    for target in measured {
        println!("{target}");
    }
    if !not_measured.is_empty() {
        let count = not_measured.len();
        println!("{count} more targets are about what was not measured today; the file lists them");
    }
    Ok(true)
}

fn compare(
    workload: &Workload,
    options: &Options,
    smokegate: &Path,
    images: &Path,
) -> Result<Outcome> {
    let block = Block::new(images)?;
    let kept = Disk::new(block.dir.join("kept"))?;
    let before = machine::load();
    let mut outcome = Outcome {
        workload: workload.name(),
        facts: workload.facts()?,
        runs: Vec::new(),
        absent: Vec::new(),
        load: (before, before),
    };
    let concerned = Contender::ALL.into_iter();
    for contender in concerned.filter(|one| one.concerns(workload)) {
        match contender.missing(smokegate, &options.peers) {
            Some(why) => outcome.absent.push((contender, why)),
            None => outcome.runs.push((contender, Vec::new())),
        }
    }
    for round in 0..=options.runs {
        println!("{}: round {round} of {}", workload.name(), options.runs);
        let disk = Disk::new(block.dir.join("disk"))?;
        let place = Place {
            smokegate,
            kept: kept.path(),
            disk: disk.path(),
        };
        let mut failed = Vec::new();
        for (contender, runs) in &mut outcome.runs {
            if matches!(contender, Contender::Peer(_)) && round > options.peer_runs {
                continue;
            }
            disk.settle();
            let began = Instant::now();
            let run = contender.run(workload, &place);
            // With what is not timed: a registry's and a daemon's start, and their end.
            let seconds = began.elapsed().as_secs_f64();
            println!("  {}: {seconds:.1} s in all", contender.name());
            match run {
                Ok(_) if round == 0 => {}
                Ok(run) => runs.push(run),
                Err(error) => {
                    println!("{}: {error}", contender.name());
                    failed.push((*contender, error.to_string()));
                }
            }
        }
        for (contender, why) in failed {
            if contender.is_ours() {
                return Err(format!("{}: {why}", contender.name()).into());
            }
            outcome.runs.retain(|(one, _)| *one != contender);
            outcome.absent.push((contender, why));
        }
    }
    outcome.load.1 = machine::load();
    Ok(outcome)
}

/// Puts the outcome among the others of this day, and judges them together; the file and what is in it.
fn record(outcome: &Outcome, machine: &Value, program: &Value) -> Result<(PathBuf, Value)> {
    let day = Command::new("date").args(["-u", "+%F"]).output()?;
    let day = String::from_utf8_lossy(&day.stdout).trim().to_owned();
    let dir = root().join("docs/benchmarks");
    fs::create_dir_all(&dir)?;
    let file = dir.join(format!("{day}.json"));
    let mut document = match fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text)?,
        Err(_) => json!({"day": day, "workloads": {}}),
    };
    document["machine"] = machine.clone();
    document["program"] = program.clone();
    document["workloads"][&outcome.workload] = outcome.to_json();
    let targets = targets::all(&document);
    document["targets"] = targets.iter().map(targets::Target::to_json).collect();
    fs::write(&file, serde_json::to_string_pretty(&document)? + "\n")?;
    Ok((file, document))
}

/// The directory of one workload's runs. All that is in it, and all that runs in it, ends with it.
struct Block {
    dir: PathBuf,
    _sweeper: Sweeper,
}

impl Block {
    fn new(images: &Path) -> Result<Self> {
        // runc takes no path with a symlink in it.
        let dir = images.canonicalize()?;
        let dir = dir.join(format!("runs-{}", std::process::id()));
        fs::create_dir(&dir)?;
        // Lets ext4 put each run's files into another part of the disk; other filesystems know no such flag.
        _ = Command::new("chattr").arg("+T").arg(&dir).output();
        let sweeper = Sweeper::start(&dir)?;
        Ok(Self {
            dir,
            _sweeper: sweeper,
        })
    }
}
