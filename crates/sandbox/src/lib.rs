//! Runs containers in a helper process: both ends of the process boundary.
//!
//! The only crate that links libcontainer, forks, unshares or has `unsafe` code. The parent's side is
//! [`Sandbox`] and [`fill_store`]; the helper's side is entered by [`run_if_helper`] and nowhere else.
#![allow(unsafe_code)] // fork, execve, signal dispositions, the seccomp call: each with its reason

mod bpf;
mod capabilities;
mod cgroup;
mod doctor;
mod error;
mod foreign;
mod helper;
mod host_config;
mod host_path;
mod id_calls;
mod id_map;
mod isolation;
mod launcher;
mod pod;
mod pod_network;
mod protocol;
mod runtime_spec;
mod sealed;
mod seccomp;
mod secret;
mod static_names;
mod store;
mod syscall_abi;
mod wire;

pub use capabilities::Capability;
pub use cgroup::remove_cgroups;
pub use doctor::{
    Check, Examination, Fixes, HostReport, Noun, Refusal, Status, Wall, examine, line_of,
};
pub use error::{FillError, HostError, SandboxError, StartError, Step, errno_text};
pub use foreign::cannot_execute;
pub use helper::{IndexedLayer, LayerIndexer, run_if_helper};
pub use host_config::{HostConfig, Ulimit};
pub use host_path::{HostPath, HostPathError};
pub use id_map::{IdMap, SubordinateIds, Unavailable};
pub use isolation::Isolation;
pub use launcher::{Process, Sandbox};
pub use pod::{
    Blocked, ContainerSpec, Delivery, Dial, EnterSpec, ExecSpec, ExitStatus, IdRefusal, Listener,
    MountSource, MountSpec, NetworkMode, PodSpec, Reached, ResourceLimits, SecretFile, Started,
    Storage, TerminalSize, Transport,
};
pub use pod_network::{PodNetwork, original_destination};
pub use sealed::prepare_helpers;
pub use secret::SecretValue;
pub use static_names::resolve_hosts_without_modules;
pub use store::{
    FilledLayer, FilledStore, StoreRequest, fill_store, has_layers, list_store, prune_store,
};
pub use wire::Wire;
