//! What runs leave behind is ended, unmounted and removed, however this program ends: by a process of its own, which
//! notices the end by its closed standard input, and which ctrl-C does not reach.

use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::storage::{STORAGE, on_storage};
use crate::Result;
use crate::dockerd::unmount_below;

/// The chore that [`sweep`] is.
pub(crate) const CHORE: &str = "bench-sweep";

/// What a daemon may take to end its containers.
const GRACE: Duration = Duration::from_secs(30);

/// Sweeps a directory when it is dropped, and when this program dies.
#[derive(Debug)]
pub(crate) struct Sweeper(Child);

impl Sweeper {
    /// For a directory that is there.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let child = Command::new(std::env::current_exe()?)
            .arg(CHORE)
            .arg(dir)
            .arg(run_root())
            .stdin(Stdio::piped())
            // A terminal's ctrl-C goes to all processes of its group.
            .process_group(0)
            .spawn()?;
        Ok(Self(child))
    }
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        // wait(2) would close it too; said here as it is what the other side waits for.
        drop(self.0.stdin.take());
        if !self.0.wait().is_ok_and(|status| status.success()) {
            eprintln!("something of the runs was left behind");
        }
    }
}

/// Where podman and buildah keep what does not outlive a boot: they take no more than 50 characters.
pub(crate) fn run_root() -> PathBuf {
    std::env::temp_dir().join(format!("sg-bench-{}", std::process::id()))
}

/// The other side: waits until nobody holds standard input any more, and leaves nothing of `dir` and `run_root`.
pub(crate) fn sweep(dir: &Path, run_root: &Path) -> Result {
    _ = std::io::stdin().read_to_end(&mut Vec::new());
    let disks = fs::read_dir(dir).into_iter().flatten().flatten();
    for run in disks.flat_map(|disk| fs::read_dir(disk.path()).into_iter().flatten().flatten()) {
        let storage = run.path().join(STORAGE);
        if storage.is_dir() {
            // Its containers live below no process of ours.
            let mut podman = on_storage("podman", &storage, run_root);
            _ = podman
                .args(["rm", "--all", "--force", "--time", "0"])
                .output();
        }
    }
    end_all_of(dir);
    end_processes_of(run_root);
    unmount_below(run_root);
    for dir in [dir, run_root] {
        match fs::remove_dir_all(dir) {
            Err(error) if dir.exists() => {
                return Err(format!("removing `{}`: {error}", dir.display()).into());
            }
            _ => {}
        }
    }
    Ok(())
}

/// Ends every process that was told of `dir`, and removes the mounts below it; not a mount on `dir` itself.
pub(crate) fn end_all_of(dir: &Path) {
    end_processes_of(dir);
    unmount_below(dir);
}

fn end_processes_of(dir: &Path) {
    // containerd and what it starts are ended by dockerd, in an order that leaves no container.
    let is_below_daemon = |name: &str| name.starts_with("containerd");
    let asked = processes_of(dir);
    let asked = asked.iter().filter(|(_, name)| !is_below_daemon(name));
    let ids: Vec<u32> = asked.map(|(id, _)| *id).collect();
    signal("TERM", &ids);
    let end = Instant::now() + GRACE;
    while processes_of(dir).iter().any(|(id, _)| ids.contains(id)) && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
    }
    let left: Vec<u32> = processes_of(dir).into_iter().map(|(id, _)| id).collect();
    signal("KILL", &left);
}

/// kill(1), as nothing else here sends signals.
fn signal(name: &str, processes: &[u32]) {
    if !processes.is_empty() {
        let mut kill = Command::new("kill");
        kill.args(["-s", name]);
        kill.args(processes.iter().map(u32::to_string));
        _ = kill.stderr(Stdio::null()).status();
    }
}

/// Those with the directory in their arguments, this process left out; beside the name of their program.
fn processes_of(dir: &Path) -> Vec<(u32, String)> {
    let dir = dir.as_os_str().as_encoded_bytes();
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let id = process
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok());
        let Some(id) = id.filter(|id| *id != std::process::id()) else {
            continue;
        };
        let words = fs::read(process.path().join("cmdline")).unwrap_or_default();
        let mut words = words.split(|byte| *byte == 0);
        let program = String::from_utf8_lossy(words.next().unwrap_or_default()).into_owned();
        let sweeps = words.clone().next() == Some(CHORE.as_bytes());
        let names = |word: &[u8]| {
            let at = word.windows(dir.len()).position(|part| part == dir);
            // `…/c1` is no part of `…/c10`.
            at.is_some_and(|at| {
                !word
                    .get(at + dir.len())
                    .is_some_and(u8::is_ascii_alphanumeric)
            })
        };
        if !sweeps && words.any(names) {
            let name = program.rsplit('/').next().unwrap_or_default();
            found.push((id, name.to_owned()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_are_found_by_their_directory_and_ended() {
        let dir = std::env::temp_dir().join(format!("sweeper-{}", std::process::id()));
        let waiting = |suffix: &str| {
            let name = format!("{}{suffix}", dir.display());
            let mut shell = Command::new("sh");
            shell.args(["-c", "read line", "sh", &name]);
            shell.stdin(Stdio::piped()).spawn().unwrap()
        };
        let (mut own, mut other) = (waiting("/socket"), waiting("0/socket"));
        end_all_of(&dir);
        assert!(!own.wait().unwrap().success());
        assert!(other.try_wait().unwrap().is_none());
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
