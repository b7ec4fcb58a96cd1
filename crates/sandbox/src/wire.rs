//! Frames between parent and helper: one JSON value a packet, with file descriptors beside it.
//!
//! The socket is SOCK_SEQPACKET, so a frame arrives whole or not at all, and the end of the peer is an
//! empty read. A frame too large for a packet travels in a memfd.

use std::io::{self, IoSlice, IoSliceMut, Read, Seek, SeekFrom, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Larger payloads go through a memfd: the default send buffer holds about 200 KiB.
const INLINE: usize = 48 * 1024;
/// The kernel passes at most 253 descriptors in one message (SCM_MAX_FD in net/scm.h).
const MAX_FDS: usize = 253;
/// How many descriptors a frame of any size can have beside it: a large one takes one for itself.
pub(crate) const MAX_FILES: usize = MAX_FDS - 1;

const PLAIN: u8 = 0;
const IN_MEMFD: u8 = 1;

/// One end of a socket between two processes of this program.
#[derive(Debug)]
pub struct Wire(OwnedFd);

impl Wire {
    /// A connected pair.
    ///
    /// # Errors
    /// What socketpair(2) answers.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC;
        let (one, other) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self(one), Self(other)))
    }

    /// Takes over a connected socket of the kind SOCK_SEQPACKET.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    pub(crate) fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// The socket, for another process.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends one frame; blocks while the peer is busy.
    ///
    /// # Errors
    /// What sendmsg(2) or memfd_create(2) answers; then nothing was sent.
    pub fn send(&self, value: &impl Serialize, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut payload = vec![PLAIN];
        serde_json::to_writer(&mut payload, value)?;
        if payload.len() <= INLINE {
            return self.send_packet(&payload, fds);
        }
        let memfd = memfd_create("frame", MemfdFlags::CLOEXEC)?;
        let mut file = std::fs::File::from(memfd);
        file.write_all(&payload[1..])?;
        let mut all = vec![file.as_fd()];
        all.extend_from_slice(fds);
        self.send_packet(&[IN_MEMFD], &all)
    }

    fn send_packet(&self, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if fds.len() > MAX_FDS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "too many descriptors for one frame",
            ));
        }
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(fds));
        }
        loop {
            match sendmsg(
                &self.0,
                &[IoSlice::new(payload)],
                &mut control,
                SendFlags::NOSIGNAL,
            ) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Receives one frame with its descriptors; `None` when the peer is gone.
    ///
    /// # Errors
    /// What recvmsg(2) answers; or the frame is not a `T`, and lost.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut payload = vec![0; INLINE + 1];
        let mut space = vec![MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let message = loop {
            let mut buffers = [IoSliceMut::new(&mut payload)];
            match recvmsg(&self.0, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) => break message,
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::CONNRESET) => return Ok(None),
                Err(errno) => return Err(errno.into()),
            }
        };
        let mut fds: Vec<OwnedFd> = Vec::new();
        for ancillary in control.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = ancillary {
                fds.extend(received);
            }
        }
        let Some((kind, body)) = payload[..message.bytes].split_first() else {
            return Ok(None);
        };
        let value = match *kind {
            PLAIN => serde_json::from_slice(body)?,
            IN_MEMFD if !fds.is_empty() => {
                let mut file = std::fs::File::from(fds.remove(0));
                let mut text = Vec::new();
                file.seek(SeekFrom::Start(0))?;
                file.read_to_end(&mut text)?;
                serde_json::from_slice(&text)?
            }
            _ => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "unknown kind of frame",
                ));
            }
        };
        Ok(Some((value, fds)))
    }
}

/// Whether a failed send says that the peer is gone, rather than that this frame cannot be sent.
pub(crate) fn peer_is_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected
    )
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_of_every_size_arrive_whole_and_with_their_descriptors() {
        let (one, other) = Wire::pair().unwrap();
        for size in [0, 1, INLINE - 64, INLINE, INLINE * 20] {
            let text = "x".repeat(size);
            let (read_end, write_end) = rustix::pipe::pipe().unwrap();
            one.send(&text, &[write_end.as_fd()]).unwrap();
            drop(write_end);
            let (got, fds): (String, _) = other.receive().unwrap().unwrap();
            assert_eq!(got, text);
            assert_eq!(fds.len(), 1);
            rustix::io::write(&fds[0], b"!").unwrap();
            let mut byte = [0];
            assert_eq!(rustix::io::read(&read_end, &mut byte).unwrap(), 1);
        }
    }

    #[test]
    fn too_many_descriptors_are_an_error_and_a_peer_that_is_gone_another() {
        let (one, other) = Wire::pair().unwrap();
        let stdin = std::io::stdin();
        let large = "x".repeat(INLINE);
        one.send(&large, &vec![stdin.as_fd(); MAX_FILES]).unwrap();
        let error = one.send(&large, &vec![stdin.as_fd(); MAX_FILES + 1]);
        assert!(!peer_is_gone(&error.unwrap_err()));
        drop(other);
        assert!(peer_is_gone(&one.send(&0, &[]).unwrap_err()));
    }

    #[test]
    fn end_of_the_peer_is_none_and_rubbish_is_an_error() {
        let (one, other) = Wire::pair().unwrap();
        rustix::net::send(&one, b"\x07{}", SendFlags::empty()).unwrap();
        rustix::net::send(&one, b"\x00{", SendFlags::empty()).unwrap();
        drop(one);
        assert!(other.receive::<String>().is_err());
        assert!(other.receive::<String>().is_err());
        assert!(other.receive::<String>().unwrap().is_none());
    }
}
