//! Makes an image from a fixture, or checks that every fixture makes the same image twice; for `cargo xtask`.
//!
//! A program of its own, so that xtask builds in seconds and still works when the image crate does not.

use std::error::Error;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::Path;

use smokegate_test_support::{ImageFixture, debian_image, fixture_dir};

const USAGE: &str = "usage: fixture-image check | fixture-image NAME FORM PATH [REPOSITORY:TAG]\n\
                     FORM: oci-layout, oci-archive, docker-archive, docker-archive-legacy";

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["check"] => check(),
        [name, form, path] => write(name, form, Path::new(path), None),
        [name, form, path, tag] => write(name, form, Path::new(path), Some(tag)),
        _ => Err(USAGE.into()),
    }
}

fn write(name: &str, form: &str, path: &Path, tag: Option<&str>) -> Result<(), Box<dyn Error>> {
    let image = match name {
        _ if ImageFixture::load(name).debian.is_some() => debian_image(name),
        _ => ImageFixture::load(name).build(),
    };
    match form {
        "oci-layout" => image.write_oci_layout(path, tag),
        "oci-archive" => image.write_oci_archive(path, tag),
        "docker-archive" => image.write_docker_archive(path, tag),
        "docker-archive-legacy" => image.write_docker_archive_legacy(path, tag),
        _ => return Err(USAGE.into()),
    }
    writeln!(io::stdout(), "{}", image.digest())?;
    Ok(())
}

fn check() -> Result<(), Box<dyn Error>> {
    let mut names: Vec<_> = std::fs::read_dir(fixture_dir())?
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()?
        .into_iter()
        .filter(|path| path.extension() == Some(OsStr::new("txt")))
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    names.sort();
    for name in &names {
        let (first, second) = (
            ImageFixture::load(name).build(),
            ImageFixture::load(name).build(),
        );
        if first.digest() != second.digest() {
            let (first, second) = (first.digest(), second.digest());
            return Err(format!("fixture `{name}` made {first}, then {second}").into());
        }
        writeln!(io::stdout(), "{} {name}", first.digest())?;
    }
    Ok(())
}
