//! A push that is killed while its tags move: what it leaves, and that it can be finished and undone.

use std::fs;
use std::time::Duration;

use rustix::process::Signal;
use smokegate_test_support::{EcrManners, Fault, FaultSchedule, Finished, RunAs, wait_for};

use super::ecr::{Ecr, Tags};
use super::text;

/// In the order in which they move.
const TAGS: [&str; 3] = ["1.0.0", "main", "latest"];

impl Ecr {
    /// Starts `command`, and kills it when the first request of `method` for `path` is under way.
    fn kill_at(&self, command: &str, method: &str, path: &str, fault: Fault, more: &[&str]) {
        let faults = FaultSchedule::default();
        self.fake
            .set_faults(faults.and_lasting(method, path, 0, fault));
        self.fake.state().requests.clear();
        let running = self.context.start(self.words(command, &TAGS, more));
        wait_for("the request to be held", Duration::from_secs(60), || {
            (self.fake.state().count(method, path) > 0).then_some(())
        });
        running.signal(Signal::KILL);
        let run = running.wait(Duration::from_secs(20));
        assert_eq!(run.signal(), Some(9), "{}", run.stderr);
        assert_eq!(run.stdout, "", "nothing is published yet");
        self.fake.set_faults(FaultSchedule::default());
    }

    /// The only journal, which holds no credential; `None` where there is none.
    fn journal(&self) -> Option<String> {
        let entries = fs::read_dir(self.context.dir().join("smokegate-report")).ok()?;
        let names = entries.map(|entry| entry.unwrap().path());
        let journals: Vec<_> = names
            .filter(|path| path.extension().is_some_and(|is| is == "journal"))
            .collect();
        assert!(journals.len() <= 1, "{journals:?}");
        let journal = text(journals.first()?).to_owned();
        self.assert_not_secret("the journal", &fs::read_to_string(&journal).unwrap());
        Some(journal)
    }

    /// What `tags` becomes when the first `moved` of the tags have moved.
    fn with_moved(&self, tags: &Tags, moved: usize) -> Tags {
        let ours = TAGS[..moved].iter();
        let ours = ours.map(|tag| ((*tag).to_owned(), self.image.digest().to_string()));
        tags.clone().into_iter().chain(ours).collect()
    }

    /// Fails the test unless each line `REF: …` on standard error ends in where the tag is.
    #[track_caller]
    fn assert_reported(&self, run: &Finished) {
        let tags = self.tags();
        for tag in TAGS {
            let begin = format!("{}: ", Self::reference(tag));
            let mut lines = run.stderr.lines();
            let line = lines.find_map(|line| line.split_once(&begin));
            let (_, said) = line.unwrap_or_else(|| panic!("no {tag} in {}", run.stderr));
            let now = tags.get(tag).map_or("absent", String::as_str);
            let said = said.rsplit(" is ").next().unwrap();
            assert!(said.starts_with(now), "{tag} is {now}: {}", run.stderr);
        }
    }
}

/// The n-th move is held before it is made, or made without an answer; then it is finished, or undone, by turns.
#[test]
fn rootless_killed_push_is_finished_or_undone() {
    for (moved, held) in TAGS.iter().enumerate() {
        for (fault, made) in [
            (Fault::Hold, moved),
            (Fault::Stall(Duration::from_secs(30)), moved + 1),
        ] {
            let undo = (moved + made) % 2 == 0;
            let Some((ecr, old)) = Ecr::with_old_tags(RunAs::OrdinaryUser, EcrManners::default())
            else {
                return;
            };
            let path = format!("/manifests/{held}");
            ecr.kill_at("push", "PUT", &path, fault.clone(), &[]);
            assert_eq!(ecr.tags(), ecr.with_moved(&old, made), "{held} {fault:?}");
            let journal = ecr.journal().expect("tags have moved");

            ecr.fake.state().requests.clear();
            if undo {
                let run = ecr.resume(&journal, &["--undo"]);
                run.assert_code(0);
                assert_eq!(run.stdout, "");
                assert_eq!(ecr.tags(), old, "{held} {fault:?}");
                ecr.assert_reported(&run);
            } else {
                let run = ecr.resume(&journal, &[]);
                run.assert_code(0);
                let digest = ecr.image.digest();
                let lines = TAGS.map(|tag| format!("{}@{digest}\n", Ecr::reference(tag)));
                assert_eq!(run.stdout, lines.concat());
                assert_eq!(ecr.tags(), ecr.with_moved(&old, 3));
                // What had moved is not written again.
                let puts = ecr.fake.state().count("PUT", "");
                assert_eq!(puts, 3 - made, "{held} {fault:?}");
            }
            assert_eq!(ecr.journal(), None, "nothing is left to finish");
        }
    }
}

