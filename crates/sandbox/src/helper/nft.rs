//! The few nf_tables requests a pod's network needs, encoded here (linux/netfilter/nf_tables.h, nfnetlink.h).
//!
//! Requests go as one batch, which the kernel takes whole or not at all, and it answers within `send`.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR,
};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_NETFILTER;

const SUBSYS_NFTABLES: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = 0;
const NEW_CHAIN: u16 = 3;
const NEW_RULE: u16 = 6;
const NEW_SET: u16 = 9;
const NEW_SET_ELEMENT: u16 = 12;
const GET_SET_ELEMENT: u16 = 13;

/// One table for IPv4 and IPv6 (NFPROTO_INET).
const FAMILY: u8 = 1;
const TABLE: &str = "smokegate";
const NESTED: u16 = 0x8000;
/// Length and type of a message, its sequence and port; then family, version and resource of nfnetlink.
const HEADER: usize = 16;
const NETFILTER_HEADER: usize = 4;

/// Registers of 4 bytes; the first is where the one of 16 bytes begins that comparisons use.
pub(super) const REG: u32 = 8;

/// Where in a packet's life a chain looks at it.
#[derive(Clone, Copy)]
pub(super) enum Hook {
    Prerouting = 0,
    Input = 1,
    Output = 3,
}

/// What kind of chain it is.
#[derive(Clone, Copy)]
pub(super) enum ChainKind {
    Filter,
    Nat,
}

/// Where in a packet an offset counts from.
#[derive(Clone, Copy)]
pub(super) enum Base {
    Network = 1,
    Transport = 2,
}

/// What is known of a packet beside its bytes.
#[derive(Clone, Copy)]
pub(super) enum Meta {
    /// 2 for IPv4, 10 for IPv6.
    Family = 15,
    /// The transport protocol.
    Protocol = 16,
}

/// How a packet is refused.
#[derive(Clone, Copy)]
pub(super) enum Refusal {
    AdminProhibited,
    TcpReset,
}

/// Attributes of a message: length and type of 16 bits each, then the value, padded to 4 bytes.
#[derive(Default)]
struct Attributes(Vec<u8>);

impl Attributes {
    fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn text(self, kind: u16, value: &str) -> Self {
        self.bytes(kind, &[value.as_bytes(), b"\0"].concat())
    }

    fn number(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    fn nested(self, kind: u16, inner: Self) -> Self {
        self.bytes(kind | NESTED, &inner.0)
    }
}

fn attributes() -> Attributes {
    Attributes::default()
}

/// A value as comparisons and assignments take it (NFTA_DATA_VALUE).
fn value(bytes: &[u8]) -> Attributes {
    attributes().bytes(1, bytes)
}

/// A rule: expressions, each done as long as the one before it did not say no.
#[derive(Default)]
pub(super) struct Rule(Attributes);

impl Rule {
    pub(super) fn new() -> Self {
        Self::default()
    }

    fn expression(self, name: &str, data: Attributes) -> Self {
        let expression = attributes().text(1, name).nested(2, data);
        Self(self.0.nested(1, expression))
    }

    fn load_meta(self, key: Meta, register: u32) -> Self {
        let data = attributes().number(1, register).number(2, key as u32);
        self.expression("meta", data)
    }

    /// Copies bytes of the packet into a register.
    pub(super) fn load(self, base: Base, offset: u32, length: u32, register: u32) -> Self {
        let data = attributes().number(1, register).number(2, base as u32);
        self.expression("payload", data.number(3, offset).number(4, length))
    }

    /// Copies the transport protocol into a register.
    pub(super) fn load_protocol(self, register: u32) -> Self {
        self.load_meta(Meta::Protocol, register)
    }

    fn is(self, wanted: &[u8]) -> Self {
        let data = attributes().number(1, REG).number(2, 0);
        self.expression("cmp", data.nested(3, value(wanted)))
    }

    /// Goes on if it is so.
    pub(super) fn meta_is(self, key: Meta, wanted: u8) -> Self {
        self.load_meta(key, REG).is(&[wanted])
    }

    /// Goes on if these bytes of the packet are so.
    pub(super) fn bytes_are(self, base: Base, offset: u32, wanted: &[u8]) -> Self {
        let length = u32::try_from(wanted.len()).unwrap_or_default();
        self.load(base, offset, length, REG).is(wanted)
    }

    /// Goes on if these bits of one byte of the packet are so.
    pub(super) fn bits_are(self, base: Base, offset: u32, mask: u8, wanted: u8) -> Self {
        let data = attributes().number(1, REG).number(2, REG).number(3, 1);
        let data = data.nested(4, value(&[mask])).nested(5, value(&[0]));
        self.load(base, offset, 1, REG)
            .expression("bitwise", data)
            .is(&[wanted])
    }

