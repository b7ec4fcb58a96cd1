//! What is kept of an ELF file that streams by: its headers and its tables, but neither code nor constants behind it.

use std::cell::Cell;
use std::ops::Range;

use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadRef, elf};

/// How much of one file is kept at most, and of its dynamic section where that is behind so much. The tables of names and
/// versions stand before what is long.
pub(crate) const MOST: usize = 16 << 20;
/// How much memory is kept from one file to the next: most need less.
const ROOM: usize = 4 << 20;
/// The largest dynamic section that is kept behind the rest.
const MAX_DYNAMIC: u64 = 1 << 20;
/// Linkers make one or two segments of code, and one of constants behind it; of a file with more of them all is kept.
const MAX_BULK: usize = 16;
/// Of each this much is kept: linkers that make no segment of their own for what is only read put tables before the code.
const TABLES: u64 = 1 << 20;
/// While it is not known what is needed, that is asked after so many bytes.
const STEP: u64 = 64 << 10;
/// A file of which only some bytes are known.
#[derive(Debug, Default)]
pub(crate) struct ElfStream {
    bytes: Vec<u8>,
    pieces: Vec<Piece>,
    /// How much of the file has come by.
    position: u64,
    /// Known as soon as the program headers are.
    plan: Option<Plan>,
    /// Whether something was looked for that came by and was not kept, or was not waited for.
    missed: Cell<bool>,
}

/// Bytes that follow each other in the file and in memory.
#[derive(Debug)]
struct Piece {
    /// Where they are in the file.
    offset: u64,
    /// Where they are in memory.
    start: usize,
    length: usize,
}

/// What of a file is needed.
#[derive(Debug)]
struct Plan {
    dynamic: Range<u64>,
    /// Machine code and constants, behind what tables may be before them.
    bulk: Vec<Range<u64>>,
    /// From here on there is nothing but what debuggers read.
    end: u64,
}

