//! Project chores, run as `cargo xtask NAME`. Depends on no member of the workspace, so that it builds in
//! seconds and can report that a member does not build.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for people"
)]

mod bench;
mod demo;
mod dist;
mod dockerd;
mod faults;
mod fixtures;
mod fuzz;
mod oracle;
mod packages;
mod ship_run;
mod test_counts;
mod test_run;
#[cfg(test)]
mod tidy;
mod workspace;

use std::error::Error;
use std::process::ExitCode;

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: cargo xtask CHORE

  demo                  build a small image, gate it and ship it to an OCI layout; shows the receipt
  test                  install what the tests need (as root), run every check and test of this checkout
  ci                    the same, where a test that cannot run is a failure
  dist                  build one static program for this machine's architecture, with its digest beside it, and run
                        it where there is no library
  fixtures              list the image fixtures
  fixtures --check      prove that each makes the same image twice
  fixtures --image NAME --out PATH [--form oci-layout|oci-archive|docker-archive|docker-archive-legacy]
                        write one; `debian-…` need root and mmdebstrap
  fuzz TARGET [SECONDS] fuzz `layer`, `archive`, `manifest` or `config`, for 300 seconds where nothing is said
  oracle                compare what containers see with Docker, umoci and crun; as root with all of them
  faults [N] [SEED]     push N images (2000 where nothing is said) while everything fails, from this seed on
  bench [--quick] [--runs N] [--peer-runs N] [--peers LIST|none] [WORKLOAD…]
                        time `ship` against docker, podman, buildah, umoci and skopeo, which root installs;
                        `debian/gzip` alone with --quick; medians go to docs/benchmarks too. With all peers five
                        times a workload takes 10 minutes on two quiet cores, without them 2; there are twelve
  bench --instructions [--keep]
                        count what small fixed tasks execute, and fail where it is 5 % more than is kept";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["demo"] => demo::demo().map(|()| true),
        ["test"] => test_run::test(test_run::Unmet::Skip),
        ["ci"] => test_run::test(test_run::Unmet::Fail),
        ["dist"] => dist::dist().map(|()| true),
        ["fixtures", options @ ..] => fixtures::fixtures(options).map(|()| true),
        ["fuzz", options @ ..] => fuzz::fuzz(options).map(|()| true),
        ["oracle"] => oracle::oracle(),
        ["faults", options @ ..] => faults::faults(options).map(|()| true),
        ["bench", words @ ..] => bench::bench(words),
        // Not for people: what a run of the benchmark has clean up after it.
        [bench::SWEEP, dir, run_root] => {
            bench::sweep(dir.as_ref(), run_root.as_ref()).map(|()| true)
        }
        ["help" | "--help" | "-h"] => {
            println!("{USAGE}");
            Ok(true)
        }
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
