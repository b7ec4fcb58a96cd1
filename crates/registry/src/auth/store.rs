//! Where credentials are looked for, in the order that docker and podman agree on.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::Mutex;

use super::credential::{Credential, CredentialSource, Secret};
use super::docker_config::{DockerConfig, Place};
use super::helper;
use crate::ecr::{AwsCredentials, AwsEnvironment, Ecr, EcrHost};

/// The parts of the environment that say where credentials are. The caller reads them.
#[derive(Clone, Default)]
pub struct CredentialEnvironment {
    /// `DOCKER_AUTH_CONFIG`: the text of a config.json.
    pub docker_auth_config: Option<OsString>,
    /// `REGISTRY_AUTH_FILE`: the only file used, where set.
    pub registry_auth_file: Option<OsString>,
    /// `XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<OsString>,
    /// `XDG_CONFIG_HOME`.
    pub xdg_config_home: Option<OsString>,
    /// `DOCKER_CONFIG`: the directory of config.json.
    pub docker_config: Option<OsString>,
    /// `PATH` in which credential helpers are found; the process's own where `None`.
    pub path: Option<OsString>,
    /// The home directory.
    pub home: Option<PathBuf>,
    /// The user's id.
    pub uid: u32,
    /// What AWS's tools read, for registries that are Amazon ECR.
    pub aws: AwsEnvironment,
}

impl std::fmt::Debug for CredentialEnvironment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CredentialEnvironment")
            .field("home", &self.home)
            .finish_non_exhaustive()
    }
}

/// Why a credential that is configured cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// A file that cannot be read.
    #[error("cannot read credentials from `{path}`")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A file that is not what docker or podman write.
    #[error("{source_of} is not a valid credentials file (line {line}, column {column})")]
    Syntax {
        /// The file or variable.
        source_of: CredentialSource,
        /// Where in it.
        line: usize,
        /// Where in it.
        column: usize,
    },
    /// An entry that is not base64 of `user:password`.
    #[error("`auth` of `{key}` in {source_of} is not base64 of `user:password`")]
    Entry {
        /// The file or variable.
        source_of: CredentialSource,
        /// The entry.
        key: String,
    },
    /// A helper that did not answer.
    #[error("cannot get the credential for `{server}` from {source_of}: {reason}")]
    Helper {
        /// The helper.
        source_of: CredentialSource,
        /// What it was asked for.
        server: String,
        /// Why not.
        reason: String,
    },
    /// An AWS credential with which no token can be got.
    #[error("cannot get a token for {service} with the AWS credential from {source_of}: {reason}")]
    Aws {
        /// ECR and its region.
        service: String,
        /// Where the AWS credential is, or should be, from.
        source_of: String,
        /// Why not.
        reason: String,
    },
    /// An ECR registry, and nothing to get a token with.
    #[error(
        "no AWS credential for {service} (looked in {})",
        AwsCredentials::searched()
    )]
    NoAws {
        /// ECR and its region.
        service: String,
    },
}

/// A credential and where it comes from.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) credential: Credential,
    pub(crate) source: CredentialSource,
    /// When another one is to be looked for; what a file holds does not end.
    pub(crate) refresh_at: Option<Instant>,
}

impl Found {
    fn is_current(&self) -> bool {
        self.refresh_at.is_none_or(|at| Instant::now() < at)
    }
}

pub(super) enum Origin {
    Text(OsString),
    File {
        path: PathBuf,
        legacy: bool,
        required: bool,
    },
}

type Lookups = HashMap<(String, String), Option<Arc<Found>>>;

/// Looks credentials up, each (registry, repository) once: in files, then, for its hosts, at Amazon ECR.
pub(crate) struct CredentialStore {
    places: Vec<Origin>,
    path: Option<OsString>,
    ecr: Option<Arc<Ecr>>,
    // Held during a lookup, so that a helper runs once however many uploads wait for it.
    found: Mutex<Lookups>,
}

impl std::fmt::Debug for CredentialStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CredentialStore")
    }
}

impl CredentialStore {
    pub(crate) fn new(environment: &CredentialEnvironment) -> Self {
        let path = environment.path.clone();
        Self {
            places: places(environment),
            path,
            ecr: None,
            found: Mutex::default(),
        }
    }

    /// The same, with tokens of Amazon ECR for its hosts.
    pub(crate) fn with_ecr(mut self, ecr: Arc<Ecr>) -> Self {
        self.ecr = Some(ecr);
        self
    }

