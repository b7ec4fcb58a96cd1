//! The services of a variant, in the order of what they depend on.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;
use smokegate_sandbox::{ExitStatus, HostError, Sandbox, StartError};
use tokio::sync::watch;

use super::Variant;
use crate::container_run::{Asked, ContainerRun, NotStarted};
use crate::event::Event;
use crate::log_capture::LogTail;
use crate::plan::ServicePlan;
use crate::probe::Outcome;
use crate::verdict::{ExitReason, OutOfMemory, ServiceProblem};

/// Probes end their own wait a moment after its time, and say what they saw last; what ends a service's wait from
/// outside, and says nothing, must not come before.
const PROBES_FIRST: Duration = Duration::from_secs(1);

/// A service as far as it got.
pub(super) struct ServiceRun<'a> {
    pub(super) plan: &'a ServicePlan,
    pub(super) run: Option<ContainerRun<'a>>,
    pub(super) log: LogTail,
    /// Why the app cannot be started.
    pub(super) problem: Option<ServiceProblem>,
}

impl ServiceRun<'_> {
    pub(super) fn name(&self) -> &str {
        &self.plan.container.name
    }

    /// How its process ended, if it has ended.
    pub(super) fn exit(&self) -> Option<ExitStatus> {
        self.run.as_ref()?.process.exit_status()
    }
}

impl<'a> Variant<'a> {
    /// Starts all services, each as soon as those it depends on are ready. When one fails, those that wait for it
    /// are not started.
    pub(super) async fn start_services(&self, sandbox: &Sandbox) -> Vec<ServiceRun<'a>> {
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
            Asked::Passed(_) => {}
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
