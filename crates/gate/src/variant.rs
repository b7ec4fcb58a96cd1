//! One variant: its pod, its services in order, its app, its verdict.

mod judging;
mod pod;
mod services;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smokegate_sandbox::{IdRefusal, Isolation, Sandbox, StartError, Storage};
use tokio::sync::mpsc::UnboundedSender;

use self::pod::{Pod, PodPorts};
use self::services::ServiceRun;
use crate::container_run::{ContainerRun, ContainerStart, NotStarted};
use crate::diagnosis::CPU_LEVEL_ID;
use crate::event::Event;
use crate::kept::{KeptContainer, KeptPod};
use crate::log_capture::LogTail;
use crate::mask::Mask;
use crate::mounts;
use crate::pattern::Pattern;
use crate::plan::{APP, ContainerPlan, VariantPlan};
use crate::port_map::BoundPorts;
use crate::runner::{RunEnvironment, UnpackedLayers};
use crate::verdict::{
    Decision, Inconclusive, ProbeVerdict, PublishedPort, Reason, ServiceProblem, ServiceVerdict,
    Timings, VariantVerdict,
};

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
            Ok((pod, ports)) => {
                let launched = began.elapsed();
                verdict.timings.sandbox = Some(launched);
                // Nothing of it can be started before; what unpacking takes is no variant's time.
                self.first_layers().wait().await;
                waited = began.elapsed() - launched;
                self.run_pod(pod, ports, &mut verdict).await
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
    ) -> Result<(Pod<'a>, PodPorts), Inconclusive> {
        let ports = PodPorts::bind(self.plan).await?;
        verdict.ports = ports.app.published();
        let pod = Pod::launch(self.plan, self.environment).await?;
        Ok((pod, ports))
    }

    async fn run_pod(
        &self,
        mut pod: Pod<'a>,
        ports: PodPorts,
        verdict: &mut VariantVerdict,
    ) -> Vec<String> {
        let published = self.publish_services(ports.services, &mut pod);
        let services = self.start_services(&pod.sandbox).await;
        let mut problems = services.iter();
        let problem = problems.find_map(|service| Some((service.name(), service.problem.clone()?)));
        let app = match problem {
            Some((name, problem)) => {
                let why = self.without_service(name, problem, &pod.sandbox);
                verdict.decision = Decision::Inconclusive(why);
                None
            }
            None => self.run_app(ports.app, &mut pod, verdict).await,
        };
        if verdict.network.is_none() {
            verdict.network = Some(pod.network.report(&pod.sandbox, self.plan).await);
        }
        let started = app.iter().map(|app| &app.process.started);
        let mut not_given: Vec<_> = started.flat_map(|one| one.not_given.clone()).collect();
        not_given.extend(pod.refused_ids());
        let refusal = pod.sandbox.id_refusals(APP).pop();
        let exits: Vec<_> = services.iter().map(ServiceRun::exit).collect();
        let mut kept = match self.keeper(verdict) {
            Some(keeper) => {
                let containers = self.kept_containers(&services, app.as_ref());
                Some((keeper, pod.keep(containers)))
            }
            None => {
                pod.end().await;
                None
            }
        };
        let mut pod = kept.as_mut().map(|(_, pod)| pod);
        if let Some(app) = app {
            let watch = Arc::clone(&app.watch);
            verdict.log = last_lines(app, pod.as_deref_mut()).await;
            if let (true, Some(offence)) = (verdict.decision.passed(), watch.offence()) {
                verdict.decision = Decision::Failed(Reason::Logged(offence));
            }
        }
        self.excuse(refusal, verdict);
        for ((service, exit), ports) in services.into_iter().zip(exits).zip(published) {
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
            verdict.services.push(ServiceVerdict {
                name: service.plan.container.name.clone(),
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

    /// The ports of each service, forwarded.
    fn publish_services(
        &self,
        ports: Vec<BoundPorts>,
        pod: &mut Pod<'_>,
    ) -> Vec<Vec<PublishedPort>> {
        let services = self.plan.services.iter().zip(ports);
        let publish = services.map(|(service, bound)| {
            let published = bound.published();
            if !published.is_empty() {
                let _ = self.events.send(Event::ServicePorts {
                    variant: self.plan.name.clone(),
                    service: service.container.name.clone(),
                    ports: published.clone(),
                });
            }
            pod.forward(bound, &service.container.name);
            published
        });
        publish.collect()
    }

    /// Starts the app and judges it; gives it back as it is then, if it was started.
    async fn run_app(
        &self,
        ports: BoundPorts,
        pod: &mut Pod<'_>,
        verdict: &mut VariantVerdict,
    ) -> Option<ContainerRun<'a>> {
        let layers = self.layers[self.plan.app.image].wait().await;
        let starting = Instant::now();
        let never = &self.plan.expect.logs_never;
        let app = self.start_container(&self.plan.app, layers, never, &pod.sandbox);
        let app = match app.await {
            Ok(app) => app,
            Err(NotStarted { error, log }) => {
                verdict.decision = start_decision(error, self.isolation());
                verdict.log = log;
                return None;
            }
        };
        verdict.timings.start = Some(starting.elapsed());
        verdict.timings.mount = Some(app.process.started.mount);
        verdict.storage = Some(app.process.started.storage.clone());
        pod.forward(ports, &self.plan.app.name);
        let _ = self.events.send(Event::Started {
            variant: self.plan.name.clone(),
            args: self.plan.app.args.clone(),
            ports: verdict.ports.clone(),
            probes: self.plan.app.probes.clone(),
        });
        self.judge(&app, &pod.sandbox, verdict).await;
        verdict.network = Some(pod.network.report(&pod.sandbox, self.plan).await);
        if self.keeper(verdict).is_none() {
            self.stop(&app, &pod.sandbox, verdict).await;
        }
        Some(app)
    }

    /// Why the app could not be judged, where a service is to blame, or what it got of the host.
    fn without_service(
        &self,
        name: &str,
        problem: ServiceProblem,
        sandbox: &Sandbox,
    ) -> Inconclusive {
        let level = self.isolation();
        match problem {
            ServiceProblem::NotStarted(StartError::Host(error)) => Inconclusive::Host(error),
            ServiceProblem::NotStarted(StartError::NotGiven { cause, hint }) => {
                let cause = format!("service `{name}`: {cause}");
                Inconclusive::NotGiven { cause, hint }
            }
            ServiceProblem::NotStarted(StartError::IdMap(text)) => {
                let text = format!("service `{name}`: {text}");
                Inconclusive::IdMap { level, text }
            }
            problem => match sandbox.id_refusals(name).last() {
                Some(refusal) => {
                    let cause = problem.cause(name);
                    Inconclusive::after_refusal(level, Some(name), refusal, &cause)
                }
                None => Inconclusive::Service {
                    name: name.to_owned(),
                    problem,
                },
            },
        }
    }

    /// Takes back a failure that says nothing of the image.
    fn excuse(&self, refusal: Option<IdRefusal>, verdict: &mut VariantVerdict) {
        // However the app failed.
        if let (Decision::Failed(_), Some(refusal)) = (&verdict.decision, refusal) {
            let cause = verdict.cause();
            let refused = Inconclusive::after_refusal(self.isolation(), None, &refusal, &cause);
            verdict.decision = Decision::Inconclusive(refused);
        }
        // Nor does an older CPU than production's say anything of the image.
        if verdict.cause_id() == Some(CPU_LEVEL_ID)
            && let Decision::Failed(_) = verdict.decision
        {
            let cause = verdict.cause();
            verdict.decision = Decision::Inconclusive(Inconclusive::Cpu { cause });
        }
    }

    fn isolation(&self) -> Isolation {
        self.environment.id_map.isolation()
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
