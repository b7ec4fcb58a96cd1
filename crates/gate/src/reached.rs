//! What the containers of a pod reached for and did not get, in words. No I/O.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use smokegate_sandbox::{Blocked, Dial, Listener};

use crate::egress::EgressConnection;
use crate::gate_file::{Egress, Network, nearest};
use crate::plan::APP;

/// Sentences that a failure shows of one kind; the receipt has all.
const MAX_SENTENCES: usize = 5;

/// A pod's network at the end of a run.
#[derive(Clone, Debug)]
pub struct NetworkReport {
    /// How its containers reached each other.
    pub network: Network,
    /// What they reached outside.
    pub egress: Egress,
    /// Why refused connections were not counted, where the host cannot.
    pub not_counted: Option<String>,
    /// Names of the containers and their addresses.
    pub addresses: Vec<(String, Ipv4Addr)>,
    /// What each container reached for; a shared namespace has one entry.
    pub reached: Vec<ContainerReached>,
    /// What listened at the end, by container; not asked for where no connection was refused.
    pub listening: Vec<(String, Vec<Listener>)>,
}

/// What a container reached for.
#[derive(Clone, Debug)]
pub struct ContainerReached {
    /// Its name; `None` where all share one namespace and nobody can tell.
    pub container: Option<String>,
    /// TCP connections inside the pod that were refused.
    pub refused: Vec<Dial>,
    /// What was kept from leaving the pod.
    pub blocked: Vec<Blocked>,
    /// Names that did not resolve.
    pub unresolved: Vec<String>,
    /// What it connected to outside.
    pub connected: Vec<EgressConnection>,
}

impl ContainerReached {
    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.refused.is_empty()
            && self.blocked.is_empty()
            && self.unresolved.is_empty()
            && self.connected.is_empty()
    }

    fn who(&self) -> &str {
        self.container
            .as_deref()
            .unwrap_or("a container of the pod")
    }
}

/// What a container reached for in vain, and what to do about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explained {
    /// One sentence each.
    pub sentences: Vec<String>,
    /// What to change, where that is clear.
    pub hint: Option<String>,
}

impl Explained {
    fn say(&mut self, sentences: Vec<String>, what: &str, hint: Option<String>) {
        let more = sentences.len().saturating_sub(MAX_SENTENCES);
        self.sentences
            .extend(sentences.into_iter().take(MAX_SENTENCES));
        if more > 0 {
            self.sentences
                .push(format!("and {more} more {what} (all in the receipt)"));
        }
        self.hint = self.hint.take().or(hint);
    }
}

/// The server that a port is known for.
fn usual_server(port: u16) -> Option<&'static str> {
    Some(match port {
        2181 => "ZooKeeper",
        3306 => "MySQL",
        4222 => "NATS",
        5432 => "PostgreSQL",
        5672 => "RabbitMQ",
        6379 => "Redis",
        8500 => "Consul",
        9092 => "Kafka",
        9200 => "Elasticsearch",
        11211 => "memcached",
        27017 => "MongoDB",
        _ => return None,
    })
}

impl NetworkReport {
    /// What `container` reached for in vain.
    pub fn explain(&self, container: &str) -> Explained {
        let mut explained = Explained::default();
        let own = self.reached.iter().find(|reached| {
            let name = reached.container.as_deref();
            name.is_none_or(|name| name == container)
        });
        if let Some(reached) = own {
            self.explain_refused(reached, &mut explained);
            self.explain_unresolved(reached, &mut explained);
            self.explain_outside(reached, &mut explained);
        }
        explained
    }

    fn name_of(&self, ip: IpAddr) -> Option<&str> {
        let known = self
            .addresses
            .iter()
            .find(|(_, known)| IpAddr::V4(*known) == ip);
        known.map(|(name, _)| name.as_str())
    }

    /// Containers that listen on a port where others reach it.
    fn reachable_on(&self, port: u16) -> Option<&str> {
        let listens = |listeners: &[Listener]| {
            listeners
                .iter()
                .any(|l| l.address.port() == port && !l.address.ip().is_loopback())
        };
        let mut found = self.listening.iter().filter(|(_, l)| listens(l));
        found.next().map(|(name, _)| name.as_str())
    }

    fn ports_of(&self, container: &str) -> &[Listener] {
        let known = self.listening.iter().find(|(name, _)| name == container);
        known.map_or(&[], |(_, listeners)| listeners)
    }

