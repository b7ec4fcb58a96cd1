//! One container of a pod: started, asked, stopped, and what is kept of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use smokegate_sandbox::{
    ContainerSpec, Delivery, ExecSpec, ExitStatus, HostError, Process, Sandbox, SandboxError,
    StartError, Step,
};

use crate::log_capture::{LogCapture, LogTail};
use crate::plan::{APP, ContainerPlan, ProbePlan};
use crate::probe::{Observation, Outcome, ask, exec};
use crate::schedule::{GaveUp, Next, Schedule};

/// How long the end of a process is waited for after a probe failed.
const AFTER_FAILURE: Duration = Duration::from_millis(50);
/// The same after the app passed: one that dies of its first request is not well. Every run that passes pays this
/// time, so it is no longer than an exit takes to be seen; a service that dies is told of with the app's verdict.
const AFTER_PASS: Duration = Duration::from_millis(20);

/// A container that runs.
pub(crate) struct ContainerRun<'a> {
    pub(crate) plan: &'a ContainerPlan,
    pub(crate) process: Process,
    log: LogCapture,
    started: Instant,
}

/// Why it did not start, and what it had written by then.
pub(crate) struct NotStarted {
    pub(crate) error: StartError,
    pub(crate) log: LogTail,
}

/// A probe that was not passed.
#[derive(Debug)]
pub(crate) struct NotPassed {
    /// Its place in the plan.
    pub(crate) probe: usize,
    pub(crate) why: GaveUp,
    pub(crate) last: Option<Outcome>,
}

/// How waiting for a container's probes ended.
pub(crate) enum Asked {
    Passed,
    NotPassed(NotPassed),
    Exited(ExitStatus),
    /// The pod ended, and everything in it.
    Lost(HostError),
}

impl From<Result<ExitStatus, HostError>> for Asked {
    fn from(end: Result<ExitStatus, HostError>) -> Self {
        end.map_or_else(Self::Lost, Self::Exited)
    }
}

impl<'a> ContainerRun<'a> {
    pub(crate) async fn start(
        plan: &'a ContainerPlan,
        layers: &[PathBuf],
        sandbox: &Sandbox,
        log_dir: &Path,
    ) -> Result<Self, NotStarted> {
        let file = log_dir.join(format!("{}.log", plan.name));
        let capture =
            std::fs::create_dir_all(log_dir).and_then(|()| LogCapture::start(Some(&file)));
        let (log, ends) = match capture {
            Ok(capture) => capture,
            Err(error) => {
                let error = StartError::Host(HostError::store("open(log file)", error));
                return Err(NotStarted {
                    error,
                    log: LogTail::default(),
                });
            }
        };
        let started = Instant::now();
        match sandbox
            .start(spec(plan, layers), ends.stdout, ends.stderr)
            .await
        {
            Ok(process) => Ok(Self {
                plan,
                process,
                log,
                started,
            }),
            Err(error) => {
                let error = match error {
                    SandboxError::Start(error) => error,
                    SandboxError::Host(error) => StartError::Host(error),
                    SandboxError::NoSuchContainer(name) => StartError::Host(HostError {
                        step: Step::Runtime,
                        call: "start".into(),
                        errno: None,
                        detail: format!(
                            "container `{name}` ended before it could be told to start"
                        ),
                    }),
                };
                Err(NotStarted {
                    error,
                    log: log.finish().await,
                })
            }
        }
    }

    /// Time since it was started.
    pub(crate) fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Asks all probes at once until each passed, one is given up, or the process ends.
    pub(crate) async fn ask_all(
        &self,
        sandbox: &Sandbox,
        observe: &(dyn Fn(usize, Observation) + Sync),
    ) -> Asked {
        let mut exited = self.process.clone();
        let asking = async {
            let probes = self.plan.probes.iter().enumerate();
            let each = join_all(probes.map(|(n, probe)| self.ask_one(n, probe, sandbox, observe)));
            each.await.into_iter().flatten().next()
        };
        let asked = tokio::select! {
            biased;
            end = exited.wait() => return end.into(),
            asked = asking => asked,
        };
        let (asked, look) = match asked {
            None if self.plan.name == APP => (Asked::Passed, AFTER_PASS),
            None => return Asked::Passed,
            // The last attempt may have failed because the process was just ending: its end says more.
            Some(not_passed) => (Asked::NotPassed(not_passed), AFTER_FAILURE),
        };
        let ended = tokio::time::timeout(look, exited.wait()).await;
        ended.map_or(asked, Asked::from)
    }

    /// `None` when the probe passed.
    async fn ask_one(
        &self,
        number: usize,
        plan: &ProbePlan,
        sandbox: &Sandbox,
        observe: &(dyn Fn(usize, Observation) + Sync),
    ) -> Option<NotPassed> {
        let mut schedule = Schedule::new(plan.timing.clone());
        loop {
            let at = self.started.elapsed();
            let timeout = schedule.timeout_at(at);
            let outcome = ask(&plan.probe, sandbox, &self.plan.name, timeout).await;
            let now = self.started.elapsed();
            observe(
                number,
                Observation {
                    at,
                    took: now - at,
                    outcome: outcome.clone(),
                },
            );
            match schedule.after(at, now, outcome == Outcome::Passed) {
                Next::Passed => return None,
                Next::GaveUp(why) => {
                    // The whole wait is the user's: the app may still end by itself until then.
                    if why == GaveUp::Within {
                        let end = self.started + plan.timing.within;
                        tokio::time::sleep_until(end.into()).await;
                    }
                    return Some(NotPassed {
                        probe: number,
                        why,
                        last: Some(outcome),
                    });
                }
                Next::AskAt(at) => tokio::time::sleep_until((self.started + at).into()).await,
            }
        }
    }

    /// Runs a command in it; `Passed` when it exits with 0.
    pub(crate) async fn exec(&self, sandbox: &Sandbox, args: &[String]) -> Outcome {
        let spec = ExecSpec {
            container: self.plan.name.clone(),
            args: args.to_vec(),
        };
        exec(sandbox, spec, None).await
    }

    /// Asks it to end, as `docker stop` does; what is left then is killed with the pod.
    ///
    /// A first process that has no handler for the signal never sees it (pid_namespaces(7)): nothing to wait for.
    pub(crate) async fn stop(&self, sandbox: &Sandbox) {
        let mut process = self.process.clone();
        if process.exit_status().is_none()
            && matches!(
                sandbox.signal(&self.plan.name, self.plan.stop_signal).await,
                Ok(Delivery::Handled)
            )
        {
            let _ = tokio::time::timeout(self.plan.stop_grace_period, process.wait()).await;
        }
    }

    /// Its last lines, once nothing of it runs any more.
    pub(crate) async fn finish(self) -> LogTail {
        self.log.finish().await
    }
}

fn spec(plan: &ContainerPlan, layers: &[PathBuf]) -> ContainerSpec {
    ContainerSpec {
        name: plan.name.clone(),
        layers: layers.to_vec(),
        args: plan.args.clone(),
        env: plan.env.clone(),
        user: plan.user.clone(),
        working_dir: plan.working_dir.clone(),
        volumes: plan.volumes.clone(),
        hostname: plan.hostname.clone(),
        host_config: plan.host_config.clone(),
    }
}
