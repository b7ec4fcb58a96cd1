//! What a run saw and what lint sees in the image, joined into one cause.

use std::collections::BTreeMap;

use smokegate_gate::{
    APP, Decision, Inconclusive, Instability, LogTail, Probe, Reason, ServiceProblem,
    VariantVerdict, Verdict,
};
use smokegate_lint::{Evidence, Finding, Severity};
use smokegate_sandbox::ExitStatus;

use crate::linting::{ContainerFinding, Findings};

/// Places of a finding that a failure shows.
const PLACES: usize = 3;
/// Other errors of lint that it shows.
const OTHERS: usize = 2;

/// Why a variant did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Diagnosis {
    /// Names the kind of cause; never changes. That of lint's rule, where lint names the cause.
    pub(crate) id: String,
    /// One sentence: the thing to fix.
    pub(crate) cause: String,
    /// What the run saw, where lint names the cause.
    pub(crate) seen: Option<String>,
    /// Where lint sees it.
    pub(crate) places: Vec<Evidence>,
    /// What else lint calls an error.
    pub(crate) others: Vec<Finding>,
    /// What lint says to do.
    pub(crate) fix: Option<String>,
}

/// The diagnosis of every variant that did not pass, by its name.
pub(crate) fn diagnoses(verdict: &Verdict, findings: &Findings) -> BTreeMap<String, Diagnosis> {
    let failed = verdict.variants.iter().filter(|one| !one.decision.passed());
    failed
        .map(|variant| (variant.name.clone(), diagnose(variant, findings)))
        .collect()
}

fn diagnose(variant: &VariantVerdict, findings: &Findings) -> Diagnosis {
    let (container, log) = failed_container(variant);
    let all = findings.of(&variant.name, container);
    let named = named_by(variant, log, all);
    let is_other = |one: &&ContainerFinding| {
        one.finding.severity == Severity::Error
            && one.may_explain()
            && named.is_none_or(|named| named.finding != one.finding)
    };
    // What was stopped or refused by the host says nothing about the image.
    let is_judged = matches!(
        variant.decision,
        Decision::Failed(_) | Decision::Inconclusive(Inconclusive::Service { .. })
    );
    let others = all.iter().filter(|one| is_judged && is_other(one));
    let others = others.take(OTHERS).map(|one| one.finding.clone()).collect();
    let seen = variant.cause();
    let Some(ContainerFinding { finding, .. }) = named else {
        return Diagnosis {
            id: variant.cause_id().unwrap_or_default().to_owned(),
            cause: seen,
            seen: None,
            places: Vec::new(),
            others,
            fix: None,
        };
    };
    let (cause, fix) = match container {
        APP => (finding.message.clone(), finding.fix.clone()),
        service => (
            format!("service `{service}`: {}", finding.message),
            format!("the image under test was not judged; {}", finding.fix),
        ),
    };
    Diagnosis {
        id: finding.id.to_owned(),
        // What both say is not said twice.
        seen: (seen != cause).then_some(seen),
        cause,
        places: finding.evidence.iter().take(PLACES).cloned().collect(),
        others,
        fix: Some(fix),
    }
}

/// The container that failed, and its log.
fn failed_container(variant: &VariantVerdict) -> (&str, &LogTail) {
    match &variant.decision {
        Decision::Inconclusive(Inconclusive::Service { name, .. }) => {
            let service = variant.services.iter().find(|one| one.name == *name);
            (name, service.map_or(&variant.log, |one| &one.log))
        }
        _ => (APP, &variant.log),
    }
}

/// How a container failed, as far as lint can know the reason.
enum Failed {
    NotStarted,
    Ended(ExitStatus),
    /// The image's own health check did not pass.
    Check,
    /// It runs, and something of it is missing.
    Runs,
}

