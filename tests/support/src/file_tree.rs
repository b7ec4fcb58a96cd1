//! Named contents that become either a directory or a tar archive.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use smokegate_image::{Compression, Decoder};
use tempfile::NamedTempFile;

#[derive(Clone, Debug)]
pub(crate) enum Content {
    Bytes(Vec<u8>),
    Blob(Arc<NamedTempFile>),
    /// The blob without the compression around it.
    Decoded(Arc<NamedTempFile>, Compression),
    Symlink(String),
}

/// Sorted by name, as `docker save` and `skopeo` write their archives.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileTree(BTreeMap<String, Content>);

impl FileTree {
    pub(crate) fn add(&mut self, name: impl Into<String>, content: Content) {
        self.0.insert(name.into(), content);
    }

    pub(crate) fn add_bytes(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.add(name, Content::Bytes(bytes.into()));
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.0.extend(
            other
                .0
                .iter()
                .map(|(name, content)| (name.clone(), content.clone())),
        );
    }

    pub(crate) fn write_dir(&self, dir: &Path) -> io::Result<()> {
        for (name, content) in &self.0 {
            let path = dir.join(name);
            fs::create_dir_all(path.parent().unwrap_or(dir))?;
            match content {
                Content::Bytes(bytes) => fs::write(&path, bytes)?,
                // Not a copy of the temporary file's mode 0600: others must be able to read the layout.
                Content::Blob(blob) => {
                    io::copy(&mut blob.reopen()?, &mut File::create(&path)?)?;
                }
                Content::Decoded(blob, compression) => {
                    let mut plain = Decoder::new(blob.reopen()?, *compression)?;
                    io::copy(&mut plain, &mut File::create(&path)?)?;
                }
                Content::Symlink(target) => std::os::unix::fs::symlink(target, &path)?,
            }
        }
        Ok(())
    }

    pub(crate) fn write_tar(&self, file: &Path) -> io::Result<()> {
        let mut tar = tar::Builder::new(io::BufWriter::new(File::create(file)?));
        let mut seen: Vec<PathBuf> = Vec::new();
        for (name, content) in &self.0 {
            let parents: Vec<_> = Path::new(name).ancestors().skip(1).collect();
            for parent in parents
                .into_iter()
                .rev()
                .filter(|parent| *parent != Path::new(""))
            {
                if !seen.iter().any(|known| known == parent) {
                    let mut header = header(tar::EntryType::Directory, 0o755, 0);
                    tar.append_data(&mut header, format!("{}/", parent.display()), io::empty())?;
                    seen.push(parent.to_owned());
                }
            }
            match content {
                Content::Bytes(bytes) => {
                    let mut header = header(tar::EntryType::Regular, 0o644, bytes.len() as u64);
                    tar.append_data(&mut header, name, bytes.as_slice())?;
                }
                Content::Blob(blob) => {
                    let blob = blob.reopen()?;
                    let size = blob.metadata()?.len();
                    tar.append_data(
                        &mut header(tar::EntryType::Regular, 0o644, size),
                        name,
                        blob,
                    )?;
                }
                Content::Decoded(blob, compression) => {
                    let size = io::copy(
                        &mut Decoder::new(blob.reopen()?, *compression)?,
                        &mut io::sink(),
                    )?;
                    let plain = Decoder::new(blob.reopen()?, *compression)?;
                    tar.append_data(
                        &mut header(tar::EntryType::Regular, 0o644, size),
                        name,
                        plain,
                    )?;
                }
                Content::Symlink(target) => {
                    let mut header = header(tar::EntryType::Symlink, 0o777, 0);
                    tar.append_link(&mut header, name, target)?;
                }
            }
        }
        tar.into_inner()?
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
            .map(drop)
    }
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}
