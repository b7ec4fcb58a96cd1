//! `smokegate gate`: run an image and judge it. No registry is contacted, and no credential read, but for sources that
//! are in registries.

use super::judged::Judged;
use super::run_target::{self, RunTarget};
use crate::args::{CommonArgs, GateArgs};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::gate_file::LoadedFile;
use crate::printer::Printer;
use crate::receipt::Receipt;
use crate::settings;
use crate::sources::{Needed, Opened, Sources};

pub(crate) async fn run(
    args: GateArgs,
    common: &CommonArgs,
    printer: Printer,
) -> Result<ExitStatus, Failure> {
    let file = LoadedFile::find(args.run.file.as_deref(), args.run.no_file, false, printer)?;
    let foreign = file.as_ref().is_some_and(LoadedFile::names_platforms);
    let options = settings::open_options(&args.source, foreign);
    let sources = Sources::new(&args.registry, common, printer);
    let target = RunTarget {
        sources: &sources,
        file: file.as_ref(),
        run: &args.run,
        source: &args.source,
        scratch: options.spool_dir.clone(),
        printer,
    };
    let named = args.source.image.to_string();
    if args.run.plan {
        return target.show_plan(options, &[], common.format).await;
    }
    let settings = run_target::gate_settings(file.as_ref(), &args.run, common)?;
    let image = args.source.image.clone();
    // Which platforms run is known when the plan is.
    let needed = if foreign {
        Needed::Everything
    } else {
        Needed::Layers
    };
    let Opened { image, took, .. } = sources.open("image", image, options, needed).await?;
    let mut receipt = Receipt::new(named, &image, took);
    let prepared = target
        .prepare(&image, &settings.id_map, &mut receipt)
        .await?;
    let lint = run_target::lint_settings(&args.run, file.as_ref(), &settings)?;
    let (judged, keeper) =
        Judged::by_running(&image, &prepared, &settings, lint, &mut receipt, printer).await?;
    let status = judged.report(
        &receipt,
        &prepared,
        &settings.report_dir,
        common.format,
        printer,
    )?;
    if let Some(keeper) = keeper {
        keeper
            .serve(status, common.store.as_deref(), printer)
            .await?;
    }
    Ok(status)
}
