//! What a registry says when it refuses: bounded, and made safe to print.

use std::fmt;
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};

/// Bytes read of an error's body.
pub(crate) const READ_LIMIT: usize = 64 * 1024;
const SHOWN_LIMIT: usize = 1024;
const RETRY_AFTER_LIMIT: Duration = Duration::from_secs(60);

/// The body of a refusal: the distribution spec's error codes, or the text that was there instead.
///
/// `Display` starts with `: `, or is empty where nothing was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WireError {
    codes: Vec<String>,
    text: String,
}

#[derive(serde::Deserialize)]
struct Envelope {
    errors: Vec<Entry>,
}

#[derive(serde::Deserialize)]
struct Entry {
    #[serde(default)]
    code: String,
    message: Option<String>,
    detail: Option<serde_json::Value>,
}

impl WireError {
    /// Understands a body (OCI distribution spec, "Error Codes"; proxies in between send plain text or HTML).
    pub(crate) fn parse(body: &[u8]) -> Self {
        let Ok(envelope) = serde_json::from_slice::<Envelope>(body) else {
            return Self {
                codes: Vec::new(),
                text: printable(&String::from_utf8_lossy(body)),
            };
        };
        let mut said = Vec::new();
        for entry in &envelope.errors {
            let message = entry.message.as_deref().unwrap_or_default();
            let mut line = format!("{} {message}", entry.code).trim().to_owned();
            match &entry.detail {
                Some(serde_json::Value::String(detail)) if !detail.is_empty() => {
                    line.push_str(&format!(" ({detail})"));
                }
                _ => {}
            }
            said.push(line);
        }
        let codes = envelope
            .errors
            .into_iter()
            .map(|entry| entry.code)
            .collect();
        Self {
            codes,
            text: printable(&said.join("; ")),
        }
    }

    /// Whether it is said that a token has ended, as ECR says it, in JSON or in plain text.
    pub(crate) fn says_expired_token(&self) -> bool {
        let text = self.text.to_ascii_lowercase();
        text.contains("authorization token")
            && (text.contains("expired") || text.contains("invalid"))
    }

    /// Whether a server that speaks TLS only says that it was spoken to without (Go's and nginx's words).
    pub(crate) fn wants_tls(&self) -> bool {
        let text = self.text.to_ascii_lowercase();
        text.contains("http request") && text.contains("https")
    }

    /// Whether one of the error codes is about what was sent, and not about who sent it.
    pub(crate) fn is_about_content(&self) -> bool {
        const SUBJECTS: [&str; 6] = ["BLOB_", "DIGEST_", "MANIFEST_", "NAME_", "SIZE_", "TAG_"];
        let is_about = |code: &String| SUBJECTS.iter().any(|subject| code.starts_with(subject));
        self.codes.iter().any(is_about)
    }

    /// Whether one of the error codes is `code`.
    pub(crate) fn has_code(&self, code: &str) -> bool {
        self.codes.iter().any(|given| given == code)
    }
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() {
            Ok(())
        } else {
            write!(f, ": {}", self.text)
        }
    }
}

/// One line without control characters, cut to a length that a person reads.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::new();
    let mut space = false;
    for character in text.chars() {
        if character.is_whitespace() || character.is_control() {
            space = !shown.is_empty();
            continue;
        }
        // Bidirectional overrides and other invisible ones can make a line read as something else.
        if matches!(character, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            continue;
        }
        if std::mem::take(&mut space) {
            shown.push(' ');
        }
        if shown.len() + character.len_utf8() > SHOWN_LIMIT {
            shown.push('…');
            break;
        }
        shown.push(character);
    }
    shown
}

/// `Retry-After` in seconds or as a date (RFC 9110, 10.2.3), at most a minute.
pub(crate) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let delay = match value.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value)
            .ok()?
            .duration_since(now)
            .unwrap_or(Duration::ZERO),
    };
    Some(delay.min(RETRY_AFTER_LIMIT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_envelopes_and_plain_text() {
        let body = br#"{"errors":[{"code":"DENIED","message":"no","detail":"why"},{"code":"X"}]}"#;
        let error = WireError::parse(body);
        assert_eq!(error.to_string(), ": DENIED no (why); X");
        assert!(error.has_code("DENIED") && !error.has_code("NO"));
        assert_eq!(WireError::parse(b"").to_string(), "");
        assert_eq!(
            WireError::parse(b"<h1>\n Bad\tGateway\x1b[31m").to_string(),
            ": <h1> Bad Gateway [31m"
        );
    }

    #[test]
    fn long_text_is_cut_on_a_character() {
        let shown = printable(&"ä".repeat(5000));
        assert!(shown.len() <= SHOWN_LIMIT + '…'.len_utf8() && shown.ends_with('…'));
    }

    #[test]
    fn retry_after_forms() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_770);
        for (value, seconds) in [
            ("7", Some(7)),
            ("100000", Some(60)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(7)),
            ("Sun, 30 Oct 1994 08:49:37 GMT", Some(0)),
            ("soon", None),
        ] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]);
            assert_eq!(
                retry_after(&headers, now),
                seconds.map(Duration::from_secs),
                "{value}"
            );
        }
    }
}
