//! Keys that sign receipts and verify them: ECDSA on P-256 with SHA-256, what `openssl` and cosign make by default.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::SignatureScheme;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer, alg_id};
use sha2::{Digest, Sha256};

use crate::args::PublishArgs;
use crate::failure::Failure;

/// All that comes before the point in the DER of a P-256 public key (RFC 5480, section 2): the algorithm, the curve,
/// and lengths that are always the same.
const P256: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// A private key.
pub(crate) struct SigningKey(Arc<dyn rustls::sign::SigningKey>);

/// A public key: the DER of its SubjectPublicKeyInfo.
#[derive(Debug)]
pub(crate) struct VerifyingKey(Vec<u8>);

impl SigningKey {
    /// The one that the attached receipt is signed with, if it is.
    pub(crate) fn of(args: &PublishArgs) -> Result<Option<Self>, Failure> {
        args.sign_key.as_deref().map(Self::read).transpose()
    }

    /// Reads a PEM file with a PKCS#8 (`PRIVATE KEY`) or SEC 1 (`EC PRIVATE KEY`) key.
    fn read(path: &Path) -> Result<Self, Failure> {
        let (pem, refused) = read(path)?;
        if holds(&pem, "ENCRYPTED") {
            return Err(
                refused("is encrypted, and smokegate asks for no password").hint(
                    "make one without: openssl ecparam -name prime256v1 -genkey -noout -out FILE",
                ),
            );
        }
        let hint = "openssl ecparam -name prime256v1 -genkey -noout -out FILE makes one";
        let der = PrivateKeyDer::from_pem_slice(&pem)
            .map_err(|_| refused("is not a private key in PEM").hint(hint))?;
        let key = ring::sign::any_ecdsa_type(&der).ok();
        key.filter(|key| key.choose_scheme(&[SCHEME]).is_some())
            .map(Self)
            .ok_or_else(|| refused("is not one for ECDSA on P-256").hint(hint))
    }

    /// The signature of a message, in the DER of an ECDSA-Sig-Value.
    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let signer = self.0.choose_scheme(&[SCHEME]);
        let signer = signer.expect("looked at when the key was read");
        signer.sign(message).expect("the host has random numbers")
    }

    /// What tells verifiers which key this is: cosign's way, a digest of the public key.
    pub(super) fn hint(&self) -> String {
        let public = self.0.public_key().expect("a key pair has both");
        STANDARD.encode(Sha256::digest(public))
    }
}

const SCHEME: SignatureScheme = SignatureScheme::ECDSA_NISTP256_SHA256;

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SigningKey(..)")
    }
}

impl VerifyingKey {
    /// Reads a PEM file with a public key (`PUBLIC KEY`).
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let (pem, refused) = read(path)?;
        if holds(&pem, "PRIVATE KEY") {
            return Err(refused("is a private one, which is for signing")
                .hint("openssl ec -in FILE -pubout -out FILE.pub makes its public half"));
        }
        let der = SubjectPublicKeyInfoDer::from_pem_slice(&pem)
            .map_err(|_| refused("is not a public key in PEM"))?;
        let der = der.as_ref().to_vec();
        if der.len() != P256.len() + 65 || !der.starts_with(&P256) {
            return Err(refused("is not one for ECDSA on P-256"));
        }
        Ok(Self(der))
    }

    /// Whether a signature of a message is this key's.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        let provider = ring::default_provider();
        let algorithms = provider.signature_verification_algorithms.all.iter();
        let mut fitting = algorithms.filter(|one| {
            one.public_key_alg_id() == alg_id::ECDSA_P256
                && one.signature_alg_id() == alg_id::ECDSA_SHA256
        });
        let point = &self.0[P256.len()..];
        fitting.any(|one| one.verify_signature(point, message, signature).is_ok())
    }

    /// As [`SigningKey::hint`] has it.
    pub(crate) fn fingerprint(&self) -> String {
        STANDARD.encode(Sha256::digest(&self.0))
    }
}

/// Whether a PEM file has a section whose name ends so, or begins so.
fn holds(pem: &[u8], label: &str) -> bool {
    String::from_utf8_lossy(pem)
        .lines()
        .any(|line| line.starts_with("-----BEGIN ") && line.contains(label))
}

/// A key's file, and how it is refused.
fn read(path: &Path) -> Result<(Vec<u8>, impl Fn(&str) -> Failure), Failure> {
    let shown = path.display();
    let pem = std::fs::read(path)
        .map_err(|error| Failure::usage(format!("cannot read the key `{shown}`: {error}")))?;
    let refused = move |why: &str| Failure::usage(format!("the key `{shown}` {why}"));
    Ok((pem, refused))
}
