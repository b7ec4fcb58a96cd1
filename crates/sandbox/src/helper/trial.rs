//! The trial helper: makes what a pod is made of, goes on where a pod would end, and says what was refused.

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, waitpid};
use rustix::thread::UnshareFlags;

use super::binds::Binds;
use super::net_ns::PodNetwork;
use super::{pod, root, user_ns};
use crate::error::{HostError, Step};
use crate::pod::{NetworkMode, PodSpec};
use crate::protocol::{Answer, Message, PodTrial, Request, RequestBody, Trial};
use crate::wire::Wire;

/// Runs the trial helper; the result is the process's exit code.
pub(super) fn main(wire: Wire) -> i32 {
    let _ = rustix::process::setsid();
    let Ok(Some((
        Request {
            id,
            body: RequestBody::Try(spec),
        },
        _,
    ))) = wire.receive()
    else {
        return 1;
    };
    if let Err(error) = pod::enter_namespaces(&spec, &wire) {
        let refused_singly = match error.step {
            Step::Namespaces => refused_singly(),
            _ => Vec::new(),
        };
        let trial = Trial {
            entered: Err(error),
            refused_singly,
            pod: None,
        };
        return answer(&wire, id, trial);
    }
    // SAFETY: this process has one thread, so the child may run any code.
    match unsafe { libc::fork() } {
        0 => {
            let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
            let trial = Trial {
                entered: Ok(()),
                refused_singly: Vec::new(),
                pod: Some(try_pod(&spec)),
            };
            std::process::exit(answer(&wire, id, trial))
        }
        -1 => {
            let error = std::io::Error::last_os_error();
            let refused = HostError::new(Step::Namespaces, "fork", error);
            answer(&wire, id, Trial::refused(refused))
        }
        child => {
            let _ = waitpid(Pid::from_raw(child), WaitOptions::empty());
            0
        }
    }
}

fn answer(wire: &Wire, id: u64, trial: Trial) -> i32 {
    let body = Answer::Tried(Box::new(trial));
    i32::from(wire.send(&Message::Answer { id, body }, &[]).is_err())
}

/// The namespaces that are refused also when nothing else is asked for, each with its errno.
fn refused_singly() -> Vec<(String, i32)> {
    let all = [
        ("CLONE_NEWNS", UnshareFlags::NEWNS),
        ("CLONE_NEWNET", UnshareFlags::NEWNET),
        ("CLONE_NEWPID", UnshareFlags::NEWPID),
        ("CLONE_NEWIPC", UnshareFlags::NEWIPC),
        ("CLONE_NEWUTS", UnshareFlags::NEWUTS),
        ("CLONE_NEWCGROUP", UnshareFlags::NEWCGROUP),
    ];
    let refused = all.into_iter().filter_map(|(name, flag)| {
        // SAFETY: this process has one thread, so the child may run any code; it ends at once.
        let child = match unsafe { libc::fork() } {
            0 => {
                let answer = user_ns::unshare(flag);
                let errno = answer.err().and_then(|error| error.raw_os_error());
                std::process::exit(errno.unwrap_or(0))
            }
            child => Pid::from_raw(child)?,
        };
        let (_, status) = waitpid(Some(child), WaitOptions::empty()).ok()??;
        let errno = WaitStatus::exit_status(status)?;
        (errno != 0).then(|| (name.to_owned(), errno))
    });
    refused.collect()
}

/// PID 1 of the pod: its root, then its network, whether or not there is a root.
fn try_pod(spec: &PodSpec) -> PodTrial {
    let root = Binds::take(Vec::new(), Vec::new()).and_then(|binds| root::enter(spec, &binds));
    let mut trial = PodTrial {
        root,
        bridge: Ok(()),
        veth: None,
        counted: Ok(()),
        shared: Ok(()),
        egress: Ok(()),
    };
    let counted = |network: &PodNetwork| match network.ready().not_counted {
        Some(error) => Err(error),
        None => Ok(()),
    };
    match PodNetwork::new(spec) {
        Ok((mut network, _sockets)) => {
            let added = spec
                .containers
                .iter()
                .try_for_each(|name| network.add_container(name).map(drop));
            trial.veth = Some(added);
            trial.counted = counted(&network);
        }
        Err(error) => {
            trial.bridge = Err(error);
            let shared = in_own_network(spec, NetworkMode::Shared, false);
            trial.counted = shared.as_ref().map_or(Ok(()), counted);
            trial.shared = shared.map(drop);
        }
    }
    let mode = if trial.bridge.is_ok() {
        NetworkMode::Bridge
    } else {
        NetworkMode::Shared
    };
    trial.egress = in_own_network(spec, mode, true).map(drop);
    trial
}

/// The network of another pod, in a namespace that has nothing yet.
fn in_own_network(
    spec: &PodSpec,
    network: NetworkMode,
    egress: bool,
) -> Result<PodNetwork, HostError> {
    user_ns::unshare(UnshareFlags::NEWNET)
        .map_err(|error| HostError::new(Step::Network, "unshare(CLONE_NEWNET)", error))?;
    let spec = PodSpec {
        network,
        egress,
        ..spec.clone()
    };
    PodNetwork::new(&spec).map(|(network, _sockets)| network)
}
