//! The gate file on disk: found, read, its images opened, resolved into a plan together with the flags.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use smokegate_gate::gate_file::{
    GateFile, GateFileError, ParseOptions, Platforms, ServiceImage, Source,
};
use smokegate_gate::{
    GatePlan, GateRequest, Mask, ResolveError, ResolveInput, resolve, service_images,
    unmasked_secrets,
};
use smokegate_image::{Digest, Image, ImageSource, Platform, PlatformImage};
use smokegate_sandbox::{HostPath, IdMap, Isolation};

use crate::args::RunArgs;
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::limits::Limit;
use crate::printer::Printer;
use crate::settings;
use crate::sources::{Needed, Opened, Sources};

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
    /// The platforms of the image under test, in its order.
    pub(crate) platforms: Vec<String>,
    /// Images of the services, in the order in which the plan numbers them.
    pub(crate) services: Vec<PlatformImage>,
    /// What each of them was named, and the digest that stood for.
    pub(crate) service_sources: Vec<(String, Digest)>,
    /// Whether only some of the variants are run.
    pub(crate) partial: bool,
}

/// What opens the images of services, for the id map that they will run in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServiceSources<'a> {
    pub(crate) sources: &'a Sources<'a>,
    /// `--limit`.
    pub(crate) limits: &'a [Limit],
    /// None where only a plan is shown.
    pub(crate) id_map: Option<&'a IdMap>,
    pub(crate) printer: Printer,
}

impl LoadedFile {
    /// The file that the flags name, else the one in the working directory, if there is one.
    ///
    /// `publishes` says whether `publish:` is wanted, whose variables else need not be set.
    pub(crate) fn find(
        file: Option<&Path>,
        no_file: bool,
        publishes: bool,
        printer: Printer,
    ) -> Result<Option<Self>, Failure> {
        let path = match file {
            _ if no_file => return Ok(None),
            Some(path) => path.to_owned(),
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

    /// Names of the environment variables that it sets in the image under test, in any variant.
    pub(crate) fn variables(&self) -> Result<BTreeSet<String>, Failure> {
        let variants = self.file.variants.iter();
        let parts = variants.map(|(_, variant)| &variant.container);
        let mut names = BTreeSet::new();
        for part in parts.chain([&self.file.app]) {
            let written = part.environment.iter().flat_map(|all| &all.0);
            let set = written.filter(|variable| variable.value.is_some());
            names.extend(set.map(|variable| variable.name.value.clone()));
            for file in part.env_file.iter().flat_map(|files| &files.0) {
                let lines = settings::env_file(&self.dir.join(&file.value));
                let lines = lines.map_err(Failure::usage)?;
                let pairs = lines.iter().filter_map(|line| line.split_once('='));
                names.extend(pairs.map(|(name, _)| name.to_owned()));
            }
        }
        Ok(names)
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

    /// Whether it says which platforms are run, so that the host's need not be there.
    pub(crate) fn names_platforms(&self) -> bool {
        let mut variants = self.file.variants.iter();
        self.file.platforms.is_some() || variants.any(|(_, variant)| variant.platform.is_some())
    }

    /// Opens the services' images and resolves everything into a plan.
    pub(crate) async fn prepare(
        &self,
        request: &GateRequest,
        run: &RunArgs,
        platform: Option<&Platform>,
        image: &Image,
        opener: &ServiceSources<'_>,
    ) -> Result<Prepared, Failure> {
        let mut services = Vec::new();
        let mut service_sources = Vec::new();
        for written in service_images(&self.file) {
            if let ServiceImage::Source(text) = &written.value {
                let opened = self.open_service(text, opener).await?;
                services.push(opened.image.selected().clone());
                service_sources.push((text.clone(), opened.digest));
            }
        }
        let configs: Vec<_> = services.iter().map(|service| &service.config).collect();
        let platforms = image.platforms().iter();
        let platforms: Vec<_> = platforms
            .map(|one| (one.platform.as_str(), &one.config))
            .collect();
        let wanted = platform.cloned().unwrap_or_else(Platform::host);
        let offered: Option<Platform> = image.selected().platform.parse().ok();
        let selected = offered.and_then(|offered| wanted.rank(&offered));
        let selected = selected.map(|_| image.selected_index());
        let plan = resolve(&ResolveInput {
            file: &self.file,
            source: &self.source,
            request,
            platforms: &platforms,
            selected,
            platform_is_asked: platform.is_some(),
            services: &configs,
            env_file: &|name| settings::env_file(&self.dir.join(name)),
            bind: &|path| HostPath::find(&self.dir, path),
            secret: &|secret| settings::secret(secret, &self.dir),
            only: &run.variant,
            parallel: run.parallel.unwrap_or_else(settings::cores),
        })?;
        let plan = GatePlan {
            parallel: run.parallel.unwrap_or(plan.parallel),
            fail_fast: run.fail_fast,
            ..plan
        };
        crate::printer::hide(Mask::of(&plan));
        for name in unmasked_secrets(&plan) {
            opener.printer.always(format!(
                "warning: the secret `{name}` is shorter than 4 characters, so it is not hidden in logs and messages"
            ));
        }
        let left_out = |name: &str| !run.variant.iter().any(|wanted| wanted == name);
        let mut variants = self.file.variants.names();
        let some = !run.variant.is_empty() && variants.any(left_out);
        // What the file wants tested and a flag leaves out.
        let all = match &self.file.platforms {
            Some(Platforms::All) => image.platforms().len(),
            Some(Platforms::These(list)) => list.len(),
            None => 0,
        };
        let partial = some || (platform.is_some() && all > 1);
        Ok(Prepared {
            plan,
            platforms: platforms
                .iter()
                .map(|(name, _)| (*name).to_owned())
                .collect(),
            services,
            service_sources,
            partial,
        })
    }

    async fn open_service(
        &self,
        text: &str,
        opener: &ServiceSources<'_>,
    ) -> Result<Opened, Failure> {
        let source: ImageSource = text
            .parse()
            .map_err(|error| Failure::usage(format!("a service's image: {error}")))?;
        let source = source.below(&self.dir);
        let options = settings::service_open_options(opener.limits);
        let needed = opener
            .id_map
            .map_or(Needed::Documents, Needed::MissingLayers);
        let opened = opener
            .sources
            .open("service image", source, options, needed)
            .await;
        // What is wrong with a service's image says nothing about the image under test.
        opened.map_err(|failure| match failure.status {
            ExitStatus::Image => Failure {
                status: ExitStatus::Infrastructure,
                cause: format!("a service's image cannot be read: {}", failure.cause),
                ..failure
            },
            ExitStatus::Infrastructure => Failure {
                cause: format!("a service's image: {}", failure.cause),
                ..failure
            }
            .evidence("the image under test was not judged"),
            _ => failure,
        })
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
