//! Values that are one word: text, numbers, durations, sizes, choices, patterns.

use std::time::Duration;

use regex::Regex;
use serde_json::{Value, json};
use smokegate_image::Platform;
use smokegate_sandbox::Isolation;

use super::reader::FromText;
use crate::port::PortMap;
use crate::signal;

/// A schema for what is not text: the value itself, or text with a variable in it.
pub(crate) fn or_variable(schema: Value) -> Value {
    json!({"anyOf": [schema, {"type": "string", "pattern": "\\$"}]})
}

/// Text that a system call takes: no NUL.
impl FromText for String {
    const EXPECTED: &'static str = "text";
    const EXAMPLE: &'static str = "";

    fn from_text(text: &str) -> Result<Self, String> {
        if text.contains('\0') {
            return Err("it has a NUL in it".to_owned());
        }
        Ok(text.to_owned())
    }

    fn schema() -> Value {
        json!({"type": ["string", "number", "boolean"]})
    }
}

impl FromText for bool {
    const EXPECTED: &'static str = "`true` or `false`";
    const EXAMPLE: &'static str = "";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "true" | "True" | "TRUE" => Ok(true),
            "false" | "False" | "FALSE" => Ok(false),
            _ => Err(String::new()),
        }
    }

    fn schema() -> Value {
        or_variable(json!({"type": "boolean"}))
    }
}

/// A number of things, at least one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count(pub u32);

impl FromText for Count {
    const EXPECTED: &'static str = "a whole number of at least 1";
    const EXAMPLE: &'static str = "3";

    fn from_text(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(count) if count > 0 => Ok(Self(count)),
            _ => Err(String::new()),
        }
    }

    fn schema() -> Value {
        or_variable(json!({"type": "integer", "minimum": 1, "maximum": u32::MAX}))
    }
}

/// The exit code of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ExitCode(pub u8);

impl FromText for ExitCode {
    const EXPECTED: &'static str = "an exit code from 0 to 255";
    const EXAMPLE: &'static str = "0";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| String::new())
    }

    fn schema() -> Value {
        or_variable(json!({"type": "integer", "minimum": 0, "maximum": 255}))
    }
}

/// A port of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port(pub u16);

impl FromText for Port {
    const EXPECTED: &'static str = "a port from 1 to 65535";
    const EXAMPLE: &'static str = "8080";

    fn from_text(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(port) if port > 0 => Ok(Self(port)),
            _ => Err(String::new()),
        }
    }

    fn schema() -> Value {
        or_variable(json!({"type": "integer", "minimum": 1, "maximum": 65535}))
    }
}

impl FromText for PortMap {
    const EXPECTED: &'static str = "a port mapping";
    const EXAMPLE: &'static str = "18080:8080";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse::<Self>()
            .map_err(|error| error.problem().to_owned())
    }

    fn schema() -> Value {
        json!({"type": ["string", "integer"]})
    }
}

/// A time longer than zero, as Compose and the command line write it.
impl FromText for Duration {
    const EXPECTED: &'static str = "a duration";
    const EXAMPLE: &'static str = "1m30s";

    fn from_text(text: &str) -> Result<Self, String> {
        let time = period(text)?;
        if time.is_zero() {
            return Err("it must be longer than zero".to_owned());
        }
        Ok(time)
    }

    fn schema() -> Value {
        json!({"type": "string", "examples": ["2s", "1m30s", "500ms"]})
    }
}

/// A time that may be zero.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Period(pub Duration);

impl FromText for Period {
    const EXPECTED: &'static str = "a duration";
    const EXAMPLE: &'static str = "1m30s";

    fn from_text(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Ok(Self::default());
        }
        period(text).map(Self)
    }

    fn schema() -> Value {
        json!({"anyOf": [{"type": "string", "examples": ["0s", "10s"]}, {"const": 0}]})
    }
}

fn period(text: &str) -> Result<Duration, String> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(format!("it has no unit; `{text}s` would be seconds"));
    }
    if text.starts_with(['-', '+']) {
        return Err("it has a sign".to_owned());
    }
    text.parse::<jiff::SignedDuration>()
        .ok()
        .and_then(|time| Duration::try_from(time).ok())
        .ok_or_else(|| "it is numbers with the units `ms`, `s`, `m` and `h`".to_owned())
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromText for Size {
    const EXPECTED: &'static str = "a size";
    const EXAMPLE: &'static str = "512m";

    /// As docker reads it: `b`, `k`, `m`, `g`, `t` with or without `b` or `ib`, in powers of 1024.
    fn from_text(text: &str) -> Result<Self, String> {
        let lower = text.trim().to_ascii_lowercase();
        let digits = lower
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(lower.len());
        let (number, unit) = lower.split_at(digits);
        let unit = unit.trim_start();
        let letter = unit
            .strip_suffix("ib")
            .or_else(|| unit.strip_suffix('b'))
            .unwrap_or(unit);
        let shift = match letter {
            "" if unit != "ib" => 0,
            "k" => 10,
            "m" => 20,
            "g" => 30,
            "t" => 40,
            _ => return Err(format!("the unit `{unit}` is not b, k, m, g or t")),
        };
        let factor = 1_u64 << shift;
        let bytes = match number.parse::<u64>() {
            Ok(whole) => whole.checked_mul(factor),
            Err(_) => number
                .parse::<f64>()
                .ok()
                .map(|part| part * factor as f64)
                .filter(|bytes| bytes.is_finite() && *bytes < u64::MAX as f64)
                .map(|bytes| bytes as u64),
        };
        match bytes {
            Some(0) => Err("it must be more than nothing".to_owned()),
            Some(bytes) => Ok(Self(bytes)),
            None => Err("it is a number and a unit".to_owned()),
        }
    }

    fn schema() -> Value {
        json!({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "examples": ["512m", "64k", "1g"]}]})
    }
}

