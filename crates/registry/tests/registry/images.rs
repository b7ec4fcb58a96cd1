//! Images made in memory, and a publisher that does not wait.

use std::sync::Arc;
use std::time::Duration;

use smokegate_image::{
    Blob, Content, Digest, Document, DocumentKind, Image, ImageConfig, ImageParts, PlatformImage,
};
use smokegate_registry::{
    CredentialEnvironment, Publisher, PushError, PushOptions, PushReport, RegistryOptions, Target,
    Unobserved,
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const STATEMENT: &str = "application/vnd.in-toto+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub(crate) fn blob(media_type: &str, bytes: Vec<u8>) -> Blob {
    let digest = Digest::sha256(&bytes);
    let size = bytes.len() as u64;
    Blob::new(
        digest,
        size,
        media_type.to_owned(),
        Content::Bytes(bytes.into()),
    )
}

pub(crate) fn layer(seed: u8, size: usize) -> Blob {
    let bytes = (0..size)
        .map(|n| seed.wrapping_add((n * n / 7 + n) as u8))
        .collect();
    blob(LAYER, bytes)
}

/// The same digest and size, other bytes.
pub(crate) fn corrupt(blob: &Blob) -> Blob {
    let bytes = vec![0; usize::try_from(blob.size()).unwrap()];
    let media_type = blob.media_type().to_owned();
    Blob::new(
        blob.digest().clone(),
        blob.size(),
        media_type,
        Content::Bytes(bytes.into()),
    )
}

fn descriptor(media_type: &str, digest: &Digest, size: u64) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
}

fn document(media_type: &str, text: String, kind: DocumentKind, children: Vec<Digest>) -> Document {
    Document {
        digest: Digest::sha256(text.as_bytes()),
        media_type: media_type.to_owned(),
        bytes: text.into_bytes().into(),
        kind,
        platform: None,
        children,
    }
}

/// An index of one image for each list of layers.
pub(crate) fn index(images: Vec<Vec<Blob>>) -> Image {
    index_with(images, false)
}

/// The same, with an attestation of each image if these are `attested`, as BuildKit adds them to the index.
pub(crate) fn index_with(images: Vec<Vec<Blob>>, attested: bool) -> Image {
    let mut blobs: Vec<Blob> = Vec::new();
    let mut documents = Vec::new();
    for (number, layers) in images.into_iter().enumerate() {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","author":"{number}","rootfs":{{"type":"layers","diff_ids":[]}}}}"#
        );
        let config = blob(CONFIG, text.into_bytes());
        let described: Vec<String> = layers
            .iter()
            .map(|layer| descriptor(LAYER, layer.digest(), layer.size()))
            .collect();
        let text = format!(
            r#"{{ "schemaVersion": 2, "mediaType": "{MANIFEST}", "config": {}, "layers": [{}] }}"#,
            descriptor(CONFIG, config.digest(), config.size()),
            described.join(", ")
        );
        let mine: Vec<Blob> = std::iter::once(config).chain(layers).collect();
        let children = mine.iter().map(|blob| blob.digest().clone()).collect();
        documents.push(document(MANIFEST, text, DocumentKind::Image, children));
        for blob in mine {
            if blobs.iter().all(|known| known.digest() != blob.digest()) {
                blobs.push(blob);
            }
        }
    }
    let platform = PlatformImage {
        manifest: documents[0].digest.clone(),
        platform: "linux/amd64".to_owned(),
        config_digest: blobs[0].digest().clone(),
        config: ImageConfig::default(),
        layers: Vec::new(),
    };
    if attested {
        let subjects: Vec<Digest> = documents.iter().map(|one| one.digest.clone()).collect();
        for subject in subjects {
            let config = blob(
                CONFIG,
                br#"{"architecture":"unknown","os":"unknown"}"#.to_vec(),
            );
            let statement = blob(STATEMENT, format!("of {subject}").into_bytes());
            let text = format!(
                r#"{{ "schemaVersion": 2, "mediaType": "{MANIFEST}", "config": {}, "layers": [{}] }}"#,
                descriptor(CONFIG, config.digest(), config.size()),
                descriptor(STATEMENT, statement.digest(), statement.size()),
            );
            let mine = [config, statement];
            let children = mine.iter().map(|blob| blob.digest().clone()).collect();
            documents.push(document(MANIFEST, text, DocumentKind::Attached, children));
            for blob in mine {
                if blobs.iter().all(|known| known.digest() != blob.digest()) {
                    blobs.push(blob);
                }
            }
        }
    }
    let children: Vec<Digest> = documents.iter().map(|child| child.digest.clone()).collect();
    let described: Vec<String> = documents
        .iter()
        .map(|child| descriptor(MANIFEST, &child.digest, child.bytes.len() as u64))
        .collect();
    let text = format!(
        r#"{{ "schemaVersion": 2, "mediaType": "{INDEX}", "manifests": [{}] }}"#,
        described.join(", ")
    );
    documents.push(document(INDEX, text, DocumentKind::Index, children));
    Image::new(ImageParts {
        documents,
        referrers: Vec::new(),
        blobs,
        platforms: vec![platform],
        selected: 0,
        names: Vec::new(),
        synthesized: false,
        notes: Vec::new(),
    })
}

