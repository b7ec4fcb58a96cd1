//! A Docker daemon that answers already, or one of our own for a while, and the client that talks to it.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;

/// How long a daemon may take until it answers.
const START: Duration = Duration::from_secs(60);

/// The `docker` program, with the daemon it talks to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Client(Option<String>);

impl Client {
    /// `docker` with these arguments.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        if let Some(host) = &self.0 {
            command.args(["--host", host]);
        }
        command.args(arguments).stdin(Stdio::null());
        command
    }

    /// Its output, where it succeeds.
    pub(crate) fn run(&self, arguments: &[&str]) -> Result<Output> {
        let output = self.command(arguments).output()?;
        if output.status.success() {
            return Ok(output);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("docker {}: {}", arguments.join(" "), said.trim()).into())
    }

    /// The server's version, if there is a server.
    pub(crate) fn version(&self) -> Option<String> {
        self.asked(&["version", "--format", "{{.Server.Version}}"])
    }

    /// Under which name the server's way of keeping layers goes.
    pub(crate) fn storage_driver(&self) -> Option<String> {
        self.asked(&["info", "--format", "{{.Driver}}"])
    }

    fn asked(&self, arguments: &[&str]) -> Option<String> {
        let output = self.run(arguments).ok()?;
        let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (!answer.is_empty()).then_some(answer)
    }
}

/// A daemon that was started here and ends with this.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    client: Client,
}

impl Daemon {
    /// Starts one that keeps all it has in `dir`, which is there already, and touches neither the machine's
    /// firewall nor another daemon's files.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        let place = |name: &str| dir.join(name).display().to_string();
        let host = format!("unix://{}", place("socket"));
        let log = File::create(dir.join("log"))?;
        let child = Command::new("dockerd")
            .args(["--host", &host, "--data-root", &place("data")])
            .args(["--exec-root", &place("exec"), "--pidfile", &place("pid")])
            .args(["--bridge", "none", "--iptables=false", "--ip6tables=false"])
            .arg("--ip-forward=false")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let mut daemon = Self {
            child,
            client: Client(Some(host)),
        };
        let end = Instant::now() + START;
        while daemon.client.version().is_none() {
            let ended = daemon.child.try_wait()?.is_some();
            if ended || Instant::now() > end {
                let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
                let last: Vec<_> = log.lines().rev().take(5).collect();
                return Err(format!("dockerd does not answer: {}", last.join("\n")).into());
            }
            thread::sleep(Duration::from_millis(100));
        }
        Ok(daemon)
    }

    /// Who talks to it.
    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Not SIGKILL: it ends the containerd it has started. kill(1), as nothing else here sends signals.
        let asked = Command::new("kill")
            .arg(self.child.id().to_string())
            .status();
        if !asked.is_ok_and(|status| status.success()) {
            _ = self.child.kill();
        }
        _ = self.child.wait();
    }
}

/// Unmounts what is mounted below `dir`: Docker leaves a mount per network namespace it knew.
pub(crate) fn unmount_below(dir: &Path) {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let inside = mounts
        .lines()
        .filter_map(|line| line.split(' ').nth(1))
        .filter(|at| Path::new(at).starts_with(dir));
    for at in inside.collect::<Vec<_>>().into_iter().rev() {
        _ = Command::new("umount").arg(at).status();
    }
}
