//! Credentials: where they are found, and how a registry's challenges are answered with them.

mod basic;
mod bearer;
mod challenge;
mod configured;
mod credential;
mod docker_config;
mod helper;
mod store;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use tokio::sync::Mutex;

pub use configured::{ConfiguredCredential, configured_credentials};
pub use credential::CredentialSource;
pub(crate) use credential::Secret;
pub(crate) use store::CredentialStore;
pub use store::{CredentialEnvironment, CredentialError};

use crate::client::Client;
use crate::ecr::EcrHost;
use crate::{Error, RegistryOptions};
use bearer::TokenService;
use challenge::Challenge;
use credential::Credential;
use store::Found;

/// What a request wants to do, as the token protocol writes it (`repository:NAME:ACTIONS`), and the repository
/// whose credential is used.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Access {
    pub(crate) repository: String,
    pub(crate) scopes: Vec<String>,
}

impl Access {
    /// Reads and writes one repository.
    pub(crate) fn push(repository: &str) -> Self {
        let scopes = vec![format!("repository:{repository}:pull,push")];
        Self {
            repository: repository.to_owned(),
            scopes,
        }
    }

    /// Reads one repository.
    pub(crate) fn pull(repository: &str) -> Self {
        let scopes = vec![format!("repository:{repository}:pull")];
        Self {
            repository: repository.to_owned(),
            scopes,
        }
    }

    /// Also reads another one, to mount a blob from it.
    pub(crate) fn and_pull(mut self, repository: &str) -> Self {
        self.scopes.push(format!("repository:{repository}:pull"));
        self
    }
}

/// An `Authorization` header that worked or may work, and how long.
#[derive(Clone)]
struct Grant {
    header: HeaderValue,
    expires: Option<Instant>,
    /// What it was granted for.
    credential: Option<Arc<Found>>,
}

impl Grant {
    fn is_current(&self) -> bool {
        self.expires.is_none_or(|expires| Instant::now() < expires)
    }
}

/// Answers the challenges of one registry. Holds what was granted, per access, for the life of the process.
pub(crate) struct Authenticator {
    registry: String,
    store: Arc<CredentialStore>,
    tokens: TokenService,
    // One lock per access, held while a token is fetched: many uploads ask for it once.
    grants: Mutex<HashMap<Access, Arc<Mutex<Option<Grant>>>>>,
    // What the registry asked for last, to fetch tokens for other repositories without being refused first.
    known: std::sync::Mutex<Option<Challenge>>,
}

impl Authenticator {
    pub(crate) fn new(
        registry: &str,
        store: Arc<CredentialStore>,
        http: Client,
        options: Arc<RegistryOptions>,
    ) -> Self {
        Self {
            registry: registry.to_owned(),
            store,
            tokens: TokenService::new(registry, http, options),
            grants: Mutex::default(),
            known: std::sync::Mutex::default(),
        }
    }

    /// The header to send with a request, once the registry has said what it wants.
    pub(crate) async fn header(&self, access: &Access) -> Result<Option<HeaderValue>, Error> {
        let slot = self.slot(access).await;
        let mut grant = slot.lock().await;
        if let Some(grant) = grant.as_ref().filter(|grant| grant.is_current()) {
            return Ok(Some(grant.header.clone()));
        }
        let known = self.known.lock().expect("no panic while held").clone();
        if let Some(challenge) = known {
            *grant = self.answer(access, &challenge).await?;
        }
        Ok(grant.as_ref().map(|grant| grant.header.clone()))
    }

    /// Answers a 401 to a request that was sent with `used`; says whether there is something else to try.
    pub(crate) async fn renew(
        &self,
        access: &Access,
        answer: &HeaderMap,
        used: Option<&HeaderValue>,
    ) -> Result<bool, Error> {
        let slot = self.slot(access).await;
        let mut grant = slot.lock().await;
        let renewed = grant
            .as_ref()
            .filter(|grant| grant.is_current() && Some(&grant.header) != used);
        if renewed.is_some() {
            return Ok(true);
        }
        let values = answer
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let offered: Vec<Challenge> = values.flat_map(challenge::parse).collect();
        let bearer = offered
            .iter()
            .find(|offer| matches!(offer, Challenge::Bearer { .. }));
        let Some(challenge) = bearer.or(offered.first()) else {
            return Ok(false);
        };
        *self.known.lock().expect("no panic while held") = Some(challenge.clone());
        *grant = self.answer(access, challenge).await?;
        if grant
            .as_ref()
            .is_some_and(|grant| Some(&grant.header) != used)
        {
            return Ok(true);
        }
        self.replace(access, &mut grant, used).await
    }

