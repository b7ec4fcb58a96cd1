//! `smokegate doctor` on hosts from which something was taken away: it names that, and nothing else.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use smokegate_test_support::{Finished, RunAs, Smokegate, probe_target};

use crate::subuid::SubuidUser;

const CLONE_NEWNS: &str = "131072";
const CLONE_NEWUSER: &str = "268435456";
/// The netlink protocol of nf_tables.
const NETFILTER: &str = "12";
/// Bytes of the request that makes a bridge.
const BRIDGE_REQUEST: &str = "64";

/// What can only be tried in a pod.
const IN_A_POD: [&str; 8] = [
    "namespaces",
    "proc",
    "mounts",
    "bridge",
    "veth",
    "nftables",
    "overlayfs",
    "container",
];

struct Host {
    context: Smokegate,
    refuser: PathBuf,
}

impl Host {
    fn new(run_as: RunAs) -> Option<Self> {
        let mut context = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as)?;
        // The user's own directory is not asked of the cloud.
        context.env("AWS_EC2_METADATA_DISABLED", "true");
        let refuser = context.place(probe_target());
        fs::set_permissions(&refuser, fs::Permissions::from_mode(0o755)).unwrap();
        for name in ["place", "lower", "upper", "work"] {
            let path = context.dir().join(name);
            fs::create_dir(&path).unwrap();
            run_as.own(&path).unwrap();
        }
        Some(Self { context, refuser })
    }

    fn doctor(&self, wrapper: &[&str], flags: &[&str]) -> Examined {
        let mut arguments = vec!["doctor", "--format", "json"];
        arguments.extend(flags);
        let command = self.context.command_under(wrapper, arguments);
        let run = self
            .context
            .start_command(command)
            .wait(Duration::from_secs(60));
        Examined::of(run)
    }

    /// After `script` in namespaces of its own, where the user is root.
    fn doctor_after(&self, script: &str, flags: &[&str]) -> Examined {
        let script = format!("{script} && exec \"$@\"");
        let mut wrapper = vec!["unshare", "--mount"];
        if self.context.run_as() == RunAs::OrdinaryUser {
            wrapper.extend(["--user", "--map-root-user"]);
        }
        wrapper.extend(["sh", "-c", &script, "sh"]);
        self.doctor(&wrapper, flags)
    }

    /// Where a system call is refused.
    fn doctor_without(&self, refused: &[&str]) -> Examined {
        let mut wrapper = vec![self.refuser.to_str().unwrap()];
        wrapper.extend(refused);
        self.doctor(&wrapper, &[])
    }
}

/// What doctor said.
struct Examined {
    run: Finished,
    report: Value,
}

impl Examined {
    fn of(run: Finished) -> Self {
        let report = serde_json::from_str(&run.stdout)
            .unwrap_or_else(|error| panic!("{error}:\n{}\n{}", run.stdout, run.stderr));
        let examined = Self { run, report };
        examined.fixes_are_there();
        examined
    }

    fn line(&self, noun: &str) -> &Value {
        let checks = self.report["checks"].as_array().unwrap();
        let mut found = checks.iter().filter(|check| check["noun"] == noun);
        let line = found
            .next()
            .unwrap_or_else(|| panic!("no line `{noun}`: {:#}", self.report));
        assert!(found.next().is_none(), "two lines `{noun}`");
        line
    }

    /// Whatever is not as it should be says how to put that right, in all three places; what is, does not.
    #[track_caller]
    fn fixes_are_there(&self) {
        for check in self.report["checks"].as_array().unwrap() {
            let wrong = check["status"] == "failed" || check["status"] == "limited";
            for place in ["machine", "docker", "kubernetes"] {
                let fix = check["fix"][place].as_str().unwrap_or_default();
                assert_eq!(fix.len() > 10, wrong, "{check:#}");
            }
            for field in ["tried", "result", "means"] {
                assert!(!check[field].as_str().unwrap().is_empty(), "{check:#}");
            }
        }
    }

