//! Runs a plan: fills the store for every image and runs the variants beside it, gathers the verdict.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use futures_util::StreamExt;
use smokegate_image::{Blob, Image, Limits, PlatformImage, StageTimes};
use smokegate_sandbox::{FillError, FilledLayer, FilledStore, IdMap, StoreRequest, fill_store};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;

use crate::courteous::spawn_courteous;
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

/// An image's layers, top first, which may still be unpacked.
#[derive(Clone, Debug)]
pub(crate) struct UnpackedLayers(watch::Receiver<Option<Vec<PathBuf>>>);

impl UnpackedLayers {
    fn channel() -> (watch::Sender<Option<Vec<PathBuf>>>, Self) {
        let (sender, receiver) = watch::channel(None);
        (sender, Self(receiver))
    }

    /// Waits until the store has them: forever where they cannot be unpacked, which ends the run.
    pub(crate) async fn wait(&self) -> Vec<PathBuf> {
        let mut layers = self.0.clone();
        let unpacked = layers.wait_for(Option::is_some).await;
        match unpacked.ok().and_then(|layers| layers.clone()) {
            Some(layers) => layers,
            None => std::future::pending().await,
        }
    }
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
/// Pods are made while layers are unpacked, and services are started as soon as their own are there. Every variant is
/// decided, also when another failed, unless the plan says that this stops it. Dropping the future ends every process.
///
/// # Errors
/// [`RunError`] when layers cannot be unpacked: nothing was decided then, and what ran has been ended.
pub async fn run(
    image: &Image,
    services: &[PlatformImage],
    plan: &GatePlan,
    environment: &RunEnvironment,
    events: &UnboundedSender<Event>,
) -> Result<Verdict, RunError> {
    // The platforms that are run, then the services' images.
    let mut places: Vec<usize> = plan
        .variants
        .iter()
        .map(|variant| variant.platform)
        .collect();
    places.sort_unstable();
    places.dedup();
    let apps: Vec<&PlatformImage> = places.iter().map(|at| &image.platforms()[*at]).collect();
    let images: Vec<&PlatformImage> = apps.iter().copied().chain(services).collect();
    let ready: Vec<_> = images.iter().map(|_| UnpackedLayers::channel()).collect();
    // For each platform: the app's layers, then those of the services.
    let roots: Vec<Vec<UnpackedLayers>> = (0..apps.len())
        .map(|app| {
            let of_services = ready[apps.len()..].iter();
            std::iter::once(&ready[app])
                .chain(of_services)
                .map(|(_, layers)| layers.clone())
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
    // The next begins when any of them has ended, and they are told of in the plan's order.
    let numbered = running.enumerate();
    let numbered = numbered.map(|(number, one)| async move { (number, one.await) });
    let all = futures_util::stream::iter(numbered)
        .buffer_unordered(plan.parallel.max(1))
        .collect::<BTreeMap<_, _>>();
    let filling = async {
        let began = Instant::now();
        let mut stores = Vec::new();
        // Services have to be ready before the app is started: their layers are unpacked first.
        let order = (apps.len()..images.len()).chain(0..apps.len());
        for at in order {
            let failed = |source| RunError {
                image: (at + 1).saturating_sub(apps.len()),
                source,
            };
            let request = StoreRequest {
                store: environment.store.clone(),
                id_map: &environment.id_map,
                image: images[at],
                limits: environment.limits,
            };
            let store = fill_store(request).await.map_err(failed)?;
            let layers = top_first(&store);
            stores.push(store);
            if stores.len() == images.len() {
                // Before the app can be heard of.
                let _ = events.send(layers_ready(&stores, services.len()));
            }
            ready[at].0.send_replace(Some(layers));
        }
        let took = began.elapsed();
        // A layer that the store had was not read from this source: that its bytes are the ones its digest names is
        // found out beside the run, and before the verdict.
        for (app, store) in apps.iter().zip(&stores[services.len()..]) {
            let verified = verify_cached(app, store.layers()).await;
            verified.map_err(|source| RunError { image: 0, source })?;
        }
        Ok((stores, took))
    };
    // What runs ends with the first image that cannot be unpacked. Filling is polled first: it makes the store, which
    // pods mount.
    let decided = async { Ok(all.await) };
    let ((stores, filled), decided) = futures_util::future::try_join(filling, decided).await?;
    let not_kept = not_kept(
        stores[services.len()..]
            .iter()
            .flat_map(FilledStore::layers),
    );
    let mut unpacking = StageTimes::default();
    stores.iter().for_each(|store| unpacking += store.stages());
    let (variants, not_given): (Vec<_>, Vec<_>) = decided.into_values().unzip();
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
        unpacking,
    })
}

/// What to tell of all layers; `stores` begins with those of the services.
fn layers_ready(stores: &[FilledStore], services: usize) -> Event {
    let layers: Vec<&FilledLayer> = stores.iter().flat_map(FilledStore::layers).collect();
    let written = layers.iter().filter(|layer| !layer.cached);
    Event::LayersReady {
        layers: layers.len(),
        cached: layers.iter().filter(|layer| layer.cached).count(),
        written: written.map(|layer| layer.bytes).sum(),
        not_kept: not_kept(stores[services..].iter().flat_map(FilledStore::layers)),
    }
}

/// Reads the blobs of layers that were not unpacked in this run, and compares size and digest.
async fn verify_cached(image: &PlatformImage, layers: &[FilledLayer]) -> Result<(), FillError> {
    let blobs = image
        .layers
        .iter()
        .zip(layers)
        .filter(|(_, stored)| stored.cached);
    let blobs: Vec<Blob> = blobs.map(|(layer, _)| layer.blob.clone()).collect();
    if blobs.is_empty() {
        return Ok(());
    }
    let unread = |error: String| FillError::Image(format!("the layers could not be read: {error}"));
    let read = spawn_courteous("verify", move || read_all(&blobs))
        .map_err(|error| unread(error.to_string()))?;
    match read.await {
        Ok(result) => result.map_err(FillError::Image),
        Err(error) => Err(unread(error.to_string())),
    }
}

fn read_all(blobs: &[Blob]) -> Result<(), String> {
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
