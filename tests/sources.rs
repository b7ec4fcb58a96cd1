//! Every form of image source, and what is wrong with those that cannot be read.

use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use smokegate_image::{Compression, Digest};
use smokegate_test_support::{
    Attestations, BuiltImage, Finished, ImageFixture, OciContent, RunAs, Smokegate,
    compress_archive,
};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

fn smokegate(run_as: RunAs) -> Option<Smokegate> {
    Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as)
}

/// A context that runs no container.
fn reader() -> Smokegate {
    Smokegate::without_sandbox(env!("CARGO_BIN_EXE_smokegate"))
}

fn gate(context: &Smokegate, source: &str, more: &[&str]) -> Finished {
    let words = ["gate", source, "--publish", "0:8080"];
    context.run(words.iter().chain(more))
}

fn tested(context: &Smokegate) -> String {
    context.receipt()["image"]["tested"][0]["manifest"]
        .as_str()
        .expect("a digest")
        .to_owned()
}

#[test]
fn root_gates_every_form() {
    every_form(RunAs::Root);
}

#[test]
fn rootless_gates_every_form() {
    every_form(RunAs::OrdinaryUser);
}

/// The image has a layer of several gzip members, and one each of gzip, zstd and plain.
fn every_form(run_as: RunAs) {
    let Some(context) = smokegate(run_as) else {
        return;
    };
    let image = ImageFixture::load("layers-packed").build();
    let file = |name: &str| context.dir().join(name);
    image.write_oci_layout(&file("layout"), Some("v1"));
    image.write_oci_archive(&file("oci.tar"), Some("v1"));
    image.write_docker_archive(&file("saved.tar"), Some("demo/app:v1"));
    image.write_docker_archive_legacy(&file("legacy.tar"), Some("demo/app:v1"));
    for name in ["oci.tar", "saved.tar", "legacy.tar"] {
        compress_archive(&file(name), &file(&format!("{name}.gz")), Compression::Gzip);
        compress_archive(
            &file(name),
            &file(&format!("{name}.zst")),
            Compression::Zstd,
        );
    }
    let own = image.digest().to_string();
    // A docker-archive has no manifest: smokegate makes one, always the same.
    gate(&context, "legacy.tar", &[]).assert_code(0);
    let made = tested(&context);
    assert_ne!(made, own);

    for (source, digest) in [
        ("layout", &own),
        ("oci.tar", &own),
        ("oci.tar.gz", &own),
        ("oci.tar.zst", &own),
        ("saved.tar", &own),
        ("saved.tar.gz", &own),
        ("saved.tar.zst", &own),
        ("legacy.tar.gz", &made),
        ("legacy.tar.zst", &made),
        ("oci:layout", &own),
        ("oci:layout:v1", &own),
        ("oci-archive:oci.tar", &own),
        ("oci-archive:oci.tar:v1", &own),
        ("oci-archive:saved.tar", &own),
        ("docker-archive:legacy.tar", &made),
        ("docker-archive:legacy.tar:demo/app:v1", &made),
        ("docker-archive:legacy.tar.gz", &made),
    ] {
        let run = gate(&context, source, &[]);
        assert_eq!(run.code(), Some(0), "{source}: {}", run.stderr);
        assert_eq!(tested(&context), *digest, "{source}");
        assert_eq!(context.receipt()["image"]["source"], source);
    }
    // Asked for by name, an archive that is both forms is read as a docker-archive.
    gate(&context, "docker-archive:saved.tar:demo/app:v1", &[]).assert_code(0);
    assert_eq!(context.receipt()["image"]["manifest_made_here"], true);
    for (name, digest) in [
        ("oci.tar", &own),
        ("oci.tar.zst", &own),
        ("saved.tar.gz", &own),
        ("legacy.tar", &made),
    ] {
        let run = from_stdin(&context, &["gate", "-", "--publish", "0:8080"], &file(name));
        assert_eq!(run.code(), Some(0), "{name} on stdin: {}", run.stderr);
        assert_eq!(tested(&context), *digest, "{name} on stdin");
    }
    // What was spooled is gone.
    assert_eq!(fs::read_dir(file("tmp")).unwrap().count(), 0);
}

