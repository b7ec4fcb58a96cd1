//! Bearer authentication, against a registry that is its own token service.

use crate::images::{chain, publisher, publisher_with, push, small, targets};
use crate::scripted::{Reply, Request, Scripted, Store, answer, answer_with};

/// Hands out `token-N` for each request with the right credential; accepts the newest only.
struct Tokens {
    issued: usize,
    realm: Option<String>,
    expires_in: u64,
}

impl Tokens {
    fn new() -> Self {
        Self {
            issued: 0,
            realm: None,
            expires_in: 300,
        }
    }

    fn guard(&mut self, request: &Request, allowed: impl Fn(&Request) -> bool) -> Option<Reply> {
        if request.path.starts_with("/token") {
            if !allowed(request) {
                return Some(answer(
                    401,
                    r#"{"errors":[{"code":"UNAUTHORIZED","message":"bad login"}]}"#,
                ));
            }
            self.issued += 1;
            let (n, life) = (self.issued, self.expires_in);
            return Some(answer(
                200,
                format!(r#"{{"access_token":"token-{n}","expires_in":{life}}}"#),
            ));
        }
        if request.header("authorization") == format!("Bearer token-{}", self.issued)
            && self.issued > 0
        {
            return None;
        }
        let realm = self
            .realm
            .clone()
            .unwrap_or(format!("http://{}/token?x=1", request.header("host")));
        let scope = "repository:team/app:pull";
        let challenge = format!(r#"Bearer realm="{realm}",service="test service",scope="{scope}""#);
        Some(answer_with(401, "WWW-Authenticate", challenge))
    }
}

fn requests(store: &Store, part: &str) -> Vec<Request> {
    store
        .requests
        .iter()
        .filter(|request| request.path.contains(part))
        .cloned()
        .collect()
}

#[tokio::test]
async fn one_token_serves_all_requests() {
    let mut tokens = Tokens::new();
    // user:s3cret-pw
    let basic = "Basic dXNlcjpzM2NyZXQtcHc=";
    let registry = Scripted::start(move |request, _| {
        tokens.guard(request, |request| request.header("authorization") == basic)
    })
    .await;
    let auth = format!(
        r#"{{"auths":{{"{}":{{"auth":"dXNlcjpzM2NyZXQtcHc="}}}}}}"#,
        registry.address
    );
    push(&publisher_with(&auth), &small(), &[registry.name()])
        .await
        .unwrap();
    let store = registry.store.lock().unwrap();
    let asked = requests(&store, "/token");
    assert_eq!(asked.len(), 1);
    let path = &asked[0].path;
    assert!(
        path.contains("x=1") && path.contains("service=test+service"),
        "{path}"
    );
    assert!(
        path.contains("scope=repository%3Ateam%2Fapp%3Apull%2Cpush"),
        "{path}"
    );
}

#[tokio::test]
async fn a_token_that_ends_during_an_upload_is_renewed() {
    let mut tokens = Tokens::new();
    let mut ended = false;
    let registry = Scripted::start(move |request, _| {
        if request.method == "PUT" && request.path.contains("/blobs/") && !ended {
            ended = true;
            tokens.issued += 100;
        }
        tokens.guard(request, |_| true)
    })
    .await;
    let image = small();
    let report = push(&publisher(), &image, &[registry.name()])
        .await
        .unwrap();
    assert_eq!(report.destinations[0].uploaded.blobs, 3);
    let store = registry.store.lock().unwrap();
    assert_eq!(store.blobs.len(), 3);
    assert!(requests(&store, "/token").len() >= 2);
}

#[tokio::test]
async fn tokens_that_are_over_on_arrival_do_not_loop() {
    let mut tokens = Tokens {
        expires_in: 0,
        ..Tokens::new()
    };
    let registry = Scripted::start(move |request, _| tokens.guard(request, |_| true)).await;
    publisher()
        .check_targets(&targets(&[registry.name()]), None)
        .await
        .unwrap();
}

#[tokio::test]
async fn an_identity_token_is_posted() {
    let mut tokens = Tokens::new();
    let registry = Scripted::start(move |request, _| {
        tokens.guard(request, |request| {
            let form = String::from_utf8_lossy(&request.body).into_owned();
            request.method == "POST"
                && form.contains("grant_type=refresh_token")
                && form.contains("refresh_token=r3fresh%26")
                && form.contains("scope=repository%3Ateam%2Fapp%3Apull%2Cpush")
        })
    })
    .await;
    let auth = format!(
        r#"{{"auths":{{"{}":{{"identitytoken":"r3fresh&"}}}}}}"#,
        registry.address
    );
    publisher_with(&auth)
        .check_targets(&targets(&[registry.name()]), None)
        .await
        .unwrap();
}

#[tokio::test]
async fn refusals_say_where_the_credential_is_from_and_not_what_it_is() {
    let mut tokens = Tokens::new();
    let registry = Scripted::start(move |request, _| tokens.guard(request, |_| false)).await;
    let auth = format!(
        r#"{{"auths":{{"{}":{{"username":"u","password":"s3cret"}}}}}}"#,
        registry.address
    );
    let publisher = publisher_with(&auth);
    let error = publisher
        .check_targets(&targets(&[registry.name()]), None)
        .await
        .unwrap_err();
    let text = format!("{} {error:?} {publisher:?}", chain(&error));
    assert!(
        text.contains("bad login") && !text.contains("s3cret"),
        "{text}"
    );
    assert!(!text.contains("dTpzM2NyZXQ"), "{text}");
    assert!(text.contains("DOCKER_AUTH_CONFIG"), "{text}");
}

#[tokio::test]
async fn a_credential_is_not_sent_in_the_clear() {
    let realm = Some("http://192.0.2.1/token".to_owned());
    let mut tokens = Tokens {
        realm,
        ..Tokens::new()
    };
    let registry = Scripted::start(move |request, _| tokens.guard(request, |_| true)).await;
    let auth = format!(
        r#"{{"auths":{{"{}":{{"username":"u","password":"s3cret"}}}}}}"#,
        registry.address
    );
    let error = publisher_with(&auth)
        .check_targets(&targets(&[registry.name()]), None)
        .await
        .unwrap_err();
    assert!(chain(&error).contains("plain HTTP"), "{}", chain(&error));
}
