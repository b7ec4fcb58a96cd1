//! How fast a layer of many small files is parsed, and written.

use std::path::PathBuf;

use divan::Bencher;
use divan::counter::ItemsCount;
use smokegate_rootfs::{
    Entry, EntryData, Error, LayerVisitor, Limits, Owners, Policy, RootDir, apply_layer, scan_layer,
};

const FILES: usize = 5_000;

fn main() {
    divan::main();
}

/// Files of 2 KiB, a hundred to a directory.
fn tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for number in 0..FILES {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(2048);
        let name = format!("usr/lib/d{}/file-{number}", number / 100);
        tar.append_data(&mut header, name, &[b'x'; 2048][..])
            .unwrap();
    }
    tar.into_inner().unwrap()
}

struct Nothing;

impl LayerVisitor for Nothing {
    fn entry<R: std::io::BufRead>(
        &mut self,
        _: &Entry,
        _: &mut EntryData<'_, R>,
    ) -> Result<(), Error> {
        Ok(())
    }
}

#[divan::bench]
fn parse(bencher: Bencher<'_, '_>) {
    let tar = tar();
    let bencher = bencher.counter(ItemsCount::new(FILES));
    bencher.bench(|| scan_layer(tar.as_slice(), &Limits::default(), &mut Nothing).unwrap());
}

/// A tmpfs where there is one: ext4 without a journal fills places that were just freed at a twentieth of its speed.
fn place() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() {
        memory
    } else {
        std::env::temp_dir()
    }
}

#[divan::bench(sample_count = 20)]
fn write(bencher: Bencher<'_, '_>) {
    let tar = tar();
    let policy = Policy {
        owners: Owners::Ignore,
        limits: Limits::default(),
    };
    let bencher = bencher.counter(ItemsCount::new(FILES));
    bencher
        .with_inputs(|| tempfile::tempdir_in(place()).unwrap())
        .bench_refs(|dir| {
            let dir = RootDir::open(dir.path()).unwrap();
            apply_layer(&dir, tar.as_slice(), &policy).unwrap()
        });
}
