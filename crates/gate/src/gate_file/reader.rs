//! From the tree to typed values: one trait says how a type is read and what its JSON Schema is.
//!
//! `keyed!` makes a struct, its reader and its schema of one list of keys, so that the three cannot drift.
//! A mistake is noted and reading goes on; a value that could not be read is left at its default.

use std::collections::BTreeMap;
use std::rc::Rc;

use serde_json::{Map, Value, json};

use super::diagnostic::Source;
use super::interpolate::interpolate;
use super::node::{Kind, Node, Pair, Scalar};
use super::span::{Entries, Span, Spanned};

/// A mistake before it is rendered.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Problem {
    pub(crate) span: Span,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    /// Whether the text it points at must not be shown.
    pub(crate) hidden: bool,
}

impl Problem {
    pub(crate) fn new(span: Span, message: &str, hint: Option<&str>) -> Self {
        Self {
            span,
            message: message.to_owned(),
            hint: hint.map(str::to_owned),
            hidden: false,
        }
    }
}

/// What readers share.
pub(crate) struct Reader<'a> {
    pub(crate) source: &'a Source,
    pub(crate) lookup: &'a dyn Fn(&str) -> Option<String>,
    /// Whether variables are filled in where reading is now.
    pub(crate) filling: bool,
    pub(crate) fill_publish: bool,
    pub(crate) problems: Vec<Problem>,
}

/// A scalar with its variables filled in.
pub(crate) struct Text {
    pub(crate) text: String,
    /// The value as it may be shown: what came out of variables may be a secret.
    pub(crate) shown: String,
    /// Whether variables were in it.
    pub(crate) filled: bool,
}

impl Reader<'_> {
    pub(crate) fn problem(&mut self, span: Span, message: &str, hint: Option<&str>) {
        self.problems.push(Problem::new(span, message, hint));
    }

    /// The text of a scalar, or a problem that says what was expected.
    pub(crate) fn text(&mut self, node: &Node, expected: &str, example: &str) -> Option<Text> {
        match &node.kind {
            Kind::Scalar(scalar) if !node.is_null() => self.fill(scalar, node.span),
            _ => {
                self.wrong_type(node, expected, example);
                None
            }
        }
    }

    fn fill(&mut self, scalar: &Scalar, span: Span) -> Option<Text> {
        let written = &scalar.text;
        if !self.filling || !written.contains('$') {
            return Some(Text {
                shown: format!("`{written}`"),
                text: written.clone(),
                filled: false,
            });
        }
        match interpolate(written, self.lookup) {
            Ok(text) => Some(Text {
                filled: text != *written,
                shown: if text == *written {
                    format!("`{written}`")
                } else {
                    format!("the value of `{written}`")
                },
                text,
            }),
            Err(error) => {
                // The variable itself is underlined where it stands in the file letter by letter.
                let part = &written[error.at];
                let raw = self
                    .source
                    .text()
                    .get(span.start..span.end)
                    .unwrap_or_default();
                let span = match (raw.find(part), raw.matches(part).count()) {
                    (Some(at), 1) => Span {
                        start: span.start + at,
                        end: span.start + at + part.len(),
                    },
                    _ => span,
                };
                self.problem(span, &error.message, Some(&error.hint));
                None
            }
        }
    }

    pub(crate) fn wrong_type(&mut self, node: &Node, expected: &str, example: &str) {
        let message = format!("expected {expected}, found {}", node.describe());
        let hint = (!example.is_empty()).then(|| format!("for example `{example}`"));
        self.problem(node.span, &message, hint.as_deref());
    }

    /// The pairs of a mapping.
    pub(crate) fn pairs<'n>(&mut self, node: &'n Node, example: &str) -> Option<&'n [Pair]> {
        match &node.kind {
            Kind::Mapping(pairs) => Some(pairs),
            _ => {
                self.wrong_type(node, "a mapping", example);
                None
            }
        }
    }

    /// The items of a list.
    pub(crate) fn items<'n>(&mut self, node: &'n Node, example: &str) -> Option<&'n [Rc<Node>]> {
        match &node.kind {
            Kind::Sequence(items) => Some(items),
            _ => {
                self.wrong_type(node, "a list", example);
                None
            }
        }
    }

    /// A key that is not among the known ones.
    pub(crate) fn unknown_key(&mut self, key: &Spanned<String>, known: &[&str], advice: Advice) {
        let mut message = format!("unknown key `{}`", key.value);
        let special = advice(&key.value);
        let mut hint = None;
        if let Some(special) = special {
            hint = Some(special.to_owned());
        } else if let Some(near) = nearest(&key.value, known) {
            message.push_str(&format!("; did you mean `{near}`?"));
        } else {
            hint = Some(format!("known here: {}", known.join(", ")));
        }
        self.problem(key.span, &message, hint.as_deref());
    }
}

