//! An OCI image layout directory as a destination (OCI image spec, image-layout.md).

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use smokegate_image::{Algorithm, Blob, Content, Digest, Document, Hasher, Image, subject_of};

use crate::referrers::descriptor;
use crate::{DestinationState, Error};

/// The content of the file `oci-layout`.
pub(crate) const LAYOUT_FILE: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
const INDEX_MEDIA_TYPE: &str = "application/vnd.oci.image.index.v1+json";
/// What the names of files begin with until they are complete.
const TEMPORARY: &str = ".smokegate-";
/// Larger than any index of a layout that is used as one.
const INDEX_LIMIT: u64 = 16 * 1024 * 1024;

/// A layout directory that is written to, made where it is missing.
#[derive(Clone, Debug)]
pub(crate) struct LayoutTarget {
    path: PathBuf,
}

impl LayoutTarget {
    pub(crate) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    /// Whether the directory is a layout, or may become one.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let entries = match fs::read_dir(&self.path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return check_parent(&self.path);
            }
            Err(error) => return Err(write_error(&self.path)(error)),
        };
        let mut names = entries.filter_map(|entry| Some(entry.ok()?.file_name()));
        // A killed push may have left what was to be its first file.
        let is_empty = names.all(|name| name.as_encoded_bytes().starts_with(TEMPORARY.as_bytes()));
        if !is_empty && !self.path.join("oci-layout").is_file() {
            let reason = "is not empty and has no `oci-layout` file: it is not an OCI layout";
            return Err(Error::NotALayout {
                path: self.path.clone(),
                reason: reason.to_owned(),
            });
        }
        check_writable(&self.path)
    }

    /// What is there of an image. Files are believed only when their bytes are right.
    pub(crate) fn state(&self, image: &Image, tags: &[String]) -> Result<DestinationState, Error> {
        let mut state = DestinationState::default();
        for blob in image.blobs() {
            if self.has(blob.digest(), blob.size()) {
                state.blobs.insert(blob.digest().clone());
            }
        }
        for document in image.published() {
            if self.has(&document.digest, document.bytes.len() as u64) {
                state.documents.insert(document.digest.clone());
            }
        }
        for tag in tags {
            if let Some(digest) = self.resolve(tag)? {
                state.tags.insert(tag.clone(), digest);
            }
        }
        Ok(state)
    }

    /// The digest that the index has for a tag.
    pub(crate) fn resolve(&self, tag: &str) -> Result<Option<Digest>, Error> {
        let tagged = tagged(&self.index()?, tag);
        tagged.map_err(|reason| Error::NotALayout {
            path: self.path.join("index.json"),
            reason,
        })
    }

    /// Writes a blob, unless it cannot be verified; `progress` is told the bytes written so far.
    pub(crate) fn put_blob(
        &self,
        blob: &Blob,
        progress: &dyn Fn(u64) -> io::Result<()>,
    ) -> Result<(), Error> {
        let content = |source| Error::Content {
            digest: blob.digest().clone(),
            source,
        };
        self.mark()?;
        self.create(&self.blob_path(blob.digest()), |file, path| {
            let mut reader = blob.open();
            let mut buffer = vec![0; 256 * 1024];
            let mut written = 0;
            loop {
                let count = reader.read(&mut buffer).map_err(content)?;
                if count == 0 {
                    return Ok(());
                }
                file.write_all(&buffer[..count])
                    .map_err(write_error(path))?;
                written += count as u64;
                progress(written).map_err(write_error(path))?;
            }
        })
    }

    /// Writes a manifest or index.
    pub(crate) fn put_document(&self, document: &Document) -> Result<(), Error> {
        self.create(&self.blob_path(&document.digest), |file, path| {
            file.write_all(&document.bytes).map_err(write_error(path))
        })?;
        if self.has(&document.digest, document.bytes.len() as u64) {
            return Ok(());
        }
        let reference = self.blob_path(&document.digest).display().to_string();
        Err(Error::ReadBack {
            reference,
            expected: document.digest.clone(),
            got: None,
        })
    }

    /// Points a tag at a document, leaves all others, and reads it back.
    pub(crate) fn put_tag(&self, tag: &str, document: &Document) -> Result<(), Error> {
        self.set_entry(tag, Some(entry(tag, document)))?;
        let got = self.resolve(tag)?;
        if got.as_ref() == Some(&document.digest) {
            return Ok(());
        }
        let reference = format!("oci:{}:{tag}", self.path.display());
        Err(Error::ReadBack {
            reference,
            expected: document.digest.clone(),
            got,
        })
    }

    /// Makes sure that the index lists a document that refers to another, if it does.
    pub(crate) fn list_referrer(&self, document: &Document) -> Result<(), Error> {
        if subject_of(&document.bytes).is_none() {
            return Ok(());
        }
        let wanted = descriptor(document);
        let index = self.index()?;
        let mut entries = index["manifests"].as_array().into_iter().flatten();
        if entries.any(|entry| entry["digest"] == wanted["digest"]) {
            return Ok(());
        }
        self.change(|entries| entries.push(wanted))
    }

    /// The entry of a tag as it is, with all that others wrote into it.
    pub(crate) fn entry(&self, tag: &str) -> Result<Option<Value>, Error> {
        let index = self.index()?;
        let mut entries = index["manifests"].as_array().into_iter().flatten();
        Ok(entries
            .find(|entry| entry["annotations"][REF_NAME] == tag)
            .cloned())
    }

    /// Makes a tag have an entry, or none.
    pub(crate) fn set_entry(&self, tag: &str, wanted: Option<Value>) -> Result<(), Error> {
        self.change(|entries| {
            entries.retain(|entry| entry["annotations"][REF_NAME] != tag);
            entries.extend(wanted);
        })
    }

    /// Changes the entries of the index.
    fn change(&self, change: impl FnOnce(&mut Vec<Value>)) -> Result<(), Error> {
        let mut index = self.index()?;
        let wrong = || Error::NotALayout {
            path: self.path.join("index.json"),
            reason: "has no list of `manifests`".to_owned(),
        };
        let entries = index["manifests"].as_array_mut().ok_or_else(wrong)?;
        change(entries);
        self.mark()?;
        self.create(&self.path.join("index.json"), |file, path| {
            file.write_all(&serde_json::to_vec(&index).expect("a JSON value"))
                .map_err(write_error(path))
        })
    }

    /// Has the directory be a layout from the first blob on, so that what a failed push leaves can be pushed to again.
    fn mark(&self) -> Result<(), Error> {
        let path = self.path.join("oci-layout");
        if path.is_file() {
            return Ok(());
        }
        self.create(&path, |file, path| {
            file.write_all(LAYOUT_FILE.as_bytes())
                .map_err(write_error(path))
        })
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join(blob_name(digest))
    }

    /// Whether a document is there, byte for byte.
    pub(crate) fn has_document(&self, document: &Document) -> bool {
        self.has(&document.digest, document.bytes.len() as u64)
    }

    fn has(&self, digest: &Digest, size: u64) -> bool {
        let Ok(mut file) = File::open(self.blob_path(digest)) else {
            return false;
        };
        if file.metadata().is_ok_and(|metadata| metadata.len() != size) {
            return false;
        }
        hash(&mut file, digest.algorithm()).is_ok_and(|found| found == *digest)
    }

    fn index(&self) -> Result<Value, Error> {
        let path = self.path.join("index.json");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(index_of(Vec::new()));
            }
            Err(error) => return Err(write_error(&path)(error)),
        };
        let mut bytes = Vec::new();
        file.take(INDEX_LIMIT)
            .read_to_end(&mut bytes)
            .map_err(write_error(&path))?;
        serde_json::from_slice(&bytes).map_err(|error| Error::NotALayout {
            path,
            reason: format!(
                "is not JSON (line {}, column {})",
                error.line(),
                error.column()
            ),
        })
    }

    /// Creates or replaces a file at once: under another name first, so that no reader sees half of it.
    fn create(
        &self,
        path: &Path,
        write: impl FnOnce(&mut File, &Path) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let directory = path.parent().unwrap_or(&self.path);
        fs::create_dir_all(directory).map_err(write_error(directory))?;
        let mut file = temporary_in(directory).map_err(write_error(path))?;
        write(file.as_file_mut(), path)?;
        file.as_file().sync_all().map_err(write_error(path))?;
        file.persist(path)
            .map_err(|error| write_error(path)(error.error))?;
        Ok(())
    }
}

