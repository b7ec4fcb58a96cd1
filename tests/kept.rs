//! Pods that are kept for a look, and that nothing of them stays.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use rustix::pty::OpenptFlags;
use smokegate_test_support::{
    Finished, ImageFixture, ProcessTree, RunAs, Running, Smokegate, wait_for,
};

/// Far more than anything here takes; a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Printed once the pods can be entered.
const KEPT: &str = "this run waits until";

/// What the app does before it ends; a command in its container is asked the same.
const ASKED: &str = "id then env then cwd then hostname then forbidden-calls \
                     then cat /proc/self/uid_map then descriptors";

/// An app that ends by itself beside a service that is well, both under the same user.
const ENDED: &str = "
version: 1
services:
  backend:
    image: app
    user: app
    command: [--port, '9090']
    ports: ['0:9090']
    probes: [{http: {port: 9090}, within: 30s}]
app:
  ports: ['0:8080']
  user: app
  environment: {MODE: full}
  working_dir: /home/app
  entrypoint: [/probe-target]
  command: [COMMAND]
  depends_on: [backend]
  probes: [{http: {path: /healthz}, within: 30s}]
variants:
  full: {}
";

fn ended() -> String {
    let words = format!("{ASKED} then print-then-exit 127 missing");
    let command: Vec<_> = words.split_whitespace().collect();
    ENDED.replace("COMMAND", &command.join(", "))
}

/// An app that answers, but not what is asked for.
fn unwell() -> String {
    let serve = "[COMMAND]";
    let file = ENDED.replace(serve, "[serve]");
    file.replace("/healthz}, within: 30s", "/nope}, within: 1s")
}

struct Kept {
    context: Smokegate,
    running: Running,
    tree: ProcessTree,
}

impl Kept {
    fn start(run_as: RunAs, gate_file: &str) -> Option<Self> {
        let context = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as)?;
        let archive = context.archive("serve", &ImageFixture::load("serve").build());
        context.write("smokegate.yaml", gate_file);
        let archive = archive.to_str().expect("the tests' paths are UTF-8");
        let mut running = context.start(["gate", archive, "--keep-on-failure"]);
        running.wait_for_stderr(KEPT, PATIENCE);
        let tree = ProcessTree::of(running.pid());
        assert!(tree.network_count() > 1, "{tree:?}");
        Some(Self {
            context,
            running,
            tree,
        })
    }

    fn exec(&self, words: &str) -> Finished {
        let words: Vec<_> = words.split_whitespace().collect();
        self.context.run([&["exec"], &words[..]].concat())
    }

    /// Where a port of the pod is on the host, by what stands before it.
    fn port(&self, before: &str) -> SocketAddr {
        let stderr = self.running.stderr_so_far();
        let (_, after) = stderr.split_once(before).expect(&stderr);
        let (_, address) = after.split_once("http://").expect(&stderr);
        let address = address.split_whitespace().next();
        address.expect(&stderr).parse().expect(&stderr)
    }

    fn ends(self, code: i32) {
        self.running.wait(PATIENCE).assert_code(code);
        assert_gone(&self.context, &self.tree);
        let runs = fs::read_dir(self.context.dir().join("cache/smokegate/run")).unwrap();
        assert_eq!(runs.count(), 0);
    }
}

fn assert_gone(context: &Smokegate, tree: &ProcessTree) {
    let own = context.dir().to_str().expect("the tests' paths are UTF-8");
    wait_for("nothing of the pod is left", PATIENCE, || {
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("reading the mounts");
        (tree.alive().is_empty() && tree.in_its_networks().is_empty() && !mounts.contains(own))
            .then_some(())
    });
}

