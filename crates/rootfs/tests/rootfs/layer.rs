//! Writes layer tars, also ones that no tar program would write.

use std::io::{BufRead, BufReader};

use smokegate_image::{DiffId, Digest, LayerDigest};
use smokegate_rootfs::{
    Applied, Error, FillLayer, MergedView, Owners, Policy, RootDir, Stats, apply_layer, settle,
};

pub(crate) const MTIME: u64 = 1_600_000_000;

/// Adds entries to a layer.
pub(crate) type Step = fn(Layer) -> Layer;

/// A tar in the making. Owners are the ones of the process, so that every id level can keep them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Layer {
    bytes: Vec<u8>,
    pax: Vec<u8>,
}

impl Layer {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// A PAX record for the next entry.
    pub(crate) fn pax(mut self, key: &str, value: &[u8]) -> Self {
        let body = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut length = body.len() + 1;
        while length != body.len() + length.to_string().len() {
            length = body.len() + length.to_string().len();
        }
        self.pax.extend(length.to_string().bytes());
        self.pax.extend(body);
        self
    }

    fn block(
        &mut self,
        kind: u8,
        name: &[u8],
        link: &[u8],
        mode: u32,
        data: &[u8],
        dev: (u32, u32),
    ) {
        let mut header = tar::Header::new_ustar();
        let old = header.as_old_mut();
        old.name[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
        old.linkname[..link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        old.linkflag = [kind];
        header.set_mode(mode);
        header.set_uid(rustix::process::geteuid().as_raw().into());
        header.set_gid(rustix::process::getegid().as_raw().into());
        header.set_mtime(MTIME);
        header.set_size(data.len() as u64);
        header.set_device_major(dev.0).unwrap();
        header.set_device_minor(dev.1).unwrap();
        header.set_cksum();
        self.bytes.extend(header.as_bytes());
        self.bytes.extend(data);
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
    }

    pub(crate) fn raw(
        mut self,
        kind: u8,
        name: impl AsRef<[u8]>,
        link: impl AsRef<[u8]>,
        mode: u32,
        data: &[u8],
    ) -> Self {
        let (name, link) = (name.as_ref().to_vec(), link.as_ref().to_vec());
        if name.len() > 100 {
            self = self.pax("path", &name);
        }
        if link.len() > 100 {
            self = self.pax("linkpath", &link);
        }
        let pax = std::mem::take(&mut self.pax);
        if !pax.is_empty() {
            self.block(b'x', b"pax", b"", 0o644, &pax, (0, 0));
        }
        self.block(kind, &name, &link, mode, data, (0, 0));
        self
    }

    pub(crate) fn dir(self, name: impl AsRef<[u8]>, mode: u32) -> Self {
        self.raw(b'5', name, b"", mode, b"")
    }

    pub(crate) fn file(self, name: impl AsRef<[u8]>, mode: u32, data: &[u8]) -> Self {
        self.raw(b'0', name, b"", mode, data)
    }

    pub(crate) fn symlink(self, name: impl AsRef<[u8]>, target: &str) -> Self {
        self.raw(b'2', name, target, 0o777, b"")
    }

    pub(crate) fn hardlink(self, name: impl AsRef<[u8]>, target: &str) -> Self {
        self.raw(b'1', name, target, 0o644, b"")
    }

    pub(crate) fn device(mut self, name: &str, major: u32, minor: u32) -> Self {
        self.block(b'3', name.as_bytes(), b"", 0o600, b"", (major, minor));
        self
    }

    /// Bytes of headers made elsewhere.
    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend(bytes);
        self
    }

    pub(crate) fn tar(&self) -> Vec<u8> {
        [self.bytes.as_slice(), &[0; 1024]].concat()
    }

    pub(crate) fn plan(&self) -> FillLayer {
        let digest = Digest::sha256(&self.tar());
        let size = self.bytes.len() as u64;
        FillLayer {
            blob: LayerDigest(digest.clone()),
            diff_id: DiffId(digest),
            size,
        }
    }

    /// As the image crate gives it: verified at its end.
    pub(crate) fn reader(&self) -> Box<dyn BufRead + Send> {
        let tar = std::io::Cursor::new(self.tar());
        let digest = self.plan().diff_id.0;
        let tar = smokegate_image::VerifiedReader::new(tar, digest, None);
        Box::new(BufReader::new(tar))
    }
}

pub(crate) fn policy() -> Policy {
    Policy {
        owners: Owners::Ignore,
        limits: smokegate_rootfs::Limits::default(),
    }
}

/// Layers applied and settled in a temporary directory.
pub(crate) struct Chain {
    pub(crate) temp: tempfile::TempDir,
    /// The lowest first.
    pub(crate) dirs: Vec<RootDir>,
    pub(crate) stats: Vec<Stats>,
}

impl Chain {
    pub(crate) fn try_new(layers: &[Layer], policy: &Policy) -> Result<Self, Error> {
        Self::try_new_in(&std::env::temp_dir(), layers, policy)
    }

