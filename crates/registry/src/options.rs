//! Settings of the registry client.

use std::path::PathBuf;
use std::time::Duration;

/// How registries are reached. Proxies are the system's (`HTTPS_PROXY`, `NO_PROXY` and their kin).
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// PEM certificates trusted beside the host's own (`--ca-file`, `SSL_CERT_FILE`).
    pub ca_file: Option<PathBuf>,
    /// Speak HTTP to every registry, not only to those on loopback (`--plain-http`).
    pub plain_http: bool,
    /// Limit of one attempt to connect.
    pub connect_timeout: Duration,
    /// Longest silence of a connection: no byte received, or none taken of an upload. There is no total limit.
    pub idle_timeout: Duration,
    /// Tries of one request or one blob, the first included.
    pub attempts: u32,
    /// Longest first delay between tries; it doubles from there, and a random part of it is waited.
    pub backoff: Duration,
    /// Blobs that travel to one registry at the same time.
    pub parallel_uploads: usize,
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            ca_file: None,
            plain_http: false,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            attempts: 5,
            backoff: Duration::from_millis(500),
            parallel_uploads: 4,
        }
    }
}
