//! Where images come from: files, standard input, and registries, of which only what is needed is fetched.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use smokegate_image::{Blob, Digest, Image, ImageSource, OpenOptions, with_causes};
use smokegate_registry::{BlobSource, Documents, Publisher, PullError, Remote};
use smokegate_sandbox::{IdMap, StoreRequest, has_layers};

use crate::args::{CommonArgs, RegistryArgs};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::pipeline::blocking;
use crate::printer::{Printer, harmless};
use crate::report::progress::size;
use crate::run_dir::RunDir;
use crate::settings;

/// What a command reads of an image beside its documents.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Needed<'a> {
    /// Nothing.
    Documents,
    /// The layers that are run.
    Layers,
    /// The layers that are run, where the store has them not: of a service, which is never published.
    MissingLayers(&'a IdMap),
    /// All there is, to be published.
    Everything,
}

/// An image, and how it was come by.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) image: Image,
    /// What its name stands for: of an index in a registry its digest, even where only one manifest was fetched.
    pub(crate) digest: Digest,
    pub(crate) took: Duration,
}

/// An image of which only documents are at hand.
#[derive(Debug)]
pub(crate) struct Referred {
    pub(crate) image: Image,
    /// Where its blobs are, if it is in a registry.
    pub(crate) source: Option<BlobSource>,
    pub(crate) took: Duration,
}

/// An image in a registry of which only documents were fetched, into a directory that goes with this.
struct Described {
    image: Image,
    remote: Remote,
    layout: PathBuf,
    _scratch: RunDir,
}

impl Described {
    fn place(&self) -> ImageSource {
        layout_source(self.layout.clone(), &self.remote)
    }
}

/// Opens images. Dials nobody unless a source is in a registry.
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    common: &'a CommonArgs,
    registry: &'a RegistryArgs,
    publisher: OnceLock<Publisher>,
    printer: Printer,
}

impl<'a> Sources<'a> {
    pub(crate) fn new(
        registry: &'a RegistryArgs,
        common: &'a CommonArgs,
        printer: Printer,
    ) -> Self {
        Self {
            common,
            registry,
            publisher: OnceLock::new(),
            printer,
        }
    }

    /// Opens an image and says what there is to say about it; `role` is what it is in the run: `image`.
    pub(crate) async fn open(
        &self,
        role: &str,
        source: ImageSource,
        options: OpenOptions,
        needed: Needed<'_>,
    ) -> Result<Opened, Failure> {
        let began = Instant::now();
        let named = source.to_string();
        let (image, digest) = if let ImageSource::Registry { .. } = &source {
            self.pull(role, &source, options, needed).await?
        } else {
            let opened = open(&source, &options).await;
            let image = opened.map_err(|failure| perhaps_in_a_registry(failure, &source))?;
            let digest = image.digest().clone();
            (image, digest)
        };
        // What a command shows on standard output needs no announcement.
        if !matches!(needed, Needed::Documents) {
            self.printer.step(format!(
                "{role}: {named}, {digest} ({})",
                image.selected().platform
            ));
            for note in image.notes() {
                self.printer.step(format!("note: {}", harmless(note)));
            }
        }
        Ok(Opened {
            image,
            digest,
            took: began.elapsed(),
        })
    }

    /// Fetches into a directory that is gone before this returns: an opened image holds its files, so that no way
    /// for the process to end can leave their space taken.
    async fn pull(
        &self,
        role: &str,
        source: &ImageSource,
        mut options: OpenOptions,
        needed: Needed<'_>,
    ) -> Result<(Image, Digest), Failure> {
        let documents = match needed {
            Needed::MissingLayers(_) => Documents::ForPlatform(&options),
            Needed::Everything => Documents::WithReferrers(&options.limits),
            Needed::Documents | Needed::Layers => Documents::All(&options.limits),
        };
        let described = self.describe(source, documents, &options).await?;
        let Described { image, remote, .. } = &described;
        let wanted: Vec<Blob> = match needed {
            Needed::Documents => Vec::new(),
            Needed::MissingLayers(id_map) if self.has_all_layers(image, id_map)? => Vec::new(),
            Needed::Layers | Needed::MissingLayers(_) => {
                let layers = image.selected().layers.iter();
                layers.map(|layer| layer.blob.clone()).collect()
            }
            Needed::Everything => image.blobs().to_vec(),
        };
        if wanted.is_empty() {
            return Ok((described.image, described.remote.digest().clone()));
        }
        self.printer.step(format!(
            "{role}: pulling {source} ({})",
            size(wanted.iter().map(Blob::size).sum())
        ));
        remote.blobs(&wanted).await?;
        options.absent_blobs = !matches!(needed, Needed::Everything);
        let image = open(&described.place(), &options).await?;
        Ok((image, remote.digest().clone()))
    }

