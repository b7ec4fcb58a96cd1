//! One layer in its own directory.

use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};

use smokegate_rootfs::{Owners, Policy, RootDir, Unkept, apply_layer};

use crate::layer::{Chain, Layer, Step, policy};

#[test]
fn types_modes_and_times() {
    let chain = Chain::new(&[Layer::new()
        .dir("./", 0o755)
        .dir("usr/", 0o755)
        .pax("mtime", b"1234.567890123")
        .file("usr/su", 0o4755, b"data")
        .dir("tmp", 0o1777)
        .pax("mtime", b"-1.5")
        .symlink("link", "../../etc/passwd")
        .raw(b'6', "pipe", "", 0o622, b"")
        .dir("closed", 0o000)
        .file("usr/readonly", 0o400, b"")
        .hardlink("same", "/usr/su")]);
    let closed = chain.path(0).join("closed").metadata().unwrap();
    assert_eq!(closed.mode() & 0o7777, 0);
    // The dump enters every directory.
    std::fs::set_permissions(
        chain.path(0).join("closed"),
        std::os::unix::fs::PermissionsExt::from_mode(0o700),
    )
    .unwrap();
    chain.assert_has(&[
        "/ dir 0755",
        "/usr dir 0755",
        "/tmp dir 1777",
        "/usr/su file 4755 1234.567890123 4 = /same",
        "/same file 4755 1234.567890123 4",
        "/usr/readonly file 0400 0",
        "/link symlink 0777 -2.500000000 -> ../../etc/passwd",
        "/pipe fifo 0622",
    ]);
}

#[test]
fn last_of_equal_names_wins() {
    let first: [Step; 3] = [
        |layer| layer.file("x", 0o644, b"old"),
        |layer| layer.dir("x", 0o755).file("x/inner", 0o644, b""),
        |layer| layer.symlink("x", "elsewhere"),
    ];
    let second: [(Step, &str); 4] = [
        (|layer| layer.file("x", 0o600, b"new!"), "/x file 0600 4"),
        (|layer| layer.symlink("x", "new"), "/x symlink 0777 -> new"),
        (|layer| layer.dir("x", 0o711), "/x dir 0711"),
        (
            |layer| layer.file("y", 0o600, b"y").hardlink("x", "y"),
            "/x file 0600 1",
        ),
    ];
    for first in first {
        for (second, expected) in second {
            let chain = Chain::new(&[second(first(Layer::new()))]);
            chain.assert_has(&[expected]);
            if expected != "/x dir 0711" {
                chain.assert_lacks(&["/x/inner"]);
            }
        }
    }
}

#[test]
fn a_hard_linked_file_is_replaced_and_not_written_through() {
    let layer = Layer::new()
        .file("a", 0o644, b"one")
        .hardlink("b", "a")
        .file("a", 0o644, b"three");
    Chain::new(&[layer]).assert_has(&["/a file 0644 5", "/b file 0644 3"]);
}

#[test]
fn names_are_bytes_and_may_be_long() {
    let long = ["d".repeat(200), "e".repeat(255), "f".repeat(255)].join("/");
    let gnu = {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        header.set_mode(0o777);
        header.set_mtime(crate::layer::MTIME);
        header.set_uid(0);
        header.set_gid(0);
        builder
            .append_link(&mut header, "g".repeat(150), "t".repeat(150))
            .unwrap();
        let mut bytes = builder.into_inner().unwrap();
        bytes.truncate(bytes.len() - 1024);
        bytes
    };
    let layer = Layer::new()
        .file(b"\xff\xfe\n", 0o644, b"1")
        .file(long.as_bytes(), 0o644, b"22")
        .file("///rooted", 0o644, b"333")
        .bytes(&gnu);
    let chain = Chain::new(&[layer]);
    chain.assert_has(&[
        "/\\xff\\xfe\\n file 0644 1",
        &format!("/{long} file 0644 2"),
        "/rooted file 0644 3",
        &format!("/{} symlink 0777 -> {}", "g".repeat(150), "t".repeat(150)),
    ]);
}

