//! What a container is made of: the app's part and that of each service.

use serde_json::{Value, json};
use smokegate_sandbox::Capability;

use super::command::{Command, Exec};
use super::environment::Environment;
use super::hosts::{ExtraHosts, Hostname};
use super::limits::{NoNewPrivileges, Ulimits};
use super::node::{Kind, Node};
use super::probe::ProbeSpec;
use super::reader::{Definitions, FromText, Reader, Shape, keyed};
use super::scalar::{Count, Cpus, Signal, Size, choice};
use super::secret::Secret;
use super::span::{Entries, Spanned};
use super::volume::Volume;
use crate::port::PortMap;

use std::time::Duration;

keyed! {
    /// What is said of a container; what is not said is as the image has it.
    pub struct Container [advice container_advice] [null true] {
        /// Replaces the image's ENTRYPOINT, and drops its CMD, as Compose does.
        entrypoint: Option<Command>,
        /// Replaces the image's CMD.
        command: Option<Command>,
        /// User, `NAME`, `UID` or `UID:GID`.
        user: Option<Spanned<String>>,
        /// Working directory, absolute.
        working_dir: Option<Spanned<WorkingDir>>,
        /// Variables, as a mapping or a list of `KEY=VALUE`; null in a mapping unsets.
        environment: Option<Environment>,
        /// Files of variables, relative to this file; `environment` wins over them.
        env_file: Option<EnvFiles>,
        /// Host ports mapped to the container, `[IP:]HOST:CONTAINER`.
        ports: Option<Vec<Spanned<PortMap>>>,
        /// Named volumes, tmpfs, and read-only binds from below this file.
        volumes: Option<Vec<Volume>>,
        /// Files below /run/secrets by name, and where their values come from.
        secrets: Option<Entries<Secret>>,
        /// Whether the root file system is read-only.
        read_only: Option<Spanned<bool>>,
        /// Capabilities to add.
        cap_add: Option<Vec<Spanned<Capability>>>,
        /// Capabilities to drop; `ALL` drops them all.
        cap_drop: Option<Vec<Spanned<Capability>>>,
        /// `no-new-privileges`.
        security_opt: Option<Vec<Spanned<NoNewPrivileges>>>,
        /// Size of /dev/shm.
        shm_size: Option<Spanned<Size>>,
        /// What asks it to end; STOPSIGNAL of the image where left out.
        stop_signal: Option<Spanned<Signal>>,
        /// How long it may take to end before it is killed, 10s where left out.
        stop_grace_period: Option<Spanned<Duration>>,
        /// Memory it may use.
        mem_limit: Option<Spanned<Size>>,
        /// Processors it may use.
        cpus: Option<Spanned<Cpus>>,
        /// Processes it may have.
        pids_limit: Option<Spanned<Count>>,
        /// Resource limits by name.
        ulimits: Option<Ulimits>,
        /// Names to resolve besides those of the pod.
        extra_hosts: Option<ExtraHosts>,
        /// Its host name.
        hostname: Option<Spanned<Hostname>>,
        /// Whether an init process runs as process 1 and reaps.
        init: Option<Spanned<bool>>,
        /// Services that must be ready before it starts.
        depends_on: Option<DependsOn>,
        /// What is asked of it; all must pass.
        probes: Option<Vec<ProbeSpec>>,
    }
}

/// Keys of Compose, docker and Kubernetes that are something else here, or nothing.
pub(crate) fn container_advice(key: &str) -> Option<&'static str> {
    Some(match key {
        "env" => "variables are `environment`",
        "args" | "cmd" => "arguments are `command`",
        "workdir" => "the working directory is `working_dir`",
        "healthcheck" => {
            "what is asked of a container is in `probes`; the image's own check is `- healthcheck: true`"
        }
        "build" => "smokegate runs an image that was built before; name a service's with `image`",
        "tmpfs" => "a tmpfs is `volumes: [{type: tmpfs, target: /PATH}]`",
        "networks" | "network_mode" => {
            "all containers of a variant share one network; see `network` at the top level"
        }
        "links" => "services are reached by their names; order is `depends_on`",
        "expose" => "every port can be reached within the pod; `ports` maps one to the host",
        "privileged" => "a container is never privileged; `cap_add` adds what it needs",
        "restart" => "a container that exits is what the gate looks for, and is never restarted",
        "container_name" => "a container is named as its service",
        "deploy" => "limits are `mem_limit`, `cpus` and `pids_limit`",
        "memory" => "the limit on memory is `mem_limit`",
        "image" => "the app's image is the one on the command line; only services have `image`",
        "one_shot" | "post_ready" => "only services have it",
        _ => return None,
    })
}

