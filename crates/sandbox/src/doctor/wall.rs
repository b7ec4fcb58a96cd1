//! What can stand in the way of a run, and how it is put right: on a machine, for a Docker container and for a
//! Kubernetes pod. The only place with these words, for `doctor` as for a run that met the wall.

use std::fs;

use serde::Serialize;

use crate::error::{HostError, Step};
use crate::id_map::Unavailable;
use crate::isolation::Isolation;

/// Something of the host that a run needs otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Wall {
    /// `user.max_user_namespaces` is 0.
    UserNamespacesOff,
    /// It is not 0, and yet reached, here or in a namespace around this one.
    UserNamespacesUsedUp,
    /// A limit on other namespaces is reached.
    NamespacesUsedUp,
    /// Debian's `kernel.unprivileged_userns_clone` is 0.
    UnprivilegedUsersKeptOut,
    /// Ubuntu's `kernel.apparmor_restrict_unprivileged_userns` is 1.
    AppArmor,
    /// A filter or a security module refuses a call that needs nothing else.
    CallFilter,
    /// /proc is mounted read-only, so that no id can be mapped.
    ReadOnlyProc,
    /// Something lies over parts of /proc.
    CoveredProc,
    /// Something lies over parts of /sys.
    CoveredSys,
    /// newuidmap or newgidmap refused.
    IdMapper,
    /// No range in subuid or subgid, or no newuidmap.
    NoSubordinateIds,
    /// The namespace this process is in has too few ids.
    TooFewIds,
    /// Not root.
    NotRoot,
    /// No bridge or veth.
    NoBridge,
    /// No nf_tables.
    NoNftables,
    /// overlayfs cannot join the layers of this store.
    NoOverlay,
    /// No cgroup can be made.
    NoCgroup,
    /// The store cannot be written.
    StoreNotWritable,
    /// Nothing, or little, is left on the store's disk.
    StoreFull,
    /// $TMPDIR cannot be written, or is full.
    TemporaryDirectory,
    /// Little memory is left.
    LittleMemory,
    /// The kernel is too old.
    OldKernel,
    /// The clock is behind.
    ClockBehind,
    /// A credential that is configured and cannot be used.
    CredentialUnusable,
    /// Something that no host is known to do.
    Unknown,
}

/// How a wall is taken down.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Fixes {
    /// On a machine, or a virtual one.
    pub machine: &'static str,
    /// Where smokegate runs in a Docker container.
    pub docker: &'static str,
    /// Where it runs in a Kubernetes pod.
    pub kubernetes: &'static str,
}

/// Where a wall is met most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Usual {
    Machine,
    Docker,
}

struct Advice {
    /// What stands there; nothing where the error itself says it.
    why: Option<&'static str>,
    usual: Usual,
    fixes: Fixes,
}

impl Wall {
    /// All of them.
    pub const ALL: [Self; 25] = [
        Self::UserNamespacesOff,
        Self::UserNamespacesUsedUp,
        Self::NamespacesUsedUp,
        Self::UnprivilegedUsersKeptOut,
        Self::AppArmor,
        Self::CallFilter,
        Self::ReadOnlyProc,
        Self::CoveredProc,
        Self::CoveredSys,
        Self::IdMapper,
        Self::NoSubordinateIds,
        Self::TooFewIds,
        Self::NotRoot,
        Self::NoBridge,
        Self::NoNftables,
        Self::NoOverlay,
        Self::NoCgroup,
        Self::StoreNotWritable,
        Self::StoreFull,
        Self::TemporaryDirectory,
        Self::LittleMemory,
        Self::OldKernel,
        Self::ClockBehind,
        Self::CredentialUnusable,
        Self::Unknown,
    ];

