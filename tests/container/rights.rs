//! Rights and limits of a container and of what is exec'd into it, at every isolation level: Docker's where the
//! gate file says nothing, else what it says.

use smokegate_test_support::Finished;

use super::*;
use crate::subuid::SubuidUser;

/// Where a run's user ids come from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Level {
    Root,
    Subuid,
    Single,
}

/// A program under test that runs containers at one level.
enum Runner {
    Direct(Smokegate),
    Subuid(SubuidUser),
}

struct Pod {
    level: Level,
    runner: Runner,
    archive: PathBuf,
}

/// What one process saw, in the order of the questions.
struct Seen {
    first: Vec<String>,
    executed: Vec<String>,
}

impl Seen {
    /// Both processes, each with a name for messages.
    fn each(&self) -> [(&'static str, &[String]); 2] {
        [("first", &self.first), ("exec'd", &self.executed)]
    }
}

impl Pod {
    fn new(level: Level) -> Option<Self> {
        let runner = match level {
            Level::Root => Runner::Direct(Smokegate::new(
                env!("CARGO_BIN_EXE_smokegate"),
                RunAs::Root,
            )?),
            Level::Single => Runner::Direct(Smokegate::new(
                env!("CARGO_BIN_EXE_smokegate"),
                RunAs::OrdinaryUser,
            )?),
            Level::Subuid => Runner::Subuid(SubuidUser::new()?),
        };
        let text = format!("volume: /data\n{}", IMAGE.trim_start());
        let image = ImageFixture::parse(&text).unwrap().build();
        let pod = Self {
            level,
            archive: PathBuf::new(),
            runner,
        };
        let archive = pod.context().archive("image", &image);
        Some(Self { archive, ..pod })
    }

    fn context(&self) -> &Smokegate {
        match &self.runner {
            Runner::Direct(context) => context,
            Runner::Subuid(user) => &user.0,
        }
    }

    /// Runs the probe target with these words and keys of the gate file, and as a probe what `probe` says.
    fn run(&self, keys: &str, probe: &str, words: &str) -> Finished {
        let file = format!("version: 1\napp:\n  ports: ['0:8080']\n  probes: [{probe}]\n{keys}");
        self.context().write("smokegate.yaml", file);
        let mut arguments = vec!["gate", self.archive.to_str().unwrap()];
        arguments.extend(["--entrypoint", "/probe-target", "--"]);
        arguments.extend(words.split(' '));
        match &self.runner {
            Runner::Direct(context) => context.run(arguments),
            Runner::Subuid(user) => user.run(&arguments),
        }
    }

