//! A failure as the user sees it: cause, evidence, hint, exit code. The one place that turns errors into it.

mod hint;
mod variant;

use smokegate_gate::{PlanError, RunError};
use smokegate_image::{ErrorKind as ImageKind, with_causes};
use smokegate_registry::ErrorKind as RegistryKind;
use smokegate_sandbox::{FillError, HostError, Unavailable, Wall, line_of};

use crate::exit_code::ExitStatus;
use crate::printer::{Printer, Tone, harmless};

const BUILD_AGAIN: &str = "nothing was published; build or copy the image again";

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