#[test]
fn pax_values_may_hold_newlines_and_records_of_their_own() {
    // A reader that splits at newlines would take the second line for the size of the file.
    let layer = Layer::new()
        .pax("SCHILY.xattr.user.note", b"line\n10 size=1\n")
        .file("x", 0o444, b"whole")
        .file("next", 0o644, b"");
    let chain = Chain::new(&[layer]);
    chain.assert_has(&[
        "/x file 0444 5 user.note=line\\n10 size=1\\n",
        "/next file 0644 0",
    ]);
}

#[test]
fn old_gnu_sparse_file_keeps_its_holes() {
    let mut header = tar::Header::new_gnu();
    header.as_old_mut().name[..6].copy_from_slice(b"sparse");
    header.set_entry_type(tar::EntryType::GNUSparse);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(crate::layer::MTIME);
    header.set_size(5);
    let gnu = header.as_gnu_mut().unwrap();
    gnu.set_real_size(1 << 30);
    gnu.sparse[0].set_offset(1 << 20);
    gnu.sparse[0].set_length(3);
    gnu.sparse[1].set_offset(1 << 29);
    gnu.sparse[1].set_length(2);
    header.set_cksum();
    let mut data = [0; 512];
    data[..5].copy_from_slice(b"abcde");
    let chain = Chain::new(&[Layer::new().bytes(header.as_bytes()).bytes(&data)]);
    let file = std::fs::File::open(chain.path(0).join("sparse")).unwrap();
    let metadata = file.metadata().unwrap();
    assert_eq!(metadata.len(), 1 << 30);
    assert!(metadata.blocks() < 1024, "{} blocks", metadata.blocks());
    let at = |offset, length: usize| {
        let mut bytes = vec![0; length];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut bytes, offset).unwrap();
        bytes
    };
    assert_eq!(
        (at((1 << 20) - 1, 5), at(1 << 29, 3)),
        (b"\0abc\0".to_vec(), b"de\0".to_vec())
    );
}

