//! The gate file, the flags and the configs of all images, resolved into a plan. Does no I/O.
//!
//! Whatever the file says ends up in the plan or is an error with its place: a run that left it out silently would
//! be a false pass.

mod host_config;
mod platforms;
mod storage;

use std::collections::HashSet;
use std::time::Duration;

use smokegate_image::ImageConfig;
use smokegate_sandbox::{HostPath, HostPathError, SecretValue};

use crate::draft::{
    DEFAULT_WITHIN, Draft, EXEC_GROWTH, clean, default_port, exposed_port, healthcheck_probe,
    merge_env, request_timing,
};
use crate::gate_file::{
    BodyCheck as BodyKeys, Container, Diagnostic, GateFile, GateFileError, HttpQuestion, ProbeSpec,
    Question, Secret, Service, ServiceImage, Source, Span, Spanned, Variant,
};
use crate::http_probe::{BodyCheck, HttpProbe, Scheme};
use crate::plan::{
    Completion, ContainerPlan, ExpectPlan, GatePlan, Probe, ProbePlan, ServicePlan, VariantPlan,
};
use crate::port::{HostPort, PortMap};
use crate::request::{GateRequest, PlanError, default_probe, published};
use crate::schedule::{Retries, Timing};

/// Time in which a service must be ready where its probes say nothing.
const SERVICE_WITHIN: Duration = Duration::from_secs(60);

/// What a plan is resolved from.
pub struct ResolveInput<'a> {
    /// The gate file.
    pub file: &'a GateFile,
    /// Its text, to point into.
    pub source: &'a Source,
    /// The flags.
    pub request: &'a GateRequest,
    /// The platforms of the image under test, in its order.
    pub platforms: &'a [(&'a str, &'a ImageConfig)],
    /// Which of them is run where nothing else is said: that of `--platform`, else the host's, if it is there.
    pub selected: Option<usize>,
    /// Whether `--platform` was said: it wins.
    pub platform_is_asked: bool,
    /// Configs of the services' images, in the order of [`service_images`].
    pub services: &'a [&'a ImageConfig],
    /// Reads an `env_file`: its variables, or why it cannot be read.
    pub env_file: &'a dyn Fn(&str) -> Result<Vec<String>, String>,
    /// Finds a bind below the gate file's directory.
    pub bind: &'a dyn Fn(&str) -> Result<HostPath, HostPathError>,
    /// Reads the value of a secret, or says why it cannot, without any part of it.
    pub secret: &'a dyn Fn(&Secret) -> Result<SecretValue, String>,
    /// Names of the variants to run; empty means all.
    pub only: &'a [String],
    /// How many variants run side by side where the file does not say.
    pub parallel: usize,
}

impl std::fmt::Debug for ResolveInput<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResolveInput")
            .field("source", &self.source.name())
            .finish_non_exhaustive()
    }
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The file says something that cannot be run (exit 2).
    #[error(transparent)]
    File(#[from] GateFileError),
    /// `--variant` names one that the file does not have (exit 2).
    #[error("the gate file has no variant `{name}`; it has {}", known.join(", "))]
    NoSuchVariant {
        /// What was named.
        name: String,
        /// What there is.
        known: Vec<String>,
    },
    /// The flags or the image's config.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A service's image has nothing to run, or its config is wrong (exit 4).
    #[error("service `{service}`: {source}")]
    Service {
        /// Which.
        service: String,
        /// Why.
        source: PlanError,
    },
}

/// The images that the services name, each once, in the order in which a plan numbers them from 1 on.
pub fn service_images(file: &GateFile) -> Vec<&Spanned<ServiceImage>> {
    let mut images: Vec<&Spanned<ServiceImage>> = Vec::new();
    for (_, service) in file.services.iter() {
        let is_source = matches!(service.image.value, ServiceImage::Source(_));
        if is_source
            && !images
                .iter()
                .any(|known| known.value == service.image.value)
        {
            images.push(&service.image);
        }
    }
    images
}

