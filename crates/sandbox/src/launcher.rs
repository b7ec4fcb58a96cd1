//! The parent's side: starts a helper, sends it requests and passes on what it reports.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};

use crate::cgroup::Cgroups;
use crate::error::{HostError, SandboxError, Step};
use crate::helper::POD_ROLE;
use crate::host_path::HostPath;
use crate::id_map::IdMap;
use crate::pod::{
    ContainerSpec, Delivery, EnterSpec, ExecSpec, ExitStatus, IdRefusal, Listener, PodSpec,
    Reached, Started,
};
use crate::pod_network::PodNetwork;
use crate::protocol::{Answer, Message, Request, RequestBody};
use crate::sealed;
use crate::wire::{Wire, peer_is_gone};

/// The most of a helper's standard error that is kept: a panic's message.
const MAX_STDERR: u64 = 16 * 1024;

/// A helper process and the socket to it.
pub(crate) struct Helper {
    wire: Wire,
    child: Child,
    stderr: Option<JoinHandle<String>>,
    id_map: IdMap,
}

impl Helper {
    /// Re-executes this program in `role`, with an empty environment and the control socket as its input.
    ///
    /// Must be called on a thread that lives as long as the helper: its death signal follows the thread.
    pub(crate) fn spawn(role: &str, id_map: &IdMap) -> Result<Self, HostError> {
        let (ours, theirs) =
            Wire::pair().map_err(|e| HostError::new(Step::Spawn, "socketpair", e))?;
        let program =
            sealed::executable().map_err(|e| HostError::new(Step::Spawn, "memfd_create", e))?;
        // By itself, as an error of the spawn does not say of which call it is.
        let nowhere = File::options()
            .write(true)
            .open("/dev/null")
            .map_err(|error| HostError::new(Step::Spawn, "open(/dev/null)", error))?;
        let mut child = Command::new(program)
            .arg0(role)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::from(theirs.into_fd()))
            .stdout(nowhere)
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| HostError::new(Step::Spawn, "execve(/proc/self/exe)", error))?;
        let stderr = child.stderr.take().map(|stderr| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                let _ = stderr.take(MAX_STDERR).read_to_end(&mut text);
                String::from_utf8_lossy(&text).into_owned()
            })
        });
        Ok(Self {
            wire: ours,
            child,
            stderr,
            id_map: id_map.clone(),
        })
    }

    /// Another handle of the control socket.
    pub(crate) fn control(&self) -> Result<Wire, HostError> {
        let failed = |error| HostError::new(Step::Spawn, "fcntl(F_DUPFD_CLOEXEC)", error);
        self.wire.try_clone().map_err(failed)
    }

    /// Maps the ids of the helper, which waits for it in its user namespace.
    pub(crate) fn map_ids(&self) -> Result<(), HostError> {
        self.id_map.write(self.child.id())?;
        let mapped = Request {
            id: 0,
            body: RequestBody::IdsMapped,
        };
        self.wire
            .send(&mapped, &[])
            .map_err(|error| HostError::lost(error.to_string()))
    }

    /// Waits for the helper's end, which it has announced.
    pub(crate) fn wait(&mut self) {
        let _ = self.child.wait();
    }

    /// Why the helper is gone: what it wrote to its standard error, and how it ended.
    pub(crate) fn epitaph(&mut self) -> HostError {
        let status = self
            .child
            .wait()
            .map(|status| status.to_string())
            .unwrap_or_default();
        let text = self
            .stderr
            .take()
            .and_then(|thread| thread.join().ok())
            .unwrap_or_default();
        HostError::lost(
            format!("the helper ended ({status}) {}", text.trim())
                .trim_end()
                .to_owned(),
        )
    }
}

/// A running pod. Dropping it ends every process in it, and waits until they are gone.
#[derive(Debug)]
pub struct Sandbox {
    shared: Arc<Shared>,
    reader: Mutex<Option<JoinHandle<()>>>,
    /// Removed after everything that ran in them.
    cgroups: Cgroups,
}

#[derive(Debug)]
struct Shared {
    wire: Wire,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next: u64,
    waiting: HashMap<u64, oneshot::Sender<(Answer, Vec<OwnedFd>)>>,
    /// By the number of the request that started the process.
    exits: HashMap<u64, watch::Sender<Option<End>>>,
    /// By container.
    refusals: HashMap<String, Vec<IdRefusal>>,
    lost: Option<HostError>,
}

/// How a process ended, or why nobody can know.
type End = Result<ExitStatus, HostError>;

