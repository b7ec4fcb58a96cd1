//! The runs of one workload: their medians and extremes, and as JSON.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::contender::Contender;
use super::stages::Run;

/// The runs of one workload, the warm-up left out.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) workload: String,
    /// How much there is in it.
    pub(crate) facts: Value,
    pub(crate) runs: Vec<(Contender, Vec<Run>)>,
    /// Who did not take part, and why.
    pub(crate) absent: Vec<(Contender, String)>,
    /// Of the machine, before and after.
    pub(crate) load: (f64, f64),
}

/// What the runs of one contender come to: medians of times, the largest of peaks.
#[derive(Debug)]
pub(crate) struct Figures {
    pub(crate) runs: usize,
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
    /// In bytes.
    pub(crate) peak: u64,
    pub(crate) peak_below: u64,
    pub(crate) stages: BTreeMap<String, Duration>,
}

impl Figures {
    pub(crate) fn of(runs: &[Run]) -> Self {
        let names: BTreeSet<&String> = runs.iter().flat_map(|run| run.stages.keys()).collect();
        let stage = |name: &String| {
            let times = runs.iter().filter_map(|run| run.stages.get(name)).copied();
            (name.clone(), median(times.collect()))
        };
        let largest = |of: fn(&Run) -> u64| runs.iter().map(of).max().unwrap_or(0);
        Self {
            runs: runs.len(),
            wall: median(runs.iter().map(|run| run.whole.wall).collect()),
            cpu: median(runs.iter().map(|run| run.whole.cpu).collect()),
            peak: largest(|run| run.whole.peak),
            peak_below: largest(|run| run.whole.peak_below),
            stages: names.into_iter().map(stage).collect(),
        }
    }
}

/// What a reader of the runs should know.
pub(crate) fn remark(runs: &[Run]) -> Option<&str> {
    runs.first().and_then(|run| run.remark.as_deref())
}

/// Between two in the middle, the half of their sum.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    let (upper, lower) = (times.len() / 2, times.len().saturating_sub(1) / 2);
    match (times.get(lower), times.get(upper)) {
        (Some(lower), Some(upper)) => (*lower + *upper) / 2,
        _ => Duration::ZERO,
    }
}

/// With one decimal.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

impl Outcome {
    /// The record for `docs/benchmarks`.
    pub(crate) fn to_json(&self) -> Value {
        let contenders = self.runs.iter().map(|(contender, runs)| {
            let figures = Figures::of(runs);
            let stages: Map<String, Value> = figures
                .stages
                .iter()
                .map(|(name, time)| (name.clone(), json!(millis(*time))))
                .collect();
            let mut walls: Vec<_> = runs.iter().map(|run| run.whole.wall).collect();
            let in_order: Vec<f64> = walls.iter().copied().map(millis).collect();
            walls.sort();
            json!({
                "contender": contender.name(),
                "remark": remark(runs),
                "runs": figures.runs,
                "wall_ms": millis(figures.wall),
                "wall_ms_min": walls.first().copied().map(millis),
                "wall_ms_max": walls.last().copied().map(millis),
                "walls_ms": in_order,
                "cpu_ms": millis(figures.cpu),
                "peak_kib": figures.peak / 1024,
                "peak_below_kib": figures.peak_below / 1024,
                "stages_ms": stages,
            })
        });
        let absent = self
            .absent
            .iter()
            .map(|(contender, why)| json!({"contender": contender.name(), "not_here": why}));
        json!({
            "holds": self.facts,
            "load": [self.load.0, self.load.1],
            "contenders": contenders.chain(absent).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        let of = |millis: &[u64]| {
            let times = millis.iter().copied().map(Duration::from_millis);
            median(times.collect()).as_millis()
        };
        assert_eq!(of(&[]), 0);
        assert_eq!(of(&[7]), 7);
        assert_eq!(of(&[9, 1]), 5);
        assert_eq!(of(&[9, 1, 2]), 2);
    }
}
