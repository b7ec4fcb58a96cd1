//! What was decided, why, and on which evidence. No I/O.

use std::net::SocketAddr;
use std::time::Duration;

use smokegate_image::Digest;
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

    fn passed(&self) -> bool {
        let last = self.attempts.last();
        last.is_some_and(|last| last.outcome == Outcome::Passed)
    }

    /// Attempts at the end that passed.
    fn passed_in_a_row(&self) -> usize {
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
    /// From there until the probe passed or was given up.
    pub probe: Option<Duration>,
    /// All of it.
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

impl OutOfMemory {
    fn cause(self) -> String {
        let end = match self.status {
            Some(ExitStatus::Signal(KILL)) => "the kernel killed it (exit code 137)".to_owned(),
            Some(status) => format!(
                "the kernel killed a process of it, and it {}",
                ended(status)
            ),
            None => "the kernel killed a process of it".to_owned(),
        };
        let (limit, after) = (bytes(self.limit), seconds(self.after));
        format!("memory limit of {limit} exceeded: {end} after {after}")
    }
}

/// SIGKILL (signal(7)).
const KILL: i32 = 9;

/// As limits are written: powers of 1024, where they are whole.
fn bytes(count: u64) -> String {
    for (shift, unit) in [(30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if count >= 1 << shift && count.is_multiple_of(1 << shift) {
            return format!("{} {unit}", count >> shift);
        }
    }
    format!("{count} bytes")
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

impl ServiceProblem {
    pub(crate) fn cause(&self, name: &str) -> String {
        match self {
            Self::NotStarted(error) => format!("service `{name}`: {}", start_cause(error)),
            Self::Exited(ExitReason { status, after }) => {
                format!(
                    "service `{name}` {} after {}",
                    ended(*status),
                    seconds(*after)
                )
            }
            Self::OutOfMemory(memory) => format!("service `{name}`: {}", memory.cause()),
            Self::NotReady {
                within,
                last: Some((probe, outcome)),
            } => format!(
                "service `{name}` was not ready in {}: {probe}: {outcome}",
                seconds(*within)
            ),
            Self::NotReady { within, last: None } => {
                format!("service `{name}` was not ready in {}", seconds(*within))
            }
            Self::PostReady { args, outcome } => {
                format!("service `{name}`: `{}` {outcome}", args.join(" "))
            }
        }
    }
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

/// What a shell means by an exit code.
fn meaning(status: ExitStatus) -> Option<&'static str> {
    match status {
        ExitStatus::Code(126) => Some("a command it ran is not executable"),
        ExitStatus::Code(127) => Some("a command or library it needs is not in the image"),
        _ => None,
    }
}

fn ended(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exited with code {code}"),
        ExitStatus::Signal(signal) => format!("was ended by {}", crate::signal::describe(signal)),
    }
}

impl VariantVerdict {
    /// A service that ended while the app was judged: often the cause of the app's failure.
    pub fn dead_service(&self) -> Option<String> {
        let dead = self
            .services
            .iter()
            .find(|service| !service.one_shot && service.exit.is_some())?;
        Some(format!(
            "service `{}` {} meanwhile",
            dead.name,
            ended(dead.exit?)
        ))
    }

    /// The cause in one sentence: the thing to fix, not the symptom. Empty when it passed.
    pub fn cause(&self) -> String {
        match &self.decision {
            Decision::Passed => String::new(),
            Decision::Failed(reason) => self.failure(reason),
            Decision::Inconclusive(Inconclusive::Host(error)) => error.to_string(),
            Decision::Inconclusive(Inconclusive::IdMap { text, .. }) => text.clone(),
            Decision::Inconclusive(Inconclusive::NotGiven { cause, .. }) => cause.clone(),
            Decision::Inconclusive(Inconclusive::Service { name, problem }) => problem.cause(name),
            Decision::Inconclusive(Inconclusive::Stopped { by }) => {
                format!("stopped, as variant `{by}` did not pass (--fail-fast)")
            }
            Decision::Inconclusive(Inconclusive::Port { address, error }) => {
                format!("cannot listen on {address}: {error}")
            }
        }
    }

    /// What was asked of the app, in words.
    pub fn asked(&self) -> String {
        let probes: Vec<_> = self.probes.iter().map(ToString::to_string).collect();
        match probes.is_empty() {
            true => "nothing but its exit code".into(),
            false => probes.join(", "),
        }
    }

    fn all_passed(&self) -> bool {
        self.probes.iter().all(ProbeVerdict::passed)
    }

    fn failure(&self, reason: &Reason) -> String {
        match reason {
            Reason::NotStarted(error) => start_cause(error),
            Reason::Exited(ExitReason { status, after }) => {
                let end = format!("{} after {}", ended(*status), seconds(*after));
                if self.all_passed() {
                    return format!(
                        "the entrypoint {end}, as soon as {} passed: a service must keep running",
                        self.asked()
                    );
                }
                match (status, meaning(*status)) {
                    (ExitStatus::Code(0), _) => format!(
                        "the entrypoint {end}, before {} passed: a service must keep running",
                        self.asked()
                    ),
                    (_, Some(meaning)) => format!("the entrypoint {end}: {meaning}"),
                    (_, None) => format!("the entrypoint {end}"),
                }
            }
            Reason::NotStable {
                healthy,
                wanted,
                why,
            } => {
                let stayed = format!(
                    "{} of the {} it was to stay healthy",
                    seconds(*healthy),
                    seconds(*wanted)
                );
                match why {
                    Instability::Exited(status) => {
                        format!("the entrypoint {} after {stayed}", ended(*status))
                    }
                    Instability::Probe { probe, outcome } => format!(
                        "{} passed, and failed after {stayed}: it {}",
                        self.probes[*probe],
                        verb(outcome)
                    ),
                }
            }
            Reason::Logged(Offence { line, pattern }) => format!(
                "the app logged `{}`, which matches `{pattern}` of `logs_never`",
                line.text
            ),
            Reason::Completed { exit, wanted } => {
                let end = format!("{} after {}", ended(exit.status), seconds(exit.after));
                if exit.status == ExitStatus::Code(i32::from(*wanted)) {
                    let waiting = self.probes.iter().filter(|probe| !probe.passed());
                    let waiting: Vec<_> = waiting.map(ToString::to_string).collect();
                    return format!("the entrypoint {end}, before {} passed", waiting.join(", "));
                }
                match meaning(exit.status) {
                    Some(meaning) => {
                        format!("the entrypoint {end}, not with {wanted}: {meaning}")
                    }
                    None => format!("the entrypoint {end}, and was to exit with code {wanted}"),
                }
            }
            Reason::StillRunning(Completion { exit_code, within }) => format!(
                "the entrypoint still ran after {}, and was to exit with code {exit_code}",
                seconds(*within)
            ),
            Reason::NotStopped { signal, waited } => {
                let signal = crate::signal::describe(*signal);
                match waited {
                    Some(waited) => format!(
                        "the entrypoint still ran {} after {signal} and had to be killed",
                        seconds(*waited)
                    ),
                    None => format!(
                        "the entrypoint never saw {signal} and had to be killed: it has no handler for it, and PID 1 gets only signals that it handles"
                    ),
                }
            }
            Reason::OutOfMemory(memory) => memory.cause(),
            Reason::NotHealthy {
                probe,
                after,
                last,
                listening,
                other_path,
                ..
            } => {
                let cause =
                    self.not_healthy(&self.probes[*probe], *after, last.as_ref(), listening);
                match other_path {
                    Some(path) => format!("{cause}; GET {path} passes"),
                    None => cause,
                }
            }
        }
    }

    fn not_healthy(
        &self,
        asked: &ProbeVerdict,
        after: Duration,
        last: Option<&Outcome>,
        listening: &[Listener],
    ) -> String {
        let (probe, after) = (&asked.probe, seconds(after));
        let port = match probe {
            Probe::Http(http) => Some(&http.port),
            Probe::Tcp { port } => Some(port),
            _ => None,
        };
        if let (Some(port), Some(Outcome::Refused)) = (port, last) {
            let same_port: Vec<_> = listening
                .iter()
                .filter(|l| l.address.port() == *port)
                .collect();
            if !same_port.is_empty() {
                let on = addresses(same_port.into_iter());
                return format!(
                    "the app listens on {on} only, so nothing outside its container can reach it; it must listen on 0.0.0.0:{port}"
                );
            }
            if listening.is_empty() {
                return format!("the app opened no port at all in {after}: {probe} was refused");
            }
            let on = addresses(listening.iter());
            return format!("nothing listens on port {port}: the app listens on {on}");
        }
        let probe = asked;
        match last {
            Some(Outcome::Passed) => format!(
                "{probe} did not pass {} times in a row in {after}: it had passed {} times when the time was over",
                asked.successes,
                asked.passed_in_a_row()
            ),
            Some(Outcome::LogLines { seen: 0, .. }) => {
                format!("the app did not write {probe} in {after}")
            }
            Some(Outcome::LogLines { seen, .. }) => {
                format!("the app did not write {probe} in {after}, but {seen}")
            }
            Some(outcome) => {
                let attempts = asked.attempts.len();
                let s = if attempts == 1 { "" } else { "s" };
                format!(
                    "{probe} did not pass in {after} ({attempts} attempt{s}): it {}",
                    verb(outcome)
                )
            }
            None => format!("{probe} was not answered in {after}"),
        }
    }
}

/// An outcome as the end of a sentence that begins with "it".
fn verb(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Refused => "refused the connection".into(),
        Outcome::NotConnected => "did not accept the connection in time".into(),
        Outcome::NoAnswer => "accepted the connection and never answered".into(),
        Outcome::Closed { error } => format!("closed the connection without an answer ({error})"),
        Outcome::NotHttp { error } => format!("answered something that is not HTTP ({error})"),
        other => other.to_string(),
    }
}

fn addresses<'a>(listeners: impl Iterator<Item = &'a Listener>) -> String {
    let mut list: Vec<_> = listeners
        .map(|listener| listener.address.to_string())
        .collect();
    list.sort();
    list.dedup();
    list.join(", ")
}

