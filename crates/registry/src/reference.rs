//! Where an image is published: `REGISTRY/REPO:TAG`, `oci:DIR:tag` or `oci-archive:FILE:tag`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use oci_spec::distribution::{ParseError, Reference};

/// What holds blobs, manifests and tags: a repository of a registry, or a layout on disk.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Destination {
    /// A repository.
    Repository {
        /// The registry as references name it: `docker.io`, `localhost:5000`.
        registry: String,
        /// The repository's full name: `library/alpine`.
        repository: String,
    },
    /// An OCI image layout directory.
    Layout(PathBuf),
    /// A tar file of an OCI image layout. Written anew each time.
    Archive(PathBuf),
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Repository {
                registry,
                repository,
            } => write!(f, "{registry}/{repository}"),
            Self::Layout(path) => write!(f, "oci:{}", path.display()),
            Self::Archive(path) => write!(f, "oci-archive:{}", path.display()),
        }
    }
}

/// A tag in a destination: the value of `--tag`. `Display` is its canonical form.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Target {
    destination: Destination,
    tag: String,
}

impl Target {
    /// What the tag is in.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The tag alone.
    pub fn tag(&self) -> &str {
        &self.tag
    }

    /// Whether publishing to it needs the network.
    pub fn is_remote(&self) -> bool {
        matches!(self.destination, Destination::Repository { .. })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.destination, self.tag)
    }
}

/// Why a `--tag` value names no target.
#[derive(Debug, thiserror::Error)]
pub enum ParseTargetError {
    /// There is no tag, and none is assumed.
    #[error("`{reference}` has no tag: write `{reference}:TAG` (`latest` is never assumed)")]
    MissingTag {
        /// What was given.
        reference: String,
    },
    /// A digest cannot be chosen by the one who pushes.
    #[error(
        "`{reference}` names a digest, but a push decides by itself what digest its tag gets: leave `@…` out"
    )]
    Digest {
        /// What was given.
        reference: String,
    },
    /// A transport that cannot be published to.
    #[error(
        "`{transport}` cannot be published to: use REGISTRY/REPO:TAG, `oci:DIR:tag` or `oci-archive:FILE:tag`"
    )]
    Transport {
        /// The prefix that was given.
        transport: String,
    },
    /// `oci:` or `oci-archive:` without a path.
    #[error("`{reference}` has no path between its colons")]
    MissingPath {
        /// What was given.
        reference: String,
    },
    /// A tag the OCI specs do not allow.
    #[error("`{tag}` in `{reference}` is not a valid tag")]
    Tag {
        /// What was given.
        reference: String,
        /// The part of it.
        tag: String,
    },
    /// Not a reference at all.
    #[error("`{reference}` is not a reference")]
    Reference {
        /// What was given.
        reference: String,
        /// Why not.
        #[source]
        source: ParseError,
    },
}

const NOT_TARGETS: [&str; 8] = [
    "docker-archive:",
    "docker-daemon:",
    "containers-storage:",
    "dir:",
    "ostree:",
    "sif:",
    "https://",
    "http://",
];

impl FromStr for Target {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(rest) = text.strip_prefix("oci-archive:") {
            return layout_target(text, rest, Destination::Archive);
        }
        if let Some(rest) = text.strip_prefix("oci:") {
            return layout_target(text, rest, Destination::Layout);
        }
        if let Some(transport) = NOT_TARGETS.iter().find(|prefix| text.starts_with(**prefix)) {
            return Err(ParseTargetError::Transport {
                transport: (*transport).to_owned(),
            });
        }
        repository_target(text)
    }
}

