//! Blobs fetched into files: streamed, bounded by their size, named only when their digest was verified.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use reqwest::{Method, StatusCode};
use smokegate_image::{Digest, Hasher};
use tokio::sync::mpsc;

use crate::Error;
use crate::auth::Access;
use crate::layout_target::blob_name;
use crate::retry::Backoff;
use crate::tasks::blocking;
use crate::transport::{Answer, Repository};

/// Parts of a body that wait for the disk.
const WAITING: usize = 2;

/// Where a layout directory has a blob.
pub(crate) fn path_in(layout: &Path, digest: &Digest) -> PathBuf {
    layout.join(blob_name(digest))
}

/// Puts verified bytes into a layout.
pub(crate) fn keep(layout: &Path, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
    let path = path_in(layout, digest);
    let parent = path.parent().unwrap_or(layout);
    fs::create_dir_all(parent).map_err(cannot_keep(parent))?;
    fs::write(&path, bytes).map_err(cannot_keep(&path))
}

/// What a failed write of something pulled is.
pub(crate) fn cannot_keep(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Keep {
        path: path.clone(),
        source,
    }
}

impl Repository {
    /// Fetches a blob into a layout that has it not. The file appears with its last, verified byte; a broken
    /// connection or other bytes are a reason to try again, with all of it.
    pub(crate) async fn get_blob(
        &self,
        digest: &Digest,
        size: u64,
        layout: &Path,
    ) -> Result<(), Error> {
        let access = Access::pull(&self.name);
        let url = self.url(&format!("blobs/{digest}"));
        let expected = [StatusCode::OK, StatusCode::NOT_FOUND];
        let mut backoff = Backoff::new(&self.registry.options);
        loop {
            let answer = self
                .send(&access, &expected, || {
                    self.request(Method::GET, url.clone())
                })
                .await?;
            if answer.status() == StatusCode::NOT_FOUND {
                return Err(self.has_no(format!("blob {digest}")));
            }
            match receive(answer, digest, size, layout).await {
                Ok(()) => return Ok(()),
                Err(error @ Error::Content { .. }) => backoff.again(error).await?,
                Err(error) => backoff.after(error).await?,
            }
        }
    }

    /// The error of a 404.
    pub(crate) fn has_no(&self, what: String) -> Error {
        Error::NotFound {
            registry: self.registry.name().to_owned(),
            repository: self.name.clone(),
            what,
        }
    }
}

/// Hands the body to a thread that writes and hashes, so that both go on while more arrives.
async fn receive(
    mut answer: Answer,
    digest: &Digest,
    size: u64,
    layout: &Path,
) -> Result<(), Error> {
    let (sender, parts) = mpsc::channel(WAITING);
    let (path, named) = (path_in(layout, digest), digest.clone());
    let writing = tokio::spawn(blocking(move || write(parts, &path, &named, size)));
    let received: Result<(), Error> = async {
        while let Some(part) = answer.chunk().await? {
            // A writer that has given up says why.
            if sender.send(Some(part)).await.is_err() {
                return Ok(());
            }
        }
        _ = sender.send(None).await;
        Ok(())
    }
    .await;
    drop(sender);
    let written = writing.await;
    received?;
    match written {
        Ok(written) => written,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// `None` among the parts is the end of the body; parts that end without one are those of a broken connection.
fn write(
    mut parts: mpsc::Receiver<Option<Bytes>>,
    path: &Path,
    digest: &Digest,
    size: u64,
) -> Result<(), Error> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(cannot_keep(parent))?;
    let partial = path.with_extension("part");
    let mut file = File::create(&partial).map_err(cannot_keep(&partial))?;
    let mut hasher = Hasher::new(digest.algorithm());
    let mut count = 0;
    let corrupt = |problem: String| Error::Content {
        digest: digest.clone(),
        source: io::Error::new(io::ErrorKind::InvalidData, problem),
    };
    loop {
        match parts.blocking_recv() {
            Some(Some(part)) => {
                count += part.len() as u64;
                if count > size {
                    return Err(corrupt(format!(
                        "the registry sends more than {size} bytes"
                    )));
                }
                hasher.update(&part);
                file.write_all(&part).map_err(cannot_keep(&partial))?;
            }
            Some(None) => break,
            None => return Ok(()),
        }
    }
    let got = hasher.finish();
    if count != size || got != *digest {
        return Err(corrupt(format!(
            "the registry sent {count} of {size} bytes, whose digest is {got}"
        )));
    }
    fs::rename(&partial, path).map_err(cannot_keep(path))
}
