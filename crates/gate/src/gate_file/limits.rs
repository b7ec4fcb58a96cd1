//! What a container may do and use: capabilities, ulimits, security options.

use serde_json::{Value, json};
use smokegate_sandbox::Capability;

use super::node::{Kind, Node};
use super::reader::{Definitions, FromText, Reader, Shape, keyed, nearest};
use super::scalar::or_variable;
use super::span::{Entries, Spanned};

impl FromText for Capability {
    const EXPECTED: &'static str = "a capability";
    const EXAMPLE: &'static str = "NET_BIND_SERVICE";

    fn from_text(text: &str) -> Result<Self, String> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        Self::parse(name).ok_or_else(|| {
            let names = Self::names().iter().map(|name| name.to_ascii_lowercase());
            let names: Vec<String> = names.collect();
            let known: Vec<&str> = names.iter().map(String::as_str).collect();
            match nearest(name, &known) {
                Some(near) => format!("did you mean `{}`?", near.to_ascii_uppercase()),
                None => String::new(),
            }
        })
    }

    fn schema() -> Value {
        json!({"type": "string", "examples": ["NET_BIND_SERVICE", "ALL"]})
    }
}

/// What `security_opt` may hold: one thing, in Compose's two spellings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoNewPrivileges;

impl FromText for NoNewPrivileges {
    const EXPECTED: &'static str = "`no-new-privileges`, the only option there is";
    const EXAMPLE: &'static str = "";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "no-new-privileges" | "no-new-privileges:true" | "no-new-privileges=true" => Ok(Self),
            _ => Err(String::new()),
        }
    }

    fn schema() -> Value {
        json!({"type": "string", "enum": ["no-new-privileges", "no-new-privileges:true"]})
    }
}

/// The value of a resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rlimit(pub u64);

impl Rlimit {
    /// `-1`.
    pub const UNLIMITED: Self = Self(u64::MAX);
}

impl FromText for Rlimit {
    const EXPECTED: &'static str = "a limit: a number, or -1 for none";
    const EXAMPLE: &'static str = "65536";

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "-1" | "unlimited" => Ok(Self::UNLIMITED),
            text => text.parse().map(Self).map_err(|_| String::new()),
        }
    }

    fn schema() -> Value {
        or_variable(json!({"type": "integer", "minimum": -1}))
    }
}

/// One resource limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ulimit {
    /// What holds.
    pub soft: Rlimit,
    /// What the process may raise it to.
    pub hard: Rlimit,
}

/// Resource limits by Compose's names: `nofile`, `nproc`.
#[derive(Clone, Debug, Default)]
pub struct Ulimits(pub Entries<Ulimit>);

keyed! {
    /// A resource limit with two values.
    pub(crate) struct UlimitKeys [required "soft", "hard"] {
        /// What holds.
        soft: Option<Spanned<Rlimit>>,
        /// What the process may raise it to.
        hard: Option<Spanned<Rlimit>>,
    }
}

impl Shape for Ulimits {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let mut limits = Entries::default();
        for pair in reader.pairs(node, "{nofile: 65536}")? {
            if !smokegate_sandbox::Ulimit::NAMES.contains(&pair.key.value.as_str()) {
                reader.unknown_key(&pair.key, &smokegate_sandbox::Ulimit::NAMES, |_| None);
                continue;
            }
            let (soft, hard) = if let Kind::Mapping(_) = &pair.value.kind {
                match UlimitKeys::read(&pair.value, reader) {
                    Some(UlimitKeys {
                        soft: Some(soft),
                        hard: Some(hard),
                    }) => (soft.value, hard.value),
                    _ => continue,
                }
            } else {
                match Spanned::<Rlimit>::read(&pair.value, reader) {
                    Some(limit) => (limit.value, limit.value),
                    None => continue,
                }
            };
            if soft > hard {
                reader.problem(
                    pair.value.span,
                    "the soft limit is above the hard one",
                    None,
                );
            }
            limits.push(pair.key.clone(), Ulimit { soft, hard });
        }
        Some(Self(limits))
    }

    fn schema(definitions: &mut Definitions) -> Value {
        let both = UlimitKeys::schema(definitions);
        json!({
            "type": "object",
            "propertyNames": {"enum": smokegate_sandbox::Ulimit::NAMES},
            "additionalProperties": {"anyOf": [Rlimit::schema(), both]},
        })
    }
}
