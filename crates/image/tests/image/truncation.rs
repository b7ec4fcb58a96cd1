//! Archives that were cut off or changed anywhere.

use std::io::Read;

use proptest::prelude::*;
use smokegate_image::{Digest, Image};

use crate::content::{Content, gzip, layer_tar, message, open_as, open_tar, options, read_layers};
use crate::docker_archive::newer_form;

fn sources() -> Vec<(Vec<u8>, Vec<Vec<u8>>)> {
    let tar = Content::simple().tar();
    let layers = vec![layer_tar(1), layer_tar(2), layer_tar(3)];
    let docker = newer_form(&layers);
    vec![
        (gzip(&tar), layers.clone()),
        (zstd::bulk::compress(&tar, 1).unwrap(), layers.clone()),
        (tar, layers.clone()),
        (docker, layers),
    ]
}

#[test]
fn a_truncated_archive_says_what_is_cut_off() {
    // The last member is `index.json` or, without it, the last blob.
    let mut builder = tar::Builder::new(Vec::new());
    let content = Content::simple();
    let order = content
        .files
        .iter()
        .filter(|(name, _)| !name.starts_with("blobs/"));
    let is_plain_layer = |bytes: &[u8]| bytes == layer_tar(3);
    let blobs = content
        .files
        .iter()
        .filter(|(name, _)| name.starts_with("blobs/"));
    let (last, others): (Vec<_>, Vec<_>) = blobs.partition(|(_, bytes)| is_plain_layer(bytes));
    for (name, bytes) in order.chain(others).chain(last) {
        crate::content::append(&mut builder, name, bytes);
    }
    let tar = builder.into_inner().unwrap();
    let cut = &tar[..tar.len() - 1024 - 4096];
    let digest = Digest::sha256(&layer_tar(3));
    let error = open_as("FILE", cut).unwrap_err().to_string();
    let expected = format!(
        "blob {digest} (layer 3 of 3): the archive ends 4096 bytes before it does; it is truncated"
    );
    assert_eq!(error, expected);

    let without = &tar[..tar.len() - 1024 - layer_tar(3).len() - 512];
    let error = open_as("FILE", without).unwrap_err().to_string();
    let expected = format!(
        "blob {digest} (layer 3 of 3) is missing; the archive has no end marker and may be truncated"
    );
    assert_eq!(error, expected);

    let packed = gzip(&tar);
    let error = message(&open_tar(&packed[..packed.len() - 30]).unwrap_err());
    assert!(
        error.starts_with("the archive's own compression is damaged, or it is truncated: "),
        "{error}"
    );
}

/// Whatever is opened holds the bytes that were put in, or says that it does not.
fn check(bytes: &[u8], layers: &[Vec<u8>]) {
    let Ok(image) = open_tar(bytes) else { return };
    for document in image.documents() {
        assert_eq!(document.digest, Digest::sha256(&document.bytes));
    }
    if let Ok(read) = read_layers(&image) {
        assert_eq!(read, layers);
        for blob in image.blobs() {
            let mut stored = Vec::new();
            blob.open().read_to_end(&mut stored).unwrap();
            assert_eq!(blob.digest(), &Digest::sha256(&stored));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn cut_off_anywhere(source in 0..4_usize, share in 0.0..1.0_f64) {
        let (bytes, layers) = sources().swap_remove(source);
        let end = (bytes.len() as f64 * share) as usize;
        check(&bytes[..end], &layers);
    }

    #[test]
    fn changed_anywhere(source in 0..4_usize, changes in prop::collection::vec((0.0..1.0_f64, any::<u8>()), 1..4)) {
        let (mut bytes, layers) = sources().swap_remove(source);
        for (share, value) in changes {
            let at = (bytes.len() as f64 * share) as usize;
            bytes[at] = value;
        }
        check_changed(&bytes, &layers);
    }

    #[test]
    fn a_digest_is_what_it_displays(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let digest = Digest::sha256(&bytes);
        prop_assert_eq!(digest.to_string().parse::<Digest>().unwrap(), digest);
    }

    #[test]
    fn any_text_parses_as_a_digest_or_not(text in "(sha256|sha512|md5|)(:|)[0-9a-fA-Fg]{0,130}") {
        if let Ok(digest) = text.parse::<Digest>() {
            prop_assert_eq!(digest.to_string(), text);
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2048)) {
        prop_assert!(Image::read(Box::new(bytes.as_slice()), &options()).is_err());
    }
}

/// A change may make another valid image (another name in `index.json`), but never other bytes than its digests.
fn check_changed(bytes: &[u8], layers: &[Vec<u8>]) {
    let Ok(image) = open_tar(bytes) else { return };
    for document in image.documents() {
        assert_eq!(document.digest, Digest::sha256(&document.bytes));
    }
    if let Ok(read) = read_layers(&image) {
        let ids: Vec<_> = image
            .selected()
            .layers
            .iter()
            .map(|layer| layer.diff_id.0.clone())
            .collect();
        let hashes: Vec<_> = read.iter().map(|tar| Digest::sha256(tar)).collect();
        assert_eq!(ids, hashes);
        assert_eq!(read.len(), layers.len());
    }
}
