//! Blobs: HEAD, then POST and one streamed PUT; every retry is a new session with the whole blob.
//!
//! No chunks, unless a proxy wants them (`blob_chunks.rs`), and no resuming: what a registry says about the state of
//! a session cannot be trusted (ECR's `Range` header is stale), and one PUT is what containerd, oras and regclient
//! send too.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{Method, StatusCode, Url};
use smokegate_image::{Blob, Digest};

use crate::auth::Access;
use crate::blob_body::{BlobBody, Progress};
use crate::ecr::EcrHost;
use crate::location::{resolve, shown};
use crate::retry::Backoff;
use crate::transport::{Answer, Exchange, Repository};
use crate::{BlobOutcome, Destination, Error, PushEvent, PushObserver};

/// A registry moves a finished blob to its place before it answers, in silence: minutes, on object storage.
const COMMIT_PATIENCE: u32 = 10;

/// What came of asking for an upload session.
enum Session {
    Mounted,
    Upload(Url),
}

impl Repository {
    /// Whether the registry says it has a blob. Any refusal is a no: what is sent once too often does no harm.
    pub(crate) async fn has_blob(&self, digest: &Digest) -> Result<bool, Error> {
        let access = Access::push(&self.name);
        let url = self.url(&format!("blobs/{digest}"));
        // ECR Public refuses HEAD as if the token were wrong, and answers GET.
        let is_public_ecr = self.registry.ecr() == Some(EcrHost::Public);
        let build = || {
            if is_public_ecr {
                self.request(Method::GET, url.clone())
                    .header(RANGE, "bytes=0-0")
            } else {
                self.request(Method::HEAD, url.clone())
            }
        };
        let mut backoff = Backoff::new(&self.registry.options);
        loop {
            let error = match self.send_once(&access, build).await {
                Ok(answer) if answer.status().is_success() => return Ok(true),
                Ok(answer) => answer.refused().await,
                Err(Error::Unauthorized { .. }) => return Ok(false),
                Err(error) => error,
            };
            match error {
                Error::Refused { .. } if !error.is_transient() => return Ok(false),
                error => backoff.after(error).await?,
            }
        }
    }

    /// Makes sure that the repository has `blob`; tries to mount it from `mount_from` first.
    pub(crate) async fn put_blob(
        &self,
        blob: &Blob,
        mount_from: Option<&str>,
        destination: &Arc<Destination>,
        observer: &Arc<dyn PushObserver>,
    ) -> Result<BlobOutcome, Error> {
        let digest = blob.digest();
        let mut mount_from = mount_from;
        let mut backoff = Backoff::new(&self.registry.options);
        loop {
            let largest = self.registry.chunk_size(blob.size()).unwrap_or(blob.size());
            // A mount that was tried once and gave no blob is not tried again.
            let error = match self
                .try_blob(blob, mount_from.take(), destination, observer)
                .await
            {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            };
            // A proxy in front limits the size of a body: then in smaller ones, which is no failed try.
            if let Error::Refused { status, .. } = &error
                && *status == StatusCode::PAYLOAD_TOO_LARGE
                && self.registry.send_smaller(largest)
            {
                continue;
            }
            observer.event(PushEvent::BlobRetried {
                destination,
                digest,
                reason: &error,
            });
            if is_lost_session(&error) {
                backoff.again(error).await?
            } else {
                backoff.after(error).await?
            }
            // The connection may have failed after the registry had everything.
            if self.has_blob(digest).await? {
                return Ok(BlobOutcome::Uploaded);
            }
        }
    }

    /// Whether the registry takes the blob from another of its repositories. Whatever keeps it from that, sending
    /// the blob may still work.
    pub(crate) async fn mount_blob(&self, blob: &Blob, from: &str) -> bool {
        match self.open_session(Some((blob.digest(), Some(from)))).await {
            Ok(Session::Mounted) => true,
            Ok(Session::Upload(location)) => {
                self.cancel(&location).await;
                false
            }
            Err(error) => {
                tracing::debug!(%error, "the blob cannot be mounted");
                false
            }
        }
    }

