//! `docker save` archives in both forms.

use serde_json::{Value, json};
use smokegate_image::{Compression, Digest, Image};

use crate::content::{
    Content, append, gzip, layer_tar, message, open_as, open_tar, options, read_layers,
};

/// Written out, as it is part of a golden digest.
fn config_of(layers: &[Vec<u8>]) -> Vec<u8> {
    let ids: Vec<_> = layers
        .iter()
        .map(|layer| format!("\"{}\"", Digest::sha256(layer)))
        .collect();
    let start = r#"{"architecture":"amd64","os":"linux","config":{"Cmd":["/bin/app"]},"rootfs":{"type":"layers","diff_ids":["#;
    format!("{start}{}]}}}}", ids.join(",")).into_bytes()
}

/// Docker 25 and later without its OCI half: blobs under `blobs/sha256`.
pub(crate) fn newer_form(layers: &[Vec<u8>]) -> Vec<u8> {
    let mut content = Content::default();
    let config = content.blob("", &config_of(layers));
    let files: Vec<String> = layers
        .iter()
        .map(|layer| path(&content.blob("", layer)))
        .collect();
    content.put(
        "manifest.json",
        &json!([{"Config": path(&config), "RepoTags": ["app:v1"], "Layers": files}]),
    );
    content.tar()
}

fn path(descriptor: &Value) -> String {
    format!(
        "blobs/sha256/{}",
        &descriptor["digest"].as_str().unwrap()["sha256:".len()..]
    )
}

