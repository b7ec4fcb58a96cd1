//! The built images, as programs that are not ours read them.

use std::fs;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use serde_json::Value;
use smokegate_image::{Compression, Decoder, Digest};
use smokegate_test_support::{
    Attestations, ImageFixture, Need, Noise, OciContent, Packing, compress_archive, fixture_dir,
    program, require,
};

#[test]
fn same_text_same_bytes() {
    let text = "entrypoint: /x\n\nlayer zstd\nfile /x 0755 0:0 random:40K:7\n\nlayer gzip-multi\n\
                file /a/very/long/name/\
                that/does/not/fit/into/the/one/hundred/bytes/of/a/tar/header/and/needs/a/longer/form 0644 1:2 x";
    let dir = tempfile::tempdir().unwrap();
    let archives = ["first.tar", "second.tar"].map(|name| {
        let file = dir.path().join(name);
        ImageFixture::parse(text)
            .unwrap()
            .build()
            .write_oci_archive(&file, Some("v1"));
        fs::read(file).unwrap()
    });
    assert!(archives[0] == archives[1]);
}

#[test]
fn noise_depends_on_the_seed() {
    let word = |seed| Noise::new(seed).next_word();
    assert_eq!(
        word(1),
        0x910a_2dec_8902_5cc1,
        "SplitMix64 of 1, from its reference code"
    );
    assert_ne!(word(1), word(2));
}

#[test]
fn skopeo_reads_every_form() {
    if !require(Need::Skopeo) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let image = ImageFixture::load("layers-packed").build();
    let place = |name: &str| dir.path().join(name);
    image.write_oci_layout(&place("layout"), Some("v1"));
    image.write_oci_archive(&place("oci.tar"), Some("v1"));
    image.write_docker_archive(&place("docker.tar"), Some("app:v1"));
    image.write_docker_archive_legacy(&place("legacy.tar"), Some("app:v1"));
    compress_archive(
        &place("docker.tar"),
        &place("docker.tar.gz"),
        Compression::Gzip,
    );

    let shown = place("").display().to_string();
    for reference in [
        format!("oci:{shown}layout:v1"),
        format!("oci-archive:{shown}oci.tar:v1"),
    ] {
        let raw = run(program("skopeo").args(["inspect", "--raw", &reference]));
        assert_eq!(Digest::sha256(&raw), image.digest(), "{reference}");
    }
    let diff_ids: Vec<_> = image
        .layers
        .iter()
        .map(|layer| layer.diff_id.to_string())
        .collect();
    for name in ["docker.tar", "legacy.tar"] {
        let reference = format!("docker-archive:{shown}{name}");
        let config = run(program("skopeo").args(["inspect", "--config", "--raw", &reference]));
        assert_eq!(
            Digest::sha256(&config),
            image.config_digest(),
            "{reference}"
        );
        // Copying reads every layer, through the link of the one that occurs twice as well.
        let copy = place("copied");
        run(program("skopeo").args(["copy", &reference, &format!("dir:{}", copy.display())]));
        let config = fs::read(copy.join(image.config_digest().hex())).unwrap();
        let config: Value = serde_json::from_slice(&config).unwrap();
        assert_eq!(
            config["rootfs"]["diff_ids"],
            Value::from(diff_ids.clone()),
            "{reference}"
        );
    }
}

#[test]
fn a_compressed_archive_is_the_archive() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| dir.path().join(name);
    ImageFixture::load("serve")
        .build()
        .write_docker_archive(&place("plain"), None);
    for compression in [Compression::Gzip, Compression::Zstd] {
        compress_archive(&place("plain"), &place("small"), compression);
        let small = fs::read(place("small")).unwrap();
        assert_eq!(Compression::sniff(&small), compression);
        let mut plain = Vec::new();
        Decoder::new(small.as_slice(), compression)
            .unwrap()
            .read_to_end(&mut plain)
            .unwrap();
        assert!(plain == fs::read(place("plain")).unwrap());
    }
}