/// A container's first process.
#[derive(Clone, Debug)]
pub struct Process {
    /// What is known of its container.
    pub started: Started,
    exit: watch::Receiver<Option<End>>,
}

impl Process {
    /// Its end, if it has ended.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        self.exit.borrow().as_ref()?.as_ref().ok().copied()
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// [`HostError`] when the pod is gone first, which the process did not do.
    pub async fn wait(&mut self) -> Result<ExitStatus, HostError> {
        wait_for(&mut self.exit).await
    }
}

impl Sandbox {
    /// Makes a pod without containers.
    ///
    /// # Errors
    /// [`HostError`], which names the refused step; nothing is left behind but `run_dir`'s subdirectories.
    pub async fn launch(spec: PodSpec, id_map: &IdMap) -> Result<(Self, PodNetwork), HostError> {
        let cgroups = Cgroups::make(&spec.limits, &spec.run_dir)?;
        let mut helper = Helper::spawn(POD_ROLE, id_map)?;
        let wire = helper.control()?;
        let shared = Arc::new(Shared {
            wire,
            state: Mutex::new(State::default()),
        });
        let reader = std::thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.read(&mut helper)
        });
        let sandbox = Self {
            shared,
            reader: Mutex::new(Some(reader)),
            cgroups,
        };
        let binds = spec.binds.clone();
        let paths = binds.iter().map(|bind| bind.path().to_owned()).collect();
        let dir = binds.first().map(HostPath::dir);
        let found = binds.iter().map(HostPath::found);
        let fds: Vec<_> = dir.into_iter().chain(found).collect();
        match sandbox.request(RequestBody::Pod(spec, paths), &fds).await? {
            (Answer::Ready(ready), sockets) => {
                let network = PodNetwork::new(ready, sockets)
                    .ok_or_else(|| HostError::lost("the pod came without its sockets"))?;
                Ok((sandbox, network))
            }
            (answer, _) => Err(unexpected(answer)),
        }
    }

    /// Starts a container. `stdout` and `stderr` become its own; the caller reads the other ends.
    ///
    /// # Errors
    /// [`SandboxError::Start`] when its program did not come to run, else the host's fault.
    pub async fn start(
        &self,
        spec: ContainerSpec,
        stdout: OwnedFd,
        stderr: OwnedFd,
    ) -> Result<Process, SandboxError> {
        let name = spec.name.clone();
        let entrances = self.cgroups.entrances(&name)?;
        let body = RequestBody::Start(Box::new(spec));
        let mut fds = vec![stdout.as_fd(), stderr.as_fd()];
        fds.extend(entrances.iter().map(AsFd::as_fd));
        let pending = self.send(body, &fds)?;
        let number = pending.number;
        let started = started(self.answer_to(pending).await?.0, name)?;
        let exit = self.shared.lock().exit_of(number);
        Ok(Process { started, exit })
    }

    /// Runs a command in a container until it ends. When the future is dropped first, the command is killed.
    ///
    /// # Errors
    /// As [`Sandbox::start`], and [`SandboxError::NoSuchContainer`].
    pub async fn exec(
        &self,
        spec: ExecSpec,
        stdout: OwnedFd,
        stderr: OwnedFd,
    ) -> Result<ExitStatus, SandboxError> {
        let name = spec.container.clone();
        self.run(name, RequestBody::Exec(spec), vec![stdout, stderr])
            .await
    }

    /// Runs a command in a container until it ends: beside its first process, or where that does not run, alone with
    /// its files and network. When the future is dropped first, the command is killed.
    ///
    /// `fds` are its standard input, output and error; with a terminal a [`crate::Wire`] in their place, through which
    /// the terminal's other end comes.
    ///
    /// # Errors
    /// As [`Sandbox::exec`]; [`SandboxError::NoSuchContainer`] when it got no files.
    pub async fn enter(
        &self,
        spec: EnterSpec,
        fds: Vec<OwnedFd>,
    ) -> Result<ExitStatus, SandboxError> {
        let name = spec.container.clone();
        self.run(name, RequestBody::Enter(spec), fds).await
    }

    async fn run(
        &self,
        name: String,
        body: RequestBody,
        fds: Vec<OwnedFd>,
    ) -> Result<ExitStatus, SandboxError> {
        let given: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
        let pending = self.send(body, &given)?;
        // The log ends when nobody can write to it any more.
        drop(fds);
        let running = Running {
            shared: &self.shared,
            number: pending.number,
        };
        started(self.answer_to(pending).await?.0, name)?;
        let mut exit = self.shared.lock().exit_of(running.number);
        Ok(wait_for(&mut exit).await?)
    }

    /// Connects to a port of a container's own address, from inside the pod's network.
    ///
    /// # Errors
    /// What the connection answered, as from `connect(2)` in the pod: `ConnectionRefused` when nothing
    /// listens on that address.
    pub async fn connect(&self, container: &str, port: u16) -> std::io::Result<TcpStream> {
        let body = RequestBody::Connect {
            container: container.to_owned(),
            port,
        };
        let (answer, mut fds) = self
            .request(body, &[])
            .await
            .map_err(std::io::Error::other)?;
        match (answer, fds.pop()) {
            (Answer::Connecting, Some(socket)) => {
                let stream = TcpStream::from_std(std::net::TcpStream::from(socket))?;
                stream.writable().await?;
                match stream.take_error()? {
                    Some(error) => Err(error),
                    None => Ok(stream),
                }
            }
            (Answer::ConnectFailed { errno }, _) => Err(std::io::Error::from_raw_os_error(errno)),
            (Answer::NoSuchContainer, _) => Err(std::io::Error::new(
                std::io::ErrorKind::NotConnected,
                format!("container `{container}` is not running"),
            )),
            (answer, _) => Err(std::io::Error::other(unexpected(answer))),
        }
    }

    /// Sends a signal to a container's first process, and says whether it can be expected to act on it.
    ///
    /// # Errors
    /// [`SandboxError::NoSuchContainer`] when it ended before.
    pub async fn signal(&self, container: &str, signal: i32) -> Result<Delivery, SandboxError> {
        let body = RequestBody::Signal {
            container: container.to_owned(),
            signal,
        };
        match self.request(body, &[]).await?.0 {
            Answer::Signalled(delivery) => Ok(delivery),
            Answer::NoSuchContainer => Err(SandboxError::NoSuchContainer(container.to_owned())),
            answer => Err(unexpected(answer).into()),
        }
    }

    /// The limit on a container's processes, if the kernel has refused it one more.
    pub fn reached_pids(&self, container: &str) -> Option<u32> {
        self.cgroups.reached_pids(container)
    }

    /// The limit on a container's memory in bytes, if the kernel has killed a process of it for that. What is known
    /// of it stays when the container ends.
    pub fn exceeded_memory(&self, container: &str) -> Option<u64> {
        self.cgroups.exceeded_memory(container)
    }

    /// What listens in a container's network namespace, on any address; on request with the programs, which takes a
    /// look at every descriptor of the pod.
    ///
    /// # Errors
    /// [`SandboxError::NoSuchContainer`] when it is not running.
    pub async fn listeners(
        &self,
        container: &str,
        with_programs: bool,
    ) -> Result<Vec<Listener>, SandboxError> {
        let body = RequestBody::Listeners {
            container: container.to_owned(),
            with_programs,
        };
        match self.request(body, &[]).await?.0 {
            Answer::Listeners(listeners) => Ok(listeners),
            Answer::NoSuchContainer => Err(SandboxError::NoSuchContainer(container.to_owned())),
            answer => Err(unexpected(answer).into()),
        }
    }

    /// The calls of a container, and of commands run in it, that failed so far only because the id map of the
    /// isolation level lacks their ids; each once, oldest first.
    pub fn id_refusals(&self, container: &str) -> Vec<IdRefusal> {
        let state = self.shared.lock();
        state.refusals.get(container).cloned().unwrap_or_default()
    }

    /// What a container reached for in vain since it was started; it may have ended. Containers that share a
    /// network namespace have one answer. Empty where nothing is counted.
    ///
    /// # Errors
    /// [`HostError`] when the counters cannot be read.
    pub async fn reached(&self, container: &str) -> Result<Reached, HostError> {
        let body = RequestBody::Reached {
            container: container.to_owned(),
        };
        match self.request(body, &[]).await?.0 {
            Answer::Reached(reached) => Ok(reached),
            answer => Err(unexpected(answer)),
        }
    }

    /// Ends every process in the pod, and waits until they are gone; everything asked of it then fails.
    pub fn end(&self) {
        // The helper sees the end of the socket, ends, and the kernel ends everything in its pid namespace.
        let _ = rustix::net::shutdown(&self.shared.wire, rustix::net::Shutdown::Both);
        let mut reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reader) = reader.take() {
            let _ = reader.join();
        }
    }

    async fn request(
        &self,
        body: RequestBody,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Answer, Vec<OwnedFd>), HostError> {
        let pending = self.send(body, fds)?;
        self.answer_to(pending).await
    }

    fn send(&self, body: RequestBody, fds: &[BorrowedFd<'_>]) -> Result<Pending, HostError> {
        let (sender, answer) = oneshot::channel();
        let number = {
            let mut state = self.shared.lock();
            if let Some(lost) = &state.lost {
                return Err(lost.clone());
            }
            state.next += 1;
            let number = state.next;
            state.waiting.insert(number, sender);
            number
        };
        match self.shared.wire.send(&Request { id: number, body }, fds) {
            // The reader sees the end of the socket too and knows more; its word is the answer.
            Err(error) if !peer_is_gone(&error) => {
                self.shared.lock().waiting.remove(&number);
                Err(HostError::new(Step::HelperLost, "sendmsg", error))
            }
            _ => Ok(Pending { number, answer }),
        }
    }

    async fn answer_to(&self, pending: Pending) -> Result<(Answer, Vec<OwnedFd>), HostError> {
        match pending.answer.await {
            Ok((Answer::HostFailed(error), _)) => Err(error),
            Ok(answer) => Ok(answer),
            Err(_) => {
                let lost = self.shared.lock().lost.clone();
                Err(lost.unwrap_or_else(|| HostError::lost("the helper is gone")))
            }
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.end();
        // Now the cgroups are empty, and dropped with the rest.
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes messages on until the helper is gone, then answers everyone who still waits.
    fn read(&self, helper: &mut Helper) {
        while let Ok(Some((message, fds))) = self.wire.receive::<Message>() {
            let mut state = self.lock();
            match message {
                Message::Answer { id, body } => {
                    if let Some(waiting) = state.waiting.remove(&id) {
                        let _ = waiting.send((body, fds));
                    }
                }
                Message::MapIds => {
                    if let Err(error) = helper.map_ids() {
                        state.lost = Some(error);
                        break;
                    }
                }
                Message::Exited { process, status } => {
                    state.ended(process, status);
                }
                Message::Refused { container, refusal } => {
                    state.refusals.entry(container).or_default().push(refusal);
                }
            }
        }
        let _ = rustix::net::shutdown(&self.wire, rustix::net::Shutdown::Both);
        let epitaph = helper.epitaph();
        let mut state = self.lock();
        let lost = state.lost.get_or_insert(epitaph).clone();
        state.waiting.clear();
        for exit in std::mem::take(&mut state.exits).values() {
            exit.send_if_modified(|end| {
                let unknown = end.is_none();
                end.get_or_insert_with(|| Err(lost.clone()));
                unknown
            });
        }
    }
}

impl State {
    /// What tells the end of a process, whether its start, its end or the pod's was heard of first.
    fn exit_of(&mut self, number: u64) -> watch::Receiver<Option<End>> {
        self.exit_sender(number).subscribe()
    }

    fn ended(&mut self, number: u64, status: ExitStatus) {
        self.exit_sender(number).send_replace(Some(Ok(status)));
    }

    fn exit_sender(&mut self, number: u64) -> &watch::Sender<Option<End>> {
        let lost = self.lost.clone();
        self.exits
            .entry(number)
            .or_insert_with(|| watch::channel(lost.map(Err)).0)
    }
}

/// A request that was sent.
struct Pending {
    number: u64,
    answer: oneshot::Receiver<(Answer, Vec<OwnedFd>)>,
}

/// A command that runs, or is about to; dropping this before it ended kills it.
struct Running<'a> {
    shared: &'a Shared,
    number: u64,
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let end = self.shared.lock().exits.remove(&self.number);
        if end.is_some_and(|end| end.borrow().is_some()) {
            return;
        }
        let process = self.number;
        let body = RequestBody::Kill { process };
        // A helper that is gone has taken the process with it.
        let _ = self.shared.wire.send(&Request { id: 0, body }, &[]);
    }
}

fn started(answer: Answer, container: String) -> Result<Started, SandboxError> {
    match answer {
        Answer::Started(started) => Ok(started),
        Answer::StartFailed(error) => Err(error.into()),
        Answer::NoSuchContainer => Err(SandboxError::NoSuchContainer(container)),
        answer => Err(unexpected(answer).into()),
    }
}

async fn wait_for(exit: &mut watch::Receiver<Option<End>>) -> End {
    match exit.wait_for(Option::is_some).await.as_deref() {
        Ok(Some(end)) => end.clone(),
        _ => Err(HostError::lost("the helper is gone")),
    }
}

fn unexpected(answer: Answer) -> HostError {
    HostError::lost(format!("an unexpected answer: {answer:?}"))
}
