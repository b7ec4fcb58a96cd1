//! An outcome for people: a line for each contender, then what they tell of themselves.

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::contender::Contender;
use super::outcome::{Figures, Outcome, remark};
use super::smokegate::Ship;

/// What everybody does, or a part of it.
const STAGES: [&str; 3] = ["unpack", "run", "push"];

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let figures: Vec<_> = self
            .runs
            .iter()
            .map(|(contender, runs)| (*contender, Figures::of(runs)))
            .collect();
        let ours = figures
            .iter()
            .find(|(contender, _)| *contender == Contender::Ship(Ship::Cold))
            .map(|(_, figures)| figures);
        writeln!(
            f,
            "\n{} {}: median seconds, times smokegate's with an empty store, largest MiB of the process and of those below it",
            self.workload, self.facts
        )?;
        let name = "";
        write!(
            f,
            "{name:27}{:>5}{:>8}{:>7}{:>8}{:>7}",
            "runs", "wall", "x", "cpu", "x"
        )?;
        for stage in STAGES {
            write!(f, "{stage:>9}{:>7}", "x")?;
        }
        writeln!(f, "{:>8}{:>7}", "peak", "below")?;
        for (contender, figures) in &figures {
            writeln!(f, "{}", line(*contender, figures, ours))?;
        }
        for (contender, figures) in &figures {
            let own = figures.stages.iter();
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

fn line(contender: Contender, figures: &Figures, ours: Option<&Figures>) -> String {
    let mut line = format!("{:27}{:>5}", contender.name(), figures.runs);
    let mut pair = |time: Duration, own: Option<Duration>, width: usize| {
        let times = ratio(time, own);
        _ = match time {
            Duration::ZERO => write!(line, "{:>width$}{times:>7}", "-"),
            time => write!(line, "{:>width$.3}{times:>7}", time.as_secs_f64()),
        };
    };
    pair(figures.wall, ours.map(|ours| ours.wall), 8);
    pair(figures.cpu, ours.map(|ours| ours.cpu), 8);
    for stage in STAGES {
        let of = |figures: &Figures| figures.stages.get(stage).copied().unwrap_or_default();
        pair(of(figures), ours.map(of), 9);
    }
    let mib = |bytes: u64| match bytes.div_ceil(1024 * 1024) {
        0 => "-".to_owned(),
        mib => mib.to_string(),
    };
    _ = write!(
        line,
        "{:>8}{:>7}",
        mib(figures.peak),
        mib(figures.peak_below)
    );
    line
}

fn ratio(theirs: Duration, ours: Option<Duration>) -> String {
    match ours {
        Some(ours) if !ours.is_zero() && !theirs.is_zero() => {
            format!("{:.2}", theirs.as_secs_f64() / ours.as_secs_f64())
        }
        _ => "-".to_owned(),
    }
}
