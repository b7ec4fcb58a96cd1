//! A layer's tar stream made by threads of its own: one inflates, one hashes, and whoever reads writes files.
//!
//! Blocks go round: inflated once, lent to the hash and to the reader, and used again when both have done with them.
//! So a layer that is alone keeps more than one core busy, in memory that does not depend on its size.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::{Digest, Hasher, LayerTar, StageClock, StageTimes};

/// Small enough for three of them in the cache of a core, large enough that passing them on costs nothing.
const BLOCK: usize = 256 * 1024;
/// Blocks of one layer: how far the stages may be apart.
const BLOCKS: usize = 12;

/// Reads what [`LayerTar`] reads, and believes it as late: its end is reported only after all that a [`LayerTar`]
/// compares was compared. Threads end with it.
#[derive(Debug)]
pub struct StagedTar {
    blocks: Blocks,
    verified: bool,
    inflating: Option<JoinHandle<(LayerTar, io::Result<()>)>>,
    hashing: Option<JoinHandle<Digest>>,
}

/// Another reader of what a [`StagedTar`] reads. Its end proves nothing: whether what it has read was the layer is known
/// when the [`StagedTar`] has come to its own. Must be read on, or dropped, for the other to go on.
#[derive(Debug)]
pub struct LayerTap(Blocks);

/// Blocks in their order, as one stream.
#[derive(Debug)]
struct Blocks {
    blocks: Option<Receiver<Arc<Block>>>,
    current: Option<Arc<Block>>,
    /// What of the current block was consumed.
    start: usize,
}

impl Blocks {
    fn new(blocks: Receiver<Arc<Block>>) -> Self {
        Self {
            blocks: Some(blocks),
            current: None,
            start: 0,
        }
    }

    /// Whether there is more; waits for it.
    fn has_more(&mut self) -> bool {
        while self.rest().is_empty() {
            self.start = 0;
            self.current = None;
            match self.blocks.as_ref().map(Receiver::recv) {
                Some(Ok(block)) => self.current = Some(block),
                Some(Err(_)) | None => return false,
            }
        }
        true
    }

    fn rest(&self) -> &[u8] {
        let current = self.current.as_ref();
        current.map_or(&[], |block| &block.bytes[self.start..])
    }

    fn close(&mut self) {
        self.current = None;
        self.blocks = None;
    }
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
    pub fn in_stages(self) -> io::Result<StagedTar> {
        self.stages(None)
    }

    /// The same with another reader beside it, in a thread of the caller's.
    ///
    /// # Errors
    /// When a thread cannot be started.
    pub fn in_stages_with_tap(self) -> io::Result<(StagedTar, LayerTap)> {
        let (to_tap, blocks) = channel();
        Ok((self.stages(Some(to_tap))?, LayerTap(Blocks::new(blocks))))
    }

    fn stages(mut self, to_tap: Option<Sender<Arc<Block>>>) -> io::Result<StagedTar> {
        let (home, empty) = channel();
        for _ in 0..BLOCKS {
            // The receiver is below.
            let _ = home.send(Vec::new());
        }
        let (to_reader, blocks) = channel();
        let mut beside: Vec<_> = to_tap.into_iter().collect();
        let mut hashing = None;
        if let Some(hasher) = self.take_hasher() {
            let (sender, blocks) = channel();
            beside.push(sender);
            let clock = self.clock();
            let hash = move || hash(hasher, &blocks, clock);
            hashing = Some(Builder::new().name("hash".to_owned()).spawn(hash)?);
        }
        let inflate = move || {
            let done = inflate(&mut self, &empty, &home, &to_reader, &beside);
            (self, done)
        };
        let inflating = Builder::new().name("inflate".to_owned()).spawn(inflate)?;
        Ok(StagedTar {
            blocks: Blocks::new(blocks),
            verified: false,
            inflating: Some(inflating),
            hashing,
        })
    }
}

fn hash(mut hasher: Hasher, blocks: &Receiver<Arc<Block>>, clock: Option<StageClock>) -> Digest {
    let mut verify = Duration::ZERO;
    for block in blocks {
        let began = Instant::now();
        hasher.update(&block.bytes);
        verify += began.elapsed();
    }
    if let Some(clock) = clock {
        clock.add(StageTimes {
            verify,
            ..StageTimes::default()
        });
    }
    hasher.finish()
}

/// Ends with the stream, with an error, or when nobody reads any more.
fn inflate(
    tar: &mut LayerTar,
    empty: &Receiver<Vec<u8>>,
    home: &Sender<Vec<u8>>,
    to_reader: &Sender<Arc<Block>>,
    beside: &[Sender<Arc<Block>>],
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
        for other in beside {
            let _ = other.send(Arc::clone(&block));
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
        self.blocks.close();
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
        if !self.blocks.has_more() && !self.verified {
            self.conclude()?;
        }
        Ok(self.blocks.rest())
    }

    fn consume(&mut self, amount: usize) {
        self.blocks.start += amount;
    }
}

impl BufRead for LayerTap {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.has_more();
        Ok(self.0.rest())
    }

    fn consume(&mut self, amount: usize) {
        self.0.start += amount;
    }
}

impl Read for StagedTar {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        copy_out(self, buffer)
    }
}

impl Read for LayerTap {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        copy_out(self, buffer)
    }
}

fn copy_out(from: &mut impl BufRead, buffer: &mut [u8]) -> io::Result<usize> {
    let bytes = from.fill_buf()?;
    let count = bytes.len().min(buffer.len());
    buffer[..count].copy_from_slice(&bytes[..count]);
    from.consume(count);
    Ok(count)
}

impl Drop for StagedTar {
    fn drop(&mut self) {
        // The threads see that nobody reads, and end.
        self.blocks.close();
        let _ = self.inflating.take().map(JoinHandle::join);
        let _ = self.hashing.take().map(JoinHandle::join);
    }
}
