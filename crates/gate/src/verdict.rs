//! What was decided, why, and on which evidence. No I/O.

use std::net::SocketAddr;
use std::time::Duration;

use smokegate_image::{Digest, StageTimes};
use smokegate_sandbox::{
    ExitStatus, IdRefusal, Isolation, Listener, StartError, Storage, errno_text,
};

use crate::log_capture::LogTail;
use crate::log_watch::Offence;
use crate::plan::{Completion, Probe, ProbePlan};
use crate::probe::{Observation, Outcome, history};
use crate::reached::NetworkReport;
use crate::schedule::GaveUp;

/// The verdict of a run.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Digest of the image's root document.
    pub image: Digest,
    /// Digests of the manifests that were run, one for each platform.
    pub manifests: Vec<Digest>,
    /// The level the run got.
    pub isolation: Isolation,
    /// What that level could not test, each a sentence.
    pub not_tested: Vec<String>,
    /// Every variant.
    pub variants: Vec<VariantVerdict>,
    /// Time it took to fill the layer store.
    pub layers: Duration,
    /// What filling it was busy with.
    pub unpacking: StageTimes,
}

impl Verdict {
    /// Whether every variant passed.
    pub fn passed(&self) -> bool {
        !self.variants.is_empty() && self.variants.iter().all(|v| v.decision.passed())
    }
}

/// The verdict of one variant.
#[derive(Clone, Debug)]
pub struct VariantVerdict {
    /// Its name.
    pub name: String,
    /// The platform it ran on.
    pub platform: String,
    /// What was decided.
    pub decision: Decision,
    /// What was asked of the app, and every attempt.
    pub probes: Vec<ProbeVerdict>,
    /// The app's status, if it ended by itself.
    pub exit: Option<ExitStatus>,
    /// The limit on the app's processes, if it was refused one more.
    pub reached_pids: Option<u32>,
    /// Ports that were mapped.
    pub ports: Vec<PublishedPort>,
    /// The app's last lines.
    pub log: LogTail,
    /// The services beside it.
    pub services: Vec<ServiceVerdict>,
    /// How the layers of its containers were joined: by copying if one was copied, `None` if none was started.
    pub storage: Option<Storage>,
    /// Its network, and what its containers reached for; `None` when there was no pod.
    pub network: Option<NetworkReport>,
    /// Times of the stages.
    pub timings: Timings,
}

/// A probe of the app and what it saw.
#[derive(Clone, Debug)]
pub struct ProbeVerdict {
    /// What it is called, where it was given a name.
    pub name: Option<String>,
    /// What was asked.
    pub probe: Probe,
    /// Successes in a row that it took.
    pub successes: u32,
    /// Every attempt, oldest first.
    pub attempts: Vec<Observation>,
}

impl std::fmt::Display for ProbeVerdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.name {
            Some(name) => write!(f, "`{name}` ({})", self.probe),
            None => write!(f, "{}", self.probe),
        }
    }
}

impl ProbeVerdict {
    pub(crate) fn new(plan: &ProbePlan) -> Self {
        Self {
            name: plan.name.clone(),
            probe: plan.probe.clone(),
            successes: plan.timing.successes,
            attempts: Vec::new(),
        }
    }

    /// All attempts in one line, what is alike put together.
    pub fn history(&self) -> String {
        history(&self.attempts)
    }

    pub(crate) fn passed(&self) -> bool {
        let last = self.attempts.last();
        last.is_some_and(|last| last.outcome == Outcome::Passed)
    }

    /// Attempts at the end that passed.
    pub(crate) fn passed_in_a_row(&self) -> usize {
        let newest_first = self.attempts.iter().rev();
        let passed = |attempt: &&Observation| attempt.outcome == Outcome::Passed;
        newest_first.take_while(passed).count()
    }
}

/// What became of a service.
#[derive(Clone, Debug)]
pub struct ServiceVerdict {
    /// Its name.
    pub name: String,
    /// Whether it was to end by itself.
    pub one_shot: bool,
    /// Its status, if it ended before the pod did.
    pub exit: Option<ExitStatus>,
    /// Its ports on the host.
    pub ports: Vec<PublishedPort>,
    /// Its last lines.
    pub log: LogTail,
}

/// Durations of a variant's stages; `None` where it did not get there.
#[derive(Clone, Debug, Default)]
pub struct Timings {
    /// Until the pod's namespaces, mounts and network were there.
    pub sandbox: Option<Duration>,
    /// From there until the entrypoint's `execve`.
    pub start: Option<Duration>,
    /// What of this it took until the layers were one tree: mounting an overlay, or copying where there is none.
    pub mount: Option<Duration>,
    /// From there until the probe passed or was given up.
    pub probe: Option<Duration>,
    /// All of it, but for the time in which it waited for the first layers that it needs.
    pub total: Duration,
}

/// A port of a container on the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedPort {
    /// Where it listens.
    pub host: SocketAddr,
    /// The container port.
    pub container: u16,
    /// The default port that was busy, when another was taken.
    pub replaced: Option<u16>,
}

/// Passed, the image's fault, or somebody else's.
#[derive(Clone, Debug)]
pub enum Decision {
    /// Every probe passed.
    Passed,
    /// The image is at fault (exit 1).
    Failed(Reason),
    /// It could not be judged (exit 3).
    Inconclusive(Inconclusive),
}

