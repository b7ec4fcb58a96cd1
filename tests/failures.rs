//! Images that fail: exit code 1, and a block that names the cause, shows the container's last lines and hints.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use smokegate_test_support::{
    Entry, EntryKind, FileContent, Finished, ImageFixture, LayerContent, RunAs, Smokegate,
};

/// What nearly every image here holds; the entrypoint comes before it.
const FILES: &str = "
env: PATH=/usr/bin:/bin
expose: 8080/tcp

layer gzip
dir /etc 0755 0:0
file /etc/passwd 0644 0:0 root:x:0:0:root:/root:/bin/sh\\napp:x:1000:1000:app:/home/app:/bin/sh\\n
file /etc/group 0644 0:0 root:x:0:\\napp:x:1000:\\n
dir /usr 0755 0:0
dir /usr/bin 0755 0:0
file /usr/bin/on-path.sh 0755 0:0 #!/bin/bash\\nexec /app\\n
file /usr/bin/on-path-no-x 0644 0:0 #!/bin/bash\\n
file /script.sh 0755 0:0 #!/bin/bash\\nexec /app\\n
file /no-x.sh 0644 0:0 #!/bin/sh\\n
file /no-shebang 0755 0:0 exec /app\\n
file /empty 0755 0:0
link /dangling -> /not/there
file /probe-target 0755 0:0 @probe-target
";

/// One way to fail.
struct Case {
    image: ImageFixture,
    flags: &'static [&'static str],
    /// The first line after `error: `, with times as TIME and the number of attempts as N.
    cause: &'static str,
    /// Lines of the container that the block shows.
    log: &'static [&'static str],
    /// How the hint begins.
    hint: &'static str,
}

impl Case {
    fn of(image: &str, cause: &'static str) -> Self {
        Self::with(ImageFixture::load(image), cause)
    }

    /// `configuration` in front of [`FILES`].
    fn text(configuration: &str, cause: &'static str) -> Self {
        let image = ImageFixture::parse(&format!("{configuration}\n{FILES}")).unwrap();
        Self::with(image, cause)
    }

    fn with(image: ImageFixture, cause: &'static str) -> Self {
        Self {
            image,
            flags: &[],
            cause,
            log: &[],
            hint: "",
        }
    }

    fn flags(mut self, flags: &'static [&'static str]) -> Self {
        self.flags = flags;
        self
    }

    fn log(mut self, log: &'static [&'static str]) -> Self {
        self.log = log;
        self
    }

    fn hint(mut self, hint: &'static str) -> Self {
        self.hint = hint;
        self
    }
}

/// Runs every case; `within` is how long the probe may go on.
fn check(run_as: RunAs, within: &str, cases: Vec<Case>) {
    let Some(mut context) = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as) else {
        return;
    };
    // Far below the longest `within`: what ends by itself ends the run at once.
    context.limit(Duration::from_secs(40));
    for case in cases {
        let archive = context.archive("image", &case.image.build());
        let mut arguments = vec!["gate", archive.to_str().unwrap(), "--within", within];
        // What the run itself has to say; tests/why.rs is about both together.
        arguments.extend(["--interval", "500ms", "--no-lint"]);
        if !case.flags.contains(&"--publish") {
            arguments.extend(["--publish", "0:8080"]);
        }
        arguments.extend(case.flags);
        let run = context.run(arguments);
        check_one(&context, &run, &case);
    }
}

fn check_one(context: &Smokegate, run: &Finished, case: &Case) {
    let stderr = &run.stderr;
    run.assert_code(1);
    assert_eq!(run.stdout, "", "{stderr}");
    let (_, block) = stderr
        .split_once("\nerror: ")
        .unwrap_or_else(|| panic!("{stderr}"));
    let (block, hint) = block
        .split_once("\n\nhint: ")
        .unwrap_or_else(|| panic!("{stderr}"));
    let (cause, evidence) = block.split_once('\n').unwrap_or((block, ""));
    assert_eq!(without_times(cause), case.cause, "{stderr}");
    assert!(
        hint.starts_with(case.hint) && hint.lines().count() == 1,
        "{hint}"
    );
    assert!(
        !case.hint.is_empty() && !evidence.contains("error: "),
        "{stderr}"
    );
    let shown: Vec<_> = evidence
        .lines()
        .filter_map(|line| line.strip_prefix("  | "))
        .collect();
    if case.log.is_empty() {
        assert_eq!(shown, [""; 0], "{stderr}");
    }
    for line in case.log {
        assert!(shown.contains(line), "`{line}` is not in: {stderr}");
    }
    let receipt = context.receipt();
    if !receipt["variants"][0].is_null() {
        assert_eq!(receipt["verdict"], "failed", "{receipt}");
        assert_eq!(receipt["variants"][0]["verdict"], "failed", "{receipt}");
        assert_eq!(receipt["variants"][0]["cause"], cause, "{receipt}");
    } else {
        assert_eq!(receipt["error"]["cause"], cause, "{receipt}");
        assert_eq!(receipt["error"]["exit_code"], 1, "{receipt}");
    }
    assert_eq!(
        receipt["published"].as_array().map(Vec::len),
        Some(0),
        "{receipt}"
    );
}

