//! HTTP to one registry: authorised, retried, bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap};
use reqwest::{Method, RequestBuilder, Response, StatusCode, Url};

use crate::auth::{Access, Authenticator, CredentialStore};
use crate::client::{Client, Clients};
use crate::ecr::EcrHost;
use crate::error::{is_client_unknown, is_refused_by_proxy};
use crate::location::{is_loopback, same_origin, shown};
use crate::retry::Backoff;
use crate::wire_error::{READ_LIMIT, WireError, retry_after};
use crate::{Error, RegistryOptions};

/// What a request was, for errors about it.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) idle: Duration,
    /// Whom the request goes through.
    pub(crate) proxy: Option<String>,
}

impl Exchange {
    pub(crate) fn failed(&self, source: reqwest::Error) -> Error {
        // The error's own URL would show the query.
        let source = source.without_url();
        let (method, url) = (self.method.clone(), shown(&self.url));
        if is_client_unknown(&source) {
            return Error::ClientUnknown {
                method,
                url,
                source,
            };
        }
        if is_refused_by_proxy(&source) {
            return self.refused_by_proxy();
        }
        Error::Request {
            method,
            url,
            proxy: self.proxy.clone(),
            source,
        }
    }

    /// A redirect may have led to a proxy that the request's own URL does not.
    fn refused_by_proxy(&self) -> Error {
        let proxy = self.proxy.clone();
        Error::ProxyRefused {
            method: self.method.clone(),
            url: shown(&self.url),
            proxy: proxy.unwrap_or_else(|| "on the way".to_owned()),
        }
    }

    pub(crate) fn stalled(&self) -> Error {
        Error::Stalled {
            method: self.method.clone(),
            url: shown(&self.url),
            idle: self.idle,
        }
    }

    pub(crate) fn protocol(&self, reason: impl Into<String>) -> Error {
        let reason = reason.into();
        Error::Protocol {
            method: self.method.clone(),
            url: shown(&self.url),
            reason,
        }
    }
}

/// An answer whose body has not been read.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) exchange: Exchange,
    response: Response,
}

impl Answer {
    pub(crate) fn new(exchange: Exchange, response: Response) -> Self {
        Self { exchange, response }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// The URL that answered, after redirects.
    pub(crate) fn url(&self) -> &Url {
        self.response.url()
    }

    /// The whole body, refused beyond `limit`.
    pub(crate) async fn body(mut self, limit: usize) -> Result<Vec<u8>, Error> {
        let (body, complete) = self.read(limit).await?;
        if complete {
            Ok(body)
        } else {
            Err(self.exchange.protocol(format!("more than {limit} bytes")))
        }
    }

    /// The error that this answer is.
    pub(crate) async fn refused(mut self) -> Error {
        let body = match self.read(READ_LIMIT).await {
            Ok((body, _)) => body,
            // Whether it is about the token, and so not final, stands in the part that is lost.
            Err(error)
                if matches!(
                    self.status(),
                    StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST
                ) =>
            {
                return error;
            }
            // What is said about another refusal matters less than that it was one.
            Err(_) => Vec::new(),
        };
        // No registry answers so (RFC 9110, 15.5.8).
        if self.response.status() == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            return self.exchange.refused_by_proxy();
        }
        let method = self.exchange.method;
        let url = shown(&self.exchange.url);
        Error::Refused {
            status: self.response.status(),
            retry_after: retry_after(self.response.headers(), SystemTime::now()),
            detail: WireError::parse(&body),
            method,
            url,
        }
    }

    /// The next part of the body; `None` at its end.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let chunk = tokio::time::timeout(self.exchange.idle, self.response.chunk()).await;
        let chunk = chunk.map_err(|_| self.exchange.stalled())?;
        chunk.map_err(|source| self.exchange.failed(source))
    }

    async fn read(&mut self, limit: usize) -> Result<(Vec<u8>, bool), Error> {
        let mut body = Vec::new();
        loop {
            let Some(chunk) = self.chunk().await? else {
                return Ok((body, true));
            };
            let room = limit - body.len();
            body.extend_from_slice(&chunk[..chunk.len().min(room)]);
            if chunk.len() > room {
                return Ok((body, false));
            }
        }
    }
}

/// One registry, shared by everything that is pushed there.
#[derive(Debug)]
pub(crate) struct Registry {
    name: String,
    base: Url,
    pub(crate) http: Client,
    authenticator: Authenticator,
    pub(crate) options: Arc<RegistryOptions>,
    /// The largest body that was not refused for its size.
    body_limit: AtomicU64,
}

/// ECR refuses smaller parts.
const SMALLEST_ECR_CHUNK: u64 = 5 << 20;
/// What nginx lets through as it is delivered.
const SMALLEST_CHUNK: u64 = 1 << 20;

