//! What this host can and cannot do for a sandbox, found out by doing it.
//!
//! Everything is tried in the helpers that a run uses and by their functions, so that the examination and a run
//! cannot disagree. Nothing of it is left behind but what [`Examination::scratch`] holds.

mod check;
mod clock;
mod ids;
mod kernel;
mod limits;
mod room;
mod trial;
mod trial_image;
mod unneeded;
mod wall;

use std::ffi::OsStr;
use std::path::Path;

pub use check::{Check, Noun, Status};
pub use wall::{Fixes, Wall};

use crate::error::{HostError, Step, errno_text};
use crate::id_map::{IdMap, Unavailable};
use crate::isolation::Isolation;
use crate::pod::{NetworkMode, Storage};
use crate::protocol::{PodTrial, Trial};

/// What is examined.
#[derive(Clone, Copy, Debug)]
pub struct Examination<'a> {
    /// The layer store.
    pub store: &'a Path,
    /// A directory of the caller's, in the store where that can be written; what is in it is the caller's to remove.
    pub scratch: &'a Path,
    /// Where archives are spooled.
    pub temporary: &'a Path,
    /// `PATH`, on which newuidmap is looked for.
    pub search_path: &'a OsStr,
    /// The level that the user asks for; the best one otherwise.
    pub level: Option<Isolation>,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct HostReport {
    /// One line each.
    pub checks: Vec<Check>,
    /// The level at which a run is possible; `None` where none is.
    pub level: Option<Isolation>,
    /// What that level cannot test.
    pub not_tested: Vec<String>,
    /// Why no run is possible, in the words a run would say it with.
    pub refusal: Option<Refusal>,
}

/// Why no run is possible.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// A step that the host refused.
    Step(HostError),
    /// The level that was asked for.
    Level(Unavailable),
}

/// Tries everything that a run needs.
pub async fn examine(examination: &Examination<'_>) -> HostReport {
    let Examination {
        store,
        scratch,
        temporary,
        search_path,
        level,
    } = *examination;
    let mut checks = vec![
        kernel::check(),
        room::store(store),
        room::temporary_directory(temporary),
        room::memory(),
    ];
    let best = || IdMap::best(search_path);
    let (mut id_map, unavailable) = match level.map(|level| IdMap::at(level, search_path)) {
        None => (best(), None),
        Some(Ok(id_map)) => (id_map, None),
        Some(Err(unavailable)) => (best(), Some(unavailable)),
    };
    let mut trial = trial::pod(scratch, &id_map).await;
    // A level that only looked as if it could be had; the one below needs no program of the host's.
    let mut refused_map = None;
    if let Ok(Trial {
        entered: Err(error),
        ..
    })
    | Err(error) = &trial
        && id_map.isolation() == Isolation::Subuid
        && error.step == Step::IdMap
        && level.is_none()
    {
        refused_map = Some(error.clone());
        id_map = IdMap::Single;
        trial = trial::pod(scratch, &id_map).await;
    }
    let trial = trial.unwrap_or_else(Trial::refused);
    let at = id_map.isolation();
    checks.push(user_namespaces(at, &trial));
    checks.push(ids::check(at, level, refused_map.as_ref(), search_path));
    checks.extend(pod_lines(&trial));
    let mode = match &trial.pod {
        Some(
            PodTrial { bridge: Err(_), .. }
            | PodTrial {
                veth: Some(Err(_)), ..
            },
        ) => NetworkMode::Shared,
        _ => NetworkMode::Bridge,
    };
    let store_failed = checks
        .iter()
        .any(|check| check.noun == Noun::Store && check.status == Status::Failed);
    let (ran, tried) = if store_failed {
        (None, None)
    } else if let Some(needed) = missing_for_a_container(&trial) {
        (None, Some(needed))
    } else {
        (Some(trial::container(scratch, &id_map, mode).await), None)
    };
    let mut not_tested = Vec::new();
    match (&ran, tried) {
        (Some(Ok(ran)), _) => {
            not_tested.clone_from(&ran.not_tested);
            checks.push(overlayfs(ran));
            checks.push(Check::fine(
                Noun::Container,
                "unpacking two small layers into the store, and running a program of theirs by libcontainer as user 1000",
                "it was started",
                Noun::Container.needed_for(),
            ));
        }
        (Some(Err(error)), _) => checks.extend(container_failed(error)),
        (None, needed) => {
            let needed = needed.unwrap_or(Noun::Store);
            checks.push(Check::not_tried(Noun::Overlayfs, needed));
            checks.push(Check::not_tried(Noun::Container, needed));
        }
    }
    checks.push(limits::check(scratch));
    checks.extend(unneeded::checks());
    checks.push(clock::check());
    let refusal = unavailable
        .map(Refusal::Level)
        .or_else(|| refusal(store, &trial, ran.as_ref()).map(Refusal::Step));
    HostReport {
        level: refusal.is_none().then_some(at),
        checks,
        not_tested,
        refusal,
    }
}

