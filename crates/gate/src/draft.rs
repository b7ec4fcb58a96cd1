//! A container plan in the making: the image's defaults, with what the gate file and the flags say laid over them.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use smokegate_image::{Healthcheck, ImageConfig};
use smokegate_sandbox::{HostConfig, ResourceLimits};

use crate::plan::{APP, ContainerPlan, Probe, ProbePlan, VolumeContent, VolumePlan};
use crate::port::{HostPort, PortMap};
use crate::request::PlanError;
use crate::schedule::{Retries, Timing};
use crate::signal;

/// Time between attempts, where nothing says otherwise.
pub(crate) const DEFAULT_INTERVAL: Duration = Duration::from_secs(2);
/// Time of one attempt, where nothing says otherwise.
pub(crate) const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
/// Wall clock for the whole wait for the app, where nothing says otherwise.
pub(crate) const DEFAULT_WITHIN: Duration = Duration::from_secs(120);
/// The least time between two attempts of which the app knows.
pub(crate) const FIRST_DELAY: Duration = Duration::from_millis(10);
/// How requests back off: eighths of the time that has passed.
pub(crate) const REQUEST_GROWTH: u32 = 1;
/// Each is a process, beside an app that is starting: it doubles.
pub(crate) const EXEC_GROWTH: u32 = 8;
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

/// A container whose command line is not put together yet.
#[derive(Clone, Debug)]
pub(crate) struct Draft {
    pub(crate) plan: ContainerPlan,
    pub(crate) entrypoint: Vec<String>,
    pub(crate) command: Vec<String>,
}

impl Draft {
    /// What the image says.
    pub(crate) fn of_image(config: &ImageConfig) -> Result<Self, PlanError> {
        let stop_signal = match config.stop_signal.as_deref() {
            None | Some("") => signal::SIGTERM,
            Some(text) => {
                signal::parse(text).ok_or_else(|| PlanError::StopSignal(text.to_owned()))?
            }
        };
        let plan = ContainerPlan {
            name: APP.to_owned(),
            image: 0,
            probes: Vec::new(),
            args: Vec::new(),
            env: merge_env(&config.env, &[]),
            user: config.user.clone(),
            working_dir: clean(&config.working_dir),
            volumes: volumes(config)?.into_iter().map(of_image).collect(),
            secrets: Vec::new(),
            limits: ResourceLimits::default(),
            hostname: APP.to_owned(),
            stop_signal,
            stop_grace_period: STOP_GRACE_PERIOD,
            host_config: HostConfig::default(),
        };
        Ok(Self {
            plan,
            entrypoint: config.entrypoint.clone(),
            command: config.cmd.clone(),
        })
    }

    /// Another entrypoint, which drops the command that went with the old one (docker run, Compose).
    pub(crate) fn set_entrypoint(&mut self, entrypoint: Vec<String>) {
        self.entrypoint = entrypoint;
        self.command = Vec::new();
    }

    /// The whole plan.
    pub(crate) fn finish(self) -> Result<ContainerPlan, PlanError> {
        let Self {
            mut plan,
            entrypoint,
            command,
        } = self;
        // What is mounted at the place of an image's volume stands in for it.
        let asked: Vec<String> = plan
            .volumes
            .iter()
            .filter(|volume| volume.content != VolumeContent::Image)
            .map(|volume| volume.target.clone())
            .collect();
        plan.volumes.retain(|volume| {
            volume.content != VolumeContent::Image || !asked.contains(&volume.target)
        });
        plan.args = entrypoint;
        plan.args.extend(command);
        match plan.args.first() {
            Some(program) if !program.is_empty() => Ok(plan),
            _ => Err(PlanError::NothingToRun),
        }
    }
}

/// The image's own health check as a probe, where it has one and it is not switched off.
pub(crate) fn healthcheck_probe(config: &ImageConfig, within: Duration) -> Option<ProbePlan> {
    let args = config.healthcheck_args()?;
    let timing = healthcheck_timing(config.healthcheck.as_ref()?, within);
    Some(ProbePlan {
        name: None,
        probe: Probe::Healthcheck { args },
        timing,
    })
}

/// Docker's times, where the image names none. A zero means the default, as in Docker.
/// The timing of a request, where nothing says otherwise.
pub(crate) fn request_timing(within: Duration) -> Timing {
    Timing {
        interval: DEFAULT_INTERVAL,
        first_delay: FIRST_DELAY,
        growth: REQUEST_GROWTH,
        timeout: DEFAULT_TIMEOUT,
        within,
        retries: None,
        successes: 1,
    }
}

fn healthcheck_timing(healthcheck: &Healthcheck, within: Duration) -> Timing {
    let or = |time: Option<Duration>, default| time.filter(|t| !t.is_zero()).unwrap_or(default);
    Timing {
        interval: or(healthcheck.interval, HEALTHCHECK_INTERVAL),
        first_delay: Duration::from_millis(100), // an exec costs more than a request
        growth: EXEC_GROWTH,
        timeout: or(healthcheck.timeout, HEALTHCHECK_TIMEOUT),
        within,
        retries: Some(Retries {
            count: healthcheck
                .retries
                .filter(|n| *n > 0)
                .unwrap_or(HEALTHCHECK_RETRIES),
            start_period: healthcheck.start_period.unwrap_or_default(),
        }),
        successes: 1,
    }
}

/// A path as Docker keeps it: absolute, without `.`, `..` and doubled slashes; links are not looked at.
pub(crate) fn clean(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
}