    /// What stood in the way of a step that the host refused. Reads the switches of the kernel that matter.
    pub fn of(error: &HostError) -> Self {
        if error.is_out_of_space() {
            return Self::StoreFull;
        }
        match error.step {
            Step::IdMap if error.call.contains("newuidmap") || error.call.contains("newgidmap") => {
                Self::IdMapper
            }
            Step::IdMap if error.errno == Some(libc::EROFS) => Self::ReadOnlyProc,
            Step::Namespaces | Step::Network
                if error.is_about_namespaces()
                    && matches!(error.errno, Some(libc::ENOSPC | libc::EUSERS)) =>
            {
                Self::NamespacesUsedUp
            }
            Step::UserNamespace | Step::IdMap | Step::Namespaces => Self::of_namespaces(error),
            Step::Proc => Self::CoveredProc,
            Step::Mounts if error.call.contains("sysfs") => Self::CoveredSys,
            Step::Mounts | Step::Spawn
                if matches!(error.errno, Some(libc::EPERM | libc::EACCES)) =>
            {
                Self::CallFilter
            }
            Step::Network if error.call.starts_with("ip link add") => Self::NoBridge,
            Step::Firewall => Self::NoNftables,
            Step::Cgroup => Self::NoCgroup,
            Step::Store => Self::StoreNotWritable,
            _ if kernel_is_old() => Self::OldKernel,
            _ => Self::Unknown,
        }
    }

    fn of_namespaces(error: &HostError) -> Self {
        let switch = |name: &str| {
            let text = fs::read_to_string(format!("/proc/sys/{name}")).ok()?;
            Some(text.trim().to_owned())
        };
        if switch("kernel/apparmor_restrict_unprivileged_userns").as_deref() == Some("1") {
            Self::AppArmor
        } else if switch("kernel/unprivileged_userns_clone").as_deref() == Some("0") {
            Self::UnprivilegedUsersKeptOut
        } else if switch("user/max_user_namespaces").as_deref() == Some("0") {
            Self::UserNamespacesOff
        } else if matches!(error.errno, Some(libc::ENOSPC | libc::EUSERS)) {
            Self::UserNamespacesUsedUp
        } else {
            Self::CallFilter
        }
    }

    /// Why a level cannot be had.
    pub fn of_level(unavailable: &Unavailable) -> Self {
        match unavailable {
            Unavailable::NotPrivileged => Self::NotRoot,
            Unavailable::NoProgram(_) | Unavailable::NoRange(_) => Self::NoSubordinateIds,
            Unavailable::NoNewPrivileges => Self::IdMapper,
            Unavailable::TooFewIds(_) => Self::TooFewIds,
        }
    }

    /// What a run lacked that met a call whose ids its level does not map.
    pub fn of_id_map(level: Isolation) -> Self {
        match level {
            Isolation::Single => Self::NoSubordinateIds,
            Isolation::Subuid | Isolation::Root => Self::TooFewIds,
        }
    }

