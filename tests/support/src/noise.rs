//! Seeded noise: incompressible bytes that are the same on every machine.

use std::io::{self, Read};

/// An endless stream that depends on the seed only.
#[derive(Clone, Debug)]
pub struct Noise {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Noise {
    /// Starts at `seed`.
    pub fn new(seed: u64) -> Self {
        Self {
            state: seed,
            word: [0; 8],
            used: 8,
        }
    }

    /// The next 64 bits: SplitMix64 (Steele, Lea, Flood 2014).
    pub fn next_word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Read for Noise {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut rest = &mut *buffer;
        while !rest.is_empty() {
            if self.used == 8 {
                self.word = self.next_word().to_le_bytes();
                self.used = 0;
            }
            let count = rest.len().min(8 - self.used);
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&self.word[self.used..self.used + count]);
            self.used += count;
            rest = later;
        }
        Ok(buffer.len())
    }
}
