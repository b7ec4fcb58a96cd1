//! Trees that are hard to remove.

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;

use smokegate_rootfs::{RootDir, remove_tree};

#[test]
fn closed_directories_and_great_depth() {
    let temp = tempfile::tempdir().unwrap();
    let top = temp.path().join("top");
    std::fs::create_dir(&top).unwrap();
    // Deeper than a process has descriptors, and than a path can be long.
    let mut dir = RootDir::open(&top).unwrap();
    for _ in 0..3000 {
        rustix::fs::mkdirat(&dir, "d", rustix::fs::Mode::RWXU).unwrap();
        dir = RootDir::from(dir.lookup("d".as_ref(), rustix::fs::OFlags::PATH).unwrap());
    }
    std::fs::create_dir(top.join("closed")).unwrap();
    std::fs::write(top.join("closed/file"), "").unwrap();
    for mode in [0o000, 0o555] {
        let path = top.join("closed").join(mode.to_string());
        std::fs::create_dir_all(path.join("inner")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
    }
    std::fs::set_permissions(top.join("closed"), PermissionsExt::from_mode(0o000)).unwrap();
    std::os::unix::fs::symlink(temp.path(), top.join("link")).unwrap();
    std::fs::write(temp.path().join("canary"), "").unwrap();

    let parent = RootDir::open(temp.path()).unwrap();
    remove_tree(parent.as_fd(), b"top").unwrap();
    assert!(!top.exists());
    assert!(temp.path().join("canary").exists());
    remove_tree(parent.as_fd(), b"top").unwrap();
}
