//! TLS settings: which certificates are trusted.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::{ClientCertificate, Error, RegistryOptions};

/// The host's roots (Mozilla's where it has none, as in an image made from scratch) and those of `ca_file`.
pub(crate) fn client_config(options: &RegistryOptions) -> Result<ClientConfig, Error> {
    let mut roots = RootCertStore::empty();
    let host = rustls_native_certs::load_native_certs();
    for error in &host.errors {
        tracing::debug!(%error, "cannot load the host's certificates");
    }
    roots.add_parsable_certificates(host.certs);
    if roots.is_empty() {
        tracing::debug!("the host has no root certificates; using the built-in ones");
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    if let Some(path) = options.ca_file.as_deref() {
        add_file(&mut roots, path).map_err(|source| Error::CaFile {
            path: path.to_owned(),
            source,
        })?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring supports the default versions of TLS")
        .with_root_certificates(roots);
    let mut config = match &options.client_certificate {
        None => builder.with_no_client_auth(),
        Some(files) => {
            let (chain, key) = identity(files)?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| Error::ClientCertificate {
                    path: files.certificate.clone(),
                    source: io::Error::new(io::ErrorKind::InvalidData, error),
                })?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// The chain and the key that say who we are.
fn identity(
    files: &ClientCertificate,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), Error> {
    let invalid = |error: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("not PEM: {error}"))
    };
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source: io::Error| Error::ClientCertificate { path, source }
    };
    let pem = std::fs::read(&files.certificate).map_err(failed(&files.certificate))?;
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    let chain = chain
        .map_err(|error| invalid(&error))
        .map_err(failed(&files.certificate))?;
    let pem = std::fs::read(&files.key).map_err(failed(&files.key))?;
    let key = PrivateKeyDer::from_pem_slice(&pem)
        .map_err(|error| invalid(&error))
        .map_err(failed(&files.key))?;
    Ok((chain, key))
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> io::Result<()> {
    let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
    let pem = std::fs::read(path)?;
    let mut added = 0;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|error| invalid(format!("not PEM: {error}")))?;
        roots
            .add(certificate)
            .map_err(|error| invalid(error.to_string()))?;
        added += 1;
    }
    if added == 0 {
        return Err(invalid("no `BEGIN CERTIFICATE` in it".to_owned()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_certificates_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "not a certificate").unwrap();
        assert!(matches!(
            client_config(&RegistryOptions {
                ca_file: Some(file.path().to_owned()),
                ..RegistryOptions::default()
            }),
            Err(Error::CaFile { .. })
        ));
        assert!(client_config(&RegistryOptions::default()).is_ok());
    }
}
