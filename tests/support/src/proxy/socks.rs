//! SOCKS5 (RFC 1928) as a server speaks it.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpStream};

use super::{Manners, relay};

const VERSION: u8 = 5;
const NO_PASSWORD: u8 = 0;
const PASSWORD: u8 = 2;
const NONE_ACCEPTABLE: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Serves one connection.
pub(super) fn serve(mut stream: TcpStream, manners: &Manners) -> io::Result<()> {
    let [_, count] = bytes(&mut stream)?;
    let methods = sized(&mut stream, count)?;
    let method = match manners.login {
        Some(_) => PASSWORD,
        None => NO_PASSWORD,
    };
    if !methods.contains(&method) {
        return stream.write_all(&[VERSION, NONE_ACCEPTABLE]);
    }
    stream.write_all(&[VERSION, method])?;
    if let Some((name, password)) = &manners.login {
        let [version, length] = bytes(&mut stream)?;
        let given_name = sized(&mut stream, length)?;
        let [length] = bytes(&mut stream)?;
        let given_password = sized(&mut stream, length)?;
        let right = given_name == name.as_bytes() && given_password == password.as_bytes();
        stream.write_all(&[version, u8::from(!right)])?;
        if !right {
            manners.refuse();
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
    let upstream = manners.connect(format!("{host}:{port}"))?;
    // Succeeded; the address that it is bound to interests nobody.
    stream.write_all(&[VERSION, 0, 0, IPV4, 0, 0, 0, 0, 0, 0])?;
    relay(stream, upstream)
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
