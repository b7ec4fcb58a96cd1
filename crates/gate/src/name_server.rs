//! The pod's name server: answers the names of its containers, and says no to all others, or asks the host's.
//!
//! What arrives was written by containers. It is read here, in the parent, by a parser that is kept by others; the
//! helper, which has every right in the pod, reads none of it.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, PTR};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A message over UDP is at most this long, whatever is asked for (RFC 6891, 6.2.5 calls 4096 large).
const MAX_UDP: usize = 4096;
/// What we say that we take over UDP: fits every link without fragments (dnsflagday.net, 2020).
const OUR_UDP: u16 = 1232;
/// Length of the header that every message begins with (RFC 1035, 4.1.1).
const HEADER: usize = 12;
/// Addresses stay for the pod's life; seconds are enough.
const TTL: u32 = 5;
/// Questions and connections of one pod that are looked at side by side.
const MAX_ASKED: usize = 64;
/// Names of one pod that are kept.
const MAX_UNRESOLVED: usize = 1000;
/// Time a connection may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// Time one of the host's name servers may take: less than the 5 s after which C libraries ask again.
const UPSTREAM: Duration = Duration::from_secs(2);
/// Time until the next receive after one that failed.
const AFTER_ERROR: Duration = Duration::from_millis(20);

/// The name server of one pod.
#[derive(Debug)]
pub(crate) struct NameServer {
    names: HashMap<String, Ipv4Addr>,
    /// The host's name servers; none where the pod has no way out.
    upstream: Vec<SocketAddr>,
    /// Who asked for what, in vain.
    unresolved: Mutex<BTreeSet<(IpAddr, String)>>,
    asked: Semaphore,
}

/// How a question came, and so how it is passed on.
#[derive(Clone, Copy, PartialEq)]
enum Over {
    Udp,
    Tcp,
}

/// What this server can say itself.
enum Local {
    Answer(Message),
    /// It is no name of the pod.
    Unknown(Message, String),
}

impl NameServer {
    /// Knows the names of `addresses`, and asks `upstream` for others.
    pub(crate) fn new(addresses: &[(String, Ipv4Addr)], upstream: Vec<SocketAddr>) -> Self {
        let lower = |(name, ip): &(String, Ipv4Addr)| (name.to_ascii_lowercase(), *ip);
        Self {
            names: addresses.iter().map(lower).collect(),
            upstream,
            unresolved: Mutex::default(),
            asked: Semaphore::new(MAX_ASKED),
        }
    }

    /// Names that `from` asked for and that nobody knows, in order.
    pub(crate) fn unresolved(&self, from: Ipv4Addr) -> Vec<String> {
        let all = self
            .unresolved
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let own = all.iter().filter(|(by, _)| *by == IpAddr::V4(from));
        own.map(|(_, name)| name.clone()).collect()
    }

    /// Answers on both sockets until the tasks are dropped.
    pub(crate) fn serve(
        self: &Arc<Self>,
        udp: UdpSocket,
        tcp: TcpListener,
        tasks: &mut JoinSet<()>,
    ) {
        tasks.spawn(Arc::clone(self).serve_udp(Arc::new(udp)));
        tasks.spawn(Arc::clone(self).serve_tcp(tcp));
    }

