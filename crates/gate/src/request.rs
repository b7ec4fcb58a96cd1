//! Flags and the image's config, resolved into a plan of one variant: a run without a gate file.

use std::time::Duration;

use smokegate_image::ImageConfig;

use crate::draft::{
    DEFAULT_INTERVAL, DEFAULT_WITHIN, Draft, default_port, exposed_port, healthcheck_probe,
    merge_env, request_timing,
};
use crate::gate_file::{Egress, Network};
use crate::plan::{ExpectPlan, GatePlan, Probe, ProbePlan, VariantPlan};
use crate::port::{HostPort, PortMap};
use crate::schedule::Timing;

/// What the user asked for; `None` and empty mean "as the image says".
#[derive(Clone, Debug, Default)]
pub struct GateRequest {
    /// `--publish`, in order.
    pub publish: Vec<PortMap>,
    /// `--http PATH`.
    pub http: Option<String>,
    /// `--interval`.
    pub interval: Option<Duration>,
    /// `--within`.
    pub within: Option<Duration>,
    /// `--env` and `--env-file`, merged, each `NAME=VALUE`.
    pub env: Vec<String>,
    /// `--user`.
    pub user: Option<String>,
    /// `--entrypoint`: replaces ENTRYPOINT and drops CMD, as in `docker run`.
    pub entrypoint: Option<String>,
    /// What follows `--`: replaces CMD.
    pub args: Vec<String>,
}

/// A request that the image cannot be run with.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Several EXPOSEd ports, none named: the user must say (exit 2).
    #[error(
        "the image exposes several ports ({}); name the one to map and probe",
        list(ports)
    )]
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
    /// EXPOSE is not `PORT[-PORT][/PROTOCOL]`: the image's fault (exit 1).
    #[error("the image's EXPOSE `{0}` is not a port")]
    Exposed(String),
    /// A VOLUME at `/`, which would hide the image's files; Docker refuses it: the image's fault (exit 1).
    #[error("the image's VOLUME `{0}` covers the whole root")]
    Volume(String),
    /// Nobody says which platform is run, and the host's is not there: the image's fault (exit 5).
    #[error("no image for {wanted}; there are {}", list(available))]
    NoPlatform {
        /// The host's.
        wanted: String,
        /// What there is.
        available: Vec<String>,
    },
    /// A flag that cannot be used (exit 2).
    #[error("{0}")]
    Flag(String),
}

/// Ports for a message; an EXPOSEd range can have thousands.
fn list(ports: &[String]) -> String {
    const SHOWN: usize = 10;
    match ports.get(SHOWN..) {
        Some([_, ..]) => format!(
            "{} and {} more",
            ports[..SHOWN].join(", "),
            ports.len() - SHOWN
        ),
        _ => ports.join(", "),
    }
}

/// Resolves a request against the config of the image's platform of that place. Does no I/O.
///
/// # Errors
/// [`PlanError`]; its variants say whose fault it is.
pub fn plan(
    request: &GateRequest,
    config: &ImageConfig,
    platform: usize,
) -> Result<GatePlan, PlanError> {
    let ports = match published(request)? {
        Some(ports) => ports,
        None => vec![default_port(exposed_port(config)?)],
    };
    let mut app = Draft::of_image(config)?;
    request.lay_over(&mut app);
    let mut app = app.finish()?;
    app.probes
        .push(default_probe(request, config, ports[0].container)?);
    let variant = VariantPlan {
        name: "default".into(),
        platform,
        services: Vec::new(),
        app,
        ports,
        expect: ExpectPlan::default(),
        network: Network::default(),
        egress: Egress::default(),
    };
    Ok(GatePlan {
        variants: vec![variant],
        parallel: 1,
        fail_fast: false,
    })
}

impl GateRequest {
    /// Lays the flags over a container: they win.
    pub(crate) fn lay_over(&self, draft: &mut Draft) {
        if let Some(entrypoint) = &self.entrypoint {
            let entrypoint = Some(entrypoint.clone()).filter(|program| !program.is_empty());
            draft.set_entrypoint(entrypoint.into_iter().collect());
        }
        if !self.args.is_empty() {
            draft.command.clone_from(&self.args);
        }
        draft.plan.env = merge_env(&draft.plan.env, &self.env);
        if let Some(user) = &self.user {
            draft.plan.user.clone_from(user);
        }
    }
}

/// The ports that `--publish` names, if it names any.
pub(crate) fn published(request: &GateRequest) -> Result<Option<Vec<PortMap>>, PlanError> {
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
    Ok(Some(request.publish.clone()).filter(|ports| !ports.is_empty()))
}

