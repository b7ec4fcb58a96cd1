//! The story of the tool: image → gate → clearance → push → receipt.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smokegate_gate::{Cleared, Event, RunEnvironment, Verdict};
use smokegate_image::{Compression, DiffId, Digest, Image, Layer, LayerDigest, Recompressed};
use smokegate_registry::{Publisher, PushError, PushOptions, PushReport, TagState, Target};
use smokegate_sandbox::IdMap;
use tokio::sync::{mpsc, oneshot};

use crate::args::{Compress, TagArgs};
use crate::attestation::Attachment;
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::gate_file::Prepared;
use crate::kept::Keeper;
use crate::printer::Printer;
use crate::report;
use crate::run_dir::RunDir;
use crate::settings;

/// Compresses the layers of an image that has no manifest of its own.
pub(crate) async fn compress(
    image: Image,
    compress: Compress,
    dir: PathBuf,
    printer: Printer,
) -> Result<Recompressed, Failure> {
    let Some(compression) = compression(compress) else {
        return Ok(image.into());
    };
    let done = blocking(move || image.recompress(compression, &dir)).await??;
    printer.step(format!("compressed: {}", done.image.digest()));
    Ok(done)
}

/// How layers are compressed; `None` where they stay as they are.
pub(crate) fn compression(compress: Compress) -> Option<Compression> {
    match compress {
        Compress::None => None,
        Compress::Gzip => Some(Compression::Gzip),
        Compress::Zstd => Some(Compression::Zstd),
    }
}

/// What a gate needs beside the image and the plan.
#[derive(Debug)]
pub(crate) struct GateSettings {
    pub(crate) store: PathBuf,
    pub(crate) report_dir: PathBuf,
    pub(crate) id_map: IdMap,
    pub(crate) keep_on_failure: bool,
}

/// Runs every variant, and tells `unpacked` when all layers are in the store. Also gives what keeps the pods of those that did not pass, where that is asked for.
pub(crate) async fn gate(
    image: &Image,
    prepared: &Prepared,
    settings: &GateSettings,
    unpacked: oneshot::Sender<()>,
    printer: Printer,
) -> Result<(Verdict, Option<Keeper>), Failure> {
    let store = &settings.store;
    let run_dir = RunDir::below(store)?;
    let (keep, kept) = mpsc::unbounded_channel();
    let environment = RunEnvironment {
        store: settings.id_map.store_in(store),
        run_dir: run_dir.path(),
        log_dir: settings.report_dir.join("logs"),
        id_map: settings.id_map.clone(),
        limits: *image.limits(),
        keeper: settings.keep_on_failure.then_some(keep),
    };
    printer.step(format!("isolation: {}", settings.id_map.isolation()));
    let (sender, mut events) = mpsc::unbounded_channel();
    let show = async {
        let mut unpacked = Some(unpacked);
        while let Some(event) = events.recv().await {
            if let Event::LayersReady { .. } = event
                && let Some(unpacked) = unpacked.take()
            {
                // Lint may not be wanted.
                let _ = unpacked.send(());
            }
            report::progress::show(printer, &event);
        }
    };
    let run = async {
        let Prepared { plan, services, .. } = prepared;
        let verdict = smokegate_gate::run(image, services, plan, &environment, &sender).await;
        drop(sender);
        verdict
    };
    let (verdict, ()) = tokio::join!(run, show);
    let verdict = verdict?;
    let keeper = match settings.keep_on_failure {
        true => Keeper::of(kept, run_dir, &verdict, printer),
        false => None,
    };
    Ok((verdict, keeper))
}

/// Publishes an image that a verdict cleared, with its receipt. The layers that are not known are verified.
pub(crate) async fn publish_cleared(
    cleared: &Cleared<Image>,
    known_layers: HashSet<(LayerDigest, DiffId)>,
    receipt: Option<&Attachment>,
    publisher: &Publisher,
    targets: &[Target],
    options: &PushOptions,
    printer: Printer,
) -> Result<(PushReport, Duration), Failure> {
    let image = cleared.get();
    let options = PushOptions {
        known_layers: Arc::new(known_layers),
        ..options.clone()
    };
    let image = with_receipt(image, receipt);
    publish(&image, publisher, targets, &options, printer).await
}

