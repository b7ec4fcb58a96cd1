//! The blocks of a tar stream (POSIX.1-2024 pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format").
//!
//! File data is lent out of the source's own buffer, so that between there and the file nothing is copied.
//! The `tar` crate's own iterator is not used: it splits PAX records at newlines, which attribute values may
//! hold, and reads extended headers of any size into memory.

use std::collections::BTreeMap;
use std::io::{self, BufRead};

use tar::Header;

use crate::{EntryProblem, Error, Limits};

const BLOCK: usize = 512;

/// Keys and values, any bytes.
pub(crate) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Extended headers that came before a header and describe the same entry.
#[derive(Debug, Default)]
pub(crate) struct Extensions {
    /// PAX records; of two with one key the later counts.
    pub(crate) pax: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The records of the sparse format 0.0, whose keys repeat, in their order: offset and length by turns.
    pub(crate) sparse: Vec<Vec<u8>>,
    pub(crate) long_name: Option<Vec<u8>>,
    pub(crate) long_link: Option<Vec<u8>>,
}

impl Extensions {
    /// Value of the PAX record of this key; an empty one takes back what the header says.
    pub(crate) fn pax(&self, key: &[u8]) -> Option<&[u8]> {
        let value = self.pax.get(key).map(Vec::as_slice);
        value.filter(|value| !value.is_empty())
    }
}

/// Reads headers and data alternately.
pub(crate) struct TarReader<R> {
    inner: R,
    /// Bytes of `inner` that were lent out, to be consumed before anything else is read.
    lent: usize,
    /// Bytes read, those that are lent included: where in the stream the reader stands.
    offset: u64,
    /// Of the current entry: data not lent out yet, and the padding behind it.
    data: u64,
    padding: u64,
    total_limit: u64,
    header_limit: u64,
}

impl<R: BufRead> TarReader<R> {
    pub(crate) fn new(inner: R, limits: &Limits) -> Self {
        Self {
            inner,
            lent: 0,
            offset: 0,
            data: 0,
            padding: 0,
            total_limit: limits.total_bytes,
            header_limit: limits.header_bytes,
        }
    }

    fn broken(&self, what: &'static str) -> Error {
        Error::Tar {
            offset: self.offset,
            what,
        }
    }

