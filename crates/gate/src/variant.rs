//! One variant: its pod, its services in order, its app, its verdict.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use futures_util::future::join_all;
use smokegate_sandbox::{
    ExitStatus, HostError, IdRefusal, Isolation, NetworkMode, PodSpec, Sandbox, StartError, Storage,
};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::container_run::{Asked, ContainerRun, ContainerStart, NotStarted, Stayed, Stop};
use crate::diagnosis::CPU_LEVEL_ID;
use crate::event::Event;
use crate::gate_file::{Egress, Network};
use crate::kept::{KeptContainer, KeptPod};
use crate::log_capture::LogTail;
use crate::mask::Mask;
use crate::mounts;
use crate::network::RunningNetwork;
use crate::pattern::Pattern;
use crate::plan::{APP, Completion, ContainerPlan, Probe, ServicePlan, VariantPlan};
use crate::port_map::BoundPorts;
use crate::probe::{Observation, Outcome, other_path};
use crate::runner::{RunEnvironment, UnpackedLayers};
use crate::verdict::{
    Decision, ExitReason, Inconclusive, Instability, OutOfMemory, ProbeVerdict, Reason,
    ServiceProblem, ServiceVerdict, Timings, VariantVerdict,
};

/// Probes end their own wait a moment after its time, and say what they saw last; what ends a service's wait from
/// outside, and says nothing, must not come before.
const PROBES_FIRST: Duration = Duration::from_secs(1);

/// A variant that is about to run.
pub(crate) struct Variant<'a> {
    pub(crate) plan: &'a VariantPlan,
    pub(crate) environment: &'a RunEnvironment,
    /// The platform that it runs on.
    pub(crate) platform: &'a str,
    /// Layers of every image.
    pub(crate) layers: &'a [UnpackedLayers],
    /// What no report shows.
    pub(crate) mask: &'a Mask,
    pub(crate) events: &'a UnboundedSender<Event>,
}

/// A service as far as it got.
struct ServiceRun<'a> {
    plan: &'a ServicePlan,
    run: Option<ContainerRun<'a>>,
    log: LogTail,
    problem: Option<ServiceProblem>,
}

/// Host ports of a pod, bound.
struct PodPorts {
    app: BoundPorts,
    /// In the order of the plan's services.
    services: Vec<BoundPorts>,
}

impl PodPorts {
    async fn bind(plan: &VariantPlan) -> Result<Self, Inconclusive> {
        let bind = async |maps| {
            BoundPorts::bind(maps)
                .await
                .map_err(|error| Inconclusive::Port {
                    address: error.address,
                    error: error.source.to_string(),
                })
        };
        let app = bind(&plan.ports).await?;
        let mut services = Vec::new();
        for service in &plan.services {
            services.push(bind(&service.ports).await?);
        }
        Ok(Self { app, services })
    }
}

impl<'a> Variant<'a> {
    /// The verdict of a variant that was not run to its end, because `by` did not pass.
    pub(crate) fn stopped(&self, by: String) -> VariantVerdict {
        self.verdict(Decision::Inconclusive(Inconclusive::Stopped { by }))
    }

    fn verdict(&self, decision: Decision) -> VariantVerdict {
        VariantVerdict {
            name: self.plan.name.clone(),
            platform: self.platform.to_owned(),
            decision,
            probes: self.plan.app.probes.iter().map(ProbeVerdict::new).collect(),
            exit: None,
            reached_pids: None,
            ports: Vec::new(),
            log: LogTail::default(),
            services: Vec::new(),
            storage: None,
            network: None,
            timings: Timings::default(),
        }
    }

    /// The verdict, and what the isolation level could not give its containers.
    pub(crate) async fn run(&self) -> (VariantVerdict, Vec<String>) {
        let began = Instant::now();
        let mut verdict = self.verdict(Decision::Passed);
        let mut waited = Duration::ZERO;
        let not_given = match self.launch(&mut verdict).await {
            Ok((sandbox, network, ports)) => {
                let launched = began.elapsed();
                verdict.timings.sandbox = Some(launched);
                // Nothing of it can be started before; what unpacking takes is no variant's time.
                self.first_layers().wait().await;
                waited = began.elapsed() - launched;
                self.run_pod(sandbox, network, ports, &mut verdict).await
            }
            Err(why) => {
                verdict.decision = Decision::Inconclusive(why);
                Vec::new()
            }
        };
        verdict.timings.total = began.elapsed() - waited;
        (verdict, not_given)
    }