fn from_stdin(context: &Smokegate, words: &[&str], file: &Path) -> Finished {
    let mut command = context.command(words);
    command.stdin(File::open(file).expect("opening the archive"));
    context.start_command(command).wait(Duration::from_secs(60))
}

#[test]
fn rootless_platform_is_chosen_in_nested_indexes() {
    let Some(context) = smokegate(RunAs::OrdinaryUser) else {
        return;
    };
    let own = ImageFixture::load("serve").build();
    // The same program under the name of another processor of its kind, which this one can stand in for.
    let foreign = match own.platform.as_str() {
        "linux/arm64" => "linux/arm64/v9",
        _ => "linux/amd64/v2",
    };
    let other = ImageFixture::load("serve").for_platform(foreign).build();
    let index = OciContent::index_of(&[other.clone(), own.clone()], Attestations::PerImage);
    for (name, index) in [("flat", index.clone()), ("nested", index.nested().nested())] {
        index.write_archive(&context.dir().join(name));
        gate(&context, name, &[]).assert_code(0);
        assert_eq!(tested(&context), own.digest().to_string(), "{name}");
        assert_eq!(
            context.receipt()["image"]["digest"],
            index.digest().to_string(),
            "{name}"
        );
        gate(&context, name, &["--platform", foreign]).assert_code(0);
        assert_eq!(tested(&context), other.digest().to_string(), "{name}");
        assert_eq!(context.receipt()["image"]["tested"][0]["platform"], foreign);
    }
}

#[test]
fn cli_platform_that_is_not_there_lists_those_that_are() {
    let context = reader();
    let image = ImageFixture::load("serve")
        .for_platform("linux/riscv64")
        .build();
    let index = OciContent::index_of(std::slice::from_ref(&image), Attestations::Absent);
    index.write_archive(&context.dir().join("index.tar"));
    image.write_oci_archive(&context.dir().join("image.tar"), None);
    for source in ["index.tar", "image.tar"] {
        let run = context.run(["gate", source]);
        assert_fails(&run, 5, &["no image for linux/", "linux/riscv64"]);
    }
    let run = context.run(["gate", "index.tar", "--platform", "linux/s390x"]);
    assert_fails(&run, 5, &["no image for linux/s390x", "linux/riscv64"]);
    context
        .run(["gate", "index.tar", "--platform", "nonsense/"])
        .assert_code(2);
}

#[test]
fn cli_several_images_and_none_named() {
    let context = reader();
    let [first, second] = ["serve", "two-ports"].map(|name| ImageFixture::load(name).build());
    let both = first
        .oci()
        .tagged(Some("one"))
        .and(&second.oci().tagged(Some("two")));
    both.write_layout(&context.dir().join("layout"));
    both.write_archive(&context.dir().join("both.tar"));
    for source in ["layout", "both.tar", "oci:layout", "oci-archive:both.tar"] {
        let run = context.run(["gate", source]);
        assert_fails(&run, 5, &["2 images", "one", "two"]);
    }
    for (source, image) in [
        ("oci:layout:one", first),
        ("oci-archive:both.tar:two", second),
    ] {
        let run = context.run(["inspect", source]);
        run.assert_code(0);
        assert!(
            run.stdout.contains(&image.digest().to_string()),
            "{source}: {}",
            run.stdout
        );
    }
    let run = context.run(["gate", "oci:layout:three"]);
    assert_fails(&run, 5, &["three", "one", "two"]);
}

#[test]
fn cli_source_that_is_not_there() {
    let context = reader();
    fs::create_dir(context.dir().join("empty")).unwrap();
    context.write("text", "just text\n");
    context.write("nothing", "");
    for source in [
        "missing.tar",
        "oci:missing",
        "oci-archive:missing.tar",
        "docker-archive:missing",
    ] {
        let run = context.run(["gate", source]);
        assert_fails(&run, 2, &["missing"]);
    }
    // Something is there, and it is no image.
    for source in ["empty", "text", "nothing"] {
        let run = context.run(["gate", source]);
        assert_fails(&run, 5, &[source]);
    }
    for source in ["docker-daemon:app:latest", "containers-storage:app", "oci:"] {
        let run = context.run(["gate", source]);
        assert_fails(&run, 2, &[source.split(':').next().unwrap()]);
    }
}

