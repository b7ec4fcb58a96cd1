//! AWS credentials, from the places and in the order of AWS's SDKs, and from the OIDC tokens of CI systems.
//!
//! A place that is configured and does not work ends the search: to go on would publish as somebody else.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use reqsign_aws_v4::{
    AssumeRoleCredentialProvider, AssumeRoleWithWebIdentityCredentialProvider, Credential,
    ECSCredentialProvider, IMDSv2CredentialProvider, RequestSigner, SSOCredentialProvider,
    StaticCredentialProvider,
};
use reqsign_core::{Context, ProvideCredential, Signer};
use reqwest::Url;

use super::aws_http::AwsHttp;
use super::aws_profile::{Settings, SharedFiles};
use super::{AwsEnvironment, process, with_causes};
use crate::location::is_loopback;

/// The instance metadata service is one hop away, or there is none.
const INSTANCE_LIMIT: Duration = Duration::from_secs(1);
/// A container's agent may have to ask STS first.
const CONTAINER_LIMIT: Duration = Duration::from_secs(5);
/// Who an assumed role is for, in the account's logs.
const SESSION_NAME: &str = "smokegate";
/// The audience that AWS documents for OIDC providers of CI systems.
const AUDIENCE: &str = "sts.amazonaws.com";

/// An AWS credential and where it is from, for people.
#[derive(Debug)]
pub(crate) struct Sourced {
    pub(crate) credential: Credential,
    pub(crate) source: String,
}

/// A place that is configured and gives no credential.
#[derive(Debug)]
pub(crate) struct Unusable {
    pub(crate) source: String,
    pub(crate) reason: String,
}

/// Finds credentials. Nothing is read or dialled before `find`.
#[derive(Debug)]
pub(crate) struct AwsCredentials {
    environment: AwsEnvironment,
    http: AwsHttp,
    path: Option<OsString>,
}

type Answer = Result<Option<Sourced>, Unusable>;

impl AwsCredentials {
    pub(crate) fn new(environment: AwsEnvironment, http: AwsHttp, path: Option<OsString>) -> Self {
        Self {
            environment,
            http,
            path,
        }
    }