/// What to say about keys that people know from elsewhere.
pub(crate) type Advice = fn(&str) -> Option<&'static str>;

/// The known word that was probably meant.
pub(crate) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    let folded = word.to_ascii_lowercase().replace('-', "_");
    known
        .iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&folded, &candidate.replace('-', "_")),
                *candidate,
            )
        })
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, candidate)| *distance <= (candidate.len().max(word.len()) / 3).max(1))
        .map(|(_, candidate)| candidate)
}

/// Definitions of the schema, by name.
pub(crate) type Definitions = BTreeMap<&'static str, Value>;

/// How a type is read from the file, and what the schema says about it.
pub(crate) trait Shape: Sized {
    /// Whether a key without a value is this type's default and not a mistake.
    const MAY_BE_NULL: bool = false;
    /// One of it, for a hint.
    const EXAMPLE: &'static str = "";

    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self>;
    fn schema(definitions: &mut Definitions) -> Value;

    /// What stands for a value that is null or could not be read, where its name must stay known.
    fn blank() -> Option<Self> {
        None
    }
}

/// A type that is one scalar, read from its text.
pub(crate) trait FromText: Sized {
    /// What is expected, in a message.
    const EXPECTED: &'static str;
    const EXAMPLE: &'static str;

    /// `Err` completes "VALUE is not EXPECTED: …"; empty where there is nothing to add.
    fn from_text(text: &str) -> Result<Self, String>;
    fn schema() -> Value;
}

impl<T: FromText> Shape for Spanned<T> {
    const EXAMPLE: &'static str = T::EXAMPLE;

    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let text = reader.text(node, T::EXPECTED, T::EXAMPLE)?;
        match T::from_text(&text.text) {
            Ok(value) => Some(Spanned {
                value,
                span: node.span,
            }),
            Err(why) => {
                let mut message = format!("{} is not {}", text.shown, T::EXPECTED);
                // The reason quotes parts of the text, which may be a secret when variables were in it.
                if !why.is_empty() && !text.filled {
                    message.push_str(": ");
                    message.push_str(&why);
                }
                let hint =
                    (!T::EXAMPLE.is_empty()).then(|| format!("for example `{}`", T::EXAMPLE));
                reader.problem(node.span, &message, hint.as_deref());
                None
            }
        }
    }

    fn schema(_: &mut Definitions) -> Value {
        T::schema()
    }
}

impl<T: Shape> Shape for Option<T> {
    const MAY_BE_NULL: bool = T::MAY_BE_NULL;

    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        T::read(node, reader).map(Some)
    }

    fn schema(definitions: &mut Definitions) -> Value {
        T::schema(definitions)
    }
}

impl<T: Shape> Shape for Vec<T> {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let example = match T::EXAMPLE {
            "" => String::new(),
            item => format!("- {item}"),
        };
        let items = reader.items(node, &example)?;
        // All items are read, so that all their mistakes are found; a list with one is not a value.
        let read: Vec<Option<T>> = items.iter().map(|item| T::read(item, reader)).collect();
        read.into_iter().collect()
    }

    fn schema(definitions: &mut Definitions) -> Value {
        json!({"type": "array", "items": T::schema(definitions)})
    }
}

