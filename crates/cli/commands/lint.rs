//! `smokegate lint`: why the entrypoint could not start, without running it.

use std::collections::BTreeSet;

use serde_json::json;
use smokegate_image::Image;
use smokegate_lint::{Finding, IndexStore, Severity, Subject, lint};

use crate::args::{CommonArgs, Format, LintArgs};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::gate_file::LoadedFile;
use crate::linting;
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
    // Who has no home has no store, and needs none for this.
    let store = settings::store(common).ok();
    let indexes = store.and_then(|store| IndexStore::in_store(&store));
    let findings = pipeline::blocking({
        let image = image.clone();
        move || examine(&image, variables, indexes.as_ref())
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
    image: &Image,
    variables: Option<BTreeSet<String>>,
    indexes: Option<&IndexStore>,
) -> Result<Vec<Finding>, Failure> {
    let platform = image.selected();
    let tree = linting::tree(platform, image.limits(), indexes)?;
    Ok(lint(&Subject {
        variables,
        ..Subject::new(&tree, &platform.config)
    }))
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
