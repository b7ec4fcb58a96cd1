//! `smokegate gate`: run an image and judge it. No registry is contacted and no credential read.

use crate::args::{CommonArgs, GateArgs};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::gate_file::LoadedFile;
use crate::pipeline::{self, GateSettings};
use crate::printer::Printer;
use crate::receipt::Receipt;
use crate::settings;

pub(crate) async fn run(
    args: GateArgs,
    common: &CommonArgs,
    printer: Printer,
) -> Result<ExitStatus, Failure> {
    let file = LoadedFile::find(&args.run, false, printer)?;
    let settings = GateSettings {
        store: settings::store(common)?,
        report_dir: args.run.report_dir.clone(),
        id_map: settings::id_map(&args.run)?,
    };
    super::check_isolation(file.as_ref(), &settings.id_map)?;
    let named = args.source.image.to_string();
    let options = settings::open_options(&args.source);
    let (image, opened) = pipeline::open("image", args.source.image, options, printer).await?;
    let mut receipt = Receipt::new(named, &image, opened);
    let prepared = super::prepare(file.as_ref(), &args.run, &image, &mut receipt, printer).await?;
    let verdict = super::gate(&image, &prepared, &settings, &mut receipt, printer).await?;
    super::report(
        &receipt,
        &verdict,
        &settings.report_dir,
        common.format,
        &[],
        printer,
    )
}
