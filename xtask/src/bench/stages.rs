//! What one run cost, put together from its stages.

use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

use super::meter::{Cost, measure};
use super::registry::{free_port, wait_until_answered};
use crate::Result;

/// How long a container may take to answer.
const HEALTHY: Duration = Duration::from_secs(60);

/// What one run cost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    pub(crate) whole: Cost,
    /// Parts of it: `unpack`, `run` and `push`, and whatever else the contender tells of itself.
    pub(crate) stages: BTreeMap<String, Duration>,
    /// What a reader of the times should know.
    pub(crate) remark: Option<String>,
}

/// Puts stages one after the other.
#[derive(Default)]
pub(crate) struct Stages(pub(crate) Run);

impl Stages {
    pub(crate) fn add(&mut self, name: &str, cost: Cost) {
        self.0.whole = self.0.whole.and(cost);
        *self.0.stages.entry(name.to_owned()).or_default() += cost.wall;
    }

    /// Runs a command as part of the stage; what it printed.
    pub(crate) fn run(
        &mut self,
        stage: &str,
        command: &mut Command,
        daemon: Option<u32>,
    ) -> Result<String> {
        let (output, cost) = measure(command, daemon)?;
        self.add(stage, cost);
        Ok(String::from_utf8_lossy(&output).trim().to_owned())
    }

    /// Starts the image's app as docker and podman do it, waits until it is healthy, and removes the container. The
    /// host's network spares them making one.
    pub(crate) fn run_container(
        &mut self,
        engine: &Engine<'_>,
        daemon: Option<u32>,
        image: &str,
    ) -> Result {
        let port = free_port()?.to_string();
        let run = ["run", "--detach", "--name", "bench", "--network", "host"];
        let run = [&run[..], engine.run_options, &[image, "--port", &port]].concat();
        self.run("run", &mut (engine.command)(&run), daemon)?;
        let began = Instant::now();
        if let Err(error) = wait_until_answered(port.parse()?, "/healthz", HEALTHY) {
            let log = (engine.command)(&["logs", "bench"]).output()?;
            let log = [log.stdout, log.stderr].concat();
            return Err(format!("{error}: {}", String::from_utf8_lossy(&log).trim()).into());
        }
        let waited = Cost {
            wall: began.elapsed(),
            ..Cost::default()
        };
        self.add("run", waited);
        let remove = [engine.remove, &["bench"]].concat();
        self.run("run", &mut (engine.command)(&remove), daemon)?;
        Ok(())
    }
}

/// What runs containers as docker does.
pub(crate) struct Engine<'a> {
    pub(crate) command: &'a dyn Fn(&[&str]) -> Command,
    pub(crate) run_options: &'a [&'a str],
    /// Ends a container at once and removes it.
    pub(crate) remove: &'a [&'a str],
}
