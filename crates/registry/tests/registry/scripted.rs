//! A registry of a few lines on loopback, whose answers a test can replace.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use smokegate_image::Digest;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Reply {
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    },
    /// The connection is closed without an answer.
    Closed,
    /// There is no answer, and the connection stays open.
    Silent,
}

pub(crate) fn answer(status: u16, body: impl Into<Vec<u8>>) -> Reply {
    Reply::Answer {
        status,
        headers: Vec::new(),
        body: body.into(),
    }
}

pub(crate) fn answer_with(status: u16, name: &'static str, value: impl Into<String>) -> Reply {
    Reply::Answer {
        status,
        headers: vec![(name, value.into())],
        body: Vec::new(),
    }
}

type Interceptor = Box<dyn FnMut(&Request, &mut Store) -> Option<Reply> + Send>;

#[derive(Default)]
pub(crate) struct Store {
    pub(crate) blobs: HashMap<String, Vec<u8>>,
    pub(crate) manifests: HashMap<String, Vec<u8>>,
    pub(crate) requests: Vec<Request>,
}

impl Store {
    pub(crate) fn count(&self, method: &str, part: &str) -> usize {
        let matching = |request: &&Request| request.method == method && request.path.contains(part);
        self.requests.iter().filter(matching).count()
    }
}

/// Serves until dropped. Repositories are not told apart.
pub(crate) struct Scripted {
    pub(crate) address: String,
    pub(crate) store: Arc<Mutex<Store>>,
    task: tokio::task::JoinHandle<()>,
}

impl Scripted {
    /// Starts it; `intercept` answers what the registry itself should not.
    pub(crate) async fn start(
        intercept: impl FnMut(&Request, &mut Store) -> Option<Reply> + Send + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let store: Arc<Mutex<Store>> = Arc::default();
        let intercept: Arc<Mutex<Interceptor>> = Arc::new(Mutex::new(Box::new(intercept)));
        let served = Arc::clone(&store);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&served), Arc::clone(&intercept)));
            }
        });
        Self {
            address,
            store,
            task,
        }
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/team/app:1", self.address)
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(stream: TcpStream, store: Arc<Mutex<Store>>, intercept: Arc<Mutex<Interceptor>>) {
    let mut stream = BufReader::new(stream);
    while let Some(request) = read(&mut stream).await {
        let reply = {
            let mut store = store.lock().unwrap();
            store.requests.push(request.clone());
            let intercepted = (intercept.lock().unwrap())(&request, &mut store);
            intercepted.unwrap_or_else(|| handle(&request, &mut store))
        };
        let (status, headers, body) = match reply {
            Reply::Answer {
                status,
                headers,
                body,
            } => (status, headers, body),
            Reply::Closed => return,
            Reply::Silent => std::future::pending().await,
        };
        let mut head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += "\r\n";
        if stream.get_mut().write_all(head.as_bytes()).await.is_err() {
            return;
        }
        if request.method != "HEAD" && stream.get_mut().write_all(&body).await.is_err() {
            return;
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let mut words = line.split_whitespace();
    let mut request = Request {
        method: words.next()?.to_owned(),
        path: words.next()?.to_owned(),
        ..Request::default()
    };
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim().split_once(':') else {
            break;
        };
        request
            .headers
            .insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length: usize = request.header("content-length").parse().unwrap_or(0);
    request.body = vec![0; length];
    stream.read_exact(&mut request.body).await.ok()?;
    Some(request)
}

/// What a well-behaved registry answers. As ECR, it sends no `Docker-Content-Digest`.
pub(crate) fn handle(request: &Request, store: &mut Store) -> Reply {
    let path = request.path.as_str();
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let last = path.rsplit('/').next().unwrap().to_owned();
    match request.method.as_str() {
        "HEAD" | "GET" if path.contains("/blobs/") => match store.blobs.get(&last) {
            Some(blob) => answer(200, blob.clone()),
            None => answer(404, ""),
        },
        "POST" => answer_with(202, "Location", format!("{path}1?state=x")),
        "PUT" if path.contains("/blobs/uploads/") => {
            let digest = query.rsplit("digest=").next().unwrap().replace("%3A", ":");
            assert!(
                query.starts_with("state=x&"),
                "the query of the Location is lost: {query}"
            );
            if Digest::sha256(&request.body).to_string() != digest {
                return answer(400, r#"{"errors":[{"code":"DIGEST_INVALID"}]}"#);
            }
            store.blobs.insert(digest, request.body.clone());
            answer(201, "")
        }
        "PATCH" => answer(404, r#"{"errors":[{"code":"BLOB_UPLOAD_UNKNOWN"}]}"#),
        "DELETE" => answer(204, ""),
        "PUT" => {
            let digest = Digest::sha256(&request.body).to_string();
            store.manifests.insert(digest, request.body.clone());
            store.manifests.insert(last, request.body.clone());
            answer(201, "")
        }
        "GET" => match store.manifests.get(&last) {
            Some(manifest) => answer(200, manifest.clone()),
            None => answer(404, r#"{"errors":[{"code":"MANIFEST_UNKNOWN"}]}"#),
        },
        other => panic!("unexpected {other} {path}"),
    }
}