    /// What the container's first process and one that is exec'd into it see.
    fn ask(&self, keys: &str, words: &str) -> Seen {
        const OPEN: &str = "/dev/shm/unfinished";
        const DONE: &str = "/dev/shm/finished";
        let exec =
            format!("/probe-target into {OPEN} {words} then rename {OPEN} {DONE} then exit 1");
        let exec: Vec<_> = exec.split(' ').collect();
        let probe = format!("{{exec: {exec:?}, interval: 200ms, timeout: 30s}}");
        let words = format!("{words} then print EXECUTED wait-for {DONE} cat {DONE}");
        let run = self.run(keys, &probe, &words);
        run.assert_code(1);
        let level = format!("isolation: {:?}", self.level).to_lowercase();
        assert!(run.stderr.contains(&level), "{level}: {}", run.stderr);
        let first = self.context().app_log();
        let at = first.iter().position(|line| line == "EXECUTED");
        let at = at.unwrap_or_else(|| panic!("{first:?}\n{}", run.stderr));
        Seen {
            executed: first[at + 1..].to_vec(),
            first: first[..at].to_vec(),
        }
    }
}

/// For each level a test of one body.
macro_rules! at_every_level {
    ($body:ident: $root:ident, $subuid:ident, $single:ident) => {
        #[test]
        fn $root() {
            $body(Level::Root);
        }

        #[test]
        fn $subuid() {
            $body(Level::Subuid);
        }

        #[test]
        fn $single() {
            $body(Level::Single);
        }
    };
}

fn defaults(level: Level) {
    let Some(pod) = Pod::new(level) else { return };
    let masked = "print MASKED try bytes 16 /proc/keys then try bytes 16 /proc/kcore then try bytes 16 \
                  /proc/timer_list then print HIDDEN try ls /sys/firmware then try ls /proc/acpi";
    let words = format!(
        "id then grep SigBlk /proc/self/status then forbidden-calls then grep /dev/shm /proc/self/mountinfo then {masked}"
    );
    for (user, uid, effective) in [
        ("root", "0", DOCKERS_CAPABILITIES),
        ("app:web", "1000", NO_CAPABILITIES),
        ("4242", "4242", NO_CAPABILITIES),
    ] {
        let seen = pod.ask(&format!("  user: \"{user}\""), &words);
        for (process, lines) in seen.each() {
            let found = fields(lines);
            assert_eq!(found["Uid"], [uid; 4], "{user}, {process}");
            assert_rights(&found, effective);
            assert_calls_refused(lines);
            let shm = lines.iter().find(|line| line.contains(" /dev/shm "));
            assert!(shm.unwrap().contains("size=65536k"), "{process}: {shm:?}");
            let at = lines.iter().position(|line| line == "MASKED").unwrap();
            // Empty where it exists, and closed to who may not read it; nothing that tells of the host.
            for answer in lines[at + 1..].iter().filter(|line| *line != "HIDDEN") {
                let closed = answer.starts_with("refused: No such file")
                    || answer.starts_with("refused: Permission denied");
                assert!(
                    answer.is_empty() || answer == "succeeded" || closed,
                    "{user}, {process}: {lines:?}"
                );
            }
        }
    }
}

at_every_level!(defaults:
    root_rights_are_dockers_in_both_processes,
    root_subuid_rights_are_dockers_in_both_processes,
    rootless_rights_are_dockers_in_both_processes
);

/// A program of 32 bits has the same calls, by the numbers of another table (arch/x86/entry/syscalls/syscall_32.tbl).
#[cfg(target_arch = "x86_64")]
fn calls_of_32_bit_programs(level: Level) {
    const CALLS: [(&str, &str); 9] = [
        ("20 0 0 0", "0"),          // getpid
        ("359 2 1 0", "0"),         // socket(AF_INET)
        ("359 38 5 0", "1"),        // socket(AF_ALG)
        ("310 268435456 0 0", "1"), // unshare(CLONE_NEWUSER)
        ("120 268435456 0 0", "1"), // clone(CLONE_NEWUSER)
        ("21 0 0 0", "1"),          // mount
        ("288 0 0 0", "1"),         // keyctl
        ("435 0 0 0", "38"),        // clone3
        ("479 0 0 0", "38"),        // newer than known
    ];
    let Some(pod) = Pod::new(level) else { return };
    let words = CALLS.map(|(call, _)| format!("call-as-32-bit {call}"));
    let mut expected = CALLS.map(|(_, answer)| answer.to_owned());
    // A kernel without IA32_EMULATION has no such programs.
    let mut here = RunAs::Root.command(smokegate_test_support::probe_target());
    here.args(["call-as-32-bit", "20", "0", "0", "0"]);
    let here = String::from_utf8(here.output().unwrap().stdout).unwrap();
    if here.starts_with("signal") {
        expected.fill(here.trim_end().to_owned());
    }
    for user in ["root", "app:web"] {
        let seen = pod.ask(&format!("  user: {user}"), &words.join(" then "));
        for (process, lines) in seen.each() {
            assert_eq!(lines, expected, "{user}, {process}");
        }
    }
}

#[cfg(target_arch = "x86_64")]
at_every_level!(calls_of_32_bit_programs:
    root_calls_of_32_bit_programs_are_dockers_in_both_processes,
    root_subuid_calls_of_32_bit_programs_are_dockers_in_both_processes,
    rootless_calls_of_32_bit_programs_are_dockers_in_both_processes
);

fn capabilities(level: Level) {
    let Some(pod) = Pod::new(level) else { return };
    for (keys, bounding) in [
        ("cap_drop: [ALL]", "0000000000000000"),
        (
            "cap_drop: [all]\n  cap_add: [CAP_NET_BIND_SERVICE]",
            "0000000000000400",
        ),
        ("cap_add: [net_admin, SYS_PTRACE]", "00000000a80c35fb"),
        (
            "cap_add: [MKNOD]\n  cap_drop: [MKNOD, cap_net_raw]",
            "00000000a80405fb",
        ),
    ] {
        for (user, uid) in [("root", "0"), ("app:web", "1000")] {
            let keys = format!("  user: {user}\n  {keys}");
            let seen = pod.ask(&keys, "id");
            for (process, lines) in seen.each() {
                let found = fields(lines);
                let own = if uid == "0" {
                    bounding
                } else {
                    NO_CAPABILITIES
                };
                for (set, expected) in [("CapBnd", bounding), ("CapEff", own), ("CapPrm", own)] {
                    assert_eq!(found[set], [expected], "{keys}: {set}, {process}");
                }
                assert_eq!(found["CapInh"], [NO_CAPABILITIES], "{keys}, {process}");
                assert_eq!(found["Seccomp"], ["2"], "{keys}, {process}");
            }
        }
    }
    let not_tested = pod.context().receipt()["isolation"]["not_tested"].to_string();
    assert!(!not_tested.contains("capability"), "{not_tested}");
}

at_every_level!(capabilities:
    root_capabilities_are_added_and_dropped_in_both_processes,
    root_subuid_capabilities_are_added_and_dropped_in_both_processes,
    rootless_capabilities_are_added_and_dropped_in_both_processes
);

/// The capability to administer the system holds in the container's user namespace, or not at all.
fn administration(level: Level) {
    let Some(pod) = Pod::new(level) else { return };
    for keys in ["cap_add: [SYS_ADMIN]", "cap_add: [ALL]"] {
        let keys = format!("  {keys}");
        if level == Level::Root {
            let run = pod.run(&keys, "{tcp: 8080}", "serve");
            run.assert_code(3);
            assert!(
                run.stderr.contains(
                    "error: capability SYS_ADMIN is not given to a container at isolation level `root`"
                ),
                "{}",
                run.stderr
            );
            assert!(
                run.stderr.contains("hint: run as an ordinary user"),
                "{}",
                run.stderr
            );
            continue;
        }
        let words = "id then forbidden-calls then try write /proc/sys/kernel/core_pattern x \
                     then try bytes 16 /proc/kcore";
        let seen = pod.ask(&keys, words);
        for (process, lines) in seen.each() {
            // What Docker's profile opens with it: refused for its arguments (EFAULT), not by the filter.
            for (call, errno) in [
                ("mount", "14"),
                ("unshare", "0"),
                ("keyctl", "1"),
                ("mknodat", "1"),
            ] {
                let line = format!("{call} {errno}");
                assert!(lines.contains(&line), "{process}: {line}: {lines:?}");
            }
            let refused = lines.iter().filter(|line| line.starts_with("refused: "));
            assert!(refused.count() >= 1, "{process}: {lines:?}");
        }
        let not_tested = pod.context().receipt()["isolation"]["not_tested"].to_string();
        assert!(
            not_tested.contains("SYS_ADMIN") && not_tested.contains("on the host"),
            "{not_tested}"
        );
    }
}

at_every_level!(administration:
    root_administration_of_the_host_is_not_given,
    root_subuid_administration_holds_in_the_namespace_and_is_said,
    rootless_administration_holds_in_the_namespace_and_is_said
);

fn hardened(level: Level) {
    let Some(pod) = Pod::new(level) else { return };
    let keys = "  user: app:web\n  read_only: true\n  security_opt: ['no-new-privileges:true']\n  \
                shm_size: 128m\n  extra_hosts: ['db.internal=10.1.2.3', 'six:[2001:db8::1]']\n  ulimits:\n    \
                nofile: {soft: 100, hard: 200}\n    core: 0\n    nproc: 4000";
    let words = "id then print ANSWERS try write /new x then try write /tmp/new x then try write /etc/hosts x \
                 then try write /dev/shm/new x then try write /dev/null x then try write /data/new x \
                 then cat /etc/hosts then cat /proc/self/limits then grep /dev/shm /proc/self/mountinfo";
    for user in ["app:web", "root"] {
        let seen = pod.ask(&keys.replace("app:web", user), words);
        for (process, lines) in seen.each() {
            let found = fields(lines);
            assert_eq!(found["NoNewPrivs"], ["1"], "{process}");
            assert_eq!(found["Seccomp"], ["2"], "{process}");
            let at = lines.iter().position(|line| line == "ANSWERS").unwrap();
            let read_only = "refused: Read-only file system (os error 30)";
            let answers = &lines[at + 1..at + 7];
            assert_eq!(answers[1], read_only, "{user}, {process}");
            assert_eq!(
                answers[3..5],
                ["succeeded", "succeeded"],
                "{user}, {process}"
            );
            if user == "root" {
                assert_eq!([&answers[0], &answers[2]], [read_only; 2], "{process}");
                assert_eq!(answers[5], "succeeded", "a volume, {process}");
            }
            let at = |wanted: &str| lines.iter().position(|line| line == wanted).unwrap();
            let own = lines.iter().position(|line| line.ends_with("\tapp"));
            assert!(
                at("10.1.2.3\tdb.internal") < at("2001:db8::1\tsix"),
                "{process}"
            );
            assert!(
                at("2001:db8::1\tsix") < own.unwrap(),
                "{process}: the pod's names come last"
            );
            let limit = |name: &str| {
                let line = lines.iter().find(|line| line.starts_with(name)).unwrap();
                line[name.len()..]
                    .split_whitespace()
                    .take(2)
                    .collect::<Vec<_>>()
                    .join(" ")
            };
            assert_eq!(limit("Max open files"), "100 200", "{process}");
            assert_eq!(limit("Max core file size"), "0 0", "{process}");
            assert_eq!(limit("Max processes"), "4000 4000", "{process}");
            let shm = lines.iter().find(|line| line.contains(" /dev/shm "));
            assert!(shm.unwrap().contains("size=131072k"), "{process}: {shm:?}");
        }
    }

    let run = pod.run("  ulimits: {nofile: 2000000000}", "{tcp: 8080}", "serve");
    run.assert_code(3);
    let cause = "error: the hard limit of `ulimits: nofile` cannot be 2000000000 here: ";
    assert!(run.stderr.contains(cause), "{}", run.stderr);
    assert!(
        run.stderr
            .contains("hint: raise the limit of whoever starts smokegate")
    );
}

at_every_level!(hardened:
    root_a_hardened_container_is_as_the_gate_file_says,
    root_subuid_a_hardened_container_is_as_the_gate_file_says,
    rootless_a_hardened_container_is_as_the_gate_file_says
);

/// Process 1 is an init of ours, or the program itself as with Docker.
fn init(level: Level) {
    let Some(pod) = Pod::new(level) else { return };
    for user in ["root", "app:web"] {
        for (init, orphan) in [(true, "reaped"), (false, "a zombie")] {
            let keys = format!("  user: {user}\n  init: {init}");
            let words = "getpid then brief-orphan then link /proc/1/exe then descriptors then ls /proc/1/fd then id";
            let seen = pod.ask(&keys, words);
            assert_eq!(seen.first[0] == "1", !init, "{keys}: {:?}", seen.first);
            assert_eq!(seen.first[1], orphan, "{keys}");
            assert_ne!(seen.executed[0], "1", "{keys}");
            for (process, lines) in seen.each() {
                let own = lines[2].starts_with("/memfd:smokegate-init ");
                assert_eq!(own, init, "{keys}, {process}: {lines:?}");
                assert_eq!(fields(lines)["Seccomp"], ["2"], "{process}");
            }
            assert_eq!(
                standard_descriptors(&seen.first),
                ["0 /dev/null", "1 pipe", "2 pipe"]
            );
            let of_process_1: Vec<_> = seen.executed[1..]
                .iter()
                .filter(|line| line.len() == 1)
                .collect();
            if init {
                assert_eq!(of_process_1, ["0", "1", "2"], "{keys}");
            }
        }
    }
    // The program's end is the container's, in the form a shell gives it.
    for (words, code) in [
        ("exit 7", "7"),
        ("signal SIGTERM", "143"),
        ("signal SIGSEGV", "139"),
    ] {
        let run = pod.run("  init: true", "{tcp: 8080}", words);
        run.assert_code(1);
        let cause = format!("error: the entrypoint exited with code {code} after");
        assert!(run.stderr.contains(&cause), "{words}: {}", run.stderr);
    }
    let run = pod.run("  init: true", "{tcp: 8080}", "serve");
    run.assert_code(0);
}

at_every_level!(init:
    root_init_reaps_and_ends_as_the_program_does,
    root_subuid_init_reaps_and_ends_as_the_program_does,
    rootless_init_reaps_and_ends_as_the_program_does
);

/// The stop signal arrives at who handles it, fetches it, or is the child of an init.
fn stop_signal(level: Level) {
    let Some(pod) = Pod::new(level) else { return };
    for user in ["root", "app:web"] {
        for init in [true, false] {
            let keys = format!("  user: {user}\n  init: {init}");
            let run = pod.run(&keys, "{tcp: 8080}", "sigwait-term serve");
            run.assert_code(0);
            let log = pod.context().app_log();
            assert_eq!(log.last().unwrap(), "fetched signal 15", "{keys}: {log:?}");
        }
    }
}

at_every_level!(stop_signal:
    root_stop_signal_reaches_who_waits_for_it,
    root_subuid_stop_signal_reaches_who_waits_for_it,
    rootless_stop_signal_reaches_who_waits_for_it
);

/// Users, groups and places as the image's own files have them, in both processes.
fn identity(level: Level) {
    let Some(pod) = Pod::new(level) else { return };
    for (user, uid, gid, groups, home) in [
        ("app", "1000", "1000", &["2000", "3000"][..], "/home/app"),
        ("1000", "1000", "1000", &["2000", "3000"], "/home/app"),
        ("app:web", "1000", "2000", &[], "/home/app"),
        ("4242:4343", "4242", "4343", &[], "/"),
    ] {
        let words =
            "id then env then cwd then stat /made/by/workdir then try write /dev/stderr by-name";
        let seen = pod.ask(&format!("  user: \"{user}\""), words);
        for (process, lines) in seen.each() {
            let found = fields(lines);
            assert_eq!(found["Uid"], [uid; 4], "{user}, {process}");
            assert_eq!(found["Gid"], [gid; 4], "{user}, {process}");
            let mut own: BTreeSet<_> = found["Groups"].iter().copied().collect();
            own.remove(gid);
            let expected: BTreeSet<_> = match level {
                Level::Single => BTreeSet::new(), // there is one group; the receipt says so
                _ => groups.iter().copied().collect(),
            };
            assert_eq!(own, expected, "{user}, {process}");
            for line in [
                format!("HOME={home}"),
                "HOSTNAME=app".into(),
                "/made/by/workdir".into(),
            ] {
                assert!(
                    lines.contains(&line),
                    "{user}, {process}: {line}: {lines:?}"
                );
            }
            // Docker sets it with a terminal only.
            assert!(
                !lines.iter().any(|line| line.starts_with("TERM=")),
                "{lines:?}"
            );
            // Made for root whoever runs; a single id shows every file as its own.
            let owner = match level {
                Level::Single => format!("uid={uid} gid={gid}"),
                _ => "uid=0 gid=0".to_owned(),
            };
            let workdir = format!("directory mode=0755 {owner} ");
            assert!(
                lines.iter().any(|line| line.starts_with(&workdir)),
                "{user}, {process}: {workdir}: {lines:?}"
            );
            assert!(
                lines.contains(&"succeeded".to_owned()),
                "{user}, {process}: {lines:?}"
            );
        }
    }
}

at_every_level!(identity:
    root_identity_and_places_are_the_images_in_both_processes,
    root_subuid_identity_and_places_are_the_images_in_both_processes,
    rootless_identity_and_places_are_the_images_in_both_processes
);
