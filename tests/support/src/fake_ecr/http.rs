//! As much HTTP/1.1 as the fake needs.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::faults::Fault;

/// One request.
#[derive(Clone, Debug, Default)]
pub struct FakeRequest {
    /// `GET`, …
    pub method: String,
    /// Path and query.
    pub target: String,
    /// By name in lower case.
    pub headers: BTreeMap<String, String>,
    /// What was sent.
    pub body: Vec<u8>,
}

/// One answer.
#[derive(Clone, Debug)]
pub struct FakeResponse {
    /// The status.
    pub status: u16,
    /// In their order, besides `Content-Length`.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl FakeRequest {
    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// A parameter of the query, decoded as far as registries need it.
    pub fn parameter(&self, name: &str) -> Option<String> {
        let (_, query) = self.target.split_once('?')?;
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let mut found = pairs
            .filter(|(key, _)| *key == name)
            .map(|(_, value)| value);
        Some(found.next()?.replace("%3A", ":").replace("%2F", "/"))
    }

    /// A header, or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

impl FakeResponse {
    pub(super) fn new(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(super) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// A refusal in the distribution spec's form.
    pub(super) fn error(status: u16, code: &str, message: &str) -> Self {
        let envelope = serde_json::json!({"errors": [{"code": code, "message": message}]});
        Self::new(status)
            .with("Content-Type", "application/json; charset=utf-8")
            .body(envelope.to_string())
    }

    pub(super) fn busy(status: u16, retry_after: Option<u64>) -> Self {
        let answer = match status {
            429 => Self::error(429, "TOOMANYREQUESTS", "Rate exceeded"),
            _ => Self::new(status).body("<html>busy</html>"),
        };
        match retry_after {
            Some(seconds) => answer.with("Retry-After", seconds.to_string()),
            None => answer,
        }
    }

    pub(super) fn write(&self, stream: &mut TcpStream, method: &str, cut: bool) -> io::Result<()> {
        let mut head = format!("HTTP/1.1 {} X\r\n", self.status);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if self.status != 204 {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        head += "\r\n";
        if cut {
            // In the middle of the body where there is one, of the head otherwise.
            let whole = [head.as_bytes(), &self.body].concat();
            let end = if self.body.is_empty() || method == "HEAD" {
                head.len() / 2
            } else {
                head.len() + self.body.len() / 2
            };
            return stream.write_all(&whole[..end]);
        }
        stream.write_all(head.as_bytes())?;
        if method != "HEAD" {
            stream.write_all(&self.body)?;
        }
        stream.flush()
    }
}

/// Reads one request, and the fault for it, which may end the connection within its body.
pub(super) fn read_request(
    stream: &mut TcpStream,
    fault: impl FnOnce(&FakeRequest) -> Option<Fault>,
) -> Option<(FakeRequest, Option<Fault>)> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() > 64 * 1024 || stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let mut words = lines.next()?.split(' ');
    let mut request = FakeRequest {
        method: words.next()?.to_owned(),
        target: words.next()?.to_owned(),
        ..FakeRequest::default()
    };
    for line in lines {
        if let Some((name, value)) = line.split_once(':') {
            let name = name.to_ascii_lowercase();
            request.headers.insert(name, value.trim().to_owned());
        }
    }
    let fault = fault(&request);
    let length: usize = request.header("content-length").parse().unwrap_or(0);
    if fault == Some(Fault::ResetInBody) {
        let mut half = vec![0; length / 2];
        _ = stream.read_exact(&mut half);
        return None;
    }
    request.body = vec![0; length];
    stream.read_exact(&mut request.body).ok()?;
    Some((request, fault))
}
