//! Where an ECR registry's token comes from: every source of AWS credentials, against the fake.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use smokegate_registry::{
    AwsEnvironment, CredentialEnvironment, Publisher, RegistryOptions, RegistrySettings,
};
use smokegate_test_support::{EcrManners, FakeEcr, Fault, FaultSchedule};

use crate::images::{chain, options, push, small, targets};

/// The variables of a source, and the files it needs below the home directory.
struct Source {
    name: &'static str,
    variables: Vec<(&'static str, String)>,
    files: Vec<(&'static str, String)>,
    /// Whose token is asked for in the end.
    key: &'static str,
    /// What STS was asked.
    sts: &'static [&'static str],
}

/// A publisher for which AWS and its registry are the fake, with nothing else of the environment.
pub(crate) fn publisher(
    fake: &FakeEcr,
    variables: BTreeMap<String, String>,
    home: Option<&Path>,
) -> Publisher {
    publisher_with(fake, variables, home, "")
}

pub(crate) fn publisher_with(
    fake: &FakeEcr,
    variables: BTreeMap<String, String>,
    home: Option<&Path>,
    docker_auth_config: &str,
) -> Publisher {
    let (options, environment) = client(fake, variables, home, docker_auth_config);
    Publisher::new(options, &environment).unwrap()
}

/// What such a publisher, or a puller, is made with.
pub(crate) fn client(
    fake: &FakeEcr,
    variables: BTreeMap<String, String>,
    home: Option<&Path>,
    docker_auth_config: &str,
) -> (RegistryOptions, CredentialEnvironment) {
    let settings = RegistrySettings {
        endpoint: Some(fake.url()),
        ..RegistrySettings::default()
    };
    let registries =
        [FakeEcr::HOST, "public.ecr.aws"].map(|name| (name.to_owned(), settings.clone()));
    let options = RegistryOptions {
        registries: registries.into(),
        ..options()
    };
    let environment = CredentialEnvironment {
        docker_auth_config: Some(docker_auth_config.into()),
        uid: u32::MAX,
        aws: AwsEnvironment {
            variables,
            home: home.map(Path::to_owned),
        },
        ..CredentialEnvironment::default()
    };
    (options, environment)
}

pub(crate) fn reference(tag: &str) -> String {
    format!("{}/team/app:{tag}", FakeEcr::HOST)
}

fn sources(fake: &FakeEcr) -> Vec<Source> {
    let url = fake.url();
    let role = || {
        (
            "AWS_ROLE_ARN",
            "arn:aws:iam::123456789012:role/push".to_owned(),
        )
    };
    let profile = |name: &str| ("AWS_PROFILE", name.to_owned());
    let off = || ("AWS_EC2_METADATA_DISABLED", "true".to_owned());
    let source = |name, variables, files, key, sts| Source {
        name,
        variables,
        files,
        key,
        sts,
    };
    vec![
        source(
            "environment",
            vec![
                ("AWS_ACCESS_KEY_ID", "AKIDENV".to_owned()),
                ("AWS_SECRET_ACCESS_KEY", "env-secret".to_owned()),
                ("AWS_SESSION_TOKEN", "env-session".to_owned()),
                profile("ignored"),
            ],
            vec![],
            "AKIDENV",
            &[],
        ),
        source(
            "default profile",
            vec![off()],
            vec![(
                ".aws/credentials",
                "[default]\naws_access_key_id = AKIDFILE\naws_secret_access_key = file-secret\n".to_owned(),
            )],
            "AKIDFILE",
            &[],
        ),
        source(
            "credential_process",
            vec![profile("ci")],
            vec![(
                ".aws/config",
                "[profile ci]\ncredential_process = printf '{\"Version\": 1, \"AccessKeyId\": \"%s\", \"SecretAccessKey\": \"process-secret\"}' \"AKIDPROCESS\"\n".to_owned(),
            )],
            "AKIDPROCESS",
            &[],
        ),
        source(
            "role of a profile",
            vec![profile("push")],
            vec![
                (
                    ".aws/config",
                    "[profile push]\nrole_arn = arn:aws:iam::123456789012:role/push\nsource_profile = base\nexternal_id = outside\n\
                     role_session_name = release\nregion = us-west-2\n".to_owned(),
                ),
                (
                    ".aws/credentials",
                    "[base]\naws_access_key_id = AKIDBASE\naws_secret_access_key = base-secret\n".to_owned(),
                ),
            ],
            "ASIAOFTHEFAKEASSUMEROLE",
            &["Action=AssumeRole&", "ExternalId=outside", "RoleSessionName=release"],
        ),
        source(
            "role of the environment's keys",
            vec![
                profile("push"),
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{url}/container/credentials")),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "pod-identity-token".to_owned()),
            ],
            vec![(
                ".aws/config",
                "[profile push]\nrole_arn = arn:aws:iam::123456789012:role/push\ncredential_source = EcsContainer\n".to_owned(),
            )],
            "ASIAOFTHEFAKEASSUMEROLE",
            &["Action=AssumeRole&"],
        ),
        source(
            "SSO session",
            vec![profile("work"), ("AWS_SSO_ENDPOINT", format!("{url}/sso/credentials"))],
            vec![
                (
                    ".aws/config",
                    "[profile work]\nsso_session = work\nsso_account_id = 123456789012\nsso_role_name = Push\n\
                     [sso-session work]\nsso_region = eu-west-1\nsso_start_url = https://x.awsapps.com/start\n".to_owned(),
                ),
                (
                    ".aws/sso/cache/SHA1WORK.json",
                    r#"{"accessToken": "sso-access-token", "expiresAt": "2999-01-01T00:00:00Z"}"#.to_owned(),
                ),
            ],
            "AKIDSSO",
            &[],
        ),
        source(
            "web identity file",
            vec![role(), ("AWS_WEB_IDENTITY_TOKEN_FILE", "~/token".to_owned())],
            vec![("token", "kubernetes-oidc-token".to_owned())],
            "ASIAOFTHEFAKEASSUMEROLEWITHWEBIDENTITY",
            &["WebIdentityToken=kubernetes-oidc-token", "RoleSessionName=smokegate"],
        ),
        source(
            "GitHub's token",
            vec![
                role(),
                ("ACTIONS_ID_TOKEN_REQUEST_URL", format!("{url}/runner/token?api-version=2.0")),
                ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "runner-secret".to_owned()),
            ],
            vec![],
            "ASIAOFTHEFAKEASSUMEROLEWITHWEBIDENTITY",
            &["WebIdentityToken=github-oidc-token"],
        ),
        source(
            "GitLab's token",
            vec![role(), ("GITLAB_OIDC_TOKEN", "gitlab-oidc-token".to_owned())],
            vec![],
            "ASIAOFTHEFAKEASSUMEROLEWITHWEBIDENTITY",
            &["WebIdentityToken=gitlab-oidc-token"],
        ),
        source(
            "pod identity",
            vec![
                ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{url}/container/credentials")),
                ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "HOME/token".to_owned()),
            ],
            vec![("token", "pod-identity-token\n".to_owned())],
            "AKIDCONTAINER",
            &[],
        ),
        source(
            "instance",
            vec![("AWS_EC2_METADATA_SERVICE_ENDPOINT", url.clone())],
            vec![],
            "AKIDINSTANCE",
            &[],
        ),
    ]
}

