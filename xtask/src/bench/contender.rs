//! Who runs: smokegate, and the tools that do the same in several steps.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::meter::{Cost, measure};
use super::registry::{Registry, free_port, wait_until_answered};
use super::workload::{Packing, Workload};
use crate::Result;
use crate::dockerd::{Daemon, unmount_below};
use crate::workspace::is_installed;

/// How long a container may take to answer.
const HEALTHY: Duration = Duration::from_secs(60);

/// One way from an archive to a registry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// `smokegate ship`, nothing in the store.
    Cold,
    /// `smokegate ship`, every layer in the store.
    Warm,
    /// `docker load`, `docker run`, asked until healthy, `docker push`.
    Docker,
    /// The same with `podman pull`.
    Podman,
    /// `buildah pull`, `buildah from`, `buildah push`: nothing is run.
    Buildah,
    /// `umoci unpack`, `skopeo copy`: nothing is run.
    UmociSkopeo,
    /// `igzip -dc` of the layers to /dev/null, one after the other: what no unpacking of gzip can be far below.
    Igzip,
}

/// What one run cost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    pub(crate) whole: Cost,
    /// Parts of it: `unpack`, `run` and `push`, and whatever else the contender tells of itself.
    pub(crate) stages: BTreeMap<String, Duration>,
    /// What a reader of the times should know.
    pub(crate) remark: Option<String>,
}

/// Where the runs happen.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) smokegate: &'a Path,
    /// Of this block; what runs leave in it is removed with it.
    pub(crate) dir: &'a Path,
}

impl Contender {
    pub(crate) const ALL: [Self; 7] = [
        Self::Cold,
        Self::Warm,
        Self::Docker,
        Self::Podman,
        Self::Buildah,
        Self::UmociSkopeo,
        Self::Igzip,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Cold => "smokegate, empty store",
            Self::Warm => "smokegate, warm store",
            Self::Docker => "docker load+run+push",
            Self::Podman => "podman pull+run+push",
            Self::Buildah => "buildah pull+from+push",
            Self::UmociSkopeo => "umoci unpack, skopeo push",
            Self::Igzip => "igzip -dc, one thread",
        }
    }

    /// Why it cannot take part here.
    pub(crate) fn missing(self, workload: &Workload) -> Option<String> {
        let needed: &[&str] = match self {
            Self::Cold | Self::Warm => &[],
            Self::Docker => &["docker", "dockerd"],
            Self::Podman => &["podman"],
            Self::Buildah => &["buildah"],
            Self::UmociSkopeo => &["umoci", "skopeo"],
            Self::Igzip if workload.packing != Packing::Gzip => {
                return Some("the layers are not gzip".to_owned());
            }
            Self::Igzip => &["igzip"],
        };
        let missing = needed.iter().find(|program| !is_installed(program));
        missing.map(|program| format!("`{program}` is not installed"))
    }

    /// Runs it once, with everything in a place of its own.
    pub(crate) fn run(self, workload: &Workload, place: &Place<'_>, round: usize) -> Result<Run> {
        let dir = place.dir.join(format!("{self:?}-{round}").to_lowercase());
        fs::create_dir(&dir)?;
        let registry = Registry::start(&dir.join("registry"))?;
        let target = format!("{}/bench:v1", registry.address());
        match self {
            Self::Cold => smokegate(workload, place, &dir, &dir.join("store"), &target),
            Self::Warm => smokegate(
                workload,
                place,
                &dir,
                &place.dir.join("warm-store"),
                &target,
            ),
            Self::Docker => docker(workload, &dir, &target),
            Self::Podman => podman(workload, &dir, &target),
            Self::Buildah => buildah(workload, &dir, &target),
            Self::UmociSkopeo => umoci_skopeo(workload, &dir, &target),
            Self::Igzip => igzip(workload),
        }
    }
}

/// Puts stages one after the other.
#[derive(Default)]
struct Stages(Run);

impl Stages {
    fn add(&mut self, name: &str, cost: Cost) {
        self.0.whole = self.0.whole.and(cost);
        *self.0.stages.entry(name.to_owned()).or_default() += cost.wall;
    }

