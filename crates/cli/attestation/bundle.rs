//! Statements in envelopes (DSSE 1.0.2, secure-systems-lab/dsse), and these in Sigstore bundles (v0.3,
//! sigstore/protobuf-specs): the form in which cosign stores and looks for attestations.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{SigningKey, Statement, VerifyingKey};

pub(super) const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Bundle {
    media_type: String,
    /// What a signature can be verified with. A key is not in it, only what tells which.
    verification_material: Value,
    dsse_envelope: Envelope,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    #[serde(default)]
    signatures: Vec<Signature>,
}

#[derive(Serialize, Deserialize)]
struct Signature {
    sig: String,
}

/// A bundle that was read, and of which nothing is believed yet.
pub(super) struct Opened {
    payload: Vec<u8>,
    signatures: Vec<Vec<u8>>,
}

/// Puts a statement into a bundle. Without a key the envelope has no signature, and the bundle nothing to verify one
/// with.
pub(super) fn seal(statement: &Statement, key: Option<&SigningKey>) -> Vec<u8> {
    let payload = serde_json::to_vec(statement).expect("a statement is JSON");
    let signatures = key.map(|key| Signature {
        sig: STANDARD.encode(key.sign(&pre_authentication(&payload))),
    });
    // That nothing is in a transparency log is said, as some readers insist.
    let mut verification_material = json!({ "tlogEntries": [] });
    if let Some(key) = key {
        verification_material["publicKey"] = json!({ "hint": key.hint() });
    }
    let bundle = Bundle {
        media_type: MEDIA_TYPE.to_owned(),
        verification_material,
        dsse_envelope: Envelope {
            payload: STANDARD.encode(&payload),
            payload_type: PAYLOAD_TYPE.to_owned(),
            signatures: signatures.into_iter().collect(),
        },
    };
    serde_json::to_vec(&bundle).expect("a bundle is JSON")
}

/// Reads a bundle that holds an in-toto statement; if it cannot, why.
pub(super) fn open(bytes: &[u8]) -> Result<Opened, String> {
    let bundle: Bundle = serde_json::from_slice(bytes)
        .map_err(|error| format!("is not a Sigstore bundle with an envelope: {error}"))?;
    if bundle.media_type != MEDIA_TYPE {
        return Err(format!(
            "is a `{}`, not a `{MEDIA_TYPE}`",
            bundle.media_type
        ));
    }
    let envelope = bundle.dsse_envelope;
    if envelope.payload_type != PAYLOAD_TYPE {
        return Err(format!(
            "holds a `{}`, not a `{PAYLOAD_TYPE}`",
            envelope.payload_type
        ));
    }
    let decode = |text: &str| {
        let decoded = STANDARD.decode(text);
        decoded.map_err(|error| format!("is not base64 where it should be: {error}"))
    };
    let signatures = envelope.signatures.iter().map(|one| decode(&one.sig));
    Ok(Opened {
        payload: decode(&envelope.payload)?,
        signatures: signatures.collect::<Result<_, _>>()?,
    })
}

impl Opened {
    /// The payload, which may be anybody's.
    pub(super) fn unverified(&self) -> &[u8] {
        &self.payload
    }

    pub(super) fn is_signed(&self) -> bool {
        !self.signatures.is_empty()
    }

    /// The payload, if a signature of it is `key`'s.
    pub(super) fn verified(&self, key: &VerifyingKey) -> Option<&[u8]> {
        let signed = pre_authentication(&self.payload);
        let is_its = |signature: &Vec<u8>| key.verifies(&signed, signature);
        self.signatures
            .iter()
            .any(is_its)
            .then_some(&self.payload[..])
    }
}

/// What is signed: the payload with its type, so that it cannot be passed off as another (DSSE, protocol.md, PAE).
fn pre_authentication(payload: &[u8]) -> Vec<u8> {
    let head = format!(
        "DSSEv1 {} {PAYLOAD_TYPE} {} ",
        PAYLOAD_TYPE.len(),
        payload.len()
    );
    [head.as_bytes(), payload].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_is_the_payload_with_its_type() {
        let expected = b"DSSEv1 28 application/vnd.in-toto+json 2 {}";
        assert_eq!(pre_authentication(b"{}"), expected);
    }

    #[test]
    fn what_is_no_bundle_is_said() {
        let good = json!({
            "mediaType": MEDIA_TYPE,
            "verificationMaterial": {},
            "dsseEnvelope": { "payload": "e30=", "payloadType": PAYLOAD_TYPE, "signatures": [] },
        });
        assert!(open(good.to_string().as_bytes()).is_ok());
        for (pointer, wrong, said) in [
            ("/mediaType", json!("x"), "is a `x`"),
            ("/dsseEnvelope/payloadType", json!("y"), "holds a `y`"),
            ("/dsseEnvelope/payload", json!("?"), "not base64"),
            ("/dsseEnvelope", json!(null), "not a Sigstore bundle"),
        ] {
            let mut bundle = good.clone();
            *bundle.pointer_mut(pointer).unwrap() = wrong;
            let problem = open(bundle.to_string().as_bytes()).err().unwrap();
            assert!(problem.contains(said), "{problem}");
        }
    }
}
