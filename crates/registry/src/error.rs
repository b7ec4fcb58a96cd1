//! Why something could not be published. No message holds a credential or the query of a URL.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::{Method, StatusCode};
use smokegate_image::Digest;

use crate::auth::CredentialError;
use crate::wire_error::WireError;

/// Whose fault an [`Error`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// A setting names something that cannot be used.
    Usage,
    /// The image's content is not what its digests say.
    Image,
    /// The registry, the way to it, or what it allows.
    Registry,
}

/// Why something could not be published.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificates of `--ca-file` cannot be used.
    #[error("cannot use the certificates in `{path}`")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The HTTP client could not be set up.
    #[error("cannot set up the HTTP client")]
    Client {
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// Credentials could not be looked up.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// A request that got no answer.
    #[error("no answer to {method} {url}")]
    Request {
        /// The method.
        method: Method,
        /// The URL without its query.
        url: String,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// A connection on which nothing moved any more.
    #[error("{method} {url} stalled: nothing was transferred for {}s", .idle.as_secs())]
    Stalled {
        /// The method.
        method: Method,
        /// The URL without its query.
        url: String,
        /// For how long.
        idle: Duration,
    },
    /// An answer that says no.
    #[error("the registry answered {} to {method} {url}{detail}", .status.as_u16())]
    Refused {
        /// The method.
        method: Method,
        /// The URL without its query.
        url: String,
        /// The status.
        status: StatusCode,
        /// What the registry says about it.
        detail: WireError,
        /// When it asks to be tried again.
        retry_after: Option<Duration>,
    },
    /// The registry wants other credentials, or any.
    #[error("not authorised at `{registry}` for `{repository}` with {credential}{detail}")]
    Unauthorized {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
        /// Where the credential came from, or where one was looked for.
        credential: String,
        /// What the registry says about it.
        detail: WireError,
    },
    /// An authentication challenge that cannot or must not be answered.
    #[error("cannot authenticate at `{registry}`: {reason}")]
    Challenge {
        /// The registry.
        registry: String,
        /// Why not.
        reason: String,
    },
    /// A `Location` or redirect that is not followed.
    #[error("the registry sent {url} on to `{location}`: {reason}")]
    Location {
        /// The request's URL without its query.
        url: String,
        /// Where it was sent, without query.
        location: String,
        /// Why that is not followed.
        reason: &'static str,
    },
    /// An answer that the distribution spec does not allow.
    #[error("the answer to {method} {url} makes no sense: {reason}")]
    Protocol {
        /// The method.
        method: Method,
        /// The URL without its query.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The image's own bytes are not what they should be.
    #[error("blob {digest} of the image cannot be read or is corrupt")]
    Content {
        /// The blob.
        digest: Digest,
        /// What the reader found.
        #[source]
        source: io::Error,
    },
    /// What was written is not what is read.
    #[error(
        "`{reference}` reads back as {}, not as {expected}",
        .got.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string)
    )]
    ReadBack {
        /// The tag or manifest.
        reference: String,
        /// What was written.
        expected: Digest,
        /// What was read.
        got: Option<Digest>,
    },
    /// A layout or archive that cannot be written.
    #[error("cannot write `{path}`")]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A directory or index that is not what an OCI layout has there.
    #[error("`{path}` {reason}")]
    NotALayout {
        /// The file or directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::CaFile { .. } => ErrorKind::Usage,
            Self::Content { .. } => ErrorKind::Image,
            _ => ErrorKind::Registry,
        }
    }

    /// What can be done about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Request { source, .. } => match tls_problem(source)? {
                rustls::Error::InvalidCertificate(_) => Some(
                    "if an authority of your own signed the registry's certificate, name it with `--ca-file`",
                ),
                _ => Some("if the registry serves plain HTTP, say so with `--plain-http`"),
            },
            Self::Unauthorized { .. } => {
                Some("log in with `docker login` or `podman login`, or set `DOCKER_AUTH_CONFIG`")
            }
            _ => None,
        }
    }

    /// Whether the same again may succeed.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Stalled { .. } => true,
            Self::Request { source, .. } => {
                !(source.is_builder() || source.is_redirect() || tls_problem(source).is_some())
            }
            Self::Refused { status, .. } => matches!(
                status.as_u16(),
                // 499 and 522 are what nginx and Cloudflare in front of a registry answer.
                408 | 429 | 499 | 500 | 502 | 503 | 504 | 522
            ),
            _ => false,
        }
    }

    /// How long the registry asks to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// What TLS found wrong for good: a certificate does not become valid, nor HTTP TLS, by asking again.
fn tls_problem(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let tls = error.downcast_ref::<rustls::Error>();
        if let Some(rustls::Error::InvalidCertificate(_) | rustls::Error::InvalidMessage(_)) = tls {
            return tls;
        }
        // The source of an I/O error is that of what it wraps, which would be passed over.
        let wrapped = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::RegistryOptions;
    use crate::transport::{Clients, send};

    #[tokio::test]
    async fn plain_http_behind_an_https_url_is_said_and_not_retried() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/?secret=1", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_u8().await.unwrap();
            stream
                .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                .await
                .unwrap();
        });
        let clients = Clients::new(&RegistryOptions::default()).unwrap();
        let error = send(clients.direct.get(url), Duration::from_secs(20))
            .await
            .unwrap_err();
        assert!(!error.is_transient(), "{error:?}");
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("--plain-http"))
        );
        assert!(
            !format!("{error} {error:?}").contains("secret"),
            "{error:?}"
        );
    }
}
