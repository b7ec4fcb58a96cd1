//! What a container is given: its process, files, devices, rights and ports, as Docker gives them.

mod files;
mod ports;
mod rights;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use smokegate_test_support::{ImageFixture, RunAs, Running, Smokegate, wait_for};

/// Users, groups and modes; the program that tells what it sees.
const IMAGE: &str = "
entrypoint: /probe-target args from-entrypoint
cmd: from cmd
env: PATH=/opt/bin:/usr/bin:/bin
env: FROM_IMAGE=image
env: EMPTY=
workdir: /made/by/workdir
expose: 8080/tcp

layer gzip
dir /etc 0755 0:0
file /etc/passwd 0644 0:0 root:x:0:0:root:/root:/bin/sh\\napp:x:1000:1000:app:/home/app:/bin/sh\\n
file /etc/group 0644 0:0 root:x:0:\\napp:x:1000:\\nweb:x:2000:app\\nextra:x:3000:app\\n
file /etc/hosts 0644 0:0 192.0.2.1 from-the-image\\n
dir /opt 0755 0:0
dir /opt/bin 0755 0:0
link /opt/bin/probe -> /probe-target
dir /tmp 1777 0:0
dir /shared 2775 0:0
file /setuid 4755 0:0 setuid
file /setgid 2755 0:0 setgid
file /private 0600 0:0 private
file /probe-target 0755 0:0 @probe-target
";

/// Longer than any of these runs takes, so that the container's own end decides.
const WITHIN: &str = "60s";
const LIMIT: Duration = Duration::from_secs(60);

/// A program under test beside one image.
struct Bench {
    context: Smokegate,
    archive: PathBuf,
}

impl Bench {
    fn new(run_as: RunAs, image: &ImageFixture) -> Option<Self> {
        let context = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as)?;
        let archive = context.archive("image", &image.build());
        Some(Self { context, archive })
    }

    fn of_text(run_as: RunAs, text: &str) -> Option<Self> {
        Self::new(run_as, &ImageFixture::parse(text).unwrap())
    }

    /// `gate` with a free port.
    fn arguments<'a>(&'a self, flags: &[&'a str]) -> Vec<&'a str> {
        let archive = self.archive.to_str().unwrap();
        let mut arguments = vec!["gate", archive, "--publish", "0:8080", "--within", WITHIN];
        arguments.extend(flags);
        arguments
    }

    /// What the container wrote until it ended by itself.
    fn log_of(&self, flags: &[&str]) -> Vec<String> {
        let run = self.context.run(self.arguments(flags));
        run.assert_code(1);
        assert!(
            run.stderr
                .contains("error: the entrypoint exited with code"),
            "{}",
            run.stderr
        );
        self.context.app_log()
    }

    /// What the probe target answered to `words`, with these flags of smokegate.
    fn ask(&self, flags: &[&str], words: &str) -> Vec<String> {
        let mut all = flags.to_vec();
        all.extend(["--entrypoint", "/probe-target", "--"]);
        all.extend(words.split(' '));
        self.log_of(&all)
    }

    fn is_root(&self) -> bool {
        self.context.run_as() == RunAs::Root
    }

    /// Starts a run that goes on until it is dropped; its host ports in the order of `--publish`.
    fn start(&self, flags: &[&str], ports: usize) -> (Running, Vec<SocketAddr>) {
        let mut arguments = self.arguments(flags);
        arguments.extend(["--http", "/never-passes"]);
        let mut running = self.context.start(arguments);
        running.wait_for_stderr("variant default: asking", LIMIT);
        let addresses = published(&running.stderr_so_far());
        assert_eq!(addresses.len(), ports, "{}", running.stderr_so_far());
        (running, addresses)
    }
}

/// The addresses after `http://` in the lines that name ports.
fn published(stderr: &str) -> Vec<SocketAddr> {
    let lines = stderr.lines().filter(|line| line.contains(" is port "));
    lines
        .map(|line| {
            let (_, address) = line.split_once("http://").unwrap();
            address.split(' ').next().unwrap().parse().unwrap()
        })
        .collect()
}