/// What a container needs and was refused, whatever its network.
fn missing_for_a_container(trial: &Trial) -> Option<Noun> {
    match (&trial.entered, &trial.pod) {
        (Err(error), _) if error.step == Step::Namespaces => Some(Noun::Namespaces),
        (Err(_), _) => Some(Noun::UserNamespaces),
        (Ok(()), None) => Some(Noun::Namespaces),
        (Ok(()), Some(pod)) => match &pod.root {
            Err(error) if error.step == Step::Proc => Some(Noun::Proc),
            Err(_) => Some(Noun::Mounts),
            Ok(()) if pod.bridge.is_err() && pod.shared.is_err() => Some(Noun::Bridge),
            Ok(()) => None,
        },
    }
}

/// The first thing that keeps a run with a default network from starting.
fn refusal(
    store: &Path,
    trial: &Trial,
    ran: Option<&Result<trial::Ran, HostError>>,
) -> Option<HostError> {
    trial.first_error().cloned().or_else(|| match ran {
        Some(Err(error)) => Some(error.clone()),
        Some(Ok(_)) => None,
        None => room::try_directory(store).err(),
    })
}

fn user_namespaces(level: Isolation, trial: &Trial) -> Check {
    let line = |result: String, means: &str| {
        let tried = "unshare(CLONE_NEWUSER), and mapping ids into it";
        Check::fine(Noun::UserNamespaces, tried, result, means)
    };
    match &trial.entered {
        Err(error) if error.step != Step::Namespaces => {
            let filter = match seccomp_mode() {
                Some(2) => "; a seccomp filter is on this process",
                _ => "",
            };
            line(
                format!("{}{filter}", without_step(error)),
                Noun::UserNamespaces.needed_for(),
            )
            .behind(Status::Failed, Wall::of(error))
        }
        _ if level == Isolation::Root => line(
            "not tried".to_owned(),
            "a run as root makes none: its containers have the ids of this one",
        )
        .behind(Status::NotNeeded, None),
        _ => line("allowed".to_owned(), Noun::UserNamespaces.needed_for()),
    }
}

/// The mode of seccomp(2) that this process is in.
fn seccomp_mode() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"))?;
    line.trim().parse().ok()
}

