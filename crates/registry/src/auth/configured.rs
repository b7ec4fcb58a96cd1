//! Which credentials are configured, by name: nothing is decoded for use, no helper is run and nothing is dialled.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;

use super::store::{CredentialEnvironment, places};
use crate::ecr::credential_named_by;

/// A credential that a run would use, or the reason why it could not. Holds no secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredCredential {
    /// The registry, or registry and repository; `None` for those that nothing else names.
    pub registry: Option<String>,
    /// Where it is from.
    pub source: String,
    /// What is wrong with it.
    pub problem: Option<String>,
}

/// The credentials that are configured, in the order in which they count. The last is the one for Amazon ECR.
pub fn configured_credentials(environment: &CredentialEnvironment) -> Vec<ConfiguredCredential> {
    let mut found = Vec::new();
    let mut seen = BTreeSet::new();
    for place in places(environment) {
        let source = place.source();
        let config = match place.read(&source) {
            Ok(Some(config)) => config,
            Ok(None) => continue,
            Err(error) => {
                found.push(ConfiguredCredential {
                    registry: None,
                    source: source.to_string(),
                    problem: Some(smokegate_image::with_causes(&error)),
                });
                continue;
            }
        };
        for (registry, helper, problem) in config.names() {
            // The first place that has a registry is the one that counts.
            if !seen.insert(registry.clone()) {
                continue;
            }
            let missing = helper.as_ref().and_then(|name| {
                let program = format!("docker-credential-{name}");
                let there = environment
                    .path
                    .as_deref()
                    .is_none_or(|path| is_on(path, &program));
                (!there).then(|| format!("`{program}` is not on PATH"))
            });
            let source = match helper {
                Some(name) => format!("`docker-credential-{name}` (configured in {source})"),
                None => source.to_string(),
            };
            found.push(ConfiguredCredential {
                registry,
                source,
                problem: problem.or(missing),
            });
        }
    }
    let (source, problem) = credential_named_by(&environment.aws);
    found.push(ConfiguredCredential {
        registry: Some("Amazon ECR".to_owned()),
        source,
        problem,
    });
    found
}

fn is_on(path: &OsStr, program: &str) -> bool {
    std::env::split_paths(path).any(|dir| Path::new(&dir).join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AwsEnvironment;

    #[test]
    fn names_are_told_and_values_are_not() {
        let dir = tempfile::tempdir().unwrap();
        let docker = dir.path().join("docker");
        std::fs::create_dir_all(&docker).unwrap();
        // u:s3cret
        let json = r#"{
            "auths": {"r.example": {"auth": "dTpzM2NyZXQ="}, "bad.example": {"auth": "?"}, "store.example": {}},
            "credHelpers": {"help.example": "not-there"},
            "credsStore": "all"
        }"#;
        std::fs::write(docker.join("config.json"), json).unwrap();
        let environment = CredentialEnvironment {
            docker_auth_config: Some(
                r#"{"auths": {"r.example": {"auth": "dTpvdGhlcg=="}}}"#.into(),
            ),
            docker_config: Some(docker.into_os_string()),
            path: Some(dir.path().as_os_str().to_owned()),
            aws: AwsEnvironment {
                variables: [
                    ("AWS_ACCESS_KEY_ID", "AKIDs3cret"),
                    ("AWS_SECRET_ACCESS_KEY", "s3cret"),
                ]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
                home: None,
            },
            ..CredentialEnvironment::default()
        };
        let found = configured_credentials(&environment);
        let shown = format!("{found:?}");
        assert!(
            !shown.contains("s3cret") && !shown.contains("other"),
            "{shown}"
        );
        let of = |registry: Option<&str>| {
            let mut of = found
                .iter()
                .filter(|one| one.registry.as_deref() == registry);
            let one = of.next().unwrap_or_else(|| panic!("{registry:?}: {shown}"));
            assert_eq!(of.next(), None);
            one
        };
        let own = of(Some("r.example"));
        assert_eq!(
            (own.source.as_str(), &own.problem),
            ("`DOCKER_AUTH_CONFIG`", &None)
        );
        let bad = of(Some("bad.example")).problem.clone().unwrap();
        assert!(bad.contains("not base64"), "{bad}");
        for (registry, name) in [
            (Some("help.example"), "not-there"),
            (Some("store.example"), "all"),
            (None, "all"),
        ] {
            let one = of(registry);
            assert!(
                one.source
                    .starts_with(&format!("`docker-credential-{name}`")),
                "{one:?}"
            );
            assert_eq!(
                one.problem,
                Some(format!("`docker-credential-{name}` is not on PATH"))
            );
        }
        assert_eq!(of(Some("Amazon ECR")).source, "`AWS_ACCESS_KEY_ID`");
    }
}