    /// Whether this repository may be written to, as far as can be told without writing.
    ///
    /// A registry that is sent a part of an upload that does not exist answers first whether the sender may
    /// write at all. Opening a session would say it more plainly, but docker-registry keeps traces of one.
    pub(crate) async fn check_writable(&self) -> Result<(), Error> {
        let access = Access::push(&self.name);
        let url = self.url("blobs/uploads/00000000-0000-0000-0000-000000000000");
        let mut backoff = Backoff::new(&self.registry.options);
        loop {
            let build = || {
                self.request(Method::PATCH, url.clone())
                    .header(CONTENT_LENGTH, 0)
            };
            let error = match self.send_once(&access, build).await {
                Ok(answer) if answer.status().is_success() => return Ok(()),
                Ok(answer) => answer.refused().await,
                Err(error) => error,
            };
            if error.is_transient() {
                backoff.after(error).await?;
                continue;
            }
            return match &error {
                Error::Refused { status, .. } if *status == StatusCode::FORBIDDEN => Err(error),
                // Missing: for good (ECR), or until something is pushed (zot). Only a session tells.
                Error::Refused { detail, .. } if detail.has_code("NAME_UNKNOWN") => {
                    if let Session::Upload(location) = self.open_session(None).await? {
                        self.cancel(&location).await;
                    }
                    Ok(())
                }
                Error::Refused { .. } => Ok(()),
                _ => Err(error),
            };
        }
    }

    async fn try_blob(
        &self,
        blob: &Blob,
        mount_from: Option<&str>,
        destination: &Arc<Destination>,
        observer: &Arc<dyn PushObserver>,
    ) -> Result<BlobOutcome, Error> {
        let session = match mount_from {
            Some(_) => match self.open_session(Some((blob.digest(), mount_from))).await {
                Ok(session) => session,
                // Whatever keeps a mount from working, uploading may still do.
                Err(error) => {
                    tracing::debug!(%error, "the blob cannot be mounted");
                    self.open_session(None).await?
                }
            },
            None => self.open_session(None).await?,
        };
        let Session::Upload(location) = session else {
            return Ok(BlobOutcome::Mounted);
        };
        let result = self.upload(&location, blob, destination, observer).await;
        if result.is_err() {
            self.cancel(&location).await;
        }
        result.map(|()| BlobOutcome::Uploaded)
    }

    async fn open_session(&self, mount: Option<(&Digest, Option<&str>)>) -> Result<Session, Error> {
        let mut url = self.url("blobs/uploads/");
        let mut access = Access::push(&self.name);
        if let Some((digest, from)) = mount {
            url.query_pairs_mut()
                .append_pair("mount", &digest.to_string());
            if let Some(from) = from {
                url.query_pairs_mut().append_pair("from", from);
                access = access.and_pull(from);
            }
        }
        let build = || {
            self.request(Method::POST, url.clone())
                .header(CONTENT_LENGTH, 0)
        };
        let answer = match self.send_once(&access, build).await {
            Err(error @ Error::Request { .. }) => return Err(self.explained(error).await),
            answer => answer?,
        };
        match answer.status() {
            StatusCode::CREATED if mount.is_some() => Ok(Session::Mounted),
            StatusCode::ACCEPTED => {
                let location = answer
                    .headers()
                    .get(LOCATION)
                    .and_then(|value| value.to_str().ok());
                let location =
                    location.ok_or_else(|| answer.exchange.protocol("202 without a `Location`"))?;
                Ok(Session::Upload(resolve(answer.url(), location)?))
            }
            _ => Err(answer.refused().await),
        }
    }

    /// What a broken connection means: ECR ends it when the repository does not exist, or may not be written.
    async fn explained(&self, error: Error) -> Error {
        let Error::Request { .. } = error else {
            return error;
        };
        if self.registry.ecr().is_none() || !error.is_transient() {
            return error;
        }
        match self.exists().await {
            Err(missing) => missing,
            Ok(()) => Error::EcrEof {
                repository: format!("{}/{}", self.registry.name(), self.name),
                source: Box::new(error),
            },
        }
    }

