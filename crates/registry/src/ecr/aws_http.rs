//! Our transport as reqsign's: what it asks of AWS goes through the run's clients, proxies and certificates.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use reqsign_core::{Context, Error, FileRead, HttpSend, Result, StaticEnv};
use reqwest::Url;

use super::AwsEnvironment;
use crate::RegistryOptions;
use crate::client::Clients;

const ANSWER_LIMIT: usize = 1024 * 1024;

/// Sends reqsign's requests.
#[derive(Clone, Debug)]
pub(crate) struct AwsHttp {
    clients: Clients,
    limit: Duration,
    /// Metadata services are on this host or its link: no proxy reaches them.
    direct: bool,
    /// `AWS_ENDPOINT_URL_STS`, which reqsign does not know.
    sts: Option<Url>,
}

impl AwsHttp {
    pub(crate) fn new(clients: Clients, options: &RegistryOptions, sts: Option<Url>) -> Self {
        Self {
            clients,
            limit: options.idle_timeout,
            direct: false,
            sts,
        }
    }

    /// The same for a metadata service, which answers within `limit` or is not there.
    pub(crate) fn metadata(&self, limit: Duration) -> Self {
        Self {
            limit,
            direct: true,
            ..self.clone()
        }
    }

    /// What reqsign works with: the variables that the caller passed, files, and this. It starts no program.
    pub(crate) fn context(self, environment: &AwsEnvironment) -> Context {
        let envs: HashMap<String, String> = environment.variables.clone().into_iter().collect();
        let home_dir = environment.home.clone();
        Context::new()
            .with_env(StaticEnv { home_dir, envs })
            .with_file_read(Files)
            .with_http_send(Arc::new(self))
    }

    /// Sends one request, redirects not followed past what our policy allows, and reads its answer.
    pub(crate) async fn exchange(
        &self,
        request: http::Request<Bytes>,
    ) -> std::result::Result<(u16, Vec<u8>), crate::Error> {
        let (mut parts, body) = request.into_parts();
        let url: Url = parts
            .uri
            .to_string()
            .parse()
            .map_err(|_| crate::Error::Challenge {
                registry: "AWS".to_owned(),
                reason: "the address of its API is not a URL".to_owned(),
            })?;
        let url = self.destination(url);
        let client = if self.direct {
            &self.clients.direct
        } else {
            self.clients.for_url(&url)
        };
        parts.headers.remove(CONTENT_LENGTH);
        let builder = client
            .request(parts.method, url)
            .headers(parts.headers)
            .header(CONTENT_LENGTH, body.len())
            .timeout(self.limit);
        let answer = client.send(builder.body(body), self.limit).await?;
        let status = answer.status().as_u16();
        Ok((status, answer.body(ANSWER_LIMIT).await?))
    }

    /// Where a request goes: STS may have been moved. The `Host` that was signed stays in the request.
    fn destination(&self, url: Url) -> Url {
        let is_sts = url
            .host_str()
            .is_some_and(|host| host.starts_with("sts.") && host.contains(".amazonaws."));
        match &self.sts {
            Some(sts) if is_sts => {
                let mut moved = sts.clone();
                moved.set_query(url.query());
                moved
            }
            _ => url,
        }
    }
}

impl HttpSend for AwsHttp {
    async fn http_send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>> {
        // The transport's messages hold neither headers, bodies nor queries.
        let (status, body) = self
            .exchange(request)
            .await
            .map_err(|error| Error::unexpected(super::with_causes(&error)))?;
        http::Response::builder()
            .status(status)
            .body(body.into())
            .map_err(|error| Error::unexpected(error.to_string()))
    }
}

/// Reads the files that AWS's settings name.
#[derive(Debug)]
struct Files;

impl FileRead for Files {
    async fn file_read(&self, path: &str) -> Result<Vec<u8>> {
        let read = tokio::fs::read(path).await;
        read.map_err(|error| Error::config_invalid(format!("cannot read `{path}`: {error}")))
    }
}
