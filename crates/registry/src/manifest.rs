//! Manifests and tags: written with the image's exact bytes, and read back.
//!
//! A digest is always computed from a body: ECR sends neither `Docker-Content-Digest` nor `Location`.

use reqwest::header::{ACCEPT, CONTENT_TYPE};
use reqwest::{Method, StatusCode};
use smokegate_image::{Algorithm, Digest, Document, Hasher};

use crate::Error;
use crate::auth::Access;
use crate::retry::Backoff;
use crate::transport::Repository;

/// All four, or a registry may convert what it has to what it thinks we understand.
const ACCEPTED: &str = "application/vnd.oci.image.index.v1+json, \
     application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.docker.distribution.manifest.v2+json";
/// Registries take 4 MiB; this leaves room for one that takes more.
const LIMIT: usize = 16 * 1024 * 1024;

impl Repository {
    /// The bytes behind a tag or digest; `None` when there is none.
    async fn manifest(&self, reference: &str) -> Result<Option<Vec<u8>>, Error> {
        let url = self.url(&format!("manifests/{reference}"));
        let access = Access::push(&self.name);
        let build = || {
            self.request(Method::GET, url.clone())
                .header(ACCEPT, ACCEPTED)
        };
        let expected = [StatusCode::OK, StatusCode::NOT_FOUND];
        let mut backoff = Backoff::new(&self.registry.options);
        loop {
            let answer = self.send(&access, &expected, build).await?;
            if answer.status() == StatusCode::NOT_FOUND {
                return Ok(None);
            }
            // A connection may also break in the middle of an answer.
            match answer.body(LIMIT).await {
                Ok(body) => return Ok(Some(body)),
                Err(error) => backoff.after(error).await?,
            }
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
        self.put_manifest(reference, document).await?;
        let expected = &document.digest;
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

    async fn put_manifest(&self, reference: &str, document: &Document) -> Result<(), Error> {
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

fn digest(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}
