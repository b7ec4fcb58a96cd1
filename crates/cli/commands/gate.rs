//! `smokegate gate`: run an image and judge it. No registry is contacted and no credential read.

use crate::args::{CommonArgs, GateArgs};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::pipeline::{self, GateSettings};
use crate::printer::Printer;
use crate::receipt::Receipt;
use crate::settings;

pub(crate) async fn run(
    args: GateArgs,
    common: &CommonArgs,
    printer: Printer,
) -> Result<ExitStatus, Failure> {
    let request = settings::gate_request(&args.run)?;
    let settings = GateSettings {
        store: settings::store(common)?,
        report_dir: args.run.report_dir.clone(),
        id_map: settings::id_map(&args.run)?,
    };
    let named = args.source.image.to_string();
    let options = settings::open_options(&args.source);
    let (image, opened) = pipeline::open(args.source.image, options, printer).await?;
    let plan = super::plan(&request, &image, &named, opened, &settings.report_dir)?;
    let mut receipt = Receipt::new(named, &image, opened);
    let verdict = super::gate(&image, &plan, &settings, &mut receipt, printer).await?;
    super::report(
        &receipt,
        &verdict,
        &settings.report_dir,
        common.format,
        &[],
        printer,
    )
}
