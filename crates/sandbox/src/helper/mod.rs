//! The helper's side of the process boundary: what runs in the re-executed child, and nowhere else.
//!
//! ```text
//!  smokegate (threads, tokio)          smokegate-pod (one thread)            container
//!  ┌───────────────────┐  seqpacket   ┌──────────────────────────┐  clone3  ┌──────────┐
//!  │ Sandbox           │◄────────────►│ unshare, fork → PID 1    │─────────►│ PID 1    │
//!  │ log pipes, ports  │  SCM_RIGHTS  │ of the pod's namespaces  │          │ of its own│
//!  └───────────────────┘              └──────────────────────────┘          └──────────┘
//! ```
//!
//! libcontainer clones with a raw clone3 and runs ordinary Rust in the child, which is sound only in a
//! process with one thread. The pod helper therefore never starts one, and everything dies with it: it is
//! PID 1 of the pod's pid namespace and exits when the control socket ends.

mod binds;
mod container;
mod executor;
mod firewall;
mod id_watch;
mod init;
mod listeners;
mod net_ns;
mod netlink;
mod nft;
mod pod;
mod rights;
mod root;
mod rootfs;
mod store;
mod trial;
mod user_ns;
mod volume;

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::Mode;
use rustix::net::SocketType;

use crate::wire::Wire;

pub use store::{IndexedLayer, LayerIndexer};

/// `argv[0]` of the process that holds a pod.
pub(crate) const POD_ROLE: &str = "smokegate-pod";
/// `argv[0]` of the process that fills the layer store.
pub(crate) const STORE_ROLE: &str = "smokegate-store";
/// `argv[0]` of the process that tries what a pod needs.
pub(crate) const TRIAL_ROLE: &str = "smokegate-trial";

pub(crate) use init::PROGRAM as INIT_PROGRAM;

/// Runs the helper's part and ends the process, if this process was started as a helper; else returns.
///
/// Must be the first statement of `main`, before a thread or a runtime exists. The role is told by
/// `argv[0]` and a socket on standard input, not by the environment, which is the container's business.
///
/// `indexer` is shown every large layer that is unpacked.
pub fn run_if_helper(indexer: Option<LayerIndexer>) {
    let role = std::env::args_os().next().unwrap_or_default();
    let run: &dyn Fn(Wire) -> i32 = if role == OsStr::new(POD_ROLE) {
        &pod::main
    } else if role == OsStr::new(STORE_ROLE) {
        &|wire| store::main(wire, indexer)
    } else if role == OsStr::new(TRIAL_ROLE) {
        &trial::main
    } else {
        return;
    };
    let stdin = std::io::stdin();
    if rustix::net::sockopt::socket_type(stdin.as_fd()).ok() != Some(SocketType::SEQPACKET) {
        return;
    }
    // What ps shows: a program executed from a memfd would be named by the number of its descriptor.
    let name = std::ffi::CString::new(role.as_encoded_bytes()).unwrap_or_default();
    let _ = rustix::thread::set_name(&name);
    // A container's files get the modes that they are asked for, whatever the caller's umask; its processes
    // inherit the one that Docker's have.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    let code = match take_control_socket() {
        Ok(wire) => run(wire),
        Err(_) => 1,
    };
    std::process::exit(code)
}

/// Moves the control socket away from descriptor 0, which then is /dev/null: a container must never
/// inherit it as its standard input.
fn take_control_socket() -> std::io::Result<Wire> {
    let control: OwnedFd = rustix::io::fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3)?;
    let null = std::fs::File::open("/dev/null")?;
    rustix::stdio::dup2_stdin(&null)?;
    Ok(Wire::from_fd(control))
}
