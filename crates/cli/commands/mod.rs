//! The subcommands. Each settles its arguments, calls the pipeline and reports.

mod cache;
mod doctor;
mod gate;
mod inspect;
mod lint;
mod promote;
mod push;
mod ship;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use clap::error::ErrorKind;
use smokegate_gate::{VariantVerdict, Verdict};
use smokegate_image::{Image, OpenOptions};
use smokegate_lint::Severity;
use smokegate_sandbox::{IdMap, Isolation, Wall};

use crate::args::{
    AnyCommand, Arguments, Command, CommonArgs, Format, KeptCommand, PublishArgs, RequireArgs,
    RunArgs, SourceArgs,
};
use crate::attestation::{SigningKey, Trust};
use crate::diagnosis::{Diagnosis, diagnoses};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::gate_file::{LoadedFile, Prepared, ServiceSources};
use crate::kept::{self, Keeper};
use crate::linting::{Findings, LintSettings, Linting};
use crate::pipeline::{self, GateSettings};
use crate::plan_document;
use crate::printer::Printer;
use crate::receipt::Receipt;
use crate::report::details::VariantDetails;
use crate::report::log_groups::Folding;
use crate::report::{cases, github, html, junit, log_groups, publishing, summary, yaml};
use crate::settings;
use crate::sources::{Needed, Opened, Sources};

/// How long an interrupted run may take to end its pods.
const GRACE: Duration = Duration::from_secs(5);

/// Parses, runs, reports; the process's exit code.
pub(crate) fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            let _ = error.print();
            return match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitStatus::Success,
                _ => ExitStatus::Usage,
            }
            .into();
        }
    };
    let printer = Printer::new(&arguments.common, settings::no_color());
    ask_for_reports_of_bugs(printer);
    let command = match arguments.command {
        AnyCommand::Own(command) => command,
        AnyCommand::Kept(command) => {
            return look_into_kept_pods(&command, &arguments.common, printer);
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let failure = Failure::new(ExitStatus::Host, format!("cannot start threads: {error}"));
            failure.show(printer, None);
            return failure.status.into();
        }
    };
    let status = runtime.block_on(async {
        // Dropping the command's future ends its pods and removes its directories.
        let mut command = std::pin::pin!(run(command, &arguments.common, printer));
        let mut deferred = false;
        loop {
            let status = tokio::select! {
                status = &mut command => return status,
                status = interrupted() => status,
            };
            // The run is over, and its verdict stands: only kept pods end now.
            if let Some(verdict) = kept::verdict_while_keeping() {
                return verdict;
            }
            let word = match status {
                ExitStatus::Interrupted => "interrupted",
                _ => "terminated",
            };
            if !publishing::tags_are_moving() || deferred {
                printer.always(format!("{word}: everything that ran was stopped and removed"));
                return status;
            }
            // Half-moved tags are worse than a late end, and only the end can say where they are.
            deferred = true;
            printer.always(format!(
                "{word}: the tags are being moved; ending after the last one (interrupt again to end at once)"
            ));
        }
    });
    match status {
        ExitStatus::Interrupted | ExitStatus::Terminated => runtime.shutdown_timeout(GRACE),
        _ => runtime.shutdown_background(),
    }
    status.into()
}

async fn run(command: Command, common: &CommonArgs, printer: Printer) -> ExitStatus {
    let result = match command {
        Command::Lint(args) => lint::run(args, common, printer).await,
        _ if common.format == Format::Sarif => Err(Failure::usage(
            "`--format sarif` is for `smokegate lint`, whose findings it holds",
        )
        .hint("use `--format json`")),
        Command::Ship(args) => ship::run(args, common, printer).await,
        Command::Gate(args) => gate::run(args, common, printer).await,
        Command::Push(args) => push::run(args, common, printer).await,
        Command::Promote(args) => promote::run(args, common, printer).await,
        Command::Verify(args) => verify::run(args, common, printer).await,
        Command::Inspect(args) => inspect::run(args, common, printer).await,
        Command::Doctor(args) => doctor::run(args, common, printer).await,
        Command::Cache(command) => cache::run(&command, common, printer).await,
    };
    match result {
        Ok(status) => status,
        Err(failure) => {
            let fence = settings::actions().and_then(|_| github::Fence::new().ok());
            failure.show(printer, fence.as_ref());
            failure.status
        }
    }
}

