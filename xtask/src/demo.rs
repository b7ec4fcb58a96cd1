//! What smokegate does, on this machine, with no registry and no privilege.

use std::fs;

use crate::Result;
use crate::ship_run::ShipRun;
use crate::workspace::{build_programs, run};

/// A service that must be ready, a check that runs to its end, and the image in two variants.
const GATE_FILE: &str = r#"version: 1
services:
  backend:
    image: demo.oci.tar
    command: [--port, "9090", --path, /ready]
    probes: [{http: {port: 9090, path: /ready}}]
  check:
    image: app
    entrypoint: [/probe-target, connect, "backend:9090"]
    one_shot: true
    depends_on: [backend]
app:
  ports: ["0:8080"]
  depends_on: [backend]
  probes: [{http: {port: 8080, path: /healthz}, within: 30s}]
variants:
  full: {environment: {PLUGIN: "on"}}
  plugin-off: {}
publish:
  tags: ["oci:published:demo"]
"#;

pub(crate) fn demo() -> Result {
    println!("building smokegate and a small image");
    let programs = build_programs(&["smokegate", "smokegate-test-support"], false)?;
    let demo = ShipRun::new(&programs.join("smokegate"))?;
    if demo.unprivileged() {
        println!("(started by root, so it runs as an ordinary user with no subordinate ids)");
    }
    fs::write(demo.dir().join("smokegate.yaml"), GATE_FILE)?;
    println!("\n$ cat smokegate.yaml\n{GATE_FILE}");
    println!("$ smokegate ship demo.oci.tar");
    run(&mut demo.smokegate(&["ship", "demo.oci.tar"]))?;

    println!("\n$ smokegate inspect oci:published:demo");
    run(&mut demo.smokegate(&["inspect", "oci:published:demo"]))?;

    let report = demo.dir().join("smokegate-report");
    println!("\n$ ls smokegate-report");
    let mut names: Vec<_> = fs::read_dir(&report)?
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    names.sort();
    for name in names {
        println!("{}", name.display());
    }
    println!("\n$ cat smokegate-report/receipt.json");
    println!("{}", fs::read_to_string(report.join("receipt.json"))?);
    Ok(())
}