/// The lines of what is tried in a pod's namespaces.
fn pod_lines(trial: &Trial) -> Vec<Check> {
    let all = [
        Noun::Proc,
        Noun::Mounts,
        Noun::Bridge,
        Noun::Veth,
        Noun::Nftables,
    ];
    let not_tried = |needed: Noun| all.map(|noun| Check::not_tried(noun, needed));
    let namespaces = |result: String| {
        Check::fine(
            Noun::Namespaces,
            "unshare(CLONE_NEWNS|NEWNET|NEWPID|NEWIPC|NEWUTS|NEWCGROUP)",
            result,
            Noun::Namespaces.needed_for(),
        )
    };
    let pod = match (&trial.entered, &trial.pod) {
        (Err(error), _) if error.step != Step::Namespaces => {
            let mut lines = vec![Check::not_tried(Noun::Namespaces, Noun::UserNamespaces)];
            lines.extend(not_tried(Noun::UserNamespaces));
            return lines;
        }
        (Err(error), _) => {
            let singly: Vec<_> = trial
                .refused_singly
                .iter()
                .map(|(name, errno)| format!("{name}: {}", errno_text(*errno)))
                .collect();
            let result = match singly.as_slice() {
                [] => format!("{}; each of them alone is allowed", without_step(error)),
                singly => format!("refused alone too: {}", singly.join(", ")),
            };
            let mut lines = vec![namespaces(result).behind(Status::Failed, Wall::of(error))];
            lines.extend(not_tried(Noun::Namespaces));
            return lines;
        }
        (Ok(()), None) => {
            let mut lines = vec![namespaces("allowed".to_owned())];
            lines.extend(not_tried(Noun::Namespaces));
            return lines;
        }
        (Ok(()), Some(pod)) => pod,
    };
    let mut lines = vec![namespaces("allowed".to_owned())];
    lines.extend(root_lines(pod));
    lines.extend(network_lines(pod));
    lines
}

fn root_lines(pod: &PodTrial) -> [Check; 2] {
    let proc = |result: String| {
        Check::fine(
            Noun::Proc,
            "mount(proc) in the pod's process namespace",
            result,
            Noun::Proc.needed_for(),
        )
    };
    let mounts = |result: String| {
        Check::fine(
            Noun::Mounts,
            "mounting a tmpfs, the store, devices and a fresh /sys, and pivot_root into it",
            result,
            Noun::Mounts.needed_for(),
        )
    };
    match &pod.root {
        Ok(()) => [proc("allowed".to_owned()), mounts("allowed".to_owned())],
        Err(error) if error.step == Step::Proc => {
            let covered = covered_parts();
            [
                proc(format!("{}{covered}", without_step(error)))
                    .behind(Status::Failed, Wall::of(error)),
                Check::not_tried(Noun::Mounts, Noun::Proc),
            ]
        }
        Err(error) => [
            proc("allowed".to_owned()),
            mounts(without_step(error)).behind(Status::Failed, Wall::of(error)),
        ],
    }
}

/// What is mounted over parts of /proc, or that it is read-only, by mountinfo (proc(5)).
fn covered_parts() -> String {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let mut parts: Vec<_> = points.filter(|point| point.starts_with("/proc/")).collect();
    parts.sort_unstable();
    parts.dedup();
    let read_only = mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(4);
        fields.next() == Some("/proc")
            && fields
                .next()
                .is_some_and(|options| options.starts_with("ro"))
    });
    let covered = match parts.as_slice() {
        [] => String::new(),
        parts => format!("; mounted over parts of it: {}", parts.join(", ")),
    };
    let read_only = if read_only { "; it is read-only" } else { "" };
    format!("{covered}{read_only}")
}

fn network_lines(pod: &PodTrial) -> [Check; 3] {
    let line = |noun, tried: &str, means: &str| Check::fine(noun, tried, "allowed", means);
    let answered = |mut check: Check, error: &HostError| {
        check.result = without_step(error);
        check
    };
    let bridge = line(
        Noun::Bridge,
        "ip link add type bridge, in the pod's network namespace",
        Noun::Bridge.needed_for(),
    );
    let veth = line(
        Noun::Veth,
        "ip link add type veth, to a second network namespace",
        Noun::Veth.needed_for(),
    );
    let nftables = line(
        Noun::Nftables,
        "nft add table inet, with counters and a redirection",
        "a run says what an app reached for in vain, and `egress: host` works",
    );
    let without_own_network = "a run ends with exit 3, but for `network: shared` in the gate file";
    let (bridge, veth) = match (&pod.bridge, &pod.veth) {
        (Err(error), _) => {
            let mut bridge = answered(bridge, error).behind(Status::Failed, Wall::of(error));
            if pod.shared.is_ok() {
                without_own_network.clone_into(&mut bridge.means);
            }
            (bridge, Check::not_tried(Noun::Veth, Noun::Bridge))
        }
        (Ok(()), Some(Err(error))) => {
            let mut veth = answered(veth, error).behind(Status::Failed, Wall::of(error));
            without_own_network.clone_into(&mut veth.means);
            (bridge, veth)
        }
        (Ok(()), _) => (bridge, veth),
    };
    let nftables = match (&pod.counted, &pod.egress) {
        (Err(error), _) => {
            let mut check = answered(nftables, error).behind(Status::Limited, Wall::NoNftables);
            check.means = "a run does not say what an app reached for in vain, and gate files with `egress: host` end with exit 3".to_owned();
            check
        }
        (Ok(()), Err(error)) => {
            let mut check = answered(nftables, error).behind(Status::Limited, Wall::NoNftables);
            check.means = "gate files with `egress: host` end with exit 3".to_owned();
            check
        }
        (Ok(()), Ok(())) => nftables,
    };
    [bridge, veth, nftables]
}

