//! Images fetched from a registry: what is asked for, what is believed, and what a fault is called.

use std::path::Path;

use smokegate_image::{Digest, Image, ImageSource, Limits, OpenOptions, Platform};
use smokegate_registry::{Documents, ErrorKind, Publisher, PullError, Remote};
use smokegate_test_support::{EcrManners, FakeEcr};

use crate::ecr_credentials::client;
use crate::images::{chain, index, layer, publisher, push, small};
use crate::scripted::{Reply, Scripted, answer, answer_with};

async fn documents(
    reference: &str,
    documents: Documents<'_>,
    layout: &Path,
) -> Result<Remote, PullError> {
    let reference = reference.parse().unwrap();
    let puller = publisher().puller();
    puller.documents(&reference, documents, layout).await
}

async fn all(reference: &str, layout: &Path) -> Result<Remote, PullError> {
    documents(reference, Documents::All(&Limits::default()), layout).await
}

fn stored(layout: &Path, digest: &Digest) -> Option<Vec<u8>> {
    std::fs::read(layout.join("blobs/sha256").join(digest.hex())).ok()
}

/// A registry that has `image`, and then meets `faults`: each (part of the path, reply) once.
async fn with_faults(image: &Image, faults: Vec<(&'static str, Reply)>) -> Scripted {
    let mut faults = faults;
    let mut is_pushed = false;
    let registry = Scripted::start(move |request, store| {
        is_pushed = is_pushed || store.manifests.contains_key("faulty");
        if !is_pushed || request.method != "GET" {
            return None;
        }
        let hit = faults
            .iter()
            .position(|(part, _)| request.path.contains(part));
        hit.map(|at| faults.remove(at).1)
    })
    .await;
    push(&publisher(), image, &[registry.name()]).await.unwrap();
    let mut store = registry.store.lock().unwrap();
    store.manifests.insert("faulty".to_owned(), Vec::new());
    store.requests.clear();
    drop(store);
    registry
}

#[tokio::test]
async fn the_very_bytes_arrive_and_passing_faults_are_retried() {
    let image = small();
    let mut faults = Vec::new();
    for part in ["/manifests/1", "/manifests/sha256", "/blobs/"] {
        faults.push((part, Reply::Closed));
        faults.push((part, answer(503, "busy")));
        faults.push((part, answer_with(429, "Retry-After", "0")));
    }
    // Other bytes, as a cache on the way may have them.
    faults.push(("/blobs/", answer(200, "short")));
    let registry = with_faults(&image, faults).await;
    let layout = tempfile::tempdir().unwrap();
    let remote = all(&registry.name(), layout.path()).await.unwrap();
    assert_eq!(remote.digest(), image.digest());
    let layers: u64 = image.blobs().iter().map(|blob| blob.size()).sum();
    let config = image.blobs()[0].size();
    assert_eq!(
        remote.blobs(image.blobs()).await.unwrap(),
        layers - config,
        "the config came with the documents"
    );
    for document in image.documents() {
        let bytes = stored(layout.path(), &document.digest);
        assert_eq!(bytes.as_deref(), Some(&*document.bytes));
    }
    for blob in image.blobs() {
        let bytes = stored(layout.path(), blob.digest()).unwrap();
        assert_eq!(Digest::sha256(&bytes), *blob.digest());
    }
    assert_eq!(remote.blobs(image.blobs()).await.unwrap(), 0);
}

#[tokio::test]
async fn other_bytes_never_get_a_name() {
    let image = small();
    let config = &image.blobs()[0];
    let size = usize::try_from(config.size()).unwrap();
    for body in [vec![0; size], vec![0; size - 1], vec![0; size + 1]] {
        let faults = vec![("/blobs/", answer(200, body)); 6];
        let registry = with_faults(&image, faults).await;
        let layout = tempfile::tempdir().unwrap();
        let error = all(&registry.name(), layout.path()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Image, "{}", chain(&error));
        assert!(chain(&error).contains("is corrupt"), "{}", chain(&error));
        assert_eq!(stored(layout.path(), config.digest()), None);
    }
}

#[tokio::test]
async fn a_redirect_into_the_private_network_is_refused() {
    for elsewhere in ["http://10.0.0.1/x", "http://169.254.169.254/latest"] {
        let redirect = answer_with(307, "Location", format!("{elsewhere}?sig=s3cret"));
        let registry = with_faults(&small(), vec![("/blobs/", redirect); 6]).await;
        let layout = tempfile::tempdir().unwrap();
        let error = all(&registry.name(), layout.path()).await.unwrap_err();
        let text = chain(&error);
        assert!(
            text.contains(&format!("redirect to `{elsewhere}` refused"))
                && text.contains("private address")
                && !text.contains("s3cret"),
            "{text}"
        );
        let asked = registry.store.lock().unwrap().count("GET", "/blobs/");
        assert_eq!(asked, 1, "it will not lead elsewhere the next time");
    }
}

#[tokio::test]
async fn a_digest_is_enforced() {
    let image = small();
    let registry = with_faults(&image, Vec::new()).await;
    let at = |digest: &Digest| format!("{}@{digest}", registry.name());
    let layout = tempfile::tempdir().unwrap();
    let remote = all(&at(image.digest()), layout.path()).await.unwrap();
    assert_eq!(remote.digest(), image.digest());

    let other = Digest::sha256(b"other");
    let error = all(&at(&other), layout.path()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Registry);
    assert!(
        chain(&error).contains(&format!("no manifest {other}")),
        "{}",
        chain(&error)
    );

    let manifest = image.root().bytes.to_vec();
    registry
        .store
        .lock()
        .unwrap()
        .manifests
        .insert(other.to_string(), manifest);
    let error = all(&at(&other), layout.path()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Image, "{}", chain(&error));
}

#[tokio::test]
async fn refusals_say_what_where_and_what_to_do() {
    let denied =
        r#"{"errors":[{"code":"TOOMANYREQUESTS","message":"you have reached your limit"}]}"#;
    let cases = [
        (answer(404, ""), "has no tag `1` in `team/app`", "list-tags"),
        (
            answer(401, ""),
            "not authorised at `127.0.0.1",
            "docker login 127.0.0.1",
        ),
        (answer(403, ""), "answered 403", "does not exist"),
        (
            answer(429, denied),
            "you have reached your limit",
            "docker login",
        ),
        (answer(500, "oh"), "answered 500", "ill"),
        (
            Reply::Closed,
            "no answer to GET",
            "skopeo copy docker://127.0.0.1",
        ),
    ];
    for (reply, cause, hint) in cases {
        let registry = with_faults(&small(), vec![("/manifests/1", reply); 6]).await;
        let layout = tempfile::tempdir().unwrap();
        let error = all(&registry.name(), layout.path()).await.unwrap_err();
        let text = chain(&error);
        assert_eq!(error.kind(), ErrorKind::Registry, "{text}");
        let name = registry.name();
        assert!(
            text.starts_with(&format!("cannot pull `{name}`: ")),
            "{text}"
        );
        assert!(text.contains(cause), "{text}");
        let said = error.hint().unwrap_or_default();
        assert!(said.contains(hint), "{text}: {said}");
    }
}

#[tokio::test]
async fn of_an_index_one_platform_is_fetched_where_that_is_enough() {
    let image = index(vec![vec![layer(1, 10)], vec![layer(2, 10)]]);
    let registry = with_faults(&image, Vec::new()).await;
    let (one, other) = (&image.documents()[0], &image.documents()[1]);
    let text = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": image.root().media_type,
        "manifests": [
            { "mediaType": one.media_type, "digest": one.digest, "size": one.bytes.len(),
              "platform": { "os": "linux", "architecture": "riscv64" } },
            { "mediaType": other.media_type, "digest": other.digest, "size": other.bytes.len(),
              "platform": { "os": "linux", "architecture": "s390x" } },
        ]
    })
    .to_string();
    let wanted = Digest::sha256(text.as_bytes());
    {
        let mut store = registry.store.lock().unwrap();
        store.manifests.insert("1".to_owned(), text.into_bytes());
    }
    let layout = tempfile::tempdir().unwrap();
    let mut options = OpenOptions::new(layout.path().to_owned());
    options.platform = "linux/s390x".parse::<Platform>().unwrap();
    let name = registry.name();
    let wanted_platform = Documents::ForPlatform(&options);
    let remote = documents(&name, wanted_platform, layout.path()).await;
    let remote = remote.unwrap();
    assert_eq!(*remote.digest(), wanted, "the index is what was named");
    assert!(stored(layout.path(), &other.digest).is_some());
    assert_eq!(stored(layout.path(), &one.digest), None);
    assert_eq!(
        registry.store.lock().unwrap().count("GET", "/manifests/"),
        2
    );

    options.platform = "linux/amd64".parse().unwrap();
    let wrong = Documents::ForPlatform(&options);
    let error = documents(&name, wrong, layout.path()).await;
    let error = error.unwrap_err();
    assert!(chain(&error).contains("riscv64"), "{}", chain(&error));
}