    /// The places, for people.
    pub(crate) fn searched() -> &'static str {
        "`AWS_ACCESS_KEY_ID`, the profiles of `~/.aws`, `AWS_WEB_IDENTITY_TOKEN_FILE`, the CI's OIDC token, \
         the container's and the instance's metadata service"
    }

    /// The first credential. Where nothing names a region, STS is asked in `region`.
    pub(crate) async fn find(&self, region: &str) -> Answer {
        if let Some(found) = self.of_environment()? {
            return Ok(Some(found));
        }
        if let Some(found) = self.of_profile(region).await? {
            return Ok(Some(found));
        }
        if let Some(found) = self.of_web_identity(region).await? {
            return Ok(Some(found));
        }
        if let Some(found) = self.of_container().await? {
            return Ok(Some(found));
        }
        self.of_instance().await
    }

    fn of_environment(&self) -> Answer {
        let source = "`AWS_ACCESS_KEY_ID`".to_owned();
        let get = |name| self.environment.get(name).map(str::to_owned);
        match (get("AWS_ACCESS_KEY_ID"), get("AWS_SECRET_ACCESS_KEY")) {
            (Some(access_key_id), Some(secret_access_key)) => Ok(Some(Sourced {
                credential: Credential {
                    access_key_id,
                    secret_access_key,
                    session_token: get("AWS_SESSION_TOKEN"),
                    expires_in: None,
                },
                source,
            })),
            (Some(_), None) => Err(Unusable {
                source,
                reason: "`AWS_SECRET_ACCESS_KEY` is not set".to_owned(),
            }),
            (None, _) => Ok(None),
        }
    }

    async fn of_profile(&self, region: &str) -> Answer {
        let chosen = self.environment.get("AWS_PROFILE");
        let name = chosen.unwrap_or("default");
        let unusable = |reason| Unusable {
            source: format!("profile `{name}`"),
            reason,
        };
        let files = SharedFiles::read(&self.environment).map_err(unusable)?;
        if files.profile(name).is_none() {
            return match chosen {
                None => Ok(None),
                Some(_) => {
                    let paths: Vec<String> = files
                        .paths
                        .iter()
                        .map(|path| format!("`{}`", path.display()))
                        .collect();
                    Err(unusable(format!("it is not in {}", paths.join(" or "))))
                }
            };
        }
        let mut seen = BTreeSet::new();
        let found = self
            .resolve(&files, name, region, &mut seen)
            .await
            .map_err(unusable)?;
        match (found, chosen) {
            (Some(credential), _) => Ok(Some(Sourced {
                credential,
                source: format!("profile `{name}`"),
            })),
            (None, Some(_)) => Err(unusable(
                "it holds no credential, and no way to get one".to_owned(),
            )),
            (None, None) => Ok(None),
        }
    }

    /// What a profile says, following `source_profile`.
    async fn resolve(
        &self,
        files: &SharedFiles,
        name: &str,
        region: &str,
        seen: &mut BTreeSet<String>,
    ) -> Result<Option<Credential>, String> {
        let Some(settings) = files.profile(name) else {
            return Err(format!("its `source_profile` `{name}` is not there"));
        };
        let get = |key: &str| settings.get(key).map(String::as_str);
        let region = self.region(settings).unwrap_or(region).to_owned();
        let repeated = !seen.insert(name.to_owned());
        // A profile may be the source of its own role; then it is its keys that are meant.
        if let (Some(role), false) = (get("role_arn"), repeated) {
            let role = Role {
                arn: role,
                settings,
                region: &region,
            };
            return self.assume(files, &role, name, seen).await.map(Some);
        }
        if let (Some(id), Some(secret)) = (get("aws_access_key_id"), get("aws_secret_access_key")) {
            return Ok(Some(Credential {
                access_key_id: id.to_owned(),
                secret_access_key: secret.to_owned(),
                session_token: get("aws_session_token").map(str::to_owned),
                expires_in: None,
            }));
        }
        if repeated {
            return Err(format!(
                "its roles lead in a circle, back to profile `{name}`"
            ));
        }
        if get("sso_account_id").is_some() {
            return self.sso(files, settings).await.map(Some);
        }
        if let Some(line) = get("credential_process") {
            let credential = process::credential(line, self.path.as_deref()).await?;
            return Ok(Some(credential));
        }
        if get("login_session").is_some() {
            return Err(
                "it has a `login_session`, which smokegate cannot use; \
                 `credential_process = aws configure export-credentials --profile …` in another profile can"
                    .to_owned(),
            );
        }
        Ok(None)
    }

    async fn assume(
        &self,
        files: &SharedFiles,
        role: &Role<'_>,
        name: &str,
        seen: &mut BTreeSet<String>,
    ) -> Result<Credential, String> {
        let get = |key: &str| role.settings.get(key).map(String::as_str);
        if get("mfa_serial").is_some() {
            return Err(
                "its role needs an MFA code, which nobody can type here; put a session's credentials in the environment"
                    .to_owned(),
            );
        }
        let context = self.http.clone().context(&self.environment);
        let session = get("role_session_name").unwrap_or(SESSION_NAME);
        if let Some(file) = get("web_identity_token_file") {
            return self
                .web_identity(
                    role.arn,
                    session,
                    role.region,
                    Token::File(self.environment.expand(file)),
                )
                .await;
        }
        let source = match (get("source_profile"), get("credential_source")) {
            (Some(source), _) => {
                let found = Box::pin(self.resolve(files, source, role.region, seen)).await?;
                found
                    .ok_or_else(|| format!("its `source_profile` `{source}` holds no credential"))?
            }
            (None, Some(place)) => {
                let found = match place {
                    "Environment" => self.of_environment(),
                    "EcsContainer" => self.of_container().await,
                    "Ec2InstanceMetadata" => self.of_instance().await,
                    other => return Err(format!("its `credential_source` `{other}` is not one")),
                };
                let found = found.map_err(|error| format!("{}: {}", error.source, error.reason))?;
                found
                    .ok_or_else(|| {
                        format!("its `credential_source` `{place}` has no credential here")
                    })?
                    .credential
            }
            (None, None) => {
                return Err(format!(
                    "profile `{name}` has a `role_arn`, but neither `source_profile` nor `credential_source`"
                ));
            }
        };
        let mut secrets = vec![source.secret_access_key.clone()];
        secrets.extend(source.session_token.clone());
        let keys = given(source);
        let signer = Signer::new(
            context.clone(),
            keys,
            RequestSigner::new("sts", role.region).with_standard_session_token(),
        );
        let mut provider = AssumeRoleCredentialProvider::new(role.arn.to_owned(), signer)
            .with_role_session_name(session.to_owned())
            .with_region(role.region.to_owned())
            .with_regional_sts_endpoint();
        if let Some(id) = get("external_id") {
            provider = provider.with_external_id(id.to_owned());
        }
        if let Some(seconds) = get("duration_seconds") {
            let seconds = seconds
                .parse()
                .map_err(|_| format!("its `duration_seconds` `{seconds}` is not a number"))?;
            provider = provider.with_duration_seconds(seconds);
        }
        let assumed = provided(&provider, &context)
            .await
            .map_err(|error| super::masked(&error, &secrets))?;
        assumed.ok_or_else(|| format!("STS gave nothing for role `{}`", role.arn))
    }

    async fn sso(&self, files: &SharedFiles, settings: &Settings) -> Result<Credential, String> {
        let session = match settings.get("sso_session") {
            Some(name) => Some((
                name,
                files.sso_session(name).ok_or_else(|| {
                    format!("its `sso_session` `{name}` is not in the config file")
                })?,
            )),
            None => None,
        };
        let get = |key: &str| {
            let value = settings
                .get(key)
                .or_else(|| session.and_then(|(_, session)| session.get(key)));
            value.cloned().ok_or_else(|| format!("it has no `{key}`"))
        };
        // `aws sso login` files its token under the hash of the session's name, or of the URL without one.
        let filed_under = match session {
            Some((name, _)) => name.clone(),
            None => get("sso_start_url")?,
        };
        let provider = SSOCredentialProvider::new()
            .with_account_id(get("sso_account_id")?)
            .with_role_name(get("sso_role_name")?)
            .with_region(get("sso_region")?)
            .with_start_url(filed_under);
        let context = self.http.clone().context(&self.environment);
        let found = provided(&provider, &context).await?;
        found.ok_or_else(|| "SSO gave no credential".to_owned())
    }

    async fn of_web_identity(&self, region: &str) -> Answer {
        let get = |name| self.environment.get(name);
        let Some(role) = get("AWS_ROLE_ARN") else {
            return Ok(None);
        };
        let nothing = Settings::new();
        let region = self.region(&nothing).unwrap_or(region);
        let session = get("AWS_ROLE_SESSION_NAME").unwrap_or(SESSION_NAME);
        let (source, token) = if let Some(file) = get("AWS_WEB_IDENTITY_TOKEN_FILE") {
            let token = Token::File(self.environment.expand(file));
            ("`AWS_WEB_IDENTITY_TOKEN_FILE`", Ok(token))
        } else if let Some(url) = get("ACTIONS_ID_TOKEN_REQUEST_URL") {
            (
                "GitHub's OIDC token",
                self.github_token(url).await.map(Token::Text),
            )
        } else if let Some(token) = get("GITLAB_OIDC_TOKEN") {
            ("`GITLAB_OIDC_TOKEN`", Ok(Token::Text(token.to_owned())))
        } else {
            return Ok(None);
        };
        let source = format!("{source} and role `{role}`");
        let found = match token {
            Ok(token) => self.web_identity(role, session, region, token).await,
            Err(reason) => Err(reason),
        };
        match found {
            Ok(credential) => Ok(Some(Sourced { credential, source })),
            Err(reason) => Err(Unusable { source, reason }),
        }
    }

    async fn web_identity(
        &self,
        role: &str,
        session: &str,
        region: &str,
        token: Token,
    ) -> Result<Credential, String> {
        let provider = AssumeRoleWithWebIdentityCredentialProvider::new()
            .with_role_arn(role)
            .with_role_session_name(session.to_owned())
            .with_region(region.to_owned())
            .with_regional_sts_endpoint();
        let provider = match token {
            Token::File(path) => provider.with_web_identity_token_file(path),
            Token::Text(token) => provider.with_subject_token(token),
        };
        let context = self.http.clone().context(&self.environment);
        let found = provided(&provider, &context).await?;
        found.ok_or_else(|| format!("STS gave nothing for role `{role}`"))
    }

    /// Asks GitHub's runner for a token (GitHub Docs, "OpenID Connect reference").
    async fn github_token(&self, url: &str) -> Result<String, String> {
        #[derive(serde::Deserialize)]
        struct Answer {
            value: String,
        }
        let mut url: Url = url
            .parse()
            .map_err(|_| "`ACTIONS_ID_TOKEN_REQUEST_URL` is not a URL".to_owned())?;
        if url.scheme() != "https" && !is_loopback(&url) {
            return Err("`ACTIONS_ID_TOKEN_REQUEST_URL` is not https".to_owned());
        }
        let bearer = self
            .environment
            .get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
            .ok_or("`ACTIONS_ID_TOKEN_REQUEST_TOKEN` is not set")?;
        url.query_pairs_mut().append_pair("audience", AUDIENCE);
        let request = http::Request::get(url.as_str())
            .header("Authorization", format!("Bearer {bearer}"))
            .body(bytes::Bytes::new())
            .map_err(|_| "`ACTIONS_ID_TOKEN_REQUEST_TOKEN` is not a token".to_owned())?;
        let (status, body) = self
            .http
            .exchange(request)
            .await
            .map_err(|error| with_causes(&error))?;
        if status != 200 {
            return Err(format!(
                "the runner answered {status} to the request for a token"
            ));
        }
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| "the runner's answer holds no token".to_owned())?;
        Ok(answer.value)
    }

    async fn of_container(&self) -> Answer {
        let get = |name| self.environment.get(name);
        let provider = ECSCredentialProvider::new();
        // The relative one first, as the SDKs do; reqsign has it the other way round.
        let (source, provider) = if let Some(path) = get("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
            let source = "`AWS_CONTAINER_CREDENTIALS_RELATIVE_URI`";
            (source, provider.with_relative_uri(path))
        } else if let Some(url) = get("AWS_CONTAINER_CREDENTIALS_FULL_URI") {
            let source = "`AWS_CONTAINER_CREDENTIALS_FULL_URI`";
            if let Err(reason) = allowed_container_url(url) {
                let source = source.to_owned();
                return Err(Unusable { source, reason });
            }
            (source, provider.with_endpoint(url))
        } else {
            return Ok(None);
        };
        let provider = match get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE") {
            Some(file) => provider.with_auth_token_file(file),
            None => provider,
        };
        let context = self
            .http
            .metadata(CONTAINER_LIMIT)
            .context(&self.environment);
        let source = source.to_owned();
        match provided(&provider, &context).await {
            Ok(found) => Ok(found.map(|credential| Sourced { credential, source })),
            Err(reason) => Err(Unusable { source, reason }),
        }
    }

    async fn of_instance(&self) -> Answer {
        let get = |name| self.environment.get(name);
        if get("AWS_EC2_METADATA_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"))
        {
            return Ok(None);
        }
        let provider = IMDSv2CredentialProvider::new();
        let provider = match (
            get("AWS_EC2_METADATA_SERVICE_ENDPOINT"),
            get("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE"),
        ) {
            (Some(endpoint), _) => provider.with_endpoint(endpoint.trim_end_matches('/')),
            (None, Some(mode)) if mode.eq_ignore_ascii_case("IPv6") => {
                provider.with_endpoint("http://[fd00:ec2::254]")
            }
            _ => provider.with_endpoint("http://169.254.169.254"),
        };
        let context = self
            .http
            .metadata(INSTANCE_LIMIT)
            .context(&self.environment);
        match provided(&provider, &context).await {
            Ok(found) => Ok(found.map(|credential| Sourced {
                credential,
                source: "the instance's metadata service".to_owned(),
            })),
            // No service, or an instance without a role: there is simply no credential here.
            Err(reason) => {
                tracing::debug!(reason, "the instance's metadata service has no credential");
                Ok(None)
            }
        }
    }

    fn region<'a>(&'a self, settings: &'a Settings) -> Option<&'a str> {
        let get = |name| self.environment.get(name);
        get("AWS_REGION")
            .or_else(|| get("AWS_DEFAULT_REGION"))
            .or_else(|| settings.get("region").map(String::as_str))
    }
}

