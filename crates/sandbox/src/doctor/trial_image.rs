//! The image of the trial container: two layers that have what is hard about layers, and a program that waits.

use std::io::{self, Cursor};
use std::path::Path;

use smokegate_image::{Digest, Error, Image, OpenOptions};

/// The program in it, which is also the init of containers: static, and at rest until a signal comes.
pub(super) const PROGRAM: &str = "/smokegate-trial";

/// Reads it as any image is read; `spool_dir` holds it meanwhile.
pub(super) fn open(spool_dir: &Path) -> Result<Image, Error> {
    let options = OpenOptions::new(spool_dir.to_owned());
    let (os, architecture) = (&options.platform.os, &options.platform.architecture);
    let archive = archive(os, architecture).map_err(|source| Error::Open {
        path: spool_dir.to_owned(),
        source,
    })?;
    Image::read(Box::new(Cursor::new(archive)), &options)
}

/// A `docker save` archive.
fn archive(os: &str, architecture: &str) -> io::Result<Vec<u8>> {
    let layers = [lower()?, upper()?];
    let diff_ids: Vec<_> = layers
        .iter()
        .map(|layer| Digest::sha256(layer).to_string())
        .collect();
    let config = serde_json::json!({
        "os": os,
        "architecture": architecture,
        "config": {"Entrypoint": [PROGRAM]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let manifest = serde_json::json!([
        {"Config": "config.json", "RepoTags": null, "Layers": ["lower.tar", "upper.tar"]},
    ]);
    let mut tar = tar::Builder::new(Vec::new());
    let files = [
        ("manifest.json", manifest.to_string().into_bytes()),
        ("config.json", config.to_string().into_bytes()),
    ];
    let names = ["lower.tar", "upper.tar"].into_iter();
    for (name, content) in files.into_iter().chain(names.zip(layers)) {
        file(&mut tar, name, 0o644, &content)?;
    }
    tar.into_inner()
}

/// A program, something to remove, and what a level may not keep.
fn lower() -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    directory(&mut tar, "opaque/")?;
    file(&mut tar, "opaque/below", 0o644, b"")?;
    file(&mut tar, "removed", 0o644, b"")?;
    // struct vfs_cap_data of revision 2 with CAP_NET_BIND_SERVICE (linux/capability.h).
    let capability = [&[1, 0, 0, 2, 0, 4][..], &[0; 14]].concat();
    tar.append_pax_extensions([("SCHILY.xattr.security.capability", capability.as_slice())])?;
    file(&mut tar, "capable", 0o755, b"")?;
    file(
        &mut tar,
        PROGRAM.trim_start_matches('/'),
        0o755,
        crate::helper::INIT_PROGRAM,
    )?;
    tar.into_inner()
}

/// What overlayfs keeps as device and attribute, which not every filesystem takes.
fn upper() -> io::Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    file(&mut tar, ".wh.removed", 0o644, b"")?;
    directory(&mut tar, "opaque/")?;
    file(&mut tar, "opaque/.wh..wh..opq", 0o644, b"")?;
    tar.into_inner()
}

fn directory(tar: &mut tar::Builder<Vec<u8>>, name: &str) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(0o755);
    header.set_size(0);
    tar.append_data(&mut header, name, io::empty())
}

fn file(tar: &mut tar::Builder<Vec<u8>>, name: &str, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    tar.append_data(&mut header, name, content)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn the_trial_image_is_one_that_we_read() {
        let dir = tempfile::tempdir().unwrap();
        let image = open(dir.path()).unwrap();
        assert_eq!(image.selected().layers.len(), 2);
        image
            .verify_layers(|_, _| false, &AtomicBool::new(false))
            .unwrap();
    }
}
