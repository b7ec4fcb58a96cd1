//! The run's side: it keeps its pods until they are stopped, and runs commands in them.

use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode};
use smokegate_gate::{KeptPod, Verdict};
use smokegate_sandbox::{EnterSpec, ExitStatus as ProcessStatus, SandboxError, StartError, Wire};
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::watch;

use super::{Ask, ContainerRecord, PodRecord, SOCKET, Tell, socket_in};
use crate::exit_code::ExitStatus;
use crate::failure::Failure;
use crate::printer::Printer;
use crate::run_dir::RunDir;
use crate::settings;

/// What docker answers for a command that cannot be run.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
/// What docker answers when it could not even try.
const NOT_TRIED: u8 = 125;
const ENOENT: i32 = 2;

/// Time until the next `accept` after one that failed.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// How the run that keeps pods now will end.
static VERDICT: Mutex<Option<ExitStatus>> = Mutex::new(None);

/// The exit code that an interrupt does not change any more: the run is over, and only its pods are left.
pub(crate) fn verdict_while_keeping() -> Option<ExitStatus> {
    *VERDICT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Refuses to keep pods in a CI job, which would wait for nobody until its time is up.
pub(crate) fn check_that_somebody_can_look() -> Result<(), Failure> {
    if settings::is_ci() && !has_terminal() {
        return Err(Failure::usage(
            "`--keep-on-failure` waits for somebody to look into the pods, and this is a CI job without a terminal",
        )
        .hint("leave it out, or unset CI where somebody can run `smokegate exec` and `smokegate stop` beside the job"));
    }
    Ok(())
}

fn has_terminal() -> bool {
    io::stdin().is_terminal() || io::stderr().is_terminal()
}

/// The pods that a run has left, and the directory they need.
pub(crate) struct Keeper {
    pods: Pods,
    run_dir: RunDir,
}

type Pods = Arc<Mutex<Vec<Arc<KeptPod>>>>;

impl Keeper {
    /// Of every pod that was sent by now; `None` where there is none. Says so of variants that have none.
    pub(crate) fn of(
        mut kept: UnboundedReceiver<KeptPod>,
        run_dir: RunDir,
        verdict: &Verdict,
        printer: Printer,
    ) -> Option<Self> {
        let mut pods: Vec<Arc<KeptPod>> = Vec::new();
        while let Ok(pod) = kept.try_recv() {
            pods.push(Arc::new(pod));
        }
        let place = |name: &str| verdict.variants.iter().position(|v| v.name == name);
        pods.sort_by_key(|pod| place(&pod.variant));
        for variant in &verdict.variants {
            let is_kept = pods.iter().any(|pod| pod.variant == variant.name);
            if !is_kept && !variant.decision.passed() {
                let name = &variant.name;
                printer.step(format!(
                    "{name}: its pod is not kept, as there is none any more"
                ));
            }
        }
        (!pods.is_empty()).then(|| Self {
            pods: Arc::new(Mutex::new(pods)),
            run_dir,
        })
    }

    /// Serves until every pod is stopped; the run's exit code is `verdict` then, and when it is interrupted. `store` is
    /// the one that was named.
    pub(crate) async fn serve(
        self,
        verdict: ExitStatus,
        store: Option<&Path>,
        printer: Printer,
    ) -> Result<(), Failure> {
        let socket = self.listen().map_err(|error| {
            let cause = format!("cannot make the socket of `--keep-on-failure`: {error}");
            Failure::new(ExitStatus::Host, cause)
        })?;
        *VERDICT.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict);
        self.announce(store, printer);
        let (changed, mut left) = watch::channel(());
        let (pods, runtime) = (Arc::clone(&self.pods), Handle::current());
        // It waits in accept(2), and ends with the process.
        std::thread::spawn(move || {
            loop {
                let Ok(connection) = rustix::net::accept(&socket) else {
                    // Out of descriptors, mostly: it stays so until some command ends.
                    std::thread::sleep(AFTER_ERROR);
                    continue;
                };
                let pods = Arc::clone(&pods);
                let (runtime, changed) = (runtime.clone(), changed.clone());
                std::thread::spawn(move || {
                    // A client that is gone needs no answer.
                    let _ = answer(connection, &pods, &runtime);
                    changed.send_replace(());
                });
            }
        });
        while !lock(&self.pods).is_empty() {
            let _ = left.changed().await;
        }
        Ok(())
    }

    fn listen(&self) -> io::Result<OwnedFd> {
        let (socket, address, dir) = socket_in(&self.run_dir.path())?;
        rustix::net::bind(&socket, &address)?;
        // Nobody connects before it listens.
        rustix::fs::chmodat(&dir, SOCKET, Mode::from_raw_mode(0o600), AtFlags::empty())?;
        rustix::net::listen(&socket, 16)?;
        Ok(socket)
    }

    fn announce(&self, store: Option<&Path>, printer: Printer) {
        let store = store.map(|store| format!(" --store {}", store.display()));
        let store = store.unwrap_or_default();
        let run = self.run_dir.id();
        for pod in lock(&self.pods).iter() {
            let variant = &pod.variant;
            printer.always(format!("\nkept: the pod of {variant} (run {run})"));
            for container in &pod.containers {
                let state = if container.is_running() {
                    "runs"
                } else {
                    "does not run; a command is alone with its files and network"
                };
                printer.always(format!("  {}: {state}", container.name));
            }
            printer.always(format!(
                "  smokegate exec {variant}{store} -- sh\n  smokegate logs {variant}{store}\n  smokegate stop {variant}{store}"
            ));
        }
        printer.always(if has_terminal() {
            "this run waits until `smokegate stop`, Ctrl-C or the end of the terminal".to_owned()
        } else {
            let pid = std::process::id();
            format!("this run waits until `smokegate stop` or a signal to process {pid}: it has no terminal")
        });
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Before their directory goes; clients may still hold them.
        for pod in std::mem::take(&mut *lock(&self.pods)) {
            pod.end();
        }
    }
}

