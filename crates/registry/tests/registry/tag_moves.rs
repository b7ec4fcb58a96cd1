//! Tags as one transaction: what is put back, what is left, and how an unfinished push is finished or undone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use smokegate_image::Image;
use smokegate_registry::{CreatedRepositories, Publisher, PushOptions, TagPosition, Unobserved};
use smokegate_test_support::{EcrManners, FakeEcr, Fault, FaultSchedule};

use crate::ecr_credentials::{publisher, reference};
use crate::images::{chain, index, layer, push, push_with, small};

fn started() -> (FakeEcr, Publisher) {
    let fake = FakeEcr::start(EcrManners::default());
    fake.create("team/app");
    let publisher = publisher(&fake, fake.environment(), None);
    (fake, publisher)
}

fn other() -> Image {
    index(vec![vec![layer(9, 500)]])
}

fn journaled(directory: &Path) -> PushOptions {
    PushOptions {
        journal_dir: Some(directory.to_owned()),
        ..PushOptions::default()
    }
}

fn journals(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory);
    entries.map_or_else(
        |_| Vec::new(),
        |entries| entries.map(|entry| entry.unwrap().path()).collect(),
    )
}

fn tags(fake: &FakeEcr) -> Vec<(String, String)> {
    fake.state()
        .repository("team/app")
        .tags
        .clone()
        .into_iter()
        .collect()
}

/// The `latest` of three tags cannot be written.
fn fail_at_latest(fake: &FakeEcr) {
    let schedule =
        FaultSchedule::default().and_lasting("PUT", "/manifests/latest", 0, Fault::Refuse(403));
    fake.set_faults(schedule);
}

#[tokio::test]
async fn all_tags_are_put_back_byte_for_byte() {
    let (fake, publisher) = started();
    let directory = tempfile::tempdir().unwrap();
    let report_dir = directory.path().join("report");
    let names = ["latest", "main", "1.2.3"].map(reference);
    let (old, new) = (other(), small());
    push(&publisher, &old, &[reference("latest"), reference("main")])
        .await
        .unwrap();
    let before = tags(&fake);
    fail_at_latest(&fake);
    let error = push_with(&publisher, &new, &names, &journaled(&report_dir))
        .await
        .unwrap_err();
    assert!(!error.tags_moved(), "{error:?}");
    assert!(chain(&error).contains("were put back"), "{}", chain(&error));
    assert_eq!(tags(&fake), before);
    let put_back: Vec<_> = error
        .tags
        .iter()
        .map(|tag| (tag.target.tag(), tag.put_back))
        .collect();
    assert_eq!(
        put_back,
        [("1.2.3", true), ("main", true), ("latest", false)]
    );
    assert_eq!(error.tags[0].was, TagPosition::Absent);
    assert_eq!(error.tags[1].was, TagPosition::At(old.digest().clone()));
    assert_eq!(error.journal, None);
    assert!(!report_dir.exists(), "nothing is left to finish");
}

#[tokio::test]
async fn without_rollback_the_journal_finishes_or_undoes_it() {
    for undo in [false, true] {
        let (fake, publisher) = started();
        let directory = tempfile::tempdir().unwrap();
        let names = ["latest", "main", "1.2.3"].map(reference);
        let (old, new) = (other(), small());
        push(&publisher, &old, &[reference("latest"), reference("main")])
            .await
            .unwrap();
        let before = tags(&fake);
        fail_at_latest(&fake);
        let options = PushOptions {
            rollback: false,
            ..journaled(directory.path())
        };
        let error = push_with(&publisher, &new, &names, &options)
            .await
            .unwrap_err();
        assert!(error.tags_moved());
        let ours = TagPosition::At(new.digest().clone());
        let now: Vec<_> = error.tags.iter().map(|tag| tag.now.clone()).collect();
        assert_eq!(
            now,
            [ours.clone(), ours, TagPosition::At(old.digest().clone())]
        );
        let journal = error.journal.clone().unwrap();
        assert_eq!(journals(directory.path()), std::slice::from_ref(&journal));

        fake.set_faults(FaultSchedule::default());
        if undo {
            let tags_now = publisher
                .undo(&journal, Arc::new(Unobserved))
                .await
                .unwrap();
            assert!(tags_now.iter().all(|tag| !tag.is_moved()), "{tags_now:?}");
            assert_eq!(tags(&fake), before);
        } else {
            let resumed = publisher
                .resume(&journal, &options, Arc::new(Unobserved))
                .await;
            assert_eq!(&resumed.unwrap().0, new.digest());
            let digest = new.digest().to_string();
            assert!(tags(&fake).iter().all(|(_, at)| *at == digest));
        }
        assert_eq!(journals(directory.path()), Vec::<PathBuf>::new());
    }
}