struct Role<'a> {
    arn: &'a str,
    settings: &'a Settings,
    region: &'a str,
}

enum Token {
    File(PathBuf),
    Text(String),
}

/// A credential as a provider of itself.
pub(crate) fn given(credential: Credential) -> StaticCredentialProvider {
    let provider =
        StaticCredentialProvider::new(&credential.access_key_id, &credential.secret_access_key);
    match &credential.session_token {
        Some(token) => provider.with_session_token(token),
        None => provider,
    }
}

async fn provided(
    provider: &impl ProvideCredential<Credential = Credential>,
    context: &Context,
) -> Result<Option<Credential>, String> {
    let found = provider.provide_credential(context).await;
    found.map_err(|error| super::without_request(&with_causes(&error)))
}

/// A token is sent there, so the SDKs allow this host and its link only, or TLS.
fn allowed_container_url(url: &str) -> Result<(), String> {
    const AGENTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "[fd00:ec2::23]"];
    let url: Url = url.parse().map_err(|_| "it is not a URL".to_owned())?;
    let is_agent = url.host_str().is_some_and(|host| AGENTS.contains(&host));
    if url.scheme() == "https" || is_agent || is_loopback(&url) {
        Ok(())
    } else {
        Err("it is plain HTTP to another host, and a token is not sent there".to_owned())
    }
}
