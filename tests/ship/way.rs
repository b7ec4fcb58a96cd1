//! The way to a registry: certificates of both ends, and proxies.

use std::fs;
use std::path::{Path, PathBuf};

use smokegate_test_support::{Authority, Finished, RunAs, Smokegate, SocksProxy, free_port};

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
    const NAME: &str = "registry.test";
    let Some(registry) = Registry::with_tls(false) else {
        return;
    };
    let to = registry.server.address().parse().unwrap();
    let proxy = SocksProxy::start(to, Some(("proxy-user", "proxy-s3cret")));
    let right = format!("socks5h://proxy-user:proxy-s3cret@{}", proxy.address());
    let wrong = format!("socks5h://proxy-user:proxy-wr0ng@{}", proxy.address());
    let nobody = format!(
        "socks5h://proxy-user:proxy-s3cret@127.0.0.1:{}",
        free_port().unwrap()
    );
    let cases = [
        ("ALL_PROXY", &right, 0),
        ("HTTPS_PROXY", &right, 0),
        ("registries.toml", &right, 0),
        ("HTTPS_PROXY", &wrong, 6),
        ("registries.toml", &nobody, 6),
    ];
    for (number, (place, url, code)) in cases.into_iter().enumerate() {
        let Some(mut context) = smokegate(RunAs::OrdinaryUser) else {
            return;
        };
        let (image, archive) = oci_archive(&context, "serve");
        let ca = copy(&context, &registry.server.ca_file());
        let mut lines = format!("ca-file = '{ca}'\n");
        if place == "registries.toml" {
            lines += &format!("proxy = '{url}'\n");
        } else {
            context.env(place, url);
        }
        let config = settings(&context, NAME, &lines);
        let before = proxy.asked().len();
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
        let asked = &proxy.asked()[before..];
        if code == 0 {
            registry.assert_image(&image);
            assert_eq!(run.stdout, format!("{reference}@{}\n", image.digest()));
            // The name is the proxy's to look up: nobody else knows it.
            assert!(!asked.is_empty());
            assert!(
                asked.iter().all(|one| one == "registry.test:443"),
                "{asked:?}"
            );
        } else {
            assert!(asked.is_empty());
            assert!(
                cause(&run).to_lowercase().contains("socks"),
                "{}",
                run.stderr
            );
        }
    }
}