/// Processor time as a number of processors, in thousandths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cpus {
    /// 1500 is one and a half.
    pub thousandths: u32,
}

impl FromText for Cpus {
    const EXPECTED: &'static str = "a number of processors";
    const EXAMPLE: &'static str = "1.5";

    fn from_text(text: &str) -> Result<Self, String> {
        let number = text.parse::<f64>().map_err(|_| String::new())?;
        if !(0.01..=4096.0).contains(&number) {
            return Err("it is between 0.01 and 4096".to_owned());
        }
        Ok(Self {
            thousandths: (number * 1000.0).round() as u32,
        })
    }

    fn schema() -> Value {
        or_variable(json!({"type": "number", "minimum": 0.01, "maximum": 4096}))
    }
}

/// A signal by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(pub i32);

impl FromText for Signal {
    const EXPECTED: &'static str = "a signal";
    const EXAMPLE: &'static str = "SIGQUIT";

    fn from_text(text: &str) -> Result<Self, String> {
        signal::parse(text).map(Self).ok_or_default()
    }

    fn schema() -> Value {
        json!({"type": ["string", "integer"]})
    }
}

/// `None` as a mistake that the message already says all about.
trait OrDefault<T> {
    fn ok_or_default(self) -> Result<T, String>;
}

impl<T> OrDefault<T> for Option<T> {
    fn ok_or_default(self) -> Result<T, String> {
        self.ok_or_else(String::new)
    }
}

impl FromText for Platform {
    const EXPECTED: &'static str = "a platform";
    const EXAMPLE: &'static str = "linux/arm64";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().ok().ok_or_default()
    }

    fn schema() -> Value {
        json!({"type": "string", "examples": ["linux/amd64", "linux/arm64"]})
    }
}

/// A regular expression, in the syntax of Rust's `regex` crate.
impl FromText for Regex {
    const EXPECTED: &'static str = "a regular expression";
    const EXAMPLE: &'static str = "";

    fn from_text(text: &str) -> Result<Self, String> {
        Regex::new(text).map_err(|error| {
            // The crate draws the expression over several lines; its last line is the reason.
            let drawn = error.to_string();
            let last = drawn.lines().next_back().unwrap_or_default();
            last.trim_start_matches("error: ").to_owned()
        })
    }

    fn schema() -> Value {
        json!({"type": "string", "format": "regex"})
    }
}

/// An enum of words.
macro_rules! choice {
    ($(#[$meta:meta])* $vis:vis enum $name:ident: $expected:literal { $($(#[$doc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        $vis enum $name { $($(#[$doc])* $variant,)+ }

        impl $crate::gate_file::reader::FromText for $name {
            const EXPECTED: &'static str = $expected;
            const EXAMPLE: &'static str = "";

            fn from_text(text: &str) -> Result<Self, String> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(String::new()),
                }
            }

            fn schema() -> serde_json::Value {
                serde_json::json!({"type": "string", "enum": [$($word),+]})
            }
        }
    };
}
pub(crate) use choice;

choice! {
    /// How the containers of a pod reach each other.
    pub enum Network: "`bridge` or `shared`" {
        /// Each container has its own namespace and address.
        #[default]
        Bridge = "bridge",
        /// One namespace and one localhost for all, as in a Kubernetes pod.
        Shared = "shared",
    }
}

choice! {
    /// What a pod reaches outside.
    pub enum Egress: "`none` or `host`" {
        /// Nothing.
        #[default]
        None = "none",
        /// TCP and DNS through the host.
        Host = "host",
    }
}

choice! {
    /// The scheme of an HTTP probe.
    pub enum Scheme: "`http` or `https`" {
        /// In the clear.
        #[default]
        Http = "http",
        /// Over TLS.
        Https = "https",
    }
}

impl FromText for Isolation {
    const EXPECTED: &'static str = "`root`, `subuid` or `single`";
    const EXAMPLE: &'static str = "";

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().ok().ok_or_default()
    }

    fn schema() -> Value {
        json!({"type": "string", "enum": ["root", "subuid", "single"]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_on_the_command_line() {
        for (text, millis) in [
            ("500ms", 500),
            ("2s", 2000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("1.5s", 1500),
        ] {
            assert_eq!(
                Duration::from_text(text).unwrap().as_millis(),
                millis,
                "{text}"
            );
        }
        for text in ["", "2", "2.5", "0s", "-1s", "+1s", "soon", "2 parsecs"] {
            assert!(Duration::from_text(text).is_err(), "{text}");
        }
        assert_eq!(Period::from_text("0s"), Ok(Period::default()));
        assert_eq!(Period::from_text("0"), Ok(Period::default()));
    }

    #[test]
    fn sizes_read_as_docker_reads_them() {
        for (text, bytes) in [
            ("1", 1),
            ("64k", 65_536),
            ("512m", 536_870_912),
            ("1g", 1 << 30),
            ("2Gb", 2 << 30),
            ("1.5 KiB", 1536),
            ("10B", 10),
        ] {
            assert_eq!(Size::from_text(text), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "0", "m", "-1m", "1x", "1ib", "1.2.3m", "99999999999t"] {
            assert!(Size::from_text(text).is_err(), "{text}");
        }
    }

    #[test]
    fn processors_are_thousandths() {
        for (text, thousandths) in [("1.5", 1500), ("0.01", 10), ("2", 2000)] {
            assert_eq!(Cpus::from_text(text), Ok(Cpus { thousandths }), "{text}");
        }
        for text in ["0", "-1", "NaN", "inf", "two"] {
            assert!(Cpus::from_text(text).is_err(), "{text}");
        }
    }
}
