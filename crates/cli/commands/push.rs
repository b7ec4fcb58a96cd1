//! `smokegate push`: publish an image without running it. Never unshares.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use smokegate_image::{Image, Recompressed};
use smokegate_registry::{Publisher, PushOptions, Target};

use crate::args::{CommonArgs, Format, PushArgs};
use crate::attestation::{Attachment, SigningKey, Trust, clear_attached};
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
        return resume(journal, &args, common, printer).await;
    }
    let Some(source) = args.source else {
        return Err(Failure::usage("no IMAGE to publish").hint(
            "name an archive or layout, or the journal of an unfinished push with --resume",
        ));
    };
    if args.publish.attach_receipt && args.receipt.is_none() {
        return Err(Failure::usage("no receipt to attach: nothing is run here")
            .hint("name the one that smokegate gate has written with --receipt FILE"));
    }
    let trust = Trust::required(&args.require)?;
    let key = SigningKey::of(&args.publish)?;
    let targets = args.publish.tags.tag.clone();
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
    let Recompressed { image, made } =
        pipeline::compress(image, args.publish.compress, spool, printer).await?;
    let cleared_by = match &args.receipt {
        Some(path) => {
            let allow_partial = args.publish.allow_partial;
            Some(Receipt::must_clear(path, image.digest(), allow_partial)?)
        }
        None => None,
    };
    if let Some(trust) = &trust {
        let accepted = clear_attached(&image, &named, None, trust).await?;
        printer.step(format!("receipt: a complete pass, {}", accepted.signer));
    }
    // A complete pass for this very digest says of the layers that were run that they were read and compared.
    let mut known_layers = made;
    if let Some(receipt) = &cleared_by {
        let tested = receipt.image.tested.iter().map(|one| one.manifest.clone());
        known_layers.extend(pipeline::layers_of(&image, &tested.collect::<Vec<_>>()));
    }
    let attached = cleared_by
        .filter(|_| args.publish.attach_receipt)
        .map(|receipt| Attachment::new(&receipt, &image, key.as_ref()));
    let image = pipeline::with_receipt(&image, attached.as_ref());
    let publisher = sources.publisher()?;
    let began = Instant::now();
    pipeline::create_repositories(publisher, &targets, &args.publish.tags, printer).await?;
    publisher
        .check_targets(&targets, Some(image.digest()))
        .await?;
    let checked = began.elapsed();
    let mut options = settings::push_options(&args.publish.tags, &args.report_dir);
    options.known_layers = Arc::new(known_layers);
    if args.publish.tags.dry_run {
        show_plan(publisher, &image, &targets, &options, printer).await?;
        return Ok(ExitStatus::Success);
    }
    let (report, took) = pipeline::publish(&image, publisher, &targets, &options, printer).await?;
    let mut receipt = Receipt::new(named, &image, opened);
    receipt.record_check(checked);
    receipt.record_push(&report, took);
    show_published(&receipt, common.format, printer);
    Ok(ExitStatus::Success)
}

/// Shows on standard output what was published.
pub(super) fn show_published(receipt: &Receipt, format: Format, printer: Printer) {
    match format {
        Format::Json => printer.data(receipt.to_json().trim_end()),
        Format::Human | Format::Sarif => receipt
            .published_refs()
            .iter()
            .for_each(|r| printer.data(r)),
    }
}

/// Finishes or undoes what a journal is about.
async fn resume(
    journal: &Path,
    args: &PushArgs,
    common: &CommonArgs,
    printer: Printer,
) -> Result<ExitStatus, Failure> {
    let sources = Sources::new(&args.registry, common, printer);
    let publisher = sources.publisher()?;
    if args.undo {
        let tags = pipeline::undo(publisher, journal, printer).await?;
        for tag in tags {
            printer.step(format!("{}: {}", tag.target, tag.now));
        }
        return Ok(ExitStatus::Success);
    }
    let options = settings::push_options(&args.publish.tags, &args.report_dir);
    let (digest, tags) = pipeline::resume(publisher, journal, &options, printer).await?;
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
    options: &PushOptions,
    printer: Printer,
) -> Result<(), Failure> {
    let plan = publisher.plan(image, targets, options).await?;
    printer.data(plan.to_string().trim_end());
    Ok(())
}
