//! The end of each log of a failed variant in a CI log, folded: GitHub's and Gitea's groups, GitLab's sections.

use super::details::{VariantDetails, shown};
use super::github::Fence;
use crate::printer::Printer;

/// Where the log is read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Folding<'a> {
    /// GitHub and Gitea; what a container wrote is fenced.
    Group(&'a Fence),
    /// GitLab.
    Section,
}

/// Shows the logs of a variant. Their lines hold no escape, and so no section of GitLab's either.
pub(crate) fn show(printer: Printer, folding: Folding<'_>, variant: &VariantDetails) {
    for log in variant.logs.iter().filter(|log| !log.lines.is_empty()) {
        let title = format!(
            "smokegate: variant {}: {}",
            shown(&variant.name),
            shown(&log.heading())
        );
        let lines = || {
            log.lines
                .iter()
                .for_each(|line| printer.always(format!("  | {line}")))
        };
        match folding {
            Folding::Group(fence) => {
                printer.always(format!("::group::{title}"));
                printer.always(fence.stop());
                lines();
                printer.always(fence.resume());
                printer.always("::endgroup::");
            }
            Folding::Section => {
                let id = section_id(&variant.name, &log.container);
                let now = jiff::Timestamp::now().as_second();
                printer.always(format!(
                    "\u{1b}[0Ksection_start:{now}:{id}[collapsed=true]\r\u{1b}[0K{title}"
                ));
                lines();
                printer.always(format!("\u{1b}[0Ksection_end:{now}:{id}\r\u{1b}[0K"));
            }
        }
    }
}

/// Letters, digits and `_.-` (GitLab Docs, "Custom collapsible sections").
fn section_id(variant: &str, container: &str) -> String {
    let name = format!("smokegate_{variant}_{container}");
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    name.chars()
        .map(|c| if allowed(c) { c } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_section_has_an_allowed_name() {
        assert_eq!(
            super::section_id("full env\r\u{1b}", "app"),
            "smokegate_full_env___app"
        );
    }
}
