//! What a container is given: its process, files, devices, rights and ports, as Docker gives them.

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
            let of_docker: BTreeSet<_> = groups.iter().copied().collect();
            let mut seen: BTreeSet<_> = found["Groups"].iter().copied().collect();
            // Docker lists the primary group among the supplementary ones or not, by version; it is the same.
            seen.remove(gid);
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

fn kernel_files(run_as: RunAs) {
    let Some(bench) = Bench::of_text(run_as, IMAGE) else {
        return;
    };
    let questions = [
        ("try bytes 4 /dev/zero", "00000000"),
        ("try bytes 4 /dev/null", ""),
        ("try write /dev/null x", "succeeded"),
        (
            "try write /dev/full x",
            "refused: No space left on device (os error 28)",
        ),
        (
            "try write /proc/sys/kernel/hostname x",
            "refused: Read-only file system (os error 30)",
        ),
        (
            "try write /proc/sysrq-trigger h",
            "refused: Read-only file system (os error 30)",
        ),
        (
            "try write /sys/class/net/eth0/mtu 1400",
            "refused: Read-only file system (os error 30)",
        ),
        // Masked files are empty, masked directories too.
        ("try cat /proc/keys", "succeeded"),
        ("try cat /proc/timer_list", "succeeded"),
        ("try bytes 16 /proc/kcore", ""),
        ("try ls /proc/acpi", "succeeded"),
        ("try ls /sys/firmware", "succeeded"),
        ("try write /dev/shm/file x", "succeeded"),
        ("link /dev/fd", "/proc/self/fd"),
        ("link /dev/stdout", "/proc/self/fd/1"),
        ("link /dev/ptmx", "pts/ptmx"),
        ("cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
    ];
    let mut words = String::new();
    for (question, _) in questions {
        let _ = write!(
            words,
            "print ?{} {question} then ",
            question.replace(' ', "_")
        );
    }
    words += "bytes 8 /dev/urandom then try write /dev/stdout through-its-name";
    for user in ["root", "app:web"] {
        let lines = bench.ask(&["--user", user], &words);
        for (question, expected) in questions {
            let marker = format!("?{}", question.replace(' ', "_"));
            let at = lines.iter().position(|line| *line == marker).unwrap();
            let answer = &lines[at + 1];
            // Not every kernel has every masked file.
            let absent = answer.contains("No such file") && question.contains("/proc/");
            // root is refused by the mount, others by the file's mode before.
            let denied = user != "root" && answer.contains("Permission denied");
            let refused = expected.starts_with("refused: Read-only") && denied;
            assert!(
                answer == expected || absent || refused,
                "{user}: {question}: {answer}"
            );
        }
        assert!(
            lines
                .iter()
                .any(|line| line.starts_with("through-its-name")),
            "{user}: {lines:?}"
        );
        let noise = &lines[lines.len() - 2];
        assert!(noise.len() == 16 && *noise != "0".repeat(16), "{noise}");
    }
}

#[test]
fn root_kernel_files_are_there_read_only_or_masked() {
    kernel_files(RunAs::Root);
}

#[test]
fn rootless_kernel_files_are_there_read_only_or_masked() {
    kernel_files(RunAs::OrdinaryUser);
}

fn etc_files(run_as: RunAs) {
    let Some(bench) = Bench::of_text(run_as, IMAGE) else {
        return;
    };
    let lines = bench.ask(
        &[],
        "cat /etc/hosts then cat /etc/hostname then try cat /etc/resolv.conf",
    );
    assert!(
        !lines.iter().any(|line| line.contains("from-the-image")),
        "{lines:?}"
    );
    assert!(
        lines.contains(&"127.0.0.1\tlocalhost".to_owned()),
        "{lines:?}"
    );
    let own = lines
        .iter()
        .find_map(|line| line.strip_suffix("\tapp"))
        .expect("its own address");
    assert!(
        !own.parse::<std::net::IpAddr>().unwrap().is_loopback(),
        "{own}"
    );
    assert!(
        lines.contains(&"app".to_owned()),
        "/etc/hostname: {lines:?}"
    );
    assert!(
        lines.iter().any(|line| line.ends_with("succeeded")),
        "resolv.conf: {lines:?}"
    );
    // It is the address that probes connect to.
    let mut passing = bench.arguments(&["--entrypoint", "/probe-target", "--"]);
    passing.extend(["serve", "--address", own]);
    bench.context.run(passing).assert_code(0);
}

#[test]
fn root_etc_files_name_the_container_and_its_address() {
    etc_files(RunAs::Root);
}

#[test]
fn rootless_etc_files_name_the_container_and_its_address() {
    etc_files(RunAs::OrdinaryUser);
}

fn host_is_out_of_reach(run_as: RunAs) {
    let Some(bench) = Bench::of_text(run_as, IMAGE) else {
        return;
    };
    let secret = bench.context.write("secret-of-the-host", "secret");
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = service.local_addr().unwrap().port();
    let words = format!(
        "try cat {} then try ls /proc/1/root{} then try connect 127.0.0.1:{port} then try connect 10.88.0.1:{port} \
         then ls / then mounts",
        secret.display(),
        bench.context.dir().display(),
    );
    let lines = bench.ask(&[], &words);
    let refused = |line: &str, why: &str| line.starts_with("refused: ") && line.contains(why);
    assert!(refused(&lines[0], "No such file"), "{lines:?}");
    assert!(refused(&lines[1], "No such file"), "{lines:?}");
    assert!(refused(&lines[2], "ConnectionRefused"), "{lines:?}");
    assert!(refused(&lines[3], "ConnectionRefused"), "{lines:?}");
    let root: Vec<_> = lines[4..]
        .iter()
        .take_while(|line| !line.contains(" / "))
        .collect();
    let expected = [
        "dev",
        "etc",
        "made",
        "opt",
        "private",
        "probe-target",
        "proc",
        "setgid",
        "setuid",
        "shared",
        "sys",
        "tmp",
    ];
    assert_eq!(root, expected);
    let own = bench.context.dir().to_str().unwrap();
    assert!(
        !lines[4..].iter().any(|line| line.contains(own)),
        "a place of the host: {lines:?}"
    );
}

#[test]
fn root_host_files_and_services_are_out_of_reach() {
    host_is_out_of_reach(RunAs::Root);
}

#[test]
fn rootless_host_files_and_services_are_out_of_reach() {
    host_is_out_of_reach(RunAs::OrdinaryUser);
}

/// Links in the image that point above its root, where the container's files and mounts are made.
fn links_stay_inside(run_as: RunAs) {
    let Some(context) = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as) else {
        return;
    };
    let outside = context.dir().join("outside");
    std::fs::create_dir(&outside).unwrap();
    run_as.own(&outside).unwrap();
    let up = "../".repeat(30);
    let place = outside.display();
    let cases = [
        format!("link /etc/hosts -> {up}{place}/hosts"),
        format!("link /etc/hosts -> {place}/hosts"),
        format!("link /etc/resolv.conf -> {up}store/planted"),
        format!("link /etc -> {up}store"),
        format!("link /volume -> {up}{place}"),
        format!("dir /real 0755 0:0\nlink /volume -> {up}real"),
        format!("link /workdir -> {place}"),
        format!("link /workdir -> {up}store"),
        format!("link /dev -> {up}{place}"),
        format!("link /proc -> {up}{place}"),
        format!("link /sys -> {up}{place}"),
    ];
    for links in cases {
        let text = format!(
            "entrypoint: /probe-target serve\nvolume: /volume/made\nworkdir: /workdir/made\nlayer gzip\n{links}\n\
             file /probe-target 0755 0:0 @probe-target"
        );
        let archive = context.archive("image", &ImageFixture::parse(&text).unwrap().build());
        let run = context.run([
            "gate",
            archive.to_str().unwrap(),
            "--publish",
            "0:8080",
            "--within",
            "20s",
        ]);
        let made: Vec<_> = std::fs::read_dir(&outside).unwrap().collect();
        assert!(made.is_empty(), "{links}: made on the host: {made:?}");
        assert!(
            !context.dir().join("cache/smokegate/planted").exists(),
            "{links}"
        );
        assert!(
            !context.dir().join("cache/smokegate/made").exists(),
            "{links}"
        );
        // Some of these run, others are refused as the image's fault.
        assert!(matches!(run.code(), Some(0 | 1)), "{links}: {}", run.stderr);
        let common = links.contains("/etc/hosts") || links.contains("/etc/resolv.conf");
        if common || links.contains("dir /real") {
            run.assert_code(0);
        }
    }
}

