//! Volumes, secrets and limits of a container, laid over what the image says.

use smokegate_sandbox::{HostPathError, ResourceLimits, SecretFile};

use super::Resolver;
use crate::draft::clean;
use crate::gate_file::{Container, Secret, Volume, VolumeSource};
use crate::plan::{ContainerPlan, VolumeContent, VolumePlan};

/// Docker's least (moby, daemon/daemon_unix.go).
const LEAST_MEMORY: u64 = 6 << 20;
/// Where the files of secrets are.
const SECRETS: &str = "/run/secrets";

impl Resolver<'_> {
    pub(super) fn lay_storage(&mut self, plan: &mut ContainerPlan, part: &Container) {
        if let Some(volumes) = &part.volumes {
            // A list replaces a list; the image's own volumes are not part of one.
            plan.volumes
                .retain(|volume| volume.content == VolumeContent::Image);
            for volume in volumes {
                if let Some(volume) = self.volume(volume) {
                    plan.volumes.push(volume);
                }
            }
        }
        if let Some(secrets) = &part.secrets {
            plan.secrets.clear();
            for (name, secret) in secrets.iter() {
                let place = match secret {
                    Secret::Environment(place) | Secret::File(place) => place.span,
                };
                match (self.input.secret)(secret) {
                    Ok(value) => plan.secrets.push(SecretFile {
                        name: name.value.clone(),
                        value,
                    }),
                    Err(problem) => {
                        let hint = "it is put into the container as a file, so it must be there when the gate runs";
                        self.problem(place, &problem, Some(hint));
                    }
                }
            }
        }
        if let Some(volume) = part
            .volumes
            .iter()
            .flatten()
            .find(|volume| clean(&volume.target) == SECRETS && !plan.secrets.is_empty())
        {
            let message = format!("`{SECRETS}` is where the container's secrets are");
            self.problem(volume.span, &message, Some("mount the volume elsewhere"));
        }
        if let Some(limit) = &part.mem_limit
            && limit.value.0 < LEAST_MEMORY
        {
            let hint = "docker does not take less either";
            self.problem(limit.span, "the least memory is 6m", Some(hint));
        }
        let limits = &mut plan.limits;
        *limits = ResourceLimits {
            memory: part.mem_limit.as_ref().map(|l| l.value.0).or(limits.memory),
            cpus: part
                .cpus
                .as_ref()
                .map(|l| l.value.thousandths)
                .or(limits.cpus),
            pids: part.pids_limit.as_ref().map(|l| l.value.0).or(limits.pids),
        };
    }

    fn volume(&mut self, volume: &Volume) -> Option<VolumePlan> {
        let content = match &volume.source {
            VolumeSource::Named(name) => VolumeContent::Named(name.clone()),
            VolumeSource::Tmpfs { size, mode } => VolumeContent::Tmpfs {
                size: size.map(|size| size.0),
                mode: *mode,
            },
            VolumeSource::Bind(path) => match (self.input.bind)(path) {
                Ok(found) => VolumeContent::Bind(found),
                Err(error) => {
                    let (message, hint) = bind_problem(path, &error);
                    self.problem(volume.span, &message, hint);
                    return None;
                }
            },
        };
        Some(VolumePlan {
            content,
            target: clean(&volume.target),
            read_only: volume.read_only,
        })
    }
}

fn bind_problem(path: &str, error: &HostPathError) -> (String, Option<&'static str>) {
    match error {
        HostPathError::Missing => (
            format!("there is no `{path}` below the gate file's directory"),
            Some(
                "smokegate does not make it, as docker would: an app does not start on an empty directory by mistake",
            ),
        ),
        HostPathError::LeadsOut => (
            format!("`{path}` leads out of the gate file's directory by a symbolic link"),
            Some("put a copy below the gate file"),
        ),
        HostPathError::NotAFile => (
            format!("`{path}` is neither a file nor a directory"),
            Some("a socket or a device of the host would let the container out"),
        ),
        HostPathError::Io(source) => (format!("cannot open `{path}`: {source}"), None),
    }
}
