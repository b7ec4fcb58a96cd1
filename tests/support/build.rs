//! Compiles the probe target into one static program: it must run in a root filesystem with no libc in it.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    let source_dir = Path::new(&env::var("CARGO_MANIFEST_DIR").unwrap()).join("probe_target");
    let source = source_dir.join("main.rs");
    let program = Path::new(&env::var("OUT_DIR").unwrap()).join("probe-target");
    println!("cargo::rerun-if-changed={}", source_dir.display());
    println!(
        "cargo::rustc-env=SMOKEGATE_PROBE_TARGET={}",
        program.display()
    );

    // The directory is mapped away so that two checkouts make the same bytes, and so the same digests.
    let status = Command::new(env::var_os("RUSTC").unwrap())
        .args([
            "--edition=2024",
            "-O",
            "-Cpanic=abort",
            "-Cstrip=symbols",
            "-Ccodegen-units=1",
        ])
        .args(["-Ctarget-feature=+crt-static", "--crate-name=probe_target"])
        .arg(format!(
            "--remap-path-prefix={}=probe_target",
            source_dir.display()
        ))
        .args(["--target", &env::var("TARGET").unwrap()])
        .arg("-o")
        .arg(&program)
        .arg(&source)
        .status()
        .expect("rustc starts");
    assert!(
        status.success(),
        "the probe target did not compile: {status}"
    );
}
