//! The context that runs the program under test, with the probe target in its place.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use smokegate_test_support::{ProcessTree, RunAs, Smokegate, probe_target, wait_for};

#[test]
fn rootless_runs_have_no_privilege_and_nothing_of_the_environment() {
    let Some(mut context) = Smokegate::new(probe_target(), RunAs::OrdinaryUser) else {
        return;
    };
    context.env("GREETING", "hello world");
    let run = context.run(["id"]);
    run.assert_code(0);
    let uid = context.run_as().uid();
    assert_ne!(uid, 0);
    let id = fields(&run.stdout, ':');
    assert!(
        id["Uid"].split_whitespace().all(|id| id == uid.to_string()),
        "{}",
        id["Uid"]
    );
    assert_eq!(id["CapEff"], "0000000000000000");

    let run = context.run(["env"]);
    run.assert_code(0);
    let environment = fields(&run.stdout, '=');
    let names: Vec<_> = environment.keys().copied().collect();
    assert_eq!(
        names,
        [
            "GREETING",
            "HOME",
            "LC_ALL",
            "PATH",
            "TMPDIR",
            "XDG_CACHE_HOME"
        ]
    );
    assert_eq!(Path::new(environment["HOME"]), context.dir().join("home"));
    assert_eq!(fs::metadata(environment["HOME"]).unwrap().uid(), uid);
}

#[test]
fn root_runs_as_root() {
    let Some(context) = Smokegate::new(probe_target(), RunAs::Root) else {
        return;
    };
    let run = context.run(["id"]);
    run.assert_code(0);
    assert_eq!(fields(&run.stdout, ':')["Uid"], "0\t0\t0\t0");
}

#[test]
fn rootless_runs_read_what_is_placed_and_written() {
    let Some(context) = Smokegate::new(probe_target(), RunAs::OrdinaryUser) else {
        return;
    };
    let secret = tempfile::NamedTempFile::new().unwrap();
    fs::write(secret.path(), "placed").unwrap();
    let placed = context.place(secret.path());
    let written = context.write("written", "written");
    for (file, content) in [(placed, "placed"), (written, "written")] {
        let run = context.run(["cat".as_ref(), file.as_os_str()]);
        run.assert_code(0);
        assert_eq!(run.stdout, content);
    }
}

#[test]
fn rootless_ends_are_told_apart() {
    let Some(context) = Smokegate::new(probe_target(), RunAs::OrdinaryUser) else {
        return;
    };
    let run = context.run(["print-then-exit", "9", "last words"]);
    assert_eq!(
        (run.code(), run.signal(), run.stdout.as_str()),
        (Some(9), None, "last words\n")
    );
    let run = context.run(["signal", "SEGV"]);
    assert_eq!((run.code(), run.signal()), (None, Some(11)));

    let mut running = context.start(["serve", "--port", "0", "--address", "127.0.0.1", "oops"]);
    running.wait_for_stderr("unknown option `oops`", Duration::from_secs(20));
    running.wait(Duration::from_secs(20)).assert_code(1);
}

#[test]
#[should_panic(expected = "did not end within")]
fn a_run_that_hangs_is_killed() {
    let Some(mut context) = Smokegate::new(probe_target(), RunAs::OrdinaryUser) else {
        panic!("did not end within: not run")
    };
    context.limit(Duration::from_millis(200));
    context.run(["hang"]).assert_code(0);
}

#[test]
fn rootless_process_tree_sees_what_is_left() {
    let Some(context) = Smokegate::new(probe_target(), RunAs::OrdinaryUser) else {
        return;
    };
    // Not the program itself but unshare(1) around it: its end takes the pid namespace with it.
    let pod = [
        "unshare",
        "--user",
        "--map-root-user",
        "--net",
        "--pid",
        "--fork",
        "--kill-child",
    ];
    let running = context.start_command(context.command_under(&pod, ["fork-bomb", "3", "hang"]));
    let limit = Duration::from_secs(20);
    let tree = wait_for("unshare, the program and three children", limit, || {
        let tree = ProcessTree::of(running.pid());
        (tree.members.len() == 5 && tree.members[4].name == "exe").then_some(tree)
    });
    assert_eq!((tree.alive().len(), tree.network_count()), (5, 1));
    assert!(tree.in_its_networks().len() >= 4);
    assert!(tree.members.iter().all(|process| process.peak_memory > 0));
    drop(running);
    wait_for("all are gone", limit, || {
        (tree.alive().is_empty() && tree.in_its_networks().is_empty()).then_some(())
    });
}

fn fields(text: &str, separator: char) -> BTreeMap<&str, &str> {
    text.lines()
        .filter_map(|line| line.split_once(separator))
        .map(|(name, value)| (name, value.trim()))
        .collect()
}
