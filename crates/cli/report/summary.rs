//! `summary.md`: the run as a table, also for GitHub's and Gitea's step summary.

use std::collections::BTreeSet;
use std::fmt::Write;

use crate::receipt::{Receipt, VariantRecord, VerdictWord};

/// The Markdown text.
pub(crate) fn markdown(receipt: &Receipt) -> String {
    let mut text = String::new();
    let word = match receipt.verdict {
        Some(VerdictWord::Passed) => "passed",
        Some(VerdictWord::Failed) => "failed",
        Some(VerdictWord::Inconclusive) => "inconclusive",
        None => "not run",
    };
    let _ = writeln!(text, "## smokegate: {word}\n");
    let _ = writeln!(
        text,
        "`{}` from {}\n",
        receipt.image.digest,
        cell(&receipt.image.source)
    );
    if !receipt.variants.is_empty() {
        let _ = writeln!(
            text,
            "| variant | verdict | asked | time | cause |\n|---|---|---|---|---|"
        );
        for variant in &receipt.variants {
            let verdict = match variant.verdict {
                VerdictWord::Passed => "passed",
                VerdictWord::Failed => "**failed**",
                VerdictWord::Inconclusive if variant.stopped => "stopped",
                VerdictWord::Inconclusive => "**inconclusive**",
            };
            let _ = writeln!(
                text,
                "| {} | {verdict} | {} | {:.2} s | {} |",
                cell(&variant.name),
                cell(&asked(variant)),
                variant.timings_ms.total as f64 / 1000.0,
                cell(variant.cause.as_deref().unwrap_or(""))
            );
        }
    }
    text.push_str(&findings(receipt));
    if let Some(isolation) = &receipt.isolation {
        let _ = writeln!(text, "\nIsolation: {}", isolation.level);
        for what in &isolation.not_tested {
            let _ = writeln!(text, "- not tested: {}", cell(what));
        }
    }
    if let Some(error) = &receipt.error {
        let _ = writeln!(text, "\n**error**: {}", cell(&error.cause));
    }
    for published in &receipt.published {
        let _ = writeln!(
            text,
            "\nPublished `{}@{}`",
            cell(&published.reference),
            published.digest
        );
    }
    text
}

/// What lint found, each once however many variants have it.
fn findings(receipt: &Receipt) -> String {
    let mut told = BTreeSet::new();
    let mut text = String::new();
    for variant in &receipt.variants {
        for one in &variant.findings {
            if told.insert((&one.container, &one.id, &one.message)) {
                let (severity, id) = (&one.severity, &one.id);
                let (whose, message) = (cell(&one.container), cell(&one.message));
                let _ = writeln!(text, "- lint: {severity} `{id}` in {whose}: {message}");
            }
        }
    }
    match text.is_empty() {
        true => text,
        false => format!("\n{text}"),
    }
}

/// What was asked of the app, in words.
fn asked(variant: &VariantRecord) -> String {
    let probes: Vec<_> = variant
        .probes
        .iter()
        .map(|probe| probe.probe.as_str())
        .collect();
    probes.join(", ")
}

/// Text that cannot end a table cell or become markup.
fn cell(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for char in crate::printer::harmless(text).chars() {
        match char {
            '|' | '<' | '>' | '[' | ']' | '*' | '_' | '\\' => {
                safe.push('\\');
                safe.push(char);
            }
            _ => safe.push(char),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    #[test]
    fn text_of_an_image_cannot_break_the_table() {
        assert_eq!(super::cell("a|b <script>\n| x"), "a\\|b \\<script\\> \\| x");
    }
}