    fn try_new_in(
        place: &std::path::Path,
        layers: &[Layer],
        policy: &Policy,
    ) -> Result<Self, Error> {
        let temp = tempfile::tempdir_in(place).unwrap();
        let mut chain = Self {
            temp,
            dirs: Vec::new(),
            stats: Vec::new(),
        };
        for layer in layers {
            let path = chain.path(chain.dirs.len());
            std::fs::create_dir(&path).unwrap();
            let dir = RootDir::open(&path).unwrap();
            let applied: Applied = apply_layer(&dir, layer.reader(), policy)?;
            let lowers: Vec<&RootDir> = chain.dirs.iter().rev().collect();
            let stats = settle(&dir, applied, &lowers, policy)?;
            chain.stats.push(stats);
            chain.dirs.push(dir);
        }
        Ok(chain)
    }

    pub(crate) fn new(layers: &[Layer]) -> Self {
        Self::try_new(layers, &policy()).unwrap_or_else(|error| panic!("{error:?}"))
    }

    pub(crate) fn new_in(place: &std::path::Path, layers: &[Layer]) -> Self {
        Self::try_new_in(place, layers, &policy()).unwrap_or_else(|error| panic!("{error:?}"))
    }

    pub(crate) fn path(&self, layer: usize) -> std::path::PathBuf {
        self.temp.path().join(layer.to_string())
    }

    pub(crate) fn view(&self) -> MergedView<'_> {
        MergedView::new(self.dirs.iter().rev().collect())
    }

    /// Lines of the merged tree's dump without owner and digest: path, type, mode, mtime and the rest.
    pub(crate) fn lines(&self) -> Vec<String> {
        let dump = smokegate_rootfs::tree_dump(&self.view()).unwrap();
        dump.lines().map(shorten).collect()
    }

    pub(crate) fn assert_has(&self, expected: &[&str]) {
        let lines = self.lines();
        for expected in expected {
            let found = lines.iter().any(|line| line == expected);
            assert!(found, "no line `{expected}` in\n{}", lines.join("\n"));
        }
    }

    pub(crate) fn assert_lacks(&self, paths: &[&str]) {
        let lines = self.lines();
        for path in paths {
            let start = format!("{path} ");
            let found = lines.iter().find(|line| line.starts_with(&start));
            assert_eq!(found, None, "in\n{}", lines.join("\n"));
        }
    }
}

impl Drop for Chain {
    fn drop(&mut self) {
        // Layers may have directories that their owner cannot enter.
        let parent = RootDir::open(self.temp.path()).unwrap();
        for layer in 0..=self.dirs.len() {
            let name = layer.to_string();
            smokegate_rootfs::remove_tree(std::os::fd::AsFd::as_fd(&parent), name.as_bytes())
                .unwrap();
        }
    }
}

/// Drops what differs from run to run (owner) or says little (digest, and the mtime all entries have).
fn shorten(line: &str) -> String {
    let words = line.split(' ').enumerate().filter(|(index, word)| {
        *index != 3 && !word.starts_with("sha256:") && **word != format!("{MTIME}.000000000")
    });
    words.map(|(_, word)| word).collect::<Vec<_>>().join(" ")
}
