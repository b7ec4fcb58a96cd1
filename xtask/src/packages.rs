//! The Debian packages and programs that some tests need, installed where that is allowed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::Result;
use crate::workspace::{cargo, is_installed, is_root};

/// A program and the package it is in.
const PROGRAMS: [(&str, &str); 10] = [
    ("cc", "gcc"),
    ("docker-registry", "docker-registry"),
    ("mmdebstrap", "mmdebstrap"),
    ("musl-gcc", "musl-tools"),
    ("newuidmap", "uidmap"),
    ("openssl", "openssl"),
    ("setpriv", "util-linux"),
    ("skopeo", "skopeo"),
    ("strace", "strace"),
    ("umoci", "umoci"),
];

/// What the oracle compares with, beside what the tests need.
const ORACLES: [(&str, &str); 2] = [("crun", "crun"), ("dockerd", "docker.io")];

/// What counts instructions for `cargo xtask bench --instructions`.
const COUNTERS: [(&str, &str); 1] = [("valgrind", "valgrind")];

/// Whom `cargo xtask bench` compares with, beside what the tests need.
const CONTENDERS: [(&str, &str); 6] = [
    ("buildah", "buildah"),
    ("curl", "curl"),
    ("mkfs.ext4", "e2fsprogs"),
    ("dockerd", "docker.io"),
    ("igzip", "isal"),
    ("podman", "podman"),
];

/// Installs what is missing of what tests need when run as root; else says in one line what to run. Silent when nothing is missing.
pub(crate) fn ensure() {
    ensure_of(&PROGRAMS, "some tests will not run");
}

/// The same for what `cargo xtask oracle` compares with.
pub(crate) fn ensure_oracles() {
    ensure_of(&ORACLES, "less can be compared");
}

/// The same for whom `cargo xtask bench` compares with.
pub(crate) fn ensure_contenders() {
    ensure();
    ensure_of(&CONTENDERS, "less can be compared");
}

/// The same for what counts instructions.
pub(crate) fn ensure_counters() {
    ensure_of(&COUNTERS, "nothing can be counted");
}

fn ensure_of(programs: &[(&str, &str)], otherwise: &str) {
    let missing: Vec<_> = programs
        .iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return;
    }
    let names = missing.join(" ");
    if !is_root() || !is_installed("apt-get") {
        println!("{otherwise}; to change that: sudo apt-get install {names}");
        return;
    }
    println!("installing {names}");
    // What a missing package breaks is reported by the tests that need it.
    if let Err(error) = install(&missing) {
        eprintln!("could not install {names}: {error}");
    }
}

/// The version whose manners the tests know.
const MOTO: &str = "moto[server]==5.2.5";

/// Installs moto into a virtual environment below `target`, once; the directory of its programs.
pub(crate) fn ensure_moto(target: &Path) -> Option<PathBuf> {
    let dir = target.join("moto");
    let bin = dir.join("bin");
    if is_installed("moto_server") || bin.join("moto_server").exists() {
        return Some(bin);
    }
    println!("installing {MOTO}");
    let mut venv = Command::new("python3");
    venv.args(["-m", "venv"]).arg(&dir);
    let mut pip = Command::new(bin.join("pip"));
    pip.args(["install", "--quiet", MOTO]);
    for mut command in [venv, pip] {
        let failure = match command.output() {
            Ok(output) if output.status.success() => continue,
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        eprintln!("could not install {MOTO} (python3-venv and PyPI are needed): {failure}");
        return None;
    }
    Some(bin)
}

/// The version whose manners the tests know.
const FERRO: &str = "ferro-oci-server@1.0.0";

/// Builds a registry that is not docker-registry below `target`, once; the directory of its program.
pub(crate) fn ensure_ferro(target: &Path) -> Option<PathBuf> {
    let dir = target.join("ferro");
    let bin = dir.join("bin");
    if is_installed("ferro-oci-server") || bin.join("ferro-oci-server").exists() {
        return Some(bin);
    }
    println!("installing {FERRO}");
    let mut install = cargo(["install", "--quiet", "--locked", FERRO]);
    install.arg("--target-dir").arg(dir.join("build"));
    install.arg("--root").arg(&dir);
    let failure = match install.output() {
        Ok(output) if output.status.success() => return Some(bin),
        Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        Err(error) => error.to_string(),
    };
    eprintln!("could not install {FERRO}: {failure}");
    None
}

fn install(packages: &[&str]) -> Result {
    apt_get(&["update"])?;
    apt_get(&[&["install", "--yes", "--no-install-recommends"], packages].concat())
}

fn apt_get(arguments: &[&str]) -> Result {
    let output = Command::new("apt-get")
        .arg("-qq")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        // docker-registry comes with a service; invoke-rc.d(8) starts none in runlevel 1.
        .env("RUNLEVEL", "1")
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().into())
}
