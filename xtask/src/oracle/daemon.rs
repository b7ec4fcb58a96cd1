//! What Docker answers: a daemon that stands already, or one of our own for as long as the questions take.

use std::path::PathBuf;
use std::process::Output;

use super::answers::Answers;
use super::questions::Question;
use super::scratch::Scratch;
use crate::Result;
use crate::dockerd::{Client, Daemon};
use crate::workspace::{is_installed, is_root};

const IMAGE: &str = "oracle:v1";

/// A daemon that has the image.
pub(super) struct Docker {
    client: Client,
    version: String,
    archive: PathBuf,
    /// Ours, which ends with this.
    daemon: Option<Daemon>,
}

impl Docker {
    /// None where no daemon answers and none can be started.
    pub(super) fn find(scratch: &Scratch) -> Result<Option<Self>> {
        if !is_installed("docker") {
            return Ok(None);
        }
        let archive = scratch.path("image.docker.tar");
        let mut client = Client::default();
        let mut daemon = None;
        if client.version().is_none() {
            if !(is_root() && is_installed("dockerd")) {
                return Ok(None);
            }
            let dir = scratch.path("docker");
            std::fs::create_dir(&dir)?;
            let started = Daemon::start(&dir)?;
            client = started.client().clone();
            daemon = Some(started);
        }
        Ok(client.version().map(|version| Self {
            client,
            version,
            archive,
            daemon,
        }))
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
