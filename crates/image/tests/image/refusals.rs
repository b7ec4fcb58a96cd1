//! What is refused, and with which words.

use std::fs::File;

use serde_json::{Value, json};
use smokegate_image::{Error, ErrorKind, Image, ImageSource, Limits, OpenOptions};

use crate::content::{
    CONFIG, Content, GZIP_LAYER, INDEX, MANIFEST, PLAIN_LAYER, StoredLayer, config, gzip, message,
    on, open_as, open_tar, options,
};

fn refused(content: &Content) -> String {
    let error = content.open().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Image, "{error}");
    message(&error)
}

/// A layout whose manifest is what `change` makes of a good one.
fn changed(change: impl FnOnce(&mut Content, &mut Value)) -> Content {
    let mut content = Content::layout();
    let layers = [content.layer(GZIP_LAYER, 1), content.layer(GZIP_LAYER, 2)];
    let config = content.json_blob(CONFIG, &config("amd64", &layers));
    let mut manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config,
        "layers": layers.map(|layer| layer.descriptor)});
    change(&mut content, &mut manifest);
    let manifest = content.json_blob(MANIFEST, &manifest);
    content.index_json(&[manifest]);
    content
}

fn blob_file(descriptor: &Value) -> String {
    format!(
        "blobs/sha256/{}",
        &descriptor["digest"].as_str().unwrap()[7..]
    )
}

