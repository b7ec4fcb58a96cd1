//! What a run asks of the kernel, as strace sees it: programs executed, connections made, namespaces left.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use smokegate_test_support::{Need, RegistryOptions, RunAs, Smokegate, program, require};

use super::credentials::helper;
use super::{Registry, oci_archive, smokegate, text};

#[test]
fn root_executes_nothing_but_itself_and_the_container() {
    executes_nothing_else(RunAs::Root);
}

#[test]
fn rootless_executes_nothing_but_itself_and_the_container() {
    executes_nothing_else(RunAs::OrdinaryUser);
}

fn executes_nothing_else(run_as: RunAs) {
    let Some(context) = traceable(run_as) else {
        return;
    };
    let (_, archive) = oci_archive(&context, "serve");
    let tag = format!("oci:{}:v1", context.dir().join("layout").display());
    let words = ["ship", text(&archive), "--publish", "0:8080", "--tag", &tag];
    let calls = trace(&context, "execve,execveat", &words);
    assert_eq!(
        executed(&context, &calls),
        ["/probe-target", "itself"].map(str::to_owned).into(),
        "{calls}"
    );
}

#[test]
fn registry_real_rootless_executes_the_configured_credential_helper_only() {
    let Some(mut context) = traceable(RunAs::OrdinaryUser) else {
        return;
    };
    let Some(registry) = Registry::with_password() else {
        return;
    };
    let script = context.write("bin/docker-credential-smoke", helper(&registry));
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(context.dir().join("home/.docker")).unwrap();
    let config = serde_json::json!({"credHelpers": {registry.server.address(): "smoke"}});
    context.write("home/.docker/config.json", config.to_string());
    context.env(
        "PATH",
        format!("/usr/bin:/bin:{}/bin", context.dir().display()),
    );
    let (_, archive) = oci_archive(&context, "serve");
    let reference = registry.reference("team/app:v1");
    let words = [
        "ship",
        text(&archive),
        "--publish",
        "0:8080",
        "--tag",
        &reference,
    ];
    let calls = trace(&context, "execve,execveat", &words);
    let expected = ["/probe-target", text(&script), "itself"].map(str::to_owned);
    assert_eq!(executed(&context, &calls), expected.into(), "{calls}");
}

#[test]
fn root_connects_to_the_pod_only() {
    connects_to_the_pod_only(RunAs::Root);
}

#[test]
fn rootless_connects_to_the_pod_only() {
    connects_to_the_pod_only(RunAs::OrdinaryUser);
}

fn connects_to_the_pod_only(run_as: RunAs) {
    let Some(context) = traceable(run_as) else {
        return;
    };
    let (_, archive) = oci_archive(&context, "serve");
    let tag = format!("oci:{}:v1", context.dir().join("layout").display());
    let words = ["ship", text(&archive), "--publish", "0:8080", "--tag", &tag];
    let calls = trace(&context, "connect,sendto", &words);
    let outward: Vec<_> = calls
        .lines()
        .filter(|line| line.contains("AF_INET"))
        .filter(|line| !line.contains("inet_addr(\"10.88.0."))
        .collect();
    assert!(outward.is_empty(), "{outward:#?}");
    assert!(
        calls.contains("inet_addr(\"10.88.0."),
        "no probe was seen:\n{calls}"
    );
}

/// An air-gapped machine, and its loopback interface is down.
#[test]
fn root_ships_where_there_is_no_network() {
    let Some(context) = smokegate(RunAs::Root) else {
        return;
    };
    let (image, archive) = oci_archive(&context, "serve");
    let words = [
        "ship",
        text(&archive),
        "--publish",
        "0:8080",
        "--tag",
        "oci:layout:v1",
    ];
    let command = context.command_under(&["unshare", "--net"], words);
    let run = context.start_command(command).wait(Duration::from_secs(60));
    run.assert_code(0);
    assert_eq!(run.stdout, format!("oci:layout:v1@{}\n", image.digest()));
}

/// No sandbox at all: `push` works where namespaces are forbidden.
#[test]
fn registry_real_rootless_push_makes_no_namespace() {
    let Some(context) = traceable(RunAs::OrdinaryUser) else {
        return;
    };
    let Some(registry) = Registry::start(RegistryOptions::default()) else {
        return;
    };
    let (_, archive) = oci_archive(&context, "serve");
    let words = [
        "push",
        text(&archive),
        "--tag",
        &registry.reference("team/app:v1"),
    ];
    let calls = trace(&context, "unshare,setns,mount,clone,clone3,execve", &words);
    for word in ["unshare(", "setns(", "mount(", "CLONE_NEW"] {
        assert!(!calls.contains(word), "{calls}");
    }
    assert_eq!(
        executed(&context, &calls),
        ["itself".to_owned()].into(),
        "{calls}"
    );
}

/// Root traces whoever runs it: the helpers let their own user not look into them.
fn traceable(run_as: RunAs) -> Option<Smokegate> {
    (require(Need::Strace) && require(Need::Root))
        .then(|| smokegate(run_as))
        .flatten()
}

/// What strace wrote of a run that succeeded.
fn trace(context: &Smokegate, calls: &str, words: &[&str]) -> String {
    let log = context.dir().join("strace.log");
    let traced = context.command(words);
    let mut command: Command = program("strace");
    command
        .args([
            "-f",
            "-qq",
            "-s",
            "300",
            "-e",
            &format!("trace={calls}"),
            "-o",
        ])
        .arg(&log)
        .arg(traced.get_program())
        .args(traced.get_args())
        .env_clear()
        .envs(
            traced
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .current_dir(context.dir())
        .stdin(Stdio::null());
    context
        .start_command(command)
        .wait(Duration::from_secs(120))
        .assert_code(0);
    fs::read_to_string(log).expect("reading what strace wrote")
}

/// The programs executed after smokegate itself; `itself` for its own file, sealed or not.
fn executed(context: &Smokegate, calls: &str) -> BTreeSet<String> {
    let own = context.dir().join("bin/smokegate");
    let own = format!("execve(\"{}\"", own.display());
    let lines = calls.lines().skip_while(|line| !line.contains(&own));
    lines
        .filter(|line| !line.contains(" = -1 "))
        .filter_map(|line| {
            line.split_once("execve(\"")
                .or_else(|| line.split_once("execveat("))?
                .1
                .split('"')
                .next()
        })
        .map(|path| {
            let sealed = path
                .strip_prefix("/proc/self/fd/")
                .is_some_and(|fd| fd.parse::<u32>().is_ok());
            let own = sealed || path == text(&context.dir().join("bin/smokegate"));
            if own {
                "itself".to_owned()
            } else {
                path.to_owned()
            }
        })
        .collect()
}
