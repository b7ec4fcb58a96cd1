//! ECR's JSON API, signed with SigV4: tokens for the registry, repositories, tags.

use std::collections::HashMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqsign_aws_v4::RequestSigner;
use reqsign_core::hash::hex_sha256;
use reqsign_core::{Signer, SigningCredential};
use serde_json::{Value, json};
use tokio::sync::Mutex;

use super::aws_credentials::{AwsCredentials, Sourced, given};
use super::aws_http::AwsHttp;
use super::{AwsEnvironment, EcrHost, masked, with_causes, without_request};
use crate::auth::{CredentialError, Secret};
use crate::client::Clients;
use crate::retry::Backoff;
use crate::{Error, RegistryOptions, RepositorySettings};

/// How long a token is used that has ended when it arrives: a clock is wrong, and asking again would not help.
const SHORTEST_LIFE: Duration = Duration::from_secs(60);

/// What the registry takes as user and password.
#[derive(Clone, Debug)]
pub(crate) struct EcrToken {
    pub(crate) username: String,
    pub(crate) password: Secret,
    /// Half of its life is over then, and another one is fetched.
    pub(crate) refresh_at: Instant,
    ends_at: Instant,
    /// Where the AWS credential is from, for people.
    pub(crate) source: String,
}

type Slot = Arc<Mutex<Option<EcrToken>>>;

/// The APIs of all regions, and what they have given to this process.
#[derive(Debug)]
pub(crate) struct Ecr {
    environment: AwsEnvironment,
    credentials: AwsCredentials,
    http: AwsHttp,
    options: Arc<RegistryOptions>,
    // Held while a credential is looked for, so that it is looked for once.
    found: Mutex<Option<Arc<Sourced>>>,
    // One lock per service and region, held while a token is fetched.
    tokens: Mutex<HashMap<(&'static str, String), Slot>>,
}

impl Ecr {
    /// `path` is where a `credential_process` finds programs.
    pub(crate) fn new(
        environment: AwsEnvironment,
        path: Option<OsString>,
        clients: &Clients,
        options: Arc<RegistryOptions>,
    ) -> Self {
        let sts = environment.endpoint("STS").and_then(|url| url.parse().ok());
        let http = AwsHttp::new(clients.clone(), &options, sts);
        Self {
            credentials: AwsCredentials::new(environment.clone(), http.clone(), path),
            environment,
            http,
            options,
            found: Mutex::default(),
            tokens: Mutex::default(),
        }
    }

    /// A token for a registry, other than `refused`; `None` where there is no AWS credential.
    pub(crate) async fn token(
        &self,
        host: &EcrHost,
        refused: Option<&Secret>,
    ) -> Result<Option<EcrToken>, CredentialError> {
        let key = (host.service(), host.region().to_owned());
        let slot = Arc::clone(self.tokens.lock().await.entry(key).or_default());
        let mut slot = slot.lock().await;
        let kept = slot
            .as_ref()
            .filter(|token| Some(&token.password) != refused);
        if let Some(token) = kept.filter(|token| Instant::now() < token.refresh_at) {
            return Ok(Some(token.clone()));
        }
        match (self.fetch(host).await, kept) {
            (Ok(token), _) => {
                *slot = token.clone();
                Ok(token)
            }
            // As Amazon's own helper does: a token that still works is better than none.
            (Err(error), Some(token)) if Instant::now() < token.ends_at => {
                tracing::debug!(%error, "the token is kept past half of its life");
                Ok(Some(token.clone()))
            }
            (Err(error), _) => Err(error),
        }
    }

    async fn fetch(&self, host: &EcrHost) -> Result<Option<EcrToken>, CredentialError> {
        let Some(sourced) = self.credential(host).await? else {
            return Ok(None);
        };
        let unusable = |reason: String| CredentialError::Aws {
            service: host.to_string(),
            source_of: sourced.source.clone(),
            reason,
        };
        let answer = self
            .call(host, &sourced, "GetAuthorizationToken", &json!({}))
            .await
            .map_err(|error| unusable(with_causes(&error)))?;
        let data = match &answer["authorizationData"] {
            Value::Array(all) => all.first().cloned().unwrap_or_default(),
            one => one.clone(),
        };
        let malformed = || unusable("its answer holds no token".to_owned());
        let encoded = data["authorizationToken"].as_str().ok_or_else(malformed)?;
        let decoded = STANDARD.decode(encoded).map_err(|_| malformed())?;
        let decoded = String::from_utf8(decoded).map_err(|_| malformed())?;
        let (username, password) = decoded.split_once(':').ok_or_else(malformed)?;
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let life = data["expiresAt"]
            .as_f64()
            .and_then(|end| Duration::try_from_secs_f64(end).ok())
            .and_then(|end| end.checked_sub(now))
            .filter(|life| !life.is_zero())
            .unwrap_or(SHORTEST_LIFE * 2);
        let fetched = Instant::now();
        Ok(Some(EcrToken {
            username: username.to_owned(),
            password: Secret::new(password.to_owned()),
            refresh_at: fetched + life / 2,
            ends_at: fetched + life,
            source: sourced.source.clone(),
        }))
    }

    async fn credential(&self, host: &EcrHost) -> Result<Option<Arc<Sourced>>, CredentialError> {
        let mut found = self.found.lock().await;
        if let Some(sourced) = found
            .as_ref()
            .filter(|sourced| sourced.credential.is_valid())
        {
            return Ok(Some(Arc::clone(sourced)));
        }
        let looked = self.credentials.find(host.region()).await;
        let sourced = looked.map_err(|unusable| CredentialError::Aws {
            service: host.to_string(),
            source_of: unusable.source,
            reason: unusable.reason,
        })?;
        *found = sourced.map(Arc::new);
        Ok(found.clone())
    }