    /// Puts a value into a register.
    pub(super) fn set(self, register: u32, bytes: &[u8]) -> Self {
        let data = attributes().number(1, register).nested(2, value(bytes));
        self.expression("immediate", data)
    }

    /// Counts the packet at the key that stands in the registers. Stops the rule when the set is full.
    pub(super) fn count_in(self, set: &str) -> Self {
        let counter = attributes().text(1, "counter").nested(2, attributes());
        let data = attributes().text(1, set).number(3, 0).number(4, REG);
        self.expression("dynset", data.nested(7, counter))
    }

    /// Lets the packet pass this chain.
    pub(super) fn accept(self) -> Self {
        const NF_ACCEPT: u32 = 1;
        let verdict = attributes().nested(2, attributes().number(1, NF_ACCEPT));
        self.expression("immediate", attributes().number(1, 0).nested(2, verdict))
    }

    /// Drops the packet and says so to its sender.
    pub(super) fn reject(self, refusal: Refusal) -> Self {
        let (kind, code) = match refusal {
            Refusal::TcpReset => (1, 0),
            Refusal::AdminProhibited => (2, 3),
        };
        self.expression("reject", attributes().number(1, kind).bytes(2, &[code]))
    }

    /// Sends the connection to the address and port in these registers.
    pub(super) fn redirect_to(self, address: u32, port: u32) -> Self {
        const DNAT: u32 = 1;
        const IPV4: u32 = 2;
        let data = attributes().number(1, DNAT).number(2, IPV4);
        let data = data.number(3, address).number(4, address);
        self.expression("nat", data.number(5, port).number(6, port))
    }
}

/// Requests that take effect together.
pub(super) struct Batch {
    bytes: Vec<u8>,
    messages: u32,
}

impl Batch {
    /// Begins one that makes the table.
    pub(super) fn new() -> Self {
        let mut batch = Self {
            bytes: Vec::new(),
            messages: 0,
        };
        batch.bytes.extend(message(
            BATCH_BEGIN,
            NLM_F_REQUEST,
            0,
            0,
            SUBSYS_NFTABLES,
            &attributes(),
        ));
        batch.push(NEW_TABLE, 0, attributes().text(1, TABLE));
        batch
    }

    fn push(&mut self, kind: u16, flags: u16, attributes: Attributes) {
        self.messages += 1;
        let kind = SUBSYS_NFTABLES << 8 | kind;
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | flags;
        self.bytes
            .extend(message(kind, flags, self.messages, FAMILY, 0, &attributes));
    }

    /// Makes a set of `length` bytes long keys that packets are counted in, of at most `size` elements. The type is
    /// what nft(8) shows the keys as: the kernel does not look at it.
    pub(super) fn counting_set(&mut self, name: &str, kind: u32, length: u32, size: u32) {
        const EVALUATED: u32 = 0x20;
        let data = attributes().text(1, TABLE).text(2, name);
        let data = data.number(3, EVALUATED).number(4, kind).number(5, length);
        let data = data.nested(9, attributes().number(1, size));
        let id = self.messages;
        self.push(NEW_SET, 0, data.number(10, id));
    }

    /// Makes a chain that lets pass what no rule of it stops.
    pub(super) fn chain(&mut self, name: &str, kind: ChainKind, hook: Hook, priority: i32) {
        let kind = match kind {
            ChainKind::Filter => "filter",
            ChainKind::Nat => "nat",
        };
        let hook = attributes()
            .number(1, hook as u32)
            .bytes(2, &priority.to_be_bytes());
        let data = attributes().text(1, TABLE).text(3, name).nested(4, hook);
        self.push(NEW_CHAIN, 0, data.text(7, kind));
    }

    /// Adds a rule at the end of a chain.
    pub(super) fn rule(&mut self, chain: &str, rule: Rule) {
        let data = attributes().text(1, TABLE).text(2, chain);
        self.push(NEW_RULE, NLM_F_APPEND, data.nested(4, rule.0));
    }

    /// Hands the batch to the kernel, for the network namespace this thread is in.
    pub(super) fn commit(mut self) -> io::Result<()> {
        let end = message(
            BATCH_END,
            NLM_F_REQUEST,
            0,
            0,
            SUBSYS_NFTABLES,
            &attributes(),
        );
        self.bytes.extend(end);
        let socket = open()?;
        socket.send(&self.bytes, 0)?;
        let mut acknowledged = 0;
        while acknowledged < self.messages {
            for answer in messages(&receive(&socket)?) {
                if answer.kind != NLMSG_ERROR {
                    continue;
                }
                error_of(answer.body)?;
                acknowledged += 1;
            }
        }
        Ok(())
    }
}

/// Elements of a counting set: the key, and how many packets it counted.
pub(super) fn read_set(name: &str) -> io::Result<Vec<(Vec<u8>, u64)>> {
    let socket = open()?;
    let kind = SUBSYS_NFTABLES << 8 | GET_SET_ELEMENT;
    let data = attributes().text(1, TABLE).text(2, name);
    let flags = NLM_F_REQUEST | NLM_F_DUMP;
    socket.send(&message(kind, flags, 1, FAMILY, 0, &data), 0)?;
    let mut found = Vec::new();
    loop {
        for answer in messages(&receive(&socket)?) {
            match answer.kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => error_of(answer.body)?,
                kind if kind == SUBSYS_NFTABLES << 8 | NEW_SET_ELEMENT => {
                    let body = answer.body.get(NETFILTER_HEADER..).unwrap_or_default();
                    let list = child(body, 3).unwrap_or_default();
                    found.extend(parse(list).filter_map(|(_, element)| counted(element)));
                }
                _ => {}
            }
        }
    }
}

