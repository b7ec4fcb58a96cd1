//! Plans and performs uploads to OCI registries and layouts, and downloads from registries.
//!
//! A [`Publisher`] looks at every [`Target`], a [`PushPlan`] is computed from what it saw without any I/O, and
//! carrying it out moves tags only after all blobs and manifests are everywhere and have been read back.
//! No environment variable or home directory is read here: callers pass what they want used.

mod ahead;
mod archive_target;
mod auth;
mod blob;
mod blob_body;
mod blob_chunks;
mod blob_file;
mod blob_source;
mod client;
mod ecr;
mod error;
mod journal;
mod layout_target;
mod location;
mod manifest;
mod observer;
mod options;
mod publisher;
mod pull;
mod pull_error;
mod push;
mod push_content;
mod push_plan;
mod push_report;
mod push_run;
mod reference;
mod referrers;
mod registries;
mod remote_state;
mod retry;
mod tag_moves;
mod tasks;
mod tls;
mod transport;
mod verification;
mod wire_error;

pub use ahead::Ahead;
pub use auth::{
    ConfiguredCredential, CredentialEnvironment, CredentialError, CredentialSource,
    configured_credentials,
};
pub use blob_source::BlobSource;
pub use ecr::AwsEnvironment;
pub use error::{Error, ErrorKind};
pub use observer::{BlobOutcome, PushEvent, PushObserver, Unobserved};
pub use options::{
    ClientCertificate, PushOptions, RegistryOptions, RegistrySettings, RepositorySettings,
};
pub use publisher::{CreatedRepositories, Publisher};
pub use pull::{Documents, Puller, Remote};
pub use pull_error::PullError;
pub use push_plan::{Action, PushPlan, Step, plan};
pub use push_report::{
    BlobCount, DestinationReport, PushError, PushReport, PushTimings, TagPosition, TagState,
    TargetReport,
};
pub use reference::{Destination, ParseTargetError, Target};
pub use remote_state::{DestinationState, RemoteState, TargetCheck};
