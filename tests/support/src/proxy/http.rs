//! An HTTP proxy as a server speaks it: tunnels, and single requests that name the whole URL.

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::{Manners, relay};

/// Serves one connection. Of several requests on it only the first is looked at; what follows goes to the same place.
pub(super) fn serve(stream: TcpStream, manners: &Manners) -> io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let sent_with = reader.buffer().to_owned();
    let mut stream = reader.into_inner();
    let mut words = head.split(' ');
    let (Some(method), Some(target)) = (words.next(), words.next()) else {
        return Ok(());
    };
    if !is_known(&head, manners) {
        manners.refuse();
        // The end of the answer is that of the connection: a body of the request is not read.
        return stream.write_all(
            b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm=\"proxy\"\r\n\
              Content-Length: 0\r\nConnection: close\r\n\r\n",
        );
    }
    let authority = target.strip_prefix("http://").unwrap_or(target);
    let authority = authority.split('/').next().unwrap_or_default();
    let mut upstream = manners.connect(authority.to_owned())?;
    if method == "CONNECT" {
        stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n")?;
    } else {
        upstream.write_all(head.as_bytes())?;
    }
    upstream.write_all(&sent_with)?;
    relay(stream, upstream)
}

fn is_known(head: &str, manners: &Manners) -> bool {
    let Some((name, password)) = &manners.login else {
        return true;
    };
    let wanted = format!(
        "Basic {}",
        BASE64_STANDARD.encode(format!("{name}:{password}"))
    );
    head.lines().any(|line| {
        let field = line.split_once(": ");
        field.is_some_and(|(field, value)| {
            field.eq_ignore_ascii_case("proxy-authorization") && value == wanted
        })
    })
}
