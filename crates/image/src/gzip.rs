//! Inflates gzip (RFC 1952), all members of a stream, into the caller's buffer.
//!
//! zlib-rs is called directly (docs/decisions/0019-unpacking-in-stages.md).

use std::io::{self, BufRead, Read};

use zlib_rs::{Inflate, InflateFlush, Status};

/// zlib's way to say: a gzip header and trailer, both checked, and a window of 32 KiB.
const GZIP: u8 = 16 + 15;

/// Reads to the end of the last member. Whatever follows it must be another one.
pub(crate) struct GzipDecoder<R> {
    inner: R,
    /// None between two members.
    member: Option<Inflate>,
    members: u64,
}

impl<R: BufRead> GzipDecoder<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self {
            inner,
            member: None,
            members: 0,
        }
    }

    /// The compressed stream, not to be read from.
    pub(crate) fn get_ref(&self) -> &R {
        &self.inner
    }

    /// The compressed stream.
    pub(crate) fn get_mut(&mut self) -> &mut R {
        &mut self.inner
    }
}

impl<R: BufRead> Read for GzipDecoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let input = self.inner.fill_buf()?;
            if input.is_empty() && self.member.is_none() && self.members > 0 {
                return Ok(0);
            }
            let ended = input.is_empty();
            let members = &mut self.members;
            let member = self.member.get_or_insert_with(|| {
                *members += 1;
                Inflate::new(true, GZIP)
            });
            let (taken, given) = (member.total_in(), member.total_out());
            let status = member
                .decompress(input, buffer, InflateFlush::NoFlush)
                .map_err(|error| {
                    let what = member.error_message().unwrap_or(error.as_str());
                    io::Error::new(io::ErrorKind::InvalidInput, what)
                })?;
            // Both are no more than what was passed in.
            let taken = (member.total_in() - taken) as usize;
            let given = (member.total_out() - given) as usize;
            if status == Status::StreamEnd {
                self.member = None;
            }
            self.inner.consume(taken);
            if given > 0 {
                return Ok(given);
            }
            if ended && status != Status::StreamEnd {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}
