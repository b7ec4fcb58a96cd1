//! What the containers of a pod mount, as the sandbox is asked for it.

use smokegate_sandbox::{HostPath, MountSource, MountSpec, ResourceLimits};

use crate::plan::{ContainerPlan, VariantPlan, VolumeContent};

/// The containers of a variant, the app last.
pub(crate) fn containers(variant: &VariantPlan) -> impl Iterator<Item = &ContainerPlan> {
    let services = variant.services.iter().map(|service| &service.container);
    services.chain([&variant.app])
}

/// What of the host a variant's containers mount, each once.
pub(crate) fn binds(variant: &VariantPlan) -> Vec<HostPath> {
    let mut binds: Vec<HostPath> = Vec::new();
    for volume in containers(variant).flat_map(|container| &container.volumes) {
        if let VolumeContent::Bind(path) = &volume.content
            && !binds.contains(path)
        {
            binds.push(path.clone());
        }
    }
    binds
}

/// The containers of a variant that are limited.
pub(crate) fn limits(variant: &VariantPlan) -> Vec<(String, ResourceLimits)> {
    containers(variant)
        .filter(|container| !container.limits.is_empty())
        .map(|container| (container.name.clone(), container.limits))
        .collect()
}

/// The mounts of a container of a pod that has `binds`.
pub(crate) fn mounts(container: &ContainerPlan, binds: &[HostPath]) -> Vec<MountSpec> {
    let source = |content: &VolumeContent| match content {
        VolumeContent::Image => MountSource::Image,
        VolumeContent::Named(name) => MountSource::Named(name.clone()),
        VolumeContent::Tmpfs { size, mode } => MountSource::Tmpfs {
            size: *size,
            mode: *mode,
        },
        VolumeContent::Bind(path) => {
            let place = binds.iter().position(|bind| bind == path);
            MountSource::Bind(place.expect("the pod has the binds of all its containers"))
        }
    };
    container
        .volumes
        .iter()
        .map(|volume| MountSpec {
            source: source(&volume.content),
            target: volume.target.clone(),
            read_only: volume.read_only,
        })
        .collect()
}
