//! The Debian packages that some tests need, installed where that is allowed.

use std::process::Command;

use crate::Result;
use crate::workspace::{is_installed, is_root};

/// A program and the package it is in.
const PROGRAMS: [(&str, &str); 9] = [
    ("cc", "gcc"),
    ("docker-registry", "docker-registry"),
    ("mmdebstrap", "mmdebstrap"),
    ("newuidmap", "uidmap"),
    ("openssl", "openssl"),
    ("setpriv", "util-linux"),
    ("skopeo", "skopeo"),
    ("strace", "strace"),
    ("umoci", "umoci"),
];

/// Installs what is missing when run as root; else says in one line what to run. Silent when nothing is missing.
pub(crate) fn ensure() {
    let missing: Vec<_> = PROGRAMS
        .iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return;
    }
    let names = missing.join(" ");
    if !is_root() || !is_installed("apt-get") {
        println!("some tests will not run; they need: sudo apt-get install {names}");
        return;
    }
    println!("installing {names}");
    // What a missing package breaks is reported by the tests that need it.
    if let Err(error) = install(&missing) {
        eprintln!("could not install {names}: {error}");
    }
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
