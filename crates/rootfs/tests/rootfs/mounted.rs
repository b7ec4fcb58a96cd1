//! What overlayfs makes of settled layers. Runs in a mount namespace of its own, as root or as the root of a user
//! namespace.

use std::path::Path;
use std::process::Command;

use smokegate_rootfs::{
    ErrorKind, MergedView, OverlayLayers, Owners, Policy, RootDir, apply_layer, copy_merged,
    mount_overlay, tree_dump,
};

use crate::layer::{Chain, Layer, policy};

fn chain() -> Chain {
    chain_in(&std::env::temp_dir())
}

fn chain_in(place: &Path) -> Chain {
    let base = Layer::new()
        .dir("usr", 0o755)
        .dir("usr/lib", 0o751)
        .file("usr/lib/old", 0o644, b"old")
        .file("usr/lib/tool", 0o4755, b"tool")
        .symlink("lib", "usr/lib")
        .dir("tmp", 0o1777)
        .dir("opaque", 0o700)
        .file("opaque/old", 0o644, b"")
        .dir("again", 0o755)
        .file("again/old", 0o644, b"")
        .pax("SCHILY.xattr.user.note", b"kept")
        .file("note", 0o444, b"");
    let middle = Layer::new()
        .file("lib/new", 0o644, b"new")
        .file("lib/.wh.old", 0, b"")
        .file("tmp/x", 0o600, b"")
        .hardlink("link", "lib/tool")
        .file("opaque/.wh..wh..opq", 0, b"")
        .file("opaque/new", 0o644, b"")
        .file(".wh.again", 0, b"")
        .file("again/new", 0o644, b"");
    let mut layers = vec![base, middle];
    // More than fit an option string.
    layers.extend((0..120).map(|n| Layer::new().file(format!("many/{n}"), 0o644, b"")));
    Chain::new_in(place, &layers)
}

/// Only run by the test below it, in a mount namespace that may be changed.
#[test]
#[ignore = "needs a mount namespace of its own"]
fn inside_mount_namespace() {
    let chain = chain();
    let dir = |name: &str| {
        let path = chain.temp.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let (upper, work, target) = (dir("upper"), dir("work"), dir("target"));
    let lowers = (0..chain.dirs.len())
        .rev()
        .map(|layer| chain.path(layer))
        .collect();
    let layers = OverlayLayers { lowers };
    mount_overlay(&layers, &upper, &work, &target).unwrap();
    let root = RootDir::open(&target).unwrap();
    let mounted = tree_dump(&MergedView::new(vec![&root])).unwrap();
    let merged = tree_dump(&chain.view()).unwrap();
    // The root is the upper directory's.
    let below_root = |dump: &str| dump.lines().skip(1).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(below_root(&mounted), below_root(&merged));
    assert!(mounted.contains("/usr/lib/new file"));

    std::fs::write(target.join("written"), "").unwrap();
    assert!(upper.join("written").exists());
    drop(root);
    rustix::mount::unmount(&target, rustix::mount::UnmountFlags::DETACH).unwrap();
}

/// Only run by the test below it, likewise.
#[test]
#[ignore = "needs a mount namespace of its own"]
fn full_disk() {
    let temp = tempfile::tempdir().unwrap();
    let options = Some(c"size=1m");
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("tmpfs", temp.path(), "tmpfs", flags, options).unwrap();
    let dir = RootDir::open(temp.path()).unwrap();
    let layer = Layer::new().file("dir/big", 0o644, &[1; 2 << 20]);
    let error = apply_layer(&dir, layer.reader(), &policy()).unwrap_err();
    assert_eq!(
        (error.kind(), error.is_disk_full()),
        (ErrorKind::Host, true),
        "{error}"
    );
    assert_eq!(error.to_string(), "cannot write `dir/big`");
    rustix::mount::unmount(temp.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
}

fn in_mount_namespace(test: &str) {
    let root = rustix::process::geteuid().is_root();
    let output = Command::new("unshare")
        .arg(if root { "-m" } else { "-Urm" })
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

#[test]
fn overlayfs_shows_what_the_merged_view_shows() {
    in_mount_namespace("mounted::inside_mount_namespace");
}

#[test]
fn a_full_disk_is_the_hosts_fault() {
    in_mount_namespace("mounted::full_disk");
}

#[test]
fn a_copy_is_what_the_merged_view_shows() {
    in_mount_namespace("mounted::copied_from_any_filesystem");
}

/// Only run by the test above it, likewise.
#[test]
#[ignore = "needs a mount namespace of its own"]
fn copied_from_any_filesystem() {
    let merged = |chain: &Chain| tree_dump(&chain.view()).unwrap();
    let temp = tempfile::tempdir().unwrap();
    // What overlayfs would be given.
    let plain = chain();
    assert!(plain.stats.iter().all(|stats| stats.portable_marks == 0));
    // Times of what no layer describes are the entries', so that the trees can be compared.
    let expected = merged(&plain);

    // Filesystems that refuse whiteouts or opaque directories.
    let dir = |name: &str| {
        let path = temp.path().join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let (lower, upper, work, overlay) = (dir("lower"), dir("upper"), dir("work"), dir("overlay"));
    let layers = OverlayLayers {
        lowers: vec![lower],
    };
    mount_overlay(&layers, &upper, &work, &overlay).unwrap();
    let ramfs = dir("ramfs");
    let flags = rustix::mount::MountFlags::empty();
    rustix::mount::mount("ramfs", &ramfs, "ramfs", flags, None).unwrap();
    for (place, keeps_xattrs) in [(&overlay, true), (&ramfs, false)] {
        let chain = chain_in(place);
        let marks: u64 = chain.stats.iter().map(|stats| stats.portable_marks).sum();
        assert!(marks > 0, "{}", place.display());
        let mut expected = expected.clone();
        if !keeps_xattrs {
            expected = expected.replace(" user.note=kept", "");
        }
        assert_eq!(merged(&chain), expected, "{}", place.display());
        assert_eq!(copied(&chain), expected, "{}", place.display());
    }
    assert_eq!(copied(&plain), expected);

    // With owners go the capabilities of files, which overlayfs shows as they are.
    let policy = Policy {
        owners: Owners::Keep,
        ..policy()
    };
    let capability = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let ping = Layer::new()
        .pax("SCHILY.xattr.security.capability", capability)
        .file("ping", 0o755, b"");
    let with_capability = Chain::try_new(&[ping], &policy).unwrap();
    assert!(with_capability.stats[0].unkept.is_empty());
    let dump = merged(&with_capability);
    assert!(dump.contains(" security.capability="), "{dump}");
    assert_eq!(copied(&with_capability), dump);
    drop(plain);
    for place in [overlay, ramfs] {
        rustix::mount::unmount(&place, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

/// The dump of a copy.
fn copied(chain: &Chain) -> String {
    let target = tempfile::tempdir().unwrap();
    let layers: Vec<_> = (0..chain.dirs.len())
        .rev()
        .map(|layer| chain.path(layer))
        .collect();
    copy_merged(&layers, target.path()).unwrap();
    let root = RootDir::open(target.path()).unwrap();
    tree_dump(&MergedView::new(vec![&root])).unwrap()
}
