//! Tries things as a run does them: in the same helpers, by the same functions.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::pipe::PipeFlags;
use smokegate_image::Limits;

use super::trial_image::{self, PROGRAM};
use crate::HostConfig;
use crate::error::{FillError, HostError, SandboxError, StartError, Step};
use crate::helper::TRIAL_ROLE;
use crate::id_map::IdMap;
use crate::launcher::Sandbox;
use crate::pod::{ContainerSpec, NetworkMode, PodSpec, Storage};
use crate::protocol::{Answer, RequestBody, Trial};
use crate::store::{StoreRequest, ask_helper, fill_store};

/// The container with both layers.
const WHOLE: &str = "trial";
/// The container with the lower one, which removes nothing.
const PLAIN: &str = "plain";

/// Has a helper make namespaces, root and network, as far as it comes.
pub(super) async fn pod(scratch: &Path, id_map: &IdMap) -> Result<Trial, HostError> {
    let dir = directory(scratch, "pod")?;
    let body = RequestBody::Try(spec(dir.clone(), dir, id_map, NetworkMode::Bridge));
    match ask_helper(TRIAL_ROLE, body, Vec::new(), id_map).await {
        Ok(Answer::Tried(trial)) => Ok(*trial),
        Ok(answer) => Err(HostError::lost(format!("an unexpected answer: {answer:?}"))),
        Err(error) => Err(of_fill(error)),
    }
}

/// A container that was started.
pub(super) struct Ran {
    /// How the layers of one that removes something were joined.
    pub(super) storage: Storage,
    /// How those of one that removes nothing.
    pub(super) plain: Storage,
    /// What the level could not keep or give.
    pub(super) not_tested: Vec<String>,
}

/// Fills a store with the trial image and starts containers of it.
pub(super) async fn container(
    scratch: &Path,
    id_map: &IdMap,
    network: NetworkMode,
) -> Result<Ran, HostError> {
    let store = directory(scratch, "store")?;
    let image = trial_image::open(scratch)
        .map_err(|error| HostError::lost(format!("the trial image: {error}")))?;
    let filled = fill_store(StoreRequest {
        store: store.clone(),
        id_map,
        image: image.selected(),
        limits: Limits::default(),
    });
    let filled = filled.await.map_err(of_fill)?;
    let layers: Vec<PathBuf> = filled
        .layers()
        .iter()
        .rev()
        .map(|l| l.path.clone())
        .collect();
    let run_dir = directory(scratch, "container")?;
    let mut pod = spec(store, run_dir, id_map, network);
    pod.containers = vec![WHOLE.to_owned(), PLAIN.to_owned()];
    let (sandbox, _network) = Sandbox::launch(pod, id_map).await?;
    // Pipes, as a run has them: their owner is changed to the container's user.
    let (_output, stdout, stderr) = output()?;
    let whole = sandbox.start(container_spec(WHOLE, layers.clone()), stdout, stderr);
    let whole = whole.await.map_err(of_sandbox)?.started;
    let lower = layers.last().cloned().into_iter().collect();
    let (_output, stdout, stderr) = output()?;
    let plain = sandbox.start(container_spec(PLAIN, lower), stdout, stderr);
    let plain = plain.await.map_err(of_sandbox)?.started;
    let mut not_tested: Vec<String> = filled
        .layers()
        .iter()
        .flat_map(|layer| layer.not_kept.clone())
        .chain(whole.not_given)
        .collect();
    not_tested.sort();
    not_tested.dedup();
    Ok(Ran {
        storage: whole.storage,
        plain: plain.storage,
        not_tested,
    })
}

fn directory(scratch: &Path, name: &str) -> Result<PathBuf, HostError> {
    let dir = scratch.join(name);
    let made = std::fs::create_dir_all(&dir);
    made.map_err(|error| HostError::store(&format!("mkdir({})", dir.display()), error))?;
    Ok(dir)
}

fn spec(store: PathBuf, run_dir: PathBuf, id_map: &IdMap, network: NetworkMode) -> PodSpec {
    PodSpec {
        isolation: id_map.isolation(),
        store,
        run_dir,
        containers: vec![WHOLE.to_owned()],
        binds: Vec::new(),
        limits: Vec::new(),
        writes_to_disk: false,
        network,
        egress: false,
    }
}

fn container_spec(name: &str, layers: Vec<PathBuf>) -> ContainerSpec {
    ContainerSpec {
        name: name.to_owned(),
        layers,
        // It waits for signals; the number is that of a child it does not have.
        args: vec![PROGRAM.to_owned(), "1".to_owned()],
        env: Vec::new(),
        // Not root, as that takes the most of the id map.
        user: "1000:1000".to_owned(),
        working_dir: "/".to_owned(),
        mounts: Vec::new(),
        secrets: Vec::new(),
        hostname: name.to_owned(),
        host_config: HostConfig::default(),
    }
}

/// A pipe: its read end, and its write end twice.
fn output() -> Result<(OwnedFd, OwnedFd, OwnedFd), HostError> {
    let failed = |error: std::io::Error| HostError::new(Step::Spawn, "pipe2", error);
    let (read, write) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    let again = write.try_clone().map_err(failed)?;
    Ok((read, write, again))
}

fn of_fill(error: FillError) -> HostError {
    match error {
        FillError::Host(error) => error,
        FillError::Image(text) => HostError::lost(text),
    }
}

fn of_sandbox(error: SandboxError) -> HostError {
    match error {
        SandboxError::Host(error) | SandboxError::Start(StartError::Host(error)) => error,
        other => HostError::new(
            Step::Runtime,
            "starting it",
            std::io::Error::other(other.to_string()),
        ),
    }
}
