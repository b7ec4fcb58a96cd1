//! AWS's shared config and credentials files: profiles and SSO sessions as maps of settings.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use ini::{Ini, ParseOption};

use super::AwsEnvironment;

/// The settings of one profile or session.
pub(crate) type Settings = BTreeMap<String, String>;

/// Everything in both files.
#[derive(Debug, Default)]
pub(crate) struct SharedFiles {
    profiles: BTreeMap<String, Settings>,
    sso_sessions: BTreeMap<String, Settings>,
    /// The two files, whether they exist or not.
    pub(crate) paths: Vec<PathBuf>,
}

impl SharedFiles {
    /// Reads both files. A default one that is not there is empty; one that was named must be there.
    pub(crate) fn read(environment: &AwsEnvironment) -> Result<Self, String> {
        let mut files = Self::default();
        for (variable, name, is_config) in [
            ("AWS_CONFIG_FILE", "config", true),
            ("AWS_SHARED_CREDENTIALS_FILE", "credentials", false),
        ] {
            let named = environment
                .get(variable)
                .map(|path| environment.expand(path));
            let home = environment.home.as_deref();
            let default = || home.map(|home| home.join(".aws").join(name));
            let Some(path) = named.clone().or_else(default) else {
                continue;
            };
            match std::fs::read_to_string(&path) {
                Ok(text) => files.add(&path, &text, is_config)?,
                Err(error) if named.is_none() && is_absent(&error) => {}
                Err(error) => return Err(format!("cannot read `{}`: {error}", path.display())),
            }
            files.paths.push(path);
        }
        Ok(files)
    }

    /// The settings of a profile; those of the credentials file win (AWS CLI).
    pub(crate) fn profile(&self, name: &str) -> Option<&Settings> {
        self.profiles.get(name)
    }

    /// The settings of an `[sso-session …]`.
    pub(crate) fn sso_session(&self, name: &str) -> Option<&Settings> {
        self.sso_sessions.get(name)
    }

    fn add(&mut self, path: &Path, text: &str, is_config: bool) -> Result<(), String> {
        // Nothing is quoted or escaped in these files; settings below a setting are indented.
        let options = ParseOption {
            enabled_quote: false,
            enabled_escape: false,
            enabled_indented_mutiline_value: false,
            enabled_preserve_key_leading_whitespace: true,
        };
        // The line itself may hold a secret.
        let parsed = Ini::load_from_str_opt(text, options).map_err(|error| {
            format!(
                "`{}` line {} column {} is not what AWS's files hold",
                path.display(),
                error.line + 1,
                error.col + 1
            )
        })?;
        for (section, properties) in &parsed {
            let Some(section) = section.map(str::trim) else {
                continue;
            };
            let (kind, name) = match section.split_once(char::is_whitespace) {
                Some((kind, name)) => (kind, name.trim()),
                None if is_config && section != "default" => continue,
                None => ("profile", section),
            };
            let settings = match kind {
                "profile" => self.profiles.entry(name.to_owned()).or_default(),
                "sso-session" => self.sso_sessions.entry(name.to_owned()).or_default(),
                _ => continue,
            };
            for (key, value) in properties.iter() {
                if !key.starts_with(char::is_whitespace) {
                    settings.insert(key.trim().to_ascii_lowercase(), without_comment(value));
                }
            }
        }
        Ok(())
    }
}

/// A comment begins with `#` or `;` after a space.
fn without_comment(value: &str) -> String {
    let end = [" #", " ;", "\t#", "\t;"]
        .iter()
        .filter_map(|mark| value.find(mark))
        .min()
        .unwrap_or(value.len());
    value[..end].trim().to_owned()
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_files_make_the_profiles() {
        let home = tempfile::tempdir().unwrap();
        let aws = home.path().join(".aws");
        std::fs::create_dir(&aws).unwrap();
        std::fs::write(
            aws.join("config"),
            "[default]\nregion = eu-west-1 # home\n\n[profile ci]\nrole_arn=arn:aws:iam::1:role/x\n\
             source_profile = base\ns3 =\n  max_concurrent_requests = 20\n\
             credential_process = \"/a b/c\" \\x \"y\"\n[sso-session work]\nsso_region = us-east-1\n[ignored]\nx=1\n",
        )
        .unwrap();
        std::fs::write(
            aws.join("credentials"),
            "[base]\naws_access_key_id = AKID\naws_secret_access_key = a/b+c==#d\n",
        )
        .unwrap();
        let environment = AwsEnvironment {
            home: Some(home.path().to_owned()),
            ..AwsEnvironment::default()
        };
        let files = SharedFiles::read(&environment).unwrap();
        let get = |profile: &str, key: &str| {
            let settings = files.profile(profile);
            settings
                .and_then(|settings| settings.get(key))
                .map(String::as_str)
        };
        assert_eq!(get("default", "region"), Some("eu-west-1"));
        assert_eq!(get("ci", "source_profile"), Some("base"));
        assert_eq!(get("ci", "credential_process"), Some(r#""/a b/c" \x "y""#));
        assert_eq!(get("ci", "max_concurrent_requests"), None);
        assert_eq!(get("base", "aws_secret_access_key"), Some("a/b+c==#d"));
        assert_eq!(
            files.sso_session("work").unwrap()["sso_region"],
            "us-east-1"
        );
        assert!(files.profile("ignored").is_none());
    }

    #[test]
    fn what_is_wrong_is_placed_and_not_quoted() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("credentials");
        std::fs::write(&path, "[default]\naws_secret_access_key s3cret\n").unwrap();
        let variables = [(
            "AWS_SHARED_CREDENTIALS_FILE".to_owned(),
            path.to_str().unwrap().to_owned(),
        )];
        let environment = AwsEnvironment {
            variables: variables.into(),
            ..AwsEnvironment::default()
        };
        let error = SharedFiles::read(&environment).unwrap_err();
        assert!(
            error.contains("credentials") && !error.contains("s3cret"),
            "{error}"
        );
        std::fs::remove_file(&path).unwrap();
        assert!(SharedFiles::read(&environment).is_err());
    }
}
