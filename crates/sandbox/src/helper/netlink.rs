//! The few rtnetlink requests a pod's network needs, over one socket, one answer each (rtnetlink(7)).

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, Instant};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkHeader, LinkInfo, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

/// The kernel's worker takes microseconds where it is not behind, and a second where it spares a machine whose
/// interfaces come and go all the time.
const CARRIER_WAIT: Duration = Duration::from_secs(5);
const CARRIER_POLL: Duration = Duration::from_millis(1);

/// A route socket of the network namespace it was opened in.
pub(super) struct RouteSocket {
    socket: Socket,
    sequence: u32,
}

impl RouteSocket {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        Ok(Self {
            socket,
            sequence: 0,
        })
    }

    /// Brings an interface up.
    pub(super) fn set_up(&mut self, index: u32) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message.header.index = index;
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
        self.change(RouteNetlinkMessage::SetLink(message), 0)
    }

    /// Makes a bridge.
    pub(super) fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        message
            .attributes
            .push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(
                InfoKind::Bridge,
            )]));
        self.change(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Makes a veth pair: `name` here, attached to the bridge `master`; `peer` in the namespace `peer_ns`.
    pub(super) fn add_veth(
        &mut self,
        name: &str,
        master: u32,
        peer: &str,
        peer_ns: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let mut other = LinkMessage::default();
        other
            .attributes
            .push(LinkAttribute::IfName(peer.to_owned()));
        other
            .attributes
            .push(LinkAttribute::NetNsFd(peer_ns.as_raw_fd()));
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        message.attributes.push(LinkAttribute::Controller(master));
        message.attributes.push(LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Veth),
            LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(other))),
        ]));
        self.change(
            RouteNetlinkMessage::NewLink(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// The index of an interface.
    pub(super) fn index_of(&mut self, name: &str) -> io::Result<u32> {
        let mut message = LinkMessage::default();
        message
            .attributes
            .push(LinkAttribute::IfName(name.to_owned()));
        Ok(self.link(message)?.index)
    }

    /// Waits until an interface that was brought up, as was its other end, carries packets.
    ///
    /// The kernel acts on a carrier that has appeared in a worker of its own (linkwatch): until then a bridge does not
    /// forward to the port, and what is sent is lost. A lost ARP request is sent again only after a second. From Linux
    /// 6.8 on asking for the interface has the worker's work done first; before, asking again waits for it.
    ///
    /// # Errors
    /// `TimedOut` after [`CARRIER_WAIT`].
    pub(super) fn wait_for_carrier(&mut self, index: u32) -> io::Result<()> {
        let end = Instant::now() + CARRIER_WAIT;
        loop {
            let mut message = LinkMessage::default();
            message.header.index = index;
            if self.link(message)?.flags.contains(LinkFlags::Running) {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(io::Error::from(io::ErrorKind::TimedOut));
            }
            std::thread::sleep(CARRIER_POLL);
        }
    }

    fn link(&mut self, message: LinkMessage) -> io::Result<LinkHeader> {
        match self.ask(RouteNetlinkMessage::GetLink(message), NLM_F_REQUEST)? {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => Ok(link.header),
            NetlinkPayload::Error(error) => Err(error.to_io()),
            _ => Err(io::Error::other("unexpected answer to RTM_GETLINK")),
        }
    }

    /// Gives an interface an address of a network `prefix` bits long.
    pub(super) fn add_address(
        &mut self,
        index: u32,
        address: Ipv4Addr,
        prefix: u8,
    ) -> io::Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = AddressFamily::Inet;
        message.header.prefix_len = prefix;
        message.header.index = index;
        message
            .attributes
            .push(AddressAttribute::Address(IpAddr::V4(address)));
        message
            .attributes
            .push(AddressAttribute::Local(IpAddr::V4(address)));
        self.change(
            RouteNetlinkMessage::NewAddress(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    /// Sends everything else to `gateway`.
    pub(super) fn add_default_route(&mut self, gateway: Ipv4Addr) -> io::Result<()> {
        let attribute = RouteAttribute::Gateway(RouteAddress::Inet(gateway));
        self.add_default(RouteScope::Universe, RouteType::Unicast, vec![attribute])
    }

    /// Sends everything else out of an interface, from `source`.
    pub(super) fn add_default_interface(&mut self, index: u32, source: Ipv4Addr) -> io::Result<()> {
        let attributes = vec![
            RouteAttribute::Oif(index),
            RouteAttribute::PrefSource(RouteAddress::Inet(source)),
        ];
        self.add_default(RouteScope::Link, RouteType::Unicast, attributes)
    }

    /// Answers everything else with EHOSTUNREACH.
    pub(super) fn add_default_unreachable(&mut self) -> io::Result<()> {
        self.add_default(RouteScope::Universe, RouteType::Unreachable, Vec::new())
    }

    fn add_default(
        &mut self,
        scope: RouteScope,
        kind: RouteType,
        attributes: Vec<RouteAttribute>,
    ) -> io::Result<()> {
        let mut message = RouteMessage::default();
        message.header.address_family = AddressFamily::Inet;
        message.header.table = RouteHeader::RT_TABLE_MAIN;
        message.header.protocol = RouteProtocol::Boot;
        message.header.scope = scope;
        message.header.kind = kind;
        message.attributes = attributes;
        self.change(
            RouteNetlinkMessage::NewRoute(message),
            NLM_F_CREATE | NLM_F_EXCL,
        )
    }

    fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        match self.ask(message, NLM_F_REQUEST | NLM_F_ACK | flags)? {
            NetlinkPayload::Error(error) if error.code.is_none() => Ok(()),
            NetlinkPayload::Error(error) => Err(error.to_io()),
            _ => Err(io::Error::other("unexpected answer from rtnetlink")),
        }
    }

    fn ask(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<NetlinkPayload<RouteNetlinkMessage>> {
        self.sequence += 1;
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let (answer, _) = self.socket.recv_from_full()?;
        NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
            .map(|message| message.payload)
            .map_err(io::Error::other)
    }
}
