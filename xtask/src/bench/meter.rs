//! What a command costs: time on the wall, processor time, memory.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;

/// proc_pid_stat(5) counts in clock ticks, of which Linux shows user space 100 a second everywhere.
const TICK: Duration = Duration::from_millis(10);
/// How often memory is looked at. Peaks are the kernel's own, so it is enough to see each process once near its end.
const SAMPLE: Duration = Duration::from_millis(25);
/// Nothing that is measured here takes as long unless it hangs.
const LIMIT: Duration = Duration::from_secs(600);

/// What a stretch of work cost.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    /// Of the commands with all they started, and of the daemon that worked for them.
    pub(crate) cpu: Duration,
    /// Largest resident set of the command or the daemon itself, in bytes.
    pub(crate) peak: u64,
    /// Largest sum of those of all processes below it.
    pub(crate) peak_below: u64,
}

impl Cost {
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            wall: self.wall + other.wall,
            cpu: self.cpu + other.cpu,
            peak: self.peak.max(other.peak),
            peak_below: self.peak_below.max(other.peak_below),
        }
    }
}

/// Runs a command that must succeed; its standard output beside what it cost. `daemon` works for it.
pub(crate) fn measure(command: &mut Command, daemon: Option<u32>) -> Result<(Vec<u8>, Cost)> {
    if !Path::new("/proc/thread-self/children").exists() {
        return Err("this kernel tells of nobody's children (CONFIG_PROC_CHILDREN): nothing can be measured".into());
    }
    let name = command.get_program().to_string_lossy().into_owned();
    let before = own_children() + daemon.map_or(Duration::ZERO, tree);
    if let Some(daemon) = daemon {
        // Sets VmHWM to what is resident now (proc(5)).
        _ = fs::write(format!("/proc/{daemon}/clear_refs"), "5");
    }
    let ended = AtomicBool::new(false);
    let began = Instant::now();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("starting `{name}`: {error}"))?;
    let (id, root) = (child.id(), daemon.unwrap_or_else(|| child.id()));
    let (output, wall, (peak, peak_below)) = thread::scope(|scope| {
        let sampler = scope.spawn(|| sample(root, &ended, || end_if_hanging(id, began)));
        let output = child.wait_with_output();
        let wall = began.elapsed();
        ended.store(true, Ordering::Relaxed);
        (output, wall, sampler.join().unwrap_or_default())
    });
    let output = output?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        if wall > LIMIT {
            return Err(format!("`{name}` was ended after {} s", wall.as_secs()).into());
        }
        return Err(format!("`{name}`: {}\n{}", output.status, said.trim()).into());
    }
    let cpu = own_children() + daemon.map_or(Duration::ZERO, tree) - before;
    let cost = Cost {
        wall,
        cpu,
        peak,
        peak_below,
    };
    Ok((output.stdout, cost))
}

/// A peer that hangs does not stop the others.
fn end_if_hanging(process: u32, began: Instant) {
    if began.elapsed() > LIMIT {
        let mut kill = Command::new("kill");
        kill.args(["-s", "KILL", &process.to_string()]);
        _ = kill.stderr(Stdio::null()).status();
    }
}

fn sample(root: u32, ended: &AtomicBool, each_time: impl Fn()) -> (u64, u64) {
    let (mut peak, mut below) = (0, 0);
    while !ended.load(Ordering::Relaxed) {
        each_time();
        peak = peak.max(peak_of(root));
        below = below.max(descendants(root).into_iter().map(peak_of).sum());
        thread::sleep(SAMPLE);
    }
    (peak, below)
}

/// Bytes.
fn peak_of(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

/// Processor time of everything that was waited for below this process.
fn own_children() -> Duration {
    fields("self").map_or(Duration::ZERO, |fields| TICK * (fields[2] + fields[3]))
}

/// Processor time of a process and of all below it, living and waited for.
fn tree(process: u32) -> Duration {
    let mut all = descendants(process);
    all.insert(process);
    let ticks = all.iter().filter_map(|one| fields(&one.to_string()));
    TICK * ticks.map(|fields| fields.iter().sum::<u32>()).sum()
}

/// Processor time of one living process, to the nanosecond.
pub(crate) fn time_of(process: u32) -> Duration {
    // Documentation/scheduler/sched-stats.rst: time on the processor comes first.
    let text = fs::read_to_string(format!("/proc/{process}/schedstat")).unwrap_or_default();
    let first = text.split_whitespace().next();
    let nanos = first.and_then(|first| first.parse().ok());
    Duration::from_nanos(nanos.unwrap_or(0))
}

/// utime, stime, cutime and cstime.
fn fields(process: &str) -> Option<[u32; 4]> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name may hold anything, also blanks and brackets.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut words = rest.split_whitespace().skip(11);
    let mut next = || words.next()?.parse().ok();
    Some([next()?, next()?, next()?, next()?])
}

/// By what each thread says of its children (proc(5), `task/TID/children`): looking through all processes of the machine
/// instead took a seventh of a core from whoever was measured.
fn descendants(root: u32) -> BTreeSet<u32> {
    let (mut found, mut waiting) = (BTreeSet::new(), vec![root]);
    while let Some(next) = waiting.pop() {
        let threads = fs::read_dir(format!("/proc/{next}/task"));
        for thread in threads.into_iter().flatten().flatten() {
            let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
            let children = children.split_whitespace().filter_map(|id| id.parse().ok());
            waiting.extend(children.filter(|child| found.insert(*child)));
        }
    }
    found
}
