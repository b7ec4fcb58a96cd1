//! The image config: what the image says about how it is run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::{DiffId, Error, Platform};

/// An image config (OCI image spec, config.md) with Docker's HEALTHCHECK extension, as values.
///
/// Lists that were absent are empty; times that were absent are `None`.
#[derive(Clone, Debug, Default)]
pub struct ImageConfig {
    /// The bytes it was parsed from.
    pub raw: Arc<[u8]>,
    /// `ENTRYPOINT`.
    pub entrypoint: Vec<String>,
    /// `CMD`.
    pub cmd: Vec<String>,
    /// `ENV`, each `NAME=VALUE`, in order.
    pub env: Vec<String>,
    /// `USER` as written: `user`, `uid`, `user:group`, `uid:gid`; empty means root.
    pub user: String,
    /// `WORKDIR`; empty means `/`.
    pub working_dir: String,
    /// `EXPOSE`, each `port/protocol`, sorted.
    pub exposed_ports: Vec<String>,
    /// `VOLUME`, absolute paths, sorted.
    pub volumes: Vec<String>,
    /// `STOPSIGNAL`, a name or a number.
    pub stop_signal: Option<String>,
    /// `HEALTHCHECK` (a Docker extension; BuildKit keeps it in OCI configs too).
    pub healthcheck: Option<Healthcheck>,
    /// `SHELL` (a Docker extension), which HEALTHCHECK's shell form uses.
    pub shell: Vec<String>,
    /// Labels, sorted by name.
    pub labels: Vec<(String, String)>,
    /// DiffIDs of the layers, lowest first.
    pub diff_ids: Vec<DiffId>,
    /// Architecture as Go names it: `amd64`, `arm64`.
    pub architecture: String,
    /// Operating system as Go names it: `linux`.
    pub os: String,
    /// CPU variant: `v7`, `v8`.
    pub variant: Option<String>,
    /// When it was built, RFC 3339.
    pub created: Option<String>,
}

/// The image's own health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Healthcheck {
    /// What is run.
    pub test: HealthcheckTest,
    /// Time between checks; Docker's default is 30 s.
    pub interval: Option<Duration>,
    /// Time one check may take; Docker's default is 30 s.
    pub timeout: Option<Duration>,
    /// Time in which failures do not count; Docker's default is 0.
    pub start_period: Option<Duration>,
    /// Time between checks within the start period; Docker's default is 5 s.
    pub start_interval: Option<Duration>,
    /// Failures in a row that make the container unhealthy; Docker's default is 3.
    pub retries: Option<u32>,
}

/// The search path of a container whose image sets none (moby, oci/defaults.go).
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The `Test` list of a health check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HealthcheckTest {
    /// `["NONE"]`: switched off, whatever a base image said.
    None,
    /// `["CMD", …]`: the rest is the argument vector.
    Exec(Vec<String>),
    /// `["CMD-SHELL", line]`: run by the image's shell.
    Shell(String),
}

impl ImageConfig {
    /// The argument vector of the image's health check; `None` where it has none or it is switched off. `SHELL` runs a
    /// line, `/bin/sh -c` where the image names no shell.
    pub fn healthcheck_args(&self) -> Option<Vec<String>> {
        match &self.healthcheck.as_ref()?.test {
            HealthcheckTest::None => None,
            HealthcheckTest::Exec(args) => Some(args.clone()),
            HealthcheckTest::Shell(line) => {
                let mut args = self.shell.clone();
                if args.is_empty() {
                    args = vec!["/bin/sh".into(), "-c".into()];
                }
                args.push(line.clone());
                Some(args)
            }
        }
    }
}

