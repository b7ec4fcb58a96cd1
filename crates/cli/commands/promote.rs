//! `smokegate promote`: tags for what is in a registry already, without changing a byte of it.

use std::time::Instant;

use smokegate_image::ImageSource;

use crate::args::{CommonArgs, PromoteArgs};
use crate::attestation::{Trust, clear_attached};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::pipeline;
use crate::printer::Printer;
use crate::receipt::Receipt;
use crate::settings;
use crate::sources::Sources;

pub(crate) async fn run(
    args: PromoteArgs,
    common: &CommonArgs,
    printer: Printer,
) -> Result<ExitStatus, Failure> {
    let trust = Trust::required(&args.require)?;
    let targets = args.tags.tag.clone();
    if targets.is_empty() {
        return Err(Failure::usage("no tag to promote to")
            .hint("name one or more with --tag REGISTRY/REPO:TAG"));
    }
    if !matches!(args.source, ImageSource::Registry { .. }) {
        return Err(Failure::usage(format!(
            "`{}` is not in a registry, and what is promoted must be",
            args.source
        ))
        .hint("publish it with `smokegate push`, or ship it"));
    }
    let named = args.source.to_string();
    let sources = Sources::new(&args.registry, common, printer);
    let opened = sources
        .refer(&args.source, settings::any_platform())
        .await?;
    let image = &opened.image;
    printer.step(format!("image: {named}, {}", image.digest()));
    if let Some(trust) = &trust {
        let accepted = clear_attached(image, &named, opened.source.as_ref(), trust).await?;
        printer.step(format!("receipt: a complete pass, {}", accepted.signer));
    }
    let publisher = sources.publisher()?;
    let began = Instant::now();
    pipeline::create_repositories(publisher, &targets, &args.tags, printer).await?;
    publisher
        .check_targets(&targets, Some(image.digest()))
        .await?;
    let checked = began.elapsed();
    let mut options = settings::push_options(&args.tags, &args.report_dir);
    options.source = opened.source;
    if args.tags.dry_run {
        super::push::show_plan(publisher, image, &targets, &options, printer).await?;
        return Ok(ExitStatus::Success);
    }
    let (report, took) = pipeline::publish(image, publisher, &targets, &options, printer).await?;
    let mut receipt = Receipt::new(named, image, opened.took);
    receipt.record_check(checked);
    receipt.record_push(&report, took);
    super::push::show_published(&receipt, common.format, printer);
    Ok(ExitStatus::Success)
}