    /// These lines, and no others, have a status other than fine or not needed. What an ordinary user never has may
    /// be limited.
    #[track_caller]
    fn assert_lines(&self, expected: &[(&str, &str)]) {
        for check in self.report["checks"].as_array().unwrap() {
            let noun = check["noun"].as_str().unwrap();
            let status = check["status"].as_str().unwrap();
            match expected.iter().find(|(name, _)| *name == noun) {
                Some((_, wanted)) => assert_eq!(status, *wanted, "{check:#}"),
                None => {
                    let of_users = ["subordinate-ids", "cgroups"].contains(&noun);
                    assert!(
                        ["fine", "not-needed"].contains(&status) || of_users && status == "limited",
                        "{check:#}"
                    );
                }
            }
        }
        for (noun, _) in expected {
            self.line(noun);
        }
    }

    /// No run is possible, and the error is the one that a run would end with.
    #[track_caller]
    fn assert_impossible(&self, error: &str) {
        self.run.assert_code(3);
        assert_eq!(self.report["possible"], false);
        let said = self.run.stderr.lines().next().unwrap_or_default();
        assert!(
            said.starts_with(&format!("error: {error}")),
            "{}",
            self.run.stderr
        );
        assert!(
            self.run.stderr.contains("\n\nhint: "),
            "{}",
            self.run.stderr
        );
    }

    #[track_caller]
    fn assert_possible(&self, level: &str) {
        self.run.assert_code(0);
        assert_eq!(self.report["possible"], true);
        assert_eq!(self.report["isolation"], level);
    }
}

