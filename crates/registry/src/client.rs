//! The HTTP clients of a run: HTTP/1.1 only, a connection for each upload, and known to themselves whom they go through.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{ClientBuilder, Method, RequestBuilder, Url};

use crate::location::{is_loopback, redirects};
use crate::transport::{Answer, Exchange};
use crate::{Error, RegistryOptions, tls};

/// The clients that every registry of a run shares.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    /// Honours the system's proxies.
    proxied: Client,
    /// For loopback, which a proxy cannot reach: docker never asks one either.
    pub(crate) direct: Client,
}

impl Clients {
    pub(crate) fn new(options: &RegistryOptions) -> Result<Self, Error> {
        let tls = tls::client_config(options)?;
        let proxied = Client::new(builder(options, tls.clone())?, Some(proxies(options)))?;
        // A proxy that was named for a registry is asked for loopback too.
        let direct = match options.proxy {
            Some(_) => proxied.clone(),
            None => Client::new(builder(options, tls)?.no_proxy(), None)?,
        };
        Ok(Self { proxied, direct })
    }

    /// The one for a URL.
    pub(crate) fn for_url(&self, url: &Url) -> &Client {
        if is_loopback(url) {
            &self.direct
        } else {
            &self.proxied
        }
    }
}

/// A client that can say which proxy a request goes through: the error of one that cannot be reached does not.
#[derive(Clone)]
pub(crate) struct Client {
    http: reqwest::Client,
    proxies: Option<Arc<Matcher>>,
}

impl Client {
    fn new(builder: ClientBuilder, proxies: Option<Matcher>) -> Result<Self, Error> {
        let http = builder.build().map_err(|source| Error::Client { source })?;
        let proxies = proxies.map(Arc::new);
        Ok(Self { http, proxies })
    }

    pub(crate) fn request(&self, method: Method, url: Url) -> RequestBuilder {
        self.http.request(method, url)
    }

    /// Sends one request, once. The time limit is on silence, so it does not suit a streamed body.
    pub(crate) async fn send(
        &self,
        request: RequestBuilder,
        idle: Duration,
    ) -> Result<Answer, Error> {
        let (client, request) = request.build_split();
        let request = request.map_err(|source| Error::Client { source })?;
        let exchange = self.exchange(request.method().clone(), request.url().clone(), idle);
        match tokio::time::timeout(idle, client.execute(request)).await {
            Ok(Ok(response)) => Ok(Answer::new(exchange, response)),
            Ok(Err(source)) => Err(exchange.failed(source)),
            Err(_) => Err(exchange.stalled()),
        }
    }

    /// What a request is.
    pub(crate) fn exchange(&self, method: Method, url: Url, idle: Duration) -> Exchange {
        Exchange {
            proxy: self.proxy(&url),
            method,
            url,
            idle,
        }
    }

    /// The address of the proxy that a URL is asked of, without credentials.
    fn proxy(&self, url: &Url) -> Option<String> {
        let proxies = self.proxies.as_ref()?;
        let proxy = proxies.intercept(&url.as_str().parse().ok()?)?;
        let (scheme, authority) = (proxy.uri().scheme_str()?, proxy.uri().authority()?);
        let address = authority.as_str().rsplit('@').next()?;
        Some(format!("{scheme}://{address}"))
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.http.fmt(f)
    }
}

/// The proxies that reqwest asks, as it finds them itself.
fn proxies(options: &RegistryOptions) -> Matcher {
    match &options.proxy {
        Some(proxy) => {
            // With what a URL escapes escaped.
            let url = Url::parse(proxy).map_or_else(|_| proxy.clone(), Into::into);
            Matcher::builder().all(url).build()
        }
        None => Matcher::from_system(),
    }
}

fn builder(options: &RegistryOptions, tls: rustls::ClientConfig) -> Result<ClientBuilder, Error> {
    let mut builder = reqwest::Client::builder();
    if let Some(proxy) = &options.proxy {
        let proxy = reqwest::Proxy::all(proxy).map_err(|source| Error::Client {
            source: source.without_url(),
        })?;
        builder = builder.proxy(proxy);
    }
    if let Some(total) = options.total_timeout {
        builder = builder.timeout(total);
    }
    Ok(builder
        .user_agent(concat!("smokegate/", env!("CARGO_PKG_VERSION")))
        .tls_backend_preconfigured(tls)
        .http1_only()
        .referer(false)
        .redirect(redirects())
        .connect_timeout(options.connect_timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_proxy_is_known_without_its_password() {
        let named = |proxy: &str| RegistryOptions {
            proxy: Some(proxy.to_owned()),
            ..RegistryOptions::default()
        };
        for (proxy, shown) in [
            (
                "http://user:s3cret@proxy.test:3128",
                "http://proxy.test:3128",
            ),
            (
                "http://user:p^s@s3cret@proxy.test:3128",
                "http://proxy.test:3128",
            ),
            (
                "socks5h://user:s3cret@proxy.test:1080",
                "socks5h://proxy.test:1080",
            ),
        ] {
            let clients = Clients::new(&named(proxy)).unwrap();
            for url in ["https://a.test/v2/", "http://127.0.0.1:5000/v2/"] {
                let url: Url = url.parse().unwrap();
                let client = clients.for_url(&url);
                assert_eq!(client.proxy(&url).as_deref(), Some(shown));
            }
        }
    }
}
