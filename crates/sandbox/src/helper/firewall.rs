//! What a pod's packets meet: what would leave is refused and counted, refused dials are counted.
//!
//! The counters are read when a verdict is made; until then they cost a comparison a packet. A set that is full
//! stops counting new keys and refuses nothing less.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};

use super::nft::{Base, Batch, ChainKind, Hook, Meta, REG, Refusal, Rule, read_set};
use crate::pod::{Blocked, Dial, Transport};

const LEAVING: &str = "leaving";
const REFUSED: &str = "refused";
const REFUSED_V6: &str = "refused6";
const IPV4: u8 = 2;
const IPV6: u8 = 10;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Elements a set holds: what a container can dial is bounded by nothing else.
const SET_SIZE: u32 = 4096;
/// How nft(8) names the parts of a key: ipv4_addr, ipv6_addr, inet_proto, inet_service, six bits each.
const ADDRESS_PORT: u32 = 7 << 6 | 13;
const ADDRESS6_PORT: u32 = 8 << 6 | 13;
const ADDRESS_PROTOCOL_ADDRESS_PORT: u32 = ((7 << 6 | 12) << 6 | 7) << 6 | 13;
/// Before the redirection, which would hide where a packet was to go (NF_IP_PRI_MANGLE).
const BEFORE_NAT: i32 = -150;
/// NF_IP_PRI_NAT_DST.
const NAT: i32 = -100;

/// Source and destination in an IPv4 header, source in an IPv6 header, ports and flags in a TCP or UDP header.
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;
const SOURCE_V6: u32 = 8;
const SOURCE_PORT: u32 = 0;
const DESTINATION_PORT: u32 = 2;
const SEQUENCE: u32 = 4;
const FLAGS: u32 = 13;
const RST_ACK: u8 = 0x14;

fn ipv4() -> Rule {
    Rule::new().meta_is(Meta::Family, IPV4)
}

/// Rules of the namespace that everything a container sends to the outside passes.
pub(super) struct Border {
    /// The first three bytes of the pod's addresses.
    pub(super) network: [u8; 3],
    /// Where TCP to the outside goes, if it may.
    pub(super) egress: Option<SocketAddrV4>,
    /// Where containers are in this very namespace, so that their dials are refused and redirected here: the
    /// address that our own dials come from.
    pub(super) shared_with: Option<Ipv4Addr>,
}

impl Border {
    /// Sets the rules of the namespace this thread is in.
    pub(super) fn guard(&self) -> io::Result<()> {
        let mut batch = Batch::new();
        batch.counting_set(LEAVING, ADDRESS_PROTOCOL_ADDRESS_PORT, 16, SET_SIZE);
        let chain = "leaving";
        batch.chain(chain, ChainKind::Filter, Hook::Prerouting, BEFORE_NAT);
        self.accept_what_stays(&mut batch, chain);
        if self.egress.is_some() {
            batch.rule(chain, ipv4().meta_is(Meta::Protocol, TCP).accept());
        }
        for protocol in [TCP, UDP] {
            let counted = ipv4()
                .meta_is(Meta::Protocol, protocol)
                .load(Base::Network, SOURCE, 4, REG)
                .load_protocol(REG + 1)
                .load(Base::Network, DESTINATION, 4, REG + 2)
                .load(Base::Transport, DESTINATION_PORT, 2, REG + 3)
                .count_in(LEAVING);
            batch.rule(chain, counted);
        }
        let tcp = ipv4().meta_is(Meta::Protocol, TCP);
        batch.rule(chain, tcp.reject(Refusal::TcpReset));
        batch.rule(chain, ipv4().reject(Refusal::AdminProhibited));
        if let Some(listener) = self.egress {
            // Packets of other namespaces come in, packets of this one go out.
            let hook = match self.shared_with {
                Some(_) => Hook::Output,
                None => Hook::Prerouting,
            };
            batch.chain("egress", ChainKind::Nat, hook, NAT);
            self.accept_what_stays(&mut batch, "egress");
            let redirected = ipv4()
                .meta_is(Meta::Protocol, TCP)
                .set(REG, &listener.ip().octets())
                .set(REG + 4, &listener.port().to_be_bytes());
            batch.rule("egress", redirected.redirect_to(REG, REG + 4));
        }
        if self.shared_with.is_some() {
            count_refusals(&mut batch, self.shared_with);
        }
        batch.commit()
    }

