//! Against Debian's docker-registry.

use smokegate_image::Digest;
use smokegate_registry::{ErrorKind, PushOptions, RemoteState, TagPosition, plan};

use crate::docker_registry::{DockerRegistry, not_run};
use crate::images::{
    chain, corrupt, index, layer, publisher, publisher_with, push, small, targets,
};

#[tokio::test]
async fn pushes_the_very_bytes_and_nothing_twice() {
    let Some(registry) = DockerRegistry::start(false).await else {
        return;
    };
    let at = registry.address();
    let image = index(vec![
        vec![layer(1, 3_000_000), layer(2, 10)],
        vec![layer(1, 3_000_000)],
    ]);
    let names = [
        format!("{at}/team/app:latest"),
        format!("{at}/team/app:1.0.0"),
    ];
    let publisher = publisher();
    let checks = publisher
        .check_targets(&targets(&names), None)
        .await
        .unwrap();
    assert!(checks.iter().all(|check| check.current.is_none()));
    assert_eq!(
        registry.stored(),
        Vec::<String>::new(),
        "the check left something behind"
    );

    let report = push(&publisher, &image, &names).await.unwrap();
    let order: Vec<&str> = report
        .targets
        .iter()
        .map(|report| report.target.tag())
        .collect();
    assert_eq!(order, ["1.0.0", "latest"]);
    assert!(
        report
            .targets
            .iter()
            .all(|target| target.moved && target.previous.is_none())
    );
    let sent = &report.destinations[0];
    assert_eq!((sent.uploaded.blobs, sent.manifests_written), (4, 3));
    assert_eq!(
        sent.uploaded.bytes,
        image.blobs().iter().map(|blob| blob.size()).sum::<u64>()
    );

    for tag in ["latest", "1.0.0"] {
        let body = registry
            .get(&format!("team/app/manifests/{tag}"))
            .await
            .bytes()
            .await
            .unwrap();
        assert_eq!(&*body, &*image.root().bytes);
    }
    for document in image.documents() {
        let path = format!("team/app/manifests/{}", document.digest);
        assert_eq!(
            *registry.get(&path).await.bytes().await.unwrap(),
            *document.bytes
        );
    }
    for blob in image.blobs() {
        let path = format!("team/app/blobs/{}", blob.digest());
        let body = registry.get(&path).await.bytes().await.unwrap();
        assert_eq!(&Digest::sha256(&body), blob.digest());
    }

    let before = registry.stored();
    let again = push(&publisher, &image, &names).await.unwrap();
    assert!(again.targets.iter().all(|target| !target.moved));
    let kept = &again.destinations[0];
    assert_eq!((kept.uploaded.blobs, kept.manifests_written), (0, 0));
    assert_eq!((kept.present.blobs, kept.manifests_present), (4, 3));
    assert_eq!(registry.stored(), before);
    assert_eq!(registry.uploads(), 0);
}

#[tokio::test]
async fn a_tag_moves_and_its_old_digest_is_reported() {
    let Some(registry) = DockerRegistry::start(false).await else {
        return;
    };
    let names = [format!("{}/app:main", registry.address())];
    let publisher = publisher();
    let old = small();
    push(&publisher, &old, &names).await.unwrap();
    let new = index(vec![vec![layer(9, 10)]]);
    let report = push(&publisher, &new, &names).await.unwrap();
    assert_eq!(report.targets[0].previous.as_ref(), Some(old.digest()));
    assert!(report.targets[0].moved);
    let checks = publisher
        .check_targets(&targets(&names), None)
        .await
        .unwrap();
    assert_eq!(checks[0].current.as_ref(), Some(new.digest()));
}

