//! A layer's tar stream is believed only at its end.

use std::io::{ErrorKind, Read};
use std::sync::Arc;

use smokegate_image::{
    Compression, Content, DiffId, Digest, LayerDigest, LayerTar, Limits, StageClock,
};

use crate::content::{gzip, layer_tar};

fn stream(stored: &[u8], tar: &[u8], limits: &Limits) -> LayerTar {
    LayerTar::new(
        Content::Bytes(Arc::from(stored)),
        LayerDigest(Digest::sha256(stored)),
        stored.len() as u64,
        DiffId(Digest::sha256(tar)),
        Compression::sniff(stored),
        limits,
    )
    .unwrap()
}

/// What the reader says, with threads of its own or without.
fn read(stored: &[u8], tar: &[u8]) -> std::io::Result<Vec<u8>> {
    let (mut bytes, mut staged) = (Vec::new(), Vec::new());
    let one = stream(stored, tar, &Limits::default()).read_to_end(&mut bytes);
    let mut threads = stream(stored, tar, &Limits::default()).in_stages()?;
    let three = threads.read_to_end(&mut staged);
    let text = |result: &std::io::Result<usize>| match result {
        Ok(count) => Ok(*count),
        Err(error) => Err(error.to_string()),
    };
    assert_eq!(text(&one), text(&three));
    assert_eq!(bytes, staged);
    // Asking again does not make it good.
    assert_eq!(threads.read(&mut [0; 16]).is_ok(), one.is_ok());
    one.map(|_| bytes)
}

#[test]
fn stages_that_nobody_reads_from_end() {
    let tar = vec![7; 40 << 20];
    let stored = gzip(&tar);
    drop(
        stream(&stored, &tar, &Limits::default())
            .in_stages()
            .unwrap(),
    );
    let mut begun = stream(&stored, &tar, &Limits::default())
        .in_stages()
        .unwrap();
    begun.read_exact(&mut [0; 1 << 20]).unwrap();
    drop(begun);
}

#[test]
fn what_reading_takes_is_told_by_stage() {
    let tar: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let stored = gzip(&tar);
    for in_stages in [false, true] {
        let clock = StageClock::default();
        let layer = stream(&stored, &tar, &Limits::default()).timed(clock.clone());
        let mut sink = std::io::sink();
        let read = match in_stages {
            true => std::io::copy(&mut layer.in_stages().unwrap(), &mut sink),
            false => std::io::copy(&mut { layer }, &mut sink),
        };
        assert_eq!(read.unwrap(), tar.len() as u64);
        let times = clock.times();
        assert!(
            !times.inflate.is_zero() && !times.verify.is_zero(),
            "{times:?}"
        );
        assert!(times.write.is_zero(), "{times:?}");
    }
}

#[test]
fn a_tap_reads_the_same_and_holds_nobody_up() {
    let tar: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    let stored = gzip(&tar);
    let begin = || {
        let layer = stream(&stored, &tar, &Limits::default());
        layer.in_stages_with_tap().unwrap()
    };
    let read_all = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).map(|_| bytes)
        })
    };
    let (staged, tap) = begin();
    let (staged, tap) = (read_all(Box::new(staged)), read_all(Box::new(tap)));
    assert!(staged.join().unwrap().unwrap() == tar);
    assert!(tap.join().unwrap().unwrap() == tar);

    let (staged, tap) = begin();
    drop(tap);
    assert!(read_all(Box::new(staged)).join().unwrap().unwrap() == tar);
    let (mut staged, tap) = begin();
    let tap = read_all(Box::new(tap));
    staged.read_exact(&mut [0; 1 << 20]).unwrap();
    drop(staged);
    assert!(tap.join().unwrap().unwrap().len() < tar.len());
}

#[test]
fn all_blocks_come_in_their_order() {
    let tar: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_le_bytes).collect();
    for stored in [
        gzip(&tar),
        zstd::bulk::compress(&tar, 1).unwrap(),
        tar.clone(),
    ] {
        assert!(read(&stored, &tar).unwrap() == tar);
        let error = read(&stored, b"other").unwrap_err();
        assert!(error.to_string().contains("diff_id mismatch"), "{error}");
    }
}

