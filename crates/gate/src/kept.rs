//! A pod that is left as its variant ended, for a person to look at.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use smokegate_sandbox::{EnterSpec, ExitStatus, Process, Sandbox, SandboxError};
use tokio::task::JoinSet;

use crate::log_capture::LogCapture;
use crate::network::RunningNetwork;

/// The pod of a variant that did not pass. Dropping it ends every process in it, and waits for that.
pub struct KeptPod {
    /// The variant.
    pub variant: String,
    /// Its containers: the services in their order, then the app.
    pub containers: Vec<KeptContainer>,
    sandbox: Arc<Sandbox>,
    /// What reads its containers' output into their log files.
    pub(crate) captures: Vec<LogCapture>,
    /// What serves its network and forwards its ports.
    _served: (RunningNetwork, Vec<JoinSet<()>>),
}

/// A container of a [`KeptPod`].
#[derive(Debug)]
pub struct KeptContainer {
    /// Its name.
    pub name: String,
    /// Where its output is written; there is no file where it was not started.
    pub log: PathBuf,
    /// Its first process, if that came to run.
    pub(crate) process: Option<Process>,
}

impl fmt::Debug for KeptPod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("KeptPod");
        shown
            .field("variant", &self.variant)
            .finish_non_exhaustive()
    }
}

impl KeptContainer {
    /// Whether its first process runs.
    pub fn is_running(&self) -> bool {
        let process = self.process.as_ref();
        process.is_some_and(|process| process.exit_status().is_none())
    }
}

impl KeptPod {
    pub(crate) fn new(
        variant: String,
        containers: Vec<KeptContainer>,
        sandbox: Arc<Sandbox>,
        served: (RunningNetwork, Vec<JoinSet<()>>),
    ) -> Self {
        Self {
            variant,
            containers,
            sandbox,
            captures: Vec::new(),
            _served: served,
        }
    }

    /// Runs a command in a container, as [`Sandbox::enter`] does.
    ///
    /// # Errors
    /// As there.
    pub async fn enter(
        &self,
        spec: EnterSpec,
        fds: Vec<OwnedFd>,
    ) -> Result<ExitStatus, SandboxError> {
        self.sandbox.enter(spec, fds).await
    }

    /// Ends every process in it, and waits until they are gone.
    pub fn end(&self) {
        self.sandbox.end();
    }
}
