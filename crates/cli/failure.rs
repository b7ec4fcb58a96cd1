//! A failure as the user sees it: cause, evidence, hint, exit code. The one place that turns errors into it.

use std::path::Path;

use smokegate_gate::{
    Decision, HttpProbe, Inconclusive, Instability, LogTail, Outcome, PlanError, Probe,
    ProbeVerdict, Reason, RunError, Scheme, ServiceProblem, VariantVerdict,
};
use smokegate_image::{ErrorKind as ImageKind, with_causes};
use smokegate_lint::Finding;
use smokegate_registry::ErrorKind as RegistryKind;
use smokegate_sandbox::{
    ExitStatus as ProcessStatus, FillError, HostError, Listener, StartError, Unavailable, Wall,
    line_of,
};

use crate::exit_code::ExitStatus;
use crate::printer::{Printer, Tone, harmless};

// The same numbers on every Linux (asm-generic/errno-base.h).
const ENOENT: i32 = 2;
const ENOEXEC: i32 = 8;
const EACCES: i32 = 13;

const BUILD_AGAIN: &str = "nothing was run or published; build or copy the image again";

/// Lines of a container's log that a failure shows.
const LOG_LINES: usize = 20;

/// A failure, ready to be shown.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: ExitStatus,
    /// One sentence: the thing to fix.
    pub(crate) cause: String,
    /// Lines below it.
    pub(crate) evidence: Vec<String>,
    /// What the container answered and wrote, as it did.
    pub(crate) quotes: Vec<Quote>,
    pub(crate) hint: Option<String>,
}

/// Text of a container.
#[derive(Debug)]
pub(crate) struct Quote {
    pub(crate) heading: String,
    pub(crate) lines: Vec<String>,
}

impl Failure {
    pub(crate) fn new(status: ExitStatus, cause: impl Into<String>) -> Self {
        let (evidence, quotes) = (Vec::new(), Vec::new());
        Self {
            status,
            cause: cause.into(),
            evidence,
            quotes,
            hint: None,
        }
    }

