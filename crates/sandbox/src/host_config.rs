//! What a container may do and use, apart from what its image says: Docker's `HostConfig`.

use std::net::IpAddr;

use rustix::process::{Resource, Rlimit};
use serde::{Deserialize, Serialize};

use crate::capabilities::Capability;

/// Rights and limits of a container; the default is Docker's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostConfig {
    /// Capabilities beside Docker's default ones.
    pub cap_add: Vec<Capability>,
    /// Capabilities it does not have.
    pub cap_drop: Vec<Capability>,
    /// Whether no program may gain rights by its file (PR_SET_NO_NEW_PRIVS).
    pub no_new_privileges: bool,
    /// Whether its root is mounted read-only.
    pub read_only: bool,
    /// Whether process 1 is an init, which passes signals on and reaps, and the program its child.
    pub init: bool,
    /// Size of `/dev/shm` in bytes; Docker's 64 MiB where nothing is said.
    pub shm_size: Option<u64>,
    /// Resource limits; the others are those of smokegate itself.
    pub ulimits: Vec<Ulimit>,
    /// Lines more in `/etc/hosts`, before the names of the pod.
    pub extra_hosts: Vec<(String, IpAddr)>,
}

/// A resource limit (getrlimit(2)).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// One of [`Ulimit::NAMES`].
    pub name: String,
    /// What holds; `u64::MAX` is no limit.
    pub soft: u64,
    /// What the process may raise it to; `u64::MAX` is no limit.
    pub hard: u64,
}

/// Names as `docker run --ulimit` has them, and what the kernel calls them.
const RESOURCES: [(&str, Resource); 16] = [
    ("as", Resource::As),
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

impl Ulimit {
    /// The names there are.
    pub const NAMES: [&str; RESOURCES.len()] = {
        let mut names = [""; RESOURCES.len()];
        let mut at = 0;
        while at < RESOURCES.len() {
            names[at] = RESOURCES[at].0;
            at += 1;
        }
        names
    };

    /// What the kernel calls it; nothing for a name that is not in the list.
    pub(crate) fn resource(&self) -> Option<Resource> {
        let found = RESOURCES.iter().find(|(name, _)| *name == self.name);
        found.map(|(_, resource)| *resource)
    }

    pub(crate) fn rlimit(&self) -> Rlimit {
        let limit = |value: u64| Some(value).filter(|value| *value != u64::MAX);
        Rlimit {
            current: limit(self.soft),
            maximum: limit(self.hard),
        }
    }
}
