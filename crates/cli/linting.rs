//! Lint beside a run: begun with it, done by its end.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::path::PathBuf;

use smokegate_gate::{APP, ContainerPlan, GatePlan, Probe, spawn_courteous};
use smokegate_image::{Digest, Image, ImageConfig, LayerTap, Limits, PlatformImage, with_causes};
use smokegate_lint::{Finding, ImageTree, IndexStore, LayerIndex, Severity, Subject, lint};
use smokegate_rootfs::ErrorKind;
use smokegate_sandbox::IndexedLayer;
use tokio::sync::oneshot;

use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::gate_file::Prepared;
use crate::settings;

/// What of a layer is inflated at a time.
const BUFFER: usize = 256 * 1024;

/// What lint needs to know beside the image and the plan.
#[derive(Debug)]
pub(crate) struct LintSettings {
    /// The layer store, which keeps indexes of layers too.
    pub(crate) store: PathBuf,
    /// Names of the variables that the gate file's variants set, where there is one.
    pub(crate) variables: Option<BTreeSet<String>>,
}

/// Lint of every container of a plan, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Linting(Option<oneshot::Receiver<Findings>>);

/// What lint found, by variant and container.
#[derive(Debug, Default)]
pub(crate) struct Findings(BTreeMap<(String, String), Vec<ContainerFinding>>);

/// One finding of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ContainerFinding {
    pub(crate) finding: Finding,
    /// Whether it is about the image's health check, and not the entrypoint.
    pub(crate) of_healthcheck: bool,
    /// Whether a volume or bind covers the place: what is mounted may be what lint misses.
    pub(crate) is_mounted_over: bool,
}

impl ContainerFinding {
    /// Whether it can be why a container did not start or ended.
    pub(crate) fn may_explain(&self) -> bool {
        !self.of_healthcheck && !self.is_mounted_over
    }
}

impl Findings {
    /// Those of one container, errors first.
    pub(crate) fn of(&self, variant: &str, container: &str) -> &[ContainerFinding] {
        let found = self.0.get(&(variant.to_owned(), container.to_owned()));
        found.map_or(&[], Vec::as_slice)
    }

    /// Those of all containers of a variant, with their names.
    pub(crate) fn of_variant(
        &self,
        variant: &str,
    ) -> impl Iterator<Item = (&str, &ContainerFinding)> {
        let own = self.0.iter().filter(move |((name, _), _)| name == variant);
        own.flat_map(|((_, container), found)| {
            found.iter().map(move |one| (container.as_str(), one))
        })
    }
}

impl Linting {
    /// Lint that nobody asked for.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Begins when `unpacked` is told. Layers are looked up by their index, which unpacking has made, or an earlier lint;
    /// the others are read, at a low priority, so that the containers come first.
    pub(crate) fn begin(
        image: &Image,
        prepared: &Prepared,
        settings: LintSettings,
        unpacked: oneshot::Receiver<()>,
    ) -> Self {
        let (image, plan) = (image.clone(), prepared.plan.clone());
        let services = prepared.services.clone();
        let work = move || match unpacked.blocking_recv() {
            Ok(()) => examine(&image, &services, &plan, &settings),
            // The run is over before it began.
            Err(_) => Findings::default(),
        };
        Self(spawn_courteous("lint", work).ok())
    }

    /// Waits for the findings. A run that passes has them too, however fast it was: a receipt says the same each time.
    pub(crate) async fn end(self) -> Findings {
        match self.0 {
            Some(receiver) => receiver.await.unwrap_or_default(),
            None => Findings::default(),
        }
    }
}

fn examine(
    image: &Image,
    services: &[PlatformImage],
    plan: &GatePlan,
    settings: &LintSettings,
) -> Findings {
    let indexes = IndexStore::in_store(&settings.store);
    let mut trees: BTreeMap<Digest, Option<ImageTree>> = BTreeMap::new();
    let mut findings = BTreeMap::new();
    for variant in &plan.variants {
        let beside = variant.services.iter().map(|service| &service.container);
        for container in beside.chain([&variant.app]) {
            let platform = match container.image.checked_sub(1) {
                None => Some(&image.platforms()[variant.platform]),
                Some(at) => services.get(at),
            };
            let Some(platform) = platform else { continue };
            // A layer that cannot be read explains nothing; the run says so itself.
            let tree = trees
                .entry(platform.manifest.clone())
                .or_insert_with(|| tree(platform, image.limits(), indexes.as_ref()).ok());
            let Some(tree) = tree else { continue };
            let mut found = of_container(container, platform, tree, settings);
            if container.name != APP {
                // Nobody tests these images here.
                found.retain(|one| one.finding.severity == Severity::Error);
            }
            findings.insert((variant.name.clone(), container.name.clone()), found);
        }
    }
    Findings(findings)
}