    async fn serve_udp(self: Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; MAX_UDP];
        let mut waiting = JoinSet::new();
        loop {
            while waiting.try_join_next().is_some() {}
            let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
                // An ICMP error of an earlier answer, mostly: whoever asked is gone.
                tokio::time::sleep(AFTER_ERROR).await;
                continue;
            };
            let query = buffer[..length].to_vec();
            let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
            let answer = async move {
                // What does not fit is lost, as by a busy server: the client asks again.
                let Ok(_one) = server.asked.try_acquire() else {
                    return;
                };
                if let Some(answer) = server.answer(&query, from.ip(), Over::Udp).await {
                    let _ = socket.send_to(&answer, from).await;
                }
            };
            if self.upstream.is_empty() {
                answer.await;
            } else {
                waiting.spawn(answer);
            }
        }
    }

    async fn serve_tcp(self: Arc<Self>, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, from)) => {
                        connections.spawn(Arc::clone(&self).converse(stream, from.ip()));
                    }
                    Err(_) => tokio::time::sleep(AFTER_ERROR).await,
                },
                Some(_) = connections.join_next() => {}
            }
        }
    }

    /// Questions and answers with their length before each (RFC 1035, 4.2.2), until the other side has no more.
    async fn converse(self: Arc<Self>, mut stream: TcpStream, from: IpAddr) -> Option<()> {
        let _one = self.asked.try_acquire().ok()?;
        loop {
            let query = timeout(IDLE, read_message(&mut stream)).await.ok()?.ok()?;
            let answer = self.answer(&query, from, Over::Tcp).await?;
            timeout(IDLE, write_message(&mut stream, &answer))
                .await
                .ok()?
                .ok()?;
        }
    }

    /// The answer to a message, if it deserves one.
    async fn answer(&self, bytes: &[u8], from: IpAddr, over: Over) -> Option<Vec<u8>> {
        // An answer to an answer goes on for ever.
        if bytes.len() < HEADER || bytes[2] & 0x80 != 0 {
            return None;
        }
        let Ok(query) = Message::from_vec(bytes) else {
            let id = u16::from_be_bytes([bytes[0], bytes[1]]);
            let refused = Message::error_msg(id, OpCode::Query, ResponseCode::FormErr);
            return refused.to_vec().ok();
        };
        let (mut reply, name) = match self.local(&query) {
            Local::Answer(reply) => return reply.to_vec().ok(),
            Local::Unknown(reply, name) => (reply, name),
        };
        if !self.upstream.is_empty() {
            reply.metadata.authoritative = false;
            let Some((answer, said)) = self.ask_upstream(bytes, &query, over).await else {
                reply.metadata.response_code = ResponseCode::ServFail;
                return reply.to_vec().ok();
            };
            if said != ResponseCode::NXDomain {
                // The pod has no route for IPv6: an address would only be dialled in vain.
                let is_v6 = query.queries[0].query_type() == RecordType::AAAA;
                let none = is_v6 && said == ResponseCode::NoError;
                return if none {
                    reply.to_vec().ok()
                } else {
                    Some(answer)
                };
            }
        }
        self.note_unresolved(from, name);
        reply.metadata.response_code = ResponseCode::NXDomain;
        reply.to_vec().ok()
    }

    fn note_unresolved(&self, from: IpAddr, name: String) {
        if name.is_empty() || name.ends_with(".arpa") {
            return;
        }
        let mut all = self
            .unresolved
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if all.len() < MAX_UNRESOLVED {
            all.insert((from, name));
        }
    }

    fn local(&self, query: &Message) -> Local {
        let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
        reply.metadata = Metadata::response_from_request(&query.metadata);
        reply.metadata.authoritative = true;
        reply.metadata.recursion_available = true;
        reply.queries.clone_from(&query.queries);
        if query.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(OUR_UDP);
            reply.edns = Some(edns);
        }
        let refuse = |mut reply: Message, code| {
            reply.metadata.response_code = code;
            Local::Answer(reply)
        };
        if query.metadata.op_code != OpCode::Query {
            return refuse(reply, ResponseCode::NotImp);
        }
        let [question] = query.queries.as_slice() else {
            return refuse(reply, ResponseCode::FormErr);
        };
        if question.query_class() != DNSClass::IN {
            return refuse(reply, ResponseCode::NotImp);
        }
        let name = question.name().to_lowercase().to_ascii();
        let name = name.trim_end_matches('.');
        match self.records(question, name) {
            None => Local::Unknown(reply, name.to_owned()),
            Some(records) => {
                let own = records.into_iter();
                let record = |data| Record::from_rdata(question.name().clone(), TTL, data);
                reply.answers.extend(own.map(record));
                Local::Answer(reply)
            }
        }
    }

    /// What is known of a name; `None` when it is not a name of the pod.
    fn records(&self, question: &Query, name: &str) -> Option<Vec<RData>> {
        let kind = question.query_type();
        let wants = |one| kind == one || kind == RecordType::ANY;
        if name == "localhost" || name.ends_with(".localhost") {
            let v4 = wants(RecordType::A).then_some(RData::A(A(Ipv4Addr::LOCALHOST)));
            let v6 = wants(RecordType::AAAA).then_some(RData::AAAA(AAAA(Ipv6Addr::LOCALHOST)));
            return Some(v4.into_iter().chain(v6).collect());
        }
        if let Some(ip) = self.names.get(name) {
            let v4 = wants(RecordType::A).then_some(RData::A(A(*ip)));
            return Some(v4.into_iter().collect());
        }
        let reverse = name.strip_suffix(".in-addr.arpa")?;
        let mut labels: Vec<&str> = reverse.split('.').collect();
        labels.reverse();
        let ip: Ipv4Addr = labels.join(".").parse().ok()?;
        let mut owners = self.names.iter().filter(|(_, known)| **known == ip);
        // In a shared namespace an address has several names; the first by name is as good as any.
        let (owner, _) = owners.by_ref().min_by_key(|(name, _)| name.as_str())?;
        let pointer = Name::from_ascii(format!("{owner}.")).ok()?;
        let data = wants(RecordType::PTR).then_some(RData::PTR(PTR(pointer)));
        Some(data.into_iter().collect())
    }

    /// Asks the host's name servers, one after the other: the answer's bytes, and its code.
    async fn ask_upstream(
        &self,
        bytes: &[u8],
        query: &Message,
        over: Over,
    ) -> Option<(Vec<u8>, ResponseCode)> {
        for server in &self.upstream {
            // An id of our own: the container's could be foreseen.
            let id = fastrand::u16(..).to_be_bytes();
            let mut passed_on = bytes.to_vec();
            passed_on[..2].copy_from_slice(&id);
            let exchange = exchange(*server, &passed_on, over);
            let Ok(Ok(mut answer)) = timeout(UPSTREAM, exchange).await else {
                continue;
            };
            let is_ours = answer.len() >= HEADER && answer[..2] == id && answer[2] & 0x80 != 0;
            let Some(message) = is_ours.then(|| Message::from_vec(&answer).ok()).flatten() else {
                continue;
            };
            if message.queries != query.queries {
                continue;
            }
            answer[..2].copy_from_slice(&bytes[..2]);
            return Some((answer, message.metadata.response_code));
        }
        None
    }
}

