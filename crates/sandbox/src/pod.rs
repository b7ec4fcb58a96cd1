//! What the caller asks for: containers, in plain data that crosses the process boundary.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::host_path::HostPath;
use crate::secret::SecretValue;
use crate::{HostConfig, Isolation};

/// Where a pod runs and how it is separated from the host.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PodSpec {
    /// The id map.
    pub isolation: Isolation,
    /// Root of the layer store; bound into the pod's own root.
    pub store: PathBuf,
    /// An empty directory of the caller's; the pod's root is mounted on it, in a private mount namespace.
    pub run_dir: PathBuf,
    /// Names of all containers the pod will have. Their addresses are settled with the pod, so that each
    /// container's hosts file has all of them, whichever starts first.
    pub containers: Vec<String>,
    /// What of the host its containers may mount, by [`MountSource::Bind`]'s number.
    #[serde(skip)]
    pub binds: Vec<HostPath>,
    /// Containers whose use of the host is limited.
    #[serde(skip)]
    pub limits: Vec<(String, ResourceLimits)>,
    /// Whether what containers write goes to the store's disk. Pages of a tmpfs count as memory of whoever wrote
    /// them and cannot be written back, so that a limit on memory would be a limit on files too.
    pub writes_to_disk: bool,
    /// How the containers are connected.
    pub network: NetworkMode,
    /// Whether TCP to the outside is handed to the caller, by [`crate::PodNetwork::egress`].
    pub egress: bool,
}

/// How the containers of a pod are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// Each has a network namespace and an address of its own, connected by a bridge.
    Bridge,
    /// All share one namespace, one address and one `localhost`, as in a Kubernetes pod.
    Shared,
}

/// One container, as the gate resolved it from the image's config, the gate file and the flags.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ContainerSpec {
    /// Its name in the pod: `app`, or the service's. Lowercase letters, digits, `-` and `_`.
    pub name: String,
    /// Directories of the layers in the store, relative to it, top layer first.
    pub layers: Vec<PathBuf>,
    /// The argument vector; the first is searched on the container's PATH when it has no `/`.
    pub args: Vec<String>,
    /// The image's and the user's variables, `NAME=VALUE`, each name once.
    pub env: Vec<String>,
    /// `USER` as Docker understands it; empty means root.
    pub user: String,
    /// Absolute working directory; made when the image lacks it.
    pub working_dir: String,
    /// Volumes, tmpfs and binds; no two have the same target.
    pub mounts: Vec<MountSpec>,
    /// Files below `/run/secrets`.
    pub secrets: Vec<SecretFile>,
    /// Host name.
    pub hostname: String,
    /// Rights and limits.
    pub host_config: HostConfig,
}

/// A mount of a container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountSpec {
    /// What is mounted.
    pub source: MountSource,
    /// Where: an absolute path in the container, made when the image lacks it.
    pub target: String,
    /// Whether the container may not write to it.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A `VOLUME` of the image: the container's own, with the image's content.
    Image,
    /// A volume of the pod, shared by all that name it; while it is empty, whoever mounts it brings its image's
    /// content, owner and mode.
    Named(String),
    /// Memory of this container.
    Tmpfs {
        /// Bytes at most; half of the machine's memory where it is left out (tmpfs(5)).
        size: Option<u64>,
        /// Mode of its root; 1777 where it is left out.
        mode: Option<u32>,
    },
    /// One of [`PodSpec::binds`], by its place there.
    Bind(usize),
}

/// A file below `/run/secrets` that the container's user alone may read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretFile {
    /// Its name there.
    pub name: String,
    /// Its content.
    pub value: SecretValue,
}

/// What a container may use at most; what is left out is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ResourceLimits {
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Thousandths of a processor.
    pub cpus: Option<u32>,
    /// Processes and threads.
    pub pids: Option<u32>,
}

impl ResourceLimits {
    /// Whether nothing is limited.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A command run inside a running container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ExecSpec {
    /// The container it joins.
    pub container: String,
    /// The argument vector.
    pub args: Vec<String>,
}

/// A command that a person runs in a container, whether or not its first process still runs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EnterSpec {
    /// The container. Once its first process has ended, the command is alone with its files and network.
    pub container: String,
    /// The argument vector.
    pub args: Vec<String>,
    /// The size of the terminal that it gets in place of three streams.
    pub terminal: Option<TerminalSize>,
}

/// The size of a terminal, in characters; 0 where it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters in a line.
    pub columns: u16,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// What a process makes of a signal that was sent to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Delivery {
    /// It has a handler for it, or cannot refuse it.
    Handled,
    /// It has no handler, and as the first process of its pid namespace never sees it (pid_namespaces(7)).
    Ignored,
}

/// What is known of a container that was started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Started {
    /// The address that other containers, probes and port mappings connect to.
    pub address: Ipv4Addr,
    /// What this isolation level could not give it, each a sentence.
    pub not_given: Vec<String>,
    /// How its layers were joined.
    pub storage: Storage,
    /// How long joining them took.
    pub mount: Duration,
}

/// How a container's layers became one tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Storage {
    /// By overlayfs, which reads them from the store.
    Overlay,
    /// By copying them, as overlayfs could not be had.
    Copy {
        /// What stood in its way.
        why: String,
    },
}

/// A call of a container's process that failed only because the id map of the isolation level lacks its ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRefusal {
    /// As strace would show it: `chown("/data", 999, 999)`.
    pub call: String,
    /// What the kernel answers: EINVAL, or EPERM for `setgroups` in a map of one id.
    pub errno: i32,
    /// Name of the process (the `comm` of proc(5)).
    pub program: String,
}

/// A socket that waits for connections in a container's network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// The address it is bound to.
    pub address: SocketAddr,
    /// Name of the program that has it (the `comm` of proc(5)), where that was asked for and found.
    pub program: Option<String>,
}

/// What a container reached for in vain, as its network namespace counted it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reached {
    /// TCP connections that were refused, inside the pod.
    pub refused: Vec<Dial>,
    /// What was to leave the pod and was kept from it.
    pub blocked: Vec<Blocked>,
}

/// A TCP connection that was refused, as nothing listened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dial {
    /// What was dialled.
    pub address: SocketAddr,
    /// How often.
    pub times: u64,
}

/// Packets that were to leave the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Blocked {
    /// Where to.
    pub address: SocketAddr,
    /// By which protocol.
    pub transport: Transport,
    /// How many.
    pub times: u64,
}

/// A protocol with ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl std::fmt::Display for Transport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}