fn service_advice(key: &str) -> Option<&'static str> {
    match key {
        "platform" | "network" | "egress" | "expect" => {
            Some("it is said of a variant or the whole file")
        }
        key => container_advice(key),
    }
}

keyed! {
    /// A container beside the app.
    pub struct Service [required "image"] [advice service_advice] {
        /// Its image: any source smokegate reads, relative to this file, or `app` for the image under test, with the environment of the app.
        image: Spanned<ServiceImage>,
        /// Whether it runs to completion: it must exit 0 before the app starts.
        one_shot: Option<Spanned<bool>>,
        /// Commands run in it in order once its probes passed; each must exit 0.
        post_ready: Option<Vec<Exec>>,
        +
        /// What it has in common with the app.
        container: Container,
    }
}

impl Service {
    /// Whether it must exit 0 before the app starts.
    pub fn is_one_shot(&self) -> bool {
        self.one_shot
            .as_ref()
            .is_some_and(|one_shot| one_shot.value)
    }

    /// Names of the services it waits for.
    pub fn depends_on(&self) -> &[Spanned<String>] {
        self.container.depends_on()
    }
}

impl Container {
    /// Names of the services it waits for.
    pub fn depends_on(&self) -> &[Spanned<String>] {
        self.depends_on
            .as_ref()
            .map_or(&[], |depends_on| &depends_on.services)
    }
}

/// The image of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ServiceImage {
    /// The image under test.
    #[default]
    App,
    /// A source as on the command line, not resolved against the gate file's directory yet.
    Source(String),
}

impl FromText for ServiceImage {
    const EXPECTED: &'static str = "an image";
    const EXAMPLE: &'static str = "docker://docker.io/library/redis:7";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "" => Err("it is empty".to_owned()),
            "-" => Err("standard input is for the image under test".to_owned()),
            "app" => Ok(Self::App),
            // Of these forms alone is known what they are without looking at the file system.
            text if text.starts_with("docker:") => {
                match text.parse::<smokegate_image::ImageSource>() {
                    Ok(_) => Ok(Self::Source(text.to_owned())),
                    Err(error) => Err(error.to_string()),
                }
            }
            text => Ok(Self::Source(text.to_owned())),
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "examples": ["app", "oci-archive:images/redis.tar", "docker://docker.io/library/redis:7"]})
    }
}

/// An absolute path in the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkingDir(pub String);

impl FromText for WorkingDir {
    const EXPECTED: &'static str = "an absolute path";
    const EXAMPLE: &'static str = "/srv/app";

    fn from_text(text: &str) -> Result<Self, String> {
        if !text.starts_with('/') || text.contains('\0') {
            return Err(String::new());
        }
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Value {
        json!({"type": "string"})
    }
}

/// One file or several, in order; a later one wins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EnvFiles(pub Vec<Spanned<String>>);

impl Shape for EnvFiles {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        match &node.kind {
            Kind::Sequence(_) => Vec::read(node, reader).map(Self),
            _ => Some(Self(vec![Spanned::read(node, reader)?])),
        }
    }

    fn schema(_: &mut Definitions) -> Value {
        json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]})
    }
}

choice! {
    /// What Compose's long form waits for; here it follows from `one_shot`.
    pub(crate) enum Condition: "`service_healthy` or `service_completed_successfully`" {
        /// Its probes passed.
        #[default]
        Healthy = "service_healthy",
        /// It exited 0.
        Completed = "service_completed_successfully",
    }
}

/// Services that are waited for: until ready, or until done where they are `one_shot`.
#[derive(Clone, Debug, Default)]
pub struct DependsOn {
    /// Their names.
    pub services: Vec<Spanned<String>>,
    /// What the long form says; checked against the services.
    pub(crate) conditions: Vec<(String, Spanned<Condition>)>,
}

keyed! {
    /// The long form of a dependency.
    pub(crate) struct DependencyKeys {
        /// `service_healthy`, or `service_completed_successfully` for a one_shot service.
        condition: Option<Spanned<Condition>>,
    }
}

impl Shape for DependsOn {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let Kind::Mapping(pairs) = &node.kind else {
            let services = Vec::read(node, reader)?;
            return Some(Self {
                services,
                conditions: Vec::new(),
            });
        };
        let mut depends_on = Self::default();
        for pair in pairs {
            depends_on.services.push(pair.key.clone());
            if let Some(condition) = DependencyKeys::read(&pair.value, reader)?.condition {
                depends_on
                    .conditions
                    .push((pair.key.value.clone(), condition));
            }
        }
        Some(depends_on)
    }

    fn schema(definitions: &mut Definitions) -> Value {
        let long = DependencyKeys::schema(definitions);
        json!({"anyOf": [
            {"type": "array", "items": {"type": "string"}},
            {"type": "object", "additionalProperties": long},
        ]})
    }
}