/// One question to one server, and the next thing it says.
async fn exchange(server: SocketAddr, query: &[u8], over: Over) -> io::Result<Vec<u8>> {
    match over {
        Over::Udp => {
            let any: IpAddr = match server {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            let socket = UdpSocket::bind((any, 0)).await?;
            socket.connect(server).await?;
            socket.send(query).await?;
            let mut buffer = vec![0; MAX_UDP];
            let length = socket.recv(&mut buffer).await?;
            buffer.truncate(length);
            Ok(buffer)
        }
        Over::Tcp => {
            let mut stream = TcpStream::connect(server).await?;
            write_message(&mut stream, query).await?;
            read_message(&mut stream).await
        }
    }
}

async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(io::Error::other)?;
    stream
        .write_all(&[&length.to_be_bytes(), message].concat())
        .await
}

/// The host's name servers (resolv.conf(5)): without one, the one on this machine.
pub(crate) fn host_name_servers() -> Vec<SocketAddr> {
    name_servers(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
}

fn name_servers(text: &str) -> Vec<SocketAddr> {
    let mut servers = Vec::new();
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace();
        if words.next() == Some("nameserver")
            && let Some(ip) = words.next().and_then(|word| word.parse::<IpAddr>().ok())
        {
            servers.push(SocketAddr::new(ip, 53));
        }
    }
    if servers.is_empty() {
        servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, 53)));
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 3);

    fn server() -> NameServer {
        let addresses = [
            ("Backend".to_owned(), "10.88.0.2"),
            ("app".to_owned(), "10.88.0.3"),
        ];
        let addresses = addresses.map(|(name, ip)| (name, ip.parse().unwrap()));
        NameServer::new(&addresses, Vec::new())
    }

    fn question(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    async fn ask(server: &NameServer, message: &Message) -> Message {
        let bytes = message.to_vec().unwrap();
        let answer = server.answer(&bytes, APP.into(), Over::Udp).await.unwrap();
        Message::from_vec(&answer).unwrap()
    }

    #[tokio::test]
    async fn names_of_the_pod_have_addresses_and_all_others_do_not_exist() {
        let server = server();
        for (name, kind, code, data) in [
            (
                "backend.",
                RecordType::A,
                ResponseCode::NoError,
                "10.88.0.2",
            ),
            (
                "BACKEND.",
                RecordType::A,
                ResponseCode::NoError,
                "10.88.0.2",
            ),
            ("backend.", RecordType::AAAA, ResponseCode::NoError, ""),
            ("backend.", RecordType::MX, ResponseCode::NoError, ""),
            ("localhost.", RecordType::AAAA, ResponseCode::NoError, "::1"),
            (
                "a.localhost.",
                RecordType::A,
                ResponseCode::NoError,
                "127.0.0.1",
            ),
            (
                "2.0.88.10.in-addr.arpa.",
                RecordType::PTR,
                ResponseCode::NoError,
                "backend.",
            ),
            (
                "9.0.88.10.in-addr.arpa.",
                RecordType::PTR,
                ResponseCode::NXDomain,
                "",
            ),
            ("backnd.", RecordType::A, ResponseCode::NXDomain, ""),
            (
                "backend.example.com.",
                RecordType::AAAA,
                ResponseCode::NXDomain,
                "",
            ),
        ] {
            let query = question(name, kind);
            let answer = ask(&server, &query).await;
            assert_eq!(answer.metadata.id, query.metadata.id);
            assert_eq!(answer.metadata.response_code, code, "{name} {kind}");
            assert_eq!(answer.queries, query.queries);
            let got: Vec<_> = answer.answers.iter().map(|r| r.data.to_string()).collect();
            assert_eq!(got.join(" "), data, "{name} {kind}");
        }
        assert_eq!(server.unresolved(APP), ["backend.example.com", "backnd"]);
        assert!(server.unresolved(Ipv4Addr::LOCALHOST).is_empty());
    }

    #[tokio::test]
    async fn what_is_no_question_gets_what_it_deserves() {
        let server = server();
        let raw = async |bytes: &[u8]| server.answer(bytes, APP.into(), Over::Udp).await;
        assert_eq!(raw(b"short").await, None);
        let mut answer = question("app.", RecordType::A).to_vec().unwrap();
        answer[2] |= 0x80;
        assert_eq!(raw(&answer).await, None, "an answer is not answered");
        let cut = question("app.", RecordType::A).to_vec().unwrap();
        for length in HEADER..cut.len() {
            let refused = Message::from_vec(&raw(&cut[..length]).await.unwrap()).unwrap();
            assert_eq!(refused.metadata.response_code, ResponseCode::FormErr);
        }
        let mut twice = question("app.", RecordType::A);
        twice.queries.push(twice.queries[0].clone());
        assert_eq!(
            ask(&server, &twice).await.metadata.response_code,
            ResponseCode::FormErr
        );
        let mut status = question("app.", RecordType::A);
        status.metadata.op_code = OpCode::Status;
        assert_eq!(
            ask(&server, &status).await.metadata.response_code,
            ResponseCode::NotImp
        );
    }

    #[tokio::test]
    async fn other_names_are_asked_of_the_host_one_server_after_the_other() {
        let upstream = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let gone = silent.local_addr().unwrap();
        drop(silent);
        let mut server = server();
        server.upstream = vec![gone, upstream.local_addr().unwrap()];
        let answering = tokio::spawn(async move {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = upstream.recv_from(&mut buffer).await.unwrap();
                let query = Message::from_vec(&buffer[..length]).unwrap();
                let mut reply = Message::response(query.metadata.id, OpCode::Query);
                reply.queries.clone_from(&query.queries);
                let name = query.queries[0].name().clone();
                if name.to_ascii() == "api.test." {
                    let data = RData::A(A(Ipv4Addr::new(192, 0, 2, 7)));
                    reply.answers.push(Record::from_rdata(name, 60, data));
                } else {
                    reply.metadata.response_code = ResponseCode::NXDomain;
                }
                let bytes = reply.to_vec().unwrap();
                upstream.send_to(&bytes, from).await.unwrap();
            }
        });
        let answer = ask(&server, &question("api.test.", RecordType::A)).await;
        assert_eq!(answer.answers[0].data.to_string(), "192.0.2.7");
        let v6 = ask(&server, &question("api.test.", RecordType::AAAA)).await;
        assert_eq!(v6.metadata.response_code, ResponseCode::NoError);
        assert!(v6.answers.is_empty());
        let none = ask(&server, &question("nope.test.", RecordType::A)).await;
        assert_eq!(none.metadata.response_code, ResponseCode::NXDomain);
        assert_eq!(server.unresolved(APP), ["nope.test"]);
        answering.abort();
    }

    #[test]
    fn name_servers_are_read_as_the_c_library_does() {
        let text = "# nameserver 1.1.1.1\nsearch a b\nnameserver 127.0.0.53\nnameserver ::1 # x\nnameserver no\n";
        let servers: Vec<_> = name_servers(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["127.0.0.53:53", "[::1]:53"]);
        assert_eq!(name_servers("")[0].to_string(), "127.0.0.1:53");
    }
}