/// Names of services and variants: what a host name and a directory can be.
const NAME: &str = "^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$";

pub(crate) fn is_name(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    text.len() <= 63
        && text.bytes().all(inner)
        && text
            .bytes()
            .next()
            .is_some_and(|b| b.is_ascii_alphanumeric())
}

impl<T: Shape> Shape for Entries<T> {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let mut entries = Self::default();
        for pair in reader.pairs(node, "NAME: …")? {
            if !is_name(&pair.key) {
                let message = format!("`{}` is not a name", pair.key.value);
                let hint = "a name has letters, digits, `_`, `.` and `-`, begins with a letter or digit, and has at most 63 of them";
                reader.problem(pair.key.span, &message, Some(hint));
            }
            let value = if T::MAY_BE_NULL && pair.value.is_null() {
                None
            } else {
                T::read(&pair.value, reader)
            };
            if let Some(value) = value.or_else(T::blank) {
                entries.push(pair.key.clone(), value);
            }
        }
        Some(entries)
    }

    fn schema(definitions: &mut Definitions) -> Value {
        json!({
            "type": "object",
            "propertyNames": {"pattern": NAME},
            "additionalProperties": T::schema(definitions),
        })
    }
}

/// A struct whose fields are the keys of a mapping.
pub(crate) trait Keyed: Default {
    /// Whether keys that begin with `x-` are passed over, as Compose does.
    const EXTENSIONS: bool;