/// GNU tar is the one writer of these forms.
#[test]
fn every_form_of_sparse_file_that_gnu_tar_writes() {
    use std::os::unix::fs::FileExt;
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("sparse");
    let file = std::fs::File::create(&path).unwrap();
    // More pieces than a header of the old form holds.
    for piece in 0..40u64 {
        file.write_all_at(&[b'a' + piece as u8 % 26; 5000], piece * 1_000_000)
            .unwrap();
    }
    file.set_len(50 << 20).unwrap();
    let forms: [&[&str]; 4] = [
        &["--format=gnu"],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ];
    for form in forms {
        let output = std::process::Command::new("tar")
            .args(["--create", "--sparse"])
            .args(form)
            .args(["--file=-", "sparse"])
            .current_dir(temp.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        assert!(output.stdout.len() < 1 << 20, "{form:?} is not sparse");
        let root = temp.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let dir = RootDir::open(&root).unwrap();
        apply_layer(&dir, output.stdout.as_slice(), &policy()).unwrap();
        let unpacked = root.join("sparse");
        let blocks = unpacked.metadata().unwrap().blocks();
        assert!(blocks < 2048, "{form:?}: {blocks} blocks");
        let same = std::fs::read(&unpacked).unwrap() == std::fs::read(&path).unwrap();
        assert!(same, "{form:?}");
        std::fs::remove_dir_all(&root).unwrap();
    }
}

#[test]
fn what_cannot_be_kept_is_counted_by_cause() {
    let layer = Layer::new()
        .pax("SCHILY.xattr.user.overlay.opaque", b"y")
        .dir("d", 0o755)
        .pax("SCHILY.xattr.trusted.overlay.redirect", b"/etc")
        .dir("e", 0o755)
        .pax(
            "SCHILY.xattr.security.capability",
            b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        )
        .file("ping", 0o755, b"")
        .device("whiteout", 0, 0)
        .file("after", 0o644, b"");
    let base = Layer::new()
        .dir("d", 0o755)
        .file("d/kept", 0o644, b"")
        .file("whiteout", 0o644, b"");
    let chain = Chain::new(&[base, layer]);
    let unkept = &chain.stats[1].unkept;
    assert_eq!(unkept.get(&Unkept::OverlayXattr), Some(&2), "{unkept:?}");
    assert_eq!(unkept.get(&Unkept::Capability), Some(&1), "{unkept:?}");
    assert_eq!(unkept.get(&Unkept::WhiteoutDevice), Some(&1), "{unkept:?}");
    chain.assert_has(&[
        "/d/kept file 0644 0",
        "/whiteout file 0644 0",
        "/after file 0644 0",
    ]);
}

#[test]
fn whiteouts_take_overlayfs_form() {
    let chain = Chain::new(&[Layer::new()
        .file(".wh.gone", 0o644, b"")
        .dir("d", 0o755)
        .file("d/.wh..wh..opq", 0o644, b"")
        .file(".wh..wh.plnk", 0o644, b"")]);
    let gone = chain.path(0).join("gone").symlink_metadata().unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let d = std::fs::File::open(chain.path(0).join("d")).unwrap();
    let mut value = [0; 4];
    assert_eq!(
        rustix::fs::fgetxattr(&d, "user.overlay.opaque", &mut value[..]),
        Ok(1)
    );
    assert_eq!(value[0], b'y');
    assert!(!chain.path(0).join(".wh..wh.plnk").exists());
}

#[test]
fn recorded_owners_are_kept_or_counted() {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[0] = b'x';
    header.set_mode(0o4755);
    header.set_size(0);
    header.set_mtime(0);
    header.set_uid(12345);
    header.set_gid(23456);
    header.set_cksum();
    let policy = Policy {
        owners: Owners::Keep,
        ..policy()
    };
    let chain = Chain::try_new(&[Layer::new().bytes(header.as_bytes())], &policy).unwrap();
    let file = chain.path(0).join("x").metadata().unwrap();
    assert_eq!(file.mode() & 0o7777, 0o4755);
    match chain.stats[0].unkept.get(&Unkept::Owner) {
        None => assert_eq!((file.uid(), file.gid()), (12345, 23456)),
        Some(count) => assert_eq!(
            (*count, file.uid()),
            (1, rustix::process::geteuid().as_raw())
        ),
    }
}

#[test]
fn lookups_start_and_stop_at_the_root() {
    let chain = Chain::new(&[Layer::new()
        .dir("etc", 0o755)
        .file("etc/passwd", 0o644, b"layer's own")
        .symlink("absolute", "/etc/passwd")
        .symlink("climbing", "../../../../etc/passwd")]);
    let root = &chain.dirs[0];
    for name in ["/etc/passwd", "absolute", "climbing", "../etc/passwd"] {
        let fd = root
            .lookup(name.as_ref(), rustix::fs::OFlags::RDONLY)
            .unwrap();
        let text = std::io::read_to_string(std::fs::File::from(fd)).unwrap();
        assert_eq!(text, "layer's own", "{name}");
    }
}

#[test]
fn the_reader_is_read_to_its_end() {
    let layer = Layer::new().file("x", 0o644, b"");
    let temp = tempfile::tempdir().unwrap();
    let dir = RootDir::open(temp.path()).unwrap();
    let padded = [layer.tar(), vec![0; 9000]].concat();
    let mut reader = padded.as_slice();
    apply_layer(&dir, &mut reader, &policy()).unwrap();
    assert_eq!(reader.len(), 0);
    let _ = smokegate_rootfs::remove_tree(dir.as_fd(), b"x");
}
