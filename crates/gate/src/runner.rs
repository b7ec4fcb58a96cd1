//! Runs a plan: fills the store, starts each variant's pod, asks, decides.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smokegate_image::{Image, Limits};
use smokegate_sandbox::{
    ContainerSpec, Delivery, FillError, FilledLayer, HostError, IdMap, PodSpec, Process, Sandbox,
    SandboxError, StartError, StoreRequest, fill_store,
};
use tokio::sync::mpsc::UnboundedSender;

use crate::event::Event;
use crate::log_capture::LogCapture;
use crate::plan::{GatePlan, VariantPlan};
use crate::port_map::BoundPorts;
use crate::probe::{Observation, ask};
use crate::schedule::{GaveUp, Next, Schedule};
use crate::verdict::{
    Decision, ExitReason, Inconclusive, Reason, Timings, VariantVerdict, Verdict,
};

/// The app's name in its pod.
const APP: &str = "app";

/// Where a run keeps what it needs, as the caller settled it.
#[derive(Clone, Debug)]
pub struct RunEnvironment {
    /// The layer store.
    pub store: PathBuf,
    /// A directory of this run, removed by the caller afterwards.
    pub run_dir: PathBuf,
    /// Where `<variant>/<container>.log` files go.
    pub log_dir: PathBuf,
    /// The isolation level and what maps its ids.
    pub id_map: IdMap,
    /// What a layer may cost.
    pub limits: Limits,
}

/// Runs `plan` on the selected image of `image`.
///
/// Every variant is decided, also when an earlier one failed. Dropping the future ends every process.
///
/// # Errors
/// [`FillError`] when the image's layers cannot be unpacked: nothing was run then.
pub async fn run(
    image: &Image,
    plan: &GatePlan,
    environment: &RunEnvironment,
    events: &UnboundedSender<Event>,
) -> Result<Verdict, FillError> {
    let began = Instant::now();
    let selected = image.selected();
    let layers = fill_store(StoreRequest {
        store: environment.store.clone(),
        id_map: &environment.id_map,
        image: selected,
        limits: environment.limits,
    })
    .await?;
    let not_kept = not_kept(layers.layers());
    let filled = began.elapsed();
    let _ = events.send(Event::LayersReady {
        layers: layers.layers().len(),
        cached: layers.layers().iter().filter(|layer| layer.cached).count(),
        written: layers
            .layers()
            .iter()
            .filter(|layer| !layer.cached)
            .map(|layer| layer.bytes)
            .sum(),
        not_kept: not_kept.clone(),
    });
    let paths: Vec<PathBuf> = layers
        .layers()
        .iter()
        .rev()
        .map(|layer| layer.path.clone())
        .collect();
    let mut not_tested = not_kept;
    let mut variants = Vec::new();
    for variant in &plan.variants {
        let running = Variant {
            plan: variant,
            environment,
            layers: &paths,
            events,
        };
        let verdict = running.run(&mut not_tested).await;
        let _ = events.send(Event::Decided(Box::new(verdict.clone())));
        variants.push(verdict);
    }
    Ok(Verdict {
        image: image.digest().clone(),
        manifest: selected.manifest.clone(),
        platform: selected.platform.clone(),
        isolation: environment.id_map.isolation(),
        not_tested,
        variants,
        layers: filled,
    })
}

fn not_kept(layers: &[FilledLayer]) -> Vec<String> {
    let mut all: Vec<String> = layers
        .iter()
        .flat_map(|layer| layer.not_kept.clone())
        .collect();
    all.sort();
    all.dedup();
    all
}

struct Variant<'a> {
    plan: &'a VariantPlan,
    environment: &'a RunEnvironment,
    layers: &'a [PathBuf],
    events: &'a UnboundedSender<Event>,
}

/// What a variant's verdict is made of, as far as it got.
#[derive(Default)]
struct Progress {
    attempts: Vec<Observation>,
    ports: Vec<crate::verdict::PublishedPort>,
    timings: Timings,
    exit: Option<smokegate_sandbox::ExitStatus>,
}