/// The image with one more manifest that refers to `subject`, and says `word`.
pub(crate) fn referred(image: &Image, subject: &Digest, word: &str) -> Image {
    let config = blob("application/vnd.oci.empty.v1+json", b"{}".to_vec());
    let statement = blob(STATEMENT, word.as_bytes().to_vec());
    let text = format!(
        r#"{{ "schemaVersion": 2, "mediaType": "{MANIFEST}", "artifactType": "{STATEMENT}", "config": {}, "layers": [{}], "subject": {} }}"#,
        descriptor(config.media_type(), config.digest(), config.size()),
        descriptor(STATEMENT, statement.digest(), statement.size()),
        descriptor(MANIFEST, subject, 1),
    );
    let mine = [config, statement];
    let children = mine.iter().map(|blob| blob.digest().clone()).collect();
    let referrer = document(MANIFEST, text, DocumentKind::Attached, children);
    image.with_referrer(referrer, mine)
}

pub(crate) fn small() -> Image {
    index(vec![vec![layer(1, 1000), layer(2, 700_000)]])
}

/// The same with a root of so many bytes.
pub(crate) fn padded(image: &Image, size: usize) -> Image {
    let mut documents = image.documents().to_vec();
    let root = documents.last_mut().unwrap();
    let mut bytes = root.bytes.to_vec();
    bytes.resize(size, b' ');
    root.digest = Digest::sha256(&bytes);
    root.bytes = bytes.into();
    Image::new(ImageParts {
        documents,
        referrers: Vec::new(),
        blobs: image.blobs().to_vec(),
        platforms: vec![image.selected().clone()],
        selected: 0,
        names: Vec::new(),
        synthesized: false,
        notes: Vec::new(),
    })
}

pub(crate) fn options() -> RegistryOptions {
    RegistryOptions {
        backoff: Duration::from_millis(1),
        idle_timeout: Duration::from_secs(20),
        ..RegistryOptions::default()
    }
}

pub(crate) fn publisher() -> Publisher {
    publisher_with("")
}

/// A publisher whose `DOCKER_AUTH_CONFIG` is `config`.
pub(crate) fn publisher_with(config: &str) -> Publisher {
    let environment = CredentialEnvironment {
        docker_auth_config: Some(config.into()),
        uid: u32::MAX,
        ..CredentialEnvironment::default()
    };
    Publisher::new(options(), &environment).unwrap()
}

pub(crate) fn targets(names: &[String]) -> Vec<Target> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

pub(crate) async fn push(
    publisher: &Publisher,
    image: &Image,
    names: &[String],
) -> Result<PushReport, PushError> {
    push_with(publisher, image, names, &PushOptions::default()).await
}

pub(crate) async fn push_with(
    publisher: &Publisher,
    image: &Image,
    names: &[String],
    options: &PushOptions,
) -> Result<PushReport, PushError> {
    publisher
        .push(image, &targets(names), options, Arc::new(Unobserved))
        .await
}

/// An error with all its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
