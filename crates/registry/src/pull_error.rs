//! Why an image could not be pulled, and what can be done about it.

use crate::error::WAY;
use crate::{Error, ErrorKind};

/// An image in a registry that could not be had. Nothing was run or written but to the directory of the pull.
#[derive(Debug, thiserror::Error)]
#[error("cannot pull `{reference}`")]
pub struct PullError {
    /// The image, by its full name.
    pub reference: String,
    /// Why not.
    #[source]
    pub source: Error,
}

impl PullError {
    /// Whose fault it is.
    pub fn kind(&self) -> ErrorKind {
        self.source.kind()
    }

    /// What can be done about it, where that is known.
    pub fn hint(&self) -> Option<String> {
        let reference = &self.reference;
        Some(match &self.source {
            Error::NotFound {
                registry,
                repository,
                ..
            } => format!(
                "look for a slip in the name or the tag; `skopeo list-tags docker://{registry}/{repository}` shows what is there"
            ),
            Error::Unauthorized { registry, .. } => format!(
                "log in with `docker login {registry}` or `podman login {registry}`, or set `DOCKER_AUTH_CONFIG`; \
                 many registries answer so for a repository that does not exist, too"
            ),
            Error::Refused { status, .. } => match status.as_u16() {
                401 | 403 => "the credential does not allow it, or the repository does not exist: many registries \
                              answer alike for both"
                    .to_owned(),
                429 => format!(
                    "the registry limits how much one may pull: log in with `docker login` for a higher limit, or copy \
                     the image once: skopeo copy docker://{reference} oci-archive:FILE"
                ),
                500.. => "the registry is ill; run again later".to_owned(),
                _ => return None,
            },
            error if error.is_of_the_way() => {
                let way = error.hint().unwrap_or(WAY);
                format!(
                    "{way}; without one, bring the image along: skopeo copy docker://{reference} oci-archive:FILE"
                )
            }
            Error::Content { .. } | Error::Image(_) => {
                "nothing was run or published; push the image again".to_owned()
            }
            Error::Keep { .. } => {
                "free space there, or choose another place with --store DIR".to_owned()
            }
            other => return other.hint().map(str::to_owned),
        })
    }
}