    /// Of the layers that its containers need, those that are unpacked first: a service's, unless it runs the image
    /// under test.
    fn first_layers(&self) -> &UnpackedLayers {
        let of_services = self.plan.services.iter();
        let of_services = of_services.map(|service| service.container.image);
        let first = of_services.filter(|image| *image > 0).min().unwrap_or(0);
        &self.layers[first]
    }

    async fn launch(
        &self,
        verdict: &mut VariantVerdict,
    ) -> Result<(Arc<Sandbox>, RunningNetwork, PodPorts), Inconclusive> {
        let ports = PodPorts::bind(self.plan).await?;
        verdict.ports = ports.app.published();
        let run_dir = self.environment.run_dir.join(&self.plan.name);
        std::fs::create_dir_all(&run_dir)
            .map_err(|error| Inconclusive::Host(HostError::store("mkdir(run directory)", error)))?;
        let containers = mounts::containers(self.plan)
            .map(|c| c.name.clone())
            .collect();
        let limits = mounts::limits(self.plan);
        let pod = PodSpec {
            isolation: self.environment.id_map.isolation(),
            store: self.environment.store.clone(),
            run_dir,
            containers,
            binds: mounts::binds(self.plan),
            writes_to_disk: limits.iter().any(|(_, limits)| limits.memory.is_some()),
            limits,
            network: match self.plan.network {
                Network::Bridge => NetworkMode::Bridge,
                Network::Shared => NetworkMode::Shared,
            },
            egress: self.plan.egress == Egress::Host,
        };
        let launched = Sandbox::launch(pod, &self.environment.id_map).await;
        let (sandbox, network) = launched.map_err(Inconclusive::Host)?;
        let network = RunningNetwork::serve(network, self.plan).map_err(Inconclusive::Host)?;
        Ok((Arc::new(sandbox), network, ports))
    }

