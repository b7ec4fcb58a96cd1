//! `registries.toml`: settings of single registries, for those who need them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use smokegate_registry::{ClientCertificate, RegistrySettings};

use crate::args;
use crate::failure::Failure;

/// The least that registries take as a part of a blob; ECR refuses smaller ones.
const SMALLEST_CHUNK: u64 = 5 << 20;

/// One table for each registry, by the name that references have.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RegistryFile {
    #[serde(default)]
    registry: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct Entry {
    endpoint: Option<String>,
    ca_file: Option<PathBuf>,
    client_certificate: Option<PathBuf>,
    client_key: Option<PathBuf>,
    plain_http: Option<bool>,
    proxy: Option<String>,
    #[serde(default, deserialize_with = "duration")]
    connect_timeout: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    idle_timeout: Option<Duration>,
    #[serde(default, deserialize_with = "duration")]
    total_timeout: Option<Duration>,
    parallel_uploads: Option<usize>,
    #[serde(default, deserialize_with = "size")]
    chunk_size: Option<u64>,
}

/// Reads the file; relative paths in it are relative to it.
pub(crate) fn read(file: &Path) -> Result<BTreeMap<String, RegistrySettings>, Failure> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::usage(format!("cannot read `{shown}`: {error}")))?;
    let parsed: RegistryFile = toml::from_str(&text).map_err(|error| {
        let place = error
            .span()
            .map(|span| place(&text, span.start))
            .unwrap_or_default();
        Failure::usage(format!("`{shown}`{place}: {}", error.message().trim()))
    })?;
    let directory = file.parent().unwrap_or(Path::new(""));
    let settle = |(name, entry): (String, Entry)| {
        let settings = entry
            .settle(directory)
            .map_err(|reason| Failure::usage(format!("`{shown}`: registry `{name}`: {reason}")))?;
        Ok((name, settings))
    };
    parsed.registry.into_iter().map(settle).collect()
}

impl Entry {
    fn settle(self, directory: &Path) -> Result<RegistrySettings, &'static str> {
        let path = |path: PathBuf| directory.join(path);
        let client_certificate = match (self.client_certificate, self.client_key) {
            (Some(certificate), Some(key)) => Some(ClientCertificate {
                certificate: path(certificate),
                key: path(key),
            }),
            (None, None) => None,
            _ => return Err("`client-certificate` and `client-key` go together"),
        };
        if let Some(endpoint) = &self.endpoint
            && !(endpoint.starts_with("http://") || endpoint.starts_with("https://"))
        {
            return Err("`endpoint` is not a URL, such as https://registry.internal:8443");
        }
        let proxies = ["http://", "https://", "socks5://", "socks5h://"];
        if let Some(proxy) = &self.proxy
            && !proxies.iter().any(|scheme| proxy.starts_with(scheme))
        {
            return Err(
                "`proxy` is not a URL, such as http://proxy.internal:3128 or socks5h://proxy.internal:1080",
            );
        }
        if self.parallel_uploads == Some(0) {
            return Err("`parallel-uploads` is at least 1");
        }
        if self.chunk_size.is_some_and(|size| size < SMALLEST_CHUNK) {
            return Err("`chunk-size` is at least 5 MiB, as ECR refuses smaller chunks");
        }
        Ok(RegistrySettings {
            endpoint: self.endpoint,
            ca_file: self.ca_file.map(path),
            client_certificate,
            plain_http: self.plain_http,
            proxy: self.proxy,
            connect_timeout: self.connect_timeout,
            idle_timeout: self.idle_timeout,
            total_timeout: self.total_timeout,
            parallel_uploads: self.parallel_uploads,
            chunk_size: self.chunk_size,
        })
    }
}

/// ` line 3 column 7`.
fn place(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or_default();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    format!(" line {line} column {column}")
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    args::duration(&text).map(Some).map_err(de::Error::custom)
}

/// A number of bytes, or one with `MiB` or `GiB`.
fn size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let (number, unit) = match text.strip_suffix("MiB") {
        Some(number) => (number, 1 << 20),
        None => match text.strip_suffix("GiB") {
            Some(number) => (number, 1 << 30),
            None => (text.as_str(), 1),
        },
    };
    let bytes = number.trim().parse::<u64>().ok();
    bytes
        .and_then(|number| number.checked_mul(unit))
        .map(Some)
        .ok_or_else(|| de::Error::custom(format!("`{text}` is not a size, for example \"32MiB\"")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<BTreeMap<String, RegistrySettings>, String> {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("registries.toml");
        std::fs::write(&file, text).unwrap();
        read(&file).map_err(|failure| failure.cause)
    }

    #[test]
    fn what_it_says() {
        let text = "[registry.\"r.example:5000\"]\nendpoint = \"http://127.0.0.1:1\"\n\
                    chunk-size = \"32MiB\"\nidle-timeout = \"2m\"\nparallel-uploads = 2\n";
        let settings = &parse(text).unwrap()["r.example:5000"];
        assert_eq!(settings.chunk_size, Some(32 << 20));
        assert_eq!(settings.idle_timeout, Some(Duration::from_secs(120)));
        assert_eq!(settings.parallel_uploads, Some(2));
        assert_eq!(settings.plain_http, None);
        assert!(parse("").unwrap().is_empty());
    }

    #[test]
    fn mistakes_are_placed() {
        for (text, said) in [
            (
                "[registry.a]\nprox = \"x\"\n",
                "line 2 column 1: unknown field `prox`",
            ),
            (
                "[registry.a]\nidle-timeout = \"soon\"\n",
                "line 2 column 16: `soon` is not",
            ),
            (
                "[registry.a]\nchunk-size = \"1MiB\"\n",
                "registry `a`: `chunk-size`",
            ),
            ("[registry.a]\nchunk-size = \"x\"\n", "`x` is not a size"),
            ("[registry.a]\nclient-key = \"k\"\n", "go together"),
            ("[registry.a]\nendpoint = \"r\"\n", "is not a URL"),
            ("[registry.a]\nparallel-uploads = 0\n", "at least 1"),
            ("[registry\n", "line 1"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
