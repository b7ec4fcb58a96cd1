//! curl, which sends the largest blob and nothing else: no push of the image to this registry can take much less.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::stages::{Run, Stages};
use super::workload::Workload;
use crate::Result;

fn curl(words: &[&str]) -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail", "--noproxy", "*"]);
    command.args(words);
    command
}

/// In one request behind the one that begins an upload, as the distribution spec has it ("POST then PUT").
pub(crate) fn largest_blob(workload: &Workload, registry: &str) -> Result<Run> {
    let layers = workload.layers()?;
    let size = |path: &&PathBuf| fs::metadata(path).map_or(0, |found| found.len());
    let largest = layers.iter().max_by_key(size);
    let largest = largest.ok_or("the image has no layer")?;
    // Blobs of a layout are called by their digests.
    let digest = largest.file_name().unwrap_or_default().to_string_lossy();
    let uploads = format!("http://{registry}/v2/bench/blobs/uploads/");
    let mut stages = Stages::default();
    let mut begin = curl(&["--request", "POST", "--write-out", "%header{location}"]);
    let location = stages.run("push", begin.arg(uploads), None)?;
    if !location.starts_with("http") {
        return Err(format!("curl before 7.83 prints no header: `{location}`").into());
    }
    let file = largest.to_string_lossy();
    let mut send = curl(&["--upload-file", &file, "--header", "Expect:"]);
    send.args(["--header", "Content-Type: application/octet-stream"]);
    send.arg(format!("{location}&digest=sha256:{digest}"));
    stages.run("push", &mut send, None)?;
    Ok(stages.0)
}
