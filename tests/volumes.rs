//! Volumes and secrets: what a container finds in them, and what nobody else does.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use smokegate_test_support::{Finished, ImageFixture, RunAs, Smokegate};

/// A directory with content, owner and mode, which a volume may begin as.
const IMAGE: &str = "
entrypoint: /probe-target serve
expose: 8080/tcp
volume: /var/cache

layer gzip
dir /etc 0755 0:0
file /etc/passwd 0644 0:0 root:x:0:0:root:/root:/bin/sh\\napp:x:1000:1000:app:/home/app:/bin/sh\\n
dir /data 2750 1000:1000
file /data/seed 0640 1000:1000 of-the-image
dir /data/sub 0700 1000:1000
link /data/link -> seed
dir /tmp 1777 0:0
file /probe-target 0755 0:0 @probe-target
";

pub(super) struct Bench {
    pub(super) context: Smokegate,
    image: String,
}

impl Bench {
    pub(super) fn new(run_as: RunAs, gate_file: &str) -> Option<Self> {
        let context = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as)?;
        Some(Self::of(context, gate_file))
    }

    pub(super) fn of(context: Smokegate, gate_file: &str) -> Self {
        let image = ImageFixture::parse(IMAGE).unwrap().build();
        let image = context.archive("image", &image).display().to_string();
        context.write("smokegate.yaml", gate_file);
        Self { context, image }
    }

    pub(super) fn words<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&["gate", self.image.as_str()], more].concat()
    }

    pub(super) fn gate(&self, more: &[&str]) -> Finished {
        self.context.run(self.words(more))
    }

    /// Runs a gate file with a mistake, which the first line of the failure names.
    fn refuses(&self, gate_file: &str, message: &str) {
        self.context.write("smokegate.yaml", gate_file);
        let run = self.gate(&[]);
        run.assert_code(2);
        let first = run
            .stderr
            .lines()
            .find(|line| line.starts_with("error:"))
            .unwrap();
        assert!(first.contains(message), "{message}: {}", run.stderr);
    }

    fn log(&self, variant: &str, container: &str) -> String {
        let file = format!("smokegate-report/logs/{variant}/{container}.log");
        let text = fs::read_to_string(self.context.dir().join(&file)).unwrap();
        let lines = text.lines().map(|line| &line[15..]);
        lines.map(|line| format!("{line}\n")).collect()
    }
}

/// `writer` fills the volume before the app looks; the second variant must not see the first's.
const VOLUMES: &str = r#"
version: 1
services:
  writer:
    image: app
    user: app
    entrypoint: [/probe-target]
    command: [ls, /v, then, stat, /v, then, stat, /v/sub, then, cat, /v/link, then, write, /v/new, by-the-writer]
    one_shot: true
    volumes: ["shared:/v"]
    depends_on: [seeder]
  seeder:
    image: app
    entrypoint: [/probe-target, args]
    command: []
    one_shot: true
    volumes: ["shared:/data"]
app:
  user: app
  entrypoint: [/probe-target]
  command:
    [cat, /data/new, then, print, "", try, write, /data/new, x, then, try, write, /own/x, y, then, stat, /own,
     then, stat, /tmpfs, then, try, write, /tmpfs/x, y, then, grep, /tmpfs, /proc/self/mountinfo, then, try, write, /conf/a, x,
     then, cat, /conf/a, then, cat, /etc/hosts, then, cat, /conf/nested/b, then, stat, /var/cache, then, serve]
  depends_on: [writer]
  volumes:
    - shared:/data:ro
    - own:/own
    - {type: tmpfs, target: /tmpfs, tmpfs: {size: 1m, mode: 1750}}
    - ./conf:/conf:ro
    - ./hosts:/etc/hosts:ro
  probes: [{http: {path: /healthz}, within: 20s}]
variants: {one: {}, two: {}}
"#;

