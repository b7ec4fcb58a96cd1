//! Limits on what a container uses: a cgroup for each, made by the parent before the pod exists.
//!
//! [`place`] finds where a cgroup can be made. The first process of a container, and what is exec'd into it, moves
//! itself there as the first of its last steps, through `cgroup.procs` opened by the parent: the pod helper sees no
//! cgroup file system and needs no rights in it.

mod place;

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::place::{Base, Places};
use crate::error::{HostError, Step};
use crate::pod::ResourceLimits;

/// The record of a pod's cgroups in its run directory, for whoever cleans up after a run that was killed.
const RECORD: &str = "cgroups";
/// In microseconds; Docker's for `--cpus`.
const CPU_PERIOD: u64 = 100_000;
/// How long the kernel may take to forget processes that ended.
const EMPTYING: Duration = Duration::from_secs(2);
/// The same for one of a run that was killed: its processes may be gone for ps(1) and not yet for the kernel.
const LEFT_BEHIND: Duration = Duration::from_millis(500);

/// What a limit needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Controller {
    Memory,
    Cpu,
    Pids,
}

impl Controller {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
            Self::Pids => "pids",
        }
    }

    /// The key of the gate file that asks for it.
    pub(crate) fn key(self) -> &'static str {
        match self {
            Self::Memory => "mem_limit",
            Self::Cpu => "cpus",
            Self::Pids => "pids_limit",
        }
    }

    /// The files that hold a limit, in the order of writing. The last field says whether a kernel may lack it.
    fn files(self, is_v2: bool, limits: &ResourceLimits) -> Vec<(&'static str, String, bool)> {
        match (self, is_v2) {
            // Twice the memory with swap, as docker gives a container that names no limit for swap.
            (Self::Memory, true) => limits.memory.map_or_else(Vec::new, |bytes| {
                vec![
                    ("memory.max", bytes.to_string(), false),
                    ("memory.swap.max", bytes.to_string(), true),
                ]
            }),
            (Self::Memory, false) => limits.memory.map_or_else(Vec::new, |bytes| {
                let with_swap = bytes.saturating_mul(2).min(i64::MAX.cast_unsigned());
                vec![
                    ("memory.limit_in_bytes", bytes.to_string(), false),
                    ("memory.memsw.limit_in_bytes", with_swap.to_string(), true),
                ]
            }),
            (Self::Cpu, is_v2) => limits.cpus.map_or_else(Vec::new, |thousandths| {
                let quota = u64::from(thousandths) * CPU_PERIOD / 1000;
                if is_v2 {
                    return vec![("cpu.max", format!("{quota} {CPU_PERIOD}"), false)];
                }
                vec![
                    ("cpu.cfs_period_us", CPU_PERIOD.to_string(), false),
                    ("cpu.cfs_quota_us", quota.to_string(), false),
                ]
            }),
            (Self::Pids, _) => limits.pids.map_or_else(Vec::new, |count| {
                vec![("pids.max", count.to_string(), false)]
            }),
        }
    }
}

/// The controllers that limits need.
fn needed(limits: &ResourceLimits) -> Vec<Controller> {
    let asked = [
        (Controller::Memory, limits.memory.is_some()),
        (Controller::Cpu, limits.cpus.is_some()),
        (Controller::Pids, limits.pids.is_some()),
    ];
    asked
        .into_iter()
        .filter_map(|(controller, is_asked)| is_asked.then_some(controller))
        .collect()
}

/// One directory of a container: its only one on v2, one of up to three on v1.
#[derive(Debug)]
struct Dir {
    path: PathBuf,
    is_v2: bool,
}

/// The cgroups of one container; removed when dropped, which must come after its processes' end.
#[derive(Debug)]
struct ContainerCgroup {
    container: String,
    limits: ResourceLimits,
    dirs: Vec<Dir>,
}

/// The cgroups of a pod.
#[derive(Debug, Default)]
pub(crate) struct Cgroups {
    containers: Vec<ContainerCgroup>,
    /// Dropped after the containers' own.
    _bases: Vec<std::sync::Arc<Base>>,
}

fn error(call: String, error: io::Error) -> HostError {
    HostError::new(Step::Cgroup, call, error)
}

