//! Which AWS credential the environment names, found out without using it.

use super::AwsEnvironment;
use super::aws_profile::SharedFiles;

/// The place that would be asked first, in the order of `AwsCredentials::find`, and what is wrong with it.
pub(crate) fn credential_named_by(environment: &AwsEnvironment) -> (String, Option<String>) {
    let has = |name: &str| environment.get(name).is_some();
    let fine = |source: &str| (source.to_owned(), None);
    if has("AWS_ACCESS_KEY_ID") {
        let problem = "`AWS_SECRET_ACCESS_KEY` is not set".to_owned();
        let problem = (!has("AWS_SECRET_ACCESS_KEY")).then_some(problem);
        return ("`AWS_ACCESS_KEY_ID`".to_owned(), problem);
    }
    let chosen = environment.get("AWS_PROFILE");
    let name = chosen.unwrap_or("default");
    match SharedFiles::read(environment) {
        Err(problem) => return (format!("profile `{name}`"), Some(problem)),
        Ok(files) => match (files.profile(name), chosen) {
            (Some(settings), _) if KEYS.iter().any(|key| settings.contains_key(*key)) => {
                return fine(&format!("profile `{name}`"));
            }
            (Some(_), Some(_)) => {
                let problem = "it holds no credential, and no way to get one".to_owned();
                return (format!("profile `{name}`"), Some(problem));
            }
            (None, Some(_)) => {
                let problem = "it is in neither of AWS's files".to_owned();
                return (format!("profile `{name}`"), Some(problem));
            }
            (_, None) => {}
        },
    }
    if has("AWS_ROLE_ARN") {
        for (variable, source) in [
            (
                "AWS_WEB_IDENTITY_TOKEN_FILE",
                "`AWS_WEB_IDENTITY_TOKEN_FILE`",
            ),
            ("ACTIONS_ID_TOKEN_REQUEST_URL", "GitHub's OIDC token"),
            ("GITLAB_OIDC_TOKEN", "`GITLAB_OIDC_TOKEN`"),
        ] {
            if has(variable) {
                return fine(&format!("{source} and the role in `AWS_ROLE_ARN`"));
            }
        }
    }
    for variable in [
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    ] {
        if has(variable) {
            return fine(&format!("`{variable}`"));
        }
    }
    let disabled = environment.get("AWS_EC2_METADATA_DISABLED");
    if disabled.is_some_and(|value| value.eq_ignore_ascii_case("true")) {
        return ("nothing names one".to_owned(), None);
    }
    fine("the instance's metadata service, if it answers a run: nothing else names one")
}

/// Settings of a profile that are a credential, or a way to one.
const KEYS: [&str; 5] = [
    "role_arn",
    "aws_access_key_id",
    "sso_account_id",
    "credential_process",
    "login_session",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_in_the_sdks_order_is_named() {
        let home = tempfile::tempdir().unwrap();
        let aws = home.path().join(".aws");
        std::fs::create_dir(&aws).unwrap();
        std::fs::write(
            aws.join("config"),
            "[profile keys]\naws_access_key_id = x\naws_secret_access_key = y\n[profile empty]\nregion = z\n",
        )
        .unwrap();
        for (variables, source, problem) in [
            (vec![], "the instance's metadata service", None),
            (
                vec![("AWS_EC2_METADATA_DISABLED", "true")],
                "nothing names one",
                None,
            ),
            (vec![("AWS_PROFILE", "keys")], "profile `keys`", None),
            (
                vec![("AWS_PROFILE", "empty")],
                "profile `empty`",
                Some("no credential"),
            ),
            (
                vec![("AWS_PROFILE", "gone")],
                "profile `gone`",
                Some("in neither"),
            ),
            (
                vec![("AWS_ACCESS_KEY_ID", "x")],
                "`AWS_ACCESS_KEY_ID`",
                Some("not set"),
            ),
            (
                vec![("AWS_ROLE_ARN", "r"), ("GITLAB_OIDC_TOKEN", "t")],
                "`GITLAB_OIDC_TOKEN` and the role",
                None,
            ),
            (
                vec![("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://x")],
                "`AWS_CONTAINER_CREDENTIALS_FULL_URI`",
                None,
            ),
        ] {
            let environment = AwsEnvironment {
                variables: variables
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                    .collect(),
                home: Some(home.path().to_owned()),
            };
            let found = credential_named_by(&environment);
            assert!(found.0.starts_with(source), "{variables:?}: {found:?}");
            match problem {
                None => assert_eq!(found.1, None, "{variables:?}"),
                Some(text) => assert!(found.1.unwrap().contains(text), "{variables:?}"),
            }
        }
    }
}
