//! The Bearer scheme: tokens from the service that a registry names (Docker's token authentication
//! specification, and its OAuth2 variant for refresh tokens).

use std::sync::Arc;
use std::time::{Duration, Instant};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Method, Url};

use super::basic;
use super::credential::{Credential, Secret};
use crate::client::Client;
use crate::location::{is_loopback, shown};
use crate::retry::Backoff;
use crate::{Error, RegistryOptions};

const ANSWER_LIMIT: usize = 1024 * 1024;
const CLIENT_ID: &str = "smokegate";
/// What a token is good for where the answer does not say (token authentication specification).
const DEFAULT_LIFE: u64 = 60;

/// Fetches tokens for one registry.
pub(crate) struct TokenService {
    registry: String,
    http: Client,
    options: Arc<RegistryOptions>,
}

#[derive(serde::Deserialize)]
struct Answer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// The value of `Authorization`.
pub(crate) fn header(token: &Secret) -> Result<HeaderValue, String> {
    let mut header = HeaderValue::from_str(&format!("Bearer {}", token.expose()))
        .map_err(|_| "the token holds characters that no header can".to_owned())?;
    header.set_sensitive(true);
    Ok(header)
}

impl TokenService {
    pub(crate) fn new(registry: &str, http: Client, options: Arc<RegistryOptions>) -> Self {
        Self {
            registry: registry.to_owned(),
            http,
            options,
        }
    }

    /// Asks `realm` for a token, without a credential for an anonymous one: the header, and when it ends.
    pub(crate) async fn fetch(
        &self,
        realm: &str,
        service: Option<&str>,
        scopes: &[String],
        credential: Option<&Credential>,
    ) -> Result<(HeaderValue, Instant), Error> {
        let realm = self.realm(realm, credential.is_some())?;
        let mut backoff = Backoff::new(&self.options);
        let answer = loop {
            let request = self.request(realm.clone(), service, scopes, credential);
            match self.ask(request).await {
                Ok(answer) => break answer,
                Err(error) => backoff.after(error).await?,
            }
        };
        // Counted from when the answer came, a tenth early: the clock that matters is the service's.
        let life =
            Duration::from_secs(answer.expires_in.unwrap_or(DEFAULT_LIFE).min(24 * 3600)) * 9 / 10;
        let token = [answer.token, answer.access_token]
            .into_iter()
            .flatten()
            .find(|t| !t.is_empty());
        let token =
            token.ok_or_else(|| self.refusal(format!("`{}` gave no token", shown(&realm))))?;
        let header = header(&Secret::new(token)).map_err(|reason| self.refusal(reason))?;
        Ok((header, Instant::now() + life))
    }

    fn refusal(&self, reason: String) -> Error {
        Error::Challenge {
            registry: self.registry.clone(),
            reason,
        }
    }

    fn realm(&self, realm: &str, with_credential: bool) -> Result<Url, Error> {
        let url: Url = realm.parse().map_err(|_| {
            let realm = crate::wire_error::printable(realm.split('?').next().unwrap_or_default());
            self.refusal(format!("its token service `{realm}` is not a URL"))
        })?;
        match url.scheme() {
            "https" => Ok(url),
            "http" if is_loopback(&url) || !with_credential => Ok(url),
            "http" => Err(self.refusal(format!(
                "its token service `{}` is plain HTTP, and a credential is not sent there",
                shown(&url)
            ))),
            scheme => Err(self.refusal(format!("its token service has the scheme `{scheme}`"))),
        }
    }

    fn request(
        &self,
        mut realm: Url,
        service: Option<&str>,
        scopes: &[String],
        credential: Option<&Credential>,
    ) -> reqwest::RequestBuilder {
        if let Some(Credential::IdentityToken(token)) = credential {
            let mut form: Url = "form:".parse().expect("a valid URL");
            form.query_pairs_mut()
                .append_pair("grant_type", "refresh_token")
                .append_pair("client_id", CLIENT_ID)
                .append_pair("service", service.unwrap_or_default())
                .append_pair("scope", &scopes.join(" "))
                .append_pair("refresh_token", token.expose());
            let form = form.query().unwrap_or_default().to_owned();
            let request = self.http.request(Method::POST, realm);
            return request
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form);
        }
        {
            let mut query = realm.query_pairs_mut();
            if let Some(service) = service {
                query.append_pair("service", service);
            }
            for scope in scopes {
                query.append_pair("scope", scope);
            }
        }
        let request = self.http.request(Method::GET, realm);
        match credential {
            Some(Credential::Basic { username, password }) => {
                request.header(AUTHORIZATION, basic::header(username, password))
            }
            _ => request,
        }
    }

    async fn ask(&self, request: reqwest::RequestBuilder) -> Result<Answer, Error> {
        let answer = self.http.send(request, self.options.idle_timeout).await?;
        if !answer.status().is_success() {
            return Err(answer.refused().await);
        }
        let body = answer.body(ANSWER_LIMIT).await?;
        // The parser's own message could quote the token.
        serde_json::from_slice(&body).map_err(|_| {
            self.refusal("the answer of its token service is not the JSON expected".to_owned())
        })
    }
}
