//! Parts of the whole by themselves: inflating, each stage of unpacking, and an app outside of any container.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::contender::Place;
use super::meter::{Cost, time_of};
use super::registry::{free_ports, wait_until_answered};
use super::stages::{Run, Stages};
use super::workload::Workload;
use crate::Result;

/// An app as people write them: what it imports takes its time. Answers 200 on the port it is given.
pub(crate) const APP: &str = "\
import http.server, json, sys
import numpy
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *words):
        pass
http.server.HTTPServer(('0.0.0.0', int(sys.argv[1])), Handler).serve_forever()
";

/// In the layers of the workload `debian`.
pub(crate) const PYTHON: &str = "/usr/bin/python3";

/// Where [`stages`] puts the files of all layers.
const TREE: &str = "tree";

/// One command for each of these files, one after the other.
fn for_each(script: &str, files: &[PathBuf]) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-e", "-c", &format!("for layer; do {script}; done"), "sh"]);
    shell.args(files);
    shell
}

pub(crate) fn igzip(workload: &Workload) -> Result<Run> {
    let mut stages = Stages::default();
    let mut inflate = for_each("igzip -dc \"$layer\" >/dev/null", &workload.layers()?);
    stages.run("unpack", &mut inflate, None)?;
    Ok(stages.0)
}

/// Inflating, hashing what is stored, hashing what was inflated, and writing the files.
pub(crate) fn stages(workload: &Workload, place: &Place<'_>, dir: &Path) -> Result<Run> {
    let (stored, plain) = (workload.layers()?, plain_layers(workload, place.kept)?);
    let tree = dir.join(TREE);
    fs::create_dir(&tree)?;
    let hash = "openssl dgst -sha256 \"$layer\" >/dev/null";
    // Whiteouts stay files, and a file that two layers have is replaced: that is all it takes here.
    let write = format!(
        "tar --extract --file \"$layer\" --directory '{}'",
        tree.display()
    );
    let mut stages = Stages::default();
    let mut inflate = for_each("igzip -dc \"$layer\" >/dev/null", &stored);
    stages.run("inflate", &mut inflate, None)?;
    stages.run("hash stored", &mut for_each(hash, &stored), None)?;
    stages.run("hash inflated", &mut for_each(hash, &plain), None)?;
    stages.run("write", &mut for_each(&write, &plain), None)?;
    stages.0.remark = Some("igzip, openssl dgst twice, GNU tar".to_owned());
    Ok(stages.0)
}

/// The layers' tars, bottom first; taken out of the `docker save` archive once.
fn plain_layers(workload: &Workload, kept: &Path) -> Result<Vec<PathBuf>> {
    let dir = kept.join("plain");
    if !dir.exists() {
        fs::create_dir(&dir)?;
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--file"]).arg(workload.plain());
        crate::workspace::run(tar.arg("--directory").arg(&dir))?;
    }
    let manifest: serde_json::Value =
        serde_json::from_slice(&fs::read(dir.join("manifest.json"))?)?;
    let layers = manifest[0]["Layers"].as_array();
    let layers = layers.ok_or("the archive names no layers")?;
    let layers = layers.iter().filter_map(|layer| layer.as_str());
    Ok(layers.map(|layer| dir.join(layer)).collect())
}

/// That many at once, from their start until each has answered 200, with the files that [`stages`] wrote in `beside`. They
/// run twice, and the second time counts, as it does in a container.
pub(crate) fn apps(count: usize, beside: &Path) -> Result<Run> {
    apps_once(count, beside)?;
    apps_once(count, beside)
}

fn apps_once(count: usize, beside: &Path) -> Result<Run> {
    let ports = free_ports(count)?;
    let began = Instant::now();
    let mut apps = Apps(Vec::new());
    for port in &ports {
        apps.0.push(app(beside, *port)?);
    }
    let limit = Duration::from_secs(60);
    ports
        .iter()
        .try_for_each(|port| wait_until_answered(*port, "/", limit))?;
    let wall = began.elapsed();
    let cpu = apps.0.iter().map(|app| time_of(app.id())).sum();
    let mut stages = Stages::default();
    let cost = Cost {
        wall,
        cpu,
        ..Cost::default()
    };
    stages.add("run", cost);
    Ok(stages.0)
}

fn app(beside: &Path, port: u16) -> Result<Child> {
    let mut app = Command::new("chroot");
    app.arg(beside.join(TREE))
        .args([PYTHON, "-c", APP, &port.to_string()])
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    Ok(app.spawn()?)
}

/// Ended when dropped.
struct Apps(Vec<Child>);

impl Drop for Apps {
    fn drop(&mut self) {
        for app in &mut self.0 {
            // One that is gone already needs nothing.
            _ = app.kill();
            _ = app.wait();
        }
    }
}
