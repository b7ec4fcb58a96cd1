//! The pod helper: enters its namespaces, becomes PID 1 of them, and serves requests until the parent is gone.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, wait, waitpid};
use rustix::thread::UnshareFlags;

use super::binds::Binds;
use super::container::{Container, Running, Stdio};
use super::id_watch::IdWatch;
use super::net_ns::PodNetwork;
use super::{root, user_ns};
use crate::error::{HostError, StartError, Step};
use crate::pod::{ContainerSpec, Delivery, EnterSpec, ExecSpec, ExitStatus, PodSpec, Started};
use crate::protocol::{Answer, Message, Request, RequestBody};
use crate::wire::Wire;

/// Runs the pod helper; the result is the process's exit code.
pub(super) fn main(wire: Wire) -> i32 {
    // Its own session: an interrupt typed at a terminal is for smokegate, which then stops the pod.
    let _ = rustix::process::setsid();
    let Ok(Some((
        Request {
            id,
            body: RequestBody::Pod(spec, paths),
        },
        fds,
    ))) = wire.receive()
    else {
        return 1;
    };
    let entered = Binds::take(paths, fds).and_then(|binds| {
        enter_namespaces(&spec, &wire)?;
        Ok(binds)
    });
    let binds = match entered {
        Ok(binds) => binds,
        Err(error) => return refuse(&wire, id, error),
    };
    // SAFETY: this process has one thread, so the child may run any code.
    match unsafe { libc::fork() } {
        0 => {
            let code = first_process(wire, id, &spec, &binds);
            std::process::exit(code)
        }
        -1 => {
            let error = std::io::Error::last_os_error();
            refuse(&wire, id, HostError::new(Step::Namespaces, "fork", error))
        }
        child => {
            drop(wire);
            let _ = waitpid(Pid::from_raw(child), WaitOptions::empty());
            root::remove_scratch();
            0
        }
    }
}

fn refuse(wire: &Wire, id: u64, error: HostError) -> i32 {
    let _ = wire.send(
        &Message::Answer {
            id,
            body: Answer::HostFailed(error),
        },
        &[],
    );
    1
}

/// Makes the user namespace of the pod's level, and the other namespaces in it.
pub(super) fn enter_namespaces(spec: &PodSpec, wire: &Wire) -> Result<(), HostError> {
    user_ns::enter_user_namespace(spec.isolation, wire)?;
    // Only now, as a change of credentials clears it (prctl(2)). The backstop for a parent that dies before
    // the pod exists; afterwards the end of the control socket is the signal that counts.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    user_ns::unshare(flags).map_err(|error| {
        HostError::new(
            Step::Namespaces,
            "unshare(CLONE_NEWNS|NEWNET|NEWPID|NEWIPC|NEWUTS|NEWCGROUP)",
            error,
        )
    })
}