impl Cgroups {
    /// Makes the cgroups of every container that is limited, and sets the limits.
    ///
    /// # Errors
    /// [`HostError`] with [`Step::Cgroup`]: there is no controller, or no right to make a cgroup. None is left then.
    pub(crate) fn make(
        limits: &[(String, ResourceLimits)],
        run_dir: &Path,
    ) -> Result<Self, HostError> {
        let mut made = Self::default();
        for (container, limits) in limits.iter().filter(|(_, limits)| !limits.is_empty()) {
            let mut places = Places::of_this_process()?;
            let mut cgroup = ContainerCgroup {
                container: container.clone(),
                limits: *limits,
                dirs: Vec::new(),
            };
            let name = name(run_dir, container);
            let mut failed = None;
            for (base, controllers) in places.bases(&needed(limits))? {
                let path = base.path().join(&name);
                if let Err(why) = make_dir(&path, run_dir, &controllers) {
                    failed = Some(why);
                    break;
                }
                let is_v2 = base.is_v2();
                cgroup.dirs.push(Dir {
                    path: path.clone(),
                    is_v2,
                });
                made._bases.push(base);
                if let Err(why) = write_limits(&path, is_v2, &controllers, limits) {
                    failed = Some(why);
                    break;
                }
            }
            // Also what is half made is dropped, and removed.
            made.containers.push(cgroup);
            if let Some(failed) = failed {
                return Err(failed);
            }
        }
        Ok(made)
    }

    fn find(&self, container: &str) -> Option<&ContainerCgroup> {
        self.containers.iter().find(|c| c.container == container)
    }

    /// What puts its writer into a container's cgroups: none where it is not limited.
    pub(crate) fn entrances(&self, container: &str) -> Result<Vec<OwnedFd>, HostError> {
        let dirs = self.find(container).map_or(&[][..], |c| &c.dirs);
        dirs.iter()
            .map(|dir| {
                let procs = dir.path.join("cgroup.procs");
                let file = OpenOptions::new().write(true).open(&procs);
                let file = file.map_err(|why| error(format!("open({})", procs.display()), why))?;
                Ok(file.into())
            })
            .collect()
    }

    /// The limit on processes, if one more was refused to the container.
    pub(crate) fn reached_pids(&self, container: &str) -> Option<u32> {
        let cgroup = self.find(container)?;
        let limit = cgroup.limits.pids?;
        let was_refused = |dir: &Dir| count(dir, "pids.events", "max ") > 0;
        cgroup.dirs.iter().any(was_refused).then_some(limit)
    }

    /// The limit on memory in bytes, if the kernel has killed a process of the container for it.
    pub(crate) fn exceeded_memory(&self, container: &str) -> Option<u64> {
        let cgroup = self.find(container)?;
        let limit = cgroup.limits.memory?;
        cgroup
            .dirs
            .iter()
            .any(was_killed_for_memory)
            .then_some(limit)
    }
}

/// How often something happened, in a file of `NAME COUNT` lines, or with an empty name of one count.
fn count(dir: &Dir, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(dir.path.join(file)).unwrap_or_default();
    let rest = text.lines().find_map(|line| line.strip_prefix(name));
    rest.and_then(|rest| rest.trim().parse().ok()).unwrap_or(0)
}

/// Whether the limit was met and a process killed: a kill alone can be the whole machine's want of memory.
fn was_killed_for_memory(dir: &Dir) -> bool {
    if dir.is_v2 {
        return count(dir, "memory.events", "oom_kill ") > 0
            && count(dir, "memory.events", "max ") > 0;
    }
    // `oom_kill` is there since Linux 4.13.
    count(dir, "memory.oom_control", "oom_kill ") > 0 && count(dir, "memory.failcnt", "") > 0
}

/// A name that no other run has: a run's directory has one of its own.
fn name(run_dir: &Path, container: &str) -> String {
    let part = |path: Option<&Path>| {
        let name = path.and_then(Path::file_name).unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let (run, pod) = (part(run_dir.parent()), part(Some(run_dir)));
    format!("smokegate-{run}-{pod}-{container}")
}

/// Makes one cgroup; it stands in the record before it exists.
fn make_dir(path: &Path, run_dir: &Path, controllers: &[Controller]) -> Result<(), HostError> {
    let record = run_dir.join(RECORD);
    let recorded = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&record)
        .and_then(|mut file| writeln!(file, "{}", path.display()));
    recorded.map_err(|why| HostError::store(&format!("write({})", record.display()), why))?;
    fs::create_dir(path).map_err(|why| {
        let mut error = error(format!("mkdir({})", path.display()), why);
        error.detail = wanted(controllers);
        error
    })
}

fn wanted(controllers: &[Controller]) -> String {
    let keys: Vec<_> = controllers
        .iter()
        .map(|c| format!("`{}`", c.key()))
        .collect();
    format!("needed for {}", keys.join(" and "))
}

fn write_limits(
    dir: &Path,
    is_v2: bool,
    controllers: &[Controller],
    limits: &ResourceLimits,
) -> Result<(), HostError> {
    for controller in controllers {
        for (name, text, is_optional) in controller.files(is_v2, limits) {
            let file = dir.join(name);
            match write(&file, &text) {
                Err(why) if is_optional && why.kind() == io::ErrorKind::NotFound => {}
                Err(why) => {
                    let mut error = error(format!("write({text} to {})", file.display()), why);
                    error.detail = wanted(&[*controller]);
                    return Err(error);
                }
                Ok(()) => {}
            }
        }
    }
    Ok(())
}

