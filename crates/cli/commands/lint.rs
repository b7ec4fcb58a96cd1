//! `smokegate lint`: why the entrypoint could not start, without running it.

use std::collections::BTreeSet;
use std::error::Error;

use serde_json::json;
use smokegate_image::{Digest, Image, PlatformImage};
use smokegate_lint::{Finding, ImageTree, LayerIndex, Severity, Subject, lint};
use smokegate_rootfs::ErrorKind;

use crate::args::{CommonArgs, Format, LintArgs};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::gate_file::LoadedFile;
use crate::pipeline;
use crate::printer::{Printer, harmless};
use crate::report::sarif;
use crate::settings;

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
    let (image, _) = pipeline::open("image", args.source.image, options, printer).await?;
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
    let tree = ImageTree::new(&indexes);
    Ok(lint(&Subject {
        variables,
        ..Subject::new(&tree, &image.config)
    }))
}

fn unreadable(layer: &Digest, error: &smokegate_rootfs::Error) -> Failure {
    let status = match error.kind() {
        ErrorKind::Image => ExitStatus::Image,
        ErrorKind::Host => ExitStatus::Host,
    };
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    Failure::new(status, format!("layer {layer}: {text}")).hint("build or copy the image again")
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
