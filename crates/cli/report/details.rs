//! What reports show beside the receipt: each variant's failure as it was told, and the end of its logs.

use smokegate_gate::{LogTail, VariantVerdict};

use super::cases::Case;
use crate::failure::Failure;
use crate::printer::{harmless, without_secrets};

/// Lines of a log that a report holds; all are in the log's file.
const LINES: usize = 100;

/// A variant.
#[derive(Debug)]
pub(crate) struct VariantDetails {
    pub(crate) name: String,
    pub(crate) cases: Vec<Case>,
    /// `None` where it passed, or another variant stopped it.
    pub(crate) failure: Option<Failure>,
    pub(crate) logs: Vec<LogDetails>,
}

/// The end of a container's log.
#[derive(Debug)]
pub(crate) struct LogDetails {
    pub(crate) container: String,
    pub(crate) lines: Vec<String>,
    /// All it wrote.
    pub(crate) total: u64,
}

impl VariantDetails {
    pub(crate) fn new(
        verdict: &VariantVerdict,
        cases: Vec<Case>,
        failure: Option<Failure>,
    ) -> Self {
        let services = verdict
            .services
            .iter()
            .map(|service| LogDetails::new(&service.name, &service.log));
        let app = LogDetails::new(smokegate_gate::APP, &verdict.log);
        Self {
            name: verdict.name.clone(),
            cases,
            failure,
            logs: std::iter::once(app).chain(services).collect(),
        }
    }
}

impl LogDetails {
    fn new(container: &str, log: &LogTail) -> Self {
        let first = log.lines.len().saturating_sub(LINES);
        let lines = log.lines[first..].iter().map(|line| shown(&line.text));
        Self {
            container: container.to_owned(),
            lines: lines.collect(),
            total: log.total,
        }
    }

    /// `the last 100 of 4000 lines of app`
    pub(crate) fn heading(&self) -> String {
        format!(
            "the last {} of {} lines of {}",
            self.lines.len(),
            self.total,
            self.container
        )
    }
}

/// Text of an image, a container or a host as a report may hold it: one line, without escapes or secrets.
pub(crate) fn shown(text: &str) -> String {
    without_secrets(&harmless(text)).into_owned()
}

/// A failure as lines, the first of them that of the `error:` block.
pub(crate) fn told(failure: &Failure) -> Vec<String> {
    let mut lines = vec![shown(&failure.cause)];
    lines.extend(failure.evidence.iter().map(|line| shown(line)));
    for quote in &failure.quotes {
        lines.push(shown(&quote.heading));
        lines.extend(quote.lines.iter().map(|line| format!("| {}", shown(line))));
    }
    lines.extend(
        failure
            .hint
            .iter()
            .map(|hint| format!("hint: {}", shown(hint))),
    );
    lines
}