// The same numbers on every Linux (asm-generic/errno-base.h).
const ENOENT: i32 = 2;
const ENOEXEC: i32 = 8;
const EACCES: i32 = 13;
const EISDIR: i32 = 21;

fn start_cause(error: &StartError) -> String {
    match error {
        StartError::Exec {
            program,
            path: Some(path),
            errno: ENOENT,
            file_exists: false,
        } => {
            format!("the entrypoint `{program}` is not on the image's PATH ({path})")
        }
        StartError::Exec {
            program,
            errno: ENOENT,
            file_exists: true,
            ..
        } => format!(
            "the entrypoint `{program}` is in the image, but its interpreter is not (the program of its `#!` line, or the dynamic loader of its C library)"
        ),
        StartError::Exec {
            program,
            errno: ENOENT,
            ..
        } => {
            format!("the entrypoint `{program}` does not exist in the image")
        }
        StartError::Exec {
            program,
            errno: EISDIR,
            ..
        } => format!("the entrypoint `{program}` is a directory"),
        StartError::Exec {
            program,
            errno: EACCES,
            ..
        } => {
            format!("the entrypoint `{program}` is not executable by the container's user")
        }
        StartError::Exec {
            program,
            errno: ENOEXEC,
            ..
        } => format!(
            "the entrypoint `{program}` is not a program this machine can run (exec format error: another architecture, or a script without a `#!` line)"
        ),
        StartError::Exec { program, errno, .. } => {
            format!(
                "the entrypoint `{program}` cannot be run: {}",
                errno_text(*errno)
            )
        }
        other => other.to_string(),
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