/// `exited after 12 ms` as `exited after TIME`, `(7 attempts)` as `(N attempts)`.
fn without_times(text: &str) -> String {
    let words: Vec<&str> = text.split(' ').collect();
    let mut plain = Vec::new();
    let mut at = 0;
    while at < words.len() {
        let next = words.get(at + 1).copied().unwrap_or_default();
        let unit = next.trim_end_matches([',', ':', ')']);
        let number = words[at].trim_start_matches('(');
        if number.parse::<f64>().is_ok() && matches!(unit, "ms" | "s") {
            plain.push(format!("TIME{}", &next[unit.len()..]));
            at += 2;
        } else if number.parse::<u64>().is_ok() && next.starts_with("attempt") {
            plain.push("(N".to_owned());
            plain.push("attempts):".to_owned());
            at += 2;
        } else {
            plain.push(words[at].to_owned());
            at += 1;
        }
    }
    plain.join(" ")
}

/// An ELF header for a machine that nobody tests on (System/390, big-endian).
fn foreign_program() -> Vec<u8> {
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 2, 1];
    bytes.resize(16, 0);
    bytes.extend([0, 2, 0, 22, 0, 0, 0, 1]);
    bytes.resize(64, 0);
    bytes
}

const SEE_THE_IMAGE: &str = "see what the image holds: smokegate inspect IMAGE";

fn not_started(run_as: RunAs) {
    let mut foreign = ImageFixture::parse(&format!("entrypoint: /foreign\n{FILES}")).unwrap();
    if let LayerContent::Entries(entries) = &mut foreign.layers[0].content {
        let kind = EntryKind::File(FileContent::Text(foreign_program()));
        let name = "foreign".to_owned();
        entries.push(Entry {
            name,
            kind,
            mode: 0o755,
            uid: 0,
            gid: 0,
        });
    }
    let format_error = "the entrypoint `/FILE` is not a program this machine can run (exec format error: another \
                        architecture, or a script without a `#!` line)";
    let cannot_run = |file: &str| &*format_error.replace("/FILE", file).leak();
    let for_this_machine = "build the image for this machine";
    let no_interpreter = "the entrypoint `/script.sh` is in the image, but its interpreter is not (the program of \
                          its `#!` line, or the dynamic loader of its C library)";
    let no_interpreter_on_path = &*no_interpreter
        .replace("/script.sh", "/usr/bin/on-path.sh")
        .leak();
    check(
        run_as,
        "120s",
        vec![
            Case::of(
                "entrypoint-missing",
                "the entrypoint `/usr/local/bin/server` does not exist in the image",
            )
            .hint(SEE_THE_IMAGE),
            Case::text(
                "entrypoint: server",
                "the entrypoint `server` is not on the image's PATH (/usr/bin:/bin)",
            )
            .hint("name the program by its absolute path"),
            Case::text(
                "entrypoint: /dangling",
                "the entrypoint `/dangling` does not exist in the image",
            )
            .hint(SEE_THE_IMAGE),
            Case::text(
                "entrypoint: /no-x.sh",
                "the entrypoint `/no-x.sh` is not executable by the container's user",
            )
            .hint("RUN chmod +x"),
            Case::text(
                "entrypoint: on-path-no-x",
                "the entrypoint `on-path-no-x` is not executable by the container's user",
            )
            .hint("RUN chmod +x"),
            Case::text(
                "entrypoint: /usr/bin",
                "the entrypoint `/usr/bin` is a directory",
            )
            .hint(SEE_THE_IMAGE),
            Case::text(
                "entrypoint: /no-x.sh/app",
                "the entrypoint `/no-x.sh/app` cannot be run: ENOTDIR (Not a directory)",
            )
            .hint(SEE_THE_IMAGE),
            Case::text("entrypoint: /no-shebang", cannot_run("/no-shebang")).hint(for_this_machine),
            Case::text("entrypoint: /empty", cannot_run("/empty")).hint(for_this_machine),
            Case::with(foreign, cannot_run("/foreign")).hint(for_this_machine),
            Case::text("entrypoint: /script.sh", no_interpreter).hint("install it in the image"),
            Case::text("entrypoint: on-path.sh", no_interpreter_on_path)
                .hint("install it in the image"),
            Case::text(
                "entrypoint: /probe-target serve\nuser: ghost",
                "the image has no user `ghost` in its /etc/passwd",
            )
            .hint("add the user in the Dockerfile"),
            Case::text(
                "entrypoint: /probe-target serve\nuser: app:ghosts",
                "the image has no group `ghosts` in its /etc/group",
            )
            .hint("add the user in the Dockerfile"),
            Case::text(
                "entrypoint: /probe-target serve\nworkdir: /no-x.sh",
                "WORKDIR `/no-x.sh` is not a directory in the image",
            )
            .hint("name a directory"),
            Case::text(
                "entrypoint: /probe-target serve\nvolume: /no-x.sh",
                "VOLUME `/no-x.sh` is not a directory in the image",
            )
            .hint("name a directory"),
            Case::text("", "the image has neither ENTRYPOINT nor CMD")
                .hint("give the Dockerfile an ENTRYPOINT or CMD"),
        ],
    );
}

