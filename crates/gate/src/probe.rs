//! One attempt of a probe, and what came of it.

use std::convert::Infallible;
use std::ops::RangeInclusive;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use smokegate_sandbox::{ExecSpec, ExitStatus, Sandbox};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::log_capture::LogCapture;
use crate::plan::Probe;
use crate::verdict::seconds;

/// The most of an answer's body that is kept as evidence.
const MAX_BODY: usize = 2 * 1024;
/// The most of a health check's output that is kept; Docker keeps 4 KiB.
const MAX_OUTPUT: usize = 4 * 1024;
/// Time in which the rest of a good answer is read: a server whose client hangs up in the middle of one may take it
/// for a fault, or die of SIGPIPE.
const REST_OF_ANSWER: Duration = Duration::from_millis(50);

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
    /// The connection was neither accepted nor refused in the time of one attempt.
    NotConnected,
    /// The connection was there, and no answer in the time of one attempt.
    NoAnswer,
    /// The command still ran when the time of one attempt was over.
    NotFinished {
        /// That time.
        within: Duration,
    },
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
    /// The command's output lacks what was expected.
    Unexpected {
        /// What it should contain.
        expected: String,
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
            Self::NotConnected => f.write_str("no connection in time"),
            Self::NoAnswer => f.write_str("no answer in time"),
            Self::NotFinished { within } => write!(f, "did not finish within {}", seconds(*within)),
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
            Self::Unexpected { expected, .. } => {
                write!(f, "did not print `{expected}`")
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
    let deadline = Instant::now() + timeout;
    let command = async |args: &[String], expect: Option<&str>| {
        let run = exec(sandbox, exec_spec(container, args), expect);
        let within = timeout;
        let outcome = timeout_at(deadline, run).await;
        outcome.unwrap_or(Outcome::NotFinished { within })
    };
    match probe {
        Probe::Http { port, path, status } => {
            match connect(sandbox, container, *port, deadline).await {
                Ok(stream) => http(stream, path, status, deadline).await,
                Err(outcome) => outcome,
            }
        }
        Probe::Tcp { port } => match connect(sandbox, container, *port, deadline).await {
            Ok(_) => Outcome::Passed,
            Err(outcome) => outcome,
        },
        Probe::Exec { args, expect } => command(args, expect.as_deref()).await,
        Probe::Healthcheck { args } => command(args, None).await,
    }
}

fn exec_spec(container: &str, args: &[String]) -> ExecSpec {
    ExecSpec {
        container: container.to_owned(),
        args: args.to_vec(),
    }
}

async fn connect(
    sandbox: &Sandbox,
    container: &str,
    port: u16,
    deadline: Instant,
) -> Result<TcpStream, Outcome> {
    match timeout_at(deadline, sandbox.connect(container, port)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            Err(Outcome::Refused)
        }
        Ok(Err(error)) => Err(Outcome::Closed {
            error: error.to_string(),
        }),
        Err(_) => Err(Outcome::NotConnected),
    }
}

async fn http(
    stream: TcpStream,
    path: &str,
    wanted: &[RangeInclusive<u16>],
    deadline: Instant,
) -> Outcome {
    match stream.peer_addr() {
        Ok(address) => exchange(stream, &address.to_string(), path, wanted, deadline).await,
        Err(error) => Outcome::Closed {
            error: error.to_string(),
        },
    }
}

/// Sends the request and decides on the status line: the body is evidence, not part of the decision.
async fn exchange<S>(
    stream: S,
    host: &str,
    path: &str,
    wanted: &[RangeInclusive<u16>],
    deadline: Instant,
) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = Request::get(path)
        .header("Host", host)
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
    let (mut sender, connection) =
        match hyper::client::conn::http1::handshake(TokioIo::new(stream)).await {
            Ok(parts) => parts,
            Err(error) => return no_answer(&error),
        };
    let answered = async {
        match timeout_at(deadline, sender.send_request(request)).await {
            Ok(Ok(response)) => judge(response, wanted, deadline).await,
            Ok(Err(error)) => no_answer(&error),
            Err(_) => Outcome::NoAnswer,
        }
    };
    // The connection moves the bytes that the other side waits for; its end is not the answer's.
    let moved = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        outcome = answered => outcome,
        never = moved => match never {},
    }
}

fn no_answer(error: &hyper::Error) -> Outcome {
    let text = error.to_string();
    if error.is_parse() {
        Outcome::NotHttp { error: text }
    } else {
        Outcome::Closed { error: text }
    }
}