fn lock(pods: &Pods) -> MutexGuard<'_, Vec<Arc<KeptPod>>> {
    pods.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(connection: OwnedFd, pods: &Pods, runtime: &Handle) -> io::Result<()> {
    // Directory and socket let nobody else in; this holds whatever became of their modes.
    let peer = rustix::net::sockopt::socket_peercred(&connection)?;
    if peer.uid != rustix::process::geteuid() {
        return Ok(());
    }
    let wire = Wire::from_fd(connection);
    let Some((ask, fds)) = wire.receive::<Ask>()? else {
        return Ok(());
    };
    match ask {
        Ask::Pods => {
            let records = lock(pods).iter().map(|pod| record(pod)).collect();
            wire.send(&Tell::Pods(records), &[])
        }
        Ask::Stop { variant } => {
            let is_meant = |pod: &mut Arc<KeptPod>| {
                let variant = variant.as_ref();
                variant.is_none_or(|variant| pod.variant == *variant)
            };
            // Locked until the client has heard of it: with the last pod the run ends.
            let mut pods = lock(pods);
            let stopped: Vec<_> = pods.extract_if(.., is_meant).collect();
            stopped.iter().for_each(|pod| pod.end());
            let names = stopped.iter().map(|pod| pod.variant.clone()).collect();
            // What forwards its ports ends too.
            drop(stopped);
            wire.send(&Tell::Stopped(names), &[])
        }
        Ask::Exec {
            variant,
            container,
            args,
            terminal,
        } => {
            let is_meant = |pod: &&Arc<KeptPod>| pod.variant == variant;
            let Some(pod) = lock(pods).iter().find(is_meant).cloned() else {
                return Ok(());
            };
            let spec = EnterSpec {
                container,
                args,
                terminal,
            };
            let answers = Wire::from_fd(wire.as_fd().try_clone_to_owned()?);
            let running = runtime.spawn(async move {
                let told = told(pod.enter(spec, fds).await);
                let _ = answers.send(&told, &[]);
            });
            // Nothing more is asked: this is the end of the client, with which the command ends.
            let _ = wire.receive::<Ask>();
            running.abort();
            Ok(())
        }
    }
}

fn record(pod: &KeptPod) -> PodRecord {
    let containers = pod.containers.iter().map(|container| ContainerRecord {
        name: container.name.clone(),
        is_running: container.is_running(),
        log: std::path::absolute(&container.log).unwrap_or_else(|_| container.log.clone()),
    });
    PodRecord {
        variant: pod.variant.clone(),
        containers: containers.collect(),
    }
}

/// What a command's end is as an exit code, by docker's rules.
fn told(end: Result<ProcessStatus, SandboxError>) -> Tell {
    match end {
        Ok(ProcessStatus::Code(code)) => Tell::Exited {
            code: u8::try_from(code).unwrap_or(u8::MAX),
        },
        Ok(ProcessStatus::Signal(signal)) => Tell::Exited {
            code: u8::try_from(128 + signal).unwrap_or(u8::MAX),
        },
        Err(error) => Tell::NotRun {
            code: match &error {
                SandboxError::Start(StartError::Exec { errno: ENOENT, .. }) => NOT_FOUND,
                SandboxError::Start(StartError::Exec { .. }) => NOT_EXECUTABLE,
                _ => NOT_TRIED,
            },
            cause: match error {
                SandboxError::NoSuchContainer(name) => {
                    format!("container `{name}` was not started, and has no files to look at")
                }
                error => smokegate_image::with_causes(&error),
            },
        },
    }
}