#[test]
fn every_fixture_makes_the_same_image_twice() {
    let files = fs::read_dir(fixture_dir())
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let names: Vec<_> = files
        .map(|path| path.file_stem().unwrap().to_owned())
        .collect();
    assert!(names.len() > 10, "{names:?}");
    for name in names {
        let name = name.to_str().unwrap();
        let [first, second] = [(); 2].map(|()| ImageFixture::load(name).build().digest());
        assert_eq!(first, second, "{name}");
    }
}

#[test]
fn root_umoci_unpacks_what_the_fixture_says() {
    if !(require(Need::Root) && require(Need::Umoci)) {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    ImageFixture::load("whiteouts")
        .build()
        .write_oci_layout(&layout, Some("v1"));
    // umoci 0.4 knows no zstd.
    let mut fixture = ImageFixture::load("whiteouts");
    fixture
        .layers
        .iter_mut()
        .for_each(|layer| layer.packing = Packing::Gzip);
    fixture.build().write_oci_layout(&layout, Some("gzip"));
    let bundle = dir.path().join("bundle");
    let image = format!("{}:gzip", layout.display());
    run(program("umoci")
        .args(["unpack", "--image", &image])
        .arg(&bundle));

    let root = bundle.join("rootfs");
    let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
    assert_eq!(read("etc/replaced"), "second\n");
    assert_eq!(read("etc/removed"), "back again\n");
    assert_eq!(read("usr/lib/extra.so"), "extra\n");
    assert_eq!(read("etc/kept-too"), read("etc/kept"));
    for gone in [
        "removed-dir",
        "opaque/below",
        "etc/.wh.removed",
        "opaque/.wh..wh..opq",
    ] {
        assert!(!root.join(gone).exists(), "{gone}");
    }
}

#[test]
fn an_index_names_each_platform_and_its_attestation() {
    let text = "entrypoint: /x\n\nlayer\nfile /x 0755 0:0 x";
    let images = ["linux/amd64", "linux/arm64/v8"].map(|platform| {
        ImageFixture::parse(text)
            .unwrap()
            .for_platform(platform)
            .build()
    });
    let content = OciContent::index_of(&images, Attestations::PerImage);
    let dir = tempfile::tempdir().unwrap();
    content
        .clone()
        .nested()
        .tagged(Some("v1"))
        .write_layout(dir.path());

    let root = read_json(&dir.path().join("index.json"));
    let nested = blob(dir.path(), &root["manifests"][0]["digest"]);
    let index = blob(dir.path(), &nested["manifests"][0]["digest"]);
    assert_eq!(
        nested["manifests"][0]["digest"],
        content.digest().to_string()
    );
    let platforms: Vec<_> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|child| {
            let platform = &child["platform"];
            format!(
                "{}/{}",
                platform["os"].as_str().unwrap(),
                platform["architecture"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(
        platforms,
        [
            "linux/amd64",
            "linux/arm64",
            "unknown/unknown",
            "unknown/unknown"
        ]
    );
    assert_eq!(index["manifests"][1]["platform"]["variant"], "v8");
    let subject = &index["manifests"][3]["annotations"]["vnd.docker.reference.digest"];
    assert_eq!(subject, &images[1].digest().to_string());
    let attestation = blob(dir.path(), &index["manifests"][3]["digest"]);
    assert_eq!(
        attestation["layers"][0]["mediaType"],
        "application/vnd.in-toto+json"
    );
}

#[test]
fn the_probe_target_needs_no_library() {
    let program = smokegate_test_support::probe_target();
    let bytes = fs::read(program).unwrap();
    assert!(
        !bytes.windows(8).any(|window| window == b"/ld-linu"),
        "it names a dynamic loader"
    );
    let output = Command::new(program)
        .args(["print-then-exit", "7", "two", "words"])
        .output()
        .unwrap();
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(7), &b"two words\n"[..])
    );
}

fn run(command: &mut Command) -> Vec<u8> {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn blob(layout: &Path, digest: &Value) -> Value {
    read_json(
        &layout
            .join("blobs")
            .join(digest.as_str().unwrap().replace(':', "/")),
    )
}
