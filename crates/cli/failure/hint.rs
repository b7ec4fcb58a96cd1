//! What to try after a variant did not pass.

use smokegate_gate::{
    Decision, HttpProbe, Inconclusive, Outcome, Probe, Reason, Scheme, ServiceProblem,
    VariantVerdict,
};
use smokegate_sandbox::{ExitStatus as ProcessStatus, Listener, StartError};

// The same numbers on every Linux (asm-generic/errno-base.h).
const ENOENT: i32 = 2;
const ENOEXEC: i32 = 8;
const EACCES: i32 = 13;

pub(super) fn hint_of(verdict: &VariantVerdict) -> Option<String> {
    match &verdict.decision {
        Decision::Passed => None,
        Decision::Failed(reason) => Some(match reason {
            Reason::NotStarted(StartError::Exec {
                errno: ENOENT,
                file_exists: true,
                ..
            }) => {
                "install it in the image; a script with Windows line ends asks for an interpreter whose name ends in a carriage return".into()
            }
            Reason::NotStarted(StartError::Exec { errno: ENOEXEC, .. }) => {
                "build the image for this machine (docker buildx build --platform …), or begin the script with a `#!` line".into()
            }
            Reason::NotStarted(StartError::Exec {
                path: Some(_),
                errno: ENOENT,
                ..
            }) => {
                "name the program by its absolute path in ENTRYPOINT, or add its directory to ENV PATH".into()
            }
            Reason::NotStarted(StartError::Exec { errno: EACCES, .. }) => {
                "RUN chmod +x it in the Dockerfile, or COPY --chmod=0755".into()
            }
            Reason::NotStarted(StartError::Exec { .. }) => {
                "see what the image holds: smokegate inspect IMAGE; the path is taken from ENTRYPOINT, or CMD where there is none".into()
            }
            Reason::NotStarted(StartError::NoSuchUser { .. }) => {
                "add the user in the Dockerfile (RUN useradd …), or give USER as a number".into()
            }
            Reason::NotStarted(StartError::Image(_)) => {
                "name a directory there in the Dockerfile, or make the image's file one".into()
            }
            Reason::NotStarted(_) => return None,
            Reason::OutOfMemory(_) => {
                "raise `mem_limit`, or tell the app of it: many runtimes size themselves by the machine (-XX:MaxRAMPercentage, --max-old-space-size, GOMEMLIMIT)".into()
            }
            Reason::Exited(exit) if exit.status == ProcessStatus::Code(0) => {
                "keep it in the foreground (nginx -g 'daemon off;', redis-server --daemonize no), or say `expect: exit_code: 0` if it is no service".into()
            }
            Reason::Exited(_) if verdict.exit_hint().is_some() => {
                verdict.exit_hint().unwrap_or_default().into()
            }
            Reason::Exited(_) if verdict.log.total == 0 => {
                "it ended without a word: see what it runs with smokegate inspect IMAGE, and give it what it misses with --env".into()
            }
            Reason::Exited(_) => {
                "the last lines above are the program's own; run it again with -v, or with --env for what it misses".into()
            }
            Reason::NotHealthy { other_path: Some(path), .. } => {
                format!("if that is its health check, ask it: `path: {path}` in the gate file, or --http {path}")
            }
            Reason::NotHealthy { probe, last, listening, .. } => {
                not_healthy_hint(&verdict.probes[*probe].probe, last.as_ref(), listening)
            }
            Reason::NotStable { .. } => {
                "it was well at first: its log from then on says what it ran into; `stays_healthy` is how long it must stay so".into()
            }
            Reason::Logged(_) => {
                "correct what it logged, or take the pattern out of `expect: logs_never` if the line is harmless".into()
            }
            Reason::Completed { exit, wanted } if exit.status == ProcessStatus::Code(i32::from(*wanted)) => {
                "with `exit_code`, every probe must pass before the program ends; leave out those that cannot".into()
            }
            Reason::Completed { .. } => {
                "its log says why it ended so; `expect: exit_code` is the code that passes".into()
            }
            Reason::StillRunning(_) => {
                "if it only needs longer, raise --within; a service is judged by probes, without `expect: exit_code`".into()
            }
            Reason::NotStopped { waited: None, .. } => {
                "handle the signal, start the program by `exec` in its script, or put an init such as tini first in ENTRYPOINT".into()
            }
            Reason::NotStopped { .. } => {
                "finish what it does on the signal sooner, name the signal it listens to with STOPSIGNAL, or raise `stops_within`".into()
            }
        }),
        Decision::Inconclusive(Inconclusive::Service { problem, .. }) => {
            Some(service_hint(problem).into())
        }
        // Below, by what `doctor` says of them.
        Decision::Inconclusive(Inconclusive::Host(_) | Inconclusive::IdMap { .. }) => None,
        Decision::Inconclusive(Inconclusive::NotGiven { hint, .. }) => Some(hint.clone()),
        Decision::Inconclusive(Inconclusive::Cpu { .. }) => Some(
            "run it on a machine like those of production, or build it for an older CPU (-march=x86-64-v2)".into(),
        ),
        Decision::Inconclusive(Inconclusive::Stopped { .. }) => None,
        Decision::Inconclusive(smokegate_gate::Inconclusive::Port { .. }) => Some(
            "free the port (ss -ltnp shows who has it), or publish 0:PORT to take any free one".into(),
        ),
    }
}

