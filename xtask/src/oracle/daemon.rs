//! Docker: a daemon that answers already, or one of our own for as long as the questions take.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::answers::Answers;
use super::questions::Question;
use super::scratch::Scratch;
use crate::Result;
use crate::workspace::{is_installed, is_root};

const IMAGE: &str = "oracle:v1";
/// How long a daemon may take until it answers.
const START: Duration = Duration::from_secs(60);

/// A daemon that has the image.
pub(super) struct Docker {
    client: Client,
    version: String,
    archive: PathBuf,
    /// Ours, to be ended.
    daemon: Option<Child>,
}

/// The `docker` program, with the daemon it talks to.
struct Client(Option<String>);

impl Client {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        if let Some(host) = &self.0 {
            command.args(["--host", host]);
        }
        command.args(arguments).stdin(Stdio::null());
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<Output> {
        let output = self.command(arguments).output()?;
        if output.status.success() {
            return Ok(output);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(format!("docker {}: {}", arguments.join(" "), said.trim()).into())
    }

    /// The server's version, if there is a server.
    fn version(&self) -> Option<String> {
        let output = self
            .run(&["version", "--format", "{{.Server.Version}}"])
            .ok()?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        (!version.is_empty()).then_some(version)
    }
}

impl Docker {
    /// None where no daemon answers and none can be started.
    pub(super) fn find(scratch: &Scratch) -> Result<Option<Self>> {
        if !is_installed("docker") {
            return Ok(None);
        }
        let archive = scratch.path("image.docker.tar");
        let standing = Client(None);
        if let Some(version) = standing.version() {
            return Ok(Some(Self {
                client: standing,
                version,
                archive,
                daemon: None,
            }));
        }
        if !(is_root() && is_installed("dockerd")) {
            return Ok(None);
        }
        Self::start(scratch, archive).map(Some)
    }

    /// Starts a daemon that touches neither the machine's firewall nor another daemon's files.
    fn start(scratch: &Scratch, archive: PathBuf) -> Result<Self> {
        let dir = scratch.path("docker");
        std::fs::create_dir(&dir)?;
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
        let mut docker = Self {
            client: Client(Some(host)),
            version: String::new(),
            archive,
            daemon: Some(child),
        };
        let end = Instant::now() + START;
        loop {
            if let Some(version) = docker.client.version() {
                docker.version = version;
                return Ok(docker);
            }
            let ended = match &mut docker.daemon {
                Some(child) => child.try_wait()?.is_some(),
                None => true,
            };
            if ended || Instant::now() > end {
                let log = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
                let last: Vec<_> = log.lines().rev().take(5).collect();
                return Err(format!("dockerd does not answer: {}", last.join("\n")).into());
            }
            thread::sleep(Duration::from_millis(100));
        }
    }

    pub(super) fn version(&self) -> String {
        let whose = if self.daemon.is_some() {
            ", started here"
        } else {
            ""
        };
        format!("Docker {}{whose}", self.version)
    }

    pub(super) fn answers(&self, questions: &[Question]) -> Result<Answers> {
        let archive = self.archive.display().to_string();
        self.client.run(&["load", "--input", &archive])?;
        let mut answers = Answers::default();
        for question in questions {
            let output = if question.exec {
                self.executed(question)?
            } else {
                self.first_process(question)?
            };
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            answers.add(question, text.lines());
        }
        self.client.run(&["rmi", "--force", IMAGE])?;
        Ok(answers)
    }

    fn first_process(&self, question: &Question) -> Result<Output> {
        let mut arguments = vec!["run", "--rm", "--network", "none", "--hostname", "app"];
        if let Some(user) = question.user {
            arguments.extend(["--user", user]);
        }
        arguments.extend(["--entrypoint", "/probe-target", IMAGE]);
        let words = question.words();
        arguments.extend(words.iter().map(String::as_str));
        self.client.run(&arguments)
    }

    fn executed(&self, question: &Question) -> Result<Output> {
        let run = [
            "run",
            "--detach",
            "--rm",
            "--network",
            "none",
            "--hostname",
            "app",
            IMAGE,
        ];
        let started = self.client.run(&run)?;
        let id = String::from_utf8_lossy(&started.stdout).trim().to_owned();
        let words = question.words();
        let mut arguments = vec!["exec", &id, "/probe-target"];
        arguments.extend(words.iter().map(String::as_str));
        let answer = self.client.run(&arguments);
        self.client.run(&["kill", &id])?;
        answer
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let Some(child) = &mut self.daemon else {
            return;
        };
        // Not SIGKILL: it ends the containerd it has started. kill(1), as nothing else here sends signals.
        let asked = Command::new("kill").arg(child.id().to_string()).status();
        if !asked.is_ok_and(|status| status.success()) {
            _ = child.kill();
        }
        _ = child.wait();
    }
}
