//! Any bytes as a layer on top of a small one.
//!
//! - No panic, no overflow, no endless loop; the stream is read to its end where it is accepted.
//! - Nothing beside the layer's directory changes, neither content nor metadata.
//! - What goes wrong is the image's fault, never the machine's, and the message says so in printable characters.
//! - A layer that is accepted has a tree without overlayfs marks of its own making, and gives the same tree again.

use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use smokegate_rootfs::{
    Error, ErrorKind, Limits, MergedView, Owners, Policy, RootDir, apply_layer, remove_tree,
    settle, tree_dump,
};

/// Runs the checks; panics where one fails. The checksums of what looks like headers are put right first.
pub fn check(data: &[u8]) {
    let layer = super::tar::with_checksums(data);
    let temp = tempfile::tempdir().expect("a temporary directory");
    let canary = temp.path().join("canary");
    std::fs::write(&canary, "alive").expect("a canary");
    let before = look(temp.path());

    let first = unpack(temp.path(), &layer);
    if let Ok(first) = &first {
        assert_eq!(
            before,
            look(temp.path()),
            "something beside the root changed"
        );
        let again = unpack(temp.path(), &layer).expect("accepted once, refused again");
        assert_eq!(*first, again, "two trees of one layer");
    }
    assert_eq!(
        before,
        look(temp.path()),
        "something beside the root changed"
    );
    if let Err(error) = first {
        assert_eq!(error.kind(), ErrorKind::Image, "{error:?}");
        let text = error.to_string();
        assert!(!text.chars().any(char::is_control), "{text:?}");
    }
}

/// All that tells whether something outside was touched.
fn look(dir: &Path) -> Vec<(String, u64, u64, i64, i64)> {
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .expect("the directory")
        .map(|entry| {
            entry
                .expect("an entry")
                .file_name()
                .into_string()
                .expect("a name")
        })
        .collect();
    names.sort();
    let row = |name: String| {
        let stat = dir.join(&name).symlink_metadata().expect("a file");
        (
            name,
            stat.ino(),
            stat.nlink(),
            stat.ctime(),
            stat.ctime_nsec(),
        )
    };
    names.into_iter().map(row).collect()
}

fn unpack(temp: &Path, layer: &[u8]) -> Result<String, Error> {
    let policy = Policy {
        owners: Owners::Ignore,
        limits: Limits {
            entries: 2000,
            total_bytes: 4 << 20,
            file_bytes: 8 << 20,
            ..Limits::default()
        },
    };
    let store = temp.join("store");
    std::fs::create_dir(&store).expect("the store");
    let result = (|| {
        let lower = directory(&store.join("lower"));
        let base = super::tar::base_layer();
        let applied = apply_layer(&lower, base.as_slice(), &policy)?;
        settle(&lower, applied, &[], &policy)?;
        let upper = directory(&store.join("upper"));
        let mut reader = layer;
        let applied = apply_layer(&upper, reader.by_ref(), &policy)?;
        assert!(reader.is_empty(), "not read to its end");
        settle(&upper, applied, &[&lower], &policy)?;
        // Root sees every tree; others not those whose modes forbid it.
        match tree_dump(&MergedView::new(vec![&upper, &lower])) {
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(String::new()),
            // Owners are the same for all; times of directories nobody described are not compared.
            dump => Ok(dump.expect("a tree that can be read")),
        }
    })();
    let parent = RootDir::open(temp).expect("the directory");
    remove_tree(parent.as_fd(), b"store").expect("a tree that can be removed");
    result
}

fn directory(path: &Path) -> RootDir {
    std::fs::create_dir(path).expect("a directory");
    RootDir::open(path).expect("a directory")
}
