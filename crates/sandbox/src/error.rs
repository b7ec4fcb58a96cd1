//! Why a sandbox could not be had, or a container not be started, and whose fault it is.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};
use smokegate_image::UserError;

/// A step of making a sandbox that the host can refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// Starting the helper process.
    Spawn,
    /// `unshare(CLONE_NEWUSER)`.
    UserNamespace,
    /// Writing the id map of the new user namespace.
    IdMap,
    /// `unshare` of the other namespaces.
    Namespaces,
    /// Mounts of the pod's own root.
    Mounts,
    /// A fresh `/proc` in the pod.
    Proc,
    /// The overlay of a container's layers.
    Overlay,
    /// Copying a container's layers, where overlayfs refused.
    Copy,
    /// Interfaces, addresses and routes.
    Network,
    /// nf_tables: what redirects and counts connections.
    Firewall,
    /// libcontainer.
    Runtime,
    /// Limits on memory, processors and processes.
    Cgroup,
    /// The layer store: no space, no permission.
    Store,
    /// The helper ended before it answered.
    HelperLost,
}

impl Step {
    fn describe(self) -> &'static str {
        match self {
            Self::Spawn => "starting the sandbox's helper process",
            Self::UserNamespace => "making a user namespace",
            Self::IdMap => "writing the id map of the user namespace",
            Self::Namespaces => "making the mount, network, pid, ipc and uts namespaces",
            Self::Mounts => "mounting the sandbox's own root",
            Self::Proc => "mounting a fresh /proc",
            Self::Overlay => "joining the layers with overlayfs",
            Self::Copy => "copying the layers, as overlayfs cannot join them",
            Self::Network => "setting up the sandbox's network",
            Self::Firewall => "setting the rules of the sandbox's network",
            Self::Runtime => "running libcontainer",
            Self::Cgroup => "limiting what a container uses",
            Self::Store => "filling the layer store",
            Self::HelperLost => "talking to the sandbox's helper process",
        }
    }
}

/// The host refused a step (exit 3).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HostError {
    /// What was being done.
    pub step: Step,
    /// The call that failed, as one would read it in strace: `unshare(CLONE_NEWUSER)`.
    pub call: String,
    /// Its errno, where there was one.
    pub errno: Option<i32>,
    /// More, where the call does not say it all.
    pub detail: String,
}

impl HostError {
    pub(crate) fn new(step: Step, call: impl Into<String>, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        let detail = if error.raw_os_error().is_some() {
            String::new()
        } else {
            error.to_string()
        };
        Self {
            step,
            call: call.into(),
            errno: error.raw_os_error(),
            detail,
        }
    }

    /// A directory or file that the caller could not make in the store or the report.
    pub fn store(call: &str, error: io::Error) -> Self {
        Self::new(Step::Store, call, error)
    }

    pub(crate) fn lost(detail: impl Into<String>) -> Self {
        Self {
            step: Step::HelperLost,
            call: "recvmsg".into(),
            errno: None,
            detail: detail.into(),
        }
    }

    /// Whether a namespace was refused; ENOSPC then is a limit on their number (unshare(2)).
    pub(crate) fn is_about_namespaces(&self) -> bool {
        self.step == Step::UserNamespace || self.call.starts_with("unshare(")
    }

    /// Whether the disk (or quota) is full.
    pub fn is_out_of_space(&self) -> bool {
        matches!(self.errno, Some(libc::ENOSPC | libc::EDQUOT)) && !self.is_about_namespaces()
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "this host refused {}: {}",
            self.step.describe(),
            self.call
        )?;
        if let Some(errno) = self.errno {
            write!(f, " answered {}", errno_text(errno))?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

impl std::error::Error for HostError {}

/// `EPERM (Operation not permitted)`, for the numbers that matter here.
pub fn errno_text(errno: i32) -> String {
    let text = io::Error::from_raw_os_error(errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let name = match errno {
        libc::EPERM => "EPERM",
        libc::ENOENT => "ENOENT",
        libc::EIO => "EIO",
        libc::ENOEXEC => "ENOEXEC",
        libc::EACCES => "EACCES",
        libc::EBUSY => "EBUSY",
        libc::EEXIST => "EEXIST",
        libc::ENODEV => "ENODEV",
        libc::ENOTDIR => "ENOTDIR",
        libc::EISDIR => "EISDIR",
        libc::EINVAL => "EINVAL",
        libc::ENOSPC => "ENOSPC",
        libc::EROFS => "EROFS",
        libc::ELOOP => "ELOOP",
        libc::EDQUOT => "EDQUOT",
        libc::ENOSYS => "ENOSYS",
        libc::EUSERS => "EUSERS",
        libc::ENOMEM => "ENOMEM",
        libc::EAGAIN => "EAGAIN",
        libc::ECONNREFUSED => "ECONNREFUSED",
        libc::EADDRINUSE => "EADDRINUSE",
        libc::EOPNOTSUPP => "EOPNOTSUPP",
        libc::E2BIG => "E2BIG",
        libc::EMFILE => "EMFILE",
        libc::ENFILE => "ENFILE",
        libc::ETXTBSY => "ETXTBSY",
        _ => return format!("errno {errno} ({text})"),
    };
    format!("{name} ({text})")
}

/// Why a container's first process did not come to run.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum StartError {
    /// The host's fault.
    #[error(transparent)]
    Host(HostError),
    /// `execve` of the entrypoint failed: the image's fault.
    #[error("cannot run `{program}`: {}", errno_text(*errno))]
    Exec {
        /// What was to be run: the resolved path, or the word that PATH does not have.
        program: String,
        /// Whether it was looked for on PATH, and on which.
        path: Option<String>,
        /// ENOENT, EACCES, ENOEXEC, …
        errno: i32,
        /// Whether the file itself is there, when errno is ENOENT: then its interpreter is not.
        file_exists: bool,
    },
    /// The image names a user or group that its files do not have.
    #[error("the image has no {kind} `{name}` in its {file}")]
    NoSuchUser {
        /// `user` or `group`.
        kind: String,
        /// The name.
        name: String,
        /// `/etc/passwd` or `/etc/group`.
        file: String,
    },
    /// The config asks for what cannot be had: WORKDIR is a file, USER is no id.
    #[error("{0}")]
    Image(String),
    /// The id map of this isolation level cannot express what the image asks for.
    #[error("{0}")]
    IdMap(String),
    /// The host, or this isolation level, cannot give it the rights or limits that were asked for.
    #[error("{cause}")]
    NotGiven {
        /// What, and why not.
        cause: String,
        /// What to change.
        hint: String,
    },
}

/// Why layers could not be put into the store.
#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
pub enum FillError {
    /// The layer is corrupt, hostile or unsupported (exit 5).
    #[error("{0}")]
    Image(String),
    /// No space, no permission, an old kernel (exit 3).
    #[error(transparent)]
    Host(HostError),
}

/// What a call on a sandbox can answer instead of its result.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The host's fault.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The container did not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The container is not, or no longer, there.
    #[error("container `{0}` is not running")]
    NoSuchContainer(String),
}

impl StartError {
    /// A `USER` without an identity.
    pub(crate) fn no_identity(error: UserError) -> Self {
        match error {
            UserError::Unknown { kind, name, file } => Self::NoSuchUser {
                kind: kind.to_owned(),
                name,
                file: file.to_owned(),
            },
            too_large @ UserError::TooLarge { .. } => Self::Image(too_large.to_string()),
        }
    }
}