#[test]
fn root_links_of_an_image_lead_nowhere_on_the_host() {
    links_stay_inside(RunAs::Root);
}

#[test]
fn rootless_links_of_an_image_lead_nowhere_on_the_host() {
    links_stay_inside(RunAs::OrdinaryUser);
}

/// The answers of `stat` without the size and the time.
fn stats(bench: &Bench, flags: &[&str], paths: &[&str]) -> Vec<String> {
    let words: Vec<_> = paths
        .iter()
        .map(|path| format!("try stat {path}"))
        .collect();
    let lines = bench.ask(flags, &words.join(" then "));
    let without_size = |line: &String| match line.split_once(" size=") {
        Some((head, _)) => head.to_owned(),
        None => line.clone(),
    };
    lines
        .iter()
        .filter(|line| *line != "succeeded")
        .map(without_size)
        .collect()
}

fn modes(run_as: RunAs) {
    let Some(bench) = Bench::of_text(run_as, IMAGE) else {
        return;
    };
    let found = stats(
        &bench,
        &[],
        &[
            "/tmp", "/shared", "/setuid", "/setgid", "/private", "/made/by",
        ],
    );
    let expected = [
        "directory mode=1777 uid=0 gid=0",
        "directory mode=2775 uid=0 gid=0",
        "file mode=4755 uid=0 gid=0",
        "file mode=2755 uid=0 gid=0",
        "file mode=0600 uid=0 gid=0",
        "directory mode=0755 uid=0 gid=0",
    ];
    assert_eq!(found, expected);
}

