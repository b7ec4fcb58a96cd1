//! `smokegate lint`: why the entrypoint could not start, without running it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use smokegate_gate::{Decision, Reason, VariantPlan, Verdict};
use smokegate_image::{Digest, Image, ImageConfig, PlatformImage, with_causes};
use smokegate_lint::{Finding, ImageTree, LayerIndex, Severity, Subject, lint};
use smokegate_rootfs::ErrorKind;

use crate::args::{CommonArgs, Format, LintArgs, RunArgs};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::gate_file::{LoadedFile, Prepared};
use crate::pipeline;
use crate::printer::{Printer, harmless};
use crate::report::sarif;
use crate::settings;
use crate::sources::{Needed, Sources};

pub(crate) async fn run(
    args: LintArgs,
    common: &CommonArgs,
    printer: Printer,
) -> Result<ExitStatus, Failure> {
    let file = LoadedFile::find(args.file.as_deref(), args.no_file, false, printer)?;
    let variables = file.as_ref().map(LoadedFile::variables).transpose()?;
    let mut options = settings::open_options(&args.source, false);
    // Nothing is run, so that an image for another platform is as good.
    options.require_platform = args.source.platform.is_some();
    let sources = Sources::new(&args.registry, common, printer);
    let opened = sources
        .open("image", args.source.image, options, Needed::Layers)
        .await?;
    let image = opened.image;
    let findings = pipeline::blocking({
        let image = image.clone();
        move || examine(image.selected(), variables)
    })
    .await??;
    match common.format {
        Format::Json => printer.data(format!(
            "{:#}",
            json!({
                "image": image.digest(),
                "platform": image.selected().platform,
                "findings": findings,
            })
        )),
        Format::Sarif => printer.data(format!("{:#}", sarif::document(&findings))),
        Format::Human => show(&image, &findings, printer),
    }
    let worst = findings.iter().map(|finding| finding.severity).max();
    Ok(match worst {
        Some(Severity::Error) => ExitStatus::GateFailed,
        _ => ExitStatus::Success,
    })
}

fn examine(
    image: &PlatformImage,
    variables: Option<BTreeSet<String>>,
) -> Result<Vec<Finding>, Failure> {
    let tree = tree(image)?;
    Ok(lint(&Subject {
        variables,
        ..Subject::new(&tree, &image.config)
    }))
}

/// For each variant whose app did not start or ended: the first error that lint finds in what it ran; nothing with
/// `--no-lint`.
///
/// Layers are read for those alone, so that a run that passes is not slower. A layer that cannot be read explains
/// nothing; whoever ran it has said so.
pub(super) async fn explain(
    run: &RunArgs,
    image: &Image,
    prepared: &Prepared,
    verdict: &Verdict,
) -> BTreeMap<String, Finding> {
    if run.no_lint {
        return BTreeMap::new();
    }
    let ended = |plan: &&VariantPlan| {
        let mut verdicts = verdict.variants.iter();
        verdicts.any(|variant| variant.name == plan.name && has_ended(&variant.decision))
    };
    let plans = prepared.plan.variants.iter().filter(ended).cloned();
    let (plans, image) = (plans.collect::<Vec<_>>(), image.clone());
    let explained = pipeline::blocking(move || {
        let mut trees = BTreeMap::new();
        let mut explained = BTreeMap::new();
        for plan in plans {
            let platform = &image.platforms()[plan.platform];
            let tree = trees
                .entry(plan.platform)
                .or_insert_with(|| tree(platform).ok());
            if let Some(finding) = tree
                .as_ref()
                .and_then(|tree| cause_of(&plan, platform, tree))
            {
                explained.insert(plan.name, finding);
            }
        }
        explained
    });
    explained.await.unwrap_or_default()
}

fn has_ended(decision: &Decision) -> bool {
    matches!(
        decision,
        Decision::Failed(Reason::NotStarted(_) | Reason::Exited(_) | Reason::Completed { .. })
    )
}

/// What is mounted over the image may be what lint misses in it.
fn cause_of(plan: &VariantPlan, image: &PlatformImage, tree: &ImageTree) -> Option<Finding> {
    let app = &plan.app;
    // The health check is not what ended it.
    let config = ImageConfig {
        healthcheck: None,
        ..image.config.clone()
    };
    let findings = lint(&Subject {
        argv: app.args.clone(),
        env: app.env.clone(),
        user: app.user.clone(),
        working_dir: app.working_dir.clone(),
        ..Subject::new(tree, &config)
    });
    let is_mounted = |finding: &Finding| {
        let mut places = finding.evidence.iter();
        places.any(|place| {
            app.volumes
                .iter()
                .any(|volume| place.path.starts_with(&volume.target))
        })
    };
    let mut errors = findings
        .into_iter()
        .filter(|finding| finding.severity == Severity::Error);
    errors.find(|finding| !is_mounted(finding))
}

fn tree(image: &PlatformImage) -> Result<ImageTree, Failure> {
    let limits = smokegate_rootfs::Limits::default();
    let mut indexes = Vec::new();
    for layer in &image.layers {
        let index = layer
            .open_tar()
            .map_err(smokegate_rootfs::Error::Read)
            .and_then(|tar| LayerIndex::read(tar, &limits))
            .map_err(|error| unreadable(layer.blob.digest(), &error))?;
        indexes.push(index);
    }
    Ok(ImageTree::new(&indexes))
}

fn unreadable(layer: &Digest, error: &smokegate_rootfs::Error) -> Failure {
    let status = match error.kind() {
        ErrorKind::Image => ExitStatus::Image,
        ErrorKind::Host => ExitStatus::Host,
    };
    Failure::new(status, format!("layer {layer}: {}", with_causes(error)))
        .hint("build or copy the image again")
}

fn show(image: &Image, findings: &[Finding], printer: Printer) {
    for finding in findings {
        let Finding {
            id,
            severity,
            message,
            ..
        } = finding;
        printer.data(harmless(&format!("{severity}[{id}]: {message}")));
        for evidence in &finding.evidence {
            printer.data(harmless(&format!("  {evidence}")));
        }
        printer.data(harmless(&format!("  fix: {}", finding.fix)));
    }
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    printer.data(format!(
        "{} ({}): errors: {}, warnings: {}, hints: {}",
        image.digest(),
        image.selected().platform,
        count(Severity::Error),
        count(Severity::Warning),
        count(Severity::Hint),
    ));
}
