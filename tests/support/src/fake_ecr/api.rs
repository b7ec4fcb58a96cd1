//! ECR's JSON API, STS, and where credentials come from: a CI's token service, containers, instances.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::http::{FakeRequest, FakeResponse};
use super::{EcrState, FakeRepository, registry};

pub(super) fn answer(state: &mut EcrState, request: &FakeRequest) -> FakeResponse {
    match (request.method.as_str(), request.path()) {
        ("POST", "/") if request.headers.contains_key("x-amz-target") => ecr(state, request),
        ("POST", "/") => sts(state, String::from_utf8_lossy(&request.body).into_owned()),
        ("GET", "/") => sts(state, request.target.clone()),
        ("GET", "/runner/token") => runner(state, request),
        ("GET", "/sso/credentials") => sso(state, request),
        ("GET", "/container/credentials") => container(state, request),
        ("PUT", "/latest/api/token") => FakeResponse::new(200).body("imds-session"),
        ("GET", path) if path.starts_with("/latest/meta-data/iam/security-credentials/") => {
            instance(state, request)
        }
        _ => FakeResponse::new(404),
    }
}

fn refused(status: u16, kind: &str, message: &str) -> FakeResponse {
    let body = json!({"__type": format!("com.amazonaws.ecr#{kind}"), "message": message});
    FakeResponse::new(status).body(body.to_string())
}

fn ecr(state: &mut EcrState, request: &FakeRequest) -> FakeResponse {
    // AWS4-HMAC-SHA256 Credential=KEY/DATE/REGION/SERVICE/aws4_request, …
    let scope = request
        .header("authorization")
        .split("Credential=")
        .nth(1)
        .unwrap_or_default();
    let scope: Vec<&str> = scope.split(['/', ',']).collect();
    let &[key, _, region, service, "aws4_request", ..] = scope.as_slice() else {
        return refused(403, "IncompleteSignatureException", "not signed");
    };
    if request.header("x-amz-content-sha256") == "UNSIGNED-PAYLOAD" {
        return refused(403, "InvalidSignatureException", "The body must be signed");
    }
    let target = request.header("x-amz-target").to_owned();
    let operation = target.rsplit('.').next().unwrap_or_default();
    let asked: Value = serde_json::from_slice(&request.body).unwrap_or_default();
    let name = asked["repositoryName"].as_str().unwrap_or_default();
    let (key, region, service) = (key.to_owned(), region.to_owned(), service.to_owned());
    match operation {
        "GetAuthorizationToken" if key == "AKIDDENIED" => {
            let message = "User: arn:aws:iam::1:user/x is not authorized to perform: ecr:GetAuthorizationToken on resource: * because no identity-based policy allows the ecr:GetAuthorizationToken action";
            refused(400, "AccessDeniedException", message)
        }
        "GetAuthorizationToken" if key == "AKIDWRONG" => {
            let session = request.header("x-amz-security-token");
            let message = format!(
                "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method.\n\nThe Canonical String for this request should have been\n'POST\n/\n\nx-amz-security-token:{session}\n'"
            );
            refused(403, "InvalidSignatureException", &message)
        }
        "GetAuthorizationToken" => {
            state
                .token_requests
                .push(format!("{key} {region} {service}"));
            token(state)
        }
        "CreateRepository" if state.repositories.contains_key(name) => {
            let message =
                format!("The repository with name '{name}' already exists in the registry");
            refused(400, "RepositoryAlreadyExistsException", &message)
        }
        "CreateRepository" => {
            let made = FakeRepository {
                immutable: asked["imageTagMutability"] == "IMMUTABLE",
                scan_on_push: asked["imageScanningConfiguration"]["scanOnPush"] == true,
                ..FakeRepository::default()
            };
            state.repositories.insert(name.to_owned(), made);
            FakeResponse::new(200).body(json!({"repository": {"repositoryName": name}}).to_string())
        }
        "DescribeRepositories" => {
            let name = asked["repositoryNames"][0].as_str().unwrap_or_default();
            let Some(repository) = state.repositories.get(name) else {
                return refused(400, "RepositoryNotFoundException", "no such repository");
            };
            let mutability = if repository.immutable {
                "IMMUTABLE"
            } else {
                "MUTABLE"
            };
            let described = json!({"repositoryName": name, "imageTagMutability": mutability});
            FakeResponse::new(200).body(json!({"repositories": [described]}).to_string())
        }
        "BatchDeleteImage" => {
            let Some(repository) = state.repositories.get_mut(name) else {
                return refused(400, "RepositoryNotFoundException", "no such repository");
            };
            let tag = asked["imageIds"][0]["imageTag"]
                .as_str()
                .unwrap_or_default();
            let Some(digest) = repository.tags.get(tag).cloned() else {
                let failures =
                    json!([{"failureCode": "ImageNotFound", "failureReason": "no image"}]);
                return FakeResponse::new(200).body(json!({"failures": failures}).to_string());
            };
            registry::delete(repository, tag, &digest);
            FakeResponse::new(200).body(json!({"imageIds": [], "failures": []}).to_string())
        }
        other => refused(400, "UnknownOperationException", other),
    }
}