fn how(decision: &Decision, variant: &VariantVerdict) -> Option<Failed> {
    Some(match decision {
        Decision::Failed(reason) => match reason {
            Reason::NotStarted(_) => Failed::NotStarted,
            Reason::Exited(exit) | Reason::Completed { exit, .. } => Failed::Ended(exit.status),
            Reason::NotStable {
                why: Instability::Exited(status),
                ..
            } => Failed::Ended(*status),
            Reason::NotHealthy { probe, .. } => match variant.probes[*probe].probe {
                Probe::Healthcheck { .. } => Failed::Check,
                _ => Failed::Runs,
            },
            _ => return None,
        },
        Decision::Inconclusive(Inconclusive::Service { problem, .. }) => match problem {
            ServiceProblem::NotStarted(_) => Failed::NotStarted,
            ServiceProblem::Exited(exit) => Failed::Ended(exit.status),
            ServiceProblem::NotReady { .. } => Failed::Runs,
            _ => return None,
        },
        _ => return None,
    })
}

/// The finding that is the cause of what the run saw.
///
/// An error of lint says that a container cannot start or work, so that it explains one which did not. What is less sure
/// explains it if the log speaks of the same file.
fn named_by<'f>(
    variant: &VariantVerdict,
    log: &LogTail,
    all: &'f [ContainerFinding],
) -> Option<&'f ContainerFinding> {
    let failed = how(&variant.decision, variant)?;
    let mut usable = all.iter().filter(|one| !one.is_mounted_over);
    let is_error = |one: &&ContainerFinding| one.finding.severity == Severity::Error;
    let certain = match failed {
        Failed::Ended(ExitStatus::Code(0)) | Failed::Runs => None,
        Failed::NotStarted | Failed::Ended(_) => usable
            .clone()
            .find(|one| is_error(one) && !one.of_healthcheck),
        Failed::Check => usable
            .clone()
            .find(|one| is_error(one) && one.of_healthcheck),
    };
    certain.or_else(|| usable.find(|one| !one.of_healthcheck && is_in_log(&one.finding, log)))
}

/// Whether the log complains of a file that the finding names.
fn is_in_log(finding: &Finding, log: &LogTail) -> bool {
    const COMPLAINTS: [&str; 4] = [
        "not found",
        "No such file",
        "Permission denied",
        "cannot open",
    ];
    if finding.severity == Severity::Hint {
        return false;
    }
    let named = finding.message.split('`').skip(1).step_by(2);
    log.lines.iter().any(|line| {
        // `/start: 3: /app/plugin: not found`: who complains comes first, what of comes last.
        let mut words = line.text.split([' ', ':', '\'', '"', '`']);
        let object = words.rfind(|word| word.len() > 1 && word.starts_with('/'));
        object.is_some_and(|object| named.clone().any(|name| name == object))
            && COMPLAINTS.iter().any(|says| line.text.contains(says))
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use smokegate_gate::{LogLine, Stream};

    use super::*;

    #[test]
    fn a_log_complains_of_the_file_or_not() {
        let finding = Finding {
            id: "script-program-missing",
            severity: Severity::Warning,
            message: "the script `/start` runs `/app/plugin`, which the image has not".to_owned(),
            evidence: Vec::new(),
            fix: String::new(),
        };
        let hint = Finding {
            severity: Severity::Hint,
            ..finding.clone()
        };
        for (line, is) in [
            ("/start: 3: /app/plugin: not found", true),
            (
                "/start: line 3: /app/plugin: No such file or directory",
                true,
            ),
            ("/start: 3: /app/plugin-two: not found", false),
            ("GET /app/plugin 404", false),
            ("git: not found", false),
        ] {
            let line = LogLine {
                at: Duration::ZERO,
                stream: Stream::Stderr,
                text: line.to_owned(),
            };
            let log = LogTail {
                lines: vec![line],
                total: 1,
            };
            assert_eq!(is_in_log(&finding, &log), is, "{log:?}");
            assert!(!is_in_log(&hint, &log));
        }
    }
}