#[test]
fn manifests_that_break_a_rule() {
    type Change = fn(&mut Content, &mut Value);
    let cases: [(Change, &str); 17] = [
        (
            |_, m| m["schemaVersion"] = 1.into(),
            "is a Docker schema 1 manifest",
        ),
        (
            |_, m| m["schemaVersion"] = 3.into(),
            "(manifest): its schemaVersion is not 2",
        ),
        (
            |_, m| m["mediaType"] = INDEX.into(),
            "its mediaType is `application/vnd.oci.image.index",
        ),
        (
            |_, m| m["manifests"] = json!([]),
            "it is a manifest, yet has `manifests`",
        ),
        (
            |_, m| m["fsLayers"] = json!([]),
            "is a Docker schema 1 manifest",
        ),
        (
            |_, m| m["layers"] = json!({}),
            "(manifest) cannot be parsed",
        ),
        (
            |_, m| m["layers"].as_array_mut().unwrap().truncate(1),
            "(manifest): it has 1 layers, but its config 2 diff_ids",
        ),
        (
            |_, m| m["layers"][1]["size"] = 7.into(),
            "(layer 2 of 2): size mismatch (got ",
        ),
        (
            |_, m| m["layers"][1]["digest"] = format!("sha256:{}", "0".repeat(64)).into(),
            "0000 (layer 2 of 2) is missing",
        ),
        (
            |_, m| m["layers"][0]["digest"] = "md5:d41d8cd98f00b204e9800998ecf8427e".into(),
            "is not a sha256 or sha512 digest",
        ),
        (
            |_, m| m["layers"][0]["mediaType"] = "application/vnd.oci.image.layer.v1.tar+xz".into(),
            "(layer 1 of 2) has the unsupported media type `application/vnd.oci.image.layer.v1.tar+xz`",
        ),
        (
            |_, m| {
                m["layers"][1]["mediaType"] =
                    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip".into();
            },
            "(layer 2 of 2) is a foreign layer",
        ),
        (
            |_, m| m["layers"][0]["urls"] = json!(["https://example.com/layer"]),
            "(layer 1 of 2) is a foreign layer",
        ),
        (
            |content, m| m["layers"][0] = content.blob(PLAIN_LAYER, b""),
            "(layer 1 of 2) is zero bytes long",
        ),
        (
            |content, m| m["config"] = content.json_blob(CONFIG, &json!({})),
            "(config): it has no `rootfs`",
        ),
        (
            |_, m| m["config"]["size"] = (300 << 20).into(),
            "(config) is 314572800 bytes long; more than 16777216 are refused",
        ),
        (
            |_, m| m["config"]["mediaType"] = "application/vnd.example+json".into(),
            "is not an image that can be run",
        ),
    ];
    for (change, expected) in cases {
        let error = refused(&changed(change));
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn a_document_that_is_not_what_its_digest_names() {
    let mut content = changed(|_, _| {});
    let index: Value = serde_json::from_slice(&content.files["index.json"]).unwrap();
    let file = blob_file(&index["manifests"][0]);
    let bytes = content.files.get_mut(&file).unwrap();
    let at = bytes.len() - 2;
    bytes[at] = b' ';
    let error = refused(&content);
    assert!(
        error.contains("(manifest): digest mismatch (got sha256:"),
        "{error}"
    );
}

#[test]
fn layouts_that_break_a_rule() {
    let good = changed(|_, _| {});
    type Change = fn(&mut Content);
    let cases: [(Change, &str); 7] = [
        (
            |c| drop(c.files.remove("oci-layout")),
            "`oci-layout` is missing",
        ),
        (
            |c| c.put("oci-layout", &json!({"imageLayoutVersion": "2.0.0"})),
            "`oci-layout`: its version is `2.0.0`, not 1",
        ),
        (
            |c| drop(c.files.remove("index.json")),
            "neither `index.json` nor `manifest.json`",
        ),
        (|c| c.index_json(&[]), "`index.json`: it lists no image"),
        (
            |c| c.put("index.json", &json!([])),
            "`index.json` cannot be parsed",
        ),
        (
            |c| c.put("index.json", &json!({"schemaVersion": 1, "manifests": []})),
            "`index.json`: its schemaVersion is not 2",
        ),
        (
            |c| {
                let schema1 = "application/vnd.docker.distribution.manifest.v1+prettyjws";
                let blob = c.json_blob(schema1, &json!({"schemaVersion": 1}));
                c.index_json(&[blob]);
            },
            "is a Docker schema 1 manifest",
        ),
    ];
    for (change, expected) in cases {
        let mut content = good.clone();
        change(&mut content);
        let error = refused(&content);
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn several_images_and_none_named() {
    let mut content = Content::layout();
    let one = [content.layer(GZIP_LAYER, 1)];
    let one = on(content.image("amd64", &one), "amd64");
    let two = [content.layer(GZIP_LAYER, 2)];
    let two = crate::content::named(content.image("amd64", &two), "app:v2");
    content.index_json(&[one.clone(), two]);
    let error = refused(&content);
    let unnamed = format!("{}@linux/amd64, `app:v2`", one["digest"].as_str().unwrap());
    assert_eq!(
        error,
        format!("there are 2 images and none was named: {unnamed}")
    );
    let error = open_as("oci-archive:FILE:v3", &content.tar())
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        format!("no image is named `v3`; there are {unnamed}")
    );
}

#[test]
fn no_image_for_the_platform() {
    let mut content = Content::layout();
    let layers = [content.layer(GZIP_LAYER, 1)];
    let one = on(content.image("arm64", &layers), "arm64");
    let two = on(content.image("s390x", &layers), "s390x");
    let root = content.index(&[one, two]);
    content.index_json(&[root]);
    assert_eq!(
        refused(&content),
        "no image for linux/amd64; there are linux/arm64, linux/s390x"
    );
}

#[test]
fn a_sparse_index_names_what_is_missing() {
    let mut content = Content::layout();
    let layers = [content.layer(GZIP_LAYER, 1)];
    let here = on(content.image("amd64", &layers), "amd64");
    let absent = on(content.image("arm64", &layers), "arm64");
    content.files.remove(&blob_file(&absent));
    let root = content.index(&[here, absent.clone()]);
    content.index_json(&[root]);
    let expected = format!(
        "blob {} (manifest) is missing",
        absent["digest"].as_str().unwrap()
    );
    assert_eq!(refused(&content), expected);
}

#[test]
fn an_index_that_contains_itself() {
    let mut content = Content::layout();
    let name = "a".repeat(64);
    let index = |size: usize| {
        let child = json!({"mediaType": INDEX, "digest": format!("sha256:{name}"), "size": size});
        json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]})
    };
    let size = index(100).to_string().len();
    let bytes = index(size).to_string().into_bytes();
    let child =
        json!({"mediaType": INDEX, "digest": format!("sha256:{name}"), "size": bytes.len()});
    content.files.insert(format!("blobs/sha256/{name}"), bytes);
    content.index_json(&[child]);
    // No bytes hold their own digest: such an index is found by that.
    let error = refused(&content);
    assert!(
        error.contains("aaaa (index): digest mismatch (got sha256:"),
        "{error}"
    );

    // `index.json` may list itself as a blob, as it is not named by a digest.
    let mut content = Content::simple();
    let copy = content.files["index.json"].clone();
    let itself = content.blob(INDEX, &copy);
    content.index_json(&[itself]);
    content.open().unwrap();
}

#[test]
fn indexes_nested_too_deep() {
    let mut content = Content::layout();
    let layers = [content.layer(GZIP_LAYER, 1)];
    let mut root = content.image("amd64", &layers);
    for _ in 0..Limits::default().index_depth {
        root = content.index(&[root]);
    }
    content.index_json(std::slice::from_ref(&root));
    content.open().unwrap();
    root = content.index(&[root]);
    content.index_json(&[root]);
    assert!(refused(&content).contains("(manifest) is nested more than 8 indexes deep"));
}

#[test]
fn json_of_300_megabytes_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    Content::simple().write_to(dir.path());
    let path = dir.path().join("index.json");
    // Sparse, and without a byte of JSON: reading it would fail otherwise.
    File::options()
        .write(true)
        .truncate(true)
        .open(&path)
        .unwrap()
        .set_len(300 << 20)
        .unwrap();
    let source = ImageSource::Path(dir.path().to_owned());
    let error = Image::open(&source, &options()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "`index.json` is 314572800 bytes long; more than 4194304 are refused"
    );
}