/// Cut off anywhere, an archive is refused: what is missing is named.
#[test]
fn cli_truncated_archive() {
    let context = reader();
    let image = ImageFixture::load("layers-packed").build();
    let whole = context.dir().join("whole.tar");
    image.write_oci_archive(&whole, None);
    let bytes = fs::read(&whole).unwrap();
    image.write_docker_archive_legacy(&context.dir().join("legacy.tar"), None);
    let legacy = fs::read(context.dir().join("legacy.tar")).unwrap();
    for (form, bytes) in [("oci", bytes), ("legacy", legacy)] {
        for part in 1..8 {
            let name = format!("{form}-{part}");
            let file = context.write(&name, &bytes[..bytes.len() * part / 8]);
            let run = context.run(["push", &name, "--tag", "oci:layout:v1"]);
            assert_fails(&run, 5, &["truncated"]);
            let run = from_stdin(&context, &["push", "-", "--tag", "oci:layout:v1"], &file);
            assert_fails(&run, 5, &["truncated"]);
            let zipped = context.dir().join("zipped");
            compress_archive(&file, &zipped, Compression::Gzip);
            assert_fails(
                &context.run(["push", "zipped", "--tag", "oci:layout:v1"]),
                5,
                &["truncated"],
            );
        }
        for compression in [Compression::Gzip, Compression::Zstd] {
            context.write("plain", &bytes);
            compress_archive(
                &context.dir().join("plain"),
                &context.dir().join("packed"),
                compression,
            );
            let packed = fs::read(context.dir().join("packed")).unwrap();
            context.write("cut", &packed[..packed.len() / 2]);
            let run = context.run(["push", "cut", "--tag", "oci:layout:v1"]);
            assert_fails(&run, 5, &["truncated"]);
        }
    }
    assert!(!context.dir().join("layout/index.json").exists());
}

#[test]
fn rootless_layer_with_other_bytes_is_not_run() {
    let Some(context) = smokegate(RunAs::OrdinaryUser) else {
        return;
    };
    let image = ImageFixture::load("layers-packed").build();
    for (index, layer) in image.layers.iter().enumerate() {
        let layout = context.dir().join(format!("layout-{index}"));
        image.write_oci_layout(&layout, None);
        let mut file = OpenOptions::new()
            .write(true)
            .open(blob_path(&layout, &layer.digest))
            .unwrap();
        file.seek(SeekFrom::Start(layer.size / 2)).unwrap();
        file.write_all(b"another byte or two").unwrap();
        let run = gate(&context, &format!("layout-{index}"), &[]);
        assert_fails(&run, 5, &[&layer.digest.to_string()]);
        assert!(!run.stderr.contains("running"), "{}", run.stderr);
    }
    // The diff id of the config, not only the digest of the blob.
    let layout = Layout::new(&context, "diff-id");
    let mut config: Value = serde_json::from_slice(&image.config).unwrap();
    let wrong = Digest::sha256(b"something else").to_string();
    config["rootfs"]["diff_ids"][0] = json!(wrong);
    let mut manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    manifest["config"] = layout.add(CONFIG, &config);
    image.layers.iter().for_each(|layer| {
        let bytes = fs::read(layer.file.path()).unwrap();
        layout.add_bytes(LAYER, &bytes);
    });
    let root = layout.add(MANIFEST, &manifest);
    layout.finish(&[root]);
    let run = gate(&context, "diff-id", &[]);
    assert_fails(&run, 5, &[&image.layers[0].digest.to_string()]);
    assert!(!run.stderr.contains("running"), "{}", run.stderr);
}

