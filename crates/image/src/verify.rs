//! A reader that refuses to end well unless its bytes are the ones a digest names.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::{Digest, Hasher};

/// Hashes what passes through it, stops at the declared size, and answers an error of kind `InvalidData`
/// instead of end of file when size or digest differ. A reader that was not read to the end proves nothing.
#[derive(Debug)]
pub struct VerifiedReader<R> {
    inner: R,
    hasher: Option<Hasher>,
    expected: Digest,
    size: Option<u64>,
    read: u64,
    hashing: Duration,
}

impl<R: Read> VerifiedReader<R> {
    /// Wraps `inner`; without `size` only the digest is compared.
    pub fn new(inner: R, expected: Digest, size: Option<u64>) -> Self {
        let hasher = Some(Hasher::new(expected.algorithm()));
        Self {
            inner,
            hasher,
            expected,
            size,
            read: 0,
            hashing: Duration::ZERO,
        }
    }

    /// Whether the end was reached and everything matched.
    pub fn is_verified(&self) -> bool {
        self.hasher.is_none()
    }

    /// What of the time spent in it went into hashing.
    pub(crate) fn hashing(&self) -> Duration {
        self.hashing
    }

    fn mismatch(&self, what: String) -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: {what}", self.expected),
        )
    }

    fn finish(&mut self) -> io::Result<()> {
        let Some(hasher) = self.hasher.as_ref() else {
            return Ok(());
        };
        if let Some(size) = self.size.filter(|size| *size != self.read) {
            return Err(self.mismatch(format!(
                "size mismatch (got {}, expected {size})",
                self.read
            )));
        }
        let got = hasher.clone().finish();
        if got != self.expected {
            return Err(self.mismatch(format!("digest mismatch (got {got})")));
        }
        self.hasher = None;
        Ok(())
    }
}

impl<R: Read> Read for VerifiedReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let count = self.inner.read(buffer)?;
        if count == 0 {
            self.finish()?;
            return Ok(0);
        }
        self.read += count as u64;
        if let Some(size) = self.size.filter(|size| self.read > *size) {
            return Err(self.mismatch(format!("more than the {size} bytes its descriptor says")));
        }
        if let Some(hasher) = &mut self.hasher {
            let began = Instant::now();
            hasher.update(&buffer[..count]);
            self.hashing += began.elapsed();
        }
        Ok(count)
    }
}
