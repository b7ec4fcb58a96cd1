//! How fast a layer is read: by one thread, and in stages.

use std::io::{BufRead, Write};
use std::sync::Arc;

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use smokegate_image::{Compression, Content, DiffId, Digest, LayerDigest, LayerTar, Limits};

const PACKINGS: [Compression; 3] = [Compression::None, Compression::Gzip, Compression::Zstd];

fn main() {
    divan::main();
}

/// 32 MiB that compress about as well as programs do.
fn content() -> Vec<u8> {
    let mut state = 1u64;
    let mut bytes = Vec::new();
    while bytes.len() < 32 << 20 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let word = (state >> 33) as u32;
        if word.is_multiple_of(3) {
            bytes.extend(word.to_le_bytes());
        } else {
            let from = bytes.len().saturating_sub(word as usize % 30_000);
            let to = (from + 4 + word as usize % 24).min(bytes.len());
            bytes.extend_from_within(from..to);
        }
    }
    bytes
}

fn layer(tar: &[u8], compression: Compression) -> impl Fn() -> LayerTar + Sync {
    let stored = match compression {
        Compression::None => tar.to_vec(),
        Compression::Gzip => {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            encoder.write_all(tar).unwrap();
            encoder.finish().unwrap()
        }
        Compression::Zstd => zstd::bulk::compress(tar, 3).unwrap(),
    };
    let (digest, diff_id) = (Digest::sha256(&stored), Digest::sha256(tar));
    let stored: Arc<[u8]> = stored.into();
    move || {
        LayerTar::new(
            Content::Bytes(Arc::clone(&stored)),
            LayerDigest(digest.clone()),
            stored.len() as u64,
            DiffId(diff_id.clone()),
            compression,
            &Limits::default(),
        )
        .unwrap()
    }
}

#[divan::bench(args = PACKINGS, sample_count = 10)]
fn one_thread(bencher: Bencher<'_, '_>, compression: Compression) {
    let tar = content();
    let open = layer(&tar, compression);
    let bencher = bencher.counter(BytesCount::new(tar.len()));
    bencher
        .with_inputs(open)
        .bench_values(|layer| layer.finish().unwrap());
}

#[divan::bench(args = PACKINGS, sample_count = 10)]
fn in_stages(bencher: Bencher<'_, '_>, compression: Compression) {
    let tar = content();
    let open = layer(&tar, compression);
    let bencher = bencher.counter(BytesCount::new(tar.len()));
    bencher.with_inputs(open).bench_values(|layer| {
        let mut stages = layer.in_stages().unwrap();
        loop {
            let count = black_box(stages.fill_buf().unwrap()).len();
            if count == 0 {
                break;
            }
            stages.consume(count);
        }
    });
}
