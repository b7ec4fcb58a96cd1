//! One attempt of a probe, and what came of it.

mod exec;
mod history;
mod http;
mod other_path;
mod outcome;
mod tls;

use std::time::Duration;

use smokegate_sandbox::{ExecSpec, Sandbox};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::log_watch::LogWatch;
use crate::plan::Probe;

pub(crate) use exec::exec;
pub use history::history;
pub(crate) use other_path::other_path;
pub use outcome::{Observation, Outcome};

/// Asks once, for at most `timeout`. `log` has seen every line of the container.
pub(crate) async fn ask(
    probe: &Probe,
    sandbox: &Sandbox,
    container: &str,
    log: &LogWatch,
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
        Probe::Http(http) => match connect(sandbox, container, http.port, deadline).await {
            Ok(stream) => http::ask(stream, http, container, deadline).await,
            Err(outcome) => outcome,
        },
        Probe::Tcp { port } => match connect(sandbox, container, *port, deadline).await {
            Ok(_) => Outcome::Passed,
            Err(outcome) => outcome,
        },
        Probe::Exec { args, expect } => command(args, expect.as_deref()).await,
        Probe::Log { pattern, count } => {
            match timeout_at(deadline, log.wait_for(pattern, *count)).await {
                Ok(()) => Outcome::Passed,
                Err(_) => Outcome::LogLines {
                    seen: log.count(pattern),
                    wanted: *count,
                },
            }
        }
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
