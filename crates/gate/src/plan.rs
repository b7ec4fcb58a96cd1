//! What will be run: flags and the image's config, resolved. Nothing optional is left in a [`GatePlan`].

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::time::Duration;

use smokegate_image::{Healthcheck, HealthcheckTest, ImageConfig};

use crate::schedule::{Retries, Timing};
use crate::signal;

/// The host port that is mapped when none is named; a free one is taken when it is busy.
const DEFAULT_HOST_PORT: u16 = 18080;
/// The container port where the image exposes none.
const DEFAULT_CONTAINER_PORT: u16 = 8080;
/// Docker's defaults for HEALTHCHECK (Dockerfile reference).
const HEALTHCHECK_INTERVAL: Duration = Duration::from_secs(30);
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(30);
const HEALTHCHECK_RETRIES: u32 = 3;
/// Docker's default for `docker stop`.
const STOP_GRACE_PERIOD: Duration = Duration::from_secs(10);

/// What the user asked for; `None` and empty mean "as the image says".
#[derive(Clone, Debug)]
pub struct GateRequest {
    /// `--publish`, in order.
    pub publish: Vec<PortMap>,
    /// `--http PATH`.
    pub http: Option<String>,
    /// `--interval`.
    pub interval: Duration,
    /// `--within`.
    pub within: Duration,
    /// Time one HTTP attempt may take.
    pub timeout: Duration,
    /// `--env` and `--env-file`, merged, each `NAME=VALUE`.
    pub env: Vec<String>,
    /// `--user`.
    pub user: Option<String>,
    /// `--entrypoint`: replaces ENTRYPOINT and drops CMD, as in `docker run`.
    pub entrypoint: Option<String>,
    /// What follows `--`: replaces CMD.
    pub args: Vec<String>,
}

/// A host port mapped to a container port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMap {
    /// The host address it binds.
    pub ip: IpAddr,
    /// The host port.
    pub host: HostPort,
    /// The container port.
    pub container: u16,
}

/// Which host port a mapping takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPort {
    /// This one, or the run is inconclusive.
    Exactly(u16),
    /// This one, or a free one when it is busy.
    Rather(u16),
    /// Any free one.
    Any,
}

/// `--publish` that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not [IP:]HOST:CONTAINER, for example 18080:8080: {problem}")]
pub struct PortMapError {
    text: String,
    problem: String,
}

impl PortMapError {
    /// Which part of it, without the text.
    pub(crate) fn problem(&self) -> &str {
        &self.problem
    }
}

impl FromStr for PortMap {
    type Err = PortMapError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |problem: &str| PortMapError {
            text: text.into(),
            problem: problem.into(),
        };
        let ports = match text.rsplit_once('/') {
            Some((ports, "tcp")) => ports,
            Some((_, other)) => return Err(refuse(&format!("protocol `{other}` is not tcp"))),
            None => text,
        };
        let number = |part: &str| {
            part.parse::<u16>()
                .map_err(|_| refuse(&format!("`{part}` is not a port")))
        };
        let (front, container) = match ports.rsplit_once(':') {
            Some((front, container)) => (Some(front), container),
            None => (None, ports),
        };
        let container = number(container)?;
        if container == 0 {
            return Err(refuse("the container's port cannot be 0"));
        }
        let (ip, host) = match front {
            None => ("", "0"),
            Some(front) => front.rsplit_once(':').unwrap_or(("", front)),
        };
        let ip = match ip.trim_start_matches('[').trim_end_matches(']') {
            "" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip
                .parse()
                .map_err(|_| refuse(&format!("`{ip}` is not an IP address")))?,
        };
        let host = match number(host)? {
            0 => HostPort::Any,
            port => HostPort::Exactly(port),
        };
        Ok(Self {
            ip,
            host,
            container,
        })
    }
}

/// Everything a run does, resolved.
#[derive(Clone, Debug)]
pub struct GatePlan {
    /// The variants; each must pass.
    pub variants: Vec<VariantPlan>,
}

/// One way of running the image.
#[derive(Clone, Debug)]
pub struct VariantPlan {
    /// Its name.
    pub name: String,
    /// The app's container.
    pub app: ContainerPlan,
    /// Ports of the app on the host.
    pub ports: Vec<PortMap>,
    /// What is asked of the app.
    pub probe: Probe,
    /// When it is asked.
    pub timing: Timing,
}

