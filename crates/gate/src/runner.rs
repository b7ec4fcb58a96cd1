//! Runs a plan: fills the store for every image, runs the variants side by side, gathers the verdict.

use std::path::PathBuf;
use std::time::Instant;

use futures_util::StreamExt;
use smokegate_image::{Blob, Image, Limits, PlatformImage};
use smokegate_sandbox::{FillError, FilledLayer, FilledStore, IdMap, StoreRequest, fill_store};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use crate::event::Event;
use crate::kept::KeptPod;
use crate::mask::Mask;
use crate::plan::GatePlan;
use crate::variant::Variant;
use crate::verdict::Verdict;

/// Where a run keeps what it needs, as the caller settled it.
#[derive(Clone, Debug)]
pub struct RunEnvironment {
    /// The layer store.
    pub store: PathBuf,
    /// A directory of this run, removed by the caller afterwards.
    pub run_dir: PathBuf,
    /// Where `<variant>/<container>.log` files go.
    pub log_dir: PathBuf,
    /// The isolation level and what maps its ids.
    pub id_map: IdMap,
    /// What a layer may cost.
    pub limits: Limits,
    /// Who gets the pods of variants that did not pass, where they are to be kept.
    pub keeper: Option<UnboundedSender<KeptPod>>,
}

/// An image's layers that could not be unpacked.
#[derive(Debug, thiserror::Error)]
#[error("unpacking image {image} of the run")]
pub struct RunError {
    /// Which: 0 is the image under test, the others are those of the services.
    pub image: usize,
    /// Why.
    #[source]
    pub source: FillError,
}

