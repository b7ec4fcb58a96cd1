//! `probes`: what is asked of a container, how often and how long.

use std::ops::RangeInclusive;
use std::time::Duration;

use regex::Regex;
use serde_json::{Value, json};

use super::command::{Command, Exec};
use super::node::{Kind, Node};
use super::reader::{Definitions, FromText, Reader, Shape, keyed};
use super::scalar::{Count, Period, Port, Scheme};
use super::span::{Span, Spanned};

/// One question and its times; a time that is not said has the default of what is asked.
#[derive(Clone, Debug)]
pub struct ProbeSpec {
    /// What is asked.
    pub question: Question,
    /// Its name in reports.
    pub name: Option<Spanned<String>>,
    /// Time between attempts.
    pub interval: Option<Spanned<Duration>>,
    /// Time one attempt may take.
    pub timeout: Option<Spanned<Duration>>,
    /// Wall clock until it must have passed.
    pub within: Option<Spanned<Duration>>,
    /// Time in which failures do not count.
    pub start_period: Option<Spanned<Period>>,
    /// Failures in a row that end the wait.
    pub retries: Option<Spanned<Count>>,
    /// Successes in a row that pass.
    pub successes: Option<Spanned<Count>>,
    /// Where it was written.
    pub span: Span,
}

/// What a probe asks.
#[derive(Clone, Debug)]
pub enum Question {
    /// An HTTP request.
    Http(Box<HttpQuestion>),
    /// A connection.
    Tcp(Spanned<Port>),
    /// A command in the container.
    Exec {
        /// The arguments, at least one.
        command: Command,
        /// What its output must hold, besides exit code 0.
        expect: Option<Spanned<String>>,
    },
    /// Lines in the container's log.
    Log {
        /// The pattern of a line.
        regex: Spanned<Regex>,
        /// How many lines must match; one where left out.
        count: Option<Spanned<Count>>,
    },
    /// The image's own HEALTHCHECK.
    Healthcheck,
}

keyed! {
    /// An HTTP request and the answer that passes.
    pub struct HttpQuestion [advice http_advice] {
        /// Port in the container; the only one of `ports` or EXPOSE where it is left out.
        port: Option<Spanned<Port>>,
        /// Path with query, from `/`.
        path: Option<Spanned<HttpPath>>,
        /// Status codes that pass: a number, a range such as 200-299, or a list of both. 200 where left out.
        status: Option<StatusSet>,
        /// Method; GET where left out.
        method: Option<Spanned<Method>>,
        /// `http` or `https`.
        scheme: Option<Spanned<Scheme>>,
        /// With `https`: accept any certificate.
        insecure: Option<Spanned<bool>>,
        /// Headers of the request.
        headers: Option<Headers>,
        /// What the body must hold.
        body: Option<BodyCheck>,
    }
}

fn http_advice(key: &str) -> Option<&'static str> {
    const TIMES: [&str; 7] = [
        "name",
        "interval",
        "timeout",
        "within",
        "start_period",
        "retries",
        "successes",
    ];
    match key {
        "url" => Some("a probe asks the container itself; say `port` and `path`"),
        key if TIMES.contains(&key) => Some("it stands beside `http`, not in it"),
        _ => None,
    }
}

keyed! {
    /// What an HTTP body must hold; all of it.
    pub struct BodyCheck {
        /// This text.
        contains: Option<Spanned<String>>,
        /// A match of this pattern.
        regex: Option<Spanned<Regex>>,
        /// JSON pointers (RFC 6901) that must lead to something, or to the value given.
        json: Option<JsonChecks>,
    }
}

keyed! {
    /// Lines of a log.
    pub(crate) struct LogKeys [required "regex"] {
        /// The pattern of a line.
        regex: Option<Spanned<Regex>>,
        /// How many lines must match; one where left out.
        count: Option<Spanned<Count>>,
    }
}

keyed! {
    /// One question asked of a container: exactly one of `http`, `tcp`, `exec`, `log`, `healthcheck`.
    pub(crate) struct ProbeKeys [advice probe_advice] {
        /// An HTTP request.
        http: Option<HttpQuestion>,
        /// A port that must take a connection.
        tcp: Option<Spanned<Port>>,
        /// A command in the container that must exit 0.
        exec: Option<Exec>,
        /// With `exec`: text its output must hold.
        expect: Option<Spanned<String>>,
        /// A pattern in the container's log.
        log: Option<LogKeys>,
        /// `true` asks the image's own HEALTHCHECK.
        healthcheck: Option<Spanned<bool>>,
        /// Its name in reports.
        name: Option<Spanned<String>>,
        /// Time between attempts, 2s where left out.
        interval: Option<Spanned<Duration>>,
        /// Time one attempt may take, 2s where left out.
        timeout: Option<Spanned<Duration>>,
        /// Wall clock until it must have passed, 120s where left out; 60s for services.
        within: Option<Spanned<Duration>>,
        /// Time in which failures do not count towards `retries`.
        start_period: Option<Spanned<Period>>,
        /// Failures in a row that end the wait early.
        retries: Option<Spanned<Count>>,
        /// Successes in a row that pass, one where left out.
        successes: Option<Spanned<Count>>,
    }
}

