//! Blobs in chunks, for registries behind a proxy that limits the size of a request's body (413).
//!
//! What the registry says of a session's state is not used: ECR answers 201 to PATCH and its `Range` is stale. The
//! offset is ours, and after any error a new session begins at the first byte.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, LOCATION};
use reqwest::{Method, StatusCode, Url};
use smokegate_image::Blob;

use crate::Error;
use crate::auth::Access;
use crate::blob::watched;
use crate::blob_body::{BlobBody, Progress};
use crate::location::resolve;
use crate::transport::{Answer, Repository};

impl Repository {
    /// Sends `body`, the bytes of `blob`, in requests of at most `chunk` bytes.
    pub(crate) async fn upload_in_chunks(
        &self,
        location: &Url,
        blob: &Blob,
        body: BlobBody,
        progress: &Progress,
        chunk: u64,
    ) -> Result<(), Error> {
        let source = Arc::new(Mutex::new(Source {
            body,
            rest: Bytes::new(),
        }));
        let mut location = location.clone();
        let mut sent = 0;
        while sent < blob.size() {
            let count = chunk.min(blob.size() - sent);
            let part = Part {
                source: Arc::clone(&source),
                left: count,
            };
            let request = self
                .request(Method::PATCH, location.clone())
                .header(CONTENT_LENGTH, count)
                .header(CONTENT_RANGE, format!("{sent}-{}", sent + count - 1))
                .header(CONTENT_TYPE, "application/octet-stream")
                .body(reqwest::Body::wrap_stream(part));
            sent += count;
            let answer = self
                .send_part(Method::PATCH, &location, request, progress, sent)
                .await?;
            let expected = [
                StatusCode::ACCEPTED,
                StatusCode::CREATED,
                StatusCode::NO_CONTENT,
            ];
            if !expected.contains(&answer.status()) {
                return Err(answer.refused().await);
            }
            if let Some(next) = answer.headers().get(LOCATION) {
                let next = next
                    .to_str()
                    .map_err(|_| answer.exchange.protocol("a `Location` that is not text"))?;
                location = resolve(answer.url(), next)?;
            }
        }
        let mut url = location;
        url.query_pairs_mut()
            .append_pair("digest", &blob.digest().to_string());
        let request = self
            .request(Method::PUT, url.clone())
            .header(CONTENT_LENGTH, 0);
        let answer = self
            .send_part(Method::PUT, &url, request, progress, sent)
            .await?;
        match answer.status() {
            StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT => Ok(()),
            _ => Err(answer.refused().await),
        }
    }

    async fn send_part(
        &self,
        method: Method,
        url: &Url,
        request: reqwest::RequestBuilder,
        progress: &Progress,
        sent: u64,
    ) -> Result<Answer, Error> {
        let access = Access::push(&self.name);
        let (request, used) = self.authorize(request, url, &access).await?;
        let exchange = self.exchange(method, url.clone());
        let answer = watched(request, &exchange, progress, sent).await?;
        self.checked(answer, &access, used.as_ref()).await
    }
}

/// The bytes that are still to be sent, part after part.
struct Source {
    body: BlobBody,
    /// What of the last piece belongs to the next part.
    rest: Bytes,
}

/// The next so many bytes of a source.
struct Part {
    source: Arc<Mutex<Source>>,
    left: u64,
}

impl Stream for Part {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let shared = Arc::clone(&self.source);
        let mut source = shared.lock().expect("no panic while held");
        if source.rest.is_empty() {
            match Pin::new(&mut source.body).poll_next(context) {
                Poll::Ready(Some(Ok(piece))) => source.rest = piece,
                other => return other,
            }
        }
        let count = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(source.rest.len());
        let piece = source.rest.split_to(count);
        self.left -= count as u64;
        Poll::Ready(Some(Ok(piece)))
    }
}
