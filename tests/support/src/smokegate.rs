//! Runs the built program in a directory of its own, with nothing of the caller's environment.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use std::{io, thread};

use serde_json::Value;
use tempfile::TempDir;

use crate::{BuiltImage, Need, RunAs, is_root, require};

/// The program under test, who runs it and where.
///
/// Its directory holds `bin/`, `home/`, `cache/` and `tmp/`, and goes away with it.
#[derive(Debug)]
pub struct Smokegate {
    dir: TempDir,
    run_as: RunAs,
    environment: BTreeMap<OsString, OsString>,
    limit: Duration,
}

/// A run that has ended.
#[must_use = "a run proves nothing until its exit code is looked at"]
#[derive(Clone, Debug)]
pub struct Finished {
    /// The command line, for messages.
    pub command: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it wrote there.
    pub stdout: String,
    /// Everything it wrote there.
    pub stderr: String,
}

/// A run under way; dropping it kills the process.
#[derive(Debug)]
pub struct Running {
    child: Child,
    command: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Smokegate {
    /// A context for `binary` (`env!("CARGO_BIN_EXE_smokegate")`), or nothing where the host cannot run it as
    /// that user: then the test has been recorded as not run and must return.
    ///
    /// # Panics
    /// When its directory cannot be made.
    pub fn new(binary: impl AsRef<Path>, run_as: RunAs) -> Option<Self> {
        let need = match run_as {
            RunAs::Root => Need::Root,
            RunAs::OrdinaryUser => Need::Rootless,
        };
        if !require(need) {
            return None;
        }
        Some(Self::set_up(binary.as_ref(), run_as).expect("setting up the test's directory"))
    }

    /// A context for commands that run no container, as the user the tests run as; it needs nothing of the host.
    ///
    /// # Panics
    /// When its directory cannot be made.
    pub fn without_sandbox(binary: impl AsRef<Path>) -> Self {
        let run_as = if is_root() {
            RunAs::Root
        } else {
            RunAs::OrdinaryUser
        };
        Self::set_up(binary.as_ref(), run_as).expect("setting up the test's directory")
    }

    fn set_up(binary: &Path, run_as: RunAs) -> io::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("smokegate-test-")
            .tempdir()?;
        run_as.own(dir.path())?;
        for name in ["bin", "home", "cache", "tmp"] {
            fs::create_dir(dir.path().join(name))?;
            run_as.own(&dir.path().join(name))?;
        }
        // The target directory may lie where an ordinary user cannot look, below /root for one.
        let own = dir.path().join("bin/smokegate");
        if fs::hard_link(binary, &own).is_err() {
            fs::copy(binary, &own)?;
            fs::set_permissions(&own, fs::Permissions::from_mode(0o755))?;
        }
        let place = |name: &str| dir.path().join(name).into_os_string();
        let environment = BTreeMap::from([
            ("HOME".into(), place("home")),
            ("XDG_CACHE_HOME".into(), place("cache")),
            ("TMPDIR".into(), place("tmp")),
            ("PATH".into(), "/usr/bin:/bin".into()),
            ("LC_ALL".into(), "C.UTF-8".into()),
        ]);
        Ok(Self {
            dir,
            run_as,
            environment,
            limit: Duration::from_secs(120),
        })
    }

    /// The directory that is the run's own: its working directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Who runs it.
    pub fn run_as(&self) -> RunAs {
        self.run_as
    }

    /// Sets an environment variable of later runs.
    pub fn env(&mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> &mut Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// Sets how long a run may take before it is killed and the test fails (two minutes else).
    pub fn limit(&mut self, limit: Duration) -> &mut Self {
        self.limit = limit;
        self
    }

    /// Writes a file into the run's directory, owned by the user.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir().join(name);
        fs::write(&path, content)
            .and_then(|()| self.run_as.own(&path))
            .unwrap_or_else(|error| panic!("writing `{}`: {error}", path.display()));
        path
    }

    /// Puts a link to, or a copy of, a file where the user can read it. It must not be written to.
    ///
    /// # Panics
    /// When it can neither be linked nor copied.
    pub fn place(&self, file: &Path) -> PathBuf {
        let path = self
            .dir()
            .join(file.file_name().expect("a file has a name"));
        let readable = fs::metadata(file).is_ok_and(|meta| meta.permissions().mode() & 0o004 != 0);
        if !readable || fs::hard_link(file, &path).is_err() {
            fs::copy(file, &path)
                .and_then(|_| self.run_as.own(&path))
                .unwrap_or_else(|error| panic!("copying `{}`: {error}", file.display()));
        }
        path
    }

