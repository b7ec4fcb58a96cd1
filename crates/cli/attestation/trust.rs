//! Which receipts are believed, and whether one of them clears an image.

use std::io::Read;
use std::path::Path;

use serde_json::Value;
use smokegate_image::{Blob, Digest, Document, Image};
use smokegate_registry::BlobSource;

use super::statement::PREDICATE_TYPE;
use super::{Statement, VerifyingKey, bundle};
use crate::args::{RequireArgs, TrustArgs};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::receipt::Receipt;

/// The most of a receipt that is read.
const LIMIT: u64 = 4 << 20;

/// Whose receipts count.
#[derive(Debug)]
pub(crate) enum Trust {
    /// Those this key has signed.
    Key(VerifyingKey),
    /// Anybody's.
    Anyone,
}

/// A receipt that clears an image.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// What it is for.
    pub(crate) digest: Digest,
    /// Whose it is, in words.
    pub(crate) signer: String,
    pub(crate) statement: Statement,
}

impl Trust {
    /// Whose receipt must be attached to what is published, if one must be.
    pub(crate) fn required(args: &RequireArgs) -> Result<Option<Self>, Failure> {
        let says_whose = args.trust.verify_key.is_some() || args.trust.allow_unsigned;
        match (args.require_receipt, says_whose) {
            (true, _) => Self::of(&args.trust).map(Some),
            (false, false) => Ok(None),
            (false, true) => Err(Failure::usage(
                "--verify-key and --allow-unsigned say which receipt is enough, and none is required",
            )
            .hint("add --require-receipt")),
        }
    }

    /// What the flags say. One of them must be there: that nothing is verified has to be said.
    pub(crate) fn of(args: &TrustArgs) -> Result<Self, Failure> {
        match (&args.verify_key, args.allow_unsigned) {
            (Some(path), _) => VerifyingKey::read(path).map(Self::Key),
            (None, true) => Ok(Self::Anyone),
            (None, false) => Err(Failure::usage("no key to verify receipts with").hint(
                "name one with --verify-key FILE, or accept what anybody may have written with --allow-unsigned",
            )),
        }
    }

    /// The statement in a bundle, if it is believed and a complete pass for `digest`, or for whatever it is for.
    /// `None` for an attestation of another kind.
    fn accept(&self, bytes: &[u8], digest: Option<&Digest>) -> Result<Option<Accepted>, String> {
        let opened = bundle::open(bytes)?;
        let (payload, signer) = match self {
            Self::Key(key) => match opened.verified(key) {
                Some(payload) => (payload, format!("signed by the key {}", key.fingerprint())),
                // What is no receipt is nobody's concern here, whoever signed it.
                None if matches!(Statement::parse(opened.unverified()), Ok(None)) => {
                    return Ok(None);
                }
                None if opened.is_signed() => return Err("is not signed by this key".to_owned()),
                None => return Err("is not signed".to_owned()),
            },
            Self::Anyone => (opened.unverified(), "not verified".to_owned()),
        };
        let Some(statement) = Statement::parse(payload)? else {
            return Ok(None);
        };
        let own = statement.digest();
        let wanted = digest
            .or(own.as_ref())
            .ok_or("is not about one image")?
            .clone();
        statement.clears(&wanted)?;
        Ok(Some(Accepted {
            digest: wanted,
            signer,
            statement,
        }))
    }
}

/// Finds among what refers to an image a receipt that clears it. `named` is what the user calls the image.
pub(crate) async fn clear_attached(
    image: &Image,
    named: &str,
    source: Option<&BlobSource>,
    trust: &Trust,
) -> Result<Accepted, Failure> {
    let mut refused = Vec::new();
    for referrer in image.referrers() {
        let Some(blob) = receipt_of(image, referrer) else {
            continue;
        };
        let accepted = match read(&blob, source).await? {
            Ok(bytes) => trust.accept(&bytes, Some(image.digest())),
            Err(problem) => Err(problem),
        };
        match accepted {
            Ok(Some(accepted)) => return Ok(accepted),
            Ok(None) => {}
            Err(problem) => refused.push(format!("the receipt {} {problem}", referrer.digest)),
        }
    }
    let digest = image.digest();
    let failure = if refused.is_empty() {
        Failure::new(
            ExitStatus::GateFailed,
            format!("no receipt is attached to `{named}` ({digest})"),
        )
        .hint("attach one when the image is published: smokegate ship IMAGE --attach-receipt --tag REF")
    } else {
        Failure::new(
            ExitStatus::GateFailed,
            format!("no receipt attached to `{named}` clears it ({digest})"),
        )
    };
    Err(refused.into_iter().fold(failure, Failure::evidence))
}