/// The findings of what a container runs, which flags and the gate file may have changed.
fn of_container(
    container: &ContainerPlan,
    image: &PlatformImage,
    tree: &ImageTree,
    settings: &LintSettings,
) -> Vec<ContainerFinding> {
    let without_check = ImageConfig {
        healthcheck: None,
        ..image.config.clone()
    };
    let subject = |config| Subject {
        argv: container.args.clone(),
        env: container.env.clone(),
        user: container.user.clone(),
        working_dir: container.working_dir.clone(),
        variables: settings.variables.clone(),
        cpu_level: settings::cpu_level(),
        ..Subject::new(tree, config)
    };
    let own = lint(&subject(&without_check));
    let mut probes = container.probes.iter();
    let all = if probes.any(|one| matches!(one.probe, Probe::Healthcheck { .. })) {
        lint(&subject(&image.config))
    } else {
        own.clone()
    };
    let targets = || {
        container
            .volumes
            .iter()
            .map(|volume| volume.target.as_str())
    };
    all.into_iter()
        .map(|finding| ContainerFinding {
            of_healthcheck: !own.contains(&finding),
            is_mounted_over: finding
                .evidence
                .iter()
                .any(|place| targets().any(|target| is_below(&place.path, target))),
            finding,
        })
        .collect()
}

fn is_below(path: &str, dir: &str) -> bool {
    let dir = dir.trim_end_matches('/');
    let rest = path.strip_prefix(dir);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// An image's layers as one tree, from the indexes of those that were read before.
pub(crate) fn tree(
    image: &PlatformImage,
    limits: &Limits,
    indexes: Option<&IndexStore>,
) -> Result<ImageTree, Failure> {
    let mut tree = ImageTree::default();
    for layer in &image.layers {
        let kept = indexes.and_then(|indexes| indexes.get(&layer.diff_id, limits));
        if let Some(index) = kept {
            tree.add(index);
            continue;
        }
        let index = layer
            .open_tar_within(limits)
            .map_err(smokegate_rootfs::Error::Read)
            .and_then(|tar| {
                let tar = BufReader::with_capacity(BUFFER, tar);
                LayerIndex::read(tar, &scanned(limits))
            })
            .map_err(|error| unreadable(layer.blob.digest(), &error))?;
        if let Some(indexes) = indexes {
            // Without it the next lint reads the layer again.
            let _ = indexes.put(&layer.diff_id, limits, &index);
        }
        tree.add(index);
    }
    Ok(tree)
}

fn scanned(limits: &Limits) -> smokegate_rootfs::Limits {
    let defaults = smokegate_rootfs::Limits::default();
    smokegate_rootfs::Limits {
        entries: limits.layer_entries,
        file_bytes: limits.file_bytes,
        // The reader of the layer stops earlier, at a limit of its own.
        total_bytes: defaults.total_bytes.max(limits.layer_bytes),
        ..defaults
    }
}

/// Makes the index of a layer while it is unpacked, so that lint need not read it again; for the store helper.
pub(crate) fn index_layer(tap: LayerTap, layer: IndexedLayer) -> Option<Box<dyn FnOnce() + Send>> {
    let indexes = IndexStore::in_store(&layer.store)?;
    let index = LayerIndex::read(tap, &scanned(&layer.limits)).ok()?;
    // On disk and not in memory while the other layers are read.
    let written = indexes.write(&layer.diff_id, &layer.limits, &index).ok()?;
    Some(Box::new(move || {
        // Without it lint reads the layer itself.
        let _ = written.keep();
    }))
}

fn unreadable(layer: &Digest, error: &smokegate_rootfs::Error) -> Failure {
    let status = match error.kind() {
        ErrorKind::Image => ExitStatus::Image,
        ErrorKind::Host => ExitStatus::Host,
    };
    let text = with_causes(error);
    let hint = crate::limits::hint(&text);
    Failure::new(status, format!("layer {layer}: {text}"))
        .hint(hint.unwrap_or_else(|| "build or copy the image again".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::is_below;

    #[test]
    fn a_mount_covers_what_is_below_it() {
        assert!(is_below("/data/app", "/data"));
        assert!(is_below("/data", "/data/"));
        assert!(!is_below("/database", "/data"));
    }
}
