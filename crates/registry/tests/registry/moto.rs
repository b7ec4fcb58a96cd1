//! Our signatures, checked by somebody else: moto's ECR and STS. Its instance metadata is not complete enough.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use smokegate_test_support::{
    EcrManners, FakeEcr, Need, find_program, free_port, require, wait_for,
};

use crate::ecr_credentials::{publisher, reference};
use crate::images::{chain, push, small};

/// Ended when dropped.
struct Moto {
    process: Child,
    port: u16,
}

impl Moto {
    /// Starts it; after `unchecked` calls it checks signatures and policies. `None` where it is not installed.
    fn start(unchecked: Option<u32>) -> Option<Self> {
        if !require(Need::Moto) {
            return None;
        }
        let port = free_port().unwrap();
        let mut command = Command::new(find_program("moto_server").unwrap());
        command.args(["-H", "127.0.0.1", "-p", &port.to_string()]);
        if let Some(calls) = unchecked {
            command.env("INITIAL_NO_AUTH_ACTION_COUNT", calls.to_string());
        }
        let process = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let moto = Self {
            process: process.unwrap(),
            port,
        };
        wait_for("moto answers", Duration::from_secs(60), || {
            TcpStream::connect(("127.0.0.1", moto.port)).ok()
        });
        Some(moto)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// A call of IAM that nobody signed; its answer.
    fn iam(&self, form: &str) -> String {
        let form = format!("{form}&Version=2010-05-08");
        let scope = "AKID/20200101/us-east-1/iam/aws4_request";
        let request = format!(
            "POST / HTTP/1.0\r\nHost: iam.amazonaws.com\r\nContent-Type: application/x-www-form-urlencoded\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0\r\n\
             Content-Length: {}\r\n\r\n{form}",
            form.len()
        );
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }
}

impl Drop for Moto {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// A registry that takes whatever token moto gives.
fn registry() -> FakeEcr {
    let fake = FakeEcr::start(EcrManners {
        takes_any_token: true,
        ..EcrManners::default()
    });
    fake.create("team/app");
    fake
}

fn variables(moto: &Moto, more: &[(&str, &str)]) -> BTreeMap<String, String> {
    let url = moto.url();
    let all = [("AWS_ENDPOINT_URL", url.as_str())]
        .into_iter()
        .chain(more.iter().copied());
    all.map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn element<'a>(xml: &'a str, name: &str) -> &'a str {
    let (_, rest) = xml
        .split_once(&format!("<{name}>"))
        .unwrap_or_else(|| panic!("{name}: {xml}"));
    rest.split('<').next().unwrap()
}

#[tokio::test]
async fn our_signature_is_the_one_moto_computes() {
    let Some(moto) = Moto::start(Some(3)) else {
        return;
    };
    moto.iam("Action=CreateUser&UserName=pusher");
    let policy = "%7B%22Version%22%3A%222012-10-17%22%2C%22Statement%22%3A%5B%7B%22Effect%22%3A%22Allow%22%2C\
                  %22Action%22%3A%22%2A%22%2C%22Resource%22%3A%22%2A%22%7D%5D%7D";
    moto.iam(&format!(
        "Action=PutUserPolicy&UserName=pusher&PolicyName=all&PolicyDocument={policy}"
    ));
    let keys = moto.iam("Action=CreateAccessKey&UserName=pusher");
    let (id, secret) = (
        element(&keys, "AccessKeyId"),
        element(&keys, "SecretAccessKey"),
    );
    let fake = registry();
    for (secret, is_right) in [(secret, true), ("another-secret", false)] {
        let variables = variables(
            &moto,
            &[("AWS_ACCESS_KEY_ID", id), ("AWS_SECRET_ACCESS_KEY", secret)],
        );
        let pushed = push(
            &publisher(&fake, variables, None),
            &small(),
            &[reference("1")],
        )
        .await;
        match pushed {
            Ok(_) => assert!(is_right, "moto took a wrong signature"),
            Err(error) => {
                let text = chain(&error);
                assert!(!is_right, "{text}");
                assert!(
                    text.contains("Signature") && !text.contains(secret),
                    "{text}"
                );
            }
        }
    }
}

#[tokio::test]
async fn a_role_that_motos_sts_gives_for_an_oidc_token() {
    let Some(moto) = Moto::start(None) else {
        return;
    };
    let fake = registry();
    let role = [
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/push"),
        ("GITLAB_OIDC_TOKEN", "header.claims.signature"),
    ];
    let publisher = publisher(&fake, variables(&moto, &role), None);
    push(&publisher, &small(), &[reference("1")])
        .await
        .unwrap_or_else(|error| panic!("{}", chain(&error)));
}