    fn explain_refused(&self, reached: &ContainerReached, explained: &mut Explained) {
        // localhost is two addresses, and a client tries both.
        let mut dialled: BTreeMap<(String, u16), (Option<&str>, u64)> = BTreeMap::new();
        for dial in &reached.refused {
            let ip = dial.address.ip();
            let (host, owner) = if ip.is_loopback() {
                ("localhost".to_owned(), reached.container.as_deref())
            } else {
                let owner = self.name_of(ip);
                (owner.map_or_else(|| ip.to_string(), str::to_owned), owner)
            };
            let entry = dialled.entry((host, dial.address.port()));
            entry.or_insert((owner, 0)).1 += dial.times;
        }
        let mut told = Vec::new();
        let mut hint = None;
        let mut nobody = None;
        let mut dialled: Vec<_> = dialled.into_iter().collect();
        dialled.sort_by_key(|(_, (_, times))| std::cmp::Reverse(*times));
        for ((host, port), (owner, _)) in dialled {
            let is_local = host == "localhost";
            let at_port = |listeners: &[Listener]| {
                listeners
                    .iter()
                    .filter(|l| l.address.port() == port)
                    .map(|l| l.address)
                    .collect::<Vec<SocketAddr>>()
            };
            let there = match owner {
                Some(owner) => at_port(self.ports_of(owner)),
                None if is_local => {
                    let all = self.listening.iter().flat_map(|(_, l)| at_port(l));
                    all.collect()
                }
                None => Vec::new(),
            };
            // It was there in the end: the dial came too early, and was repeated.
            if there.iter().any(|at| is_local || !at.ip().is_loopback()) {
                continue;
            }
            let mut sentence = format!("{} dialled {host}:{port}, ", reached.who());
            if let Some(only) = there.first() {
                sentence.push_str(&format!(
                    "but {host} listens on {only} only, which no other container reaches"
                ));
            } else {
                sentence.push_str("nothing listens there");
            }
            if let Some(name) = self.reachable_on(port)
                && reached.container.as_deref() != Some(name)
                && owner != Some(name)
            {
                let kind = if name == APP { "" } else { "service " };
                sentence.push_str(&format!("; {kind}{name} does, on {name}:{port}"));
                let change = match is_local {
                    true => format!(
                        "localhost in a container is that container alone: dial {name}:{port}, or say `network: shared` if production runs all of them in one Kubernetes pod"
                    ),
                    false => format!("dial {name}:{port}"),
                };
                hint = hint.or(Some(change));
            } else if there.is_empty() {
                if let Some(server) = usual_server(port) {
                    sentence.push_str(&format!(" ({port} is {server}'s port)"));
                }
                nobody.get_or_insert_with(|| {
                    let what = usual_server(port).unwrap_or("what listens there in production");
                    format!("run {what} as a service (`services:` and `depends_on:` in the gate file), or set the variable that tells the app where it is")
                });
            }
            told.push(sentence);
        }
        // A service that listens elsewhere is the better guess.
        let hint = hint.or(nobody);
        explained.say(told, "refused connections", hint);
    }

    fn explain_unresolved(&self, reached: &ContainerReached, explained: &mut Explained) {
        let known: Vec<&str> = self
            .addresses
            .iter()
            .map(|(name, _)| name.as_str())
            .collect();
        let mut hint = None;
        let sentence = |name: &String| {
            let who = reached.who();
            if let Some(near) = nearest(name, &known) {
                hint = Some(format!(
                    "write `{near}` where the app is told to use `{name}`"
                ));
                return format!("{who} asked for the name `{name}`; did you mean `{near}`?");
            }
            match self.egress {
                Egress::None => {
                    hint.get_or_insert_with(|| self.outside_hint());
                    format!("{who} asked for the name `{name}`, which is no container of the pod")
                }
                Egress::Host => {
                    format!(
                        "{who} asked for the name `{name}`, which the host's name servers do not know"
                    )
                }
            }
        };
        let told: Vec<_> = reached.unresolved.iter().map(sentence).collect();
        explained.say(told, "names that did not resolve", hint);
    }

    fn explain_outside(&self, reached: &ContainerReached, explained: &mut Explained) {
        let who = reached.who();
        let mut blocked = reached.blocked.clone();
        blocked.sort_by_key(|one| std::cmp::Reverse(one.times));
        let passes = match self.egress {
            Egress::None => "`egress: none` lets nothing out",
            Egress::Host => "`egress: host` lets out TCP and the pod's name server only",
        };
        let told = blocked.iter().map(|one| {
            let (to, transport) = (one.address, one.transport);
            format!("{who} dialled {to} ({transport}), which is outside the pod: {passes}")
        });
        let hint =
            (self.egress == Egress::None && !blocked.is_empty()).then(|| self.outside_hint());
        explained.say(told.collect(), "destinations outside", hint);
        let failed = reached.connected.iter().filter_map(|one| {
            let error = one.outcome.error.as_ref()?;
            Some(format!(
                "{who} dialled {}, outside the pod: {error}",
                one.address
            ))
        });
        explained.say(failed.collect(), "destinations outside", None);
    }

