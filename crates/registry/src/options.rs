//! Settings of the registry client.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use smokegate_image::{DiffId, LayerDigest};

use crate::{Ahead, BlobSource};

/// How registries are reached. Proxies are the system's (`HTTPS_PROXY`, `NO_PROXY` and their kin).
#[derive(Clone, Debug)]
pub struct RegistryOptions {
    /// PEM certificates trusted beside the host's own (`--ca-file`, `SSL_CERT_FILE`).
    pub ca_file: Option<PathBuf>,
    /// Speak HTTP to every registry, not only to those on loopback (`--plain-http`).
    pub plain_http: bool,
    /// Limit of one attempt to connect.
    pub connect_timeout: Duration,
    /// Longest silence of a connection: no byte received, or none taken of an upload. See `total_timeout`.
    pub idle_timeout: Duration,
    /// Tries of one request or one blob, the first included.
    pub attempts: u32,
    /// Longest first delay between tries; it doubles from there, and a random part of it is waited.
    pub backoff: Duration,
    /// Blobs that travel to one registry at the same time.
    pub parallel_uploads: usize,
    /// Limit of one request in all, uploads included. None by default: a slow link is no failure.
    pub total_timeout: Option<Duration>,
    /// Bytes of one request where a registry, or a proxy before it, refuses a whole blob (413).
    pub chunk_size: u64,
    /// A proxy instead of the system's: `http://`, `https://`, `socks5://` or `socks5h://`.
    pub proxy: Option<String>,
    /// Who we are to a registry that asks for a certificate.
    pub client_certificate: Option<ClientCertificate>,
    /// What is different for single registries, by their names.
    pub registries: BTreeMap<String, RegistrySettings>,
}

/// The two PEM files of a client certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate and those between it and the authority.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// What is different for one registry. What is `None` is as for all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RegistrySettings {
    /// Where it is reached instead of at its name, as in a tunnel: a URL. The name keeps deciding whose
    /// credentials are used.
    pub endpoint: Option<String>,
    /// As in [`RegistryOptions`].
    pub ca_file: Option<PathBuf>,
    /// As in [`RegistryOptions`].
    pub client_certificate: Option<ClientCertificate>,
    /// As in [`RegistryOptions`].
    pub plain_http: Option<bool>,
    /// As in [`RegistryOptions`].
    pub proxy: Option<String>,
    /// As in [`RegistryOptions`].
    pub connect_timeout: Option<Duration>,
    /// As in [`RegistryOptions`].
    pub idle_timeout: Option<Duration>,
    /// As in [`RegistryOptions`].
    pub total_timeout: Option<Duration>,
    /// As in [`RegistryOptions`].
    pub parallel_uploads: Option<usize>,
    /// As in [`RegistryOptions`].
    pub chunk_size: Option<u64>,
}

impl RegistrySettings {
    /// The options for the registry that these are about.
    pub(crate) fn applied_to(&self, options: &RegistryOptions) -> RegistryOptions {
        let general = options.clone();
        RegistryOptions {
            ca_file: self.ca_file.clone().or(general.ca_file),
            plain_http: self.plain_http.unwrap_or(general.plain_http),
            connect_timeout: self.connect_timeout.unwrap_or(general.connect_timeout),
            idle_timeout: self.idle_timeout.unwrap_or(general.idle_timeout),
            parallel_uploads: self.parallel_uploads.unwrap_or(general.parallel_uploads),
            total_timeout: self.total_timeout.or(general.total_timeout),
            chunk_size: self.chunk_size.unwrap_or(general.chunk_size),
            proxy: self.proxy.clone().or(general.proxy),
            client_certificate: self
                .client_certificate
                .clone()
                .or(general.client_certificate),
            attempts: general.attempts,
            backoff: general.backoff,
            registries: BTreeMap::new(),
        }
    }
}

/// How an image is published.
#[derive(Clone, Debug)]
pub struct PushOptions {
    /// Whether tags that have moved are put back when another one cannot be moved.
    pub rollback: bool,
    /// Where the moves are noted, so that they can be finished or undone after a crash.
    pub journal_dir: Option<PathBuf>,
    /// Where the image's absent blobs come from.
    pub source: Option<BlobSource>,
    /// Layers that were decompressed and found to be what their digests say. The others are, beside the upload.
    pub known_layers: Arc<HashSet<(LayerDigest, DiffId)>>,
    /// What was learnt and sent before.
    pub ahead: Option<Ahead>,
}

impl PushOptions {
    /// Makes a push ask again what is there; whether that makes a difference.
    pub(crate) fn forget_ahead(&self) -> bool {
        self.ahead.as_ref().is_some_and(Ahead::forget)
    }
}

impl Default for PushOptions {
    fn default() -> Self {
        Self {
            rollback: true,
            journal_dir: None,
            source: None,
            known_layers: Arc::default(),
            ahead: None,
        }
    }
}

/// What a repository is made with, where it is asked for (`--create-repository`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RepositorySettings {
    /// Its tags can be set once only.
    pub immutable: bool,
    /// The registry looks for known vulnerabilities in what is pushed.
    pub scan_on_push: bool,
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
            total_timeout: None,
            chunk_size: 64 << 20,
            proxy: None,
            client_certificate: None,
            registries: BTreeMap::new(),
        }
    }
}
