//! Where blobs come from that were not fetched when their image was opened: the registry that has it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use smokegate_image::{Blob, Content, Digest, FileRange, Image};
use tokio::sync::OnceCell;

use crate::blob_file::{cannot_keep, path_in};
use crate::{Destination, DestinationState, Error, PullError, Remote};

/// The registry that an image is promoted from. Its blobs are fetched when they are needed, once, into files
/// without names, so that memory does not grow with them and nothing is left behind.
#[derive(Clone, Debug)]
pub struct BlobSource {
    remote: Arc<Remote>,
    spool_dir: PathBuf,
    fetched: Arc<Mutex<HashMap<Digest, Arc<OnceCell<Blob>>>>>,
}

impl BlobSource {
    /// Blobs of `remote`, spooled below `spool_dir`.
    pub fn new(remote: Remote, spool_dir: PathBuf) -> Self {
        Self {
            remote: Arc::new(remote),
            spool_dir,
            fetched: Arc::default(),
        }
    }

    /// The blob with its bytes: fetched and verified, where they are absent.
    ///
    /// # Errors
    /// When the registry has it not, or other bytes, or the directory cannot take it.
    pub async fn pull(&self, blob: &Blob) -> Result<Blob, PullError> {
        self.blob(blob).await.map_err(|source| PullError {
            reference: self.remote.reference().to_owned(),
            source,
        })
    }

    /// The same, for a push.
    pub(crate) async fn blob(&self, blob: &Blob) -> Result<Blob, Error> {
        if !matches!(blob.content(), Content::Absent) {
            return Ok(blob.clone());
        }
        let cell = {
            let mut fetched = self.fetched.lock().expect("no panic while held");
            Arc::clone(fetched.entry(blob.digest().clone()).or_default())
        };
        let fetched = cell.get_or_try_init(|| self.remote.fetch(blob, &self.spool_dir));
        fetched.await.cloned()
    }

    /// What the repository that it comes from has: all of it. Another one of the same registry can mount it there.
    pub(crate) fn state(&self, image: &Image) -> (Destination, DestinationState) {
        let state = DestinationState {
            blobs: image
                .blobs()
                .iter()
                .map(|one| one.digest().clone())
                .collect(),
            ..DestinationState::default()
        };
        (self.remote.destination(), state)
    }
}

impl Remote {
    /// The repository.
    fn destination(&self) -> Destination {
        Destination::Repository {
            registry: self.repository.registry.name().to_owned(),
            repository: self.repository.name.clone(),
        }
    }

    /// Fetches one blob into a file without a name.
    async fn fetch(&self, blob: &Blob, spool_dir: &Path) -> Result<Blob, Error> {
        let failed = cannot_keep(spool_dir);
        let directory = tempfile::Builder::new()
            .prefix(".smokegate-")
            .tempdir_in(spool_dir)
            .map_err(&failed)?;
        let (digest, size) = (blob.digest(), blob.size());
        self.repository
            .get_blob(digest, size, directory.path())
            .await?;
        let path = path_in(directory.path(), digest);
        let file = Arc::new(std::fs::File::open(path).map_err(failed)?);
        let range = FileRange {
            file,
            offset: 0,
            len: size,
        };
        let media_type = blob.media_type().to_owned();
        Ok(Blob::new(
            digest.clone(),
            size,
            media_type,
            Content::File(range),
        ))
    }
}
