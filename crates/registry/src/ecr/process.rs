//! `credential_process` of a shared profile: a command whose standard output is a credential.
//!
//! Ours and not reqsign's, which splits the line at spaces, quoted or not, and sets no limits.

use std::ffi::OsStr;
use std::process::Stdio;
use std::time::Duration;

use reqsign_aws_v4::Credential;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

const TIME_LIMIT: Duration = Duration::from_secs(60);
const OUTPUT_LIMIT: u64 = 64 * 1024;

/// The format that AWS documents ("Sourcing credentials with an external process").
#[derive(serde::Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    version: u32,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<String>,
}

/// Runs `line` as the SDKs do, in a shell. Nothing it writes is shown, as all of it may be secret.
pub(crate) async fn credential(line: &str, path: Option<&OsStr>) -> Result<Credential, String> {
    match tokio::time::timeout(TIME_LIMIT, run(line, path)).await {
        Ok(answer) => answer,
        Err(_) => Err(format!(
            "its `credential_process` did not answer within {}s",
            TIME_LIMIT.as_secs()
        )),
    }
}

async fn run(line: &str, path: Option<&OsStr>) -> Result<Credential, String> {
    let mut command = Command::new("/bin/sh");
    if let Some(path) = path {
        command.env("PATH", path);
    }
    // As for credential helpers: one that prompts must not take the terminal.
    command
        .args(["-c", line])
        .process_group(0)
        .kill_on_drop(true);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command
        .spawn()
        .map_err(|error| format!("its `credential_process` cannot be started: {error}"))?;
    let mut output = Vec::new();
    let stdout = child.stdout.take().expect("stdout is piped");
    let read = stdout.take(OUTPUT_LIMIT).read_to_end(&mut output).await;
    read.map_err(|error| format!("the output of its `credential_process` is lost: {error}"))?;
    let status = child.wait().await.map_err(|error| error.to_string())?;
    if !status.success() {
        return Err(format!("its `credential_process` failed ({status})"));
    }
    // The parser's own message could quote the secret.
    let answer: Answer = serde_json::from_slice(&output).map_err(|_| {
        "its `credential_process` did not answer with the JSON that AWS documents".to_owned()
    })?;
    if answer.version != 1 {
        return Err(format!(
            "its `credential_process` answers with version {}, and only 1 is known",
            answer.version
        ));
    }
    let expires_in = match answer.expiration {
        Some(time) => Some(
            time.parse()
                .map_err(|_| "its `credential_process` gives an `Expiration` that is no time")?,
        ),
        None => None,
    };
    Ok(Credential {
        access_key_id: answer.access_key_id,
        secret_access_key: answer.secret_access_key,
        session_token: answer.session_token,
        expires_in,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_it_answers() {
        let found = credential(
            r#"echo '{"Version":1,"AccessKeyId":"AK ID","SecretAccessKey":"sk"}'"#,
            None,
        )
        .await
        .unwrap();
        assert_eq!(found.access_key_id, "AK ID");
        for (line, said) in [
            ("echo s3cret", "JSON"),
            ("echo s3cret; echo s3cret >&2; exit 3", "exit status: 3"),
            (
                r#"echo '{"Version":2,"AccessKeyId":"a","SecretAccessKey":"s3cret"}'"#,
                "version 2",
            ),
        ] {
            let error = credential(line, None).await.unwrap_err();
            assert!(error.contains(said) && !error.contains("s3cret"), "{error}");
        }
    }
}
