//! Stores on filesystems where overlayfs cannot join the layers: they are copied, and the container sees the same.

use std::path::PathBuf;
use std::time::Duration;

use smokegate_test_support::{Finished, ImageFixture, RunAs, Smokegate};

/// Everything that joining layers is about.
const IMAGE: &str = "
entrypoint: /probe-target
workdir: /srv
volume: /data

layer gzip
dir /usr 0755 0:0
dir /usr/lib 0751 0:0
link /lib -> usr/lib
file /usr/lib/old 0644 0:0 old
file /setuid 4755 0:0 setuid
file /set 0600 0:0 below
hardlink /other-name -> /set
dir /opaque 0700 0:0
file /opaque/old 0644 0:0 old
dir /data 1777 0:0
file /data/seed 0644 0:0 seed
fifo /fifo 0640 0:0
file /probe-target 0755 0:0 @probe-target

layer zstd
file /lib/new 0644 0:0 new
whiteout /usr/lib/old
opaque /opaque
file /opaque/new 0644 0:0 new
hardlink /third-name -> /set
";

const LAST_LAYER_WITHOUT_MARKS: &str = "
entrypoint: /probe-target
layer gzip
file /probe-target 0755 0:0 @probe-target
";

/// What the container is asked; every answer must be the same however its layers were joined.
const QUESTIONS: &str = "ls / then ls /usr/lib then ls /opaque then ls /data then stat /setuid then stat /set \
    then stat /other-name then stat /third-name then stat /fifo then stat /usr/lib/new then stat /lib then cwd \
    then cat /data/seed then write /data/mine x then write /lib/mine x then stat /probe-target then mounts";

struct Bench {
    context: Smokegate,
    image: PathBuf,
}

impl Bench {
    fn new(run_as: RunAs, text: &str) -> Option<Self> {
        let context = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as)?;
        let image = context.archive("image", &ImageFixture::parse(text).unwrap().build());
        for name in [
            "lower", "upper", "work", "upper2", "work2", "place", "twice",
        ] {
            let path = context.dir().join(name);
            std::fs::create_dir(&path).unwrap();
            run_as.own(&path).unwrap();
        }
        Some(Self { context, image })
    }

    /// Has the probe target answer `words`, with the store at `place/store` after `script` in a mount namespace.
    fn gate(&self, script: &str, words: &str) -> Finished {
        let script = format!("{script} && exec \"$@\"");
        let mut wrapper = vec!["unshare", "--mount"];
        let mut arguments = vec!["gate", self.image.to_str().unwrap()];
        arguments.extend(["--publish", "0:8080", "--store", "place/store"]);
        if self.context.run_as() == RunAs::OrdinaryUser {
            wrapper.extend(["--user", "--map-root-user"]);
            arguments.extend(["--isolation", "single"]);
        }
        wrapper.extend(["sh", "-c", &script, "sh"]);
        arguments.push("--");
        arguments.extend(words.split_whitespace());
        let command = self.context.command_under(&wrapper, arguments);
        self.context
            .start_command(command)
            .wait(Duration::from_secs(60))
    }

    /// The answers, without what differs between filesystems: the mounts.
    fn answers(&self, script: &str, storage: &str) -> Vec<String> {
        let run = self.gate(script, QUESTIONS);
        run.assert_code(1); // it answers and ends
        let receipt = self.context.receipt();
        assert_eq!(receipt["variants"][0]["storage"], storage, "{}", run.stderr);
        let timings = &receipt["variants"][0]["timings_ms"];
        let took = |stage| {
            timings[stage]
                .as_u64()
                .unwrap_or_else(|| panic!("{timings}"))
        };
        assert!(took("mount") <= took("start"), "{timings}");
        let log = self.context.app_log();
        let root = log.iter().find(|line| line.split(' ').nth(4) == Some("/"));
        let options = root.map(|line| line.split(' ').nth(5).unwrap_or_default().to_owned());
        assert!(
            options.as_deref().unwrap_or_default().contains("nodev"),
            "devices of a layer must not be opened: {root:?}"
        );
        assert_eq!(
            run.stderr.contains("the layers of `app` were copied: "),
            storage == "copy",
            "{}",
            run.stderr
        );
        log.into_iter()
            .filter(|line| !line.contains(" / /"))
            .filter(|line| !line.contains(" - "))
            .collect()
    }
}

/// An overlay at `at` of the user's own, which may hold no whiteouts (fs/overlayfs/dir.c, `ovl_mknod`).
fn overlay(run_as: RunAs, lower: &str, upper: &str, work: &str, at: &str) -> String {
    let user = if run_as == RunAs::Root {
        ""
    } else {
        ",userxattr"
    };
    format!(
        "mount -t overlay -o lowerdir={lower},upperdir={upper},workdir={work}{user} overlay {at}"
    )
}

