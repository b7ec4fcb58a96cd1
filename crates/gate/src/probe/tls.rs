//! TLS to a container, and in words why a certificate was refused.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, InvalidMessage, RootCertStore,
    SignatureScheme,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use x509_cert::Certificate;
use x509_cert::der::Decode;

use super::Outcome;

/// Makes a TLS connection of a TCP one; `name` is what the certificate must be for, unless it is not looked at.
pub(super) async fn connect(
    stream: TcpStream,
    name: &str,
    insecure: bool,
) -> Result<TlsStream<TcpStream>, Outcome> {
    handshake(stream, name, (!insecure).then(strict)).await
}

/// Without `strict` any certificate is taken.
async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    name: &str,
    strict: Option<Arc<WebPkiServerVerifier>>,
) -> Result<TlsStream<S>, Outcome> {
    let verifier = Arc::new(Verifier {
        strict,
        seen: Mutex::new(None),
    });
    let host = ServerName::try_from(name.to_owned()).map_err(|_| Outcome::NotRun {
        error: format!("`{name}` cannot be the name of a TLS server"),
    })?;
    let connector = TlsConnector::from(Arc::new(config(Arc::clone(&verifier) as _)));
    connector.connect(host, stream).await.map_err(|error| {
        let Some(tls) = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<Error>())
        else {
            let error = format!(
                "the connection was closed in the middle of the handshake ({error}); does it speak TLS on that port?"
            );
            return Outcome::Tls { error };
        };
        let seen = verifier.seen.lock();
        let seen = seen.unwrap_or_else(PoisonError::into_inner).take();
        Outcome::Tls {
            error: in_words(tls, seen.as_ref(), name),
        }
    })
}

fn config(verifier: Arc<dyn ServerCertVerifier>) -> ClientConfig {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring supports the default versions of TLS")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    static PROVIDER: OnceLock<Arc<rustls::crypto::CryptoProvider>> = OnceLock::new();
    Arc::clone(PROVIDER.get_or_init(|| Arc::new(rustls::crypto::ring::default_provider())))
}

/// Trusts the host's authorities, or Mozilla's where it has none. Read once: a probe asks many times.
fn strict() -> Arc<WebPkiServerVerifier> {
    static STRICT: OnceLock<Arc<WebPkiServerVerifier>> = OnceLock::new();
    Arc::clone(STRICT.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        trusting(roots)
    }))
}

fn trusting(roots: RootCertStore) -> Arc<WebPkiServerVerifier> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .expect("there are roots, and no revocation lists that could be wrong")
}