    /// What stands there, as a clause; nothing where the error itself says it.
    pub fn why(self) -> Option<&'static str> {
        self.advice().why
    }

    /// How it is taken down.
    pub fn fixes(self) -> Fixes {
        self.advice().fixes
    }

    /// Why, and the fix where this wall is met most, in one line.
    pub fn hint(self) -> String {
        let Advice { why, usual, fixes } = self.advice();
        let fix = match usual {
            Usual::Machine => fixes.machine,
            Usual::Docker => fixes.docker,
        };
        match why {
            Some(why) => format!("{why}: {fix}"),
            None => fix.to_owned(),
        }
    }

    /// The fixes that [`Wall::hint`] has not, each with where it is one.
    pub fn other_fixes(self) -> Vec<String> {
        let Advice { usual, fixes, .. } = self.advice();
        let all = [
            (Some(Usual::Machine), "on a machine", fixes.machine),
            (Some(Usual::Docker), "in a Docker container", fixes.docker),
            (None, "in a Kubernetes pod", fixes.kubernetes),
        ];
        let others = all.into_iter().filter(|(place, ..)| *place != Some(usual));
        others
            .map(|(_, place, fix)| format!("{place}: {fix}"))
            .collect()
    }

    #[allow(clippy::too_many_lines)] // a table
    fn advice(self) -> Advice {
        let table = |why, usual, machine, docker, kubernetes| Advice {
            why,
            usual,
            fixes: Fixes {
                machine,
                docker,
                kubernetes,
            },
        };
        use Usual::{Docker, Machine};
        match self {
            Self::UserNamespacesOff => table(
                Some("user namespaces are switched off"),
                Machine,
                "sudo sysctl user.max_user_namespaces=15000 (to last, as a line of a file in /etc/sysctl.d)",
                "on Docker's host: sudo sysctl user.max_user_namespaces=15000; or run smokegate as root with docker run --privileged",
                "on the node: sudo sysctl user.max_user_namespaces=15000; or run smokegate as root with securityContext: {privileged: true}",
            ),
            Self::UserNamespacesUsedUp => table(
                Some(
                    "a limit on user namespaces is reached, of this user or of a namespace around this one",
                ),
                Machine,
                "sudo sysctl user.max_user_namespaces=15000, and end what holds them (lsns -t user)",
                "on Docker's host: sudo sysctl user.max_user_namespaces=15000, and end what holds them (lsns -t user)",
                "on the node: sudo sysctl user.max_user_namespaces=15000, and end what holds them (lsns -t user)",
            ),
            Self::NamespacesUsedUp => table(
                Some(
                    "a limit on namespaces is reached (user.max_mnt_namespaces, max_net_namespaces and the like)",
                ),
                Machine,
                "sudo sysctl user.max_mnt_namespaces=15000 user.max_net_namespaces=15000 user.max_pid_namespaces=15000 user.max_ipc_namespaces=15000 user.max_uts_namespaces=15000 user.max_cgroup_namespaces=15000",
                "on Docker's host, for each of them that is 0 or reached: sudo sysctl user.max_net_namespaces=15000",
                "on the node, for each of them that is 0 or reached: sudo sysctl user.max_net_namespaces=15000",
            ),
            Self::UnprivilegedUsersKeptOut => table(
                Some("user namespaces are switched off for ordinary users"),
                Machine,
                "sudo sysctl kernel.unprivileged_userns_clone=1, or run smokegate as root",
                "on Docker's host: sudo sysctl kernel.unprivileged_userns_clone=1",
                "on the node: sudo sysctl kernel.unprivileged_userns_clone=1",
            ),
            Self::AppArmor => table(
                Some(
                    "AppArmor keeps unprivileged programs from using user namespaces (Ubuntu 23.10 and later)",
                ),
                Machine,
                "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0, or give smokegate an AppArmor profile with `userns,`",
                "on Docker's host: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0; then docker run --security-opt apparmor=unconfined --security-opt seccomp=unconfined",
                "on the node: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0; then securityContext: {appArmorProfile: {type: Unconfined}, seccompProfile: {type: Unconfined}}",
            ),
            Self::CallFilter => table(
                Some("inside a container, its seccomp profile is the usual cause"),
                Docker,
                "start smokegate outside what filters its system calls (systemd: RestrictNamespaces=, SystemCallFilter=; a sandbox around the runner), or as root",
                "start the runner with --security-opt seccomp=unconfined --security-opt apparmor=unconfined, or run smokegate as root with --privileged",
                "securityContext: {seccompProfile: {type: Unconfined}, appArmorProfile: {type: Unconfined}}",
            ),
            Self::ReadOnlyProc => table(
                Some("/proc is mounted read-only, and an id map is written there"),
                Machine,
                "sudo mount -o remount,rw /proc, or start smokegate outside the sandbox that mounted it so",
                "start the runner without --read-only mounts over /proc, and with --security-opt systempaths=unconfined",
                "securityContext: {procMount: Unmasked}, with hostUsers: false in the pod's spec, and no volume over /proc",
            ),
            Self::CoveredProc => table(
                Some("a container hides parts of /proc, which forbids a fresh one"),
                Docker,
                "unmount what covers parts of /proc (findmnt -R /proc shows it), or start smokegate outside the sandbox that did so",
                "start the runner with --security-opt systempaths=unconfined",
                "securityContext: {procMount: Unmasked}, with hostUsers: false in the pod's spec",
            ),
            Self::CoveredSys => table(
                Some("a container hides parts of /sys, which forbids a fresh one"),
                Docker,
                "unmount what covers parts of /sys (findmnt -R /sys shows it), or start smokegate outside the sandbox that did so",
                "start the runner with --security-opt systempaths=unconfined and without volumes below /sys",
                "securityContext: {procMount: Unmasked}, with hostUsers: false in the pod's spec and no volume below /sys",
            ),
            Self::IdMapper => table(
                Some(
                    "newuidmap and newgidmap must be set-user-id root, or have file capabilities, and may be started by a process that can gain rights",
                ),
                Machine,
                "sudo apt-get install --reinstall uidmap, and no mount option nosuid where they are; or --isolation single",
                "start the runner without --security-opt no-new-privileges and without --cap-drop SETUID or SETGID; or --isolation single",
                "securityContext: {allowPrivilegeEscalation: true, capabilities: {add: [SETUID, SETGID]}}; or --isolation single",
            ),
            Self::NoSubordinateIds => table(
                Some("this user has one id, and images use many"),
                Machine,
                "sudo apt-get install uidmap, and sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER; or run smokegate as root",
                "in the runner's image: install uidmap and write USER:100000:65536 to /etc/subuid and /etc/subgid; or run smokegate as root with --privileged",
                "in the runner's image: install uidmap and write USER:100000:65536 to /etc/subuid and /etc/subgid; or runAsUser: 0 with securityContext: {privileged: true}",
            ),
            Self::TooFewIds => table(
                Some("the user namespace that smokegate is in has not the ids from 0 to 65535"),
                Machine,
                "start smokegate outside this user namespace, or use --isolation single",
                "start the runner without a user namespace of its own, or with 65536 ids in it (userns-remap); or use --isolation single",
                "leave hostUsers: false out, or give the pod 65536 ids; or use --isolation single",
            ),
            Self::NotRoot => table(
                None,
                Machine,
                "run smokegate as root, or leave --isolation out (in a gate file, `min_isolation`)",
                "docker run --user 0 --privileged, or leave --isolation out",
                "securityContext: {runAsUser: 0, privileged: true}, or leave --isolation out",
            ),
            Self::NoBridge => table(
                Some("a network for each container needs bridge and veth of the kernel"),
                Machine,
                "sudo modprobe bridge veth; `network: shared` in the gate file needs neither: all containers then share one localhost, as in a Kubernetes pod",
                "on Docker's host: sudo modprobe bridge veth; or `network: shared` in the gate file",
                "on the node: sudo modprobe bridge veth; or `network: shared` in the gate file",
            ),
            Self::NoNftables => table(
                Some("`egress: host` redirects connections with nf_tables of the kernel"),
                Machine,
                "sudo modprobe nft_chain_nat nft_reject_inet; without it, leave `egress` out and run what the app needs as a service",
                "on Docker's host: sudo modprobe nft_chain_nat nft_reject_inet; or leave `egress` out",
                "on the node: sudo modprobe nft_chain_nat nft_reject_inet; or leave `egress` out",
            ),
            Self::NoOverlay => table(
                Some("overlayfs cannot join the layers of this store"),
                Machine,
                "put the store on ext4, xfs or btrfs, outside any overlay: --store DIR; kernel 5.11 or later for ordinary users",
                "mount a volume for the store: docker run -v smokegate:/store, and --store /store",
                "mount an emptyDir or a volume claim for the store, and --store its mountPath",
            ),
            Self::NoCgroup => table(
                None,
                Machine,
                "run smokegate as root, or where a cgroup of version 2 is delegated to you: systemd-run --user --scope -p Delegate=yes smokegate …; or leave mem_limit, cpus and pids_limit out",
                "docker run --privileged --cgroupns private, with cgroup version 2 on the host; or leave mem_limit, cpus and pids_limit out",
                "securityContext: {privileged: true} on a node with cgroup version 2; or leave mem_limit, cpus and pids_limit out",
            ),
            Self::StoreNotWritable => table(
                None,
                Machine,
                "choose a directory you may write to with --store DIR",
                "mount a volume that the container's user may write to, and choose it with --store DIR",
                "mount an emptyDir and choose it with --store DIR; fsGroup lets a user that is not root write to it",
            ),
            Self::StoreFull => table(
                None,
                Machine,
                "free space there, choose another place with --store DIR, or run `smokegate cache prune`",
                "mount a larger volume for the store (docker run -v smokegate:/store, --store /store), or run `smokegate cache prune`",
                "raise the pod's ephemeral-storage limit or its emptyDir's sizeLimit, or choose another volume with --store DIR",
            ),
            Self::TemporaryDirectory => table(
                None,
                Machine,
                "set TMPDIR to a directory with room for the uncompressed archive",
                "docker run -e TMPDIR=/store, where a volume is mounted",
                "env: [{name: TMPDIR, value: /store}], where an emptyDir is mounted",
            ),
            Self::LittleMemory => table(
                Some("what containers write is kept in memory"),
                Machine,
                "end what uses it, or run fewer variants side by side: --parallel 1",
                "raise docker run --memory, or run fewer variants side by side: --parallel 1",
                "raise resources.limits.memory, or run fewer variants side by side: --parallel 1",
            ),
            Self::OldKernel => table(
                Some("libcontainer's mount calls are of Linux 5.12"),
                Machine,
                "install a newer kernel: Debian 12, Ubuntu 22.04 and RHEL 9 have one",
                "the kernel is that of Docker's host: run it on a newer one",
                "the kernel is that of the node: choose a newer node image (nodeSelector)",
            ),
            Self::ClockBehind => table(
                Some("certificates and signatures of registries are judged by the clock"),
                Machine,
                "sudo timedatectl set-ntp true",
                "set the clock of Docker's host: sudo timedatectl set-ntp true",
                "set the clock of the node: sudo timedatectl set-ntp true",
            ),
            Self::CredentialUnusable => table(
                None,
                Machine,
                "log in again (docker login REGISTRY), or install the helper that is named",
                "pass the text of a config.json in DOCKER_AUTH_CONFIG, or mount one and name its directory in DOCKER_CONFIG",
                "mount a secret of type kubernetes.io/dockerconfigjson and name it in REGISTRY_AUTH_FILE",
            ),
            Self::Unknown => table(
                None,
                Machine,
                "if the host is an ordinary Linux of 5.12 or later, please report this with the text above and `uname -a`",
                "try docker run --privileged; if that works, please report this with the text above and `docker info`",
                "try securityContext: {privileged: true}; if that works, please report this with the text above and `kubectl version`",
            ),
        }
    }
}

