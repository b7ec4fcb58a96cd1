//! `smokegate.yaml`: what a user says about variants, services and tags, read and checked, not yet resolved.
//!
//! [`Source::read`] takes the bytes, [`GateFile::parse`] makes the model of them, or a [`GateFileError`] with
//! everything that is wrong. Values keep their place, so that [`Source::diagnose`] can point at them later.
//! Nothing here looks at the file system or the environment.

mod check;
mod command;
mod container;
mod diagnostic;
mod environment;
mod hosts;
mod interpolate;
mod limits;
mod node;
mod probe;
mod reader;
mod scalar;
mod schema;
mod secret;
mod span;
mod variant;
mod volume;

use serde_json::{Value, json};
use smokegate_image::Platform;
use smokegate_sandbox::Isolation;

pub use command::{Command, Exec};
pub use container::{Container, DependsOn, EnvFiles, Service, ServiceImage, WorkingDir};
pub use diagnostic::{Diagnostic, GateFileError, Source};
pub use environment::{Environment, Variable};
pub use hosts::{ExtraHost, ExtraHosts, Hostname};
pub use limits::{NoNewPrivileges, Rlimit, Ulimit, Ulimits};
pub use probe::{
    BodyCheck, Headers, HttpPath, HttpQuestion, JsonCheck, JsonChecks, Method, ProbeSpec, Question,
    StatusSet,
};
pub(crate) use reader::nearest;
pub use scalar::{Count, Cpus, Egress, ExitCode, Network, Period, Port, Scheme, Signal, Size};
pub use schema::json_schema;
pub use secret::Secret;
pub use span::{Entries, Span, Spanned};
pub use variant::{Expect, Variant};
pub use volume::{Volume, VolumeSource};

use node::{Kind, Node};
use reader::{Definitions, FromText, Reader, Shape, keyed};

keyed! {
    /// The gate file of smokegate: how an image is run, what is asked of it, and where it goes when it passed.
    pub struct GateFile [required "version"] [advice top_advice] [extensions true] {
        /// The version of this format: 1.
        version: Option<Spanned<Version>>,
        /// Containers beside the app, by the name they are reached under.
        services: Entries<Service>,
        /// What all variants share: the container of the image under test.
        app: Container,
        /// The ways of running the image; each must pass. One called `default` where there are none.
        variants: Entries<Variant>,
        /// Where the image goes.
        publish: Option<Publish>,
        /// `bridge`: a namespace and an address for each container. `shared`: one localhost for all.
        network: Option<Spanned<Network>>,
        /// `none`, or `host` for TCP and DNS to the outside.
        egress: Option<Spanned<Egress>>,
        /// The isolation level below which nothing is judged.
        min_isolation: Option<Spanned<Isolation>>,
        /// How many variants run at a time.
        parallel: Option<Spanned<Count>>,
        /// Which platforms of an index must have been tested, or `all`; the host's where left out.
        platforms: Option<Platforms>,
    }
}

fn top_advice(key: &str) -> Option<&'static str> {
    Some(match key {
        "tags" => "tags are `publish: {tags: […]}`",
        "image" => "the image under test is named on the command line",
        "volumes" | "secrets" | "networks" => "it is said of a container, under `app` or a service",
        "environment" | "ports" | "probes" | "depends_on" | "command" | "entrypoint" => {
            "it is said of the app or a service: `app: {…}`"
        }
        "expect" => "it is said of a variant",
        "include" | "extends" => {
            "a gate file includes no other; within it, anchors and `<<` repeat"
        }
        _ => return None,
    })
}

keyed! {
    /// Where the image goes when every variant passed.
    pub struct Publish [required "tags"] {
        /// References to publish under; variables in them are read by commands that publish.
        tags: Tags,
    }
}

/// References to publish under; variables are filled in only where [`ParseOptions::fill_publish`] says so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags(pub Vec<Spanned<String>>);