fn overlayfs(ran: &trial::Ran) -> Check {
    let line = |result: String, means: &str| {
        let tried = "joining two layers of the store, of which one removes files of the other";
        Check::fine(Noun::Overlayfs, tried, result, means)
    };
    match (&ran.storage, &ran.plain) {
        (Storage::Overlay, _) => line(
            "they were joined".to_owned(),
            "containers read the layers from the store; nothing is copied",
        ),
        (Storage::Copy { why }, Storage::Overlay) => line(
            why.clone(),
            "images whose layers remove files of others are copied for each container; others are joined",
        )
        .behind(Status::Limited, Wall::NoOverlay),
        (Storage::Copy { why }, Storage::Copy { .. }) => line(
            why.clone(),
            "the whole image is copied for each container, which takes time and room",
        )
        .behind(Status::Limited, Wall::NoOverlay),
    }
}

/// The line, or lines, of a container that did not start.
fn container_failed(error: &HostError) -> Vec<Check> {
    let line = |noun, tried: &str| {
        Check::fine(noun, tried, without_step(error), noun.needed_for())
            .behind(Status::Failed, Wall::of(error))
    };
    let container = "running a program by libcontainer as user 1000";
    match error.step {
        Step::Overlay | Step::Copy => vec![
            line(Noun::Overlayfs, "joining two layers of the store"),
            Check::not_tried(Noun::Container, Noun::Overlayfs),
        ],
        Step::Store => vec![
            Check::not_tried(Noun::Overlayfs, Noun::Container),
            line(Noun::Container, "unpacking two small layers into the store"),
        ],
        _ => vec![
            Check::fine(
                Noun::Overlayfs,
                "joining two layers of the store",
                "not known, as no container came to run",
                "try again when that is put right",
            )
            .behind(Status::NotTried, None),
            line(Noun::Container, container),
        ],
    }
}

/// The line that an examination would have for what a run was refused.
pub fn line_of(error: &HostError) -> Check {
    let noun = match error.step {
        Step::UserNamespace => Noun::UserNamespaces,
        Step::IdMap if Wall::of(error) == Wall::IdMapper => Noun::SubordinateIds,
        Step::IdMap => Noun::UserNamespaces,
        Step::Namespaces => Noun::Namespaces,
        Step::Proc => Noun::Proc,
        Step::Mounts => Noun::Mounts,
        Step::Overlay | Step::Copy => Noun::Overlayfs,
        Step::Network if error.call.contains("veth") => Noun::Veth,
        Step::Network => Noun::Bridge,
        Step::Firewall => Noun::Nftables,
        Step::Cgroup => Noun::Cgroups,
        Step::Store => Noun::Store,
        Step::Spawn | Step::Runtime | Step::HelperLost => Noun::Container,
    };
    Check::fine(
        noun,
        error.call.clone(),
        without_step(error),
        noun.needed_for(),
    )
    .behind(Status::Failed, Wall::of(error))
}

/// The call and its answer; the line says already what it was for.
fn without_step(error: &HostError) -> String {
    let text = error.to_string();
    match text.split_once(": ") {
        Some((_, rest)) => rest.to_owned(),
        None => text,
    }
}
