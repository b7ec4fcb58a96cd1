//! Hosts that refuse: exit code 3, the call and its errno in the first line, the fix in the hint.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use smokegate_test_support::{Finished, ImageFixture, ProcessTree, RunAs, Smokegate, probe_target};

const CLONE_NEWNS: &str = "131072";
const CLONE_NEWUSER: &str = "268435456";

const USER_NAMESPACE: &str =
    "this host refused making a user namespace: unshare(CLONE_NEWUSER) answered";
const NAMESPACES: &str = "this host refused making the mount, network, pid, ipc and uts namespaces: \
                          unshare(CLONE_NEWNS|NEWNET|NEWPID|NEWIPC|NEWUTS|NEWCGROUP) answered EPERM (Operation not permitted)";
const SECCOMP: &str = "inside a container, its seccomp profile is the usual cause";

/// A program under test beside a healthy image, on a host that can be made worse.
struct Host {
    context: Smokegate,
    archive: PathBuf,
    /// Refuses system calls to what it starts.
    refuser: PathBuf,
    /// An empty directory of the user's, to mount something on.
    place: PathBuf,
}

impl Host {
    fn new(run_as: RunAs) -> Option<Self> {
        let context = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as)?;
        let archive = context.archive("image", &ImageFixture::load("serve").build());
        let refuser = context.place(probe_target());
        fs::set_permissions(&refuser, fs::Permissions::from_mode(0o755)).unwrap();
        let place = context.dir().join("place");
        fs::create_dir(&place).unwrap();
        run_as.own(&place).unwrap();
        Some(Self {
            context,
            archive,
            refuser,
            place,
        })
    }

    /// Runs `gate` below `wrapper`.
    fn gate(&self, wrapper: &[&str], flags: &[&str]) -> Finished {
        let mut arguments = vec![
            "gate",
            self.archive.to_str().unwrap(),
            "--publish",
            "0:8080",
        ];
        arguments.extend(flags);
        let command = self.context.command_under(wrapper, arguments);
        self.context
            .start_command(command)
            .wait(std::time::Duration::from_secs(60))
    }

    /// Runs `gate` after `script` in namespaces of its own, where the user is root.
    fn gate_after(&self, script: &str, flags: &[&str]) -> Finished {
        let script = format!("{script} && exec \"$@\"");
        let mut wrapper = vec!["unshare", "--mount"];
        let mut flags = flags.to_vec();
        if self.context.run_as() == RunAs::OrdinaryUser {
            wrapper.extend(["--user", "--map-root-user"]);
            flags.extend(["--isolation", "single"]);
        }
        wrapper.extend(["sh", "-c", &script, "sh"]);
        self.gate(&wrapper, &flags)
    }

    fn refuser(&self) -> &str {
        self.refuser.to_str().unwrap()
    }
}

/// The run ended with 3, and its block begins and ends like this.
#[track_caller]
fn assert_refused(run: &Finished, cause: &str, hint: &str) {
    run.assert_code(3);
    assert_eq!(run.stdout, "");
    let stderr = format!("\n{}", run.stderr);
    let (_, block) = stderr
        .split_once("\nerror: ")
        .unwrap_or_else(|| panic!("{stderr}"));
    let first = block.lines().next().unwrap();
    assert_eq!(first, cause, "{stderr}");
    // What `doctor` says of it, unless the cause is no wall of the host's.
    if first.starts_with("this host refused") {
        assert!(block.contains("\n  doctor: "), "{stderr}");
        assert!(block.contains("\n  in a Kubernetes pod: "), "{stderr}");
    }
    let (_, last) = block
        .split_once("\n\nhint: ")
        .unwrap_or_else(|| panic!("{stderr}"));
    assert!(
        last.starts_with(hint) && last.lines().count() == 1,
        "{last}"
    );
}

#[test]
fn rootless_user_namespaces_switched_off_by_their_limit() {
    let Some(host) = Host::new(RunAs::OrdinaryUser) else {
        return;
    };
    let run = host.gate_after("echo 0 > /proc/sys/user/max_user_namespaces", &[]);
    let cause = format!("{USER_NAMESPACE} ENOSPC (No space left on device)");
    // The errno is that of a full disk; the hint must not be.
    let hint = "user namespaces are switched off: sudo sysctl user.max_user_namespaces=";
    assert_refused(&run, &cause, hint);
    assert_eq!(host.context.receipt()["error"]["exit_code"], 3);
}

