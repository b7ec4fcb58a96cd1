//! What is wrong between the parts of a file: references, order, ports, places that are taken twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::GateFile;
use super::container::{Condition, Container, DependsOn, Service};
use super::probe::Question;
use super::reader::{Reader, nearest};
use super::scalar::Network;
use super::span::{Span, Spanned};
use super::variant::Variant;
use crate::port::HostPort;

/// The name server of the pod listens there, on the address that all containers of a shared namespace have.
const DNS_PORT: u16 = 53;

impl GateFile {
    /// How the containers of a variant reach each other.
    pub(crate) fn network_of(&self, variant: Option<&Variant>) -> Network {
        let own = variant.and_then(|variant| variant.network.as_ref());
        let network = own.or(self.network.as_ref());
        network.map(|network| network.value).unwrap_or_default()
    }

    /// The services of a variant with all they depend on, dependencies first, else in the order of the file.
    ///
    /// A variant's `services` stand in for what `app` depends on and for the `one_shot` services, which the
    /// app waits for without being told; its `depends_on` are in addition. `None` is a file without variants.
    pub fn services_of(&self, variant: Option<&Variant>) -> Vec<(&Spanned<String>, &Service)> {
        let mut wanted: BTreeSet<&str> = BTreeSet::new();
        match variant.and_then(|variant| variant.services.as_ref()) {
            Some(services) => wanted.extend(services.iter().map(|name| name.value.as_str())),
            None => {
                wanted.extend(self.app.depends_on().iter().map(|name| name.value.as_str()));
                let one_shot = self
                    .services
                    .iter()
                    .filter(|(_, service)| service.is_one_shot());
                wanted.extend(one_shot.map(|(name, _)| name.value.as_str()));
            }
        }
        if let Some(variant) = variant {
            let more = variant.container.depends_on();
            wanted.extend(more.iter().map(|name| name.value.as_str()));
        }
        let mut walk = Walk {
            file: self,
            state: BTreeMap::new(),
            order: Vec::new(),
            path: Vec::new(),
            cycles: Vec::new(),
        };
        for (name, _) in self.services.iter() {
            if wanted.contains(name.value.as_str()) {
                walk.visit(name);
            }
        }
        let known = |name: &str| self.services.iter().find(|(key, _)| key.value == name);
        walk.order.into_iter().filter_map(known).collect()
    }
}

/// A walk over dependencies, depth first.
struct Walk<'f> {
    file: &'f GateFile,
    /// `false` while it is on the path, `true` when done.
    state: BTreeMap<&'f str, bool>,
    order: Vec<&'f str>,
    path: Vec<&'f str>,
    /// Names around a circle, and where it closes.
    cycles: Vec<(Vec<&'f str>, Span)>,
}

impl<'f> Walk<'f> {
    fn visit(&mut self, name: &'f str) {
        if self.state.contains_key(name) {
            return;
        }
        let Some(service) = self.file.services.get(name) else {
            return;
        };
        self.state.insert(name, false);
        self.path.push(name);
        for dependency in service.depends_on() {
            let next = dependency.value.as_str();
            if self.state.get(next) == Some(&false) {
                let from = self
                    .path
                    .iter()
                    .position(|on| *on == next)
                    .unwrap_or_default();
                self.cycles
                    .push((self.path[from..].to_vec(), dependency.span));
            } else {
                self.visit(next);
            }
        }
        self.path.pop();
        self.state.insert(name, true);
        self.order.push(name);
    }
}

/// Notes every mistake between parts.
pub(crate) fn check(file: &GateFile, reader: &mut Reader<'_>) {
    let readable = reader.problems.is_empty();
    for (name, service) in file.services.iter() {
        if name.value == "app" {
            let hint = "`app` is the image under test; give the service another name";
            reader.problem(name.span, "a service cannot be called `app`", Some(hint));
        }
        references(file, service.depends_on(), Some(name), reader);
        conditions(file, service.container.depends_on.as_ref(), reader);
        container(&service.container, reader);
        post_ready(service, reader);
        if service.is_one_shot() {
            one_shot(service, reader);
        }
    }
    references(file, file.app.depends_on(), None, reader);
    conditions(file, file.app.depends_on.as_ref(), reader);
    container(&file.app, reader);
    for (_, variant) in file.variants.iter() {
        references(file, variant.container.depends_on(), None, reader);
        references(
            file,
            variant.services.as_deref().unwrap_or_default(),
            None,
            reader,
        );
        conditions(file, variant.container.depends_on.as_ref(), reader);
        container(&variant.container, reader);
        expectations(variant, reader);
    }
    cycles(file, reader);
    // A file that was not read whole has uses that are not seen.
    if readable {
        unused(file, reader);
        for (_, variant) in file.variants.iter() {
            host_ports(file, Some(variant), reader);
            shared_ports(file, Some(variant), reader);
        }
        if file.variants.is_empty() {
            host_ports(file, None, reader);
            shared_ports(file, None, reader);
        }
    }
}

