//! The journal of a push's tag moves: what is needed to finish or undo them after a crash.
//!
//! One JSON value a line, each on disk before what it announces is done: first what moves where, with the bytes
//! of all manifests concerned, then each move before and after it is made.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::Value;
use smokegate_image::{Digest, Document, DocumentKind};

use crate::{Error, Target};

/// The form of the file. Another number is another form.
const VERSION: u32 = 1;

/// Bytes of a manifest, exactly.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Kept {
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
    #[serde(serialize_with = "to_base64", deserialize_with = "from_base64")]
    pub(crate) bytes: Vec<u8>,
}

/// What a tag was, as far as it takes to put it back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Old {
    /// It did not exist.
    Absent,
    /// It pointed to this, in a registry.
    Manifest(Kept),
    /// It had this entry in a layout's index.
    Entry(Value),
    /// It was in an archive that will be kept under this name meanwhile.
    File(PathBuf),
    /// It is in the same archive as a tag before it, and goes with that.
    WithFirst,
}

/// One tag that is to be moved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Move {
    #[serde(serialize_with = "to_text", deserialize_with = "from_text")]
    pub(crate) target: Target,
    pub(crate) was: Old,
    /// Whether the image's root was new in the repository, so that nobody else's tag can point to it.
    pub(crate) root_is_new: bool,
}

/// What one push does to tags.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moves {
    version: u32,
    /// What the tags are to point to.
    pub(crate) root: Kept,
    pub(crate) moves: Vec<Move>,
}

/// What becomes of a tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Entry {
    /// It is about to be moved.
    Moving,
    /// It was moved and read back.
    Moved,
    /// It was put back and read back.
    PutBack,
}

#[derive(Serialize)]
struct Line<'a> {
    tag: String,
    entry: &'a Entry,
}

impl Kept {
    pub(crate) fn of(document: &Document) -> Self {
        Self {
            digest: document.digest.clone(),
            media_type: document.media_type.clone(),
            bytes: document.bytes.to_vec(),
        }
    }

    /// The same as a document, to be written by it.
    pub(crate) fn document(&self) -> Document {
        Document {
            digest: self.digest.clone(),
            media_type: self.media_type.clone(),
            bytes: self.bytes.clone().into(),
            kind: DocumentKind::Attached,
            platform: None,
            children: Vec::new(),
        }
    }
}

impl Moves {
    pub(crate) fn new(root: Kept, moves: Vec<Move>) -> Self {
        Self {
            version: VERSION,
            root,
            moves,
        }
    }

    /// Reads what a journal is about. What was done already is asked of the registries instead.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let invalid = |reason: String| Error::Journal {
            path: path.to_owned(),
            source: io::Error::new(io::ErrorKind::InvalidData, reason),
        };
        let text = fs::read_to_string(path).map_err(|source| Error::Journal {
            path: path.to_owned(),
            source,
        })?;
        let first = text.lines().next().unwrap_or_default();
        let moves: Self = serde_json::from_str(first).map_err(|error| {
            invalid(format!(
                "it is not the journal of a push (column {})",
                error.column()
            ))
        })?;
        if moves.version != VERSION {
            return Err(invalid(format!(
                "it has version {}, and this smokegate knows {VERSION} only",
                moves.version
            )));
        }
        let old = moves.moves.iter().filter_map(|tag| match &tag.was {
            Old::Manifest(kept) => Some(kept),
            _ => None,
        });
        for kept in old.chain([&moves.root]) {
            if crate::manifest::digest(kept.digest.algorithm(), &kept.bytes) != kept.digest {
                return Err(invalid(format!("its manifest {} is damaged", kept.digest)));
            }
        }
        Ok(moves)
    }
}

/// A journal that is being written.
#[derive(Debug)]
pub(crate) struct Journal {
    file: Mutex<File>,
    path: PathBuf,
    made_directory: bool,
}

