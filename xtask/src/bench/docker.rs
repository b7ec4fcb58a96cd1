//! Docker, with a daemon of its own.

use std::fs;
use std::path::Path;

use super::stages::{Engine, Run, Stages};
use super::workload::Workload;
use crate::Result;
use crate::dockerd::Daemon;

/// The daemon's start is not counted: on people's machines it runs already.
pub(crate) fn run(workload: &Workload, dir: &Path, target: &str) -> Result<Run> {
    let own = dir.join("docker");
    fs::create_dir(&own)?;
    let daemon = Daemon::start(&own)?;
    let (client, id) = (daemon.client(), Some(daemon.id()));
    let docker = |arguments: &[&str]| client.command(arguments);
    let mut stages = Stages::default();
    let driver = client.storage_driver();
    stages.0.remark = driver.map(|driver| format!("storage driver {driver}"));
    let archive = workload.archive().display().to_string();
    let load = ["load", "--quiet", "--input", &archive];
    stages.run("unpack", &mut docker(&load), id)?;
    let engine = Engine {
        command: &docker,
        run_options: &[],
        remove: &["rm", "--force"],
    };
    stages.run_container(&engine, id, "bench:v1")?;
    stages.run("push", &mut docker(&["tag", "bench:v1", target]), id)?;
    stages.run("push", &mut docker(&["push", "--quiet", target]), id)?;
    Ok(stages.0)
}