    /// How many bytes can be had now; 0 at the end of the stream.
    fn available(&mut self) -> Result<usize, Error> {
        self.inner.consume(std::mem::take(&mut self.lent));
        let available = loop {
            match self.inner.fill_buf() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result.map_err(Error::Read)?.len(),
            }
        };
        if self.offset + available as u64 > self.total_limit {
            return Err(self.broken("the uncompressed layer is over the limit on its total size"));
        }
        Ok(available)
    }

    /// Lends the next bytes, at most `count`, which [`TarReader::available`] has said to be there.
    fn lend(&mut self, count: usize) -> Result<&[u8], Error> {
        let bytes = self.inner.fill_buf().map_err(Error::Read)?;
        let count = count.min(bytes.len());
        self.lent = count;
        self.offset += count as u64;
        Ok(&bytes[..count])
    }

    /// One block, or `None` where the stream ends on a block boundary.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            if self.available()? == 0 {
                if have == 0 {
                    return Ok(None);
                }
                self.offset -= have as u64;
                return Err(self.broken("it ends within a header"));
            }
            let bytes = self.lend(BLOCK - have)?;
            block[have..have + bytes.len()].copy_from_slice(bytes);
            have += bytes.len();
        }
        Ok(Some(block))
    }

    /// The next bytes of the current entry's data, empty at its end.
    pub(crate) fn data(&mut self) -> Result<&[u8], Error> {
        if self.data == 0 {
            return Ok(&[]);
        }
        let available = self.available()?;
        if available == 0 {
            return Err(self.broken("it ends within a file"));
        }
        let count = available.min(usize::try_from(self.data).unwrap_or(usize::MAX));
        self.data -= count as u64;
        self.lend(count)
    }

    fn finish_entry(&mut self) -> Result<(), Error> {
        while !self.data()?.is_empty() {}
        self.data = std::mem::take(&mut self.padding);
        while !self.data()?.is_empty() {}
        Ok(())
    }

    /// Says how much data follows the header just read.
    pub(crate) fn set_size(&mut self, size: u64) {
        self.data = size;
        self.padding = size.wrapping_neg() % BLOCK as u64;
    }

    /// Goes to the next entry; `None` at the end of the archive. The data of the entry before is skipped.
    /// Only after [`TarReader::set_size`] is its data readable.
    pub(crate) fn next_header(&mut self) -> Result<Option<(Header, Extensions)>, Error> {
        self.finish_entry()?;
        let mut extensions = Extensions::default();
        let mut budget = self.header_limit;
        loop {
            let Some(block) = self.block()? else {
                return Ok(None);
            };
            // Two zero blocks close an archive, or one and the end. One between entries would hide them from some
            // readers only; Go's archive/tar refuses it too.
            if is_zero(&block) {
                return match self.block()? {
                    Some(next) if !is_zero(&next) => {
                        Err(self.broken("something follows a lone zero block"))
                    }
                    _ => Ok(None),
                };
            }
            let header = Header::from_byte_slice(&block).clone();
            self.check(&header)?;
            match header.as_bytes()[156] {
                // A second one replaces the first, as in Go's archive/tar.
                b'x' => {
                    let bytes = self.extension(&header, &mut budget)?;
                    (extensions.pax, extensions.sparse) = self.records(&bytes)?;
                }
                // Docker and containerd ignore them (containerd, pkg/archive/tar.go, `TypeXGlobalHeader`).
                b'g' => {
                    let bytes = self.extension(&header, &mut budget)?;
                    self.records(&bytes)?;
                }
                b'L' => {
                    extensions.long_name = Some(c_string(self.extension(&header, &mut budget)?));
                }
                b'K' => {
                    extensions.long_link = Some(c_string(self.extension(&header, &mut budget)?));
                }
                _ => return Ok(Some((header, extensions))),
            }
        }
    }

    /// A block of a GNU sparse map that goes on behind the header.
    pub(crate) fn sparse_block(&mut self) -> Result<[u8; BLOCK], Error> {
        self.block()?
            .ok_or_else(|| self.broken("it ends within a sparse map"))
    }

    /// A block of the current entry's data.
    pub(crate) fn data_block(&mut self) -> Result<[u8; BLOCK], Error> {
        let Some(left) = self.data.checked_sub(BLOCK as u64) else {
            return Err(self.broken("a sparse map is longer than its entry"));
        };
        let block = self.sparse_block()?;
        self.data = left;
        Ok(block)
    }

    /// Reads what is left behind the end mark, so that a verifying reader comes to its verdict.
    pub(crate) fn drain(&mut self) -> Result<(), Error> {
        loop {
            let available = self.available()?;
            if available == 0 {
                return Ok(());
            }
            self.lend(available)?;
        }
    }

    fn check(&self, header: &Header) -> Result<(), Error> {
        let bytes = header.as_bytes();
        let outside = || bytes[..148].iter().chain(&bytes[156..]);
        let stored = number(&bytes[148..156]);
        let blanks = 8 * u32::from(b' ');
        let sum = outside().map(|byte| u32::from(*byte)).sum::<u32>() + blanks;
        if stored == Some(i64::from(sum)) {
            return Ok(());
        }
        // Some old tars summed signed bytes.
        let signed = outside().map(|byte| i64::from(byte.cast_signed()));
        if stored == Some(signed.sum::<i64>() + i64::from(blanks)) {
            return Ok(());
        }
        Err(self.broken("header checksum mismatch"))
    }

    fn extension(&mut self, header: &Header, budget: &mut u64) -> Result<Vec<u8>, Error> {
        let size = number(&header.as_old().size).and_then(|size| u64::try_from(size).ok());
        let size = size.ok_or_else(|| self.broken("bad size of an extended header"))?;
        // Headers count too: there may be no end of empty ones.
        let cost = size.saturating_add(BLOCK as u64);
        *budget = budget.checked_sub(cost).ok_or_else(|| {
            let problem = EntryProblem::Limit {
                what: "its extended header",
                limit: self.header_limit,
            };
            Error::entry(&header.path_bytes(), problem)
        })?;
        self.set_size(size);
        let mut bytes = Vec::new();
        loop {
            let data = self.data()?;
            if data.is_empty() {
                break;
            }
            bytes.extend_from_slice(data);
        }
        self.finish_entry()?;
        Ok(bytes)
    }

    /// `LENGTH KEY=VALUE\n`, the length counting all of it in decimal.
    fn records(&self, mut bytes: &[u8]) -> Result<Records, Error> {
        let (mut records, mut sparse) = (BTreeMap::new(), Vec::new());
        while !bytes.is_empty() {
            let parsed = (|| {
                let space = bytes.iter().take(20).position(|byte| *byte == b' ')?;
                let length: usize = std::str::from_utf8(&bytes[..space]).ok()?.parse().ok()?;
                let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
                let equals = record.iter().position(|byte| *byte == b'=')?;
                Some((
                    length,
                    record[..equals].to_vec(),
                    record[equals + 1..].to_vec(),
                ))
            })();
            let Some((length, key, value)) = parsed else {
                return Err(self.broken("malformed extended header"));
            };
            bytes = &bytes[length..];
            match key.as_slice() {
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                    if (sparse.len() % 2 == 0) != (key == b"GNU.sparse.offset") {
                        return Err(self.broken("malformed extended header"));
                    }
                    sparse.push(value);
                }
                _ => {
                    records.insert(key, value);
                }
            }
        }
        Ok((records, sparse))
    }
}

/// PAX records by key, and those of the sparse format 0.0 in order.
type Records = (BTreeMap<Vec<u8>, Vec<u8>>, Vec<Vec<u8>>);

fn is_zero(block: &[u8]) -> bool {
    block.iter().all(|byte| *byte == 0)
}

fn c_string(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(nul) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(nul);
    }
    bytes
}

/// A numeric field: octal digits between blanks and NULs, or GNU's base 256 in two's complement.
pub(crate) fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let first = if negative {
            i128::from(field[0]) - 0x100
        } else {
            i128::from(field[0] & 0x7f)
        };
        let value = field[1..].iter().try_fold(first, |value, byte| {
            value
                .checked_mul(256)
                .map(|value| value + i128::from(*byte))
        })?;
        return i64::try_from(value).ok();
    }
    let end = field
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(field.len());
    let digits = field[..end].trim_ascii();
    digits.iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let cases: [(&[u8], Option<i64>); 8] = [
            (b"0000644\0", Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"00008\0\0\0", None),
            (b"\x80\0\0\0\x00\x98\x96\x80", Some(10_000_000)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff", Some(-1)),
            (b"\x80\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff", None),
        ];
        for (field, expected) in cases {
            assert_eq!(number(field), expected, "{field:?}");
        }
    }
}
