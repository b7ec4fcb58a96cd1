//! What refers to a manifest: signatures, SBOMs, receipts. Registries list it by an API, or, where they have none,
//! clients keep the list under a tag (OCI distribution spec 1.1, "Listing Referrers", "Referrers Tag Schema").

use reqwest::header::{ACCEPT, CONTENT_TYPE, LINK};
use reqwest::{Method, StatusCode, Url};
use serde_json::{Value, json};
use smokegate_image::{Digest, Document, subject_of};

use crate::Error;
use crate::auth::Access;
use crate::layout_target::index_of;
use crate::location::{resolve, shown};
use crate::manifest::{INDEX, ServedManifest};
use crate::retry::Backoff;
use crate::transport::{Answer, Repository};

/// Of one page. Registries hold manifests and indexes to 4 MiB.
const PAGE_LIMIT: usize = 4 << 20;
/// More than this refers to no image that anybody has seen; each is fetched on its own. Also of pages.
const MOST: usize = 1000;

/// The descriptors of what refers to a manifest, as they were listed.
struct Listed {
    entries: Vec<Value>,
    keeper: Keeper,
}

/// Who keeps the list.
enum Keeper {
    /// The registry.
    Registry,
    /// Its clients, under a tag, as this index; `None` where there is something else.
    Clients(Option<Value>),
}

impl Listed {
    fn has(&self, document: &Document) -> bool {
        let digest = document.digest.to_string();
        self.entries
            .iter()
            .any(|entry| entry["digest"].as_str() == Some(&digest))
    }
}

impl Repository {
    /// The descriptors of what refers to `subject`. Nothing in them is verified.
    pub(crate) async fn referrers(
        &self,
        subject: &Digest,
        access: &Access,
    ) -> Result<Vec<Value>, Error> {
        Ok(self.listed(subject, access).await?.entries)
    }

    /// Makes sure that a document that is there is listed with what it refers to, if it refers to anything.
    ///
    /// A list under a tag is only ever added to: what others have in it stays.
    pub(crate) async fn list_referrer(&self, document: &Document) -> Result<(), Error> {
        let Some(subject) = subject_of(&document.bytes) else {
            return Ok(());
        };
        let access = Access::push(&self.name);
        let mut backoff = Backoff::new(&self.registry.options);
        loop {
            let listed = self.listed(&subject, &access).await?;
            if listed.has(document) {
                return Ok(());
            }
            if let Keeper::Clients(index) = listed.keeper {
                let Some(mut index) = index else {
                    return Err(Error::NotAList {
                        reference: format!(
                            "{}/{}:{}",
                            self.registry.name(),
                            self.name,
                            tag_of(&subject)
                        ),
                    });
                };
                let mut entries = listed.entries;
                entries.push(descriptor(document));
                index["manifests"] = Value::Array(entries);
                let index = serde_json::to_vec(&index).expect("a JSON value");
                let index = Document::attached(INDEX, index, Vec::new());
                self.put_manifest(&tag_of(&subject), &index).await?;
                // Who read the list before this and writes it after this leaves ours out: so it is read again.
                if self.listed(&subject, &access).await?.has(document) {
                    return Ok(());
                }
            }
            let reference = format!("{}/{}@{subject}", self.registry.name(), self.name);
            let digest = document.digest.clone();
            backoff
                .again(Error::NotListed { reference, digest })
                .await?;
        }
    }

    async fn listed(&self, subject: &Digest, access: &Access) -> Result<Listed, Error> {
        if let Some(entries) = self.listed_by_api(subject, access).await? {
            return Ok(Listed {
                entries,
                keeper: Keeper::Registry,
            });
        }
        let tag = tag_of(subject);
        let found = self.get_manifest(&tag, access).await?;
        let index = match found {
            None => Some(index_of(Vec::new())),
            Some(ServedManifest { bytes, media_type }) if media_type == INDEX => {
                let index = serde_json::from_slice(&bytes).ok();
                index.filter(|index: &Value| index["manifests"].is_array())
            }
            Some(_) => None,
        };
        let entries = index
            .as_ref()
            .and_then(|index| index["manifests"].as_array());
        let entries = entries.cloned().unwrap_or_default();
        self.few(subject, &entries)?;
        Ok(Listed {
            entries,
            keeper: Keeper::Clients(index),
        })
    }

    /// `None` where the registry has no such API: docker-registry 2 answers 404, others 400 or 405.
    async fn listed_by_api(
        &self,
        subject: &Digest,
        access: &Access,
    ) -> Result<Option<Vec<Value>>, Error> {
        let mut next = Some(self.url(&format!("referrers/{subject}")));
        let mut entries = Vec::new();
        let mut pages = 0;
        while let Some(url) = next.take() {
            let Some((page, following)) = self.page(&url, access).await? else {
                return Ok(None);
            };
            entries.extend(page);
            // Pages that go round in a circle, or have nothing on them, would be read for ever.
            pages += 1;
            if entries.len().max(pages) > MOST {
                return Err(self.many(subject));
            }
            next = following;
        }
        Ok(Some(entries))
    }

