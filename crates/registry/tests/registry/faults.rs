//! What goes wrong on the way, and what is made of it.

use std::time::Duration;

use smokegate_registry::{
    CredentialEnvironment, ErrorKind, Publisher, RegistryOptions, TagPosition,
};

use crate::images::{chain, options, publisher, push, small, targets};
use crate::scripted::{Reply, Scripted, answer, answer_with, handle};

#[tokio::test]
async fn passing_faults_are_retried() {
    // Each (method, part of the path) fails once in each way before it works.
    let mut faults = Vec::new();
    for (method, part) in [
        ("GET", "/manifests/1"),
        ("HEAD", "/blobs/"),
        ("POST", "/blobs/uploads/"),
        ("PUT", "/blobs/uploads/"),
        ("PUT", "/manifests/sha256"),
        ("PUT", "/manifests/1"),
    ] {
        faults.push((method, part, Reply::Closed));
        faults.push((method, part, answer(503, "busy")));
        faults.push((method, part, answer_with(429, "Retry-After", "0")));
    }
    let registry = Scripted::start(move |request, _| {
        let hit = faults
            .iter()
            .position(|(method, part, _)| request.method == *method && request.path.contains(part));
        hit.map(|index| faults.remove(index).2)
    })
    .await;
    let image = small();
    let report = push(&publisher(), &image, &[registry.name()])
        .await
        .unwrap();
    assert_eq!(report.destinations[0].uploaded.blobs, 3);
    let store = registry.store.lock().unwrap();
    assert_eq!(store.manifests["1"], *image.root().bytes);
    assert_eq!(store.blobs.len(), 3);
}

#[tokio::test]
async fn an_upload_whose_answer_was_lost_is_not_sent_again() {
    let registry = Scripted::start(|request, store| {
        let is_upload = request.method == "PUT" && request.path.contains("/blobs/");
        is_upload.then(|| {
            handle(request, store);
            Reply::Closed
        })
    })
    .await;
    push(&publisher(), &small(), &[registry.name()])
        .await
        .unwrap();
    assert_eq!(registry.store.lock().unwrap().count("PUT", "/blobs/"), 3);
}

#[tokio::test]
async fn a_session_that_ecr_lost_is_opened_anew() {
    let mut lost = false;
    let registry = Scripted::start(move |request, _| {
        if request.method != "PUT" || !request.path.contains("/blobs/") || lost {
            return None;
        }
        lost = true;
        Some(answer(
            400,
            r#"{"errors":[{"code":"BLOB_UPLOAD_INVALID","message":"no parts"}]}"#,
        ))
    })
    .await;
    push(&publisher(), &small(), &[registry.name()])
        .await
        .unwrap();
    assert_eq!(registry.store.lock().unwrap().count("PUT", "/blobs/"), 4);
}

#[tokio::test]
async fn a_head_that_is_refused_only_means_not_known() {
    let registry =
        Scripted::start(|request, _| (request.method == "HEAD").then(|| answer(403, ""))).await;
    push(&publisher(), &small(), &[registry.name()])
        .await
        .unwrap();
    assert_eq!(registry.store.lock().unwrap().blobs.len(), 3);
}

#[tokio::test]
async fn final_refusals_are_not_retried_and_are_shown_bounded() {
    let registry = Scripted::start(|request, _| {
        let huge = format!("\x1b[31mno\r\n::error::{}", "x".repeat(50_000_000));
        (request.method == "PATCH").then(|| answer(403, huge))
    })
    .await;
    let error = publisher()
        .check_targets(&targets(&[registry.name()]), None)
        .await
        .unwrap_err();
    let text = chain(&error);
    assert!(
        text.contains("403") && text.contains("no ::error::xxx"),
        "{text}"
    );
    assert!(text.len() < 2000 && !text.contains(['\x1b', '\n', '\r']));
    assert_eq!(registry.store.lock().unwrap().count("PATCH", ""), 1);
}

#[tokio::test]
async fn a_missing_repository_is_found_before_the_gate() {
    const UNKNOWN: &str = r#"{"errors":[{"code":"NAME_UNKNOWN","message":"no such repository"}]}"#;
    // ECR's manner: no repository, no upload.
    let registry = Scripted::start(|_, _| Some(answer(404, UNKNOWN))).await;
    let error = publisher()
        .check_targets(&targets(&[registry.name()]), None)
        .await
        .unwrap_err();
    assert!(
        chain(&error).contains("NAME_UNKNOWN no such repository"),
        "{}",
        chain(&error)
    );
    // zot's: the first push makes it.
    let registry =
        Scripted::start(|request, _| (request.method == "PATCH").then(|| answer(404, UNKNOWN)))
            .await;
    publisher()
        .check_targets(&targets(&[registry.name()]), None)
        .await
        .unwrap();
    assert_eq!(
        registry
            .store
            .lock()
            .unwrap()
            .count("DELETE", "/blobs/uploads/"),
        1
    );
}

#[tokio::test]
async fn retries_end() {
    let registry =
        Scripted::start(|request, _| (request.method == "POST").then(|| answer(500, "broken")))
            .await;
    let error = push(&publisher(), &small(), &[registry.name()])
        .await
        .unwrap_err();
    assert!(chain(&error).contains("broken"), "{}", chain(&error));
    assert!(!error.tags_moved());
    assert_eq!(error.kind(), ErrorKind::Registry);
    let store = registry.store.lock().unwrap();
    assert!(store.manifests.is_empty() && store.blobs.is_empty());
}