/// Verifies, or not, and remembers the certificate for the message.
#[derive(Debug)]
struct Verifier {
    /// `None` takes any certificate.
    strict: Option<Arc<WebPkiServerVerifier>>,
    seen: Mutex<Option<CertificateDer<'static>>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        *seen = Some(certificate.clone().into_owned());
        match &self.strict {
            Some(strict) => strict.verify_server_cert(certificate, intermediates, name, ocsp, now),
            None => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// Why it failed: whose certificate it is and who issued it say more than `UnknownIssuer`.
fn in_words(error: &Error, seen: Option<&CertificateDer<'_>>, name: &str) -> String {
    let parsed = seen.and_then(|der| Certificate::from_der(der).ok());
    let shown = |part: &x509_cert::name::Name| match part.to_string() {
        empty if empty.is_empty() => "(no name)".to_owned(),
        text => text,
    };
    let (subject, issuer) = match &parsed {
        Some(certificate) => {
            let certificate = certificate.tbs_certificate();
            (shown(certificate.subject()), shown(certificate.issuer()))
        }
        None => ("(unreadable)".into(), "(unreadable)".into()),
    };
    match error {
        Error::InvalidCertificate(CertificateError::UnknownIssuer) if subject == issuer => {
            format!("the certificate of `{subject}` is signed by itself, and nobody here trusts it")
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
            format!(
                "the certificate of `{subject}` was issued by `{issuer}`, which is not trusted here"
            )
        }
        Error::InvalidCertificate(CertificateError::NotValidForNameContext {
            presented, ..
        }) if !presented.is_empty() => format!(
            "the certificate is for {}, not for `{name}` (issued by `{issuer}`)",
            names(presented)
        ),
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!(
            "the certificate of `{subject}` names no host, and it must be for `{name}` (issued by `{issuer}`)"
        ),
        Error::InvalidCertificate(why) => {
            format!("the certificate of `{subject}`, issued by `{issuer}`, was refused: {why}")
        }
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "it does not speak TLS on that port".to_owned()
        }
        other => other.to_string(),
    }
}

/// Names of a certificate, which rustls gives as `DnsName("host")`.
fn names(presented: &[String]) -> String {
    let inner = |name: &String| match name.split_once('(') {
        Some((_, rest)) => rest.trim_end_matches(')').trim_matches('"').to_owned(),
        None => name.clone(),
    };
    let quoted = presented.iter().map(|name| format!("`{}`", inner(name)));
    quoted.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
    use rustls::ServerConfig;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// An authority, and a certificate of its that is for `name`.
    fn certificate(
        authority: &str,
        name: &str,
        year: i32,
    ) -> (CertificateDer<'static>, ServerConfig) {
        let named = |common: &str, names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = CertificateParams::new(names).unwrap();
            params.distinguished_name.push(DnType::CommonName, common);
            params
        };
        let mut authority = named(authority, &[]);
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().unwrap();
        let root = authority.self_signed(&authority_key).unwrap();
        let issuer = Issuer::new(authority, authority_key);
        let mut leaf = named("the shop", &[name]);
        leaf.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let signed = leaf.signed_by(&key, &issuer).unwrap();
        let config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(
                vec![signed.der().clone()],
                rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap(),
            )
            .unwrap();
        (root.der().clone(), config)
    }

    async fn greeted(
        name: &str,
        strict: Option<Arc<WebPkiServerVerifier>>,
        config: ServerConfig,
    ) -> Result<String, Outcome> {
        let (near, far) = tokio::io::duplex(16 * 1024);
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let serving = tokio::spawn(async move {
            let mut stream = acceptor.accept(far).await?;
            stream.write_all(b"hello").await?;
            stream.shutdown().await
        });
        let mut stream = handshake(near, name, strict).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        serving.await.unwrap().unwrap();
        Ok(text)
    }

    fn only(root: CertificateDer<'static>) -> Arc<WebPkiServerVerifier> {
        let mut roots = RootCertStore::empty();
        roots.add(root).unwrap();
        trusting(roots)
    }

    #[tokio::test]
    async fn a_certificate_is_taken_from_a_trusted_authority_or_when_insecure() {
        let (root, config) = certificate("Shop CA", "app", 2100);
        let hello = greeted("app", Some(only(root)), config.clone()).await;
        assert_eq!(hello.unwrap(), "hello");
        assert_eq!(greeted("other", None, config).await.unwrap(), "hello");
    }

    #[tokio::test]
    async fn a_refusal_names_the_certificate_and_its_issuer() {
        let (_, stranger) = certificate("Other CA", "app", 2100);
        let (root, other) = certificate("Shop CA", "other.example", 2100);
        let (old_root, old) = certificate("Shop CA", "app", 2001);
        let words = async |strict, config| match greeted("app", Some(strict), config).await {
            Err(Outcome::Tls { error }) => error,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            words(only(root.clone()), stranger).await,
            "the certificate of `CN=the shop` was issued by `CN=Other CA`, which is not trusted here"
        );
        assert_eq!(
            words(only(root), other).await,
            "the certificate is for `other.example`, not for `app` (issued by `CN=Shop CA`)"
        );
        let expired = words(only(old_root), old).await;
        assert!(
            expired.starts_with(
                "the certificate of `CN=the shop`, issued by `CN=Shop CA`, was refused: "
            ) && expired.contains("expired"),
            "{expired}"
        );
    }

    #[tokio::test]
    async fn what_is_not_tls_is_called_that() {
        let (near, mut far) = tokio::io::duplex(1024);
        far.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        let (root, _) = certificate("Shop CA", "app", 2100);
        let refused = handshake(near, "app", Some(only(root))).await.err();
        let error = "it does not speak TLS on that port".to_owned();
        assert_eq!(refused, Some(Outcome::Tls { error }));
    }
}
