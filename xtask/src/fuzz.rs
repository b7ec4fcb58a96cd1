//! Fuzzing with cargo-fuzz, which is installed where it is missing.

use std::fs;

use crate::workspace::{cargo, is_installed, metadata, root, run};
use crate::{Result, USAGE};

/// Fuzzes one target for some seconds from its corpus. Findings are left in `tests/fuzz/artifacts`; what is worth
/// keeping goes to `fixtures/corpus`, from where the tests replay it.
pub(crate) fn fuzz(options: &[&str]) -> Result {
    let (target, seconds) = match options {
        [target] => (*target, 300),
        [target, seconds] => (*target, seconds.parse()?),
        _ => return Err(USAGE.into()),
    };
    let seeds = root().join("fixtures/corpus").join(target);
    if !seeds.is_dir() {
        let names: Vec<_> = fs::read_dir(root().join("fixtures/corpus"))?
            .flatten()
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        return Err(format!("no target `{target}`; there are: {}", names.join(", ")).into());
    }
    if !is_installed("cargo-fuzz")
        && cargo(["fuzz", "--version"])
            .output()
            .is_ok_and(|out| !out.status.success())
    {
        run(&mut cargo(["install", "--locked", "cargo-fuzz"]))?;
    }
    let built = metadata(&["--no-deps"])?;
    let built = built["target_directory"]
        .as_str()
        .ok_or("no target directory")?;
    // What is found on the way is kept here, so that the next run goes on from it.
    let found = format!("{built}/fuzz/found/{target}");
    fs::create_dir_all(&found)?;
    let limit = format!("-max_total_time={seconds}");
    let mut command = cargo([
        "fuzz",
        "run",
        "--fuzz-dir",
        "tests/fuzz",
        target,
        found.as_str(),
    ]);
    command.arg(&seeds);
    command.args(["--", limit.as_str(), "-timeout=20", "-max_len=16384"]);
    // Sanitizer flags are for nightly compilers; this lets a stable one take them too.
    command.env("RUSTC_BOOTSTRAP", "1");
    command.env("CARGO_TARGET_DIR", format!("{built}/fuzz"));
    run(&mut command)
}
