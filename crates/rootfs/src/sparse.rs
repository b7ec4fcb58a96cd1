//! Sparse files in every form GNU tar has written them (GNU tar manual, "Storing Sparse Files"): the old one in
//! the header itself, and 0.0, 0.1 and 1.0 in PAX records, of which 1.0 has its map before the data.

use std::io::BufRead;

use tar::Header;

use crate::entry::decimal;
use crate::tar_reader::{Extensions, TarReader, number};
use crate::{EntryProblem, Error, Limits};

const BAD_MAP: Problem = Problem::Entry(EntryProblem::BadHeader("sparse map"));

/// What a sparse file looks like when its holes are filled.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct SparseMap {
    /// Apparent size.
    pub(crate) size: u64,
    /// Offset and length of each piece of data, ascending.
    pub(crate) pieces: Vec<(u64, u64)>,
}

/// What is wrong with a map: told about the entry, or of the stream it is in.
#[derive(Debug)]
pub(crate) enum Problem {
    Entry(EntryProblem),
    Stream(Error),
}

impl Problem {
    pub(crate) fn of(self, name: &[u8]) -> Error {
        match self {
            Self::Entry(problem) => Error::entry(name, problem),
            Self::Stream(error) => error,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// Versions 0.0 and 0.1.
    Records,
    /// Version 1.0.
    InData,
}

/// The form that PAX records announce; versions 0.0 and 0.1 need not say their number.
fn form(extensions: &Extensions) -> Result<Option<Form>, Problem> {
    let version = (
        extensions.pax(b"GNU.sparse.major"),
        extensions.pax(b"GNU.sparse.minor"),
    );
    let has_map = extensions.pax(b"GNU.sparse.map").is_some() || !extensions.sparse.is_empty();
    match version {
        (Some(b"1"), Some(b"0")) => Ok(Some(Form::InData)),
        (Some(b"0"), Some(b"0" | b"1")) => Ok(Some(Form::Records)),
        (None, None) => Ok(has_map.then_some(Form::Records)),
        _ => Err(Problem::Entry(EntryProblem::BadHeader("sparse version"))),
    }
}

/// The file's name, where it is a sparse one: its header has an invented one for readers that know no better.
pub(crate) fn name(extensions: &Extensions) -> Option<&[u8]> {
    form(extensions).ok().flatten()?;
    extensions.pax(b"GNU.sparse.name")
}

/// The map of the entry whose header was just read and whose data, of `stored` bytes, comes next; `None` if it is
/// not sparse. Afterwards the data is that of the pieces.
pub(crate) fn read<R: BufRead>(
    tar: &mut TarReader<R>,
    header: &Header,
    extensions: &Extensions,
    stored: u64,
    limits: &Limits,
) -> Result<Option<SparseMap>, Problem> {
    let entry_type = header.as_bytes()[156];
    let mut data = stored;
    let map = match (entry_type, form(extensions)?) {
        (b'S', None) => {
            let map = old(tar, header, limits)?;
            tar.set_size(stored);
            map
        }
        (_, None) => return Ok(None),
        (b'0' | 0 | b'7', Some(form)) => {
            let size = extensions
                .pax(b"GNU.sparse.size")
                .or_else(|| extensions.pax(b"GNU.sparse.realsize"));
            let size = match size {
                Some(size) => decimal(size).ok_or(BAD_MAP)?,
                None => stored,
            };
            let pieces = match form {
                Form::Records => records(extensions)?,
                Form::InData => {
                    let (pieces, taken) = in_data(tar, limits)?;
                    data = stored.checked_sub(taken).ok_or(BAD_MAP)?;
                    pieces
                }
            };
            SparseMap { size, pieces }
        }
        _ => return Err(BAD_MAP),
    };
    check(&map, data)?;
    Ok(Some(map))
}

/// Pieces ascend, end within the file, and are as long together as the data.
fn check(map: &SparseMap, data: u64) -> Result<(), Problem> {
    let (mut end, mut total) = (0, 0u64);
    for (offset, length) in &map.pieces {
        if *offset < end {
            return Err(BAD_MAP);
        }
        end = offset.checked_add(*length).ok_or(BAD_MAP)?;
        // No more than `end`, as they do not overlap.
        total += length;
    }
    if end > map.size || total != data {
        return Err(BAD_MAP);
    }
    Ok(())
}

/// Four pieces in the header, 21 in each block that follows while its flag is set.
fn old<R: BufRead>(
    tar: &mut TarReader<R>,
    header: &Header,
    limits: &Limits,
) -> Result<SparseMap, Problem> {
    const PIECE: usize = 24;
    let unsigned = |bytes: &[u8]| {
        let value = number(bytes).and_then(|value| u64::try_from(value).ok());
        value.ok_or(BAD_MAP)
    };
    let bytes = header.as_bytes();
    let size = unsigned(&bytes[483..495])?;
    let mut pieces = Vec::new();
    let mut take = |block: &[u8]| -> Result<(), Problem> {
        for piece in block.chunks_exact(PIECE).take_while(|piece| piece[0] != 0) {
            pieces.push((unsigned(&piece[..12])?, unsigned(&piece[12..])?));
        }
        Ok(())
    };
    take(&bytes[386..386 + 4 * PIECE])?;
    let mut more = bytes[482] != 0;
    let mut read = 0;
    while more {
        let block = tar.sparse_block().map_err(Problem::Stream)?;
        read += block.len() as u64;
        within(read, limits)?;
        take(&block[..21 * PIECE])?;
        more = block[504] != 0;
    }
    Ok(SparseMap { size, pieces })
}

/// One record of all numbers with commas between them (0.1), or one for each (0.0).
fn records(extensions: &Extensions) -> Result<Vec<(u64, u64)>, Problem> {
    let numbers: Vec<&[u8]> = if extensions.sparse.is_empty() {
        let map = extensions.pax(b"GNU.sparse.map").unwrap_or_default();
        map.split(|byte| *byte == b',')
            .filter(|_| !map.is_empty())
            .collect()
    } else {
        extensions.sparse.iter().map(Vec::as_slice).collect()
    };
    let count = extensions.pax(b"GNU.sparse.numblocks").map(decimal);
    if count.is_some_and(|count| count != Some((numbers.len() / 2) as u64)) {
        return Err(BAD_MAP);
    }
    pairs(&numbers)
}

fn pairs(numbers: &[&[u8]]) -> Result<Vec<(u64, u64)>, Problem> {
    if !numbers.len().is_multiple_of(2) {
        return Err(BAD_MAP);
    }
    let number = |text: &[u8]| decimal(text).ok_or(BAD_MAP);
    let pairs = numbers.chunks_exact(2);
    pairs
        .map(|pair| Ok((number(pair[0])?, number(pair[1])?)))
        .collect()
}

/// Decimal numbers, each with a newline behind it, filled up to a whole block: how many pieces, then the pieces.
/// Answers them and the bytes they took.
fn in_data<R: BufRead>(
    tar: &mut TarReader<R>,
    limits: &Limits,
) -> Result<(Vec<(u64, u64)>, u64), Problem> {
    let mut text = Vec::new();
    let mut newlines = 0u64;
    let mut wanted = None;
    while wanted.is_none_or(|wanted| newlines < wanted) {
        let block = tar.data_block().map_err(Problem::Stream)?;
        newlines += block.iter().filter(|byte| **byte == b'\n').count() as u64;
        text.extend_from_slice(&block);
        within(text.len() as u64, limits)?;
        if wanted.is_none() && newlines > 0 {
            let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let count = decimal(first).and_then(|count| count.checked_mul(2)?.checked_add(1));
            wanted = Some(count.ok_or(BAD_MAP)?);
        }
    }
    let numbers = text.split(|byte| *byte == b'\n');
    // One element more than newlines, and both fit in memory by now.
    let wanted = usize::try_from(wanted.unwrap_or(1)).unwrap_or(usize::MAX);
    let numbers: Vec<&[u8]> = numbers.take(wanted).skip(1).collect();
    Ok((pairs(&numbers)?, text.len() as u64))
}

fn within(bytes: u64, limits: &Limits) -> Result<(), Problem> {
    if bytes <= limits.header_bytes {
        return Ok(());
    }
    Err(Problem::Entry(EntryProblem::Limit {
        what: "its sparse map",
        limit: limits.header_bytes,
    }))
}
