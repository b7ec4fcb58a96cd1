//! How long it takes from an archive to a registry, next to the tools people use today.
//!
//! Everybody runs once for warm-up and then in turns, so that a busy machine is busy for all. Each run has
//! directories, a registry and, where it needs one, a daemon of its own; nothing is removed before the last run of
//! a workload, as ext4 without a journal fills places that were just freed at a twentieth of its speed.

mod contender;
mod machine;
mod meter;
mod outcome;
mod registry;
mod workload;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::workspace::{build_programs, root};
use crate::{Result, USAGE, packages};

use contender::{Contender, Place};
use outcome::Outcome;
use workload::Workload;

/// Where nothing is said.
const RUNS: usize = 5;
/// The workload of `--quick`.
const QUICK: &str = "debian/gzip";

pub(crate) fn bench(words: &[&str]) -> Result {
    let (mut names, mut rounds) = (Vec::new(), RUNS);
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match *word {
            "--quick" => names.push(QUICK),
            "--runs" => {
                let count = words.next().and_then(|count| count.parse().ok());
                rounds = count.filter(|count| *count > 0).ok_or(USAGE)?;
            }
            option if option.starts_with('-') => return Err(USAGE.into()),
            name => names.push(name),
        }
    }
    packages::ensure_contenders();
    println!("building smokegate with optimisation");
    let release = build_programs(&["smokegate"], true)?;
    let target = release.parent().unwrap_or(&release);
    let images = target.join("bench");
    let workloads = Workload::named(&names, &images)?;
    fs::create_dir_all(&images)?;
    for workload in &workloads {
        workload.make()?;
    }
    let machine = machine::describe(&images);
    for workload in &workloads {
        let outcome = compare(workload, rounds, &release.join("smokegate"), &images)?;
        println!("{outcome}");
        let file = record(&outcome, &machine)?;
        println!("recorded in {}", file.strip_prefix(root())?.display());
    }
    Ok(())
}

fn compare(workload: &Workload, rounds: usize, smokegate: &Path, images: &Path) -> Result<Outcome> {
    let block = Block::new(images)?;
    let place = Place {
        smokegate,
        dir: &block.0,
    };
    let before = machine::load();
    let mut outcome = Outcome {
        workload: workload.name(),
        runs: Vec::new(),
        absent: Vec::new(),
        load: (before, before),
    };
    for contender in Contender::ALL {
        match contender.missing(workload) {
            Some(why) => outcome.absent.push((contender, why)),
            None => outcome.runs.push((contender, Vec::new())),
        }
    }
    for round in 0..=rounds {
        println!("{}: round {round} of {rounds}", workload.name());
        let mut failed = Vec::new();
        for (contender, runs) in &mut outcome.runs {
            match contender.run(workload, &place, round) {
                Ok(_) if round == 0 => {}
                Ok(run) => runs.push(run),
                Err(error) => failed.push((*contender, error.to_string())),
            }
        }
        for (contender, why) in failed {
            if matches!(contender, Contender::Cold | Contender::Warm) {
                return Err(why.into());
            }
            outcome.runs.retain(|(one, _)| *one != contender);
            outcome.absent.push((contender, why));
        }
    }
    outcome.load.1 = machine::load();
    Ok(outcome)
}

/// Puts the outcome among the others of this day.
fn record(outcome: &Outcome, machine: &Value) -> Result<PathBuf> {
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
    document["workloads"][&outcome.workload] = outcome.to_json();
    fs::write(&file, serde_json::to_string_pretty(&document)? + "\n")?;
    Ok(file)
}

/// The directory of one workload's runs, removed with it.
struct Block(PathBuf);

impl Block {
    fn new(images: &Path) -> Result<Self> {
        // runc takes no path with a symlink in it.
        let dir = images.canonicalize()?;
        let dir = dir.join(format!("runs-{}", std::process::id()));
        fs::create_dir(&dir)?;
        // Lets ext4 put each run's files into another part of the disk; other filesystems know no such flag.
        _ = Command::new("chattr").arg("+T").arg(&dir).output();
        Ok(Self(dir))
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("removing `{}`: {error}", self.0.display());
        }
    }
}
