//! A tar archive as a store: one pass over its headers, no byte of a member copied.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tar::{EntryType, Header, PaxExtensions};

use crate::store::{Member, Store};
use crate::{Error, FileRange, Limits};

const BLOCK: u64 = 512;
/// Names of members; PATH_MAX is 4096, and a PAX header may hold a few extended attributes beside them.
const EXTENSION_LIMIT: u64 = 1 << 20;
/// PATH_MAX. Names are kept in memory, and an extended header could make each of them a megabyte.
const NAME_LIMIT: usize = 4096;
/// As many links are followed as Linux does (path_resolution(7)).
const LINK_LIMIT: usize = 40;

/// The index of an uncompressed tar archive.
pub(crate) struct Archive {
    file: Arc<File>,
    members: HashMap<String, Place>,
    has_end: bool,
}

enum Place {
    Data {
        offset: u64,
        size: u64,
        missing: u64,
    },
    Link(Option<String>),
    Sparse {
        offset: u64,
    },
}

/// What PAX and GNU headers say about the member that follows them.
#[derive(Default)]
struct Extension {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl Archive {
    /// Reads the headers of `file`, skipping over what members hold.
    pub(crate) fn index(file: Arc<File>, limits: &Limits) -> Result<Self, Error> {
        let read = |source| Error::Read {
            what: "the archive".to_owned(),
            source,
        };
        let len = file.metadata().map_err(read)?.len();
        let mut members = HashMap::new();
        let mut extension = Extension::default();
        let (mut offset, mut has_end, mut headers) = (0, false, 0);
        // A size may lead to the end of all numbers.
        while len.saturating_sub(offset) >= BLOCK {
            let mut block = [0; BLOCK as usize];
            file.read_exact_at(&mut block, offset).map_err(read)?;
            if block == [0; BLOCK as usize] {
                has_end = true;
                break;
            }
            headers += 1;
            if headers > limits.members {
                let problem = format!("more than {} members", limits.members);
                return Err(Error::Archive { offset, problem });
            }
            let header = Header::from_byte_slice(&block);
            let damaged = |problem: String| Error::Archive { offset, problem };
            check_sum(header).map_err(damaged)?;
            let kind = header.entry_type();
            let stored = header
                .entry_size()
                .map_err(|error| damaged(error.to_string()))?;
            let data = offset + BLOCK;
            let size = match kind {
                kind if is_extension(kind) => stored,
                // Data never follows these, whatever the size field says (Go's archive/tar, isHeaderOnly).
                EntryType::Link
                | EntryType::Symlink
                | EntryType::Directory
                | EntryType::Char
                | EntryType::Block
                | EntryType::Fifo => 0,
                _ => extension.size.unwrap_or(stored),
            };
            let end = data
                .checked_add(size)
                .and_then(|end| end.checked_next_multiple_of(BLOCK))
                .ok_or_else(|| damaged("a member of more than 2^64 bytes".to_owned()))?;
            let missing = (data + size).saturating_sub(len);
            if is_extension(kind) {
                if size > EXTENSION_LIMIT {
                    return Err(damaged(format!("an extended header of {size} bytes")));
                }
                if missing == 0 {
                    let mut bytes = vec![0; size as usize];
                    file.read_exact_at(&mut bytes, data).map_err(read)?;
                    extension.add(kind, bytes).map_err(damaged)?;
                }
            } else {
                let said = std::mem::take(&mut extension);
                let path = said
                    .path
                    .unwrap_or_else(|| header.path_bytes().into_owned());
                if let Some(name) = normalize("", &path) {
                    let link = said
                        .link
                        .or_else(|| Some(header.link_name_bytes()?.into_owned()));
                    if let Some(place) = place(kind, &name, link, (data, size, missing)) {
                        // As for tar itself, the last member of a name is the one.
                        members.insert(name, place);
                    }
                }
            }
            offset = end;
        }
        Ok(Self {
            file,
            members,
            has_end,
        })
    }

