//! Where an image comes from, as the user names it: a path, `-`, or a skopeo-style transport.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use oci_spec::distribution::Reference;

/// Where an image comes from. `Display` gives back what was typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageSource {
    /// A path: OCI layout directory, OCI archive or docker-archive, told by its content.
    Path(PathBuf),
    /// `-`: an archive on standard input.
    Stdin,
    /// `oci:DIR[:tag]`.
    OciLayout {
        /// The directory.
        path: PathBuf,
        /// Which image of it.
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:tag]`.
    OciArchive {
        /// The file.
        path: PathBuf,
        /// Which image of it.
        tag: Option<String>,
    },
    /// `docker-archive:FILE[:tag]`.
    DockerArchive {
        /// The file.
        path: PathBuf,
        /// Which image of it: a full name or only its tag.
        tag: Option<String>,
    },
    /// `docker://REF`: in a registry, which this crate cannot reach.
    Registry {
        /// The reference, with what it leaves out filled in.
        reference: Reference,
        /// The reference as typed.
        typed: String,
    },
}

/// A string that names no source.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseSourceError {
    /// Nothing between or behind the colons.
    #[error("`{0}` names no path")]
    NoPath(String),
    /// One of skopeo's transports that need a daemon or its storage.
    #[error(
        "the transport `{0}:` is not supported; use a path, `oci:`, `oci-archive:`, `docker-archive:` or `docker://`"
    )]
    Transport(String),
    /// `docker:` without the slashes.
    #[error("`{0}` lacks the slashes of `docker://REGISTRY/REPO:TAG`")]
    NoSlashes(String),
    /// Not a reference to an image.
    #[error("`{text}` is not an image reference")]
    Reference {
        /// What follows `docker://`.
        text: String,
        /// Why not.
        #[source]
        source: oci_spec::distribution::ParseError,
    },
}

/// Transports of skopeo that smokegate has not, so that their names are not taken for paths.
const FOREIGN_TRANSPORTS: [&str; 6] = [
    "docker-daemon",
    "containers-storage",
    "dir",
    "sif",
    "ostree",
    "tarball",
];

impl ImageSource {
    /// The same source with a relative path starting at `dir`.
    pub fn below(self, dir: &Path) -> Self {
        match self {
            Self::Path(path) => Self::Path(dir.join(path)),
            Self::OciLayout { path, tag } => Self::OciLayout {
                path: dir.join(path),
                tag,
            },
            Self::OciArchive { path, tag } => Self::OciArchive {
                path: dir.join(path),
                tag,
            },
            Self::DockerArchive { path, tag } => Self::DockerArchive {
                path: dir.join(path),
                tag,
            },
            Self::Stdin | Self::Registry { .. } => self,
        }
    }
}

impl FromStr for ImageSource {
    type Err = ParseSourceError;

    /// Parses `text`; looks at the file system only to tell a colon of a path from the one before a tag.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text, &|path| path.exists())
    }
}

fn parse(text: &str, exists: &dyn Fn(&Path) -> bool) -> Result<ImageSource, ParseSourceError> {
    if text == "-" {
        return Ok(ImageSource::Stdin);
    }
    let (transport, rest) = text.split_once(':').unwrap_or(("", text));
    let located = || {
        let (path, tag) = split_tag(rest, exists);
        if path.is_empty() {
            return Err(ParseSourceError::NoPath(text.to_owned()));
        }
        Ok((PathBuf::from(path), tag.map(str::to_owned)))
    };
    match transport {
        "oci" => located().map(|(path, tag)| ImageSource::OciLayout { path, tag }),
        "oci-archive" => located().map(|(path, tag)| ImageSource::OciArchive { path, tag }),
        "docker-archive" => located().map(|(path, tag)| ImageSource::DockerArchive { path, tag }),
        "docker" => {
            let reference = rest
                .strip_prefix("//")
                .ok_or_else(|| ParseSourceError::NoSlashes(text.to_owned()))?;
            let parsed = reference
                .parse()
                .map_err(|source| ParseSourceError::Reference {
                    text: reference.to_owned(),
                    source,
                })?;
            Ok(ImageSource::Registry {
                reference: parsed,
                typed: reference.to_owned(),
            })
        }
        foreign if FOREIGN_TRANSPORTS.contains(&foreign) && !exists(Path::new(text)) => {
            Err(ParseSourceError::Transport(foreign.to_owned()))
        }
        _ if text.is_empty() => Err(ParseSourceError::NoPath(text.to_owned())),
        _ => Ok(ImageSource::Path(PathBuf::from(text))),
    }
}

