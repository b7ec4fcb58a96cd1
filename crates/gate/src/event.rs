//! Everything that happens in a run, in order: the one stream that every report reads.

use crate::plan::ProbePlan;
use crate::probe::Observation;
use crate::verdict::{PublishedPort, VariantVerdict};

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The layer store is filled.
    LayersReady {
        /// How many layers the image has.
        layers: usize,
        /// How many were in the store before.
        cached: usize,
        /// Bytes of file content that were written.
        written: u64,
        /// What the isolation level could not keep, each once.
        not_kept: Vec<String>,
    },
    /// A variant's container runs.
    Started {
        /// The variant.
        variant: String,
        /// The argument vector.
        args: Vec<String>,
        /// Ports on the host.
        ports: Vec<PublishedPort>,
        /// What will be asked.
        probes: Vec<ProbePlan>,
    },
    /// A container's layers were copied, as overlayfs could not join them.
    Copied {
        /// The variant.
        variant: String,
        /// The container.
        container: String,
        /// What stood in overlayfs's way.
        why: String,
    },
    /// Ports of a service listen on the host; who connects before it runs is reset.
    ServicePorts {
        /// The variant.
        variant: String,
        /// The service.
        service: String,
        /// Its ports, at least one.
        ports: Vec<PublishedPort>,
    },
    /// A service is ready, or will not be.
    Service {
        /// The variant.
        variant: String,
        /// The service.
        service: String,
        /// Which of the two.
        ready: bool,
    },
    /// A probe was answered, or not.
    Asked {
        /// The variant.
        variant: String,
        /// The attempt.
        observation: Observation,
    },
    /// A variant is decided.
    Decided(Box<VariantVerdict>),
}