/// A container as it will be started.
#[derive(Clone, Debug)]
pub struct ContainerPlan {
    /// The argument vector, never empty.
    pub args: Vec<String>,
    /// Variables, each name once.
    pub env: Vec<String>,
    /// `USER`.
    pub user: String,
    /// `WORKDIR`, absolute.
    pub working_dir: String,
    /// `VOLUME`s.
    pub volumes: Vec<String>,
    /// Host name.
    pub hostname: String,
    /// What asks it to end: STOPSIGNAL, else SIGTERM.
    pub stop_signal: i32,
    /// How long it may take to end before it is killed; Docker's default.
    pub stop_grace_period: Duration,
}

/// One question asked of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// GET this path on this port; 200 passes.
    Http {
        /// Container port.
        port: u16,
        /// Path with query, from `/`.
        path: String,
    },
    /// Run this in the container; exit code 0 passes.
    Exec {
        /// The argument vector.
        args: Vec<String>,
    },
}

impl std::fmt::Display for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http { port, path } => write!(f, "GET {path} on port {port}"),
            Self::Exec { args } => write!(f, "HEALTHCHECK `{}`", args.join(" ")),
        }
    }
}

/// A request that the image cannot be run with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Several EXPOSEd ports, none named: the user must say (exit 2).
    #[error("the image exposes several ports ({}); name the one to map and probe", ports.join(", "))]
    SeveralPorts {
        /// The ports.
        ports: Vec<String>,
    },
    /// Nothing to run: the image's fault (exit 1).
    #[error("the image has neither ENTRYPOINT nor CMD")]
    NothingToRun,
    /// STOPSIGNAL names no signal; Docker refuses to create such a container: the image's fault (exit 1).
    #[error("the image's STOPSIGNAL `{0}` is not a signal")]
    StopSignal(String),
    /// A flag that cannot be used (exit 2).
    #[error("{0}")]
    Flag(String),
}

/// Resolves a request against an image's config. Does no I/O.
///
/// # Errors
/// [`PlanError`]; its variants say whose fault it is.
pub fn plan(request: &GateRequest, config: &ImageConfig) -> Result<GatePlan, PlanError> {
    let ports = ports(request, config)?;
    let port = ports[0].container;
    let (probe, timing) = probe(request, config, port)?;
    let app = container(request, config)?;
    Ok(GatePlan {
        variants: vec![VariantPlan {
            name: "default".into(),
            app,
            ports,
            probe,
            timing,
        }],
    })
}

fn ports(request: &GateRequest, config: &ImageConfig) -> Result<Vec<PortMap>, PlanError> {
    if !request.publish.is_empty() {
        let mut seen = Vec::new();
        for map in &request.publish {
            if let HostPort::Exactly(port) = map.host {
                if seen.contains(&(map.ip, port)) {
                    return Err(PlanError::Flag(format!(
                        "host port {port} is published twice"
                    )));
                }
                seen.push((map.ip, port));
            }
        }
        return Ok(request.publish.clone());
    }
    let tcp = |port: &String| match port.split_once('/') {
        None => port.parse::<u16>().ok(),
        Some((number, "tcp")) => number.parse().ok(),
        Some(_) => None,
    };
    let exposed: Vec<u16> = config.exposed_ports.iter().filter_map(tcp).collect();
    let container = match exposed[..] {
        [] => DEFAULT_CONTAINER_PORT,
        [only] => only,
        _ => {
            let ports = exposed.iter().map(u16::to_string).collect();
            return Err(PlanError::SeveralPorts { ports });
        }
    };
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Ok(vec![PortMap {
        ip,
        host: HostPort::Rather(DEFAULT_HOST_PORT),
        container,
    }])
}

fn probe(
    request: &GateRequest,
    config: &ImageConfig,
    port: u16,
) -> Result<(Probe, Timing), PlanError> {
    let http_timing = Timing {
        interval: request.interval,
        first_delay: Duration::from_millis(10),
        timeout: request.timeout,
        within: request.within,
        retries: None,
    };
    match (&request.http, &config.healthcheck) {
        (Some(path), _) => {
            if !path.starts_with('/')
                || path.contains(|c: char| c.is_whitespace() || c.is_control())
            {
                let text = format!("`--http {path}` is not a path: it must start with `/`");
                return Err(PlanError::Flag(text));
            }
            Ok((
                Probe::Http {
                    port,
                    path: path.clone(),
                },
                http_timing,
            ))
        }
        (None, Some(healthcheck)) if healthcheck.test != HealthcheckTest::None => {
            let args = match &healthcheck.test {
                HealthcheckTest::Exec(args) => args.clone(),
                HealthcheckTest::Shell(line) => shell_form(config, line),
                HealthcheckTest::None => Vec::new(),
            };
            Ok((
                Probe::Exec { args },
                healthcheck_timing(healthcheck, request.within),
            ))
        }
        _ => Ok((
            Probe::Http {
                port,
                path: "/healthz".into(),
            },
            http_timing,
        )),
    }
}

