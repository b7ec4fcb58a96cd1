//! Layers that mean harm: nothing outside the root changes, and the entry is named.

use smokegate_rootfs::{Error, ErrorKind, Limits, Policy, RootDir, apply_layer};

use crate::layer::{Chain, Layer, policy};

/// A canary beside the root, with the outcome of applying `layer`.
fn apply_beside_canary(layer: &Layer, policy: &Policy) -> Result<(), Error> {
    let temp = tempfile::tempdir().unwrap();
    std::fs::write(temp.path().join("canary"), "alive").unwrap();
    std::fs::create_dir(temp.path().join("root")).unwrap();
    let dir = RootDir::open(&temp.path().join("root")).unwrap();
    let result = apply_layer(&dir, layer.tar().as_slice(), policy)
        .and_then(|applied| smokegate_rootfs::settle(&dir, applied, &[], policy));
    let names: Vec<_> = std::fs::read_dir(temp.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert_eq!(
        std::fs::read_to_string(temp.path().join("canary")).unwrap(),
        "alive"
    );
    let parent = RootDir::open(temp.path()).unwrap();
    smokegate_rootfs::remove_tree(std::os::fd::AsFd::as_fd(&parent), b"root").unwrap();
    result.map(drop)
}

#[test]
fn refused_entries_are_named() {
    let cases = [
        (
            Layer::new().file("../canary", 0o644, b""),
            "entry `../canary`: its name has a `..` component",
        ),
        (
            Layer::new().file("a/../../canary", 0o644, b""),
            "entry `a/../../canary`: its name has a `..`",
        ),
        (
            Layer::new().hardlink("x", "../canary"),
            "entry `x`: its name has a `..`",
        ),
        (
            Layer::new().hardlink("x", "/"),
            "entry `x`: its hard link target `/` is a directory",
        ),
        (
            Layer::new().file("f", 0o644, b"").file("f/x", 0o644, b""),
            "entry `f/x`: its parent `f` is not",
        ),
        (
            Layer::new().symlink("l", "l").file("l/x", 0o644, b""),
            "entry `l/x`: more than 40 symlinks",
        ),
        (
            Layer::new().file("d/.wh.", 0o644, b""),
            "entry `d/.wh.`: a whiteout must name a file",
        ),
        (
            Layer::new().file("d/.wh...", 0o644, b""),
            "entry `d/.wh...`: a whiteout must name a file",
        ),
        (
            Layer::new().raw(b'Z', "x", "", 0, b""),
            "entry `x`: unknown entry type `Z`",
        ),
        (
            Layer::new().file("/.", 0, b"x"),
            "entry `/.`: only a directory can be named `/`",
        ),
        (
            Layer::new().symlink("x", ""),
            "entry `x`: it is a link with an empty target",
        ),
        (
            Layer::new().pax("path", b"a\0b").file("x", 0, b""),
            "its name, link target or attribute name has a NUL",
        ),
        (
            Layer::new().file("n".repeat(300), 0, b""),
            "a component of its name is too long",
        ),
        (
            Layer::new().pax("size", b"-1").file("x", 0, b""),
            "entry `x`: bad size in its header",
        ),
        (
            Layer::new().pax("uid", b"4294967295").file("x", 0, b""),
            "entry `x`: bad owner in its header",
        ),
    ];
    for (layer, expected) in cases {
        let error = apply_beside_canary(&layer, &policy()).expect_err(expected);
        assert!(
            error.to_string().contains(expected),
            "{error} is not {expected}"
        );
        assert_eq!(error.kind(), ErrorKind::Image, "{error}");
    }
}

#[test]
fn symlinks_lead_nowhere_outside() {
    let layers = [
        Layer::new().symlink("l", "/").file("l/canary", 0o644, b"x"),
        Layer::new()
            .symlink("l", "..")
            .file("l/canary", 0o644, b"x"),
        Layer::new()
            .symlink("l", "../../../..")
            .file("l/canary", 0o644, b"x"),
        Layer::new()
            .symlink("a", "b/..")
            .symlink("b", "..")
            .file("a/canary", 0o644, b"x"),
        Layer::new()
            .symlink("l", "../canary")
            .file("l", 0o644, b"x"),
        Layer::new()
            .symlink("l", "../canary")
            .hardlink("h", "l")
            .file("h", 0o644, b"x"),
        Layer::new()
            .dir("d", 0o755)
            .symlink("d", "..")
            .file("d/canary", 0o644, b"x"),
        Layer::new()
            .symlink("p", "/proc/self/cwd")
            .file("p/canary", 0o644, b"x"),
        Layer::new().symlink("d", "..").dir("d", 0o777),
        Layer::new()
            .symlink("l", "..")
            .file("l/.wh.canary", 0o644, b""),
        Layer::new()
            .symlink("l", "..")
            .file("l/.wh..wh..opq", 0o644, b""),
    ];
    for layer in layers {
        apply_beside_canary(&layer, &policy()).unwrap();
    }
}

#[test]
fn limits_name_the_entry() {
    let limits = Limits {
        entries: 3,
        total_bytes: 64 << 10,
        file_bytes: 1 << 10,
        path_bytes: 40,
        path_depth: 4,
        header_bytes: 8 << 10,
        xattr_bytes: 1 << 10,
    };
    let policy = Policy { limits, ..policy() };
    let many = (0..4).fold(Layer::new(), |layer, n| {
        layer.file(format!("f{n}"), 0o644, b"")
    });
    let cases = [
        (
            many,
            "entry `f3`: the number of entries up to it is over the limit of 3",
        ),
        (
            Layer::new().file("big", 0, &[0; 1025]),
            "entry `big`: its size is over the limit of 1024",
        ),
        (
            Layer::new().file("a/b/c/d/e", 0, b""),
            "entry `a/b/c/d/e`: the depth of its name is over",
        ),
        (
            Layer::new().file("n".repeat(41), 0, b""),
            "the length of its name is over the limit of 40",
        ),
        (
            Layer::new().symlink("l", "x/y/z").file("l/1/2", 0, b""),
            "entry `l/1/2`: the depth of its path is over the limit of 4",
        ),
        (
            Layer::new()
                .pax("SCHILY.xattr.user.x", &[b'x'; 1200])
                .file("x", 0, b""),
            "entry `x`: the size of its extended attributes is over the limit of 1024",
        ),
        (
            Layer::new().pax("comment", &[b'x'; 9000]).file("x", 0, b""),
            "its extended header is over the limit of 8192",
        ),
        (
            Layer::new().bytes(&[]).file(".wh.x", 0, &[0; 70 << 10]),
            "over the limit on its total size",
        ),
    ];
    for (layer, expected) in cases {
        let error = apply_beside_canary(&layer, &policy).expect_err(expected);
        assert!(
            error.to_string().contains(expected),
            "{error} is not {expected}"
        );
    }
}

#[test]
fn a_sparse_file_of_ten_terabytes_is_refused_before_it_is_made() {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..4].copy_from_slice(b"huge");
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(0);
    header.as_gnu_mut().unwrap().set_real_size(10 << 40);
    header.set_cksum();
    let error = apply_beside_canary(&Layer::new().bytes(header.as_bytes()), &policy()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("entry `huge`: its size is over the limit"),
        "{error}"
    );
}