fn not_tried(nouns: &[&'static str]) -> Vec<(&'static str, &'static str)> {
    nouns.iter().map(|noun| (*noun, "not-tried")).collect()
}

fn a_good_host(run_as: RunAs, level: &str) {
    let Some(host) = Host::new(run_as) else {
        return;
    };
    let examined = host.doctor(&[], &[]);
    examined.assert_possible(level);
    examined.assert_lines(&[]);
    for needless in ["fuse", "tun"] {
        assert_eq!(examined.line(needless)["status"], "not-needed");
    }
    let untested = examined.report["not_tested"].as_array().unwrap();
    assert_eq!(untested.is_empty(), level == "root", "{untested:?}");
    // Nothing is left behind, also in the store.
    let store = host.context.dir().join("cache/smokegate");
    let left: Vec<_> = fs::read_dir(store.join("run")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!store.join("layers").exists());

    // The same at a level that is asked for.
    host.doctor(&[], &["--isolation", "single"])
        .assert_possible("single");
    let text = host.context.run(["doctor"]);
    text.assert_code(0);
    assert!(
        text.stdout.contains(&format!(
            "\na run is possible, at isolation level `{level}`\n"
        )),
        "{}",
        text.stdout
    );
}

#[test]
fn root_a_good_host() {
    a_good_host(RunAs::Root, "root");
}

#[test]
fn rootless_a_good_host() {
    a_good_host(RunAs::OrdinaryUser, "single");
}

#[test]
fn rootless_no_user_namespaces_by_their_limit() {
    let Some(host) = Host::new(RunAs::OrdinaryUser) else {
        return;
    };
    let examined = host.doctor_after("echo 0 > /proc/sys/user/max_user_namespaces", &[]);
    examined.assert_impossible(
        "this host refused making a user namespace: unshare(CLONE_NEWUSER) answered ENOSPC",
    );
    let mut lines = not_tried(&IN_A_POD);
    lines.push(("user-namespaces", "failed"));
    examined.assert_lines(&lines);
    let line = examined.line("user-namespaces");
    assert_eq!(line["why"], "user namespaces are switched off");
    for place in ["machine", "docker", "kubernetes"] {
        let fix = line["fix"][place].as_str().unwrap();
        assert!(
            fix.contains("sudo sysctl user.max_user_namespaces="),
            "{fix}"
        );
    }
}

#[test]
fn rootless_no_user_namespaces_by_seccomp() {
    let Some(host) = Host::new(RunAs::OrdinaryUser) else {
        return;
    };
    let examined = host.doctor_without(&["refuse-unshare", CLONE_NEWUSER]);
    examined.assert_impossible(
        "this host refused making a user namespace: unshare(CLONE_NEWUSER) answered EPERM",
    );
    let mut lines = not_tried(&IN_A_POD);
    lines.push(("user-namespaces", "failed"));
    examined.assert_lines(&lines);
    let line = examined.line("user-namespaces");
    let result = line["result"].as_str().unwrap();
    assert!(
        result.ends_with("a seccomp filter is on this process"),
        "{result}"
    );
    assert!(
        line["fix"]["docker"]
            .as_str()
            .unwrap()
            .contains("seccomp=unconfined")
    );
}

fn namespaces_refused(run_as: RunAs) {
    let Some(host) = Host::new(run_as) else {
        return;
    };
    let examined = host.doctor_without(&["refuse-unshare", CLONE_NEWNS]);
    examined.assert_impossible(
        "this host refused making the mount, network, pid, ipc and uts namespaces: unshare(",
    );
    let mut lines = not_tried(&IN_A_POD[1..]);
    lines.push(("namespaces", "failed"));
    examined.assert_lines(&lines);
    assert_eq!(
        examined.line("namespaces")["result"],
        "refused alone too: CLONE_NEWNS: EPERM (Operation not permitted)"
    );
}

#[test]
fn root_mount_namespaces_refused() {
    namespaces_refused(RunAs::Root);
}

#[test]
fn rootless_mount_namespaces_refused() {
    namespaces_refused(RunAs::OrdinaryUser);
}

#[test]
fn rootless_no_network_namespaces_by_their_limit() {
    let Some(host) = Host::new(RunAs::OrdinaryUser) else {
        return;
    };
    let examined = host.doctor_after("echo 0 > /proc/sys/user/max_net_namespaces", &[]);
    let refused = "this host refused making the mount, network, pid, ipc and uts namespaces: ";
    examined.assert_impossible(refused);
    let line = examined.line("namespaces");
    assert_eq!(line["status"], "failed");
    assert_eq!(
        line["result"],
        "refused alone too: CLONE_NEWNET: ENOSPC (No space left on device)"
    );
    // Not what a full disk needs.
    let fix = line["fix"]["machine"].as_str().unwrap();
    assert!(fix.contains("user.max_net_namespaces"), "{fix}");
}

#[test]
fn rootless_a_proc_with_covered_parts() {
    let Some(host) = Host::new(RunAs::OrdinaryUser) else {
        return;
    };
    let examined = host.doctor_after("mount -t tmpfs none /proc/irq", &[]);
    examined
        .assert_impossible("this host refused mounting a fresh /proc: mount(proc) answered EPERM");
    let mut lines = not_tried(&["mounts", "overlayfs", "container"]);
    lines.push(("proc", "failed"));
    examined.assert_lines(&lines);
    let line = examined.line("proc");
    let result = line["result"].as_str().unwrap();
    assert!(
        result.ends_with("mounted over parts of it: /proc/irq"),
        "{result}"
    );
    let fix = line["fix"]["kubernetes"].as_str().unwrap();
    assert!(fix.contains("procMount: Unmasked"), "{fix}");
}

#[test]
fn rootless_a_read_only_proc() {
    let Some(host) = Host::new(RunAs::OrdinaryUser) else {
        return;
    };
    let examined = host.doctor_after("mount -o remount,bind,ro /proc", &[]);
    examined
        .assert_impossible("this host refused writing the id map of the user namespace: write(");
    let mut lines = not_tried(&IN_A_POD);
    lines.push(("user-namespaces", "failed"));
    examined.assert_lines(&lines);
    let line = examined.line("user-namespaces");
    assert!(
        line["why"]
            .as_str()
            .unwrap()
            .starts_with("/proc is mounted read-only")
    );
}

/// Root needs no id map, and its fresh /proc is its own.
#[test]
fn root_a_read_only_proc_is_no_hindrance() {
    let Some(host) = Host::new(RunAs::Root) else {
        return;
    };
    let examined = host.doctor_after("mount -o remount,bind,ro /proc", &[]);
    examined.assert_possible("root");
}

/// As in every Docker container: the kernel then lets a user mount /sys read-only only (mount_too_revealing).
#[test]
fn rootless_a_read_only_sys_is_no_hindrance_and_a_covered_one_is() {
    let Some(host) = Host::new(RunAs::OrdinaryUser) else {
        return;
    };
    let examined = host.doctor_after("mount -o remount,bind,ro /sys", &[]);
    examined.assert_possible("single");
    examined.assert_lines(&[]);

    let examined = host.doctor_after("mount -t tmpfs none /sys/kernel", &[]);
    examined.assert_impossible(
        "this host refused mounting the sandbox's own root: mount(sysfs) answered EPERM",
    );
    let mut lines = not_tried(&["overlayfs", "container"]);
    lines.push(("mounts", "failed"));
    examined.assert_lines(&lines);
}

fn no_overlay(run_as: RunAs) {
    let Some(host) = Host::new(run_as) else {
        return;
    };
    let level = if run_as == RunAs::Root {
        "root"
    } else {
        "single"
    };
    let examined = host.doctor_after("mount -t ramfs none place", &["--store", "place/store"]);
    examined.assert_possible(level);
    examined.assert_lines(&[("overlayfs", "limited")]);
    let fix = examined.line("overlayfs")["fix"]["docker"]
        .as_str()
        .unwrap();
    assert!(fix.contains("-v smokegate:/store"), "{fix}");

    // On an overlay, as $HOME of most CI containers, only what removes something must be copied.
    let user = if run_as == RunAs::Root {
        ""
    } else {
        ",userxattr"
    };
    let overlay = format!(
        "mount -t overlay -o lowerdir=lower,upperdir=upper,workdir=work{user} overlay place"
    );
    let examined = host.doctor_after(&overlay, &["--store", "place/store"]);
    examined.assert_possible(level);
    examined.assert_lines(&[("overlayfs", "limited")]);
    let means = examined.line("overlayfs")["means"].as_str().unwrap();
    assert!(
        means.starts_with("images whose layers remove files"),
        "{means}"
    );
}

#[test]
fn root_no_overlay() {
    no_overlay(RunAs::Root);
}

#[test]
fn rootless_no_overlay() {
    no_overlay(RunAs::OrdinaryUser);
}

fn little_room(run_as: RunAs) {
    let Some(host) = Host::new(run_as) else {
        return;
    };
    let level = if run_as == RunAs::Root {
        "root"
    } else {
        "single"
    };
    let tiny = |size: &str, at: &str| format!("mount -t tmpfs -o size={size} none {at}");

    let examined = host.doctor_after(&tiny("32k", "place"), &["--store", "place/store"]);
    examined.assert_impossible("this host refused filling the layer store: ");
    let mut lines = not_tried(&["overlayfs", "container"]);
    lines.push(("store", "failed"));
    examined.assert_lines(&lines);
    assert!(
        examined.line("store")["result"]
            .as_str()
            .unwrap()
            .starts_with("ENOSPC")
    );
    assert!(
        examined.run.stderr.contains("hint: free space there"),
        "{}",
        examined.run.stderr
    );

    // Enough for what is tried, and for no image.
    let examined = host.doctor_after(&tiny("8m", "place"), &["--store", "place/store"]);
    examined.assert_possible(level);
    examined.assert_lines(&[("store", "limited")]);

    let examined = host.doctor_after(&tiny("32k", "tmp"), &[]);
    examined.assert_possible(level);
    examined.assert_lines(&[("temporary-directory", "limited")]);
    let line = examined.line("temporary-directory");
    assert!(line["fix"]["machine"].as_str().unwrap().contains("TMPDIR"));
}

#[test]
fn root_little_room() {
    little_room(RunAs::Root);
}

#[test]
fn rootless_little_room() {
    little_room(RunAs::OrdinaryUser);
}

#[test]
fn rootless_a_store_that_cannot_be_written() {
    let Some(host) = Host::new(RunAs::OrdinaryUser) else {
        return;
    };
    let place = host.context.dir().join("place");
    fs::set_permissions(&place, fs::Permissions::from_mode(0o555)).unwrap();
    let examined = host.doctor(&[], &["--store", "place/store"]);
    // The words of a run.
    examined.assert_impossible(&format!(
        "this host refused filling the layer store: making a directory in {}/store answered EACCES",
        place.display()
    ));
    let mut lines = not_tried(&["overlayfs", "container"]);
    lines.push(("store", "failed"));
    examined.assert_lines(&lines);
}

#[test]
fn rootless_no_bridge() {
    let Some(host) = Host::new(RunAs::OrdinaryUser) else {
        return;
    };
    let examined = host.doctor_without(&["refuse-send-of", BRIDGE_REQUEST]);
    examined.assert_impossible(
        "this host refused setting up the sandbox's network: ip link add type bridge answered EPERM",
    );
    examined.assert_lines(&[("bridge", "failed"), ("veth", "not-tried")]);
    let means = examined.line("bridge")["means"].as_str().unwrap();
    assert!(means.contains("but for `network: shared`"), "{means}");
}

#[test]
fn rootless_no_nf_tables() {
    let Some(host) = Host::new(RunAs::OrdinaryUser) else {
        return;
    };
    let examined = host.doctor_without(&["refuse-socket-protocol", NETFILTER]);
    examined.assert_possible("single");
    examined.assert_lines(&[("nftables", "limited")]);
}

#[test]
fn rootless_a_level_that_the_user_cannot_have() {
    let Some(host) = Host::new(RunAs::OrdinaryUser) else {
        return;
    };
    let examined = host.doctor(&[], &["--isolation", "root"]);
    examined.assert_impossible("isolation level `root` needs root with CAP_SYS_ADMIN");
    let examined = host.doctor(&[], &["--isolation", "subuid"]);
    examined.assert_impossible("isolation level `subuid` needs ");
    assert_eq!(examined.line("subordinate-ids")["status"], "failed");
}

#[test]
fn root_subuid_ranges_are_found_and_refused_by_no_new_privs() {
    let Some(user) = SubuidUser::new() else {
        return;
    };
    let found = Examined::of(user.run(&["doctor", "--format", "json"]));
    found.assert_possible("subuid");
    assert_eq!(found.line("subordinate-ids")["status"], "fine");

    // A run takes the level below by itself, as in most hardened containers.
    let refused = Examined::of(user.run_without_new_rights(&["doctor", "--format", "json"]));
    refused.assert_possible("single");
    let line = refused.line("subordinate-ids");
    assert_eq!(line["status"], "limited");
    let result = line["result"].as_str().unwrap();
    assert!(
        result.contains("newuidmap") && result.contains("no_new_privs"),
        "{result}"
    );
    let image = user.archive("serve");
    let run = user.run_without_new_rights(&["gate", &image]);
    run.assert_code(0);
    assert!(run.stderr.contains("isolation: single"), "{}", run.stderr);
    let named =
        user.run_without_new_rights(&["doctor", "--format", "json", "--isolation", "subuid"]);
    Examined::of(named)
        .assert_impossible("isolation level `subuid` needs newuidmap to gain rights");
}

#[test]
fn rootless_what_the_environment_holds_is_named_and_not_shown() {
    let Some(mut host) = Host::new(RunAs::OrdinaryUser) else {
        return;
    };
    // u:s3cret
    let config = r#"{"auths": {"registry.example": {"auth": "dTpzM2NyZXQ="}, "bad.example": {"auth": "?s3cret"}}}"#;
    host.context
        .env("DOCKER_AUTH_CONFIG", config)
        .env("AWS_ACCESS_KEY_ID", "AKIAs3cret")
        .env("AWS_SECRET_ACCESS_KEY", "s3cret")
        .env("HTTPS_PROXY", "http://user:s3cret@proxy.example:3128")
        .env("no_proxy", "localhost");
    let examined = host.doctor(&[], &[]);
    examined.assert_possible("single");
    examined.assert_lines(&[("credentials", "limited")]);
    let text = host.context.run(["doctor"]);
    for shown in [&examined.run, &text] {
        let shown = format!("{}{}", shown.stdout, shown.stderr);
        assert!(
            !shown.contains("s3cret") && !shown.contains("czNjcmV0"),
            "{shown}"
        );
        for name in [
            "registry.example: `DOCKER_AUTH_CONFIG`",
            "bad.example: `DOCKER_AUTH_CONFIG`, which cannot be used",
            "Amazon ECR: `AWS_ACCESS_KEY_ID`",
            "proxy.example:3128",
            "no_proxy=localhost",
        ] {
            assert!(shown.contains(name), "{name}: {shown}");
        }
    }
}
