//! Tests of the built program: real containers, as root and as an ordinary user, and real registries.
//!
//! The name of a test says who runs it: `root_` and `rootless_` run containers as root and as a user without
//! subuid range, `registry_real_` starts Debian's docker-registry, `cli_` runs neither.

mod cleanup;
mod cli;
mod container;
mod doctor;
mod failures;
mod host;
mod id_refusals;
mod images;
mod kept;
mod limits;
mod lint;
mod network;
mod origin;
mod plan;
mod platforms;
mod pods;
mod probes;
mod reports;
mod ship;
mod sources;
mod storage;
mod subuid;
mod volumes;
mod why;
