//! Publishing to ECR as it is: each of its manners, against the fake.

use smokegate_image::Image;
use smokegate_registry::Publisher;
use smokegate_test_support::{EcrManners, FakeEcr, Fault, FaultSchedule};

use crate::ecr_credentials::{publisher, publisher_with, reference};
use crate::images::{blob, chain, index, layer, padded, push, small, targets};

fn started(manners: EcrManners) -> (FakeEcr, Publisher) {
    let fake = FakeEcr::start(manners);
    fake.create("team/app");
    let publisher = publisher(&fake, fake.environment(), None);
    (fake, publisher)
}

/// Fails unless a tag leads to every byte of the image.
#[track_caller]
pub(crate) fn assert_pulls(fake: &FakeEcr, repository: &str, tag: &str, image: &Image) {
    let mut state = fake.state();
    let repository = state.repository(repository);
    assert_eq!(repository.tags[tag], image.digest().to_string());
    for document in image.documents() {
        assert_eq!(
            repository.manifests[&document.digest.to_string()].1,
            *document.bytes
        );
    }
    for blob in image.blobs() {
        assert_eq!(
            repository.blobs[&blob.digest().to_string()].len() as u64,
            blob.size()
        );
    }
}

#[tokio::test]
async fn the_same_push_twice_writes_nothing() {
    for public in [false, true] {
        let (fake, publisher) = started(EcrManners {
            public,
            ..EcrManners::default()
        });
        let name = if public {
            "public.ecr.aws/team/app:1".to_owned()
        } else {
            reference("1")
        };
        let image = small();
        let names = [name];
        publisher
            .check_targets(&targets(&names), Some(image.digest()))
            .await
            .unwrap();
        push(&publisher, &image, &names)
            .await
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_pulls(&fake, "team/app", "1", &image);
        fake.state().requests.clear();
        let report = push(&publisher, &image, &names).await.unwrap();
        assert!(!report.targets[0].moved);
        let state = fake.state();
        assert_eq!(state.count("PUT", ""), 0, "{:?}", state.requests);
        assert_eq!(state.count("POST", ""), 0, "{:?}", state.requests);
    }
}

