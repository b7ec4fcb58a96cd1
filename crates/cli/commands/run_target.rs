//! What a command that runs an image was told of it, and what becomes of that: a plan, and what this host gives the run.

use std::path::PathBuf;

use smokegate_image::{Image, OpenOptions};
use smokegate_sandbox::{IdMap, Isolation, Wall};

use crate::args::{CommonArgs, Format, RunArgs, SourceArgs};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::gate_file::{LoadedFile, Prepared, ServiceSources};
use crate::kept;
use crate::linting::LintSettings;
use crate::pipeline::GateSettings;
use crate::plan_document;
use crate::printer::Printer;
use crate::receipt::Receipt;
use crate::report::{files, yaml};
use crate::settings;
use crate::sources::{Needed, Opened, Sources};

/// What a command that runs an image was told of it.
pub(super) struct RunTarget<'a> {
    pub(super) file: Option<&'a LoadedFile>,
    pub(super) run: &'a RunArgs,
    pub(super) source: &'a SourceArgs,
    /// Where small files may be written.
    pub(super) scratch: PathBuf,
    pub(super) sources: &'a Sources<'a>,
    pub(super) printer: Printer,
}

impl RunTarget<'_> {
    /// Shows what would be run, and published to `tags`, on standard output. No layer is fetched.
    pub(super) async fn show_plan(
        &self,
        options: OpenOptions,
        tags: &[String],
        format: Format,
    ) -> Result<ExitStatus, Failure> {
        let source = self.source.image.clone();
        let Opened { image, .. } = self
            .sources
            .open("image", source, options, Needed::Documents)
            .await?;
        let prepared = self.resolve(&image, None).await?;
        let document = plan_document::whole(&prepared, &image, tags);
        match format {
            Format::Json => self.printer.data(format!("{document:#}")),
            Format::Human | Format::Sarif => self.printer.data(yaml::text(&document).trim_end()),
        }
        Ok(ExitStatus::Success)
    }

    /// Settles what will be run. An image with nothing to run has failed, a service whose image cannot be had leaves
    /// it unjudged, and the receipt says so.
    pub(super) async fn prepare(
        &self,
        image: &Image,
        id_map: &IdMap,
        receipt: &mut Receipt,
    ) -> Result<Prepared, Failure> {
        let prepared = self.resolve(image, Some(id_map)).await;
        let prepared =
            prepared.and_then(|prepared| self.check_platforms(image, &prepared).map(|()| prepared));
        if let Err(failure) = &prepared
            && matches!(
                failure.status,
                ExitStatus::GateFailed | ExitStatus::Host | ExitStatus::Infrastructure
            )
        {
            receipt.record_failure(failure);
            files::write(receipt, &[], &self.run.report_dir)?;
        }
        prepared
    }

    /// Without `id_map` no layer of a service is fetched.
    async fn resolve(&self, image: &Image, id_map: Option<&IdMap>) -> Result<Prepared, Failure> {
        let request = settings::gate_request(self.run)?;
        match self.file {
            Some(file) => {
                let services = ServiceSources {
                    sources: self.sources,
                    limits: &self.source.limit,
                    id_map,
                    printer: self.printer,
                };
                file.prepare(
                    &request,
                    self.run,
                    self.source.platform.as_ref(),
                    image,
                    &services,
                )
                .await
            }
            None if !self.run.variant.is_empty() => Err(Failure::usage(
                "--variant names a variant of a gate file, and there is none",
            )
            .hint("name the file with --file, or leave --variant out")),
            None => {
                let config = &image.selected().config;
                let plan = smokegate_gate::plan(&request, config, image.selected_index());
                let platforms = image.platforms().iter();
                Ok(Prepared {
                    plan: plan?,
                    platforms: platforms.map(|one| one.platform.clone()).collect(),
                    services: Vec::new(),
                    service_sources: Vec::new(),
                    partial: false,
                })
            }
        }
    }

    /// Refuses platforms whose programs this host cannot execute.
    fn check_platforms(&self, image: &Image, prepared: &Prepared) -> Result<(), Failure> {
        for variant in &prepared.plan.variants {
            let name = &image.platforms()[variant.platform].platform;
            let Ok(platform) = name.parse() else {
                continue;
            };
            if let Some(why) = smokegate_sandbox::cannot_execute(&platform, &self.scratch) {
                let cause = format!("this host cannot execute programs for {name}: {why}");
                let hint = format!(
                    "install an emulator (apt-get install qemu-user-static; docker run --privileged --rm tonistiigi/binfmt --install {}), run it on such a host, or take the platform out of `platforms` or --platform",
                    platform.architecture
                );
                return Err(Failure::new(ExitStatus::Host, cause).hint(hint));
            }
        }
        Ok(())
    }
}

/// What a run gets of this host, where that is the isolation level that the gate file asks for at least.
pub(super) fn gate_settings(
    file: Option<&LoadedFile>,
    run: &RunArgs,
    common: &CommonArgs,
) -> Result<GateSettings, Failure> {
    if run.keep_on_failure {
        kept::check_that_somebody_can_look()?;
    }
    // Beside opening the image.
    smokegate_sandbox::prepare_helpers();
    let settings = GateSettings {
        store: settings::store(common)?,
        report_dir: run.report_dir.clone(),
        id_map: settings::id_map(run)?,
        keep_on_failure: run.keep_on_failure,
    };
    check_isolation(file, &settings.id_map)?;
    Ok(settings)
}

/// What lint needs for a run; `None` where it is not wanted.
pub(super) fn lint_settings(
    run: &RunArgs,
    file: Option<&LoadedFile>,
    settings: &GateSettings,
) -> Result<Option<LintSettings>, Failure> {
    if run.no_lint {
        return Ok(None);
    }
    Ok(Some(LintSettings {
        store: settings.store.clone(),
        variables: file.map(LoadedFile::variables).transpose()?,
    }))
}

/// Refuses an isolation level below the one that the gate file asks for.
fn check_isolation(file: Option<&LoadedFile>, id_map: &IdMap) -> Result<(), Failure> {
    match file.and_then(LoadedFile::min_isolation) {
        Some(least) if id_map.isolation() < least => Err(Failure::new(
            ExitStatus::Host,
            format!(
                "the gate file asks for isolation level `{least}` at least, and this run gets `{}`",
                id_map.isolation()
            ),
        )
        .behind(match least {
            Isolation::Root => Wall::NotRoot,
            Isolation::Subuid | Isolation::Single => Wall::NoSubordinateIds,
        })),
        _ => Ok(()),
    }
}