/// Runs `plan` on the platforms of `image` that it names; `services` are the images that its containers name from 1 on.
///
/// Every variant is decided, also when another failed, unless the plan says that this stops it. Dropping the future ends every process.
///
/// # Errors
/// [`RunError`] when layers cannot be unpacked: nothing was run then.
pub async fn run(
    image: &Image,
    services: &[PlatformImage],
    plan: &GatePlan,
    environment: &RunEnvironment,
    events: &UnboundedSender<Event>,
) -> Result<Verdict, RunError> {
    let began = Instant::now();
    // The platforms that are run, then the services' images.
    let mut places: Vec<usize> = plan
        .variants
        .iter()
        .map(|variant| variant.platform)
        .collect();
    places.sort_unstable();
    places.dedup();
    let apps: Vec<&PlatformImage> = places.iter().map(|at| &image.platforms()[*at]).collect();
    let mut stores = Vec::new();
    for (number, one) in apps.iter().copied().chain(services).enumerate() {
        let request = StoreRequest {
            store: environment.store.clone(),
            id_map: &environment.id_map,
            image: one,
            limits: environment.limits,
        };
        let filled = fill_store(request).await;
        stores.push(filled.map_err(|source| RunError {
            image: (number + 1).saturating_sub(apps.len()),
            source,
        })?);
    }
    let (app_stores, service_stores) = stores.split_at(apps.len());
    let layers: Vec<&FilledLayer> = stores.iter().flat_map(FilledStore::layers).collect();
    let not_kept = not_kept(app_stores.iter().flat_map(FilledStore::layers));
    let filled = began.elapsed();
    let _ = events.send(Event::LayersReady {
        layers: layers.len(),
        cached: layers.iter().filter(|layer| layer.cached).count(),
        written: layers
            .iter()
            .filter(|layer| !layer.cached)
            .map(|layer| layer.bytes)
            .sum(),
        not_kept: not_kept.clone(),
    });
    // For each platform: the app's layers, then those of the services.
    let roots: Vec<Vec<Vec<PathBuf>>> = app_stores
        .iter()
        .map(|app| {
            std::iter::once(app)
                .chain(service_stores)
                .map(top_first)
                .collect()
        })
        .collect();
    let mask = Mask::of(plan);
    let failed = watch::channel(None::<String>).0;
    let running = plan.variants.iter().map(|variant| async {
        let at = places.partition_point(|place| *place < variant.platform);
        let running = Variant {
            plan: variant,
            environment,
            platform: &apps[at].platform,
            layers: &roots[at],
            mask: &mask,
            events,
        };
        let mut stop = failed.subscribe();
        let stopped = async {
            // Cloned at once: what is borrowed cannot be set by the next variant that does not pass.
            let by = stop.wait_for(|by| by.is_some() && plan.fail_fast).await;
            let by = by.ok().and_then(|by| by.clone());
            match by {
                Some(by) => running.stopped(by),
                None => std::future::pending().await,
            }
        };
        // A value of its own: a borrowed one would be held while the variant runs, and nobody could set it.
        let earlier = failed.borrow().clone().filter(|_| plan.fail_fast);
        // Dropping a variant that runs ends its pod.
        let (verdict, not_given) = match earlier {
            Some(by) => (running.stopped(by), Vec::new()),
            None => tokio::select! {
                biased;
                ended = running.run() => ended,
                verdict = stopped => (verdict, Vec::new()),
            },
        };
        if !verdict.decision.passed() && !verdict.decision.was_stopped() {
            failed.send_if_modified(|first| {
                let is_first = first.is_none();
                first.get_or_insert_with(|| variant.name.clone());
                is_first
            });
        }
        let _ = events.send(Event::Decided(Box::new(verdict.clone())));
        (verdict, not_given)
    });
    let all = futures_util::stream::iter(running)
        .buffered(plan.parallel.max(1))
        .collect::<Vec<_>>();
    // A layer that the store had was not read from this source: that its bytes are the ones its digest names is
    // found out beside the run, and before the verdict.
    let verifying = async {
        for (app, store) in apps.iter().zip(app_stores) {
            verify_cached(app, store.layers()).await?;
        }
        Ok(())
    };
    let (decided, verified) = futures_util::future::join(all, verifying).await;
    verified.map_err(|source| RunError { image: 0, source })?;
    let (variants, not_given): (Vec<_>, Vec<_>) = decided.into_iter().unzip();
    let mut not_tested = not_kept;
    not_tested.extend(not_given.into_iter().flatten());
    not_tested.sort();
    not_tested.dedup();
    Ok(Verdict {
        image: image.digest().clone(),
        manifests: apps.iter().map(|app| app.manifest.clone()).collect(),
        isolation: environment.id_map.isolation(),
        not_tested,
        variants,
        layers: filled,
    })
}

/// Reads the blobs of layers that were not unpacked in this run, and compares size and digest.
async fn verify_cached(image: &PlatformImage, layers: &[FilledLayer]) -> Result<(), FillError> {
    let blobs = image
        .layers
        .iter()
        .zip(layers)
        .filter(|(_, stored)| stored.cached);
    let blobs: Vec<Blob> = blobs.map(|(layer, _)| layer.blob.clone()).collect();
    let read = tokio::task::spawn_blocking(move || {
        let mut buffer = vec![0; 256 * 1024];
        for blob in blobs {
            let mut reader = blob.open();
            loop {
                match std::io::Read::read(&mut reader, &mut buffer) {
                    Ok(0) => break,
                    Ok(_) => {}
                    Err(error) => return Err(format!("layer blob {error}")),
                }
            }
        }
        Ok(())
    });
    match read.await {
        Ok(result) => result.map_err(FillError::Image),
        Err(error) => Err(FillError::Image(format!(
            "the layers could not be read: {error}"
        ))),
    }
}

/// Directories of an image's layers as overlayfs wants them.
fn top_first(store: &FilledStore) -> Vec<PathBuf> {
    store
        .layers()
        .iter()
        .rev()
        .map(|layer| layer.path.clone())
        .collect()
}

fn not_kept<'a>(layers: impl Iterator<Item = &'a FilledLayer>) -> Vec<String> {
    let mut all: Vec<String> = layers.flat_map(|layer| layer.not_kept.clone()).collect();
    all.sort();
    all.dedup();
    all
}