fn a_failed_pod_is_entered_and_stopped(run_as: RunAs) {
    let Some(kept) = Kept::start(run_as, &ended()) else {
        return;
    };
    let stderr = kept.running.stderr_so_far();
    for said in [
        "exited with code 127",
        "kept: the pod of full (run ",
        "backend: runs",
        "app: does not run",
        "smokegate exec full -- sh",
    ] {
        assert!(stderr.contains(said), "{said}: {stderr}");
    }
    assert_eq!(kept.context.receipt()["verdict"], "failed");

    // A command has what the container's own process had, whether that runs or not.
    let logs = kept.context.run(["logs", "full"]);
    let own = telling(&logs.assert_code(0).stdout);
    assert!(own.contains(&"MODE=full".to_owned()), "{own:?}");
    assert!(logs.stdout.ends_with("missing\n"), "{}", logs.stdout);
    let asked = kept.exec(&format!("full -- /probe-target {ASKED}"));
    assert_eq!(telling(&asked.assert_code(0).stdout), own);
    let beside = kept.exec(&format!("full backend -- /probe-target {ASKED}"));
    let beside = telling(&beside.assert_code(0).stdout);
    let of_app = ["MODE=", "HOSTNAME=", "app", "backend", "/"];
    let shared = |lines: &[String]| -> Vec<String> {
        let differs = |line: &&String| !of_app.iter().any(|start| line.starts_with(start));
        lines.iter().filter(differs).cloned().collect()
    };
    assert_eq!(shared(&beside), shared(&own));

    // Files that one command writes are there for the next, and the names of the pod are known.
    kept.exec("full -- /probe-target write /home/app/note text")
        .assert_code(0);
    let read = kept.exec("full -- /probe-target cat /home/app/note");
    assert!(read.stdout.contains("text"), "{}", read.stdout);
    assert!(read.stderr.contains("does not run"), "{}", read.stderr);
    let connected = kept.exec("full -- /probe-target connect backend:9090");
    assert!(
        connected.stdout.contains("connected"),
        "{}",
        connected.stdout
    );
    TcpStream::connect(kept.port("service backend")).expect("the port is still forwarded");

    for (words, code) in [
        ("/probe-target exit 7", 7),
        ("/probe-target signal TERM", 143),
        ("no-such-program", 127),
        ("/etc/passwd", 126),
    ] {
        for container in ["", "backend"] {
            kept.exec(&format!("full {container} -- {words}"))
                .assert_code(code);
        }
    }
    for (words, said) in [
        (
            &["exec", "other", "--", "x"][..],
            "keeps `full`: backend, app",
        ),
        (&["logs", "full", "db"], "it has `backend`, `app`"),
        (&["stop", "other"], "no pod of variant `other` is kept"),
        (&["logs", "full", "--run", "no"], "no run `no` keeps a pod"),
    ] {
        let refused = kept.context.run(words);
        refused.assert_code(2);
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    let run = only_run(&kept.context);
    let runs = fs::metadata(run.parent().unwrap()).unwrap();
    assert_eq!(runs.permissions().mode() & 0o777, 0o700);
    let socket = fs::metadata(run.join(".kept")).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);

    kept.context.run(["stop", "full"]).assert_code(0);
    kept.ends(1);
}

fn only_run(context: &Smokegate) -> std::path::PathBuf {
    let runs = fs::read_dir(context.dir().join("cache/smokegate/run")).unwrap();
    let runs: Vec<_> = runs.map(|entry| entry.unwrap().path()).collect();
    let [run] = &runs[..] else { panic!("{runs:?}") };
    run.clone()
}

/// What [`ASKED`] told, without numbers of processes and pipes, and without how the app ended.
fn telling(text: &str) -> Vec<String> {
    let lines = text
        .lines()
        .filter(|line| !line.starts_with("NSpid") && *line != "missing");
    lines
        .map(|line| match line.split_once(":[") {
            // The app's own standard input is /dev/null.
            Some((pipe, _)) => pipe.replace("0 pipe", "0 /dev/null"),
            None => line.to_owned(),
        })
        .collect()
}

#[test]
fn root_a_failed_pod_is_entered_and_stopped() {
    a_failed_pod_is_entered_and_stopped(RunAs::Root);
}

#[test]
fn rootless_a_failed_pod_is_entered_and_stopped() {
    a_failed_pod_is_entered_and_stopped(RunAs::OrdinaryUser);
}

fn an_interrupt_ends_what_is_kept(run_as: RunAs) {
    // The verdict stands.
    for (signal, gate_file) in [(Signal::INT, ended()), (Signal::HUP, unwell())] {
        let Some(kept) = Kept::start(run_as, &gate_file) else {
            return;
        };
        kept.running.signal(signal);
        kept.ends(1);
    }
}

#[test]
fn root_an_interrupt_ends_what_is_kept() {
    an_interrupt_ends_what_is_kept(RunAs::Root);
}

#[test]
fn rootless_an_interrupt_ends_what_is_kept() {
    an_interrupt_ends_what_is_kept(RunAs::OrdinaryUser);
}

fn kill_9_takes_a_kept_pod_along(run_as: RunAs) {
    let Some(kept) = Kept::start(run_as, &unwell()) else {
        return;
    };
    let mut inside =
        kept.context
            .start(["exec", "full", "--", "/probe-target", "print", "in", "hang"]);
    wait_for("the command runs", PATIENCE, || {
        inside.stdout_so_far().contains("in").then_some(())
    });
    assert!(inside.is_alive());
    kept.running.signal(Signal::KILL);
    let inside = inside.wait(PATIENCE);
    inside.assert_code(3);
    assert!(
        inside.stderr.contains("does not answer any more"),
        "{}",
        inside.stderr
    );
    assert_eq!(kept.running.wait(PATIENCE).signal(), Some(9));
    assert_gone(&kept.context, &kept.tree);
    let stopped = kept.context.run(["stop"]);
    stopped.assert_code(2);
    assert!(
        stopped.stderr.contains("no pod is kept"),
        "{}",
        stopped.stderr
    );
}

