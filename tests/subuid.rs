//! The isolation level with subordinate ids: an ordinary user with every id an image uses.
//!
//! The user exists only in a mount namespace of the test, where files of ours lie over /etc/passwd,
//! /etc/subuid and /etc/subgid; the host's newuidmap and newgidmap read those.

use std::path::Path;
use std::time::Duration;

use smokegate_test_support::{Finished, ImageFixture, Need, RunAs, Smokegate, require};

/// An id that no distribution hands out, with an entry in the passwd file of the test only.
pub(crate) const UID: u32 = 54323;
const FIRST: u32 = 300_000;

pub(crate) struct SubuidUser(pub(crate) Smokegate);

impl SubuidUser {
    pub(crate) fn new() -> Option<Self> {
        if !(require(Need::Root) && require(Need::Newuidmap)) {
            return None;
        }
        let context = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), RunAs::Root)?;
        context.write(
            "passwd",
            format!("root:x:0:0::/root:/bin/sh\nsub:x:{UID}:{UID}::/:/bin/sh\n"),
        );
        context.write("subuid", format!("sub:{FIRST}:65536\n"));
        context.write("subgid", format!("sub:{FIRST}:65536\n"));
        Some(Self(context))
    }

    /// Runs smokegate as the user, where the user has its ranges.
    pub(crate) fn run(&self, args: &[&str]) -> Finished {
        self.run_by_setpriv("true", "", args)
    }

    /// As `run`, after a script of root's in the user's mount namespace.
    pub(crate) fn run_after(&self, script: &str, args: &[&str]) -> Finished {
        self.run_by_setpriv(script, "", args)
    }

    /// As `run`, where set-user-id programs gain nothing.
    pub(crate) fn run_without_new_rights(&self, args: &[&str]) -> Finished {
        self.run_by_setpriv("true", "--no-new-privs", args)
    }

    fn run_by_setpriv(&self, script: &str, flag: &str, args: &[&str]) -> Finished {
        let script = format!(
            "{script} || exit 99; for file in passwd subuid subgid; do mount --bind $file /etc/$file || exit 99; done; \
             chown {UID}:{UID} . home cache tmp && \
             exec setpriv {flag} --reuid {UID} --regid {UID} --clear-groups -- \"$@\""
        );
        let wrapper = [
            "unshare",
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            &script,
            "sh",
        ];
        self.0
            .start_command(self.0.command_under(&wrapper, args))
            .wait(Duration::from_secs(300))
    }

    pub(crate) fn archive(&self, fixture: &str) -> String {
        self.0
            .archive(fixture, &ImageFixture::load(fixture).build())
            .display()
            .to_string()
    }
}

#[test]
fn root_subuid_containers_run_as_their_own_users_and_files_keep_their_owners() {
    let Some(user) = SubuidUser::new() else {
        return;
    };
    let image = user.archive("user-named");
    let finished = user.run(&["gate", &image]);
    finished.assert_code(0);
    assert!(
        finished.stderr.contains("isolation: subuid"),
        "{}",
        finished.stderr
    );
    for (word, shown) in [("id", "1000"), ("stat /home/app", "uid=1000 gid=1000")] {
        let mut args = vec!["gate", &image, "--entrypoint", "/probe-target", "--"];
        args.extend(word.split(' '));
        user.run(&args).assert_code(1); // it says what was asked and ends
        let log = user.0.app_log();
        assert!(
            log.iter().any(|line| line.contains(shown)),
            "{word}: {log:?}"
        );
    }
    let store = user.0.dir().join("cache/smokegate");
    // Id 1 of the container is the first subordinate id, as id 0 is the caller.
    assert!(
        has_owner(&store, FIRST + 999),
        "no file has the host's id of the container's id 1000"
    );

    // The caller could not remove files of those owners itself.
    user.run(&["cache", "prune"]).assert_code(0);
    assert!(!has_owner(&store, FIRST + 999));
}

#[test]
fn root_subuid_is_not_chosen_without_a_range() {
    let Some(user) = SubuidUser::new() else {
        return;
    };
    user.0.write("subuid", b"other:300000:65536\n");
    let image = user.archive("serve");
    let finished = user.run(&["gate", &image]);
    finished.assert_code(0);
    assert!(
        finished.stderr.contains("isolation: single"),
        "{}",
        finished.stderr
    );
    let refused = user.run(&["gate", &image, "--isolation", "subuid"]);
    refused.assert_code(3);
    assert!(
        refused
            .stderr
            .contains("error: isolation level `subuid` needs a range of ids"),
        "{}",
        refused.stderr
    );
    assert!(
        refused.stderr.contains("sudo usermod --add-subuids"),
        "{}",
        refused.stderr
    );
}

#[test]
fn root_subuid_refused_dials_are_counted_and_named() {
    let Some(user) = SubuidUser::new() else {
        return;
    };
    let image = user.archive("serve");
    let words = ["resolve", "app", "then", "connect", "localhost:6379"];
    let mut args = vec!["gate", &image, "--entrypoint", "/probe-target", "--"];
    args.extend(words);
    let failed = user.run(&args);
    failed.assert_code(1);
    let said = "app dialled localhost:6379, nothing listens there";
    assert!(failed.stderr.contains(said), "{}", failed.stderr);
}

fn has_owner(dir: &Path, uid: u32) -> bool {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else {
        return false;
    };
    entries.filter_map(Result::ok).any(|entry| {
        let Ok(found) = entry.path().symlink_metadata() else {
            return false;
        };
        found.uid() == uid || (found.is_dir() && has_owner(&entry.path(), uid))
    })
}

#[test]
fn root_subuid_volumes_and_secrets_have_the_owners_they_have_under_docker() {
    let Some(user) = SubuidUser::new() else {
        return;
    };
    let image = user.archive("volumes");
    user.0.write("key", "a-secret-value");
    user.0.write(
        "smokegate.yaml",
        r#"
version: 1
app:
  user: "1000:1000"
  entrypoint: [/probe-target]
  command:
    [stat, /var/lib/app, then, cat, /var/lib/app/seed, then, stat, /run/secrets/key, then, cat, /run/secrets/key, then,
     stat, /new, then, cat, /key, then, write, /var/lib/app/x, y, then, serve]
  volumes: ["data:/var/lib/app", "new:/new", "./key:/key:ro"]
  secrets: {key: {file: key}}
  probes: [{http: {path: /healthz}, within: 20s}]
"#,
    );
    user.run(&["gate", &image]).assert_code(0);
    let log = user.0.app_log();
    for (line, shown) in [
        (0, "directory mode=0750 uid=1000 gid=1000"),
        (1, "from the image"),
        (2, "file mode=0400 uid=1000 gid=1000 size=14"),
        (3, "***directory mode=0755 uid=0 gid=0"),
        (4, "***listening"),
    ] {
        assert!(log[line].starts_with(shown), "{shown}: {log:?}");
    }
}
