//! An OCI image layout directory (OCI image spec, image-layout.md).

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::store::{Member, Store};
use crate::{Error, FileRange};

/// A directory whose files are looked up by path. Each blob found keeps its file open.
pub(crate) struct LayoutDir {
    path: PathBuf,
}

impl LayoutDir {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }
}

impl Store for LayoutDir {
    fn find(&self, name: &str) -> Result<Option<Member>, Error> {
        let path = self.path.join(name);
        let read = |source| Error::Read {
            what: format!("`{}`", path.display()),
            source,
        };
        let file = match open_file(&path) {
            Ok(file) => file,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(read(error)),
        };
        let len = file.metadata().map_err(read)?.len();
        let range = FileRange {
            file: Arc::new(file),
            offset: 0,
            len,
        };
        Ok(Some(Member { range, missing: 0 }))
    }

    fn may_be_truncated(&self) -> bool {
        false
    }
}

/// Opens a regular file; anything else counts as absent, as opening a FIFO would wait for its writer.
fn open_file(path: &Path) -> io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(io::ErrorKind::NotFound.into());
    }
    File::open(path)
}