/// Whether what the app reached for can be why it failed: it ended, it opened no port, it says it is not well.
pub(super) fn leaves_the_cause_open(decision: &Decision) -> bool {
    let Decision::Failed(reason) = decision else {
        return false;
    };
    match reason {
        Reason::Exited(_) => true,
        Reason::NotHealthy {
            last, listening, ..
        } => match last {
            Some(Outcome::Refused) => listening.is_empty(),
            Some(Outcome::Status { status, .. }) => *status >= 500,
            Some(Outcome::ExitCode { .. } | Outcome::NoAnswer) => true,
            _ => false,
        },
        _ => false,
    }
}

fn service_hint(problem: &ServiceProblem) -> &'static str {
    match problem {
        ServiceProblem::NotReady { .. } => {
            "the image under test was not judged; if the service only needs longer, raise its `within`"
        }
        ServiceProblem::PostReady { .. } => {
            "the image under test was not judged; correct the service's post_ready command"
        }
        ServiceProblem::OutOfMemory(_) => {
            "the image under test was not judged; raise the service's `mem_limit`"
        }
        ServiceProblem::NotStarted(_) | ServiceProblem::Exited(_) => {
            "the image under test was not judged; correct the service's image, command or environment"
        }
    }
}

fn not_healthy_hint(probe: &Probe, last: Option<&Outcome>, listening: &[Listener]) -> String {
    let port = match probe {
        Probe::Http(http) => http.port,
        Probe::Tcp { port } => *port,
        Probe::Log { .. } => {
            return "a line is looked at alone, without its line end; if it only comes later, raise `within`".into();
        }
        Probe::Exec { .. } => {
            return "run it in the image by hand; if it only needs longer, raise `within`".into();
        }
        Probe::Healthcheck { .. } => {
            return "the image's HEALTHCHECK decides; --http PATH asks over HTTP instead".into();
        }
    };
    match last {
        Some(Outcome::Refused) if listening.iter().any(|l| l.address.port() == port) => {
            "most servers take the address from a flag or variable, such as --host 0.0.0.0 or HOST=0.0.0.0".into()
        }
        Some(Outcome::Refused) => match listening.first() {
            Some(other) => format!(
                "if {0} is the port meant, name it: `port: {0}` in the gate file's probe, or --publish 18080:{0}; else what serves {port} did not start, and the log says why",
                other.address.port()
            ),
            None => "if it only needs longer to start, raise --within".into(),
        },
        Some(Outcome::Status { location: Some(_), .. }) => {
            "probe the path it leads to, or let the probe's `status` accept the redirect".into()
        }
        Some(Outcome::Status { status: 500.., .. }) => {
            "the app runs and says itself that it is not well: its log and answer above say why; give it what it misses with --env".into()
        }
        Some(Outcome::Status { .. }) => {
            "if the app answers on another path, name it with --http PATH; only 200 passes".into()
        }
        Some(Outcome::WrongBody { .. }) => {
            "its answer is above; the probe's `body` says what it must hold".into()
        }
        Some(Outcome::Tls { .. }) => tls_hint(probe),
        Some(Outcome::NotHttp { .. }) => {
            "if the app speaks HTTP on another port, name it with --publish 18080:PORT".into()
        }
        Some(Outcome::Passed) => "it passes now and then only: its log says what comes between".into(),
        _ => "if it only needs longer, raise --within".into(),
    }
}

fn tls_hint(probe: &Probe) -> String {
    let host = match probe {
        Probe::Http(http) => host_header(http),
        _ => None,
    };
    let name = match host {
        Some(host) => format!("`{host}`, its `Host` header"),
        None => "the container's name, or that of a `Host` header".to_owned(),
    };
    match probe {
        Probe::Http(http) if http.scheme == Scheme::Https => format!(
            "the certificate must be for {name}, from an authority of this host (SSL_CERT_FILE names others); `insecure: true` takes any"
        ),
        _ => "if it speaks plain HTTP there, leave `scheme` out".to_owned(),
    }
}

fn host_header(http: &HttpProbe) -> Option<&str> {
    let mut headers = http.headers.iter();
    let host = headers.find(|(name, _)| name.eq_ignore_ascii_case("host"));
    host.map(|(_, host)| host.as_str())
}
