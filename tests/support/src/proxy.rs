//! Proxies that bring every connection to one place, whatever was asked for.

mod http;
mod socks;

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// How a client tells a proxy where it wants to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyKind {
    /// SOCKS5 (RFC 1928), with passwords after RFC 1929.
    Socks,
    /// HTTP: `CONNECT` and requests for whole URLs (RFC 9110 §9.3.6, RFC 9112 §3.2.2), with Basic credentials.
    Http,
}

/// Serves until dropped.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    refused: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
}

/// What every connection to a proxy is served with.
struct Manners {
    to: SocketAddr,
    /// The name and password that are asked for.
    login: Option<(String, String)>,
    asked: Arc<Mutex<Vec<String>>>,
    refused: Arc<AtomicUsize>,
}

impl Proxy {
    /// Starts one that connects whoever asks to `to`, whatever they ask for; with `login`, a name and a password,
    /// only those who know it.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub fn start(kind: ProxyKind, to: SocketAddr, login: Option<(&str, &str)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port of loopback");
        let address = listener.local_addr().expect("it was bound");
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let refused: Arc<AtomicUsize> = Arc::default();
        let ended: Arc<AtomicBool> = Arc::default();
        let over = Arc::clone(&ended);
        let manners = Arc::new(Manners {
            to,
            login: login.map(|(name, password)| (name.to_owned(), password.to_owned())),
            asked: Arc::clone(&asked),
            refused: Arc::clone(&refused),
        });
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let manners = Arc::clone(&manners);
                // A connection that fails is the client's to notice.
                thread::spawn(move || match kind {
                    ProxyKind::Socks => socks::serve(stream, &manners),
                    ProxyKind::Http => http::serve(stream, &manners),
                });
            }
        });
        Self {
            address,
            asked,
            refused,
            ended,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// How often somebody came without the right name and password.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    /// `HOST:PORT` of each connection that was granted, names as they were sent.
    ///
    /// # Panics
    /// When a thread of it has.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic while held").clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // The thread that accepts is woken, to see it.
        _ = TcpStream::connect(self.address);
    }
}

impl Manners {
    /// Notes that somebody does not know the password.
    fn refuse(&self) {
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes what was asked for, and connects to where everything goes.
    fn connect(&self, asked: String) -> io::Result<TcpStream> {
        self.asked.lock().expect("no panic while held").push(asked);
        TcpStream::connect(self.to)
    }
}

/// Copies both ways until both ends have ended.
fn relay(client: TcpStream, upstream: TcpStream) -> io::Result<()> {
    let back = (upstream.try_clone()?, client.try_clone()?);
    let answers = thread::spawn(move || forward(back.0, back.1));
    forward(client, upstream);
    _ = answers.join();
    Ok(())
}

/// Copies until one end has ended, and tells the other.
fn forward(mut from: TcpStream, mut to: TcpStream) {
    _ = io::copy(&mut from, &mut to);
    _ = to.shutdown(Shutdown::Write);
}
