//! Where a registry may send a request: `Location` headers and redirects.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::{Url, redirect};

use crate::Error;

const REDIRECTS: usize = 5;

/// A URL for messages: without user, password, query and fragment, as presigned URLs are credentials.
pub(crate) fn shown(url: &Url) -> String {
    let port = url
        .port()
        .map(|port| format!(":{port}"))
        .unwrap_or_default();
    format!(
        "{}://{}{port}{}",
        url.scheme(),
        url.host_str().unwrap_or_default(),
        url.path()
    )
}

/// Whether both have the same scheme, host and port, so that credentials for one are for the other.
pub(crate) fn same_origin(one: &Url, other: &Url) -> bool {
    one.scheme() == other.scheme()
        && one.host_str() == other.host_str()
        && one.port_or_known_default() == other.port_or_known_default()
}

/// Resolves a `Location`, relative or absolute, against the request that it answers.
pub(crate) fn resolve(request: &Url, location: &str) -> Result<Url, Error> {
    let refused = |location: String, reason| Error::Location {
        url: shown(request),
        location,
        reason,
    };
    let resolved = request.join(location).map_err(|_| {
        let path = location.split(['?', '#']).next().unwrap_or_default();
        refused(crate::wire_error::printable(path), "it is not a URL")
    })?;
    match objection(request, &resolved) {
        Some(reason) => Err(refused(shown(&resolved), reason)),
        None => Ok(resolved),
    }
}

/// Why a request to `from` is not continued at `to`: nothing a registry says may make us talk to the network
/// we run in (the reason for go-containerregistry's same check), or send an image in the clear.
fn objection(from: &Url, to: &Url) -> Option<&'static str> {
    match to.scheme() {
        "https" => {}
        "http" if from.scheme() == "http" => {}
        "http" => {
            return Some(
                "that is plain HTTP; a proxy that ends TLS before the registry must set X-Forwarded-Proto",
            );
        }
        _ => return Some("that is not HTTP"),
    }
    if from.host_str() != to.host_str() && is_private(to) {
        return Some("that is a private address of another host");
    }
    None
}

/// The redirect policy that follows the same rules. reqwest itself drops `Authorization` on the way.
pub(crate) fn redirects() -> redirect::Policy {
    redirect::Policy::custom(|attempt| {
        if attempt.previous().len() > REDIRECTS {
            return attempt.error("too many redirects");
        }
        let objection = attempt
            .previous()
            .last()
            .and_then(|previous| objection(previous, attempt.url()));
        match objection {
            Some(reason) => {
                let message = format!("redirect to `{}` refused: {reason}", shown(attempt.url()));
                attempt.error(message)
            }
            None => attempt.follow(),
        }
    })
}

/// Whether a URL's host is this machine.
pub(crate) fn is_loopback(url: &Url) -> bool {
    match address(url) {
        Some(address) => address.is_loopback(),
        None => is_localhost(url.host_str().unwrap_or_default()),
    }
}

fn is_localhost(name: &str) -> bool {
    // RFC 6761, 6.3: every name below `localhost.` is loopback too.
    let name = name.trim_end_matches('.');
    name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost")
}

fn is_private(url: &Url) -> bool {
    match address(url) {
        Some(IpAddr::V4(address)) => is_private_v4(address),
        Some(IpAddr::V6(address)) => is_private_v6(address),
        None => is_localhost(url.host_str().unwrap_or_default()),
    }
}

fn address(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?;
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'))
        .unwrap_or(host);
    let address: IpAddr = bare.parse().ok()?;
    Some(address.to_canonical())
}

fn is_private_v4(address: Ipv4Addr) -> bool {
    let [a, b, ..] = address.octets();
    address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_broadcast()
        || a == 0
        // RFC 6598, shared address space: carrier NAT and cloud metadata services.
        || (a == 100 && (64..128).contains(&b))
}

fn is_private_v6(address: Ipv6Addr) -> bool {
    address.is_loopback()
        || address.is_unspecified()
        || address.is_unique_local()
        || address.is_unicast_link_local()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        text.parse().unwrap()
    }

    #[test]
    fn locations() {
        let request = url("https://r.example/v2/a/blobs/uploads/");
        for (location, resolved) in [
            (
                "/v2/a/blobs/uploads/1?_state=x",
                Some("https://r.example/v2/a/blobs/uploads/1?_state=x"),
            ),
            ("2", Some("https://r.example/v2/a/blobs/uploads/2")),
            ("https://r.example:443/x", Some("https://r.example/x")),
            (
                "https://store.example/x?sig=1",
                Some("https://store.example/x?sig=1"),
            ),
            ("//store.example/x", Some("https://store.example/x")),
            ("http://r.example/x", None),
            ("https://127.0.0.1/x", None),
            ("https://10.0.0.1/x", None),
            ("https://169.254.169.254/latest", None),
            ("https://100.100.100.200/latest", None),
            ("https://[::1]/x", None),
            ("https://[::ffff:10.0.0.1]/x", None),
            ("https://[fd00::1]/x", None),
            ("https://localhost/x", None),
            ("https://2130706433/x", None),
            ("file:///etc/passwd", None),
        ] {
            let got = resolve(&request, location).ok().map(String::from);
            assert_eq!(got.as_deref(), resolved, "{location}");
        }
        let loopback = url("http://127.0.0.1:5000/v2/");
        assert!(resolve(&loopback, "http://127.0.0.1:5001/x").is_ok());
        assert!(resolve(&loopback, "http://127.0.0.2:5000/x").is_err());
    }

    #[test]
    fn nothing_secret_is_shown() {
        let error = resolve(
            &url("https://u:p@r.example/v2/?token=s3cret"),
            "https://10.0.0.1/x?sig=s3cret",
        );
        let message = error.unwrap_err().to_string();
        assert!(
            !message.contains("s3cret") && !message.contains("u:p"),
            "{message}"
        );
    }
}
