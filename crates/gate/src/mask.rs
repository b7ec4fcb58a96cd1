//! Hides the values of secrets in everything that a container writes or a message says.

use std::borrow::Cow;
use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};
use smokegate_sandbox::SecretFile;

use crate::plan::GatePlan;
use crate::probe::Outcome;

/// What stands in place of a value.
const MASKED: &str = "***";
/// Shorter values, and shorter lines of values, are not hidden: they are part of ordinary words, and a text with
/// every `ab` replaced says where they were.
const SHORTEST: usize = 4;
/// An outcome's text of this length or more was cut, and may begin or end within a value.
const MAY_BE_CUT: usize = 2 * 1024 - 4;

/// The values to hide. Cheap to clone.
#[derive(Clone, Default)]
pub struct Mask(Option<Arc<Patterns>>);

struct Patterns {
    texts: Vec<Vec<u8>>,
    search: AhoCorasick,
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Mask(***)")
    }
}

impl Mask {
    /// Hides the values of all secrets of a plan.
    pub fn of(plan: &GatePlan) -> Self {
        Self::new(secrets(plan).map(|secret| secret.value.expose()))
    }

    fn new<'a>(values: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut texts: Vec<Vec<u8>> = values.flat_map(patterns).collect();
        texts.sort();
        texts.dedup();
        if texts.is_empty() {
            return Self(None);
        }
        let search = AhoCorasick::builder()
            .match_kind(MatchKind::LeftmostLongest)
            .build(&texts);
        // It fails for more text than its numbers can count only, which secrets of limited size do not have.
        let search = search.expect("secrets are of limited size");
        Self(Some(Arc::new(Patterns { texts, search })))
    }

    /// The text with every value replaced.
    pub fn text<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match self.bytes(text.as_bytes()) {
            Cow::Borrowed(_) => Cow::Borrowed(text),
            Cow::Owned(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }

    /// The bytes with every value replaced.
    pub(crate) fn bytes<'a>(&self, bytes: &'a [u8]) -> Cow<'a, [u8]> {
        let Some(patterns) = &self.0 else {
            return Cow::Borrowed(bytes);
        };
        let mut masked = Vec::new();
        let mut done = 0;
        for found in patterns.search.find_iter(bytes) {
            masked.extend_from_slice(&bytes[done..found.start()]);
            masked.extend_from_slice(MASKED.as_bytes());
            done = found.end();
        }
        if done == 0 {
            return Cow::Borrowed(bytes);
        }
        masked.extend_from_slice(&bytes[done..]);
        Cow::Owned(masked)
    }

    /// How much of a line that is not at its end yet can be masked now: what follows may be the start of a value.
    pub(crate) fn settled(&self, line: &[u8]) -> usize {
        let Some(patterns) = &self.0 else {
            return line.len();
        };
        let after = patterns.search.find_iter(line).last();
        let rest = &line[after.map_or(0, |found| found.end())..];
        let open = patterns.texts.iter().map(|text| {
            let longest = rest.len().min(text.len() - 1);
            (1..=longest)
                .rev()
                .find(|length| rest.ends_with(&text[..*length]))
                .unwrap_or(0)
        });
        line.len() - open.max().unwrap_or(0)
    }

    /// An outcome without the values in its texts.
    pub(crate) fn outcome(&self, mut outcome: Outcome) -> Outcome {
        if self.0.is_none() {
            return outcome;
        }
        match &mut outcome {
            Outcome::Status { location, body, .. } => {
                *body = self.cut_text(body);
                *location = location.take().map(|text| self.cut_text(&text));
            }
            Outcome::WrongBody { problem, body, .. } => {
                *body = self.cut_text(body);
                *problem = self.cut_text(problem);
            }
            Outcome::ExitCode { output: text, .. }
            | Outcome::Closed { error: text }
            | Outcome::NotHttp { error: text }
            | Outcome::Tls { error: text }
            | Outcome::NotRun { error: text } => *text = self.cut_text(text),
            Outcome::Unexpected { expected, output } => {
                *expected = self.text(expected).into_owned();
                *output = self.cut_text(output);
            }
            Outcome::Passed
            | Outcome::Refused
            | Outcome::NotConnected
            | Outcome::NoAnswer
            | Outcome::LogLines { .. }
            | Outcome::NotFinished { .. } => {}
        }
        outcome
    }

    /// A text whose start or end may have been cut off within a value.
    fn cut_text(&self, text: &str) -> String {
        let Some(patterns) = self.0.as_ref().filter(|_| text.len() >= MAY_BE_CUT) else {
            return self.text(text).into_owned();
        };
        let mut bytes = self.bytes(text.as_bytes()).into_owned();
        let end = self.settled(&bytes);
        if bytes.len() - end >= SHORTEST {
            bytes.truncate(end);
            bytes.extend_from_slice(MASKED.as_bytes());
        }
        let begun = patterns.texts.iter().filter_map(|text| {
            let longest = bytes.len().min(text.len() - 1);
            (SHORTEST..=longest)
                .rev()
                .find(|length| bytes.starts_with(&text[text.len() - length..]))
        });
        if let Some(length) = begun.max() {
            bytes.splice(..length, MASKED.bytes());
        }
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

fn secrets(plan: &GatePlan) -> impl Iterator<Item = &SecretFile> {
    plan.variants.iter().flat_map(|variant| {
        let services = variant.services.iter().map(|service| &service.container);
        services
            .chain([&variant.app])
            .flat_map(|container| &container.secrets)
    })
}

/// Names of a plan's secrets that are too short to be hidden, each once.
pub fn unmasked_secrets(plan: &GatePlan) -> Vec<&str> {
    let mut names: Vec<&str> = secrets(plan)
        .filter(|secret| patterns(secret.value.expose()).is_empty())
        .map(|secret| secret.name.as_str())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The forms in which a value is found: each of its lines, as it is, as a string of JSON, and as part of a URL.
fn patterns(value: &[u8]) -> Vec<Vec<u8>> {
    let lines = value.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let lines = lines.filter(|line| line.len() >= SHORTEST);
    lines
        .flat_map(|line| [line.to_vec(), in_json(line), in_url(line)])
        .collect()
}

fn in_json(line: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(line);
    let quoted = serde_json::Value::from(text.as_ref()).to_string();
    quoted[1..quoted.len() - 1].into()
}

/// RFC 3986, section 2.1: everything but unreserved characters is encoded.
fn in_url(line: &[u8]) -> Vec<u8> {
    let encode = |byte: &u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => vec![*byte],
        byte => format!("%{byte:02X}").into_bytes(),
    };
    line.iter().flat_map(encode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(values: &[&str]) -> Mask {
        Mask::new(values.iter().map(|value| value.as_bytes()))
    }

    #[test]
    fn every_form_of_a_value_is_hidden() {
        let mask = mask(&[
            "hunter2",
            "hunter",
            "p\"w/ä d",
            "-----BEGIN-----\r\nAbCdEf\n}\n",
            "abc",
        ]);
        for (text, masked) in [
            ("nothing", "nothing"),
            (
                "hunter2 and hunter and hunterhunter2",
                "*** and *** and ******",
            ),
            ("it is p\"w/ä d!", "it is ***!"),
            (r#"{"a":"p\"w/ä d"}"#, r#"{"a":"***"}"#),
            (
                "postgres://u:p%22w%2F%C3%A4%20d@db/x",
                "postgres://u:***@db/x",
            ),
            ("x AbCdEf y", "x *** y"),
            ("abc } too short", "abc } too short"),
        ] {
            assert_eq!(mask.text(text), masked);
        }
        assert_eq!(format!("{mask:?}"), "Mask(***)");
        assert!(matches!(Mask::default().text("x"), Cow::Borrowed("x")));
    }

    #[test]
    fn what_may_be_the_start_of_a_value_is_not_settled() {
        let mask = mask(&["hunter2", "terrible"]);
        for (line, settled) in [
            ("", 0),
            ("abc", 3),
            ("a hun", 2),
            ("a hunter", 2),
            ("a hunter2", 9),
            ("hunter2h", 7),
            ("x te", 2),
            // Both may go on; the earlier start decides.
            ("hunter", 0),
        ] {
            assert_eq!(mask.settled(line.as_bytes()), settled, "`{line}`");
        }
        assert_eq!(Mask::default().settled(b"hun"), 3);
    }

    #[test]
    fn a_text_that_was_cut_within_a_value_shows_no_part_of_it() {
        let mask = mask(&["hunter2secret"]);
        let outcome = |text: String| match mask.outcome(Outcome::Status {
            status: 500,
            location: None,
            body: text,
        }) {
            Outcome::Status { body, .. } => body,
            other => panic!("{other:?}"),
        };
        let filler = "x".repeat(MAY_BE_CUT);
        assert_eq!(outcome(format!("2secret{filler}")), format!("***{filler}"));
        assert_eq!(
            outcome(format!("{filler}hunter2sec")),
            format!("{filler}***")
        );
        assert_eq!(outcome("a hunter2".into()), "a hunter2");
        assert_eq!(outcome("a hunter2secret b".into()), "a *** b");
    }
}
