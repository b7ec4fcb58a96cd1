//! From a fixture to blobs: layers, configuration and manifest, byte for byte the same each time.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::sync::Arc;

use flate2::GzBuilder;
use serde_json::{Value, json};
use smokegate_image::{Algorithm, Compression, Digest, Hasher};
use tempfile::NamedTempFile;

use crate::image_fixture::{Entry, EntryKind, FileContent, LayerContent, Packing};
use crate::{ImageFixture, LayerFixture, Noise};

/// Every time in a built image: 2020-01-01T00:00:00Z.
const MTIME: u64 = 1_577_836_800;
const CREATED: &str = "2020-01-01T00:00:00Z";

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// An image's documents and layer blobs; the blobs are temporary files that end with the last clone.
#[derive(Clone, Debug)]
pub struct BuiltImage {
    /// `os/architecture[/variant]`.
    pub platform: String,
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// The configuration's bytes.
    pub config: Vec<u8>,
    /// Bottom layer first.
    pub layers: Vec<BuiltLayer>,
}

/// One layer blob.
#[derive(Clone, Debug)]
pub struct BuiltLayer {
    /// Of the blob.
    pub digest: Digest,
    /// Of the tar stream in it.
    pub diff_id: Digest,
    /// Of the blob, in bytes.
    pub size: u64,
    /// What a reader must undo to reach the tar stream.
    pub compression: Compression,
    /// As the manifest says.
    pub media_type: &'static str,
    /// The blob.
    pub file: Arc<NamedTempFile>,
}

impl ImageFixture {
    /// Makes the image's blobs.
    ///
    /// # Panics
    /// When a temporary file cannot be written or a file the fixture names cannot be read.
    pub fn build(&self) -> BuiltImage {
        let layers: Vec<_> = self.layers.iter().map(build_layer).collect();
        let config = json!({
            "architecture": platform_object(&self.platform)["architecture"],
            "config": self.config,
            "created": CREATED,
            "history": layers.iter().map(|_| json!({"created": CREATED})).collect::<Value>(),
            "os": platform_object(&self.platform)["os"],
            "rootfs": {
                "type": "layers",
                "diff_ids": layers.iter().map(|layer| layer.diff_id.to_string()).collect::<Value>(),
            },
        });
        let config = encode(&config);
        let manifest = encode(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": descriptor(CONFIG, &config),
            "layers": layers.iter().map(BuiltLayer::descriptor).collect::<Value>(),
        }));
        BuiltImage {
            platform: self.platform.clone(),
            manifest,
            config,
            layers,
        }
    }
}

impl BuiltImage {
    /// The manifest's digest: what a registry calls this image.
    pub fn digest(&self) -> Digest {
        Digest::sha256(&self.manifest)
    }

    /// The configuration's digest: Docker's image id.
    pub fn config_digest(&self) -> Digest {
        Digest::sha256(&self.config)
    }

    pub(crate) fn descriptor(&self) -> Value {
        descriptor(MANIFEST, &self.manifest)
    }
}

impl BuiltLayer {
    fn descriptor(&self) -> Value {
        json!({"mediaType": self.media_type, "digest": self.digest.to_string(), "size": self.size})
    }
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    let digest = Digest::sha256(bytes).to_string();
    json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
}

pub(crate) fn platform_object(platform: &str) -> Value {
    let mut parts = platform.split('/');
    let mut object = json!({"os": parts.next(), "architecture": parts.next()});
    if let Some(variant) = parts.next() {
        object["variant"] = json!(variant);
    }
    object
}

pub(crate) fn encode(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).expect("a JSON value encodes")
}

fn build_layer(fixture: &LayerFixture) -> BuiltLayer {
    let file = NamedTempFile::new().expect("creating a temporary file for a layer");
    let blob = HashingWriter::new(BufWriter::new(
        file.reopen().expect("reopening the layer's file"),
    ));
    let (blob, diff_id) = match fixture.packing {
        Packing::Plain => {
            let tar = write_content(&fixture.content, HashingWriter::new(blob));
            (tar.inner, tar.hasher.finish())
        }
        Packing::Gzip | Packing::GzipDefault => {
            let level = match fixture.packing {
                Packing::GzipDefault => flate2::Compression::default(),
                _ => flate2::Compression::fast(),
            };
            // No name and no time in the header: the blob depends on the content only.
            let gzip = GzBuilder::new().mtime(0).write(blob, level);
            let tar = write_content(&fixture.content, HashingWriter::new(gzip));
            (
                tar.inner.finish().expect("ending the gzip stream"),
                tar.hasher.finish(),
            )
        }
        Packing::GzipMulti => {
            let tar = write_content(&fixture.content, HashingWriter::new(GzipMembers::new(blob)));
            (
                tar.inner.finish().expect("ending the gzip member"),
                tar.hasher.finish(),
            )
        }
        Packing::Zstd | Packing::ZstdDefault => {
            let level = match fixture.packing {
                Packing::ZstdDefault => zstd::DEFAULT_COMPRESSION_LEVEL,
                _ => 1,
            };
            let zstd = zstd::Encoder::new(blob, level).expect("starting a zstd stream");
            let tar = write_content(&fixture.content, HashingWriter::new(zstd));
            (
                tar.inner.finish().expect("ending the zstd stream"),
                tar.hasher.finish(),
            )
        }
    };
    let HashingWriter {
        mut inner,
        hasher,
        count,
    } = blob;
    inner.flush().expect("writing a layer");
    let (compression, media_type) = match fixture.packing {
        Packing::Plain => (Compression::None, "application/vnd.oci.image.layer.v1.tar"),
        Packing::Gzip | Packing::GzipDefault | Packing::GzipMulti => (
            Compression::Gzip,
            "application/vnd.oci.image.layer.v1.tar+gzip",
        ),
        Packing::Zstd | Packing::ZstdDefault => (
            Compression::Zstd,
            "application/vnd.oci.image.layer.v1.tar+zstd",
        ),
    };
    BuiltLayer {
        digest: hasher.finish(),
        diff_id,
        size: count,
        compression,
        media_type,
        file: Arc::new(file),
    }
}