#[test]
fn root_an_entrypoint_that_cannot_start_fails_at_once() {
    not_started(RunAs::Root);
}

#[test]
fn rootless_an_entrypoint_that_cannot_start_fails_at_once() {
    not_started(RunAs::OrdinaryUser);
}

const OWN_WORDS: &str = "the last lines above are the program's own";

fn ended(run_as: RunAs) {
    let quiet_end = "the entrypoint exited with code 0 after TIME, before GET /healthz on port 8080 passed: a \
                     service must keep running";
    let needs = "the entrypoint exited with code 127 after TIME: line 3 of `/bin/start.sh` runs `gunicorn`, which is \
                 not in the image";
    check(
        run_as,
        "120s",
        vec![
            Case::of("exits-127", needs).log(&["/bin/start.sh: line 3: gunicorn: not found"]).hint("install it in the image"),
            Case::of("exits-3", "the entrypoint exited with code 3 after TIME")
                .log(&["config: DATABASE_URL is not set"])
                .hint(OWN_WORDS),
            Case::text(
                "entrypoint: /probe-target print-then-exit 126 ./start.sh: Permission denied",
                "the entrypoint exited with code 126 after TIME: `./start.sh: Permission denied`",
            )
            .log(&["./start.sh: Permission denied"])
            .hint(OWN_WORDS),
            Case::of(
                "killed-by-signal",
                "the entrypoint was ended by SIGSEGV (11) after TIME: a segmentation fault: a bug of the program, or \
                 libraries that do not fit it",
            )
            .log(&["about-to-crash"])
            .hint("run it with the libraries it was built with"),
            Case::of(
                "killed-by-sigkill",
                "the entrypoint was ended by SIGKILL (9) after TIME: something killed it: a process of its own, or the \
                 host as it ran out of memory; its own memory limit did not",
            )
            .log(&["about-to-be-killed"])
            .hint("see whether the host ran out of memory"),
            Case::text("entrypoint: /probe-target print bye exit 0", quiet_end).log(&["bye"]).hint("keep it in the foreground"),
            Case::text("entrypoint: /probe-target exit 0", quiet_end).hint("keep it in the foreground"),
            // It ends while it is being asked.
            Case::text(
                "entrypoint: /probe-target serve --status 503 --exit-after 2",
                "the entrypoint exited with code 3 after TIME",
            )
            .log(&["GET /healthz HTTP/1.1 503", "exiting after 2 requests"])
            .hint(OWN_WORDS),
            // It dies of the request that it answered well.
            Case::text(
                "entrypoint: /probe-target serve --exit-after 1",
                "the entrypoint exited with code 3 after TIME, as soon as GET /healthz on port 8080 passed: a service \
                 must keep running",
            )
            .log(&["GET /healthz HTTP/1.1 200", "exiting after 1 requests"])
            .hint(OWN_WORDS),
        ],
    );
}

