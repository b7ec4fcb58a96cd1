//! One HTTP attempt over a connection that is there.

use std::convert::Infallible;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, HeaderName, HeaderValue, LOCATION, USER_AGENT,
};
use hyper::http::request::Builder;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::{Outcome, tls};
use crate::http_probe::{HttpProbe, Scheme};

/// The most of an answer's body that is kept as evidence.
const MAX_EVIDENCE: usize = 2 * 1024;
/// The most of an answer's body that is read where the probe looks at it.
const MAX_BODY: usize = 1024 * 1024;
/// Time in which the rest of a good answer is read: a server whose client hangs up in the middle of one may take it
/// for a fault, or die of SIGPIPE.
const REST_OF_ANSWER: Duration = Duration::from_millis(50);

/// Asks over `stream`, which leads to `container`, until `deadline`.
pub(super) async fn ask(
    stream: TcpStream,
    probe: &HttpProbe,
    container: &str,
    deadline: Instant,
) -> Outcome {
    let address = match stream.peer_addr() {
        Ok(address) => address,
        Err(error) => {
            return Outcome::Closed {
                error: error.to_string(),
            };
        }
    };
    let insecure = match probe.scheme {
        Scheme::Http => return exchange(stream, &address.to_string(), probe, deadline).await,
        Scheme::Https => false,
        Scheme::HttpsInsecure => true,
    };
    // A certificate names a host, not an address: the one that the request is for, else the container's own.
    let written = probe.headers.iter().find(|(name, _)| HOST == name.as_str());
    let host = written.map_or(container, |(_, host)| without_port(host));
    let handshake = tls::connect(stream, host, insecure);
    match timeout_at(deadline, handshake).await {
        Ok(Ok(stream)) => {
            let authority = format!("{host}:{}", probe.port);
            exchange(stream, &authority, probe, deadline).await
        }
        Ok(Err(outcome)) => outcome,
        Err(_) => Outcome::NoAnswer,
    }
}

/// The host of a `Host` header.
fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    }
}

fn request(host: &str, probe: &HttpProbe) -> Result<Request<Empty<Bytes>>, hyper::http::Error> {
    let agent = concat!("smokegate/", env!("CARGO_PKG_VERSION"));
    let mut request: Builder = Request::builder()
        .method(probe.method.as_str())
        .uri(probe.path.as_str());
    let own = [
        (HOST, host),
        (USER_AGENT, agent),
        (ACCEPT, "*/*"),
        (CONNECTION, "close"),
    ];
    let is_written = |name: &HeaderName| {
        probe
            .headers
            .iter()
            .any(|(written, _)| name == written.as_str())
    };
    for (name, value) in own {
        if !is_written(&name) {
            request = request.header(name, value);
        }
    }
    // A server may answer 411 to a method that usually has a body and says nothing of it (RFC 9110, 8.6).
    if matches!(probe.method.as_str(), "POST" | "PUT" | "PATCH") && !is_written(&CONTENT_LENGTH) {
        request = request.header(CONTENT_LENGTH, "0");
    }
    for (name, value) in &probe.headers {
        let name = HeaderName::from_bytes(name.as_bytes())?;
        request = request.header(name, HeaderValue::from_bytes(value.as_bytes())?);
    }
    request.body(Empty::new())
}

/// Sends the request and decides on the answer.
async fn exchange<S>(stream: S, host: &str, probe: &HttpProbe, deadline: Instant) -> Outcome
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = match request(host, probe) {
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
            Ok(Ok(response)) => judge(response, probe, deadline).await,
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

/// The status line decides; the body too where the probe looks at it, else it is evidence.
async fn judge(response: Response<Incoming>, probe: &HttpProbe, deadline: Instant) -> Outcome {
    let status = response.status().as_u16();
    let location = match response.status().is_redirection() {
        true => response.headers().get(LOCATION),
        false => None,
    };
    let location = location.map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
    let mut body = response.into_body();
    if !probe.accepts(status) {
        let (bytes, _) = read(&mut body, MAX_EVIDENCE, deadline).await;
        return Outcome::Status {
            status,
            location,
            body: evidence(&bytes),
        };
    }
    if probe.body.is_empty() {
        let rest = async { while let Some(Ok(_)) = body.frame().await {} };
        let _ = tokio::time::timeout(REST_OF_ANSWER, rest).await;
        return Outcome::Passed;
    }
    let (bytes, end) = read(&mut body, MAX_BODY, deadline).await;
    let problem = match end {
        End::Whole => probe.wrong_body(&String::from_utf8_lossy(&bytes)),
        End::Full => Some(format!(
            "is longer than the {MAX_BODY} bytes that are looked at"
        )),
        End::Late => Some(format!("did not end in time ({} bytes came)", bytes.len())),
        End::Broken(error) => Some(format!("broke off after {} bytes ({error})", bytes.len())),
    };
    match problem {
        None => Outcome::Passed,
        Some(problem) => Outcome::WrongBody {
            status,
            problem,
            body: evidence(&bytes),
        },
    }
}

/// How the reading of a body ended.
enum End {
    Whole,
    /// There is more than was wanted.
    Full,
    Late,
    Broken(String),
}

/// A body's first `limit` bytes; one that breaks off or never ends is evidence all the same.
async fn read(body: &mut Incoming, limit: usize, deadline: Instant) -> (Vec<u8>, End) {
    let mut bytes = Vec::new();
    let end = loop {
        match timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => bytes.extend(frame.data_ref().into_iter().flatten()),
            Ok(Some(Err(error))) => break End::Broken(error.to_string()),
            Ok(None) => break End::Whole,
            Err(_) => break End::Late,
        }
        if bytes.len() > limit {
            bytes.truncate(limit);
            break End::Full;
        }
    };
    (bytes, end)
}

