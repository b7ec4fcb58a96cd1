//! A blob as the body of a request: read and verified on a blocking thread, in constant memory.

use std::io::{self, Read};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use smokegate_image::Blob;
use tokio::sync::mpsc;

const CHUNK: usize = 256 * 1024;
const CHUNKS_AHEAD: usize = 2;

/// How far a body has come, seen from outside the request that owns it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    taken: AtomicU64,
    failure: Mutex<Option<io::Error>>,
}

impl Progress {
    /// Bytes that the connection has taken.
    pub(crate) fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Why the blob could not be read or was not what it should be.
    pub(crate) fn take_failure(&self) -> Option<io::Error> {
        self.failure.lock().expect("no panic while held").take()
    }
}

/// A stream of a blob's bytes. The last chunk is given out only after size and digest were found right, so a
/// registry never holds all bytes of a blob that is corrupt.
pub(crate) struct BlobBody {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    progress: Arc<Progress>,
    on_chunk: Box<dyn Fn(u64) + Send>,
}

impl BlobBody {
    /// Starts to read; `on_chunk` is told the bytes taken so far.
    pub(crate) fn new(
        blob: &Blob,
        on_chunk: impl Fn(u64) + Send + 'static,
    ) -> (Self, Arc<Progress>) {
        let (sender, chunks) = mpsc::channel(CHUNKS_AHEAD);
        let progress = Arc::new(Progress::default());
        let blob = blob.clone();
        let reported = Arc::clone(&progress);
        tokio::task::spawn_blocking(move || feed(&blob, &sender, &reported));
        (
            Self {
                chunks,
                progress: Arc::clone(&progress),
                on_chunk: Box::new(on_chunk),
            },
            progress,
        )
    }
}

fn feed(blob: &Blob, sender: &mpsc::Sender<io::Result<Bytes>>, progress: &Progress) {
    let mut reader = blob.open();
    let mut held: Option<Bytes> = None;
    loop {
        let chunk = match read_chunk(&mut reader) {
            Ok(chunk) => chunk,
            Err(error) => {
                let said = io::Error::new(error.kind(), "the blob cannot be read or is corrupt");
                *progress.failure.lock().expect("no panic while held") = Some(error);
                // An error in the body makes the connection be dropped, which aborts the upload.
                let _ = sender.blocking_send(Err(said));
                return;
            }
        };
        let last = chunk.is_empty();
        if let Some(ready) = held.replace(chunk) {
            // The receiver is gone when the request has ended early.
            if sender.blocking_send(Ok(ready)).is_err() {
                return;
            }
        }
        if last {
            return;
        }
    }
}

/// A whole chunk, or what is left. `read_to_end` would ask for it in ever larger parts.
fn read_chunk(reader: &mut impl Read) -> io::Result<Bytes> {
    let mut chunk = vec![0; CHUNK];
    let mut count = 0;
    while count < CHUNK {
        match reader.read(&mut chunk[count..]) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    chunk.truncate(count);
    Ok(chunk.into())
}

impl Stream for BlobBody {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let body = self.get_mut();
        let next = body.chunks.poll_recv(context);
        if let Poll::Ready(Some(Ok(chunk))) = &next {
            let count = chunk.len() as u64;
            let taken = body.progress.taken.fetch_add(count, Ordering::Relaxed) + count;
            (body.on_chunk)(taken);
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use smokegate_image::{Content, Digest};

    use super::*;

    async fn collect(blob: &Blob) -> (Vec<u8>, Option<io::Error>) {
        let (mut body, progress) = BlobBody::new(blob, |_| ());
        let mut bytes = Vec::new();
        while let Some(Ok(chunk)) =
            std::future::poll_fn(|context| Pin::new(&mut body).poll_next(context)).await
        {
            bytes.extend_from_slice(&chunk);
        }
        (bytes, progress.take_failure())
    }

    #[tokio::test]
    async fn a_corrupt_blob_is_never_complete() {
        for size in [1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK] {
            let bytes = vec![7_u8; size];
            let right = Digest::sha256(&bytes);
            let content = Content::Bytes(bytes.clone().into());
            let good = Blob::new(right, size as u64, String::new(), content.clone());
            assert_eq!(collect(&good).await.0, bytes);
            let bad = Blob::new(
                Digest::sha256(b"other"),
                size as u64,
                String::new(),
                content,
            );
            let (sent, failure) = collect(&bad).await;
            assert!(sent.len() < size, "{size}: all bytes were given out");
            assert!(failure.unwrap().to_string().contains("digest mismatch"));
        }
    }
}