/// Writes to a file of the kernel's, in one call.
fn write(file: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .write(true)
        .open(file)?
        .write_all(text.as_bytes())
}

impl Drop for ContainerCgroup {
    fn drop(&mut self) {
        for dir in &self.dirs {
            // What cannot be removed stands in the record.
            let _ = remove(&dir.path, EMPTYING);
        }
    }
}

/// Removes a cgroup without processes; waits for those that are about to be forgotten.
fn remove(path: &Path, patience: Duration) -> io::Result<()> {
    let end = std::time::Instant::now() + patience;
    loop {
        match fs::remove_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy
                    && std::time::Instant::now() < end =>
            {
                std::thread::sleep(Duration::from_millis(2));
            }
            result => return result,
        }
    }
}

/// Removes the cgroups that pods of a run have made and left behind; `run_dir` is the one of a pod.
///
/// # Errors
/// What rmdir(2) answers, `EBUSY` while processes are in one. The record stays then.
pub fn remove_cgroups(run_dir: &Path) -> io::Result<()> {
    let record = match File::open(run_dir.join(RECORD)) {
        Ok(mut file) => io::read_to_string(&mut file)?,
        // Also where `run_dir` is a file, as the lock of a run is.
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    for line in record.lines() {
        let path = Path::new(line);
        // The record is the caller's own; all the same only what can be one of ours is touched.
        let is_ours = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with("smokegate-"));
        if is_ours && path.is_absolute() {
            remove(path, LEFT_BEHIND)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_written_as_each_version_has_them() {
        let limits = ResourceLimits {
            memory: Some(64 << 20),
            cpus: Some(1500),
            pids: Some(7),
        };
        let all = needed(&limits);
        for (is_v2, files) in [
            (
                true,
                &[
                    ("memory.max", "67108864"),
                    ("memory.swap.max", "67108864"),
                    ("cpu.max", "150000 100000"),
                    ("pids.max", "7"),
                ][..],
            ),
            (
                false,
                &[
                    ("memory.limit_in_bytes", "67108864"),
                    ("memory.memsw.limit_in_bytes", "134217728"),
                    ("cpu.cfs_period_us", "100000"),
                    ("cpu.cfs_quota_us", "150000"),
                    ("pids.max", "7"),
                ],
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            for (name, _) in files {
                fs::write(dir.path().join(name), "").unwrap();
            }
            write_limits(dir.path(), is_v2, &all, &limits).unwrap();
            for (name, text) in files {
                assert_eq!(fs::read_to_string(dir.path().join(name)).unwrap(), *text);
            }
            // A kernel without accounting of swap; without the controller itself it is an error.
            for (name, is_optional) in [
                (files[1].0, is_v2 || files[1].0.contains("memsw")),
                (files[0].0, false),
            ] {
                fs::remove_file(dir.path().join(name)).unwrap();
                let written = write_limits(dir.path(), is_v2, &all, &limits);
                assert_eq!(written.is_ok(), is_optional, "{name}");
            }
        }
    }

    #[test]
    fn a_kill_counts_only_where_the_limit_was_met() {
        let dir = tempfile::tempdir().unwrap();
        let v2 = Dir {
            path: dir.path().to_owned(),
            is_v2: true,
        };
        for (events, killed) in [
            (
                "low 0\nhigh 0\nmax 31\noom 1\noom_kill 1\noom_group_kill 0\n",
                true,
            ),
            ("low 0\nhigh 0\nmax 31\noom 0\noom_kill 0\n", false),
            ("low 0\nhigh 0\nmax 0\noom 0\noom_kill 1\n", false),
        ] {
            fs::write(dir.path().join("memory.events"), events).unwrap();
            assert_eq!(was_killed_for_memory(&v2), killed, "{events}");
        }
    }

    #[test]
    fn what_a_killed_run_left_is_removed_by_its_record() {
        let run_dir = tempfile::tempdir().unwrap();
        remove_cgroups(run_dir.path()).unwrap();
        let at = |name: &str| run_dir.path().join(name);
        for name in ["smokegate-run-a-app", "other"] {
            fs::create_dir(at(name)).unwrap();
        }
        let lines: Vec<_> = ["smokegate-run-a-app", "smokegate-gone", "other"]
            .map(|name| at(name).display().to_string())
            .to_vec();
        fs::write(at(RECORD), lines.join("\n")).unwrap();
        remove_cgroups(run_dir.path()).unwrap();
        assert!(!at("smokegate-run-a-app").exists() && at("other").exists());
    }
}
