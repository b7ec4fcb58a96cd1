//! Manifests and tags: written with the image's exact bytes, and read back.
//!
//! A digest is always computed from a body: ECR sends neither `Docker-Content-Digest` nor `Location`.

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use smokegate_image::{Algorithm, Digest, Document, Hasher};

use crate::Error;
use crate::auth::Access;
use crate::ecr::{Ecr, EcrHost};
use crate::retry::Backoff;
use crate::transport::Repository;
use crate::wire_error::WireError;

/// All four, or a registry may convert what it has to what it thinks we understand.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Registries take 4 MiB; this leaves room for one that takes more.
const LIMIT: usize = 16 * 1024 * 1024;

/// A manifest or index, and what it is.
pub(crate) struct ServedManifest {
    pub(crate) bytes: Vec<u8>,
    /// What the document says itself, or else the answer, or else what it looks like.
    pub(crate) media_type: String,
}

impl ServedManifest {
    fn new(bytes: Vec<u8>, said: String) -> Self {
        let body: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        // A registry that serves a file as it is may say `application/json` or nothing.
        let media_type = match body["mediaType"].as_str() {
            Some(own) => own.to_owned(),
            None if said.starts_with("application/vnd.") => said,
            None if body["manifests"].is_array() => INDEX.to_owned(),
            None => MANIFEST.to_owned(),
        };
        Self { bytes, media_type }
    }
}

impl Repository {
    /// The bytes behind a tag or digest of a repository that is pushed to; `None` when there is none.
    async fn manifest(&self, reference: &str) -> Result<Option<Vec<u8>>, Error> {
        let access = Access::push(&self.name);
        let found = self.get_manifest(reference, &access).await?;
        Ok(found.map(|manifest| manifest.bytes))
    }

    /// A manifest or index as it is served; `None` when there is none.
    pub(crate) async fn get_manifest(
        &self,
        reference: &str,
        access: &Access,
    ) -> Result<Option<ServedManifest>, Error> {
        let url = self.url(&format!("manifests/{reference}"));
        let build = || {
            self.request(Method::GET, url.clone())
                .header(ACCEPT, ACCEPTED)
        };
        let expected = [StatusCode::OK, StatusCode::NOT_FOUND];
        let mut backoff = Backoff::new(&self.registry.options);
        loop {
            let answer = self.send(access, &expected, build).await?;
            if answer.status() == StatusCode::NOT_FOUND {
                return Ok(None);
            }
            let said = answer.headers().get(CONTENT_TYPE);
            let said = said.and_then(|value| value.to_str().ok());
            // Without parameters (RFC 9110, 8.3.1).
            let said = said.and_then(|value| value.split(';').next());
            let said = said.unwrap_or_default().trim().to_owned();
            // A connection may also break in the middle of an answer.
            match answer.body(LIMIT).await {
                Ok(bytes) => return Ok(Some(ServedManifest::new(bytes, said))),
                Err(error) => backoff.after(error).await?,
            }
        }
    }

    /// Fails with the registry's own words when it says that there is no such repository.
    pub(crate) async fn exists(&self) -> Result<(), Error> {
        // Whether there is such a tag does not matter.
        let url = self.url("manifests/smokegate-looks-for-the-repository");
        let access = Access::push(&self.name);
        let build = || {
            self.request(Method::GET, url.clone())
                .header(ACCEPT, ACCEPTED)
        };
        let answer = self.send_once(&access, build).await?;
        if answer.status().is_success() {
            return Ok(());
        }
        let error = answer.refused().await;
        match &error {
            Error::Refused { detail, .. } if !detail.has_code("NAME_UNKNOWN") => Ok(()),
            _ => Err(error),
        }
    }

    /// The digest that a tag points to.
    pub(crate) async fn resolve_tag(
        &self,
        tag: &str,
        algorithm: Algorithm,
    ) -> Result<Option<Digest>, Error> {
        Ok(self
            .manifest(tag)
            .await?
            .map(|bytes| digest(algorithm, &bytes)))
    }

    /// Whether the registry has a document, byte for byte.
    pub(crate) async fn has_document(&self, document: &Document) -> Result<bool, Error> {
        let bytes = self.manifest(&document.digest.to_string()).await?;
        Ok(bytes.is_some_and(|bytes| *bytes == *document.bytes))
    }

