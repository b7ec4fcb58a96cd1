//! Calls that only the id map of the isolation level makes fail: exit 3 with the call named, never the image's fault.

use std::path::PathBuf;

use smokegate_test_support::{Finished, ImageFixture, RunAs, Smokegate};

/// What `single` is told to be about, as both root and an ordinary user have that level.
const SINGLE: [&str; 2] = ["--isolation", "single"];

struct Bench {
    context: Smokegate,
    image: PathBuf,
}

impl Bench {
    fn new(run_as: RunAs) -> Option<Self> {
        let context = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as)?;
        let image = context.archive("serve", &ImageFixture::load("serve").build());
        Some(Self { context, image })
    }

    /// Has the probe target do what `words` say.
    fn gate(&self, flags: &[&str], words: &str) -> Finished {
        let image = self.image.to_str().unwrap();
        let mut arguments = vec!["gate", image, "--publish", "0:8080", "--within", "20s"];
        arguments.extend(flags);
        arguments.extend(["--entrypoint", "/probe-target", "--"]);
        arguments.extend(words.split(' '));
        self.context.run(arguments)
    }

    fn not_tested(&self) -> String {
        self.context.receipt()["isolation"]["not_tested"].to_string()
    }
}

const CALLS: [(&str, &str); 4] = [
    (
        "chown /probe-target 999 998",
        "`lchown(\"/probe-target\", 999, 998)` answered EINVAL (Invalid argument)",
    ),
    (
        "setuid 1000",
        "`setuid(1000)` answered EINVAL (Invalid argument)",
    ),
    (
        "setgroups 33",
        "`setgroups([33])` answered EPERM (Operation not permitted)",
    ),
    // The last one before the end is the one to blame.
    (
        "try chown /probe-target 5 5 then setuid 7",
        "`setuid(7)` answered EINVAL (Invalid argument)",
    ),
];

fn refused_calls_are_inconclusive(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as) else {
        return;
    };
    for (words, call) in CALLS {
        let run = bench.gate(&SINGLE, words);
        run.assert_code(3);
        let cause = format!(
            "error: isolation level `single` does not have the ids that `probe-target` needs: {call}; then the \
             entrypoint exited with code 1 after "
        );
        assert!(run.stderr.contains(&cause), "{}", run.stderr);
        let hint = "hint: this user has one id, and images use many: sudo apt-get install uidmap";
        assert!(run.stderr.contains(hint), "{}", run.stderr);
        let receipt = bench.context.receipt();
        assert_eq!(receipt["verdict"], "inconclusive");
        assert_eq!(receipt["variants"][0]["verdict"], "inconclusive");
    }
}

/// A program of 32 bits has the call under another number.
#[cfg(target_arch = "x86_64")]
#[test]
fn rootless_calls_of_32_bit_programs_are_seen_too() {
    let Some(bench) = Bench::new(RunAs::OrdinaryUser) else {
        return;
    };
    let run = bench.gate(&SINGLE, "call-as-32-bit 213 1000 0 0 then exit 1");
    if bench.context.app_log() == ["signal 11"] {
        return; // a kernel without IA32_EMULATION
    }
    run.assert_code(3);
    let cause = "`setuid(1000)` answered EINVAL (Invalid argument)";
    assert!(run.stderr.contains(cause), "{}", run.stderr);
}

#[test]
fn root_calls_refused_by_a_single_id_map_are_inconclusive() {
    refused_calls_are_inconclusive(RunAs::Root);
}

#[test]
fn rootless_calls_refused_by_a_single_id_map_are_inconclusive() {
    refused_calls_are_inconclusive(RunAs::OrdinaryUser);
}

#[test]
fn root_the_same_calls_pass_where_every_id_is_mapped() {
    let Some(bench) = Bench::new(RunAs::Root) else {
        return;
    };
    for (words, _) in CALLS {
        bench
            .gate(&[], &format!("{words} then serve"))
            .assert_code(0);
        assert_eq!(bench.not_tested(), "[]");
    }
}

fn ignored_refusals_pass_and_are_listed(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as) else {
        return;
    };
    let run = bench.gate(&SINGLE, "try chown /probe-target 999 998 then serve");
    run.assert_code(0);
    let listed = "what `lchown(\\\"/probe-target\\\", 999, 998)` of `probe-target` in container `app` is for: its \
                  ids are not mapped";
    assert!(
        bench.not_tested().contains(listed),
        "{}",
        bench.not_tested()
    );

    // Ids that the map has are nobody's business.
    let run = bench.gate(&SINGLE, "chown /probe-target 0 0 then setuid 0 then serve");
    run.assert_code(0);
    assert!(
        !bench.not_tested().contains("is for"),
        "{}",
        bench.not_tested()
    );
}