    pub(crate) fn usage(cause: impl Into<String>) -> Self {
        Self::new(ExitStatus::Usage, cause)
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn evidence(mut self, line: impl Into<String>) -> Self {
        self.evidence.push(line.into());
        self
    }

    /// Adds what lint found in the image.
    pub(crate) fn explain(&mut self, finding: &Finding) {
        // What the failure says already is not said twice.
        if !self.cause.contains(&finding.message) {
            self.evidence
                .push(format!("lint: {} [{}]", finding.message, finding.id));
        }
        self.evidence.push(format!("fix: {}", finding.fix));
    }

    /// Shows the block that ends standard error. Text of the container is fenced for CI systems that read it.
    pub(crate) fn show(&self, printer: Printer, fence: Option<&crate::report::github::Fence>) {
        let error = printer.paint(Tone::Bad, "error:");
        printer.always(format!("{error} {}", harmless(&self.cause)));
        for line in &self.evidence {
            printer.always(format!("  {}", harmless(line)));
        }
        for quote in &self.quotes {
            printer.always(format!("  {}", harmless(&quote.heading)));
            if let Some(fence) = fence {
                printer.always(fence.stop());
            }
            for line in &quote.lines {
                printer.always(format!("  | {}", harmless(line)));
            }
            if let Some(fence) = fence {
                printer.always(fence.resume());
            }
        }
        if let Some(hint) = &self.hint {
            let word = printer.paint(Tone::Hint, "hint:");
            printer.always(format!("\n{word} {}", harmless(hint)));
        }
    }

    /// The failure of a variant that did not pass; its logs are below `logs`.
    pub(crate) fn of_variant(verdict: &VariantVerdict, logs: &Path) -> Self {
        let status = match verdict.decision {
            Decision::Inconclusive(Inconclusive::Service { .. }) => ExitStatus::Infrastructure,
            Decision::Inconclusive(_) => ExitStatus::Host,
            _ => ExitStatus::GateFailed,
        };
        let mut failure = Self::new(status, verdict.cause());
        let asked = format!("variant: {}; asked: {}", verdict.name, verdict.asked());
        failure.evidence.push(asked);
        failure.hint = hint_of(verdict);
        failure = match &verdict.decision {
            Decision::Inconclusive(Inconclusive::Host(error)) => failure.refused(error),
            Decision::Inconclusive(Inconclusive::IdMap { level, .. }) => {
                failure.behind(Wall::of_id_map(*level))
            }
            _ => failure,
        };
        if let Decision::Inconclusive(Inconclusive::Service { name, problem }) = &verdict.decision {
            // The app was not judged: what the service wrote is what matters.
            if let ServiceProblem::NotReady {
                last: Some((_, outcome)),
                ..
            }
            | ServiceProblem::PostReady { outcome, .. } = problem
            {
                failure.quote_answer(outcome);
            }
            let better_hint = failure.tell_reached(verdict, name);
            if let (ServiceProblem::Exited(_), Some(hint)) = (problem, better_hint) {
                failure.hint = Some(format!("the image under test was not judged; {hint}"));
            }
            if let Some(service) = verdict.services.iter().find(|s| s.name == *name) {
                failure.quote_log(name, &service.log, logs);
            }
            return failure;
        }
        failure.evidence.extend(verdict.dead_service());
        if let Some(limit) = verdict.reached_pids {
            failure.evidence.push(format!(
                "the kernel refused it a process or thread: it has `pids_limit: {limit}`"
            ));
        }
        let better_hint = failure.tell_reached(verdict, smokegate_gate::APP);
        if leaves_the_cause_open(&verdict.decision) {
            failure.hint = better_hint.or(failure.hint);
        }
        let failed = match &verdict.decision {
            Decision::Failed(
                Reason::NotHealthy { probe, .. }
                | Reason::NotStable {
                    why: Instability::Probe { probe, .. },
                    ..
                },
            ) => verdict.probes.get(*probe),
            _ => None,
        };
        let passed = |probe: &&ProbeVerdict| {
            let last = probe.attempts.last();
            last.is_some_and(|last| last.outcome == Outcome::Passed)
        };
        let waiting = || verdict.probes.iter().find(|probe| !passed(probe));
        if let Some(probe) = failed.or_else(waiting).or(verdict.probes.first()) {
            let told = match &verdict.decision {
                Decision::Failed(Reason::NotHealthy { last, .. }) => last.as_ref(),
                _ => None,
            };
            failure.tell_attempts(probe, told);
        }
        if verdict.log.total == 0
            && matches!(
                verdict.decision,
                Decision::Failed(Reason::Exited(_) | Reason::NotHealthy { .. })
            )
        {
            failure
                .evidence
                .push("the container wrote nothing to stdout or stderr".into());
        }
        failure.quote_log(smokegate_gate::APP, &verdict.log, logs);
        failure
    }

    /// What a probe saw: the last answer, and before it how long each state lasted.
    fn tell_attempts(&mut self, probe: &ProbeVerdict, told: Option<&Outcome>) {
        let newest_first = || probe.attempts.iter().rev();
        // The last attempt of all may have been cut short by the end of the wait, and is not the one to tell of.
        let same = told.and_then(|told| newest_first().find(|one| one.outcome == *told));
        let Some(last) = same.or(probe.attempts.last()) else {
            return;
        };
        if probe.attempts.iter().any(|one| one.outcome != last.outcome) {
            self.evidence.push(format!("attempts: {}", probe.history()));
        }
        self.evidence.push(format!(
            "last of {} attempts, at {:.1} s: {}",
            probe.attempts.len(),
            last.at.as_secs_f64(),
            last.outcome
        ));
        self.quote_answer(&last.outcome);
    }

    /// Says what a container reached for in vain, and gives back what could be done about it.
    fn tell_reached(&mut self, verdict: &VariantVerdict, container: &str) -> Option<String> {
        let explained = verdict.network.as_ref()?.explain(container);
        self.evidence.extend(explained.sentences);
        explained.hint
    }

    fn quote_answer(&mut self, outcome: &Outcome) {
        let lines = answer_of(outcome);
        if !lines.is_empty() {
            self.quotes.push(Quote {
                heading: "its answer:".to_owned(),
                lines,
            });
        }
    }

    fn quote_log(&mut self, container: &str, tail: &LogTail, logs: &Path) {
        if tail.total == 0 {
            return;
        }
        let whose = if container == smokegate_gate::APP {
            "the container".to_owned()
        } else {
            format!("service `{container}`")
        };
        let shown = tail.lines.len().min(LOG_LINES);
        let which = if tail.total == shown as u64 {
            ""
        } else {
            "last "
        };
        let file = logs.join(format!("{container}.log"));
        let heading = format!(
            "{whose}'s {which}{shown} of {} lines (all in {}):",
            tail.total,
            file.display()
        );
        let lines = tail.lines[tail.lines.len() - shown..].iter();
        let lines = lines.map(|line| line.text.clone()).collect();
        self.quotes.push(Quote { heading, lines });
    }
}

fn answer_of(outcome: &smokegate_gate::Outcome) -> Vec<String> {
    let text = match outcome {
        smokegate_gate::Outcome::Status { body, .. }
        | smokegate_gate::Outcome::WrongBody { body, .. } => body,
        smokegate_gate::Outcome::ExitCode { output, .. }
        | smokegate_gate::Outcome::Unexpected { output, .. } => output,
        _ => return Vec::new(),
    };
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .take(5)
        .map(str::to_owned)
        .collect()
}

fn hint_of(verdict: &VariantVerdict) -> Option<String> {
    match &verdict.decision {
        Decision::Passed => None,
        Decision::Failed(reason) => Some(match reason {
            Reason::NotStarted(StartError::Exec {
                errno: ENOENT,
                file_exists: true,
                ..
            }) => {
                "install it in the image; a script with Windows line ends asks for an interpreter whose name ends in a carriage return".into()
            }
            Reason::NotStarted(StartError::Exec { errno: ENOEXEC, .. }) => {
                "build the image for this machine (docker buildx build --platform …), or begin the script with a `#!` line".into()
            }
            Reason::NotStarted(StartError::Exec {
                path: Some(_),
                errno: ENOENT,
                ..
            }) => {
                "name the program by its absolute path in ENTRYPOINT, or add its directory to ENV PATH".into()
            }
            Reason::NotStarted(StartError::Exec { errno: EACCES, .. }) => {
                "RUN chmod +x it in the Dockerfile, or COPY --chmod=0755".into()
            }
            Reason::NotStarted(StartError::Exec { .. }) => {
                "see what the image holds: smokegate inspect IMAGE; the path is taken from ENTRYPOINT, or CMD where there is none".into()
            }
            Reason::NotStarted(StartError::NoSuchUser { .. }) => {
                "add the user in the Dockerfile (RUN useradd …), or give USER as a number".into()
            }
            Reason::NotStarted(StartError::Image(_)) => {
                "name a directory there in the Dockerfile, or make the image's file one".into()
            }
            Reason::NotStarted(_) => return None,
            Reason::OutOfMemory(_) => {
                "raise `mem_limit`, or tell the app of it: many runtimes size themselves by the machine (-XX:MaxRAMPercentage, --max-old-space-size, GOMEMLIMIT)".into()
            }
            Reason::Exited(_) if verdict.log.total == 0 => {
                "it ended without a word: see what it runs with smokegate inspect IMAGE, and give it what it misses with --env".into()
            }
            Reason::Exited(_) => {
                "the last lines above are the program's own; run it again with -v, or with --env for what it misses".into()
            }
            Reason::NotHealthy { other_path: Some(path), .. } => {
                format!("if that is its health check, ask it: `path: {path}` in the gate file, or --http {path}")
            }
            Reason::NotHealthy { probe, last, listening, .. } => {
                not_healthy_hint(&verdict.probes[*probe].probe, last.as_ref(), listening)
            }
            Reason::NotStable { .. } => {
                "it was well at first: its log from then on says what it ran into; `stays_healthy` is how long it must stay so".into()
            }
            Reason::Logged(_) => {
                "correct what it logged, or take the pattern out of `expect: logs_never` if the line is harmless".into()
            }
            Reason::Completed { exit, wanted } if exit.status == ProcessStatus::Code(i32::from(*wanted)) => {
                "with `exit_code`, every probe must pass before the program ends; leave out those that cannot".into()
            }
            Reason::Completed { .. } => {
                "its log says why it ended so; `expect: exit_code` is the code that passes".into()
            }
            Reason::StillRunning(_) => {
                "if it only needs longer, raise --within; a service is judged by probes, without `expect: exit_code`".into()
            }
            Reason::NotStopped { waited: None, .. } => {
                "handle the signal, start the program by `exec` in its script, or put an init such as tini first in ENTRYPOINT".into()
            }
            Reason::NotStopped { .. } => {
                "finish what it does on the signal sooner, name the signal it listens to with STOPSIGNAL, or raise `stops_within`".into()
            }
        }),
        Decision::Inconclusive(Inconclusive::Service { problem, .. }) => {
            Some(service_hint(problem).into())
        }
        // Below, by what `doctor` says of them.
        Decision::Inconclusive(Inconclusive::Host(_) | Inconclusive::IdMap { .. }) => None,
        Decision::Inconclusive(Inconclusive::NotGiven { hint, .. }) => Some(hint.clone()),
        Decision::Inconclusive(Inconclusive::Stopped { .. }) => None,
        Decision::Inconclusive(smokegate_gate::Inconclusive::Port { .. }) => Some(
            "free the port (ss -ltnp shows who has it), or publish 0:PORT to take any free one".into(),
        ),
    }
}

/// Whether what the app reached for can be why it failed: it ended, it opened no port, it says it is not well.
fn leaves_the_cause_open(decision: &Decision) -> bool {
    let Decision::Failed(reason) = decision else {
        return false;
    };
    match reason {
        Reason::Exited(_) => true,
        Reason::NotHealthy {
            last, listening, ..
        } => match last {
            Some(Outcome::Refused) => listening.is_empty(),
            Some(Outcome::Status { status, .. }) => *status >= 500,
            Some(Outcome::ExitCode { .. } | Outcome::NoAnswer) => true,
            _ => false,
        },
        _ => false,
    }
}

fn service_hint(problem: &ServiceProblem) -> &'static str {
    match problem {
        ServiceProblem::NotReady { .. } => {
            "the image under test was not judged; if the service only needs longer, raise its `within`"
        }
        ServiceProblem::PostReady { .. } => {
            "the image under test was not judged; correct the service's post_ready command"
        }
        ServiceProblem::OutOfMemory(_) => {
            "the image under test was not judged; raise the service's `mem_limit`"
        }
        ServiceProblem::NotStarted(_) | ServiceProblem::Exited(_) => {
            "the image under test was not judged; correct the service's image, command or environment"
        }
    }
}

