//! What a registry is told about who we are. Never printed.

use std::fmt;
use std::path::PathBuf;

/// A string that must not be seen. No `Display`; `Debug` says nothing about it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(secret: String) -> Self {
        Self(secret)
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<redacted>")
    }
}

/// A credential for one registry, or one namespace of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Credential {
    /// User and password, sent to the registry or its token service.
    Basic { username: String, password: Secret },
    /// Docker's `identitytoken`: an OAuth2 refresh token for the token service.
    IdentityToken(Secret),
    /// Docker's `registrytoken`: a bearer token for the registry itself.
    RegistryToken(Secret),
}

/// Where a credential was found. `Display` holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CredentialSource {
    /// The value of `DOCKER_AUTH_CONFIG`.
    Environment,
    /// A file of Docker's or Podman's.
    File(PathBuf),
    /// A credential helper.
    Helper {
        /// What follows `docker-credential-` in its name.
        name: String,
        /// Where it is configured.
        configured_in: Box<CredentialSource>,
    },
    /// A token that Amazon ECR gave for an AWS credential.
    Ecr {
        /// Where the AWS credential is from.
        aws: String,
    },
}

impl fmt::Display for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment => f.write_str("`DOCKER_AUTH_CONFIG`"),
            Self::File(path) => write!(f, "`{}`", path.display()),
            Self::Ecr { aws } => write!(f, "Amazon ECR, for the AWS credential from {aws}"),
            Self::Helper {
                name,
                configured_in,
            } => {
                write!(
                    f,
                    "`docker-credential-{name}` (configured in {configured_in})"
                )
            }
        }
    }
}
