//! `secrets`: files below /run/secrets; the file of a gate names where a value is, never the value.

use serde_json::Value;

use super::node::{Kind, Node};
use super::reader::{Definitions, Problem, Reader, Shape, keyed};
use super::span::Spanned;

/// Where the value of a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// A variable of smokegate's own environment.
    Environment(Spanned<String>),
    /// A file, relative to the gate file.
    File(Spanned<String>),
}

keyed! {
    /// Where a secret's value comes from: one of the keys.
    pub(crate) struct SecretKeys {
        /// The name of a variable of your environment.
        environment: Option<Spanned<String>>,
        /// A file, relative to the gate file.
        file: Option<Spanned<String>>,
    }
}

const SOURCES: &str = "for example `{environment: DB_PASSWORD}` or `{file: secrets/db_password}`";

impl Shape for Secret {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        if let Kind::Scalar(_) = node.kind {
            let message = "the value of a secret does not stand in a gate file";
            let mut problem = Problem::new(node.span, message, Some(SOURCES));
            problem.hidden = true;
            reader.problems.push(problem);
            return None;
        }
        let keys = SecretKeys::read(node, reader)?;
        match (keys.environment, keys.file) {
            (Some(name), None) if name.is_empty() || name.contains('=') => {
                reader.problem(name.span, "this is not the name of a variable", None);
                None
            }
            (Some(name), None) => Some(Self::Environment(name)),
            (None, Some(file)) => Some(Self::File(file)),
            (both, _) => {
                let message = match both {
                    Some(_) => "a secret has one source, and this has two",
                    None => "this secret has no source",
                };
                reader.problem(node.span, message, Some(SOURCES));
                None
            }
        }
    }

    fn schema(definitions: &mut Definitions) -> Value {
        SecretKeys::schema(definitions)
    }
}
