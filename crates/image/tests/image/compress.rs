//! Compressing the layers of an image that has no manifest of its own.

use smokegate_image::{Compression, Error, Image, LayerDigest};

use crate::content::{Content, layer_tar, open_tar, read_layers};
use crate::docker_archive::newer_form;

fn compressed(image: &Image, compression: Compression) -> Result<Image, Error> {
    let done = image.recompress(compression, &std::env::temp_dir())?;
    // Of each layer that it made it says so, and of no other.
    for layer in &done.image.selected().layers {
        let pair = (
            LayerDigest(layer.blob.digest().clone()),
            layer.diff_id.clone(),
        );
        let mut given = image.selected().layers.iter();
        let is_new = !given.any(|given| given.blob.digest() == layer.blob.digest());
        assert_eq!(done.made.contains(&pair), is_new);
    }
    Ok(done.image)
}

/// A layer of several blocks, the last of them short.
fn large() -> Vec<u8> {
    let text: Vec<u8> = (0..5_000_000_u32)
        .map(|n| (n.wrapping_mul(n) >> 11) as u8 & 0x3f)
        .collect();
    let mut builder = tar::Builder::new(Vec::new());
    crate::content::append(&mut builder, "large", &text);
    builder.into_inner().unwrap()
}

#[test]
fn the_result_is_the_same_everywhere() {
    let image = open_tar(&newer_form(&[large(), layer_tar(2), layer_tar(2)])).unwrap();
    let cases = [
        (
            Compression::Gzip,
            "sha256:7cb8a625c4ec01f41f29d8d1be4493e3309b7bbdf6a87d66c43c7a0225890fd3",
        ),
        (
            Compression::Zstd,
            "sha256:45748b3801cf92153fb0eff728b82bb873d8d6587a6da75420d86724502c77e0",
        ),
    ];
    for (compression, digest) in cases {
        let new = compressed(&image, compression).unwrap();
        assert_eq!(
            read_layers(&new).unwrap(),
            [large(), layer_tar(2), layer_tar(2)]
        );
        assert!(new.is_synthesized());
        assert!(
            new.selected()
                .layers
                .iter()
                .all(|layer| layer.compression == compression)
        );
        assert_eq!(new.selected().config_digest, image.selected().config_digest);
        // Changed bytes mean that users' digests change: never update this without saying so.
        assert_eq!(new.digest().to_string(), digest);
        assert_eq!(
            compressed(&new, Compression::Zstd).unwrap().digest(),
            new.digest()
        );
    }
    assert_eq!(
        compressed(&image, Compression::None).unwrap().digest(),
        image.digest()
    );
}

#[test]
fn an_image_with_a_manifest_is_left_alone() {
    let error = compressed(&Content::simple().open().unwrap(), Compression::Gzip).unwrap_err();
    assert!(matches!(error, Error::HasManifest { .. }), "{error}");
}

#[test]
fn a_layer_that_is_not_its_diff_id_is_not_compressed() {
    let mut tar = newer_form(&[large()]);
    let middle = tar.len() / 2;
    tar[middle] ^= 1;
    let error = compressed(&open_tar(&tar).unwrap(), Compression::Gzip).unwrap_err();
    let message = crate::content::message(&error);
    assert!(
        message.contains("(layer 1 of 1) cannot be verified"),
        "{message}"
    );
    assert!(message.contains("digest mismatch"), "{message}");
}

#[test]
fn a_missing_directory_is_the_hosts_fault() {
    let image = open_tar(&newer_form(&[layer_tar(1)])).unwrap();
    let absent = std::env::temp_dir().join("smokegate-absent-directory");
    let error = image.recompress(Compression::Gzip, &absent).unwrap_err();
    assert_eq!(error.kind(), smokegate_image::ErrorKind::Host);
}
