//! The story of the tool: image → gate → clearance → push → receipt.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use smokegate_gate::{Cleared, GatePlan, RunEnvironment, Verdict};
use smokegate_image::{Compression, Image, ImageSource, OpenOptions};
use smokegate_registry::{Publisher, PushReport, Target};
use smokegate_sandbox::IdMap;
use tokio::sync::mpsc;

use crate::args::Compress;
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::report;
use crate::run_dir::RunDir;

/// Opens an image and says what there is to say about it.
pub(crate) async fn open(
    source: ImageSource,
    options: OpenOptions,
    printer: Printer,
) -> Result<(Image, Duration), Failure> {
    if let ImageSource::Registry { .. } = source {
        return Err(Failure::usage(format!(
            "`{source}`: this version does not read images from registries"
        ))
        .hint(format!(
            "copy it first: skopeo copy {source} oci-archive:image.tar"
        )));
    }
    let began = Instant::now();
    let named = source.to_string();
    let image = blocking(move || Image::open(&source, &options)).await??;
    printer.step(format!(
        "image: {named}, {} ({})",
        image.digest(),
        image.selected().platform
    ));
    for note in image.notes() {
        printer.step(format!("note: {}", crate::printer::harmless(note)));
    }
    Ok((image, began.elapsed()))
}

/// Compresses the layers of an image that has no manifest of its own.
pub(crate) async fn compress(
    image: Image,
    compress: Compress,
    dir: PathBuf,
    printer: Printer,
) -> Result<Image, Failure> {
    let compression = match compress {
        Compress::None => return Ok(image),
        Compress::Gzip => Compression::Gzip,
        Compress::Zstd => Compression::Zstd,
    };
    let image = blocking(move || image.recompress(compression, &dir)).await??;
    printer.step(format!("compressed: {}", image.digest()));
    Ok(image)
}

/// What a gate needs beside the image and the plan.
#[derive(Debug)]
pub(crate) struct GateSettings {
    pub(crate) store: PathBuf,
    pub(crate) report_dir: PathBuf,
    pub(crate) id_map: IdMap,
}

/// Runs every variant.
pub(crate) async fn gate(
    image: &Image,
    plan: &GatePlan,
    settings: &GateSettings,
    printer: Printer,
) -> Result<Verdict, Failure> {
    let store = &settings.store;
    std::fs::create_dir_all(store)
        .and_then(|()| RunDir::create(store))
        .map_err(|error| {
            let call = format!("making a directory in {}", store.display());
            Failure::from(smokegate_sandbox::HostError::store(&call, error))
        })
        .map(|run_dir| async move {
            let environment = RunEnvironment {
                store: settings.id_map.store_in(store),
                run_dir: run_dir.path(),
                log_dir: settings.report_dir.join("logs"),
                id_map: settings.id_map.clone(),
                limits: *image.limits(),
            };
            printer.step(format!("isolation: {}", settings.id_map.isolation()));
            let (sender, mut events) = mpsc::unbounded_channel();
            let show = async {
                while let Some(event) = events.recv().await {
                    report::progress::show(printer, &event);
                }
            };
            let run = async {
                let verdict = smokegate_gate::run(image, plan, &environment, &sender).await;
                drop(sender);
                verdict
            };
            let (verdict, ()) = tokio::join!(run, show);
            drop(run_dir);
            verdict.map_err(Failure::from)
        })?
        .await
}

/// Publishes an image that a verdict cleared.
pub(crate) async fn publish_cleared(
    cleared: &Cleared<Image>,
    publisher: &Publisher,
    targets: &[Target],
    printer: Printer,
) -> Result<(PushReport, Duration), Failure> {
    let image = cleared.get();
    // The layers that were run were verified when they were unpacked; the other platforms' were not.
    let tested: Vec<_> = image
        .selected()
        .layers
        .iter()
        .map(|layer| layer.diff_id.clone())
        .collect();
    let tested_blobs: Vec<_> = image
        .selected()
        .layers
        .iter()
        .map(|layer| layer.blob.digest().clone())
        .collect();
    let known = move |blob: &smokegate_image::LayerDigest, diff_id: &smokegate_image::DiffId| {
        tested.contains(diff_id) && tested_blobs.contains(&blob.0)
    };
    let clone = image.clone();
    blocking(move || clone.verify_layers(known)).await??;
    publish(image, publisher, targets, printer).await
}

/// Publishes an image whose every byte the caller has had verified.
pub(crate) async fn publish(
    image: &Image,
    publisher: &Publisher,
    targets: &[Target],
    printer: Printer,
) -> Result<(PushReport, Duration), Failure> {
    let began = Instant::now();
    let observer = std::sync::Arc::new(report::publishing::Progress(printer));
    let report = publisher
        .push(image, targets, observer)
        .await
        .map_err(|error| {
            let status = match error.kind() {
                _ if error.tags_moved() => ExitStatus::PublishedPartly,
                kind => crate::failure::registry_status(kind),
            };
            report::publishing::failure(status, &error)
        })?;
    report::publishing::summary(printer, &report);
    Ok((report, began.elapsed()))
}

/// Runs what blocks beside the runtime.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        Failure::new(
            ExitStatus::Bug,
            format!("a worker of smokegate ended early: {error}"),
        )
        .hint("this is a bug; please report it with the text above")
    })
}