    /// The credential for a repository, from the first place that has one.
    pub(crate) async fn find(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Arc<Found>>, CredentialError> {
        let key = (registry.to_owned(), repository.to_owned());
        let mut known = self.found.lock().await;
        if let Some(found) = known.get(&key)
            && found.as_ref().is_none_or(|found| found.is_current())
        {
            return Ok(found.clone());
        }
        let mut found = self.look_up(registry, repository).await?;
        if found.is_none() {
            found = self.ecr_token(registry, None).await?;
        }
        let found = found.map(Arc::new);
        known.insert(key, found.clone());
        Ok(found)
    }

    /// Another credential in place of one that an ECR registry refused: a new token. A `docker login` of
    /// yesterday is the commonest reason, and the AWS credential behind it may be as good as ever.
    pub(crate) async fn replace(
        &self,
        registry: &str,
        repository: &str,
        refused: Option<&Arc<Found>>,
    ) -> Result<Option<Arc<Found>>, CredentialError> {
        let key = (registry.to_owned(), repository.to_owned());
        let mut known = self.found.lock().await;
        if let Some(Some(found)) = known.get(&key)
            && refused.is_none_or(|refused| !Arc::ptr_eq(refused, found))
        {
            return Ok(Some(Arc::clone(found)));
        }
        let password = refused.and_then(|found| match &found.credential {
            Credential::Basic { password, .. } => Some(password),
            _ => None,
        });
        let found = match self.ecr_token(registry, password).await {
            Ok(found) => found.map(Arc::new),
            // With a credential of a file at hand, that there is no AWS one says nothing.
            Err(CredentialError::NoAws { .. }) if refused.is_some() => None,
            Err(error) => return Err(error),
        };
        if found.is_some() {
            known.insert(key, found.clone());
        }
        Ok(found)
    }

    async fn ecr_token(
        &self,
        registry: &str,
        refused: Option<&Secret>,
    ) -> Result<Option<Found>, CredentialError> {
        let (Some(ecr), Some(host)) = (&self.ecr, EcrHost::parse(registry)) else {
            return Ok(None);
        };
        // Boxed: every request's future would hold this one, which is large and rarely needed.
        let token: Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(ecr.token(&host, refused));
        match (token.await?, &host) {
            (Some(token), _) => Ok(Some(Found {
                credential: Credential::Basic {
                    username: token.username,
                    password: token.password,
                },
                source: CredentialSource::Ecr { aws: token.source },
                refresh_at: Some(token.refresh_at),
            })),
            // Everybody may pull there.
            (None, EcrHost::Public) => Ok(None),
            (None, EcrHost::Private { .. }) => Err(CredentialError::NoAws {
                service: host.to_string(),
            }),
        }
    }

    /// The places in which credentials are looked for, for people.
    pub(crate) fn searched(&self) -> String {
        let names = self.places.iter().map(|place| place.source().to_string());
        names.collect::<Vec<_>>().join(", ")
    }

    async fn look_up(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Option<Found>, CredentialError> {
        for place in &self.places {
            let source = place.source();
            let Some(config) = place.read(&source)? else {
                continue;
            };
            let candidates =
                config
                    .places(registry, repository)
                    .map_err(|invalid| CredentialError::Entry {
                        source_of: source.clone(),
                        key: invalid.key,
                    })?;
            for candidate in candidates {
                if let Some(found) = self.resolve(candidate, &source).await? {
                    tracing::debug!(registry, repository, source = %found.source, "found a credential");
                    return Ok(Some(found));
                }
            }
        }
        tracing::debug!(registry, repository, "no credential");
        Ok(None)
    }

    async fn resolve(
        &self,
        candidate: Place,
        source: &CredentialSource,
    ) -> Result<Option<Found>, CredentialError> {
        match candidate {
            Place::Written(credential) => Ok(Some(Found {
                credential,
                source: source.clone(),
                refresh_at: None,
            })),
            Place::Helper { name, server } => {
                let answer = helper::get(&name, &server, self.path.as_deref()).await;
                let source = CredentialSource::Helper {
                    name,
                    configured_in: Box::new(source.clone()),
                };
                match answer {
                    Ok(credential) => Ok(credential.map(|credential| Found {
                        credential,
                        source,
                        refresh_at: None,
                    })),
                    Err(reason) => Err(CredentialError::Helper {
                        source_of: source,
                        server,
                        reason,
                    }),
                }
            }
        }
    }
}

impl Origin {
    pub(super) fn source(&self) -> CredentialSource {
        match self {
            Self::Text(_) => CredentialSource::Environment,
            Self::File { path, .. } => CredentialSource::File(path.clone()),
        }
    }

    pub(super) fn read(
        &self,
        source: &CredentialSource,
    ) -> Result<Option<DockerConfig>, CredentialError> {
        let (json, legacy) = match self {
            Self::Text(text) => (text.as_encoded_bytes().to_vec(), false),
            Self::File {
                path,
                legacy,
                required,
            } => match std::fs::read(path) {
                Ok(json) => (json, *legacy),
                Err(error) if !required && is_absent(&error) => return Ok(None),
                Err(error) => {
                    return Err(CredentialError::Read {
                        path: path.clone(),
                        source: error,
                    });
                }
            },
        };
        if json.trim_ascii().is_empty() {
            return Ok(None);
        }
        let parsed = if legacy {
            DockerConfig::parse_legacy(&json)
        } else {
            DockerConfig::parse(&json)
        };
        parsed
            .map(Some)
            .map_err(|(line, column)| CredentialError::Syntax {
                source_of: source.clone(),
                line,
                column,
            })
    }
}

/// A default place that does not exist, or is another user's: a HOME that is not ours is common in CI.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
    )
}

