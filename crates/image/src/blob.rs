//! Blobs: content named by a digest, read as a byte range of the file that holds it.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crate::{Digest, VerifiedReader};

/// A part of an open file. Reads by position, so that clones are read by several threads at once.
#[derive(Clone, Debug)]
pub struct FileRange {
    /// The file; shared, never seeked.
    pub file: Arc<File>,
    /// Where the range starts, in bytes.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u64,
}

impl FileRange {
    /// A reader over the range, from its start.
    pub fn reader(&self) -> FileRangeReader {
        FileRangeReader {
            range: self.clone(),
            position: 0,
        }
    }
}

/// Reads a [`FileRange`] from start to end.
#[derive(Debug)]
pub struct FileRangeReader {
    range: FileRange,
    position: u64,
}

impl Read for FileRangeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.range.len - self.position;
        let wanted = buffer
            .len()
            .min(usize::try_from(left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let count = self
            .range
            .file
            .read_at(&mut buffer[..wanted], self.range.offset + self.position)?;
        if count == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!("the file ends {left} bytes before the blob does"),
            ));
        }
        self.position += count as u64;
        Ok(count)
    }
}

/// Where a blob's bytes are.
#[derive(Clone, Debug)]
pub enum Content {
    /// In a file: a layout's blob file, an archive's member, a spooled stream.
    File(FileRange),
    /// In memory: documents that smokegate read or made itself.
    Bytes(Arc<[u8]>),
    /// In the registry that described it, from which it was not fetched ([`crate::OpenOptions::absent_blobs`]).
    Absent,
}

/// Content with the digest, size and media type its descriptor gave it. Not verified until read to the end.
#[derive(Clone, Debug)]
pub struct Blob {
    digest: Digest,
    size: u64,
    media_type: String,
    content: Content,
}

impl Blob {
    /// A blob as its descriptor describes it. The caller has checked that `content` is `size` bytes long.
    pub fn new(digest: Digest, size: u64, media_type: String, content: Content) -> Self {
        Self {
            digest,
            size,
            media_type,
            content,
        }
    }

    /// The digest the bytes must have.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The size the bytes must have.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The media type of the descriptor.
    pub fn media_type(&self) -> &str {
        &self.media_type
    }

    /// Where the bytes are, for a process that is handed the file.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Opens the blob from its start. The reader fails at the end if size or digest differ.
    pub fn open(&self) -> VerifiedReader<Box<dyn Read + Send>> {
        let reader: Box<dyn Read + Send> = match &self.content {
            Content::File(range) => Box::new(range.reader()),
            Content::Bytes(bytes) => Box::new(io::Cursor::new(Arc::clone(bytes))),
            Content::Absent => Box::new(AbsentReader),
        };
        VerifiedReader::new(reader, self.digest.clone(), Some(self.size))
    }
}

/// What was not fetched cannot be read.
struct AbsentReader;

impl Read for AbsentReader {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::Error::new(
            io::ErrorKind::NotFound,
            "it was not fetched from its registry",
        ))
    }
}
