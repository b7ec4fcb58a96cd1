//! The pod's network: a bridge in the helper's namespace, and for each container a namespace of its own with one
//! veth end, an address and a default route; or one namespace for all. There is no way out to the host.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, connect, getsockname, listen, socket_with,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::firewall::{self, Border};
use super::listeners::listeners;
use super::netlink::RouteSocket;
use super::user_ns::unshare;
use crate::error::{HostError, Step};
use crate::id_calls::IdRanges;
use crate::pod::{Listener, NetworkMode, PodSpec, Reached};
use crate::protocol::NetworkReady;

const BRIDGE: &str = "smokegate0";
const PREFIX: u8 = 24;
/// The first three bytes of every address of a pod.
const NETWORK: [u8; 3] = [10, 88, 0];
/// What a /24 leaves beside the bridge.
const MAX_CONTAINERS: usize = 253;
const LOOPBACK_INDEX: u32 = 1;
const PING_GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";
/// Docker's default for containers, so that a server that is not root may bind port 80.
const UNPRIVILEGED_PORTS: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";
const DNS_PORT: u16 = 53;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// The pod's side of the network.
pub(super) struct PodNetwork {
    namespace: File,
    /// `None` where all containers share this namespace.
    bridge: Option<u32>,
    hosts: Vec<(String, Ipv4Addr)>,
    /// Namespaces of the containers that were started; they outlive them, for what they counted.
    containers: Vec<(String, File)>,
    not_counted: Option<HostError>,
    /// Our own listeners, which are no container's.
    own: Vec<SocketAddr>,
}

/// A container's namespace and its address in it.
pub(super) struct ContainerNetwork {
    pub(super) namespace: File,
    pub(super) address: Ipv4Addr,
}

/// The address of the bridge, or of everything in a shared namespace; the name server's in both.
pub(super) const OWN_ADDRESS: Ipv4Addr = address(1);

/// Where our own dials come from in a shared namespace, so that they are not taken for a container's.
const OUTSIDE_ADDRESS: Ipv4Addr = address(2);

const fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(NETWORK[0], NETWORK[1], NETWORK[2], host)
}

fn failed(call: &'static str) -> impl Fn(io::Error) -> HostError {
    move |error| HostError::new(Step::Network, call, error)
}

impl PodNetwork {
    /// Sets up the namespace this process is in. The sockets are those of [`NetworkReady`]'s message.
    pub(super) fn new(spec: &PodSpec) -> Result<(Self, Vec<OwnedFd>), HostError> {
        let names = &spec.containers;
        if names.len() > MAX_CONTAINERS {
            let text = format!("a pod holds at most {MAX_CONTAINERS} containers");
            return Err(failed("ip address add")(io::Error::other(text)));
        }
        let mut route = RouteSocket::open().map_err(failed("socket(NETLINK_ROUTE)"))?;
        route
            .set_up(LOOPBACK_INDEX)
            .map_err(failed("ip link set lo up"))?;
        let bridge = match spec.network {
            NetworkMode::Bridge => Some(add_bridge(&mut route)?),
            NetworkMode::Shared => {
                for own in [OWN_ADDRESS, OUTSIDE_ADDRESS] {
                    route
                        .add_address(LOOPBACK_INDEX, own, 32)
                        .map_err(failed("ip address add dev lo"))?;
                }
                allow_docker_defaults()?;
                None
            }
        };
        let hosts = match spec.network {
            NetworkMode::Bridge => (2..).map(address).zip(names).collect::<Vec<_>>(),
            NetworkMode::Shared => names.iter().map(|name| (OWN_ADDRESS, name)).collect(),
        };
        let mut sockets = vec![
            name_server_socket(SocketType::DGRAM).map_err(failed("bind(10.88.0.1:53/udp)"))?,
            name_server_socket(SocketType::STREAM).map_err(failed("bind(10.88.0.1:53/tcp)"))?,
        ];
        let mut own = vec![SocketAddr::from((OWN_ADDRESS, DNS_PORT))];
        let mut egress = None;
        if spec.egress {
            let (socket, address) = egress_listener().map_err(failed("bind(10.88.0.1:0)"))?;
            sockets.push(socket);
            own.push(address.into());
            egress = Some(address);
        }
        let border = Border {
            network: NETWORK,
            egress,
            shared_with: bridge.is_none().then_some(OUTSIDE_ADDRESS),
        };
        let guarded = border
            .guard()
            .map_err(|error| HostError::new(Step::Firewall, "nft add table inet", error));
        if spec.egress {
            guarded.clone()?;
        }
        let not_counted = guarded.err();
        if bridge.is_none() {
            let routed = match not_counted {
                None => route.add_default_interface(LOOPBACK_INDEX, OWN_ADDRESS),
                Some(_) => route.add_default_unreachable(),
            };
            routed.map_err(failed("ip route add default"))?;
        }
        let network = Self {
            namespace: own_namespace().map_err(failed("open(/proc/thread-self/ns/net)"))?,
            bridge,
            hosts: hosts
                .into_iter()
                .map(|(ip, name)| (name.clone(), ip))
                .collect(),
            containers: Vec::new(),
            not_counted,
            own,
        };
        Ok((network, sockets))
    }

