//! Amazon ECR: which hosts it has, its tokens, and the few calls of its API that publishing needs.
//!
//! Nothing here reads the environment, a file or the network before a target is an ECR host.

mod api;
mod aws_credentials;
mod aws_http;
mod aws_named;
mod aws_profile;
mod host;
mod process;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub(crate) use api::Ecr;
pub(crate) use aws_credentials::AwsCredentials;
pub(crate) use aws_named::credential_named_by;
pub(crate) use host::EcrHost;

/// The parts of the environment that AWS's tools read. The caller passes them.
#[derive(Clone, Default)]
pub struct AwsEnvironment {
    /// Variables by name: `AWS_…`, `ACTIONS_ID_TOKEN_REQUEST_…` and `GITLAB_OIDC_TOKEN`.
    pub variables: BTreeMap<String, String>,
    /// The home directory, for `~/.aws`.
    pub home: Option<PathBuf>,
}

impl AwsEnvironment {
    /// Whether the library looks at this variable.
    pub fn reads(name: &str) -> bool {
        name.starts_with("AWS_")
            || name.starts_with("ACTIONS_ID_TOKEN_REQUEST_")
            || name == "GITLAB_OIDC_TOKEN"
    }

    /// A variable; an empty one counts as unset, as in AWS's tools.
    fn get(&self, name: &str) -> Option<&str> {
        let value = self.variables.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }

    /// `AWS_ENDPOINT_URL_…` of a service, or that of all ("Service-specific endpoints" of AWS's SDK guide).
    fn endpoint(&self, service: &str) -> Option<&str> {
        let ignored = self.get("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS");
        if ignored.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
            return None;
        }
        self.get(&format!("AWS_ENDPOINT_URL_{service}"))
            .or_else(|| self.get("AWS_ENDPOINT_URL"))
    }

    /// A path whose `~/` is the home directory.
    fn expand(&self, path: &str) -> PathBuf {
        match (path.strip_prefix("~/"), &self.home) {
            (Some(rest), Some(home)) => home.join(rest),
            _ => Path::new(path).to_owned(),
        }
    }
}

impl std::fmt::Debug for AwsEnvironment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AwsEnvironment")
            .field("home", &self.home)
            .finish_non_exhaustive()
    }
}

/// An error with its causes in one line, control characters taken out.
fn with_causes(error: &dyn std::error::Error) -> String {
    crate::wire_error::printable(&smokegate_image::with_causes(error))
}

/// AWS answers a wrong signature with the request it computed, session token and all: not for people.
fn without_request(text: &str) -> String {
    match text.find("The Canonical String") {
        Some(start) => text[..start].trim_end().to_owned(),
        None => text.to_owned(),
    }
}

/// A text in which none of `secrets` is left.
fn masked(text: &str, secrets: &[String]) -> String {
    let mut masked = text.to_owned();
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        masked = masked.replace(secret, "<redacted>");
    }
    masked
}