#[tokio::test]
async fn every_source_gives_one_token() {
    let kinds = sources(&FakeEcr::start(EcrManners::default())).len();
    for index in 0..kinds {
        let fake = FakeEcr::start(EcrManners::default());
        fake.create("team/app");
        let source = sources(&fake).remove(index);
        let name = source.name;
        let home = tempfile::tempdir().unwrap();
        for (file, text) in &source.files {
            // The SHA-1 of `work`, as `aws sso login` names its file.
            let file = file.replace("SHA1WORK", "e274eeff768c6396088ec6eb091f4bf4d47ab1e0");
            let path = home.path().join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let home_path = home.path().to_str().unwrap();
        let mut variables: BTreeMap<String, String> = source
            .variables
            .iter()
            .map(|(key, value)| ((*key).to_owned(), value.replace("HOME", home_path)))
            .collect();
        variables.insert("AWS_ENDPOINT_URL".to_owned(), fake.url());
        let publisher = publisher(&fake, variables, Some(home.path()));
        let image = small();
        let report = push(&publisher, &image, &[reference("1"), reference("2")]).await;
        report.unwrap_or_else(|error| panic!("{name}: {}", chain(&error)));
        let state = fake.state();
        assert_eq!(
            state.token_requests,
            [format!("{} eu-west-1 ecr", source.key)],
            "{name}: one token for the host's region"
        );
        for part in source.sts {
            let asked = state.sts_requests.iter().any(|form| form.contains(part));
            assert!(asked, "{name}: {part}: {:?}", state.sts_requests);
        }
        assert_eq!(
            state.sts_requests.len(),
            usize::from(!source.sts.is_empty()),
            "{name}"
        );
    }
}

/// Variables, and what the error says of them.
type Wrong = (Vec<(&'static str, String)>, &'static [&'static str]);

#[tokio::test]
async fn what_is_configured_and_wrong_ends_the_search() {
    let fake = FakeEcr::start(EcrManners::default());
    fake.create("team/app");
    let keys = |id: &str| {
        vec![
            ("AWS_ACCESS_KEY_ID", id.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "s3cret".to_owned()),
            ("AWS_SESSION_TOKEN", "s3cret-session".to_owned()),
        ]
    };
    let config = "[profile loop]\nrole_arn = r1\nsource_profile = loop2\n[profile loop2]\nrole_arn = r2\nsource_profile = loop\n\
                  [profile mfa]\nrole_arn = r\nmfa_serial = m\nsource_profile = default\n[profile failing]\ncredential_process = echo s3cret; exit 7\n\
                  [profile login]\nlogin_session = x\n[profile empty]\nregion = eu-west-1\n";
    let cases: Vec<Wrong> = vec![
        (
            vec![("AWS_ACCESS_KEY_ID", "AKID".to_owned())],
            &["`AWS_SECRET_ACCESS_KEY` is not set"],
        ),
        (
            keys("AKIDDENIED"),
            &[
                "ECR in eu-west-1",
                "`AWS_ACCESS_KEY_ID`",
                "AccessDeniedException",
                "ecr:GetAuthorizationToken",
            ],
        ),
        (
            keys("AKIDWRONG"),
            &["InvalidSignatureException", "signature we calculated"],
        ),
        (
            vec![("AWS_PROFILE", "none".to_owned())],
            &["profile `none`", "is not in", ".aws/config"],
        ),
        (
            vec![("AWS_PROFILE", "loop".to_owned())],
            &["profile `loop`", "circle"],
        ),
        (
            vec![("AWS_PROFILE", "mfa".to_owned())],
            &["profile `mfa`", "MFA"],
        ),
        (
            vec![("AWS_PROFILE", "failing".to_owned())],
            &["profile `failing`", "exit status: 7"],
        ),
        (
            vec![("AWS_PROFILE", "login".to_owned())],
            &["login_session"],
        ),
        (
            vec![("AWS_PROFILE", "empty".to_owned())],
            &["holds no credential"],
        ),
        (
            vec![(
                "AWS_CONTAINER_CREDENTIALS_FULL_URI",
                "http://10.0.0.1/x".to_owned(),
            )],
            &["`AWS_CONTAINER_CREDENTIALS_FULL_URI`", "plain HTTP"],
        ),
        (
            vec![
                ("AWS_ROLE_ARN", "r".to_owned()),
                (
                    "ACTIONS_ID_TOKEN_REQUEST_URL",
                    format!("{}/runner/token?x=1", fake.url()),
                ),
                ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "s3cret".to_owned()),
            ],
            &["GitHub's OIDC token and role `r`", "401"],
        ),
        (
            vec![],
            &[
                "no AWS credential for ECR in eu-west-1",
                "`AWS_ACCESS_KEY_ID`",
                "~/.aws",
            ],
        ),
    ];
    let home = tempfile::tempdir().unwrap();
    fs::create_dir(home.path().join(".aws")).unwrap();
    fs::write(home.path().join(".aws/config"), config).unwrap();
    for (variables, parts) in cases {
        let mut variables: BTreeMap<String, String> = variables
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        variables.insert("AWS_ENDPOINT_URL".to_owned(), fake.url());
        variables.insert("AWS_EC2_METADATA_DISABLED".to_owned(), "true".to_owned());
        let publisher = publisher(&fake, variables, Some(home.path()));
        let error = publisher
            .check_targets(&targets(&[reference("1")]), None)
            .await
            .unwrap_err();
        let text = chain(&error);
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(
            !format!("{text} {error:?}").contains("s3cret"),
            "{text} {error:?}"
        );
    }
}

#[tokio::test]
async fn no_other_registry_makes_us_ask_aws() {
    let fake = FakeEcr::start(EcrManners::default());
    let publisher = publisher(&fake, fake.environment(), None);
    let directory = tempfile::tempdir().unwrap();
    let layout = format!("oci:{}/layout:1", directory.path().display());
    push(&publisher, &small(), &[layout]).await.unwrap();
    let other = crate::scripted::Scripted::start(|_, _| None).await;
    push(&publisher, &small(), &[other.name()]).await.unwrap();
    assert_eq!(fake.state().requests, Vec::<String>::new());
}

/// Away from EC2 its address may swallow what is sent there: the requests' own limit is 20 s here, and tried five times.
#[tokio::test]
async fn a_metadata_service_that_is_silent_is_not_waited_for() {
    let fake = FakeEcr::start(EcrManners::default());
    fake.create("team/app");
    let silent = FaultSchedule::default();
    fake.set_faults(silent.and_lasting("PUT", "/latest/api/token", 0, Fault::Hold));
    let service = "AWS_EC2_METADATA_SERVICE_ENDPOINT".to_owned();
    let publisher = publisher(&fake, [(service, fake.url())].into(), None);
    let names = [reference("1")];
    let image = small();
    let pushed = tokio::time::timeout(Duration::from_secs(15), push(&publisher, &image, &names));
    let error = pushed.await.expect("it is left alone soon").unwrap_err();
    let text = chain(&error);
    assert!(text.contains("no AWS credential for ECR"), "{text}");
    assert_eq!(fake.state().count("PUT", "/latest/api/token"), 1);
}

#[tokio::test]
async fn tokens_are_renewed_at_half_of_their_life() {
    // One that has ended on arrival (moto's are of 2015) is used, and not asked for again and again.
    for (life, most) in [(-1000, 1), (0, 1), (3600, 1)] {
        let fake = FakeEcr::start(EcrManners {
            token_life: life,
            ..EcrManners::default()
        });
        fake.create("team/app");
        let publisher = publisher(&fake, fake.environment(), None);
        push(&publisher, &small(), &[reference("1")]).await.unwrap();
        assert_eq!(fake.state().token_requests.len(), most, "{life}");
    }
    let fake = FakeEcr::start(EcrManners {
        token_life: 1,
        ..EcrManners::default()
    });
    fake.create("team/app");
    let publisher = Arc::new(publisher(&fake, fake.environment(), None));
    push(&publisher, &small(), &[reference("1")]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    push(&publisher, &small(), &[reference("2")]).await.unwrap();
    assert!(fake.state().token_requests.len() >= 2);
}