#[test]
fn root_kill_9_takes_a_kept_pod_along() {
    kill_9_takes_a_kept_pod_along(RunAs::Root);
}

#[test]
fn rootless_kill_9_takes_a_kept_pod_along() {
    kill_9_takes_a_kept_pod_along(RunAs::OrdinaryUser);
}

fn all_that_did_not_pass_are_kept(run_as: RunAs) {
    // One that never ran, one whose service failed, one that passed; a name that a run's directory once had itself.
    let gate_file = "
version: 1
services:
  bad: {image: app, one_shot: true, entrypoint: [/probe-target, exit, '3']}
app:
  ports: ['0:8080']
  probes: [{http: {path: /healthz}, within: 30s}]
variants:
  lock: {entrypoint: [/no-such-program], services: []}
  service: {services: [bad]}
  well: {services: []}
";
    let Some(kept) = Kept::start(run_as, gate_file) else {
        return;
    };
    let stderr = kept.running.stderr_so_far();
    assert!(!stderr.contains("the pod of well"), "{stderr}");
    let place = |text: &str| stderr.find(text).expect(&stderr);
    assert!(place("the pod of lock") < place("the pod of service"));
    kept.exec("lock -- /probe-target exit 4").assert_code(4);
    kept.exec("service bad -- /probe-target exit 5")
        .assert_code(5);
    // The app was not started; it has no files.
    let none = kept.exec("service -- /probe-target exit 6");
    none.assert_code(125);
    assert!(none.stderr.contains("was not started"), "{}", none.stderr);
    kept.context.run(["logs", "service"]).assert_code(0);

    kept.context.run(["stop", "lock"]).assert_code(0);
    kept.exec("lock -- x").assert_code(2);
    kept.exec("service bad -- /probe-target exit 5")
        .assert_code(5);
    kept.context.run(["stop"]).assert_code(0);
    kept.ends(1);
}

#[test]
fn root_all_that_did_not_pass_are_kept() {
    all_that_did_not_pass_are_kept(RunAs::Root);
}

#[test]
fn rootless_all_that_did_not_pass_are_kept() {
    all_that_did_not_pass_are_kept(RunAs::OrdinaryUser);
}

fn a_command_ends_with_its_client(run_as: RunAs) {
    for gate_file in [ended(), unwell()] {
        let Some(kept) = Kept::start(run_as, &gate_file) else {
            return;
        };
        let words = ["exec", "full", "--", "/probe-target", "print", "in", "hang"];
        let client = kept.context.start(words);
        wait_for("the command runs", PATIENCE, || {
            client.stdout_so_far().contains("in").then_some(())
        });
        let with_it = ProcessTree::of(kept.running.pid()).members.len();
        client.signal(Signal::TERM);
        drop(client);
        wait_for("the command ends", PATIENCE, || {
            let now = ProcessTree::of(kept.running.pid()).members.len();
            (now < with_it).then_some(())
        });
        kept.running.signal(Signal::TERM);
        kept.ends(1);
    }
}

#[test]
fn root_a_command_ends_with_its_client() {
    a_command_ends_with_its_client(RunAs::Root);
}

#[test]
fn rootless_a_command_ends_with_its_client() {
    a_command_ends_with_its_client(RunAs::OrdinaryUser);
}

#[test]
fn rootless_two_runs_are_told_apart() {
    let Some(kept) = Kept::start(RunAs::OrdinaryUser, &ended()) else {
        return;
    };
    let archive = kept.context.dir().join("serve.oci.tar");
    let archive = archive.to_str().unwrap();
    let more = ["gate", archive, "--keep-on-failure", "--report-dir", "two"];
    let mut second = kept.context.start(more);
    second.wait_for_stderr(KEPT, PATIENCE);
    let words = "full -- /probe-target exit 0";
    let refused = kept.exec(words);
    refused.assert_code(2);
    assert!(refused.stderr.contains("2 runs keep"), "{}", refused.stderr);
    let said = second.stderr_so_far();
    let (_, id) = said.split_once("(run ").expect("the run's id is printed");
    let (id, _) = id.split_once(')').unwrap();
    assert!(refused.stderr.contains(id), "{}", refused.stderr);
    kept.exec(&format!("--run {id} {words}")).assert_code(0);
    kept.context.run(["stop", "--run", id]).assert_code(0);
    second.wait(PATIENCE).assert_code(1);
    kept.exec(words).assert_code(0);
    kept.context.run(["stop"]).assert_code(0);
    kept.ends(1);
}