fn probe_advice(key: &str) -> Option<&'static str> {
    match key {
        "port" | "path" | "status" | "method" | "scheme" | "insecure" | "headers" | "body" => {
            Some("it belongs into `http: {…}`")
        }
        "regex" | "count" => Some("it belongs into `log: {…}`"),
        "test" | "cmd" | "command" => Some("a command is `exec: [PROGRAM, ARGUMENT]`"),
        _ => None,
    }
}

impl Shape for ProbeSpec {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        const KINDS: &str = "http, tcp, exec, log or healthcheck";
        let mistakes = reader.problems.len();
        let keys = ProbeKeys::read(node, reader)?;
        if let Some(off) = keys.healthcheck.as_ref().filter(|on| !on.value) {
            reader.problem(
                off.span,
                "a probe is not asked by leaving it out",
                Some("remove this probe"),
            );
        }
        if let (Some(expect), None) = (&keys.expect, &keys.exec) {
            let hint = "for HTTP it is `http: {body: {contains: TEXT}}`";
            reader.problem(expect.span, "`expect` goes with `exec`", Some(hint));
        }
        let expect = keys.expect;
        let mut questions: Vec<Question> = [
            keys.http.map(|http| Question::Http(Box::new(http))),
            keys.tcp.map(Question::Tcp),
            keys.exec.map(|exec| Question::Exec {
                command: exec.0,
                expect,
            }),
            keys.log.and_then(|log| {
                Some(Question::Log {
                    regex: log.regex?,
                    count: log.count,
                })
            }),
            keys.healthcheck.map(|_| Question::Healthcheck),
        ]
        .into_iter()
        .flatten()
        .collect();
        if questions.len() > 1 {
            let message = format!(
                "a probe asks one thing of {KINDS}, and this asks {}",
                questions.len()
            );
            reader.problem(node.span, &message, Some("make a probe of each"));
        } else if questions.is_empty() && reader.problems.len() == mistakes {
            let message = format!("this probe asks nothing: it needs one of {KINDS}");
            reader.problem(
                node.span,
                &message,
                Some("for example `http: {port: 8080, path: /healthz}`"),
            );
        }
        Some(Self {
            question: questions.pop()?,
            name: keys.name,
            interval: keys.interval,
            timeout: keys.timeout,
            within: keys.within,
            start_period: keys.start_period,
            retries: keys.retries,
            successes: keys.successes,
            span: node.span,
        })
    }

    fn schema(definitions: &mut Definitions) -> Value {
        let schema = ProbeKeys::schema(definitions);
        let kinds = ["http", "tcp", "exec", "log", "healthcheck"];
        if let Some(definition) = definitions.get_mut("ProbeKeys") {
            definition["oneOf"] = kinds
                .iter()
                .map(|kind| json!({"required": [kind]}))
                .collect();
        }
        schema
    }
}

/// A path with query.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpPath(pub String);

impl FromText for HttpPath {
    const EXPECTED: &'static str = "a path";
    const EXAMPLE: &'static str = "/healthz";

    fn from_text(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') {
            return Err("it must start with `/`".to_owned());
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("what is not ASCII, and spaces, are written as %XX".to_owned());
        }
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Value {
        json!({"type": "string", "pattern": "^(/|.*\\$)"})
    }
}

/// A method of HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Method(pub String);

impl FromText for Method {
    const EXPECTED: &'static str = "a method of HTTP, in capitals";
    const EXAMPLE: &'static str = "HEAD";

    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
            return Err(String::new());
        }
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Value {
        json!({"type": "string", "examples": ["GET", "HEAD", "POST"]})
    }
}

/// Status codes that pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusSet(pub Vec<RangeInclusive<u16>>);

impl StatusSet {
    /// Whether the code is one of them.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

/// One code or a range of them.
struct StatusRange(RangeInclusive<u16>);

impl FromText for StatusRange {
    const EXPECTED: &'static str = "a status code or a range of them";
    const EXAMPLE: &'static str = "200-299";

    fn from_text(text: &str) -> Result<Self, String> {
        let code = |text: &str| {
            let parsed = text.trim().parse::<u16>().ok();
            parsed
                .filter(|code| (100..=599).contains(code))
                .ok_or_else(|| "codes are from 100 to 599".to_owned())
        };
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (code(first)?, code(last)?);
        if first > last {
            return Err("its end is below its start".to_owned());
        }
        Ok(Self(first..=last))
    }

