//! Why something could not be published or pulled. No message holds a credential or the query of a URL.

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
    /// This machine: no space for what is pulled.
    Host,
}

/// Why something could not be published or pulled.
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
    /// A client certificate that cannot be used.
    #[error("cannot use the client certificate or key in `{path}`")]
    ClientCertificate {
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
    #[error("no answer to {method} {url}{}", .proxy.as_ref().map_or_else(String::new, |proxy| format!(" through the proxy {proxy}")))]
    Request {
        /// The method.
        method: Method,
        /// The URL without its query.
        url: String,
        /// The proxy that was asked, without credentials.
        proxy: Option<String>,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// A connection that the registry ended because of who we are, or are not.
    #[error("no answer to {method} {url}: the server wants a client certificate that it trusts")]
    ClientUnknown {
        /// The method.
        method: Method,
        /// The URL without its query.
        url: String,
        /// What it said in TLS.
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
    /// A proxy that does not let us through (407).
    #[error("the proxy {proxy} wants a name and a password for {method} {url}, or others")]
    ProxyRefused {
        /// The method.
        method: Method,
        /// The URL without its query.
        url: String,
        /// The proxy, without credentials.
        proxy: String,
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
    /// A call of an AWS API that failed.
    #[error(
        "{service} refused `{operation}`: {}{message}",
        if code.is_empty() { format!("HTTP {status} ") } else { format!("{code} ") }
    )]
    AwsApi {
        /// Which, and in which region.
        service: String,
        /// The call.
        operation: &'static str,
        /// The HTTP status; 0 when nothing was sent.
        status: u16,
        /// AWS's name of the error.
        code: String,
        /// What AWS says about it.
        message: String,
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
    /// A tag that exists, points elsewhere, and cannot be moved.
    #[error(
        "tag `{reference}` is immutable and points to {existing}, so that it cannot point to {wanted}{detail}"
    )]
    ImmutableTag {
        /// The tag with its repository.
        reference: String,
        /// Where it points.
        existing: Digest,
        /// Where it was to point.
        wanted: Digest,
        /// What the registry says about it.
        detail: Box<WireError>,
    },
    /// A manifest that the registry does not take. ECR answers 405, as if PUT were not allowed.
    #[error("the registry does not take the manifest {digest}{detail}")]
    InvalidManifest {
        /// The manifest.
        digest: Digest,
        /// What the registry says about it.
        detail: WireError,
    },
    /// Something in the image that the registry is known not to take.
    #[error("`{registry}` takes no {what}, and {digest} is one")]
    Unsupported {
        /// The registry.
        registry: String,
        /// What it does not take.
        what: &'static str,
        /// The blob or manifest.
        digest: Digest,
    },
    /// ECR ended a connection instead of answering, where the repository exists.
    #[error("`{repository}`: ECR ends the connection instead of opening an upload")]
    EcrEof {
        /// The registry and the repository.
        repository: String,
        /// What was seen.
        #[source]
        source: Box<Error>,
    },
    /// The registry has not what was asked of it.
    #[error("the registry `{registry}` has no {what} in `{repository}`")]
    NotFound {
        /// The registry.
        registry: String,
        /// The repository.
        repository: String,
        /// "tag `1`", "manifest sha256:…".
        what: String,
    },
    /// A manifest or index that was pulled is not what its digest names, or says what it must not.
    #[error(transparent)]
    Image(smokegate_image::Error),
    /// What is pulled cannot be kept.
    #[error("cannot write `{path}`")]
    Keep {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
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
    /// A referrer that cannot be published with what it refers to: a receipt, a signature, an SBOM.
    #[error("cannot attach {digest} to {subject}")]
    Attach {
        /// The referrer's manifest.
        digest: Digest,
        /// What it refers to.
        subject: Digest,
        /// Why not.
        #[source]
        source: Box<Error>,
    },
    /// A referrer that was sent, and that the registry does not list with what it refers to.
    #[error("the registry does not list {digest} among what refers to `{reference}`")]
    NotListed {
        /// The manifest that is referred to.
        reference: String,
        /// What refers to it.
        digest: Digest,
    },
    /// The tag that lists what refers to a manifest, where registries have no API for that, is something else.
    #[error("`{reference}` is no list of referrers, so that none can be added to it")]
    NotAList {
        /// The tag with its repository.
        reference: String,
    },
    /// More refers to a manifest than is carried along.
    #[error("more than {limit} manifests refer to `{reference}`")]
    ManyReferrers {
        /// The manifest that is referred to.
        reference: String,
        /// The most that may.
        limit: usize,
    },
    /// A journal that cannot be gone on with.
    #[error("cannot use the journal `{path}`")]
    Journal {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A tag that somebody else has moved since the journal was written.
    #[error(
        "`{reference}` now points to {now}, and neither where it did nor where it was to point"
    )]
    TagElsewhere {
        /// The tag with its repository.
        reference: String,
        /// Where it points.
        now: String,
    },
    /// What a tag is to point to is not there any more.
    #[error("`{destination}` does not have {digest}, so that no tag of it can point there")]
    NotThere {
        /// The repository, layout or archive.
        destination: String,
        /// The image.
        digest: Digest,
    },
    /// A new tag that cannot be taken away again.
    #[error("it did not exist before, and {reason}")]
    TagStays {
        /// Why not.
        reason: String,
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

/// What to look at where nobody answers.
pub(crate) const WAY: &str =
    "look for a way to the registry from here: name service, firewall, `HTTPS_PROXY`";
/// Where a proxy is set, and how.
const PROXY: &str = "a proxy is named by `HTTPS_PROXY`, `HTTP_PROXY` or `ALL_PROXY`, or by `proxy` in registries.toml, with a \
                     name and a password where it wants them: http://NAME:PASSWORD@HOST:PORT; `NO_PROXY` names the hosts that \
                     the variables are not about";

impl Error {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::CaFile { .. } | Self::ClientCertificate { .. } | Self::Journal { .. } => {
                ErrorKind::Usage
            }
            Self::Content { .. } | Self::Image(_) => ErrorKind::Image,
            Self::Keep { .. } => ErrorKind::Host,
            Self::Attach { source, .. } => source.kind(),
            _ => ErrorKind::Registry,
        }
    }

    /// What can be done about it, where that is known.
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Request { source, proxy, .. } => match tls_problem(source) {
                Some(rustls::Error::InvalidCertificate(_)) => Some(
                    "if an authority of your own signed the registry's certificate, name it with `--ca-file`",
                ),
                Some(_) => Some("if the registry serves plain HTTP, say so with `--plain-http`"),
                None if source.is_connect() => Some(match proxy {
                    Some(_) => PROXY,
                    None => WAY,
                }),
                None => None,
            },
            Self::ProxyRefused { .. } => Some(PROXY),
            Self::ClientUnknown { .. } => Some(
                "name the certificate and its key for this registry in registries.toml: `client-certificate` and `client-key`",
            ),
            Self::Credential(CredentialError::NoAws { .. }) => Some(
                "choose a profile with `AWS_PROFILE`, or give a CI job `AWS_ROLE_ARN` and its OIDC token \
                 (GitHub: `permissions: id-token: write`; GitLab: `id_tokens: GITLAB_OIDC_TOKEN`)",
            ),
            Self::ImmutableTag { .. } => {
                Some("publish to a tag that does not exist yet; nothing can move this one")
            }
            Self::Attach { source, .. } => Some(source.hint().unwrap_or(
                "a registry may not take what refers to an image; a receipt goes elsewhere without `--attach-receipt`",
            )),
            Self::NotThere { .. } => Some("push the image again"),
            Self::NotAList { .. } => Some(
                "the OCI distribution spec has a list of referrers under that name; give what is there another tag",
            ),
            Self::TagElsewhere { .. } => Some(
                "somebody else published meanwhile; push again if the tag is to be moved all the same",
            ),
            Self::EcrEof { .. } => Some(
                "that is how ECR refuses who may not upload: allow `ecr:InitiateLayerUpload`, `ecr:UploadLayerPart` \
                 and `ecr:CompleteLayerUpload` on the repository",
            ),
            Self::Refused { detail, .. } if detail.wants_tls() => Some(
                "leave `--plain-http` out; a registry on loopback is spoken to in plain HTTP unless `plain-http = false` \
                 is said of it in registries.toml",
            ),
            Self::Refused { detail, .. } if detail.has_code("NAME_UNKNOWN") => {
                Some("make the repository first; on Amazon ECR, `--create-repository` does it")
            }
            Self::Unauthorized { .. } => {
                Some("log in with `docker login` or `podman login`, or set `DOCKER_AUTH_CONFIG`")
            }
            _ => None,
        }
    }

    /// Whether it is the way to the registry that is at fault, as far as one can see from here.
    pub(crate) fn is_of_the_way(&self) -> bool {
        match self {
            Self::Request { source, .. } => tls_problem(source).is_none(),
            Self::Stalled { .. } | Self::ProxyRefused { .. } => true,
            _ => false,
        }
    }

    /// Whether the same again may succeed.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Stalled { .. } => true,
            Self::EcrEof { source, .. } => source.is_transient(),
            Self::Request { source, .. } => {
                !(source.is_builder() || source.is_redirect() || tls_problem(source).is_some())
            }
            Self::Refused { status, .. } => matches!(
                status.as_u16(),
                // 499 and 522 are what nginx and Cloudflare in front of a registry answer.
                408 | 429 | 499 | 500 | 502 | 503 | 504 | 522
            ),
            Self::AwsApi { status, code, .. } => {
                *status >= 500 || *status == 429 || code.starts_with("Throttl")
            }
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
    tls_error(error).filter(|error| {
        matches!(
            error,
            rustls::Error::InvalidCertificate(_) | rustls::Error::InvalidMessage(_)
        )
    })
}