/// The document as builders write it: Go leaves out empty lists, or writes them as `null`.
#[derive(Deserialize)]
struct Wire {
    architecture: Option<String>,
    os: Option<String>,
    variant: Option<String>,
    created: Option<String>,
    config: Option<WireExecution>,
    rootfs: Option<WireRootfs>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct WireExecution {
    entrypoint: Option<Words>,
    cmd: Option<Words>,
    env: Option<Vec<String>>,
    user: Option<String>,
    working_dir: Option<String>,
    exposed_ports: Option<BTreeMap<String, IgnoredAny>>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
    stop_signal: Option<String>,
    healthcheck: Option<WireHealthcheck>,
    shell: Option<Words>,
    labels: Option<BTreeMap<String, Option<String>>>,
}

/// A list of words, or the one string that Docker's own `StrSlice` accepts in its place.
#[derive(Deserialize)]
#[serde(untagged)]
enum Words {
    List(Vec<String>),
    One(String),
}

#[derive(Deserialize)]
struct WireRootfs {
    r#type: String,
    diff_ids: Option<Vec<String>>,
}

/// Times are Go durations: nanoseconds, and 0 where nothing was said.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct WireHealthcheck {
    test: Option<Vec<String>>,
    interval: u64,
    timeout: u64,
    start_period: u64,
    start_interval: u64,
    retries: u32,
}

impl ImageConfig {
    /// Parses the config `raw`; `what` names it in messages.
    pub(crate) fn parse(raw: &Arc<[u8]>, what: &str) -> Result<Self, Error> {
        let wire: Wire = serde_json::from_slice(raw).map_err(|source| Error::Json {
            what: what.to_owned(),
            source,
        })?;
        let refused = |problem: String| Error::Document {
            what: what.to_owned(),
            problem,
        };
        let rootfs = wire
            .rootfs
            .ok_or_else(|| refused("it has no `rootfs`".to_owned()))?;
        if rootfs.r#type != "layers" {
            return Err(refused(format!(
                "its rootfs type is `{}`, not `layers`",
                rootfs.r#type
            )));
        }
        let diff_ids = rootfs.diff_ids.unwrap_or_default().into_iter().map(|id| {
            id.parse()
                .map(DiffId)
                .map_err(|error| refused(format!("in `rootfs.diff_ids`: {error}")))
        });
        let run = wire.config.unwrap_or_default();
        Ok(Self {
            raw: Arc::clone(raw),
            entrypoint: words(run.entrypoint),
            cmd: words(run.cmd),
            env: run.env.unwrap_or_default(),
            user: run.user.unwrap_or_default(),
            working_dir: run.working_dir.unwrap_or_default(),
            exposed_ports: run
                .exposed_ports
                .unwrap_or_default()
                .into_keys()
                .map(port)
                .collect(),
            volumes: run.volumes.unwrap_or_default().into_keys().collect(),
            stop_signal: run.stop_signal.filter(|signal| !signal.is_empty()),
            healthcheck: match run.healthcheck {
                Some(wire) => wire.parse().map_err(refused)?,
                None => None,
            },
            shell: words(run.shell),
            labels: run
                .labels
                .unwrap_or_default()
                .into_iter()
                .map(|(name, value)| (name, value.unwrap_or_default()))
                .collect(),
            diff_ids: diff_ids.collect::<Result<_, _>>()?,
            architecture: wire.architecture.unwrap_or_default(),
            os: wire.os.unwrap_or_default(),
            variant: wire.variant.filter(|variant| !variant.is_empty()),
            created: wire.created,
        })
    }

    /// The platform it was built for, by its own account.
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
        }
    }
}

fn words(words: Option<Words>) -> Vec<String> {
    match words {
        None => Vec::new(),
        Some(Words::List(list)) => list,
        Some(Words::One(word)) => vec![word],
    }
}

/// `EXPOSE 80` is kept by some builders as `80`, and means TCP.
fn port(text: String) -> String {
    if text.contains('/') {
        text
    } else {
        format!("{text}/tcp")
    }
}