    async fn page(
        &self,
        url: &Url,
        access: &Access,
    ) -> Result<Option<(Vec<Value>, Option<Url>)>, Error> {
        let build = || self.request(Method::GET, url.clone()).header(ACCEPT, INDEX);
        let mut backoff = Backoff::new(&self.registry.options);
        loop {
            let error = match self.send_once(access, build).await {
                Ok(answer) if answer.status() == StatusCode::OK => {
                    if !is_index(&answer) {
                        return Ok(None);
                    }
                    let following = following(&answer)?;
                    match answer.body(PAGE_LIMIT).await {
                        Ok(bytes) => {
                            return Ok(entries_of(&bytes).map(|entries| (entries, following)));
                        }
                        Err(error) => error,
                    }
                }
                Ok(answer) => answer.refused().await,
                Err(error) => error,
            };
            if matches!(error, Error::Refused { .. }) && !error.is_transient() {
                return Ok(None);
            }
            backoff.after(error).await?;
        }
    }

    fn few(&self, subject: &Digest, entries: &[Value]) -> Result<(), Error> {
        if entries.len() <= MOST {
            return Ok(());
        }
        Err(self.many(subject))
    }

    fn many(&self, subject: &Digest) -> Error {
        Error::ManyReferrers {
            reference: format!("{}/{}@{subject}", self.registry.name(), self.name),
            limit: MOST,
        }
    }
}

/// The tag that stands in for the API.
fn tag_of(subject: &Digest) -> String {
    format!("{}-{:.64}", subject.algorithm(), subject.hex())
}

/// How a referrer is listed.
pub(crate) fn descriptor(document: &Document) -> Value {
    let body: Value = serde_json::from_slice(&document.bytes).unwrap_or_default();
    let mut entry = json!({
        "mediaType": document.media_type,
        "digest": document.digest,
        "size": document.bytes.len(),
    });
    let artifact_type = match &body["artifactType"] {
        Value::Null => &body["config"]["mediaType"],
        own => own,
    };
    for (key, value) in [
        ("artifactType", artifact_type),
        ("annotations", &body["annotations"]),
    ] {
        if !value.is_null() {
            entry[key] = value.clone();
        }
    }
    entry
}

fn entries_of(index: &[u8]) -> Option<Vec<Value>> {
    let mut index: Value = serde_json::from_slice(index).ok()?;
    match index["manifests"].take() {
        Value::Array(entries) => Some(entries),
        _ => None,
    }
}

/// A proxy may answer 200 to anything.
fn is_index(answer: &Answer) -> bool {
    let content_type = answer.headers().get(CONTENT_TYPE);
    content_type
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with(INDEX))
}

/// The next page: `Link: <URL>; rel="next"` (RFC 5988, as the distribution spec wants it).
fn following(answer: &Answer) -> Result<Option<Url>, Error> {
    let link = answer.headers().get(LINK);
    let Some(link) = link.and_then(|value| value.to_str().ok()) else {
        return Ok(None);
    };
    let url = link.strip_prefix('<').and_then(|link| link.split_once('>'));
    let Some((url, _)) = url.filter(|(_, rest)| rest.contains("next")) else {
        return Ok(None);
    };
    let next = resolve(answer.url(), url)?;
    // Nobody else knows what this registry has.
    if (next.host_str(), next.port()) != (answer.url().host_str(), answer.url().port()) {
        return Err(Error::Location {
            url: shown(answer.url()),
            location: shown(&next),
            reason: "that is another host, and the rest of a list is not looked for there",
        });
    }
    Ok(Some(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_referrer_is_listed_with_its_type_and_annotations() {
        let own = json!({"artifactType": "a/b", "annotations": {"k": "v"}});
        let old = json!({"config": {"mediaType": "c/d"}});
        for (body, artifact_type, annotation) in
            [(own, "a/b", json!("v")), (old, "c/d", Value::Null)]
        {
            let bytes = serde_json::to_vec(&body).unwrap();
            let document = Document::attached("m", bytes, Vec::new());
            let entry = descriptor(&document);
            assert_eq!(entry["digest"], document.digest.to_string());
            assert_eq!(entry["artifactType"], artifact_type);
            assert_eq!(entry["annotations"]["k"], annotation);
        }
        let subject = Digest::sha256(b"x");
        assert_eq!(tag_of(&subject), format!("sha256-{}", subject.hex()));
    }
}