    /// Runs a command as part of the stage; what it printed.
    fn run(&mut self, stage: &str, command: &mut Command, daemon: Option<u32>) -> Result<String> {
        let (output, cost) = measure(command, daemon)?;
        self.add(stage, cost);
        Ok(String::from_utf8_lossy(&output).trim().to_owned())
    }

    fn wait_until_healthy(&mut self, port: u16) -> Result {
        let began = Instant::now();
        wait_until_answered(port, "/healthz", HEALTHY)?;
        let wall = began.elapsed();
        self.add(
            "run",
            Cost {
                wall,
                ..Cost::default()
            },
        );
        Ok(())
    }
}

fn smokegate(
    workload: &Workload,
    place: &Place<'_>,
    dir: &Path,
    store: &Path,
    target: &str,
) -> Result<Run> {
    let report = dir.join("report");
    let mut command = Command::new(place.smokegate);
    command
        .args([
            "--quiet",
            "ship",
            "--no-file",
            "--plain-http",
            "--publish",
            "0:8080",
        ])
        .args(["--tag", target])
        .arg("--store")
        .arg(store)
        .arg("--report-dir")
        .arg(&report)
        .current_dir(dir)
        .env_clear()
        .env("HOME", dir)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    if workload.packing == Packing::DockerArchive {
        command.args(["--compress", "zstd"]);
    }
    let (_, whole) = measure(command.arg(workload.archive()), None)?;
    let receipt: Value = serde_json::from_slice(&fs::read(report.join("receipt.json"))?)?;
    let mut stages = BTreeMap::new();
    let millis = |value: &Value| Duration::from_millis(value.as_u64().unwrap_or(0));
    let mut add = |name: &str, time: Duration| *stages.entry(name.to_owned()).or_default() += time;
    let timings = &receipt["timings_ms"];
    add(
        "unpack",
        millis(&timings["open"]) + millis(&timings["layers"]),
    );
    add("push", millis(&timings["publish"]));
    let variants = receipt["variants"].as_array();
    for variant in variants.into_iter().flatten() {
        add("run", millis(&variant["timings_ms"]["total"]));
        for (name, time) in variant["timings_ms"].as_object().into_iter().flatten() {
            add(&format!("variant {name}"), millis(time));
        }
    }
    for (name, time) in timings.as_object().into_iter().flatten() {
        add(name, millis(time));
    }
    Ok(Run {
        whole,
        stages,
        remark: None,
    })
}

fn docker(workload: &Workload, dir: &Path, target: &str) -> Result<Run> {
    let own = dir.join("docker");
    fs::create_dir(&own)?;
    let daemon = Daemon::start(&own)?;
    let (client, id) = (daemon.client(), Some(daemon.id()));
    let mut stages = Stages::default();
    let driver = client.storage_driver();
    stages.0.remark = driver.map(|driver| format!("storage driver {driver}"));
    let archive = workload.archive().display().to_string();
    stages.run(
        "unpack",
        &mut client.command(&["load", "--quiet", "--input", &archive]),
        id,
    )?;
    let port = free_port()?;
    let serve = port.to_string();
    let run = [
        "run",
        "--detach",
        "--name",
        "bench",
        "--network",
        "host",
        "bench:v1",
    ];
    let run = [run.as_slice(), &["serve", "--port", &serve]].concat();
    stages.run("run", &mut client.command(&run), id)?;
    stages.wait_until_healthy(port)?;
    stages.run("run", &mut client.command(&["rm", "--force", "bench"]), id)?;
    stages.run(
        "push",
        &mut client.command(&["tag", "bench:v1", target]),
        id,
    )?;
    stages.run(
        "push",
        &mut client.command(&["push", "--quiet", target]),
        id,
    )?;
    drop(daemon);
    unmount_below(&own);
    Ok(stages.0)
}

/// The image as podman, buildah and skopeo name it.
fn source(workload: &Workload) -> String {
    let archive = workload.archive();
    match workload.packing {
        Packing::DockerArchive => format!("docker-archive:{}:bench:v1", archive.display()),
        Packing::Gzip | Packing::Zstd => format!("oci-archive:{}:v1", archive.display()),
    }
}

