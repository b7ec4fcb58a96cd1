//! `environment`: Compose's mapping or its list of `KEY=VALUE`.

use serde_json::{Value, json};

use super::node::{Kind, Node};
use super::reader::{Definitions, Reader, Shape};
use super::span::Spanned;

/// Variables in the order of the file, each name once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Environment(pub Vec<Variable>);

/// One variable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Variable {
    /// Its name.
    pub name: Spanned<String>,
    /// `None` unsets what the image or a shared part sets.
    pub value: Option<Spanned<String>>,
}

impl Environment {
    /// The variable of that name.
    pub fn get(&self, name: &str) -> Option<&Variable> {
        self.0.iter().find(|variable| variable.name.value == name)
    }

    fn add(
        &mut self,
        name: Spanned<String>,
        value: Option<Spanned<String>>,
        reader: &mut Reader<'_>,
    ) {
        if name.is_empty() || name.contains(['=', '\0']) {
            let message = format!("`{}` cannot be the name of a variable", name.value);
            reader.problem(name.span, &message, None);
        } else if let Some(first) = self.get(&name) {
            let line = reader.source.line(first.name.span);
            let message = format!("`{}` is there twice", name.value);
            let hint = format!("the first one is on line {line}; keep one of them");
            reader.problem(name.span, &message, Some(&hint));
        } else {
            self.0.push(Variable { name, value });
        }
    }
}

impl Shape for Environment {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let mut environment = Self::default();
        match &node.kind {
            Kind::Mapping(pairs) => {
                for pair in pairs {
                    let unset = pair.value.is_null();
                    let value = if unset {
                        None
                    } else {
                        Shape::read(&pair.value, reader)
                    };
                    if unset || value.is_some() {
                        environment.add(pair.key.clone(), value, reader);
                    }
                }
            }
            Kind::Sequence(items) => {
                for item in items {
                    let Some(entry) = Spanned::<String>::read(item, reader) else {
                        continue;
                    };
                    let Some((name, value)) = entry.split_once('=') else {
                        let hint = "write `KEY=VALUE`; `KEY=${KEY}` passes your own on, and `KEY: null` in a mapping unsets";
                        let message = "this variable has no value";
                        reader.problem(entry.span, message, Some(hint));
                        continue;
                    };
                    let value = Some(entry.with(value.to_owned()));
                    environment.add(entry.with(name.to_owned()), value, reader);
                }
            }
            Kind::Scalar(_) => {
                reader.wrong_type(node, "a mapping or a list of variables", "{PORT: \"8080\"}");
                return None;
            }
        }
        Some(environment)
    }

    fn schema(_: &mut Definitions) -> Value {
        let value = json!({"type": ["string", "number", "boolean", "null"]});
        let list = json!({"type": "array", "items": {"type": "string", "pattern": "^[^=]+="}});
        json!({"anyOf": [{"type": "object", "additionalProperties": value}, list]})
    }
}