fn volumes(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as, VOLUMES) else {
        return;
    };
    let conf = bench.context.dir().join("conf");
    fs::create_dir_all(conf.join("nested")).unwrap();
    fs::write(conf.join("a"), "of-the-host\n").unwrap();
    fs::write(conf.join("nested/b"), "nested\n").unwrap();
    bench.context.write("hosts", "127.0.0.1 localhost mine\n");
    bench.gate(&[]).assert_code(0);
    // At `single` every file is the container's user's.
    let other = if run_as == RunAs::Root { 0 } else { 1000 };
    for variant in ["one", "two"] {
        let writer = bench.log(variant, "writer");
        assert!(
            writer.starts_with("link\nseed\nsub\ndirectory mode=2750 uid=1000 gid=1000"),
            "{writer}"
        );
        assert!(writer.contains("directory mode=0700 uid=1000"), "{writer}");
        assert!(writer.contains("of-the-image"), "{writer}");
        let app = bench.log(variant, "app");
        assert!(
            app.starts_with("by-the-writer\nrefused: Read-only"),
            "{app}"
        );
        // Not in the image: as docker makes it.
        assert!(
            app.contains(&format!("directory mode=0755 uid={other}")),
            "{app}"
        );
        assert!(
            app.contains(&format!("directory mode=1750 uid={other}")),
            "{app}"
        );
        assert!(app.contains("/tmpfs rw,nosuid,nodev,noexec"), "{app}");
        assert!(app.contains("size=1024k"), "{app}");
        assert!(
            app.contains("refused: Read-only file system (os error 30)\nof-the-host\n"),
            "{app}"
        );
        assert!(app.contains("127.0.0.1 localhost mine\nnested\n"), "{app}");
    }
    assert_eq!(fs::read_to_string(conf.join("a")).unwrap(), "of-the-host\n");
    let left = fs::read_dir(bench.context.dir().join("cache/smokegate/run")).unwrap();
    assert_eq!(left.count(), 0);
}

#[test]
fn root_volumes_are_seeded_shared_and_fresh_for_each_variant() {
    volumes(RunAs::Root);
}

#[test]
fn rootless_volumes_are_seeded_shared_and_fresh_for_each_variant() {
    volumes(RunAs::OrdinaryUser);
}

#[test]
fn cli_a_bind_that_is_missing_or_leads_out_is_shown_with_its_place() {
    let context = Smokegate::without_sandbox(env!("CARGO_BIN_EXE_smokegate"));
    let bench = Bench::of(context, "");
    let dir = bench.context.dir();
    fs::create_dir(dir.join("conf")).unwrap();
    symlink("/etc", dir.join("absolute")).unwrap();
    symlink("../../etc", dir.join("conf/up")).unwrap();
    for (source, message) in [
        (
            "./missing",
            "smokegate.yaml:3:16: there is no `./missing` below the gate file's directory",
        ),
        (
            "./absolute",
            "smokegate.yaml:3:16: `./absolute` leads out of the gate file's directory",
        ),
        (
            "./absolute/passwd",
            "`./absolute/passwd` leads out of the gate file's directory",
        ),
        (
            "./conf/up",
            "`./conf/up` leads out of the gate file's directory",
        ),
        ("../etc", "it leaves the gate file's directory"),
    ] {
        let file = format!("version: 1\napp:\n  volumes:    [\"{source}:/x:ro\"]\n");
        bench.refuses(&file, message);
    }
}

#[test]
fn cli_a_secret_that_is_not_there_is_shown_with_its_place() {
    let mut context = Smokegate::without_sandbox(env!("CARGO_BIN_EXE_smokegate"));
    context.env("EMPTY", "");
    let bench = Bench::of(context, "");
    bench.context.write("large", vec![b'x'; (500 << 10) + 1]);
    for (source, message) in [
        (
            "environment: NOT_SET",
            "smokegate.yaml:3:30: the environment variable `NOT_SET` is not set",
        ),
        (
            "environment: EMPTY",
            "smokegate.yaml:3:30: the environment variable `EMPTY` is empty",
        ),
        (
            "file: no/such",
            "smokegate.yaml:3:23: cannot read the file `no/such`: No such file",
        ),
        ("file: large", "the file `large` is larger than 500 KiB"),
    ] {
        let file = format!("version: 1\napp:\n  secrets: {{x: {{{source}}}}}\n");
        bench.refuses(&file, message);
    }
}

const PASSWORD: &str = "hunter2-&%\"\\pass";
const KEY: &str = "-----BEGIN KEY-----\nMIIEpAIBAAKCAQEA\n-----END KEY-----\n";

