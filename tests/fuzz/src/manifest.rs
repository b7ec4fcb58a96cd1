//! Any bytes as the manifest or index of an OCI archive whose other documents are well made.
//!
//! - No panic, no overflow, no endless recursion; what goes wrong is the image's fault.
//! - The bytes are kept as they are: the digest that names them is theirs.
//! - What is opened holds together, see [`holds_together`].

use std::io::Read;

use smokegate_image::{Digest, ErrorKind, Image};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Runs the checks; panics where one fails.
pub fn check(data: &[u8]) {
    for media_type in [MANIFEST, INDEX] {
        match super::archive::open(&archive(data, media_type)) {
            Ok(image) => {
                let digest = Digest::sha256(data);
                assert_eq!(*image.digest(), digest, "the root's digest");
                assert_eq!(&*image.root().bytes, data, "the root's bytes");
                holds_together(&image);
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Image, "{error:?}"),
        }
    }
}

/// Every document is what its digest says and names only what is there; a platform's layers and diff_ids pair up;
/// each layer either verifies or is refused as invalid.
pub fn holds_together(image: &Image) {
    for document in image.documents() {
        let algorithm = document.digest.algorithm();
        let mut hasher = smokegate_image::Hasher::new(algorithm);
        hasher.update(&document.bytes);
        assert_eq!(hasher.finish(), document.digest);
        for child in &document.children {
            let known = image.documents().iter().any(|other| other.digest == *child)
                || image.blobs().iter().any(|blob| blob.digest() == child);
            assert!(known, "{child} is named and not there");
        }
    }
    for platform in image.platforms() {
        assert_eq!(platform.layers.len(), platform.config.diff_ids.len());
        assert_eq!(platform.chain_ids().len(), platform.layers.len());
        for layer in platform.layers.iter().take(8) {
            let mut tar = layer.open_tar_within(image.limits()).expect("a decoder");
            match std::io::copy(&mut tar.by_ref(), &mut std::io::sink()) {
                Ok(_) => assert!(tar.is_verified()),
                Err(error) => assert_eq!(error.raw_os_error(), None, "{error:?}"),
            }
        }
    }
}

/// The config and the layer that seeds name.
pub(crate) const LAYER: &[u8] = &[0; 1024];

/// A config for one [`LAYER`].
pub(crate) fn config() -> Vec<u8> {
    let diff_id = Digest::sha256(LAYER);
    format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    )
    .into_bytes()
}

/// A manifest of that config and one layer.
pub(crate) fn manifest(config: &[u8]) -> Vec<u8> {
    let (config_digest, layer_digest) = (Digest::sha256(config), Digest::sha256(LAYER));
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config_digest}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{layer_digest}","size":{}}}]}}"#,
        config.len(),
        LAYER.len(),
    )
    .into_bytes()
}

/// An OCI archive whose root is `root`, beside the config, layer and manifest above.
fn archive(root: &[u8], media_type: &str) -> Vec<u8> {
    let config = config();
    let manifest = manifest(&config);
    archive_of(root, media_type, &[LAYER, &config, &manifest])
}

/// An OCI archive of a root and blobs.
pub(crate) fn archive_of(root: &[u8], media_type: &str, blobs: &[&[u8]]) -> Vec<u8> {
    let mut tar = Vec::new();
    let layout = br#"{"imageLayoutVersion":"1.0.0"}"#;
    super::tar::entry(&mut tar, b'0', "oci-layout", "", layout);
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"{media_type}","digest":"{}","size":{}}}]}}"#,
        Digest::sha256(root),
        root.len()
    );
    super::tar::entry(&mut tar, b'0', "index.json", "", index.as_bytes());
    for blob in blobs.iter().chain([&root]) {
        let name = format!("blobs/sha256/{}", Digest::sha256(blob).hex());
        super::tar::entry(&mut tar, b'0', &name, "", blob);
    }
    tar.resize(tar.len() + 1024, 0);
    tar
}

/// As [`archive_of`], with an image manifest as root.
pub(crate) fn archive_of_manifest(manifest: &[u8], blobs: &[&[u8]]) -> Vec<u8> {
    archive_of(manifest, MANIFEST, blobs)
}