/// A file that is renamed when complete, with the mode any new file has.
pub(crate) fn temporary_in(directory: &Path) -> io::Result<tempfile::NamedTempFile> {
    tempfile::Builder::new()
        .prefix(TEMPORARY)
        .permissions(fs::Permissions::from_mode(0o666))
        .tempfile_in(directory)
}

/// Where a layout has a blob.
pub(crate) fn blob_name(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm(), digest.hex())
}

/// An `index.json` of some entries.
pub(crate) fn index_of(entries: Vec<Value>) -> Value {
    json!({ "schemaVersion": 2, "mediaType": INDEX_MEDIA_TYPE, "manifests": entries })
}

/// The digest that an `index.json` has for a tag.
pub(crate) fn tagged(index: &Value, tag: &str) -> Result<Option<Digest>, String> {
    let mut entries = index["manifests"].as_array().into_iter().flatten();
    let entry = entries.find(|entry| entry["annotations"][REF_NAME] == tag);
    let Some(entry) = entry else { return Ok(None) };
    let digest = entry["digest"]
        .as_str()
        .and_then(|digest| digest.parse().ok());
    digest
        .map(Some)
        .ok_or_else(|| format!("has no valid digest for `{tag}`"))
}

/// The entry of `index.json` that gives a document a tag.
pub(crate) fn entry(tag: &str, document: &Document) -> Value {
    json!({
        "mediaType": document.media_type,
        "digest": document.digest,
        "size": document.bytes.len(),
        "annotations": { REF_NAME: tag },
    })
}

/// Whether a file can be made beside `path`, or in the nearest directory above it that exists.
pub(crate) fn check_parent(path: &Path) -> Result<(), Error> {
    let absolute = std::path::absolute(path).map_err(write_error(path))?;
    let existing = absolute
        .ancestors()
        .skip(1)
        .find(|directory| directory.exists());
    check_writable(existing.unwrap_or(&absolute))
}

fn check_writable(directory: &Path) -> Result<(), Error> {
    temporary_in(directory)
        .map(drop)
        .map_err(write_error(directory))
}

pub(crate) fn write_error(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Write {
        path: path.clone(),
        source,
    }
}

fn hash(reader: &mut impl Read, algorithm: Algorithm) -> io::Result<Digest> {
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; 128 * 1024];
    loop {
        let count = reader.read(&mut buffer)?;
        if count == 0 {
            return Ok(hasher.finish());
        }
        hasher.update(&buffer[..count]);
    }
}

/// A document in the form of a blob, for writers that only know those.
pub(crate) fn document_as_blob(document: &Document) -> Blob {
    let content = Content::Bytes(document.bytes.clone());
    let size = document.bytes.len() as u64;
    Blob::new(
        document.digest.clone(),
        size,
        document.media_type.clone(),
        content,
    )
}