    async fn upload(
        &self,
        location: &Url,
        blob: &Blob,
        destination: &Arc<Destination>,
        observer: &Arc<dyn PushObserver>,
    ) -> Result<(), Error> {
        let digest = blob.digest().clone();
        let size = blob.size();
        let (observer, destination) = (Arc::clone(observer), Arc::clone(destination));
        let (body, progress) = BlobBody::new(blob, move |sent| {
            let digest = &digest;
            let destination = &*destination;
            observer.event(PushEvent::BlobProgress {
                destination,
                digest,
                sent,
                size,
            });
        });
        let result = match self.registry.chunk_size(size) {
            Some(chunk) => {
                self.upload_in_chunks(location, blob, body, &progress, chunk)
                    .await
            }
            None => self.upload_whole(location, blob, body, &progress).await,
        };
        match progress.take_failure() {
            Some(source) => Err(Error::Content {
                digest: blob.digest().clone(),
                source,
            }),
            None => result,
        }
    }

    async fn upload_whole(
        &self,
        location: &Url,
        blob: &Blob,
        body: BlobBody,
        progress: &Progress,
    ) -> Result<(), Error> {
        let size = blob.size();
        let mut url = location.clone();
        url.query_pairs_mut()
            .append_pair("digest", &blob.digest().to_string());
        let request = self
            .request(Method::PUT, url.clone())
            .header(CONTENT_LENGTH, size)
            .header(CONTENT_TYPE, "application/octet-stream")
            .body(reqwest::Body::wrap_stream(body));
        let access = Access::push(&self.name);
        let (request, used) = self.authorize(request, &url, &access).await?;
        let exchange = self.exchange(Method::PUT, url);
        let answer = watched(request, &exchange, progress, size).await?;
        let answer = self.checked(answer, &access, used.as_ref()).await?;
        match answer.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
            _ => Err(answer.refused().await),
        }
    }

    /// Passes an answer on unless it is about the credential. A token that ended while the blob was on its way
    /// is renewed, and the error is one after which a new session is opened.
    pub(crate) async fn checked(
        &self,
        answer: Answer,
        access: &Access,
        used: Option<&reqwest::header::HeaderValue>,
    ) -> Result<Answer, Error> {
        match answer.status() {
            StatusCode::UNAUTHORIZED => {
                if self.reauthorize(&answer, access, used).await? {
                    Err(answer.refused().await)
                } else {
                    Err(self.unauthorized(answer).await)
                }
            }
            StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                let error = answer.refused().await;
                if self.says_expired(&error) && !self.refresh(access, used).await? {
                    return Err(self.expired(error).await);
                }
                Err(error)
            }
            _ => Ok(answer),
        }
    }

    async fn cancel(&self, location: &Url) {
        // Best effort: a session that is not cancelled is forgotten by the registry in time.
        let access = Access::push(&self.name);
        let request = self.request(Method::DELETE, location.clone());
        if let Ok((request, _)) = self.authorize(request, location, &access).await {
            let idle = self.registry.options.idle_timeout;
            if let Err(error) = self.registry.http.send(request, idle).await {
                tracing::debug!(%error, url = shown(location), "the session was not cancelled");
            }
        }
    }
}

/// Whether an answer means that the session is no good, though a new one may be. ECR answers
/// `BLOB_UPLOAD_INVALID` after its own hiccups; the bytes themselves were verified as they were read.
fn is_lost_session(error: &Error) -> bool {
    let Error::Refused { status, detail, .. } = error else {
        return false;
    };
    detail.says_expired_token()
        || detail.has_code("BLOB_UPLOAD_INVALID")
        || detail.has_code("BLOB_UPLOAD_UNKNOWN")
        || *status == StatusCode::UNAUTHORIZED
}

/// Sends an upload; gives up when the connection takes no byte for the idle time.
pub(crate) async fn watched(
    request: reqwest::RequestBuilder,
    exchange: &Exchange,
    progress: &Progress,
    size: u64,
) -> Result<Answer, Error> {
    let response = request.send();
    tokio::pin!(response);
    let mut taken = 0;
    loop {
        let all_sent = taken >= size;
        let patience: Duration = exchange.idle * if all_sent { COMMIT_PATIENCE } else { 1 };
        match tokio::time::timeout(patience, &mut response).await {
            Ok(Ok(response)) => return Ok(Answer::new(exchange.clone(), response)),
            Ok(Err(source)) => return Err(exchange.failed(source)),
            Err(_) if progress.taken() > taken => taken = progress.taken(),
            Err(_) => return Err(exchange.stalled()),
        }
    }
}
