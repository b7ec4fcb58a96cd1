//! The way to a registry: certificates of both ends, and proxies.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use smokegate_test_support::{
    Authority, Finished, Proxy, ProxyKind, RegistryOptions, RunAs, Smokegate, free_port,
};

use super::{Registry, oci_archive, smokegate, text};

/// A table of `registries.toml`.
fn settings(context: &Smokegate, registry: &str, lines: &str) -> PathBuf {
    let table = format!("[registry.\"{registry}\"]\n{lines}");
    context.write("registries.toml", table)
}

/// The line that names the cause.
#[track_caller]
fn cause(run: &Finished) -> &str {
    let mut lines = run.stderr.lines();
    let found = lines.find(|line| line.starts_with("error: "));
    found.unwrap_or_else(|| panic!("no cause in {}", run.stderr))
}

/// A copy of a file that the run's user can read.
fn copy(context: &Smokegate, file: &Path) -> String {
    let name = file.file_name().unwrap().to_str().unwrap();
    text(&context.write(name, fs::read(file).unwrap())).to_owned()
}

#[test]
fn registry_real_rootless_client_certificates_are_shown_and_asked_for() {
    let Some(mut context) = smokegate(RunAs::OrdinaryUser) else {
        return;
    };
    let Some(registry) = Registry::with_tls(true) else {
        return;
    };
    let (image, archive) = oci_archive(&context, "serve");
    let own = registry.server.authority();
    let (right, right_key) = own.issue("client", None).unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let other = Authority::make(elsewhere.path(), "other").unwrap();
    let (stranger, stranger_key) = other.issue("stranger", None).unwrap();
    let [ca, right, right_key, stranger, stranger_key] = [
        &own.certificate(),
        &right,
        &right_key,
        &stranger,
        &stranger_key,
    ]
    .map(|file| copy(&context, file));
    let trust = format!("plain-http = false\nca-file = '{ca}'\n");
    let client = |certificate: &str, key: &str| {
        format!("client-certificate = '{certificate}'\nclient-key = '{key}'\n")
    };
    let address = registry.server.address();
    let reference = registry.reference("team/app:v1");
    let push = |context: &Smokegate, lines: &str| {
        let config = settings(context, &address, lines);
        let words = ["push", text(&archive), "--tag", &reference, "-v"];
        let more = ["--registry-config", text(&config)];
        context.run(words.iter().chain(&more))
    };

    let wanted = "the server wants a client certificate that it trusts";
    let cases = [
        (
            format!("ca-file = '{ca}'\n"),
            6,
            "sent an HTTP request to an HTTPS server",
        ),
        (trust.clone(), 6, wanted),
        (trust.clone() + &client(&stranger, &stranger_key), 6, wanted),
        (
            "plain-http = false\n".to_owned() + &client(&right, &right_key),
            6,
            "invalid peer certificate",
        ),
        (
            trust.clone() + &client(&right, &stranger_key),
            2,
            "cannot use the client certificate or key in",
        ),
        (
            trust.clone() + &client(&right, "no.key"),
            2,
            "cannot use the client certificate or key in",
        ),
    ];
    for (lines, code, said) in cases {
        let run = push(&context, &lines);
        assert_eq!(run.code(), Some(code), "{lines}: {}", run.stderr);
        assert!(cause(&run).contains(said), "{lines}: {}", run.stderr);
        let hint = match said {
            "sent an HTTP request to an HTTPS server" => "`plain-http = false`",
            _ if said == wanted => "`client-certificate` and `client-key`",
            _ => "",
        };
        assert!(run.stderr.contains(hint), "{}", run.stderr);
        assert!(registry.server.is_empty());
    }
    let right = client(&right, &right_key);
    push(&context, &(trust + &right)).assert_code(0);
    registry.assert_image(&image);
    // The CA may also be the host's.
    context.env("SSL_CERT_FILE", ca);
    push(&context, &("plain-http = false\n".to_owned() + &right)).assert_code(0);
}

#[test]
fn registry_real_rootless_pushes_through_a_socks_proxy() {
    let Some(registry) = Registry::with_tls(false) else {
        return;
    };
    pushes_through(ProxyKind::Socks, &registry, "registry.test:443");
}

#[test]
fn registry_real_rootless_pushes_through_the_tunnel_of_an_http_proxy() {
    let Some(registry) = Registry::with_tls(false) else {
        return;
    };
    pushes_through(ProxyKind::Http, &registry, "registry.test:443");
}

#[test]
fn registry_real_rootless_pushes_through_a_proxy_of_plain_http() {
    let Some(registry) = Registry::start(RegistryOptions::default()) else {
        return;
    };
    pushes_through(ProxyKind::Http, &registry, "registry.test");
}

