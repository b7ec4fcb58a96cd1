//! `cargo xtask dist`: one static program with its digest beside it, run once where there is no library.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::Result;
use crate::ship_run::ShipRun;
use crate::workspace::{cargo, metadata, run};

/// Starts that are timed.
const STARTS: usize = 200;

/// The program's own output decides.
const GATE_FILE: &str = r#"version: 1
app:
  probes: [{log: {regex: "^smokegate [0-9]"}, within: 30s}]
variants:
  version: {expect: {exit_code: 0}}
"#;

pub(crate) fn dist() -> Result {
    let metadata = metadata(&["--no-deps"])?;
    let text = |value: &serde_json::Value| value.as_str().map(str::to_owned);
    let target = text(&metadata["target_directory"]).ok_or("no target directory")?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let own = packages.into_iter().find(|one| one["name"] == "smokegate");
    let version = own.and_then(|one| text(&one["version"]));
    let version = version.ok_or("no package `smokegate`")?;
    let arch = std::env::consts::ARCH;
    let triple = format!("{arch}-unknown-linux-gnu");
    println!("building smokegate {version} for {triple}, without shared libraries");
    // With `--target`, flags are for the program only: build scripts and macros stay dynamic.
    let mut build = cargo(["build", "--release", "--locked", "--target", &triple]);
    build.args(["--package", "smokegate", "--bin", "smokegate"]);
    run(build.env("RUSTFLAGS", "-C target-feature=+crt-static"))?;

    let dir = Path::new(&target).join("dist");
    fs::create_dir_all(&dir)?;
    let name = format!("smokegate-{version}-{arch}-linux");
    let program = dir.join(&name);
    let built = [&target, &triple, "release", "smokegate"];
    fs::copy(built.iter().collect::<PathBuf>(), &program)?;
    let sums = dir.join(format!("{name}.sha256"));
    let mut sum = Command::new("sha256sum");
    run(sum
        .arg(&name)
        .current_dir(&dir)
        .stdout(File::create(&sums)?))?;

    prove(&program)?;
    println!("{}", program.display());
    print!("{}", fs::read_to_string(&sums)?);
    println!("{} bytes", fs::metadata(&program)?.len());
    let median = median_start(&program)?;
    println!("`smokegate --version` takes {median:.1} ms (median of {STARTS})");
    Ok(())
}

/// Has the program gate an image that holds the program, and nothing else.
fn prove(program: &Path) -> Result {
    let place = ShipRun::new(program)?;
    let dir = place.dir();
    let tar = |archive: &str, names: &[&str]| {
        let mut tar = Command::new("tar");
        tar.args(["--create", "--owner=0", "--group=0", "--file", archive]);
        run(tar.args(names).current_dir(dir))
    };
    tar("layer.tar", &["smokegate"])?;
    let sum = Command::new("sha256sum")
        .arg("layer.tar")
        .current_dir(dir)
        .output()?;
    let sum = String::from_utf8(sum.stdout)?;
    let sum = sum.split(' ').next().unwrap_or_default();
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = serde_json::json!({
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": ["/smokegate", "--version"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{sum}")]},
    });
    let manifest = serde_json::json!([
        {"Config": "config.json", "RepoTags": null, "Layers": ["layer.tar"]}
    ]);
    fs::write(dir.join("config.json"), config.to_string())?;
    fs::write(dir.join("manifest.json"), manifest.to_string())?;
    tar("own.tar", &["manifest.json", "config.json", "layer.tar"])?;
    fs::write(dir.join("smokegate.yaml"), GATE_FILE)?;
    println!("running it in a root filesystem that holds nothing else");
    run(&mut place.smokegate(&["gate", "own.tar"]))
}

/// Milliseconds that `--version` takes, from before the fork to after the wait.
fn median_start(program: &Path) -> Result<f64> {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let mut start = Command::new(program);
        start.arg("--version").stdout(std::process::Stdio::null());
        let began = Instant::now();
        run(&mut start)?;
        times.push(began.elapsed().as_secs_f64() * 1000.0);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[STARTS / 2])
}