/// They wait for another process and do nothing else meanwhile, so that they need no runtime.
fn look_into_kept_pods(command: &KeptCommand, common: &CommonArgs, printer: Printer) -> ExitCode {
    let done = |result: Result<(), Failure>| result.map(|()| ExitCode::SUCCESS);
    let result = match command {
        KeptCommand::Exec(args) => kept::exec(args, common, printer).map(ExitCode::from),
        KeptCommand::Logs(args) => done(kept::logs(args, common, printer)),
        KeptCommand::Stop(args) => done(kept::stop(args, common, printer)),
    };
    result.unwrap_or_else(|failure| {
        failure.show(printer, None);
        failure.status.into()
    })
}

async fn interrupted() -> ExitStatus {
    use tokio::signal::unix::{SignalKind, signal};
    let signals = [
        SignalKind::interrupt(),
        SignalKind::terminate(),
        SignalKind::hangup(),
    ];
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = signals.map(signal) else {
        // Without handlers the signals' default action ends the process.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => ExitStatus::Interrupted,
        _ = terminate.recv() => ExitStatus::Terminated,
        _ = hangup.recv() => ExitStatus::Terminated,
    }
}

fn ask_for_reports_of_bugs(printer: Printer) {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        printer.always(
            "error: this is a bug in smokegate\n\nhint: please report it with the text above, the command line and `uname -a`",
        );
    }));
}

/// What a command that runs an image was told of it.
struct RunTarget<'a> {
    file: Option<&'a LoadedFile>,
    run: &'a RunArgs,
    source: &'a SourceArgs,
    /// Where small files may be written.
    scratch: PathBuf,
    sources: &'a Sources<'a>,
    printer: Printer,
}

impl RunTarget<'_> {
    /// Shows what would be run, and published to `tags`, on standard output. No layer is fetched.
    async fn show_plan(
        &self,
        options: OpenOptions,
        tags: &[String],
        format: Format,
    ) -> Result<ExitStatus, Failure> {
        let source = self.source.image.clone();
        let Opened { image, .. } = self
            .sources
            .open("image", source, options, Needed::Documents)
            .await?;
        let prepared = self.resolve(&image, None).await?;
        let document = plan_document::whole(&prepared, &image, tags);
        match format {
            Format::Json => self.printer.data(format!("{document:#}")),
            Format::Human | Format::Sarif => self.printer.data(yaml::text(&document).trim_end()),
        }
        Ok(ExitStatus::Success)
    }

    /// Settles what will be run. An image with nothing to run has failed, a service whose image cannot be had leaves
    /// it unjudged, and the receipt says so.
    async fn prepare(
        &self,
        image: &Image,
        id_map: &IdMap,
        receipt: &mut Receipt,
    ) -> Result<Prepared, Failure> {
        let prepared = self.resolve(image, Some(id_map)).await;
        let prepared =
            prepared.and_then(|prepared| self.check_platforms(image, &prepared).map(|()| prepared));
        if let Err(failure) = &prepared
            && matches!(
                failure.status,
                ExitStatus::GateFailed | ExitStatus::Host | ExitStatus::Infrastructure
            )
        {
            receipt.record_failure(failure);
            write_reports(receipt, &self.run.report_dir)?;
        }
        prepared
    }

    /// Without `id_map` no layer of a service is fetched.
    async fn resolve(&self, image: &Image, id_map: Option<&IdMap>) -> Result<Prepared, Failure> {
        let request = settings::gate_request(self.run)?;
        match self.file {
            Some(file) => {
                let services = ServiceSources {
                    sources: self.sources,
                    limits: &self.source.limit,
                    id_map,
                    printer: self.printer,
                };
                file.prepare(
                    &request,
                    self.run,
                    self.source.platform.as_ref(),
                    image,
                    &services,
                )
                .await
            }
            None if !self.run.variant.is_empty() => Err(Failure::usage(
                "--variant names a variant of a gate file, and there is none",
            )
            .hint("name the file with --file, or leave --variant out")),
            None => {
                let config = &image.selected().config;
                let plan = smokegate_gate::plan(&request, config, image.selected_index());
                let platforms = image.platforms().iter();
                Ok(Prepared {
                    plan: plan?,
                    platforms: platforms.map(|one| one.platform.clone()).collect(),
                    services: Vec::new(),
                    service_sources: Vec::new(),
                    partial: false,
                })
            }
        }
    }

    /// Refuses platforms whose programs this host cannot execute.
    fn check_platforms(&self, image: &Image, prepared: &Prepared) -> Result<(), Failure> {
        for variant in &prepared.plan.variants {
            let name = &image.platforms()[variant.platform].platform;
            let Ok(platform) = name.parse() else {
                continue;
            };
            if let Some(why) = smokegate_sandbox::cannot_execute(&platform, &self.scratch) {
                let cause = format!("this host cannot execute programs for {name}: {why}");
                let hint = format!(
                    "install an emulator (apt-get install qemu-user-static; docker run --privileged --rm tonistiigi/binfmt --install {}), run it on such a host, or take the platform out of `platforms` or --platform",
                    platform.architecture
                );
                return Err(Failure::new(ExitStatus::Host, cause).hint(hint));
            }
        }
        Ok(())
    }
}

