//! From an image and what was asked of it to a verdict.
//!
//! [`plan()`] resolves flags and the image's config into a [`GatePlan`], [`resolve()`] a gate file too; [`run`]
//! executes it and reports [`Event`]s; the [`Verdict`] of a run is the only thing that can clear an image for
//! publishing. Schedule, plan and verdict do no I/O and read no clock.

mod clearance;
mod container_run;
mod courteous;
mod diagnosis;
mod draft;
mod egress;
mod event;
pub mod gate_file;
mod http_probe;
mod kept;
mod log_capture;
mod log_watch;
mod mask;
mod mounts;
mod name_server;
mod network;
mod pattern;
mod plan;
mod port;
mod port_map;
mod probe;
mod reached;
mod request;
mod resolve;
mod runner;
mod schedule;
mod signal;
mod variant;
mod verdict;

pub use clearance::{Blocked, Cleared};
pub use courteous::spawn_courteous;
pub use diagnosis::LogSlice;
pub use egress::{Destination, EgressConnection};
pub use event::Event;
pub use http_probe::{BodyCheck, HttpProbe, Scheme};
pub use kept::{KeptContainer, KeptPod};
pub use log_capture::{LogLine, LogTail, Stream};
pub use log_watch::Offence;
pub use mask::{Mask, unmasked_secrets};
pub use pattern::Pattern;
pub use plan::{
    APP, Completion, ContainerPlan, ExpectPlan, GatePlan, Probe, ProbePlan, ServicePlan,
    VariantPlan, VolumeContent, VolumePlan,
};
pub use port::{HostPort, PortMap, PortMapError};
pub use probe::{Observation, Outcome, history};
pub use reached::{ContainerReached, Explained, NetworkReport};
pub use request::{GateRequest, PlanError, plan};
pub use resolve::{ResolveError, ResolveInput, resolve, service_images};
pub use runner::{RunEnvironment, RunError, run};
pub use schedule::{Answer, GaveUp, Next, Schedule, Timing};
pub use verdict::{
    Decision, ExitReason, Inconclusive, Instability, OutOfMemory, ProbeVerdict, PublishedPort,
    Reason, ServiceProblem, ServiceVerdict, Timings, VariantVerdict, Verdict,
};
