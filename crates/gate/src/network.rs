//! What serves a pod's network while it runs: its name server, and its way out where it has one.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;

use smokegate_sandbox::{HostError, PodNetwork, Sandbox, Step};
use tokio::net::{TcpListener, UdpSocket};
use tokio::task::JoinSet;

use crate::egress::{self, EgressLog};
use crate::gate_file::{Egress, Network};
use crate::name_server::{NameServer, host_name_servers};
use crate::plan::{APP, VariantPlan};
use crate::reached::{ContainerReached, NetworkReport};

/// The network of a pod that runs. Dropping it closes its sockets, which the pod's namespace waits for.
pub(crate) struct RunningNetwork {
    names: Arc<NameServer>,
    egress: Arc<EgressLog>,
    addresses: Vec<(String, Ipv4Addr)>,
    not_counted: Option<HostError>,
    tasks: JoinSet<()>,
}

impl RunningNetwork {
    /// Serves the sockets of a pod.
    ///
    /// # Errors
    /// [`HostError`] when the runtime cannot take a socket.
    pub(crate) fn serve(network: PodNetwork, plan: &VariantPlan) -> Result<Self, HostError> {
        let failed = |error: io::Error| HostError {
            step: Step::Network,
            call: "epoll_ctl".into(),
            errno: error.raw_os_error(),
            detail: String::new(),
        };
        let upstream = match plan.egress {
            Egress::None => Vec::new(),
            Egress::Host => host_name_servers(),
        };
        let names = Arc::new(NameServer::new(&network.addresses, upstream));
        let mut tasks = JoinSet::new();
        let udp = UdpSocket::from_std(network.dns_udp).map_err(failed)?;
        let tcp = TcpListener::from_std(network.dns_tcp).map_err(failed)?;
        names.serve(udp, tcp, &mut tasks);
        let log = Arc::new(EgressLog::default());
        if let Some(listener) = network.egress {
            let listener = TcpListener::from_std(listener).map_err(failed)?;
            tasks.spawn(egress::serve(listener, Arc::clone(&log)));
        }
        Ok(Self {
            names,
            egress: log,
            addresses: network.addresses,
            not_counted: network.not_counted,
            tasks,
        })
    }

    /// What the containers reached for until now.
    pub(crate) async fn report(&self, sandbox: &Sandbox, plan: &VariantPlan) -> NetworkReport {
        let mut report = NetworkReport {
            network: plan.network,
            egress: plan.egress,
            not_counted: self.not_counted.as_ref().map(ToString::to_string),
            addresses: self.addresses.clone(),
            reached: Vec::new(),
            listening: Vec::new(),
        };
        for (name, ip) in &self.addresses {
            if plan.network == Network::Shared && name != APP {
                continue;
            }
            let counted = sandbox.reached(name).await;
            let counted = counted.unwrap_or_else(|error| {
                report.not_counted = Some(error.to_string());
                Default::default()
            });
            report.reached.push(ContainerReached {
                container: (plan.network == Network::Bridge).then(|| name.clone()),
                refused: counted.refused,
                blocked: counted.blocked,
                unresolved: self.names.unresolved(*ip),
                connected: self.egress.of(*ip),
            });
        }
        // It explains what was refused, and asking takes the kernel some milliseconds.
        if report
            .reached
            .iter()
            .any(|reached| !reached.refused.is_empty())
        {
            for (name, _) in &self.addresses {
                // Of a container that has ended, nothing listens.
                let listening = sandbox.listeners(name, false).await.unwrap_or_default();
                report.listening.push((name.clone(), listening));
            }
        }
        report
    }

    /// Ends everything, and waits for it.
    pub(crate) async fn shutdown(mut self) {
        self.tasks.shutdown().await;
    }
}
