//! The registry's HTTP API, with ECR's manners.

use smokegate_image::Digest;

use super::http::{FakeRequest, FakeResponse};
use super::{EcrState, FakeRepository, Upload};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// What `None` stands for: the connection ends without an answer.
type Answer = Option<FakeResponse>;

pub(super) fn answer(state: &mut EcrState, request: &FakeRequest) -> Answer {
    if request.path().starts_with("/token/") {
        return Some(bearer_token(state, request));
    }
    if let Some(refusal) = refusal(state, request) {
        return Some(refusal);
    }
    let path = request
        .path()
        .strip_prefix("/v2/")
        .unwrap_or_default()
        .to_owned();
    if path.is_empty() {
        return Some(FakeResponse::new(200));
    }
    if let Some((name, rest)) = path.split_once("/blobs/uploads/") {
        return upload(state, request, name, rest);
    }
    if let Some((name, digest)) = path.split_once("/blobs/") {
        return Some(blob(state, request, name, digest));
    }
    if let Some((name, reference)) = path.split_once("/manifests/") {
        return Some(manifest(state, request, name, reference));
    }
    if let (Some((name, subject)), true) = (
        path.split_once("/referrers/"),
        state.manners.lists_referrers,
    ) {
        return Some(referrers(state, name, subject));
    }
    Some(FakeResponse::error(404, "UNSUPPORTED", "not found"))
}

fn referrers(state: &mut EcrState, name: &str, subject: &str) -> FakeResponse {
    let Some(repository) = state.repositories.get(name) else {
        return unknown(name);
    };
    let entries = repository
        .manifests
        .iter()
        .filter_map(|(digest, (media_type, bytes))| {
            let manifest: serde_json::Value = serde_json::from_slice(bytes).ok()?;
            (manifest["subject"]["digest"] == subject).then(|| {
                serde_json::json!({
                    "mediaType": media_type,
                    "digest": digest,
                    "size": bytes.len(),
                    "artifactType": manifest["artifactType"],
                })
            })
        });
    let index = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": entries.collect::<Vec<_>>(),
    });
    FakeResponse::new(200)
        .with("Content-Type", INDEX.to_owned())
        .body(index.to_string())
}

/// Tokens as ECR Public gives them: what it got as Basic, as Bearer.
fn bearer_token(state: &EcrState, request: &FakeRequest) -> FakeResponse {
    let given = request.header("authorization").strip_prefix("Basic ");
    match given {
        Some(token) if state.tokens.iter().any(|known| known == token) => {
            let body = serde_json::json!({"token": token, "expires_in": 3600});
            FakeResponse::new(200).body(body.to_string())
        }
        _ => FakeResponse::error(401, "UNAUTHORIZED", "no token"),
    }
}

