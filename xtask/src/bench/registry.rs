//! A registry for one push: Debian's `docker-registry` on a free port, empty, so that nobody finds blobs there.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;

const START: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub(crate) struct Registry {
    child: Child,
    port: u16,
}

impl Registry {
    /// Starts one that keeps everything in `dir`, which is made.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let port = free_port()?;
        let config = dir.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\n\
             storage: {{filesystem: {{rootdirectory: '{}/data'}}}}\n\
             http: {{addr: '127.0.0.1:{port}'}}\n",
            dir.display()
        );
        fs::write(&config, text)?;
        let log = File::create(dir.join("log"))?;
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("starting docker-registry: {error}"))?;
        let registry = Self { child, port };
        wait_until_answered(port, "/v2/", START)?;
        Ok(registry)
    }

    /// `127.0.0.1:PORT`, the first part of a reference.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// A port of 127.0.0.1 that nobody listened on a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    Ok(free_ports(1)?[0])
}

/// Several, all different.
pub(crate) fn free_ports(count: usize) -> Result<Vec<u16>> {
    let bind = |_| TcpListener::bind(("127.0.0.1", 0));
    let listeners: Vec<TcpListener> = (0..count).map(bind).collect::<io::Result<_>>()?;
    let ports = listeners.iter().map(|one| Ok(one.local_addr()?.port()));
    ports.collect()
}

/// Asks for `path` every 10 ms until the answer is 200.
pub(crate) fn wait_until_answered(port: u16, path: &str, limit: Duration) -> Result {
    let end = Instant::now() + limit;
    loop {
        if answers(port, path).unwrap_or(false) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("nothing answered 200 for {path} on port {port}").into());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn answers(port: u16, path: &str) -> Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    Ok(status.ends_with(b" 200"))
}
