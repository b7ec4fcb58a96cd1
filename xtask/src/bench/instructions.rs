//! How many instructions small fixed tasks execute, as callgrind counts them: the same on a busy machine as on a quiet
//! one. They are compared with counts that are kept in the repository.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::options::Counts;
use crate::Result;
use crate::workspace::{build_programs, cargo, is_installed, root, run};

/// Where the counts are kept.
const KEPT: &str = "docs/benchmarks/instructions.json";
/// What may be added to a count: a compiler's mood, not a loop that runs twice.
const TOLERANCE: f64 = 0.05;
/// The fewest count: threads that wait for each other now and then look once more.
const TIMES: usize = 3;

/// Whether no task takes notably more than is kept.
pub(crate) fn count(counts: Counts) -> Result<bool> {
    if !is_installed("valgrind") {
        return Err("`valgrind` is not installed".into());
    }
    println!("building smokegate and its benchmarks with optimisation");
    let release = build_programs(&["smokegate"], true)?;
    let scratch = release.parent().unwrap_or(&release).join("instructions");
    if scratch.exists() {
        fs::remove_dir_all(&scratch)?;
    }
    fs::create_dir_all(&scratch)?;
    let mut counted = BTreeMap::new();
    for (name, program, words) in tasks(&release.join("smokegate"), &scratch)? {
        let mut all = Vec::new();
        for _ in 0..TIMES {
            all.push(instructions(&program, &words, &scratch)?);
        }
        let (least, most) = (all.iter().min(), all.iter().max());
        let (least, most) = (*least.unwrap_or(&0), *most.unwrap_or(&0));
        let spread = change(least, most) * 100.0;
        println!("{name:8} {least:>14} instructions, {spread:.3} % more at most in {TIMES} runs");
        counted.insert(name, least);
    }
    let conditions = json!({"rustc": said("rustc"), "valgrind": said("valgrind")});
    let file = root().join(KEPT);
    if counts == Counts::Keep {
        let text = json!({"conditions": conditions, "instructions": counted});
        fs::write(&file, serde_json::to_string_pretty(&text)? + "\n")?;
        println!("kept in {KEPT}");
        return Ok(true);
    }
    let kept = fs::read(&file)
        .map_err(|error| format!("`{KEPT}`: {error}; `--instructions --keep` makes it"))?;
    let kept: Value = serde_json::from_slice(&kept)?;
    if kept["conditions"] != conditions {
        return Err(format!(
            "the kept counts are of {}, these of {conditions}: not comparable; `--instructions --keep` on the \
             commit before the change makes some that are",
            kept["conditions"]
        )
        .into());
    }
    Ok(judge(&kept["instructions"], &counted))
}

/// Prints what has changed; whether all of it may stay.
fn judge(kept: &Value, counted: &BTreeMap<&str, u64>) -> bool {
    let mut good = true;
    for (name, count) in counted {
        let Some(before) = kept[*name].as_u64() else {
            println!("{name}: nothing is kept to compare with");
            good = false;
            continue;
        };
        let change = change(before, *count);
        let word = if change > TOLERANCE { "WORSE" } else { "fine" };
        good &= change <= TOLERANCE;
        println!("{name}: {:+.2} % of {before}: {word}", change * 100.0);
    }
    good
}

fn change(before: u64, after: u64) -> f64 {
    let before = before.max(1) as f64;
    (after as f64 - before) / before
}

/// Name, program and arguments of what is counted.
fn tasks(smokegate: &Path, scratch: &Path) -> Result<Vec<(&'static str, PathBuf, Vec<String>)>> {
    let image = scratch.join("serve.tar");
    let programs = build_programs(&["smokegate-test-support"], false)?;
    let mut make = Command::new(programs.join("fixture-image"));
    make.args(["serve", "oci-archive"]).arg(&image);
    run(make.stdout(std::process::Stdio::null()))?;
    let image = image.display().to_string();
    let owned = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    let smokegate = smokegate.to_path_buf();
    Ok(vec![
        ("version", smokegate.clone(), owned(&["--version"])),
        (
            "plan",
            smokegate.clone(),
            owned(&["gate", "--no-file", "--plan", &image]),
        ),
        ("lint", smokegate, owned(&["lint", "--no-file", &image])),
        // Divan runs what is named once with `--test`: the headers of 5,000 files. Valgrind has no openat2(2), with which
        // files are written.
        (
            "parse",
            benchmark("smokegate-rootfs", "layer")?,
            owned(&["--test", "parse"]),
        ),
    ])
}

/// Builds a benchmark and says where it is.
fn benchmark(package: &str, name: &str) -> Result<PathBuf> {
    let words = ["bench", "--quiet", "--no-run", "--message-format", "json"];
    let output = cargo(words)
        .args(["--package", package, "--bench", name])
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    let messages = String::from_utf8_lossy(&output.stdout).into_owned();
    let messages = messages
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let mut programs = messages.filter(|one| one["target"]["name"] == name);
    let program = programs.find_map(|one| Some(PathBuf::from(one["executable"].as_str()?)));
    program.ok_or_else(|| format!("cargo built no benchmark `{name}`").into())
}

/// Of the process itself, in all of its threads.
fn instructions(program: &Path, words: &[String], scratch: &Path) -> Result<u64> {
    // The store of its HOME: what one run has found out, the next would not.
    _ = fs::remove_dir_all(scratch.join(".cache"));
    let report = scratch.join("callgrind.out");
    let mut valgrind = Command::new("valgrind");
    valgrind
        .args(["--tool=callgrind", "--quiet", "--fair-sched=yes"])
        .arg(format!("--callgrind-out-file={}", report.display()))
        .arg(program)
        .args(words)
        .current_dir(scratch)
        .env_clear()
        .env("HOME", scratch)
        .env("PATH", "/usr/bin:/bin");
    let output = valgrind.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!(
            "`{}` under valgrind: {}\n{said}",
            program.display(),
            output.status
        )
        .into());
    }
    let report = fs::read_to_string(report)?;
    let total = report.lines().find_map(|line| line.strip_prefix("totals:"));
    let total = total.and_then(|total| total.trim().parse().ok());
    total.ok_or_else(|| "callgrind's report has no total".into())
}

fn said(program: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_percent_more_is_too_much_and_less_never_is() {
        let kept = json!({"lint": 1000});
        let good = |count| judge(&kept, &BTreeMap::from([("lint", count)]));
        assert!(good(1050));
        assert!(!good(1051));
        assert!(good(10));
        assert!(
            !judge(&kept, &BTreeMap::from([("plan", 1)])),
            "nothing kept"
        );
    }
}
