//! The verdict of a run with what explains it, and the reports of both.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use smokegate_gate::{VariantVerdict, Verdict};
use smokegate_image::Image;
use smokegate_lint::Severity;
use tokio::sync::oneshot;

use crate::args::Format;
use crate::diagnosis::{Diagnosis, diagnoses};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::gate_file::Prepared;
use crate::kept::Keeper;
use crate::linting::{Findings, LintSettings, Linting};
use crate::pipeline::{self, GateSettings};
use crate::printer::Printer;
use crate::receipt::Receipt;
use crate::report::details::VariantDetails;
use crate::report::log_groups::Folding;
use crate::report::{cases, files, github, log_groups};
use crate::settings;

/// A verdict, and why.
pub(super) struct Judged {
    pub(super) verdict: Verdict,
    findings: Findings,
    /// Of each variant that did not pass.
    diagnoses: BTreeMap<String, Diagnosis>,
}

impl Judged {
    /// Runs every variant, with lint beside it, and records the verdict; the receipt is written also when there is none.
    pub(super) async fn by_running(
        image: &Image,
        prepared: &Prepared,
        settings: &GateSettings,
        lint: Option<LintSettings>,
        receipt: &mut Receipt,
        printer: Printer,
    ) -> Result<(Self, Option<Keeper>), Failure> {
        // Before anything runs: a report that cannot be written is found out now.
        files::write(receipt, &[], &settings.report_dir)?;
        let (unpacked, layers) = oneshot::channel();
        let linting = match lint {
            Some(lint) => Linting::begin(image, prepared, lint, layers),
            None => Linting::none(),
        };
        match pipeline::gate(image, prepared, settings, unpacked, printer).await {
            Ok((verdict, keeper)) => {
                let findings = linting.end().await;
                let diagnoses = diagnoses(&verdict, &findings);
                receipt.record_verdict(&verdict, prepared, &diagnoses, &findings);
                let judged = Self {
                    verdict,
                    findings,
                    diagnoses,
                };
                Ok((judged, keeper))
            }
            Err(failure) => {
                receipt.record_failure(&failure);
                files::write(receipt, &[], &settings.report_dir)?;
                Err(failure)
            }
        }
    }

    /// Writes the receipt and what belongs beside it; shows failures; the exit code of the run.
    pub(super) fn report(
        &self,
        receipt: &Receipt,
        prepared: &Prepared,
        report_dir: &Path,
        format: Format,
        printer: Printer,
    ) -> Result<ExitStatus, Failure> {
        let refs = receipt.published_refs();
        let details: Vec<_> = self
            .verdict
            .variants
            .iter()
            .map(|variant| self.details_of(variant, prepared, report_dir))
            .collect();
        files::write(receipt, &details, report_dir)?;
        let actions = settings::actions();
        let fence = match &actions {
            None => None,
            Some(_) => Some(github::Fence::new().map_err(|error| {
                Failure::new(
                    ExitStatus::Host,
                    format!("cannot read /dev/urandom: {error}"),
                )
            })?),
        };
        match format {
            Format::Json => printer.data(receipt.to_json().trim_end()),
            Format::Human | Format::Sarif => {
                refs.iter().for_each(|reference| printer.data(reference))
            }
        }
        let folding = match &fence {
            Some(fence) => Some(Folding::Group(fence)),
            None => settings::is_gitlab().then_some(Folding::Section),
        };
        let failed = || details.iter().filter(|variant| variant.failure.is_some());
        if let Some(folding) = folding {
            failed().for_each(|variant| log_groups::show(printer, folding, variant));
        }
        if let Some(actions) = &actions {
            if !actions.is_gitea {
                for variant in failed() {
                    let cause = &self.diagnoses[&variant.name].cause;
                    github::annotate(printer, &variant.name, cause);
                }
            }
            if let Err(error) = github::record(actions, receipt, &refs) {
                printer.always(format!(
                    "warning: cannot write the step's summary or outputs: {error}"
                ));
            }
        }
        self.show_findings(printer);
        let mut status = ExitStatus::Success;
        for failure in failed().filter_map(|variant| variant.failure.as_ref()) {
            failure.show(printer, fence.as_ref());
            // The first that applies of 1, 3 and 4.
            status = match status {
                ExitStatus::Success => failure.status,
                earlier => earlier.min(failure.status),
            };
        }
        Ok(status)
    }

    /// Shows what lint sees in an image that passed: the run is the judge, and may not have come by it.
    fn show_findings(&self, printer: Printer) {
        let passed = self.verdict.variants.iter();
        let passed = passed.filter(|variant| variant.decision.passed());
        let mut shown = BTreeSet::new();
        for variant in passed {
            for (container, one) in self.findings.of_variant(&variant.name) {
                let (id, severity) = (one.finding.id, one.finding.severity);
                let message = &one.finding.message;
                let is_worth_it = severity >= Severity::Warning && container == smokegate_gate::APP;
                if is_worth_it && shown.insert((id, message)) {
                    printer.step(format!("lint: {severity}[{id}]: {message}"));
                }
            }
        }
    }

    /// What reports show of a variant beside its record.
    fn details_of(
        &self,
        variant: &VariantVerdict,
        prepared: &Prepared,
        report_dir: &Path,
    ) -> VariantDetails {
        let mut plans = prepared.plan.variants.iter();
        let plan = plans.find(|plan| plan.name == variant.name);
        let cases = cases::cases(variant, plan.map(|plan| &plan.expect));
        if variant.decision.passed() || variant.decision.was_stopped() {
            return VariantDetails::new(variant, cases, None);
        }
        let logs = report_dir.join("logs").join(&variant.name);
        let failure = Failure::of_variant(variant, &self.diagnoses[&variant.name], &logs);
        VariantDetails::new(variant, cases, Some(failure))
    }
}