/// Key and packets of one element.
fn counted(element: &[u8]) -> Option<(Vec<u8>, u64)> {
    let key = child(child(element, 1)?, 1)?;
    // A kernel that knows of several expressions per element answers with a list of one.
    let counter = child(element, 7).or_else(|| child(child(element, 11)?, 1))?;
    let packets = child(child(counter, 2)?, 2)?;
    Some((key.to_vec(), u64::from_be_bytes(packets.try_into().ok()?)))
}

fn open() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_NETFILTER)?;
    socket.bind_auto()?;
    Ok(socket)
}

/// The next datagram of answers; they are there when `send` returns.
fn receive(socket: &Socket) -> io::Result<Vec<u8>> {
    socket.set_non_blocking(true)?;
    Ok(socket.recv_from_full()?.0)
}

fn message(
    kind: u16,
    flags: u16,
    sequence: u32,
    family: u8,
    resource: u16,
    attributes: &Attributes,
) -> Vec<u8> {
    let length = HEADER + NETFILTER_HEADER + attributes.0.len();
    let mut bytes = Vec::with_capacity(length);
    bytes.extend(u32::try_from(length).unwrap_or(u32::MAX).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend(sequence.to_ne_bytes());
    bytes.extend([0; 4]);
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(&attributes.0);
    bytes
}

struct Answer<'a> {
    kind: u16,
    body: &'a [u8],
}

/// The messages of a datagram.
fn messages(mut bytes: &[u8]) -> impl Iterator<Item = Answer<'_>> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?) as usize;
        let kind = u16::from_ne_bytes(bytes.get(4..6)?.try_into().ok()?);
        let body = bytes.get(HEADER..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(Answer { kind, body })
    })
}

/// What an NLMSG_ERROR says; 0 is an acknowledgement.
fn error_of(body: &[u8]) -> io::Result<()> {
    let code = body.get(..4).and_then(|code| code.try_into().ok());
    match code.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("an answer of nf_tables is cut short")),
    }
}

/// Attributes one after the other: type and value.
fn parse(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(bytes.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = bytes.get(4..length)?;
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn child(bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    let (_, value) = parse(bytes).find(|(kind, _)| *kind == wanted)?;
    Some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_read_back() {
        let inner = attributes().text(1, "ab").number(2, 7);
        let outer = attributes().nested(3, inner).bytes(4, &[1, 2, 3, 4, 5]);
        assert_eq!(outer.0.len() % 4, 0);
        let nested = child(&outer.0, 3).unwrap();
        assert_eq!(child(nested, 1), Some(&b"ab\0"[..]));
        assert_eq!(child(nested, 2), Some(&[0, 0, 0, 7][..]));
        assert_eq!(child(&outer.0, 4), Some(&[1, 2, 3, 4, 5][..]));
        assert_eq!(child(&outer.0, 5), None);
    }

    #[test]
    fn an_element_has_its_counter_alone_or_in_a_list() {
        let counter = || {
            let counts = attributes()
                .bytes(1, &[0; 8])
                .bytes(2, &3_u64.to_be_bytes());
            attributes().text(1, "counter").nested(2, counts)
        };
        let key = || attributes().nested(1, value(&[127, 0, 0, 1]));
        for element in [
            key().nested(7, counter()),
            key().nested(11, attributes().nested(1, counter())),
        ] {
            assert_eq!(counted(&element.0), Some((vec![127, 0, 0, 1], 3)));
        }
        assert_eq!(counted(&key().0), None);
    }

    #[test]
    fn answers_that_are_cut_short_end_the_reading() {
        let whole = message(5, 0, 1, FAMILY, 0, &attributes().number(1, 1));
        assert_eq!(messages(&whole).count(), 1);
        for length in 0..whole.len() {
            assert_eq!(messages(&whole[..length]).count(), 0);
        }
        assert!(error_of(&[0, 0]).is_err());
        let refused = error_of(&(-95_i32).to_ne_bytes()).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(95));
    }
}
