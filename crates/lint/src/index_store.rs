//! Indexes of layers that were read before, kept beside the layers of the store, so that lint does not decompress an
//! image twice.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use smokegate_image::{DiffId, Digest, Limits};
use tempfile::NamedTempFile;

use crate::index::LayerIndex;

/// Changes with what an index holds, and with how it is read: files of another are not looked at.
const VERSION: &str = concat!("4-", env!("CARGO_PKG_VERSION"));

/// A directory of indexes, one file for each layer by its DiffID.
///
/// A file is believed if the digest at its beginning is that of the rest, so that one which a crash left half-written
/// counts as absent.
#[derive(Clone, Debug)]
pub struct IndexStore {
    dir: PathBuf,
}

/// An index in a file without a name, so that nothing is left of it if it is dropped or the process ends.
#[derive(Debug)]
pub struct UnprovenIndex {
    written: File,
    dir: PathBuf,
    name: PathBuf,
}

impl UnprovenIndex {
    /// Has it found from now on.
    ///
    /// # Errors
    /// It cannot be copied to a file with a name; nothing is left of it then.
    pub fn keep(mut self) -> io::Result<()> {
        let mut named = NamedTempFile::new_in(&self.dir)?;
        self.written.rewind()?;
        io::copy(&mut self.written, &mut named)?;
        named.persist(self.name)?;
        Ok(())
    }
}

/// A file's content, behind its digest.
#[derive(Serialize, Deserialize)]
struct Stored<I> {
    version: String,
    /// What the layer was read under: it may be over lower limits.
    limits: Limits,
    index: I,
}

/// Bytes of a digest as text.
const DIGEST: usize = 64;

impl IndexStore {
    /// The one in the layer store `store`, which need not exist yet. `None` where it belongs to somebody else.
    pub fn in_store(store: &Path) -> Option<Self> {
        match fs::metadata(store) {
            Ok(found) if found.uid() != own_uid()? => None,
            _ => Some(Self {
                dir: store.join("index"),
            }),
        }
    }

    /// The index of a layer, if it is there and was read under the same limits.
    pub fn get(&self, layer: &DiffId, limits: &Limits) -> Option<LayerIndex> {
        let bytes = fs::read(self.file(layer)).ok()?;
        let (digest, rest) = bytes.split_at_checked(DIGEST)?;
        if Digest::sha256(rest).hex().as_bytes() != digest {
            return None;
        }
        let stored: Stored<LayerIndex> = postcard::from_bytes(rest).ok()?;
        let is_same = stored.version == VERSION && stored.limits == *limits;
        is_same.then_some(stored.index)
    }

    /// Keeps the index of a layer that was read to its end.
    ///
    /// # Errors
    /// The directory or the file cannot be written; nothing is left of it then.
    pub fn put(&self, layer: &DiffId, limits: &Limits, index: &LayerIndex) -> io::Result<()> {
        self.write(layer, limits, index)?.keep()
    }

    /// Writes the index of a layer of which it is not known yet that it is what its digests say.
    ///
    /// # Errors
    /// The directory or the file cannot be written; nothing is left of it then.
    pub fn write(
        &self,
        layer: &DiffId,
        limits: &Limits,
        index: &LayerIndex,
    ) -> io::Result<UnprovenIndex> {
        let stored = Stored {
            version: VERSION.to_owned(),
            limits: *limits,
            index,
        };
        let bytes = postcard::to_stdvec(&stored).map_err(io::Error::other)?;
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)?;
        let mut written = tempfile::tempfile_in(&self.dir)?;
        written.write_all(Digest::sha256(&bytes).hex().as_bytes())?;
        written.write_all(&bytes)?;
        Ok(UnprovenIndex {
            written,
            dir: self.dir.clone(),
            name: self.file(layer),
        })
    }

    /// Removes every index that is of none of these layers.
    ///
    /// # Errors
    /// The directory cannot be listed, or a file not removed.
    pub fn retain(&self, layers: &[DiffId]) -> io::Result<()> {
        let files = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            files => files?,
        };
        for file in files {
            let path = file?.path();
            if !layers.iter().any(|layer| self.file(layer) == path) {
                match fs::remove_file(path) {
                    // A run beside this one has renamed or removed it.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    removed => removed?,
                }
            }
        }
        Ok(())
    }

    fn file(&self, layer: &DiffId) -> PathBuf {
        self.dir.join(layer.0.hex())
    }
}

/// Who this process is, as files of its own are.
fn own_uid() -> Option<u32> {
    fs::metadata("/proc/self").ok().map(|own| own.uid())
}

#[cfg(test)]
mod tests {
    use smokegate_test_support::ImageFixture;

    use super::*;

    fn index() -> LayerIndex {
        let dir = tempfile::tempdir().unwrap();
        let archive = dir.path().join("image.tar");
        ImageFixture::load("serve")
            .build()
            .write_oci_archive(&archive, None);
        let source = smokegate_image::ImageSource::Path(archive);
        let options = smokegate_image::OpenOptions::new(dir.path().to_owned());
        let image = smokegate_image::Image::open(&source, &options).unwrap();
        let tar = image.selected().layers[0].open_tar().unwrap();
        LayerIndex::read(
            std::io::BufReader::new(tar),
            &smokegate_rootfs::Limits::default(),
        )
        .unwrap()
    }

    #[test]
    fn an_index_comes_back_as_it_was_and_a_damaged_one_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let store = IndexStore::in_store(dir.path()).unwrap();
        let layer = DiffId(Digest::sha256(b"layer"));
        let limits = Limits::default();
        assert_eq!(store.get(&layer, &limits), None);
        let index = index();
        assert!(!index.entries.is_empty());
        let _unproven = store.write(&layer, &limits, &index).unwrap();
        assert_eq!(fs::read_dir(&store.dir).unwrap().count(), 0);
        store.put(&layer, &limits, &index).unwrap();
        assert_eq!(store.get(&layer, &limits), Some(index));

        let lower = Limits {
            layer_entries: 1,
            ..Limits::default()
        };
        assert_eq!(store.get(&layer, &lower), None, "read under other limits");
        let file = store.file(&layer);
        let bytes = fs::read(&file).unwrap();
        for end in [0, DIGEST, bytes.len() / 2, bytes.len() - 1] {
            fs::write(&file, &bytes[..end]).unwrap();
            assert_eq!(store.get(&layer, &limits), None, "cut at {end}");
        }
        let mut changed = bytes.clone();
        changed[DIGEST + bytes.len() / 2] ^= 1;
        fs::write(&file, changed).unwrap();
        assert_eq!(store.get(&layer, &limits), None);
    }

    #[test]
    fn only_indexes_of_layers_in_the_store_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = IndexStore::in_store(dir.path()).unwrap();
        store.retain(&[]).unwrap();
        let layers = [b"one", b"two"].map(|name| DiffId(Digest::sha256(name)));
        for layer in &layers {
            let limits = Limits::default();
            store.put(layer, &limits, &LayerIndex::default()).unwrap();
        }
        store.retain(&layers[..1]).unwrap();
        let limits = Limits::default();
        assert!(store.get(&layers[0], &limits).is_some());
        assert!(store.get(&layers[1], &limits).is_none());
    }
}