/// Resolves a gate file into a plan.
///
/// # Errors
/// [`ResolveError`]; its variants say whose fault it is.
pub fn resolve(input: &ResolveInput<'_>) -> Result<GatePlan, ResolveError> {
    let mut resolver = Resolver {
        input,
        app: input.platforms[0].1,
        images: service_images(input.file),
        diagnostics: Vec::new(),
    };
    let file = input.file;
    let named: Vec<(&str, Option<&Variant>)> = if file.variants.is_empty() {
        vec![("default", None)]
    } else {
        file.variants
            .iter()
            .map(|(name, variant)| (name.value.as_str(), Some(variant)))
            .collect()
    };
    for name in input.only {
        if !named.iter().any(|(known, _)| known == name) {
            let known = named.iter().map(|(known, _)| (*known).to_owned()).collect();
            return Err(ResolveError::NoSuchVariant {
                name: name.clone(),
                known,
            });
        }
    }
    let mut variants = Vec::new();
    for (name, variant) in named {
        if input.only.is_empty() || input.only.iter().any(|wanted| wanted == name) {
            let platforms = resolver.platforms_of(variant)?;
            for &platform in &platforms {
                let (shown, config) = input.platforms[platform];
                resolver.app = config;
                let is_first = variants.is_empty();
                let mut plan = resolver.variant(name, platform, variant, is_first)?;
                if platforms.len() > 1 {
                    plan.name = format!("{name}@{}", shown.replace('/', "-"));
                }
                variants.push(plan);
            }
        }
    }
    resolver.every_platform_is_run(&variants);
    if !resolver.diagnostics.is_empty() {
        return Err(GateFileError {
            diagnostics: resolver.diagnostics,
        }
        .into());
    }
    let parallel = file
        .parallel
        .as_ref()
        .map_or(input.parallel, |count| count.0 as usize);
    Ok(GatePlan {
        variants,
        parallel,
        fail_fast: false,
    })
}

struct Resolver<'a> {
    input: &'a ResolveInput<'a>,
    /// Config of the platform that is being resolved.
    app: &'a ImageConfig,
    /// The services' images, in the order of their numbers.
    images: Vec<&'a Spanned<ServiceImage>>,
    diagnostics: Vec<Diagnostic>,
}