#[test]
fn broken_streams() {
    let whole = Layer::new().file("x", 0o644, &[7; 2000]).tar();
    let mut checksum = whole.clone();
    checksum[148] = b'9';
    let cases: [(&[u8], &str); 4] = [
        (
            &whole[..100],
            "not a valid tar stream at byte 0: it ends within a header",
        ),
        (
            &whole[..1000],
            "not a valid tar stream at byte 1000: it ends within a file",
        ),
        (
            &checksum,
            "not a valid tar stream at byte 512: header checksum mismatch",
        ),
        (
            &[b'!'; 5000],
            "not a valid tar stream at byte 512: header checksum mismatch",
        ),
    ];
    for (bytes, expected) in cases {
        let temp = tempfile::tempdir().unwrap();
        let dir = RootDir::open(temp.path()).unwrap();
        let error = apply_layer(&dir, bytes, &policy()).expect_err(expected);
        assert_eq!(error.to_string(), expected);
        assert_eq!(error.kind(), ErrorKind::Image);
    }
}

#[test]
fn names_in_errors_cannot_act_on_a_terminal() {
    let error = Chain::try_new(&[Layer::new().file("\x1b[2J/../x", 0, b"")], &policy())
        .err()
        .unwrap();
    assert!(
        error.to_string().starts_with("entry `\\u{1b}[2J/../x`"),
        "{error}"
    );
}