/// What a run gets of this host, where that is the isolation level that the gate file asks for at least.
fn gate_settings(
    file: Option<&LoadedFile>,
    run: &RunArgs,
    common: &CommonArgs,
) -> Result<GateSettings, Failure> {
    if run.keep_on_failure {
        kept::check_that_somebody_can_look()?;
    }
    let settings = GateSettings {
        store: settings::store(common)?,
        report_dir: run.report_dir.clone(),
        id_map: settings::id_map(run)?,
        keep_on_failure: run.keep_on_failure,
    };
    check_isolation(file, &settings.id_map)?;
    Ok(settings)
}

/// Refuses an isolation level below the one that the gate file asks for.
fn check_isolation(file: Option<&LoadedFile>, id_map: &IdMap) -> Result<(), Failure> {
    match file.and_then(LoadedFile::min_isolation) {
        Some(least) if id_map.isolation() < least => Err(Failure::new(
            ExitStatus::Host,
            format!(
                "the gate file asks for isolation level `{least}` at least, and this run gets `{}`",
                id_map.isolation()
            ),
        )
        .behind(match least {
            Isolation::Root => Wall::NotRoot,
            Isolation::Subuid | Isolation::Single => Wall::NoSubordinateIds,
        })),
        _ => Ok(()),
    }
}

/// A verdict, and why.
struct Judged {
    verdict: Verdict,
    findings: Findings,
    /// Of each variant that did not pass.
    diagnoses: BTreeMap<String, Diagnosis>,
}

/// Runs every variant, with lint beside it, and records the verdict; the receipt is written also when there is none.
async fn gate(
    image: &Image,
    prepared: &Prepared,
    settings: &GateSettings,
    lint: Option<LintSettings>,
    receipt: &mut Receipt,
    printer: Printer,
) -> Result<(Judged, Option<Keeper>), Failure> {
    // Before anything runs: a report that cannot be written is found out now.
    write_reports(receipt, &settings.report_dir)?;
    let linting = match lint {
        Some(lint) => Linting::begin(image, prepared, lint),
        None => Linting::none(),
    };
    match pipeline::gate(image, prepared, settings, printer).await {
        Ok((verdict, keeper)) => {
            let findings = linting.end().await;
            let diagnoses = diagnoses(&verdict, &findings);
            receipt.record_verdict(&verdict, prepared, &diagnoses, &findings);
            let judged = Judged {
                verdict,
                findings,
                diagnoses,
            };
            Ok((judged, keeper))
        }
        Err(failure) => {
            receipt.record_failure(&failure);
            write_reports(receipt, &settings.report_dir)?;
            Err(failure)
        }
    }
}

/// What lint needs for a run; `None` where it is not wanted.
fn lint_settings(
    run: &RunArgs,
    file: Option<&LoadedFile>,
    settings: &GateSettings,
) -> Result<Option<LintSettings>, Failure> {
    if run.no_lint {
        return Ok(None);
    }
    Ok(Some(LintSettings {
        store: settings.store.clone(),
        variables: file.map(LoadedFile::variables).transpose()?,
    }))
}

/// Shows what lint sees in an image that passed: the run is the judge, and may not have come by it.
fn show_findings(judged: &Judged, printer: Printer) {
    let passed = judged.verdict.variants.iter();
    let passed = passed.filter(|variant| variant.decision.passed());
    let mut shown = BTreeSet::new();
    for variant in passed {
        for (container, one) in judged.findings.of_variant(&variant.name) {
            let (id, severity) = (one.finding.id, one.finding.severity);
            let message = &one.finding.message;
            let is_worth_it = severity >= Severity::Warning && container == smokegate_gate::APP;
            if is_worth_it && shown.insert((id, message)) {
                printer.step(format!("lint: {severity}[{id}]: {message}"));
            }
        }
    }
}

