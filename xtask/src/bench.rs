//! How long `ship` takes, next to a plain copy of the same image by skopeo.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::Result;
use crate::ship_run::ShipRun;
use crate::workspace::{build_programs, is_installed};

const RUNS: usize = 7;

pub(crate) fn bench() -> Result {
    println!("building smokegate with optimisation");
    let programs = build_programs(&["smokegate"], true)?;
    let bench = ShipRun::new(&programs.join("smokegate"))?;
    let ship = |run: usize, store: &str| {
        let target = format!("oci:published-{store}-{run}:demo");
        let store = format!("--store=store-{store}");
        bench.smokegate(&["-q", "ship", "demo.oci.tar", "--tag", &target, &store])
    };

    let cold = median(|run| ship(run, &format!("cold-{run}")))?;
    let warm = median(|run| ship(run, "warm"))?;
    let copy = if is_installed("skopeo") {
        Some(median(|run| {
            let mut skopeo = Command::new("skopeo");
            let target = format!("oci:{}/copied-{run}:demo", bench.dir().display());
            let source = format!("oci-archive:{}/demo.oci.tar:demo", bench.dir().display());
            skopeo.args(["copy", "--quiet", &source, &target]);
            skopeo
        })?)
    } else {
        println!("skopeo is not installed: nothing to compare with");
        None
    };

    println!(
        "{:28} {:>10} {:>8}",
        format!("median of {RUNS} runs"),
        "ms",
        "ratio"
    );
    let rows = [
        ("skopeo copy", copy),
        ("ship, empty store", Some(cold)),
        ("ship, warm store", Some(warm)),
    ];
    for (name, time) in rows
        .into_iter()
        .filter_map(|(name, time)| Some((name, time?)))
    {
        let ratio = copy.map_or("-".to_owned(), |copy| {
            format!("{:.2}", time.as_secs_f64() / copy.as_secs_f64())
        });
        println!("{name:28} {:>10.1} {ratio:>8}", time.as_secs_f64() * 1e3);
    }
    Ok(())
}

/// The first run is not counted: it warms the page cache for all the others.
fn median(command: impl Fn(usize) -> Command) -> Result<Duration> {
    let mut times = Vec::new();
    for run in 0..=RUNS {
        let mut command = command(run);
        let start = Instant::now();
        let output = command.stdin(Stdio::null()).output()?;
        let time = start.elapsed();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into());
        }
        if run > 0 {
            times.push(time);
        }
    }
    times.sort();
    Ok(times[times.len() / 2])
}