/// The bundle of a referrer that may hold a receipt for the image itself.
fn receipt_of(image: &Image, referrer: &Document) -> Option<Blob> {
    let manifest: Value = serde_json::from_slice(&referrer.bytes).ok()?;
    let about = manifest["subject"]["digest"].as_str();
    let predicate = &manifest["annotations"]["dev.sigstore.bundle.predicateType"];
    // The annotation is for whoever looks for one kind among many; it need not be there.
    let is_other = predicate
        .as_str()
        .is_some_and(|kind| kind != PREDICATE_TYPE);
    if manifest["artifactType"] != bundle::MEDIA_TYPE
        || about != Some(&image.digest().to_string())
        || is_other
    {
        return None;
    }
    let digest = manifest["layers"][0]["digest"].as_str()?;
    let mut blobs = image.blobs().iter();
    blobs
        .find(|blob| blob.digest().to_string() == digest)
        .cloned()
}

/// The bytes of a bundle, which are those its digest names; or why they are not read.
async fn read(
    blob: &Blob,
    source: Option<&BlobSource>,
) -> Result<Result<Vec<u8>, String>, Failure> {
    if blob.size() > LIMIT {
        return Ok(Err(format!("is larger than {} MiB", LIMIT >> 20)));
    }
    let blob = match source {
        Some(source) => source.pull(blob).await?,
        None => blob.clone(),
    };
    let mut bytes = Vec::new();
    let read = blob.open().read_to_end(&mut bytes);
    Ok(read
        .map(|_| bytes)
        .map_err(|error| format!("cannot be read: {error}")))
}

/// Reads a receipt from a file: `receipt.json` of a run, or a bundle. It must be a complete pass, for `digest` where
/// one is wanted.
pub(crate) fn read_file(
    path: &Path,
    digest: Option<&Digest>,
    trust: &Trust,
) -> Result<Accepted, Failure> {
    let shown = path.display();
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(LIMIT + 1).read_to_end(&mut bytes))
        .map_err(|error| Failure::usage(format!("cannot read the receipt `{shown}`: {error}")))?;
    let not_one = |problem| Failure::usage(format!("`{shown}` is not a receipt: {problem}"));
    if bytes.len() as u64 > LIMIT {
        return Err(not_one(format!("it is larger than {} MiB", LIMIT >> 20)));
    }
    let document: Value = serde_json::from_slice(&bytes)
        .map_err(|error| not_one(format!("it is not JSON: {error}")))?;
    let refused = |problem: String| {
        Failure::new(
            ExitStatus::GateFailed,
            format!("the receipt `{shown}` {problem}"),
        )
    };
    if document.get("dsseEnvelope").is_some() {
        let accepted = trust.accept(&bytes, digest).map_err(refused)?;
        return accepted.ok_or_else(|| refused("is an attestation of another kind".to_owned()));
    }
    if let Trust::Key(_) = trust {
        return Err(refused("is not signed".to_owned()).hint(
            "what `smokegate ship --attach-receipt --sign-key FILE` attaches is; the receipt of a report directory never",
        ));
    }
    let receipt = Receipt::read(path)?;
    let wanted = digest.unwrap_or(&receipt.image.digest).clone();
    receipt.clears(&wanted, false).map_err(refused)?;
    Ok(Accepted {
        digest: wanted,
        signer: "not signed".to_owned(),
        statement: Statement::of(&receipt),
    })
}