/// PID 1 of the pod: when it ends, the kernel ends everything in it.
fn first_process(wire: Wire, id: u64, spec: &PodSpec, binds: &Binds) -> i32 {
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let ready = root::enter(spec, binds).and_then(|()| {
        let network = PodNetwork::new(spec)?;
        let log = RuntimeLog::install()?;
        Ok((network, log))
    });
    let ((network, sockets), log) = match ready {
        Ok(ready) => ready,
        Err(error) => return refuse(&wire, id, error),
    };
    let body = Answer::Ready(network.ready());
    let fds: Vec<_> = sockets.iter().map(AsFd::as_fd).collect();
    if wire.send(&Message::Answer { id, body }, &fds).is_err() {
        return 0;
    }
    drop(sockets);
    let mut pod = Pod {
        wire,
        spec,
        network,
        log,
        containers: Vec::new(),
        id_watches: Vec::new(),
        processes: Vec::new(),
    };
    match pod.serve() {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

/// A process whose end the parent wants to know, by the number of the request that started it.
struct Process {
    number: u64,
    pid: Pid,
    pidfd: OwnedFd,
}

struct Pod<'a> {
    wire: Wire,
    spec: &'a PodSpec,
    network: PodNetwork,
    log: RuntimeLog,
    containers: Vec<Container>,
    id_watches: Vec<IdWatch>,
    processes: Vec<Process>,
}

impl Pod<'_> {
    /// Answers requests and reports ends, until the parent closes the socket.
    fn serve(&mut self) -> std::io::Result<()> {
        loop {
            if self.wait_for_something()? {
                let Some((request, fds)) = self.wire.receive::<Request>()? else {
                    return Ok(());
                };
                self.answer(request, fds)?;
            }
            self.serve_id_watches()?;
            self.reap()?;
        }
    }

    /// Whether a request is there; else a process ended.
    fn wait_for_something(&self) -> std::io::Result<bool> {
        let mut waiting = vec![PollFd::new(&self.wire, PollFlags::IN)];
        waiting.extend(
            self.processes
                .iter()
                .map(|p| PollFd::new(&p.pidfd, PollFlags::IN)),
        );
        waiting.extend(
            self.id_watches
                .iter()
                .map(|watch| PollFd::new(watch, PollFlags::IN)),
        );
        match poll(&mut waiting, None) {
            Ok(_) | Err(Errno::INTR) => Ok(!waiting[0].revents().is_empty()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Lets stopped calls go on, and drops watches that have nobody left to watch.
    fn serve_id_watches(&mut self) -> std::io::Result<()> {
        let mut watches = std::mem::take(&mut self.id_watches);
        let mut of_use = Vec::with_capacity(watches.len());
        for watch in &mut watches {
            let mut waiting = [PollFd::new(watch, PollFlags::IN)];
            let _ = poll(&mut waiting, Some(&Timespec::default()));
            let events = waiting[0].revents();
            let served = if events.contains(PollFlags::IN) {
                watch.serve()
            } else {
                Ok(None)
            };
            of_use.push(served.is_ok() && !events.intersects(PollFlags::HUP | PollFlags::ERR));
            if let Ok(Some(refusal)) = served {
                let container = watch.container.clone();
                let message = Message::Refused { container, refusal };
                self.wire.send(&message, &[])?;
            }
        }
        let mut of_use = of_use.into_iter();
        watches.retain(|_| of_use.next() == Some(true));
        self.id_watches = watches;
        Ok(())
    }

    /// Collects every child that ended: ours, and orphans that became children of PID 1.
    fn reap(&mut self) -> std::io::Result<()> {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            let Some(at) = self.processes.iter().position(|process| process.pid == pid) else {
                continue;
            };
            let process = self.processes.swap_remove(at).number;
            for container in &mut self.containers {
                container.first.take_if(|first| first.pid == pid);
            }
            self.wire.send(
                &Message::Exited {
                    process,
                    status: exit_status(status),
                },
                &[],
            )?;
        }
        Ok(())
    }

    fn answer(&mut self, request: Request, fds: Vec<OwnedFd>) -> std::io::Result<()> {
        let mut passed: Option<OwnedFd> = None;
        let body = match request.body {
            RequestBody::Start(spec) => self.start(request.id, *spec, fds),
            RequestBody::Exec(spec) => self.exec(request.id, spec, fds),
            RequestBody::Enter(spec) => self.enter(request.id, spec, fds),
            RequestBody::Kill { process } => {
                self.kill(process);
                return Ok(());
            }
            RequestBody::Connect { container, port } => match self.running(&container) {
                None => Answer::NoSuchContainer,
                Some((container, _)) => {
                    match self.network.begin_connect(container.network.address, port) {
                        Ok(socket) => {
                            passed = Some(socket);
                            Answer::Connecting
                        }
                        Err(errno) => Answer::ConnectFailed {
                            errno: errno.raw_os_error(),
                        },
                    }
                }
            },
            RequestBody::Signal { container, signal } => {
                match self
                    .running(&container)
                    .and_then(|(_, first)| send_signal(first.pid, signal))
                {
                    Some(delivery) => Answer::Signalled(delivery),
                    None => Answer::NoSuchContainer,
                }
            }
            RequestBody::Listeners {
                container,
                with_programs,
            } => match self.running(&container) {
                Some((_, first)) => {
                    let pid = first.pid.as_raw_nonzero().get();
                    Answer::Listeners(self.network.listeners(pid, with_programs))
                }
                None => Answer::NoSuchContainer,
            },
            RequestBody::Reached { container } => match self.network.reached(&container) {
                Ok(reached) => Answer::Reached(reached),
                Err(error) => Answer::HostFailed(error),
            },
            RequestBody::Pod(..)
            | RequestBody::Fill(_)
            | RequestBody::Prune(_)
            | RequestBody::Try(_)
            | RequestBody::IdsMapped => Answer::HostFailed(HostError::lost(
                "a pod helper got a request that only starts one",
            )),
        };
        let fds: Vec<_> = passed.iter().map(AsFd::as_fd).collect();
        self.wire.send(
            &Message::Answer {
                id: request.id,
                body,
            },
            &fds,
        )
    }

    fn find(&self, name: &str) -> Option<&Container> {
        self.containers
            .iter()
            .find(|container| container.name == name)
    }

    /// A container whose first process runs.
    fn running(&self, name: &str) -> Option<(&Container, &Running)> {
        let container = self.find(name)?;
        Some((container, container.first.as_ref()?))
    }

    fn start(&mut self, number: u64, spec: ContainerSpec, fds: Vec<OwnedFd>) -> Answer {
        let mut fds = fds;
        let cgroups = fds.split_off(fds.len().min(2));
        let Some(stdio) = outputs(fds) else {
            return missing_descriptors();
        };
        let prepared = Container::prepare(spec, cgroups, self.spec, &mut self.network);
        let mut container = match prepared {
            Ok(container) => container,
            Err(error) => return Answer::StartFailed(error),
        };
        let started = container.start(stdio, &self.log).and_then(|watch| {
            self.id_watches.extend(watch);
            let first = container.first.as_ref();
            first.map_or(Ok(()), |first| self.track(number, first))
        });
        let answer = match started {
            Ok(()) => Answer::Started(Started {
                address: container.network.address,
                not_given: container.not_given.clone(),
                storage: container.storage.clone(),
                mount: container.mount,
            }),
            Err(error) => Answer::StartFailed(error),
        };
        self.containers.push(container);
        answer
    }

    fn exec(&mut self, number: u64, spec: ExecSpec, fds: Vec<OwnedFd>) -> Answer {
        let Some(stdio) = outputs(fds) else {
            return missing_descriptors();
        };
        if self.running(&spec.container).is_none() {
            return Answer::NoSuchContainer;
        }
        self.run_in(number, &spec.container, spec.args, stdio)
    }

    fn enter(&mut self, number: u64, spec: EnterSpec, fds: Vec<OwnedFd>) -> Answer {
        let mut fds = fds.into_iter();
        let stdio = match (spec.terminal, fds.next(), fds.next(), fds.next()) {
            (Some(size), Some(socket), None, None) => Stdio::Terminal { socket, size },
            (None, stdin @ Some(_), Some(stdout), Some(stderr)) => Stdio::Streams {
                stdin,
                stdout,
                stderr,
            },
            _ => return missing_descriptors(),
        };
        self.run_in(number, &spec.container, spec.args, stdio)
    }

    fn run_in(&mut self, number: u64, name: &str, args: Vec<String>, stdio: Stdio) -> Answer {
        let Some(container) = self.find(name) else {
            return Answer::NoSuchContainer;
        };
        let started = Started {
            address: container.network.address,
            not_given: Vec::new(),
            storage: container.storage.clone(),
            mount: container.mount,
        };
        let exec = container.exec(number, args, stdio, &self.log);
        let tracked = exec.and_then(|(running, watch)| {
            self.id_watches.extend(watch);
            self.track(number, &running)
        });
        match tracked {
            Ok(()) => Answer::Started(started),
            Err(error) => Answer::StartFailed(error),
        }
    }

    /// Ends a process, if it is still there, and what it started: it leads a session, and so a process group.
    fn kill(&self, number: u64) {
        if let Some(process) = self.processes.iter().find(|p| p.number == number) {
            let _ = rustix::process::kill_process_group(process.pid, Signal::KILL);
        }
    }

    fn track(&mut self, number: u64, running: &Running) -> Result<(), StartError> {
        let pid = running.pid;
        let pidfd = running.pidfd.try_clone().map_err(|error| {
            StartError::Host(HostError::new(
                Step::Runtime,
                "fcntl(F_DUPFD_CLOEXEC)",
                error,
            ))
        })?;
        self.processes.push(Process { number, pid, pidfd });
        Ok(())
    }
}

fn outputs(fds: Vec<OwnedFd>) -> Option<Stdio> {
    let [stdout, stderr] = <[OwnedFd; 2]>::try_from(fds).ok()?;
    Some(Stdio::Streams {
        stdin: None,
        stdout,
        stderr,
    })
}

fn missing_descriptors() -> Answer {
    Answer::HostFailed(HostError::lost(
        "a request came without its two descriptors",
    ))
}

/// `None` when the process is not there any more.
fn send_signal(pid: Pid, signal: i32) -> Option<Delivery> {
    let delivery = delivery(pid, signal);
    // SAFETY: kill(2) only reads its arguments. rustix's Signal has no real-time signals, which a
    // STOPSIGNAL may be.
    (unsafe { libc::kill(pid.as_raw_nonzero().get(), signal) } == 0).then_some(delivery)
}

/// Looks at what a process has arranged: a handler, or to fetch the signal later: it is blocked then, and for as long
/// as the process waits for it in sigwait(3), in /proc neither blocked nor caught. Inits such as tini do the latter.
/// Masks of /proc/PID/status and the number in /proc/PID/syscall are described in proc(5).
fn delivery(pid: Pid, signal: i32) -> Delivery {
    let place = format!("/proc/{}", pid.as_raw_nonzero());
    let status = std::fs::read_to_string(format!("{place}/status")).unwrap_or_default();
    let has = |mask: &str| {
        let mask = status.lines().find_map(|line| line.strip_prefix(mask));
        let bits = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        bits.is_some_and(|bits| signal > 0 && (bits >> (signal - 1)) & 1 == 1)
    };
    let may_wait_for_it = || match std::fs::read_to_string(format!("{place}/syscall")) {
        Ok(text) => text.split(' ').next() == Some(&libc::SYS_rt_sigtimedwait.to_string()),
        // Nobody knows, where smokegate is root without CAP_SYS_PTRACE.
        Err(_) => true,
    };
    if signal == libc::SIGKILL || has("SigCgt:") || has("SigBlk:") || may_wait_for_it() {
        Delivery::Handled
    } else {
        Delivery::Ignored
    }
}

fn exit_status(status: WaitStatus) -> ExitStatus {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => ExitStatus::Code(code),
        (None, Some(signal)) => ExitStatus::Signal(signal),
        (None, None) => ExitStatus::Code(-1),
    }
}

/// What libcontainer logs as errors, in this process and in the ones it clones: its error values lose their
/// causes on the way, so the records are kept beside them.
#[derive(Clone)]
pub(super) struct RuntimeLog {
    read: Arc<File>,
}

#[derive(Clone)]
struct LogPipe(Arc<File>);

impl Write for LogPipe {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        (&*self.0).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl RuntimeLog {
    fn install() -> Result<Self, HostError> {
        let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
        let (read, write) = rustix::pipe::pipe_with(flags)
            .map_err(|errno| HostError::new(Step::Runtime, "pipe2", errno))?;
        let pipe = LogPipe(Arc::new(File::from(write)));
        let _ = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::ERROR)
            .without_time()
            .with_level(false)
            .with_target(false)
            .with_ansi(false)
            .with_writer(move || pipe.clone())
            .try_init();
        Ok(Self {
            read: Arc::new(File::from(read)),
        })
    }

    pub(super) fn clear(&self) {
        drop(self.take());
    }

    /// The records since the last call, on one line.
    pub(super) fn take(&self) -> String {
        let mut bytes = Vec::new();
        let _ = (&*self.read).read_to_end(&mut bytes); // ends with EAGAIN
        String::from_utf8_lossy(&bytes)
            .lines()
            .collect::<Vec<_>>()
            .join("; ")
    }
}
