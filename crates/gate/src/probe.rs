//! One attempt of a probe, and what came of it.

use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use smokegate_sandbox::{ExecSpec, ExitStatus, Sandbox, SandboxError};

use crate::log_capture::LogCapture;
use crate::plan::Probe;

/// The most of an answer's body that is kept as evidence.
const MAX_BODY: usize = 2 * 1024;
/// The most of a health check's output that is kept; Docker keeps 4 KiB.
const MAX_OUTPUT: usize = 4 * 1024;

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// When it began, since the container started.
    pub at: Duration,
    /// How long it took.
    pub took: Duration,
    /// What came of it.
    pub outcome: Outcome,
}

/// What came of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Passed,
    /// Nothing listens on that address and port.
    Refused,
    /// The connection was there and was reset or closed before an answer.
    Closed {
        /// The error, in words.
        error: String,
    },
    /// No answer in the time of one attempt.
    TimedOut,
    /// An HTTP answer that is not the one wanted.
    Status {
        /// Its status code.
        status: u16,
        /// The start of its body.
        body: String,
    },
    /// Bytes that are not HTTP.
    NotHttp {
        /// The error, in words.
        error: String,
    },
    /// The command ended with another code than 0.
    ExitCode {
        /// Its status.
        status: ExitStatus,
        /// The end of its output.
        output: String,
    },
    /// The command could not be run.
    NotRun {
        /// The error, in words.
        error: String,
    },
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Passed => f.write_str("passed"),
            Self::Refused => f.write_str("connection refused"),
            Self::Closed { error } => write!(f, "connection closed before an answer ({error})"),
            Self::TimedOut => f.write_str("no answer in time"),
            Self::Status { status, .. } => match StatusCode::from_u16(*status) {
                Ok(code) => write!(f, "answered {code}"),
                Err(_) => write!(f, "answered {status}"),
            },
            Self::NotHttp { error } => write!(f, "the answer is not HTTP ({error})"),
            Self::ExitCode {
                status: ExitStatus::Code(code),
                ..
            } => {
                write!(f, "exited with code {code}")
            }
            Self::ExitCode {
                status: ExitStatus::Signal(signal),
                ..
            } => {
                write!(f, "was ended by {}", crate::signal::describe(*signal))
            }
            Self::NotRun { error } => write!(f, "could not be run: {error}"),
        }
    }
}

/// Asks once, for at most `timeout`.
pub(crate) async fn ask(
    probe: &Probe,
    sandbox: &Sandbox,
    container: &str,
    timeout: Duration,
) -> Outcome {
    let attempt = async {
        match probe {
            Probe::Http { port, path } => http(sandbox, container, *port, path).await,
            Probe::Exec { args } => exec(sandbox, container, args).await,
        }
    };
    tokio::time::timeout(timeout, attempt)
        .await
        .unwrap_or(Outcome::TimedOut)
}

async fn http(sandbox: &Sandbox, container: &str, port: u16, path: &str) -> Outcome {
    let stream = match sandbox.connect(container, port).await {
        Ok(stream) => stream,
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            return Outcome::Refused;
        }
        Err(error) => {
            return Outcome::Closed {
                error: error.to_string(),
            };
        }
    };
    let Ok(address) = stream.peer_addr() else {
        return Outcome::Refused;
    };
    let request = Request::get(path)
        .header("Host", address.to_string())
        .header(
            "User-Agent",
            concat!("smokegate/", env!("CARGO_PKG_VERSION")),
        )
        .header("Accept", "*/*")
        .header("Connection", "close")
        .body(Empty::<Bytes>::new());
    let request = match request {
        Ok(request) => request,
        Err(error) => {
            return Outcome::NotRun {
                error: error.to_string(),
            };
        }
    };
    let exchange = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let (response, _) = tokio::join!(sender.send_request(request), async {
            let _ = connection.await;
        });
        let response = response?;
        Ok::<_, hyper::Error>(read_start(response).await)
    };
    match exchange.await {
        Ok((StatusCode::OK, _)) => Outcome::Passed,
        Ok((status, body)) => Outcome::Status {
            status: status.as_u16(),
            body,
        },
        Err(error) if error.is_parse() => Outcome::NotHttp {
            error: error.to_string(),
        },
        Err(error) => Outcome::Closed {
            error: error.to_string(),
        },
    }
}

/// The status and the start of the body; a body that breaks off is evidence all the same.
async fn read_start(response: Response<hyper::body::Incoming>) -> (StatusCode, String) {
    let status = response.status();
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while bytes.len() < MAX_BODY {
        match body.frame().await {
            Some(Ok(frame)) => bytes.extend(frame.data_ref().into_iter().flatten()),
            Some(Err(_)) | None => break,
        }
    }
    bytes.truncate(MAX_BODY);
    (status, String::from_utf8_lossy(&bytes).into_owned())
}

async fn exec(sandbox: &Sandbox, container: &str, args: &[String]) -> Outcome {
    let (capture, ends) = match LogCapture::start(None) {
        Ok(capture) => capture,
        Err(error) => {
            return Outcome::NotRun {
                error: error.to_string(),
            };
        }
    };
    let spec = ExecSpec {
        container: container.to_owned(),
        args: args.to_vec(),
    };
    let status = match sandbox.exec(spec, ends.stdout, ends.stderr).await {
        Ok(mut process) => process.wait().await,
        Err(SandboxError::Start(error)) => {
            return Outcome::NotRun {
                error: error.to_string(),
            };
        }
        Err(error) => {
            return Outcome::NotRun {
                error: error.to_string(),
            };
        }
    };
    if status == ExitStatus::Code(0) {
        return Outcome::Passed;
    }
    let tail = capture.finish().await;
    let text: Vec<_> = tail.lines.iter().map(|line| line.text.as_str()).collect();
    let text = text.join("\n");
    let start = text.len().saturating_sub(MAX_OUTPUT);
    let start = (start..text.len())
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(text.len());
    Outcome::ExitCode {
        status,
        output: text[start..].to_owned(),
    }
}
