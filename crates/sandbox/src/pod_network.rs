//! The parent's end of a pod's network: sockets that the helper made in it, and what it is like.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};

use crate::error::HostError;
use crate::protocol::NetworkReady;

/// Sockets inside a pod's network namespace; none of them blocks. The namespace lives until they are closed.
#[derive(Debug)]
pub struct PodNetwork {
    /// Names of the containers and their addresses.
    pub addresses: Vec<(String, Ipv4Addr)>,
    /// Why [`crate::Sandbox::reached`] tells nothing, where nf_tables cannot be had.
    pub not_counted: Option<HostError>,
    /// Where containers ask for names.
    pub dns_udp: UdpSocket,
    /// Where they ask for them over TCP.
    pub dns_tcp: TcpListener,
    /// Where their TCP connections to the outside arrive, if they were asked for.
    pub egress: Option<TcpListener>,
}

impl PodNetwork {
    pub(crate) fn new(ready: NetworkReady, sockets: Vec<OwnedFd>) -> Option<Self> {
        let mut sockets = sockets.into_iter();
        Some(Self {
            addresses: ready.addresses,
            not_counted: ready.not_counted,
            dns_udp: sockets.next()?.into(),
            dns_tcp: sockets.next()?.into(),
            egress: sockets.next().map(Into::into),
        })
    }
}

/// Where a connection was to go before it was redirected to [`PodNetwork::egress`].
///
/// # Errors
/// What `getsockopt(SO_ORIGINAL_DST)` answers: `NotFound` for a connection that was not redirected.
pub fn original_destination(connection: impl AsFd) -> io::Result<SocketAddr> {
    let address = rustix::net::sockopt::ip_original_dst(connection)?;
    Ok(address.into())
}
