//! Broken images have the findings that their recipes expect, and no others; images that run have no error or warning.

use std::fs;
use std::io::{BufReader, Read};
use std::path::Path;

use smokegate_image::{Image, ImageSource, Layer, OpenOptions};
use smokegate_lint::{Finding, ImageTree, LayerIndex, Severity, Subject, lint};
use smokegate_rootfs::Limits;
use smokegate_test_support::{
    BuiltImage, Entry, EntryKind, FileContent, ImageFixture, LayerContent, Need, debian_image,
    fixture_dir, require,
};

/// Layers below this size are read in small pieces too.
const IN_PIECES: usize = 4 << 20;

fn findings(image: &BuiltImage) -> Vec<Finding> {
    findings_on(image, None)
}

/// On a machine of this level of x86-64.
fn findings_on(image: &BuiltImage, cpu_level: Option<u8>) -> Vec<Finding> {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("image.tar");
    image.write_oci_archive(&archive, None);
    let mut options = OpenOptions::new(dir.path().to_owned());
    options.require_platform = false;
    let image = Image::open(&ImageSource::Path(archive), &options).unwrap();
    let image = image.selected();
    let mut tree = ImageTree::default();
    for layer in &image.layers {
        tree.add(index(layer));
    }
    lint(&Subject {
        cpu_level,
        ..Subject::new(&tree, &image.config)
    })
}

/// The index of a layer, which is the same however its bytes come.
fn index(layer: &Layer) -> LayerIndex {
    let mut tar = Vec::new();
    layer.open_tar().unwrap().read_to_end(&mut tar).unwrap();
    let index = LayerIndex::read(&tar[..], &Limits::default()).unwrap();
    if tar.len() < IN_PIECES {
        for size in [64, 1000] {
            let pieces = BufReader::with_capacity(size, &tar[..]);
            let other = LayerIndex::read(pieces, &Limits::default()).unwrap();
            assert!(other == index, "in pieces of {size}");
        }
    }
    index
}

fn recipes(dir: &Path) -> Vec<(String, String)> {
    let files = fs::read_dir(dir).unwrap();
    let mut recipes: Vec<_> = files
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, fs::read_to_string(path).unwrap())
        })
        .collect();
    recipes.sort();
    recipes
}

#[test]
fn broken_images_have_the_findings_they_expect() {
    let mut wrong = Vec::new();
    let recipes = recipes(&fixture_dir().join("../broken"));
    for (name, text) in &recipes {
        let head = |key: &str| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(key));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        let (expected, says) = (head("# expect: "), head("# says: "));
        assert!(
            !expected.is_empty() && expected.len() == says.len(),
            "{name}: its head"
        );
        let found = findings(&ImageFixture::parse(text).unwrap().build());
        let is_said = |(at, finding): (usize, &Finding)| {
            expected
                .get(at)
                .is_some_and(|id| *id == format!("{} {}", finding.severity, finding.id))
                && finding.message.starts_with(&says[at])
                && !finding.fix.is_empty()
                && !finding.evidence.is_empty()
        };
        if found.len() != expected.len() || !found.iter().enumerate().all(is_said) {
            wrong.push(format!("{name}: {found:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(recipes.len() >= 60, "{}", recipes.len());
}

#[test]
fn sound_images_have_no_alarm() {
    let recipes = recipes(&fixture_dir().join("../sound"));
    for (name, text) in &recipes {
        assert_no_alarm(name, &ImageFixture::parse(text).unwrap().build());
    }
    assert!(recipes.len() >= 20, "{}", recipes.len());
}

#[test]
fn images_that_run_have_no_alarm() {
    let mut count = 0;
    for (name, text) in recipes(&fixture_dir()) {
        let fixture = ImageFixture::parse(&text).unwrap();
        if fixture.debian.is_some() || name == "entrypoint-missing" {
            continue;
        }
        count += 1;
        assert_no_alarm(&name, &fixture.build());
    }
    assert!(count >= 15, "{count}");
}

#[test]
fn root_debian_images_have_no_alarm() {
    if !require(Need::Mmdebstrap) {
        return;
    }
    for name in [
        "debian-nginx",
        "debian-nginx-user",
        "debian-redis",
        "debian-setpriv",
        "debian-python",
        "debian-node",
        "debian-postgres",
        "debian-busybox",
        "debian-git",
        "debian-java",
    ] {
        assert_no_alarm(name, &debian_image(name));
    }
}

/// The linker of this machine writes what level a program needs.
#[test]
fn a_program_for_a_newer_cpu_is_an_error_on_an_older_one() {
    if !cfg!(target_arch = "x86_64") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("source.c"), "void _start(void) {}").unwrap();
    let built = std::process::Command::new("cc")
        .args(["source.c", "-o", "program", "-static", "-nostdlib"])
        .arg("-Wl,-z,x86-64-v3")
        .current_dir(&dir)
        .output()
        .unwrap();
    assert!(built.status.success(), "{built:?}");
    let bytes = fs::read(dir.path().join("program")).unwrap();
    let mut image = ImageFixture::parse("entrypoint: /app\n\nlayer\n").unwrap();
    if let LayerContent::Entries(entries) = &mut image.layers[0].content {
        entries.push(Entry {
            name: "app".to_owned(),
            kind: EntryKind::File(FileContent::Text(bytes)),
            mode: 0o755,
            uid: 0,
            gid: 0,
        });
    }
    let image = image.build();
    for (level, ids) in [
        (None, &[][..]),
        (Some(4), &[]),
        (Some(3), &[]),
        (Some(2), &["cpu-level"]),
        (Some(1), &["cpu-level"]),
    ] {
        let found = findings_on(&image, level);
        let found: Vec<_> = found.iter().map(|finding| finding.id).collect();
        assert_eq!(found, ids, "{level:?}");
    }
    let finding = &findings_on(&image, Some(2))[0];
    assert_eq!(
        finding.message,
        "`/app` needs a CPU of level x86-64-v3, and this machine's has x86-64-v2"
    );
}

fn assert_no_alarm(name: &str, image: &BuiltImage) {
    let findings = findings(image);
    let alarms: Vec<_> = findings
        .iter()
        .filter(|f| f.severity >= Severity::Warning)
        .collect();
    assert!(alarms.is_empty(), "{name}: {alarms:#?}");
}
