//! Names: the container's own, and `extra_hosts`.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::node::{Kind, Node};
use super::reader::{Definitions, FromText, Reader, Shape};
use super::span::Spanned;

/// A host name: labels of letters, digits and `-` (RFC 1123), `_` allowed as docker allows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hostname(pub String);

impl FromText for Hostname {
    const EXPECTED: &'static str = "a host name";
    const EXAMPLE: &'static str = "app.internal";

    fn from_text(text: &str) -> Result<Self, String> {
        let label = |label: &str| {
            let bytes = label.as_bytes();
            let inner = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
            bytes.len() <= 63
                && bytes.iter().all(inner)
                && bytes.first().is_some_and(|b| *b != b'-')
                && bytes.last().is_some_and(|b| *b != b'-')
        };
        // sethostname(2) takes 64 bytes.
        if text.len() > 64 || !text.split('.').all(label) {
            return Err(String::new());
        }
        Ok(Self(text.to_owned()))
    }

    fn schema() -> Value {
        json!({"type": "string"})
    }
}

/// A line more in /etc/hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtraHost {
    /// The name.
    pub name: Hostname,
    /// Its address.
    pub address: IpAddr,
}

impl FromText for ExtraHost {
    const EXPECTED: &'static str = "a name and its address";
    const EXAMPLE: &'static str = "db.internal=10.0.0.5";

    fn from_text(text: &str) -> Result<Self, String> {
        let (name, address) = text
            .split_once('=')
            .or_else(|| text.split_once(':'))
            .ok_or_else(String::new)?;
        let name = Hostname::from_text(name).map_err(|_| format!("`{name}` is not a host name"))?;
        let bare = address
            .strip_prefix('[')
            .and_then(|a| a.strip_suffix(']'))
            .unwrap_or(address);
        if bare == "host-gateway" {
            return Err(
                "a pod has no way to the host; run what it needs there as a service".to_owned(),
            );
        }
        let address = bare
            .parse()
            .map_err(|_| format!("`{address}` is not an IP address"))?;
        Ok(Self { name, address })
    }

    fn schema() -> Value {
        json!({"type": "string", "examples": ["db.internal=10.0.0.5"]})
    }
}

/// `extra_hosts`, as a list or a mapping.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExtraHosts(pub Vec<Spanned<ExtraHost>>);

impl Shape for ExtraHosts {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        let Kind::Mapping(pairs) = &node.kind else {
            return Vec::read(node, reader).map(Self);
        };
        let mut hosts = Vec::new();
        for pair in pairs {
            let Some(text) = reader.text(&pair.value, "an IP address", "10.0.0.5") else {
                continue;
            };
            match ExtraHost::from_text(&format!("{}={}", pair.key.value, text.text)) {
                Ok(value) => hosts.push(pair.key.with(value)),
                Err(why) => reader.problem(pair.value.span, &why, None),
            }
        }
        Some(Self(hosts))
    }

    fn schema(_: &mut Definitions) -> Value {
        let address = json!({"type": "string"});
        json!({"anyOf": [
            {"type": "array", "items": ExtraHost::schema()},
            {"type": "object", "additionalProperties": address},
        ]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_read_as_in_compose() {
        for (text, name, address) in [
            ("db=10.0.0.5", "db", "10.0.0.5"),
            ("db.internal:10.0.0.5", "db.internal", "10.0.0.5"),
            ("v6=[::1]", "v6", "::1"),
            ("v6:::1", "v6", "::1"),
        ] {
            let host = ExtraHost::from_text(text).unwrap();
            assert_eq!(
                (host.name.0.as_str(), host.address.to_string().as_str()),
                (name, address)
            );
        }
        for text in [
            "",
            "db",
            "db=",
            "db=host",
            "db=host-gateway",
            "-db=10.0.0.5",
            "a b=10.0.0.5",
            "=10.0.0.5",
        ] {
            assert!(ExtraHost::from_text(text).is_err(), "{text}");
        }
    }
}
