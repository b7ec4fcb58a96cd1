//! Reads a layer's entries and writes nothing: for those who only want to know what is in it.

use std::io::BufRead;

use crate::tar_reader::TarReader;
use crate::{Entry, EntryProblem, Error, Limits};

/// Is told of a layer's entries, in their order.
pub trait LayerVisitor {
    /// One entry; data that is not read is skipped.
    ///
    /// # Errors
    /// What reading the data answers; ends the scan.
    fn entry<R: BufRead>(
        &mut self,
        entry: &Entry,
        data: &mut EntryData<'_, R>,
    ) -> Result<(), Error>;
}

/// The data of one entry as it is stored: of a sparse file the pieces, one after the other.
pub struct EntryData<'t, R> {
    tar: &'t mut TarReader<R>,
}

impl<R> std::fmt::Debug for EntryData<'_, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EntryData").finish_non_exhaustive()
    }
}

impl<R: BufRead> EntryData<'_, R> {
    /// The next bytes, empty at the end.
    ///
    /// # Errors
    /// When the stream ends within the file, is damaged, or cannot be read.
    pub fn chunk(&mut self) -> Result<&[u8], Error> {
        self.tar.data()
    }
}

/// Tells `visitor` of every entry of the layer `tar` (uncompressed) and reads it to its end, so that a verifying
/// reader comes to its verdict. Whiteouts come as entries; nothing is said about what they hide.
///
/// # Errors
/// Entries that [`crate::apply_layer`] would refuse by their header alone, limits, reads, and the visitor's own.
pub fn scan_layer(
    tar: impl BufRead,
    limits: &Limits,
    visitor: &mut impl LayerVisitor,
) -> Result<(), Error> {
    let mut tar = TarReader::new(tar, limits);
    let mut entries = 0;
    while let Some(entry) = Entry::read(&mut tar, limits)? {
        entries += 1;
        if entries > limits.entries {
            let problem = EntryProblem::Limit {
                what: "the number of entries up to it",
                limit: limits.entries,
            };
            return Err(Error::entry(&entry.name, problem));
        }
        visitor.entry(&entry, &mut EntryData { tar: &mut tar })?;
    }
    tar.drain()
}
