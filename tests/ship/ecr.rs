//! Publishing to Amazon ECR, with the program: credentials, its refusals, tags as a transaction.

use std::collections::BTreeMap;
use std::path::PathBuf;

use smokegate_test_support::{
    BuiltImage, EcrManners, FakeEcr, Fault, FaultSchedule, Finished, RunAs, Smokegate,
};

use super::{oci_archive, smokegate, text};

/// Where each tag points.
pub(super) type Tags = BTreeMap<String, String>;

/// The program beside a fake ECR, with an image.
pub(super) struct Ecr {
    pub(super) context: Smokegate,
    pub(super) fake: FakeEcr,
    pub(super) image: BuiltImage,
    archive: PathBuf,
}

impl Ecr {
    /// A context whose AWS is the fake, and an image; `None` where the host cannot run it.
    pub(super) fn start(run_as: RunAs, manners: EcrManners) -> Option<Self> {
        let mut context = smokegate(run_as)?;
        let fake = FakeEcr::start(manners);
        for (name, value) in fake.environment() {
            context.env(&name, value);
        }
        let config = context.write("registries.toml", fake.registry_config());
        let (image, archive) = oci_archive(&context, "serve");
        assert!(config.is_file());
        Some(Self {
            context,
            fake,
            image,
            archive,
        })
    }

    /// One whose `main` and `latest` point to another image, and where these tags point.
    pub(super) fn with_old_tags(run_as: RunAs, manners: EcrManners) -> Option<(Self, Tags)> {
        let ecr = Self::start(run_as, manners)?;
        ecr.fake.create("team/app");
        let (_, other) = oci_archive(&ecr.context, "layers-packed");
        let mut words = ecr.words("push", &["main", "latest"], &[]);
        words[1] = text(&other).to_owned();
        ecr.context.run(words).assert_code(0);
        let tags = ecr.tags();
        assert_eq!(tags.len(), 2);
        Some((ecr, tags))
    }

    pub(super) fn tags(&self) -> Tags {
        self.fake.state().repository("team/app").tags.clone()
    }

    pub(super) fn reference(tag: &str) -> String {
        format!("{}/team/app:{tag}", FakeEcr::HOST)
    }

    /// `COMMAND IMAGE --tag REF…` with the fake's address.
    pub(super) fn words(&self, command: &str, tags: &[&str], more: &[&str]) -> Vec<String> {
        let mut words = vec![command.to_owned(), text(&self.archive).to_owned()];
        for tag in tags {
            words.extend(["--tag".to_owned(), Self::reference(tag)]);
        }
        words.extend(self.at_fake(more));
        words
    }

    /// `push --resume JOURNAL`.
    pub(super) fn resume(&self, journal: &str, more: &[&str]) -> Finished {
        let mut words = vec!["push".to_owned(), "--resume".to_owned(), journal.to_owned()];
        words.extend(self.at_fake(more));
        self.context.run(words)
    }

    fn at_fake(&self, more: &[&str]) -> Vec<String> {
        let config = self.context.dir().join("registries.toml");
        let words = ["--registry-config", text(&config)];
        words
            .iter()
            .chain(more)
            .map(|word| (*word).to_owned())
            .collect()
    }

    pub(super) fn run(&self, command: &str, tags: &[&str], more: &[&str]) -> Finished {
        self.context.run(self.words(command, tags, more))
    }

    fn push(&self, tags: &[&str], more: &[&str]) -> Finished {
        self.run("push", tags, more)
    }

    fn assert_shows_no_secret(&self, run: &Finished) {
        self.assert_not_secret("stdout", &run.stdout);
        self.assert_not_secret("stderr", &run.stderr);
    }

    /// Fails the test where a text holds a credential, given or made of it.
    #[track_caller]
    pub(super) fn assert_not_secret(&self, what: &str, text: &str) {
        let state = self.fake.state();
        let known = ["static-secret-key".to_owned()];
        for secret in state.secrets.iter().chain(&known) {
            assert!(!text.contains(secret), "`{secret}` in {what}:\n{text}");
        }
    }
}