/// Docker up to 24: `HEX.json`, `ID/layer.tar`, a repeated layer as a symbolic link.
fn legacy_form(layers: &[Vec<u8>], links: &[(usize, usize)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let config = config_of(layers);
    let config_file = format!("{}.json", Digest::sha256(&config).hex());
    let id = |index: usize| Digest::sha256(&[index as u8]).hex().to_owned();
    let files: Vec<String> = (0..layers.len())
        .map(|index| format!("{}/layer.tar", id(index)))
        .collect();
    for (index, layer) in layers.iter().enumerate() {
        append(&mut builder, &format!("{}/VERSION", id(index)), b"1.0");
        append(&mut builder, &format!("{}/json", id(index)), b"{}");
        match links.iter().find(|(from, _)| *from == index) {
            None => append(&mut builder, &files[index], layer),
            Some((_, to)) => {
                let mut header = tar::Header::new_gnu();
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                let target = format!("../{}", files[*to]);
                builder
                    .append_link(&mut header, &files[index], target)
                    .unwrap();
            }
        }
    }
    append(&mut builder, &config_file, &config);
    let manifest = json!([{"Config": config_file, "RepoTags": ["app:v1"], "Layers": files}]);
    append(
        &mut builder,
        "manifest.json",
        &serde_json::to_vec(&manifest).unwrap(),
    );
    append(&mut builder, "repositories", br#"{"app":{"v1":"0"}}"#);
    builder.into_inner().unwrap()
}

#[test]
fn both_forms_make_the_same_manifest() {
    let layers = [layer_tar(1), layer_tar(2), layer_tar(1)];
    let legacy = legacy_form(&layers, &[(2, 0)]);
    let archives = [legacy.clone(), newer_form(&layers), gzip(&legacy)];
    for archive in archives {
        let image = open_as("FILE", &archive).unwrap();
        assert_eq!(read_layers(&image).unwrap(), layers);
        assert!(image.is_synthesized());
        assert!(
            image.notes()[0].contains("one was made"),
            "{:?}",
            image.notes()
        );
        assert_eq!(image.names(), ["app:v1"]);
        assert_eq!((image.blobs().len(), image.root().children.len()), (3, 4));
        // Changed bytes mean that users' digests change: never update this without saying so.
        assert_eq!(
            image.digest().to_string(),
            "sha256:a20d838176f6352247ca6b1d9d6e191e9f565cfe483404855f8c68e32b41ea2c"
        );
    }
    let image = open_tar(&legacy).unwrap();
    let text = std::str::from_utf8(&image.root().bytes).unwrap();
    let start = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:"#;
    assert!(text.starts_with(start), "{text}");
}

#[test]
fn the_oci_half_wins_unless_docker_archive_is_said() {
    let mut content = Content::simple();
    let layers = [layer_tar(1)];
    let config = content.blob("", &config_of(&layers));
    let layer = content.blob("", &layers[0]);
    let entry = json!([{"Config": path(&config), "RepoTags": null, "Layers": [path(&layer)]}]);
    content.put("manifest.json", &entry);
    let tar = content.tar();
    assert!(!open_as("FILE", &tar).unwrap().is_synthesized());
    let docker = open_as("docker-archive:FILE", &tar).unwrap();
    assert!(docker.is_synthesized() && docker.names().is_empty());
    assert_eq!(read_layers(&docker).unwrap(), layers);
}

#[test]
fn compressed_layers_are_hashed_as_they_are() {
    let mut content = Content::default();
    let tars = [layer_tar(1), layer_tar(2)];
    let config = content.blob("", &config_of(&tars));
    content.files.insert("a.tar".into(), gzip(&tars[0]));
    content
        .files
        .insert("b.tar".into(), zstd::bulk::compress(&tars[1], 1).unwrap());
    let entry = json!([{"Config": path(&config), "Layers": ["a.tar", "./b.tar"]}]);
    content.put("manifest.json", &entry);
    let image = open_tar(&content.tar()).unwrap();
    assert_eq!(read_layers(&image).unwrap(), tars);
    let layers = &image.selected().layers;
    assert_eq!(
        layers[0].blob.digest(),
        &Digest::sha256(&content.files["a.tar"])
    );
    assert_eq!(
        layers[0].blob.media_type(),
        "application/vnd.oci.image.layer.v1.tar+gzip"
    );
    assert_eq!(layers[1].compression, Compression::Zstd);
}

#[test]
fn several_images_are_chosen_by_name() {
    let mut content = Content::default();
    let mut entry = |seed, tags: &[&str]| {
        let layers = [layer_tar(seed)];
        let config = content.blob("", &config_of(&layers));
        let layer = content.blob("", &layers[0]);
        json!({"Config": path(&config), "RepoTags": tags, "Layers": [path(&layer)]})
    };
    let entries = json!([
        entry(1, &["app:v1", "reg:5000/app:v1"]),
        entry(2, &["db:v2"])
    ]);
    content.put("manifest.json", &entries);
    let tar = content.tar();
    for (name, seed) in [
        ("app:v1", 1),
        ("reg:5000/app:v1", 1),
        ("v1", 1),
        ("db:v2", 2),
        ("v2", 2),
    ] {
        let image = open_as(&format!("docker-archive:FILE:{name}"), &tar).unwrap();
        assert_eq!(read_layers(&image).unwrap(), [layer_tar(seed)], "{name}");
    }
    let error = open_tar(&tar).unwrap_err().to_string();
    assert_eq!(
        error,
        "there are 2 images and none was named: `app:v1`, `reg:5000/app:v1`, `db:v2`"
    );
}

#[test]
fn a_changed_layer_is_found_when_read() {
    let mut tar = newer_form(&[layer_tar(1), layer_tar(9)]);
    let at = tar
        .windows(6)
        .position(|window| window == b"file-9")
        .unwrap();
    tar[at] = b'F';
    let image = Image::read(Box::new(tar.as_slice()), &options()).unwrap();
    let error = message(
        &image
            .verify_layers(|_, _| false, &Default::default())
            .unwrap_err(),
    );
    assert!(
        error.contains("(layer 2 of 2) cannot be verified"),
        "{error}"
    );
    assert!(error.contains("digest mismatch (got sha256:"), "{error}");
    let digest = image.selected().layers[1].blob.digest();
    image
        .verify_layers(|layer, _| layer.0 == *digest, &Default::default())
        .unwrap();
}

#[test]
fn refusals_name_what_and_where() {
    let layers = [layer_tar(1)];
    let id = Digest::sha256(&layers[0]);
    let config = config_of(&layers);
    let manifest = |value: Value| {
        let mut content = Content::default();
        content.files.insert("c.json".into(), config.clone());
        content
            .files
            .insert(format!("{}.json", "a".repeat(64)), config.clone());
        content.files.insert("l.tar".into(), layers[0].clone());
        content.files.insert("empty.tar".into(), Vec::new());
        content.put("manifest.json", &value);
        content.tar()
    };
    let foreign = json!({id.to_string(): {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
                         "urls": ["https://example.com"]}});
    let wrong_name = format!("{}.json", "a".repeat(64));
    let cases = [
        (json!([]), "`manifest.json`: it lists no image"),
        (json!({}), "`manifest.json` cannot be parsed"),
        (
            json!([{"Config": "x.json", "Layers": ["l.tar"]}]),
            "`x.json` is missing",
        ),
        (
            json!([{"Config": "c.json", "Layers": ["x.tar"]}]),
            "`x.tar` is missing",
        ),
        (
            json!([{"Config": "c.json", "Layers": []}]),
            "lists 0 layers, but the config 1 diff_ids",
        ),
        (
            json!([{"Config": "c.json", "Layers": ["empty.tar"]}]),
            "`empty.tar`) is zero bytes long",
        ),
        (
            json!([{"Config": wrong_name, "Layers": ["l.tar"]}]),
            "aaa.json`: digest mismatch (got sha256:",
        ),
        (
            json!([{"Config": "c.json", "Layers": ["l.tar"], "LayerSources": foreign}]),
            "(layer 1 of 1, `l.tar`) is a foreign layer",
        ),
    ];
    for (value, expected) in cases {
        let error = message(&open_tar(&manifest(value)).unwrap_err());
        assert!(error.contains(expected), "{expected}: {error}");
    }
}
