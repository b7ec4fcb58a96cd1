//! One image like those people ship: Debian with python3, made by mmdebstrap and kept between runs.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use smokegate_image::Digest;

use crate::requirements::program;
use crate::{BuiltImage, ImageFixture, Packing};

/// What is in it beside Debian's minimal base.
const PACKAGES: &str = "python3";

/// An image of about 220 MB that serves `/healthz` on port 8080 with python3; its fixture is `debian-python`.
///
/// The first call takes a minute and the package mirror; its result is kept in the target directory. Ask for
/// [`crate::Need::Mmdebstrap`] first.
///
/// # Panics
/// When mmdebstrap fails; what it said is in the message.
pub fn debian_image() -> BuiltImage {
    let base = base_tar().unwrap_or_else(|error| panic!("making the Debian base: {error}"));
    ImageFixture::load("debian-python")
        .on_base_tar(&base, Packing::Gzip)
        .build()
}

/// The tar that mmdebstrap made, made now where there is none; one process makes it, the others wait.
fn base_tar() -> io::Result<PathBuf> {
    let dir = cache_dir();
    fs::create_dir_all(&dir)?;
    let key = Digest::sha256(PACKAGES.as_bytes());
    let tar = dir.join(format!("debian-{}.tar", &key.hex()[..12]));
    let lock = File::create(dir.join("debian.lock"))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    if tar.exists() {
        return Ok(tar);
    }
    let unfinished = tar.with_extension("unfinished.tar");
    let output = program("mmdebstrap")
        .args([
            "--quiet",
            "--mode=root",
            "--variant=minbase",
            "--include",
            PACKAGES,
        ])
        .args([
            "--aptopt=Apt::Install-Recommends \"false\"",
            "--dpkgopt=force-unsafe-io",
        ])
        .arg(suite()?)
        .arg(&unfinished)
        .env("SOURCE_DATE_EPOCH", "1577836800")
        .output()?;
    if !output.status.success() {
        return Err(io::Error::other(
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ));
    }
    fs::rename(&unfinished, &tar)?;
    Ok(tar)
}

/// The host's own release: its package sources are those that are known to answer.
fn suite() -> io::Result<String> {
    let release = fs::read_to_string("/etc/os-release")?;
    let name = release
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name
        .ok_or_else(|| io::Error::other("no VERSION_CODENAME in /etc/os-release"))?
        .to_owned())
}

/// Beside the profile directories of the target directory, which no test run empties.
fn cache_dir() -> PathBuf {
    // OUT_DIR is TARGET/PROFILE/build/PACKAGE/out.
    let out = Path::new(env!("OUT_DIR"));
    out.ancestors()
        .nth(4)
        .unwrap_or(out)
        .join("tmp/test-images")
}
