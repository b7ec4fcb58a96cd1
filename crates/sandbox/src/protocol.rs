//! The messages between the two ends. Both are one executable, so they promise no compatibility.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use smokegate_image::{Compression, DiffId, LayerDigest, Limits, StageTimes};

use crate::error::{HostError, StartError};
use crate::pod::{
    ContainerSpec, Delivery, EnterSpec, ExecSpec, ExitStatus, IdRefusal, Listener, PodSpec,
    Reached, Started,
};

/// From the parent, each with a number that the answer repeats.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) body: RequestBody,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum RequestBody {
    /// The first message to a pod helper: make the namespaces. The strings are the paths of the pod's binds;
    /// descriptors: the directory they are beneath, if there are any, then what was found at each.
    Pod(PodSpec, Vec<String>),
    /// The first and only message to a store helper; descriptors: the files that the layers are in.
    Fill(FillRequest),
    /// Start a container; descriptors: its stdout and stderr, then the files that put a process into its cgroups.
    Start(Box<ContainerSpec>),
    /// Run a command in a container; descriptors: its stdout and stderr.
    Exec(ExecSpec),
    /// Run a command in a container or in what it left; descriptors: its stdin, stdout and stderr, or the socket for
    /// its terminal.
    Enter(EnterSpec),
    /// Open a TCP connection to a container's address from inside the pod.
    Connect { container: String, port: u16 },
    /// Send a signal to a container's first process.
    Signal { container: String, signal: i32 },
    /// The helper's ids are mapped.
    IdsMapped,
    /// Remove layers of the store that nobody uses; the only message to a store helper that prunes.
    Prune(PruneRequest),
    /// The only message to a trial helper: make what a pod like this needs, as far as it goes.
    Try(PodSpec),
    /// End what an `Exec` started, named by the number of that request; without an answer.
    Kill { process: u64 },
    /// Say what listens in a container's network namespace.
    Listeners {
        container: String,
        with_programs: bool,
    },
    /// Say what a container reached for in vain; it may have ended.
    Reached { container: String },
}

/// Fill the layer store.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct FillRequest {
    pub(crate) store: PathBuf,
    pub(crate) isolation: crate::Isolation,
    /// Lowest first.
    pub(crate) layers: Vec<LayerSource>,
    pub(crate) limits: Limits,
}

/// One layer; its bytes are a range of a file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LayerSource {
    pub(crate) diff_id: DiffId,
    pub(crate) digest: LayerDigest,
    pub(crate) size: u64,
    /// Which of the descriptors; the layers of an archive share one.
    pub(crate) file: usize,
    pub(crate) offset: u64,
    pub(crate) compression: Compression,
}

/// Prune the layer store.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PruneRequest {
    pub(crate) store: PathBuf,
    pub(crate) isolation: crate::Isolation,
    pub(crate) older_than: Option<Duration>,
}

/// From the helper.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// The answer to a request; a `Connecting` carries the socket.
    Answer { id: u64, body: Answer },
    /// The helper is in its user namespace and waits for its ids.
    MapIds,
    /// What the request of that number started has ended.
    Exited { process: u64, status: ExitStatus },
    /// A call of the container failed for want of ids. Comes before the end of the process that made it.
    Refused {
        container: String,
        refusal: IdRefusal,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// The pod is there; the descriptors are the sockets of its network: UDP and TCP of the name server, and the
    /// listener for egress if it was asked for.
    Ready(NetworkReady),
    /// For each layer, whether it was there before.
    Filled {
        cached: Vec<bool>,
        stages: StageTimes,
    },
    FillFailed(crate::error::FillError),
    /// What was removed.
    Pruned(Vec<smokegate_rootfs::ListedLayer>),
    HostFailed(HostError),
    /// The request's number is what `Exited` will name.
    Started(Started),
    StartFailed(StartError),
    /// The connection was begun; the descriptor is a socket that is connecting.
    Connecting,
    ConnectFailed {
        errno: i32,
    },
    Signalled(Delivery),
    NoSuchContainer,
    Listeners(Vec<Listener>),
    Reached(Reached),
    Tried(Box<Trial>),
}

/// What came of making what a pod needs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Trial {
    /// The namespaces.
    pub(crate) entered: Result<(), HostError>,
    /// Where they were refused: those that are refused one at a time, each with its errno.
    pub(crate) refused_singly: Vec<(String, i32)>,
    /// What is made in them.
    pub(crate) pod: Option<PodTrial>,
}

/// What came of making a pod in its namespaces.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PodTrial {
    pub(crate) root: Result<(), HostError>,
    pub(crate) bridge: Result<(), HostError>,
    /// `None` without a bridge.
    pub(crate) veth: Option<Result<(), HostError>>,
    /// The rules that count.
    pub(crate) counted: Result<(), HostError>,
    /// A network without a bridge; tried where there is none.
    pub(crate) shared: Result<(), HostError>,
    /// The rules that redirect.
    pub(crate) egress: Result<(), HostError>,
}

impl Trial {
    /// One that did not come to anything.
    pub(crate) fn refused(error: HostError) -> Self {
        Self {
            entered: Err(error),
            refused_singly: Vec::new(),
            pod: None,
        }
    }

    /// What keeps a container from starting.
    pub(crate) fn first_error(&self) -> Option<&HostError> {
        let of_pod = self.pod.as_ref().map(|pod| {
            let veth = pod.veth.as_ref().and_then(|veth| veth.as_ref().err());
            pod.root
                .as_ref()
                .err()
                .or(pod.bridge.as_ref().err())
                .or(veth)
        });
        self.entered.as_ref().err().or(of_pod.flatten())
    }
}

/// What the pod's network is like.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NetworkReady {
    /// Names of the containers and their addresses.
    pub(crate) addresses: Vec<(String, Ipv4Addr)>,
    /// Why nothing is counted, where nf_tables cannot be had.
    pub(crate) not_counted: Option<HostError>,
}