    /// The pod's own addresses, loopback, and what no router passes on: multicast and broadcast.
    fn accept_what_stays(&self, batch: &mut Batch, chain: &str) {
        let to = |bytes: &[u8]| ipv4().bytes_are(Base::Network, DESTINATION, bytes).accept();
        batch.rule(chain, to(&self.network));
        batch.rule(chain, to(&[127]));
        let multicast = ipv4().bits_are(Base::Network, DESTINATION, 0xe0, 0xe0);
        batch.rule(chain, multicast.accept());
    }
}

/// Counts refused dials of the namespace this thread is in.
pub(super) fn count_refused_dials() -> io::Result<()> {
    let mut batch = Batch::new();
    count_refusals(&mut batch, None);
    batch.commit()
}

/// The answer to a SYN that nobody listens for is a reset with an acknowledgement and without a sequence number
/// (RFC 9293, 3.10.7.1); it comes from the address that was dialled, loopback or not.
fn count_refusals(batch: &mut Batch, but_for: Option<Ipv4Addr>) {
    batch.counting_set(REFUSED, ADDRESS_PORT, 8, SET_SIZE);
    batch.counting_set(REFUSED_V6, ADDRESS6_PORT, 20, SET_SIZE);
    batch.chain("refused", ChainKind::Filter, Hook::Input, 0);
    if let Some(own) = but_for {
        let own = ipv4().bytes_are(Base::Network, DESTINATION, &own.octets());
        batch.rule("refused", own.accept());
    }
    let refusal = |family: u8| {
        Rule::new()
            .meta_is(Meta::Family, family)
            .meta_is(Meta::Protocol, TCP)
            .bits_are(Base::Transport, FLAGS, RST_ACK, RST_ACK)
            .bytes_are(Base::Transport, SEQUENCE, &[0; 4])
    };
    let v4 = refusal(IPV4).load(Base::Network, SOURCE, 4, REG).load(
        Base::Transport,
        SOURCE_PORT,
        2,
        REG + 1,
    );
    batch.rule("refused", v4.count_in(REFUSED));
    let v6 = refusal(IPV6).load(Base::Network, SOURCE_V6, 16, REG).load(
        Base::Transport,
        SOURCE_PORT,
        2,
        REG + 4,
    );
    batch.rule("refused", v6.count_in(REFUSED_V6));
}

/// Refused dials of the namespace this thread is in.
pub(super) fn refused_dials() -> io::Result<Vec<Dial>> {
    let elements = [read_set(REFUSED)?, read_set(REFUSED_V6)?].concat();
    let dial = |(key, times): (Vec<u8>, u64)| {
        let (ip, port): (IpAddr, &[u8]) = if let Some((ip, port)) = key.split_first_chunk::<16>() {
            ((*ip).into(), port)
        } else {
            let (ip, port) = key.split_first_chunk::<4>()?;
            ((*ip).into(), port)
        };
        let address = SocketAddr::new(ip, port_of(port)?);
        Some(Dial { address, times })
    };
    Ok(elements.into_iter().filter_map(dial).collect())
}

/// What was kept from leaving through the namespace this thread is in, and who sent it.
pub(super) fn blocked() -> io::Result<Vec<(Ipv4Addr, Blocked)>> {
    let entry = |(key, times): (Vec<u8>, u64)| {
        let (from, rest) = key.split_first_chunk::<4>()?;
        let (protocol, rest) = rest.split_first_chunk::<4>()?;
        let (to, port) = rest.split_first_chunk::<4>()?;
        let transport = match protocol[0] {
            TCP => Transport::Tcp,
            _ => Transport::Udp,
        };
        let address = SocketAddr::new(IpAddr::from(*to), port_of(port)?);
        let blocked = Blocked {
            address,
            transport,
            times,
        };
        Some((Ipv4Addr::from(*from), blocked))
    };
    Ok(read_set(LEAVING)?.into_iter().filter_map(entry).collect())
}

/// A port at the end of a key, in front of its padding.
fn port_of(bytes: &[u8]) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.first_chunk()?))
}