/// Documents that are not what their digest or the specification says: each refused before anything runs.
#[test]
fn cli_documents_that_cannot_be_trusted() {
    let context = reader();
    let image = ImageFixture::load("serve").build();
    let (manifest, config) = (image.digest(), image.config_digest());
    let layer = &image.layers[0].digest;

    let wrong_digest = |name: &str, digest: &Digest| {
        let layout = context.dir().join(name);
        image.write_oci_layout(&layout, None);
        let path = blob_path(&layout, digest);
        let mut bytes = fs::read(&path).unwrap();
        let end = bytes.len() - 1;
        bytes[end / 2] ^= 1;
        fs::write(&path, bytes).unwrap();
        name.to_owned()
    };
    let source = wrong_digest("wrong-manifest", &manifest);
    assert_fails(
        &context.run(["gate", &source]),
        5,
        &[&manifest.to_string(), "digest mismatch"],
    );
    let source = wrong_digest("wrong-config", &config);
    assert_fails(
        &context.run(["gate", &source]),
        5,
        &[&config.to_string(), "digest mismatch"],
    );

    for (name, digest) in [
        ("no-manifest", &manifest),
        ("no-config", &config),
        ("no-layer", layer),
    ] {
        let layout = context.dir().join(name);
        image.write_oci_layout(&layout, None);
        fs::remove_file(blob_path(&layout, digest)).unwrap();
        assert_fails(
            &context.run(["gate", name]),
            5,
            &[&digest.to_string(), "missing"],
        );
    }

    image.write_oci_layout(&context.dir().join("short-layer"), None);
    fs::write(
        blob_path(&context.dir().join("short-layer"), layer),
        "short",
    )
    .unwrap();
    assert_fails(
        &context.run(["gate", "short-layer"]),
        5,
        &[&layer.to_string(), "size mismatch"],
    );

    // A layer of no bytes at all, properly described.
    let layout = Layout::new(&context, "zero");
    let empty = layout.add_bytes(LAYER, b"");
    layout.finish_image(&image, &json!([empty]));
    let zero = Digest::sha256(b"").to_string();
    assert_fails(&context.run(["gate", "zero"]), 5, &[&zero, "zero bytes"]);

    let layout = Layout::new(&context, "foreign");
    let mut foreign = layout.add_bytes(
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        b"elsewhere",
    );
    foreign["urls"] = json!(["https://layers.example/windows"]);
    layout.finish_image(&image, &json!([foreign]));
    let digest = Digest::sha256(b"elsewhere").to_string();
    assert_fails(
        &context.run(["gate", "foreign"]),
        5,
        &[&digest, "foreign layer"],
    );

    let layout = Layout::new(&context, "unknown-layer");
    let unknown = layout.add_bytes("application/vnd.example.layer", b"unknown");
    layout.finish_image(&image, &json!([unknown]));
    assert_fails(
        &context.run(["gate", "unknown-layer"]),
        5,
        &["application/vnd.example.layer"],
    );

    let layout = Layout::new(&context, "not-json");
    let rubbish = layout.add_bytes(MANIFEST, b"{\"schemaVersion\": 2, ");
    layout.finish(&[rubbish]);
    let digest = Digest::sha256(b"{\"schemaVersion\": 2, ").to_string();
    assert_fails(
        &context.run(["gate", "not-json"]),
        5,
        &[&digest, "cannot be parsed"],
    );
}

/// No digest can contain itself, so the cycle is one of names: an index whose blob lies.
#[test]
fn cli_index_that_contains_itself() {
    let context = reader();
    let layout = Layout::new(&context, "cycle");
    let claimed = Digest::sha256(b"claimed");
    let mut size = 0;
    let bytes = loop {
        let child = json!({"mediaType": INDEX, "digest": claimed.to_string(), "size": size});
        let text =
            json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [child]}).to_string();
        if text.len() == size {
            break text;
        }
        size = text.len();
    };
    fs::write(blob_path(&layout.dir, &claimed), &bytes).unwrap();
    layout.finish(&[json!({"mediaType": INDEX, "digest": claimed.to_string(), "size": size})]);
    assert_fails(&context.run(["gate", "cycle"]), 5, &[&claimed.to_string()]);

    // As deep as it likes, by digests that are right.
    let layout = Layout::new(&context, "deep");
    let mut root = layout.add(
        INDEX,
        &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": []}),
    );
    for _ in 0..200 {
        root = layout.add(
            INDEX,
            &json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [root]}),
        );
    }
    layout.finish(&[root]);
    assert_fails(&context.run(["gate", "deep"]), 5, &["nested more than"]);
}

