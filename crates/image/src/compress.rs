//! Compressing the plain layers of a docker-archive: the same bytes on every machine, on all its cores.
//!
//! A layer is cut into blocks of 1 MiB, and each becomes a gzip member or zstd frame of its own; so the result
//! depends neither on the number of threads nor on their order, and every decoder reads it as one stream.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZero;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use crate::docker_archive::synthesize;
use crate::error::BlobName;
use crate::media_type::oci_layer;
use crate::{
    Algorithm, Blob, Compression, Content, Decoder, DiffId, Error, FileRange, Hasher, Image, Layer,
    LayerDigest, LayerTar, Limits,
};

/// Part of the digest, as are the levels: never to be changed.
const BLOCK: usize = 1 << 20;
const GZIP_LEVEL: i32 = 6;
/// `zstd`'s own default.
const ZSTD_LEVEL: i32 = 3;
/// Compared at a time.
const CHECKED: usize = 64 * 1024;
/// Each thread holds two blocks, a compressor and a decompressor: memory stays bounded on machines with many cores.
const MAX_THREADS: usize = 8;

/// An image with compressed layers.
#[derive(Clone, Debug)]
pub struct Recompressed {
    /// It, with a manifest of its own.
    pub image: Image,
    /// Those of its layers that were made here, and seen to decompress to what their diff_ids say.
    pub made: HashSet<(LayerDigest, DiffId)>,
}

impl From<Image> for Recompressed {
    /// The image as it is.
    fn from(image: Image) -> Self {
        let made = HashSet::new();
        Self { image, made }
    }
}

impl Image {
    /// The same image with its plain layers compressed into unnamed files in `dir`, verified as they are read,
    /// and with a new manifest made from them. Layers that are compressed already stay as they are.
    ///
    /// # Errors
    /// [`Error::HasManifest`] for an image that brought its own manifest; [`Error::Verify`] for a layer that
    /// is not what its config says; [`Error::Spool`] when `dir` cannot take the files; [`Error::Compress`] when there is no
    /// memory for a compressor, or what it made is not what it was given.
    pub fn recompress(&self, compression: Compression, dir: &Path) -> Result<Recompressed, Error> {
        if !self.is_synthesized() {
            return Err(Error::HasManifest {
                digest: self.digest().clone(),
            });
        }
        if compression == Compression::None {
            return Ok(self.clone().into());
        }
        let cores = std::thread::available_parallelism().map_or(2, NonZero::get);
        let image = self.selected();
        let count = image.layers.len();
        let mut made = HashSet::new();
        let mut layers: Vec<Layer> = Vec::with_capacity(count);
        for (index, layer) in image.layers.iter().enumerate() {
            let done = image.layers[..index]
                .iter()
                .position(|one| one.diff_id == layer.diff_id);
            layers.push(match done {
                _ if layer.compression != Compression::None => layer.clone(),
                Some(same) => layers[same].clone(),
                None => {
                    let digest = layer.blob.digest().clone();
                    let name = BlobName {
                        digest,
                        role: format!("layer {} of {count}", index + 1),
                    };
                    let threads = cores.min(MAX_THREADS);
                    let new = compress(layer, &name, compression, dir, self.limits(), threads)?;
                    let digest = LayerDigest(new.blob.digest().clone());
                    made.insert((digest, new.diff_id.clone()));
                    new
                }
            });
        }
        let find = |blob: &&Blob| blob.digest() == &image.config_digest;
        let config = self
            .blobs()
            .iter()
            .find(find)
            .expect("a config is a blob of its image");
        let names = self.names().to_vec();
        let notes = self.notes().to_vec();
        let new = synthesize(image.config.clone(), config.clone(), layers, names, notes);
        let image = new.within(*self.limits());
        Ok(Recompressed { image, made })
    }
}

