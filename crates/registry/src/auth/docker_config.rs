//! The files that `docker login` and `podman login` write: config.json, auth.json and the older .dockercfg.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use super::credential::{Credential, Secret};

const DOCKER_HUB: &str = "docker.io";
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

/// config.json and auth.json, as far as credentials go.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    #[serde(default)]
    creds_store: Option<String>,
}

#[derive(Clone, Default, serde::Deserialize)]
struct Entry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("<redacted>")
    }
}

/// One place of a file in which a credential may be, in the order in which they count.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Ask `docker-credential-NAME` for `server`.
    Helper { name: String, server: String },
    /// Written down in the file.
    Written(Credential),
}

/// A `auth` value that is not base64 of `user:password`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct InvalidEntry {
    pub(crate) key: String,
}

impl DockerConfig {
    /// Reads config.json or auth.json. The parser's message is not used: it may quote a password.
    pub(crate) fn parse(json: &[u8]) -> Result<Self, (usize, usize)> {
        serde_json::from_slice(json).map_err(|error| (error.line(), error.column()))
    }

    /// Reads `.dockercfg`, which is `auths` alone.
    pub(crate) fn parse_legacy(json: &[u8]) -> Result<Self, (usize, usize)> {
        let auths = serde_json::from_slice(json).map_err(|error| (error.line(), error.column()))?;
        Ok(Self {
            auths,
            ..Self::default()
        })
    }

    /// The registries this file names, each with its helper, if it has one, and what is wrong with its entry. The
    /// last, without a name, is the helper for all others. Holds no secret.
    pub(crate) fn names(&self) -> Vec<(Option<String>, Option<String>, Option<String>)> {
        let mut names = Vec::new();
        let store = self.creds_store.clone().filter(|name| !name.is_empty());
        for (key, name) in &self.cred_helpers {
            names.push((Some(normal(key)), Some(name.clone()), None));
        }
        for (key, entry) in &self.auths {
            match entry.credential() {
                Ok(Some(_)) => names.push((Some(normal(key)), None, None)),
                Ok(None) if store.is_some() => {
                    names.push((Some(normal(key)), store.clone(), None));
                }
                Ok(None) => {
                    let problem = "its entry is empty, and there is no `credsStore`".to_owned();
                    names.push((Some(normal(key)), None, Some(problem)));
                }
                Err(()) => {
                    let problem = "its `auth` is not base64 of `user:password`".to_owned();
                    names.push((Some(normal(key)), None, Some(problem)));
                }
            }
        }
        names.extend(store.map(|name| (None, Some(name), None)));
        names
    }

    /// Where this file says the credential of a repository is: `credHelpers`, then `auths`, then `credsStore`.
    pub(crate) fn places(
        &self,
        registry: &str,
        repository: &str,
    ) -> Result<Vec<Place>, InvalidEntry> {
        let server = if registry == DOCKER_HUB {
            DOCKER_HUB_KEY
        } else {
            registry
        };
        let helper = |name: &String| Place::Helper {
            name: name.clone(),
            server: server.to_owned(),
        };
        let mut places = Vec::new();
        places.extend(best(&self.cred_helpers, registry, repository).map(|(_, name)| helper(name)));
        if let Some((key, entry)) = best(&self.auths, registry, repository) {
            let written = entry
                .credential()
                .map_err(|()| InvalidEntry { key: key.clone() })?;
            places.extend(written.map(Place::Written));
        }
        places.extend(
            self.creds_store
                .as_ref()
                .filter(|name| !name.is_empty())
                .map(helper),
        );
        Ok(places)
    }
}

impl Entry {
    /// The credential; `None` for `{}`, which says that `credsStore` has it.
    fn credential(&self) -> Result<Option<Credential>, ()> {
        let given = |value: &Option<String>| value.clone().filter(|value| !value.is_empty());
        if let Some(token) = given(&self.registrytoken) {
            return Ok(Some(Credential::RegistryToken(Secret::new(token))));
        }
        if let Some(token) = given(&self.identitytoken) {
            return Ok(Some(Credential::IdentityToken(Secret::new(token))));
        }
        let (username, password) = match (given(&self.auth), given(&self.username)) {
            (Some(auth), _) => decode(&auth).ok_or(())?,
            (None, Some(username)) => (username, self.password.clone().unwrap_or_default()),
            (None, None) => return Ok(None),
        };
        Ok(Some(Credential::Basic {
            username,
            password: Secret::new(password),
        }))
    }
}

fn decode(auth: &str) -> Option<(String, String)> {
    let settings =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(&STANDARD, settings)
        .decode(auth.trim())
        .ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (username, password) = text.split_once(':')?;
    // Docker's own decoder drops the NUL bytes that old versions padded with.
    Some((
        username.to_owned(),
        password.trim_end_matches('\0').to_owned(),
    ))
}