    /// Writes an image where the user can read it, as the OCI archive `NAME.oci.tar`.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn archive(&self, name: &str, image: &BuiltImage) -> PathBuf {
        let path = self.dir().join(format!("{name}.oci.tar"));
        image.write_oci_archive(&path, None);
        self.run_as
            .own(&path)
            .unwrap_or_else(|error| panic!("giving `{}` away: {error}", path.display()));
        path
    }

    /// What the last run's app wrote, line by line, without the time and the stream before each.
    ///
    /// # Panics
    /// When there is no log in the default report directory, or a line of it has another form.
    pub fn app_log(&self) -> Vec<String> {
        let file = self.dir().join("smokegate-report/logs/default/app.log");
        let text = read_lossy(&file);
        let line = |line: &str| -> Option<String> {
            let (_seconds, rest) = line.trim_start().split_once(' ')?;
            let text = rest.strip_prefix("out ").or(rest.strip_prefix("err "))?;
            Some(text.to_owned())
        };
        text.lines()
            .map(|text| line(text).unwrap_or_else(|| panic!("not a line of a log: `{text}`")))
            .collect()
    }

    /// The last run's receipt.
    ///
    /// # Panics
    /// When there is none in the default report directory, or it is not JSON.
    pub fn receipt(&self) -> Value {
        let text = read_lossy(&self.dir().join("smokegate-report/receipt.json"));
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The command, with its environment and working directory set and its standard input empty.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        self.command_under(&[], arguments)
    }

    /// The same below another program, such as `["strace", "-f"]`.
    pub fn command_under<S: AsRef<OsStr>>(
        &self,
        wrapper: &[&str],
        arguments: impl IntoIterator<Item = S>,
    ) -> Command {
        let own = self.dir().join("bin/smokegate");
        let mut command = match wrapper {
            [] => self.run_as.command(&own),
            [first, rest @ ..] => {
                let mut command = self.run_as.command(Path::new(first));
                command.args(rest).arg(&own);
                command
            }
        };
        command
            .args(arguments)
            .env_clear()
            .envs(&self.environment)
            .current_dir(self.dir())
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// When it cannot be started or takes longer than the limit.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Finished {
        self.start(arguments).wait(self.limit)
    }

    /// Starts it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Running {
        self.start_command(self.command(arguments))
    }

    /// Starts what [`Smokegate::command`] gave, perhaps with another standard input.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn start_command(&self, mut command: Command) -> Running {
        // Files, not pipes: whoever keeps them open after the end does not keep the test waiting.
        let logs = tempfile::Builder::new()
            .prefix("output-")
            .tempdir_in(self.dir())
            .expect("making a directory for the output")
            .keep();
        let (stdout, stderr) = (logs.join("stdout"), logs.join("stderr"));
        command.stdout(File::create(&stdout).expect("creating the file for stdout"));
        command.stderr(File::create(&stderr).expect("creating the file for stderr"));
        let words: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        let line = words.join(" ");
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("starting `{line}`: {error}"));
        Running {
            child,
            command: line,
            stdout,
            stderr,
        }
    }
}

impl Running {
    /// The process's id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it is gone.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).expect("signalling the process");
    }

    /// What it has written to stderr so far.
    pub fn stderr_so_far(&self) -> String {
        read_lossy(&self.stderr)
    }

    /// What it has written to stdout so far.
    pub fn stdout_so_far(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// Whether it still runs.
    ///
    /// # Panics
    /// When waitpid(2) fails.
    pub fn is_alive(&mut self) -> bool {
        self.child
            .try_wait()
            .expect("waiting for the process")
            .is_none()
    }

    /// Waits until `text` stands in its stderr.
    ///
    /// # Panics
    /// When it ends or `limit` passes before.
    pub fn wait_for_stderr(&mut self, text: &str, limit: Duration) {
        let end = Instant::now() + limit;
        while !self.stderr_so_far().contains(text) {
            let ended = self.child.try_wait().expect("waiting for the process");
            let late = Instant::now() > end;
            assert!(
                ended.is_none() && !late || self.stderr_so_far().contains(text),
                "`{text}` not in stderr (ended: {ended:?}):\n{}",
                self.stderr_so_far()
            );
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When `limit` passes before; the process is killed then.
    pub fn wait(mut self, limit: Duration) -> Finished {
        let end = Instant::now() + limit;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("waiting for the process") {
                break status;
            }
            let late = Instant::now() > end;
            assert!(
                !late,
                "`{}` did not end within {limit:?}; stderr:\n{}",
                self.command,
                self.stderr_so_far()
            );
            thread::sleep(Duration::from_millis(5));
        };
        Finished {
            command: self.command.clone(),
            status,
            stdout: self.stdout_so_far(),
            stderr: self.stderr_so_far(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both answer an error when the process has ended already, which is what is wanted.
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Finished {
    /// The exit code; none when a signal ended it.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<i32> {
        self.status.signal()
    }

    /// Fails the test with everything it wrote unless the exit code is `code`.
    ///
    /// # Panics
    /// When it is not.
    #[track_caller]
    pub fn assert_code(&self, code: i32) -> &Self {
        assert!(
            self.code() == Some(code),
            "`{}` ended with {}, not with exit code {code}\nstdout:\n{}\nstderr:\n{}",
            self.command,
            self.status,
            self.stdout,
            self.stderr
        );
        self
    }
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).expect("reading captured output")).into_owned()
}
