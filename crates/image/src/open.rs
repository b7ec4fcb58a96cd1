//! Opening an image: which form a source has, and what must be spooled before it can be read by position.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::archive::Archive;
use crate::layout::LayoutDir;
use crate::store::Store;
use crate::{
    Compression, Decoder, Error, Image, ImageSource, Limits, Platform, docker_archive, oci,
};

/// How a source is opened.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The platform whose image is selected.
    pub platform: Platform,
    /// Whether an image without that platform is an error. Commands that run nothing take its first one instead.
    pub require_platform: bool,
    /// Where streams and compressed archives are unpacked to: a file without a name, gone with the process.
    pub spool_dir: PathBuf,
    /// What the source may cost.
    pub limits: Limits,
    /// Whether layers and attachments may be missing, as they are [`crate::Content::Absent`] then: for images
    /// whose documents were fetched from a registry, and of the rest only what is needed.
    pub absent_blobs: bool,
}

impl OpenOptions {
    /// The host's platform, required; default limits.
    pub fn new(spool_dir: PathBuf) -> Self {
        let platform = Platform::host();
        Self {
            platform,
            require_platform: true,
            spool_dir,
            limits: Limits::default(),
            absent_blobs: false,
        }
    }
}

/// Which of an archive's two forms is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Any,
    Oci,
    Docker,
}

impl Image {
    /// Opens `source`: reads and verifies its documents, and finds its layers without reading them.
    ///
    /// # Errors
    /// When it is not there, is no image, or breaks a rule; see [`Error::kind`] for whose fault that is.
    pub fn open(source: &ImageSource, options: &OpenOptions) -> Result<Self, Error> {
        let image = match source {
            ImageSource::Stdin => Self::read(Box::new(io::stdin().lock()), options),
            ImageSource::Path(path) if is_directory(path)? => open_layout(path, None, options),
            ImageSource::Path(path) => open_archive(path, Form::Any, None, options),
            ImageSource::OciLayout { path, tag } => {
                if !is_directory(path)? {
                    let wanted = "a directory; an archive is named by `oci-archive:`";
                    return Err(Error::WrongFileType {
                        path: path.clone(),
                        wanted,
                    });
                }
                open_layout(path, tag.as_deref(), options)
            }
            ImageSource::OciArchive { path, tag } => {
                open_archive(path, Form::Oci, tag.as_deref(), options)
            }
            ImageSource::DockerArchive { path, tag } => {
                open_archive(path, Form::Docker, tag.as_deref(), options)
            }
            ImageSource::Registry { .. } => Err(Error::InRegistry(source.to_string())),
        }?;
        Ok(image.within(options.limits))
    }

    /// Opens the archive that `stream` gives: it is spooled, as layers are read by position.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn read(stream: Box<dyn Read + '_>, options: &OpenOptions) -> Result<Self, Error> {
        let file = spool(stream, options)?;
        Ok(open_tar(file, "-", Form::Any, None, options)?.within(options.limits))
    }
}

fn is_directory(path: &Path) -> Result<bool, Error> {
    let metadata = std::fs::metadata(path).map_err(|source| Error::Open {
        path: path.to_owned(),
        source,
    })?;
    Ok(metadata.is_dir())
}

fn open_layout(path: &Path, tag: Option<&str>, options: &OpenOptions) -> Result<Image, Error> {
    let store = LayoutDir::new(path);
    if store.find("index.json")?.is_none() && store.find("oci-layout")?.is_none() {
        return Err(Error::NotAnImage {
            place: path.display().to_string(),
            problem: "the directory has no `index.json`".to_owned(),
        });
    }
    oci::open(&store, tag, options)
}

fn open_archive(
    path: &Path,
    form: Form,
    tag: Option<&str>,
    options: &OpenOptions,
) -> Result<Image, Error> {
    if is_directory(path)? {
        let wanted = "a file; a directory is named by `oci:`";
        return Err(Error::WrongFileType {
            path: path.to_owned(),
            wanted,
        });
    }
    let opened = |source| Error::Open {
        path: path.to_owned(),
        source,
    };
    let file = File::open(path).map_err(opened)?;
    let is_file = file.metadata().map_err(opened)?.is_file();
    let place = path.display().to_string();
    // A FIFO, as `<(…)` gives one, is a stream like standard input.
    let file = if is_file && sniff(&file, &place)? == Compression::None {
        file
    } else {
        spool(Box::new(file), options)?
    };
    open_tar(file, &place, form, tag, options)
}