fn evidence(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_EVIDENCE)]).into_owned()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

    use super::*;
    use crate::http_probe::BodyCheck;

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
        answer_to(server, &HttpProbe::get(8080, "/healthz")).await
    }

    async fn answer_to(server: Server, probe: &HttpProbe) -> Outcome {
        // Smaller than the answers, as a socket's buffer is.
        let (near, far) = tokio::io::duplex(4 * 1024);
        let serving = tokio::spawn(serve(server, far));
        let deadline = Instant::now() + Duration::from_secs(1);
        let asking = exchange(near, "127.0.0.1:8080", probe, deadline);
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
            Outcome::Status {
                status: 503, body, ..
            } => body,
            other => panic!("{other:?}"),
        };
        assert_eq!(
            body(Server::Sends(unwell, 100 * 1024)).await,
            "x".repeat(MAX_EVIDENCE)
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

    #[tokio::test]
    async fn a_body_that_is_looked_at_must_be_whole_and_right() {
        let probe = HttpProbe {
            body: vec![BodyCheck::Contains("onetwo".into())],
            ..HttpProbe::get(8080, "/healthz")
        };
        let ok = "HTTP/1.1 200 OK\r\n";
        assert_eq!(answer_to(Server::Chunks(ok), &probe).await, Outcome::Passed);
        for (server, words) in [
            (Server::Sends(ok, 10), "does not contain `onetwo`"),
            (Server::Sends(ok, MAX_BODY), "does not contain `onetwo`"),
            (
                Server::Sends(ok, MAX_BODY + 1),
                "is longer than the 1048576 bytes",
            ),
            (Server::Endless(ok), "did not end in time"),
            (
                Server::Says("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nonetwo"),
                "broke off after 6 bytes",
            ),
        ] {
            match answer_to(server, &probe).await {
                Outcome::WrongBody {
                    status: 200,
                    problem,
                    body,
                } => {
                    assert!(problem.starts_with(words), "{problem}");
                    assert!(body.len() <= MAX_EVIDENCE);
                }
                other => panic!("{words}: {other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_redirect_is_not_followed_and_says_where_it_leads() {
        let redirect = "HTTP/1.1 301 Moved\r\nLocation: /login?next=1\r\nContent-Length: 0\r\n\r\n";
        let got = outcome(Server::Says(redirect)).await;
        assert_eq!(
            got.to_string(),
            "answered 301 Moved Permanently, to `/login?next=1`; redirects are not followed"
        );
        let wanted = HttpProbe {
            status: vec![200..=200, 300..=399],
            ..HttpProbe::get(8080, "/healthz")
        };
        assert_eq!(
            answer_to(Server::Says(redirect), &wanted).await,
            Outcome::Passed
        );
    }

    #[tokio::test]
    async fn method_and_headers_are_sent_and_replace_our_own() {
        let probe = HttpProbe {
            method: "POST".into(),
            headers: vec![
                ("host".into(), "shop.example".into()),
                ("X-Probe".into(), "grüße".into()),
            ],
            ..HttpProbe::get(8080, "/login?a=b")
        };
        let (near, mut far) = tokio::io::duplex(4 * 1024);
        let deadline = Instant::now() + Duration::from_secs(1);
        let serving = tokio::spawn(async move {
            let mut request = vec![0; 1024];
            let length = far.read(&mut request).await.unwrap();
            let _ = far
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
                .await;
            request.truncate(length);
            String::from_utf8_lossy(&request).into_owned()
        });
        let got = exchange(near, "10.0.0.2:8080", &probe, deadline).await;
        assert_eq!(got, Outcome::Passed);
        let request = serving.await.unwrap();
        assert!(
            request.starts_with("POST /login?a=b HTTP/1.1\r\n"),
            "{request}"
        );
        let headers = request.to_lowercase();
        assert!(headers.contains("\r\nhost: shop.example\r\n"), "{request}");
        assert!(headers.contains("\r\nx-probe: grüße\r\n"), "{request}");
        assert!(headers.contains("\r\ncontent-length: 0\r\n"), "{request}");
        assert!(!request.contains("10.0.0.2"), "{request}");
    }

    #[test]
    fn the_name_in_a_host_header_goes_without_its_port() {
        for (header, name) in [
            ("shop.example", "shop.example"),
            ("shop.example:8443", "shop.example"),
            ("[::1]:8443", "[::1]"),
        ] {
            assert_eq!(without_port(header), name);
        }
    }
}