    fn outside_hint(&self) -> String {
        "run what the app needs as a service beside it, or let TCP and DNS out with `egress: host` in the gate file".into()
    }
}

#[cfg(test)]
mod tests {
    use smokegate_sandbox::Transport;

    use super::*;

    fn report(network: Network, reached: ContainerReached) -> NetworkReport {
        let listener = |address: &str| Listener {
            address: address.parse().unwrap(),
            program: None,
        };
        let address =
            |host: u8| Ipv4Addr::new(10, 88, 0, if network == Network::Shared { 1 } else { host });
        NetworkReport {
            network,
            egress: Egress::None,
            not_counted: None,
            addresses: vec![
                ("redis".into(), address(2)),
                ("postgres".into(), address(3)),
                ("app".into(), address(4)),
            ],
            reached: vec![reached],
            listening: vec![
                ("redis".into(), vec![listener("0.0.0.0:6379")]),
                ("postgres".into(), vec![listener("127.0.0.1:5432")]),
                ("app".into(), vec![listener("127.0.0.1:9000")]),
            ],
        }
    }

    fn reached(refused: &[&str], unresolved: &[&str]) -> ContainerReached {
        ContainerReached {
            container: Some("app".into()),
            refused: refused
                .iter()
                .map(|address| Dial {
                    address: address.parse().unwrap(),
                    times: 1,
                })
                .collect(),
            blocked: Vec::new(),
            unresolved: unresolved.iter().map(|name| (*name).to_owned()).collect(),
            connected: Vec::new(),
        }
    }

    #[test]
    fn each_refused_dial_says_who_listens_there_instead() {
        for (dialled, said) in [
            (
                &["127.0.0.1:6379", "[::1]:6379"][..],
                "app dialled localhost:6379, nothing listens there; service redis does, on redis:6379",
            ),
            (
                &["10.88.0.4:6379"],
                "app dialled app:6379, nothing listens there; service redis does, on redis:6379",
            ),
            (
                &["10.88.0.3:5432"],
                "app dialled postgres:5432, but postgres listens on 127.0.0.1:5432 only, which no other container reaches",
            ),
            (
                &["10.88.0.3:1"],
                "app dialled postgres:1, nothing listens there",
            ),
            (
                &["10.88.0.9:1"],
                "app dialled 10.88.0.9:1, nothing listens there",
            ),
            (&["127.0.0.1:9000"], ""),
            (&["10.88.0.2:6379"], ""),
        ] {
            let explained = report(Network::Bridge, reached(dialled, &[])).explain("app");
            assert_eq!(explained.sentences.join("|"), said);
        }
        let other = report(Network::Bridge, reached(&["127.0.0.1:6379"], &[]));
        assert_eq!(other.explain("redis"), Explained::default());
    }

    #[test]
    fn in_a_shared_namespace_nobody_is_named() {
        let mut anybody = reached(&["127.0.0.1:6379", "127.0.0.1:7"], &[]);
        anybody.container = None;
        let explained = report(Network::Shared, anybody).explain("app");
        let said = "a container of the pod dialled localhost:7, nothing listens there";
        assert_eq!(explained.sentences, [said]);
    }

    #[test]
    fn names_are_corrected_or_called_foreign() {
        let names = ["api.example.com", "postgress"];
        let explained = report(Network::Bridge, reached(&[], &names)).explain("app");
        assert_eq!(
            explained.sentences,
            [
                "app asked for the name `api.example.com`, which is no container of the pod",
                "app asked for the name `postgress`; did you mean `postgres`?",
            ]
        );
        let hint = explained.hint.unwrap();
        assert!(hint.contains("write `postgres`"), "{hint}");
    }

    #[test]
    fn what_was_kept_in_is_named_and_long_lists_are_cut() {
        let mut many = reached(&[], &[]);
        for port in 1..=9 {
            many.blocked.push(Blocked {
                address: SocketAddr::from(([192, 0, 2, 1], port)),
                transport: Transport::Udp,
                times: u64::from(port),
            });
        }
        let explained = report(Network::Bridge, many).explain("app");
        assert_eq!(explained.sentences.len(), MAX_SENTENCES + 1);
        assert_eq!(
            explained.sentences[0],
            "app dialled 192.0.2.1:9 (UDP), which is outside the pod: `egress: none` lets nothing out"
        );
        assert!(explained.sentences[5].starts_with("and 4 more"));
        assert!(explained.hint.unwrap().contains("egress: host"));
    }
}
