//! The program that is every container under test, compiled static by the build script.

use std::path::Path;

/// The words it understands are the arms of `run` in `tests/support/probe_target/main.rs`.
pub fn probe_target() -> &'static Path {
    Path::new(env!("SMOKEGATE_PROBE_TARGET"))
}