#[tokio::test]
async fn an_immutable_tag_is_left_alone_or_refused() {
    let (fake, publisher) = started(EcrManners::default());
    fake.state().repository("team/app").immutable = true;
    let (image, other) = (small(), index(vec![vec![layer(9, 10)]]));
    push(&publisher, &image, &[reference("1.0")]).await.unwrap();
    // The digest that it has: success without a PUT.
    push(&publisher, &image, &[reference("1.0")]).await.unwrap();
    let names = [reference("1.0")];
    let before = publisher
        .check_targets(&targets(&names), Some(other.digest()))
        .await
        .unwrap_err();
    let during = push(&publisher, &other, &names).await.unwrap_err();
    for text in [chain(&before), chain(&during)] {
        for part in [
            &names[0],
            &image.digest().to_string(),
            &other.digest().to_string(),
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    assert!(!during.tags_moved());
    assert_pulls(&fake, "team/app", "1.0", &image);
    publisher
        .check_targets(&targets(&names), Some(image.digest()))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_token_that_ends_is_renewed_once_and_shared() {
    for plain_text_refusals in [false, true] {
        let (fake, publisher) = started(EcrManners {
            plain_text_refusals,
            ..EcrManners::default()
        });
        let image = index(vec![vec![
            layer(1, 1000),
            layer(2, 2000),
            layer(3, 3000),
            layer(4, 4000),
        ]]);
        publisher
            .check_targets(&targets(&[reference("1")]), None)
            .await
            .unwrap();
        fake.state().end_tokens();
        push(&publisher, &image, &[reference("1")]).await.unwrap();
        assert_pulls(&fake, "team/app", "1", &image);
        assert_eq!(fake.state().token_requests.len(), 2);
        // Whatever it ends in the middle of.
        for seed in 0..6 {
            fake.set_faults(FaultSchedule::passing(seed, 10, 1, vec![Fault::EndTokens]));
            let other = index(vec![vec![
                layer(5, 1000),
                layer(6, 2000),
                layer(7, 300_000 + seed as usize),
            ]]);
            push(&publisher, &other, &[reference("1")])
                .await
                .unwrap_or_else(|error| panic!("seed {seed}: {}", chain(&error)));
            assert_pulls(&fake, "team/app", "1", &other);
        }
    }
}

#[tokio::test]
async fn an_ended_token_of_the_public_registry_is_renewed() {
    let (fake, publisher) = started(EcrManners {
        public: true,
        ..EcrManners::default()
    });
    let names = ["public.ecr.aws/team/app:1".to_owned()];
    publisher
        .check_targets(&targets(&names), None)
        .await
        .unwrap();
    fake.state().end_tokens();
    push(&publisher, &small(), &names)
        .await
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert_pulls(&fake, "team/app", "1", &small());
    let state = fake.state();
    assert_eq!(state.token_requests, ["AKIDSTATIC us-east-1 ecr-public"; 2]);
}

#[tokio::test]
async fn a_stale_login_gives_way_to_the_aws_credential() {
    let fake = FakeEcr::start(EcrManners::default());
    fake.create("team/app");
    let config = format!(
        r#"{{"auths": {{"{}": {{"username": "AWS", "password": "yesterdays-s3cret"}}}}}}"#,
        FakeEcr::HOST
    );
    let with_aws = publisher_with(&fake, fake.environment(), None, &config);
    push(&with_aws, &small(), &[reference("1")]).await.unwrap();
    assert_eq!(fake.state().token_requests.len(), 1);
    // Without one, what is said is about the login.
    let off = [("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned())];
    let without = publisher_with(&fake, off.into(), None, &config);
    let error = without
        .check_targets(&targets(&[reference("1")]), None)
        .await
        .unwrap_err();
    let text = chain(&error);
    assert!(
        text.contains("`DOCKER_AUTH_CONFIG`") && text.contains("has expired"),
        "{text}"
    );
    assert!(!format!("{text}{error:?}").contains("s3cret"), "{text}");
}

#[tokio::test]
async fn a_missing_repository_is_named_however_ecr_says_it() {
    for missing_repository_is_eof in [false, true] {
        let fake = FakeEcr::start(EcrManners {
            missing_repository_is_eof,
            ..EcrManners::default()
        });
        let publisher = publisher(&fake, fake.environment(), None);
        let error = publisher
            .check_targets(&targets(&[reference("1")]), None)
            .await
            .unwrap_err();
        let text = chain(&error);
        assert!(
            text.contains("NAME_UNKNOWN") && text.contains("'team/app' does not exist"),
            "{text}"
        );
        assert!(
            error
                .hint()
                .is_some_and(|hint| hint.contains("--create-repository"))
        );
    }
    // The repository is there: then it is a permission.
    let (fake, publisher) = started(EcrManners::default());
    fake.set_faults(FaultSchedule::default().and_lasting(
        "POST",
        "/blobs/uploads/",
        0,
        Fault::Reset,
    ));
    let error = push(&publisher, &small(), &[reference("1")])
        .await
        .unwrap_err();
    assert!(
        chain(&error).contains("ECR ends the connection"),
        "{}",
        chain(&error)
    );
    assert!(
        error
            .source
            .hint()
            .is_some_and(|hint| hint.contains("ecr:InitiateLayerUpload"))
    );
}

#[tokio::test]
async fn what_ecr_never_takes_is_refused_before_anything_is_sent() {
    let (fake, publisher) = started(EcrManners::default());
    let empty = index(vec![vec![blob(
        "application/vnd.oci.image.layer.v1.tar",
        Vec::new(),
    )]]);
    let large = padded(&small(), 5 << 20);
    for (image, what) in [
        (empty, "no empty blob"),
        (large, "no manifest of more than 4 MiB"),
    ] {
        let error = push(&publisher, &image, &[reference("1")])
            .await
            .unwrap_err();
        let text = chain(&error);
        assert!(text.contains(what) && text.contains("sha256:"), "{text}");
        assert_eq!(fake.state().count("POST", "/uploads"), 0);
    }
}

#[tokio::test]
async fn a_405_is_about_the_manifest() {
    let (fake, publisher) = started(EcrManners {
        manifest_limit: 10,
        ..EcrManners::default()
    });
    let error = push(&publisher, &small(), &[reference("1")])
        .await
        .unwrap_err();
    let text = chain(&error);
    assert!(
        text.contains("does not take the manifest sha256:") && text.contains("failed to satisfy"),
        "{text}"
    );
    assert!(fake.state().repository("team/app").tags.is_empty());
}

#[tokio::test]
async fn blobs_are_mounted_where_the_account_allows_it() {
    for mounts in [false, true] {
        let (fake, publisher) = started(EcrManners {
            mounts,
            ..EcrManners::default()
        });
        fake.create("team/other");
        let image = small();
        push(&publisher, &image, &[reference("1")]).await.unwrap();
        let other = format!("{}/team/other:1", FakeEcr::HOST);
        let report = push(&publisher, &image, &[reference("1"), other])
            .await
            .unwrap();
        assert_pulls(&fake, "team/other", "1", &image);
        let mounted: u64 = report.destinations.iter().map(|d| d.mounted.blobs).sum();
        assert_eq!(mounted, if mounts { 3 } else { 0 });
    }
}

#[tokio::test]
async fn a_lying_digest_header_is_not_believed() {
    let (fake, publisher) = started(EcrManners::default());
    fake.set_faults(FaultSchedule::passing(
        3,
        100,
        u32::MAX,
        vec![Fault::LyingDigest],
    ));
    push(&publisher, &small(), &[reference("1")]).await.unwrap();
    assert_pulls(&fake, "team/app", "1", &small());
}

#[tokio::test]
async fn what_a_proxy_finds_too_large_goes_in_chunks() {
    for (limit, fits) in [(6 << 20, true), (1 << 20, false)] {
        let (fake, publisher) = started(EcrManners {
            body_limit: Some(limit),
            ..EcrManners::default()
        });
        let image = index(vec![vec![layer(1, 22 << 20), layer(2, 300)]]);
        let pushed = push(&publisher, &image, &[reference("1")]).await;
        if fits {
            pushed.unwrap_or_else(|error| panic!("{}", chain(&error)));
            assert_pulls(&fake, "team/app", "1", &image);
            assert!(fake.state().count("PATCH", "/uploads/upload") >= 4);
        } else {
            // ECR's smallest part is larger than what the proxy lets through.
            let text = chain(&pushed.unwrap_err());
            assert!(text.contains("413"), "{text}");
        }
    }
}
