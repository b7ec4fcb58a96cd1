//! Whether an app that refuses the path it is asked for answers on another that health checks commonly use.

use std::time::Duration;

use smokegate_sandbox::Sandbox;
use tokio::time::Instant;

use super::{Outcome, connect, http};
use crate::http_probe::HttpProbe;
use crate::plan::Probe;

/// Where web frameworks and platforms put it: Kubernetes, Spring Boot's actuator, Rails, and by custom.
const COMMON: [&str; 12] = [
    "/health",
    "/healthz",
    "/livez",
    "/readyz",
    "/ready",
    "/live",
    "/status",
    "/ping",
    "/up",
    "/api/health",
    "/v1/health",
    "/actuator/health",
];
/// For all of them together: the run has failed already, and this is only a hint.
const LIMIT: Duration = Duration::from_secs(2);

/// The first common path that answers as the probe wants, where the last answer was that there is no such path.
pub(crate) async fn other_path(
    probe: &Probe,
    last: Option<&Outcome>,
    sandbox: &Sandbox,
    container: &str,
) -> Option<&'static str> {
    let (Probe::Http(asked), Some(Outcome::Status { status: 404, .. })) = (probe, last) else {
        return None;
    };
    let deadline = Instant::now() + LIMIT;
    for path in COMMON {
        if path == asked.path {
            continue;
        }
        let other = HttpProbe {
            path: path.to_owned(),
            ..(**asked).clone()
        };
        let stream = connect(sandbox, container, other.port, deadline)
            .await
            .ok()?;
        if http::ask(stream, &other, container, deadline).await == Outcome::Passed {
            return Some(path);
        }
    }
    None
}