impl Resolver<'_> {
    fn problem(&mut self, span: Span, message: &str, hint: Option<&str>) {
        let diagnostic = self.input.source.diagnose(span, message, hint);
        if !self.diagnostics.contains(&diagnostic) {
            self.diagnostics.push(diagnostic);
        }
    }

    fn variant(
        &mut self,
        name: &str,
        platform: usize,
        variant: Option<&Variant>,
        is_first: bool,
    ) -> Result<VariantPlan, ResolveError> {
        let file = self.input.file;
        let mut services = Vec::new();
        for (name, service) in file.services_of(variant) {
            services.push(self.service(name, service, variant, is_first)?);
        }
        let (app, ports) = self.app(variant, is_first)?;
        let expect = self.expect(variant, &app);
        let egress = variant.and_then(|variant| variant.egress.as_ref());
        let egress = egress.or(file.egress.as_ref());
        Ok(VariantPlan {
            name: name.to_owned(),
            platform,
            services,
            app,
            ports,
            expect,
            network: file.network_of(variant),
            egress: egress.map(|egress| egress.value).unwrap_or_default(),
        })
    }

    fn service(
        &mut self,
        name: &Spanned<String>,
        service: &Service,
        variant: Option<&Variant>,
        is_first: bool,
    ) -> Result<ServicePlan, ResolveError> {
        let place = self
            .images
            .iter()
            .position(|image| image.value == service.image.value);
        let (image, config) = match place {
            Some(place) => (place + 1, self.input.services[place]),
            None => (0, self.app),
        };
        let own = &service.container;
        let in_service = |source| ResolveError::Service {
            service: name.value.clone(),
            source,
        };
        let mut draft = Draft::of_image(config).map_err(in_service)?;
        draft.plan.name = name.value.clone();
        draft.plan.hostname = name.value.clone();
        draft.plan.image = image;
        if service.image.value == ServiceImage::App {
            // The image under test needs what it is configured with wherever it runs: a migration too. Its user,
            // rights and mounts are for each container to say.
            self.lay_environment(&mut draft, &self.input.file.app);
            if let Some(variant) = variant {
                self.lay_environment(&mut draft, &variant.container);
            }
            draft.plan.env = merge_env(&draft.plan.env, &self.input.request.env);
        }
        self.lay_over(&mut draft, own);
        let mut plan = draft.finish().map_err(in_service)?;
        let port = exposed_port(config).ok();
        for spec in own.probes.iter().flatten() {
            if let Some(probe) = self.probe(spec, config, port, SERVICE_WITHIN) {
                plan.probes.push(probe);
            }
        }
        if own.probes.is_none()
            && let Some(probe) = healthcheck_probe(config, SERVICE_WITHIN)
        {
            plan.probes.push(probe);
        }
        let longest = plan.probes.iter().map(|probe| probe.timing.within).max();
        let post_ready: Vec<Vec<String>> = service
            .post_ready
            .iter()
            .flatten()
            .map(|exec| exec.0.args.clone())
            .collect();
        let afterwards = if post_ready.is_empty() {
            Duration::ZERO
        } else {
            SERVICE_WITHIN
        };
        Ok(ServicePlan {
            container: plan,
            depends_on: service
                .depends_on()
                .iter()
                .map(|other| other.value.clone())
                .collect(),
            one_shot: service.is_one_shot(),
            post_ready,
            ports: host_ports(own.ports.iter().flatten().map(|port| port.value), is_first),
            within: longest.unwrap_or(SERVICE_WITHIN) + afterwards,
        })
    }

    fn app(
        &mut self,
        variant: Option<&Variant>,
        is_first: bool,
    ) -> Result<(ContainerPlan, Vec<PortMap>), ResolveError> {
        let (file, request, config) = (self.input.file, self.input.request, self.app);
        let shared = &file.app;
        let own = variant.map(|variant| &variant.container);
        let mut draft = Draft::of_image(config)?;
        self.lay_over(&mut draft, shared);
        if let Some(own) = own {
            self.lay_over(&mut draft, own);
        }
        request.lay_over(&mut draft);
        let mut plan = draft.finish()?;

        let ports = self.ports(variant, is_first)?;
        let port = ports.first().map(|map| map.container);
        let specs = [Some(shared), own]
            .into_iter()
            .flatten()
            .flat_map(|c| c.probes.iter().flatten());
        let specs: Vec<&ProbeSpec> = specs.collect();
        let expect = variant.and_then(|variant| variant.expect.as_ref());
        let completes = expect.is_some_and(|expect| expect.exit_code.is_some());
        if completes && specs.is_empty() && request.http.is_none() {
            // Its end is the answer.
        } else if request.http.is_some() || specs.is_empty() {
            let port = match port {
                Some(port) => port,
                None => exposed_port(config)?,
            };
            plan.probes.push(default_probe(request, config, port)?);
        } else {
            for spec in specs {
                if let Some(mut probe) = self.probe(spec, config, port, DEFAULT_WITHIN) {
                    probe.timing.interval = request.interval.unwrap_or(probe.timing.interval);
                    probe.timing.within = request.within.unwrap_or(probe.timing.within);
                    plan.probes.push(probe);
                }
            }
        }
        Ok((plan, ports))
    }

    /// Ports of the app: the flags', else the variant's, else the app's, else the default one.
    fn ports(
        &self,
        variant: Option<&Variant>,
        is_first: bool,
    ) -> Result<Vec<PortMap>, ResolveError> {
        let request = self.input.request;
        let written = variant
            .and_then(|variant| variant.container.ports.as_ref())
            .or(self.input.file.app.ports.as_ref());
        let ports = match written {
            _ if !request.publish.is_empty() => published(request)?.unwrap_or_default(),
            Some(ports) => ports.iter().map(|port| port.value).collect(),
            None => match exposed_port(self.app) {
                Ok(port) => vec![default_port(port)],
                // The probes may name theirs; that none is mapped then is no loss.
                Err(PlanError::SeveralPorts { .. }) => Vec::new(),
                Err(error) => return Err(error.into()),
            },
        };
        Ok(host_ports(ports.into_iter(), is_first))
    }

    /// Lays what a part of the file says over a container; what it does not say stays.
    fn lay_over(&mut self, draft: &mut Draft, part: &Container) {
        if let Some(entrypoint) = &part.entrypoint {
            draft.set_entrypoint(entrypoint.args.clone());
        }
        if let Some(command) = &part.command {
            draft.command.clone_from(&command.args);
        }
        self.lay_environment(draft, part);
        let plan = &mut draft.plan;
        if let Some(user) = &part.user {
            plan.user = user.value.clone();
        }
        if let Some(dir) = &part.working_dir {
            plan.working_dir = clean(&dir.0);
        }
        if let Some(hostname) = &part.hostname {
            plan.hostname = hostname.0.clone();
        }
        if let Some(signal) = &part.stop_signal {
            plan.stop_signal = signal.0;
        }
        plan.stop_grace_period = part
            .stop_grace_period
            .as_ref()
            .map_or(plan.stop_grace_period, |grace| grace.value);
        host_config::lay_over(&mut plan.host_config, part);
        self.lay_storage(plan, part);
    }

    fn lay_environment(&mut self, draft: &mut Draft, part: &Container) {
        let plan = &mut draft.plan;
        for file in part.env_file.iter().flat_map(|files| &files.0) {
            match (self.input.env_file)(&file.value) {
                Ok(variables) => plan.env = merge_env(&plan.env, &variables),
                Err(problem) => self.problem(file.span, &problem, None),
            }
        }
        let written = part
            .environment
            .iter()
            .flat_map(|environment| &environment.0);
        let (set, unset): (Vec<_>, Vec<_>) = written.partition(|variable| variable.value.is_some());
        let unset: HashSet<&str> = unset
            .iter()
            .map(|variable| variable.name.as_str())
            .collect();
        plan.env
            .retain(|entry| !unset.contains(entry.split('=').next().unwrap_or_default()));
        let set = set.iter().filter_map(|variable| {
            variable
                .value
                .as_ref()
                .map(|value| format!("{}={}", variable.name.value, value.value))
        });
        plan.env = merge_env(&plan.env, &set.collect::<Vec<_>>());
    }

    fn expect(&self, variant: Option<&Variant>, app: &ContainerPlan) -> ExpectPlan {
        let Some(expect) = variant.and_then(|variant| variant.expect.as_ref()) else {
            return ExpectPlan::default();
        };
        let longest = app.probes.iter().map(|probe| probe.timing.within).max();
        let within = self.input.request.within.or(longest);
        let patterns = expect.logs_never.iter().flatten();
        ExpectPlan {
            stays_healthy: expect.stays_healthy.as_ref().map(|time| time.value),
            logs_never: patterns.map(|never| never.value.clone().into()).collect(),
            stops_within: expect.stops_within.as_ref().map(|time| time.value),
            completion: expect.exit_code.as_ref().map(|code| Completion {
                exit_code: code.0,
                within: within.unwrap_or(DEFAULT_WITHIN),
            }),
        }
    }

    fn probe(
        &mut self,
        spec: &ProbeSpec,
        config: &ImageConfig,
        port: Option<u16>,
        within: Duration,
    ) -> Option<ProbePlan> {
        let defaults = request_timing(within);
        let (probe, defaults) = match &spec.question {
            Question::Http(http) => (self.http(http, port, spec.span)?, defaults),
            Question::Tcp(port) => (Probe::Tcp { port: port.0 }, defaults),
            Question::Exec { command, expect } => {
                let expect = expect.as_ref().map(|expect| expect.value.clone());
                let args = command.args.clone();
                let growth = EXEC_GROWTH;
                (Probe::Exec { args, expect }, Timing { growth, ..defaults })
            }
            Question::Log { regex, count } => {
                let pattern = regex.value.clone().into();
                let count = count.as_ref().map_or(1, |count| count.0);
                (Probe::Log { pattern, count }, defaults)
            }
            Question::Healthcheck => {
                let Some(plan) = healthcheck_probe(config, within) else {
                    let hint = Some("ask it with http, tcp or exec");
                    self.problem(spec.span, "the image has no HEALTHCHECK", hint);
                    return None;
                };
                (plan.probe, plan.timing)
            }
        };
        Some(ProbePlan {
            name: spec.name.as_ref().map(|name| name.value.clone()),
            probe,
            timing: laid_over(defaults, spec),
        })
    }

    fn http(&mut self, http: &HttpQuestion, port: Option<u16>, span: Span) -> Option<Probe> {
        use crate::gate_file::Scheme as Written;
        let Some(port) = http.port.as_ref().map(|port| port.0).or(port) else {
            let hint = Some("for example `http: {port: 8080, path: /healthz}`");
            self.problem(
                span,
                "which port? the image exposes several, or none is mapped",
                hint,
            );
            return None;
        };
        let written = http.scheme.as_ref().map(|scheme| scheme.value);
        let insecure = http.insecure.as_ref().filter(|insecure| insecure.value);
        let scheme = match (written, insecure) {
            (Some(Written::Https), Some(_)) => Scheme::HttpsInsecure,
            (Some(Written::Https), None) => Scheme::Https,
            (_, Some(insecure)) => {
                let hint = Some("add `scheme: https`, or leave `insecure` out");
                self.problem(insecure.span, "HTTP has no certificate to accept", hint);
                Scheme::Http
            }
            (_, None) => Scheme::Http,
        };
        let mut probe = HttpProbe::get(port, "/healthz");
        probe.scheme = scheme;
        if let Some(path) = &http.path {
            probe.path.clone_from(&path.0);
        }
        if let Some(method) = &http.method {
            probe.method.clone_from(&method.0);
        }
        if let Some(status) = &http.status {
            probe.status.clone_from(&status.0);
        }
        for (name, value) in http.headers.iter().flat_map(|headers| &headers.0) {
            probe
                .headers
                .push((name.value.clone(), value.value.clone()));
        }
        if let Some(body) = &http.body {
            probe.body = body_checks(body);
        }
        Some(Probe::Http(Box::new(probe)))
    }
}

