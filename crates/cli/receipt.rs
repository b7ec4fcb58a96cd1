//! The receipt: the record of a run as versioned JSON. Wire structs only; domain types are not serialised.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smokegate_gate::{Decision, ProbeVerdict, VariantVerdict, Verdict};
use smokegate_image::{Digest, Image, PlatformImage};
use smokegate_registry::PushReport;
use smokegate_sandbox::{ExitStatus as ProcessStatus, Storage};

use crate::attestation::is_complete_pass;
use crate::diagnosis::Diagnosis;
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::finding_record::{FindingRecord, ListenerRecord, finding_record, listener_records};
use crate::gate_file::Prepared;
use crate::linting::Findings;
use crate::network_record::{NetworkRecord, network_record};
use crate::plan_document;
use crate::preparation;

/// Raised when a field changes its meaning or goes; new fields do not raise it.
const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Receipt {
    pub(crate) version: u32,
    pub(crate) tool: Tool,
    /// When the run began, RFC 3339.
    pub(crate) started: String,
    /// `passed`, `failed` or `inconclusive`; absent where nothing was run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) verdict: Option<VerdictWord>,
    /// Whether only some variants were run.
    pub(crate) partial: bool,
    pub(crate) image: ImageRecord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) isolation: Option<IsolationRecord>,
    /// Digest of the resolved plan: the one that `--plan` shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) plan: Option<Digest>,
    #[serde(default)]
    pub(crate) variants: Vec<VariantRecord>,
    /// The images of the services.
    #[serde(default)]
    pub(crate) services: Vec<ServiceImageRecord>,
    /// Milliseconds of the stages beside the variants.
    #[serde(default)]
    pub(crate) timings_ms: RunTimings,
    /// What was published where.
    #[serde(default)]
    pub(crate) published: Vec<Published>,
    /// What ended the run beside the variants' verdicts: a layer that cannot be read, a registry that refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<ErrorRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ErrorRecord {
    pub(crate) exit_code: u8,
    pub(crate) cause: String,
    pub(crate) evidence: Vec<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) version: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum VerdictWord {
    Passed,
    Failed,
    Inconclusive,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ImageRecord {
    /// As named on the command line.
    pub(crate) source: String,
    /// Digest of the root document: what a tag points to.
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    /// Whether smokegate made the manifest, because the source had none.
    pub(crate) manifest_made_here: bool,
    pub(crate) tested: Vec<PlatformRecord>,
    pub(crate) untested: Vec<PlatformRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PlatformRecord {
    pub(crate) platform: String,
    pub(crate) manifest: Digest,
    pub(crate) config: Digest,
    pub(crate) layers: Vec<LayerRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ServiceImageRecord {
    /// As named in the gate file.
    #[serde(default)]
    pub(crate) source: String,
    /// What that name stood for: the index's digest, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) digest: Option<Digest>,
    #[serde(flatten)]
    pub(crate) image: PlatformRecord,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct LayerRecord {
    pub(crate) digest: Digest,
    pub(crate) diff_id: Digest,
    pub(crate) size: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct IsolationRecord {
    pub(crate) level: String,
    /// What that level could not test.
    pub(crate) not_tested: Vec<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RunTimings {
    pub(crate) open: u64,
    pub(crate) layers: u64,
    /// Of it, in sum over threads: reading and decompressing blobs.
    pub(crate) inflate: u64,
    /// Hashing blobs and what they decompress to.
    pub(crate) verify: u64,
    /// Writing files.
    pub(crate) write: u64,
    /// Looking at the targets before anything runs.
    pub(crate) check: u64,
    /// Asking registries what they have: beside the gate, and what is left after the verdict.
    pub(crate) plan: u64,
    /// Sending blobs beside the gate (`--upload-ahead`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) upload_ahead: Option<u64>,
    /// Bringing blobs and manifests after the verdict.
    pub(crate) upload: u64,
    /// Moving the tags.
    pub(crate) tags: u64,
    /// From the verdict to the last tag.
    pub(crate) publish: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct VariantRecord {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) platform: String,
    /// Whether another variant's end stopped it (`--fail-fast`): nothing was decided then.
    #[serde(default)]
    pub(crate) stopped: bool,
    pub(crate) verdict: VerdictWord,
    /// The cause in one sentence, when it did not pass.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cause: Option<String>,
    /// The kind of cause: the id of a rule of lint, or a word for what the run saw.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cause_id: Option<String>,
    /// What lint found in its images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) findings: Vec<FindingRecord>,
    /// What listened in the app's network namespace, where a probe did not pass.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) listening: Vec<ListenerRecord>,
    pub(crate) probes: Vec<ProbeRecord>,
    pub(crate) services: Vec<ServiceRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exit: Option<ExitRecord>,
    pub(crate) ports: Vec<PortRecord>,
    /// `overlay` or `copy`: how the layers of its containers were joined; absent where none was started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) storage: Option<StorageWord>,
    pub(crate) log_lines: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) network: Option<NetworkRecord>,
    pub(crate) timings_ms: VariantTimings,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StorageWord {
    Overlay,
    Copy,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ProbeRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    pub(crate) probe: String,
    /// The attempts in one line, what is alike in a row put together.
    #[serde(default)]
    pub(crate) attempts_in_short: String,
    pub(crate) attempts: Vec<AttemptRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ServiceRecord {
    pub(crate) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) exit: Option<ExitRecord>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) ports: Vec<PortRecord>,
    pub(crate) log_lines: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AttemptRecord {
    pub(crate) at_ms: u64,
    pub(crate) took_ms: u64,
    /// `passed`, `refused`, `reset`, `timeout`, `tls`, `http_status`, `wrong_body`, `not_http`, `exit_code`,
    /// `wrong_output`, `log` or `not_run`.
    #[serde(default)]
    pub(crate) class: String,
    pub(crate) outcome: String,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ExitRecord {
    Code(i32),
    Signal(i32),
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PortRecord {
    pub(crate) host: String,
    pub(crate) container: u16,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct VariantTimings {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) sandbox: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) start: Option<u64>,
    /// A part of `start`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) mount: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) probe: Option<u64>,
    pub(crate) total: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Published {
    pub(crate) reference: String,
    pub(crate) digest: Digest,
    /// What the tag pointed to before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) previous: Option<Digest>,
    pub(crate) moved: bool,
}

impl Receipt {
    /// A receipt of an image that was opened, before anything was run or published.
    pub(crate) fn new(source: String, image: &Image, opened: Duration) -> Self {
        let untested = image.platforms().iter().map(platform_record).collect();
        Self {
            version: VERSION,
            tool: Tool {
                name: "smokegate".into(),
                version: env!("CARGO_PKG_VERSION").into(),
            },
            started: jiff::Timestamp::now()
                .strftime("%Y-%m-%dT%H:%M:%SZ")
                .to_string(),
            verdict: None,
            partial: false,
            image: ImageRecord {
                source,
                digest: image.digest().clone(),
                media_type: image.root().media_type.clone(),
                manifest_made_here: image.is_synthesized(),
                tested: Vec::new(),
                untested,
            },
            isolation: None,
            plan: None,
            variants: Vec::new(),
            services: Vec::new(),
            timings_ms: RunTimings {
                open: millis(opened),
                ..RunTimings::default()
            },
            published: Vec::new(),
            error: None,
        }
    }

    /// Adds what ended the run.
    pub(crate) fn record_failure(&mut self, failure: &Failure) {
        // A failure before any variant was judged is a verdict too, where it says whose fault it is.
        self.verdict = self.verdict.or(match failure.status {
            ExitStatus::GateFailed => Some(VerdictWord::Failed),
            ExitStatus::Host | ExitStatus::Infrastructure => Some(VerdictWord::Inconclusive),
            _ => None,
        });
        self.error = Some(ErrorRecord {
            exit_code: failure.status.code(),
            cause: hidden(&failure.cause),
            evidence: failure.evidence.iter().map(|line| hidden(line)).collect(),
        });
    }

    /// Adds what the gate decided.
    pub(crate) fn record_verdict(
        &mut self,
        verdict: &Verdict,
        prepared: &Prepared,
        diagnoses: &BTreeMap<String, Diagnosis>,
        findings: &Findings,
    ) {
        self.partial = prepared.partial;
        let services = prepared.services.iter().zip(&prepared.service_sources);
        self.services = services
            .map(|(image, (source, digest))| ServiceImageRecord {
                source: source.clone(),
                digest: Some(digest.clone()),
                image: platform_record(image),
            })
            .collect();
        self.verdict = Some(overall(verdict));
        self.plan = Some(plan_document::digest(prepared));
        self.isolation = Some(IsolationRecord {
            level: verdict.isolation.to_string(),
            not_tested: verdict.not_tested.clone(),
        });
        let record = |variant| variant_record(variant, diagnoses, findings);
        self.variants = verdict.variants.iter().map(record).collect();
        self.timings_ms.layers = millis(verdict.layers);
        self.timings_ms.inflate = millis(verdict.unpacking.inflate);
        self.timings_ms.verify = millis(verdict.unpacking.verify);
        self.timings_ms.write = millis(verdict.unpacking.write);
        let all = std::mem::take(&mut self.image.untested);
        let (tested, untested) = all
            .into_iter()
            .partition(|one| verdict.manifests.contains(&one.manifest));
        (self.image.tested, self.image.untested) = (tested, untested);
    }

    /// One line per published tag.
    pub(crate) fn published_refs(&self) -> Vec<String> {
        let published = self.published.iter();
        published
            .map(|one| format!("{}@{}", one.reference, one.digest))
            .collect()
    }

    /// Adds how long the look at the targets took.
    pub(crate) fn record_check(&mut self, took: Duration) {
        self.timings_ms.check = millis(took);
    }

    /// Adds what was prepared beside the gate; the image is the one that will be published, which may be packed
    /// otherwise than it was when it ran.
    pub(crate) fn record_preparation(&mut self, prepared: &preparation::Prepared) {
        self.timings_ms.plan = millis(prepared.asked);
        self.timings_ms.upload_ahead = prepared.uploaded.map(millis);
        let image = &prepared.packed.image;
        if self.image.digest != *image.digest() {
            self.image.digest = image.digest().clone();
            self.image.media_type = image.root().media_type.clone();
            // What has no manifest of its own has one platform.
            self.image.tested = image.platforms().iter().map(platform_record).collect();
        }
    }

    /// Adds what was published.
    pub(crate) fn record_push(&mut self, report: &PushReport, took: Duration) {
        self.timings_ms.publish = millis(took);
        self.timings_ms.plan += millis(report.timings.plan);
        self.timings_ms.upload = millis(report.timings.upload);
        self.timings_ms.tags = millis(report.timings.tags);
        self.published = report
            .targets
            .iter()
            .map(|target| Published {
                reference: target.target.to_string(),
                digest: report.digest.clone(),
                previous: target.previous.clone(),
                moved: target.moved,
            })
            .collect();
    }

    /// The JSON text, with a line end.
    pub(crate) fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        text.expect("a receipt holds strings, numbers and lists only") + "\n"
    }

    /// Reads a receipt.
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| {
            Failure::usage(format!("cannot read the receipt `{shown}`: {error}"))
        })?;
        serde_json::from_str(&text).map_err(|error| {
            Failure::usage(format!("`{shown}` is not a receipt of smokegate: {error}"))
        })
    }

    /// Reads a receipt and refuses it unless it is a pass for exactly `digest`, and a complete one unless
    /// `allow_partial`.
    pub(crate) fn must_clear(
        path: &Path,
        digest: &Digest,
        allow_partial: bool,
    ) -> Result<Self, Failure> {
        let receipt = Self::read(path)?;
        receipt.clears(digest, allow_partial).map_err(|why| {
            Failure::new(
                ExitStatus::GateFailed,
                format!("the receipt `{}` {why}", path.display()),
            )
            .hint("run smokegate gate on this image and pass the receipt that it writes")
        })?;
        Ok(receipt)
    }

    /// Whether it is a pass for exactly `digest`; if not, why.
    pub(crate) fn clears(&self, digest: &Digest, allow_partial: bool) -> Result<(), String> {
        if self.version != VERSION {
            return Err(format!(
                "has version {}, this smokegate reads {VERSION}",
                self.version
            ));
        }
        let verdicts: Vec<_> = self.variants.iter().map(|one| one.verdict).collect();
        let partial = self.partial && !allow_partial || self.image.tested.is_empty();
        is_complete_pass(
            (&self.image.digest, digest),
            self.verdict,
            &verdicts,
            partial,
        )
    }
}

fn overall(verdict: &Verdict) -> VerdictWord {
    let words: Vec<_> = verdict.variants.iter().map(word).collect();
    if words.contains(&VerdictWord::Failed) {
        VerdictWord::Failed
    } else if words.contains(&VerdictWord::Inconclusive) || words.is_empty() {
        VerdictWord::Inconclusive
    } else {
        VerdictWord::Passed
    }
}

fn word(variant: &VariantVerdict) -> VerdictWord {
    match variant.decision {
        Decision::Passed => VerdictWord::Passed,
        Decision::Failed(_) => VerdictWord::Failed,
        Decision::Inconclusive(_) => VerdictWord::Inconclusive,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn platform_record(image: &PlatformImage) -> PlatformRecord {
    PlatformRecord {
        platform: image.platform.clone(),
        manifest: image.manifest.clone(),
        config: image.config_digest.clone(),
        layers: image
            .layers
            .iter()
            .map(|layer| LayerRecord {
                digest: layer.blob.digest().clone(),
                diff_id: layer.diff_id.0.clone(),
                size: layer.blob.size(),
            })
            .collect(),
    }
}

fn variant_record(
    variant: &VariantVerdict,
    diagnoses: &BTreeMap<String, Diagnosis>,
    findings: &Findings,
) -> VariantRecord {
    let diagnosis = diagnoses.get(&variant.name);
    VariantRecord {
        name: variant.name.clone(),
        platform: variant.platform.clone(),
        stopped: variant.decision.was_stopped(),
        verdict: word(variant),
        cause: diagnosis.map(|diagnosis| hidden(&diagnosis.cause)),
        cause_id: diagnosis.map(|diagnosis| diagnosis.id.clone()),
        findings: findings
            .of_variant(&variant.name)
            .map(|(container, one)| finding_record(container, &one.finding))
            .collect(),
        listening: listener_records(variant),
        probes: variant.probes.iter().map(probe_record).collect(),
        services: variant
            .services
            .iter()
            .map(|service| ServiceRecord {
                name: service.name.clone(),
                exit: service.exit.map(exit_record),
                ports: port_records(&service.ports),
                log_lines: service.log.total,
            })
            .collect(),
        exit: variant.exit.map(exit_record),
        ports: port_records(&variant.ports),
        storage: variant.storage.as_ref().map(|storage| match storage {
            Storage::Overlay => StorageWord::Overlay,
            Storage::Copy { .. } => StorageWord::Copy,
        }),
        log_lines: variant.log.total,
        network: variant.network.as_ref().map(network_record),
        timings_ms: VariantTimings {
            sandbox: variant.timings.sandbox.map(millis),
            start: variant.timings.start.map(millis),
            mount: variant.timings.mount.map(millis),
            probe: variant.timings.probe.map(millis),
            total: millis(variant.timings.total),
        },
    }
}

fn probe_record(probe: &ProbeVerdict) -> ProbeRecord {
    let attempts = probe.attempts.iter().map(|attempt| AttemptRecord {
        at_ms: millis(attempt.at),
        took_ms: millis(attempt.took),
        class: attempt.outcome.class().to_owned(),
        outcome: hidden(&attempt.outcome.to_string()),
    });
    ProbeRecord {
        name: probe.name.clone(),
        probe: hidden(&probe.probe.to_string()),
        attempts_in_short: probe.history(),
        attempts: attempts.collect(),
    }
}

/// Words of an image, a gate file or a host, as a report may hold them.
pub(crate) fn hidden(text: &str) -> String {
    crate::printer::without_secrets(text).into_owned()
}

fn port_records(ports: &[smokegate_gate::PublishedPort]) -> Vec<PortRecord> {
    let record = |port: &smokegate_gate::PublishedPort| PortRecord {
        host: port.host.to_string(),
        container: port.container,
    };
    ports.iter().map(record).collect()
}

fn exit_record(status: ProcessStatus) -> ExitRecord {
    match status {
        ProcessStatus::Code(code) => ExitRecord::Code(code),
        ProcessStatus::Signal(signal) => ExitRecord::Signal(signal),
    }
}
