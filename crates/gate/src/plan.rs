//! What will be run, with nothing optional left: variants, their containers, and what is asked of each.

use std::time::Duration;

use smokegate_sandbox::{HostConfig, HostPath, ResourceLimits, SecretFile};

use crate::gate_file::{Egress, Network};
use crate::http_probe::HttpProbe;
use crate::pattern::Pattern;
use crate::port::PortMap;
use crate::schedule::Timing;

/// The app's name in its pod.
pub const APP: &str = "app";

/// Everything a run does, resolved.
#[derive(Clone, Debug)]
pub struct GatePlan {
    /// The variants; each must pass.
    pub variants: Vec<VariantPlan>,
    /// How many variants run at the same time.
    pub parallel: usize,
    /// Whether the first variant that does not pass stops the others.
    pub fail_fast: bool,
}

/// One way of running the image: a pod of its own.
#[derive(Clone, Debug)]
pub struct VariantPlan {
    /// Its name; with the platform after an `@` where it runs on several.
    pub name: String,
    /// Which platform of the image it runs, by its place in the image.
    pub platform: usize,
    /// The services that the app needs, and theirs; each after those it depends on.
    pub services: Vec<ServicePlan>,
    /// The app's container.
    pub app: ContainerPlan,
    /// Ports of the app on the host.
    pub ports: Vec<PortMap>,
    /// How its containers reach each other.
    pub network: Network,
    /// What they reach outside.
    pub egress: Egress,
    /// What must hold of the app besides its probes.
    pub expect: ExpectPlan,
}

/// What must hold of an app besides its probes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExpectPlan {
    /// How long every probe must go on to pass after all have passed.
    pub stays_healthy: Option<Duration>,
    /// What no line of its log may match, from its start to its end.
    pub logs_never: Vec<Pattern>,
    /// The time in which it must end after its stop signal.
    pub stops_within: Option<Duration>,
    /// It is no service: it must end by itself.
    pub completion: Option<Completion>,
}

/// How an app that is no service must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion {
    /// With this exit code.
    pub exit_code: u8,
    /// In this time from its start.
    pub within: Duration,
}

/// A container beside the app, started and ready before it.
#[derive(Clone, Debug)]
pub struct ServicePlan {
    /// The container.
    pub container: ContainerPlan,
    /// Names of the services that must be ready before it starts.
    pub depends_on: Vec<String>,
    /// Whether it must exit with 0, rather than become ready and stay.
    pub one_shot: bool,
    /// Commands exec'd in it, in order, once its probes passed.
    pub post_ready: Vec<Vec<String>>,
    /// Its ports on the host.
    pub ports: Vec<PortMap>,
    /// Time from its start until it must be ready, or have ended.
    pub within: Duration,
}

/// A container as it will be started.
#[derive(Clone, Debug)]
pub struct ContainerPlan {
    /// Its name in the pod, which others resolve.
    pub name: String,
    /// Which image it runs: 0 is the image under test, the others are those of the services.
    pub image: usize,
    /// The argument vector, never empty.
    pub args: Vec<String>,
    /// Variables, each name once.
    pub env: Vec<String>,
    /// `USER`.
    pub user: String,
    /// `WORKDIR`, absolute.
    pub working_dir: String,
    /// Volumes, tmpfs and binds; no two have the same target.
    pub volumes: Vec<VolumePlan>,
    /// Files below `/run/secrets`.
    pub secrets: Vec<SecretFile>,
    /// What it may use at most.
    pub limits: ResourceLimits,
    /// Host name.
    pub hostname: String,
    /// What asks it to end: STOPSIGNAL, else SIGTERM.
    pub stop_signal: i32,
    /// How long it may take to end before it is killed.
    pub stop_grace_period: Duration,
    /// Rights and limits.
    pub host_config: HostConfig,
    /// What is asked of it; all must pass.
    pub probes: Vec<ProbePlan>,
}

/// A mount of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumePlan {
    /// What is mounted.
    pub content: VolumeContent,
    /// Where, absolute.
    pub target: String,
    /// Whether the container may not write.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeContent {
    /// A `VOLUME` of the image.
    Image,
    /// A volume of the pod, the same for all containers that name it.
    Named(String),
    /// Memory of this container.
    Tmpfs {
        /// Bytes at most.
        size: Option<u64>,
        /// Mode of its root.
        mode: Option<u32>,
    },
    /// A file or directory below the gate file's.
    Bind(HostPath),
}

/// A probe and when it is asked.
#[derive(Clone, Debug)]
pub struct ProbePlan {
    /// What it is called in reports, where it was given a name.
    pub name: Option<String>,
    /// What is asked.
    pub probe: Probe,
    /// When.
    pub timing: Timing,
}

/// One question asked of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// An HTTP request from outside the container.
    Http(Box<HttpProbe>),
    /// A connection that is accepted.
    Tcp {
        /// Container port.
        port: u16,
    },
    /// A command in the container; exit code 0 passes.
    Exec {
        /// The argument vector.
        args: Vec<String>,
        /// Text that its output must contain.
        expect: Option<String>,
    },
    /// Lines that the container writes to its standard output or error.
    Log {
        /// What a line must match.
        pattern: Pattern,
        /// How many such lines there must be.
        count: u32,
    },
    /// The image's own health check.
    Healthcheck {
        /// The argument vector.
        args: Vec<String>,
    },
}

impl Probe {
    /// GET that must answer 200.
    pub fn get(port: u16, path: impl Into<String>) -> Self {
        Self::Http(Box::new(HttpProbe::get(port, path)))
    }
}

impl std::fmt::Display for ProbePlan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(f, "`{name}` ({})", self.probe),
            None => write!(f, "{}", self.probe),
        }
    }
}

impl std::fmt::Display for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(http) => write!(f, "{http}"),
            Self::Tcp { port } => write!(f, "a TCP connection to port {port}"),
            Self::Exec { args, .. } => write!(f, "exec `{}`", args.join(" ")),
            Self::Log { pattern, count: 1 } => write!(f, "a log line that matches `{pattern}`"),
            Self::Log { pattern, count } => {
                write!(f, "{count} log lines that match `{pattern}`")
            }
            Self::Healthcheck { args } => write!(f, "HEALTHCHECK `{}`", args.join(" ")),
        }
    }
}
