//! `report.html`: the run on one page, for people. One file, without scripts and without anything from elsewhere.

use std::fmt::{self, Write};

use super::details::{VariantDetails, shown, told};
use crate::receipt::{ExitRecord, Receipt, VariantRecord, VerdictWord};

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;max-width:70em;margin:2em auto;padding:0 1em;color:#1b1f24;background:#fff}\
h1,h2{line-height:1.2}code,pre,td.mono{font-family:ui-monospace,monospace;font-size:13px}\
pre{background:#f4f5f7;padding:.8em;overflow-x:auto;white-space:pre-wrap;overflow-wrap:anywhere}\
table{border-collapse:collapse;width:100%}td,th{border:1px solid #d5d9de;padding:.3em .6em;text-align:left;vertical-align:top}\
.passed{color:#116329}.failed{color:#a40e26}.inconclusive,.stopped{color:#7d4e00}\
.cause{border-left:4px solid #a40e26;padding:.2em .8em;margin:1em 0}section{margin-top:2.5em}\
@media(prefers-color-scheme:dark){body{color:#e6e8eb;background:#14171a}pre{background:#22262b}td,th{border-color:#3b4148}\
.passed{color:#5fd07a}.failed{color:#ff8a94}.inconclusive,.stopped{color:#e5b567}}";

/// The page.
pub(crate) fn page(receipt: &Receipt, variants: &[VariantDetails]) -> String {
    let mut html = String::new();
    // Writing to a string does not fail.
    let _ = write_page(&mut html, receipt, variants);
    html
}

fn write_page(out: &mut String, receipt: &Receipt, variants: &[VariantDetails]) -> fmt::Result {
    let word = word(receipt.verdict, false);
    writeln!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>smokegate: {word}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n\
         <h1>smokegate: <span class=\"{word}\">{word}</span></h1>"
    )?;
    verdicts(out, receipt)?;
    if let Some(error) = &receipt.error {
        writeln!(
            out,
            "<div class=\"cause\"><strong>{}</strong>",
            text(&error.cause)
        )?;
        for line in &error.evidence {
            writeln!(out, "<br>{}", text(line))?;
        }
        writeln!(out, "</div>")?;
    }
    for details in variants {
        let record = receipt.variants.iter().find(|one| one.name == details.name);
        variant(out, details, record)?;
    }
    facts(out, receipt)?;
    writeln!(out, "</body>\n</html>")
}

/// The verdicts and their causes come first.
fn verdicts(out: &mut String, receipt: &Receipt) -> fmt::Result {
    if receipt.variants.is_empty() {
        return Ok(());
    }
    writeln!(
        out,
        "<table>\n<tr><th>variant</th><th>verdict</th><th>cause</th><th>time</th></tr>"
    )?;
    for variant in &receipt.variants {
        let word = word(Some(variant.verdict), variant.stopped);
        writeln!(
            out,
            "<tr><td>{}</td><td class=\"{word}\">{word}</td><td>{}</td><td>{:.2} s</td></tr>",
            text(&variant.name),
            text(variant.cause.as_deref().unwrap_or_default()),
            variant.timings_ms.total as f64 / 1000.0
        )?;
    }
    writeln!(out, "</table>")?;
    if receipt.partial {
        writeln!(out, "<p>Only some of the variants were run.</p>")?;
    }
    Ok(())
}

fn variant(
    out: &mut String,
    details: &VariantDetails,
    record: Option<&VariantRecord>,
) -> fmt::Result {
    writeln!(out, "<section>\n<h2>{}</h2>", text(&details.name))?;
    if let Some(failure) = &details.failure {
        let lines = told(failure);
        let (cause, rest) = lines
            .split_first()
            .map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
        writeln!(
            out,
            "<div class=\"cause\"><strong>{}</strong></div>",
            text(cause)
        )?;
        let rest: Vec<_> = rest.iter().map(|line| text(line)).collect();
        writeln!(out, "<pre>{}</pre>", rest.join("\n"))?;
    }
    if let Some(record) = record {
        record_facts(out, record)?;
    }
    for log in &details.logs {
        let lines: Vec<_> = log.lines.iter().map(|line| text(line)).collect();
        writeln!(
            out,
            "<details><summary>{}</summary><pre>{}</pre></details>",
            text(&log.heading()),
            lines.join("\n")
        )?;
    }
    writeln!(out, "</section>")
}

fn record_facts(out: &mut String, record: &VariantRecord) -> fmt::Result {
    writeln!(
        out,
        "<table>\n<tr><th>asked</th><th>attempts</th><th>answers</th></tr>"
    )?;
    for probe in &record.probes {
        let name = probe.name.as_ref().map(|name| format!("{name}: "));
        writeln!(
            out,
            "<tr><td>{}{}</td><td>{}</td><td>{}</td></tr>",
            text(&name.unwrap_or_default()),
            text(&probe.probe),
            probe.attempts.len(),
            text(&probe.attempts_in_short)
        )?;
    }
    writeln!(out, "</table>\n<p>")?;
    let stage = |name: &str, took: Option<u64>| took.map(|took| format!("{name} {took} ms"));
    let timings = &record.timings_ms;
    let stages = [
        stage("sandbox", timings.sandbox),
        stage("start", timings.start),
        // Copying takes seconds, overlayfs nothing.
        stage(
            "of that joining layers",
            timings.mount.filter(|took| *took > 0),
        ),
        stage("probes", timings.probe),
        stage("in all", Some(timings.total)),
    ];
    let stages: Vec<_> = stages.into_iter().flatten().collect();
    write!(out, "{}", stages.join(", "))?;
    if let Some(exit) = &record.exit {
        write!(out, "; the app {}", ended(exit))?;
    }
    for service in &record.services {
        let how = service
            .exit
            .as_ref()
            .map_or_else(|| "ran to the end".to_owned(), ended);
        write!(out, "; service {} {how}", text(&service.name))?;
    }
    for port in &record.ports {
        write!(out, "; {} was port {}", text(&port.host), port.container)?;
    }
    writeln!(out, "</p>")
}

fn ended(exit: &ExitRecord) -> String {
    match exit {
        ExitRecord::Code(code) => format!("exited with code {code}"),
        ExitRecord::Signal(signal) => format!("was ended by signal {signal}"),
    }
}

fn facts(out: &mut String, receipt: &Receipt) -> fmt::Result {
    let image = &receipt.image;
    writeln!(out, "<section>\n<h2>Image</h2>\n<table>")?;
    let mut row = |name: &str, value: &str| {
        writeln!(
            out,
            "<tr><th>{name}</th><td class=\"mono\">{}</td></tr>",
            text(value)
        )
    };
    row("source", &image.source)?;
    row("digest", &image.digest.to_string())?;
    for (name, platforms) in [("tested", &image.tested), ("not tested", &image.untested)] {
        for platform in platforms {
            row(
                name,
                &format!("{} {}", platform.platform, platform.manifest),
            )?;
        }
    }
    for service in &receipt.services {
        let digest = service.digest.as_ref().map(ToString::to_string);
        row(
            "service",
            &format!("{} {}", service.source, digest.unwrap_or_default()),
        )?;
    }
    if let Some(isolation) = &receipt.isolation {
        row("isolation level", &isolation.level)?;
        for what in &isolation.not_tested {
            row("not tested at this level", what)?;
        }
    }
    if let Some(plan) = &receipt.plan {
        row("plan", &plan.to_string())?;
    }
    for published in &receipt.published {
        row(
            "published",
            &format!("{}@{}", published.reference, published.digest),
        )?;
    }
    row("began", &receipt.started)?;
    row("smokegate", &receipt.tool.version)?;
    writeln!(out, "</table>\n</section>")
}

fn word(verdict: Option<VerdictWord>, stopped: bool) -> &'static str {
    match verdict {
        Some(VerdictWord::Passed) => "passed",
        Some(VerdictWord::Failed) => "failed",
        Some(VerdictWord::Inconclusive) if stopped => "stopped",
        Some(VerdictWord::Inconclusive) => "inconclusive",
        None => "not run",
    }
}

/// Text that can be nothing else, between tags and in attributes.
fn text(raw: &str) -> String {
    let mut safe = String::with_capacity(raw.len());
    for char in shown(raw).chars() {
        match char {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(char),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    #[test]
    fn text_of_an_image_is_text() {
        assert_eq!(
            super::text("</pre><script>alert(\"1\")</script>&\u{1b}[2J'"),
            "&lt;/pre&gt;&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;&#39;"
        );
    }
}