fn token(state: &mut EcrState) -> FakeResponse {
    state.given += 1;
    let password = format!("ecr-password-{}", state.given);
    let encoded = STANDARD.encode(format!("AWS:{password}").as_bytes());
    state.tokens.push(encoded.clone());
    state.secrets.extend([password, encoded.clone()]);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    let ends = now.as_secs_f64() + state.manners.token_life as f64;
    let data =
        json!({"authorizationToken": encoded, "expiresAt": ends, "proxyEndpoint": "https://x"});
    let body = if state.manners.public {
        json!({"authorizationData": data})
    } else {
        json!({"authorizationData": [data]})
    };
    FakeResponse::new(200).body(body.to_string())
}

fn sts(state: &mut EcrState, form: String) -> FakeResponse {
    let operation = if form.contains("Action=AssumeRoleWithWebIdentity") {
        "AssumeRoleWithWebIdentity"
    } else {
        "AssumeRole"
    };
    state.sts_requests.push(form);
    let key = format!("ASIAOFTHEFAKE{}", operation.to_uppercase());
    let secret = "sts-secret-key".to_owned();
    state
        .secrets
        .extend([secret.clone(), "sts-session-token".to_owned()]);
    let body = format!(
        "<{operation}Response><{operation}Result><AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/push/s</Arn>\
         <AssumedRoleId>AROA:s</AssumedRoleId></AssumedRoleUser><Credentials><AccessKeyId>{key}</AccessKeyId>\
         <SecretAccessKey>{secret}</SecretAccessKey><SessionToken>sts-session-token</SessionToken>\
         <Expiration>2999-01-01T00:00:00Z</Expiration></Credentials></{operation}Result></{operation}Response>"
    );
    FakeResponse::new(200)
        .with("Content-Type", "text/xml")
        .body(body)
}

/// GitHub's runner.
fn runner(state: &mut EcrState, request: &FakeRequest) -> FakeResponse {
    let audience = request.parameter("audience").unwrap_or_default();
    if request.header("authorization") != "Bearer runner-secret" || audience != "sts.amazonaws.com"
    {
        return FakeResponse::new(401);
    }
    state.secrets.push("github-oidc-token".to_owned());
    FakeResponse::new(200).body(r#"{"value":"github-oidc-token"}"#)
}

fn sso(state: &mut EcrState, request: &FakeRequest) -> FakeResponse {
    if request.header("x-amz-sso_bearer_token") != "sso-access-token"
        || request.parameter("role_name").as_deref() != Some("Push")
    {
        return FakeResponse::new(401);
    }
    state.secrets.push("sso-secret-key".to_owned());
    let keys = json!({
        "accessKeyId": "AKIDSSO", "secretAccessKey": "sso-secret-key",
        "sessionToken": "sso-session", "expiration": 32_503_680_000_000_i64,
    });
    FakeResponse::new(200).body(json!({"roleCredentials": keys}).to_string())
}

fn keys(state: &mut EcrState, key: &str) -> String {
    let secret = format!("{key}-secret-key");
    state
        .secrets
        .extend([secret.clone(), "metadata-session".to_owned()]);
    json!({
        "Code": "Success", "Type": "AWS-HMAC", "LastUpdated": "2020-01-01T00:00:00Z",
        "AccessKeyId": key, "SecretAccessKey": secret, "Token": "metadata-session",
        "Expiration": "2999-01-01T00:00:00Z",
    })
    .to_string()
}

fn container(state: &mut EcrState, request: &FakeRequest) -> FakeResponse {
    if request.header("authorization") != "pod-identity-token" {
        return FakeResponse::new(401);
    }
    FakeResponse::new(200).body(keys(state, "AKIDCONTAINER"))
}

fn instance(state: &mut EcrState, request: &FakeRequest) -> FakeResponse {
    if request.header("x-aws-ec2-metadata-token") != "imds-session" {
        return FakeResponse::new(401);
    }
    if request.path().ends_with("/security-credentials/") {
        return FakeResponse::new(200).body("build-agent");
    }
    FakeResponse::new(200).body(keys(state, "AKIDINSTANCE"))
}