    async fn run_pod(
        &self,
        sandbox: Arc<Sandbox>,
        network: RunningNetwork,
        ports: PodPorts,
        verdict: &mut VariantVerdict,
    ) -> Vec<String> {
        let level = self.environment.id_map.isolation();
        let mut of_services = Vec::new();
        let mut forwarding_services = Vec::new();
        for (service, bound) in self.plan.services.iter().zip(ports.services) {
            let published = bound.published();
            if !published.is_empty() {
                let _ = self.events.send(Event::ServicePorts {
                    variant: self.plan.name.clone(),
                    service: service.container.name.clone(),
                    ports: published.clone(),
                });
            }
            of_services.push(published);
            forwarding_services.push(bound.forward(&sandbox, &service.container.name));
        }
        let services = self.start_services(&sandbox).await;
        let mut not_given = Vec::new();
        let mut app_log = None;
        let mut forwarding = JoinSet::new();
        match services.iter().find(|service| service.problem.is_some()) {
            Some(failed) => {
                let name = failed.plan.container.name.clone();
                if let Some(problem) = failed.problem.clone() {
                    verdict.decision = Decision::Inconclusive(match problem {
                        ServiceProblem::NotStarted(StartError::Host(error)) => {
                            Inconclusive::Host(error)
                        }
                        ServiceProblem::NotStarted(StartError::NotGiven { cause, hint }) => {
                            let cause = format!("service `{name}`: {cause}");
                            Inconclusive::NotGiven { cause, hint }
                        }
                        ServiceProblem::NotStarted(StartError::IdMap(text)) => {
                            let text = format!("service `{name}`: {text}");
                            Inconclusive::IdMap { level, text }
                        }
                        problem => match sandbox.id_refusals(&name).last() {
                            Some(refusal) => Inconclusive::after_refusal(
                                level,
                                Some(&name),
                                refusal,
                                &problem.cause(&name),
                            ),
                            None => Inconclusive::Service { name, problem },
                        },
                    });
                }
            }
            None => {
                let layers = self.layers[self.plan.app.image].wait().await;
                let starting = Instant::now();
                let never = &self.plan.expect.logs_never;
                let app = self.start_container(&self.plan.app, layers, never, &sandbox);
                match app.await {
                    Err(NotStarted { error, log }) => {
                        verdict.decision = start_decision(error, level);
                        verdict.log = log;
                    }
                    Ok(app) => {
                        verdict.timings.start = Some(starting.elapsed());
                        not_given.extend(app.process.started.not_given.iter().cloned());
                        verdict.storage = Some(app.process.started.storage.clone());
                        forwarding = ports.app.forward(&sandbox, &self.plan.app.name);
                        let _ = self.events.send(Event::Started {
                            variant: self.plan.name.clone(),
                            args: self.plan.app.args.clone(),
                            ports: verdict.ports.clone(),
                            probes: self.plan.app.probes.clone(),
                        });
                        self.judge(&app, &sandbox, verdict).await;
                        verdict.network = Some(network.report(&sandbox, self.plan).await);
                        if self.keeper(verdict).is_none() {
                            self.stop(&app, &sandbox, verdict).await;
                        }
                        app_log = Some(app);
                    }
                }
            }
        }
        if verdict.network.is_none() {
            verdict.network = Some(network.report(&sandbox, self.plan).await);
        }
        let names = services.iter().map(|service| &service.plan.container.name);
        for name in names.chain([&self.plan.app.name]) {
            let refusals = sandbox.id_refusals(name);
            not_given.extend(refusals.iter().map(|refusal| {
                let IdRefusal { call, program, .. } = refusal;
                format!("what `{call}` of `{program}` in container `{name}` is for: its ids are not mapped")
            }));
        }
        let refusal = sandbox.id_refusals(APP).pop();
        let ended: Vec<Option<ExitStatus>> = services
            .iter()
            .map(|service| {
                service
                    .run
                    .as_ref()
                    .and_then(|run| run.process.exit_status())
            })
            .collect();
        forwarding_services.push(forwarding);
        let mut kept = None;
        if let Some(keeper) = self.keeper(verdict) {
            let containers = self.kept_containers(&services, app_log.as_ref());
            let served = (network, forwarding_services);
            let pod = KeptPod::new(self.plan.name.clone(), containers, sandbox, served);
            kept = Some((keeper, pod));
        } else {
            for mut forwarding in forwarding_services {
                forwarding.shutdown().await;
            }
            network.shutdown().await;
            // Ends every process, so that the pipes of the logs end too. Waiting for the helper blocks for a moment;
            // other variants must not wait with it.
            let _ = tokio::task::spawn_blocking(move || drop(sandbox)).await;
        }
        let mut pod = kept.as_mut().map(|(_, pod)| pod);
        if let Some(app) = app_log {
            let watch = Arc::clone(&app.watch);
            verdict.log = last_lines(app, pod.as_deref_mut()).await;
            if let (true, Some(offence)) = (verdict.decision.passed(), watch.offence()) {
                verdict.decision = Decision::Failed(Reason::Logged(offence));
            }
        }
        // However the app failed.
        if let (Decision::Failed(_), Some(refusal)) = (&verdict.decision, refusal) {
            let refused = Inconclusive::after_refusal(level, None, &refusal, &verdict.cause());
            verdict.decision = Decision::Inconclusive(refused);
        }
        // Nor does an older CPU than production's say anything of the image.
        if verdict.cause_id() == Some(CPU_LEVEL_ID)
            && let Decision::Failed(_) = verdict.decision
        {
            let cause = verdict.cause();
            verdict.decision = Decision::Inconclusive(Inconclusive::Cpu { cause });
        }
        for ((service, exit), ports) in services.into_iter().zip(ended).zip(of_services) {
            let log = match service.run {
                Some(run) => {
                    let started = &run.process.started;
                    not_given.extend(started.not_given.iter().cloned());
                    if !matches!(verdict.storage, Some(Storage::Copy { .. })) {
                        verdict.storage = Some(started.storage.clone());
                    }
                    last_lines(run, pod.as_deref_mut()).await
                }
                None => service.log,
            };
            let name = service.plan.container.name.clone();
            verdict.services.push(ServiceVerdict {
                name,
                exit,
                ports,
                one_shot: service.plan.one_shot,
                log,
            });
        }
        if let Some((keeper, pod)) = kept {
            // Where nobody takes it, it is dropped and ends.
            let _ = keeper.send(pod);
        }
        not_given
    }

