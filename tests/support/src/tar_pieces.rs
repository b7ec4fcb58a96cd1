//! Tar files taken apart between entries, and put together in other sizes.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

const BLOCK: u64 = 512;

/// Where the entries of some tars are, each with the extended headers before it.
#[derive(Clone, Debug)]
pub struct TarPieces {
    /// File, offset, length.
    entries: Vec<(PathBuf, u64, u64)>,
}

impl TarPieces {
    /// Finds the entries of all these tars, whose sizes are octal, as those of files below 8 GiB are.
    ///
    /// # Errors
    /// Reads, and a header whose size is not octal.
    pub fn of(tars: &[PathBuf]) -> io::Result<Self> {
        let mut entries = Vec::new();
        for path in tars {
            let mut tar = BufReader::new(File::open(path)?);
            let (mut start, mut at) = (0, 0);
            let mut header = [0; BLOCK as usize];
            loop {
                tar.read_exact(&mut header)?;
                // The end mark.
                if header.iter().all(|byte| *byte == 0) {
                    break;
                }
                let size = size(&header)
                    .ok_or_else(|| io::Error::other(format!("no size in the header at {at}")))?;
                let data = size.next_multiple_of(BLOCK);
                at += BLOCK + data;
                tar.seek_relative(data.cast_signed())?;
                if !b"xgLK".contains(&header[156]) {
                    entries.push((path.clone(), start, at - start));
                    start = at;
                }
            }
        }
        Ok(Self { entries })
    }

    /// Writes all entries in their order into `count` tars of about the same size in `dir`.
    ///
    /// # Errors
    /// Reads and writes.
    pub fn write(&self, count: usize, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let total: u64 = self.entries.iter().map(|entry| entry.2).sum();
        let goal = total / count as u64;
        let mut entries = self.entries.iter().peekable();
        let mut paths = Vec::new();
        for number in 0..count {
            let path = dir.join(format!("piece-{number}.tar"));
            let mut piece = BufWriter::new(File::create(&path)?);
            let mut written = 0;
            while let Some((from, offset, length)) =
                entries.next_if(|_| written < goal || number + 1 == count)
            {
                let mut from = File::open(from)?;
                from.seek(SeekFrom::Start(*offset))?;
                io::copy(&mut from.take(*length), &mut piece)?;
                written += length;
            }
            piece.write_all(&[0; 2 * BLOCK as usize])?;
            piece.flush()?;
            paths.push(path);
        }
        Ok(paths)
    }
}

fn size(header: &[u8; BLOCK as usize]) -> Option<u64> {
    let field = std::str::from_utf8(&header[124..136]).ok()?;
    u64::from_str_radix(field.trim_matches(['\0', ' ']), 8).ok()
}