fn repository_target(text: &str) -> Result<Target, ParseTargetError> {
    let reference = text.strip_prefix("docker://").unwrap_or(text);
    if reference.contains('@') {
        return Err(ParseTargetError::Digest {
            reference: text.to_owned(),
        });
    }
    // `Reference` would fill in `latest`, so the tag is looked for first: a colon in the last component.
    let last = reference.rsplit('/').next().unwrap_or_default();
    let has_tag = last.split_once(':').is_some_and(|(_, tag)| !tag.is_empty());
    // The registry's name is not case sensitive, as any host name; the regular expression allows both.
    let parsed: Reference = reference
        .parse()
        .map_err(|source| ParseTargetError::Reference {
            reference: text.to_owned(),
            source,
        })?;
    let Some(tag) = parsed.tag().filter(|_| has_tag) else {
        return Err(ParseTargetError::MissingTag {
            reference: text.to_owned(),
        });
    };
    Ok(Target {
        destination: Destination::Repository {
            registry: parsed.registry().to_ascii_lowercase(),
            repository: parsed.repository().to_owned(),
        },
        tag: tag.to_owned(),
    })
}

fn layout_target(
    text: &str,
    rest: &str,
    destination: fn(PathBuf) -> Destination,
) -> Result<Target, ParseTargetError> {
    // The path ends at the first colon, as in skopeo: a reference name may hold colons, the path may not.
    let Some((path, tag)) = rest.split_once(':').filter(|(_, tag)| !tag.is_empty()) else {
        return Err(ParseTargetError::MissingTag {
            reference: text.trim_end_matches(':').to_owned(),
        });
    };
    if path.is_empty() {
        return Err(ParseTargetError::MissingPath {
            reference: text.to_owned(),
        });
    }
    if !is_reference_name(tag) {
        return Err(ParseTargetError::Tag {
            reference: text.to_owned(),
            tag: tag.to_owned(),
        });
    }
    Ok(Target {
        destination: destination(PathBuf::from(path)),
        tag: tag.to_owned(),
    })
}

/// The grammar of `org.opencontainers.image.ref.name` (OCI image spec, annotations.md).
fn is_reference_name(name: &str) -> bool {
    name.split('/').all(|component| {
        let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
        edge(component.bytes().next())
            && edge(component.bytes().last())
            && component
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-._:@+".contains(&byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (given, canonical) in [
            ("alpine:3", "docker.io/library/alpine:3"),
            ("acme/app:1.0", "docker.io/acme/app:1.0"),
            ("index.docker.io/acme/app:1.0", "docker.io/acme/app:1.0"),
            ("localhost/app:v1", "localhost/app:v1"),
            ("localhost:5000/app:v1", "localhost:5000/app:v1"),
            (
                "docker://127.0.0.1:5000/a/b/c:latest",
                "127.0.0.1:5000/a/b/c:latest",
            ),
            ("GHCR.io/acme/app:V1", "ghcr.io/acme/app:V1"),
            ("oci:out/dir:v1", "oci:out/dir:v1"),
            ("oci:dir:acme/app:v1", "oci:dir:acme/app:v1"),
            ("oci-archive:/tmp/app.tar:v1", "oci-archive:/tmp/app.tar:v1"),
        ] {
            let target: Target = given
                .parse()
                .unwrap_or_else(|error| panic!("{given}: {error}"));
            assert_eq!(target.to_string(), canonical);
            assert_eq!(
                canonical.parse::<Target>().unwrap(),
                target,
                "{canonical} is not stable"
            );
        }
    }

    #[test]
    fn refusals_name_the_reason() {
        let digest = format!("localhost:5000/app:v1@sha256:{}", "a".repeat(64));
        for (given, part) in [
            ("localhost:5000/app", "has no tag"),
            ("localhost:5000/app:", "is not a reference"),
            ("alpine", "has no tag"),
            ("oci:dir", "has no tag"),
            ("oci:dir:", "has no tag"),
            ("oci::v1", "has no path"),
            ("oci:dir:-v1", "not a valid tag"),
            (digest.as_str(), "names a digest"),
            ("docker-archive:app.tar:v1", "cannot be published to"),
            ("https://ghcr.io/app:v1", "cannot be published to"),
            ("localhost:5000/App:v1", "is not a reference"),
            ("ghcr.io/app:v1 ", "is not a reference"),
            ("", "is not a reference"),
        ] {
            let error = given.parse::<Target>().expect_err(given);
            assert!(error.to_string().contains(part), "{given}: {error}");
        }
    }
}