    /// Fetches the documents of an image, and nothing else of it, and opens it.
    async fn describe(
        &self,
        source: &ImageSource,
        documents: Documents<'_>,
        options: &OpenOptions,
    ) -> Result<Described, Failure> {
        let ImageSource::Registry { reference, .. } = source else {
            unreachable!("only a registry is pulled from")
        };
        let store = settings::store(self.common)?;
        let scratch = RunDir::below(&store)?;
        let layout = scratch.path().join("image");
        std::fs::create_dir(&layout).map_err(|error| cannot_make(&layout, &error))?;
        let puller = self.publisher()?.puller();
        let remote = puller.documents(reference, documents, &layout).await?;
        let mut options = options.clone();
        options.absent_blobs = true;
        let place = layout_source(layout.clone(), &remote);
        Ok(Described {
            image: open(&place, &options).await?,
            remote,
            layout,
            _scratch: scratch,
        })
    }

    fn has_all_layers(&self, image: &Image, id_map: &IdMap) -> Result<bool, Failure> {
        let store = settings::store(self.common)?;
        let request = StoreRequest {
            store: id_map.store_in(&store),
            id_map,
            image: image.selected(),
            limits: *image.limits(),
        };
        Ok(has_layers(&request)?)
    }

    /// Opens an image of which nothing is fetched but its documents and what refers to it.
    pub(crate) async fn refer(
        &self,
        source: &ImageSource,
        options: OpenOptions,
    ) -> Result<Referred, Failure> {
        let began = Instant::now();
        let (image, source) = match source {
            ImageSource::Registry { .. } => {
                let documents = Documents::WithReferrers(&options.limits);
                let described = self.describe(source, documents, &options).await?;
                let source = BlobSource::new(described.remote, options.spool_dir);
                (described.image, Some(source))
            }
            local => (open(local, &options).await?, None),
        };
        Ok(Referred {
            image,
            source,
            took: began.elapsed(),
        })
    }

    /// The one of this run, so that nothing is asked twice of who gives out tokens.
    pub(crate) fn publisher(&self) -> Result<&Publisher, Failure> {
        if let Some(publisher) = self.publisher.get() {
            return Ok(publisher);
        }
        let options = settings::registry_options(self.registry)?;
        let publisher = Publisher::new(options, &settings::credential_environment())?;
        Ok(self.publisher.get_or_init(|| publisher))
    }
}

/// The image of a layout that was filled from a registry.
fn layout_source(path: PathBuf, remote: &Remote) -> ImageSource {
    ImageSource::OciLayout {
        path,
        tag: Some(remote.reference().to_owned()),
    }
}

async fn open(source: &ImageSource, options: &OpenOptions) -> Result<Image, Failure> {
    let (source, options) = (source.clone(), options.clone());
    Ok(blocking(move || Image::open(&source, &options)).await??)
}

/// `redis:7` is a path here, as `app.tar` is; who has no such file may have meant the registry's.
fn perhaps_in_a_registry(failure: Failure, source: &ImageSource) -> Failure {
    let text = source.to_string();
    let is_reference = || format!("docker://{text}").parse::<ImageSource>().is_ok();
    match source {
        ImageSource::Path(path)
            if failure.hint.is_none()
                && text.contains([':', '@'])
                && !path.exists()
                && is_reference() =>
        {
            failure.hint(format!("an image in a registry is written docker://{text}"))
        }
        _ => failure,
    }
}

/// A directory of ours that cannot be made.
fn cannot_make(path: &Path, error: &std::io::Error) -> Failure {
    let cause = format!("cannot make the directory `{}`: {error}", path.display());
    Failure::new(ExitStatus::Host, cause).hint("choose another place with --store DIR")
}

impl From<PullError> for Failure {
    fn from(error: PullError) -> Self {
        use smokegate_registry::ErrorKind;
        let status = match error.kind() {
            ErrorKind::Usage => ExitStatus::Usage,
            ErrorKind::Image => ExitStatus::Image,
            ErrorKind::Host => ExitStatus::Host,
            ErrorKind::Registry => ExitStatus::Infrastructure,
        };
        Self {
            hint: error.hint(),
            ..Self::new(status, with_causes(&error))
        }
    }
}
