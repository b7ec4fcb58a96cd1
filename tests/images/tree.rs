//! The tree that a container sees is the one that umoci unpacks: paths, types, modes, owners, times, link targets,
//! hard links, extended attributes and contents.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use smokegate_test_support::{
    BuiltImage, ImageFixture, Need, Packing, RunAs, fixture_dir, probe_target, program, require,
};

use super::{Host, Level, Storage};

/// What a container has of its own at these places, as under Docker.
const OF_THE_CONTAINER: [&str; 7] = [
    "/dev",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/mtab",
    "/etc/resolv.conf",
    "/proc",
    "/sys",
];

/// One line of the probe target's `tree`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    kind: String,
    mode: String,
    owner: String,
    mtime: String,
    content: String,
    first_name: String,
    attributes: String,
}

pub(super) type Tree = BTreeMap<String, File>;

fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Tree {
    let file = |line: &str| {
        let mut fields = line.split('\t').map(str::to_owned);
        let mut next = || fields.next().unwrap_or_default();
        let path = next();
        let file = File {
            kind: next(),
            mode: next(),
            owner: next(),
            mtime: next(),
            content: next(),
            first_name: next(),
            attributes: next(),
        };
        (path, file)
    };
    lines.into_iter().map(file).collect()
}

/// Unpacks as root with umoci, and walks that.
pub(super) fn of_umoci(image: &BuiltImage) -> Tree {
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (layout, bundle) = (dir.path().join("layout"), dir.path().join("bundle"));
    image.write_oci_layout(&layout, Some("v1"));
    let output = program("umoci")
        .args(["unpack", "--image", &format!("{}:v1", layout.display())])
        .arg(&bundle)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let mut tree = walked(&bundle.join("rootfs"));
    // A directory that no layer has an entry for; its time is in no layer either.
    for file in tree.values_mut().filter(|file| file.kind == "dir") {
        let seconds = file.mtime.split('.').next().unwrap_or_default();
        if seconds.parse::<u64>().unwrap() >= started.as_secs() {
            file.mtime.clear();
        }
    }
    tree
}

fn walked(root: &Path) -> Tree {
    let mut command = RunAs::Root.command(probe_target());
    command.arg("tree").arg(root).args(OF_THE_CONTAINER);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    parse(str::from_utf8(&output.stdout).unwrap().lines())
}

/// What a container sees, told by the probe target in it.
fn seen_inside(host: &Host, storage: Storage) -> Tree {
    // As root whatever the image's USER is: every file must be readable.
    // A HEALTHCHECK could pass before all is told.
    let mut arguments = vec!["--user", "0", "--http", "/never-passes"];
    arguments.extend(["--entrypoint", "/probe-target"]);
    arguments.extend(["--", "tree", "/"]);
    arguments.extend(OF_THE_CONTAINER);
    let run = host.gate_on(storage, &arguments);
    run.assert_code(1); // it says what was asked and ends
    let log = host.context().app_log();
    parse(log.iter().map(String::as_str))
}

/// The differences that are not explained, one line each.
fn differences(image: &BuiltImage, level: Level, theirs: &Tree, ours: &Tree) -> Vec<String> {
    let made = made_for_the_container(image);
    let paths: BTreeSet<_> = theirs.keys().chain(ours.keys()).collect();
    let mut lines = Vec::new();
    for path in paths {
        let (umoci, inside) = (theirs.get(path), ours.get(path));
        let (Some(umoci), Some(inside)) = (umoci, inside) else {
            let device = umoci.is_some_and(|file| matches!(&*file.kind, "char" | "block"));
            // Nobody but root can make a device node.
            let explained = made.contains(path) || device && level != Level::Root;
            if !explained {
                lines.push(format!("{path}: umoci {umoci:?}, inside {inside:?}"));
            }
            continue;
        };
        let mut umoci = umoci.clone();
        // Files were made in it after it was unpacked.
        if made.contains(path) || umoci.mtime.is_empty() {
            umoci.mtime.clone_from(&inside.mtime);
        }
        if level == Level::Single {
            // There is one owner, and no capability of a file means anything to it.
            umoci.owner.clone_from(&inside.owner);
            umoci.attributes = without_capability(&umoci.attributes);
        }
        if umoci != *inside {
            lines.push(format!("{path}: umoci {umoci:?}, inside {inside:?}"));
        }
    }
    lines
}

fn without_capability(attributes: &str) -> String {
    let kept = attributes.split(' ');
    let kept: Vec<_> = kept
        .filter(|attribute| !attribute.starts_with("security.capability="))
        .collect();
    kept.join(" ")
}

/// WORKDIR and volumes, and the directories that these and the container's own files lie in.
fn made_for_the_container(image: &BuiltImage) -> BTreeSet<String> {
    let config: serde_json::Value = serde_json::from_slice(&image.config).unwrap();
    let config = &config["config"];
    let volumes = config["Volumes"].as_object();
    let volumes = volumes
        .into_iter()
        .flat_map(|volumes| volumes.keys().map(String::as_str));
    let mut made: BTreeSet<_> = OF_THE_CONTAINER.map(|own| parent(own).to_owned()).into();
    for path in volumes.chain(config["WorkingDir"].as_str()) {
        let mut path = path;
        while !path.is_empty() {
            made.insert(path.to_owned());
            path = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        }
    }
    made
}

fn parent(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((parent, _)) => parent,
    }
}

/// umoci knows no zstd: the same tar in a gzip stream.
fn for_umoci(mut fixture: ImageFixture) -> ImageFixture {
    for layer in &mut fixture.layers {
        if layer.packing == Packing::Zstd {
            layer.packing = Packing::Gzip;
        }
    }
    fixture
}

/// Fails the test with every difference at this level.
pub(super) fn assert_same(
    name: &str,
    image: &BuiltImage,
    theirs: &Tree,
    host: &Host,
    storage: Storage,
) {
    let ours = seen_inside(host, storage);
    assert!(!theirs.is_empty() && !ours.is_empty(), "{name}");
    let found = differences(image, host.level, theirs, &ours);
    assert!(
        found.is_empty(),
        "{name} at level {:?} by {storage:?}: {} of {} files differ:\n{}",
        host.level,
        found.len(),
        theirs.len(),
        found[..found.len().min(40)].join("\n")
    );
}

#[test]
fn root_tree_of_every_fixture_is_umocis_at_every_level() {
    if !(require(Need::Root) && require(Need::Umoci)) {
        return;
    }
    let mut names: Vec<_> = std::fs::read_dir(fixture_dir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    let mut compared = 0;
    for name in names {
        let fixture = ImageFixture::load(&name);
        // Those on Debian packages are compared with them, in `serving.rs`.
        if fixture.debian.is_some() {
            continue;
        }
        let image = fixture.build();
        let theirs = of_umoci(&for_umoci(fixture).build());
        for level in Level::ALL {
            let Some(host) = Host::new(level, &image) else {
                return;
            };
            for storage in Storage::ALL {
                assert_same(&name, &image, &theirs, &host, storage);
            }
        }
        compared += 1;
    }
    assert!(compared > 20, "{compared}");
}