impl Decision {
    /// Whether it passed.
    pub fn passed(&self) -> bool {
        matches!(self, Self::Passed)
    }

    /// Whether another variant's end stopped it, so that nothing was decided.
    pub fn was_stopped(&self) -> bool {
        matches!(self, Self::Inconclusive(Inconclusive::Stopped { .. }))
    }
}

/// Why an image failed.
#[derive(Clone, Debug)]
pub enum Reason {
    /// Its first process did not come to run.
    NotStarted(StartError),
    /// Its first process ended.
    Exited(ExitReason),
    /// It wanted more memory than its limit, and the kernel killed a process of it.
    OutOfMemory(OutOfMemory),
    /// It ran, and a probe did not pass.
    NotHealthy {
        /// Which of its probes.
        probe: usize,
        /// Which limit was reached.
        why: GaveUp,
        /// After how long.
        after: Duration,
        /// What the last attempt saw.
        last: Option<Outcome>,
        /// What listened in its network namespace at the end.
        listening: Vec<Listener>,
        /// A path that health checks commonly use and that answered well, where the one asked for was answered 404.
        other_path: Option<&'static str>,
    },
    /// It was healthy and did not stay so.
    NotStable {
        /// How long it was.
        healthy: Duration,
        /// How long it was to be.
        wanted: Duration,
        /// What ended it.
        why: Instability,
    },
    /// It wrote a line that must not be.
    Logged(Offence),
    /// It was to end by itself, with a certain code, and ended otherwise or before its probes had passed.
    Completed {
        /// How it ended.
        exit: ExitReason,
        /// The code that was wanted.
        wanted: u8,
    },
    /// It was to end by itself and still ran.
    StillRunning(Completion),
    /// It passed, and did not end when it was asked to.
    NotStopped {
        /// The signal that asked it.
        signal: i32,
        /// How long it was given; `None` when it never saw the signal, having no handler for it.
        waited: Option<Duration>,
    },
}

/// What ended a time of health.
#[derive(Clone, Debug)]
pub enum Instability {
    /// A probe failed.
    Probe {
        /// Which of them.
        probe: usize,
        /// What it saw.
        outcome: Outcome,
    },
    /// The first process ended.
    Exited(ExitStatus),
}

/// How a first process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitReason {
    /// Its status.
    pub status: ExitStatus,
    /// How long it ran.
    pub after: Duration,
}

/// A limit on memory that was exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes.
    pub limit: u64,
    /// How the first process ended; `None` when another one was killed and it went on.
    pub status: Option<ExitStatus>,
    /// How long the container had run.
    pub after: Duration,
}

/// Why an image could not be judged.
#[derive(Clone, Debug)]
pub enum Inconclusive {
    /// The host refused something.
    Host(smokegate_sandbox::HostError),
    /// The id map of the isolation level is too small for the image.
    IdMap {
        /// The level.
        level: Isolation,
        /// The call that failed, and what came of it.
        text: String,
    },
    /// The host, or the isolation level, cannot give a container the rights or limits it was to have.
    NotGiven {
        /// What, and why not.
        cause: String,
        /// What to change.
        hint: String,
    },
    /// A program needs a newer CPU than this host has.
    Cpu {
        /// What the dynamic linker said of it.
        cause: String,
    },
    /// A service failed, so that the app was not judged (exit 4).
    Service {
        /// Which.
        name: String,
        /// How.
        problem: ServiceProblem,
    },
    /// It was stopped, because another variant did not pass.
    Stopped {
        /// That variant.
        by: String,
    },
    /// A port that was asked for is taken.
    Port {
        /// Where it should have listened.
        address: SocketAddr,
        /// What the bind answered.
        error: String,
    },
}

/// How a service failed.
#[derive(Clone, Debug)]
pub enum ServiceProblem {
    /// Its first process did not come to run.
    NotStarted(StartError),
    /// It ended too early, or with another code than 0 where it was to end.
    Exited(ExitReason),
    /// It wanted more memory than its limit.
    OutOfMemory(OutOfMemory),
    /// It did not get ready in time.
    NotReady {
        /// How long was waited.
        within: Duration,
        /// The probe that did not pass, and what its last attempt saw.
        last: Option<(Probe, Outcome)>,
    },
    /// A command after it was ready failed.
    PostReady {
        /// The command.
        args: Vec<String>,
        /// What came of it.
        outcome: Outcome,
    },
}

impl Inconclusive {
    /// A failure of `container` (`None` is the app) after calls that only the id map made fail: nobody can tell
    /// whether it would have failed without. The last call is the nearest to what came of it.
    pub(crate) fn after_refusal(
        level: Isolation,
        container: Option<&str>,
        refusal: &IdRefusal,
        failure: &str,
    ) -> Self {
        let whose = container.map_or_else(String::new, |name| format!(" of service `{name}`"));
        let text = format!(
            "isolation level `{level}` does not have the ids that `{}`{whose} needs: `{}` answered {}; then {failure}",
            refusal.program,
            refusal.call,
            errno_text(refusal.errno),
        );
        Self::IdMap { level, text }
    }
}

/// `3 ms`, `1.24 s`, `12 s`.
pub(crate) fn seconds(time: Duration) -> String {
    match time.as_secs_f64() {
        less if less < 1.0 => format!("{} ms", time.as_millis()),
        few if few < 10.0 => format!("{few:.2} s"),
        many => format!("{many:.0} s"),
    }
}