    /// Who gets the pod as it is, if this verdict stands.
    fn keeper(&self, verdict: &VariantVerdict) -> Option<&'a UnboundedSender<KeptPod>> {
        let keeper = self.environment.keeper.as_ref();
        keeper.filter(|_| !verdict.decision.passed())
    }

    fn kept_containers(
        &self,
        services: &[ServiceRun<'_>],
        app: Option<&ContainerRun<'_>>,
    ) -> Vec<KeptContainer> {
        let log_dir = self.environment.log_dir.join(&self.plan.name);
        let kept = |name: &str, run: Option<&ContainerRun<'_>>| KeptContainer {
            name: name.to_owned(),
            log: log_dir.join(format!("{name}.log")),
            process: run.map(|run| run.process.clone()),
        };
        let services = services
            .iter()
            .map(|service| kept(&service.plan.container.name, service.run.as_ref()));
        services.chain([kept(&self.plan.app.name, app)]).collect()
    }

    async fn start_container(
        &self,
        plan: &'a ContainerPlan,
        layers: Vec<PathBuf>,
        never: &[Pattern],
        sandbox: &Sandbox,
    ) -> Result<ContainerRun<'a>, NotStarted> {
        let log_dir = self.environment.log_dir.join(&self.plan.name);
        let container = ContainerStart {
            plan,
            never,
            layers: &layers,
            binds: &mounts::binds(self.plan),
            log_dir: &log_dir,
            mask: self.mask,
        };
        let run = ContainerRun::start(container, sandbox).await?;
        if let Storage::Copy { why } = &run.process.started.storage {
            let _ = self.events.send(Event::Copied {
                variant: self.plan.name.clone(),
                container: plan.name.clone(),
                why: why.clone(),
            });
        }
        Ok(run)
    }

    /// Starts all services, each as soon as those it depends on are ready. When one fails, those that wait for it
    /// are not started.
    async fn start_services(&self, sandbox: &Sandbox) -> Vec<ServiceRun<'a>> {
        let services = &self.plan.services;
        let ready: HashMap<&str, watch::Sender<Option<bool>>> = services
            .iter()
            .map(|service| (service.container.name.as_str(), watch::channel(None).0))
            .collect();
        let starting = services.iter().map(|service| {
            let ready = &ready;
            async move {
                for name in &service.depends_on {
                    if let Some(sender) = ready.get(name.as_str()) {
                        let mut other = sender.subscribe();
                        let is_ready = other.wait_for(Option::is_some).await;
                        if !is_ready.is_ok_and(|ready| *ready == Some(true)) {
                            ready[service.container.name.as_str()].send_replace(Some(false));
                            let log = LogTail::default();
                            return ServiceRun {
                                plan: service,
                                run: None,
                                log,
                                problem: None,
                            };
                        }
                    }
                }
                let run = self.start_service(service, sandbox).await;
                let is_ready = run.problem.is_none();
                let _ = self.events.send(Event::Service {
                    variant: self.plan.name.clone(),
                    service: service.container.name.clone(),
                    ready: is_ready,
                });
                ready[service.container.name.as_str()].send_replace(Some(is_ready));
                run
            }
        });
        join_all(starting).await
    }

    async fn start_service(&self, service: &'a ServicePlan, sandbox: &Sandbox) -> ServiceRun<'a> {
        let layers = self.layers[service.container.image].wait().await;
        let started = self.start_container(&service.container, layers, &[], sandbox);
        let run = match started.await {
            Ok(run) => run,
            Err(NotStarted { error, log }) => {
                let problem = Some(ServiceProblem::NotStarted(error));
                return ServiceRun {
                    plan: service,
                    run: None,
                    log,
                    problem,
                };
            }
        };
        let limit = match service.one_shot {
            true => service.within,
            false => service.within + PROBES_FIRST,
        };
        let problem = match tokio::time::timeout(limit, self.ready(service, &run, sandbox)).await {
            Ok(problem) => problem,
            Err(_) => Some(ServiceProblem::NotReady {
                within: service.within,
                last: None,
            }),
        };
        ServiceRun {
            plan: service,
            run: Some(run),
            log: LogTail::default(),
            problem,
        }
    }

    /// `None` when the service is ready, or has ended well where that is what it is for.
    async fn ready(
        &self,
        service: &ServicePlan,
        run: &ContainerRun<'_>,
        sandbox: &Sandbox,
    ) -> Option<ServiceProblem> {
        if service.one_shot {
            return match run.process.clone().wait().await {
                Ok(ExitStatus::Code(0)) => None,
                Ok(status) => Some(service_exited(service, run, sandbox, status)),
                Err(error) => Some(lost(error)),
            };
        }
        match run.ask_all(sandbox, &|_, _| {}).await {
            Asked::Passed => {}
            Asked::Exited(status) => return Some(service_exited(service, run, sandbox, status)),
            Asked::Lost(error) => return Some(lost(error)),
            Asked::NotPassed(not_passed) => {
                let probe = service.container.probes[not_passed.probe].probe.clone();
                let last = not_passed.last.map(|outcome| (probe, outcome));
                return Some(ServiceProblem::NotReady {
                    within: run.age(),
                    last,
                });
            }
        }
        for args in &service.post_ready {
            match run.exec(sandbox, args).await {
                Outcome::Passed => {}
                outcome => {
                    if let Some(Err(error)) = run.process.clone().wait().now_or_never() {
                        return Some(lost(error));
                    }
                    return Some(ServiceProblem::PostReady {
                        args: args.clone(),
                        outcome,
                    });
                }
            }
        }
        None
    }

    /// Asks the app until it is decided, and writes the decision into the verdict.
    async fn judge(&self, app: &ContainerRun<'_>, sandbox: &Sandbox, verdict: &mut VariantVerdict) {
        let attempts: Mutex<Vec<Vec<Observation>>> =
            Mutex::new(vec![Vec::new(); self.plan.app.probes.len()]);
        let observe = |number: usize, observation: Observation| {
            let variant = self.plan.name.clone();
            let _ = self.events.send(Event::Asked {
                variant,
                observation: observation.clone(),
            });
            attempts.lock().unwrap_or_else(PoisonError::into_inner)[number].push(observation);
        };
        let judged = async {
            match self.plan.expect.completion {
                Some(completion) => self.complete(app, completion, sandbox, &observe).await,
                None => self.serve(app, sandbox, &observe).await,
            }
        };
        let decision = tokio::select! {
            biased;
            decision = judged => decision,
            offence = app.watch.wait_for_offence() => Decision::Failed(Reason::Logged(offence)),
        };
        verdict.decision = match (decision, sandbox.exceeded_memory(&self.plan.app.name)) {
            // However it showed: this is what there is to correct.
            (Decision::Failed(_), Some(limit)) => {
                Decision::Failed(Reason::OutOfMemory(OutOfMemory {
                    limit,
                    status: app.process.exit_status(),
                    after: app.age(),
                }))
            }
            (decision, _) => decision,
        };
        verdict.timings.probe = Some(app.age());
        verdict.exit = app.process.exit_status();
        verdict.reached_pids = sandbox.reached_pids(&self.plan.app.name);
        let attempts = attempts
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        for (probe, attempts) in verdict.probes.iter_mut().zip(attempts) {
            probe.attempts = attempts;
        }
    }

    /// Judges an app that is to keep running.
    async fn serve(
        &self,
        app: &ContainerRun<'_>,
        sandbox: &Sandbox,
        observe: &(dyn Fn(usize, Observation) + Sync),
    ) -> Decision {
        let asked = app.ask_all(sandbox, observe).await;
        let after = app.age();
        match asked {
            Asked::Passed => {}
            other => return self.not_passed(other, after, sandbox).await,
        }
        let Some(wanted) = self.plan.expect.stays_healthy else {
            return Decision::Passed;
        };
        let stayed = app.stay_healthy(wanted, sandbox, observe).await;
        let why = match stayed {
            Stayed::Healthy => return Decision::Passed,
            Stayed::Lost(error) => return Decision::Inconclusive(Inconclusive::Host(error)),
            Stayed::Failed(probe, outcome) => Instability::Probe { probe, outcome },
            Stayed::Exited(status) => Instability::Exited(status),
        };
        Decision::Failed(Reason::NotStable {
            healthy: app.age().saturating_sub(after),
            wanted,
            why,
        })
    }

    /// Judges an app that is to run to its end: every probe passes before it, and the exit code is the one wanted.
    async fn complete(
        &self,
        app: &ContainerRun<'_>,
        completion: Completion,
        sandbox: &Sandbox,
        observe: &(dyn Fn(usize, Observation) + Sync),
    ) -> Decision {
        let passed = Mutex::new(vec![false; self.plan.app.probes.len()]);
        let note = |number: usize, observation: Observation| {
            let mut passed = passed.lock().unwrap_or_else(PoisonError::into_inner);
            passed[number] = observation.outcome == Outcome::Passed;
            drop(passed);
            observe(number, observation);
        };
        let run = async {
            match app.ask_all(sandbox, &note).await {
                Asked::Passed => app.process.clone().wait().await.into(),
                other => other,
            }
        };
        let rest = completion.within.saturating_sub(app.age());
        let ended = tokio::time::timeout(rest, run).await;
        let after = app.age();
        let status = match ended {
            Err(_) => return Decision::Failed(Reason::StillRunning(completion)),
            Ok(Asked::Exited(status)) => status,
            Ok(other) => return self.not_passed(other, after, sandbox).await,
        };
        // Its last lines may be what a probe waited for, and its end may have been heard of before them.
        app.log_is_read().await;
        for (number, plan) in self.plan.app.probes.iter().enumerate() {
            let is_missing = !passed.lock().unwrap_or_else(PoisonError::into_inner)[number];
            if let (true, Probe::Log { pattern, count }) = (is_missing, &plan.probe)
                && app.watch.count(pattern) >= *count
            {
                let outcome = Outcome::Passed;
                let took = Duration::ZERO;
                note(
                    number,
                    Observation {
                        at: after,
                        took,
                        outcome,
                    },
                );
            }
        }
        let all_passed = passed.lock().unwrap_or_else(PoisonError::into_inner);
        let all_passed = all_passed.iter().all(|passed| *passed);
        if status == ExitStatus::Code(i32::from(completion.exit_code)) && all_passed {
            return Decision::Passed;
        }
        Decision::Failed(Reason::Completed {
            exit: ExitReason { status, after },
            wanted: completion.exit_code,
        })
    }

    /// What the end of the asking means.
    async fn not_passed(&self, asked: Asked, after: Duration, sandbox: &Sandbox) -> Decision {
        match asked {
            Asked::Passed => Decision::Passed,
            Asked::Exited(status) => Decision::Failed(Reason::Exited(ExitReason { status, after })),
            Asked::Lost(error) => Decision::Inconclusive(Inconclusive::Host(error)),
            Asked::NotPassed(not_passed) => {
                let app = &self.plan.app;
                let asked = &app.probes[not_passed.probe].probe;
                let last = not_passed.last;
                Decision::Failed(Reason::NotHealthy {
                    probe: not_passed.probe,
                    why: not_passed.why,
                    after,
                    listening: sandbox.listeners(&app.name, true).await.unwrap_or_default(),
                    other_path: other_path(asked, last.as_ref(), sandbox, &app.name).await,
                    last,
                })
            }
        }
    }

    /// Asks the app to end; where it passed, how it does so may be part of the verdict.
    async fn stop(&self, app: &ContainerRun<'_>, sandbox: &Sandbox, verdict: &mut VariantVerdict) {
        let wanted = self.plan.expect.stops_within;
        let wanted = wanted.filter(|_| verdict.decision.passed());
        let time = wanted.unwrap_or(self.plan.app.stop_grace_period);
        let stop = app.stop(sandbox, time).await;
        if wanted.is_some() && stop != Stop::Ended {
            verdict.decision = Decision::Failed(Reason::NotStopped {
                signal: self.plan.app.stop_signal,
                waited: (stop == Stop::StillRunning).then_some(time),
            });
        }
    }
}