#[test]
fn rootless_user_namespaces_refused_by_a_seccomp_profile() {
    let Some(host) = Host::new(RunAs::OrdinaryUser) else {
        return;
    };
    let run = host.gate(&[host.refuser(), "refuse-unshare", CLONE_NEWUSER], &[]);
    let cause = format!("{USER_NAMESPACE} EPERM (Operation not permitted)");
    assert_refused(&run, &cause, SECCOMP);
    assert!(!run.stderr.contains("AppArmor"), "{}", run.stderr);
}

/// Ubuntu's wall lets the user namespace be made and takes the rights in it away: the id map is refused, or, with
/// one written by a helper, the next namespaces.
#[test]
fn rootless_user_namespaces_without_rights_in_them() {
    let Some(host) = Host::new(RunAs::OrdinaryUser) else {
        return;
    };
    // A layer store that is filled leaves the pod's helper to meet the wall.
    host.gate(&[], &[]).assert_code(0);
    let map = format!("0 {} 1", RunAs::OrdinaryUser.uid());
    let run = host.gate(
        &[host.refuser(), "refuse-write-of", &map.len().to_string()],
        &[],
    );
    let cause = "this host refused writing the id map of the user namespace: write(/proc/self/uid_map) answered \
                 EPERM (Operation not permitted)";
    let says_so = fs::read_to_string("/proc/sys/kernel/apparmor_restrict_unprivileged_userns");
    let wall = says_so.is_ok_and(|text| text.trim() == "1");
    assert_refused(&run, cause, if wall { "AppArmor keeps" } else { SECCOMP });
    assert_eq!(run.stderr.contains("AppArmor"), wall, "{}", run.stderr);
    assert_eq!(host.context.receipt()["verdict"], "inconclusive");
    assert_eq!(host.context.receipt()["variants"][0]["cause"], cause);

    let run = host.gate(&[host.refuser(), "refuse-unshare", CLONE_NEWNS], &[]);
    assert_refused(
        &run,
        NAMESPACES,
        if wall { "AppArmor keeps" } else { SECCOMP },
    );
}

#[test]
fn rootless_apparmor_is_named_where_its_switch_is_on() {
    let Some(host) = Host::new(RunAs::OrdinaryUser) else {
        return;
    };
    let script = format!(
        "mount -t tmpfs none /proc/sys/kernel \
         && echo 1 > /proc/sys/kernel/apparmor_restrict_unprivileged_userns \
         && set -- {} refuse-unshare {CLONE_NEWNS} \"$@\"",
        host.refuser()
    );
    host.gate(&[], &[]).assert_code(0);
    let run = host.gate_after(&script, &[]);
    assert_refused(
        &run,
        NAMESPACES,
        "AppArmor keeps unprivileged programs from using user namespaces",
    );
    let fix = "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0";
    assert!(run.stderr.contains(fix), "{}", run.stderr);
}

#[test]
fn root_namespaces_refused_by_a_seccomp_profile() {
    let Some(host) = Host::new(RunAs::Root) else {
        return;
    };
    let run = host.gate(&[host.refuser(), "refuse-unshare", CLONE_NEWNS], &[]);
    assert_refused(&run, NAMESPACES, SECCOMP);
}

/// As in a Docker container without `systempaths=unconfined`: a part of /proc is covered.
#[test]
fn rootless_a_proc_with_covered_parts() {
    let Some(host) = Host::new(RunAs::OrdinaryUser) else {
        return;
    };
    let run = host.gate_after("mount -t tmpfs none /proc/irq", &[]);
    let cause = "this host refused mounting a fresh /proc: mount(proc) answered EPERM (Operation not permitted)";
    assert_refused(
        &run,
        cause,
        "a container hides parts of /proc, which forbids a fresh one",
    );
    assert!(
        run.stderr.contains("--security-opt systempaths=unconfined"),
        "{}",
        run.stderr
    );
}

fn full_disk(run_as: RunAs) {
    let Some(host) = Host::new(run_as) else {
        return;
    };
    let script = format!("mount -t tmpfs -o size=1m none {}", host.place.display());
    let run = host.gate_after(&script, &["--store", "place/store"]);
    run.assert_code(3);
    let cause = run
        .stderr
        .lines()
        .find(|line| line.starts_with("error: "))
        .unwrap_or_default();
    assert!(
        cause.starts_with("error: this host refused filling the layer store: layer "),
        "{cause}"
    );
    assert!(
        cause.ends_with("): cannot write `probe-target` answered ENOSPC (No space left on device)"),
        "{cause}"
    );
    assert!(
        run.stderr
            .contains("\n\nhint: free space there, choose another place with --store DIR"),
        "{}",
        run.stderr
    );
    assert_eq!(host.context.receipt()["error"]["exit_code"], 3);
}

#[test]
fn root_a_full_disk_under_the_store() {
    full_disk(RunAs::Root);
}