    fn schema() -> Value {
        json!({"anyOf": [{"type": "integer", "minimum": 100, "maximum": 599}, {"type": "string"}]})
    }
}

impl Shape for StatusSet {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let ranges = if let Kind::Sequence(_) = node.kind {
            Vec::<Spanned<StatusRange>>::read(node, reader)?
        } else {
            vec![Spanned::read(node, reader)?]
        };
        if ranges.is_empty() {
            let hint = "for example `[200, 204]`";
            reader.problem(node.span, "no status would ever pass", Some(hint));
        }
        Some(Self(
            ranges.into_iter().map(|range| range.value.0).collect(),
        ))
    }

    fn schema(_: &mut Definitions) -> Value {
        let one = StatusRange::schema();
        json!({"anyOf": [one.clone(), {"type": "array", "items": one, "minItems": 1}]})
    }
}

/// Headers, in the order of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(pub Vec<(Spanned<String>, Spanned<String>)>);

impl Shape for Headers {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let mut headers = Vec::new();
        for pair in reader.pairs(node, "{Accept: application/json}")? {
            // A token of RFC 9110.
            let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
            if pair.key.is_empty() || !pair.key.bytes().all(token) {
                let message = format!("`{}` is not the name of a header", pair.key.value);
                reader.problem(pair.key.span, &message, None);
            }
            let Some(value) = Spanned::<String>::read(&pair.value, reader) else {
                continue;
            };
            if value.chars().any(|c| c.is_control() && c != '\t') {
                reader.problem(value.span, "a header cannot have control characters", None);
            }
            headers.push((pair.key.clone(), value));
        }
        Some(Self(headers))
    }

    fn schema(_: &mut Definitions) -> Value {
        let value = json!({"type": ["string", "number", "boolean"]});
        json!({"type": "object", "additionalProperties": value})
    }
}

/// What a JSON pointer must lead to.
#[derive(Clone, Debug, PartialEq)]
pub struct JsonCheck {
    /// The pointer (RFC 6901): empty, or from `/`.
    pub pointer: Spanned<String>,
    /// The value there; anything where `None`.
    pub equals: Option<Value>,
}

/// Checks of a JSON body; all must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JsonChecks(pub Vec<JsonCheck>);

impl JsonChecks {
    fn add(&mut self, pointer: Spanned<String>, equals: Option<Value>, reader: &mut Reader<'_>) {
        if !pointer.is_empty() && !pointer.starts_with('/') {
            let message = format!("`{}` is not a JSON pointer", pointer.value);
            reader.problem(
                pointer.span,
                &message,
                Some("for example `/status` or `/items/0/name`"),
            );
        }
        self.0.push(JsonCheck { pointer, equals });
    }
}

impl Shape for JsonChecks {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let mut checks = Self::default();
        match &node.kind {
            Kind::Scalar(_) => checks.add(Spanned::read(node, reader)?, None, reader),
            Kind::Sequence(_) => {
                for pointer in Vec::<Spanned<String>>::read(node, reader)? {
                    checks.add(pointer, None, reader);
                }
            }
            Kind::Mapping(pairs) => {
                for pair in pairs {
                    if let Some(value) = json_value(&pair.value, reader) {
                        checks.add(pair.key.clone(), Some(value), reader);
                    }
                }
            }
        }
        Some(checks)
    }

    fn schema(_: &mut Definitions) -> Value {
        json!({"anyOf": [
            {"type": "string"},
            {"type": "array", "items": {"type": "string"}},
            {"type": "object"},
        ]})
    }
}

/// YAML's core schema for what JSON has: an unquoted word of JSON is that value, all else is text.
fn json_value(node: &Node, reader: &mut Reader<'_>) -> Option<Value> {
    Some(match &node.kind {
        Kind::Scalar(_) if node.is_null() => Value::Null,
        Kind::Scalar(scalar) => {
            let text = reader.text(node, "a value", "")?.text;
            let literal = scalar
                .plain
                .then(|| serde_json::from_str::<Value>(&text).ok())
                .flatten();
            match literal {
                Some(value @ (Value::Bool(_) | Value::Number(_))) => value,
                _ => Value::String(text),
            }
        }
        Kind::Sequence(items) => items
            .iter()
            .map(|item| json_value(item, reader))
            .collect::<Option<Vec<_>>>()?
            .into(),
        Kind::Mapping(pairs) => Value::Object(
            pairs
                .iter()
                .map(|pair| Some((pair.key.value.clone(), json_value(&pair.value, reader)?)))
                .collect::<Option<_>>()?,
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_codes_and_ranges() {
        for (text, range) in [
            ("200", 200..=200),
            ("200-299", 200..=299),
            ("301 - 308", 301..=308),
        ] {
            assert_eq!(StatusRange::from_text(text).unwrap().0, range, "{text}");
        }
        for text in ["", "99", "600", "299-200", "2xx", "200-"] {
            assert!(StatusRange::from_text(text).is_err(), "{text}");
        }
        let set = StatusSet(vec![200..=204, 301..=301]);
        assert!(set.contains(204) && set.contains(301) && !set.contains(205));
    }
}
