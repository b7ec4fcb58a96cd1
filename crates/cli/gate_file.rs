//! The gate file on disk: found, read, its images opened, resolved into a plan together with the flags.

use std::path::{Path, PathBuf};

use smokegate_gate::gate_file::{GateFile, GateFileError, ParseOptions, ServiceImage, Source};
use smokegate_gate::{
    GatePlan, GateRequest, Mask, ResolveError, ResolveInput, resolve, service_images,
    unmasked_secrets,
};
use smokegate_image::{Image, ImageSource, PlatformImage};
use smokegate_sandbox::{HostPath, Isolation};

use crate::args::RunArgs;
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::pipeline;
use crate::printer::Printer;
use crate::settings;

/// Looked for in the working directory.
const DEFAULT_NAME: &str = "smokegate.yaml";

/// A gate file that was read.
#[derive(Debug)]
pub(crate) struct LoadedFile {
    file: GateFile,
    source: Source,
    /// Relative paths in it start here.
    dir: PathBuf,
}

/// What is run, and the images it is run from.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) plan: GatePlan,
    /// Images of the services, in the order in which the plan numbers them.
    pub(crate) services: Vec<PlatformImage>,
    /// Whether only some of the variants are run.
    pub(crate) partial: bool,
}

impl LoadedFile {
    /// The file that the flags name, else the one in the working directory, if there is one.
    ///
    /// `publishes` says whether `publish:` is wanted, whose variables else need not be set.
    pub(crate) fn find(
        run: &RunArgs,
        publishes: bool,
        printer: Printer,
    ) -> Result<Option<Self>, Failure> {
        let path = match &run.file {
            _ if run.no_file => return Ok(None),
            Some(path) => path.clone(),
            None if Path::new(DEFAULT_NAME).exists() => {
                printer.step(format!(
                    "gate file: ./{DEFAULT_NAME} (--no-file ignores it)"
                ));
                PathBuf::from(DEFAULT_NAME)
            }
            None => return Ok(None),
        };
        let shown = path.display().to_string();
        let bytes = std::fs::read(&path).map_err(|error| {
            Failure::usage(format!("cannot read the gate file `{shown}`: {error}"))
        })?;
        let source = Source::read(&shown, &bytes).map_err(|e| Failure::from(&e))?;
        let options = ParseOptions {
            lookup: &settings::variable_of_caller,
            fill_publish: publishes,
        };
        let file = GateFile::parse(&source, &options).map_err(|e| Failure::from(&e))?;
        let dir = path.parent().unwrap_or(Path::new("")).to_owned();
        Ok(Some(Self { file, source, dir }))
    }

    /// The tags to publish to, as written.
    pub(crate) fn tags(&self) -> Vec<String> {
        let tags = self.file.publish.iter().flat_map(|publish| &publish.tags.0);
        tags.map(|tag| tag.value.clone()).collect()
    }

    /// The least isolation level the file accepts.
    pub(crate) fn min_isolation(&self) -> Option<Isolation> {
        self.file.min_isolation.as_ref().map(|level| level.value)
    }

    /// Opens the services' images and resolves everything into a plan.
    pub(crate) async fn prepare(
        &self,
        request: &GateRequest,
        run: &RunArgs,
        image: &Image,
        printer: Printer,
    ) -> Result<Prepared, Failure> {
        let mut services = Vec::new();
        for written in service_images(&self.file) {
            if let ServiceImage::Source(text) = &written.value {
                services.push(self.open_service(text, printer).await?);
            }
        }
        let configs: Vec<_> = services.iter().map(|service| &service.config).collect();
        let plan = resolve(&ResolveInput {
            file: &self.file,
            source: &self.source,
            request,
            app: &image.selected().config,
            services: &configs,
            env_file: &|name| settings::env_file(&self.dir.join(name)),
            bind: &|path| HostPath::find(&self.dir, path),
            secret: &|secret| settings::secret(secret, &self.dir),
            only: &run.variant,
            parallel: run.parallel.unwrap_or_else(settings::cores),
        })?;
        let plan = GatePlan {
            parallel: run.parallel.unwrap_or(plan.parallel),
            ..plan
        };
        crate::printer::hide(Mask::of(&plan));
        for name in unmasked_secrets(&plan) {
            printer.always(format!(
                "warning: the secret `{name}` is shorter than 4 characters, so it is not hidden in logs and messages"
            ));
        }
        let partial = !run.variant.is_empty() && plan.variants.len() < self.file.variants.len();
        Ok(Prepared {
            plan,
            services,
            partial,
        })
    }

    async fn open_service(&self, text: &str, printer: Printer) -> Result<PlatformImage, Failure> {
        let source: ImageSource = text
            .parse()
            .map_err(|error| Failure::usage(format!("a service's image: {error}")))?;
        let source = source.below(&self.dir);
        let options = settings::default_open_options();
        let opened = pipeline::open("service image", source, options, printer).await;
        // What is wrong with a service's image says nothing about the image under test.
        let (image, _) = opened.map_err(|failure| match failure.status {
            ExitStatus::Image => Failure {
                status: ExitStatus::Infrastructure,
                cause: format!("a service's image cannot be read: {}", failure.cause),
                ..failure
            },
            _ => failure,
        })?;
        Ok(image.selected().clone())
    }
}

impl From<&GateFileError> for Failure {
    /// The first mistake is the cause; all of them are shown with the text they are in.
    fn from(error: &GateFileError) -> Self {
        let mut blocks = error.diagnostics.iter().map(|one| one.rendered.lines());
        let mut first = blocks.next().into_iter().flatten();
        let cause = first
            .next()
            .unwrap_or("the gate file cannot be used")
            .to_owned();
        let mut failure = Self::usage(cause);
        failure.evidence.extend(first.map(str::to_owned));
        for block in blocks {
            failure.evidence.push(String::new());
            failure.evidence.extend(block.map(str::to_owned));
        }
        failure
    }
}

impl From<ResolveError> for Failure {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::File(error) => Self::from(&error),
            ResolveError::Plan(error) => error.into(),
            ResolveError::NoSuchVariant { .. } => Self::usage(error.to_string()),
            ResolveError::Service { service, source } => Self::new(
                ExitStatus::Infrastructure,
                format!("service `{service}`: {source}"),
            )
            .hint("the image under test was not judged; correct the service in the gate file"),
        }
    }
}