/// The entry whose key names the longest prefix of `registry/repository` (containers-auth.json(5)).
fn best<'a, T>(
    entries: &'a BTreeMap<String, T>,
    registry: &str,
    repository: &str,
) -> Option<(&'a String, &'a T)> {
    let wanted = format!("{registry}/{repository}");
    let covers = |key: &str| {
        wanted
            .strip_prefix(key)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    entries
        .iter()
        .filter(|(key, _)| covers(&normal(key)))
        .max_by_key(|(key, _)| normal(key).len())
}

/// A key as reference prefix: no scheme, no API version, one name for Docker Hub.
fn normal(key: &str) -> String {
    let bare = key
        .strip_prefix("https://")
        .or_else(|| key.strip_prefix("http://"))
        .unwrap_or(key);
    let bare = bare.trim_end_matches('/');
    let bare = ["/v1", "/v2"]
        .iter()
        .find_map(|version| bare.strip_suffix(version))
        .unwrap_or(bare);
    let (host, path) = match bare.split_once('/') {
        Some((host, path)) => (host, Some(path)),
        None => (bare, None),
    };
    let host = host.to_ascii_lowercase();
    let host = match host.as_str() {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        other => other,
    };
    path.map_or_else(|| host.to_owned(), |path| format!("{host}/{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn basic(username: &str, password: &str) -> Place {
        let password = Secret::new(password.to_owned());
        Place::Written(Credential::Basic {
            username: username.to_owned(),
            password,
        })
    }

    fn helper(name: &str, server: &str) -> Place {
        Place::Helper {
            name: name.to_owned(),
            server: server.to_owned(),
        }
    }

    #[test]
    fn the_longest_key_wins() {
        // u:host, u:team, u:app
        let json = br#"{"auths": {
            "r.example": {"auth": "dTpob3N0"},
            "r.example/team": {"auth": "dTp0ZWFt"},
            "r.example/team/app": {"auth": "dTphcHA"},
            "r.example:5000": {"username": "u", "password": "port"}
        }}"#;
        let config = DockerConfig::parse(json).unwrap();
        for (registry, repository, password) in [
            ("r.example", "other", "host"),
            ("r.example", "team", "team"),
            ("r.example", "team/lib", "team"),
            ("r.example", "teammate/lib", "host"),
            ("r.example", "team/app", "app"),
            ("r.example", "team/app/sub", "app"),
            ("r.example:5000", "team/app", "port"),
        ] {
            let places = config.places(registry, repository).unwrap();
            assert_eq!(places, [basic("u", password)], "{registry}/{repository}");
        }
        assert_eq!(config.places("example", "r").unwrap(), []);
    }

    #[test]
    fn key_forms() {
        for (key, registry) in [
            ("https://index.docker.io/v1/", "docker.io"),
            ("index.docker.io", "docker.io"),
            ("registry-1.docker.io", "docker.io"),
            ("docker.io", "docker.io"),
            ("https://r.example", "r.example"),
            ("https://r.example/v2/", "r.example"),
            ("http://localhost:5000/v1", "localhost:5000"),
            ("R.Example", "r.example"),
        ] {
            let json = format!(r#"{{"auths": {{"{key}": {{"auth": "dTpw"}}}}}}"#);
            let config = DockerConfig::parse(json.as_bytes()).unwrap();
            assert_eq!(
                config.places(registry, "a/b").unwrap(),
                [basic("u", "p")],
                "{key}"
            );
        }
    }

    #[test]
    fn order_within_a_file() {
        let json = br#"{
            "auths": {"r.example": {"auth": "dTpw"}, "https://index.docker.io/v1/": {}},
            "credHelpers": {"r.example": "one"},
            "credsStore": "all"
        }"#;
        let config = DockerConfig::parse(json).unwrap();
        let places = config.places("r.example", "a").unwrap();
        assert_eq!(
            places,
            [
                helper("one", "r.example"),
                basic("u", "p"),
                helper("all", "r.example")
            ]
        );
        assert_eq!(
            config.places("docker.io", "library/a").unwrap(),
            [helper("all", DOCKER_HUB_KEY)]
        );
    }

    #[test]
    fn tokens_and_invalid_entries() {
        let json = br#"{"auths": {
            "id": {"auth": "PHRva2VuPjo=", "identitytoken": "i"},
            "reg": {"registrytoken": "r"},
            "bad": {"auth": "not base64!"},
            "nul": {"auth": "dTpwAAA="}
        }}"#;
        let config = DockerConfig::parse(json).unwrap();
        let secret = |text: &str| Secret::new(text.to_owned());
        let identity = Place::Written(Credential::IdentityToken(secret("i")));
        assert_eq!(config.places("id", "a").unwrap(), [identity]);
        let registry = Place::Written(Credential::RegistryToken(secret("r")));
        assert_eq!(config.places("reg", "a").unwrap(), [registry]);
        assert_eq!(
            config.places("bad", "a"),
            Err(InvalidEntry {
                key: "bad".to_owned()
            })
        );
        assert_eq!(config.places("nul", "a").unwrap(), [basic("u", "p")]);
    }

    #[test]
    fn debug_is_redacted() {
        let config =
            DockerConfig::parse(br#"{"auths": {"r": {"password": "s3cret", "username": "u"}}}"#);
        let config = config.unwrap();
        let text = format!("{config:?} {:?}", config.places("r", "a"));
        assert!(!text.contains("s3cret"), "{text}");
    }
}