#[test]
fn root_an_entrypoint_that_ends_fails_at_once() {
    ended(RunAs::Root);
}

#[test]
fn rootless_an_entrypoint_that_ends_fails_at_once() {
    ended(RunAs::OrdinaryUser);
}

fn unhealthy(run_as: RunAs) {
    check(
        run_as,
        "2500ms",
        vec![
            Case::of(
                "never-answers",
                "the app opened no port at all in TIME: GET /healthz on port 8080 was refused",
            )
            .log(&["warming-up"])
            .hint("if it only needs longer to start, raise --within"),
            Case::of(
                "never-responds",
                "GET /healthz on port 8080 did not pass in TIME (N attempts): it accepted the connection and never answered",
            )
            .log(&["listening on 0.0.0.0:8080"])
            .hint("if it only needs longer, raise --within"),
            Case::of(
                "answers-500",
                "GET /healthz on port 8080 did not pass in TIME (N attempts): it answered 500 Internal Server Error",
            )
            .log(&["GET /healthz HTTP/1.1 500"])
            .hint("the app runs and says itself that it is not well"),
            Case::of(
                "serve",
                "GET /nope on port 8080 did not pass in TIME (N attempts): it answered 404 Not Found; GET /healthz passes",
            )
            .flags(&["--http", "/nope"])
            .log(&["GET /nope HTTP/1.1 404"])
            .hint("if that is its health check, ask it: `path: /healthz` in the gate file, or --http /healthz"),
            Case::of(
                "serve",
                "GET /nope on port 8080 did not pass in TIME (N attempts): it answered 404 Not Found",
            )
            .flags(&["--http", "/nope", "--", "--path", "/somewhere"])
            .log(&["GET /nope HTTP/1.1 404"])
            .hint("if the app answers on another path, name it with --http PATH; only 200 passes"),
            Case::of(
                "listens-on-loopback",
                "the app listens on 127.0.0.1:8080 only, so nothing outside its container can reach it; it must \
                 listen on 0.0.0.0:8080",
            )
            .log(&["listening on 127.0.0.1:8080"])
            .hint("most servers take the address from a flag or variable"),
            Case::of("serve", "nothing listens on port 9999: the app listens on 0.0.0.0:8080")
                .flags(&["--publish", "0:9999"])
                .log(&["listening on 0.0.0.0:8080"])
                .hint("if 8080 is the port meant, name it: `port: 8080` in the gate file's probe, or --publish 18080:8080"),
            Case::of(
                "healthcheck-fails",
                "HEALTHCHECK `/probe-target check-http 8080 /not-there` did not pass in TIME (N attempts): it exited \
                 with code 1",
            )
            .log(&["GET /not-there HTTP/1.1 404"])
            .hint("the image's HEALTHCHECK decides; --http PATH asks over HTTP instead"),
            Case::text(
                "entrypoint: /probe-target serve\nhealthcheck: --interval=500ms --timeout=300ms --retries=1 \
                 CMD /probe-target hang",
                "HEALTHCHECK `/probe-target hang` did not pass in TIME (N attempts): it did not finish within TIME",
            )
            .log(&["listening on 0.0.0.0:8080"])
            .hint("the image's HEALTHCHECK decides; --http PATH asks over HTTP instead"),
            Case::text(
                "entrypoint: /probe-target serve\nhealthcheck: --interval=500ms --retries=1 CMD /no/curl",
                "HEALTHCHECK `/no/curl` did not pass in TIME (N attempts): it could not be run: cannot run \
                 `/no/curl`: ENOENT (No such file or directory)",
            )
            .log(&["listening on 0.0.0.0:8080"])
            .hint("the image's HEALTHCHECK decides; --http PATH asks over HTTP instead"),
        ],
    );
}

#[test]
fn root_an_app_that_is_not_healthy_fails_at_the_limit() {
    unhealthy(RunAs::Root);
}

#[test]
fn rootless_an_app_that_is_not_healthy_fails_at_the_limit() {
    unhealthy(RunAs::OrdinaryUser);
}

/// What the answer of a probe was is evidence too.
fn answers_are_shown(run_as: RunAs) {
    let Some(context) = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as) else {
        return;
    };
    for (fixture, answer) in [
        ("answers-500", "database-unreachable"),
        ("healthcheck-fails", "HTTP/1.1 404 Probe"),
    ] {
        let archive = context.archive("image", &ImageFixture::load(fixture).build());
        let run = context.run([
            "gate",
            archive.to_str().unwrap(),
            "--publish",
            "0:8080",
            "--within",
            "2s",
        ]);
        run.assert_code(1);
        assert!(
            run.stderr.contains(&format!(":\n  | {answer}\n")),
            "{}",
            run.stderr
        );
    }
}

