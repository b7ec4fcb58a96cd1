//! The proof that an image passed: the only way from a verdict to an upload.

use smokegate_image::{DiffId, Digest, Image};

use crate::verdict::Verdict;

/// A value that a passing verdict was reached for. Cannot be made in any other way.
#[derive(Debug)]
pub struct Cleared<T>(T);

impl<T> Cleared<T> {
    /// The value.
    pub fn get(&self) -> &T {
        &self.0
    }
}

impl Cleared<Image> {
    /// The same image with its layers compressed otherwise: what ran is what they decompress to.
    ///
    /// # Errors
    /// [`Blocked::OtherImage`] when a configuration or an uncompressed layer is another one.
    pub fn packed_as(self, image: Image) -> Result<Self, Blocked> {
        let content = |image: &Image| -> Vec<(Digest, Vec<DiffId>)> {
            let platforms = image.platforms().iter().map(|one| {
                let layers = one.layers.iter().map(|layer| layer.diff_id.clone());
                (one.config_digest.clone(), layers.collect())
            });
            platforms.collect()
        };
        if content(&self.0) != content(&image) {
            let (tested, given) = (self.0.digest().clone(), image.digest().clone());
            return Err(Blocked::OtherImage { tested, given });
        }
        Ok(Self(image))
    }
}

/// The verdict does not clear this image.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Blocked {
    /// Not every variant passed.
    #[error("not every variant passed")]
    NotPassed,
    /// The verdict is about other bytes.
    #[error("the verdict is about {tested}, not about {given}")]
    OtherImage {
        /// What was tested.
        tested: Digest,
        /// What was to be cleared.
        given: Digest,
    },
}

impl Verdict {
    /// Clears `image` if every variant passed, and the image is the one that was run.
    ///
    /// # Errors
    /// [`Blocked`] says why not.
    pub fn clear(&self, image: Image) -> Result<Cleared<Image>, Blocked> {
        if image.digest() != &self.image {
            let (tested, given) = (self.image.clone(), image.digest().clone());
            return Err(Blocked::OtherImage { tested, given });
        }
        if self.variants.is_empty() || !self.variants.iter().all(|v| v.decision.passed()) {
            return Err(Blocked::NotPassed);
        }
        Ok(Cleared(image))
    }
}