/// Where podman and buildah keep what does not outlive a boot: no more than 50 characters.
fn run_root() -> PathBuf {
    std::env::temp_dir().join(format!("sg-bench-{}", std::process::id()))
}

/// podman or buildah with storage of its own.
fn with_storage(program: &str, dir: &Path) -> impl Fn(&[&str]) -> Command {
    let program = program.to_owned();
    let (root, runroot) = (dir.join("storage"), run_root());
    move |arguments| {
        let mut command = Command::new(&program);
        command
            .arg("--root")
            .arg(&root)
            .arg("--runroot")
            .arg(&runroot)
            .args(["--storage-driver", "overlay"])
            .args(arguments);
        command
    }
}

/// The next one starts with nothing.
fn clear_storage(dir: &Path) {
    unmount_below(dir);
    unmount_below(&run_root());
    _ = fs::remove_dir_all(run_root());
}

fn podman(workload: &Workload, dir: &Path, target: &str) -> Result<Run> {
    let podman = with_storage("podman", dir);
    let mut stages = Stages::default();
    let image = stages.run(
        "unpack",
        &mut podman(&["pull", "--quiet", &source(workload)]),
        None,
    )?;
    let port = free_port()?;
    let serve = port.to_string();
    let run = [
        "run",
        "--detach",
        "--name",
        "bench",
        "--network",
        "host",
        &image,
    ];
    let run = [run.as_slice(), &["serve", "--port", &serve]].concat();
    stages.run("run", &mut podman(&run), None)?;
    stages.wait_until_healthy(port)?;
    stages.run(
        "run",
        &mut podman(&["rm", "--force", "--time", "1", "bench"]),
        None,
    )?;
    let push = ["push", "--quiet", "--tls-verify=false", &image, target];
    stages.run("push", &mut podman(&push), None)?;
    clear_storage(dir);
    Ok(stages.0)
}

fn buildah(workload: &Workload, dir: &Path, target: &str) -> Result<Run> {
    let buildah = with_storage("buildah", dir);
    let mut stages = Stages::default();
    let image = stages.run(
        "unpack",
        &mut buildah(&["pull", "--quiet", &source(workload)]),
        None,
    )?;
    stages.run("run", &mut buildah(&["from", "--pull-never", &image]), None)?;
    let target = format!("docker://{target}");
    let push = ["push", "--quiet", "--tls-verify=false", &image, &target];
    stages.run("push", &mut buildah(&push), None)?;
    clear_storage(dir);
    Ok(stages.0)
}

fn umoci_skopeo(workload: &Workload, dir: &Path, target: &str) -> Result<Run> {
    let mut stages = Stages::default();
    let layout = match workload.layout() {
        Some(layout) => layout,
        // umoci reads layouts only.
        None => {
            let layout: PathBuf = dir.join("layout");
            let mut skopeo = Command::new("skopeo");
            skopeo.args(["copy", "--quiet", &source(workload)]);
            skopeo.arg(format!("oci:{}:v1", layout.display()));
            stages.run("unpack", &mut skopeo, None)?;
            layout
        }
    };
    let image = format!("{}:v1", layout.display());
    let mut umoci = Command::new("umoci");
    umoci
        .args(["unpack", "--image", &image])
        .arg(dir.join("bundle"));
    stages.run("unpack", &mut umoci, None)?;
    let mut skopeo = Command::new("skopeo");
    skopeo.args(["copy", "--quiet", "--dest-tls-verify=false"]);
    skopeo.args([format!("oci:{image}"), format!("docker://{target}")]);
    stages.run("push", &mut skopeo, None)?;
    Ok(stages.0)
}

fn igzip(workload: &Workload) -> Result<Run> {
    let mut stages = Stages::default();
    let mut shell = Command::new("sh");
    shell.args([
        "-c",
        "for layer; do igzip -dc \"$layer\" >/dev/null; done",
        "sh",
    ]);
    stages.run("unpack", shell.args(workload.layers()?), None)?;
    Ok(stages.0)
}