#[test]
fn root_modes_are_the_images() {
    modes(RunAs::Root);
}

#[test]
fn rootless_modes_are_the_images() {
    modes(RunAs::OrdinaryUser);
}

fn volumes(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as, &ImageFixture::load("volumes")) else {
        return;
    };
    let words = "cat /var/lib/app/seed then stat /var/lib/app then try write /var/lib/app/new x \
                 then try ls /var/lib/app then try write /not/in/the/image/new y \
                 then try rename /var/lib/app/new /tmp/new then mounts";
    let lines = bench.ask(&[], words);
    let (owner, _) = if bench.is_root() {
        ("uid=1000 gid=1000", ())
    } else {
        ("uid=0 gid=0", ())
    };
    assert_eq!(lines[0], "from the image");
    assert!(
        lines[1].starts_with(&format!("directory mode=0750 {owner}")),
        "{lines:?}"
    );
    assert_eq!(
        lines[2..7],
        ["succeeded", "new", "seed", "succeeded", "succeeded"]
    );
    // A mount of its own: nothing can be renamed out of it (EXDEV).
    assert!(lines[7].contains("os error 18"), "{lines:?}");
    for volume in ["/var/lib/app", "/not/in/the/image"] {
        assert!(
            lines
                .iter()
                .any(|line| line.contains(&format!(" {volume} "))),
            "{volume}: {lines:?}"
        );
    }
    // A second run starts with the image's content again.
    let lines = bench.ask(&[], "ls /var/lib/app then ls /not/in/the/image");
    assert_eq!(lines, ["seed"]);
}

#[test]
fn root_volumes_are_mounts_with_the_images_content() {
    volumes(RunAs::Root);
}

#[test]
fn rootless_volumes_are_mounts_with_the_images_content() {
    volumes(RunAs::OrdinaryUser);
}