fn not_healthy_hint(probe: &Probe, last: Option<&Outcome>, listening: &[Listener]) -> String {
    let port = match probe {
        Probe::Http(http) => http.port,
        Probe::Tcp { port } => *port,
        Probe::Log { .. } => {
            return "a line is looked at alone, without its line end; if it only comes later, raise `within`".into();
        }
        Probe::Exec { .. } => {
            return "run it in the image by hand; if it only needs longer, raise `within`".into();
        }
        Probe::Healthcheck { .. } => {
            return "the image's HEALTHCHECK decides; --http PATH asks over HTTP instead".into();
        }
    };
    match last {
        Some(Outcome::Refused) if listening.iter().any(|l| l.address.port() == port) => {
            "most servers take the address from a flag or variable, such as --host 0.0.0.0 or HOST=0.0.0.0".into()
        }
        Some(Outcome::Refused) => match listening.first() {
            Some(other) => format!(
                "if {0} is the port meant, name it: `port: {0}` in the gate file's probe, or --publish 18080:{0}; else what serves {port} did not start, and the log says why",
                other.address.port()
            ),
            None => "if it only needs longer to start, raise --within".into(),
        },
        Some(Outcome::Status { location: Some(_), .. }) => {
            "probe the path it leads to, or let the probe's `status` accept the redirect".into()
        }
        Some(Outcome::Status { status: 500.., .. }) => {
            "the app runs and says itself that it is not well: its log and answer above say why; give it what it misses with --env".into()
        }
        Some(Outcome::Status { .. }) => {
            "if the app answers on another path, name it with --http PATH; only 200 passes".into()
        }
        Some(Outcome::WrongBody { .. }) => {
            "its answer is above; the probe's `body` says what it must hold".into()
        }
        Some(Outcome::Tls { .. }) => tls_hint(probe),
        Some(Outcome::NotHttp { .. }) => {
            "if the app speaks HTTP on another port, name it with --publish 18080:PORT".into()
        }
        Some(Outcome::Passed) => "it passes now and then only: its log says what comes between".into(),
        _ => "if it only needs longer, raise --within".into(),
    }
}

