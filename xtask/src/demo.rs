//! What smokegate does, on this machine, with no registry and no privilege.

use std::fs;

use crate::Result;
use crate::ship_run::ShipRun;
use crate::workspace::{build_programs, run};

pub(crate) fn demo() -> Result {
    println!("building smokegate and a small image");
    let programs = build_programs(&["smokegate", "smokegate-test-support"], false)?;
    let demo = ShipRun::new(&programs.join("smokegate"))?;
    if demo.unprivileged() {
        println!("(started by root, so it runs as an ordinary user with no subordinate ids)");
    }
    println!("\n$ smokegate ship demo.oci.tar --tag oci:published:demo");
    run(&mut demo.smokegate(&["ship", "demo.oci.tar", "--tag", "oci:published:demo"]))?;

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
