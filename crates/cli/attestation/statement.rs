//! What a receipt says, as an in-toto statement (in-toto attestation framework v1, predicate test-result/v0.1).
//!
//! It is read by people who do not know the machine it was made on, and by anyone who may read the image: so it has
//! no text that an image, a gate file or a host has put in. Digests, counts, times and our own words are left.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use smokegate_image::Digest;

use crate::receipt::{ExitRecord, PlatformRecord, Receipt, Tool, VariantTimings, VerdictWord};

pub(super) const PREDICATE_TYPE: &str = "https://in-toto.io/attestation/test-result/v0.1";
const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// Of [`Details`]. Another number has another meaning.
const VERSION: u32 = 1;

/// That something was tested, and what came of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Resource>,
    predicate_type: String,
    predicate: TestResult,
}

/// An artifact by its digests.
#[derive(Debug, Serialize, Deserialize)]
struct Resource {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    digest: BTreeMap<String, String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TestResult {
    /// `PASSED`; `WARNED` when not all was run that should have been.
    result: String,
    configuration: Vec<Resource>,
    #[serde(default)]
    passed_tests: Vec<String>,
    #[serde(default)]
    warned_tests: Vec<String>,
    #[serde(default)]
    failed_tests: Vec<String>,
    /// What the predicate type has no word for.
    smokegate: Details,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Details {
    version: u32,
    tool: Tool,
    started: String,
    partial: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    isolation: Option<String>,
    tested: Vec<Platform>,
    untested: Vec<Platform>,
    services: Vec<Platform>,
    variants: Vec<Variant>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Platform {
    platform: String,
    manifest: Digest,
    config: Digest,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Variant {
    name: String,
    platform: String,
    verdict: VerdictWord,
    /// Of each probe its attempts.
    probes: Vec<Vec<Attempt>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    exit: Option<ExitRecord>,
    timings_ms: VariantTimings,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Attempt {
    at_ms: u64,
    took_ms: u64,
    class: String,
}

impl Statement {
    /// What a receipt says about its image.
    pub(crate) fn of(receipt: &Receipt) -> Self {
        let named = |wanted: fn(VerdictWord) -> bool| {
            let variants = receipt.variants.iter();
            let chosen = variants.filter(|one| wanted(one.verdict));
            chosen
                .map(|one| format!("{} ({})", one.name, one.platform))
                .collect()
        };
        let variants = receipt.variants.iter().map(|one| Variant {
            name: one.name.clone(),
            platform: one.platform.clone(),
            verdict: one.verdict,
            probes: one.probes.iter().map(attempts).collect(),
            exit: one.exit,
            timings_ms: one.timings_ms.clone(),
        });
        let result = match (receipt.verdict, receipt.partial) {
            (Some(VerdictWord::Passed), false) => "PASSED",
            (Some(VerdictWord::Passed), true) => "WARNED",
            _ => "FAILED",
        };
        let plan = receipt.plan.iter().map(|digest| Resource {
            name: Some("plan".to_owned()),
            digest: digests(digest),
        });
        Self {
            kind: STATEMENT_TYPE.to_owned(),
            subject: vec![Resource {
                name: None,
                digest: digests(&receipt.image.digest),
            }],
            predicate_type: PREDICATE_TYPE.to_owned(),
            predicate: TestResult {
                result: result.to_owned(),
                configuration: plan.collect(),
                passed_tests: named(|verdict| verdict == VerdictWord::Passed),
                warned_tests: Vec::new(),
                failed_tests: named(|verdict| verdict != VerdictWord::Passed),
                smokegate: Details {
                    version: VERSION,
                    tool: receipt.tool.clone(),
                    started: receipt.started.clone(),
                    partial: receipt.partial,
                    isolation: receipt.isolation.as_ref().map(|one| one.level.clone()),
                    tested: receipt.image.tested.iter().map(platform).collect(),
                    untested: receipt.image.untested.iter().map(platform).collect(),
                    services: receipt
                        .services
                        .iter()
                        .map(|one| platform(&one.image))
                        .collect(),
                    variants: variants.collect(),
                },
            },
        }
    }

    /// Reads one of smokegate's; `None` when it is another attestation.
    pub(super) fn parse(payload: &[u8]) -> Result<Option<Self>, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Outline {
            predicate_type: String,
        }
        let not_one = |error| format!("is not an in-toto statement: {error}");
        let outline: Outline = serde_json::from_slice(payload).map_err(not_one)?;
        if outline.predicate_type != PREDICATE_TYPE {
            return Ok(None);
        }
        let statement: Self = serde_json::from_slice(payload)
            .map_err(|error| format!("is a test result, but not one of smokegate: {error}"))?;
        if statement.kind != STATEMENT_TYPE {
            return Err(format!("is a statement of type `{}`", statement.kind));
        }
        let version = statement.predicate.smokegate.version;
        if version != VERSION {
            return Err(format!(
                "has version {version}, and this smokegate reads {VERSION}"
            ));
        }
        Ok(Some(statement))
    }

    /// What was tested, if that is one thing.
    pub(super) fn digest(&self) -> Option<Digest> {
        let [subject] = self.subject.as_slice() else {
            return None;
        };
        let mut digests = subject.digest.iter();
        let (algorithm, hex) = digests.next()?;
        format!("{algorithm}:{hex}").parse().ok()
    }

    /// Whether it is a complete pass for `wanted`; if not, why.
    pub(super) fn clears(&self, wanted: &Digest) -> Result<(), String> {
        let Some(digest) = self.digest() else {
            return Err("is not about one image".to_owned());
        };
        let TestResult {
            result, smokegate, ..
        } = &self.predicate;
        if result == "FAILED" {
            return Err("is not a pass".to_owned());
        }
        let verdicts: Vec<_> = smokegate.variants.iter().map(|one| one.verdict).collect();
        let partial = smokegate.partial || result != "PASSED";
        is_complete_pass(
            (&digest, wanted),
            Some(VerdictWord::Passed),
            &verdicts,
            partial || smokegate.tested.is_empty(),
        )
    }
}

/// Whether a receipt for `digest` with these verdicts, overall and of its variants, clears `wanted`; if not, why.
pub(crate) fn is_complete_pass(
    (digest, wanted): (&Digest, &Digest),
    overall: Option<VerdictWord>,
    variants: &[VerdictWord],
    partial: bool,
) -> Result<(), String> {
    if digest != wanted {
        return Err(format!("is for {digest}, not for this image ({wanted})"));
    }
    let all = variants.iter().all(|one| *one == VerdictWord::Passed);
    if overall != Some(VerdictWord::Passed) || variants.is_empty() || !all {
        return Err("is not a pass".to_owned());
    }
    if partial {
        return Err("is of a partial run".to_owned());
    }
    Ok(())
}

fn digests(digest: &Digest) -> BTreeMap<String, String> {
    BTreeMap::from([(digest.algorithm().to_string(), digest.hex().to_owned())])
}

fn platform(record: &PlatformRecord) -> Platform {
    Platform {
        platform: record.platform.clone(),
        manifest: record.manifest.clone(),
        config: record.config.clone(),
    }
}

fn attempts(probe: &crate::receipt::ProbeRecord) -> Vec<Attempt> {
    let attempts = probe.attempts.iter().map(|one| Attempt {
        at_ms: one.at_ms,
        took_ms: one.took_ms,
        class: one.class.clone(),
    });
    attempts.collect()
}