/// What is asked where no gate file says: `--http`, else the image's HEALTHCHECK, else /healthz.
pub(crate) fn default_probe(
    request: &GateRequest,
    config: &ImageConfig,
    port: u16,
) -> Result<ProbePlan, PlanError> {
    let within = request.within.unwrap_or(DEFAULT_WITHIN);
    if request.http.is_none()
        && let Some(mut probe) = healthcheck_probe(config, within)
    {
        probe.timing.interval = request.interval.unwrap_or(probe.timing.interval);
        return Ok(probe);
    }
    let path = request.http.as_deref().unwrap_or("/healthz");
    if !path.starts_with('/') || path.contains(|c: char| c.is_whitespace() || c.is_control()) {
        let text = format!("`--http {path}` is not a path: it must start with `/`");
        return Err(PlanError::Flag(text));
    }
    let timing = Timing {
        interval: request.interval.unwrap_or(DEFAULT_INTERVAL),
        ..request_timing(within)
    };
    Ok(ProbePlan {
        name: None,
        probe: Probe::get(port, path),
        timing,
    })
}

#[cfg(test)]
mod tests {
    use smokegate_image::Healthcheck;
    use smokegate_image::HealthcheckTest;

    use super::*;

    fn plan(request: &GateRequest, config: &ImageConfig) -> Result<GatePlan, PlanError> {
        super::plan(request, config, 0)
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
    fn the_container_port_is_published_else_exposed_else_8080() {
        let port = |request: &GateRequest, exposed: &[&str]| {
            plan(request, &config(exposed)).map(|plan| plan.variants[0].ports[0])
        };
        assert_eq!(port(&GateRequest::default(), &[]).unwrap().container, 8080);
        assert_eq!(
            port(&GateRequest::default(), &["5000/tcp", "53/udp"])
                .unwrap()
                .container,
            5000
        );
        assert_eq!(
            port(&GateRequest::default(), &[]).unwrap().host,
            HostPort::Rather(18080)
        );
        let error = port(&GateRequest::default(), &["80/tcp", "443/tcp"]).unwrap_err();
        assert!(error.to_string().contains("(80, 443)"), "{error}");
        let error = port(&GateRequest::default(), &["1-65535"])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("(1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 65525 more)"),
            "{error}"
        );
        let named = GateRequest {
            publish: vec!["9:443".parse().unwrap()],
            ..GateRequest::default()
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
            plan(request, config).unwrap().variants[0].app.probes[0]
                .probe
                .to_string()
        };
        assert_eq!(
            asked(&GateRequest::default(), &config(&[])),
            "GET /healthz on port 8080"
        );
        assert_eq!(
            asked(&GateRequest::default(), &with_check),
            "HEALTHCHECK `/bin/sh -c curl -f localhost`"
        );
        let http = GateRequest {
            http: Some("/ready".into()),
            ..GateRequest::default()
        };
        assert_eq!(asked(&http, &with_check), "GET /ready on port 8080");
        let bad = GateRequest {
            http: Some("ready".into()),
            ..GateRequest::default()
        };
        assert!(plan(&bad, &with_check).is_err());
        with_check.healthcheck.as_mut().unwrap().test = HealthcheckTest::None;
        assert_eq!(
            asked(&GateRequest::default(), &with_check),
            "GET /healthz on port 8080"
        );
    }

    #[test]
    fn entrypoint_and_args_combine_as_in_docker_run() {
        let args = |request: GateRequest| {
            plan(&request, &config(&[])).map(|plan| plan.variants[0].app.args.join(" "))
        };
        assert_eq!(args(GateRequest::default()).unwrap(), "/app serve");
        let with_args = GateRequest {
            args: strings(&["check"]),
            ..GateRequest::default()
        };
        assert_eq!(args(with_args).unwrap(), "/app check");
        let replaced = GateRequest {
            entrypoint: Some("/other".into()),
            ..GateRequest::default()
        };
        assert_eq!(args(replaced.clone()).unwrap(), "/other");
        let both = GateRequest {
            args: strings(&["x"]),
            ..replaced
        };
        assert_eq!(args(both).unwrap(), "/other x");
        let none = plan(&GateRequest::default(), &ImageConfig::default()).unwrap_err();
        assert_eq!(none, PlanError::NothingToRun);
    }

    #[test]
    fn stop_signal_is_the_images_else_sigterm() {
        let stop = |text: Option<&str>| {
            let config = ImageConfig {
                stop_signal: text.map(Into::into),
                ..config(&[])
            };
            plan(&GateRequest::default(), &config).map(|plan| plan.variants[0].app.stop_signal)
        };
        assert_eq!(stop(None), Ok(15));
        assert_eq!(stop(Some("SIGQUIT")), Ok(3));
        assert_eq!(
            stop(Some("SIGNOPE")),
            Err(PlanError::StopSignal("SIGNOPE".into()))
        );
    }
}