    /// Whether it has no member at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

fn is_extension(kind: EntryType) -> bool {
    kind.is_gnu_longname()
        || kind.is_gnu_longlink()
        || kind.is_pax_local_extensions()
        || kind.is_pax_global_extensions()
}

fn place(
    kind: EntryType,
    name: &str,
    link: Option<Vec<u8>>,
    (offset, size, missing): (u64, u64, u64),
) -> Option<Place> {
    match kind {
        EntryType::Regular | EntryType::Continuous => Some(Place::Data {
            offset,
            size,
            missing,
        }),
        // A symbolic link starts where it stands, a hard link at the top of the archive.
        EntryType::Symlink => {
            let directory = name.rsplit_once('/').map_or("", |(directory, _)| directory);
            Some(Place::Link(normalize(directory, &link?)))
        }
        EntryType::Link => Some(Place::Link(normalize("", &link?))),
        EntryType::GNUSparse => Some(Place::Sparse {
            offset: offset - BLOCK,
        }),
        _ => None,
    }
}

impl Extension {
    fn add(&mut self, kind: EntryType, mut bytes: Vec<u8>) -> Result<(), String> {
        if kind.is_pax_global_extensions() {
            return Ok(());
        }
        if !kind.is_pax_local_extensions() {
            bytes.truncate(
                bytes
                    .iter()
                    .position(|byte| *byte == 0)
                    .unwrap_or(bytes.len()),
            );
            let field = if kind.is_gnu_longname() {
                &mut self.path
            } else {
                &mut self.link
            };
            *field = Some(bytes);
            return Ok(());
        }
        for record in PaxExtensions::new(&bytes) {
            let record = record.map_err(|error| error.to_string())?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value)
                        .ok()
                        .and_then(|text| text.parse().ok());
                    self.size = Some(size.ok_or("a PAX size that is no number")?);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// A wrong sum means that this is no header: not a tar file, or a size before it was wrong.
fn check_sum(header: &Header) -> Result<(), String> {
    let bytes = header.as_bytes();
    let sum =
        |range: std::ops::Range<usize>| bytes[range].iter().map(|b| u32::from(*b)).sum::<u32>();
    let expected = sum(0..148) + 8 * u32::from(b' ') + sum(156..512);
    match header.cksum() {
        Ok(found) if found == expected => Ok(()),
        _ => Err("not a tar header (its checksum is wrong)".to_owned()),
    }
}

/// `path` seen from `directory`, without `.`, `..` and leading slashes; `None` where it leaves the archive
/// or is not text or too long, as no file of an image is called so.
fn normalize(directory: &str, path: &[u8]) -> Option<String> {
    let path = std::str::from_utf8(path).ok()?;
    if path.len() > NAME_LIMIT {
        return None;
    }
    let base = if path.starts_with('/') { "" } else { directory };
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            name => parts.push(name),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

impl Store for Archive {
    fn find(&self, name: &str) -> Result<Option<Member>, Error> {
        let Some(mut name) = normalize("", name.as_bytes()) else {
            return Ok(None);
        };
        for _ in 0..LINK_LIMIT {
            match self.members.get(&name) {
                Some(Place::Data {
                    offset,
                    size,
                    missing,
                }) => {
                    let file = Arc::clone(&self.file);
                    let range = FileRange {
                        file,
                        offset: *offset,
                        len: *size,
                    };
                    return Ok(Some(Member {
                        range,
                        missing: *missing,
                    }));
                }
                Some(Place::Link(Some(target))) => name.clone_from(target),
                Some(Place::Sparse { offset }) => {
                    let problem = format!("`{name}` is stored as sparse; archive it without that");
                    return Err(Error::Archive {
                        offset: *offset,
                        problem,
                    });
                }
                Some(Place::Link(None)) | None => return Ok(None),
            }
        }
        Ok(None)
    }

    fn may_be_truncated(&self) -> bool {
        !self.has_end
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn indexed(bytes: &[u8]) -> Result<Archive, Error> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Archive::index(Arc::new(file), &Limits::default())
    }

    fn add(
        builder: &mut tar::Builder<Vec<u8>>,
        kind: EntryType,
        name: &str,
        link: &str,
        data: &[u8],
    ) {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        if link.is_empty() {
            builder.append_data(&mut header, name, data).unwrap();
        } else {
            builder.append_link(&mut header, name, link).unwrap();
        }
    }

    #[test]
    fn finds_members_through_links() {
        let mut builder = tar::Builder::new(Vec::new());
        let long = format!("blobs/sha512/{}", "a".repeat(128));
        add(
            &mut builder,
            EntryType::Regular,
            "./one/layer.tar",
            "",
            b"first",
        );
        add(
            &mut builder,
            EntryType::Symlink,
            "two/layer.tar",
            "../one/layer.tar",
            b"",
        );
        add(
            &mut builder,
            EntryType::Link,
            "three/layer.tar",
            "two/layer.tar",
            b"",
        );
        add(&mut builder, EntryType::Symlink, "loop", "loop", b"");
        add(
            &mut builder,
            EntryType::Symlink,
            "out",
            "../../etc/passwd",
            b"",
        );
        add(&mut builder, EntryType::Regular, &long, "", b"long");
        let archive = indexed(&builder.into_inner().unwrap()).unwrap();
        assert!(!archive.may_be_truncated());
        for name in [
            "one/layer.tar",
            "./two//layer.tar",
            "/three/layer.tar",
            "x/../one/layer.tar",
        ] {
            assert_eq!(
                &*(&archive as &dyn Store).text(name, 9).unwrap(),
                b"first",
                "{name}"
            );
        }
        assert_eq!(&*(&archive as &dyn Store).text(&long, 9).unwrap(), b"long");
        for name in ["loop", "out", "absent", ".."] {
            assert!(archive.find(name).unwrap().is_none(), "{name}");
        }
    }

    #[test]
    fn says_what_is_cut_off() {
        let mut builder = tar::Builder::new(Vec::new());
        add(&mut builder, EntryType::Regular, "file", "", &[7; 1000]);
        let bytes = builder.into_inner().unwrap();
        let archive = indexed(&bytes[..512 + 400]).unwrap();
        assert!(archive.may_be_truncated());
        let error = (&archive as &dyn Store)
            .file("file")
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            "`file`: the archive ends 600 bytes before it does; it is truncated"
        );
    }

    #[test]
    fn a_size_near_the_end_of_all_numbers() {
        let mut header = Header::new_gnu();
        header.set_path("huge").unwrap();
        // With the header it ends at 2^64 - 512, and the next one would end behind that.
        header.set_size(u64::MAX - 1023);
        header.set_mode(0o644);
        header.set_cksum();
        let bytes = [&header.as_bytes()[..], &[0; 1024]].concat();
        let archive = indexed(&bytes).unwrap();
        let error = (&archive as &dyn Store).file("huge").unwrap_err();
        assert!(error.to_string().contains("it is truncated"), "{error}");
    }

    #[test]
    fn names_that_no_file_has_are_not_kept() {
        let mut builder = tar::Builder::new(Vec::new());
        let long = "n/".repeat(3000);
        add(&mut builder, EntryType::Regular, &long, "", b"");
        assert!(indexed(&builder.into_inner().unwrap()).unwrap().is_empty());
    }

    #[test]
    fn refuses_what_is_no_header() {
        let error = indexed(&[b'x'; 1024]).err().unwrap().to_string();
        assert!(
            error.contains("damaged at byte 0: not a tar header"),
            "{error}"
        );
    }
}