#[test]
fn root_ignored_refusals_pass_and_are_listed() {
    ignored_refusals_pass_and_are_listed(RunAs::Root);
}

#[test]
fn rootless_ignored_refusals_pass_and_are_listed() {
    ignored_refusals_pass_and_are_listed(RunAs::OrdinaryUser);
}

fn calls_that_docker_refuses_too_are_the_images_fault(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as) else {
        return;
    };
    for (words, _) in CALLS {
        let mut flags = vec!["--user", "4242:4242"];
        flags.extend(SINGLE);
        let run = bench.gate(&flags, words);
        run.assert_code(1);
        let cause = "error: the entrypoint exited with code 1";
        assert!(run.stderr.contains(cause), "{}", run.stderr);
        assert!(
            !bench.not_tested().contains("is for"),
            "{}",
            bench.not_tested()
        );
    }
}

#[test]
fn root_calls_without_privilege_are_the_images_fault() {
    calls_that_docker_refuses_too_are_the_images_fault(RunAs::Root);
}

#[test]
fn rootless_calls_without_privilege_are_the_images_fault() {
    calls_that_docker_refuses_too_are_the_images_fault(RunAs::OrdinaryUser);
}

const GATE_FILE: &str = r#"
version: 1
services:
  backend:
    image: serve.oci.tar
    entrypoint: [/probe-target]
    command: COMMAND
    one_shot: ONE_SHOT
    POST_READY
app:
  entrypoint: [/probe-target, serve]
  ports: ["0:8080"]
  depends_on: [backend]
  probes:
    - PROBE
"#;

/// A service, a one-shot, a command that is exec'd when a service is ready, and an exec probe of the app.
fn refusals_beside_the_app(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as) else {
        return;
    };
    let http = "{http: {path: /healthz}, interval: 100ms, within: 10s}";
    let post_ready = "probes: [{http: {port: 8080, path: /healthz}}]\n    post_ready: [[/probe-target, setuid, \"9\"]]";
    let served = "probes: [{http: {port: 8080, path: /healthz}}]";
    let exec = "{exec: [/probe-target, setuid, \"9\"], interval: 100ms, within: 1s}";
    let cases = [
        (
            "[setuid, \"9\"]",
            "true",
            "",
            http,
            "of service `backend` needs: `setuid(9)` answered EINVAL",
        ),
        (
            "[setuid, \"9\"]",
            "false",
            served,
            http,
            "of service `backend` needs: `setuid(9)` answered EINVAL",
        ),
        (
            "[serve]",
            "false",
            post_ready,
            http,
            "of service `backend` needs: `setuid(9)` answered EINVAL",
        ),
        (
            "[serve]",
            "false",
            served,
            exec,
            "that `probe-target` needs: `setuid(9)` answered EINVAL",
        ),
    ];
    for (command, one_shot, after, probe, cause) in cases {
        let file = GATE_FILE
            .replace("COMMAND", command)
            .replace("ONE_SHOT", one_shot)
            .replace("POST_READY", after)
            .replace("PROBE", probe);
        bench.context.write("smokegate.yaml", file);
        let image = bench.image.to_str().unwrap();
        let run = bench.context.run(["gate", image, "--isolation", "single"]);
        run.assert_code(3);
        let first = run.stderr.lines().find(|line| line.starts_with("error: "));
        assert!(first.unwrap_or_default().contains(cause), "{}", run.stderr);
    }
}

#[test]
fn root_refusals_in_services_and_exec_probes_are_inconclusive() {
    refusals_beside_the_app(RunAs::Root);
}

#[test]
fn rootless_refusals_in_services_and_exec_probes_are_inconclusive() {
    refusals_beside_the_app(RunAs::OrdinaryUser);
}

/// At `single` a user owns every file, so that a pass says nothing of what the layers give to others.
#[test]
fn rootless_what_owners_would_forbid_is_listed() {
    let Some(bench) = Bench::new(RunAs::OrdinaryUser) else {
        return;
    };
    let owners = "owners that the layers record";
    let access = "whether user 4242 may read, write and run what the layers give to other users";
    bench.gate(&SINGLE, "serve").assert_code(0);
    let not_tested = bench.not_tested();
    assert!(
        not_tested.contains(owners) && !not_tested.contains("whether user"),
        "{not_tested}"
    );
    let flags = ["--user", "4242", "--isolation", "single"];
    bench.gate(&flags, "serve").assert_code(0);
    let not_tested = bench.not_tested();
    assert!(
        not_tested.contains(owners) && not_tested.contains(access),
        "{not_tested}"
    );
}