/// One repository of a registry.
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    pub(crate) registry: Arc<Registry>,
    pub(crate) name: String,
}

impl Registry {
    pub(crate) fn new(
        name: &str,
        clients: &Clients,
        store: Arc<CredentialStore>,
        options: Arc<RegistryOptions>,
    ) -> Result<Self, Error> {
        let settings = options.registries.get(name).cloned();
        let own;
        let (clients, options) = match &settings {
            Some(settings) => {
                let merged = settings.applied_to(&options);
                own = Clients::new(&merged)?;
                (&own, Arc::new(merged))
            }
            None => (clients, options),
        };
        // Docker Hub's API is on another host than its name (docker's own default).
        let host = if name == "docker.io" {
            "registry-1.docker.io"
        } else {
            name
        };
        let invalid = || Error::Challenge {
            registry: name.to_owned(),
            reason: "its name is not a host and port".to_owned(),
        };
        let mut base: Url = format!("https://{host}/v2/")
            .parse()
            .map_err(|_| invalid())?;
        // Port 443 was said to mean TLS, on loopback too.
        let names_https = host.ends_with(":443");
        let said = settings.as_ref().and_then(|settings| settings.plain_http);
        let general = options.plain_http || (is_loopback(&base) && !names_https);
        if said.unwrap_or(general) {
            base = format!("http://{host}/v2/")
                .parse()
                .map_err(|_| invalid())?;
        }
        if let Some(endpoint) = settings.and_then(|settings| settings.endpoint) {
            let endpoint = endpoint.trim_end_matches('/');
            base = format!("{endpoint}/v2/")
                .parse()
                .map_err(|_| Error::Challenge {
                    registry: name.to_owned(),
                    reason: format!("its endpoint `{endpoint}` is not a URL"),
                })?;
        }
        let http = clients.for_url(&base).clone();
        let authenticator = Authenticator::new(name, store, http.clone(), Arc::clone(&options));
        Ok(Self {
            name: name.to_owned(),
            base,
            http,
            authenticator,
            options,
            body_limit: AtomicU64::new(u64::MAX),
        })
    }

    /// How large chunks must be for a blob of this size; `None` when it may go as a whole.
    pub(crate) fn chunk_size(&self, size: u64) -> Option<u64> {
        let limit = self.body_limit.load(Ordering::Relaxed);
        (size > limit).then_some(limit)
    }

    /// Takes note that a body of this size was refused for it (413); whether there is a smaller size to try.
    pub(crate) fn send_smaller(&self, refused: u64) -> bool {
        let smallest = match self.ecr() {
            Some(_) => SMALLEST_ECR_CHUNK,
            None => SMALLEST_CHUNK,
        };
        // Another blob may have found out meanwhile.
        if self.body_limit.load(Ordering::Relaxed) < refused {
            return true;
        }
        let next = if refused > self.options.chunk_size {
            self.options.chunk_size
        } else {
            (refused / 4).max(smallest)
        };
        if next >= refused {
            return false;
        }
        self.body_limit.fetch_min(next, Ordering::Relaxed);
        true
    }

    /// The registry as references name it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Which ECR registry it is, when it is one.
    pub(crate) fn ecr(&self) -> Option<EcrHost> {
        EcrHost::parse(&self.name)
    }

    pub(crate) fn repository(self: &Arc<Self>, name: &str) -> Repository {
        Repository {
            registry: Arc::clone(self),
            name: name.to_owned(),
        }
    }
}

impl Repository {
    /// The URL of something in the repository: `manifests/…`, `blobs/…`.
    pub(crate) fn url(&self, path: &str) -> Url {
        let path = format!("{}/{path}", self.name);
        self.registry
            .base
            .join(&path)
            .expect("a repository's name is a valid path")
    }

