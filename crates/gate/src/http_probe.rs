//! An HTTP question: the request, and the answer that passes.

use std::ops::RangeInclusive;

use serde_json::Value;

use crate::pattern::Pattern;

/// A request from outside the container and what must come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpProbe {
    /// Container port.
    pub port: u16,
    /// Path with query, from `/`.
    pub path: String,
    /// Method, in capitals.
    pub method: String,
    /// Whether TLS is spoken, and how strictly.
    pub scheme: Scheme,
    /// Headers beside those that every request has; one of the same name replaces it.
    pub headers: Vec<(String, String)>,
    /// Status codes that pass.
    pub status: Vec<RangeInclusive<u16>>,
    /// What the body must hold; all of it.
    pub body: Vec<BodyCheck>,
}

/// How a server is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme {
    /// Plain HTTP.
    Http,
    /// Over TLS, with a certificate that the host's authorities vouch for.
    Https,
    /// Over TLS, with any certificate.
    HttpsInsecure,
}

/// One thing that a body must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyCheck {
    /// This text.
    Contains(String),
    /// A match of this pattern.
    Matches(Pattern),
    /// A value at this JSON pointer (RFC 6901).
    Json {
        /// The pointer.
        pointer: String,
        /// What must be there; anything where `None`.
        equals: Option<Value>,
    },
}

impl HttpProbe {
    /// GET over plain HTTP that must answer 200.
    pub fn get(port: u16, path: impl Into<String>) -> Self {
        Self {
            port,
            path: path.into(),
            method: "GET".into(),
            scheme: Scheme::Http,
            headers: Vec::new(),
            status: vec![200..=200],
            body: Vec::new(),
        }
    }

    /// Whether this status code passes.
    pub fn accepts(&self, status: u16) -> bool {
        self.status.iter().any(|range| range.contains(&status))
    }

    /// What is wrong with a body, in words that follow "its body"; `None` when every check holds.
    pub fn wrong_body(&self, body: &str) -> Option<String> {
        let mut json = None;
        self.body.iter().find_map(|check| match check {
            BodyCheck::Contains(text) => {
                (!body.contains(text.as_str())).then(|| format!("does not contain `{text}`"))
            }
            BodyCheck::Matches(pattern) => {
                (!pattern.is_match(body)).then(|| format!("does not match `{pattern}`"))
            }
            BodyCheck::Json { pointer, equals } => {
                let parsed = json.get_or_insert_with(|| serde_json::from_str::<Value>(body));
                match parsed {
                    Err(error) => Some(format!("is not JSON ({error})")),
                    Ok(value) => wrong_value(value.pointer(pointer), pointer, equals.as_ref()),
                }
            }
        })
    }
}

fn wrong_value(found: Option<&Value>, pointer: &str, wanted: Option<&Value>) -> Option<String> {
    /// The most of a value that a message shows.
    const SHOWN: usize = 120;
    match (found, wanted) {
        (None, _) => Some(format!("has nothing at `{pointer}`")),
        (Some(found), Some(wanted)) if found != wanted => {
            let mut found = found.to_string();
            if let Some((cut, _)) = found.char_indices().nth(SHOWN) {
                found.truncate(cut);
                found.push('…');
            }
            Some(format!("has {found} at `{pointer}`, not {wanted}"))
        }
        _ => None,
    }
}

impl std::fmt::Display for HttpProbe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tls = match self.scheme {
            Scheme::Http => "",
            Scheme::Https | Scheme::HttpsInsecure => " over HTTPS",
        };
        write!(
            f,
            "{} {} on port {}{tls}",
            self.method, self.path, self.port
        )
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_body_is_wrong_for_the_first_check_that_does_not_hold() {
        let pattern = |text: &str| BodyCheck::Matches(regex::Regex::new(text).unwrap().into());
        let contains = |text: &str| BodyCheck::Contains(text.into());
        let at = |pointer: &str, equals| BodyCheck::Json {
            pointer: pointer.into(),
            equals,
        };
        let json = r#"{"status":"ok","deps":[{"name":"db","up":true}],"n":1}"#;
        for (checks, body, wrong) in [
            (vec![], "", None),
            (vec![contains("ok")], "all ok", None),
            (
                vec![contains("OK")],
                "all ok",
                Some("does not contain `OK`"),
            ),
            (vec![pattern("^v[0-9]+$")], "v12", None),
            (
                vec![pattern("^v[0-9]+$")],
                "v12\n",
                Some("does not match `^v[0-9]+$`"),
            ),
            (vec![at("", None)], "{}", None),
            (vec![at("/status", None)], json, None),
            (vec![at("/status", Some(json!("ok")))], json, None),
            (vec![at("/deps/0/up", Some(json!(true)))], json, None),
            (
                vec![at("/n", Some(json!("1")))],
                json,
                Some("has 1 at `/n`, not \"1\""),
            ),
            (
                vec![at("/deps/1", None)],
                json,
                Some("has nothing at `/deps/1`"),
            ),
            (
                vec![contains("ok"), at("/status", Some(json!("up")))],
                json,
                Some("has \"ok\" at `/status`, not \"up\""),
            ),
        ] {
            let probe = HttpProbe {
                body: checks,
                ..HttpProbe::get(80, "/")
            };
            assert_eq!(probe.wrong_body(body).as_deref(), wrong, "{body}");
        }
        let probe = HttpProbe {
            body: vec![at("/status", None)],
            ..HttpProbe::get(80, "/")
        };
        assert!(
            probe
                .wrong_body("<html>")
                .unwrap()
                .starts_with("is not JSON (")
        );
    }
}