fn copies_are_what_overlayfs_shows(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as, IMAGE) else {
        return;
    };
    let joined = bench.answers("true", "overlay");
    for expected in [
        "file mode=4755 uid=0 gid=0 size=6 mtime=1577836800 links=1 dev=0",
        "file mode=0600 uid=0 gid=0 size=5 mtime=1577836800 links=3 dev=0",
        "fifo mode=0640 uid=0 gid=0 size=0 mtime=1577836800 links=1 dev=0",
        "/srv",
    ] {
        assert!(
            joined.iter().any(|line| line == expected),
            "{expected}: {joined:#?}"
        );
    }
    let names = joined.iter().take_while(|line| !line.contains(' '));
    assert!(!names.into_iter().any(|name| name == "old"), "{joined:#?}");

    let on_overlay = overlay(run_as, "lower", "upper", "work", "place");
    assert_eq!(bench.answers(&on_overlay, "copy"), joined);
    // Neither whiteouts of overlayfs nor its attributes.
    assert_eq!(bench.answers("mount -t ramfs none place", "copy"), joined);
    let left = std::fs::read_dir(bench.context.dir().join("upper/store/run")).unwrap();
    assert_eq!(left.count(), 0, "copies must not stay behind");
}

#[test]
fn root_copies_are_what_overlayfs_shows() {
    copies_are_what_overlayfs_shows(RunAs::Root);
}

#[test]
fn rootless_copies_are_what_overlayfs_shows() {
    copies_are_what_overlayfs_shows(RunAs::OrdinaryUser);
}

/// Layers without whiteouts need no copy on an overlay; on two of them the kernel refuses a third
/// (FILESYSTEM_MAX_STACK_DEPTH in linux/fs.h).
fn an_overlay_that_is_refused_is_replaced_by_a_copy(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as, LAST_LAYER_WITHOUT_MARKS) else {
        return;
    };
    let once = overlay(run_as, "lower", "upper", "work", "place");
    bench.gate(&once, "id").assert_code(1);
    assert_eq!(bench.context.receipt()["variants"][0]["storage"], "overlay");

    let first = overlay(run_as, "lower", "upper2", "work2", "twice");
    let second = "mkdir twice/upper twice/work && mkdir -p twice/lower";
    let third = if run_as == RunAs::Root {
        ""
    } else {
        ",userxattr"
    };
    let tmpfs = "mount -t tmpfs none work && mkdir work/upper work/work";
    let script = format!(
        "{tmpfs} && {first} && {second} && \
         mount -t overlay -o lowerdir=twice,upperdir=work/upper,workdir=work/work{third} overlay place"
    );
    let run = bench.gate(&script, "id");
    run.assert_code(1);
    assert_eq!(bench.context.receipt()["variants"][0]["storage"], "copy");
    let why = "the layers of `app` were copied: mount(overlay) answered EINVAL (Invalid argument)";
    assert!(run.stderr.contains(why), "{}", run.stderr);
    assert!(
        bench.context.app_log()[0].starts_with("Uid:"),
        "{:?}",
        bench.context.app_log()
    );
}

#[test]
fn root_an_overlay_that_is_refused_is_replaced_by_a_copy() {
    an_overlay_that_is_refused_is_replaced_by_a_copy(RunAs::Root);
}

#[test]
fn rootless_an_overlay_that_is_refused_is_replaced_by_a_copy() {
    an_overlay_that_is_refused_is_replaced_by_a_copy(RunAs::OrdinaryUser);
}

/// Docker's own limit, and more than fit overlayfs's option string.
fn as_many_layers_as_docker_has(run_as: RunAs) {
    let mut text = LAST_LAYER_WITHOUT_MARKS.to_owned();
    for layer in 2..=127 {
        text.push_str(&format!(
            "layer gzip\nfile /many/{layer} 0644 0:0 {layer}\n"
        ));
    }
    // One name is of the first of them and removed by the last.
    text.push_str("whiteout /many/2\n");
    let Some(bench) = Bench::new(run_as, &text) else {
        return;
    };
    let on_overlay = overlay(run_as, "lower", "upper", "work", "place");
    for (script, storage) in [("true", "overlay"), (&on_overlay, "copy")] {
        bench.gate(script, "ls /many").assert_code(1);
        assert_eq!(bench.context.receipt()["variants"][0]["storage"], storage);
        let log = bench.context.app_log();
        assert_eq!(log.len(), 125, "{log:?}");
        assert!(log.contains(&"127".to_owned()) && !log.contains(&"2".to_owned()));
    }
}

#[test]
fn root_as_many_layers_as_docker_has() {
    as_many_layers_as_docker_has(RunAs::Root);
}

#[test]
fn rootless_as_many_layers_as_docker_has() {
    as_many_layers_as_docker_has(RunAs::OrdinaryUser);
}
