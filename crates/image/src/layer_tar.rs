//! A layer's uncompressed tar stream, believed only at its end.

use std::io::{self, Read};
use std::time::{Duration, Instant};

use crate::{
    Blob, Compression, Content, Decoder, DiffId, Digest, Hasher, Layer, LayerDigest, Limits,
    StageClock, StageTimes, VerifiedReader,
};

/// Reads a layer's tar stream. Its end is reported only after the stored bytes were seen to have the layer's
/// size and digest and the uncompressed bytes its diff_id; until then nothing that was read is verified.
///
/// A tar reader stops at the archive's end marker, before the end of the stream: call [`LayerTar::finish`].
#[derive(Debug)]
pub struct LayerTar {
    decoder: Decoder<VerifiedReader<Box<dyn Read + Send>>>,
    digest: LayerDigest,
    compression: Compression,
    diff_id: DiffId,
    /// Absent where the stored bytes are the tar stream and one hash serves both.
    hasher: Option<Hasher>,
    produced: u64,
    maximum: u64,
    state: State,
    clock: Option<StageClock>,
    /// Spent in the decoder, and what it reads from.
    decoding: Duration,
    /// Spent on the hash of what was decoded.
    hashing: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reading,
    Verified,
    Failed,
}

impl Layer {
    /// Opens the layer's tar stream from its start, within the default limits.
    ///
    /// # Errors
    /// When a decompressor cannot be set up.
    pub fn open_tar(&self) -> io::Result<LayerTar> {
        self.open_tar_within(&Limits::default())
    }

    /// Opens the layer's tar stream from its start.
    ///
    /// # Errors
    /// When a decompressor cannot be set up.
    pub fn open_tar_within(&self, limits: &Limits) -> io::Result<LayerTar> {
        LayerTar::new(
            self.blob.content().clone(),
            LayerDigest(self.blob.digest().clone()),
            self.blob.size(),
            self.diff_id.clone(),
            self.compression,
            limits,
        )
    }
}

impl LayerTar {
    /// A stream over `content`, from what another process told about the layer.
    ///
    /// # Errors
    /// When a decompressor cannot be set up.
    pub fn new(
        content: Content,
        digest: LayerDigest,
        size: u64,
        diff_id: DiffId,
        compression: Compression,
        limits: &Limits,
    ) -> io::Result<Self> {
        let stored = Blob::new(digest.0.clone(), size, String::new(), content).open();
        let one_hash = compression == Compression::None && digest.0 == diff_id.0;
        let maximum = match compression {
            Compression::None => limits.layer_bytes,
            Compression::Gzip | Compression::Zstd => limits.layer_maximum(size),
        };
        Ok(Self {
            decoder: Decoder::new(stored, compression)?,
            hasher: (!one_hash).then(|| Hasher::new(diff_id.0.algorithm())),
            digest,
            compression,
            diff_id,
            produced: 0,
            maximum,
            state: State::Reading,
            clock: None,
            decoding: Duration::ZERO,
            hashing: Duration::ZERO,
        })
    }

    /// Has the time that reading takes added to `clock`, when the end was reached.
    pub fn timed(mut self, clock: StageClock) -> Self {
        self.clock = Some(clock);
        self
    }

    /// Whether the end was reached and everything matched.
    pub fn is_verified(&self) -> bool {
        self.state == State::Verified
    }

    /// Uncompressed bytes read so far.
    pub fn bytes_read(&self) -> u64 {
        self.produced
    }

    /// Reads what is left and verifies the whole.
    ///
    /// # Errors
    /// Of kind `InvalidData` when digest, size or diff_id differ or the stream is damaged; else what the
    /// file answers.
    pub fn finish(mut self) -> io::Result<()> {
        let mut rest = vec![0; 128 * 1024];
        while self.read(&mut rest)? > 0 {}
        Ok(())
    }

    /// Takes out what hashes the uncompressed bytes: then the end says nothing of the diff_id, and the caller
    /// hashes and [compares](LayerTar::compare).
    pub(crate) fn take_hasher(&mut self) -> Option<Hasher> {
        self.hasher.take()
    }

    pub(crate) fn clock(&self) -> Option<StageClock> {
        self.clock.clone()
    }

    /// Whether the uncompressed bytes are those of the diff_id.
    pub(crate) fn compare(&self, got: &Digest) -> io::Result<()> {
        let expected = &self.diff_id;
        if *got == expected.0 {
            return Ok(());
        }
        Err(self.invalid(format!("diff_id mismatch (got {got}, expected {expected})")))
    }

    fn invalid(&self, what: String) -> io::Error {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("layer {}: {what}", self.digest),
        )
    }

    /// The decoder's complaint; or, where the stored bytes are not those the digest names, that cause of it.
    fn damaged(&mut self, error: io::Error) -> io::Error {
        if error.raw_os_error().is_some() || self.compression == Compression::None {
            return error;
        }
        if let Err(cause) = drain(self.decoder.get_mut()) {
            return cause;
        }
        let name = match self.compression {
            Compression::Zstd => "zstd",
            Compression::Gzip | Compression::None => "gzip",
        };
        self.invalid(format!(
            "its {name} stream is damaged, or something else follows it, after {} bytes of tar: {error}",
            self.produced
        ))
    }

    fn advance(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let began = Instant::now();
        let read = self.decoder.read(buffer);
        self.decoding += began.elapsed();
        let count = match read {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => return Err(self.damaged(error)),
        };
        if count == 0 {
            // The decoder may have seen its end before the file's.
            drain(self.decoder.get_mut())?;
            if let Some(hasher) = self.hasher.take() {
                self.compare(&hasher.finish())?;
            }
            self.state = State::Verified;
            if let Some(clock) = &self.clock {
                let of_blob = self.decoder.get_ref().hashing();
                clock.add(StageTimes {
                    inflate: self.decoding.saturating_sub(of_blob),
                    verify: of_blob + self.hashing,
                    write: Duration::ZERO,
                });
            }
            return Ok(0);
        }
        self.produced += count as u64;
        if self.produced > self.maximum {
            let maximum = self.maximum;
            return Err(self.invalid(format!(
                "it decompresses to more than {maximum} bytes, which looks like a decompression bomb"
            )));
        }
        if let Some(hasher) = &mut self.hasher {
            let began = Instant::now();
            hasher.update(&buffer[..count]);
            self.hashing += began.elapsed();
        }
        Ok(count)
    }
}

impl Read for LayerTar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.state {
            State::Reading if !buffer.is_empty() => {}
            State::Failed => return Err(self.invalid("it was found damaged before".to_owned())),
            State::Reading | State::Verified => return Ok(0),
        }
        let result = self.advance(buffer);
        if result
            .as_ref()
            .is_err_and(|error| error.kind() != io::ErrorKind::Interrupted)
        {
            self.state = State::Failed;
        }
        result
    }
}

fn drain(reader: &mut dyn Read) -> io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