impl Journal {
    /// Begins one in `directory`, under a name that no other has.
    pub(crate) fn begin(directory: &Path, moves: &Moves) -> Result<Self, Error> {
        let failed = |path: &Path| {
            let path = path.to_owned();
            move |source| Error::Write { path, source }
        };
        let made_directory = !directory.exists();
        fs::create_dir_all(directory).map_err(failed(directory))?;
        let short = &moves.root.digest.hex()[..12];
        let mut number = 1;
        let (path, file) = loop {
            let path = directory.join(format!("push-{short}-{number}.journal"));
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(file) => break (path, file),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => number += 1,
                Err(error) => return Err(failed(&path)(error)),
            }
        };
        let journal = Self {
            file: Mutex::new(file),
            path,
            made_directory,
        };
        journal.append(&serde_json::to_vec(moves).expect("a JSON value"))?;
        // The name, too, must outlive a crash.
        let synced = File::open(directory).and_then(|directory| directory.sync_all());
        synced.map_err(failed(directory))?;
        Ok(journal)
    }

    /// Goes on with one that was left.
    pub(crate) fn reopen(path: &Path) -> Result<Self, Error> {
        let file = OpenOptions::new().append(true).open(path);
        let file = file.map_err(|source| Error::Write {
            path: path.to_owned(),
            source,
        })?;
        Ok(Self {
            file: Mutex::new(file),
            path: path.to_owned(),
            made_directory: false,
        })
    }

    pub(crate) fn note(&self, target: &Target, entry: Entry) -> Result<(), Error> {
        let line = Line {
            tag: target.to_string(),
            entry: &entry,
        };
        self.append(&serde_json::to_vec(&line).expect("a JSON value"))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Removes it: nothing is left to finish or undo.
    pub(crate) fn remove(self) {
        let removed = fs::remove_file(&self.path);
        if let Err(error) = removed {
            tracing::debug!(%error, path = %self.path.display(), "the journal stays");
        }
        if let (true, Some(directory)) = (self.made_directory, self.path.parent()) {
            // Fails where something else is in it, as it should.
            let _ = fs::remove_dir(directory);
        }
    }

    fn append(&self, line: &[u8]) -> Result<(), Error> {
        let mut file = self.file.lock().expect("no panic while held");
        let written = file
            .write_all(&[line, b"\n"].concat())
            .and_then(|()| file.sync_data());
        written.map_err(|source| Error::Write {
            path: self.path.clone(),
            source,
        })
    }
}

fn to_base64<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&STANDARD.encode(bytes))
}

fn from_base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let text = String::deserialize(deserializer)?;
    STANDARD.decode(text).map_err(de::Error::custom)
}

fn to_text<S: Serializer>(target: &Target, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(target)
}

fn from_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Target, D::Error> {
    String::deserialize(deserializer)?
        .parse()
        .map_err(de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(text: &str) -> Kept {
        Kept {
            digest: Digest::sha256(text.as_bytes()),
            media_type: "m".to_owned(),
            bytes: text.as_bytes().to_vec(),
        }
    }

    #[test]
    fn what_is_written_is_read_and_nothing_is_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let inside = directory.path().join("report");
        let target: Target = "r.example/a:1".parse().unwrap();
        let tag = Move {
            target: target.clone(),
            was: Old::Manifest(kept("old")),
            root_is_new: true,
        };
        let moves = Moves::new(kept("new"), vec![tag]);
        let first = Journal::begin(&inside, &moves).unwrap();
        first.note(&target, Entry::Moving).unwrap();
        let second = Journal::begin(&inside, &moves).unwrap();
        assert_ne!(first.path(), second.path());
        assert_eq!(Moves::read(first.path()).unwrap(), moves);
        let text = fs::read_to_string(first.path()).unwrap();
        assert_eq!(
            text.lines().last(),
            Some(r#"{"tag":"r.example/a:1","entry":"moving"}"#)
        );
        second.remove();
        assert!(inside.exists());
        first.remove();
        assert!(!inside.exists());
    }

    #[test]
    fn a_damaged_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.journal");
        let moves = Moves::new(kept("new"), Vec::new());
        let good = serde_json::to_string(&moves).unwrap();
        for (text, said) in [
            (String::new(), "not the journal"),
            ("{}".to_owned(), "not the journal"),
            (good.replace(":1,", ":2,"), "version 2"),
            (
                good.replace(&STANDARD.encode("new"), &STANDARD.encode("odd")),
                "damaged",
            ),
        ] {
            fs::write(&path, text).unwrap();
            let error = Moves::read(&path).unwrap_err();
            let source = std::error::Error::source(&error).unwrap().to_string();
            assert!(source.contains(said), "{source}");
        }
    }
}
