//! What is done for publishing while the gate runs: compressing, asking registries, and sending blobs where wanted.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smokegate_gate::spawn_courteous;
use smokegate_image::{Error as ImageError, Image, Recompressed, with_causes};
use smokegate_registry::{Ahead, Publisher, Target};

use crate::args::Compress;
use crate::failure::Failure;
use crate::pipeline;
use crate::printer::Printer;
use crate::report;

/// What there is to prepare. When it goes without anything having been published, it says what was sent in vain.
pub(crate) struct Preparation<'a> {
    pub(crate) publisher: &'a Publisher,
    pub(crate) targets: &'a [Target],
    pub(crate) compress: Compress,
    /// Where compressed layers are kept.
    pub(crate) spool: PathBuf,
    /// Whether blobs are sent before there is a verdict.
    pub(crate) upload: bool,
    pub(crate) printer: Printer,
    ahead: Ahead,
    is_published: bool,
}

/// An image that can be published.
pub(crate) struct Prepared {
    /// Packed as it will be published.
    pub(crate) packed: Recompressed,
    /// Which blobs are where they belong.
    pub(crate) ahead: Ahead,
    /// Time it took to ask the registries.
    pub(crate) asked: Duration,
    /// Time it took to send blobs, where that was wanted.
    pub(crate) uploaded: Option<Duration>,
}

impl<'a> Preparation<'a> {
    /// Refuses what cannot be compressed before anything runs.
    pub(crate) fn new(
        image: &Image,
        (compress, spool): (Compress, PathBuf),
        publisher: &'a Publisher,
        targets: &'a [Target],
        upload: bool,
        printer: Printer,
    ) -> Result<Self, Failure> {
        if compress != Compress::None && !image.is_synthesized() {
            let digest = image.digest().clone();
            return Err(ImageError::HasManifest { digest }.into());
        }
        Ok(Self {
            publisher,
            targets,
            compress,
            spool,
            upload,
            printer,
            ahead: Ahead::default(),
            is_published: false,
        })
    }

    /// Prepares what can be. A registry that does not answer now is asked again after the verdict; only an image that
    /// cannot be compressed is an error.
    pub(crate) async fn carry_out(&self, image: Image) -> Result<Prepared, Failure> {
        let packed = self.pack(image).await?;
        let image = &packed.image;
        let began = Instant::now();
        let looked = self
            .publisher
            .look_ahead(image, self.targets, &self.ahead)
            .await;
        let asked = began.elapsed();
        if let Err(error) = &looked {
            self.printer.detail(format!(
                "publishing: asked again after the verdict: {}",
                with_causes(error)
            ));
        }
        let mut uploaded = None;
        if self.upload {
            let began = Instant::now();
            let observer = Arc::new(report::publishing::Progress {
                printer: self.printer,
                root: None,
            });
            self.publisher
                .upload_ahead(image, self.targets, &self.ahead, observer)
                .await;
            uploaded = Some(began.elapsed());
        }
        Ok(Prepared {
            packed,
            ahead: self.ahead.clone(),
            asked,
            uploaded,
        })
    }

    /// Takes note that manifests refer to what was sent.
    pub(crate) fn was_published(&mut self) {
        self.is_published = true;
    }

    /// Compresses at a low priority, so that unpacking and the containers come first.
    async fn pack(&self, image: Image) -> Result<Recompressed, Failure> {
        let Some(compression) = pipeline::compression(self.compress) else {
            return Ok(image.into());
        };
        let dir = self.spool.clone();
        let receiver = spawn_courteous("compress", move || image.recompress(compression, &dir))
            .map_err(|error| pipeline::no_worker(&error))?;
        let packed = receiver
            .await
            .map_err(|error| pipeline::no_worker(&error))??;
        self.printer
            .step(format!("compressed: {}", packed.image.digest()));
        Ok(packed)
    }
}

impl Drop for Preparation<'_> {
    fn drop(&mut self) {
        if !self.is_published {
            report::publishing::sent_in_vain(self.printer, &self.ahead.sent());
        }
    }
}
