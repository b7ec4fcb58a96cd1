//! `egress: host`: connections that a pod makes to the outside, made on the host's side and copied.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smokegate_sandbox::original_destination;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::port_map::copy;

/// Connections of one pod at a time; more wait.
const MAX_CONNECTIONS: usize = 256;
/// Destinations of one pod that are kept.
const MAX_DESTINATIONS: usize = 1000;
/// Time in which the other side must have answered: less than most clients wait themselves.
const CONNECT: Duration = Duration::from_secs(30);
/// Time until the next `accept` after one that failed.
const AFTER_ERROR: Duration = Duration::from_millis(100);

/// What a pod connected to outside.
#[derive(Debug, Default)]
pub(crate) struct EgressLog(Mutex<BTreeMap<(IpAddr, SocketAddr), Destination>>);

/// A destination outside the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EgressConnection {
    /// Where to.
    pub address: SocketAddr,
    /// How often, and with which end.
    pub outcome: Destination,
}

/// What came of connections to one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// How many were asked for.
    pub times: u64,
    /// Why the last one that failed did.
    pub error: Option<String>,
}

impl EgressLog {
    fn note(&self, from: IpAddr, to: SocketAddr, error: Option<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() < MAX_DESTINATIONS || all.contains_key(&(from, to)) {
            let known = all.entry((from, to)).or_default();
            known.times += 1;
            known.error = error.or(known.error.take());
        }
    }

    /// Where `from` connected to.
    pub(crate) fn of(&self, from: Ipv4Addr) -> Vec<EgressConnection> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.iter().filter(|((by, _), _)| *by == IpAddr::V4(from));
        own.map(|((_, address), outcome)| EgressConnection {
            address: *address,
            outcome: outcome.clone(),
        })
        .collect()
    }
}

/// Passes connections on until the task is dropped.
pub(crate) async fn serve(listener: TcpListener, log: Arc<EgressLog>) {
    let own = listener.local_addr().ok();
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = accept(&listener, &free) => match accepted {
                Ok((inside, from, slot)) => {
                    let log = Arc::clone(&log);
                    connections.spawn(async move {
                        pass_on(inside, from, own, &log).await;
                        drop(slot);
                    });
                }
                Err(_) => tokio::time::sleep(AFTER_ERROR).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn accept(
    listener: &TcpListener,
    free: &Arc<Semaphore>,
) -> io::Result<(TcpStream, IpAddr, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(free).acquire_owned().await;
    let slot = slot.map_err(io::Error::other)?;
    let (inside, from) = listener.accept().await?;
    Ok((inside, from.ip(), slot))
}

async fn pass_on(inside: TcpStream, from: IpAddr, own: Option<SocketAddr>, log: &EgressLog) {
    let Ok(to) = original_destination(&inside) else {
        return drop(inside.set_zero_linger());
    };
    // Nothing that is redirected goes to these; the host's own services must not depend on that.
    if Some(to) == own || !leaves_the_host(to.ip()) {
        return drop(inside.set_zero_linger());
    }
    let connecting = timeout(CONNECT, TcpStream::connect(to)).await;
    match connecting.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(outside) => {
            log.note(from, to, None);
            copy(outside, inside).await;
        }
        Err(error) => {
            log.note(from, to, Some(error.to_string()));
            // The nearest thing to a refusal for a connection that was accepted: a reset.
            drop(inside.set_zero_linger());
        }
    }
}

/// Whether an address can be anything but this host's loopback.
fn leaves_the_host(ip: IpAddr) -> bool {
    !(ip.is_loopback() || ip.is_unspecified() || ip.is_multicast())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_of_the_host_is_no_destination() {
        for (ip, leaves) in [
            ("127.0.0.1", false),
            ("127.8.8.8", false),
            ("0.0.0.0", false),
            ("224.0.0.251", false),
            ("192.0.2.1", true),
            ("169.254.169.254", true),
        ] {
            assert_eq!(leaves_the_host(ip.parse().unwrap()), leaves, "{ip}");
        }
    }

    #[test]
    fn destinations_are_counted_and_keep_their_last_error() {
        let log = EgressLog::default();
        let (from, to) = (Ipv4Addr::LOCALHOST, "192.0.2.1:443".parse().unwrap());
        log.note(from.into(), to, Some("refused".into()));
        log.note(from.into(), to, None);
        let [one] = &log.of(from)[..] else {
            panic!("{log:?}");
        };
        assert_eq!(one.outcome.times, 2);
        assert_eq!(one.outcome.error.as_deref(), Some("refused"));
        assert!(log.of(Ipv4Addr::BROADCAST).is_empty());
    }
}