fn joined_layers(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as, &ImageFixture::load("whiteouts")) else {
        return;
    };
    let words = "ls /etc then ls /opaque then ls / then cat /etc/removed then cat /etc/replaced \
                 then cat /lib/extra.so then cat /usr/lib/base.so then cat /etc/kept-too \
                 then link /etc/dangling then try ls /removed-dir";
    let lines = bench.ask(&[], words);
    let expected = [
        // /etc, with the files that every container has
        "dangling",
        "hostname",
        "hosts",
        "kept",
        "kept-too",
        "pipe",
        "removed",
        "replaced",
        "resolv.conf",
        // /opaque
        "above",
        // /
        "dev",
        "etc",
        "lib",
        "opaque",
        "probe-target",
        "proc",
        "sys",
        "tmp",
        "usr",
        "back again",
        "second",
        "extra",
        "base",
        "from the first layer",
        "/does/not/exist",
        "refused: No such file or directory (os error 2)",
    ];
    assert_eq!(lines, expected);
    let owner = if bench.is_root() {
        "uid=7 gid=8"
    } else {
        "uid=0 gid=0"
    };
    let found = stats(
        &bench,
        &[],
        &["/tmp", "/etc/replaced", "/etc/pipe", "/etc/kept"],
    );
    let expected = [
        "directory mode=1777 uid=0 gid=0".to_owned(),
        format!("file mode=0640 {owner}"),
        "fifo mode=0620 uid=0 gid=0".to_owned(),
        "file mode=0600 uid=0 gid=0".to_owned(),
    ];
    assert_eq!(found, expected);
}

#[test]
fn root_layers_look_joined_from_inside() {
    joined_layers(RunAs::Root);
}

#[test]
fn rootless_layers_look_joined_from_inside() {
    joined_layers(RunAs::OrdinaryUser);
}

fn last_words(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as, &ImageFixture::load("logs-and-dies")) else {
        return;
    };
    let run = bench.context.run(bench.arguments(&[]));
    run.assert_code(1);
    let lines = bench.context.app_log();
    for (name, last) in [
        ("out", "last words on stdout"),
        ("err", "last words on stderr"),
    ] {
        let mut expected: Vec<_> = (1..=10_000)
            .map(|line| format!("{name} {line} of 10000"))
            .collect();
        expected.push(last.to_owned());
        let of_stream = lines
            .iter()
            .filter(|line| line.starts_with(name) || *line == last);
        assert!(
            of_stream.eq(&expected),
            "lines of {name} are lost or out of order"
        );
    }
    assert_eq!(lines.len(), 20_002);
    assert_eq!(bench.context.receipt()["variants"][0]["log_lines"], 20_002);
    assert!(
        run.stderr.contains("last 20 of 20002 lines"),
        "{}",
        run.stderr
    );
    // The two pipes are read as they fill, so one stream may end a few hundred lines before the other.
    assert!(
        run.stderr.contains("  | last words on std"),
        "{}",
        run.stderr
    );
}

#[test]
fn root_no_line_is_lost_when_the_process_dies_at_once() {
    last_words(RunAs::Root);
}

#[test]
fn rootless_no_line_is_lost_when_the_process_dies_at_once() {
    last_words(RunAs::OrdinaryUser);
}

/// One HTTP/1.1 exchange.
fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.is_empty() {
        Err(ErrorKind::UnexpectedEof.into())
    } else {
        Ok(answer)
    }
}

/// Sends, ends that direction, and reads what comes back until the other direction ends.
fn echo(address: SocketAddr, sent: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(sent)?;
    stream.shutdown(Shutdown::Write)?;
    let mut received = Vec::new();
    stream.read_to_end(&mut received)?;
    Ok(received)
}

fn published_ports(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as, &ImageFixture::load("half-close")) else {
        return;
    };
    let (_running, ports) = bench.start(&["--publish", "0:9999"], 2);
    let [echoing, silent] = ports[..] else {
        unreachable!()
    };
    assert!(
        echoing.ip().is_loopback() && silent.ip().is_loopback(),
        "{ports:?}"
    );
    wait_for("the app listens", LIMIT, || echo(echoing, b"ready").ok());
    std::thread::scope(|scope| {
        for number in 0..20_usize {
            scope.spawn(move || {
                let sent: Vec<u8> = (0..300_000)
                    .map(|at: usize| (at * 31 + number) as u8)
                    .collect();
                let received = echo(echoing, &sent).unwrap();
                assert!(
                    received == sent,
                    "connection {number}: {} bytes came back",
                    received.len()
                );
            });
        }
    });
    // Accepted by the host's side, which cannot know before; then reset, not ended.
    let mut stream = TcpStream::connect(silent).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let error = stream
        .read(&mut [0])
        .expect_err("a port nobody listens on was answered");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