#[tokio::test]
async fn an_image_opens_without_the_layers_that_were_not_fetched() {
    let registry = Scripted::start(|_, _| None).await;
    let diff_id = Digest::sha256(b"layer");
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": Digest::sha256(config.as_bytes()), "size": config.len() },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
            "digest": diff_id, "size": 7 }],
    })
    .to_string();
    {
        let mut store = registry.store.lock().unwrap();
        let digest = Digest::sha256(config.as_bytes()).to_string();
        store.blobs.insert(digest, config.into_bytes());
        store
            .manifests
            .insert("1".to_owned(), manifest.into_bytes());
    }
    let layout = tempfile::tempdir().unwrap();
    all(&registry.name(), layout.path()).await.unwrap();
    let source = ImageSource::Path(layout.path().to_owned());
    let mut options = OpenOptions::new(layout.path().to_owned());
    options.platform = "linux/amd64".parse().unwrap();
    let error = Image::open(&source, &options).unwrap_err().to_string();
    assert!(error.contains(&diff_id.to_string()), "{error}");
    options.absent_blobs = true;
    let image = Image::open(&source, &options).unwrap();
    assert_eq!(image.names(), [registry.name()]);
    let layer = &image.selected().layers[0];
    assert_eq!(layer.compression, smokegate_image::Compression::Gzip);
    let error = std::io::read_to_string(layer.blob.open()).unwrap_err();
    assert!(error.to_string().contains("not fetched"), "{error}");
}