#[test]
fn documents_are_bounded_together() {
    let mut content = Content::layout();
    let layers = [content.layer(GZIP_LAYER, 1)];
    let one = on(content.image("amd64", &layers), "amd64");
    let two = on(content.image("arm64", &layers), "arm64");
    let root = content.index(&[one, two]);
    content.index_json(&[root]);
    let limits = Limits {
        documents_bytes: 1500,
        ..Limits::default()
    };
    let small = OpenOptions {
        limits,
        ..options()
    };
    let error = Image::read(Box::new(content.tar().as_slice()), &small).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the image's documents exceed 1500 bytes"),
        "{error}"
    );
}

#[test]
fn what_is_no_image_at_all() {
    let cases: [(&[u8], &str); 6] = [
        (b"", "it is empty"),
        (b"hello", "is not a tar archive"),
        (&[b'x'; 2048], "it is not a tar archive"),
        (b"\xfd7zXZ\0...", "it is compressed with xz"),
        (b"BZh91AY&SY", "it is compressed with bzip2"),
        (
            &[0; 1024],
            "its top has neither `index.json` nor `manifest.json`",
        ),
    ];
    for (bytes, expected) in cases {
        for error in [
            open_as("FILE", bytes).unwrap_err(),
            open_tar(bytes).unwrap_err(),
        ] {
            assert!(matches!(error, Error::NotAnImage { .. }), "{error}");
            assert!(error.to_string().contains(expected), "{expected}: {error}");
            assert_eq!(error.kind(), ErrorKind::Image);
        }
    }
    let tar = Content::simple().tar();
    let error = open_as("docker-archive:FILE", &tar)
        .unwrap_err()
        .to_string();
    assert!(error.contains("its top has no `manifest.json`"), "{error}");
    let empty = tempfile::tempdir().unwrap();
    let error = Image::open(&ImageSource::Path(empty.path().into()), &options()).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("the directory has no `index.json`"),
        "{error}"
    );
}

#[test]
fn whose_fault_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("image.tar");
    std::fs::write(&file, gzip(&Content::simple().tar())).unwrap();
    let open = |text: &str, options: &OpenOptions| {
        let text = text.replace("DIR", dir.path().to_str().unwrap());
        Image::open(&text.parse().unwrap(), options).unwrap_err()
    };
    let no_spool = OpenOptions {
        spool_dir: dir.path().join("absent"),
        ..options()
    };
    let small = OpenOptions {
        limits: Limits {
            spool_bytes: 1000,
            ..Limits::default()
        },
        ..options()
    };
    let cases = [
        (
            "DIR/absent.tar",
            options(),
            ErrorKind::Usage,
            "absent.tar`: No such file",
        ),
        ("oci:DIR/absent", options(), ErrorKind::Usage, "cannot open"),
        (
            "oci:DIR/image.tar",
            options(),
            ErrorKind::Usage,
            "is not a directory",
        ),
        (
            "oci-archive:DIR",
            options(),
            ErrorKind::Usage,
            "is not a file",
        ),
        (
            "docker://localhost/app:v1",
            options(),
            ErrorKind::Usage,
            "is in a registry",
        ),
        (
            "DIR/image.tar",
            no_spool,
            ErrorKind::Host,
            "cannot write a temporary file in",
        ),
        (
            "DIR/image.tar",
            small,
            ErrorKind::Image,
            "holds more than 1000 bytes",
        ),
    ];
    for (text, options, kind, expected) in cases {
        let error = open(text, &options);
        assert_eq!(error.kind(), kind, "{text}: {error}");
        assert!(
            message(&error).contains(expected),
            "{expected}: {}",
            message(&error)
        );
    }
}

#[test]
fn wrong_diff_id_is_found_before_a_push() {
    let mut content = Content::layout();
    let layer = content.layer(GZIP_LAYER, 1);
    let other = content.layer(GZIP_LAYER, 2);
    let layers = [StoredLayer {
        descriptor: layer.descriptor,
        diff_id: other.diff_id,
    }];
    let image = content.image("amd64", &layers);
    content.index_json(&[image]);
    let image = content.open().unwrap();
    let error = image
        .verify_layers(|_, _| false, &Default::default())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Image);
    let error = message(&error);
    assert!(
        error.contains("(layer 1 of 1) cannot be verified: layer sha256:"),
        "{error}"
    );
    assert!(error.contains("diff_id mismatch"), "{error}");
}

#[test]
fn a_changed_attestation_is_found_before_a_push() {
    let mut content = Content::layout();
    let layers = [content.layer(GZIP_LAYER, 1)];
    let image = on(content.image("amd64", &layers), "amd64");
    let statement = content.blob("application/vnd.in-toto+json", b"{\"predicate\":1}");
    let empty = content.blob("application/vnd.oci.empty.v1+json", b"{}");
    let attached = content.manifest(&empty, vec![statement.clone()]);
    let root = content.index(&[image, attached]);
    content.index_json(&[root]);
    content
        .files
        .insert(blob_file(&statement), b"{\"predicate\":2}".to_vec());
    let error = content
        .open()
        .unwrap()
        .verify_layers(|_, _| true, &Default::default())
        .unwrap_err();
    assert!(
        error.to_string().contains("(attached) cannot be verified"),
        "{error}"
    );
}