/// `from` is the service that names them, or `None` for the app.
fn references(
    file: &GateFile,
    names: &[Spanned<String>],
    from: Option<&Spanned<String>>,
    reader: &mut Reader<'_>,
) {
    let mut seen = BTreeSet::new();
    for name in names {
        if !seen.insert(name.value.as_str()) {
            let message = format!("the service `{}` is named twice", name.value);
            reader.problem(name.span, &message, Some("keep one of them"));
        } else if file.services.get(name).is_some() {
        } else if name.value == "app" && from.is_some() {
            let hint = "services are ready before the app starts";
            reader.problem(name.span, "a service cannot wait for the app", Some(hint));
        } else {
            let known: Vec<&str> = file.services.names().collect();
            let mut message = format!("there is no service `{}`", name.value);
            let mut hint = None;
            match nearest(name, &known) {
                Some(near) => message.push_str(&format!("; did you mean `{near}`?")),
                None if known.is_empty() => hint = Some("the file has no `services`".to_owned()),
                None => hint = Some(format!("the services are: {}", known.join(", "))),
            }
            reader.problem(name.span, &message, hint.as_deref());
        }
    }
}

/// The long form must say what is waited for anyway.
fn conditions(file: &GateFile, depends_on: Option<&DependsOn>, reader: &mut Reader<'_>) {
    for (name, condition) in depends_on
        .iter()
        .flat_map(|depends_on| &depends_on.conditions)
    {
        let Some(service) = file.services.get(name) else {
            continue;
        };
        let (fits, hint) = match condition.value {
            Condition::Healthy => (
                !service.is_one_shot(),
                "it is `one_shot`, so it is waited for with `service_completed_successfully`",
            ),
            Condition::Completed => (
                service.is_one_shot(),
                "only a service with `one_shot: true` runs to completion",
            ),
        };
        if !fits {
            let message = format!("`{name}` will never be in this condition");
            reader.problem(condition.span, &message, Some(hint));
        }
    }
}

/// One command written where a list of commands is wanted reads as several, the arguments as programs.
fn post_ready(service: &Service, reader: &mut Reader<'_>) {
    for exec in service.post_ready.iter().flatten() {
        if let Some(option) = exec.0.args.first().filter(|first| first.starts_with('-')) {
            let message = format!("the command `{option}` is an argument of another one");
            let hint = "each command is a list of its own: `- [psql, -c, SELECT 1]`";
            reader.problem(exec.0.span, &message, Some(hint));
        }
    }
}

fn one_shot(service: &Service, reader: &mut Reader<'_>) {
    let hint = "it is done when it exits 0; remove this, or `one_shot`";
    if let Some(probe) = service.container.probes.iter().flatten().next() {
        reader.problem(probe.span, "a one_shot service is not probed", Some(hint));
    }
    if let Some(exec) = service.post_ready.iter().flatten().next() {
        reader.problem(
            exec.0.span,
            "a one_shot service has no `post_ready`",
            Some(hint),
        );
    }
}

fn container(container: &Container, reader: &mut Reader<'_>) {
    let mut targets = BTreeSet::new();
    for volume in container.volumes.iter().flatten() {
        if !targets.insert(volume.target.trim_end_matches('/')) {
            let message = format!("something is mounted at `{}` already", volume.target);
            reader.problem(volume.span, &message, Some("one place takes one volume"));
        }
    }
}

fn expectations(variant: &Variant, reader: &mut Reader<'_>) {
    let Some(expect) = &variant.expect else {
        return;
    };
    if let (Some(stays), Some(_)) = (&expect.stays_healthy, &expect.exit_code) {
        let hint = "with `exit_code` it runs to completion; keep one of them";
        reader.problem(stays.span, "what exits does not stay healthy", Some(hint));
    }
}

