//! Ports of the app on the host: a listener here, a socket opened inside the pod, bytes copied between.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use smokegate_sandbox::Sandbox;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::port::{HostPort, PortMap};
use crate::verdict::PublishedPort;

/// Time until the next `accept` after one that failed.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// A port that was asked for and cannot be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}")]
pub(crate) struct BindError {
    pub(crate) address: SocketAddr,
    #[source]
    pub(crate) source: io::Error,
}

/// Listeners that are bound but do not accept yet.
pub(crate) struct BoundPorts(Vec<(TcpListener, PublishedPort)>);

impl BoundPorts {
    /// Binds every mapping.
    pub(crate) async fn bind(maps: &[PortMap]) -> Result<Self, BindError> {
        let mut bound = Vec::new();
        for map in maps {
            let (port, or_free) = match map.host {
                HostPort::Exactly(port) => (port, false),
                HostPort::Rather(port) => (port, true),
                HostPort::Any => (0, false),
            };
            let address = SocketAddr::new(map.ip, port);
            let listener = match TcpListener::bind(address).await {
                Err(error) if or_free && error.kind() == io::ErrorKind::AddrInUse => {
                    TcpListener::bind(SocketAddr::new(map.ip, 0)).await
                }
                other => other,
            };
            let place = listener.and_then(|listener| Ok((listener.local_addr()?, listener)));
            let (host, listener) = place.map_err(|source| BindError { address, source })?;
            let replaced = (or_free && host.port() != port).then_some(port);
            bound.push((
                listener,
                PublishedPort {
                    host,
                    container: map.container,
                    replaced,
                },
            ));
        }
        Ok(Self(bound))
    }

    /// What is bound.
    pub(crate) fn published(&self) -> Vec<PublishedPort> {
        self.0.iter().map(|(_, port)| port.clone()).collect()
    }

    /// Forwards connections to the container until the returned set is dropped.
    pub(crate) fn forward(self, sandbox: &Arc<Sandbox>, container: &str) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for (listener, port) in self.0 {
            let (sandbox, container) = (Arc::clone(sandbox), container.to_owned());
            tasks.spawn(accept(listener, sandbox, container, port.container));
        }
        tasks
    }
}

async fn accept(listener: TcpListener, sandbox: Arc<Sandbox>, container: String, port: u16) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((outside, _)) = accepted else {
                    // Out of descriptors, mostly: it stays so until some connection ends.
                    tokio::time::sleep(AFTER_ERROR).await;
                    continue;
                };
                let (sandbox, container) = (Arc::clone(&sandbox), container.clone());
                connections.spawn(async move {
                    match sandbox.connect(&container, port).await {
                        Ok(inside) => copy(outside, inside).await,
                        // The nearest thing to a refusal for a connection that was accepted: a reset.
                        Err(_) => drop(outside.set_zero_linger()),
                    }
                });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// Copies both ways; the end of one direction is passed on while the other goes on.
pub(crate) async fn copy(mut outside: TcpStream, mut inside: TcpStream) {
    let _ = outside.set_nodelay(true);
    let _ = inside.set_nodelay(true);
    // A reset on either side ends both; the peer sees its connection closed.
    let _ = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
}
