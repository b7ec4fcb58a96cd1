//! What is left behind: nothing.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;
use smokegate_test_support::{
    Finished, ImageFixture, ProcessTree, RunAs, Running, Smokegate, wait_for,
};

/// Far more than anything here takes; a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long the kernel may need for what dies with a process.
const GONE: Duration = Duration::from_secs(5);

/// Never healthy, deaf to SIGTERM, with children of its own and orphans of others.
const STUBBORN: [&str; 12] = [
    "--within",
    "300s",
    "--interval",
    "200ms",
    "--entrypoint",
    "/probe-target",
    "--",
    "ignore-term",
    "spawn-orphan",
    "fork-bomb",
    "5",
    "serve",
];

fn smokegate(run_as: RunAs) -> Option<(Smokegate, PathBuf)> {
    let context = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as)?;
    let archive = context.archive("serve", &ImageFixture::load("serve").build());
    Some((context, archive))
}

fn words<'a>(archive: &'a Path, more: &[&'a str]) -> Vec<&'a str> {
    let archive = archive.to_str().expect("the tests' paths are UTF-8");
    [&["gate", archive, "--publish", "0:8080", "-v"], more].concat()
}

/// A run whose container is up, and what belongs to it.
struct Pod {
    running: Running,
    tree: ProcessTree,
    port: SocketAddr,
}

impl Pod {
    /// Starts the image as something that stays until it is stopped.
    fn start(context: &Smokegate, archive: &Path) -> Self {
        let stubborn = [&STUBBORN[..], &["--status", "500"]].concat();
        Self::of(context.start(words(archive, &stubborn)))
    }

    fn of(mut running: Running) -> Self {
        running.wait_for_stderr("answered 500", PATIENCE);
        let port = port(&running.stderr_so_far());
        // smokegate, its helpers, and seven processes of the container.
        let tree = wait_for("the container's processes", PATIENCE, || {
            let tree = ProcessTree::of(running.pid());
            let containers = tree
                .members
                .iter()
                .filter(|process| matches!(process.name.as_str(), "exe" | "probe-target"));
            (containers.count() >= 7).then_some(tree)
        });
        assert!(tree.network_count() >= 1, "{tree:?}");
        TcpStream::connect(port).expect("the port listens");
        Self {
            running,
            tree,
            port,
        }
    }

    /// Level-triggered: what is gone stays gone.
    fn assert_gone(tree: &ProcessTree, port: SocketAddr, context: &Smokegate) {
        let own = context.dir().to_str().expect("the tests' paths are UTF-8");
        wait_for(
            "processes, namespaces, mounts and port are gone",
            GONE,
            || {
                let mounts =
                    fs::read_to_string("/proc/self/mountinfo").expect("reading the mounts");
                (tree.alive().is_empty()
                    && tree.in_its_networks().is_empty()
                    && !mounts.contains(own)
                    && TcpStream::connect(port).is_err())
                .then_some(())
            },
        );
    }
}

/// The address in `http://127.0.0.1:PORT is port …`.
fn port(stderr: &str) -> SocketAddr {
    let (_, rest) = stderr.split_once("http://").expect("the port is printed");
    rest.split_whitespace()
        .next()
        .and_then(|address| address.parse().ok())
        .expect("an address")
}

fn store(context: &Smokegate) -> PathBuf {
    context.dir().join("cache/smokegate")
}

/// Names in a directory of the store.
fn names(context: &Smokegate, place: &str) -> Vec<String> {
    let entries = fs::read_dir(store(context).join(place)).expect("reading the store");
    entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

#[test]
fn root_kill_9_leaves_nothing() {
    kill_9_leaves_nothing(RunAs::Root);
}

#[test]
fn rootless_kill_9_leaves_nothing() {
    kill_9_leaves_nothing(RunAs::OrdinaryUser);
}

fn kill_9_leaves_nothing(run_as: RunAs) {
    let Some((context, archive)) = smokegate(run_as) else {
        return;
    };
    let Pod {
        running,
        tree,
        port,
    } = Pod::start(&context, &archive);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(context.dir().to_str().unwrap()),
        "a mount of the pod is the host's: {mounts}"
    );

    running.signal(Signal::KILL);
    assert_eq!(running.wait(PATIENCE).signal(), Some(9));
    Pod::assert_gone(&tree, port, &context);

    // Only its directory is left, for the next run to remove.
    assert_eq!(names(&context, "run").len(), 1);
    context.run(words(&archive, &[])).assert_code(0);
    assert_eq!(names(&context, "run"), [""; 0]);
    assert_eq!(names(&context, "tmp"), [""; 0]);
}

#[test]
fn root_signals_stop_and_remove_everything() {
    signals_stop_and_remove_everything(RunAs::Root);
}

#[test]
fn rootless_signals_stop_and_remove_everything() {
    signals_stop_and_remove_everything(RunAs::OrdinaryUser);
}

fn signals_stop_and_remove_everything(run_as: RunAs) {
    let Some((context, archive)) = smokegate(run_as) else {
        return;
    };
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let Pod {
            running,
            tree,
            port,
        } = Pod::start(&context, &archive);
        running.signal(signal);
        running.wait(PATIENCE).assert_code(code);
        Pod::assert_gone(&tree, port, &context);
        assert_eq!(names(&context, "run"), [""; 0]);
    }
}

