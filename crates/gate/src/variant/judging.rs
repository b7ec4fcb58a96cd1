//! The app's trial: asked until it is decided, then asked to end.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use smokegate_sandbox::{ExitStatus, Sandbox};

use super::Variant;
use crate::container_run::{Asked, ContainerRun, Stayed, Stop};
use crate::event::Event;
use crate::plan::{Completion, Probe};
use crate::probe::{Observation, Outcome, other_path};
use crate::verdict::{
    Decision, ExitReason, Inconclusive, Instability, OutOfMemory, Reason, VariantVerdict,
};

impl Variant<'_> {
    /// Asks the app until it is decided, and writes the decision into the verdict.
    pub(super) async fn judge(
        &self,
        app: &ContainerRun<'_>,
        sandbox: &Sandbox,
        verdict: &mut VariantVerdict,
    ) {
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
                Some(completion) => {
                    let decision = self.complete(app, completion, sandbox, &observe).await;
                    (decision, app.age())
                }
                None => self.serve(app, sandbox, &observe).await,
            }
        };
        let (decision, after) = tokio::select! {
            biased;
            decided = judged => decided,
            offence = app.watch.wait_for_offence() => {
                (Decision::Failed(Reason::Logged(offence)), app.age())
            }
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
        verdict.timings.probe = Some(after);
        verdict.exit = app.process.exit_status();
        verdict.reached_pids = sandbox.reached_pids(&self.plan.app.name);
        let attempts = attempts
            .into_inner()
            .unwrap_or_else(PoisonError::into_inner);
        for (probe, attempts) in verdict.probes.iter_mut().zip(attempts) {
            probe.attempts = attempts;
        }
    }

    /// Judges an app that is to keep running, and says when its probes had passed or were given up.
    async fn serve(
        &self,
        app: &ContainerRun<'_>,
        sandbox: &Sandbox,
        observe: &(dyn Fn(usize, Observation) + Sync),
    ) -> (Decision, Duration) {
        let after = match app.ask_all(sandbox, observe).await {
            Asked::Passed(after) => after,
            other => {
                let after = app.age();
                return (self.not_passed(other, after, sandbox).await, after);
            }
        };
        let Some(wanted) = self.plan.expect.stays_healthy else {
            return (Decision::Passed, after);
        };
        let stayed = app.stay_healthy(wanted, sandbox, observe).await;
        let why = match stayed {
            Stayed::Healthy => return (Decision::Passed, after),
            Stayed::Lost(error) => {
                return (Decision::Inconclusive(Inconclusive::Host(error)), after);
            }
            Stayed::Failed(probe, outcome) => Instability::Probe { probe, outcome },
            Stayed::Exited(status) => Instability::Exited(status),
        };
        let unstable = Reason::NotStable {
            healthy: app.age().saturating_sub(after),
            wanted,
            why,
        };
        (Decision::Failed(unstable), after)
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
                Asked::Passed(_) => app.process.clone().wait().await.into(),
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
            Asked::Passed(_) => Decision::Passed,
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
    pub(super) async fn stop(
        &self,
        app: &ContainerRun<'_>,
        sandbox: &Sandbox,
        verdict: &mut VariantVerdict,
    ) {
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