#[test]
fn rootless_a_full_disk_under_the_store() {
    full_disk(RunAs::OrdinaryUser);
}

fn unwritable_places(run_as: RunAs) {
    let Some(host) = Host::new(run_as) else {
        return;
    };
    let place = host.place.display();
    let read_only = format!("mount -t tmpfs -o ro none {place}");
    let refused_store = format!(
        "this host refused filling the layer store: making a directory in {place}/store answered"
    );
    let choose_store = "choose a directory you may write to with --store DIR";
    let run = host.gate_after(&read_only, &["--store", "place/store"]);
    assert_refused(
        &run,
        &format!("{refused_store} EROFS (Read-only file system)"),
        choose_store,
    );

    // Found out before anything is unpacked or run.
    let choose_report = "choose another directory with --report-dir DIR";
    let run = host.gate_after(&read_only, &["--report-dir", "place/report"]);
    assert_refused(
        &run,
        "cannot write `place/report/receipt.json`: Read-only file system (os error 30)",
        choose_report,
    );
    for started in ["layers:", "variant default:"] {
        assert!(!run.stderr.contains(started), "{}", run.stderr);
    }
    assert!(!host.context.dir().join("cache/smokegate").exists());

    let file = host.context.write("file", "");
    let run = host.gate(&[], &["--report-dir", file.to_str().unwrap()]);
    run.assert_code(3);
    let run = host.gate(&[], &["--store", file.to_str().unwrap()]);
    run.assert_code(3);

    if run_as == RunAs::OrdinaryUser {
        fs::set_permissions(&host.place, fs::Permissions::from_mode(0o555)).unwrap();
        let run = host.gate(&[], &["--store", "place/store"]);
        assert_refused(
            &run,
            &format!("{refused_store} EACCES (Permission denied)"),
            choose_store,
        );
        let run = host.gate(&[], &["--report-dir", "place/report"]);
        assert_refused(
            &run,
            "cannot write `place/report/receipt.json`: Permission denied (os error 13)",
            choose_report,
        );
    }
}

#[test]
fn root_places_that_cannot_be_written() {
    unwritable_places(RunAs::Root);
}

#[test]
fn rootless_places_that_cannot_be_written() {
    unwritable_places(RunAs::OrdinaryUser);
}

#[test]
fn rootless_a_level_that_the_user_cannot_have() {
    let Some(host) = Host::new(RunAs::OrdinaryUser) else {
        return;
    };
    let run = host.gate(&[], &["--isolation", "root"]);
    let cause =
        "isolation level `root` needs root with CAP_SYS_ADMIN, which this process does not have";
    assert_refused(
        &run,
        cause,
        "run smokegate as root, or leave --isolation out",
    );
    // Never a lesser level in silence.
    assert!(!run.stderr.contains("isolation: "), "{}", run.stderr);
}

/// Root of a user namespace that maps nothing but itself has one id, whatever its name.
#[test]
fn rootless_root_of_a_namespace_with_one_id_gets_the_level_for_one() {
    let Some(host) = Host::new(RunAs::OrdinaryUser) else {
        return;
    };
    let wrapper = ["unshare", "--user", "--map-root-user"];
    let run = host.gate(&wrapper, &[]);
    run.assert_code(0);
    assert_eq!(host.context.receipt()["isolation"]["level"], "single");
    let run = host.gate(&wrapper, &["--isolation", "root"]);
    run.assert_code(3);
    assert!(
        run.stderr.contains("error: isolation level `root` needs "),
        "{}",
        run.stderr
    );
}

#[test]
fn rootless_a_helper_that_dies_is_not_the_images_fault() {
    let Some(context) = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), RunAs::OrdinaryUser) else {
        return;
    };
    let image = context.archive("image", &ImageFixture::load("never-answers").build());
    let args = [
        "gate",
        image.to_str().unwrap(),
        "--publish",
        "0:8080",
        "--within",
        "60s",
    ];
    let mut running = context.start(args);
    running.wait_for_stderr("asking GET", Duration::from_secs(30));
    let members = ProcessTree::of(running.pid()).members;
    let helpers: Vec<_> = members
        .iter()
        .filter(|p| p.name == "smokegate-pod")
        .collect();
    assert_eq!(
        helpers.len(),
        2,
        "the one that waits, and PID 1 of the pod: {members:?}"
    );
    for helper in helpers {
        let pid = rustix::process::Pid::from_raw(helper.pid.cast_signed()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    let finished = running.wait(Duration::from_secs(30));
    finished.assert_code(3);
    let cause = "error: this host refused talking to the sandbox's helper process";
    assert!(finished.stderr.contains(cause), "{}", finished.stderr);
}