/// Why a request is not even looked at.
fn refusal(state: &EcrState, request: &FakeRequest) -> Option<FakeResponse> {
    let authorization = request.header("authorization");
    let scheme = if state.manners.public {
        "Bearer "
    } else {
        "Basic "
    };
    let host = request.header("host");
    let Some(token) = authorization.strip_prefix(scheme) else {
        let challenge = if state.manners.public {
            format!(r#"Bearer realm="http://{host}/token/",service="public.ecr.aws",scope="aws""#)
        } else {
            format!(r#"Basic realm="https://{host}/",service="ecr.amazonaws.com""#)
        };
        return Some(
            FakeResponse::error(401, "UNAUTHORIZED", "no basic auth credentials")
                .with("WWW-Authenticate", challenge),
        );
    };
    if state.manners.takes_any_token || state.tokens.iter().any(|known| known == token) {
        // HEAD of a blob is refused by ECR Public whatever the token (containers-roadmap#2671).
        let is_head = request.method == "HEAD" && request.path().contains("/blobs/");
        return (state.manners.public && is_head).then(|| FakeResponse::new(401));
    }
    if state.manners.public {
        return Some(FakeResponse::error(
            400,
            "DENIED",
            "Your Authorization Token is invalid.",
        ));
    }
    let text = "Your authorization token has expired. Reauthenticate and try again.";
    Some(if state.manners.plain_text_refusals {
        FakeResponse::new(403).body(text)
    } else {
        FakeResponse::error(403, "DENIED", text)
    })
}

fn unknown(name: &str) -> FakeResponse {
    let message = format!(
        "The repository with name '{name}' does not exist in the registry with id '123456789012'"
    );
    FakeResponse::error(404, "NAME_UNKNOWN", &message)
}

fn blob(state: &mut EcrState, request: &FakeRequest, name: &str, digest: &str) -> FakeResponse {
    let elsewhere = state.manners.blobs_are_elsewhere;
    let Some(repository) = state.repositories.get(name) else {
        return unknown(name);
    };
    match repository.blobs.get(digest) {
        None => FakeResponse::error(404, "BLOB_UNKNOWN", "blob unknown to registry"),
        Some(_) if request.method == "GET" && elsewhere => {
            FakeResponse::new(307).with("Location", "https://layers.s3.invalid/x?X-Amz-Signature=s")
        }
        Some(blob) => FakeResponse::new(200).body(blob.clone()),
    }
}

fn upload(state: &mut EcrState, request: &FakeRequest, name: &str, id: &str) -> Answer {
    let manners = state.manners.clone();
    if manners
        .body_limit
        .is_some_and(|limit| request.body.len() > limit)
    {
        return Some(FakeResponse::new(413).body("<html>Request Entity Too Large</html>"));
    }
    if !state.repositories.contains_key(name) {
        return (!manners.missing_repository_is_eof || request.method != "POST")
            .then(|| unknown(name));
    }
    if request.method == "POST" {
        return Some(open(state, request, name));
    }
    let repository = state.repository(name);
    let Some(upload) = repository.uploads.get_mut(id) else {
        return Some(FakeResponse::error(
            404,
            "BLOB_UPLOAD_UNKNOWN",
            "no such upload",
        ));
    };
    Some(match request.method.as_str() {
        "PATCH" => append(upload, request, &manners),
        "PUT" => {
            let digest = request.parameter("digest").unwrap_or_default();
            let answer = finish(upload, request, &digest, manners.smallest_part);
            if answer.is_ok() {
                let bytes = std::mem::take(&mut upload.bytes);
                repository.blobs.insert(digest, bytes);
            }
            repository.uploads.remove(id);
            answer.map_or_else(|refusal| refusal, |()| FakeResponse::new(201))
        }
        "DELETE" => {
            repository.uploads.remove(id);
            FakeResponse::new(204)
        }
        // There is no state of an upload to ask for.
        _ => FakeResponse::error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload"),
    })
}

fn open(state: &mut EcrState, request: &FakeRequest, name: &str) -> FakeResponse {
    if let (Some(digest), Some(from), true) = (
        request.parameter("mount"),
        request.parameter("from"),
        state.manners.mounts,
    ) {
        let source = state.repositories.get(&from);
        // Only what a manifest of the source refers to can be mounted (containers-roadmap#2860).
        let found = source.filter(|source| is_referenced(source, &digest));
        if let Some(bytes) = found.and_then(|source| source.blobs.get(&digest)).cloned() {
            state.repository(name).blobs.insert(digest, bytes);
            return FakeResponse::new(201);
        }
    }
    state.uploads += 1;
    let id = format!("upload-{}", state.uploads);
    let location = format!(
        "http://{}/v2/{name}/blobs/uploads/{id}",
        request.header("host")
    );
    let repository = state.repository(name);
    repository.uploads.insert(id, Upload::default());
    FakeResponse::new(202).with("Location", location)
}

fn is_referenced(repository: &FakeRepository, digest: &str) -> bool {
    let manifests = repository.manifests.values();
    let mut texts = manifests.map(|(_, bytes)| String::from_utf8_lossy(bytes));
    texts.any(|text| text.contains(digest))
}

fn append(upload: &mut Upload, request: &FakeRequest, manners: &super::EcrManners) -> FakeResponse {
    let start = request
        .header("content-range")
        .split('-')
        .next()
        .unwrap_or_default();
    if let Ok(start) = start.parse::<usize>()
        && start != upload.bytes.len()
    {
        let message = format!(
            "First byte of the layer part is {start} instead of {}",
            upload.bytes.len()
        );
        return FakeResponse::error(416, "BLOB_UPLOAD_INVALID", &message);
    }
    upload.bytes.extend_from_slice(&request.body);
    upload.parts.push(request.body.len());
    let last = if manners.range_is_stale {
        upload.parts[0]
    } else {
        upload.bytes.len()
    };
    let location = format!("http://{}{}", request.header("host"), request.path());
    FakeResponse::new(if manners.patch_is_201 { 201 } else { 202 })
        .with("Location", location)
        .with("Range", format!("0-{}", last.saturating_sub(1)))
}

fn finish(
    upload: &mut Upload,
    request: &FakeRequest,
    digest: &str,
    smallest_part: usize,
) -> Result<(), FakeResponse> {
    let refused = |message: &str| Err(FakeResponse::error(400, "BLOB_UPLOAD_INVALID", message));
    if !request.body.is_empty() {
        upload.bytes.extend_from_slice(&request.body);
        upload.parts.push(request.body.len());
    }
    let Some((_, all_but_last)) = upload.parts.split_last() else {
        return refused("The upload cannot be completed because it does not have any parts");
    };
    if all_but_last.iter().any(|part| *part < smallest_part) {
        return refused("Layer parts are too small");
    }
    if Digest::sha256(&upload.bytes).to_string() != digest {
        return refused("None of the provided layer digests match the calculated layer digest");
    }
    Ok(())
}

fn manifest(
    state: &mut EcrState,
    request: &FakeRequest,
    name: &str,
    reference: &str,
) -> FakeResponse {
    let manners = state.manners.clone();
    let Some(repository) = state.repositories.get_mut(name) else {
        return unknown(name);
    };
    let digest = if reference.starts_with("sha256:") {
        Some(reference.to_owned())
    } else {
        repository.tags.get(reference).cloned()
    };
    let found = digest
        .as_ref()
        .and_then(|digest| repository.manifests.get(digest));
    match (request.method.as_str(), found) {
        ("PUT", _) => {
            let answer = put(repository, request, name, reference, manners.manifest_limit);
            let text = String::from_utf8_lossy(&answer.body).into_owned();
            if text.contains("required for pushing image") {
                state.premature.push(text);
            }
            answer
        }
        // Neither `Docker-Content-Digest` nor anything else that names the digest.
        ("GET" | "HEAD", Some((media_type, bytes))) => FakeResponse::new(200)
            .with("Content-Type", media_type.clone())
            .body(bytes.clone()),
        ("DELETE", _) if !manners.deletes_tags => {
            FakeResponse::error(405, "UNSUPPORTED", "The operation is unsupported.")
        }
        ("DELETE", Some(_)) => {
            let digest = digest.unwrap_or_default();
            delete(repository, reference, &digest);
            FakeResponse::new(202)
        }
        _ => FakeResponse::error(404, "MANIFEST_UNKNOWN", "Requested image not found"),
    }
}

/// A tag goes, and the image with its last tag.
pub(super) fn delete(repository: &mut FakeRepository, tag: &str, digest: &str) {
    repository.tags.remove(tag);
    if !repository.tags.values().any(|kept| kept == digest) {
        repository.manifests.remove(digest);
    }
}

fn put(
    repository: &mut FakeRepository,
    request: &FakeRequest,
    name: &str,
    reference: &str,
    limit: usize,
) -> FakeResponse {
    let invalid = |why: &str| {
        let message =
            format!("Invalid parameter at 'ImageManifest' failed to satisfy constraint: '{why}'");
        FakeResponse::error(405, "UNSUPPORTED", &message)
    };
    let media_type = request.header("content-type").to_owned();
    if request.body.len() > limit {
        return invalid("Member must have length less than or equal to 4194304");
    }
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(&request.body) else {
        return invalid("Invalid JSON syntax");
    };
    if json["mediaType"].as_str() != Some(&media_type) {
        return invalid("Invalid JSON syntax");
    }
    for child in json["manifests"].as_array().into_iter().flatten() {
        let child = child["digest"].as_str().unwrap_or_default();
        if !repository.manifests.contains_key(child) {
            let message = format!(
                "Images with digests '[{child}]' required for pushing image into repository with name '{name}' do not exist"
            );
            return FakeResponse::error(404, "MANIFEST_UNKNOWN", &message);
        }
    }
    let layers = json["layers"].as_array().into_iter().flatten();
    for blob in layers.chain(json.get("config")) {
        let blob = blob["digest"].as_str().unwrap_or_default();
        if !repository.blobs.contains_key(blob) {
            let message = format!(
                "Layers with digests '[{blob}]' required for pushing image into repository with name '{name}' do not exist"
            );
            return FakeResponse::error(400, "MANIFEST_BLOB_UNKNOWN", &message);
        }
    }
    let digest = Digest::sha256(&request.body).to_string();
    if reference.starts_with("sha256:") {
        if reference != digest {
            return FakeResponse::error(400, "DIGEST_INVALID", "the digest is not the manifest's");
        }
    } else {
        // Even with the digest that it has (containers-roadmap#2179).
        if repository.immutable && repository.tags.contains_key(reference) {
            let message = format!(
                "The image tag '{reference}' already exists in the '{name}' repository and cannot be overwritten because the tag is immutable."
            );
            return FakeResponse::error(400, "TAG_INVALID", &message);
        }
        repository.tags.insert(reference.to_owned(), digest.clone());
    }
    let bytes = request.body.clone();
    repository.manifests.insert(digest, (media_type, bytes));
    FakeResponse::new(201)
}
