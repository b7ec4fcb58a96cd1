//! skopeo, which copies images, alone and after umoci, which unpacks them.

use std::path::Path;
use std::process::Command;

use super::stages::{Run, Stages};
use super::workload::Workload;
use crate::Result;

fn copy(options: &[&str], from: &str, to: &str) -> Command {
    let mut command = Command::new("skopeo");
    command.args(["copy", "--quiet"]).args(options);
    command.args([from, to]);
    command
}

fn push_of(from: &str, target: &str) -> Command {
    let to = format!("docker://{target}");
    copy(&["--dest-tls-verify=false"], from, &to)
}

/// An OCI image as it is.
pub(crate) fn push(workload: &Workload, target: &str) -> Result<Run> {
    let mut stages = Stages::default();
    let mut push = push_of(&workload.transport(), target);
    stages.run("push", &mut push, None)?;
    Ok(stages.0)
}

pub(crate) fn with_umoci(workload: &Workload, dir: &Path, target: &str) -> Result<Run> {
    let mut stages = Stages::default();
    let layout = match workload.layout() {
        Some(layout) => layout,
        // umoci reads layouts only, and gzip only.
        None => {
            let layout = dir.join("layout");
            let to = format!("oci:{}:v1", layout.display());
            let mut convert = copy(&[], &workload.transport(), &to);
            stages.run("unpack", &mut convert, None)?;
            layout
        }
    };
    let image = format!("{}:v1", layout.display());
    let mut umoci = Command::new("umoci");
    umoci.args(["unpack", "--image", &image]);
    umoci.arg(dir.join("bundle"));
    stages.run("unpack", &mut umoci, None)?;
    let mut push = push_of(&format!("oci:{image}"), target);
    stages.run("push", &mut push, None)?;
    Ok(stages.0)
}