pub(super) fn places(environment: &CredentialEnvironment) -> Vec<Origin> {
    let set = |value: &Option<OsString>| value.clone().filter(|value| !value.is_empty());
    let file = |path: PathBuf| Origin::File {
        path,
        legacy: false,
        required: false,
    };
    let mut places: Vec<Origin> = set(&environment.docker_auth_config)
        .map(Origin::Text)
        .into_iter()
        .collect();
    if let Some(path) = set(&environment.registry_auth_file) {
        places.push(Origin::File {
            path: path.into(),
            legacy: false,
            required: true,
        });
        return places;
    }
    let runtime = set(&environment.xdg_runtime_dir).map_or_else(
        || Path::new("/run/containers").join(environment.uid.to_string()),
        |directory| Path::new(&directory).join("containers"),
    );
    places.push(file(runtime.join("auth.json")));
    let home = environment.home.as_deref();
    let config = set(&environment.xdg_config_home)
        .map(PathBuf::from)
        .or_else(|| home.map(|home| home.join(".config")));
    places.extend(config.map(|config| file(config.join("containers/auth.json"))));
    let docker = set(&environment.docker_config)
        .map(PathBuf::from)
        .or_else(|| home.map(|home| home.join(".docker")));
    places.extend(docker.map(|docker| file(docker.join("config.json"))));
    places.extend(home.map(|home| Origin::File {
        path: home.join(".dockercfg"),
        legacy: true,
        required: false,
    }));
    places
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn auths(password: &str) -> String {
        format!(r#"{{"auths": {{"r.example": {{"username": "u", "password": "{password}"}}}}}}"#)
    }

    async fn password(environment: &CredentialEnvironment) -> Option<String> {
        let found = CredentialStore::new(environment)
            .find("r.example", "a")
            .await
            .unwrap()?;
        match &found.credential {
            Credential::Basic { password, .. } => Some(password.expose().to_owned()),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn order_of_places() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let legacy = r#"{"r.example": {"username": "u", "password": "legacy"}}"#;
        for (file, text) in [
            ("home/.dockercfg", legacy.to_owned()),
            ("home/.docker/config.json", auths("docker")),
            ("docker/config.json", auths("docker-config")),
            ("home/.config/containers/auth.json", auths("config")),
            ("run/containers/auth.json", auths("runtime")),
            ("exclusive.json", auths("exclusive")),
        ] {
            fs::create_dir_all(at(file).parent().unwrap()).unwrap();
            fs::write(at(file), text).unwrap();
        }
        // From the last place to the first: each is asked before those already there.
        let mut environment = CredentialEnvironment {
            uid: u32::MAX,
            ..Default::default()
        };
        assert_eq!(password(&environment).await, None);
        environment.docker_config = Some(at("docker").into());
        assert_eq!(
            password(&environment).await.as_deref(),
            Some("docker-config")
        );
        environment.home = Some(at("home"));
        assert_eq!(password(&environment).await.as_deref(), Some("config"));
        fs::remove_file(at("home/.config/containers/auth.json")).unwrap();
        environment.docker_config = None;
        assert_eq!(password(&environment).await.as_deref(), Some("docker"));
        fs::remove_file(at("home/.docker/config.json")).unwrap();
        assert_eq!(password(&environment).await.as_deref(), Some("legacy"));
        environment.xdg_runtime_dir = Some(at("run").into());
        assert_eq!(password(&environment).await.as_deref(), Some("runtime"));
        environment.registry_auth_file = Some(at("exclusive.json").into());
        assert_eq!(password(&environment).await.as_deref(), Some("exclusive"));
        environment.docker_auth_config = Some(auths("environment").into());
        assert_eq!(password(&environment).await.as_deref(), Some("environment"));
        environment.docker_auth_config = None;
        environment.registry_auth_file = Some(at("missing.json").into());
        let error = CredentialStore::new(&environment)
            .find("r.example", "a")
            .await
            .unwrap_err();
        assert!(error.to_string().contains("missing.json"), "{error}");
    }

    #[tokio::test]
    async fn a_malformed_file_is_named_and_not_quoted() {
        let environment = CredentialEnvironment {
            docker_auth_config: Some(r#"{"auths": "s3cret"}"#.into()),
            ..Default::default()
        };
        let error = CredentialStore::new(&environment)
            .find("r.example", "a")
            .await
            .unwrap_err();
        let text = format!("{error} {error:?}");
        assert!(
            text.contains("DOCKER_AUTH_CONFIG") && !text.contains("s3cret"),
            "{text}"
        );
    }
}
