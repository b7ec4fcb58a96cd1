//! `smokegate ship`: gate an image, then publish the very bytes that passed to every tag.

use std::path::Path;
use std::time::Instant;

use smokegate_gate::Cleared;
use smokegate_image::{Digest, Image};
use smokegate_registry::{Publisher, Target};

use super::judged::Judged;
use super::run_target::{self, RunTarget};
use crate::args::{CommonArgs, Compress, PublishArgs, ShipArgs};
use crate::attestation::{Attachment, SigningKey};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::gate_file::LoadedFile;
use crate::pipeline;
use crate::preparation::{self, Preparation};
use crate::printer::Printer;
use crate::receipt::Receipt;
use crate::report::files;
use crate::settings;
use crate::sources::{Needed, Opened, Sources};

pub(crate) async fn run(
    args: ShipArgs,
    common: &CommonArgs,
    printer: Printer,
) -> Result<ExitStatus, Failure> {
    let file = LoadedFile::find(
        args.run.file.as_deref(),
        args.run.no_file,
        args.publish.tags.tag.is_empty(),
        printer,
    )?;
    let targets = match &file {
        Some(file) if args.publish.tags.tag.is_empty() => targets(&file.tags())?,
        _ => args.publish.tags.tag.clone(),
    };
    if targets.is_empty() {
        return Err(Failure::usage("no tag to publish to")
            .hint("name one or more with --tag REGISTRY/REPO:TAG, or only judge the image with `smokegate gate`"));
    }
    let key = SigningKey::of(&args.publish)?;
    if !args.run.plan && !args.run.variant.is_empty() && !args.publish.allow_partial {
        return Err(Failure::usage(
            "a run of some variants does not clear an image for publishing",
        )
        .hint("leave --variant out, or say --allow-partial"));
    }
    let foreign = file.as_ref().is_some_and(LoadedFile::names_platforms);
    let options = settings::open_options(&args.source, foreign);
    let spool = options.spool_dir.clone();
    let sources = Sources::new(&args.registry, common, printer);
    let target = RunTarget {
        sources: &sources,
        file: file.as_ref(),
        run: &args.run,
        source: &args.source,
        scratch: spool.clone(),
        printer,
    };
    let named = args.source.image.to_string();
    if args.run.plan {
        let tags: Vec<String> = targets.iter().map(ToString::to_string).collect();
        return target.show_plan(options, &tags, common.format).await;
    }
    let settings = run_target::gate_settings(file.as_ref(), &args.run, common)?;
    let image = args.source.image.clone();
    let needed = Needed::Everything;
    let Opened { image, took, .. } = sources.open("image", image, options, needed).await?;
    let mut receipt = Receipt::new(named, &image, took);
    let prepared = target
        .prepare(&image, &settings.id_map, &mut receipt)
        .await?;
    if prepared.partial && !args.publish.allow_partial {
        return Err(Failure::usage(
            "a run on some of the platforms that the gate file wants tested does not clear an image for publishing",
        )
        .hint("leave --platform out, or say --allow-partial"));
    }

    let publisher = sources.publisher()?;
    let (compress, ahead) = (args.publish.compress, args.upload_ahead);
    let packing = (compress, spool);
    let mut preparation = Preparation::new(&image, packing, publisher, &targets, ahead, printer)?;
    // A push that cannot succeed is found out before a minute is spent on running the image.
    let began = Instant::now();
    pipeline::create_repositories(publisher, &targets, &args.publish.tags, printer).await?;
    let is_as_it_is = compress == Compress::None;
    let digest = is_as_it_is.then(|| image.digest());
    publisher.check_targets(&targets, digest).await?;
    receipt.record_check(began.elapsed());

    let lint = run_target::lint_settings(&args.run, file.as_ref(), &settings)?;
    let mut preparing = Box::pin(preparation.carry_out(image.clone()));
    let mut ready = None;
    let gate = Judged::by_running(&image, &prepared, &settings, lint, &mut receipt, printer);
    let gated = {
        tokio::pin!(gate);
        loop {
            tokio::select! {
                gated = &mut gate => break Ok(gated?),
                done = &mut preparing, if ready.is_none() => match done {
                    Ok(done) => ready = Some(done),
                    Err(failure) => break Err(failure),
                },
            }
        }
    };
    let (judged, keeper) = match gated {
        Ok(gated) => gated,
        Err(failure) => {
            receipt.record_failure(&failure);
            files::write(&receipt, &[], &settings.report_dir)?;
            return Err(failure);
        }
    };

    let shipping = Shipping {
        args: &args.publish,
        key: key.as_ref(),
        publisher,
        targets: &targets,
        report_dir: &settings.report_dir,
        decided: Instant::now(),
        printer,
    };
    let published = match judged.verdict.clear(image) {
        // What is on its way is not waited for.
        Err(_) => {
            drop(preparing);
            Ok(())
        }
        Ok(cleared) => {
            let ready = match ready {
                Some(ready) => {
                    drop(preparing);
                    Ok(ready)
                }
                None => preparing.await,
            };
            let tested = &judged.verdict.manifests;
            match ready {
                Ok(ready) => {
                    shipping
                        .publish(cleared, tested, &ready, &mut receipt)
                        .await
                }
                Err(failure) => Err(failure),
            }
        }
    };
    if !receipt.published.is_empty() {
        preparation.was_published();
    }
    drop(preparation);
    if let Err(failure) = &published {
        receipt.record_failure(failure);
    }
    let status = judged.report(
        &receipt,
        &prepared,
        &settings.report_dir,
        common.format,
        printer,
    )?;
    published?;
    if let Some(keeper) = keeper {
        keeper
            .serve(status, common.store.as_deref(), printer)
            .await?;
    }
    Ok(status)
}

