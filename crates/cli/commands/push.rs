//! `smokegate push`: publish an image without running it. Never unshares.

use std::path::Path;

use smokegate_image::Image;
use smokegate_registry::{Publisher, Target};

use crate::args::{CommonArgs, Format, PushArgs};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::pipeline;
use crate::printer::Printer;
use crate::receipt::Receipt;
use crate::settings;
use crate::sources::{Needed, Opened, Sources};

pub(crate) async fn run(
    args: PushArgs,
    common: &CommonArgs,
    printer: Printer,
) -> Result<ExitStatus, Failure> {
    if let Some(journal) = &args.resume {
        return resume(journal, &args, printer).await;
    }
    let Some(source) = args.source else {
        return Err(Failure::usage("no IMAGE to publish").hint(
            "name an archive or layout, or the journal of an unfinished push with --resume",
        ));
    };
    let targets = args.publish.tag.clone();
    if targets.is_empty() {
        return Err(Failure::usage("no tag to publish to")
            .hint("name one or more with --tag REGISTRY/REPO:TAG"));
    }
    let named = source.image.to_string();
    let mut options = settings::open_options(&source, false);
    // An image for another platform can be published as well as any.
    options.require_platform = source.platform.is_some();
    let spool = options.spool_dir.clone();
    let sources = Sources::new(&args.registry, common, printer);
    let Opened {
        image,
        took: opened,
        ..
    } = sources
        .open("image", source.image, options, Needed::Everything)
        .await?;
    let image = pipeline::compress(image, args.publish.compress, spool, printer).await?;
    if let Some(receipt) = &args.receipt {
        Receipt::must_clear(receipt, image.digest())?;
    }
    let publisher = Publisher::new(
        settings::registry_options(&args.registry)?,
        &settings::credential_environment(),
    )?;
    pipeline::create_repositories(&publisher, &targets, &args.publish, printer).await?;
    publisher
        .check_targets(&targets, Some(image.digest()))
        .await?;
    if args.publish.dry_run {
        show_plan(&publisher, &image, &targets, printer).await?;
        return Ok(ExitStatus::Success);
    }
    // Nothing was run, so nothing was verified yet.
    let clone = image.clone();
    pipeline::blocking(move || clone.verify_layers(|_, _| false)).await??;
    let options = settings::push_options(&args.publish, &args.report_dir);
    let (report, took) = pipeline::publish(&image, &publisher, &targets, &options, printer).await?;
    let mut receipt = Receipt::new(named, &image, opened);
    receipt.record_push(&report, took);
    match common.format {
        Format::Json => printer.data(receipt.to_json().trim_end()),
        Format::Human | Format::Sarif => super::published_refs(&receipt)
            .iter()
            .for_each(|r| printer.data(r)),
    }
    Ok(ExitStatus::Success)
}

/// Finishes or undoes what a journal is about.
async fn resume(journal: &Path, args: &PushArgs, printer: Printer) -> Result<ExitStatus, Failure> {
    let publisher = Publisher::new(
        settings::registry_options(&args.registry)?,
        &settings::credential_environment(),
    )?;
    if args.undo {
        let tags = pipeline::undo(&publisher, journal, printer).await?;
        for tag in tags {
            printer.step(format!("{}: {}", tag.target, tag.now));
        }
        return Ok(ExitStatus::Success);
    }
    let options = settings::push_options(&args.publish, &args.report_dir);
    let (digest, tags) = pipeline::resume(&publisher, journal, &options, printer).await?;
    for tag in tags {
        printer.data(format!("{}@{digest}", tag.target));
    }
    Ok(ExitStatus::Success)
}

/// Shows on standard output what a push would do.
pub(super) async fn show_plan(
    publisher: &Publisher,
    image: &Image,
    targets: &[Target],
    printer: Printer,
) -> Result<(), Failure> {
    let state = publisher.remote_state(image, targets).await?;
    printer.data(
        smokegate_registry::plan(image, targets, &state)
            .to_string()
            .trim_end(),
    );
    Ok(())
}
