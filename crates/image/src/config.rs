//! The image config: what the image says about how it is run.

use std::sync::Arc;
use std::time::Duration;

use crate::DiffId;

/// An image config (OCI image spec, config.md) with Docker's HEALTHCHECK extension, as values.
///
/// Lists that were absent are empty; times that were absent are `None`.
#[derive(Clone, Debug, Default)]
pub struct ImageConfig {
    /// The bytes it was parsed from.
    pub raw: Arc<[u8]>,
    /// `ENTRYPOINT`.
    pub entrypoint: Vec<String>,
    /// `CMD`.
    pub cmd: Vec<String>,
    /// `ENV`, each `NAME=VALUE`, in order.
    pub env: Vec<String>,
    /// `USER` as written: `user`, `uid`, `user:group`, `uid:gid`; empty means root.
    pub user: String,
    /// `WORKDIR`; empty means `/`.
    pub working_dir: String,
    /// `EXPOSE`, each `port/protocol`, sorted.
    pub exposed_ports: Vec<String>,
    /// `VOLUME`, absolute paths, sorted.
    pub volumes: Vec<String>,
    /// `STOPSIGNAL`, a name or a number.
    pub stop_signal: Option<String>,
    /// `HEALTHCHECK` (a Docker extension; BuildKit keeps it in OCI configs too).
    pub healthcheck: Option<Healthcheck>,
    /// `SHELL` (a Docker extension), which HEALTHCHECK's shell form uses.
    pub shell: Vec<String>,
    /// Labels, sorted by name.
    pub labels: Vec<(String, String)>,
    /// DiffIDs of the layers, lowest first.
    pub diff_ids: Vec<DiffId>,
    /// Architecture as Go names it: `amd64`, `arm64`.
    pub architecture: String,
    /// Operating system as Go names it: `linux`.
    pub os: String,
    /// CPU variant: `v7`, `v8`.
    pub variant: Option<String>,
    /// When it was built, RFC 3339.
    pub created: Option<String>,
}

/// The image's own health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healthcheck {
    /// What is run.
    pub test: HealthcheckTest,
    /// Time between checks; Docker's default is 30 s.
    pub interval: Option<Duration>,
    /// Time one check may take; Docker's default is 30 s.
    pub timeout: Option<Duration>,
    /// Time in which failures do not count; Docker's default is 0.
    pub start_period: Option<Duration>,
    /// Time between checks within the start period; Docker's default is 5 s.
    pub start_interval: Option<Duration>,
    /// Failures in a row that make the container unhealthy; Docker's default is 3.
    pub retries: Option<u32>,
}

/// The `Test` list of a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthcheckTest {
    /// `["NONE"]`: switched off, whatever a base image said.
    None,
    /// `["CMD", …]`: the rest is the argument vector.
    Exec(Vec<String>),
    /// `["CMD-SHELL", line]`: run by the image's shell.
    Shell(String),
}