#[tokio::test]
async fn a_second_repository_mounts_its_blobs() {
    let Some(registry) = DockerRegistry::start(false).await else {
        return;
    };
    let at = registry.address();
    let names = [format!("{at}/one:1"), format!("{at}/two:1")];
    let image = small();
    let report = push(&publisher(), &image, &names).await.unwrap();
    let counts: Vec<(u64, u64)> = report
        .destinations
        .iter()
        .map(|destination| (destination.uploaded.blobs, destination.mounted.blobs))
        .collect();
    assert_eq!(counts, [(3, 0), (0, 3)]);
    assert_eq!(registry.get("two/manifests/1").await.status().as_u16(), 200);
}

#[tokio::test]
async fn a_corrupt_blob_leaves_no_manifest() {
    let Some(registry) = DockerRegistry::start(false).await else {
        return;
    };
    let names = [format!("{}/app:1", registry.address())];
    let bad = corrupt(&layer(3, 2_000_000));
    let digest = bad.digest().clone();
    let image = index(vec![vec![layer(1, 1000), bad]]);
    let error = push(&publisher(), &image, &names).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Image);
    assert!(!error.tags_moved());
    assert_eq!(error.tags[0].now, TagPosition::Absent);
    assert!(
        chain(&error).contains(&digest.to_string()),
        "{}",
        chain(&error)
    );
    let stored = registry.stored();
    assert!(
        stored.iter().all(|path| !path.contains("_manifests")),
        "{stored:?}"
    );
    assert!(
        stored.iter().all(|path| !path.contains(digest.hex())),
        "{stored:?}"
    );
}

#[tokio::test]
async fn basic_authentication() {
    let Some(registry) = DockerRegistry::start(true).await else {
        return;
    };
    let at = registry.address();
    let names = [format!("{at}/app:1")];
    let image = small();
    let anonymous = publisher()
        .check_targets(&targets(&names), None)
        .await
        .unwrap_err();
    let text = chain(&anonymous);
    assert!(
        text.contains("no credential (looked in") && text.contains(at),
        "{text}"
    );

    let config = |password: &str| {
        format!(r#"{{"auths": {{"{at}": {{"username": "user", "password": "{password}"}}}}}}"#)
    };
    let wrong = publisher_with(&config("wr0ng-pw"));
    let text = chain(&push(&wrong, &image, &names).await.unwrap_err());
    assert!(
        text.contains("`DOCKER_AUTH_CONFIG`") && !text.contains("wr0ng-pw"),
        "{text}"
    );

    let right = publisher_with(&config("s3cret-pw"));
    right.check_targets(&targets(&names), None).await.unwrap();
    let report = push(&right, &image, &names).await.unwrap();
    assert_eq!(report.destinations[0].uploaded.blobs, 3);
    assert!(!format!("{right:?}").contains("s3cret-pw"));
}

#[tokio::test]
async fn skopeo_reads_what_was_pushed() {
    let Some(registry) = DockerRegistry::start(false).await else {
        return;
    };
    if !std::path::Path::new("/usr/bin/skopeo").exists() {
        return not_run("skopeo");
    }
    let name = format!("{}/app:1", registry.address());
    let image = small();
    push(&publisher(), &image, std::slice::from_ref(&name))
        .await
        .unwrap();
    let output = std::process::Command::new("/usr/bin/skopeo")
        .args([
            "inspect",
            "--raw",
            "--tls-verify=false",
            &format!("docker://{name}"),
        ])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(&Digest::sha256(&output.stdout), image.digest());
}

#[tokio::test]
async fn a_plan_made_for_an_empty_registry_is_harmless_on_a_full_one() {
    let Some(registry) = DockerRegistry::start(false).await else {
        return;
    };
    let names = [format!("{}/app:1", registry.address())];
    let (publisher, image) = (publisher(), small());
    push(&publisher, &image, &names).await.unwrap();
    let stale = plan(&image, &targets(&names), &RemoteState::default());
    let unobserved = std::sync::Arc::new(smokegate_registry::Unobserved);
    let report = publisher
        .execute(&image, &stale, &PushOptions::default(), unobserved)
        .await
        .unwrap();
    assert_eq!(&report.digest, image.digest());
    assert_eq!(registry.get("app/manifests/1").await.status().as_u16(), 200);
}