#[test]
fn root_the_answer_of_the_last_attempt_is_shown() {
    answers_are_shown(RunAs::Root);
}

#[test]
fn rootless_the_answer_of_the_last_attempt_is_shown() {
    answers_are_shown(RunAs::OrdinaryUser);
}

/// A job of GitHub Actions with its two files.
struct Job {
    context: Smokegate,
    summary: PathBuf,
    output: PathBuf,
}

impl Job {
    fn new(run_as: RunAs) -> Option<Self> {
        let mut context = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as)?;
        let summary = context.write("step-summary", "");
        let output = context.write("step-output", "");
        context.env("GITHUB_ACTIONS", "true");
        context
            .env("GITHUB_STEP_SUMMARY", &summary)
            .env("GITHUB_OUTPUT", &output);
        Some(Self {
            context,
            summary,
            output,
        })
    }

    fn gate(&self, image: &ImageFixture, flags: &[&str]) -> Finished {
        let archive = self.context.archive("image", &image.build());
        let mut arguments = vec![
            "gate",
            archive.to_str().unwrap(),
            "--publish",
            "0:8080",
            "-v",
        ];
        arguments.extend(["--within", "2s"]);
        arguments.extend(flags);
        self.context.run(arguments)
    }

    /// The lines that the runner would obey, but for the groups that fold logs (actions/runner, ActionCommand.cs: `::` after spaces, `##[` anywhere,
    /// nothing between a stop and its token), and that nothing else is in the outputs.
    fn obeyed(&self, run: &Finished) -> Vec<String> {
        let mut resume: Option<String> = None;
        let mut obeyed = Vec::new();
        let mut is_open = false;
        for line in run.stderr.lines().chain(run.stdout.lines()) {
            let trimmed = line.trim_start();
            if let Some(token) = &resume {
                if trimmed == format!("::{token}::") {
                    resume = None;
                }
            } else if let Some(token) = trimmed.strip_prefix("::stop-commands::") {
                assert!(token.len() >= 32, "a token that can be guessed: {token}");
                resume = Some(token.to_owned());
            } else if line.starts_with("::group::smokegate: variant default: the last ") {
                assert!(!is_open, "{}", run.stderr);
                is_open = true;
            } else if line == "::endgroup::" {
                assert!(is_open, "{}", run.stderr);
                is_open = false;
            } else if trimmed.starts_with("::") || line.contains("##[") {
                obeyed.push(line.to_owned());
            }
        }
        assert!(!is_open, "a group stays open: {}", run.stderr);
        assert_eq!(resume, None, "commands stay stopped: {}", run.stderr);
        assert!(
            !run.stderr.contains('\u{1b}'),
            "an escape: {:?}",
            run.stderr
        );
        obeyed
    }
}