fn input_is_copied_and_terminals_are_the_containers(run_as: RunAs) {
    for gate_file in [ended(), unwell()] {
        let Some(kept) = Kept::start(run_as, &gate_file) else {
            return;
        };
        let words = ["exec", "full", "--", "/probe-target", "cat", "/dev/stdin"];
        let input = kept.context.write("input", "from outside\n");
        let mut command = kept.context.command(words);
        command.stdin(Stdio::from(File::open(&input).unwrap()));
        let before = fs::metadata(&input).unwrap();
        let copied = kept.context.start_command(command).wait(PATIENCE);
        copied.assert_code(0);
        assert_eq!(copied.stdout, "from outside\n");
        let after = fs::metadata(&input).unwrap();
        assert_eq!(before.permissions(), after.permissions());

        let words = "descriptors then print ready cat /dev/stdin then env then exit 9";
        let words: Vec<_> = words.split(' ').collect();
        let words = [&["exec", "full", "--", "/probe-target"], &words[..]].concat();
        let (shown, code) = in_terminal(&kept.context, &words, b"typed\r\x04");
        assert!(shown.contains("0 /dev/pts/0"), "{shown}");
        assert!(shown.contains("2 /dev/pts/0"), "{shown}");
        // The terminal's echo, and what was read.
        assert_eq!(shown.matches("typed").count(), 2, "{shown}");
        assert!(shown.contains("TERM=xterm"), "{shown}");
        assert_eq!(code, Some(9), "{shown}");

        // Ctrl-C is for the command.
        let words = ["exec", "full", "--", "/probe-target"];
        let words = [&words[..], &["print", "ready", "hang"]].concat();
        let (shown, code) = in_terminal(&kept.context, &words, b"\x03");
        assert_eq!(code, Some(130), "{shown}");
        kept.context.run(["stop"]).assert_code(0);
        kept.ends(1);
    }
}

/// Runs it in a terminal and types once it has printed `ready`; what it showed, and its exit code.
fn in_terminal(context: &Smokegate, words: &[&str], typed: &[u8]) -> (String, Option<i32>) {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let controller = rustix::pty::openpt(flags).unwrap();
    rustix::pty::unlockpt(&controller).unwrap();
    let terminal = rustix::pty::ioctl_tiocgptpeer(&controller, flags).unwrap();
    let mut command = context.command(words);
    command
        .stdin(terminal.try_clone().unwrap())
        .stdout(terminal.try_clone().unwrap())
        .stderr(terminal);
    let mut child = command.spawn().expect("starting it in a terminal");
    drop(command);
    let mut controller = File::from(controller);
    let (mut shown, mut buffer) = (String::new(), [0; 4096]);
    let mut to_type = Some(typed);
    // EIO when it and its terminal are gone (pty(7)).
    while let Ok(count @ 1..) = controller.read(&mut buffer) {
        shown += &String::from_utf8_lossy(&buffer[..count]);
        if shown.contains("ready")
            && let Some(typed) = to_type.take()
        {
            controller.write_all(typed).unwrap();
        }
    }
    let code = child.wait().expect("waiting for it").code();
    (shown, code)
}

#[test]
fn root_input_is_copied_and_terminals_are_the_containers() {
    input_is_copied_and_terminals_are_the_containers(RunAs::Root);
}

#[test]
fn rootless_input_is_copied_and_terminals_are_the_containers() {
    input_is_copied_and_terminals_are_the_containers(RunAs::OrdinaryUser);
}

#[test]
fn cli_nothing_is_kept() {
    let context = Smokegate::without_sandbox(env!("CARGO_BIN_EXE_smokegate"));
    for words in [
        &["exec", "full", "--", "sh"][..],
        &["logs", "full"],
        &["stop"],
    ] {
        let run = context.run(words);
        run.assert_code(2);
        assert!(
            run.stderr.contains("error: no pod is kept"),
            "{}",
            run.stderr
        );
        assert!(run.stderr.contains("--keep-on-failure"), "{}", run.stderr);
    }
}

#[test]
fn cli_a_ci_job_waits_for_nobody() {
    let mut context = Smokegate::without_sandbox(env!("CARGO_BIN_EXE_smokegate"));
    let archive = context.archive("serve", &ImageFixture::load("serve").build());
    context.env("CI", "true");
    let run = context.run(["gate", archive.to_str().unwrap(), "--keep-on-failure"]);
    run.assert_code(2);
    assert!(run.stderr.contains("CI job"), "{}", run.stderr);
}