#[test]
fn all_members_and_frames_are_one_stream() {
    let tar = layer_tar(1);
    let (left, right) = tar.split_at(700);
    let zstd = |bytes: &[u8]| zstd::bulk::compress(bytes, 1).unwrap();
    let skippable = [
        &[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..],
        b"abc",
        &zstd(&tar),
    ]
    .concat();
    let cases = [
        tar.clone(),
        gzip(&tar),
        [gzip(left), gzip(b""), gzip(right)].concat(),
        zstd(&tar),
        [zstd(left), zstd(right)].concat(),
        skippable,
    ];
    for stored in cases {
        assert_eq!(read(&stored, &tar).unwrap(), tar);
    }
}

#[test]
fn nothing_but_the_described_bytes_reaches_the_end() {
    let tar = layer_tar(1);
    let packed = gzip(&tar);
    let cases: [(&str, Vec<u8>, &[u8], &str); 5] = [
        (
            "zero padding",
            [&packed[..], &[0; 512]].concat(),
            &tar,
            "something else follows it",
        ),
        (
            "garbage",
            [&packed[..], b"garbage"].concat(),
            &tar,
            "something else follows it",
        ),
        (
            "half a member",
            packed[..packed.len() / 2].to_vec(),
            &tar,
            "gzip stream is damaged",
        ),
        (
            "other diff_id",
            packed.clone(),
            b"other",
            "diff_id mismatch (got sha256:",
        ),
        (
            "plain, other diff_id",
            tar.clone(),
            b"other",
            "diff_id mismatch",
        ),
    ];
    for (name, stored, tar, message) in cases {
        let error = read(&stored, tar).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{name}: {error}");
        assert!(error.to_string().contains(message), "{name}: {error}");
    }
}

#[test]
fn a_changed_blob_is_a_wrong_digest_not_a_bad_stream() {
    let tar = layer_tar(1);
    for stored in [
        gzip(&tar),
        zstd::bulk::compress(&tar, 1).unwrap(),
        tar.clone(),
    ] {
        let mut changed = stored.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 0x40;
        let mut stream = LayerTar::new(
            Content::Bytes(Arc::from(&changed[..])),
            LayerDigest(Digest::sha256(&stored)),
            stored.len() as u64,
            DiffId(Digest::sha256(&tar)),
            Compression::sniff(&stored),
            &Limits::default(),
        )
        .unwrap();
        let error = stream.read_to_end(&mut Vec::new()).unwrap_err();
        assert!(
            error.to_string().contains("digest mismatch (got sha256:"),
            "{error}"
        );
        assert!(!stream.is_verified());
        // Asking again does not make it good.
        assert!(stream.read(&mut [0; 16]).is_err());
        assert!(stream.finish().is_err());
    }
}

#[test]
fn finish_verifies_what_a_tar_reader_left() {
    let tar = [layer_tar(1), vec![0; 100_000]].concat();
    let mut stream = stream(&gzip(&tar), &tar, &Limits::default());
    stream.read_exact(&mut [0; 512]).unwrap();
    assert!(!stream.is_verified());
    stream.finish().unwrap();
}

#[test]
fn a_bomb_is_stopped() {
    let tar = vec![0; 4 << 20];
    let ratio = Limits {
        layer_ratio: 10,
        ratio_grace: 1 << 20,
        ..Limits::default()
    };
    let total = Limits {
        layer_bytes: 3 << 20,
        ..Limits::default()
    };
    for (limits, stored) in [
        (ratio, gzip(&tar)),
        (total, gzip(&tar)),
        (total, tar.clone()),
    ] {
        let error = stream(&stored, &tar, &limits).finish().unwrap_err();
        assert!(error.to_string().contains("decompression bomb"), "{error}");
    }
    let roomy = Limits {
        layer_ratio: 10_000,
        ratio_grace: 1 << 20,
        ..Limits::default()
    };
    stream(&gzip(&tar), &tar, &roomy).finish().unwrap();
}

#[test]
fn a_zstd_window_beyond_128_mib_is_refused() {
    // RFC 8878, 3.1.1: magic, a frame header with only a window descriptor, one last raw block.
    let tar = layer_tar(1);
    let block = ((tar.len() as u32) << 3 | 1).to_le_bytes();
    let frame = |window_log: u8| {
        let header = [0x28, 0xb5, 0x2f, 0xfd, 0, (window_log - 10) << 3];
        [&header, &block[..3], &tar].concat()
    };
    assert_eq!(read(&frame(27), &tar).unwrap(), tar);
    let error = read(&frame(28), &tar).unwrap_err();
    assert!(error.to_string().contains("too much memory"), "{error}");
}