/// Writes the receipt and what belongs beside it; shows failures; the exit code of the run.
#[allow(clippy::too_many_arguments)] // each of another kind, and all of them from the two callers' ends
fn report(
    receipt: &Receipt,
    judged: &Judged,
    prepared: &Prepared,
    report_dir: &Path,
    format: Format,
    refs: &[String],
    printer: Printer,
) -> Result<ExitStatus, Failure> {
    let verdict = &judged.verdict;
    let details: Vec<_> = verdict
        .variants
        .iter()
        .map(|variant| details_of(variant, prepared, judged, report_dir))
        .collect();
    write_details(receipt, &details, report_dir)?;
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
        Format::Human | Format::Sarif => refs.iter().for_each(|reference| printer.data(reference)),
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
            for variant in verdict
                .variants
                .iter()
                .filter(|one| failed().any(|failed| failed.name == one.name))
            {
                github::annotate(
                    printer,
                    &variant.name,
                    &judged.diagnoses[&variant.name].cause,
                );
            }
        }
        if let Err(error) = github::record(actions, receipt, refs) {
            printer.always(format!(
                "warning: cannot write the step's summary or outputs: {error}"
            ));
        }
    }
    show_findings(judged, printer);
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

/// What reports show of a variant beside its record.
fn details_of(
    variant: &VariantVerdict,
    prepared: &Prepared,
    judged: &Judged,
    report_dir: &Path,
) -> VariantDetails {
    let mut plans = prepared.plan.variants.iter();
    let plan = plans.find(|plan| plan.name == variant.name);
    let cases = cases::cases(variant, plan.map(|plan| &plan.expect));
    if variant.decision.passed() || variant.decision.was_stopped() {
        return VariantDetails::new(variant, cases, None);
    }
    let logs = report_dir.join("logs").join(&variant.name);
    let failure = Failure::of_variant(variant, &judged.diagnoses[&variant.name], &logs);
    VariantDetails::new(variant, cases, Some(failure))
}

/// Writes the reports of a run that has no verdict, or not yet.
fn write_reports(receipt: &Receipt, report_dir: &Path) -> Result<(), Failure> {
    write_details(receipt, &[], report_dir)
}

fn write_details(
    receipt: &Receipt,
    details: &[VariantDetails],
    report_dir: &Path,
) -> Result<(), Failure> {
    let write = |name: &str, text: &str| {
        let file = report_dir.join(name);
        std::fs::create_dir_all(report_dir)
            .and_then(|()| std::fs::write(&file, text))
            .map_err(|error| {
                Failure::new(
                    ExitStatus::Host,
                    format!("cannot write `{}`: {error}", file.display()),
                )
                .hint("choose another directory with --report-dir DIR")
            })
    };
    write("receipt.json", &receipt.to_json())?;
    write("summary.md", &summary::markdown(receipt))?;
    let junit = junit::document(receipt, details).map_err(|error| {
        Failure::new(ExitStatus::Bug, format!("cannot make `junit.xml`: {error}"))
    })?;
    write("junit.xml", &junit)?;
    write("report.html", &html::page(receipt, details))
}

/// One line per published tag.
/// Whose receipt must be attached to what is published, if one must be.
fn required_receipt(args: &RequireArgs) -> Result<Option<Trust>, Failure> {
    let says_whose = args.trust.verify_key.is_some() || args.trust.allow_unsigned;
    match (args.require_receipt, says_whose) {
        (true, _) => Trust::of(&args.trust).map(Some),
        (false, false) => Ok(None),
        (false, true) => Err(Failure::usage(
            "--verify-key and --allow-unsigned say which receipt is enough, and none is required",
        )
        .hint("add --require-receipt")),
    }
}

/// The key that the attached receipt is signed with, if it is.
fn sign_key(args: &PublishArgs) -> Result<Option<SigningKey>, Failure> {
    args.sign_key.as_deref().map(SigningKey::read).transpose()
}

fn published_refs(receipt: &Receipt) -> Vec<String> {
    receipt
        .published
        .iter()
        .map(|p| format!("{}@{}", p.reference, p.digest))
        .collect()
}