fn kernel_is_old() -> bool {
    super::kernel::running().is_some_and(|version| version < super::kernel::NEEDED)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wall_has_a_fix_for_a_machine_a_container_and_a_pod() {
        for wall in Wall::ALL {
            let Fixes {
                machine,
                docker,
                kubernetes,
            } = wall.fixes();
            for fix in [machine, docker, kubernetes] {
                assert!(fix.len() > 10, "{wall:?}: `{fix}`");
                assert!(
                    !fix.ends_with('.') && !fix.contains('\n'),
                    "{wall:?}: `{fix}`"
                );
            }
            // Each place has its own words.
            assert_ne!(machine, docker, "{wall:?}");
            assert_ne!(docker, kubernetes, "{wall:?}");
            let hint = wall.hint();
            assert!(
                hint.contains(machine) || hint.contains(docker),
                "{wall:?}: {hint}"
            );
            let others = wall.other_fixes();
            assert_eq!(others.len(), 2, "{wall:?}");
            assert!(others.iter().all(|fix| !hint.contains(fix)), "{wall:?}");
        }
    }

    #[test]
    fn refused_steps_are_told_apart() {
        let refused = |step, call: &str, errno| HostError {
            step,
            call: call.to_owned(),
            errno: Some(errno),
            detail: String::new(),
        };
        for (step, call, errno, wall) in [
            (Step::Proc, "mount(proc)", libc::EPERM, Wall::CoveredProc),
            (Step::Mounts, "mount(sysfs)", libc::EPERM, Wall::CoveredSys),
            (Step::Mounts, "mount(tmpfs)", libc::EPERM, Wall::CallFilter),
            (
                Step::IdMap,
                "write(/proc/self/uid_map)",
                libc::EROFS,
                Wall::ReadOnlyProc,
            ),
            (
                Step::IdMap,
                "/usr/bin/newuidmap 7 0 1000 1",
                libc::EPERM,
                Wall::IdMapper,
            ),
            (
                Step::Network,
                "ip link add type veth",
                libc::EOPNOTSUPP,
                Wall::NoBridge,
            ),
            (Step::Network, "ip address add", libc::EPERM, Wall::Unknown),
            (
                Step::Namespaces,
                "unshare(CLONE_NEWNS|NEWNET)",
                libc::ENOSPC,
                Wall::NamespacesUsedUp,
            ),
            (
                Step::Firewall,
                "nft add table inet",
                libc::EPERM,
                Wall::NoNftables,
            ),
            (
                Step::Cgroup,
                "mkdir(/sys/fs/cgroup/x)",
                libc::EROFS,
                Wall::NoCgroup,
            ),
            (Step::Store, "write", libc::EACCES, Wall::StoreNotWritable),
            (Step::Store, "write", libc::ENOSPC, Wall::StoreFull),
            (Step::Copy, "copy `/x`", libc::EDQUOT, Wall::StoreFull),
        ] {
            assert_eq!(Wall::of(&refused(step, call, errno)), wall, "{call}");
        }
    }
}