/// Before the first tag there is nothing to finish: the same push again does it.
#[test]
fn rootless_killed_upload_moves_no_tag() {
    let held = [
        ("PUT", "/blobs/uploads/"),
        ("PUT", "/manifests/sha256"),
        ("GET", "/manifests/latest"),
    ];
    for (method, path) in held {
        let Some((ecr, old)) = Ecr::with_old_tags(RunAs::OrdinaryUser, EcrManners::default())
        else {
            return;
        };
        ecr.kill_at("push", method, path, Fault::Hold, &[]);
        assert_eq!(ecr.tags(), old, "{path}");
        assert_eq!(ecr.journal(), None, "{path}");
        let run = ecr.context.run(ecr.words("push", &TAGS, &[]));
        run.assert_code(0);
        assert_eq!(ecr.tags(), ecr.with_moved(&old, 3));
        assert_eq!(ecr.fake.state().premature, Vec::<String>::new());
    }
}

fn killed_ship(run_as: RunAs) {
    let Some((ecr, old)) = Ecr::with_old_tags(run_as, EcrManners::default()) else {
        return;
    };
    let path = "/manifests/main";
    let more = ["--publish", "0:8080", "--attach-receipt"];
    ecr.kill_at("ship", "PUT", path, Fault::Hold, &more);
    assert_eq!(ecr.tags(), ecr.with_moved(&old, 1));
    // The receipt is whole, and claims nothing: neither a pass nor a tag.
    let receipt = ecr.context.receipt();
    assert!(receipt["verdict"].is_null(), "{receipt}");
    assert_eq!(receipt["published"], serde_json::json!([]));
    let journal = ecr.journal().expect("a tag has moved");

    // The attached receipt was there before the first tag moved.
    let digest = ecr.image.digest().to_string();
    let manifests = ecr.fake.state().repository("team/app").manifests.clone();
    let refers = |bytes: &[u8]| {
        let manifest: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        manifest["subject"]["digest"] == digest
    };
    let mut attached = manifests.iter().filter(|(_, (_, bytes))| refers(bytes));
    let (theirs, _) = attached.next().expect("the receipt is attached");

    // Somebody else moves a tag meanwhile: theirs stays, ours goes back.
    let set_main = |digest: &String| {
        let mut state = ecr.fake.state();
        let tags = &mut state.repository("team/app").tags;
        tags.insert("main".to_owned(), digest.clone());
    };
    set_main(theirs);
    let run = ecr.resume(&journal, &[]);
    run.assert_code(7);
    ecr.assert_reported(&run);
    let mut expected = old.clone();
    expected.insert("main".to_owned(), theirs.clone());
    assert_eq!(ecr.tags(), expected);

    // ECR deletes an image with its last tag: there is nothing left to point to.
    set_main(&old["main"]);
    let run = ecr.resume(&journal, &[]);
    run.assert_code(6);
    assert!(run.stderr.contains("no tag was moved"), "{}", run.stderr);
    assert!(
        run.stderr.contains("hint: push the image again"),
        "{}",
        run.stderr
    );
    assert_eq!((ecr.tags(), ecr.journal()), (old, None));
}

#[test]
fn root_killed_ship_leaves_what_it_says() {
    killed_ship(RunAs::Root);
}

#[test]
fn rootless_killed_ship_leaves_what_it_says() {
    killed_ship(RunAs::OrdinaryUser);
}