#[tokio::test]
async fn what_somebody_else_moved_is_left_alone() {
    let (fake, publisher) = started();
    let directory = tempfile::tempdir().unwrap();
    let (old, new) = (other(), small());
    let names = [reference("1.2.3"), reference("latest")];
    push(
        &publisher,
        &old,
        &[reference("1.2.3"), reference("latest"), reference("theirs")],
    )
    .await
    .unwrap();
    fail_at_latest(&fake);
    let options = PushOptions {
        rollback: false,
        ..journaled(directory.path())
    };
    let error = push_with(&publisher, &new, &names, &options)
        .await
        .unwrap_err();
    let journal = error.journal.unwrap();
    fake.set_faults(FaultSchedule::default());
    let third = index(vec![vec![layer(77, 50)]]);
    push(&publisher, &third, &names).await.unwrap();
    let theirs = tags(&fake);
    let error = publisher
        .resume(&journal, &PushOptions::default(), Arc::new(Unobserved))
        .await
        .unwrap_err();
    assert!(
        chain(&error).contains("neither where it did"),
        "{}",
        chain(&error)
    );
    assert_eq!(tags(&fake), theirs);
    publisher
        .undo(&journal, Arc::new(Unobserved))
        .await
        .unwrap();
    assert_eq!(tags(&fake), theirs);
}

#[tokio::test]
async fn a_new_tag_of_an_image_that_was_there_is_not_deleted() {
    let (fake, publisher) = started();
    let new = small();
    push(&publisher, &new, &[reference("kept")]).await.unwrap();
    push(&publisher, &other(), &[reference("latest")])
        .await
        .unwrap();
    fail_at_latest(&fake);
    let error = push(&publisher, &new, &[reference("1.2.3"), reference("latest")])
        .await
        .unwrap_err();
    assert!(error.tags_moved());
    let problem = error.tags[0].problem.as_deref().unwrap();
    assert!(problem.contains("other tags may point"), "{problem}");
    assert!(tags(&fake).iter().any(|(tag, _)| tag == "1.2.3"));
}

#[tokio::test]
async fn a_lost_answer_to_the_last_move_is_no_failure() {
    let (fake, publisher) = started();
    let faults = FaultSchedule::passing(1, 100, 1, vec![Fault::LostAnswer]);
    fake.set_faults(faults);
    let names = [reference("1.2.3"), reference("latest")];
    push(&publisher, &small(), &names)
        .await
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    let digest = small().digest().to_string();
    assert!(tags(&fake).iter().all(|(_, at)| *at == digest));
}

#[tokio::test]
async fn layouts_and_archives_are_put_back_too() {
    let (fake, publisher) = started();
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    let names = [
        format!("oci:{}:1.2.3", at("layout")),
        format!("oci-archive:{}:1.2.3", at("new.tar")),
        format!("oci-archive:{}:1.2.4", at("old.tar")),
        format!("oci-archive:{}:1.2.5", at("old.tar")),
        reference("latest"),
    ];
    let old = [names[0].clone(), names[2].clone()];
    push(&publisher, &other(), &old).await.unwrap();
    // An entry of the index may say more than we do.
    let index_json = directory.path().join("layout/index.json");
    let text = std::fs::read_to_string(&index_json).unwrap();
    std::fs::write(
        &index_json,
        text.replace("\"annotations\":{", "\"annotations\":{\"by\":\"others\","),
    )
    .unwrap();
    let read = || {
        let archive = std::fs::read(directory.path().join("old.tar")).unwrap();
        let index: serde_json::Value =
            serde_json::from_str(&std::fs::read_to_string(&index_json).unwrap()).unwrap();
        (archive, index)
    };
    let before = read();
    fail_at_latest(&fake);
    let error = push(&publisher, &small(), &names).await.unwrap_err();
    assert!(!error.tags_moved(), "{error:?}");
    assert!(read() == before);
    let mut left: Vec<_> = journals(directory.path());
    left.sort();
    assert_eq!(
        left,
        [
            directory.path().join("layout"),
            directory.path().join("old.tar")
        ]
    );

    fake.set_faults(FaultSchedule::default());
    push(&publisher, &small(), &names).await.unwrap();
    assert_eq!(
        journals(directory.path()).len(),
        3,
        "nothing but the layout and two archives"
    );
}

#[tokio::test]
async fn repositories_are_made_where_that_is_said() {
    let fake = FakeEcr::start(EcrManners::default());
    let publisher = publisher(&fake, fake.environment(), None);
    let targets = crate::images::targets(&[reference("1"), reference("2")]);
    let settings = smokegate_registry::RepositorySettings {
        immutable: true,
        scan_on_push: true,
    };
    let made = publisher
        .create_repositories(&targets, &settings)
        .await
        .unwrap();
    assert_eq!(made.made.len(), 1);
    {
        let mut state = fake.state();
        let repository = state.repository("team/app");
        assert!(repository.immutable && repository.scan_on_push);
    }
    let again = publisher
        .create_repositories(&targets, &settings)
        .await
        .unwrap();
    assert_eq!(again, CreatedRepositories::default());
    let elsewhere = crate::images::targets(&["127.0.0.1:1/team/app:1".to_owned()]);
    let left = publisher.create_repositories(&elsewhere, &settings).await;
    assert_eq!(
        left.unwrap().left_to_registry.len(),
        1,
        "and nobody is asked"
    );
    push(&publisher, &small(), &[reference("1")]).await.unwrap();
}
