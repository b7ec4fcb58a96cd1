//! One container of a pod: started, asked, stopped, and what is kept of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use smokegate_sandbox::{
    ContainerSpec, Delivery, ExecSpec, ExitStatus, HostError, HostPath, Process, Sandbox,
    SandboxError, StartError, Step,
};

use crate::log_capture::{LogCapture, LogTail};
use crate::log_watch::LogWatch;
use crate::mask::Mask;
use crate::mounts::mounts;
use crate::pattern::Pattern;
use crate::plan::{APP, ContainerPlan, Probe, ProbePlan};
use crate::probe::{Observation, Outcome, ask, exec};
use crate::schedule::{Answer, GaveUp, Next, Schedule};

/// How long the end of a process is waited for after a probe failed.
const AFTER_FAILURE: Duration = Duration::from_millis(50);
/// The same after the app passed: one that dies of its first request is not well. Every run that passes pays this
/// time, so it is no longer than an exit takes to be seen; a service that dies is told of with the app's verdict.
const AFTER_PASS: Duration = Duration::from_millis(20);

/// A container that runs.
pub(crate) struct ContainerRun<'a> {
    pub(crate) plan: &'a ContainerPlan,
    pub(crate) process: Process,
    pub(crate) watch: Arc<LogWatch>,
    mask: &'a Mask,
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
    /// After this time since its start.
    Passed(Duration),
    NotPassed(NotPassed),
    Exited(ExitStatus),
    /// The pod ended, and everything in it.
    Lost(HostError),
}

/// How the time ended in which a container was to stay healthy.
pub(crate) enum Stayed {
    Healthy,
    /// The probe of this place in the plan failed.
    Failed(usize, Outcome),
    Exited(ExitStatus),
    Lost(HostError),
}

/// What came of asking a container to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It ended, or had ended before.
    Ended,
    /// It has no handler for the signal and, as a first process, never saw it.
    NotSeen,
    /// It still ran when the time was over.
    StillRunning,
}

impl From<Result<ExitStatus, HostError>> for Asked {
    fn from(end: Result<ExitStatus, HostError>) -> Self {
        end.map_or_else(Self::Lost, Self::Exited)
    }
}

/// What a container is started from.
pub(crate) struct ContainerStart<'a, 'b> {
    pub(crate) plan: &'a ContainerPlan,
    /// What no line of its log may match.
    pub(crate) never: &'b [Pattern],
    /// Top first.
    pub(crate) layers: &'b [PathBuf],
    /// Those of its pod.
    pub(crate) binds: &'b [HostPath],
    pub(crate) log_dir: &'b Path,
    pub(crate) mask: &'a Mask,
}

impl<'a> ContainerRun<'a> {
    /// Starts it.
    pub(crate) async fn start(
        container: ContainerStart<'a, '_>,
        sandbox: &Sandbox,
    ) -> Result<Self, NotStarted> {
        let ContainerStart {
            plan,
            log_dir,
            mask,
            ..
        } = container;
        let file = log_dir.join(format!("{}.log", plan.name));
        let watch = LogWatch::of(plan, container.never);
        let capture = std::fs::create_dir_all(log_dir)
            .and_then(|()| LogCapture::start(Some(&file), Arc::clone(&watch), mask));
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
        match sandbox
            .start(spec(&container), ends.stdout, ends.stderr)
            .await
        {
            Ok(process) => Ok(Self {
                plan,
                process,
                watch,
                mask,
                log,
                // Not before: what joining the layers takes is not the program's time.
                started: Instant::now(),
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
            None if self.plan.name == APP => (Asked::Passed(self.age()), AFTER_PASS),
            None => return Asked::Passed(self.age()),
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
        let mut told = None;
        loop {
            let at = self.started.elapsed();
            let timeout = schedule.timeout_at(at);
            let outcome = self.ask_once(number, plan, timeout, sandbox, observe).await;
            let now = self.started.elapsed();
            // An attempt that the end of the wait cut short says less than the one before.
            if told.is_none() || timeout == plan.timing.timeout || !outcome.is_timeout() {
                told = Some(outcome.clone());
            }
            let answer = match outcome {
                Outcome::Passed => Answer::Passed,
                Outcome::Refused => Answer::Refused,
                _ => Answer::Failed,
            };
            match schedule.after(at, now, answer) {
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
                        last: told,
                    });
                }
                Next::AskAt(at) => tokio::time::sleep_until((self.started + at).into()).await,
            }
        }
    }

