//! smokegate: runs an OCI image the way production will, and publishes the same bytes only if it passes.

mod args;
mod attestation;
mod commands;
mod diagnosis;
mod exit_code;
mod failure;
mod finding_record;
mod gate_file;
mod kept;
mod limits;
mod linting;
mod network_record;
mod pipeline;
mod plan_document;
mod preparation;
mod printer;
mod receipt;
mod registry_file;
mod report;
mod run_dir;
mod settings;
mod sources;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else: the helper must have one thread and no runtime.
    smokegate_sandbox::run_if_helper(Some(linting::index_layer));
    smokegate_sandbox::resolve_hosts_without_modules();
    commands::main()
}