/// The last lines of a container that ended with its pod, or the last ones so far of one that goes on in a kept pod.
async fn last_lines(run: ContainerRun<'_>, pod: Option<&mut KeptPod>) -> LogTail {
    let Some(pod) = pod else {
        return run.finish().await;
    };
    let (tail, capture) = run.leave().await;
    pod.captures.extend(capture);
    tail
}

fn service_exited(
    service: &ServicePlan,
    run: &ContainerRun<'_>,
    sandbox: &Sandbox,
    status: ExitStatus,
) -> ServiceProblem {
    let after = run.age();
    match sandbox.exceeded_memory(&service.container.name) {
        Some(limit) => ServiceProblem::OutOfMemory(OutOfMemory {
            limit,
            status: Some(status),
            after,
        }),
        None => ServiceProblem::Exited(ExitReason { status, after }),
    }
}

/// A pod that is gone says nothing about the service.
fn lost(error: HostError) -> ServiceProblem {
    ServiceProblem::NotStarted(StartError::Host(error))
}

fn start_decision(error: StartError, level: Isolation) -> Decision {
    match error {
        StartError::Host(error) => Decision::Inconclusive(Inconclusive::Host(error)),
        StartError::IdMap(text) => Decision::Inconclusive(Inconclusive::IdMap { level, text }),
        StartError::NotGiven { cause, hint } => {
            Decision::Inconclusive(Inconclusive::NotGiven { cause, hint })
        }
        error => Decision::Failed(Reason::NotStarted(error)),
    }
}