#[tokio::test]
async fn a_failure_between_tags_says_where_each_tag_is() {
    let registry = Scripted::start(|request, _| {
        let is_latest = request.method == "PUT" && request.path.ends_with("/manifests/latest");
        is_latest.then(|| {
            answer(
                400,
                r#"{"errors":[{"code":"TAG_INVALID","message":"immutable"}]}"#,
            )
        })
    })
    .await;
    let at = format!("{}/team/app", registry.address);
    registry
        .store
        .lock()
        .unwrap()
        .manifests
        .insert("latest".to_owned(), b"old".to_vec());
    let image = small();
    let names = [
        format!("{at}:latest"),
        format!("{at}:1.2.3"),
        format!("{at}:main"),
    ];
    let error = push(&publisher(), &image, &names).await.unwrap_err();
    assert!(error.tags_moved());
    assert!(
        chain(&error).contains("is immutable and points to")
            && chain(&error).contains("TAG_INVALID immutable"),
        "{}",
        chain(&error)
    );
    let now = |tag: &str| {
        let state = error
            .tags
            .iter()
            .find(|state| state.target.tag() == tag)
            .unwrap();
        (state.was.clone(), state.now.clone())
    };
    let ours = TagPosition::At(image.digest().clone());
    let old = TagPosition::At(smokegate_image::Digest::sha256(b"old"));
    // The registry answers 204 to DELETE and keeps the tag, as some do.
    let problem = error.tags[0].problem.as_deref().unwrap_or_default();
    assert!(problem.contains("still there"), "{problem}");
    assert_eq!(now("1.2.3"), (TagPosition::Absent, ours.clone()));
    assert_eq!(now("main"), (TagPosition::Absent, ours));
    assert_eq!(now("latest"), (old.clone(), old));
}

#[tokio::test]
async fn a_tag_that_reads_back_otherwise_is_an_error() {
    let registry = Scripted::start(|request, _| {
        let is_tag = request.method == "GET" && request.path.ends_with("/manifests/1");
        is_tag.then(|| answer(200, "something else"))
    })
    .await;
    let image = small();
    let error = push(&publisher(), &image, &[registry.name()])
        .await
        .unwrap_err();
    let text = chain(&error);
    assert!(
        text.contains("reads back as") && text.contains(&image.digest().to_string()),
        "{text}"
    );
}

#[tokio::test]
async fn no_tag_moves_before_all_content_is_everywhere() {
    let broken = Scripted::start(|request, _| {
        let is_child = request.method == "PUT" && request.path.contains("/manifests/sha256");
        is_child.then(|| answer(405, r#"{"errors":[{"code":"UNSUPPORTED"}]}"#))
    })
    .await;
    let healthy = Scripted::start(|_, _| None).await;
    let names = [healthy.name(), broken.name()];
    let error = push(&publisher(), &small(), &names).await.unwrap_err();
    assert!(!error.tags_moved());
    assert_eq!(
        healthy.store.lock().unwrap().count("PUT", "/manifests/1"),
        0
    );
}

#[tokio::test]
async fn a_location_elsewhere_in_the_private_network_is_refused() {
    let registry = Scripted::start(|request, _| {
        let location = "http://10.0.0.1/upload?secret=1";
        (request.method == "POST").then(|| answer_with(202, "Location", location))
    })
    .await;
    let error = push(&publisher(), &small(), &[registry.name()])
        .await
        .unwrap_err();
    let text = chain(&error);
    assert!(
        text.contains("private address") && !text.contains("secret"),
        "{text}"
    );
}

#[tokio::test]
async fn authorization_does_not_follow_to_another_host() {
    let store = Scripted::start(|_, _| None).await;
    let elsewhere = store.address.clone();
    let mut asked = false;
    let registry = Scripted::start(move |request, _| {
        if !asked {
            asked = true;
            return Some(answer_with(401, "WWW-Authenticate", "Basic realm=\"r\""));
        }
        let location = format!("http://{elsewhere}/v2/x/blobs/uploads/1?state=x");
        (request.method == "POST").then(|| answer_with(202, "Location", location))
    })
    .await;
    let auth = format!(
        r#"{{"auths":{{"{}":{{"username":"u","password":"p"}}}}}}"#,
        registry.address
    );
    let publisher = crate::images::publisher_with(&auth);
    push(&publisher, &small(), &[registry.name()])
        .await
        .unwrap();
    let store = store.store.lock().unwrap();
    assert_eq!(store.count("PUT", "/blobs/"), 3);
    assert!(
        store
            .requests
            .iter()
            .all(|request| request.header("authorization").is_empty())
    );
}

#[tokio::test]
async fn silence_is_given_up_and_tried_again() {
    let mut silent = true;
    let registry = Scripted::start(move |request, _| {
        let is_tag = request.method == "GET" && request.path.ends_with("/manifests/1");
        (is_tag && std::mem::take(&mut silent)).then_some(Reply::Silent)
    })
    .await;
    let options = RegistryOptions {
        idle_timeout: Duration::from_millis(300),
        ..options()
    };
    let environment = CredentialEnvironment {
        uid: u32::MAX,
        ..CredentialEnvironment::default()
    };
    let publisher = Publisher::new(options, &environment).unwrap();
    publisher
        .check_targets(&targets(&[registry.name()]), None)
        .await
        .unwrap();
    assert_eq!(
        registry.store.lock().unwrap().count("GET", "/manifests/1"),
        2
    );
}

#[tokio::test]
async fn no_credential_and_no_wrong_answer_is_mistaken_for_an_empty_registry() {
    for reply in [answer(200, "<html>"), answer(403, ""), answer(401, "")] {
        let registry = Scripted::start(move |_, _| Some(reply.clone())).await;
        let error = push(&publisher(), &small(), &[registry.name()])
            .await
            .unwrap_err();
        assert!(!error.tags_moved(), "{}", chain(&error));
        assert_eq!(registry.store.lock().unwrap().count("POST", ""), 0);
    }
}