#[test]
fn root_published_ports_carry_connections_at_once_and_half_closed() {
    published_ports(RunAs::Root);
}

#[test]
fn rootless_published_ports_carry_connections_at_once_and_half_closed() {
    published_ports(RunAs::OrdinaryUser);
}

fn busy_ports(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as, &ImageFixture::load("serve")) else {
        return;
    };
    let gate = ["gate", bench.archive.to_str().unwrap()];
    // Busy already when somebody else has it; held so that it stays so.
    let default = TcpListener::bind("127.0.0.1:18080");
    let implicit = bench.context.run(gate);
    implicit.assert_code(0);
    let [port] = published(&implicit.stderr)[..] else {
        panic!("{}", implicit.stderr)
    };
    assert!(port.ip().is_loopback());
    if default.is_ok() {
        assert_ne!(port.port(), 18080);
        assert!(
            implicit.stderr.contains("(port 18080 is busy)"),
            "{}",
            implicit.stderr
        );
    }

    let named = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let held = TcpListener::bind(named).unwrap();
    let map = format!("{}:8080", named.port());
    let named_run = bench.context.run(["gate", gate[1], "--publish", &map]);
    named_run.assert_code(3);
    let expected = format!("error: cannot listen on {named}: Address already in use (os error 98)");
    assert!(
        named_run.stderr.lines().any(|line| line == expected),
        "{}",
        named_run.stderr
    );
    assert!(
        named_run.stderr.contains("hint: free the port"),
        "{}",
        named_run.stderr
    );
    assert_eq!(bench.context.receipt()["verdict"], "inconclusive");
    drop(held);
    let now_free = bench.context.run(["gate", gate[1], "--publish", &map]);
    now_free.assert_code(0);
    assert_eq!(published(&now_free.stderr), [named]);
}

#[test]
fn root_a_busy_port_is_refused_when_named_and_replaced_when_not() {
    busy_ports(RunAs::Root);
}

#[test]
fn rootless_a_busy_port_is_refused_when_named_and_replaced_when_not() {
    busy_ports(RunAs::OrdinaryUser);
}

/// All run at the same time: none can pass before its port was asked to let it.
fn concurrent_runs(run_as: RunAs) {
    const RUNS: usize = 20;
    let Some(bench) = Bench::new(run_as, &ImageFixture::load("serve")) else {
        return;
    };
    let start = |number: usize| {
        let report = format!("report-{number}");
        let archive = bench.archive.to_str().unwrap();
        let words = ["--interval", "100ms", "--report-dir", &report, "--"];
        let arguments = ["gate", archive, "--within", WITHIN]
            .into_iter()
            .chain(words);
        bench
            .context
            .start(arguments.chain(["--released-by", "/release"]))
    };
    let mut runs: Vec<Running> = (0..RUNS).map(start).collect();
    let ports: Vec<_> = runs
        .iter_mut()
        .map(|run| {
            run.wait_for_stderr("variant default: asking", LIMIT);
            let [port] = published(&run.stderr_so_far())[..] else {
                panic!("{}", run.stderr_so_far())
            };
            port
        })
        .collect();
    assert_eq!(
        ports.iter().collect::<BTreeSet<_>>().len(),
        RUNS,
        "{ports:?}"
    );
    for port in ports {
        let answer = wait_for("the app answers", LIMIT, || get(port, "/release").ok());
        assert!(answer.ends_with("released\n"), "{answer}");
    }
    for run in runs {
        run.wait(LIMIT).assert_code(0);
    }
    let left = std::fs::read_dir(bench.context.dir().join("cache/smokegate/run")).unwrap();
    assert_eq!(left.count(), 0, "directories of runs that ended");
}

#[test]
fn root_twenty_runs_of_one_image_at_once_pass_each_on_its_own_port() {
    concurrent_runs(RunAs::Root);
}

#[test]
fn rootless_twenty_runs_of_one_image_at_once_pass_each_on_its_own_port() {
    concurrent_runs(RunAs::OrdinaryUser);
}