impl Variant<'_> {
    async fn run(&self, not_tested: &mut Vec<String>) -> VariantVerdict {
        let began = Instant::now();
        let mut progress = Progress::default();
        let log_file = self
            .environment
            .log_dir
            .join(&self.plan.name)
            .join(format!("{APP}.log"));
        let (decision, log) = match self.start(began, &log_file, &mut progress).await {
            Ok((sandbox, process, log)) => {
                not_tested.extend(process.started.not_given.iter().cloned());
                let decision = self.watch(&sandbox, process.clone(), &mut progress).await;
                self.stop(&sandbox.sandbox, process).await;
                // Ends every process, so that the pipes of the log end too.
                drop_pod(sandbox).await;
                (decision, log.finish().await)
            }
            Err((decision, Some(log))) => (decision, log.finish().await),
            Err((decision, None)) => (decision, crate::LogTail::default()),
        };
        progress.timings.total = began.elapsed();
        VariantVerdict {
            name: self.plan.name.clone(),
            decision,
            probe: self.plan.probe.clone(),
            attempts: progress.attempts,
            exit: progress.exit,
            ports: progress.ports,
            log,
            timings: progress.timings,
        }
    }

    async fn start(
        &self,
        began: Instant,
        log_file: &std::path::Path,
        progress: &mut Progress,
    ) -> Result<(Running, Process, LogCapture), (Decision, Option<LogCapture>)> {
        let inconclusive = |why| (Decision::Inconclusive(why), None);
        let ports = BoundPorts::bind(&self.plan.ports).await.map_err(|error| {
            let text = error.source.to_string();
            inconclusive(Inconclusive::Port {
                address: error.address,
                error: text,
            })
        })?;
        progress.ports = ports.published();
        let host = |error| inconclusive(Inconclusive::Host(error));
        let run_dir = self.environment.run_dir.join(&self.plan.name);
        let store_error = |call: &str, error| HostError::store(call, error);
        std::fs::create_dir_all(&run_dir)
            .map_err(|error| host(store_error("mkdir(run directory)", error)))?;
        let capture = log_file
            .parent()
            .map_or(Ok(()), std::fs::create_dir_all)
            .and_then(|()| LogCapture::start(Some(log_file)));
        let (log, ends) = capture.map_err(|error| host(store_error("open(log file)", error)))?;

        let pod = PodSpec {
            isolation: self.environment.id_map.isolation(),
            store: self.environment.store.clone(),
            run_dir,
        };
        let sandbox = Arc::new(
            Sandbox::launch(pod, &self.environment.id_map)
                .await
                .map_err(host)?,
        );
        progress.timings.sandbox = Some(began.elapsed());
        let starting = Instant::now();
        let process = match sandbox
            .start(self.container(), ends.stdout, ends.stderr)
            .await
        {
            Ok(process) => process,
            Err(error) => return Err((start_decision(error), Some(log))),
        };
        progress.timings.start = Some(starting.elapsed());
        let forwarding = ports.forward(&sandbox, APP);
        let _ = self.events.send(Event::Started {
            variant: self.plan.name.clone(),
            args: self.plan.app.args.clone(),
            ports: progress.ports.clone(),
            probe: self.plan.probe.clone(),
        });
        Ok((
            Running {
                sandbox,
                forwarding,
            },
            process,
            log,
        ))
    }

    fn container(&self) -> ContainerSpec {
        let app = &self.plan.app;
        ContainerSpec {
            name: APP.to_owned(),
            layers: self.layers.to_vec(),
            args: app.args.clone(),
            env: app.env.clone(),
            user: app.user.clone(),
            working_dir: app.working_dir.clone(),
            volumes: app.volumes.clone(),
            hostname: app.hostname.clone(),
        }
    }

    /// Asks until the probe passes, the wait ends, or the process does.
    async fn watch(
        &self,
        running: &Running,
        mut process: Process,
        progress: &mut Progress,
    ) -> Decision {
        let started = Instant::now();
        let mut exited = process.clone();
        let asking = self.ask_until_decided(&running.sandbox, started, &mut progress.attempts);
        let asked = tokio::select! {
            biased;
            status = exited.wait() => Err(status),
            asked = asking => Ok(asked),
        };
        progress.timings.probe = Some(started.elapsed());
        // The last attempt may have failed because the process was just ending: its end says more.
        if !matches!(asked, Ok(None)) {
            let _ = tokio::time::timeout(Duration::from_millis(50), process.wait()).await;
        }
        progress.exit = process.exit_status();
        match (asked, progress.exit) {
            (Err(status), _) | (Ok(Some(_)), Some(status)) => {
                let after = progress.timings.probe.unwrap_or_default();
                Decision::Failed(Reason::Exited(ExitReason { status, after }))
            }
            (Ok(None), _) => Decision::Passed,
            (Ok(Some(why)), None) => Decision::Failed(Reason::NotHealthy {
                why,
                after: progress.timings.probe.unwrap_or_default(),
                last: progress
                    .attempts
                    .last()
                    .map(|attempt| attempt.outcome.clone()),
                listening: running.sandbox.listeners(APP).await.unwrap_or_default(),
            }),
        }
    }

    /// Asks the app to end, as `docker stop` does; what is left then is killed with the pod.
    ///
    /// A first process that has no handler for the signal never sees it (pid_namespaces(7)): nothing to wait for.
    async fn stop(&self, sandbox: &Sandbox, mut process: Process) {
        let app = &self.plan.app;
        if process.exit_status().is_none()
            && matches!(
                sandbox.signal(APP, app.stop_signal).await,
                Ok(Delivery::Handled)
            )
        {
            let _ = tokio::time::timeout(app.stop_grace_period, process.wait()).await;
        }
    }

    /// `None` when the probe passed.
    async fn ask_until_decided(
        &self,
        sandbox: &Sandbox,
        started: Instant,
        attempts: &mut Vec<Observation>,
    ) -> Option<GaveUp> {
        let mut schedule = Schedule::new(self.plan.timing.clone());
        loop {
            let at = started.elapsed();
            let timeout = schedule.timeout_at(at);
            let outcome = ask(&self.plan.probe, sandbox, APP, timeout).await;
            let now = started.elapsed();
            let success = outcome == crate::Outcome::Passed;
            let observation = Observation {
                at,
                took: now - at,
                outcome,
            };
            attempts.push(observation.clone());
            let variant = self.plan.name.clone();
            let _ = self.events.send(Event::Asked {
                variant,
                observation,
            });
            match schedule.after(at, now, success) {
                Next::Passed => return None,
                Next::GaveUp(why) => {
                    // The whole wait is the user's: the app may still end by itself until then.
                    if why == GaveUp::Within {
                        tokio::time::sleep_until((started + self.plan.timing.within).into()).await;
                    }
                    return Some(why);
                }
                Next::AskAt(at) => tokio::time::sleep_until((started + at).into()).await,
            }
        }
    }
}

/// A pod with its forwarded ports; the ports close before the pod ends.
struct Running {
    sandbox: Arc<Sandbox>,
    forwarding: tokio::task::JoinSet<()>,
}

async fn drop_pod(running: Running) {
    let Running {
        sandbox,
        mut forwarding,
    } = running;
    forwarding.shutdown().await;
    // Waiting for the helper blocks for a moment; other variants must not wait with it.
    let _ = tokio::task::spawn_blocking(move || drop(sandbox)).await;
}

fn start_decision(error: SandboxError) -> Decision {
    match error {
        SandboxError::Start(StartError::Host(error)) | SandboxError::Host(error) => {
            Decision::Inconclusive(Inconclusive::Host(error))
        }
        SandboxError::Start(StartError::IdMap(text)) => {
            Decision::Inconclusive(Inconclusive::IdMap(text))
        }
        SandboxError::Start(error) => Decision::Failed(Reason::NotStarted(error)),
        SandboxError::NoSuchContainer(name) => {
            let text = format!("container `{name}` is not there");
            Decision::Inconclusive(Inconclusive::IdMap(text))
        }
    }
}
