//! Every hostile layer of fixtures/hostile comes out as its first line says, and nothing beside the root changes.

use std::fmt::Write as _;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use smokegate_image::{Compression, Content, DiffId, Digest, LayerDigest, LayerTar};
use smokegate_rootfs::{
    Error, ErrorKind, MergedView, Owners, Policy, RootDir, Stats, apply_layer, remove_tree, settle,
    tree_dump,
};

use crate::hostile_fixture::{self, HostileFixture, HostileLayer};

/// Where layers are unpacked, two levels below the directory that has the canary: `../../canary` of a root.
const STORE: &str = "store/layers";

/// What a layer could change beside the root: contents and all metadata, also those that only a change of the
/// inode tells (links, attributes, modes that were put back).
fn canary(dir: &Path) -> String {
    let root = RootDir::open(dir).unwrap();
    let mut text = tree_dump(&MergedView::new(vec![&root])).unwrap();
    for name in [
        "",
        "file",
        "dir",
        "dir/inner",
        "link",
        "closed",
        "empty",
        "..",
    ] {
        let stat = dir.join(name).symlink_metadata().unwrap();
        let changed = (stat.ctime(), stat.ctime_nsec());
        let _ = write!(
            text,
            "\n{name}: {} {} {changed:?}",
            stat.ino(),
            stat.nlink()
        );
    }
    text
}

fn plant_canary(dir: &Path) {
    let write = |name: &str| std::fs::write(dir.join(name), name).unwrap();
    std::fs::create_dir_all(dir.join("dir")).unwrap();
    std::fs::create_dir(dir.join("empty")).unwrap();
    write("file");
    write("dir/inner");
    write("closed");
    std::os::unix::fs::symlink("file", dir.join("link")).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o400);
    std::fs::set_permissions(dir.join("closed"), mode).unwrap();
}

fn tar(layer: &HostileLayer, fixture: &HostileFixture) -> LayerTar {
    let stored = layer.stored.as_slice();
    LayerTar::new(
        Content::Bytes(Arc::from(stored)),
        LayerDigest(Digest::sha256(stored)),
        stored.len() as u64,
        DiffId(Digest::sha256(&layer.tar)),
        Compression::sniff(stored),
        &fixture.image_limits,
    )
    .unwrap()
}

/// The tree and what was left out, or the error and its causes.
fn outcome(fixture: &HostileFixture, store: &Path, owners: Owners) -> Result<String, Error> {
    let policy = Policy {
        owners,
        limits: fixture.limits.clone(),
    };
    let mut dirs: Vec<RootDir> = Vec::new();
    let mut stats: Vec<Stats> = Vec::new();
    for (index, layer) in fixture.layers.iter().enumerate() {
        let path = store.join(index.to_string());
        std::fs::create_dir(&path).unwrap();
        let dir = RootDir::open(&path).unwrap();
        let mut tar = tar(layer, fixture);
        let applied = apply_layer(&dir, tar.by_ref(), &policy)?;
        assert!(tar.is_verified(), "{}: not read to its end", fixture.name);
        let lowers: Vec<&RootDir> = dirs.iter().rev().collect();
        stats.push(settle(&dir, applied, &lowers, &policy)?);
        dirs.push(dir);
    }
    let dump = tree_dump(&MergedView::new(dirs.iter().rev().collect())).unwrap();
    let mut parts: Vec<String> = dump.lines().skip(1).map(shorten).collect();
    for stats in stats {
        for (cause, count) in stats.unkept {
            let cause = serde_json::to_value(cause).unwrap();
            parts.push(format!("left out: {count} {}", cause.as_str().unwrap()));
        }
    }
    if parts.is_empty() {
        parts.push("nothing".to_owned());
    }
    Ok(format!("applied: {}", parts.join("; ")))
}

/// Leaves out owner and zero times, and shortens digests.
fn shorten(line: &str) -> String {
    let words = line.split(' ').enumerate();
    let words = words.filter(|(index, word)| *index != 3 && *word != "0.000000000");
    let words = words.map(|(_, word)| match word.strip_prefix("sha256:") {
        Some(digest) => format!("#{}", &digest[..8]),
        None => word.to_owned(),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn chain(error: &Error) -> String {
    let mut text = format!("refused: {error}");
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let _ = write!(text, ": {error}");
        cause = error.source();
    }
    text
}

/// Says `{canary}` for the canary's path, and leaves out the directories that lead there.
fn without_path(got: &str, path: &str) -> String {
    let mut got = got.to_owned();
    let parents = Path::new(path).ancestors().skip(1);
    for parent in parents {
        got = got.replace(&format!("; {} dir 0755", parent.display()), "");
    }
    got.replace(path, "{canary}")
        .replace(&path[1..], "{canary}")
}

/// `…` in what is expected stands for anything.
fn fits(expected: &str, got: &str) -> bool {
    let mut parts = expected.split('…');
    let Some(mut rest) = parts
        .next()
        .and_then(|first| got.strip_prefix(first.trim_end()))
    else {
        return false;
    };
    for part in parts {
        match rest.find(part.trim()) {
            Some(at) => rest = &rest[at + part.trim().len()..],
            None => return false,
        }
    }
    rest.is_empty() || expected.ends_with('…')
}

#[test]
fn every_hostile_layer_comes_out_as_it_says() {
    let temp = tempfile::tempdir().unwrap();
    let beside = temp.path().join("canary");
    plant_canary(&beside);
    let store = temp.path().join(STORE);
    std::fs::create_dir_all(&store).unwrap();
    let before = canary(&beside);
    // Whoever may make a device node gets those of a layer.
    let privileged = rustix::fs::mknodat(
        rustix::fs::CWD,
        temp.path().join("node"),
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::RUSR,
        rustix::fs::makedev(1, 3),
    )
    .map(|()| std::fs::remove_file(temp.path().join("node")).unwrap())
    .is_ok();
    let before = if privileged { canary(&beside) } else { before };

    let fixtures = hostile_fixture::all(&beside);
    assert!(fixtures.len() >= 100, "{} fixtures", fixtures.len());
    let mut wrong = String::new();
    for fixture in &fixtures {
        for owners in [Owners::Ignore, Owners::Keep] {
            let result = outcome(fixture, &store, owners);
            if let Err(error) = &result
                && error.kind() != ErrorKind::Image
            {
                let name = &fixture.name;
                let _ = writeln!(wrong, "{name}: not the image's fault: {}", chain(error));
            }
            let got = result.unwrap_or_else(|error| chain(&error));
            let got = without_path(&got, beside.to_str().unwrap());
            let expected = match &fixture.unprivileged {
                Some(other) if !privileged => other,
                _ => &fixture.outcome,
            };
            // Which owners and capabilities can be kept depends on who runs this.
            let same = match owners {
                Owners::Ignore => fits(expected, &got),
                Owners::Keep => got.get(..7) == expected.get(..7),
            };
            if !same {
                let name = &fixture.name;
                let _ = writeln!(wrong, "{name} ({owners:?}):\n  # {expected}\n  # {got}");
            }
            let parent = RootDir::open(&temp.path().join("store")).unwrap();
            remove_tree(parent.as_fd(), b"layers").unwrap();
            assert_eq!(canary(&beside), before, "{}", fixture.name);
            let mut names: Vec<_> = [temp.path(), &temp.path().join("store")]
                .iter()
                .flat_map(|dir| std::fs::read_dir(dir).unwrap())
                .map(|entry| entry.unwrap().file_name())
                .collect();
            names.sort();
            assert_eq!(names, ["canary", "store"], "{}", fixture.name);
            std::fs::create_dir(&store).unwrap();
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
