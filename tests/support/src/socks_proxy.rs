//! A SOCKS5 proxy (RFC 1928, with passwords after RFC 1929) that brings every connection to one place.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

/// Serves until dropped.
#[derive(Debug)]
pub struct SocksProxy {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicBool>,
}

const VERSION: u8 = 5;
const NO_PASSWORD: u8 = 0;
const PASSWORD: u8 = 2;
const NONE_ACCEPTABLE: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

impl SocksProxy {
    /// Starts one that connects whoever asks to `to`, whatever they ask for; with `login`, a name and a password,
    /// only those who know it.
    ///
    /// # Panics
    /// When loopback has no free port.
    pub fn start(to: SocketAddr, login: Option<(&str, &str)>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port of loopback");
        let address = listener.local_addr().expect("it was bound");
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let ended: Arc<AtomicBool> = Arc::default();
        let login = login.map(|(name, password)| (name.to_owned(), password.to_owned()));
        let (seen, over) = (Arc::clone(&asked), Arc::clone(&ended));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if over.load(Ordering::Relaxed) {
                    return;
                }
                let (login, seen) = (login.clone(), Arc::clone(&seen));
                // A connection that fails is the client's to notice.
                thread::spawn(move || _ = serve(stream, to, login.as_ref(), &seen));
            }
        });
        Self {
            address,
            asked,
            ended,
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `HOST:PORT` of each connection that was asked for, names as they were sent.
    ///
    /// # Panics
    /// When a thread of it has.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no panic while held").clone()
    }
}

impl Drop for SocksProxy {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        // The thread that accepts is woken, to see it.
        _ = TcpStream::connect(self.address);
    }
}

fn serve(
    mut stream: TcpStream,
    to: SocketAddr,
    login: Option<&(String, String)>,
    asked: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let [_, count] = bytes(&mut stream)?;
    let methods = sized(&mut stream, count)?;
    let method = if login.is_some() {
        PASSWORD
    } else {
        NO_PASSWORD
    };
    if !methods.contains(&method) {
        return stream.write_all(&[VERSION, NONE_ACCEPTABLE]);
    }
    stream.write_all(&[VERSION, method])?;
    if let Some((name, password)) = login {
        let [version, length] = bytes(&mut stream)?;
        let given_name = sized(&mut stream, length)?;
        let [length] = bytes(&mut stream)?;
        let given_password = sized(&mut stream, length)?;
        let right = given_name == name.as_bytes() && given_password == password.as_bytes();
        stream.write_all(&[version, u8::from(!right)])?;
        if !right {
            return Ok(());
        }
    }
    let [_, command, _, kind] = bytes(&mut stream)?;
    let host = match kind {
        IPV4 => Ipv4Addr::from(bytes::<4>(&mut stream)?).to_string(),
        IPV6 => Ipv6Addr::from(bytes::<16>(&mut stream)?).to_string(),
        NAME => {
            let [length] = bytes(&mut stream)?;
            String::from_utf8_lossy(&sized(&mut stream, length)?).into_owned()
        }
        _ => return Ok(()),
    };
    let port = u16::from_be_bytes(bytes(&mut stream)?);
    if command != CONNECT {
        return Ok(());
    }
    asked
        .lock()
        .expect("no panic while held")
        .push(format!("{host}:{port}"));
    let upstream = TcpStream::connect(to)?;
    // Succeeded; the address that it is bound to interests nobody.
    stream.write_all(&[VERSION, 0, 0, IPV4, 0, 0, 0, 0, 0, 0])?;
    let back = (upstream.try_clone()?, stream.try_clone()?);
    let answers = thread::spawn(move || forward(back.0, back.1));
    forward(stream, upstream);
    _ = answers.join();
    Ok(())
}

/// Copies until one end has ended, and tells the other.
fn forward(mut from: TcpStream, mut to: TcpStream) {
    _ = io::copy(&mut from, &mut to);
    _ = to.shutdown(Shutdown::Write);
}

fn bytes<const N: usize>(stream: &mut TcpStream) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

fn sized(stream: &mut TcpStream, length: u8) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::from(length)];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}
