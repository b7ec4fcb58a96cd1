//! The part of a receipt that tells of a pod's network, and what its containers reached for.

use serde::{Deserialize, Serialize};
use smokegate_gate::gate_file::{Egress, Network};
use smokegate_gate::{ContainerReached, NetworkReport};

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    /// `bridge` or `shared`.
    pub(crate) mode: String,
    /// `none` or `host`.
    pub(crate) egress: String,
    /// Why refused connections were not counted, where the host cannot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) not_counted: Option<String>,
    /// Containers that reached for something.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) reached: Vec<ReachedRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ReachedRecord {
    /// Absent where all containers share one namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) container: Option<String>,
    /// TCP connections inside the pod that were refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) refused: Vec<DialRecord>,
    /// What was kept from leaving the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) blocked: Vec<DialRecord>,
    /// Names that did not resolve.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) unresolved: Vec<String>,
    /// What it connected to outside.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) connected: Vec<DialRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DialRecord {
    /// Address and port.
    pub(crate) address: String,
    /// `tcp` or `udp`.
    pub(crate) protocol: String,
    /// The container that has the address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) container: Option<String>,
    pub(crate) times: u64,
    /// Why the last one failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// What a receipt says of a pod's network.
pub(crate) fn network_record(report: &NetworkReport) -> NetworkRecord {
    let mode = match report.network {
        Network::Bridge => "bridge",
        Network::Shared => "shared",
    };
    let egress = match report.egress {
        Egress::None => "none",
        Egress::Host => "host",
    };
    let reached = report.reached.iter().filter(|one| !one.is_empty());
    NetworkRecord {
        mode: mode.to_owned(),
        egress: egress.to_owned(),
        not_counted: report.not_counted.clone(),
        reached: reached.map(|one| reached_record(report, one)).collect(),
    }
}

fn reached_record(report: &NetworkReport, reached: &ContainerReached) -> ReachedRecord {
    let dial = |address: std::net::SocketAddr, protocol: &str, times| DialRecord {
        address: address.to_string(),
        protocol: protocol.to_owned(),
        container: None,
        times,
        error: None,
    };
    let owner = |address: std::net::SocketAddr| {
        let mut owners = report.addresses.iter();
        owners.find(|(_, ip)| address.ip() == std::net::IpAddr::V4(*ip))
    };
    ReachedRecord {
        container: reached.container.clone(),
        refused: reached
            .refused
            .iter()
            .map(|one| DialRecord {
                container: owner(one.address).map(|(name, _)| name.clone()),
                ..dial(one.address, "tcp", one.times)
            })
            .collect(),
        blocked: reached
            .blocked
            .iter()
            .map(|one| {
                let protocol = one.transport.to_string().to_ascii_lowercase();
                dial(one.address, &protocol, one.times)
            })
            .collect(),
        unresolved: reached.unresolved.clone(),
        connected: reached
            .connected
            .iter()
            .map(|one| DialRecord {
                error: one.outcome.error.clone(),
                ..dial(one.address, "tcp", one.outcome.times)
            })
            .collect(),
    }
}