    async fn ask_once(
        &self,
        number: usize,
        plan: &ProbePlan,
        timeout: Duration,
        sandbox: &Sandbox,
        observe: &(dyn Fn(usize, Observation) + Sync),
    ) -> Outcome {
        let at = self.started.elapsed();
        let outcome = ask(&plan.probe, sandbox, &self.plan.name, &self.watch, timeout).await;
        let outcome = self.mask.outcome(outcome);
        let took = self.started.elapsed() - at;
        observe(
            number,
            Observation {
                at,
                took,
                outcome: outcome.clone(),
            },
        );
        outcome
    }

    /// Goes on asking at each probe's interval for `time`; one failure ends it, as does the end of the process.
    pub(crate) async fn stay_healthy(
        &self,
        time: Duration,
        sandbox: &Sandbox,
        observe: &(dyn Fn(usize, Observation) + Sync),
    ) -> Stayed {
        let end = Instant::now() + time;
        // What was in the log stays there.
        let lasting = |plan: &&ProbePlan| !matches!(plan.probe, Probe::Log { .. });
        let probes = self.plan.probes.iter().enumerate();
        let probes = probes.filter(|(_, plan)| lasting(plan));
        let each = probes.map(async |(number, plan)| {
            let mut next = Instant::now() + plan.timing.interval;
            loop {
                // However long the interval, the last moment is asked about.
                let at = next.min(end);
                tokio::time::sleep_until(at.into()).await;
                let timeout = plan.timing.timeout;
                let outcome = self.ask_once(number, plan, timeout, sandbox, observe).await;
                if outcome != Outcome::Passed {
                    return Some((number, outcome));
                }
                if at == end {
                    return None;
                }
                next = (next + plan.timing.interval).max(Instant::now());
            }
        });
        let mut failures: futures_util::stream::FuturesUnordered<_> = each.map(Box::pin).collect();
        let asking = async {
            while let Some(answer) = futures_util::StreamExt::next(&mut failures).await {
                if answer.is_some() {
                    return answer;
                }
            }
            tokio::time::sleep_until(end.into()).await;
            None
        };
        let mut exited = self.process.clone();
        let failed = tokio::select! {
            biased;
            end = exited.wait() => return end.map_or_else(Stayed::Lost, Stayed::Exited),
            failed = asking => failed,
        };
        let Some((number, outcome)) = failed else {
            return Stayed::Healthy;
        };
        match tokio::time::timeout(AFTER_FAILURE, exited.wait()).await {
            Ok(end) => end.map_or_else(Stayed::Lost, Stayed::Exited),
            Err(_) => Stayed::Failed(number, outcome),
        }
    }

    /// Runs a command in it; `Passed` when it exits with 0.
    pub(crate) async fn exec(&self, sandbox: &Sandbox, args: &[String]) -> Outcome {
        let spec = ExecSpec {
            container: self.plan.name.clone(),
            args: args.to_vec(),
        };
        self.mask.outcome(exec(sandbox, spec, None).await)
    }

    /// Asks it to end, as `docker stop` does, and gives it `time`; what is left then is killed with the pod.
    ///
    /// A first process that has no handler for the signal never sees it (pid_namespaces(7)): nothing to wait for.
    pub(crate) async fn stop(&self, sandbox: &Sandbox, time: Duration) -> Stop {
        let mut process = self.process.clone();
        if process.exit_status().is_some() {
            return Stop::Ended;
        }
        match sandbox.signal(&self.plan.name, self.plan.stop_signal).await {
            Ok(Delivery::Handled) => {
                let ended = tokio::time::timeout(time, process.wait()).await;
                ended.map_or(Stop::StillRunning, |_| Stop::Ended)
            }
            Ok(Delivery::Ignored) => Stop::NotSeen,
            // It, or the whole pod, is gone.
            Err(_) => Stop::Ended,
        }
    }

    /// After its end: waits until its log is read to the end, so that the watch has seen every line.
    pub(crate) async fn log_is_read(&self) {
        self.log.is_read().await;
    }

    /// Its last lines so far, and what goes on reading its output where it still runs.
    pub(crate) async fn leave(self) -> (LogTail, Option<LogCapture>) {
        if self.process.exit_status().is_some() {
            return (self.log.finish().await, None);
        }
        (self.log.tail(), Some(self.log))
    }

    /// Its last lines, once nothing of it runs any more.
    pub(crate) async fn finish(self) -> LogTail {
        self.log.finish().await
    }
}

fn spec(container: &ContainerStart<'_, '_>) -> ContainerSpec {
    let plan = container.plan;
    ContainerSpec {
        name: plan.name.clone(),
        layers: container.layers.to_vec(),
        args: plan.args.clone(),
        env: plan.env.clone(),
        user: plan.user.clone(),
        working_dir: plan.working_dir.clone(),
        mounts: mounts(plan, container.binds),
        secrets: plan.secrets.clone(),
        hostname: plan.hostname.clone(),
        host_config: plan.host_config.clone(),
    }
}
