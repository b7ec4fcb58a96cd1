//! Why an app that runs is not healthy: what its probes saw, and what listened instead.

use std::time::Duration;

use smokegate_sandbox::Listener;

use crate::plan::Probe;
use crate::probe::Outcome;
use crate::verdict::{ProbeVerdict, VariantVerdict, seconds};

/// The port that a probe connects to.
pub(super) fn port(probe: &Probe) -> Option<u16> {
    match probe {
        Probe::Http(http) => Some(http.port),
        Probe::Tcp { port } => Some(*port),
        _ => None,
    }
}

/// The kind of cause: what the last attempt saw, or where the app listens instead.
pub(super) fn id(probe: &Probe, last: Option<&Outcome>, listening: &[Listener]) -> &'static str {
    match (port(probe), last) {
        (Some(port), Some(Outcome::Refused)) => {
            if listening.iter().any(|l| l.address.port() == port) {
                "unreachable-address"
            } else if listening.is_empty() {
                "nothing-listens"
            } else {
                "other-port"
            }
        }
        (_, Some(Outcome::Passed)) => "not-steady",
        (_, Some(outcome)) => match outcome.class() {
            "http_status" => "http-status",
            "wrong_body" => "wrong-body",
            "not_http" => "not-http",
            "exit_code" => "check-exit-code",
            "wrong_output" => "check-output",
            "not_run" => "check-not-run",
            "log" => "not-logged",
            // `refused`, `reset`, `timeout`, `tls`.
            class => class,
        },
        (_, None) => "no-answer",
    }
}

impl VariantVerdict {
    pub(super) fn not_healthy(
        &self,
        asked: &ProbeVerdict,
        after: Duration,
        last: Option<&Outcome>,
        listening: &[Listener],
    ) -> String {
        let (probe, after) = (&asked.probe, seconds(after));
        if let (Some(port), Some(Outcome::Refused)) = (port(probe), last) {
            let same_port: Vec<_> = listening
                .iter()
                .filter(|l| l.address.port() == port)
                .collect();
            if !same_port.is_empty() {
                let is_ipv6 = same_port.iter().all(|l| l.address.ip().is_unspecified());
                let on = addresses(same_port.into_iter());
                if is_ipv6 {
                    return format!(
                        "the app listens on {on} for IPv6 only, and is asked over IPv4; it must listen on 0.0.0.0:{port}, or on [::]:{port} for both (IPV6_V6ONLY off)"
                    );
                }
                return format!(
                    "the app listens on {on} only, so nothing outside its container can reach it; it must listen on 0.0.0.0:{port}"
                );
            }
            if listening.is_empty() {
                return format!("the app opened no port at all in {after}: {probe} was refused");
            }
            let on = addresses(listening.iter());
            return format!("nothing listens on port {port}: the app listens on {on}");
        }
        let probe = asked;
        match last {
            Some(Outcome::Passed) => format!(
                "{probe} did not pass {} times in a row in {after}: it had passed {} times when the time was over",
                asked.successes,
                asked.passed_in_a_row()
            ),
            Some(Outcome::LogLines { seen: 0, .. }) => {
                format!("the app did not write {probe} in {after}")
            }
            Some(Outcome::LogLines { seen, .. }) => {
                format!("the app did not write {probe} in {after}, but {seen}")
            }
            Some(outcome) => {
                let attempts = asked.attempts.len();
                let s = if attempts == 1 { "" } else { "s" };
                format!(
                    "{probe} did not pass in {after} ({attempts} attempt{s}): it {}",
                    verb(outcome)
                )
            }
            None => format!("{probe} was not answered in {after}"),
        }
    }
}

/// An outcome as the end of a sentence that begins with "it".
pub(super) fn verb(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Refused => "refused the connection".into(),
        Outcome::NotConnected => "did not accept the connection in time".into(),
        Outcome::NoAnswer => "accepted the connection and never answered".into(),
        Outcome::Closed { error } => format!("closed the connection without an answer ({error})"),
        Outcome::NotHttp { error } => format!("answered something that is not HTTP ({error})"),
        other => other.to_string(),
    }
}

fn addresses<'a>(listeners: impl Iterator<Item = &'a Listener>) -> String {
    let mut list: Vec<_> = listeners
        .map(|listener| listener.address.to_string())
        .collect();
    list.sort();
    list.dedup();
    list.join(", ")
}