fn of_image(target: String) -> VolumePlan {
    VolumePlan {
        content: VolumeContent::Image,
        target,
        read_only: false,
    }
}

/// The image's volumes, each once.
fn volumes(config: &ImageConfig) -> Result<Vec<String>, PlanError> {
    let mut volumes = Vec::new();
    for text in &config.volumes {
        let volume = clean(text);
        if volume == "/" {
            return Err(PlanError::Volume(text.clone()));
        }
        if !volumes.contains(&volume) {
            volumes.push(volume);
        }
    }
    Ok(volumes)
}

/// The one tcp port that an image exposes, else 8080.
pub(crate) fn exposed_port(config: &ImageConfig) -> Result<u16, PlanError> {
    let mut exposed = BTreeSet::new();
    for text in &config.exposed_ports {
        exposed.extend(tcp_ports(text).ok_or_else(|| PlanError::Exposed(text.clone()))?);
    }
    // 0 is no port; Docker lets it be written.
    exposed.remove(&0);
    match exposed.first() {
        None => Ok(DEFAULT_CONTAINER_PORT),
        Some(only) if exposed.len() == 1 => Ok(*only),
        Some(_) => Err(PlanError::SeveralPorts {
            ports: exposed.iter().map(u16::to_string).collect(),
        }),
    }
}

/// The tcp ports of one EXPOSE: `80`, `80/TCP`, `8000-8005/tcp`. Other protocols have none.
fn tcp_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if !protocol.is_empty() && !protocol.eq_ignore_ascii_case("tcp") {
        #[expect(clippy::reversed_empty_ranges, reason = "no port at all")]
        return Some(1..=0);
    }
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u16>().ok()).flatten()
    };
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some(first..=last)
}

/// The mapping of a run that names none.
pub(crate) fn default_port(container: u16) -> PortMap {
    let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
    PortMap {
        ip,
        host: HostPort::Rather(DEFAULT_HOST_PORT),
        container,
    }
}

/// The image's variables with the user's over them; the last of a name wins, at the place of the first.
pub(crate) fn merge_env(image: &[String], user: &[String]) -> Vec<String> {
    let mut merged: Vec<String> = Vec::new();
    let mut places: HashMap<&str, usize> = HashMap::new();
    for entry in image.iter().chain(user) {
        let name = entry.split('=').next().unwrap_or_default();
        match places.entry(name) {
            Entry::Occupied(place) => merged[*place.get()].clone_from(entry),
            Entry::Vacant(place) => {
                place.insert(merged.len());
                merged.push(entry.clone());
            }
        }
    }
    merged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn env_of_the_user_replaces_the_images_by_name() {
        let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let merged = merge_env(&strings(&["A=1", "B=2", "A=3"]), &strings(&["B=x", "C=y"]));
        assert_eq!(merged, ["A=3", "B=x", "C=y"]);
    }

    #[test]
    fn ten_thousand_variables_keep_their_order() {
        let entries = |value: &str| {
            (0..10_000)
                .map(|n| format!("N{n}={value}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(
            merge_env(&entries("image"), &entries("user")),
            entries("user")
        );
    }

    #[test]
    fn directories_are_absolute_and_clean() {
        for (text, cleaned) in [
            ("", "/"),
            ("/", "/"),
            ("/srv/", "/srv"),
            ("srv", "/srv"),
            ("//srv/./app//", "/srv/app"),
            ("/a/../b", "/b"),
            ("../../b", "/b"),
            ("/...", "/..."),
        ] {
            assert_eq!(clean(text), cleaned, "`{text}`");
            let config = ImageConfig {
                working_dir: text.into(),
                ..ImageConfig::default()
            };
            assert_eq!(Draft::of_image(&config).unwrap().plan.working_dir, cleaned);
        }
    }

    #[test]
    fn volumes_are_once_each_and_never_the_root() {
        let volumes = |list: &[&str]| {
            volumes(&ImageConfig {
                volumes: list.iter().map(|s| (*s).to_owned()).collect(),
                ..ImageConfig::default()
            })
        };
        let twice = volumes(&["/data", "/data/", "data", "/x/../log"]);
        assert_eq!(twice, Ok(vec!["/data".into(), "/log".into()]));
        for root in ["/", "", ".", "/data/.."] {
            assert_eq!(volumes(&[root]), Err(PlanError::Volume(root.into())));
        }
    }

    #[test]
    fn exposed_ports_are_read_as_docker_reads_them() {
        let port = |list: &[&str]| {
            exposed_port(&ImageConfig {
                exposed_ports: list.iter().map(|s| (*s).to_owned()).collect(),
                ..ImageConfig::default()
            })
        };
        for (list, only) in [
            (&["53/udp", "x/udp"][..], 8080),
            (&["0/tcp"], 8080),
            (&["0-1"], 1),
            (&["8081", "8081/tcp", "8081/TCP", "8081/"], 8081),
            (&["5000-5000/tcp", "1-65535/udp"], 5000),
        ] {
            assert_eq!(port(list), Ok(only), "{list:?}");
        }
        let ports = ["8000", "8001", "8002"].map(String::from).to_vec();
        assert_eq!(
            port(&["8000-8002/tcp"]),
            Err(PlanError::SeveralPorts { ports })
        );
        for bad in [
            "",
            "/tcp",
            "http",
            "+80",
            "80-",
            "90-80",
            "65536",
            "80-65536/tcp",
        ] {
            assert_eq!(port(&[bad]), Err(PlanError::Exposed(bad.into())));
        }
    }
}
