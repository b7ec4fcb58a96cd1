//! The part of a receipt that tells why: what lint found, and what listened instead.

use serde::{Deserialize, Serialize};
use smokegate_gate::{Decision, Reason, VariantVerdict};
use smokegate_lint::Finding;

use crate::receipt::hidden;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FindingRecord {
    /// Names the rule.
    pub(crate) id: String,
    /// `error`, `warning` or `hint`.
    pub(crate) severity: String,
    pub(crate) container: String,
    pub(crate) message: String,
    pub(crate) evidence: Vec<EvidenceRecord>,
    pub(crate) fix: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EvidenceRecord {
    /// A file of the image, or a key of its configuration.
    pub(crate) path: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) line: Option<usize>,
    pub(crate) text: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ListenerRecord {
    pub(crate) address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) program: Option<String>,
}

pub(crate) fn finding_record(container: &str, finding: &Finding) -> FindingRecord {
    let evidence = finding.evidence.iter().map(|one| EvidenceRecord {
        path: hidden(&one.path),
        line: one.line,
        text: hidden(&one.text),
    });
    FindingRecord {
        id: finding.id.to_owned(),
        severity: finding.severity.to_string(),
        container: container.to_owned(),
        message: hidden(&finding.message),
        evidence: evidence.collect(),
        fix: hidden(&finding.fix),
    }
}

pub(crate) fn listener_records(variant: &VariantVerdict) -> Vec<ListenerRecord> {
    let Decision::Failed(Reason::NotHealthy { listening, .. }) = &variant.decision else {
        return Vec::new();
    };
    let record = |one: &smokegate_sandbox::Listener| ListenerRecord {
        address: one.address.to_string(),
        program: one.program.as_deref().map(hidden),
    };
    listening.iter().map(record).collect()
}
