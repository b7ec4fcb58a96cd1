//! How a layer or a whole archive is compressed: told by its first bytes, never by its name.

use std::io::{self, BufReader, Read};

use crate::gzip::GzipDecoder;

/// A compression smokegate can undo.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Plain bytes.
    None,
    /// One or more gzip members (RFC 1952).
    Gzip,
    /// One or more zstd frames (RFC 8878).
    Zstd,
}

impl Compression {
    /// Recognises a stream by its magic number; four bytes are enough.
    pub fn sniff(first: &[u8]) -> Self {
        // A skippable frame (0x184D2A50 to 5F) may open a zstd stream: RFC 8878, 3.1.2.
        match first {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

/// Decompresses a stream to its end, all members or frames of it.
pub struct Decoder<R: Read>(Inner<R>);

enum Inner<R: Read> {
    None(R),
    Gzip(GzipDecoder<BufReader<R>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<R>>>),
}

impl<R: Read> Decoder<R> {
    /// Reads `inner`, compressed as `compression` says.
    ///
    /// # Errors
    /// When zstd cannot set up its context.
    pub fn new(inner: R, compression: Compression) -> io::Result<Self> {
        const BUFFER: usize = 256 * 1024;
        Ok(Self(match compression {
            Compression::None => Inner::None(inner),
            Compression::Gzip => {
                let buffered = BufReader::with_capacity(BUFFER, inner);
                Inner::Gzip(GzipDecoder::new(buffered))
            }
            Compression::Zstd => {
                let buffered = BufReader::with_capacity(BUFFER, inner);
                let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered)?;
                // 128 MiB: what every zstd decoder accepts (RFC 8878 asks for 8 MiB, `zstd` itself stops here
                // without `--long`). 2 GiB windows are legal but would let one layer take that much memory.
                decoder.window_log_max(27)?;
                Inner::Zstd(Box::new(decoder))
            }
        }))
    }

    /// What it reads from.
    pub(crate) fn get_ref(&self) -> &R {
        match &self.0 {
            Inner::None(inner) => inner,
            Inner::Gzip(decoder) => decoder.get_ref().get_ref(),
            Inner::Zstd(decoder) => decoder.get_ref().get_ref(),
        }
    }

    /// The compressed stream, to read what stands behind the last member.
    pub fn get_mut(&mut self) -> &mut dyn Read
    where
        R: Read,
    {
        match &mut self.0 {
            Inner::None(inner) => inner,
            Inner::Gzip(decoder) => decoder.get_mut(),
            Inner::Zstd(decoder) => decoder.get_mut(),
        }
    }
}

impl<R: Read> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Inner::None(inner) => inner.read(buffer),
            Inner::Gzip(decoder) => decoder.read(buffer),
            Inner::Zstd(decoder) => decoder.read(buffer),
        }
    }
}

impl<R: Read> std::fmt::Debug for Decoder<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match &self.0 {
            Inner::None(_) => "Decoder(none)",
            Inner::Gzip(_) => "Decoder(gzip)",
            Inner::Zstd(_) => "Decoder(zstd)",
        })
    }
}
