//! Images like those people ship, from Debian packages: made by mmdebstrap and kept between runs.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use smokegate_image::Digest;

use crate::layer_diff::write_difference;
use crate::requirements::program;
use crate::{BuiltImage, ImageFixture, Packing};

/// The fixture `NAME` on the Debian packages that its `debian` line names: a layer with Debian's essential packages,
/// one with what the named ones add to it, and the fixture's own.
///
/// The first call takes a minute and the package mirror; what mmdebstrap made is kept in the target directory. Ask
/// for [`crate::Need::Mmdebstrap`] first.
///
/// # Panics
/// When the fixture names no packages, or mmdebstrap fails; what it said is in the message.
pub fn debian_image(name: &str) -> BuiltImage {
    on_debian(ImageFixture::load(name))
}

/// The same for a fixture that a test has changed.
///
/// # Panics
/// As [`debian_image`].
pub fn on_debian(fixture: ImageFixture) -> BuiltImage {
    let packages = fixture
        .debian
        .clone()
        .expect("the fixture has no `debian` line");
    let layers =
        debian_layers(&packages).unwrap_or_else(|error| panic!("making `{packages}`: {error}"));
    let packings = [Packing::Plain, Packing::Gzip];
    let stacked = layers.iter().zip(packings).rev();
    stacked
        .fold(fixture, |fixture, (layer, packing)| {
            fixture.on_base_tar(layer, packing)
        })
        .build()
}

/// The tars below the own layers of a fixture with this `debian` line, bottom first.
///
/// # Errors
/// When mmdebstrap fails; what it said is in the message.
pub fn debian_layers(debian: &str) -> io::Result<Vec<PathBuf>> {
    let (variant, packages) = debian.split_once(' ').unwrap_or((debian, ""));
    // Without the essential packages there is nothing to have a layer of its own.
    if variant == "extract" || packages.is_empty() {
        return Ok(vec![whole(variant, packages)?]);
    }
    let base = whole(variant, "")?;
    let layer = made(&format!("layer {debian}"), |unfinished| {
        let whole = whole(variant, packages)?;
        let mut to = BufWriter::new(File::create(unfinished)?);
        write_difference(&base, &whole, &mut to)?;
        to.flush()?;
        // Its use was to be compared; it is as large as both layers.
        fs::remove_file(whole)
    })?;
    Ok(vec![base, layer])
}

/// The root filesystem that mmdebstrap makes.
fn whole(variant: &str, packages: &str) -> io::Result<PathBuf> {
    made(&format!("whole {variant} {packages}"), |unfinished| {
        let (suite, variant) = match variant.split_once('/') {
            Some((suite, variant)) => (suite.to_owned(), variant),
            None => (suite()?, variant),
        };
        let mut command = program("mmdebstrap");
        command.args(["--quiet", "--mode=root", "--format=tar"]);
        command.arg(format!("--variant={variant}"));
        if !packages.is_empty() {
            command.args(["--include", packages]);
        }
        command
            .arg("--aptopt=Apt::Install-Recommends \"false\"")
            .arg("--dpkgopt=force-unsafe-io");
        // As Debian's own slim images; directories stay, as some packages put links there.
        for path in ["doc", "locale", "man/*"] {
            command.arg(format!("--dpkgopt=path-exclude=/usr/share/{path}/*"));
        }
        let output = command
            .arg(suite)
            .arg(unfinished)
            .env("SOURCE_DATE_EPOCH", "1577836800")
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(io::Error::other(said))
    })
}

/// The kept file of this recipe, made now where there is none; one process makes it, the others wait.
fn made(recipe: &str, make: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<PathBuf> {
    let dir = cache_dir();
    fs::create_dir_all(&dir)?;
    let key = Digest::sha256(format!("{recipe} {}", suite()?).as_bytes());
    let name = format!("debian-{}", &key.hex()[..12]);
    let tar = dir.join(format!("{name}.tar"));
    let lock = File::create(dir.join(format!("{name}.lock")))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    if !tar.exists() {
        let unfinished = dir.join(format!("{name}.unfinished.tar"));
        make(&unfinished)?;
        fs::rename(&unfinished, &tar)?;
    }
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
