//! What refers to an image: lists of several pages, and lists that are none.

use std::path::Path;

use serde_json::{Value, json};
use smokegate_image::{Image, Limits};
use smokegate_registry::{Documents, ErrorKind, PullError, Remote};

use crate::images::{chain, publisher, push, referred, small};
use crate::scripted::{Reply, Request, Scripted};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An image that three manifests refer to.
fn image() -> Image {
    let image = small();
    let root = image.digest().clone();
    ["one", "two", "three"]
        .iter()
        .fold(image, |image, word| referred(&image, &root, word))
}

/// The query's number, or 0.
fn page_of(request: &Request) -> usize {
    let last = request.path.rsplit("last=").next();
    last.and_then(|last| last.parse().ok()).unwrap_or_default()
}

fn page(entries: &[Value], link: Option<String>) -> Reply {
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    let mut headers = vec![("Content-Type", INDEX.to_owned())];
    headers.extend(link.map(|link| ("Link", format!("<{link}>; rel=\"next\""))));
    Reply::Answer {
        status: 200,
        headers,
        body: index.to_string().into_bytes(),
    }
}

/// A registry whose pages have one entry each; `link` says where the page after that of a number is.
async fn paged(image: &Image, link: impl Fn(&str, usize) -> String + Send + 'static) -> Scripted {
    let root = format!("/referrers/{}", image.digest());
    let entries: Vec<Value> = image
        .referrers()
        .iter()
        .map(|one| {
            json!({"mediaType": one.media_type, "digest": one.digest, "size": one.bytes.len()})
        })
        .collect();
    let registry = Scripted::start(move |request, _| {
        let path = request.path.split('?').next().unwrap();
        if !path.contains("/referrers/") {
            return None;
        }
        if !path.ends_with(&root) {
            return Some(page(&[], None));
        }
        let number = page_of(request);
        let more = number + 1 < entries.len();
        let entry = entries.get(number).cloned();
        Some(page(entry.as_slice(), more.then(|| link(path, number + 1))))
    })
    .await;
    push(&publisher(), &small(), &[registry.name()])
        .await
        .unwrap();
    let mut store = registry.store.lock().unwrap();
    for referrer in image.referrers() {
        let (digest, bytes) = (referrer.digest.to_string(), referrer.bytes.to_vec());
        store.manifests.insert(digest, bytes);
    }
    drop(store);
    registry
}

async fn pull(registry: &Scripted, layout: &Path) -> Result<Remote, PullError> {
    let limits = Limits::default();
    let documents = Documents::WithReferrers(&limits);
    let reference = registry.name().parse().unwrap();
    let puller = publisher().puller();
    puller.documents(&reference, documents, layout).await
}

#[tokio::test]
async fn a_list_goes_on_where_its_link_says() {
    type Link = fn(&str, usize) -> String;
    let relative: Link = |_, number| format!("?last={number}");
    let absolute: Link = |path, number| format!("{path}?n=1&last={number}");
    let image = image();
    for link in [relative, absolute] {
        let registry = paged(&image, link).await;
        let layout = tempfile::tempdir().unwrap();
        pull(&registry, layout.path())
            .await
            .unwrap_or_else(|error| panic!("{}", chain(&error)));
        let index = std::fs::read(layout.path().join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let mut listed: Vec<&str> = index["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["digest"].as_str().unwrap())
            .collect();
        let published = image.published().map(|one| one.digest.to_string());
        // The root, and what refers to it.
        let mut expected: Vec<String> = published.skip(image.documents().len() - 1).collect();
        listed.sort_unstable();
        expected.sort_unstable();
        assert_eq!(listed, expected);
    }
}

#[tokio::test]
async fn a_list_does_not_go_on_elsewhere() {
    for elsewhere in [
        "http://10.0.0.1/v2/x",
        "https://registry.example/v2/x",
        "http://127.0.0.1:1/v2/x",
    ] {
        let to = elsewhere.to_owned();
        let registry = paged(&image(), move |_, _| format!("{to}?secret=1")).await;
        let layout = tempfile::tempdir().unwrap();
        let error = pull(&registry, layout.path()).await.unwrap_err();
        let text = chain(&error);
        assert_eq!(error.kind(), ErrorKind::Registry, "{text}");
        assert!(
            text.contains(elsewhere) && text.contains("another host") && !text.contains("secret"),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_list_without_end_is_left() {
    let circle = |path: &str, _| format!("{path}?last=0");
    let registry = paged(&image(), circle).await;
    let layout = tempfile::tempdir().unwrap();
    let error = pull(&registry, layout.path()).await.unwrap_err();
    assert!(
        chain(&error).contains("more than 1000 manifests refer to"),
        "{}",
        chain(&error)
    );
}

/// Under the tag of the list stands something else: it is not written over.
#[tokio::test]
async fn what_is_no_list_stays_as_it_is() {
    let image = image();
    let registry = Scripted::start(|_, _| None).await;
    let tag = image.digest().to_string().replace(':', "-");
    let theirs = small().documents()[0].bytes.to_vec();
    {
        let mut store = registry.store.lock().unwrap();
        store.manifests.insert(tag.clone(), theirs.clone());
    }
    let error = push(&publisher(), &image, &[registry.name()])
        .await
        .unwrap_err();
    let text = chain(&error);
    assert!(
        text.contains(&tag) && text.contains("is no list of referrers"),
        "{text}"
    );
    assert!(!error.tags_moved());
    let store = registry.store.lock().unwrap();
    assert_eq!(store.manifests[&tag], theirs);
    assert_eq!(store.count("PUT", "/manifests/1"), 0);
}
