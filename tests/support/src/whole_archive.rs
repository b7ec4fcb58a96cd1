//! An archive compressed as a whole, as `docker save | gzip` leaves it.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::path::Path;

use flate2::GzBuilder;
use smokegate_image::Compression;

/// Writes `from` to `to`, compressed.
///
/// # Panics
/// When one cannot be read or the other not written.
pub fn compress_archive(from: &Path, to: &Path, compression: Compression) {
    let copy = || -> io::Result<()> {
        let mut from = BufReader::new(File::open(from)?);
        let mut to = BufWriter::new(File::create(to)?);
        match compression {
            Compression::None => io::copy(&mut from, &mut to)?,
            Compression::Gzip => {
                let mut gzip = GzBuilder::new()
                    .mtime(0)
                    .write(to, flate2::Compression::fast());
                io::copy(&mut from, &mut gzip)?;
                to = gzip.finish()?;
                0
            }
            Compression::Zstd => {
                let mut zstd = zstd::Encoder::new(to, 1)?;
                io::copy(&mut from, &mut zstd)?;
                to = zstd.finish()?;
                0
            }
        };
        to.into_inner()
            .map_err(io::IntoInnerError::into_error)
            .map(drop)
    };
    copy().unwrap_or_else(|error| {
        panic!(
            "compressing `{}` to `{}`: {error}",
            from.display(),
            to.display()
        )
    });
}
