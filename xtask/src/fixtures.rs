//! The image fixtures: listed, checked, or written out as an image.

use std::fs;
use std::io::{self, Write};
use std::process::Command;

use crate::workspace::{build_programs, root, run};
use crate::{Result, USAGE};

pub(crate) fn fixtures(options: &[&str]) -> Result {
    match options {
        [] => list(),
        ["--check"] => run(program()?.arg("check")),
        _ => {
            let (mut image, mut out, mut form) = (None, None, "oci-archive");
            for pair in options.chunks(2) {
                match *pair {
                    ["--image", value] => image = Some(value),
                    ["--out", value] => out = Some(value),
                    ["--form", value] => form = value,
                    _ => return Err(USAGE.into()),
                }
            }
            let (Some(image), Some(out)) = (image, out) else {
                return Err(USAGE.into());
            };
            run(program()?.args([image, form, out, &format!("{image}:latest")]))
        }
    }
}

fn list() -> Result {
    let mut files: Vec<_> = fs::read_dir(root().join("fixtures/images"))?
        .flatten()
        .collect();
    files.sort_by_key(fs::DirEntry::file_name);
    let mut table = String::new();
    for file in files {
        let path = file.path();
        let text = fs::read_to_string(&path)?;
        let purpose = text
            .lines()
            .next()
            .unwrap_or_default()
            .trim_start_matches("# ")
            .to_owned();
        let name = path.file_stem().unwrap_or_default().display();
        table += &format!("{name:20} {purpose}\n");
    }
    match io::stdout().write_all(table.as_bytes()) {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        done => Ok(done?),
    }
}

/// The program that makes images; the library behind it is the tests' own.
pub(crate) fn program() -> Result<Command> {
    let programs = build_programs(&["smokegate-test-support"], false)?;
    Ok(Command::new(programs.join("fixture-image")))
}
