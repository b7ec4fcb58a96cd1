//! Port mappings as `docker run --publish` and Compose's `ports` write them.

use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

/// A host port mapped to a container port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortMap {
    /// The host address it binds.
    pub ip: IpAddr,
    /// The host port.
    pub host: HostPort,
    /// The container port.
    pub container: u16,
}

/// Which host port a mapping takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPort {
    /// This one, or the run is inconclusive.
    Exactly(u16),
    /// This one, or a free one when it is busy.
    Rather(u16),
    /// Any free one.
    Any,
}

/// `--publish` that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not [IP:]HOST:CONTAINER, for example 18080:8080: {problem}")]
pub struct PortMapError {
    text: String,
    problem: String,
}

impl PortMapError {
    /// Which part of it, without the text.
    pub(crate) fn problem(&self) -> &str {
        &self.problem
    }
}

impl FromStr for PortMap {
    type Err = PortMapError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = |problem: &str| PortMapError {
            text: text.into(),
            problem: problem.into(),
        };
        let ports = match text.rsplit_once('/') {
            Some((ports, "tcp")) => ports,
            Some((_, other)) => return Err(refuse(&format!("protocol `{other}` is not tcp"))),
            None => text,
        };
        let number = |part: &str| {
            part.parse::<u16>()
                .map_err(|_| refuse(&format!("`{part}` is not a port")))
        };
        let (front, container) = match ports.rsplit_once(':') {
            Some((front, container)) => (Some(front), container),
            None => (None, ports),
        };
        let container = number(container)?;
        if container == 0 {
            return Err(refuse("the container's port cannot be 0"));
        }
        let (ip, host) = match front {
            None => ("", "0"),
            Some(front) => front.rsplit_once(':').unwrap_or(("", front)),
        };
        let ip = match ip.trim_start_matches('[').trim_end_matches(']') {
            "" => IpAddr::V4(Ipv4Addr::LOCALHOST),
            ip => ip
                .parse()
                .map_err(|_| refuse(&format!("`{ip}` is not an IP address")))?,
        };
        let host = match number(host)? {
            0 => HostPort::Any,
            port => HostPort::Exactly(port),
        };
        Ok(Self {
            ip,
            host,
            container,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn publish_reads_dockers_forms() {
        let localhost = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let map = |host, container| PortMap {
            ip: localhost,
            host,
            container,
        };
        assert_eq!("18080:80".parse(), Ok(map(HostPort::Exactly(18080), 80)));
        assert_eq!("0:80/tcp".parse(), Ok(map(HostPort::Any, 80)));
        assert_eq!("80".parse(), Ok(map(HostPort::Any, 80)));
        assert_eq!("127.0.0.1:1:2".parse(), Ok(map(HostPort::Exactly(1), 2)));
        assert_eq!(
            "[::1]:1:2".parse::<PortMap>().unwrap().ip.to_string(),
            "::1"
        );
        for bad in ["", "x:80", "80:0", "1:2/udp", "host:1:2", "70000:1"] {
            assert!(bad.parse::<PortMap>().is_err(), "{bad}");
        }
    }
}