    /// What the parent needs to know.
    pub(super) fn ready(&self) -> NetworkReady {
        NetworkReady {
            addresses: self.hosts.clone(),
            not_counted: self.not_counted.clone(),
        }
    }

    /// The names of all containers and their addresses.
    pub(super) fn hosts(&self) -> &[(String, Ipv4Addr)] {
        &self.hosts
    }

    /// Makes a container's namespace and connects it to the bridge; or gives it the one that all share.
    pub(super) fn add_container(&mut self, name: &str) -> Result<ContainerNetwork, HostError> {
        let known = self.hosts.iter().find(|(known, _)| known == name);
        let own = known.map(|(_, ip)| *ip).ok_or_else(|| {
            failed("ip address add")(io::Error::other(format!(
                "the pod has no container `{name}`"
            )))
        })?;
        let namespace = match self.bridge {
            Some(bridge) => self.connected_namespace(bridge, own)?,
            None => self
                .namespace
                .try_clone()
                .map_err(failed("fcntl(F_DUPFD_CLOEXEC)"))?,
        };
        let kept = namespace
            .try_clone()
            .map_err(failed("fcntl(F_DUPFD_CLOEXEC)"))?;
        self.containers.push((name.to_owned(), kept));
        Ok(ContainerNetwork {
            namespace,
            address: own,
        })
    }

    fn connected_namespace(&self, bridge: u32, own: Ipv4Addr) -> Result<File, HostError> {
        let host = own.octets()[3];
        unshare(UnshareFlags::NEWNET).map_err(failed("unshare(CLONE_NEWNET)"))?;
        let namespace = own_namespace().map_err(failed("open(/proc/thread-self/ns/net)"))?;
        self.enter(&self.namespace)?;

        let mut pod_route = RouteSocket::open().map_err(failed("socket(NETLINK_ROUTE)"))?;
        let veth = format!("veth{host}");
        pod_route
            .add_veth(&veth, bridge, "eth0", namespace.as_fd())
            .map_err(failed("ip link add type veth"))?;
        let index = pod_route.index_of(&veth).map_err(failed("ip link show"))?;
        pod_route.set_up(index).map_err(failed("ip link set up"))?;

        self.inside(&namespace, || self.configure_inside(own))?;
        for interface in [index, bridge] {
            pod_route
                .wait_for_carrier(interface)
                .map_err(failed("waiting for the carrier of the bridge's port"))?;
        }
        Ok(namespace)
    }

    /// What a container reached for in vain so far. Containers of one namespace have one answer.
    pub(super) fn reached(&self, name: &str) -> Result<Reached, HostError> {
        if self.not_counted.is_some() {
            return Ok(Reached::default());
        }
        let Some((_, namespace)) = self.containers.iter().find(|(known, _)| known == name) else {
            return Ok(Reached::default());
        };
        let read = |error| HostError::new(Step::Firewall, "nft list set inet", error);
        let dials = self.inside(namespace, || firewall::refused_dials().map_err(read))?;
        let of_pod = |ip: IpAddr| match ip {
            IpAddr::V4(ip) => ip.is_loopback() || ip.octets()[..3] == NETWORK,
            IpAddr::V6(_) => true,
        };
        // What was kept from leaving was reset as well, and is counted at the border.
        let refused = dials.into_iter().filter(|dial| of_pod(dial.address.ip()));
        let own = self.hosts.iter().find(|(known, _)| known == name);
        let blocked = firewall::blocked().map_err(read)?.into_iter();
        let blocked = blocked.filter(|(from, _)| own.is_some_and(|(_, ip)| ip == from));
        Ok(Reached {
            refused: refused.collect(),
            blocked: blocked.map(|(_, blocked)| blocked).collect(),
        })
    }