fn compress(
    layer: &Layer,
    name: &BlobName,
    compression: Compression,
    dir: &Path,
    limits: &Limits,
    threads: usize,
) -> Result<Layer, Error> {
    let spooling = |source| Error::Spool {
        dir: dir.to_owned(),
        source,
    };
    let unverified = |source| Error::Verify {
        blob: name.clone(),
        source,
    };
    let file = tempfile::tempfile_in(dir).map_err(spooling)?;
    let input = layer.open_tar_within(limits).map_err(unverified)?;
    let pipeline = Pipeline::new(input, file);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| pipeline.work(compression));
        }
    });
    let output = pipeline
        .output
        .into_inner()
        .expect("no thread panics holding it");
    match output.failure {
        Some(Failure::Read(source)) => return Err(unverified(source)),
        Some(Failure::Write(source)) => return Err(spooling(source)),
        Some(Failure::Pack(source)) => {
            let blob = name.clone();
            return Err(Error::Compress { blob, source });
        }
        None => {}
    }
    let range = FileRange {
        file: Arc::new(output.file),
        offset: 0,
        len: output.written,
    };
    let media_type = oci_layer(compression).to_owned();
    let digest = output.hasher.finish();
    let blob = Blob::new(digest, output.written, media_type, Content::File(range));
    Ok(Layer {
        blob,
        diff_id: layer.diff_id.clone(),
        compression,
    })
}

/// Blocks are taken in turn, compressed at the same time, and written in the order they were taken.
struct Pipeline {
    input: Mutex<Input>,
    output: Mutex<Output>,
    written: Condvar,
}

struct Input {
    reader: LayerTar,
    next: u64,
}

struct Output {
    file: File,
    hasher: Hasher,
    written: u64,
    next: u64,
    failure: Option<Failure>,
}

enum Failure {
    Read(io::Error),
    Pack(io::Error),
    Write(io::Error),
}

impl Pipeline {
    fn new(reader: LayerTar, file: File) -> Self {
        let hasher = Hasher::new(Algorithm::Sha256);
        let output = Output {
            file,
            hasher,
            written: 0,
            next: 0,
            failure: None,
        };
        Self {
            input: Mutex::new(Input { reader, next: 0 }),
            output: Mutex::new(output),
            written: Condvar::new(),
        }
    }

    fn work(&self, compression: Compression) {
        let mut block = vec![0; BLOCK];
        loop {
            let (number, count) = self.take(&mut block);
            if count == 0 {
                return;
            }
            let block = &block[..count];
            let packed = pack(block, compression)
                .and_then(|packed| check(&packed, block, compression).map(|()| packed));
            let done = packed
                .map_err(Failure::Pack)
                .and_then(|packed| self.put(number, &packed).map_err(Failure::Write));
            if let Err(failure) = done {
                return self.fail(failure);
            }
        }
    }

    /// The next block and its number; 0 bytes at the end, or when this or another thread failed.
    fn take(&self, block: &mut [u8]) -> (u64, usize) {
        let mut input = self.input.lock().expect("no thread panics holding it");
        if self.lock_output().failure.is_some() {
            return (0, 0);
        }
        let mut count = 0;
        while count < block.len() {
            match input.reader.read(&mut block[count..]) {
                Ok(0) => break,
                Ok(more) => count += more,
                Err(error) => {
                    // Before the next thread can read: it would be told only that there was an error before.
                    self.fail(Failure::Read(error));
                    return (0, 0);
                }
            }
        }
        let number = input.next;
        input.next += 1;
        (number, count)
    }

    fn put(&self, number: u64, packed: &[u8]) -> io::Result<()> {
        let output = self.lock_output();
        let waiting = |output: &mut Output| output.next != number && output.failure.is_none();
        let mut output = self
            .written
            .wait_while(output, waiting)
            .expect("no thread panics holding it");
        if output.failure.is_none() {
            output.file.write_all(packed)?;
            output.hasher.update(packed);
            output.written += packed.len() as u64;
            output.next += 1;
        }
        drop(output);
        self.written.notify_all();
        Ok(())
    }

    fn fail(&self, failure: Failure) {
        self.lock_output().failure.get_or_insert(failure);
        self.written.notify_all();
    }

    fn lock_output(&self) -> MutexGuard<'_, Output> {
        self.output.lock().expect("no thread panics holding it")
    }
}

fn pack(block: &[u8], compression: Compression) -> io::Result<Vec<u8>> {
    match compression {
        Compression::None => Ok(block.to_vec()),
        Compression::Gzip => gzip_member(block),
        Compression::Zstd => zstd::bulk::compress(block, ZSTD_LEVEL),
    }
}