/// Read into memory, they would be the end of a small runner.
#[test]
fn cli_documents_of_300_mb_are_not_read() {
    let context = reader();
    let image = ImageFixture::load("serve").build();
    let long = json!({"schemaVersion": 2, "padding": " "}).to_string();
    // Sparse: the padding is zero bytes, which no JSON has, but nobody gets so far.
    let inflate = |path: &Path| {
        fs::write(path, &long).unwrap();
        OpenOptions::new()
            .write(true)
            .open(path)
            .unwrap()
            .set_len(300_000_000)
            .unwrap();
    };
    image.write_oci_layout(&context.dir().join("index"), None);
    inflate(&context.dir().join("index/index.json"));
    image.write_oci_layout(&context.dir().join("manifest"), None);
    inflate(&blob_path(&context.dir().join("manifest"), &image.digest()));
    let mut index: Value =
        serde_json::from_slice(&fs::read(context.dir().join("manifest/index.json")).unwrap())
            .unwrap();
    index["manifests"][0]["size"] = json!(300_000_000);
    fs::write(context.dir().join("manifest/index.json"), index.to_string()).unwrap();
    for (source, what) in [
        ("index", "index.json".to_owned()),
        ("manifest", image.digest().to_string()),
    ] {
        let run = context.run(["gate", source]);
        assert_fails(&run, 5, &[&what, "300000000"]);
    }
}

/// Exit code, one `error: ` line, and every one of `words` in it or below it.
#[track_caller]
fn assert_fails(run: &Finished, code: i32, words: &[&str]) {
    run.assert_code(code);
    assert_eq!(run.stdout, "");
    let errors = run
        .stderr
        .lines()
        .filter(|line| line.starts_with("error: "))
        .count();
    assert_eq!(errors, 1, "`{}`: {}", run.command, run.stderr);
    for word in words {
        assert!(
            run.stderr.contains(word),
            "`{}`: no `{word}` in: {}",
            run.command,
            run.stderr
        );
    }
}

fn blob_path(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join("blobs/sha256").join(digest.hex())
}

/// A layout made by hand.
struct Layout {
    dir: PathBuf,
}

impl Layout {
    fn new(context: &Smokegate, name: &str) -> Self {
        let dir = context.dir().join(name);
        fs::create_dir_all(dir.join("blobs/sha256")).expect("making a layout");
        fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)
            .expect("making a layout");
        Self { dir }
    }

    /// Adds a blob; its descriptor.
    fn add_bytes(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::sha256(bytes);
        fs::write(blob_path(&self.dir, &digest), bytes).expect("writing a blob");
        json!({"mediaType": media_type, "digest": digest.to_string(), "size": bytes.len()})
    }

    fn add(&self, media_type: &str, document: &Value) -> Value {
        self.add_bytes(media_type, document.to_string().as_bytes())
    }

    /// An image with the configuration of `like` and these layers is the only root.
    fn finish_image(&self, like: &BuiltImage, layers: &Value) {
        let config = self.add_bytes(CONFIG, &like.config);
        let manifest =
            json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        let root = self.add(MANIFEST, &manifest);
        self.finish(&[root]);
    }

    fn finish(&self, roots: &[Value]) {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": roots});
        fs::write(self.dir.join("index.json"), index.to_string()).expect("writing the index");
    }
}

#[test]
fn rootless_an_image_of_260_layers_runs() {
    let Some(context) = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), RunAs::OrdinaryUser) else {
        return;
    };
    // More layers than descriptors fit into one message to the helper, and than overlayfs takes in one string.
    let mut text = "entrypoint: /probe-target serve\n".to_owned();
    for number in 0..259 {
        text.push_str(&format!("layer plain\nfile /n{number} 0644 0:0 {number}\n"));
    }
    text.push_str("layer plain\nfile /probe-target 0755 0:0 @probe-target\n");
    let image = context.archive("image", &ImageFixture::parse(&text).unwrap().build());
    let run = context.run(["gate", image.to_str().unwrap(), "--publish", "0:8080"]);
    run.assert_code(0);
    assert!(run.stderr.contains("layers: 260"), "{}", run.stderr);
}