fn workflow_commands(run_as: RunAs) {
    let Some(job) = Job::new(run_as) else { return };
    let image = ImageFixture::load("workflow-commands");
    let run = job.gate(&image, &[]);
    run.assert_code(1);
    let [annotation] = &job.obeyed(&run)[..] else {
        panic!("{}", run.stderr)
    };
    assert_eq!(
        without_times(annotation),
        "::error title=smokegate%3A variant default::the entrypoint exited with code 1 after TIME"
    );
    for line in [
        "  | ::error::injected",
        "  | ::set-output name=verdict::passed",
        "  | cleared",
    ] {
        assert!(run.stderr.contains(&format!("{line}\n")), "{}", run.stderr);
    }
    let digest = image.build().digest();
    let output = fs::read_to_string(&job.output).unwrap();
    assert_eq!(output, format!("digest={digest}\nverdict=failed\nrefs=\n"));
    let summary = fs::read_to_string(&job.summary).unwrap();
    assert!(summary.contains("## smokegate: failed"), "{summary}");
    assert!(
        summary.contains("the entrypoint exited with code 1"),
        "{summary}"
    );

    // The same words in every other place that reaches the log.
    let evil =
        "::error::injected\\n::set-output name=verdict::passed\\n##[error]injected\\u001b[2J";
    let texts = [
        format!("entrypoint: [\"/probe-target\", \"serve\", \"--status\", \"500\", \"--body\", \"{evil}\"]"),
        format!("entrypoint: [\"/missing{evil}\"]"),
        format!("entrypoint: [\"{evil}\"]"),
        format!("entrypoint: /probe-target serve\nhealthcheck: --retries=1 --interval=100ms CMD-SHELL {evil}"),
        format!("entrypoint: /probe-target serve\nuser: {}", evil.replace("\\n", " ").replace("\\u001b", "")),
        format!("entrypoint: /probe-target serve\nworkdir: /probe-target/{}", evil.replace("\\u001b", "")),
        "entrypoint: /probe-target serve\nhealthcheck: --retries=1 --interval=100ms CMD /probe-target \
         print-then-exit 1 ::error::injected ##[error]injected"
            .to_owned(),
    ];
    for text in texts {
        let image = ImageFixture::parse(&format!("{text}\n{FILES}")).unwrap();
        fs::write(&job.output, "").unwrap();
        fs::write(&job.summary, "").unwrap();
        let run = job.gate(&image, &[]);
        run.assert_code(1);
        let obeyed = job.obeyed(&run);
        assert_eq!(obeyed.len(), 1, "{text}: {obeyed:#?}");
        assert!(
            obeyed[0].starts_with("::error title=smokegate%3A variant default::"),
            "{obeyed:?}"
        );
        assert!(!obeyed[0].contains("##["), "{obeyed:?}");
        let output = fs::read_to_string(&job.output).unwrap();
        let digest = image.build().digest();
        assert_eq!(
            output,
            format!("digest={digest}\nverdict=failed\nrefs=\n"),
            "{text}"
        );
        let summary = fs::read_to_string(&job.summary).unwrap();
        assert!(
            !summary.lines().any(|line| line.starts_with("::")),
            "{summary}"
        );
    }
}

#[test]
fn root_no_text_of_an_image_acts_as_a_workflow_command() {
    workflow_commands(RunAs::Root);
}

#[test]
fn rootless_no_text_of_an_image_acts_as_a_workflow_command() {
    workflow_commands(RunAs::OrdinaryUser);
}

fn passing_job(run_as: RunAs) {
    let Some(job) = Job::new(run_as) else { return };
    let image = ImageFixture::load("serve");
    let run = job.gate(&image, &[]);
    run.assert_code(0);
    assert_eq!(job.obeyed(&run), [""; 0]);
    let output = fs::read_to_string(&job.output).unwrap();
    assert_eq!(
        output,
        format!("digest={}\nverdict=passed\nrefs=\n", image.build().digest())
    );
    assert!(
        fs::read_to_string(&job.summary)
            .unwrap()
            .contains("## smokegate: passed")
    );
}

#[test]
fn root_a_passing_job_has_its_outputs_and_no_annotation() {
    passing_job(RunAs::Root);
}

#[test]
fn rootless_a_passing_job_has_its_outputs_and_no_annotation() {
    passing_job(RunAs::OrdinaryUser);
}

fn layers_over_a_limit(run_as: RunAs) {
    let Some(context) = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as) else {
        return;
    };
    let image = context.archive("serve", &ImageFixture::load("serve").build());
    for (limit, says) in [
        (
            "layer-entries=1",
            "the number of entries up to it is over the limit of 1",
        ),
        (
            "file-size=1k",
            "entry `probe-target`: its size is over the limit of 1024",
        ),
    ] {
        let (name, _) = limit.split_once('=').unwrap();
        let run = context.run(["gate", image.to_str().unwrap(), "--limit", limit]);
        run.assert_code(5);
        let first = run.stderr.lines().find(|line| line.starts_with("error: "));
        assert!(first.unwrap_or_default().contains(says), "{}", run.stderr);
        let hint = format!("hint: if you trust this image, raise the limit: --limit {name}=");
        assert!(run.stderr.contains(&hint), "{}", run.stderr);
    }
    let image = image.to_str().unwrap();
    let enough = ["--limit", "layer-entries=1000", "--limit", "file-size=1g"];
    let run = context.run([&["gate", image, "--publish", "0:8080"], enough.as_slice()].concat());
    run.assert_code(0);
}

#[test]
fn root_layers_over_a_limit() {
    layers_over_a_limit(RunAs::Root);
}

#[test]
fn rootless_layers_over_a_limit() {
    layers_over_a_limit(RunAs::OrdinaryUser);
}