/// Splits `PATH[:tag]`. The longest path that exists wins; where none does, the first colon ends it.
fn split_tag<'a>(rest: &'a str, exists: &dyn Fn(&Path) -> bool) -> (&'a str, Option<&'a str>) {
    if exists(Path::new(rest)) {
        return (rest, None);
    }
    let colons = || rest.match_indices(':').map(|(at, _)| at);
    let at = colons()
        .rev()
        .find(|at| exists(Path::new(&rest[..*at])))
        .or_else(|| colons().next());
    match at {
        Some(at) if at + 1 < rest.len() => (&rest[..at], Some(&rest[at + 1..])),
        Some(at) => (&rest[..at], None),
        None => (rest, None),
    }
}

impl fmt::Display for ImageSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, path, tag) = match self {
            Self::Stdin => return f.write_str("-"),
            Self::Path(path) => return write!(f, "{}", path.display()),
            Self::Registry { typed, .. } => return write!(f, "docker://{typed}"),
            Self::OciLayout { path, tag } => ("oci", path, tag),
            Self::OciArchive { path, tag } => ("oci-archive", path, tag),
            Self::DockerArchive { path, tag } => ("docker-archive", path, tag),
        };
        write!(f, "{transport}:{}", path.display())?;
        tag.iter().try_for_each(|tag| write!(f, ":{tag}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_with(text: &str, existing: &[&str]) -> Result<ImageSource, ParseSourceError> {
        parse(text, &|path| {
            existing.iter().any(|name| Path::new(name) == path)
        })
    }

    fn archive(path: &str, tag: Option<&str>) -> ImageSource {
        ImageSource::DockerArchive {
            path: path.into(),
            tag: tag.map(str::to_owned),
        }
    }

    #[test]
    fn parses_every_form_and_displays_it_back() {
        let cases: [(&str, &[&str], ImageSource); 9] = [
            ("-", &[], ImageSource::Stdin),
            ("app.tar", &[], ImageSource::Path("app.tar".into())),
            ("a:b.tar", &["a:b.tar"], ImageSource::Path("a:b.tar".into())),
            ("dir:b", &["dir:b"], ImageSource::Path("dir:b".into())),
            (
                "oci:d",
                &[],
                ImageSource::OciLayout {
                    path: "d".into(),
                    tag: None,
                },
            ),
            (
                "oci-archive:f.tar:v1",
                &[],
                ImageSource::OciArchive {
                    path: "f.tar".into(),
                    tag: Some("v1".into()),
                },
            ),
            (
                "docker-archive:f.tar:r:5/n:v1",
                &["f.tar"],
                archive("f.tar", Some("r:5/n:v1")),
            ),
            (
                "docker-archive:f:1.tar:v1",
                &["f:1.tar", "f"],
                archive("f:1.tar", Some("v1")),
            ),
            (
                "docker-archive:f:1.tar",
                &["f:1.tar"],
                archive("f:1.tar", None),
            ),
        ];
        for (text, existing, expected) in cases {
            let parsed = parse_with(text, existing).unwrap();
            assert_eq!(parsed, expected, "{text}");
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn registry_references_are_typed() {
        let source = parse_with("docker://localhost:5000/app:v1", &[]).unwrap();
        assert_eq!(source.to_string(), "docker://localhost:5000/app:v1");
        let ImageSource::Registry { reference, .. } = source else {
            panic!("{source}")
        };
        assert_eq!(
            (
                reference.registry(),
                reference.repository(),
                reference.tag()
            ),
            ("localhost:5000", "app", Some("v1"))
        );
    }

    #[test]
    fn refuses_what_names_nothing() {
        let cases = [
            ("", "`` names no path"),
            ("oci:", "`oci:` names no path"),
            ("oci::v1", "`oci::v1` names no path"),
            ("docker:app", "lacks the slashes"),
            ("docker://UPPER/Case", "is not an image reference"),
            (
                "docker-daemon:app:v1",
                "the transport `docker-daemon:` is not supported",
            ),
        ];
        for (text, message) in cases {
            let error = parse_with(text, &[]).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
    }
}