impl Shape for Tags {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let filling = std::mem::replace(&mut reader.filling, reader.fill_publish);
        let tags = Vec::<Spanned<String>>::read(node, reader);
        reader.filling = filling;
        let tags = tags?;
        if tags.is_empty() {
            reader.problem(
                node.span,
                "`tags` names no tag",
                Some("remove `publish`, or name one"),
            );
        }
        for (at, tag) in tags.iter().enumerate() {
            if tag.is_empty() || tag.contains(char::is_whitespace) {
                let hint = "for example `registry.example/team/app:v1`";
                reader.problem(
                    tag.span,
                    "this is not a reference to publish under",
                    Some(hint),
                );
            } else if tags[..at].contains(tag) {
                reader.problem(
                    tag.span,
                    "this tag is there twice",
                    Some("keep one of them"),
                );
            }
        }
        Some(Self(tags))
    }

    fn schema(_: &mut Definitions) -> Value {
        json!({"type": "array", "items": {"type": "string"}, "minItems": 1})
    }
}

/// The version of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// `1`.
    One,
}

impl FromText for Version {
    const EXPECTED: &'static str = "a version this smokegate reads";
    const EXAMPLE: &'static str = "1";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "1" => Ok(Self::One),
            _ => Err("it reads version 1".to_owned()),
        }
    }

    fn schema() -> Value {
        json!({"const": 1})
    }
}

/// Which platforms of an index must have been tested.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Platforms {
    /// Every one.
    All,
    /// These.
    These(Vec<Spanned<Platform>>),
}

impl Shape for Platforms {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        if let Kind::Sequence(_) = node.kind {
            return Vec::read(node, reader).map(Self::These);
        }
        let expected = "a list of platforms, or `all`";
        let text = reader.text(node, expected, "[linux/amd64]")?;
        if text.text != "all" {
            let message = format!("{} is not {expected}", text.shown);
            reader.problem(
                node.span,
                &message,
                Some("for example `[linux/amd64, linux/arm64]`"),
            );
            return None;
        }
        Some(Self::All)
    }

    fn schema(_: &mut Definitions) -> Value {
        json!({"anyOf": [{"const": "all"}, {"type": "array", "items": Platform::schema()}]})
    }
}

/// How variables are filled in.
pub struct ParseOptions<'a> {
    /// What a variable is set to.
    pub lookup: &'a dyn Fn(&str) -> Option<String>,
    /// Whether `publish` is filled in too: only commands that publish ask for it.
    pub fill_publish: bool,
}

impl std::fmt::Debug for ParseOptions<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParseOptions")
            .field("fill_publish", &self.fill_publish)
            .finish_non_exhaustive()
    }
}

impl GateFile {
    /// Reads and checks a whole file.
    ///
    /// # Errors
    /// Everything that is wrong, in the order of the file.
    pub fn parse(source: &Source, options: &ParseOptions<'_>) -> Result<Self, GateFileError> {
        let mut problems = Vec::new();
        let root = node::load(source, &mut problems);
        let mut file = None;
        if let Some(root) = root {
            let mut reader = Reader {
                source,
                lookup: options.lookup,
                filling: true,
                fill_publish: options.fill_publish,
                problems,
            };
            file = if root.is_null() {
                reader.problem(
                    root.span,
                    "the file is empty",
                    Some("it begins with `version: 1`"),
                );
                None
            } else {
                Self::read(&root, &mut reader)
            };
            if let Some(file) = &file {
                check::check(file, &mut reader);
            }
            problems = reader.problems;
        } else if problems.is_empty() {
            let hint = Some("it begins with `version: 1`");
            problems.push(reader::Problem::new(
                Span::default(),
                "the file is empty",
                hint,
            ));
        }
        // What stands behind an anchor is read as often as it is used.
        problems.sort();
        problems.dedup();
        match file {
            Some(file) if problems.is_empty() => Ok(file),
            _ => Err(GateFileError {
                diagnostics: problems
                    .iter()
                    .map(|problem| {
                        let hint = problem.hint.as_deref();
                        source.render(problem.span, &problem.message, hint, problem.hidden)
                    })
                    .collect(),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