/// Reads `Name: value` lines of proc(5).
fn fields(lines: &[String]) -> BTreeMap<&str, Vec<&str>> {
    let pairs = lines.iter().filter_map(|line| line.split_once(':'));
    pairs
        .map(|(name, value)| (name, value.split_whitespace().collect()))
        .collect()
}

fn arguments(run_as: RunAs) {
    let Some(bench) = Bench::of_text(run_as, IMAGE) else {
        return;
    };
    let cases: [(&[&str], &str); 6] = [
        (&[], r#"["from-entrypoint", "from", "cmd"]"#),
        (
            &["--", "of", "the user's"],
            r#"["from-entrypoint", "of", "the user's"]"#,
        ),
        (&["--", ""], r#"["from-entrypoint", ""]"#),
        (
            &["--entrypoint", "/probe-target"],
            "probe-target: missing what to do",
        ),
        (
            &["--entrypoint", "/probe-target", "--", "args", "--x"],
            r#"["--x"]"#,
        ),
        // A name without `/` is looked for on the image's PATH.
        (
            &["--entrypoint", "probe", "--", "args", "found"],
            r#"["found"]"#,
        ),
    ];
    for (flags, expected) in cases {
        assert_eq!(bench.log_of(flags), [expected], "{flags:?}");
    }

    let only_cmd = IMAGE.replace("entrypoint: /probe-target args from-entrypoint", "");
    let only_cmd = only_cmd.replace("cmd: from cmd", "cmd: /probe-target args only-cmd");
    let bench = Bench::of_text(run_as, &only_cmd).unwrap();
    assert_eq!(bench.log_of(&[]), [r#"["only-cmd"]"#]);
    assert_eq!(
        bench.log_of(&["--", "probe", "args", "replaced"]),
        [r#"["replaced"]"#]
    );
}

#[test]
fn root_arguments_combine_as_in_docker_run() {
    arguments(RunAs::Root);
}

#[test]
fn rootless_arguments_combine_as_in_docker_run() {
    arguments(RunAs::OrdinaryUser);
}

fn environment(run_as: RunAs) {
    let Some(mut bench) = Bench::of_text(run_as, IMAGE) else {
        return;
    };
    bench
        .context
        .env("PASSED_ON", "by the caller")
        .env("SECRET_OF_THE_HOST", "must stay there");
    let file =
        "# a comment\n\nFROM_FILE=file value # not a comment\nBOTH=file\nPASSED_ON\nNOT_SET\n";
    bench.context.write("variables", file);
    let mut lines = bench.ask(
        &[
            "--env-file",
            "variables",
            "--env",
            "BOTH=flag",
            "--env",
            "FROM_IMAGE=flag",
            "-e",
            "A=b=c",
        ],
        "env",
    );
    lines.sort();
    let expected = [
        "A=b=c",
        "BOTH=flag",
        "EMPTY=",
        "FROM_FILE=file value # not a comment",
        "FROM_IMAGE=flag",
        "HOME=/root",
        "HOSTNAME=app",
        "PASSED_ON=by the caller",
        "PATH=/opt/bin:/usr/bin:/bin",
    ];
    assert_eq!(
        lines, expected,
        "nothing else, above all nothing of the host"
    );

    let no_env: String = IMAGE
        .lines()
        .filter(|line| !line.starts_with("env:"))
        .map(|line| format!("{line}\n"))
        .collect();
    let bench = Bench::of_text(run_as, &no_env).unwrap();
    let lines = bench.ask(&["--env", "HOME=/elsewhere"], "env");
    let docker = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert!(lines.contains(&docker.to_owned()), "{lines:?}");
    assert!(lines.contains(&"HOME=/elsewhere".to_owned()), "{lines:?}");
}

#[test]
fn root_environment_is_the_images_and_the_users_only() {
    environment(RunAs::Root);
}

#[test]
fn rootless_environment_is_the_images_and_the_users_only() {
    environment(RunAs::OrdinaryUser);
}

const DOCKERS_CAPABILITIES: &str = "00000000a80425fb";
const NO_CAPABILITIES: &str = "0000000000000000";

fn users(run_as: RunAs) {
    let Some(bench) = Bench::of_text(run_as, IMAGE) else {
        return;
    };
    // USER, uid, gid, supplementary groups, home
    let cases: [(&str, &str, &str, &[&str], &str); 7] = [
        ("root", "0", "0", &[], "/root"),
        ("app", "1000", "1000", &["2000", "3000"], "/home/app"),
        ("1000", "1000", "1000", &["2000", "3000"], "/home/app"),
        ("app:web", "1000", "2000", &[], "/home/app"),
        ("1000:3000", "1000", "3000", &[], "/home/app"),
        ("4242", "4242", "0", &[], "/"),
        ("4242:4343", "4242", "4343", &[], "/"),
    ];
    for (user, uid, gid, groups, home) in cases {
        let lines = bench.ask(
            &["--user", user],
            "id then grep SigBlk /proc/self/status then env",
        );
        let found = fields(&lines);
        assert_eq!(found["Uid"], [uid; 4], "{user}");
        assert_eq!(found["Gid"], [gid; 4], "{user}");
        assert!(lines.contains(&format!("HOME={home}")), "{user}: {lines:?}");
        let not_tested = bench.context.receipt()["isolation"]["not_tested"].to_string();
        if bench.is_root() {
            // Docker lists the primary group among the supplementary ones.
            let of_docker: BTreeSet<_> = groups.iter().chain([&gid]).copied().collect();
            let seen: BTreeSet<_> = found["Groups"].iter().copied().collect();
            assert_eq!(seen, of_docker, "{user}");
            assert!(
                !not_tested.contains("supplementary"),
                "{user}: {not_tested}"
            );
        } else {
            assert_eq!(
                found["Groups"], [""; 0],
                "{user}: a single id map has no other group"
            );
            assert_eq!(
                not_tested.contains("supplementary"),
                !groups.is_empty(),
                "{user}: {not_tested}"
            );
        }
        let effective = if uid == "0" {
            DOCKERS_CAPABILITIES
        } else {
            NO_CAPABILITIES
        };
        assert_rights(&found, effective);
    }
}

/// Capabilities, seccomp and signals as Docker gives them; no_new_privs only if asked for.
fn assert_rights(found: &BTreeMap<&str, Vec<&str>>, effective: &str) {
    assert_eq!(found["CapBnd"], [DOCKERS_CAPABILITIES]);
    assert_eq!(found["CapEff"], [effective]);
    assert_eq!(found["CapPrm"], [effective]);
    assert_eq!(found["CapInh"], [NO_CAPABILITIES]);
    assert_eq!(found["CapAmb"], [NO_CAPABILITIES]);
    assert_eq!(found["Seccomp"], ["2"]);
    assert_eq!(found["NoNewPrivs"], ["0"]);
    assert_eq!(found["SigBlk"], ["0000000000000000"]);
}

#[test]
fn root_users_resolve_as_in_docker_and_have_its_rights() {
    users(RunAs::Root);
}

#[test]
fn rootless_users_resolve_as_in_docker_and_have_its_rights() {
    users(RunAs::OrdinaryUser);
}

/// A health check writes who it is into the container's files, and the app tells.
fn executed_process(run_as: RunAs) {
    let check = "healthcheck: --interval=500ms --timeout=30s CMD /probe-target into /tmp/unfinished \
                 id then grep SigBlk /proc/self/status then ignored-signals then descriptors then env \
                 then cwd then forbidden-calls then cat /proc/self/limits then rename /tmp/unfinished /tmp/finished then exit 1";
    let text = IMAGE.replace("expose: 8080/tcp", &format!("{check}\nexpose: 8080/tcp"));
    let Some(bench) = Bench::of_text(run_as, &text) else {
        return;
    };
    for (user, uid, effective) in [
        ("root", "0", DOCKERS_CAPABILITIES),
        ("app:web", "1000", NO_CAPABILITIES),
    ] {
        let lines = bench.ask(
            &["--user", user],
            "wait-for /tmp/finished cat /tmp/finished then print LIMITS cat /proc/self/limits",
        );
        let found = fields(&lines);
        assert_eq!(found["Uid"], [uid; 4], "{user}");
        assert_rights(&found, effective);
        assert!(
            lines.contains(&"0000000000000000".to_owned()),
            "ignored signals: {lines:?}"
        );
        assert_eq!(
            standard_descriptors(&lines),
            ["0 /dev/null", "1 /tmp/unfinished", "2 pipe"]
        );
        assert!(lines.contains(&"FROM_IMAGE=image".to_owned()), "{lines:?}");
        assert!(lines.contains(&"/made/by/workdir".to_owned()), "{lines:?}");
        assert_calls_refused(&lines);
        let (executed, first) =
            lines.split_at(lines.iter().position(|line| line == "LIMITS").unwrap());
        assert!(
            executed.ends_with(&first[1..]),
            "other limits than the app's: {lines:?}"
        );
    }
}

#[test]
fn root_a_health_check_has_the_rights_of_the_app() {
    executed_process(RunAs::Root);
}

#[test]
fn rootless_a_health_check_has_the_rights_of_the_app() {
    executed_process(RunAs::OrdinaryUser);
}

/// The lines of `descriptors`, with the pipes' numbers left out.
fn standard_descriptors(lines: &[String]) -> Vec<String> {
    let numbered = |line: &&String| {
        let (number, target) = line.split_once(' ').unwrap_or_default();
        number.parse::<u32>().is_ok() && (target.starts_with('/') || target.contains(":["))
    };
    let lines = lines.iter().filter(numbered);
    lines
        .map(|line| {
            line.split_once(":[")
                .map_or(line.as_str(), |parts| parts.0)
                .to_owned()
        })
        .collect()
}

fn assert_calls_refused(lines: &[String]) {
    const EPERM: &str = "1";
    const ENOSYS: &str = "38";
    for (call, errno) in [
        ("mount", EPERM),
        ("bpf", EPERM),
        ("keyctl", EPERM),
        ("unshare", EPERM),
        ("clone3", ENOSYS),
        ("socket", EPERM),
        ("io_uring_setup", EPERM),
        ("newer-than-known", ENOSYS), // so that C libraries do without
        ("mknodat", EPERM), // of a device: there is no cgroup that would keep it from being opened
    ] {
        assert!(
            lines.contains(&format!("{call} {errno}")),
            "{call}: {lines:?}"
        );
    }
}

fn first_process(run_as: RunAs) {
    let Some(bench) = Bench::of_text(run_as, IMAGE) else {
        return;
    };
    let words = "getpid then cwd then hostname then descriptors then ignored-signals \
                 then forbidden-calls then grep : /proc/net/dev then ls /proc";
    for user in ["root", "app:web"] {
        let lines = bench.ask(&["--user", user], words);
        assert_eq!(lines[..3], ["1", "/made/by/workdir", "app"], "{user}");
        assert_eq!(
            standard_descriptors(&lines),
            ["0 /dev/null", "1 pipe", "2 pipe"],
            "{user}"
        );
        assert!(
            lines.contains(&"0000000000000000".to_owned()),
            "ignored signals: {lines:?}"
        );
        assert_calls_refused(&lines);
        let interfaces = lines.iter().filter_map(|line| line.trim().split_once(':'));
        let interfaces: BTreeSet<_> = interfaces
            .filter(|(_, rest)| rest.contains("  "))
            .map(|(name, _)| name)
            .collect();
        assert!(
            interfaces.contains("lo") && interfaces.contains("eth0"),
            "{interfaces:?}"
        );
        let processes: Vec<_> = lines[3..]
            .iter()
            .filter(|line| line.parse::<u32>().is_ok())
            .collect();
        // The mask of ignored signals is all digits too.
        assert_eq!(
            processes,
            ["0000000000000000", "1"],
            "{user}: only its own process is in its /proc"
        );
    }
}

#[test]
fn root_first_process_is_alone_and_holds_only_its_three_descriptors() {
    first_process(RunAs::Root);
}

#[test]
fn rootless_first_process_is_alone_and_holds_only_its_three_descriptors() {
    first_process(RunAs::OrdinaryUser);
}