    /// Writes a document by its digest and reads it back.
    pub(crate) async fn put_document(&self, document: &Document) -> Result<(), Error> {
        self.put_and_read_back(&document.digest.to_string(), document)
            .await
    }

    /// Points a tag at a document that is there, and reads it back.
    pub(crate) async fn put_tag(&self, tag: &str, document: &Document) -> Result<(), Error> {
        self.put_and_read_back(tag, document).await
    }

    async fn put_and_read_back(&self, reference: &str, document: &Document) -> Result<(), Error> {
        let expected = &document.digest;
        if let Err(error) = self.put_manifest(reference, document).await {
            return Err(match error {
                Error::Refused {
                    status: StatusCode::METHOD_NOT_ALLOWED,
                    detail,
                    ..
                } => Error::InvalidManifest {
                    digest: expected.clone(),
                    detail,
                },
                // ECR says so for the digest that the tag has already, too: then somebody was faster.
                Error::Refused { ref detail, .. } if detail.has_code("TAG_INVALID") => {
                    match self.resolve_tag(reference, expected.algorithm()).await? {
                        Some(existing) if existing == *expected => return Ok(()),
                        Some(existing) => {
                            self.immutable(reference, existing, expected, detail.clone())
                        }
                        None => error,
                    }
                }
                error => error,
            });
        }
        let mut backoff = Backoff::new(&self.registry.options);
        loop {
            let got = self.resolve_tag(reference, expected.algorithm()).await?;
            if got.as_ref() == Some(expected) {
                return Ok(());
            }
            // A registry with replicas may show the old state for a moment.
            let reference = format!("{}/{}: {reference}", self.registry.name(), self.name);
            let expected = expected.clone();
            backoff
                .again(Error::ReadBack {
                    reference,
                    expected,
                    got,
                })
                .await?;
        }
    }

    /// The error of a tag that cannot be moved.
    pub(crate) fn immutable(
        &self,
        tag: &str,
        existing: Digest,
        wanted: &Digest,
        detail: WireError,
    ) -> Error {
        Error::ImmutableTag {
            reference: format!("{}/{}:{tag}", self.registry.name(), self.name),
            existing,
            wanted: wanted.clone(),
            detail: Box::new(detail),
        }
    }

    /// Writes a document, unverified.
    pub(crate) async fn put_manifest(
        &self,
        reference: &str,
        document: &Document,
    ) -> Result<(), Error> {
        let url = self.url(&format!("manifests/{reference}"));
        let access = Access::push(&self.name);
        let expected = [StatusCode::CREATED, StatusCode::OK, StatusCode::ACCEPTED];
        let build = || {
            self.request(Method::PUT, url.clone())
                .header(CONTENT_TYPE, &document.media_type)
                .body(document.bytes.to_vec())
        };
        self.send(&access, &expected, build).await.map(drop)
    }
}

impl Repository {
    /// Deletes a tag, which must be gone after that.
    pub(crate) async fn delete_tag(&self, tag: &str, ecr: &Ecr) -> Result<(), Error> {
        let deleted = match self.registry.ecr() {
            // The API is documented to take away the tag alone.
            Some(host @ EcrHost::Private { .. }) => ecr.delete_tag(&host, &self.name, tag).await,
            _ => {
                let url = self.url(&format!("manifests/{tag}"));
                let access = Access::push(&self.name);
                let expected = [
                    StatusCode::ACCEPTED,
                    StatusCode::OK,
                    StatusCode::NO_CONTENT,
                    StatusCode::NOT_FOUND,
                ];
                let build = || self.request(Method::DELETE, url.clone());
                self.send(&access, &expected, build).await.map(drop)
            }
        };
        deleted.map_err(|error| Error::TagStays {
            reason: format!("cannot be deleted: {error}"),
        })?;
        match self.resolve_tag(tag, Algorithm::Sha256).await? {
            None => Ok(()),
            Some(_) => Err(Error::TagStays {
                reason: "is still there after it was deleted".to_owned(),
            }),
        }
    }
}

/// The digest of some bytes.
pub(crate) fn digest(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}