    /// Keys in the order of the documentation, those of flattened structs included.
    fn keys() -> Vec<&'static str>;
    /// Reads the value of one key; `false` where there is no such key.
    fn read_key(&mut self, pair: &Pair, reader: &mut Reader<'_>) -> bool;
    fn properties(properties: &mut Map<String, Value>, definitions: &mut Definitions);
}

/// Fills the fields of `T` from a mapping.
pub(crate) fn read_keyed<T: Keyed>(
    node: &Node,
    required: &[&str],
    advice: Advice,
    reader: &mut Reader<'_>,
) -> Option<T> {
    let mut value = T::default();
    let pairs = reader.pairs(node, "")?;
    for pair in pairs {
        let extension = T::EXTENSIONS && pair.key.starts_with("x-");
        if !extension && !value.read_key(pair, reader) {
            reader.unknown_key(&pair.key, &T::keys(), advice);
        }
    }
    for key in required {
        if !pairs.iter().any(|pair| pair.key.value == *key) {
            let message = format!("the key `{key}` is missing");
            let hint = format!("add `{key}: …`");
            reader.problem(node.span, &message, Some(&hint));
        }
    }
    Some(value)
}

/// One field, unless its value is missing or wrong.
pub(crate) fn read_field<T: Shape>(field: &mut T, pair: &Pair, reader: &mut Reader<'_>) {
    if pair.value.is_null() {
        if !T::MAY_BE_NULL {
            let message = format!("`{}` has no value", pair.key.value);
            reader.problem(
                pair.key.span,
                &message,
                Some("give it one, or remove the key"),
            );
        }
    } else if let Some(value) = T::read(&pair.value, reader) {
        *field = value;
    }
}

/// The schema of a mapping, as a definition under `name`.
pub(crate) fn keyed_schema<T: Keyed>(
    name: &'static str,
    doc: &str,
    required: &[&str],
    null: bool,
    definitions: &mut Definitions,
) -> Value {
    if !definitions.contains_key(name) {
        definitions.insert(name, Value::Null);
        let mut properties = Map::new();
        T::properties(&mut properties, definitions);
        let mut schema = json!({
            "type": "object",
            "description": doc.trim(),
            "properties": properties,
            "additionalProperties": false,
        });
        if null {
            schema["type"] = json!(["object", "null"]);
        }
        if T::EXTENSIONS {
            schema["patternProperties"] = json!({"^x-": {}});
        }
        if !required.is_empty() {
            schema["required"] = json!(required);
        }
        definitions.insert(name, schema);
    }
    json!({"$ref": format!("#/$defs/{name}")})
}

/// A field's schema with its description.
pub(crate) fn described(mut schema: Value, docs: &[&str]) -> Value {
    let text = docs
        .iter()
        .map(|line| line.trim())
        .collect::<Vec<_>>()
        .join(" ");
    schema["description"] = Value::String(text);
    schema
}

/// The key of a field: its own name, or another where that is a word of Rust.
macro_rules! key_name {
    ($field:ident) => {
        stringify!($field)
    };
    ($field:ident $key:literal) => {
        $key
    };
}
pub(crate) use key_name;

/// A mapping's struct: documented fields that are its keys, then at most one flattened struct.
///
/// `required` names keys that must be there, `advice` a function of [`Advice`].
macro_rules! keyed {
    (
        $(#[doc = $about:literal])+
        $vis:vis struct $name:ident $([required $($required:literal),+])? $([advice $advice:path])? $([null $null:literal])? $([extensions $extensions:literal])? {
            $($(#[doc = $doc:literal])+ $field:ident $(($key:literal))?: $type:ty,)*
            $(+ $(#[doc = $flat_doc:literal])+ $flat:ident: $flat_type:ty,)?
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Clone, Debug, Default)]
        $vis struct $name {
            $($(#[doc = $doc])+ $vis $field: $type,)*
            $($(#[doc = $flat_doc])+ $vis $flat: $flat_type,)?
        }

        impl $crate::gate_file::reader::Keyed for $name {
            const EXTENSIONS: bool = false $(|| $extensions)?;

            fn keys() -> Vec<&'static str> {
                #[allow(unused_mut)]
                let mut keys = vec![$($crate::gate_file::reader::key_name!($field $($key)?)),*];
                $(keys.extend(<$flat_type as $crate::gate_file::reader::Keyed>::keys());)?
                keys
            }

            fn read_key(
                &mut self,
                pair: &$crate::gate_file::node::Pair,
                reader: &mut $crate::gate_file::reader::Reader<'_>,
            ) -> bool {
                $(if pair.key.value == $crate::gate_file::reader::key_name!($field $($key)?) {
                    $crate::gate_file::reader::read_field(&mut self.$field, pair, reader);
                    return true;
                })*
                false $(|| self.$flat.read_key(pair, reader))?
            }

            fn properties(
                properties: &mut serde_json::Map<String, serde_json::Value>,
                definitions: &mut $crate::gate_file::reader::Definitions,
            ) {
                $(properties.insert(
                    $crate::gate_file::reader::key_name!($field $($key)?).to_owned(),
                    $crate::gate_file::reader::described(
                        <$type as $crate::gate_file::reader::Shape>::schema(definitions),
                        &[$($doc),+],
                    ),
                );)*
                $(<$flat_type as $crate::gate_file::reader::Keyed>::properties(properties, definitions);)?
            }
        }

        impl $crate::gate_file::reader::Shape for $name {
            $(const MAY_BE_NULL: bool = $null;)?

            fn blank() -> Option<Self> {
                Some(Self::default())
            }

            fn read(
                node: &$crate::gate_file::node::Node,
                reader: &mut $crate::gate_file::reader::Reader<'_>,
            ) -> Option<Self> {
                #[allow(unused_mut, unused_assignments)]
                let mut advice: $crate::gate_file::reader::Advice = |_| None;
                $(advice = $advice;)?
                $crate::gate_file::reader::read_keyed(node, &[$($($required),+)?], advice, reader)
            }

            fn schema(
                definitions: &mut $crate::gate_file::reader::Definitions,
            ) -> serde_json::Value {
                $crate::gate_file::reader::keyed_schema::<Self>(
                    stringify!($name),
                    concat!($($about),+),
                    &[$($($required),+)?],
                    <Self as $crate::gate_file::reader::Shape>::MAY_BE_NULL,
                    definitions,
                )
            }
        }
    };
}
pub(crate) use keyed;
