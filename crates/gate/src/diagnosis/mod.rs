//! What a failure comes from, in words and by a name. No I/O.

/// A regular expression that is compiled when it is first asked for.
macro_rules! pattern {
    ($name:ident, $text:literal) => {
        static $name: std::sync::LazyLock<regex::Regex> =
            std::sync::LazyLock::new(|| regex::Regex::new($text).expect("a pattern of ours"));
    };
}

mod exit;
mod health;
mod log_slice;
mod refused_call;
mod start;

use smokegate_sandbox::ExitStatus;

pub(crate) use self::exit::CPU_LEVEL_ID;
use self::exit::ended;
use self::health::verb;
pub use self::log_slice::LogSlice;
use crate::log_capture::LogTail;
use crate::log_watch::Offence;
use crate::plan::Completion;
use crate::probe::Outcome;
use crate::verdict::{
    Decision, ExitReason, Inconclusive, Instability, OutOfMemory, ProbeVerdict, Reason,
    ServiceProblem, VariantVerdict, seconds,
};

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
            Decision::Inconclusive(
                Inconclusive::NotGiven { cause, .. } | Inconclusive::Cpu { cause },
            ) => cause.clone(),
            Decision::Inconclusive(Inconclusive::Service { name, problem }) => {
                let cause = problem.cause(name);
                match problem {
                    ServiceProblem::Exited(exit) => {
                        match exit::clue(exit.status, self.log_of(name)) {
                            Some(clue) => format!("{cause}: {}", clue.text),
                            None => cause,
                        }
                    }
                    _ => cause,
                }
            }
            Decision::Inconclusive(Inconclusive::Stopped { by }) => {
                format!("stopped, as variant `{by}` did not pass (--fail-fast)")
            }
            Decision::Inconclusive(Inconclusive::Port { address, error }) => {
                format!("cannot listen on {address}: {error}")
            }
        }
    }

    /// The kind of cause, one word that stays as it is; `None` when it passed. Where lint knows the cause, its id is the
    /// same.
    pub fn cause_id(&self) -> Option<&'static str> {
        Some(match &self.decision {
            Decision::Passed => return None,
            Decision::Failed(reason) => self.reason_id(reason),
            Decision::Inconclusive(why) => match why {
                Inconclusive::Host(_) => "host",
                Inconclusive::IdMap { .. } => "id-map",
                Inconclusive::NotGiven { .. } => "right-not-given",
                Inconclusive::Cpu { .. } => CPU_LEVEL_ID,
                Inconclusive::Stopped { .. } => "stopped",
                Inconclusive::Port { .. } => "port-taken",
                Inconclusive::Service { name, problem } => match problem {
                    ServiceProblem::NotStarted(error) => start::id(error),
                    ServiceProblem::Exited(exit) => self.exit_id(exit.status, self.log_of(name)),
                    ServiceProblem::OutOfMemory(_) => "out-of-memory",
                    ServiceProblem::NotReady { .. } => "not-ready",
                    ServiceProblem::PostReady { .. } => "post-ready-failed",
                },
            },
        })
    }

    fn reason_id(&self, reason: &Reason) -> &'static str {
        match reason {
            Reason::NotStarted(error) => start::id(error),
            Reason::Exited(exit) if self.all_passed() => match exit.status {
                ExitStatus::Code(0) => "ended-by-itself",
                status => self.exit_id(status, &self.log),
            },
            Reason::Exited(exit) => self.exit_id(exit.status, &self.log),
            Reason::OutOfMemory(_) => "out-of-memory",
            Reason::NotHealthy {
                probe,
                last,
                listening,
                ..
            } => health::id(&self.probes[*probe].probe, last.as_ref(), listening),
            Reason::NotStable {
                why: Instability::Exited(status),
                ..
            } => self.exit_id(*status, &self.log),
            Reason::NotStable { .. } => "not-stable",
            Reason::Logged(_) => "logged",
            Reason::Completed { exit, wanted }
                if exit.status == ExitStatus::Code(i32::from(*wanted)) =>
            {
                "ended-before-probes"
            }
            Reason::Completed { exit, .. } => self.exit_id(exit.status, &self.log),
            Reason::StillRunning(_) => "still-running",
            Reason::NotStopped { .. } => "not-stopped",
        }
    }

    fn exit_id(&self, status: ExitStatus, log: &LogTail) -> &'static str {
        match (status, exit::clue(status, log)) {
            (ExitStatus::Code(0), _) => "ended-by-itself",
            (_, Some(clue)) => clue.id,
            (_, None) => "exited",
        }
    }

    fn log_of(&self, service: &str) -> &LogTail {
        let mut services = self.services.iter();
        let service = services.find(|one| one.name == service);
        service.map_or(&self.log, |service| &service.log)
    }

    /// What to do about the way in which the app ended, where its status or its log tells.
    pub fn exit_hint(&self) -> Option<&'static str> {
        let (Decision::Failed(Reason::Exited(exit))
        | Decision::Failed(Reason::Completed { exit, .. })) = &self.decision
        else {
            return None;
        };
        exit::clue(exit.status, &self.log)?.hint
    }

    /// Whether the app ended before anything listened where it was asked, in words.
    pub fn ended_before_listening(&self) -> Option<String> {
        let Decision::Failed(Reason::Exited(_)) = &self.decision else {
            return None;
        };
        let never = |probe: &&ProbeVerdict| {
            let mut attempts = probe.attempts.iter();
            !probe.attempts.is_empty()
                && attempts.all(|attempt| attempt.outcome == Outcome::Refused)
        };
        let ports = self
            .probes
            .iter()
            .filter(never)
            .filter_map(|probe| health::port(&probe.probe));
        let mut ports: Vec<_> = ports.map(|port| port.to_string()).collect();
        ports.sort();
        ports.dedup();
        (!ports.is_empty())
            .then(|| format!("it ended before it listened on port {}", ports.join(", ")))
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
            Reason::NotStarted(error) => start::cause(error),
            Reason::Exited(ExitReason { status, after }) => {
                let end = format!("{} after {}", ended(*status), seconds(*after));
                if self.all_passed() {
                    return format!(
                        "the entrypoint {end}, as soon as {} passed: a service must keep running",
                        self.asked()
                    );
                }
                match (status, exit::clue(*status, &self.log)) {
                    (ExitStatus::Code(0), _) => format!(
                        "the entrypoint {end}, before {} passed: a service must keep running",
                        self.asked()
                    ),
                    (_, Some(clue)) => format!("the entrypoint {end}: {}", clue.text),
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
                match exit::clue(exit.status, &self.log) {
                    Some(clue) => {
                        format!("the entrypoint {end}, not with {wanted}: {}", clue.text)
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
}

impl ServiceProblem {
    pub(crate) fn cause(&self, name: &str) -> String {
        match self {
            Self::NotStarted(error) => format!("service `{name}`: {}", start::cause(error)),
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