/// Ctrl-C in a terminal reaches every process of the foreground group, helpers too.
#[test]
fn rootless_ctrl_c_stops_and_removes_everything() {
    use std::os::unix::process::CommandExt;
    let Some((context, archive)) = smokegate(RunAs::OrdinaryUser) else {
        return;
    };
    let stubborn = [&STUBBORN[..], &["--status", "500"]].concat();
    let mut command = context.command(words(&archive, &stubborn));
    command.process_group(0);
    let Pod {
        running,
        tree,
        port,
    } = Pod::of(context.start_command(command));
    let group = Pid::from_raw(running.pid().cast_signed()).unwrap();
    kill_process_group(group, Signal::INT).unwrap();
    running.wait(PATIENCE).assert_code(130);
    Pod::assert_gone(&tree, port, &context);
    assert_eq!(names(&context, "run"), [""; 0]);
}

#[test]
fn root_pass_leaves_no_orphan() {
    pass_leaves_no_orphan(RunAs::Root);
}

#[test]
fn rootless_pass_leaves_no_orphan() {
    pass_leaves_no_orphan(RunAs::OrdinaryUser);
}

fn pass_leaves_no_orphan(run_as: RunAs) {
    let Some((context, archive)) = smokegate(run_as) else {
        return;
    };
    let late = [&STUBBORN[..], &["--after", "2"]].concat();
    let mut running = context.start(words(&archive, &late));
    running.wait_for_stderr("asking", PATIENCE);
    let port = port(&running.stderr_so_far());
    // As many as can be seen while it runs.
    let mut tree = ProcessTree::of(running.pid());
    while !running.stderr_so_far().contains("passed") && running.is_alive() {
        let now = ProcessTree::of(running.pid());
        if now.members.len() >= tree.members.len() {
            tree = now;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    running.wait(PATIENCE).assert_code(0);
    assert!(tree.members.len() >= 9, "{tree:?}");
    Pod::assert_gone(&tree, port, &context);
    assert_eq!(names(&context, "run"), [""; 0]);
}

#[test]
fn root_killed_while_filling_the_store() {
    killed_while_filling_the_store(RunAs::Root);
}

#[test]
fn rootless_killed_while_filling_the_store() {
    killed_while_filling_the_store(RunAs::OrdinaryUser);
}

fn killed_while_filling_the_store(run_as: RunAs) {
    let Some((context, _)) = smokegate(run_as) else {
        return;
    };
    let fixture = "entrypoint: /probe-target serve\n\
                   layer gzip\n\
                   file /probe-target 0755 0:0 @probe-target\n\
                   layer gzip\n\
                   file /zeros 0644 0:0 zeros:400M\n";
    let image = ImageFixture::parse(fixture).unwrap().build();
    let archive = context.archive("large", &image);
    let running = context.start(words(&archive, &[]));
    wait_for("a layer is being unpacked", PATIENCE, || {
        let unpacking = fs::read_dir(store(&context).join("tmp"))
            .ok()?
            .flatten()
            .next()?;
        unpacking.path().join("1/diff/zeros").exists().then_some(())
    });
    let tree = ProcessTree::of(running.pid());
    running.signal(Signal::KILL);
    assert_eq!(running.wait(PATIENCE).signal(), Some(9));
    wait_for("the helper that unpacks is gone", GONE, || {
        tree.alive().is_empty().then_some(())
    });
    assert_eq!(
        names(&context, "tmp").len(),
        1,
        "it was killed while unpacking"
    );

    let run = context.run(words(&archive, &[]));
    run.assert_code(0);
    assert!(run.stderr.contains("unpacked"), "{}", run.stderr);
    assert_eq!(names(&context, "tmp"), [""; 0]);
    assert_eq!(names(&context, "run"), [""; 0]);
    let stages = |context: &Smokegate| {
        let timings = context.receipt()["timings_ms"].take();
        ["inflate", "verify", "write"].map(|stage| timings[stage].as_u64().expect(stage))
    };
    assert!(stages(&context).iter().all(|busy| *busy > 0));
    // What the second run made is whole.
    let run = context.run(words(&archive, &[]));
    run.assert_code(0);
    assert_eq!(stages(&context), [0; 3]);
    assert!(run.stderr.contains("all in the store"), "{}", run.stderr);
}

#[test]
fn root_cache_lists_prunes_and_spares_layers_in_use() {
    cache(RunAs::Root);
}

#[test]
fn rootless_cache_lists_prunes_and_spares_layers_in_use() {
    cache(RunAs::OrdinaryUser);
}

fn cache(run_as: RunAs) {
    let Some((context, archive)) = smokegate(run_as) else {
        return;
    };
    let list = || listed(&context.run(["cache", "list", "--format", "json"]));
    // No store yet: nothing to list, nothing to fail.
    context.run(["cache", "list"]).assert_code(0);
    context.run(["cache", "prune"]).assert_code(0);

    let image = ImageFixture::load("layers-packed").build();
    let packed = context.archive("packed", &image);
    context.run(words(&packed, &[])).assert_code(0);
    let mut expected: Vec<_> = image
        .layers
        .iter()
        .map(|layer| layer.diff_id.to_string())
        .collect();
    expected.sort();
    assert_eq!(list(), expected);
    let run = context.run(["cache", "list"]);
    run.assert_code(0);
    for diff_id in &expected {
        assert!(run.stdout.contains(diff_id), "{}", run.stdout);
    }

    let Pod {
        running,
        tree,
        port,
    } = Pod::start(&context, &archive);
    let in_use = ImageFixture::load("serve").build().layers[0]
        .diff_id
        .to_string();
    let run = context.run(["cache", "prune", "--format", "json"]);
    assert_eq!(listed(&run), expected);
    assert_eq!(list(), std::slice::from_ref(&in_use));
    // The run goes on unharmed.
    TcpStream::connect(port).unwrap();
    running.signal(Signal::TERM);
    running.wait(PATIENCE).assert_code(143);
    Pod::assert_gone(&tree, port, &context);

    // Used a moment ago: too young for this.
    let run = context.run(["cache", "prune", "--older-than", "1h", "--format", "json"]);
    assert_eq!(listed(&run), [""; 0]);
    let run = context.run(["cache", "prune"]);
    run.assert_code(0);
    assert!(run.stdout.contains(&in_use), "{}", run.stdout);
    assert_eq!(list(), [""; 0]);
    context.run(words(&archive, &[])).assert_code(0);
    assert_eq!(list(), [in_use]);
}

/// The diff ids that `cache … --format json` printed, sorted.
#[track_caller]
fn listed(run: &Finished) -> Vec<String> {
    run.assert_code(0);
    let answer: Value = serde_json::from_str(&run.stdout).expect("JSON");
    let layers = answer["layers"].as_array().expect("a list").iter();
    let mut ids: Vec<_> = layers
        .map(|layer| layer["diffId"].as_str().expect("a digest").to_owned())
        .collect();
    ids.sort();
    ids
}