fn tls_hint(probe: &Probe) -> String {
    let host = match probe {
        Probe::Http(http) => host_header(http),
        _ => None,
    };
    let name = match host {
        Some(host) => format!("`{host}`, its `Host` header"),
        None => "the container's name, or that of a `Host` header".to_owned(),
    };
    match probe {
        Probe::Http(http) if http.scheme == Scheme::Https => format!(
            "the certificate must be for {name}, from an authority of this host (SSL_CERT_FILE names others); `insecure: true` takes any"
        ),
        _ => "if it speaks plain HTTP there, leave `scheme` out".to_owned(),
    }
}

fn host_header(http: &HttpProbe) -> Option<&str> {
    let mut headers = http.headers.iter();
    let host = headers.find(|(name, _)| name.eq_ignore_ascii_case("host"));
    host.map(|(_, host)| host.as_str())
}

impl Failure {
    /// Adds what `doctor` says of what stood in the way.
    pub(crate) fn behind(mut self, wall: Wall) -> Self {
        self.evidence.extend(wall.other_fixes());
        self.hint(wall.hint())
    }

    /// Adds the line of `doctor` that explains what the host refused.
    fn refused(mut self, error: &HostError) -> Self {
        let line = line_of(error);
        let (title, means) = (line.noun.title(), line.means);
        self.evidence
            .push(format!("doctor: {title}: {}: {means}", line.status));
        match line.wall {
            Some(wall) => self.behind(wall),
            None => self,
        }
    }
}