fn shell_form(config: &ImageConfig, line: &str) -> Vec<String> {
    let mut args = config.shell.clone();
    if args.is_empty() {
        args = vec!["/bin/sh".into(), "-c".into()];
    }
    args.push(line.to_owned());
    args
}

/// Docker's times, where the image names none. A zero means the default, as in Docker.
fn healthcheck_timing(healthcheck: &Healthcheck, within: Duration) -> Timing {
    let or = |time: Option<Duration>, default| time.filter(|t| !t.is_zero()).unwrap_or(default);
    Timing {
        interval: or(healthcheck.interval, HEALTHCHECK_INTERVAL),
        first_delay: Duration::from_millis(100),
        timeout: or(healthcheck.timeout, HEALTHCHECK_TIMEOUT),
        within,
        retries: Some(Retries {
            count: healthcheck
                .retries
                .filter(|n| *n > 0)
                .unwrap_or(HEALTHCHECK_RETRIES),
            start_period: healthcheck.start_period.unwrap_or_default(),
        }),
    }
}

fn container(request: &GateRequest, config: &ImageConfig) -> Result<ContainerPlan, PlanError> {
    let mut args = match &request.entrypoint {
        Some(entrypoint) if entrypoint.is_empty() => Vec::new(),
        Some(entrypoint) => vec![entrypoint.clone()],
        None => config.entrypoint.clone(),
    };
    if !request.args.is_empty() {
        args.extend(request.args.iter().cloned());
    } else if request.entrypoint.is_none() {
        args.extend(config.cmd.iter().cloned());
    }
    if args.first().is_none_or(String::is_empty) {
        return Err(PlanError::NothingToRun);
    }
    let stop_signal = match config.stop_signal.as_deref() {
        None | Some("") => signal::SIGTERM,
        Some(text) => signal::parse(text).ok_or_else(|| PlanError::StopSignal(text.to_owned()))?,
    };
    let working_dir = match config.working_dir.as_str() {
        "" => "/".to_owned(),
        dir if dir.starts_with('/') => dir.to_owned(),
        dir => format!("/{dir}"),
    };
    Ok(ContainerPlan {
        args,
        env: merge_env(&config.env, &request.env),
        user: request.user.clone().unwrap_or_else(|| config.user.clone()),
        working_dir,
        volumes: config.volumes.clone(),
        hostname: "app".into(),
        stop_signal,
        stop_grace_period: STOP_GRACE_PERIOD,
    })
}

