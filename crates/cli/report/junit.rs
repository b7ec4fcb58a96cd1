//! `junit.xml`: a test suite for each variant, a test case for each thing that was judged, in the schema that Jenkins
//! and GitLab read.

use std::io;

use quick_xml::Writer;
use quick_xml::events::{BytesDecl, BytesEnd, BytesStart, BytesText, Event};

use super::cases::{Case, End};
use super::details::{VariantDetails, shown, told};
use crate::failure::Failure;
use crate::receipt::Receipt;

/// The document.
pub(crate) fn document(receipt: &Receipt, variants: &[VariantDetails]) -> io::Result<String> {
    let mut xml = Xml(Writer::new_with_indent(Vec::new(), b' ', 2));
    xml.0
        .write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let all = variants.iter().flat_map(|variant| &variant.cases);
    let mut counts = Counts::of(all);
    // What ended the run beside the variants is a case of its own.
    counts.tests += usize::from(receipt.error.is_some());
    counts.errors += usize::from(receipt.error.is_some());
    let mut suites = vec![("name", "smokegate".to_owned())];
    suites.extend(counts.attributes());
    xml.open("testsuites", &suites)?;
    for variant in variants {
        suite(&mut xml, receipt, variant)?;
    }
    if let Some(error) = &receipt.error {
        let one = Counts {
            tests: 1,
            errors: 1,
            ..Counts::default()
        };
        let mut attributes = vec![("name", "smokegate".to_owned())];
        attributes.extend(one.attributes());
        attributes.push(("time", "0.000".to_owned()));
        xml.open("testsuite", &attributes)?;
        xml.open(
            "testcase",
            &case_attributes("smokegate.smokegate", "the run", 0.0),
        )?;
        let lines = std::iter::once(&error.cause).chain(&error.evidence);
        let lines: Vec<_> = lines.map(|line| shown(line)).collect();
        xml.told("error", &lines)?;
        xml.close("testcase")?;
        xml.close("testsuite")?;
    }
    xml.close("testsuites")?;
    let mut text = String::from_utf8(xml.0.into_inner()).map_err(io::Error::other)?;
    text.push('\n');
    Ok(text)
}

fn suite(xml: &mut Xml, receipt: &Receipt, variant: &VariantDetails) -> io::Result<()> {
    let record = receipt.variants.iter().find(|one| one.name == variant.name);
    let total = record.map_or(0, |record| record.timings_ms.total);
    let mut attributes = vec![("name", shown(&variant.name))];
    attributes.extend(Counts::of(&variant.cases).attributes());
    attributes.push(("time", seconds(total as f64 / 1000.0)));
    // ISO 8601 without a zone, as the schema has it; it is UTC.
    attributes.push((
        "timestamp",
        receipt.started.trim_end_matches('Z').to_owned(),
    ));
    xml.open("testsuite", &attributes)?;
    xml.open("properties", &[])?;
    let level = receipt.isolation.as_ref().map(|one| one.level.clone());
    let properties = [
        ("image", Some(shown(&receipt.image.source))),
        ("digest", Some(receipt.image.digest.to_string())),
        ("platform", record.map(|record| shown(&record.platform))),
        ("isolation", level),
    ];
    for (name, value) in properties {
        if let Some(value) = value {
            xml.empty("property", &[("name", name.to_owned()), ("value", value)])?;
        }
    }
    xml.close("properties")?;
    for case in &variant.cases {
        write_case(xml, variant, case)?;
    }
    for log in &variant.logs {
        let text = log.lines.join("\n");
        xml.text("system-out", &format!("{}:\n{text}\n", log.heading()))?;
    }
    xml.close("testsuite")
}

fn write_case(xml: &mut Xml, variant: &VariantDetails, case: &Case) -> io::Result<()> {
    let class = format!("smokegate.{}", shown(&variant.name));
    let attributes = case_attributes(&class, &shown(&case.name), case.took.as_secs_f64());
    let told = |failure: &Option<Failure>| failure.as_ref().map(told).unwrap_or_default();
    match case.end {
        End::Passed => return xml.empty("testcase", &attributes),
        End::Undecided => {
            xml.open("testcase", &attributes)?;
            xml.empty("skipped", &[("message", "not decided".to_owned())])?;
        }
        End::Failed => {
            xml.open("testcase", &attributes)?;
            xml.told("failure", &told(&variant.failure))?;
        }
        End::Inconclusive => {
            xml.open("testcase", &attributes)?;
            xml.told("error", &told(&variant.failure))?;
        }
    }
    xml.close("testcase")
}

fn case_attributes(class: &str, name: &str, took: f64) -> [(&'static str, String); 3] {
    [
        ("classname", class.to_owned()),
        ("name", name.to_owned()),
        ("time", seconds(took)),
    ]
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.3}")
}

#[derive(Default)]
struct Counts {
    tests: usize,
    failures: usize,
    errors: usize,
    skipped: usize,
}

impl Counts {
    fn of<'a>(cases: impl IntoIterator<Item = &'a Case>) -> Self {
        let mut counts = Self::default();
        for case in cases {
            counts.tests += 1;
            match case.end {
                End::Passed => {}
                End::Failed => counts.failures += 1,
                End::Inconclusive => counts.errors += 1,
                End::Undecided => counts.skipped += 1,
            }
        }
        counts
    }

    fn attributes(&self) -> [(&'static str, String); 4] {
        [
            ("tests", self.tests.to_string()),
            ("failures", self.failures.to_string()),
            ("errors", self.errors.to_string()),
            ("skipped", self.skipped.to_string()),
        ]
    }
}

struct Xml(Writer<Vec<u8>>);

impl Xml {
    fn start<'a>(name: &'a str, attributes: &[(&str, String)]) -> BytesStart<'a> {
        let mut start = BytesStart::new(name);
        for (key, value) in attributes {
            start.push_attribute((*key, allowed(value).as_str()));
        }
        start
    }

    fn open(&mut self, name: &str, attributes: &[(&str, String)]) -> io::Result<()> {
        self.0
            .write_event(Event::Start(Self::start(name, attributes)))
    }

    fn empty(&mut self, name: &str, attributes: &[(&str, String)]) -> io::Result<()> {
        self.0
            .write_event(Event::Empty(Self::start(name, attributes)))
    }

    fn close(&mut self, name: &str) -> io::Result<()> {
        self.0.write_event(Event::End(BytesEnd::new(name)))
    }

    fn text(&mut self, name: &str, text: &str) -> io::Result<()> {
        self.open(name, &[])?;
        self.0
            .write_event(Event::Text(BytesText::new(&allowed(text))))?;
        self.close(name)
    }

    /// A failure: its first line as the message, all of it as the text.
    fn told(&mut self, name: &str, lines: &[String]) -> io::Result<()> {
        let message = lines.first().cloned().unwrap_or_default();
        self.open(name, &[("message", message), ("type", name.to_owned())])?;
        self.0
            .write_event(Event::Text(BytesText::new(&allowed(&lines.join("\n")))))?;
        self.close(name)
    }
}

/// XML 1.0 can hold neither most control characters nor U+FFFE and U+FFFF, also escaped (section 2.2).
fn allowed(text: &str) -> String {
    let is_allowed = |c: &char| {
        matches!(c, '\t' | '\n') || !(c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'))
    };
    text.chars().filter(is_allowed).collect()
}
