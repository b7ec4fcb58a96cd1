//! What `doctor` found, for people and for machines.

use serde_json::{Value, json};
use smokegate_sandbox::{Check, HostReport};

use crate::args::Format;
use crate::printer::{Printer, harmless};

/// Of the document.
const VERSION: u32 = 1;

pub(crate) fn show(report: &HostReport, format: Format, printer: Printer) {
    match format {
        Format::Json => printer.data(format!("{:#}", document(report))),
        Format::Human | Format::Sarif => {
            for check in &report.checks {
                lines(check, printer);
            }
            let text = match report.level {
                Some(level) => format!("a run is possible, at isolation level `{level}`"),
                None => "no run is possible".to_owned(),
            };
            printer.data(text);
            for what in &report.not_tested {
                printer.data(format!("  not tested at this level: {}", harmless(what)));
            }
        }
    }
}

fn lines(check: &Check, printer: Printer) {
    let title = check.noun.title();
    printer.data(format!(
        "{:<11}{title}: {}",
        check.status,
        harmless(&check.result)
    ));
    let more = |text: String| printer.data(format!("             {}", harmless(&text)));
    more(format!("tried: {}", check.tried));
    more(format!("means: {}", check.means));
    let Some(wall) = check.wall else {
        return;
    };
    if let Some(why) = wall.why() {
        more(format!("why: {why}"));
    }
    let fixes = wall.fixes();
    more(format!("fix on a machine: {}", fixes.machine));
    more(format!("fix in a Docker container: {}", fixes.docker));
    more(format!("fix in a Kubernetes pod: {}", fixes.kubernetes));
}

fn document(report: &HostReport) -> Value {
    let checks = report.checks.iter().map(|check| {
        let mut line = json!(check);
        if let Some(wall) = check.wall {
            line["why"] = json!(wall.why());
            line["fix"] = json!(wall.fixes());
        }
        line
    });
    json!({
        "version": VERSION,
        "possible": report.level.is_some(),
        "isolation": report.level,
        "not_tested": report.not_tested,
        "checks": checks.collect::<Vec<_>>(),
    })
}