fn ships(run_as: RunAs) {
    let Some(ecr) = Ecr::start(run_as, EcrManners::default()) else {
        return;
    };
    let missing = ecr.run("ship", &["1.0"], &["--publish", "0:8080"]);
    missing.assert_code(6);
    assert!(
        missing.stderr.contains("NAME_UNKNOWN"),
        "{}",
        missing.stderr
    );
    assert!(
        missing.stderr.contains("hint: make the repository first"),
        "{}",
        missing.stderr
    );
    assert!(!missing.stderr.contains("running"), "{}", missing.stderr);

    let flags = [
        "--publish",
        "0:8080",
        "--create-repository=immutable,scan",
        "-v",
    ];
    let run = ecr.run("ship", &["1.0", "latest"], &flags);
    run.assert_code(0);
    let digest = ecr.image.digest();
    let lines = ["1.0", "latest"].map(|tag| format!("{}@{digest}\n", Ecr::reference(tag)));
    assert_eq!(run.stdout, lines.concat());
    ecr.assert_shows_no_secret(&run);
    {
        let mut state = ecr.fake.state();
        assert_eq!(
            state.token_requests.last().unwrap(),
            "AKIDSTATIC eu-west-1 ecr"
        );
        let repository = state.repository("team/app");
        assert!(repository.immutable && repository.scan_on_push);
        state.requests.clear();
    }
    // Again, on immutable tags: nothing is written.
    ecr.push(&["1.0", "latest"], &[]).assert_code(0);
    assert_eq!(ecr.fake.state().count("PUT", ""), 0);
}

#[test]
fn root_ships_to_ecr() {
    ships(RunAs::Root);
}

#[test]
fn rootless_ships_to_ecr() {
    ships(RunAs::OrdinaryUser);
}

#[test]
fn rootless_credentials_of_aws_that_do_not_work_are_said_and_not_shown() {
    let Some(mut ecr) = Ecr::start(RunAs::OrdinaryUser, EcrManners::default()) else {
        return;
    };
    ecr.fake.create("team/app");
    for (key, said) in [
        (
            "AKIDDENIED",
            "error: cannot get a token for ECR in eu-west-1 with the AWS credential from `AWS_ACCESS_KEY_ID`",
        ),
        ("AKIDWRONG", "InvalidSignatureException"),
        ("", "error: no AWS credential for ECR in eu-west-1"),
    ] {
        ecr.context.env("AWS_ACCESS_KEY_ID", key);
        ecr.context.env("AWS_SESSION_TOKEN", "session-s3cret");
        let run = ecr.push(&["1"], &["-v"]);
        run.assert_code(6);
        assert!(run.stderr.contains(said), "{}", run.stderr);
        assert!(!run.stderr.contains("session-s3cret"), "{}", run.stderr);
        ecr.assert_shows_no_secret(&run);
    }
}

#[test]
fn rootless_tags_that_moved_are_put_back_or_can_be() {
    let Some(ecr) = Ecr::start(RunAs::OrdinaryUser, EcrManners::default()) else {
        return;
    };
    ecr.fake.create("team/app");
    let refuse = || {
        let faults = FaultSchedule::default();
        ecr.fake
            .set_faults(faults.and_lasting("PUT", "/manifests/latest", 0, Fault::Refuse(403)));
    };
    refuse();
    let run = ecr.push(&["latest", "1.0"], &[]);
    run.assert_code(6);
    let line = format!(
        "{}: was absent, is absent (put back)",
        Ecr::reference("1.0")
    );
    assert!(run.stderr.contains(&line), "{}", run.stderr);
    assert!(ecr.fake.state().repository("team/app").tags.is_empty());
    assert!(!ecr.context.dir().join("smokegate-report").exists());

    let run = ecr.push(&["latest", "1.0"], &["--no-rollback"]);
    run.assert_code(7);
    let line = format!(
        "{}: was absent, is {}",
        Ecr::reference("1.0"),
        ecr.image.digest()
    );
    assert!(run.stderr.contains(&line), "{}", run.stderr);
    let words = run
        .stderr
        .lines()
        .find(|line| line.starts_with("hint: to finish it: "))
        .unwrap();
    let journal = words
        .split_whitespace()
        .find(|word| word.contains(".journal"))
        .unwrap();
    let journal = journal.trim_end_matches(';');
    assert!(
        !std::fs::read_to_string(ecr.context.dir().join(journal))
            .unwrap()
            .contains("ecr-password")
    );

    let resume = |more: &[&str]| ecr.resume(journal, more);
    // It still does not work: what had moved before is put back.
    resume(&["--no-rollback"]).assert_code(7);
    ecr.fake.set_faults(FaultSchedule::default());
    let run = resume(&[]);
    run.assert_code(0);
    let lines =
        ["1.0", "latest"].map(|tag| format!("{}@{}\n", Ecr::reference(tag), ecr.image.digest()));
    assert_eq!(run.stdout, lines.concat());
    assert_eq!(ecr.fake.state().repository("team/app").tags.len(), 2);
    resume(&[]).assert_code(2);
}
