//! A command: a list of arguments, or one string that is split as a shell would, without running a shell.

use serde_json::{Value, json};

use super::node::{Kind, Node};
use super::reader::{Definitions, Reader, Shape};
use super::span::{Span, Spanned};

/// An argument vector; empty where the file says `[]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// The arguments.
    pub args: Vec<String>,
    /// Where it was written.
    pub span: Span,
}

impl Shape for Command {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        const EXPECTED: &str = "a command: a list of arguments or one string";
        const EXAMPLE: &str = "[/bin/app, --verbose]";
        let args = match &node.kind {
            Kind::Sequence(_) => {
                let items = Vec::<Spanned<String>>::read(node, reader)?;
                items.into_iter().map(|item| item.value).collect()
            }
            Kind::Mapping(_) => {
                reader.wrong_type(node, EXPECTED, EXAMPLE);
                return None;
            }
            Kind::Scalar(_) => {
                let text = reader.text(node, EXPECTED, EXAMPLE)?;
                let Some(args) = shlex::split(&text.text) else {
                    let message = format!("{} has a quote that is not closed", text.shown);
                    reader.problem(
                        node.span,
                        &message,
                        Some("a list needs no quoting: [/bin/app, --verbose]"),
                    );
                    return None;
                };
                args
            }
        };
        Some(Self {
            args,
            span: node.span,
        })
    }

    fn schema(_: &mut Definitions) -> Value {
        let word = json!({"type": ["string", "number", "boolean"]});
        json!({"anyOf": [{"type": "string"}, {"type": "array", "items": word}]})
    }
}

/// A command with at least one argument: what a probe or `post_ready` executes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exec(pub Command);

impl Shape for Exec {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let command = Command::read(node, reader)?;
        if command.args.is_empty() {
            reader.problem(
                node.span,
                "this command is empty",
                Some("for example `[redis-cli, PING]`"),
            );
            return None;
        }
        Some(Self(command))
    }

    fn schema(definitions: &mut Definitions) -> Value {
        Command::schema(definitions)
    }
}
