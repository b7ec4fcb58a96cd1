//! What one root filesystem's tar has over another's, as the layer between the two.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use smokegate_image::{Algorithm, Digest, Hasher};
use tar::EntryType;

/// What an entry is, by name, in the order of the tar.
struct Listing {
    names: Vec<Vec<u8>>,
    entries: BTreeMap<Vec<u8>, Summary>,
}

struct Summary {
    digest: Digest,
    /// The name a hard link has the file from.
    link: Option<Vec<u8>>,
}

/// Writes the entries of `whole` that `below` has not, or has otherwise, byte for byte as they are, and a whiteout
/// for everything that only `below` has. A directory that differs in nothing has no entry, as in layers of
/// `docker build`.
///
/// # Errors
/// What reading either or writing answers.
pub(crate) fn write_difference(below: &Path, whole: &Path, to: impl Write) -> io::Result<()> {
    let below = list(below)?;
    let listing = list(whole)?;
    let changed = changed(&below, &listing);

    let mut to = to;
    let mut archive = tar::Archive::new(BufReader::new(File::open(whole)?));
    let mut names = listing.names.iter();
    // Extended headers stand before the entry they are for.
    let mut waiting = Vec::new();
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        let extends = kind.is_pax_local_extensions()
            || kind.is_gnu_longname()
            || kind.is_gnu_longlink()
            || kind.is_pax_global_extensions();
        let wanted = extends
            || names
                .next()
                .is_some_and(|name| changed.contains(name.as_slice()));
        if !wanted {
            waiting.clear();
            continue;
        }
        waiting.extend_from_slice(entry.header().as_bytes());
        if extends {
            entry.read_to_end(&mut waiting)?;
            waiting.resize(waiting.len().next_multiple_of(512), 0);
            continue;
        }
        to.write_all(&waiting)?;
        waiting.clear();
        let length = io::copy(&mut entry, &mut to)?;
        let padding = length.next_multiple_of(512) - length;
        io::copy(&mut io::repeat(0).take(padding), &mut to)?;
    }
    let mut tar = tar::Builder::new(to);
    for name in gone(&below, &listing) {
        whiteout(&mut tar, &name)?;
    }
    tar.into_inner().map(drop)
}

fn list(tar: &Path) -> io::Result<Listing> {
    let mut archive = tar::Archive::new(BufReader::new(File::open(tar)?));
    let mut listing = Listing {
        names: Vec::new(),
        entries: BTreeMap::new(),
    };
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path_bytes().into_owned();
        let mut hasher = Hasher::new(Algorithm::Sha256);
        // Type, mode, owner, size, time, link name, names of owners and device numbers; not name and checksum.
        let header = entry.header().as_bytes();
        hasher.update(&header[100..148]);
        hasher.update(&header[156..345]);
        if let Some(extensions) = entry.pax_extensions()? {
            for extension in extensions {
                let extension = extension?;
                hasher.update(extension.key_bytes());
                hasher.update(extension.value_bytes());
            }
        }
        let is_link = entry.header().entry_type() == EntryType::Link;
        let link = entry.link_name_bytes().filter(|_| is_link);
        let link = link.map(std::borrow::Cow::into_owned);
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = entry.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            hasher.update(&buffer[..length]);
        }
        listing.names.push(name.clone());
        let digest = hasher.finish();
        listing.entries.insert(name, Summary { digest, link });
    }
    Ok(listing)
}

fn changed<'a>(below: &Listing, whole: &'a Listing) -> BTreeSet<&'a [u8]> {
    let mut changed = BTreeSet::new();
    for name in &whole.names {
        let summary = &whole.entries[name];
        let same = below
            .entries
            .get(name)
            .is_some_and(|old| old.digest == summary.digest);
        // A name of a file that is replaced must be linked anew; the file's first name stands before it.
        let relinked = summary
            .link
            .as_deref()
            .is_some_and(|first| changed.contains(first));
        if !same || relinked {
            changed.insert(name.as_slice());
        }
    }
    changed
}

/// Without what lies in a directory that is gone itself.
fn gone(below: &Listing, whole: &Listing) -> Vec<Vec<u8>> {
    let mut gone: Vec<Vec<u8>> = Vec::new();
    for name in below.entries.keys() {
        let name = name.strip_suffix(b"/").unwrap_or(name);
        let slashed = [name, b"/"].concat();
        let stays = whole.entries.contains_key(name) || whole.entries.contains_key(&slashed);
        let inside = gone
            .iter()
            .any(|dir| name.starts_with(&[dir.as_slice(), b"/"].concat()));
        if !stays && !inside {
            gone.push(name.to_owned());
        }
    }
    gone
}

/// OCI image spec, layer.md.
fn whiteout(tar: &mut tar::Builder<impl Write>, name: &[u8]) -> io::Result<()> {
    let name = String::from_utf8_lossy(name).into_owned();
    let whiteout = match name.rsplit_once('/') {
        Some((parent, file)) => format!("{parent}/.wh.{file}"),
        None => format!(".wh.{name}"),
    };
    let mut header = tar::Header::new_gnu();
    header.set_mode(0o644);
    header.set_size(0);
    tar.append_data(&mut header, whiteout, io::empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tar(path: &Path, entries: &[(&str, EntryType, &str)]) {
        let mut tar = tar::Builder::new(File::create(path).unwrap());
        for (name, kind, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            if *kind == EntryType::Link {
                header.set_size(0);
                tar.append_link(&mut header, name, text).unwrap();
            } else {
                header.set_size(text.len() as u64);
                tar.append_data(&mut header, name, text.as_bytes()).unwrap();
            }
        }
        tar.finish().unwrap();
    }

    #[test]
    fn only_what_differs_is_in_the_layer() {
        use EntryType::{Directory, Link, Regular};
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let long = "d/".to_owned() + &"long".repeat(40);
        tar(
            &path("below"),
            &[
                ("d/", Directory, ""),
                ("d/same", Regular, "1"),
                ("d/changed", Regular, "1"),
                ("d/changed-too", Link, "d/changed"),
                ("d/same-too", Link, "d/same"),
                ("gone/", Directory, ""),
                ("gone/with-it", Regular, "1"),
            ],
        );
        tar(
            &path("whole"),
            &[
                ("d/", Directory, ""),
                ("d/same", Regular, "1"),
                ("d/changed", Regular, "2"),
                ("d/changed-too", Link, "d/changed"),
                ("d/same-too", Link, "d/same"),
                ("d/same-three", Link, "d/same"),
                (&long, Regular, "3"),
            ],
        );
        let mut layer = Vec::new();
        write_difference(&path("below"), &path("whole"), &mut layer).unwrap();
        let mut archive = tar::Archive::new(layer.as_slice());
        let found: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut text = String::new();
                entry.read_to_string(&mut text).unwrap();
                (entry.path().unwrap().display().to_string(), text)
            })
            .collect();
        let expected = [
            ("d/changed", "2"),
            ("d/changed-too", ""),
            ("d/same-three", ""),
            (&long, "3"),
            (".wh.gone", ""),
        ];
        assert_eq!(
            found,
            expected.map(|(name, text)| (name.to_owned(), text.to_owned()))
        );
    }
}