    pub(crate) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.registry.http.request(method, url)
    }

    /// What a request is, for one that is not sent by [`Client::send`].
    pub(crate) fn exchange(&self, method: Method, url: Url) -> Exchange {
        let idle = self.registry.options.idle_timeout;
        self.registry.http.exchange(method, url, idle)
    }

    /// The header for a request to `url`, which is none for another host: a presigned URL is its own credential.
    pub(crate) async fn authorize(
        &self,
        request: RequestBuilder,
        url: &Url,
        access: &Access,
    ) -> Result<(RequestBuilder, Option<reqwest::header::HeaderValue>), Error> {
        if !same_origin(url, &self.registry.base) {
            return Ok((request, None));
        }
        let header = self.registry.authenticator.header(access).await?;
        let request = match &header {
            Some(header) => request.header(AUTHORIZATION, header.clone()),
            None => request,
        };
        Ok((request, header))
    }

    /// Whether new credentials are at hand after an answer of 401 to a request that carried `used`.
    pub(crate) async fn reauthorize(
        &self,
        answer: &Answer,
        access: &Access,
        used: Option<&reqwest::header::HeaderValue>,
    ) -> Result<bool, Error> {
        if !same_origin(answer.url(), &self.registry.base) {
            return Ok(false);
        }
        self.registry
            .authenticator
            .renew(access, answer.headers(), used)
            .await
    }

    /// Whether a new token is at hand after ECR said, without a challenge, that `used` has ended.
    pub(crate) async fn refresh(
        &self,
        access: &Access,
        used: Option<&reqwest::header::HeaderValue>,
    ) -> Result<bool, Error> {
        self.registry.authenticator.refresh(access, used).await
    }

    /// Sends what `build` builds, again with new credentials after a 401. No other retry.
    pub(crate) async fn send_once(
        &self,
        access: &Access,
        build: impl Fn() -> RequestBuilder,
    ) -> Result<Answer, Error> {
        let idle = self.registry.options.idle_timeout;
        let (mut challenged, mut refreshed) = (false, false);
        loop {
            let (request, used) = self.authorize(build(), &self.registry.base, access).await?;
            let answer = self.registry.http.send(request, idle).await?;
            match answer.status() {
                StatusCode::UNAUTHORIZED if !challenged => {
                    challenged = true;
                    if !self.reauthorize(&answer, access, used.as_ref()).await? {
                        return Err(self.unauthorized(answer).await);
                    }
                }
                StatusCode::UNAUTHORIZED => {
                    if std::mem::replace(&mut refreshed, true)
                        || !self.refresh(access, used.as_ref()).await?
                    {
                        return Err(self.unauthorized(answer).await);
                    }
                }
                StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST if used.is_some() => {
                    let error = answer.refused().await;
                    if !self.says_expired(&error) {
                        return Err(error);
                    }
                    if std::mem::replace(&mut refreshed, true)
                        || !self.refresh(access, used.as_ref()).await?
                    {
                        return Err(self.expired(error).await);
                    }
                }
                _ => return Ok(answer),
            }
        }
    }

    /// Whether a refusal is how ECR says that a token has ended: 403, or 400 at ECR Public, with varying texts.
    pub(crate) fn says_expired(&self, error: &Error) -> bool {
        let Error::Refused { status, detail, .. } = error else {
            return false;
        };
        match self.registry.ecr() {
            Some(EcrHost::Private { .. }) => detail.says_expired_token(),
            Some(EcrHost::Public) => {
                detail.says_expired_token()
                    || (*status == StatusCode::BAD_REQUEST && !detail.is_about_content())
            }
            None => false,
        }
    }

    /// The error of a token that has ended, and of which there is no other.
    pub(crate) async fn expired(&self, error: Error) -> Error {
        let Error::Refused { detail, .. } = error else {
            return error;
        };
        self.unauthorized_because(detail).await
    }

    /// Sends what `build` builds until it is answered with one of `expected`.
    pub(crate) async fn send(
        &self,
        access: &Access,
        expected: &[StatusCode],
        build: impl Fn() -> RequestBuilder,
    ) -> Result<Answer, Error> {
        let mut backoff = Backoff::new(&self.registry.options);
        loop {
            let error = match self.send_once(access, &build).await {
                Ok(answer) if expected.contains(&answer.status()) => return Ok(answer),
                Ok(answer) => answer.refused().await,
                Err(error) => error,
            };
            backoff.after(error).await?;
        }
    }

    /// The error of an answer of 401, with where the credential came from.
    pub(crate) async fn unauthorized(&self, answer: Answer) -> Error {
        match answer.refused().await {
            Error::Refused { detail, .. } => self.unauthorized_because(detail).await,
            other => other,
        }
    }

    async fn unauthorized_because(&self, detail: WireError) -> Error {
        let credential = match self.registry.authenticator.describe(&self.name).await {
            Ok(credential) => credential,
            Err(error) => return error,
        };
        Error::Unauthorized {
            registry: self.registry.name.clone(),
            repository: self.name.clone(),
            credential,
            detail,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_that_only_a_redirect_led_to_has_no_name() {
        let exchange = |proxy: Option<&str>| Exchange {
            method: Method::GET,
            url: Url::parse("https://registry.example/v2/").unwrap(),
            idle: Duration::ZERO,
            proxy: proxy.map(str::to_owned),
        };
        let said = |proxy| exchange(proxy).refused_by_proxy().to_string();
        assert!(
            said(Some("http://proxy.example:3128"))
                .starts_with("the proxy http://proxy.example:3128 wants")
        );
        assert!(
            said(None)
                .starts_with("the proxy on the way wants a name and a password for GET https://")
        );
    }
}
