//! A layer's tar stream made by threads of its own: one inflates, one hashes, and whoever reads writes files.
//!
//! Blocks go round: inflated once, lent to the hash and to the reader, and used again when both have done with them.
//! So a layer that is alone keeps more than one core busy, in memory that does not depend on its size.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};

use crate::{Digest, Hasher, LayerTar};

/// Small enough for three of them in the cache of a core, large enough that passing them on costs nothing.
const BLOCK: usize = 256 * 1024;
/// Blocks of one layer: how far the stages may be apart.
const BLOCKS: usize = 12;

/// Reads what [`LayerTar`] reads, and believes it as late: its end is reported only after all that a [`LayerTar`]
/// compares was compared. Threads end with it.
#[derive(Debug)]
pub struct StagedTar {
    blocks: Option<Receiver<Arc<Block>>>,
    current: Option<Arc<Block>>,
    /// What of the current block was consumed.
    start: usize,
    verified: bool,
    inflating: Option<JoinHandle<(LayerTar, io::Result<()>)>>,
    hashing: Option<JoinHandle<Digest>>,
}

/// Bytes that go back to where they came from when the last user drops them.
#[derive(Debug)]
struct Block {
    bytes: Vec<u8>,
    home: Sender<Vec<u8>>,
}

impl Drop for Block {
    fn drop(&mut self) {
        // Nobody is there when the stream has ended.
        let _ = self.home.send(std::mem::take(&mut self.bytes));
    }
}

impl LayerTar {
    /// Reads on in threads, ahead of the caller. Not worth while for less than some megabytes.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn in_stages(mut self) -> io::Result<StagedTar> {
        let (home, empty) = channel();
        for _ in 0..BLOCKS {
            // The receiver is below.
            let _ = home.send(Vec::new());
        }
        let (to_reader, blocks) = channel();
        let mut to_hash = None;
        let mut hashing = None;
        if let Some(hasher) = self.take_hasher() {
            let (sender, blocks) = channel();
            to_hash = Some(sender);
            let hash = move || hash(hasher, &blocks);
            hashing = Some(Builder::new().name("hash".to_owned()).spawn(hash)?);
        }
        let inflate = move || {
            let done = inflate(&mut self, &empty, &home, &to_reader, to_hash.as_ref());
            (self, done)
        };
        let inflating = Builder::new().name("inflate".to_owned()).spawn(inflate)?;
        Ok(StagedTar {
            blocks: Some(blocks),
            current: None,
            start: 0,
            verified: false,
            inflating: Some(inflating),
            hashing,
        })
    }
}

fn hash(mut hasher: Hasher, blocks: &Receiver<Arc<Block>>) -> Digest {
    for block in blocks {
        hasher.update(&block.bytes);
    }
    hasher.finish()
}

/// Ends with the stream, with an error, or when nobody reads any more.
fn inflate(
    tar: &mut LayerTar,
    empty: &Receiver<Vec<u8>>,
    home: &Sender<Vec<u8>>,
    to_reader: &Sender<Arc<Block>>,
    to_hash: Option<&Sender<Arc<Block>>>,
) -> io::Result<()> {
    // `home` is alive, so there is always somebody to wait for.
    while let Ok(mut bytes) = empty.recv() {
        bytes.resize(BLOCK, 0);
        let mut count = 0;
        let result = loop {
            match tar.read(&mut bytes[count..]) {
                Ok(0) => break Ok(()),
                Ok(more) => count += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        let is_last = count < BLOCK;
        bytes.truncate(count);
        let home = home.clone();
        let block = Arc::new(Block { bytes, home });
        if let Some(to_hash) = to_hash {
            let _ = to_hash.send(Arc::clone(&block));
        }
        if to_reader.send(block).is_err() || is_last || result.is_err() {
            return result;
        }
    }
    Ok(())
}

impl StagedTar {
    /// At the end of the blocks: what the threads found.
    fn conclude(&mut self) -> io::Result<()> {
        self.blocks = None;
        let Some(inflating) = self.inflating.take() else {
            let damaged = "the layer was found damaged before";
            return Err(io::Error::new(io::ErrorKind::InvalidData, damaged));
        };
        let ended_early = |_| io::Error::other("a thread that read the layer ended early");
        let (tar, inflated) = inflating.join().map_err(ended_early)?;
        let hashed = self.hashing.take().map(JoinHandle::join).transpose();
        inflated?;
        if let Some(digest) = hashed.map_err(ended_early)? {
            tar.compare(&digest)?;
        }
        self.verified = true;
        Ok(())
    }
}

impl BufRead for StagedTar {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self
            .current
            .as_ref()
            .is_none_or(|block| self.start == block.bytes.len())
        {
            self.start = 0;
            self.current = None;
            if self.verified {
                return Ok(&[]);
            }
            match self.blocks.as_ref().map(Receiver::recv) {
                Some(Ok(block)) => self.current = Some(block),
                Some(Err(_)) | None => self.conclude()?,
            }
        }
        Ok(self
            .current
            .as_ref()
            .map_or(&[], |block| &block.bytes[self.start..]))
    }

    fn consume(&mut self, amount: usize) {
        self.start += amount;
    }
}

impl Read for StagedTar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.fill_buf()?;
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl Drop for StagedTar {
    fn drop(&mut self) {
        // The threads see that nobody reads, and end.
        self.current = None;
        self.blocks = None;
        let _ = self.inflating.take().map(JoinHandle::join);
        let _ = self.hashing.take().map(JoinHandle::join);
    }
}
