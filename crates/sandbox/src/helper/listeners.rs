//! What listens in a container's network namespace, and which program.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::pod::Listener;

/// What listens in the network namespace of a process, by its `/proc/PID/net/tcp` and `tcp6` (proc(5)).
///
/// Programs are found by looking through the descriptors of all processes that are seen here, those of the pod.
pub(super) fn listeners(pid: i32, with_programs: bool) -> Vec<Listener> {
    let mut found = Vec::new();
    for file in ["tcp", "tcp6"] {
        let text = fs::read_to_string(format!("/proc/{pid}/net/{file}")).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(parse_listener));
    }
    let programs = match with_programs && !found.is_empty() {
        true => programs(),
        false => BTreeMap::new(),
    };
    let listener = |(address, inode): (SocketAddr, u64)| Listener {
        address,
        program: programs.get(&inode).cloned(),
    };
    found.into_iter().map(listener).collect()
}

/// Reads one line of /proc/net/tcp{,6}: `sl local_address rem_address st queues tr retrnsmt uid timeout inode …`, addresses
/// in hex and in the byte order of the machine, state 0A is LISTEN.
fn parse_listener(line: &str) -> Option<(SocketAddr, u64)> {
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, _remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    if state != "0A" {
        return None;
    }
    let inode = fields.nth(5).and_then(|inode| inode.parse().ok());
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
    Some((SocketAddr::new(ip, port), inode.unwrap_or_default()))
}

/// Names of programs (the `comm` of proc(5)) by the inodes of their sockets; of several that share one, the oldest.
fn programs() -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    let names = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut pids: Vec<_> = pids.collect();
    pids.sort_unstable();
    for pid in pids {
        // A process may end meanwhile, or be one that this helper may not look into.
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten();
        let mut name = None;
        for descriptor in descriptors.flatten() {
            let target = fs::read_link(descriptor.path()).unwrap_or_default();
            let inode = target.to_str().and_then(|target| {
                target
                    .strip_prefix("socket:[")?
                    .strip_suffix(']')?
                    .parse()
                    .ok()
            });
            if let Some(inode) = inode {
                let name = name.get_or_insert_with(|| {
                    let comm = fs::read(format!("/proc/{pid}/comm")).unwrap_or_default();
                    String::from_utf8_lossy(comm.trim_ascii_end()).into_owned()
                });
                found.entry(inode).or_insert_with(|| name.clone());
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_sockets_are_read_from_proc() {
        let tcp = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 1234 1";
        let (address, inode) = parse_listener(tcp).unwrap();
        assert_eq!((address, inode), ("127.0.0.1:8080".parse().unwrap(), 1234));
        let tcp6 =
            "   0: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A";
        assert_eq!(parse_listener(tcp6).unwrap().0, "[::]:80".parse().unwrap());
        let connected = "   1: 0100007F:1F90 0100007F:1F91 01 00000000:00000000";
        assert!(parse_listener(connected).is_none());
        assert!(parse_listener("").is_none());
    }

    #[test]
    fn a_socket_of_this_process_is_found_with_its_program() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        let found = listeners(pid, true);
        let own = found
            .iter()
            .find(|one| one.address == socket.local_addr().unwrap());
        let comm = fs::read_to_string("/proc/self/comm").unwrap();
        assert_eq!(own.unwrap().program.as_deref(), Some(comm.trim_end()));
        assert!(
            listeners(pid, false)
                .iter()
                .all(|one| one.program.is_none())
        );
    }
}
