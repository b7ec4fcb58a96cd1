//! What a test needs of the host, and the honest account of tests that did not run.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::run_as::{RunAs, is_root};

/// Something not every host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// The test runs as root.
    Root,
    /// An ordinary user may make user namespaces; that user has no subordinate ids and no helper.
    Rootless,
    /// Debian's `docker-registry`.
    DockerRegistry,
    /// Cgroups with memory, cpu and pids may be made.
    Cgroups,
    /// `moto_server`, a counterpart of AWS's APIs from PyPI.
    Moto,
    /// `ferro-oci-server`, a registry from crates.io with other manners than docker-registry's.
    Ferro,
    /// A program that makes root filesystems from Debian packages, and the right to run it.
    Mmdebstrap,
    /// `musl-gcc`, which makes programs as Alpine's are.
    MuslTools,
    /// `openssl`, for test certificates.
    Openssl,
    /// `skopeo`, an independent reader of images.
    Skopeo,
    /// `strace`, with the right to trace.
    Strace,
    /// `umoci`, an independent unpacker.
    Umoci,
    /// `newuidmap`, which maps subordinate ids.
    Newuidmap,
}

/// Whether the host has it; otherwise the calling test is recorded as not run and must return.
///
/// `SMOKEGATE_TEST_REQUIRE` (`all`, or needs by name with commas) turns that into a failure.
/// `SMOKEGATE_TEST_NOT_RUN` names a file that takes one line, `TEST: REASON`, per test not run.
///
/// # Panics
/// When the need is required and not met.
#[must_use = "a test that needs it must return when this is false"]
pub fn require(need: Need) -> bool {
    let Err(reason) = need.check() else {
        return true;
    };
    let required = env::var("SMOKEGATE_TEST_REQUIRE").unwrap_or_default();
    let named = required
        .split(',')
        .any(|name| name == "all" || name == need.name());
    assert!(!named, "`{}` is required here: {reason}", need.name());
    let thread = std::thread::current();
    let test = env::var("NEXTEST_TEST_NAME")
        .unwrap_or_else(|_| thread.name().unwrap_or("unnamed test").to_owned());
    record(&format!("{test}: {reason}")).expect("recording that a test did not run");
    false
}

fn record(line: &str) -> io::Result<()> {
    writeln!(io::stderr(), "not run: {line}")?;
    let Some(file) = env::var_os("SMOKEGATE_TEST_NOT_RUN") else {
        return Ok(());
    };
    // One write to a file opened for appending: lines of concurrent tests do not mix.
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)?
        .write_all(format!("{line}\n").as_bytes())
}

impl Need {
    /// As `SMOKEGATE_TEST_REQUIRE` spells it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Rootless => "rootless",
            Self::DockerRegistry => "docker-registry",
            Self::Cgroups => "cgroups",
            Self::Moto => "moto",
            Self::Ferro => "ferro-oci-server",
            Self::Mmdebstrap => "mmdebstrap",
            Self::MuslTools => "musl-gcc",
            Self::Openssl => "openssl",
            Self::Skopeo => "skopeo",
            Self::Strace => "strace",
            Self::Umoci => "umoci",
            Self::Newuidmap => "newuidmap",
        }
    }

    fn check(self) -> Result<(), String> {
        match self {
            Self::Root if is_root() => Ok(()),
            Self::Root => Err("needs root".to_owned()),
            Self::Rootless => user_namespaces(),
            Self::Cgroups => cgroups(),
            Self::Moto => match find_program("moto_server") {
                Some(_) => Ok(()),
                None => Err("needs `moto_server`: pip install 'moto[server]'".to_owned()),
            },
            Self::Ferro => match find_program("ferro-oci-server") {
                Some(_) => Ok(()),
                None => Err("needs `ferro-oci-server`: cargo install it, at 1.0.0".to_owned()),
            },
            Self::MuslTools => match find_program("musl-gcc") {
                Some(_) => Ok(()),
                None => Err("needs `musl-gcc`: apt-get install musl-tools".to_owned()),
            },
            Self::Mmdebstrap if !is_root() => Err("mmdebstrap needs root".to_owned()),
            Self::DockerRegistry
            | Self::Mmdebstrap
            | Self::Openssl
            | Self::Skopeo
            | Self::Strace
            | Self::Umoci
            | Self::Newuidmap => match find_program(self.name()) {
                Some(_) => Ok(()),
                None => Err(format!("needs `{}`: apt-get install {0}", self.name())),
            },
        }
    }
}

/// Looks at v1, where the process's own cgroups count, and at the root of v2.
fn cgroups() -> Result<(), String> {
    let own = fs::read_to_string("/proc/self/cgroup").map_err(|error| error.to_string())?;
    for controller in ["memory", "cpu", "pids"] {
        let v1 = own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let names = parts.next()?;
            let is_it = names.split(',').any(|name| name == controller);
            let path = parts.next()?.trim_start_matches('/');
            is_it.then(|| Path::new("/sys/fs/cgroup").join(names).join(path))
        });
        let given = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
        let dir = match v1 {
            Some(dir) => dir,
            None if given.split_whitespace().any(|name| name == controller) => {
                PathBuf::from("/sys/fs/cgroup")
            }
            None => return Err(format!("there is no cgroup controller `{controller}`")),
        };
        let made = dir.join(format!("test-{}-{controller}", std::process::id()));
        fs::create_dir(&made)
            .and_then(|()| fs::remove_dir(&made))
            .map_err(|error| format!("no cgroup can be made in `{}`: {error}", dir.display()))?;
    }
    Ok(())
}

fn user_namespaces() -> Result<(), String> {
    for name in ["setpriv", "unshare"] {
        find_program(name).ok_or_else(|| format!("needs `{name}`: apt-get install util-linux"))?;
    }
    let mut command = RunAs::OrdinaryUser.command(Path::new("unshare"));
    command
        .args(["--user", "--map-root-user", "true"])
        .stdin(Stdio::null());
    let output = command
        .output()
        .map_err(|error| format!("starting `unshare`: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "an ordinary user may not make a user namespace: {}",
        reason.trim()
    ))
}

/// Where `name` is among the usual directories of programs.
pub fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    let mut places = env::split_paths(&path)
        .chain(system)
        .map(|dir| dir.join(name));
    places.find(|file| fs::metadata(file).is_ok_and(|meta| meta.is_file()))
}

/// A command for the program `name`.
///
/// # Panics
/// When it is not installed; ask [`require`] first.
pub fn program(name: &str) -> Command {
    Command::new(find_program(name).unwrap_or_else(|| panic!("`{name}` is not installed")))
}