impl ElfStream {
    /// Begins another file.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(ROOM);
        self.pieces.clear();
        self.position = 0;
        self.plan = None;
        self.missed.set(false);
    }

    /// Takes the next bytes of the file.
    pub(crate) fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (keep, until) = self.next();
            let count = usize::try_from(until - self.position).unwrap_or(usize::MAX);
            let (these, rest) = bytes.split_at(count.min(bytes.len()));
            if keep {
                self.keep(these);
            }
            self.position += these.len() as u64;
            bytes = rest;
            if self.plan.is_none() {
                self.plan = match self.class() {
                    Some(elf::ELFCLASS32) => Plan::of::<elf::FileHeader32<Endianness>>(self),
                    Some(elf::ELFCLASS64) => Plan::of::<elf::FileHeader64<Endianness>>(self),
                    _ => None,
                };
                self.forget_missed();
            }
        }
    }

    /// Whether the rest of the file has nothing of interest.
    pub(crate) fn is_done(&self) -> bool {
        match &self.plan {
            Some(plan) if self.is_full() => self.position >= plan.dynamic.end.min(plan.end),
            Some(plan) => self.position >= plan.end,
            None => self.is_full(),
        }
    }

    /// Whether what could not be read may well be in the file.
    pub(crate) fn has_missed(&self) -> bool {
        self.missed.get()
    }

    /// Has what was missed until now count no more.
    pub(crate) fn forget_missed(&self) {
        self.missed.set(false);
    }

    /// The fifth byte of the file.
    pub(crate) fn class(&self) -> Option<elf::FileClass> {
        let class = self.read_bytes_at(4, 1).ok()?;
        Some(elf::FileClass(class[0]))
    }

    /// Whether the next bytes are kept, and up to where that holds.
    fn next(&self) -> (bool, u64) {
        let at = self.position;
        let full = at + MOST.saturating_sub(self.bytes.len()) as u64;
        let Some(plan) = &self.plan else {
            return if self.is_full() {
                (false, u64::MAX)
            } else {
                (true, full.min(at + STEP))
            };
        };
        if plan.dynamic.contains(&at) {
            return (true, plan.dynamic.end);
        }
        // Whatever is decided holds at most until there.
        let next_dynamic = Some(plan.dynamic.start).filter(|start| *start > at);
        let until = |other: u64| next_dynamic.map_or(other, |start| start.min(other));
        if at >= plan.end || self.is_full() {
            return (false, until(u64::MAX));
        }
        if let Some(bulk) = plan.bulk.iter().find(|bulk| bulk.contains(&at)) {
            return (false, until(bulk.end));
        }
        let starts = plan.bulk.iter().map(|bulk| bulk.start);
        let next_bulk = starts.filter(|start| *start > at).min();
        let end = next_bulk.unwrap_or(u64::MAX).min(plan.end).min(full);
        (true, until(end))
    }

    /// Bytes that are kept.
    #[cfg(test)]
    pub(crate) fn kept(&self) -> usize {
        self.bytes.len()
    }

    fn is_full(&self) -> bool {
        self.bytes.len() >= MOST
    }

    fn keep(&mut self, bytes: &[u8]) {
        match self.pieces.last_mut() {
            Some(last) if last.offset + last.length as u64 == self.position => {
                last.length += bytes.len();
            }
            _ => self.pieces.push(Piece {
                offset: self.position,
                start: self.bytes.len(),
                length: bytes.len(),
            }),
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// What is kept from `offset` on.
    fn from(&self, offset: u64) -> &[u8] {
        let pieces = self.pieces.iter().rev();
        let piece = pieces.into_iter().find(|piece| piece.offset <= offset);
        let found = piece.and_then(|piece| {
            let skipped = usize::try_from(offset - piece.offset).ok()?;
            let bytes = &self.bytes[piece.start..piece.start + piece.length];
            bytes.get(skipped..)
        });
        found.unwrap_or(&[])
    }

    /// Takes note of something that is not kept up to `end`. What is behind all segments, or behind the end of the file, is
    /// not missed.
    fn miss(&self, end: u64) {
        if end <= self.position || self.is_full() {
            self.missed.set(true);
        }
    }
}

impl Plan {
    fn of<H: FileHeader<Endian = Endianness>>(kept: &ElfStream) -> Option<Self> {
        let header = H::parse(kept).ok()?;
        let endian = header.endian().ok()?;
        let segments = header.program_headers(endian, kept).ok()?;
        let range = |segment: &H::ProgramHeader| {
            let (offset, size) = segment.file_range(endian);
            offset..offset.saturating_add(size)
        };
        let find = |kind| segments.iter().find(|s| s.p_type(endian) == kind);
        let dynamic = find(elf::PT_DYNAMIC).map(range);
        // Without it only what the kernel reads is of interest.
        let read = segments.iter().filter(|segment| {
            dynamic.is_some() || matches!(segment.p_type(endian), elf::PT_INTERP | elf::PT_NOTE)
        });
        let end = read.map(|segment| range(segment).end).max();
        let loaded = |segment: &&H::ProgramHeader| segment.p_type(endian) == elf::PT_LOAD;
        let has = |segment: &H::ProgramHeader, flag: elf::ProgramFlags| {
            segment.p_flags(endian).0 & flag.0 != 0
        };
        // What the kernel reads is small, and kept wherever it is.
        let small = segments
            .iter()
            .filter(|segment| matches!(segment.p_type(endian), elf::PT_INTERP | elf::PT_NOTE));
        let small: Vec<Range<u64>> = small.map(range).collect();
        // Where a segment that is only read comes first, and has more than the headers and these, the tables are in it,
        // and such a segment behind the code has constants. Go's linker begins with code, and has its tables behind the
        // constants.
        let headers = header.e_phoff(endian).into();
        let headers = headers.saturating_add(size_of_val(segments) as u64);
        let first = segments.iter().find(loaded);
        let tables_first = first.is_some_and(|segment| {
            let end = range(segment).end;
            let ends = small.iter().map(|one| one.end).filter(|one| *one <= end);
            let only_read = !has(segment, elf::PF_X) && !has(segment, elf::PF_W);
            only_read && end > ends.fold(headers, u64::max)
        });
        let mut behind_code = false;
        let bulk = segments.iter().filter(loaded).filter(|segment| {
            let executable = has(segment, elf::PF_X);
            let constants = tables_first && behind_code && !has(segment, elf::PF_W);
            behind_code |= executable;
            (executable || constants) && range(segment).start > 0
        });
        let behind_tables = |segment: &H::ProgramHeader| {
            let range = range(segment);
            let start = range.start.saturating_add(TABLES);
            let ahead = small.iter().filter(|one| one.end > start);
            let next_small = ahead.map(|one| one.start.max(start)).min();
            start..next_small.unwrap_or(u64::MAX).min(range.end)
        };
        let mut bulk: Vec<_> = bulk.collect();
        if bulk.len() > MAX_BULK {
            bulk.clear();
        }
        let is_bounded = |range: &Range<u64>| range.end - range.start <= MAX_DYNAMIC;
        Some(Self {
            dynamic: dynamic.filter(is_bounded).unwrap_or(0..0),
            bulk: bulk.into_iter().map(behind_tables).collect(),
            end: end.unwrap_or(0),
        })
    }
}

impl<'a> ReadRef<'a> for &'a ElfStream {
    fn len(self) -> Result<u64, ()> {
        Ok(self.position)
    }

    fn read_bytes_at(self, offset: u64, size: u64) -> Result<&'a [u8], ()> {
        let size_here = usize::try_from(size).map_err(|_| ())?;
        self.from(offset).get(..size_here).ok_or_else(|| {
            self.miss(offset.saturating_add(size));
        })
    }

    fn read_bytes_at_until(self, range: Range<u64>, end: u8) -> Result<&'a [u8], ()> {
        let length = range.end.saturating_sub(range.start);
        let bytes = self.from(range.start);
        let bytes = &bytes[..bytes
            .len()
            .min(usize::try_from(length).unwrap_or(usize::MAX))];
        if let Some(found) = bytes.iter().position(|byte| *byte == end) {
            return Ok(&bytes[..found]);
        }
        if (bytes.len() as u64) < length {
            self.miss(range.end);
        }
        Err(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_kept_than_said_of_a_file_without_end() {
        // The header of an ELF file, and then nothing that makes sense.
        for first in [
            &b"\x7fELF\x02\x01\x01"[..],
            b"\x7fELF\x01\x01\x01",
            b"\x7fELF\x09",
        ] {
            let mut file = ElfStream::default();
            file.push(first);
            for _ in 0..3 * MOST / (1 << 20) {
                file.push(&vec![0xa5; 1 << 20]);
            }
            assert!(file.bytes.len() <= MOST, "{}", file.bytes.len());
            assert!(file.is_done());
            file.clear();
            assert!(file.bytes.capacity() <= ROOM);
        }
    }
}