/// The app tells everything, and then fails, so that all of it is evidence.
const SECRETS: &str = r#"
version: 1
services:
  check:
    image: app
    user: app
    entrypoint: [/probe-target]
    command: [ls, /run/secrets, then, stat, /run/secrets/password, then, cat, /run/secrets/key, then, cat, /run/secrets/password]
    one_shot: true
    secrets: {password: {environment: PASSWORD}, key: {file: key.pem}}
app:
  user: "4242:4242"
  environment: {IN_THE_ENVIRONMENT: "${PASSWORD}"}
  entrypoint: [/probe-target]
  command:
    [cat, /run/secrets/password, then, print, "", halves, /run/secrets/password, then, print, " split", cat, /run/secrets/key,
     then, env, then, try, write, /run/secrets/new, x, then, stat, /run/secrets/password, then, print, "url hunter2-%26%25%22%5Cpass",
     print, "json hunter2-&%\"\\pass", print, "json hunter2-&%\\\"\\\\pass", serve, --status, "500", --body, "${PASSWORD} in a body"]
  depends_on: [check]
  secrets: {password: {environment: PASSWORD}, key: {file: key.pem}, short: {environment: SHORT}}
  probes:
    - {http: {path: /healthz}, within: 2s}
    - {exec: [/probe-target, cat, /run/secrets/key], expect: "nothing of the kind", within: 2s}
"#;

fn secrets(run_as: RunAs) {
    let Some(mut bench) = Bench::new(run_as, SECRETS) else {
        return;
    };
    let dir = bench.context.dir().to_owned();
    bench.context.write("key.pem", KEY);
    for file in ["summary", "output"] {
        run_as.own(&bench.context.write(file, "")).unwrap();
    }
    bench.context.env("PASSWORD", PASSWORD);
    bench.context.env("SHORT", "abc");
    bench.context.env("GITHUB_ACTIONS", "true");
    bench
        .context
        .env("GITHUB_STEP_SUMMARY", dir.join("summary"));
    bench.context.env("GITHUB_OUTPUT", dir.join("output"));
    let run = bench.gate(&["-v", "--format", "json"]);
    run.assert_code(1);

    // It got them, readable for its user alone.
    let check = bench.log("default", "check");
    assert!(
        check.starts_with("key\npassword\nfile mode=0400 uid=1000 gid=1000"),
        "{check}"
    );
    assert!(check.contains("***\n***\n***\n***"), "{check}");
    let app = bench.log("default", "app");
    for shown in [
        "***\n*** split\n",
        "IN_THE_ENVIRONMENT=***\n",
        "refused: Read-only file system",
        "file mode=0400 uid=4242 gid=4242 size=16",
        "url ***\njson ***\njson ***\n",
    ] {
        assert!(app.contains(shown), "{shown}:\n{app}");
    }
    assert!(run.stderr.contains("*** in a body"), "{}", run.stderr);
    let warning = "warning: the secret `short` is shorter than 4 characters, so it is not hidden";
    assert!(run.stderr.contains(warning), "{}", run.stderr);

    // And nobody else did: not on disk, nor in any output.
    let receipt = bench.context.receipt().to_string();
    let words = ["hunter2", "MIIEpAIBAAKCAQEA", "BEGIN KEY"];
    for (what, text) in [
        ("stdout", &run.stdout),
        ("stderr", &run.stderr),
        ("receipt", &receipt),
    ] {
        for word in words {
            assert!(!text.contains(word), "`{word}` in {what}:\n{text}");
        }
    }
    fs::remove_file(dir.join("key.pem")).unwrap();
    fs::remove_file(dir.join("smokegate.yaml")).unwrap();
    let mut files = 0;
    assert_nowhere(&dir, &words, &mut files);
    assert!(files > 10, "{files} files were looked at");
}

/// No file below `dir` has any of the words.
fn assert_nowhere(dir: &Path, words: &[&str], files: &mut usize) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            assert_nowhere(&path, words, files);
        } else if meta.is_file() {
            *files += 1;
            // As text: the standard library's search is an optimised one in every build.
            let content = fs::read(&path).unwrap();
            let content = String::from_utf8_lossy(&content);
            for word in words {
                assert!(!content.contains(word), "`{word}` in {}", path.display());
            }
        }
    }
}

#[test]
fn root_secrets_reach_the_container_and_nothing_else() {
    secrets(RunAs::Root);
}

#[test]
fn rootless_secrets_reach_the_container_and_nothing_else() {
    secrets(RunAs::OrdinaryUser);
}
