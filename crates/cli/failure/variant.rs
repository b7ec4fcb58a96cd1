//! The failure of a variant: one screen, from the cause to where everything else is.

use std::path::Path;

use smokegate_gate::{
    APP, Decision, Inconclusive, Instability, LogSlice, LogTail, Outcome, ProbeVerdict, Reason,
    ServiceProblem, VariantVerdict,
};
use smokegate_sandbox::Wall;

use super::hint::{hint_of, leaves_the_cause_open};
use super::{Failure, Quote};
use crate::diagnosis::Diagnosis;
use crate::exit_code::ExitStatus;

/// Lines of a failure, from `error:` to `hint:`.
const SCREEN: usize = 25;
/// Lines of evidence; all of it is in the receipt.
const EVIDENCE: usize = 10;
/// The least of a log that is shown, and the most.
const LOG_LINES: std::ops::RangeInclusive<usize> = 5..=15;
/// Characters of a line of a container: nobody reads more of one on a screen.
const LINE: usize = 240;

impl Failure {
    /// The failure of a variant that did not pass; its logs are below `logs`.
    pub(crate) fn of_variant(verdict: &VariantVerdict, diagnosis: &Diagnosis, logs: &Path) -> Self {
        let status = match verdict.decision {
            Decision::Inconclusive(Inconclusive::Service { .. }) => ExitStatus::Infrastructure,
            Decision::Inconclusive(_) => ExitStatus::Host,
            _ => ExitStatus::GateFailed,
        };
        let mut failure = Self::new(status, diagnosis.cause.clone());
        failure.hint = hint_of(verdict);
        failure = match &verdict.decision {
            Decision::Inconclusive(Inconclusive::Host(error)) => failure.refused(error),
            Decision::Inconclusive(Inconclusive::IdMap { level, .. }) => {
                failure.behind(Wall::of_id_map(*level))
            }
            _ => failure,
        };
        failure.tell_what_lint_saw(diagnosis);
        let asked = format!("variant: {}; asked: {}", verdict.name, verdict.asked());
        let (whose, fix) = match &verdict.decision {
            Decision::Inconclusive(Inconclusive::Service { name, problem }) => {
                (name.as_str(), failure.tell_service(verdict, name, problem))
            }
            _ => (APP, failure.tell_app(verdict)),
        };
        if let Some(fix) = diagnosis.fix.clone().or(fix) {
            // What to change is among the first three lines; the log is between these and the hint.
            let second = failure.evidence.len().min(1);
            failure.evidence.insert(second, format!("fix: {fix}"));
            failure.hint = Some(fix);
        }
        failure.evidence.truncate(EVIDENCE);
        failure.evidence.push(asked);
        let services = verdict
            .services
            .iter()
            .map(|one| (one.name.as_str(), &one.log));
        let mut known = services.chain([(APP, &verdict.log)]);
        if let Some((_, log)) = known.find(|(name, _)| *name == whose) {
            failure.quote_log(whose, log, logs);
        }
        failure
    }

    /// What the run saw of the cause that lint names, and where lint sees it.
    fn tell_what_lint_saw(&mut self, diagnosis: &Diagnosis) {
        self.evidence.extend(diagnosis.seen.clone());
        for evidence in &diagnosis.places {
            self.evidence
                .push(format!("lint [{}]: {evidence}", diagnosis.id));
        }
        for other in &diagnosis.others {
            self.evidence
                .push(format!("lint [{}]: {}", other.id, other.message));
        }
    }

    /// The app was not judged: what the service wrote is what matters. Gives back what to change, where that is clear.
    fn tell_service(
        &mut self,
        verdict: &VariantVerdict,
        name: &str,
        problem: &ServiceProblem,
    ) -> Option<String> {
        if let ServiceProblem::NotReady {
            last: Some((_, outcome)),
            ..
        }
        | ServiceProblem::PostReady { outcome, .. } = problem
        {
            self.quote_answer(outcome);
        }
        let fix = self.tell_reached(verdict, name)?;
        matches!(problem, ServiceProblem::Exited(_))
            .then(|| format!("the image under test was not judged; {fix}"))
    }

    /// Gives back what to change, where that is clear.
    fn tell_app(&mut self, verdict: &VariantVerdict) -> Option<String> {
        self.evidence.extend(verdict.dead_service());
        if let Some(limit) = verdict.reached_pids {
            self.evidence.push(format!(
                "the kernel refused it a process or thread: it has `pids_limit: {limit}`"
            ));
        }
        let reached = self.tell_reached(verdict, APP);
        let fix = match &verdict.decision {
            Decision::Failed(Reason::NotHealthy {
                other_path: Some(_),
                ..
            }) => self.hint.clone(),
            decision if leaves_the_cause_open(decision) => reached,
            _ => None,
        };
        self.evidence.extend(verdict.ended_before_listening());
        self.evidence.extend(listening(verdict));
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
            self.tell_attempts(probe, told);
        }
        if verdict.log.total == 0
            && matches!(
                verdict.decision,
                Decision::Failed(Reason::Exited(_) | Reason::NotHealthy { .. })
            )
        {
            self.evidence
                .push("the container wrote nothing to stdout or stderr".into());
        }
        fix
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

    /// Shows what of a log tells the cause, in the lines that are left of a screen.
    fn quote_log(&mut self, container: &str, tail: &LogTail, logs: &Path) {
        if tail.total == 0 {
            return;
        }
        let whose = if container == APP {
            "the container".to_owned()
        } else {
            format!("service `{container}`")
        };
        let quoted: usize = self.quotes.iter().map(|quote| quote.lines.len() + 1).sum();
        // The cause, this heading, the empty line and the hint.
        let room = SCREEN.saturating_sub(self.evidence.len() + quoted + 4);
        let lines: Vec<&str> = tail.lines.iter().map(|line| line.text.as_str()).collect();
        let slice = LogSlice::of(&lines, room.clamp(*LOG_LINES.start(), *LOG_LINES.end()));
        let shown: usize = slice.parts.iter().map(ExactSizeIterator::len).sum();
        let which = match slice.parts.as_slice() {
            _ if shown as u64 == tail.total => "",
            [one] if one.end == lines.len() => "last ",
            _ => "relevant ",
        };
        let file = logs.join(format!("{container}.log"));
        let heading = format!(
            "{whose}'s {which}{shown} of {} lines (all in {}):",
            tail.total,
            file.display()
        );
        let mut text = Vec::new();
        for (number, part) in slice.parts.iter().enumerate() {
            if number > 0 {
                text.push("…".to_owned());
            }
            text.extend(lines[part.clone()].iter().map(|line| cut(line)));
        }
        self.quotes.push(Quote {
            heading,
            lines: text,
        });
    }
}

fn cut(line: &str) -> String {
    match line.char_indices().nth(LINE) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    }
}

/// What listens in the app's namespace, with the program, where the probe found nothing.
fn listening(verdict: &VariantVerdict) -> Option<String> {
    let Decision::Failed(Reason::NotHealthy { listening, .. }) = &verdict.decision else {
        return None;
    };
    let mut told: Vec<_> = listening
        .iter()
        .filter_map(|one| Some(format!("`{}` on {}", one.program.as_ref()?, one.address)))
        .collect();
    told.sort();
    told.dedup();
    (!told.is_empty()).then(|| format!("listening in the container: {}", told.join(", ")))
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
        .map(cut)
        .collect()
}