impl From<Unavailable> for Failure {
    fn from(unavailable: Unavailable) -> Self {
        Self::new(ExitStatus::Host, unavailable.to_string()).behind(Wall::of_level(&unavailable))
    }
}

impl From<HostError> for Failure {
    fn from(error: HostError) -> Self {
        Self::new(ExitStatus::Host, error.to_string()).refused(&error)
    }
}

impl From<FillError> for Failure {
    fn from(error: FillError) -> Self {
        match error {
            FillError::Host(error) => error.into(),
            FillError::Image(text) => {
                let hint = crate::limits::hint(&text).unwrap_or_else(|| BUILD_AGAIN.to_owned());
                Self::new(ExitStatus::Image, text).hint(hint)
            }
        }
    }
}

impl From<RunError> for Failure {
    fn from(error: RunError) -> Self {
        let failure = Self::from(error.source);
        if error.image == 0 || failure.status != ExitStatus::Image {
            return failure;
        }
        // A service's image that cannot be read says nothing about the image under test.
        let cause = format!("a service's image cannot be read: {}", failure.cause);
        Self::new(ExitStatus::Infrastructure, cause)
    }
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        match &error {
            PlanError::SeveralPorts { ports } => {
                let hint = format!("--publish 18080:{}", ports[0]);
                Self::usage(error.to_string()).hint(hint)
            }
            PlanError::NothingToRun => Self::new(ExitStatus::GateFailed, error.to_string())
                .hint("give the Dockerfile an ENTRYPOINT or CMD, or name a program after --"),
            PlanError::StopSignal(_) => Self::new(ExitStatus::GateFailed, error.to_string())
                .hint("name one in the Dockerfile, such as STOPSIGNAL SIGTERM"),
            PlanError::Exposed(_) => Self::new(ExitStatus::GateFailed, error.to_string())
                .hint("write it in the Dockerfile as PORT, PORT/tcp or FIRST-LAST/tcp, or name one with --publish 18080:PORT"),
            PlanError::Volume(_) => Self::new(ExitStatus::GateFailed, error.to_string())
                .hint("name a directory below / in the Dockerfile, such as VOLUME /data"),
            PlanError::NoPlatform { .. } => Self::new(ExitStatus::Image, error.to_string())
                .hint("build it for this platform, or name one that is there with --platform"),
            PlanError::Flag(_) => Self::usage(error.to_string()),
        }
    }
}

impl From<smokegate_image::Error> for Failure {
    fn from(error: smokegate_image::Error) -> Self {
        let status = match error.kind() {
            ImageKind::Usage => ExitStatus::Usage,
            ImageKind::Host => ExitStatus::Host,
            ImageKind::Image => ExitStatus::Image,
        };
        let hint = match status {
            ExitStatus::Image => BUILD_AGAIN,
            ExitStatus::Host if has_too_many_files(&error) => {
                "raise the limit of open files (ulimit -n): a layout directory takes one for each blob"
            }
            ExitStatus::Host => "set TMPDIR to a directory with room for the uncompressed archive",
            _ => return Self::new(status, with_causes(&error)),
        };
        let text = with_causes(&error);
        let hint = crate::limits::hint(&text).unwrap_or_else(|| hint.to_owned());
        Self::new(status, text).hint(hint)
    }
}

/// Whether the cause is EMFILE or ENFILE.
fn has_too_many_files(error: &smokegate_image::Error) -> bool {
    let mut next: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = next {
        let errno = error
            .downcast_ref::<std::io::Error>()
            .and_then(|io| io.raw_os_error());
        if let Some(errno) = errno {
            return rustix::io::Errno::from_raw_os_error(errno) == rustix::io::Errno::MFILE
                || rustix::io::Errno::from_raw_os_error(errno) == rustix::io::Errno::NFILE;
        }
        next = error.source();
    }
    false
}

/// What a registry's error means for the exit code, before any tag was moved.
pub(crate) fn registry_status(kind: RegistryKind) -> ExitStatus {
    match kind {
        RegistryKind::Image => ExitStatus::Image,
        RegistryKind::Usage => ExitStatus::Usage,
        RegistryKind::Host => ExitStatus::Host,
        RegistryKind::Registry => ExitStatus::PublishFailed,
    }
}

impl From<smokegate_registry::Error> for Failure {
    fn from(error: smokegate_registry::Error) -> Self {
        let hint = error.hint().map(str::to_owned);
        Self {
            hint,
            ..Self::new(registry_status(error.kind()), with_causes(&error))
        }
    }
}