/// How an image that passed is published.
struct Shipping<'a> {
    args: &'a PublishArgs,
    key: Option<&'a SigningKey>,
    publisher: &'a Publisher,
    targets: &'a [Target],
    report_dir: &'a Path,
    /// When the verdict was there.
    decided: Instant,
    printer: Printer,
}

impl Shipping<'_> {
    /// Publishes an image as it was prepared, or shows how it would be, and records it.
    async fn publish(
        &self,
        cleared: Cleared<Image>,
        tested: &[Digest],
        ready: &preparation::Prepared,
        receipt: &mut Receipt,
    ) -> Result<(), Failure> {
        let (publisher, targets, printer) = (self.publisher, self.targets, self.printer);
        receipt.record_preparation(ready);
        // Compressed layers were compared when they were made, the others while they were run.
        let mut known_layers = pipeline::layers_of(cleared.get(), tested);
        known_layers.extend(ready.packed.made.iter().cloned());
        let cleared = cleared
            .packed_as(ready.packed.image.clone())
            .map_err(|error| Failure::new(ExitStatus::Bug, error.to_string()))?;
        let wanted = self.args.attach_receipt;
        let attachment = wanted.then(|| Attachment::new(receipt, cleared.get(), self.key));
        let mut options = settings::push_options(&self.args.tags, self.report_dir);
        options.ahead = Some(ready.ahead.clone());
        if self.args.tags.dry_run {
            let image = pipeline::with_receipt(cleared.get(), attachment.as_ref());
            return super::push::show_plan(publisher, &image, targets, &options, printer).await;
        }
        let (report, _) = pipeline::publish_cleared(
            &cleared,
            known_layers,
            attachment.as_ref(),
            publisher,
            targets,
            &options,
            printer,
        )
        .await?;
        receipt.record_push(&report, self.decided.elapsed());
        Ok(())
    }
}

/// The gate file's tags.
fn targets(written: &[String]) -> Result<Vec<Target>, Failure> {
    let parse = |tag: &String| {
        tag.parse()
            .map_err(|error| Failure::usage(format!("the gate file's tag `{tag}`: {error}")))
    };
    written.iter().map(parse).collect()
}
