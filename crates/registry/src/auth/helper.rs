//! Credential helpers: `docker-credential-NAME get`, the server's name on stdin, JSON on stdout.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::Command;

use super::credential::{Credential, Secret};

const TIME_LIMIT: Duration = Duration::from_secs(30);
const OUTPUT_LIMIT: u64 = 1024 * 1024;
/// What docker-credential-helpers prints, on stdout, for a server it knows nothing about.
const NOT_FOUND: &str = "credentials not found in native keychain";

#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// Asks a configured helper; `None` when it has nothing for `server`.
pub(crate) async fn get(
    name: &str,
    server: &str,
    path: Option<&OsStr>,
) -> Result<Option<Credential>, String> {
    if name.is_empty() || name.contains('/') {
        return Err("its name is not one".to_owned());
    }
    match tokio::time::timeout(TIME_LIMIT, run(name, server, path)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!(
            "it did not answer within {}s",
            TIME_LIMIT.as_secs()
        )),
    }
}

async fn run(name: &str, server: &str, path: Option<&OsStr>) -> Result<Option<Credential>, String> {
    let mut command = Command::new(format!("docker-credential-{name}"));
    if let Some(path) = path {
        command.env("PATH", path);
    }
    // A group of its own is not the terminal's foreground one: a helper that prompts stops instead of
    // taking the keys of who runs us, and is ended with the time limit.
    command.arg("get").process_group(0).kill_on_drop(true);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command
        .spawn()
        .map_err(|error| format!("it cannot be started: {error}"))?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    // A helper that fails before it reads says so by its exit status.
    let _ = stdin.write_all(server.as_bytes()).await;
    drop(stdin);
    let mut output = Vec::new();
    let stdout = child.stdout.take().expect("stdout is piped");
    let read = stdout.take(OUTPUT_LIMIT).read_to_end(&mut output).await;
    read.map_err(|error| format!("its output cannot be read: {error}"))?;
    let status = child.wait().await.map_err(|error| error.to_string())?;
    if !status.success() {
        let said = String::from_utf8_lossy(&output);
        if said.trim() == NOT_FOUND {
            return Ok(None);
        }
        return Err(format!(
            "it failed ({status}): {}",
            crate::wire_error::printable(&said)
        ));
    }
    parse(&output)
}

fn parse(output: &[u8]) -> Result<Option<Credential>, String> {
    // The parser's own message could quote the secret.
    let answer: Answer =
        serde_json::from_slice(output).map_err(|_| "it did not answer with JSON".to_owned())?;
    let secret = Secret::new(answer.secret);
    Ok(match answer.username.as_str() {
        "" if secret.expose().is_empty() => None,
        "<token>" => Some(Credential::IdentityToken(secret)),
        _ => Some(Credential::Basic {
            username: answer.username,
            password: secret,
        }),
    })
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    async fn answer_of(script: &str) -> Result<Option<Credential>, String> {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("docker-credential-test");
        // Written by another process's hands: an open descriptor inherited by a concurrent test's fork
        // would make the exec fail with ETXTBSY.
        let text = format!("#!/bin/sh\n{script}\n");
        let made = std::process::Command::new("/bin/sh")
            .args(["-c", "printf %s \"$1\" > \"$2\"", "sh", &text])
            .arg(&program)
            .status();
        assert!(made.unwrap().success());
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let mut path = directory.path().as_os_str().to_owned();
        path.push(":/usr/bin:/bin");
        get("test", "r.example", Some(&path)).await
    }

    #[tokio::test]
    async fn protocol() {
        let secret = |text: &str| Secret::new(text.to_owned());
        let found =
            answer_of(r#"read -r s; echo "{\"Username\":\"u\",\"Secret\":\"for $s\"}""#).await;
        let expected = Credential::Basic {
            username: "u".to_owned(),
            password: secret("for r.example"),
        };
        assert_eq!(found, Ok(Some(expected)));
        let token = answer_of(r#"echo '{"Username":"<token>","Secret":"t"}'"#).await;
        assert_eq!(token, Ok(Some(Credential::IdentityToken(secret("t")))));
        let nothing = answer_of("echo 'credentials not found in native keychain'; exit 1").await;
        assert_eq!(nothing, Ok(None));
        let failed = answer_of("echo 'vault is sealed'; exit 1")
            .await
            .unwrap_err();
        assert!(failed.contains("vault is sealed"), "{failed}");
        let garbled = answer_of("echo s3cret").await.unwrap_err();
        assert!(!garbled.contains("s3cret"), "{garbled}");
        assert!(get("../evil", "r.example", None).await.is_err());
    }
}