/// The layers of the platforms that were run. They have been verified; those of the others have not.
pub(crate) fn layers_of(image: &Image, tested: &[Digest]) -> HashSet<(LayerDigest, DiffId)> {
    let pair = |layer: &Layer| {
        (
            LayerDigest(layer.blob.digest().clone()),
            layer.diff_id.clone(),
        )
    };
    let tested = image
        .platforms()
        .iter()
        .filter(|one| tested.contains(&one.manifest));
    tested.flat_map(|one| one.layers.iter().map(pair)).collect()
}

/// The image with its receipt attached, where it is to be.
pub(crate) fn with_receipt(image: &Image, receipt: Option<&Attachment>) -> Image {
    receipt.map_or_else(|| image.clone(), |receipt| receipt.to(image))
}

/// Publishes an image, and verifies what is not known of it meanwhile.
pub(crate) async fn publish(
    image: &Image,
    publisher: &Publisher,
    targets: &[Target],
    options: &PushOptions,
    printer: Printer,
) -> Result<(PushReport, Duration), Failure> {
    let began = Instant::now();
    let observer = Arc::new(report::publishing::Progress {
        printer,
        root: Some(image.digest().clone()),
    });
    let report = publisher
        .push(image, targets, options, observer)
        .await
        .map_err(|error| {
            let stays = error.content_is_there && !image.referrers().is_empty();
            let failure = push_failure(error);
            match stays {
                true => failure.evidence(format!(
                    "what is attached to {}, such as its receipt, stays: it is about the digest, not about a tag",
                    image.digest()
                )),
                false => failure,
            }
        })?;
    report::publishing::summary(printer, &report);
    Ok((report, began.elapsed()))
}

fn push_failure(error: PushError) -> Failure {
    // The image is at fault, whatever was being done with it.
    if let smokegate_registry::Error::Image(source) = *error.source {
        return Failure::from(source).evidence("no manifest and no tag was written");
    }
    let status = match error.kind() {
        _ if error.tags_moved() => ExitStatus::PublishedPartly,
        kind => crate::failure::registry_status(kind),
    };
    report::publishing::failure(status, &error)
}

/// Makes missing repositories, where that is asked for and nothing is only shown.
pub(crate) async fn create_repositories(
    publisher: &Publisher,
    targets: &[Target],
    tags: &TagArgs,
    printer: Printer,
) -> Result<(), Failure> {
    let Some(settings) = settings::repository_settings(tags) else {
        return Ok(());
    };
    if tags.dry_run {
        return Ok(());
    }
    let created = publisher.create_repositories(targets, &settings).await?;
    for made in created.made {
        printer.step(format!("made the repository {made}"));
    }
    for left in created.left_to_registry {
        printer.always(format!(
            "note: --create-repository does nothing for {left}: only Amazon ECR has an API for it; other registries make a repository at the first push, or their owners do"
        ));
    }
    Ok(())
}

/// Finishes the push that left a journal: what its tags point to, and the tags.
pub(crate) async fn resume(
    publisher: &Publisher,
    journal: &Path,
    options: &PushOptions,
    printer: Printer,
) -> Result<(Digest, Vec<TagState>), Failure> {
    report::publishing::begin_moving();
    let observer = Arc::new(report::publishing::Progress {
        printer,
        root: None,
    });
    let resumed = publisher.resume(journal, options, observer).await;
    resumed.map_err(push_failure)
}

/// Puts back what the push that left a journal has moved.
pub(crate) async fn undo(
    publisher: &Publisher,
    journal: &Path,
    printer: Printer,
) -> Result<Vec<TagState>, Failure> {
    report::publishing::begin_moving();
    let observer = Arc::new(report::publishing::Progress {
        printer,
        root: None,
    });
    publisher
        .undo(journal, observer)
        .await
        .map_err(push_failure)
}

/// Runs what blocks beside the runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|error| no_worker(&error))
}

/// A thread that was not started or did not end well.
pub(crate) fn no_worker(error: &dyn std::error::Error) -> Failure {
    Failure::new(
        ExitStatus::Bug,
        format!("a worker of smokegate ended early: {error}"),
    )
    .hint("this is a bug; please report it with the text above")
}