    /// Begins a TCP connection to a container, from the pod's side of the bridge. Does not wait for it.
    pub(super) fn begin_connect(&self, address: Ipv4Addr, port: u16) -> Result<OwnedFd, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        if self.bridge.is_none() {
            bind(&socket, &SocketAddrV4::new(OUTSIDE_ADDRESS, 0))?;
        }
        match connect(&socket, &SocketAddr::V4(SocketAddrV4::new(address, port))) {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
            Err(errno) => Err(errno),
        }
    }

    /// What listens in the network namespace of a process, but for what we listen on.
    pub(super) fn listeners(&self, pid: i32, with_programs: bool) -> Vec<Listener> {
        let mut found = listeners(pid, with_programs);
        found.retain(|listener| !self.own.contains(&listener.address));
        found
    }

    /// Does something in a container's namespace.
    pub(super) fn inside<T>(
        &self,
        namespace: &File,
        work: impl FnOnce() -> Result<T, HostError>,
    ) -> Result<T, HostError> {
        self.enter(namespace)?;
        let done = work();
        self.enter(&self.namespace)?;
        done
    }

    fn enter(&self, namespace: &File) -> Result<(), HostError> {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind)
            .map_err(|errno| failed("setns(CLONE_NEWNET)")(errno.into()))
    }

    fn configure_inside(&self, own: Ipv4Addr) -> Result<(), HostError> {
        let mut route = RouteSocket::open().map_err(failed("socket(NETLINK_ROUTE)"))?;
        route
            .set_up(LOOPBACK_INDEX)
            .map_err(failed("ip link set lo up"))?;
        let eth0 = route
            .index_of("eth0")
            .map_err(failed("ip link show eth0"))?;
        route
            .add_address(eth0, own, PREFIX)
            .map_err(failed("ip address add"))?;
        route.set_up(eth0).map_err(failed("ip link set eth0 up"))?;
        route
            .wait_for_carrier(eth0)
            .map_err(failed("waiting for the carrier of eth0"))?;
        match self.not_counted {
            None => {
                route
                    .add_default_route(OWN_ADDRESS)
                    .map_err(failed("ip route add default"))?;
                firewall::count_refused_dials()
                    .map_err(|error| HostError::new(Step::Firewall, "nft add table inet", error))?;
            }
            // Nobody at the bridge would refuse what is sent there: it would be lost without a word.
            Some(_) => route
                .add_default_unreachable()
                .map_err(failed("ip route add unreachable default"))?,
        }
        allow_docker_defaults()
    }
}

fn add_bridge(route: &mut RouteSocket) -> Result<u32, HostError> {
    route
        .add_bridge(BRIDGE)
        .map_err(failed("ip link add type bridge"))?;
    let bridge = route.index_of(BRIDGE).map_err(failed("ip link show"))?;
    route
        .add_address(bridge, OWN_ADDRESS, PREFIX)
        .map_err(failed("ip address add"))?;
    route.set_up(bridge).map_err(failed("ip link set up"))?;
    Ok(bridge)
}

/// What Docker lets every process of a container do.
fn allow_docker_defaults() -> Result<(), HostError> {
    fs::write(UNPRIVILEGED_PORTS, "0").map_err(failed("write(ip_unprivileged_port_start)"))?;
    allow_ping()
}

/// Lets every group send ICMP echo requests, as Docker does (moby, daemon/oci_linux.go). The kernel takes groups of this
/// user namespace only (icmp(7)).
fn allow_ping() -> Result<(), HostError> {
    let failed = failed("write(ping_group_range)");
    let map = fs::read_to_string("/proc/self/gid_map").map_err(&failed)?;
    let last = IdRanges::parse(&map).last().unwrap_or(0);
    let last = last.min(i32::MAX.cast_unsigned());
    fs::write(PING_GROUPS, format!("0 {last}")).map_err(failed)
}

fn name_server_socket(kind: SocketType) -> io::Result<OwnedFd> {
    let socket = own_socket(kind, DNS_PORT)?;
    if kind == SocketType::STREAM {
        listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

fn egress_listener() -> io::Result<(OwnedFd, SocketAddrV4)> {
    let socket = own_socket(SocketType::STREAM, 0)?;
    listen(&socket, BACKLOG)?;
    let address = SocketAddrV4::try_from(getsockname(&socket)?)?;
    Ok((socket, address))
}

fn own_socket(kind: SocketType, port: u16) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, kind, flags, None)?;
    bind(&socket, &SocketAddrV4::new(OWN_ADDRESS, port))?;
    Ok(socket)
}

fn own_namespace() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};
    use rustix::net::sockopt::socket_error;
    use smokegate_test_support::{Need, require};

    use super::*;
    use crate::Isolation;

    const ROUNDS: u32 = 40;

    /// Makes the network of a pod with one container, asks for a port of it at once, and says what came back.
    fn first_answer() -> Result<(), Errno> {
        unshare(UnshareFlags::NEWNET).unwrap();
        let spec = PodSpec {
            isolation: Isolation::Root,
            store: "/".into(),
            run_dir: "/".into(),
            containers: vec!["app".into()],
            binds: Vec::new(),
            limits: Vec::new(),
            writes_to_disk: false,
            network: NetworkMode::Bridge,
            egress: false,
        };
        let (mut network, _sockets) = PodNetwork::new(&spec).unwrap();
        // A lost request for the container's link address is not repeated, but answered with EHOSTUNREACH.
        fs::write("/proc/sys/net/ipv4/neigh/smokegate0/mcast_solicit", "1").unwrap();
        let app = network.add_container("app").unwrap();
        let socket = network.begin_connect(app.address, 8080)?;
        poll(&mut [PollFd::new(&socket, PollFlags::OUT)], None).unwrap();
        socket_error(&socket).unwrap()
    }

    #[test]
    fn root_the_first_packet_reaches_a_container() {
        if !require(Need::Root) {
            return;
        }
        // Threads, as each leaves its namespace for another one.
        for _ in 0..ROUNDS {
            let answer = std::thread::spawn(first_answer).join().unwrap();
            assert_eq!(answer, Err(Errno::CONNREFUSED));
        }
    }
}
