//! The pod's network: a bridge in the helper's namespace, and for each container a namespace of its own
//! with one veth end, an address and a default route. There is no way out to the host.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::netlink::RouteSocket;
use super::user_ns::unshare;
use crate::error::{HostError, Step};
use crate::pod::Listener;

const BRIDGE: &str = "smokegate0";
const PREFIX: u8 = 24;
/// What a /24 leaves beside the bridge.
const MAX_CONTAINERS: usize = 253;
const LOOPBACK_INDEX: u32 = 1;
/// Docker's default for containers, so that a server that is not root may bind port 80.
const PING_GROUPS: &str = "/proc/sys/net/ipv4/ping_group_range";
const UNPRIVILEGED_PORTS: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// The pod's side of the network.
pub(super) struct PodNetwork {
    namespace: File,
    bridge: u32,
    hosts: Vec<(String, Ipv4Addr)>,
}

/// A container's namespace and its address in it.
pub(super) struct ContainerNetwork {
    pub(super) namespace: File,
    pub(super) address: Ipv4Addr,
}

fn address(host: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 88, 0, host)
}

fn failed(call: &'static str) -> impl Fn(io::Error) -> HostError {
    move |error| HostError::new(Step::Network, call, error)
}

impl PodNetwork {
    /// Sets up the namespace this process is in.
    pub(super) fn new(names: &[String]) -> Result<Self, HostError> {
        let mut route = RouteSocket::open().map_err(failed("socket(NETLINK_ROUTE)"))?;
        route
            .set_up(LOOPBACK_INDEX)
            .map_err(failed("ip link set lo up"))?;
        route
            .add_bridge(BRIDGE)
            .map_err(failed("ip link add type bridge"))?;
        let bridge = route.index_of(BRIDGE).map_err(failed("ip link show"))?;
        route
            .add_address(bridge, address(1), PREFIX)
            .map_err(failed("ip address add"))?;
        route.set_up(bridge).map_err(failed("ip link set up"))?;
        let namespace = own_namespace().map_err(failed("open(/proc/self/ns/net)"))?;
        if names.len() > MAX_CONTAINERS {
            let text = format!("a pod holds at most {MAX_CONTAINERS} containers");
            return Err(failed("ip address add")(io::Error::other(text)));
        }
        let hosts = (2..)
            .map(address)
            .zip(names)
            .map(|(ip, name)| (name.clone(), ip))
            .collect();
        Ok(Self {
            namespace,
            bridge,
            hosts,
        })
    }

    /// The names of all containers and their addresses.
    pub(super) fn hosts(&self) -> &[(String, Ipv4Addr)] {
        &self.hosts
    }

    /// Makes a container's namespace and connects it to the bridge.
    pub(super) fn add_container(&self, name: &str) -> Result<ContainerNetwork, HostError> {
        let known = self.hosts.iter().find(|(known, _)| known == name);
        let own = known.map(|(_, ip)| *ip).ok_or_else(|| {
            failed("ip address add")(io::Error::other(format!(
                "the pod has no container `{name}`"
            )))
        })?;
        let host = own.octets()[3];
        unshare(UnshareFlags::NEWNET).map_err(failed("unshare(CLONE_NEWNET)"))?;
        let namespace = own_namespace().map_err(failed("open(/proc/self/ns/net)"))?;
        self.enter(&self.namespace)?;

        let mut pod_route = RouteSocket::open().map_err(failed("socket(NETLINK_ROUTE)"))?;
        let veth = format!("veth{host}");
        pod_route
            .add_veth(&veth, self.bridge, "eth0", namespace.as_fd())
            .map_err(failed("ip link add type veth"))?;
        let index = pod_route.index_of(&veth).map_err(failed("ip link show"))?;
        pod_route.set_up(index).map_err(failed("ip link set up"))?;

        self.enter(&namespace)?;
        let configured = configure_inside(own);
        self.enter(&self.namespace)?;
        configured?;
        Ok(ContainerNetwork {
            namespace,
            address: own,
        })
    }

    fn enter(&self, namespace: &File) -> Result<(), HostError> {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind)
            .map_err(|errno| failed("setns(CLONE_NEWNET)")(errno.into()))
    }
}

fn own_namespace() -> io::Result<File> {
    File::open("/proc/self/ns/net")
}

fn configure_inside(own: Ipv4Addr) -> Result<(), HostError> {
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
        .add_default_route(address(1))
        .map_err(failed("ip route add default"))?;
    fs::write(UNPRIVILEGED_PORTS, "0").map_err(failed("write(ip_unprivileged_port_start)"))?;
    allow_ping()
}

/// Lets every group send ICMP echo requests, as Docker does (moby, daemon/oci_linux.go). The kernel takes groups of this
/// user namespace only (icmp(7)).
fn allow_ping() -> Result<(), HostError> {
    let failed = failed("write(ping_group_range)");
    let map = fs::read_to_string("/proc/self/gid_map").map_err(&failed)?;
    // INSIDE OUTSIDE COUNT (user_namespaces(7))
    let last = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse::<u64>);
        let (inside, _, count) = (
            numbers.next()?.ok()?,
            numbers.next()?,
            numbers.next()?.ok()?,
        );
        (inside + count).checked_sub(1)
    };
    let last = map.lines().filter_map(last).max().unwrap_or(0);
    let last = last.min(i32::MAX as u64);
    fs::write(PING_GROUPS, format!("0 {last}")).map_err(failed)
}

/// Begins a TCP connection to a container, from the pod's side of the bridge. Does not wait for it.
pub(super) fn begin_connect(address: Ipv4Addr, port: u16) -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    match connect(&socket, &SocketAddr::V4(SocketAddrV4::new(address, port))) {
        Ok(()) | Err(Errno::INPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// What listens in the network namespace of a process, by its `/proc/PID/net/tcp` and `tcp6` (proc(5)).
pub(super) fn listeners(pid: i32) -> Vec<Listener> {
    let mut found = Vec::new();
    for file in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{file}")).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(parse_listener));
    }
    found
}

/// Reads one line of /proc/net/tcp{,6}: `sl local_address rem_address st …`, numbers in hex, addresses in
/// the byte order of the machine, state 0A is LISTEN.
fn parse_listener(line: &str) -> Option<Listener> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    if state != "0A" {
        return None;
    }
    let (hex, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let mut bytes = Vec::new();
    for at in (0..hex.len()).step_by(8) {
        bytes.extend(
            u32::from_str_radix(hex.get(at..at + 8)?, 16)
                .ok()?
                .to_ne_bytes(),
        );
    }
    let ip = match bytes.len() {
        4 => IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => return None,
    };
    Some(Listener {
        address: SocketAddr::new(ip, port),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_read_from_proc() {
        let tcp =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 1";
        assert_eq!(
            parse_listener(tcp).unwrap().address,
            "127.0.0.1:8080".parse().unwrap()
        );
        let tcp6 =
            "   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A";
        assert_eq!(
            parse_listener(tcp6).unwrap().address,
            "[::]:80".parse().unwrap()
        );
        let connected = "   1: 0100007F:1F90 0100007F:1F91 01 00000000:00000000";
        assert!(parse_listener(connected).is_none());
        assert!(parse_listener("").is_none());
    }
}
