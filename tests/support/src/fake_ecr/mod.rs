//! A fake Amazon ECR on loopback: the registry with every manner that was reported of it, its JSON API, STS and
//! the metadata services, with faults where a test wants them.
//!
//! Sources of the manners are in `docs/decisions/0016-ecr-credentials.md` and `0004-registry-transport.md`.

mod api;
mod faults;
mod http;
mod registry;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

pub use faults::{Fault, FaultSchedule};
pub use http::{FakeRequest, FakeResponse};

use http::read_request;

/// Which of ECR's manners the fake has. The default is a private registry as it is.
#[derive(Clone, Debug)]
pub struct EcrManners {
    /// ECR Public: Bearer tokens, HEAD of a blob is 401, an ended token is 400.
    pub public: bool,
    /// PATCH answers 201, not 202.
    pub patch_is_201: bool,
    /// The `Range` of an upload stays at the first chunk's.
    pub range_is_stale: bool,
    /// The least that a part of an upload may have, the last excepted.
    pub smallest_part: usize,
    /// An ended token is said in plain text instead of JSON.
    pub plain_text_refusals: bool,
    /// A POST to a repository that does not exist ends the connection instead of answering 404.
    pub missing_repository_is_eof: bool,
    /// `BLOB_MOUNTING` is enabled for the account.
    pub mounts: bool,
    /// It has the referrers API.
    pub lists_referrers: bool,
    /// Manifests may have so many bytes.
    pub manifest_limit: usize,
    /// Blobs are answered with a redirect to another host.
    pub blobs_are_elsewhere: bool,
    /// Request bodies beyond this are refused with 413, as by a proxy in front.
    pub body_limit: Option<usize>,
    /// Life of a token in seconds, from when it is given; a negative one has ended on arrival, as moto's.
    pub token_life: i64,
    /// Any token will do: somebody else gave it.
    pub takes_any_token: bool,
    /// DELETE of a tag works over the registry's own API.
    pub deletes_tags: bool,
}

impl Default for EcrManners {
    fn default() -> Self {
        Self {
            public: false,
            patch_is_201: true,
            range_is_stale: true,
            smallest_part: 5 << 20,
            plain_text_refusals: false,
            missing_repository_is_eof: false,
            mounts: false,
            lists_referrers: true,
            manifest_limit: 4 << 20,
            blobs_are_elsewhere: false,
            body_limit: None,
            token_life: 12 * 3600,
            takes_any_token: false,
            deletes_tags: true,
        }
    }
}

/// One repository.
#[derive(Clone, Debug, Default)]
pub struct FakeRepository {
    /// Its tags can be set once only.
    pub immutable: bool,
    /// Whether it was asked to be scanned.
    pub scan_on_push: bool,
    /// Tags and the digests that they point to.
    pub tags: BTreeMap<String, String>,
    /// Media type and bytes by digest.
    pub manifests: BTreeMap<String, (String, Vec<u8>)>,
    /// Bytes by digest.
    pub blobs: BTreeMap<String, Vec<u8>>,
    uploads: BTreeMap<String, Upload>,
}

#[derive(Clone, Debug, Default)]
struct Upload {
    bytes: Vec<u8>,
    parts: Vec<usize>,
}

/// What the fake knows and has seen.
#[derive(Debug)]
pub struct EcrState {
    /// How it behaves; may be changed while it runs.
    pub manners: EcrManners,
    /// By name.
    pub repositories: BTreeMap<String, FakeRepository>,
    /// `METHOD PATH` of each request, in order.
    pub requests: Vec<String>,
    /// Who asked for a token: region and service of each signature's scope, access key id before them.
    pub token_requests: Vec<String>,
    /// Forms that STS got.
    pub sts_requests: Vec<String>,
    /// Manifests that were sent before what they refer to.
    pub premature: Vec<String>,
    /// Every secret that was given out.
    pub secrets: Vec<String>,
    /// Passwords that still work.
    tokens: Vec<String>,
    given: usize,
    uploads: usize,
}

impl EcrState {
    /// Makes every token that was given end.
    pub fn end_tokens(&mut self) {
        self.tokens.clear();
    }

    /// A repository that exists.
    ///
    /// # Panics
    /// When it does not.
    pub fn repository(&mut self, name: &str) -> &mut FakeRepository {
        let found = self.repositories.get_mut(name);
        found.unwrap_or_else(|| panic!("no repository `{name}`"))
    }

    /// How many requests began with `method` and contain `part`.
    pub fn count(&self, method: &str, part: &str) -> usize {
        let matching = |line: &&String| {
            let (of, path) = line.split_once(' ').unwrap_or_default();
            of == method && path.contains(part)
        };
        self.requests.iter().filter(matching).count()
    }
}

/// Serves until dropped.
#[derive(Debug)]
pub struct FakeEcr {
    address: SocketAddr,
    state: Arc<Mutex<EcrState>>,
    faults: Arc<Mutex<FaultSchedule>>,
    ended: Arc<AtomicBool>,
}

impl FakeEcr {
    /// The name that its private registry has in references.
    pub const HOST: &str = "123456789012.dkr.ecr.eu-west-1.amazonaws.com";

