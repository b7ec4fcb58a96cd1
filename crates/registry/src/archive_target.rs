//! A tar file of an OCI image layout as a destination: deterministic, and there at once or not at all.

use std::cell::Cell;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use smokegate_image::{Blob, Digest, Image};
use tempfile::NamedTempFile;

use crate::Error;
use crate::layout_target::{
    LAYOUT_FILE, blob_name, check_parent, document_as_blob, entry, index_of, tagged, temporary_in,
    write_error,
};
use crate::referrers::descriptor;

/// An archive that is written anew as a whole.
#[derive(Clone, Debug)]
pub(crate) struct ArchiveTarget {
    path: PathBuf,
}

/// A complete archive that does not have its name yet.
#[derive(Debug)]
pub(crate) struct WrittenArchive {
    path: PathBuf,
    file: NamedTempFile,
}

impl ArchiveTarget {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Whether the file can be made.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let parent = self.directory();
        if self.path.is_dir() || !parent.is_dir() {
            let path = if self.path.is_dir() {
                self.path.clone()
            } else {
                parent.to_owned()
            };
            let reason = if self.path.is_dir() {
                "is a directory"
            } else {
                "is not a directory"
            };
            return Err(Error::NotALayout {
                path,
                reason: reason.to_owned(),
            });
        }
        check_parent(&self.path)
    }

    /// Writes everything under another name, with `blobs` for those of the image; `progress` is told each blob and
    /// the bytes written of it.
    ///
    /// The order is that of the names, times and owners are 0: the same image gives the same bytes.
    pub(crate) fn write(
        &self,
        image: &Image,
        mut blobs: Vec<Blob>,
        tags: &[String],
        progress: &dyn Fn(&Blob, u64) -> io::Result<()>,
    ) -> Result<WrittenArchive, Error> {
        let failed = write_error(&self.path);
        blobs.extend(image.published().map(document_as_blob));
        blobs.sort_by_key(|blob| blob_name(blob.digest()));
        blobs.dedup_by_key(|blob| blob_name(blob.digest()));
        let file = temporary_in(self.directory()).map_err(&failed)?;
        let mut tar = tar::Builder::new(BufWriter::with_capacity(256 * 1024, file));
        let mut directory = String::new();
        append(&mut tar, "blobs/", 0, io::empty()).map_err(&failed)?;
        for blob in &blobs {
            let parent = format!("blobs/{}/", blob.digest().algorithm());
            if directory != parent {
                append(&mut tar, &parent, 0, io::empty()).map_err(&failed)?;
                directory = parent;
            }
            let failure = Cell::new(false);
            let reader = Watched {
                inner: blob.open(),
                read: 0,
                failed: &failure,
                progress: &|read| progress(blob, read),
            };
            append(&mut tar, &blob_name(blob.digest()), blob.size(), reader).map_err(|source| {
                if failure.get() {
                    Error::Content {
                        digest: blob.digest().clone(),
                        source,
                    }
                } else {
                    failed(source)
                }
            })?;
        }
        let tagged = tags.iter().map(|tag| entry(tag, image.root()));
        let entries = tagged
            .chain(image.referrers().iter().map(descriptor))
            .collect();
        let index = serde_json::to_vec(&index_of(entries)).expect("a JSON value");
        append(&mut tar, "index.json", index.len() as u64, &*index).map_err(&failed)?;
        let layout = LAYOUT_FILE.as_bytes();
        append(&mut tar, "oci-layout", layout.len() as u64, layout).map_err(&failed)?;
        let buffered = tar.into_inner().map_err(&failed)?;
        let file = buffered
            .into_inner()
            .map_err(|error| failed(error.into_error()))?;
        file.as_file().sync_all().map_err(&failed)?;
        Ok(WrittenArchive {
            path: self.path.clone(),
            file,
        })
    }

    /// A name beside the archive under which the one that is there now can be kept; none where there is none.
    pub(crate) fn backup_name(&self) -> Option<PathBuf> {
        let name = self.path.file_name()?.to_string_lossy().into_owned();
        let id = std::process::id();
        self.path
            .exists()
            .then(|| self.directory().join(format!(".{name}.smokegate-{id}")))
    }

    /// Keeps the archive that is there under a second name.
    pub(crate) fn keep(&self, backup: &Path) -> Result<(), Error> {
        // Left by a push with the same process id that was killed.
        let _ = fs::remove_file(backup);
        fs::hard_link(&self.path, backup).map_err(write_error(backup))
    }

    /// Puts back what was kept, or nothing.
    pub(crate) fn restore(&self, backup: Option<&Path>) -> Result<(), Error> {
        let restored = match backup {
            Some(backup) => fs::rename(backup, &self.path),
            None => fs::remove_file(&self.path),
        };
        restored.map_err(write_error(&self.path))
    }

    /// The digest that the archive's index has for a tag.
    pub(crate) fn resolve(&self, tag: &str) -> Result<Option<Digest>, Error> {
        let failed = write_error(&self.path);
        let mut archive = tar::Archive::new(File::open(&self.path).map_err(&failed)?);
        for member in archive.entries_with_seek().map_err(&failed)? {
            let mut member = member.map_err(&failed)?;
            if *member.path_bytes() != *b"index.json" {
                continue;
            }
            let mut index = Vec::new();
            member.read_to_end(&mut index).map_err(&failed)?;
            let index = serde_json::from_slice(&index).unwrap_or_default();
            return tagged(&index, tag).map_err(|reason| Error::NotALayout {
                path: self.path.clone(),
                reason,
            });
        }
        Ok(None)
    }

    fn directory(&self) -> &Path {
        match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        }
    }
}

impl WrittenArchive {
    /// Gives the archive its name.
    pub(crate) fn publish(self) -> Result<(), Error> {
        self.file
            .persist(&self.path)
            .map_err(|error| write_error(&self.path)(error.error))?;
        Ok(())
    }
}

fn append(
    tar: &mut tar::Builder<impl Write>,
    name: &str,
    size: u64,
    reader: impl Read,
) -> io::Result<()> {
    let is_directory = name.ends_with('/');
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(if is_directory {
        tar::EntryType::Directory
    } else {
        tar::EntryType::Regular
    });
    header.set_mode(if is_directory { 0o755 } else { 0o644 });
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    tar.append_data(&mut header, name, reader)
}

/// Tells a failure to read from one to write, which `tar` does not.
struct Watched<'a, R> {
    inner: R,
    read: u64,
    failed: &'a Cell<bool>,
    progress: &'a dyn Fn(u64) -> io::Result<()>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self
            .inner
            .read(buffer)
            .inspect_err(|_| self.failed.set(true))?;
        self.read += count as u64;
        (self.progress)(self.read)?;
        Ok(count)
    }
}