fn open_tar(
    file: File,
    place: &str,
    form: Form,
    tag: Option<&str>,
    options: &OpenOptions,
) -> Result<Image, Error> {
    let not_an_image = |problem: &str| Error::NotAnImage {
        place: place.to_owned(),
        problem: problem.to_owned(),
    };
    let mut first = [0; 6];
    let count = file.read_at(&mut first, 0).map_err(|source| Error::Read {
        what: format!("`{place}`"),
        source,
    })?;
    match &first[..count] {
        [] => return Err(not_an_image("it is empty")),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            return Err(not_an_image(
                "it is compressed with xz; decompress it, or use gzip or zstd",
            ));
        }
        [b'B', b'Z', b'h', ..] => {
            return Err(not_an_image(
                "it is compressed with bzip2; decompress it, or use gzip or zstd",
            ));
        }
        _ => {}
    }
    let archive = match Archive::index(Arc::new(file), &options.limits) {
        Err(Error::Archive { offset: 0, .. }) => {
            return Err(not_an_image("it is not a tar archive"));
        }
        other => other?,
    };
    if archive.is_empty() && archive.may_be_truncated() {
        return Err(not_an_image(
            "it is not a tar archive, or only the first bytes of one",
        ));
    }
    let has = |name| archive.find(name).map(|found| found.is_some());
    if form != Form::Docker && has("index.json")? {
        return oci::open(&archive, tag, options);
    }
    if form != Form::Oci && has("manifest.json")? {
        return docker_archive::open(&archive, tag, options);
    }
    let lacking = match form {
        Form::Any => "its top has neither `index.json` nor `manifest.json`",
        Form::Oci => "its top has no `index.json`",
        Form::Docker => "its top has no `manifest.json`",
    };
    let end = if archive.may_be_truncated() {
        ", and it has no end marker: it may be truncated"
    } else {
        ""
    };
    Err(not_an_image(&format!("{lacking}{end}")))
}

fn sniff(file: &File, place: &str) -> Result<Compression, Error> {
    let mut first = [0; 4];
    let count = file.read_at(&mut first, 0).map_err(|source| Error::Read {
        what: format!("`{place}`"),
        source,
    })?;
    Ok(Compression::sniff(&first[..count]))
}

/// Copies `stream`, decompressed, to a file without a name.
fn spool(stream: Box<dyn Read + '_>, options: &OpenOptions) -> Result<File, Error> {
    let mut file = tempfile::tempfile_in(&options.spool_dir).map_err(|source| Error::Spool {
        dir: options.spool_dir.clone(),
        source,
    })?;
    decompress(stream, &mut file, options)?;
    Ok(file)
}

fn decompress(
    mut stream: Box<dyn Read + '_>,
    output: &mut impl Write,
    options: &OpenOptions,
) -> Result<(), Error> {
    let mut first = Vec::new();
    let read = |source| Error::Read {
        what: "the archive".to_owned(),
        source,
    };
    (&mut stream)
        .take(4)
        .read_to_end(&mut first)
        .map_err(read)?;
    let compression = Compression::sniff(&first);
    let whole = io::Cursor::new(first).chain(stream);
    let mut decoder =
        Decoder::new(whole, compression).map_err(|source| Error::Decompress { source })?;
    let mut buffer = vec![0; 256 * 1024];
    let limit = options.limits.spool_bytes;
    let mut total = 0;
    loop {
        let count = match decoder.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(source) => return Err(Error::Decompress { source }),
        };
        total += count as u64;
        if total > limit {
            return Err(Error::SpoolLimit { limit });
        }
        output
            .write_all(&buffer[..count])
            .map_err(|source| Error::Spool {
                dir: options.spool_dir.clone(),
                source,
            })?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_full_disk_is_the_hosts_fault() {
        let mut full = File::options().write(true).open("/dev/full").unwrap();
        let options = OpenOptions::new(PathBuf::from("/spool"));
        let error = decompress(Box::new(&b"archive"[..]), &mut full, &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Host);
        assert_eq!(
            error.to_string(),
            "cannot write a temporary file in `/spool`"
        );
        let Error::Spool { source, .. } = error else {
            panic!("{error}")
        };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull);
    }

    #[test]
    fn a_stream_that_fails_is_the_hosts_fault() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::from_raw_os_error(5))
            }
        }
        let options = OpenOptions::new(std::env::temp_dir());
        for start in [&b""[..], b"\x1f\x8b\x08\x00\x00\x00"] {
            let error = Image::read(Box::new(start.chain(Failing)), &options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Host, "{error}");
        }
    }
}
