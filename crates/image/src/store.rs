//! Files by name: what a layout directory and an archive have in common.

use std::io::Read;
use std::sync::Arc;

use crate::error::BlobName;
use crate::{Error, FileRange};

/// A file of a [`Store`].
pub(crate) struct Member {
    /// Where its bytes are.
    pub(crate) range: FileRange,
    /// How many of them are behind the end of the archive.
    pub(crate) missing: u64,
}

/// A directory or archive that holds an image.
pub(crate) trait Store {
    /// The regular file called `name`, relative to the top, links followed.
    fn find(&self, name: &str) -> Result<Option<Member>, Error>;

    /// Whether files may be missing because the end is.
    fn may_be_truncated(&self) -> bool;
}

impl dyn Store + '_ {
    /// Where `name` is, which must be there and whole.
    pub(crate) fn file(&self, name: &str) -> Result<FileRange, Error> {
        let member = self.find(name)?.ok_or_else(|| Error::MissingFile {
            name: name.to_owned(),
            truncated: self.may_be_truncated(),
        })?;
        whole(member, || format!("`{name}`"))
    }

    /// Where the blob is, which must be there, whole and `size` bytes long.
    pub(crate) fn blob(&self, blob: &BlobName, size: u64) -> Result<FileRange, Error> {
        let name = format!("blobs/{}/{}", blob.digest.algorithm(), blob.digest.hex());
        let member = self.find(&name)?.ok_or_else(|| Error::MissingBlob {
            blob: blob.clone(),
            truncated: self.may_be_truncated(),
        })?;
        let range = whole(member, || blob.to_string())?;
        if range.len != size {
            return Err(Error::Size {
                blob: blob.clone(),
                expected: size,
                got: range.len,
            });
        }
        Ok(range)
    }

    /// The text of a small file that must be there.
    pub(crate) fn text(&self, name: &str, limit: u64) -> Result<Arc<[u8]>, Error> {
        read_all(&self.file(name)?, &format!("`{name}`"), limit)
    }
}

fn whole(member: Member, what: impl Fn() -> String) -> Result<FileRange, Error> {
    match member.missing {
        0 => Ok(member.range),
        missing => Err(Error::Truncated {
            what: what(),
            missing,
        }),
    }
}

/// Reads `range` into memory, after a look at its size.
pub(crate) fn read_all(range: &FileRange, what: &str, limit: u64) -> Result<Arc<[u8]>, Error> {
    if range.len > limit {
        return Err(Error::TooLarge {
            what: what.to_owned(),
            size: range.len,
            limit,
        });
    }
    let mut bytes = Vec::new();
    range
        .reader()
        .read_to_end(&mut bytes)
        .map_err(|source| Error::Read {
            what: what.to_owned(),
            source,
        })?;
    Ok(bytes.into())
}
