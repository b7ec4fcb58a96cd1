//! What refers to an image in a layout: signatures, SBOMs, receipts.

use serde_json::{Value, json};
use smokegate_image::Digest;

use crate::content::{CONFIG, Content, GZIP_LAYER, MANIFEST, message, named, with};

/// An artifact that refers to `subject`; answers its descriptor.
fn artifact(content: &mut Content, subject: &Value, text: &str) -> Value {
    let config = content.blob("application/vnd.oci.empty.v1+json", b"{}");
    let layer = content.blob("text/plain", text.as_bytes());
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "text/plain",
        "config": config,
        "layers": [layer],
        "subject": subject,
    });
    content.json_blob(MANIFEST, &manifest)
}

fn image(content: &mut Content, seed: u8) -> Value {
    let layers = [content.layer(GZIP_LAYER, seed)];
    content.image("amd64", &layers)
}

fn digest(descriptor: &Value) -> Digest {
    descriptor["digest"].as_str().unwrap().parse().unwrap()
}

#[test]
fn what_refers_to_the_image_comes_with_it_and_is_not_one() {
    let mut content = Content::layout();
    let (own, other) = (image(&mut content, 1), image(&mut content, 2));
    let signature = artifact(&mut content, &own, "signature");
    let of_signature = artifact(&mut content, &signature, "signature of the signature");
    let of_other = artifact(&mut content, &other, "of another image");
    let gone = json!({"mediaType": MANIFEST, "digest": Digest::sha256(b"gone"), "size": 4});
    let of_nothing = artifact(&mut content, &gone, "of nothing that is here");
    // Before what they refer to, as the order of the list means nothing.
    content.index_json(&[
        of_signature.clone(),
        of_nothing,
        of_other,
        signature.clone(),
        own,
    ]);
    let image = content.open().unwrap();
    let referrers: Vec<_> = image
        .referrers()
        .iter()
        .map(|one| one.digest.clone())
        .collect();
    assert_eq!(referrers, [digest(&signature), digest(&of_signature)]);
    assert_eq!(image.documents().len(), 1);
    assert_eq!(image.published().count(), 3);
    // Config and layer of the image, the empty config, two texts.
    assert_eq!(image.blobs().len(), 5);
    assert_eq!(image.platforms().len(), 1);
    image
        .verify_layers(|_, _| false, &Default::default())
        .unwrap();
}

#[test]
fn a_referrer_is_kept_whatever_it_holds() {
    let mut content = Content::layout();
    let own = image(&mut content, 1);
    // Some tools call the empty config of a signature an image's.
    let config = content.blob(CONFIG, b"{}");
    let manifest = content.manifest(&config, Vec::new());
    let bytes = content.files[&format!("blobs/sha256/{}", digest(&manifest).hex())].clone();
    let manifest = with(
        serde_json::from_slice(&bytes).unwrap(),
        "subject",
        own.clone(),
    );
    let odd = content.json_blob(MANIFEST, &manifest);
    content.index_json(&[named(own, "v1"), odd.clone()]);
    let image = content.open().unwrap();
    assert_eq!(image.referrers()[0].digest, digest(&odd));
    assert_eq!(image.platforms().len(), 1);
}

#[test]
fn a_referrer_whose_bytes_are_others_is_refused() {
    let mut content = Content::layout();
    let own = image(&mut content, 1);
    let signature = artifact(&mut content, &own, "signature");
    content.index_json(&[own, signature.clone()]);
    let name = format!("blobs/sha256/{}", digest(&signature).hex());
    let bytes = content.files.get_mut(&name).unwrap();
    let text = String::from_utf8(bytes.clone()).unwrap();
    *bytes = text.replace("text/plain", "text/plane").into_bytes();
    let error = content.open().unwrap_err();
    assert!(
        message(&error).contains(&digest(&signature).to_string()),
        "{error}"
    );
}
