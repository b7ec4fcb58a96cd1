//! Any bytes as an image archive, compressed or not.
//!
//! - No panic, no overflow, no endless loop; what goes wrong is the image's fault.
//! - What is opened holds together: see [`super::manifest::holds_together`].
//! - Opening the same bytes again gives the same image.

use smokegate_image::{ErrorKind, Image, Limits, OpenOptions};

/// Runs the checks; panics where one fails. The checksums of what looks like headers are put right first.
pub fn check(data: &[u8]) {
    let archive = super::tar::with_checksums(data);
    match open(&archive) {
        Ok(image) => {
            super::manifest::holds_together(&image);
            let again = open(&archive).expect("opened once, refused again");
            assert_eq!(image.digest(), again.digest());
        }
        Err(error) => assert_eq!(error.kind(), ErrorKind::Image, "{error:?}"),
    }
}

/// Opens an archive within limits that keep a run short.
pub(crate) fn open(archive: &[u8]) -> Result<Image, smokegate_image::Error> {
    let mut options = OpenOptions::new(std::env::temp_dir());
    options.require_platform = false;
    options.limits = Limits {
        spool_bytes: 16 << 20,
        layer_bytes: 16 << 20,
        ratio_grace: 1 << 20,
        ..Limits::default()
    };
    Image::read(Box::new(archive), &options)
}
