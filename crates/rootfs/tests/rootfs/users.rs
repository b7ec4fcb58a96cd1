//! The tests that need no privilege, once more without it. Root runs them as an ordinary user that has no subuid
//! range, and as that user alone in a user namespace, which is how most runs are.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

fn rerun(wrapper: &[&str], filter: &[&str]) {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    std::fs::set_permissions(temp.path(), PermissionsExt::from_mode(0o1777)).unwrap();
    let program = temp.path().join("rootfs-tests");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
    // The checkout may be closed to others.
    let fixtures = temp.path().join("hostile");
    std::fs::create_dir(&fixtures).unwrap();
    std::fs::set_permissions(&fixtures, PermissionsExt::from_mode(0o755)).unwrap();
    for entry in std::fs::read_dir(crate::hostile_fixture::directory()).unwrap() {
        let entry = entry.unwrap();
        let copy = fixtures.join(entry.file_name());
        std::fs::copy(entry.path(), &copy).unwrap();
        std::fs::set_permissions(&copy, PermissionsExt::from_mode(0o644)).unwrap();
    }
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .args(wrapper)
        .arg(&program)
        .args(filter)
        .env("TMPDIR", temp.path())
        .env("SMOKEGATE_HOSTILE_FIXTURES", &fixtures)
        .env_remove("NEXTEST")
        .current_dir(temp.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && !text.contains(" 0 passed"),
        "{text}"
    );
}

#[test]
fn as_an_ordinary_user() {
    rerun(&[], &["anyone::", "mounted::"]);
}

#[test]
fn as_the_only_user_of_a_namespace() {
    rerun(&["unshare", "-Ur"], &["anyone::"]);
}