/// Pushes to a name that only the proxy can look up; `asked` is what it is told of it.
fn pushes_through(kind: ProxyKind, registry: &Registry, asked: &str) {
    const NAME: &str = "registry.test";
    let is_tls = asked.ends_with(":443");
    let (scheme, for_scheme) = match kind {
        ProxyKind::Socks => ("socks5h", "HTTPS_PROXY"),
        ProxyKind::Http if is_tls => ("http", "HTTPS_PROXY"),
        ProxyKind::Http => ("http", "HTTP_PROXY"),
    };
    let to = registry.server.address().parse().unwrap();
    let proxy = Proxy::start(kind, to, Some(("proxy-user", "proxy-s3cret")));
    let url =
        |password: &str, address: String| format!("{scheme}://proxy-user:{password}@{address}");
    let right = url("proxy-s3cret", proxy.address().to_string());
    let wrong = url("proxy-wr0ng", proxy.address().to_string());
    let nobody = url(
        "proxy-s3cret",
        format!("127.0.0.1:{}", free_port().unwrap()),
    );
    let cases = [
        ("ALL_PROXY", &right, 0),
        (for_scheme, &right, 0),
        ("registries.toml", &right, 0),
        (for_scheme, &wrong, 6),
        ("registries.toml", &nobody, 6),
    ];
    for (number, (place, url, code)) in cases.into_iter().enumerate() {
        let Some(mut context) = smokegate(RunAs::OrdinaryUser) else {
            return;
        };
        let (image, archive) = oci_archive(&context, "serve");
        let mut lines = match is_tls {
            true => format!(
                "ca-file = '{}'\n",
                copy(&context, &registry.server.ca_file())
            ),
            false => "plain-http = true\n".to_owned(),
        };
        if place == "registries.toml" {
            lines += &format!("proxy = '{url}'\n");
        } else {
            context.env(place, url);
        }
        let config = settings(&context, NAME, &lines);
        let (before, refused) = (proxy.asked().len(), proxy.refused());
        let reference = format!("{NAME}/team/app:v{number}");
        let words = ["push", text(&archive), "--tag", &reference, "-v"];
        let more = ["--registry-config", text(&config)];
        let run = context.run(words.iter().chain(&more));
        assert_eq!(run.code(), Some(code), "{place} {url}: {}", run.stderr);
        for shown in [&run.stdout, &run.stderr] {
            assert!(
                !shown.contains("proxy-s3cret") && !shown.contains("proxy-wr0ng"),
                "{shown}"
            );
        }
        let seen = &proxy.asked()[before..];
        if code == 0 {
            registry.assert_image(&image);
            assert_eq!(run.stdout, format!("{reference}@{}\n", image.digest()));
            // The name is the proxy's to look up: nobody else knows it.
            assert!(!seen.is_empty());
            assert!(seen.iter().all(|one| one == asked), "{seen:?}");
        } else {
            assert!(seen.is_empty());
            // Which proxy, and where it may have come from.
            let address = url.rsplit('@').next().unwrap();
            let named = format!("the proxy {scheme}://{address}");
            assert!(cause(&run).contains(&named), "{}", run.stderr);
            assert!(
                run.stderr.contains("`proxy` in registries.toml"),
                "{}",
                run.stderr
            );
            // Who tries a wrong password again may be locked out.
            let is_refused = *url == wrong;
            assert_eq!(proxy.refused() - refused, usize::from(is_refused));
            assert_eq!(
                cause(&run).contains("wants a name and a password"),
                is_refused
            );
        }
    }
}

/// Pushes to a registry that does not work, and looks at what is said of it.
fn gives_up(address: SocketAddr, lines: &str, said: &str) {
    let Some(context) = smokegate(RunAs::OrdinaryUser) else {
        return;
    };
    let (_, archive) = oci_archive(&context, "serve");
    let config = settings(&context, &address.to_string(), lines);
    let reference = format!("{address}/team/app:v1");
    let words = ["push", text(&archive), "--tag", &reference];
    let more = ["--registry-config", text(&config)];
    let run = context.run(words.iter().chain(&more));
    assert_eq!(run.code(), Some(6), "{}", run.stderr);
    assert!(cause(&run).contains(said), "{}", run.stderr);
}

#[test]
fn rootless_a_registry_that_takes_no_connection_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // With a full queue the kernel lets further connections wait.
    rustix::net::listen(&listener, 0).unwrap();
    let _queued = TcpStream::connect(address).unwrap();
    gives_up(
        address,
        "connect-timeout = \"200ms\"\n",
        "client error (Connect)",
    );
}

#[test]
fn rootless_an_answer_that_takes_too_long_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Never silent for long, and never done.
            thread::spawn(move || {
                // Before a request an answer to it would be refused.
                let mut sent = stream
                    .read(&mut [0; 4096])
                    .and_then(|_| stream.write_all(b"HTTP/1.1 200 OK\r\n"));
                while sent.is_ok() {
                    thread::sleep(Duration::from_millis(50));
                    sent = stream.write_all(b"X: y\r\n");
                }
            });
        }
    });
    gives_up(
        address,
        "total-timeout = \"300ms\"\n",
        "operation timed out",
    );
}