    /// Starts one without repositories.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub fn start(manners: EcrManners) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port of loopback");
        let address = listener.local_addr().expect("it was bound");
        let fake = Self {
            address,
            state: Arc::new(Mutex::new(EcrState {
                manners,
                repositories: BTreeMap::new(),
                requests: Vec::new(),
                token_requests: Vec::new(),
                sts_requests: Vec::new(),
                premature: Vec::new(),
                secrets: Vec::new(),
                tokens: Vec::new(),
                given: 0,
                uploads: 0,
            })),
            faults: Arc::default(),
            ended: Arc::default(),
        };
        let (state, faults) = (Arc::clone(&fake.state), Arc::clone(&fake.faults));
        let ended = Arc::clone(&fake.ended);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ended.load(Ordering::Relaxed) {
                    return;
                }
                let (state, faults) = (Arc::clone(&state), Arc::clone(&faults));
                let ended = Arc::clone(&ended);
                thread::spawn(move || serve(stream, &state, &faults, &ended));
            }
        });
        fake
    }

    /// Where it is: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it knows and has seen.
    ///
    /// # Panics
    /// When a thread of it has.
    pub fn state(&self) -> MutexGuard<'_, EcrState> {
        self.state.lock().expect("no panic while held")
    }

    /// Makes an empty repository.
    pub fn create(&self, name: &str) {
        let mut state = self.state();
        state
            .repositories
            .insert(name.to_owned(), FakeRepository::default());
    }

    /// Lets requests fail from now on.
    ///
    /// # Panics
    /// When a thread of it has.
    pub fn set_faults(&self, faults: FaultSchedule) {
        *self.faults.lock().expect("no panic while held") = faults;
    }

    /// The text of a `registries.toml` that leads its host here.
    pub fn registry_config(&self) -> String {
        format!(
            "[registry.\"{}\"]\nendpoint = \"{}\"\n",
            Self::HOST,
            self.url()
        )
    }

    /// The variables of an environment with static credentials, for which AWS is here.
    pub fn environment(&self) -> BTreeMap<String, String> {
        let url = self.url();
        [
            ("AWS_ACCESS_KEY_ID", "AKIDSTATIC"),
            ("AWS_SECRET_ACCESS_KEY", "static-secret-key"),
            ("AWS_ENDPOINT_URL", &url),
            ("AWS_EC2_METADATA_DISABLED", "true"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }
}

impl Drop for FakeEcr {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // The thread that accepts is woken, to see it.
        _ = TcpStream::connect(self.address);
    }
}

fn serve(
    mut stream: TcpStream,
    state: &Mutex<EcrState>,
    faults: &Mutex<FaultSchedule>,
    ended: &AtomicBool,
) {
    _ = stream.set_read_timeout(Some(Duration::from_secs(60)));
    _ = stream.set_nodelay(true);
    while !ended.load(Ordering::Relaxed) {
        let fault =
            |request: &FakeRequest| faults.lock().expect("no panic while held").next(request);
        let Some((request, fault)) = read_request(&mut stream, fault) else {
            return;
        };
        let response = {
            let mut state = state.lock().expect("no panic while held");
            state
                .requests
                .push(format!("{} {}", request.method, request.target));
            if fault == Some(Fault::Hold) {
                drop(state);
                return hold(&stream, ended);
            }
            let own = match &fault {
                Some(Fault::Status {
                    status,
                    retry_after,
                }) => Some(FakeResponse::busy(*status, *retry_after)),
                Some(Fault::Refuse(status)) => {
                    Some(FakeResponse::error(*status, "DENIED", "said the schedule"))
                }
                Some(Fault::EndTokens) => {
                    state.end_tokens();
                    None
                }
                _ => None,
            };
            match own {
                Some(response) => Some(response),
                None if matches!(fault, Some(Fault::Reset)) => None,
                None => answer(&mut state, &request),
            }
        };
        let Some(mut response) = response else { return };
        match fault {
            Some(Fault::LostAnswer) => return,
            Some(Fault::Stall(time)) => thread::sleep(time),
            Some(Fault::LyingDigest) => response.headers.push((
                "Docker-Content-Digest".to_owned(),
                format!("sha256:{}", "0".repeat(64)),
            )),
            _ => {}
        }
        let cut = matches!(fault, Some(Fault::Truncated));
        if response.write(&mut stream, &request.method, cut).is_err() || cut {
            return;
        }
    }
}

/// Keeps a connection open that is not answered, until either end has ended.
fn hold(mut stream: &TcpStream, ended: &AtomicBool) {
    _ = stream.set_read_timeout(Some(Duration::from_millis(50)));
    let waits = |error: &io::Error| error.kind() == io::ErrorKind::WouldBlock;
    while !ended.load(Ordering::Relaxed) && stream.read(&mut [0]).is_err_and(|e| waits(&e)) {}
}

fn answer(state: &mut EcrState, request: &FakeRequest) -> Option<FakeResponse> {
    if request.path().starts_with("/v2/") || request.path().starts_with("/token/") {
        registry::answer(state, request)
    } else {
        Some(api::answer(state, request))
    }
}