#[tokio::test]
async fn aws_credentials_pull_from_ecr_too() {
    for (public, host) in [(false, FakeEcr::HOST), (true, "public.ecr.aws")] {
        let fake = FakeEcr::start(EcrManners {
            public,
            ..EcrManners::default()
        });
        fake.create("team/app");
        let (options, environment) = client(&fake, fake.environment(), None, "");
        let (image, reference) = (small(), format!("{host}/team/app:1"));
        let publisher = Publisher::new(options, &environment).unwrap();
        push(&publisher, &image, std::slice::from_ref(&reference))
            .await
            .unwrap();
        let puller = publisher.puller();
        let layout = tempfile::tempdir().unwrap();
        let pulled = puller
            .documents(
                &reference.parse().unwrap(),
                Documents::All(&Limits::default()),
                layout.path(),
            )
            .await
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(pulled.digest(), image.digest());
        pulled
            .blobs(image.blobs())
            .await
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        assert_eq!(
            fake.state().token_requests.len(),
            1,
            "one token for all that a run does"
        );
        // Without the credential it is the registry that is not to be had, not the image that is at fault.
        let off = ("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned());
        let (options, environment) = client(&fake, [off].into(), None, "");
        let stranger = Publisher::new(options, &environment).unwrap().puller();
        let empty = tempfile::tempdir().unwrap();
        let limits = Limits::default();
        let documents = Documents::All(&limits);
        let reference = reference.parse().unwrap();
        let asked = stranger.documents(&reference, documents, empty.path());
        let refused = asked.await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Registry, "{}", chain(&refused));
        let hint = refused.hint().unwrap_or_default();
        let how = if public {
            "docker login"
        } else {
            "AWS_PROFILE"
        };
        assert!(hint.contains(how), "{hint}");
    }
}