/// The image's variables with the user's over them; the last of a name wins, at the place of the first.
fn merge_env(image: &[String], user: &[String]) -> Vec<String> {
    let name = |entry: &String| entry.split('=').next().unwrap_or_default().to_owned();
    let mut merged: Vec<String> = Vec::new();
    for entry in image.iter().chain(user) {
        match merged.iter_mut().find(|other| name(other) == name(entry)) {
            Some(other) => other.clone_from(entry),
            None => merged.push(entry.clone()),
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> GateRequest {
        GateRequest {
            publish: Vec::new(),
            http: None,
            interval: Duration::from_secs(2),
            within: Duration::from_secs(120),
            timeout: Duration::from_secs(2),
            env: Vec::new(),
            user: None,
            entrypoint: None,
            args: Vec::new(),
        }
    }

    fn strings(list: &[&str]) -> Vec<String> {
        list.iter().map(|s| (*s).to_owned()).collect()
    }

    fn config(exposed: &[&str]) -> ImageConfig {
        ImageConfig {
            entrypoint: strings(&["/app"]),
            cmd: strings(&["serve"]),
            exposed_ports: strings(exposed),
            ..ImageConfig::default()
        }
    }

    #[test]
    fn publish_reads_dockers_forms() {
        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let map = |host, container| PortMap {
            ip: localhost,
            host,
            container,
        };
        assert_eq!("18080:80".parse(), Ok(map(HostPort::Exactly(18080), 80)));
        assert_eq!("0:80/tcp".parse(), Ok(map(HostPort::Any, 80)));
        assert_eq!("80".parse(), Ok(map(HostPort::Any, 80)));
        assert_eq!("127.0.0.1:1:2".parse(), Ok(map(HostPort::Exactly(1), 2)));
        assert_eq!(
            "[::1]:1:2".parse::<PortMap>().unwrap().ip.to_string(),
            "::1"
        );
        for bad in ["", "x:80", "80:0", "1:2/udp", "host:1:2", "70000:1"] {
            assert!(bad.parse::<PortMap>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_container_port_is_published_else_exposed_else_8080() {
        let port = |request: &GateRequest, exposed: &[&str]| {
            plan(request, &config(exposed)).map(|plan| plan.variants[0].ports[0])
        };
        assert_eq!(port(&request(), &[]).unwrap().container, 8080);
        assert_eq!(
            port(&request(), &["5000/tcp", "53/udp"]).unwrap().container,
            5000
        );
        assert_eq!(port(&request(), &[]).unwrap().host, HostPort::Rather(18080));
        let error = port(&request(), &["80/tcp", "443/tcp"]).unwrap_err();
        assert!(error.to_string().contains("80, 443"), "{error}");
        let named = GateRequest {
            publish: vec!["9:443".parse().unwrap()],
            ..request()
        };
        assert_eq!(port(&named, &["80/tcp", "443/tcp"]).unwrap().container, 443);
    }

    #[test]
    fn http_flag_beats_healthcheck_beats_healthz() {
        let mut with_check = config(&[]);
        with_check.healthcheck = Some(Healthcheck {
            test: HealthcheckTest::Shell("curl -f localhost".into()),
            interval: None,
            timeout: None,
            start_period: None,
            start_interval: None,
            retries: None,
        });
        let asked = |request: &GateRequest, config: &ImageConfig| {
            plan(request, config).unwrap().variants[0].probe.to_string()
        };
        assert_eq!(asked(&request(), &config(&[])), "GET /healthz on port 8080");
        assert_eq!(
            asked(&request(), &with_check),
            "HEALTHCHECK `/bin/sh -c curl -f localhost`"
        );
        let http = GateRequest {
            http: Some("/ready".into()),
            ..request()
        };
        assert_eq!(asked(&http, &with_check), "GET /ready on port 8080");
        let bad = GateRequest {
            http: Some("ready".into()),
            ..request()
        };
        assert!(plan(&bad, &with_check).is_err());
        with_check.healthcheck.as_mut().unwrap().test = HealthcheckTest::None;
        assert_eq!(asked(&request(), &with_check), "GET /healthz on port 8080");
    }

    #[test]
    fn entrypoint_and_args_combine_as_in_docker_run() {
        let args = |request: GateRequest| {
            plan(&request, &config(&[])).map(|plan| plan.variants[0].app.args.join(" "))
        };
        assert_eq!(args(request()).unwrap(), "/app serve");
        let with_args = GateRequest {
            args: strings(&["check"]),
            ..request()
        };
        assert_eq!(args(with_args).unwrap(), "/app check");
        let replaced = GateRequest {
            entrypoint: Some("/other".into()),
            ..request()
        };
        assert_eq!(args(replaced.clone()).unwrap(), "/other");
        let both = GateRequest {
            args: strings(&["x"]),
            ..replaced
        };
        assert_eq!(args(both).unwrap(), "/other x");
        let none = plan(&request(), &ImageConfig::default()).unwrap_err();
        assert_eq!(none, PlanError::NothingToRun);
    }

    #[test]
    fn stop_signal_is_the_images_else_sigterm() {
        let stop = |text: Option<&str>| {
            let config = ImageConfig {
                stop_signal: text.map(Into::into),
                ..config(&[])
            };
            plan(&request(), &config).map(|plan| plan.variants[0].app.stop_signal)
        };
        assert_eq!(stop(None), Ok(15));
        assert_eq!(stop(Some("SIGQUIT")), Ok(3));
        assert_eq!(
            stop(Some("SIGNOPE")),
            Err(PlanError::StopSignal("SIGNOPE".into()))
        );
    }

    #[test]
    fn env_of_the_user_replaces_the_images_by_name() {
        let merged = merge_env(&strings(&["A=1", "B=2", "A=3"]), &strings(&["B=x", "C=y"]));
        assert_eq!(merged, ["A=3", "B=x", "C=y"]);
    }
}
