//! Commands in a container, as probes and after a service is ready.

use smokegate_sandbox::{ExecSpec, ExitStatus, Sandbox};

use super::Outcome;
use crate::log_capture::LogCapture;
use crate::log_watch::LogWatch;
use crate::mask::Mask;

/// The most of a health check's output that is kept; Docker keeps 4 KiB.
const MAX_OUTPUT: usize = 4 * 1024;

/// Runs a command in a container: exit code 0 passes, if its output also has what is expected of it. When the time
/// is up before its end, it is killed: the next attempt must not meet it.
pub(crate) async fn exec(sandbox: &Sandbox, spec: ExecSpec, expect: Option<&str>) -> Outcome {
    let (capture, ends) = match LogCapture::start(None, LogWatch::none(), &Mask::default()) {
        Ok(capture) => capture,
        Err(error) => {
            return Outcome::NotRun {
                error: error.to_string(),
            };
        }
    };
    let status = match sandbox.exec(spec, ends.stdout, ends.stderr).await {
        Ok(status) => status,
        Err(error) => {
            return Outcome::NotRun {
                error: error.to_string(),
            };
        }
    };
    if status == ExitStatus::Code(0) && expect.is_none() {
        return Outcome::Passed;
    }
    let tail = capture.finish().await;
    let text: Vec<_> = tail.lines.iter().map(|line| line.text.as_str()).collect();
    let text = text.join("\n");
    let start = text.len().saturating_sub(MAX_OUTPUT);
    let start = (start..text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(text.len());
    let output = text[start..].to_owned();
    match (status, expect) {
        (ExitStatus::Code(0), Some(expected)) if text.contains(expected) => Outcome::Passed,
        (ExitStatus::Code(0), Some(expected)) => Outcome::Unexpected {
            expected: expected.to_owned(),
            output,
        },
        (status, _) => Outcome::ExitCode { status, output },
    }
}