fn write_content<W: Write>(content: &LayerContent, mut target: W) -> W {
    match content {
        LayerContent::Tar(path) => {
            let mut tar = File::open(path)
                .unwrap_or_else(|error| panic!("reading `{}`: {error}", path.display()));
            io::copy(&mut tar, &mut target).expect("copying a layer");
            target
        }
        LayerContent::Entries(entries) => {
            let mut tar = tar::Builder::new(target);
            for entry in entries {
                append(&mut tar, entry)
                    .unwrap_or_else(|error| panic!("writing entry `{}`: {error}", entry.name));
            }
            tar.into_inner().expect("ending a layer")
        }
    }
}

fn append(tar: &mut tar::Builder<impl Write>, entry: &Entry) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_mode(entry.mode);
    header.set_uid(entry.uid);
    header.set_gid(entry.gid);
    header.set_mtime(MTIME);
    header.set_size(0);
    header.set_entry_type(match &entry.kind {
        EntryKind::Directory => tar::EntryType::Directory,
        EntryKind::File(_) => tar::EntryType::Regular,
        EntryKind::Symlink(_) => tar::EntryType::Symlink,
        EntryKind::Hardlink(_) => tar::EntryType::Link,
        EntryKind::Fifo => tar::EntryType::Fifo,
        EntryKind::CharDevice(..) => tar::EntryType::Char,
    });
    match &entry.kind {
        EntryKind::Symlink(target) | EntryKind::Hardlink(target) => {
            tar.append_link(&mut header, &entry.name, target)
        }
        EntryKind::File(content) => {
            let (size, bytes) = open(content)?;
            header.set_size(size);
            tar.append_data(&mut header, &entry.name, bytes)
        }
        EntryKind::CharDevice(major, minor) => {
            header.set_device_major(*major)?;
            header.set_device_minor(*minor)?;
            tar.append_data(&mut header, &entry.name, io::empty())
        }
        EntryKind::Directory | EntryKind::Fifo => {
            tar.append_data(&mut header, &entry.name, io::empty())
        }
    }
}

fn open(content: &FileContent) -> io::Result<(u64, Box<dyn Read + '_>)> {
    Ok(match content {
        FileContent::Text(text) => (text.len() as u64, Box::new(text.as_slice())),
        FileContent::Random { size, seed } => (*size, Box::new(Noise::new(*seed).take(*size))),
        FileContent::Zeros(size) => (*size, Box::new(io::repeat(0).take(*size))),
        FileContent::HostFile(path) => {
            let file = File::open(path)?;
            (file.metadata()?.len(), Box::new(file))
        }
    })
}

struct HashingWriter<W> {
    inner: W,
    hasher: Hasher,
    count: u64,
}

impl<W> HashingWriter<W> {
    fn new(inner: W) -> Self {
        Self {
            inner,
            hasher: Hasher::new(Algorithm::Sha256),
            count: 0,
        }
    }
}

impl<W: Write> Write for HashingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.inner.write(bytes)?;
        self.hasher.update(&bytes[..count]);
        self.count += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Starts a new gzip member every [`GzipMembers::LENGTH`] bytes of input.
struct GzipMembers<W: Write> {
    member: Option<flate2::write::GzEncoder<W>>,
    left: usize,
}

impl<W: Write> GzipMembers<W> {
    /// No multiple of 512, so that members end in the middle of tar blocks.
    const LENGTH: usize = 100_003;

    fn new(target: W) -> Self {
        Self {
            member: Some(Self::start(target)),
            left: Self::LENGTH,
        }
    }

    fn start(target: W) -> flate2::write::GzEncoder<W> {
        GzBuilder::new()
            .mtime(0)
            .write(target, flate2::Compression::fast())
    }

    fn finish(mut self) -> io::Result<W> {
        self.member
            .take()
            .expect("a member is open between calls")
            .finish()
    }
}

impl<W: Write> Write for GzipMembers<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            let target = self
                .member
                .take()
                .expect("a member is open between calls")
                .finish()?;
            self.member = Some(Self::start(target));
            self.left = Self::LENGTH;
        }
        let wanted = bytes.len().min(self.left);
        let member = self
            .member
            .as_mut()
            .expect("a member is open between calls");
        let count = member.write(&bytes[..wanted])?;
        self.left -= count;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.member
            .as_mut()
            .expect("a member is open between calls")
            .flush()
    }
}