async fn judge(
    response: Response<Incoming>,
    wanted: &[RangeInclusive<u16>],
    deadline: Instant,
) -> Outcome {
    let status = response.status().as_u16();
    let mut body = response.into_body();
    if wanted.iter().any(|range| range.contains(&status)) {
        let rest = async { while let Some(Ok(_)) = body.frame().await {} };
        let _ = tokio::time::timeout(REST_OF_ANSWER, rest).await;
        return Outcome::Passed;
    }
    let body = read_start(body, deadline).await;
    Outcome::Status { status, body }
}

/// The start of a body; one that breaks off or never ends is evidence all the same.
async fn read_start(mut body: Incoming, deadline: Instant) -> String {
    let mut bytes = Vec::new();
    while bytes.len() < MAX_BODY {
        match timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => bytes.extend(frame.data_ref().into_iter().flatten()),
            Ok(Some(Err(_)) | None) | Err(_) => break,
        }
    }
    bytes.truncate(MAX_BODY);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs a command in a container: exit code 0 passes, if its output also has what is expected of it. When the time
/// is up before its end, it is killed: the next attempt must not meet it.
pub(crate) async fn exec(sandbox: &Sandbox, spec: ExecSpec, expect: Option<&str>) -> Outcome {
    let (capture, ends) = match LogCapture::start(None) {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;

    /// What a server does after it has read the request.
    #[derive(Clone, Copy)]
    enum Server {
        /// Writes this and closes.
        Says(&'static str),
        /// Writes a head and a body of so many bytes.
        Sends(&'static str, usize),
        /// Writes the head, then chunks, with a pause before each.
        Chunks(&'static str),
        /// Writes the head and a body that does not end.
        Endless(&'static str),
        /// Keeps the connection and says nothing.
        Silent,
    }

    async fn serve(server: Server, mut stream: DuplexStream) {
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await;
        match server {
            Server::Says(text) => {
                let _ = stream.write_all(text.as_bytes()).await;
            }
            Server::Sends(head, length) => {
                let head = format!("{head}Content-Length: {length}\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).await;
                let _ = stream.write_all(&vec![b'x'; length]).await;
            }
            Server::Chunks(head) => {
                let head = format!("{head}Transfer-Encoding: chunked\r\n\r\n");
                let _ = stream.write_all(head.as_bytes()).await;
                for chunk in ["3\r\none\r\n", "3\r\ntwo\r\n", "0\r\n\r\n"] {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let _ = stream.write_all(chunk.as_bytes()).await;
                }
            }
            Server::Endless(head) => {
                let _ = stream.write_all(format!("{head}\r\n").as_bytes()).await;
                while stream.write_all(b"more ").await.is_ok() {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
            Server::Silent => std::future::pending().await,
        }
    }

    async fn outcome(server: Server) -> Outcome {
        // Smaller than the answers, as a socket's buffer is.
        let (near, far) = tokio::io::duplex(4 * 1024);
        let serving = tokio::spawn(serve(server, far));
        let deadline = Instant::now() + Duration::from_secs(1);
        let asking = exchange(near, "127.0.0.1:8080", "/healthz", &[200..=200], deadline);
        let outcome = asking.await;
        serving.abort();
        outcome
    }

    #[tokio::test]
    async fn a_good_status_line_passes_whatever_the_body_does() {
        let ok = "HTTP/1.1 200 OK\r\n";
        for server in [
            Server::Says("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
            Server::Says("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut"),
            Server::Says("HTTP/1.0 200 OK\r\n\r\nto the end"),
            Server::Sends(ok, 100 * 1024),
            Server::Chunks(ok),
            Server::Endless(ok),
        ] {
            assert_eq!(outcome(server).await, Outcome::Passed);
        }
    }

    #[tokio::test]
    async fn a_bad_status_keeps_the_start_of_its_body() {
        let unwell = "HTTP/1.1 503 Service Unavailable\r\n";
        let body = async |server| match outcome(server).await {
            Outcome::Status { status: 503, body } => body,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            body(Server::Sends(unwell, 100 * 1024)).await,
            "x".repeat(MAX_BODY)
        );
        assert_eq!(body(Server::Chunks(unwell)).await, "onetwo");
        assert!(
            body(Server::Endless(unwell))
                .await
                .starts_with("more more ")
        );
    }

    #[tokio::test]
    async fn what_is_no_answer_says_which_way() {
        assert_eq!(outcome(Server::Silent).await, Outcome::NoAnswer);
        for garbage in ["SSH-2.0-OpenSSH_9.6\r\n", "\0\u{1}\u{2}binary\r\n\r\n"] {
            let got = outcome(Server::Says(garbage)).await;
            assert!(matches!(got, Outcome::NotHttp { .. }), "{got:?}");
        }
        for cut in ["", "HTTP/1.1 200"] {
            let got = outcome(Server::Says(cut)).await;
            assert!(matches!(got, Outcome::Closed { .. }), "{got:?}");
        }
    }
}
