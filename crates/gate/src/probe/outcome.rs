//! What came of an attempt, in words and as a class.

use std::time::Duration;

use hyper::StatusCode;
use smokegate_sandbox::ExitStatus;

use crate::verdict::seconds;

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
        /// Where a redirect leads to: it is not followed.
        location: Option<String>,
        /// The start of its body.
        body: String,
    },
    /// A good status with a body that is not the one wanted.
    WrongBody {
        /// Its status code.
        status: u16,
        /// What is wrong, in words that follow "its body".
        problem: String,
        /// The start of its body.
        body: String,
    },
    /// TLS was refused, by either side.
    Tls {
        /// Why, in words.
        error: String,
    },
    /// Too few lines of the log match.
    LogLines {
        /// How many do.
        seen: u32,
        /// How many should.
        wanted: u32,
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
            Self::Status {
                status, location, ..
            } => {
                write!(f, "answered {}", status_line(*status))?;
                match location {
                    Some(location) => write!(f, ", to `{location}`; redirects are not followed"),
                    None => Ok(()),
                }
            }
            Self::WrongBody {
                status, problem, ..
            } => {
                write!(
                    f,
                    "answered {}, but its body {problem}",
                    status_line(*status)
                )
            }
            Self::Tls { error } => write!(f, "TLS failed: {error}"),
            Self::LogLines { seen, wanted: 1 } if *seen == 0 => f.write_str("no such line yet"),
            Self::LogLines { seen, wanted } => write!(f, "{seen} such lines of {wanted}"),
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

impl Outcome {
    /// Its class, one word that stays as it is: what receipts count by.
    pub fn class(&self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Refused => "refused",
            Self::Closed { .. } => "reset",
            Self::NotConnected | Self::NoAnswer | Self::NotFinished { .. } => "timeout",
            Self::Tls { .. } => "tls",
            Self::Status { .. } => "http_status",
            Self::WrongBody { .. } => "wrong_body",
            Self::NotHttp { .. } => "not_http",
            Self::ExitCode { .. } => "exit_code",
            Self::Unexpected { .. } => "wrong_output",
            Self::LogLines { .. } => "log",
            Self::NotRun { .. } => "not_run",
        }
    }

    /// Whether the time of the attempt was over before there was an answer.
    pub(crate) fn is_timeout(&self) -> bool {
        self.class() == "timeout"
    }

    /// The class as a person says it, with the number that matters: `refused`, `HTTP 503`.
    pub(crate) fn in_short(&self) -> String {
        match self {
            Self::Passed => "passed".into(),
            Self::Refused => "refused".into(),
            Self::Closed { .. } => "closed without an answer".into(),
            Self::NotConnected => "no connection in time".into(),
            Self::NoAnswer => "no answer in time".into(),
            Self::NotFinished { .. } => "not finished in time".into(),
            Self::Tls { .. } => "TLS failed".into(),
            Self::Status { status, .. } => format!("HTTP {status}"),
            Self::WrongBody { .. } => "wrong body".into(),
            Self::NotHttp { .. } => "not HTTP".into(),
            Self::ExitCode {
                status: ExitStatus::Code(code),
                ..
            } => format!("exit code {code}"),
            Self::ExitCode {
                status: ExitStatus::Signal(signal),
                ..
            } => format!("ended by {}", crate::signal::describe(*signal)),
            Self::Unexpected { .. } => "wrong output".into(),
            Self::LogLines { .. } => "no such line".into(),
            Self::NotRun { .. } => "not run".into(),
        }
    }
}

/// `503 Service Unavailable`, or the number alone where nobody has named it.
fn status_line(status: u16) -> String {
    StatusCode::from_u16(status).map_or_else(|_| status.to_string(), |code| code.to_string())
}