fn cycles(file: &GateFile, reader: &mut Reader<'_>) {
    let mut walk = Walk {
        file,
        state: BTreeMap::new(),
        order: Vec::new(),
        path: Vec::new(),
        cycles: Vec::new(),
    };
    for name in file.services.names() {
        walk.visit(name);
    }
    for (names, span) in walk.cycles {
        let message = match names[..] {
            [only] => format!("the service `{only}` waits for itself"),
            _ => format!(
                "services wait for each other: {} → {}",
                names.join(" → "),
                names[0]
            ),
        };
        reader.problem(
            span,
            &message,
            Some("none of them could ever start; remove one `depends_on`"),
        );
    }
}

fn unused(file: &GateFile, reader: &mut Reader<'_>) {
    let mut used = BTreeSet::new();
    let mut note = |variant| {
        used.extend(
            file.services_of(variant)
                .iter()
                .map(|(name, _)| name.value.as_str()),
        );
    };
    if file.variants.is_empty() {
        note(None);
    }
    for (_, variant) in file.variants.iter() {
        note(Some(variant));
    }
    for (name, _) in file.services.iter() {
        if !used.contains(name.value.as_str()) {
            let message = format!("nothing uses the service `{}`", name.value);
            let hint = format!(
                "add `{}` to `depends_on` of `app` or of a variant, or remove it",
                name.value
            );
            reader.problem(name.span, &message, Some(&hint));
        }
    }
}

/// Host ports that two containers of one pod, or one of them twice, would bind.
fn host_ports(file: &GateFile, variant: Option<&Variant>, reader: &mut Reader<'_>) {
    let own = variant.and_then(|variant| variant.container.ports.as_ref());
    let app = own.or(file.app.ports.as_ref());
    let services = file.services_of(variant);
    let of_services = services
        .iter()
        .map(|(name, service)| (name.value.as_str(), service.container.ports.as_ref()));
    let mut taken: Vec<(u16, IpAddr, &str)> = Vec::new();
    for (owner, ports) in std::iter::once(("app", app)).chain(of_services) {
        for map in ports.into_iter().flatten() {
            let HostPort::Exactly(port) = map.host else {
                continue;
            };
            let clash = taken.iter().find(|(other, ip, _)| {
                let everywhere = ip.is_unspecified() || map.ip.is_unspecified();
                *other == port && (everywhere || *ip == map.ip)
            });
            if let Some((_, _, other)) = clash {
                let message = match *other == owner {
                    true => format!("the host port {port} is mapped twice"),
                    false => format!("the host port {port} is `{other}`'s already"),
                };
                let hint = "take another one, or 0 for any that is free";
                reader.problem(map.span, &message, Some(hint));
            } else {
                taken.push((port, map.ip, owner));
            }
        }
    }
}

/// Ports that two containers of one network namespace would listen on, as far as their probes tell.
fn shared_ports(file: &GateFile, variant: Option<&Variant>, reader: &mut Reader<'_>) {
    if file.network_of(variant) != Network::Shared {
        return;
    }
    let of_variant = variant.map(|variant| ("app", &variant.container));
    let services = file.services_of(variant).into_iter();
    let services = services.map(|(name, service)| (name.value.as_str(), &service.container));
    let containers = std::iter::once(("app", &file.app)).chain(of_variant);
    let mut taken: BTreeMap<u16, &str> = BTreeMap::new();
    for (owner, container) in containers.chain(services) {
        for probe in container.probes.iter().flatten() {
            let port = match &probe.question {
                Question::Tcp(port) => port.0,
                Question::Http(http) => match &http.port {
                    Some(port) => port.0,
                    None => continue,
                },
                _ => continue,
            };
            let whose = match taken.get(&port) {
                _ if port == DNS_PORT => "is the pod's name server's".to_owned(),
                Some(other) if *other != owner => format!("is `{other}`'s already"),
                _ => {
                    taken.insert(port, owner);
                    continue;
                }
            };
            let message = format!("port {port} {whose}, and all containers share one address");
            let hint = "take another port, or `network: bridge`, where each container has its own";
            reader.problem(probe.span, &message, Some(hint));
        }
    }
}
