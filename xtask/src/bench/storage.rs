//! podman and buildah, which keep layers in containers/storage: here one of its own for each run.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::stages::{Engine, Run, Stages};
use super::sweeper;
use super::workload::{Packing, Workload};
use crate::Result;

/// The name of the storage in a run's directory.
pub(crate) const STORAGE: &str = "storage";

/// A program of the two on a storage.
pub(crate) fn on_storage(program: &str, storage: &Path, run_root: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("--root").arg(storage);
    command.arg("--runroot").arg(run_root);
    command.args(["--storage-driver", "overlay"]);
    if program == "podman" {
        // Neither systemd nor its journal is asked for anything.
        command.args(["--cgroup-manager", "cgroupfs", "--events-backend", "none"]);
        if needs_runc() {
            command.args(["--runtime", "runc"]);
        }
    }
    command
}

/// crun, which podman prefers, refuses hosts that have cgroups of both versions.
fn needs_runc() -> bool {
    Path::new("/sys/fs/cgroup/unified").exists()
}

fn engine(program: &'static str, dir: &Path) -> impl Fn(&[&str]) -> Command {
    let (storage, run_root): (PathBuf, PathBuf) = (dir.join(STORAGE), sweeper::run_root());
    move |arguments| {
        let mut command = on_storage(program, &storage, &run_root);
        command.args(arguments);
        command
    }
}

/// Both compress again what they push: the way that suits the workload.
fn compression(workload: &Workload) -> &'static str {
    match workload.packing {
        Packing::Gzip => "--compression-format=gzip",
        Packing::Zstd | Packing::DockerArchive => "--compression-format=zstd",
    }
}

/// What both have before the image and its target.
const PUSH: [&str; 3] = ["push", "--quiet", "--tls-verify=false"];

pub(crate) fn podman(workload: &Workload, dir: &Path, target: &str) -> Result<Run> {
    let podman = engine("podman", dir);
    let mut stages = Stages::default();
    let runtime = if needs_runc() { "runc" } else { "crun" };
    stages.0.remark = Some(format!("storage driver overlay, runtime {runtime}"));
    let pull = ["pull", "--quiet", &workload.transport()];
    let image = stages.run("unpack", &mut podman(&pull), None)?;
    let engine = Engine {
        command: &podman,
        // By itself it asks for more than a root without CAP_SYS_RESOURCE may have.
        run_options: &[
            "--ulimit",
            "nofile=1024:1024",
            "--ulimit",
            "nproc=1024:1024",
        ],
        remove: &["rm", "--force", "--time", "0"],
    };
    stages.run_container(&engine, None, &image)?;
    let push = [&PUSH[..], &[compression(workload), &image, target]].concat();
    stages.run("push", &mut podman(&push), None)?;
    Ok(stages.0)
}

pub(crate) fn buildah(workload: &Workload, dir: &Path, target: &str) -> Result<Run> {
    let buildah = engine("buildah", dir);
    let mut stages = Stages::default();
    let pull = ["pull", "--quiet", &workload.transport()];
    let image = stages.run("unpack", &mut buildah(&pull), None)?;
    let from = ["from", "--pull-never", &image];
    stages.run("run", &mut buildah(&from), None)?;
    let target = format!("docker://{target}");
    let push = [&PUSH[..], &[compression(workload), &image, &target]].concat();
    stages.run("push", &mut buildah(&push), None)?;
    Ok(stages.0)
}