/// Whether the server said that it does not take our certificate, or misses one. TLS 1.2 has no word for the latter,
/// and some servers use none of TLS 1.3 either.
pub(crate) fn is_client_unknown(error: &reqwest::Error) -> bool {
    use rustls::AlertDescription as Alert;
    let Some(rustls::Error::AlertReceived(alert)) = tls_error(error) else {
        return false;
    };
    matches!(
        alert,
        Alert::BadCertificate
            | Alert::UnsupportedCertificate
            | Alert::CertificateRevoked
            | Alert::CertificateExpired
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::UnknownCA
            | Alert::AccessDenied
    )
}

/// Whether a proxy wants another name and password, or any, before it connects us: what hyper-util says of an HTTP and
/// of a SOCKS proxy, in errors whose types are its own.
pub(crate) fn is_refused_by_proxy(error: &reqwest::Error) -> bool {
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let text = error.to_string();
        if text.ends_with("proxy authorization required")
            || text.ends_with("credentials not accepted")
        {
            return true;
        }
        cause = error.source();
    }
    false
}

fn tls_error(error: &reqwest::Error) -> Option<&rustls::Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
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
    use crate::client::Clients;

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
        let client = &clients.direct;
        let request = client.request(Method::GET, url.parse().unwrap());
        let error = client.send(request, Duration::from_secs(20)).await;
        let error = error.unwrap_err();
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
