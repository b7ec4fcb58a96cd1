//! The files of a report directory beside its logs.

use std::path::Path;

use super::details::VariantDetails;
use super::{html, junit, summary};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::receipt::Receipt;

/// Writes the receipt and the pages made of it, over those that are there.
///
/// `details` are of a run that has a verdict; without one, none.
pub(crate) fn write(
    receipt: &Receipt,
    details: &[VariantDetails],
    report_dir: &Path,
) -> Result<(), Failure> {
    let write = |name: &str, text: &str| {
        let file = report_dir.join(name);
        std::fs::create_dir_all(report_dir)
            .and_then(|()| std::fs::write(&file, text))
            .map_err(|error| {
                Failure::new(
                    ExitStatus::Host,
                    format!("cannot write `{}`: {error}", file.display()),
                )
                .hint("choose another directory with --report-dir DIR")
            })
    };
    write("receipt.json", &receipt.to_json())?;
    write("summary.md", &summary::markdown(receipt))?;
    let junit = junit::document(receipt, details).map_err(|error| {
        Failure::new(ExitStatus::Bug, format!("cannot make `junit.xml`: {error}"))
    })?;
    write("junit.xml", &junit)?;
    write("report.html", &html::page(receipt, details))
}
