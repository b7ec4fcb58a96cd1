//! The fault schedules of the registry's tests, in numbers that a test run has no time for.

use crate::workspace::{cargo, run};
use crate::{Result, USAGE};

/// Runs so many schedules; a failure names its seed.
pub(crate) fn faults(options: &[&str]) -> Result {
    let (count, seed) = match options {
        [] => (2000, 0),
        [count] => (count.parse()?, 0),
        [count, seed] => (count.parse::<u64>()?, seed.parse::<u64>()?),
        _ => return Err(USAGE.into()),
    };
    let mut command = cargo(["test", "-p", "smokegate-registry", "--test", "registry"]);
    command.args(["any_schedule_of_faults", "--", "--nocapture"]);
    command.env("SMOKEGATE_FAULT_SCHEDULES", count.to_string());
    command.env("SMOKEGATE_FAULT_SEED", seed.to_string());
    run(&mut command)
}