/// Whether what was packed is the block again, while both are in the cache: of the bytes that will be pulled nobody
/// else has seen what they decompress to.
fn check(packed: &[u8], block: &[u8], compression: Compression) -> io::Result<()> {
    let mut decoder = Decoder::new(packed, compression)?;
    let mut chunk = vec![0; CHECKED];
    let mut rest = block;
    loop {
        let count = decoder.read(&mut chunk)?;
        match rest.split_at_checked(count) {
            Some((same, _)) if same != &chunk[..count] => break,
            Some((_, [])) if count == 0 => return Ok(()),
            Some((_, more)) if count > 0 => rest = more,
            _ => break,
        }
    }
    Err(io::Error::other(
        "what was compressed does not decompress to the same bytes, so that this machine's memory or processor is to be doubted",
    ))
}

/// A gzip member (RFC 1952) without time or name, of an unknown system (255): nothing but the bytes.
fn gzip_member(block: &[u8]) -> io::Result<Vec<u8>> {
    const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    let config = zlib_rs::DeflateConfig {
        level: GZIP_LEVEL,
        // Negative: a bare deflate stream with a window of 32 KiB.
        window_bits: -15,
        ..zlib_rs::DeflateConfig::default()
    };
    let mut member = HEADER.to_vec();
    member.resize(HEADER.len() + zlib_rs::compress_bound(block.len()), 0);
    let (deflated, code) = zlib_rs::compress_slice(&mut member[HEADER.len()..], block, config);
    let length = deflated.len();
    if code != zlib_rs::ReturnCode::Ok {
        return Err(io::Error::other(format!("deflate failed with {code:?}")));
    }
    member.truncate(HEADER.len() + length);
    member.extend(zlib_rs::crc32::crc32(0, block).to_le_bytes());
    member.extend(
        u32::try_from(block.len())
            .expect("a block is 1 MiB")
            .to_le_bytes(),
    );
    Ok(member)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    #[test]
    fn what_does_not_decompress_to_the_block_is_refused() {
        let block: Vec<u8> = (0..3 * CHECKED as u32).map(|n| (n >> 7) as u8).collect();
        for compression in [Compression::Gzip, Compression::Zstd] {
            let packed = pack(&block, compression).unwrap();
            check(&packed, &block, compression).unwrap();
            let mut other = block.clone();
            other[2 * CHECKED] ^= 1;
            let different = [
                other,
                block[..block.len() - 1].to_vec(),
                block[..2 * CHECKED].to_vec(),
                [&block[..], &[0]].concat(),
            ];
            for block in different {
                let error = check(&packed, &block, compression).unwrap_err();
                assert!(error.to_string().contains("memory"), "{error}");
            }
            check(&packed[..packed.len() - 9], &block, compression).unwrap_err();
        }
    }

    #[test]
    fn threads_do_not_show() {
        let tar: Arc<[u8]> = (0..7 * BLOCK as u32 + 5)
            .map(|n| (n.wrapping_mul(n) >> 9) as u8 & 7)
            .collect();
        let digest = Digest::sha256(&tar);
        let content = Content::Bytes(Arc::clone(&tar));
        let blob = Blob::new(digest.clone(), tar.len() as u64, String::new(), content);
        let layer = Layer {
            blob,
            diff_id: DiffId(digest.clone()),
            compression: Compression::None,
        };
        let name = BlobName {
            digest,
            role: "layer 1 of 1".to_owned(),
        };
        let limits = Limits::default();
        for compression in [Compression::Gzip, Compression::Zstd] {
            let with = |threads| {
                compress(
                    &layer,
                    &name,
                    compression,
                    &std::env::temp_dir(),
                    &limits,
                    threads,
                )
                .unwrap()
            };
            let one = with(1);
            assert!(one.blob.size() < tar.len() as u64 / 2);
            for threads in [2, 3, MAX_THREADS] {
                assert_eq!(with(threads).blob.digest(), one.blob.digest());
            }
            one.open_tar().unwrap().finish().unwrap();
        }
    }
}
