//! Makes the images of `cargo xtask bench`: WORKLOAD, with its layers as gzip and as zstd, and as `docker save` has it.
//!
//! ```text
//! DIR/gzip.tar, DIR/zstd.tar         an OCI archive that `docker load` reads too
//! DIR/gzip.layout, DIR/zstd.layout   the same as a layout directory
//! DIR/docker.tar                     uncompressed layers and no manifest
//! DIR/facts.json                     how many layers, entries and bytes those are; written last
//! ```

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, BufReader, Write};
use std::path::{Path, PathBuf};

use smokegate_test_support::{
    Entry, EntryKind, FileContent, ImageFixture, LayerContent, LayerFixture, Noise, Packing,
    TarPieces, debian_layers,
};

/// Beside Debian's own files there is an app's environment of some size.
const DEBIAN: &str = "essential python3-numpy,g++,nodejs";
const TINY_FILES: u64 = 100_000;
const TINY_FILES_PER_DIRECTORY: u64 = 100;
const PIECES: usize = 60;
/// As most tools write them by themselves.
const PACKINGS: [(&str, Packing); 2] = [
    ("gzip", Packing::GzipDefault),
    ("zstd", Packing::ZstdDefault),
];

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [workload, dir] = words.as_slice() else {
        return Err("usage: bench-image debian|one-layer|sixty-layers|tiny-files DIR".into());
    };
    let dir = Path::new(dir);
    fs::create_dir_all(dir)?;
    let layers = match workload.as_str() {
        "debian" => tars(&debian_layers(DEBIAN)?),
        "one-layer" => {
            let pieces = TarPieces::of(&debian_layers(DEBIAN)?)?;
            tars(&pieces.write(1, dir)?)
        }
        "sixty-layers" => {
            let pieces = TarPieces::of(&debian_layers(DEBIAN)?)?;
            tars(&pieces.write(PIECES, dir)?)
        }
        "tiny-files" => vec![LayerContent::Entries(tiny_files())],
        other => return Err(format!("no workload `{other}`").into()),
    };
    for (name, packing) in PACKINGS {
        // The app stands on top of each.
        let mut fixture = ImageFixture::load("serve");
        for layer in &mut fixture.layers {
            layer.packing = packing;
        }
        let below = layers.iter().cloned();
        let below = below.map(|content| LayerFixture { packing, content });
        fixture.layers.splice(0..0, below);
        let image = fixture.build();
        image.write_docker_archive(&dir.join(name).with_extension("tar"), Some("bench:v1"));
        image.write_oci_layout(&dir.join(name).with_extension("layout"), Some("v1"));
        if packing == Packing::GzipDefault {
            image.write_docker_archive_legacy(&dir.join("docker.tar"), Some("bench:v1"));
        }
    }
    for content in layers {
        if let LayerContent::Tar(piece) = content
            && piece.starts_with(dir)
        {
            fs::remove_file(piece)?;
        }
    }
    Ok(fs::write(dir.join("facts.json"), facts(dir)?)?)
}

/// Counted in what was written, whatever it was made from.
fn facts(dir: &Path) -> io::Result<String> {
    let (mut layers, mut entries, mut bytes) = (0, 0, 0);
    let archive = File::open(dir.join("docker.tar"))?;
    for member in tar::Archive::new(BufReader::new(archive)).entries()? {
        let member = member?;
        if member.path()?.ends_with("layer.tar") {
            layers += 1;
            bytes += member.size();
            entries += tar::Archive::new(member).entries()?.count();
        }
    }
    let facts = serde_json::json!({"layers": layers, "entries": entries, "bytes": bytes});
    Ok(facts.to_string() + "\n")
}

fn tars(paths: &[PathBuf]) -> Vec<LayerContent> {
    paths.iter().cloned().map(LayerContent::Tar).collect()
}

/// Source files and their like: text of a few hundred bytes to 4 KB, half of it compressible.
fn tiny_files() -> Vec<Entry> {
    let entry = |name: String, kind, mode| Entry {
        name,
        kind,
        mode,
        uid: 0,
        gid: 0,
    };
    let mut noise = Noise::new(7);
    let mut entries = Vec::new();
    for number in 0..TINY_FILES {
        let dir = number / TINY_FILES_PER_DIRECTORY;
        if number % TINY_FILES_PER_DIRECTORY == 0 {
            let (tens, ones) = (dir / 10, dir % 10);
            if ones == 0 {
                entries.push(entry(format!("srv{tens}"), EntryKind::Directory, 0o755));
            }
            entries.push(entry(
                format!("srv{tens}/{ones}"),
                EntryKind::Directory,
                0o755,
            ));
        }
        let lines = 4 + noise.next_word() % 60;
        let mut text = Vec::new();
        for line in 0..lines {
            let word = noise.next_word();
            _ = writeln!(
                text,
                "the value of line {line} is {word:016x}, and that is all"
            );
        }
        let name = format!("srv{}/{}/file-{number}.txt", dir / 10, dir % 10);
        let content = EntryKind::File(FileContent::Text(text));
        entries.push(entry(name, content, 0o644));
    }
    entries
}