    /// Gets another token after an ECR registry said, in its own ways, that one has ended.
    pub(crate) async fn refresh(
        &self,
        access: &Access,
        used: Option<&HeaderValue>,
    ) -> Result<bool, Error> {
        let slot = self.slot(access).await;
        let mut grant = slot.lock().await;
        if grant
            .as_ref()
            .is_some_and(|grant| grant.is_current() && Some(&grant.header) != used)
        {
            return Ok(true);
        }
        self.replace(access, &mut grant, used).await
    }

    async fn replace(
        &self,
        access: &Access,
        grant: &mut Option<Grant>,
        used: Option<&HeaderValue>,
    ) -> Result<bool, Error> {
        if EcrHost::parse(&self.registry).is_none() {
            return Ok(false);
        }
        let refused = grant.as_ref().and_then(|grant| grant.credential.clone());
        let replaced = self
            .store
            .replace(&self.registry, &access.repository, refused.as_ref())
            .await?;
        if replaced.is_none() {
            return Ok(false);
        }
        let known = self.known.lock().expect("no panic while held").clone();
        // Without a challenge so far: that of every private ECR registry.
        let challenge = known.unwrap_or(Challenge::Basic);
        *grant = self.answer(access, &challenge).await?;
        Ok(grant
            .as_ref()
            .is_some_and(|grant| Some(&grant.header) != used))
    }

    /// Says where the credential for a repository comes from, or where one was looked for.
    pub(crate) async fn describe(&self, repository: &str) -> Result<String, Error> {
        Ok(match self.store.find(&self.registry, repository).await? {
            Some(found) => format!("the credential from {}", found.source),
            None => format!("no credential (looked in {})", self.store.searched()),
        })
    }

    async fn slot(&self, access: &Access) -> Arc<Mutex<Option<Grant>>> {
        Arc::clone(self.grants.lock().await.entry(access.clone()).or_default())
    }

    async fn answer(&self, access: &Access, challenge: &Challenge) -> Result<Option<Grant>, Error> {
        let found = self.store.find(&self.registry, &access.repository).await?;
        let credential = found.as_deref().map(|found| &found.credential);
        if let Some(Credential::RegistryToken(token)) = credential {
            let header = bearer::header(token).map_err(|reason| Error::Challenge {
                registry: self.registry.clone(),
                reason,
            })?;
            return Ok(Some(Grant {
                header,
                expires: None,
                credential: found.clone(),
            }));
        }
        match challenge {
            Challenge::Basic => Ok(match credential {
                Some(Credential::Basic { username, password }) => Some(Grant {
                    header: basic::header(username, password),
                    expires: found.as_ref().and_then(|found| found.refresh_at),
                    credential: found.clone(),
                }),
                _ => None,
            }),
            Challenge::Bearer {
                realm,
                service,
                scope,
            } => {
                let mut scopes = access.scopes.clone();
                // A registry that does not speak of repositories (ECR Public: `aws`) says what it wants instead.
                if let Some(asked) = scope
                    .as_ref()
                    .filter(|scope| !scope.starts_with("repository:"))
                {
                    scopes = vec![asked.clone()];
                }
                let fetched = self
                    .tokens
                    .fetch(realm, service.as_deref(), &scopes, credential)
                    .await;
                match fetched {
                    Err(Error::Refused {
                        status: StatusCode::UNAUTHORIZED,
                        detail,
                        ..
                    }) => Err(Error::Unauthorized {
                        registry: self.registry.clone(),
                        repository: access.repository.clone(),
                        credential: self.describe(&access.repository).await?,
                        detail,
                    }),
                    fetched => fetched.map(|(header, expires)| {
                        Some(Grant {
                            header,
                            expires: Some(expires),
                            credential: found.clone(),
                        })
                    }),
                }
            }
        }
    }
}

impl std::fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authenticator")
            .field("registry", &self.registry)
            .finish_non_exhaustive()
    }
}
