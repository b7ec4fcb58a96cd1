//! smokegate at each of its levels.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::answers::Answers;
use super::questions::Question;
use super::scratch::Scratch;
use crate::Result;
use crate::workspace::{is_installed, is_root};

/// Ids without a passwd entry; the second has subordinate ids for the while.
const ORDINARY_ID: u32 = 54321;
const SUBUID_ID: u32 = 54323;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    Root,
    Subuid,
    Single,
}

impl Level {
    /// All where root asks; an ordinary user has but one that is the same on every machine.
    pub(super) fn available() -> Vec<Self> {
        let mut levels = Vec::new();
        if is_root() {
            levels.push(Self::Root);
            if is_installed("newuidmap") {
                levels.push(Self::Subuid);
            }
        }
        levels.push(Self::Single);
        levels
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Subuid => "subuid",
            Self::Single => "single",
        }
    }

    fn uid(self) -> Option<u32> {
        match self {
            Self::Root => None,
            Self::Subuid => Some(SUBUID_ID),
            Self::Single => is_root().then_some(ORDINARY_ID),
        }
    }
}

/// The program and the image, where ordinary users can read them.
pub(super) struct Smokegate {
    program: PathBuf,
    archive: PathBuf,
    dir: PathBuf,
}

impl Smokegate {
    pub(super) fn new(built: &Path, scratch: &Scratch) -> Result<Self> {
        let program = scratch.path("smokegate");
        fs::copy(built, &program)?;
        let archive = scratch.path("image.oci.tar");
        fs::set_permissions(&archive, fs::Permissions::from_mode(0o644))?;
        Ok(Self {
            program,
            archive,
            dir: scratch.dir().to_owned(),
        })
    }

    pub(super) fn answers(&self, level: Level, questions: &[Question]) -> Result<Answers> {
        let dir = self.dir.join(level.name());
        fs::create_dir(&dir)?;
        for (name, text) in [
            (
                "passwd",
                format!("root:x:0:0::/root:/bin/sh\nsub:x:{SUBUID_ID}:{SUBUID_ID}::/:/bin/sh\n"),
            ),
            ("subuid", "sub:300000:65536\n".to_owned()),
            ("subgid", "sub:300000:65536\n".to_owned()),
        ] {
            fs::write(dir.join(name), text)?;
        }
        if let Some(uid) = level.uid() {
            chown(&dir, Some(uid), Some(uid))?;
        }
        let mut answers = Answers::default();
        for question in questions {
            let log = self.ask(level, &dir, question)?;
            answers.add(question, log.iter().map(String::as_str));
        }
        Ok(answers)
    }

    /// What the app wrote.
    fn ask(&self, level: Level, dir: &Path, question: &Question) -> Result<Vec<String>> {
        let archive = self.archive.display().to_string();
        let mut arguments: Vec<String> = ["gate", &archive, "--publish", "0:8080"]
            .map(str::to_owned)
            .into();
        arguments.extend(["--isolation", level.name()].map(str::to_owned));
        if let Some(user) = question.user {
            arguments.extend(["--user", user].map(str::to_owned));
        }
        if question.exec {
            fs::write(dir.join("smokegate.yaml"), gate_file(question))?;
        } else {
            arguments
                .extend(["--no-file", "--entrypoint", "/probe-target", "--"].map(str::to_owned));
            arguments.extend(question.words());
        }
        let output = self.command(level, dir, &arguments).output()?;
        // It answers and ends, which is a failure to smokegate; of the image, or of the level whose ids it tried.
        let said = String::from_utf8_lossy(&output.stderr);
        if !matches!(output.status.code(), Some(1 | 3)) || !said.contains("exited with code 0") {
            return Err(format!("smokegate at level {}: {said}", level.name()).into());
        }
        let log = fs::read(dir.join("smokegate-report/logs/default/app.log"))?;
        let log = String::from_utf8_lossy(&log).into_owned();
        // `SECONDS out TEXT`; what is on standard error is no answer.
        let text = |line: &str| {
            let (_, rest) = line.trim_start().split_once(' ')?;
            rest.strip_prefix("out ").map(str::to_owned)
        };
        Ok(log.lines().filter_map(text).collect())
    }

    fn command(&self, level: Level, dir: &Path, arguments: &[String]) -> Command {
        let id = level.uid().unwrap_or_default().to_string();
        let change = [
            "setpriv",
            "--reuid",
            &id,
            "--regid",
            &id,
            "--clear-groups",
            "--",
        ]
        .join(" ");
        // The user exists for newuidmap in this mount namespace only.
        let script = match level {
            Level::Subuid => format!(
                "for file in passwd subuid subgid; do mount --bind $file /etc/$file || exit 99; done; exec {change} \"$@\""
            ),
            Level::Single if level.uid().is_some() => format!("exec {change} \"$@\""),
            _ => "exec \"$@\"".to_owned(),
        };
        let mut command = Command::new(if level == Level::Subuid {
            "unshare"
        } else {
            "sh"
        });
        if level == Level::Subuid {
            command.args(["--mount", "--propagation", "private", "sh"]);
        }
        command
            .args(["-c", &script, "sh"])
            .arg(&self.program)
            .args(arguments)
            .current_dir(dir)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", dir)
            .env("XDG_CACHE_HOME", dir.join("cache"))
            .stdin(Stdio::null());
        command
    }
}

/// The app waits for what a probe, which is exec'd, leaves it, and tells.
fn gate_file(question: &Question) -> String {
    let mut words = vec!["/probe-target", "into", "/tmp/unfinished"];
    let asked = question.words();
    words.extend(asked.iter().map(String::as_str));
    words.extend("then rename /tmp/unfinished /tmp/finished then exit 1".split(' '));
    let words: Vec<_> = words.iter().map(|word| format!("{word:?}")).collect();
    let app = r#"["/probe-target", "wait-for", "/tmp/finished", "cat", "/tmp/finished"]"#;
    format!(
        "version: 1\napp:\n  entrypoint: {app}\n  probes:\n    - exec: [{}]\n      timeout: 60s\n",
        words.join(", ")
    )
}
