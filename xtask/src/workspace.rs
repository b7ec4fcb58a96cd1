//! The checkout this xtask was built from, and the programs in it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

use crate::Result;

/// The root of the checkout.
pub(crate) fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// The cargo that runs this, in the root of the checkout.
pub(crate) fn cargo<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).current_dir(root());
    command
}

/// What `cargo metadata` says, with these further arguments.
pub(crate) fn metadata(arguments: &[&str]) -> Result<Value> {
    let output = cargo(["metadata", "--format-version=1"])
        .args(arguments)
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Builds the programs of these packages and says where they are.
pub(crate) fn build_programs(packages: &[&str], release: bool) -> Result<PathBuf> {
    let target = metadata(&["--no-deps"])?;
    let target = Path::new(
        target["target_directory"]
            .as_str()
            .ok_or("no target directory")?,
    );
    let mut command = cargo(["build", "--quiet", "--bins"]);
    command.args(packages.iter().flat_map(|package| ["--package", package]));
    if release {
        command.arg("--release");
    }
    run(&mut command)?;
    Ok(target.join(if release { "release" } else { "debug" }))
}

/// Runs a command that must succeed.
pub(crate) fn run(command: &mut Command) -> Result {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .map_err(|error| format!("starting `{name}`: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{name}` failed: {status}").into())
    }
}

/// Whether this process is root: proc(5), the effective id is the second.
pub(crate) fn is_root() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    ids.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

/// Whether a program is installed, in `PATH` or where Debian puts those for root.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    env::split_paths(&path)
        .chain(system)
        .any(|dir| dir.join(program).is_file())
}