impl WireHealthcheck {
    /// `None` where it has no test: in a Dockerfile that inherits the base image's, of which nothing is left.
    fn parse(self) -> Result<Option<Healthcheck>, String> {
        let mut test = self.test.unwrap_or_default().into_iter();
        let test = match test.next().as_deref() {
            None => return Ok(None),
            Some("NONE") => HealthcheckTest::None,
            Some("CMD") => HealthcheckTest::Exec(test.collect()),
            Some("CMD-SHELL") => HealthcheckTest::Shell(test.next().unwrap_or_default()),
            Some(other) => {
                return Err(format!(
                    "its Healthcheck is of kind `{other}`, not `NONE`, `CMD` or `CMD-SHELL`"
                ));
            }
        };
        if matches!(&test, HealthcheckTest::Exec(words) if words.is_empty())
            || matches!(&test, HealthcheckTest::Shell(line) if line.is_empty())
        {
            return Err("its Healthcheck has no command".to_owned());
        }
        let time = |nanoseconds| (nanoseconds > 0).then(|| Duration::from_nanos(nanoseconds));
        Ok(Some(Healthcheck {
            test,
            interval: time(self.interval),
            timeout: time(self.timeout),
            start_period: time(self.start_period),
            start_interval: time(self.start_interval),
            retries: (self.retries > 0).then_some(self.retries),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<ImageConfig, String> {
        ImageConfig::parse(&Arc::from(json.as_bytes()), "config").map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            format!("{error} {}", cause.unwrap_or_default())
        })
    }

    fn with(config: &str) -> String {
        format!(r#"{{"config":{config},"rootfs":{{"type":"layers","diff_ids":null}}}}"#)
    }

    #[test]
    fn absent_null_and_string_lists() {
        let config = parse(&with(
            r#"{"Env":null,"Entrypoint":"/bin/app","Cmd":["a","b"],"ExposedPorts":{"80":{},"53/udp":null},
               "Volumes":null,"Labels":{"b":null,"a":"1"},"Healthcheck":null}"#,
        ))
        .unwrap();
        assert_eq!(config.entrypoint, ["/bin/app"]);
        assert_eq!(config.cmd, ["a", "b"]);
        assert!(config.env.is_empty() && config.volumes.is_empty() && config.healthcheck.is_none());
        assert_eq!(config.exposed_ports, ["53/udp", "80/tcp"]);
        assert_eq!(
            config.labels,
            [("a".into(), "1".into()), ("b".into(), String::new())]
        );
        assert!(
            parse(r#"{"rootfs":{"type":"layers"}}"#)
                .unwrap()
                .diff_ids
                .is_empty()
        );
    }

    #[test]
    fn healthchecks() {
        let test = |json: &str| {
            let config = parse(&with(&format!(r#"{{"Healthcheck":{{"Test":{json}}}}}"#)))?;
            Ok::<_, String>(config.healthcheck.map(|check| check.test))
        };
        let exec = HealthcheckTest::Exec(vec!["curl".into(), "x".into()]);
        assert_eq!(test("[]"), Ok(None));
        assert_eq!(test("null"), Ok(None));
        assert_eq!(test(r#"["NONE"]"#), Ok(Some(HealthcheckTest::None)));
        assert_eq!(test(r#"["CMD","curl","x"]"#), Ok(Some(exec)));
        let shell = HealthcheckTest::Shell("exit 0".into());
        assert_eq!(test(r#"["CMD-SHELL","exit 0"]"#), Ok(Some(shell)));
        assert!(test(r#"["CMD"]"#).unwrap_err().contains("no command"));
        assert!(test(r#"["curl"]"#).unwrap_err().contains("of kind `curl`"));
        let json = r#"{"Healthcheck":{"Test":["CMD","x"],"Interval":30000000000,"Retries":0,
                       "StartPeriod":5,"Timeout":0}}"#;
        let check = parse(&with(json)).unwrap().healthcheck.unwrap();
        assert_eq!(check.interval, Some(Duration::from_secs(30)));
        assert_eq!(check.start_period, Some(Duration::from_nanos(5)));
        assert_eq!((check.timeout, check.retries), (None, None));
    }

    #[test]
    fn refusals() {
        let cases = [
            ("{}", "it has no `rootfs`"),
            (
                r#"{"rootfs":{"type":"tree","diff_ids":[]}}"#,
                "rootfs type is `tree`",
            ),
            (
                r#"{"rootfs":{"type":"layers","diff_ids":["sha256:xyz"]}}"#,
                "`sha256:xyz` is not a",
            ),
            (
                r#"{"rootfs":{"type":"layers"},"config":{"Env":[1]}}"#,
                "cannot be parsed",
            ),
            ("[", "cannot be parsed"),
        ];
        for (json, message) in cases {
            let error = parse(json).unwrap_err();
            assert!(error.contains(message), "{json}: {error}");
        }
    }
}