    /// Makes a repository; says whether it did not exist.
    pub(crate) async fn create_repository(
        &self,
        host: &EcrHost,
        name: &str,
        settings: &RepositorySettings,
    ) -> Result<bool, Error> {
        let mut body = json!({"repositoryName": name});
        if let EcrHost::Private { .. } = host {
            body["imageTagMutability"] = json!(if settings.immutable {
                "IMMUTABLE"
            } else {
                "MUTABLE"
            });
            body["imageScanningConfiguration"] = json!({"scanOnPush": settings.scan_on_push});
        }
        match self.authorised(host, "CreateRepository", &body).await {
            Ok(_) => Ok(true),
            Err(Error::AwsApi { code, .. }) if code == "RepositoryAlreadyExistsException" => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Whether no tag of a repository can be moved. Who may not ask finds out when a tag is refused.
    pub(crate) async fn is_immutable(&self, host: &EcrHost, name: &str) -> bool {
        if let EcrHost::Public = host {
            return false;
        }
        let body = json!({"repositoryNames": [name]});
        match self.authorised(host, "DescribeRepositories", &body).await {
            // The two `…_WITH_EXCLUSION` leave it open for a single tag.
            Ok(answer) => answer["repositories"][0]["imageTagMutability"] == "IMMUTABLE",
            Err(error) => {
                tracing::debug!(%error, "the repository's mutability is not known");
                false
            }
        }
    }

    /// Takes a tag away, and with its last tag the image, as ECR has it.
    pub(crate) async fn delete_tag(
        &self,
        host: &EcrHost,
        repository: &str,
        tag: &str,
    ) -> Result<(), Error> {
        let body = json!({"repositoryName": repository, "imageIds": [{"imageTag": tag}]});
        let answer = self.authorised(host, "BatchDeleteImage", &body).await?;
        let failure = &answer["failures"][0];
        let code = failure["failureCode"].as_str().unwrap_or_default();
        if code.is_empty() || code == "ImageNotFound" {
            return Ok(());
        }
        Err(Error::AwsApi {
            service: host.to_string(),
            operation: "BatchDeleteImage",
            status: 200,
            code: code.to_owned(),
            message: failure["failureReason"]
                .as_str()
                .unwrap_or_default()
                .to_owned(),
        })
    }

    async fn authorised(
        &self,
        host: &EcrHost,
        operation: &'static str,
        body: &Value,
    ) -> Result<Value, Error> {
        let sourced = self.credential(host).await?;
        let sourced = sourced.ok_or_else(|| CredentialError::NoAws {
            service: host.to_string(),
        })?;
        self.call(host, &sourced, operation, body).await
    }

    async fn call(
        &self,
        host: &EcrHost,
        sourced: &Sourced,
        operation: &'static str,
        body: &Value,
    ) -> Result<Value, Error> {
        let mut backoff = Backoff::new(&self.options);
        loop {
            match self.call_once(host, sourced, operation, body).await {
                Ok(answer) => return Ok(answer),
                Err(error) => backoff.after(error).await?,
            }
        }
    }

    async fn call_once(
        &self,
        host: &EcrHost,
        sourced: &Sourced,
        operation: &'static str,
        body: &Value,
    ) -> Result<Value, Error> {
        let failed = |status: u16, code: &str, message: &str| Error::AwsApi {
            service: host.to_string(),
            operation,
            status,
            code: crate::wire_error::printable(code),
            message: crate::wire_error::printable(&without_request(&masked(
                message,
                &[
                    sourced.credential.secret_access_key.clone(),
                    sourced.credential.session_token.clone().unwrap_or_default(),
                ],
            ))),
        };
        let service = match host {
            EcrHost::Private { .. } => "ECR",
            EcrHost::Public => "ECR_PUBLIC",
        };
        let url = match self.environment.endpoint(service) {
            Some(url) => format!("{}/", url.trim_end_matches('/')),
            None => format!("https://{}/", host.api()),
        };
        let body = body.to_string();
        let request = http::Request::post(&url)
            .header("Content-Type", "application/x-amz-json-1.1")
            .header("X-Amz-Target", format!("{}.{operation}", host.target()))
            // Without it reqsign would sign that the body is not, which is for S3 alone.
            .header("X-Amz-Content-Sha256", hex_sha256(body.as_bytes()))
            .body(Bytes::from(body))
            .map_err(|_| failed(0, "InvalidEndpoint", "`AWS_ENDPOINT_URL` is not a URL"))?;
        let (mut parts, body) = request.into_parts();
        let context = self.http.clone().context(&self.environment);
        let signer = Signer::new(
            context,
            given(sourced.credential.clone()),
            RequestSigner::new(host.service(), host.region()).with_standard_session_token(),
        );
        signer
            .sign(&mut parts, None)
            .await
            .map_err(|error| failed(0, "NotSigned", &error.to_string()))?;
        let request = http::Request::from_parts(parts, body);
        let (status, body) = self.http.exchange(request).await?;
        let answer: Value = serde_json::from_slice(&body).unwrap_or_default();
        if status == 200 {
            return Ok(answer);
        }
        let code = answer["__type"].as_str().unwrap_or_default();
        let code = code.rsplit('#').next().unwrap_or_default();
        let said = answer["message"]
            .as_str()
            .or_else(|| answer["Message"].as_str());
        // A proxy in between says what it has to say in its own form.
        let text = String::from_utf8_lossy(&body);
        let message = said.unwrap_or(if answer.is_null() { &text } else { "" });
        Err(failed(status, code, message))
    }
}
