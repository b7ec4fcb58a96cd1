//! Pods that `--keep-on-failure` left, and the way into them: the run that made them stays and serves a socket in its
//! run directory, so that there is no daemon and nothing that outlives the run.

mod client;
mod server;
mod stream;
mod terminal;

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::{Deserialize, Serialize};
use smokegate_sandbox::TerminalSize;

pub(crate) use client::{exec, logs, stop};
pub(crate) use server::{Keeper, check_that_somebody_can_look, verdict_while_keeping};

/// The socket's name in the run directory; no variant has it, whose directories are beside it.
const SOCKET: &str = ".kept";

/// What a client asks. A connection serves one question.
#[derive(Debug, Serialize, Deserialize)]
enum Ask {
    /// Which pods there are.
    Pods,
    /// Run a command; descriptors: its standard input, output and error, or a socket through which the terminal goes.
    /// The end of the connection kills it.
    Exec {
        variant: String,
        container: String,
        args: Vec<String>,
        terminal: Option<TerminalSize>,
    },
    /// End the pod of a variant, or all.
    Stop { variant: Option<String> },
}

/// What the run answers.
#[derive(Debug, Serialize, Deserialize)]
enum Tell {
    Pods(Vec<PodRecord>),
    /// The command ended, with this code as `docker exec` has it.
    Exited {
        code: u8,
    },
    /// The command did not come to run.
    NotRun {
        code: u8,
        cause: String,
    },
    /// The variants whose pods are ended.
    Stopped(Vec<String>),
}

#[derive(Debug, Serialize, Deserialize)]
struct PodRecord {
    variant: String,
    containers: Vec<ContainerRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
struct ContainerRecord {
    name: String,
    is_running: bool,
    /// Absolute.
    log: PathBuf,
}

/// An unconnected socket, its address in a run directory, and the descriptor that this goes by: the directory's own
/// path may be longer than an address can be (108 bytes, unix(7)).
fn socket_in(run_dir: &Path) -> io::Result<(OwnedFd, SocketAddrUnix, OwnedFd)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(run_dir, flags, Mode::empty())?;
    let kind = SocketType::SEQPACKET;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    let address = format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd());
    let address = SocketAddrUnix::new(address)?;
    Ok((socket, address, dir))
}
