//! Medians of the runs of one workload, as a table and as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Write as _};
use std::time::Duration;

use serde_json::{Value, json};

use super::contender::{Contender, Run};

/// The runs of one workload, the warm-up left out.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) workload: String,
    pub(crate) runs: Vec<(Contender, Vec<Run>)>,
    /// Who did not take part, and why.
    pub(crate) absent: Vec<(Contender, String)>,
    /// Of the machine, before and after.
    pub(crate) load: (f64, f64),
}

/// Medians of one contender.
struct Medians {
    wall: Duration,
    cpu: Duration,
    peak: u64,
    peak_below: u64,
    stages: BTreeMap<String, Duration>,
}

impl Medians {
    fn of(runs: &[Run]) -> Self {
        let names: BTreeSet<&String> = runs.iter().flat_map(|run| run.stages.keys()).collect();
        let stage = |name: &String| {
            let times = runs.iter().filter_map(|run| run.stages.get(name)).copied();
            (name.clone(), median(times.collect()))
        };
        Self {
            wall: median(runs.iter().map(|run| run.whole.wall).collect()),
            cpu: median(runs.iter().map(|run| run.whole.cpu).collect()),
            peak: median(runs.iter().map(|run| run.whole.peak).collect()),
            peak_below: median(runs.iter().map(|run| run.whole.peak_below).collect()),
            stages: names.into_iter().map(stage).collect(),
        }
    }
}

fn remark(runs: &[Run]) -> Option<&str> {
    runs.first().and_then(|run| run.remark.as_deref())
}

fn median<T: Ord + Copy + Default>(mut values: Vec<T>) -> T {
    values.sort();
    values.get(values.len() / 2).copied().unwrap_or_default()
}

impl Outcome {
    /// The record for `docs/benchmarks`.
    pub(crate) fn to_json(&self) -> Value {
        let millis = |time: Duration| (time.as_secs_f64() * 1e3).round();
        let contenders = self.runs.iter().map(|(contender, runs)| {
            let medians = Medians::of(runs);
            let stages = medians.stages.iter();
            let stages: serde_json::Map<String, Value> = stages
                .map(|(name, time)| (name.clone(), json!(millis(*time))))
                .collect();
            let walls: Vec<f64> = runs.iter().map(|run| millis(run.whole.wall)).collect();
            json!({
                "contender": contender.name(),
                "remark": remark(runs),
                "wall_ms": millis(medians.wall),
                "walls_ms": walls,
                "cpu_ms": millis(medians.cpu),
                "peak_kib": medians.peak / 1024,
                "peak_below_kib": medians.peak_below / 1024,
                "stages_ms": stages,
            })
        });
        let absent = self
            .absent
            .iter()
            .map(|(contender, why)| json!({"contender": contender.name(), "not_here": why}));
        json!({
            "load": [self.load.0, self.load.1],
            "contenders": contenders.chain(absent).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const STAGES: [&str; 3] = ["unpack", "run", "push"];
        let medians: Vec<_> = self
            .runs
            .iter()
            .map(|(contender, runs)| (*contender, Medians::of(runs)))
            .collect();
        let ours = medians
            .iter()
            .find(|(contender, _)| *contender == Contender::Cold)
            .map(|(_, medians)| medians);
        let ratio = |theirs: Duration, ours: Option<Duration>| match ours {
            Some(ours) if !ours.is_zero() && !theirs.is_zero() => {
                format!("{:.2}", theirs.as_secs_f64() / ours.as_secs_f64())
            }
            _ => "-".to_owned(),
        };
        writeln!(
            f,
            "\n{}: median seconds, times smokegate's with an empty store, peak MiB of the process and of those below it",
            self.workload
        )?;
        write!(f, "{:27}{:>8}{:>7}{:>8}{:>7}", "", "wall", "x", "cpu", "x")?;
        for stage in STAGES {
            write!(f, "{stage:>9}{:>7}", "x")?;
        }
        writeln!(f, "{:>8}{:>7}", "peak", "below")?;
        for (contender, medians) in &medians {
            let mut line = format!("{:27}", contender.name());
            let mut pair = |time: Duration, own: Option<Duration>, width: usize| {
                _ = write!(
                    line,
                    "{:>width$.2}{:>7}",
                    time.as_secs_f64(),
                    ratio(time, own)
                );
            };
            pair(medians.wall, ours.map(|ours| ours.wall), 8);
            pair(medians.cpu, ours.map(|ours| ours.cpu), 8);
            for stage in STAGES {
                let of = |medians: &Medians| medians.stages.get(stage).copied().unwrap_or_default();
                pair(of(medians), ours.map(of), 9);
            }
            let mib = |bytes: u64| bytes / (1024 * 1024);
            writeln!(
                f,
                "{line}{:>8}{:>7}",
                mib(medians.peak),
                mib(medians.peak_below)
            )?;
        }
        for (contender, medians) in &medians {
            let own = medians.stages.iter();
            let own = own.filter(|(name, _)| !STAGES.contains(&name.as_str()));
            let own: Vec<String> = own
                .map(|(name, time)| format!("{name} {}", time.as_millis()))
                .collect();
            if !own.is_empty() {
                writeln!(f, "{}, ms: {}", contender.name(), own.join(", "))?;
            }
        }
        for (contender, runs) in &self.runs {
            if let Some(remark) = remark(runs) {
                writeln!(f, "{}: {remark}", contender.name())?;
            }
        }
        for (contender, why) in &self.absent {
            writeln!(f, "{}: not here: {why}", contender.name())?;
        }
        let (before, after) = self.load;
        write!(f, "load of the machine: {before} before, {after} after")
    }
}
