//! From an image and what was asked of it to a verdict.
//!
//! [`plan`] resolves flags and the image's config into a [`GatePlan`]; [`run`] executes it and reports
//! [`Event`]s; the [`Verdict`] of a run is the only thing that can clear an image for publishing. Schedule,
//! plan and verdict do no I/O and read no clock.

mod clearance;
mod event;
pub mod gate_file;
mod log_capture;
mod plan;
mod port_map;
mod probe;
mod runner;
mod schedule;
mod signal;
mod verdict;

pub use clearance::{Blocked, Cleared};
pub use event::Event;
pub use log_capture::{LogLine, LogTail, Stream};
pub use plan::{
    ContainerPlan, GatePlan, GateRequest, HostPort, PlanError, PortMap, PortMapError, Probe,
    VariantPlan, plan,
};
pub use probe::{Observation, Outcome};
pub use runner::{RunEnvironment, run};
pub use schedule::{GaveUp, Next, Schedule, Timing};
pub use verdict::{
    Decision, ExitReason, Inconclusive, PublishedPort, Reason, Timings, VariantVerdict, Verdict,
};