fn body_checks(body: &BodyKeys) -> Vec<BodyCheck> {
    let contains = body.contains.iter();
    let contains = contains.map(|text| BodyCheck::Contains(text.value.clone()));
    let regex = body.regex.iter();
    let regex = regex.map(|regex| BodyCheck::Matches(regex.value.clone().into()));
    let json = body.json.iter().flat_map(|checks| &checks.0);
    let json = json.map(|check| BodyCheck::Json {
        pointer: check.pointer.value.clone(),
        equals: check.equals.clone(),
    });
    contains.chain(regex).chain(json).collect()
}

/// What a probe says of its times, over what it has else.
fn laid_over(defaults: Timing, spec: &ProbeSpec) -> Timing {
    let or = |written: &Option<Spanned<Duration>>, default| {
        written.as_ref().map_or(default, |written| written.value)
    };
    let start_period = spec.start_period.as_ref().map(|period| period.0);
    let known = defaults.retries.as_ref();
    let retries = spec.retries.as_ref().map(|retries| retries.0);
    let retries = retries.or(known.map(|known| known.count));
    Timing {
        interval: or(&spec.interval, defaults.interval),
        first_delay: defaults.first_delay,
        growth: defaults.growth,
        timeout: or(&spec.timeout, defaults.timeout),
        within: or(&spec.within, defaults.within),
        retries: retries.map(|count| Retries {
            count,
            start_period: start_period
                .or(known.map(|known| known.start_period))
                .unwrap_or_default(),
        }),
        successes: spec.successes.as_ref().map_or(1, |count| count.0),
    }
}

/// The numbers that were written are the first variant's; the others, which may run beside it, get free ones.
fn host_ports(ports: impl Iterator<Item = PortMap>, is_first: bool) -> Vec<PortMap> {
    let host = |map: PortMap| if is_first { map.host } else { HostPort::Any };
    ports
        .map(|map| PortMap {
            host: host(map),
            ..map
        })
        .collect()
}

#[cfg(test)]
mod tests;
