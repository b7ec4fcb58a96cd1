//! One line of the examination: what was tried, what came of it, and what it means for a run.

use std::fmt;

use serde::Serialize;

use super::wall::Wall;

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Noun {
    /// The version of the kernel.
    Kernel,
    /// The layer store: may it be written, and how much room is left.
    Store,
    /// Where archives are spooled.
    TemporaryDirectory,
    /// Memory for what containers write.
    Memory,
    /// `unshare(CLONE_NEWUSER)` and the id map.
    UserNamespaces,
    /// subuid(5) and newuidmap(1).
    SubordinateIds,
    /// The other namespaces of a pod.
    Namespaces,
    /// A proc file system of the pod's own.
    Proc,
    /// The pod's own root.
    Mounts,
    /// The bridge between containers.
    Bridge,
    /// The cable of each container.
    Veth,
    /// Rules that count and redirect.
    Nftables,
    /// How layers are joined.
    Overlayfs,
    /// A container from its layers to its `execve`.
    Container,
    /// Limits on memory, processors and processes.
    Cgroups,
    /// /dev/fuse.
    Fuse,
    /// /dev/net/tun.
    Tun,
    /// Whether the clock can be believed.
    Clock,
    /// Proxies in the environment.
    Proxies,
    /// Credentials for registries.
    Credentials,
}

impl Noun {
    /// In words.
    pub fn title(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Store => "layer store",
            Self::TemporaryDirectory => "temporary directory",
            Self::Memory => "memory",
            Self::UserNamespaces => "user namespaces",
            Self::SubordinateIds => "subordinate ids",
            Self::Namespaces => "namespaces of a pod",
            Self::Proc => "a fresh /proc",
            Self::Mounts => "the pod's own root",
            Self::Bridge => "bridge",
            Self::Veth => "veth",
            Self::Nftables => "nf_tables",
            Self::Overlayfs => "overlayfs",
            Self::Container => "a container",
            Self::Cgroups => "cgroups",
            Self::Fuse => "/dev/fuse",
            Self::Tun => "/dev/net/tun",
            Self::Clock => "clock",
            Self::Proxies => "proxies",
            Self::Credentials => "credentials",
        }
    }
}

impl Noun {
    /// Whether every run needs it.
    fn is_vital(self) -> bool {
        matches!(
            self,
            Self::Store
                | Self::UserNamespaces
                | Self::Namespaces
                | Self::Proc
                | Self::Mounts
                | Self::Overlayfs
                | Self::Container
        )
    }

    /// What a run needs it for; nothing where runs do without.
    pub fn needed_for(self) -> &'static str {
        match self {
            Self::UserNamespaces => {
                "every run of an ordinary user makes one: what it may do beyond its rights, it may do in there"
            }
            Self::SubordinateIds => "containers have every id that images use",
            Self::Namespaces => "a pod needs mounts, network, processes and a host name of its own",
            Self::Proc => "containers need to see their own processes, and no others",
            Self::Mounts => "containers must see nothing of the host's files",
            Self::Bridge => "each container gets an address and a localhost of its own",
            Self::Veth => "containers reach each other",
            Self::Nftables => {
                "a run says what an app reached for in vain, and `egress: host` works"
            }
            Self::Overlayfs => "the layers in the store become the root of each container",
            Self::Container => "what a run needs, from its beginning to its end",
            Self::Cgroups => "mem_limit, cpus and pids_limit of a gate file hold",
            Self::Store => "layers are unpacked here once, and read by every run",
            Self::Kernel
            | Self::TemporaryDirectory
            | Self::Memory
            | Self::Fuse
            | Self::Tun
            | Self::Clock
            | Self::Proxies
            | Self::Credentials => "",
        }
    }
}

/// What came of a try.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// As a run wants it.
    Fine,
    /// A run is possible, with less.
    Limited,
    /// A run ends with exit code 3.
    Failed,
    /// Something else failed that this needs.
    NotTried,
    /// Runs do without.
    NotNeeded,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Fine => "ok",
            Self::Limited => "limited",
            Self::Failed => "failed",
            Self::NotTried => "not tried",
            Self::NotNeeded => "not needed",
        })
    }
}

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct Check {
    /// What it is about.
    pub noun: Noun,
    /// What came of it.
    pub status: Status,
    /// What was tried, as one would do it by hand.
    pub tried: String,
    /// What that answered.
    pub result: String,
    /// What it means for a run.
    pub means: String,
    /// What stands in the way, where something does.
    #[serde(skip)]
    pub wall: Option<Wall>,
}

impl Check {
    /// A line of something that is as it should be.
    pub fn fine(
        noun: Noun,
        tried: impl Into<String>,
        result: impl Into<String>,
        means: impl Into<String>,
    ) -> Self {
        Self {
            noun,
            status: Status::Fine,
            tried: tried.into(),
            result: result.into(),
            means: means.into(),
            wall: None,
        }
    }

    /// The same with another status, for the sake of `wall`.
    pub fn behind(mut self, status: Status, wall: impl Into<Option<Wall>>) -> Self {
        self.status = status;
        if status == Status::Failed && self.noun.is_vital() && self.means == self.noun.needed_for()
        {
            self.means = format!("without this no run starts: {}", self.means);
        }
        self.wall = wall.into();
        self
    }

    /// A line of what could not be tried, as `needed` failed.
    pub(super) fn not_tried(noun: Noun, needed: Noun) -> Self {
        let result = format!("needs {}, which failed", needed.title());
        Self::fine(noun, "nothing", result, "try again when that is put right")
            .behind(Status::NotTried, None)
    }
}
