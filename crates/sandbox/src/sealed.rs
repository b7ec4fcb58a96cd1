//! A sealed copy of this program's own file, which helpers are started from.
//!
//! A container that could write to the runtime's binary through /proc would own the host (CVE-2019-5736).
//! A memfd with all seals cannot be written, and the copy is not the file on disk.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::io::Errno;

static COPY: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Begins to copy this program, on a thread of its own: a first helper that is started later need not wait for that.
pub fn prepare_helpers() {
    // Who needs the copy makes it where this failed, and says why that fails too.
    let _ = std::thread::Builder::new()
        .name("seal".to_owned())
        .spawn(executable);
}

/// A path that executes the sealed copy, made once per process; waits where somebody is making it.
pub(crate) fn executable() -> io::Result<PathBuf> {
    let mut copy = COPY.lock().unwrap_or_else(PoisonError::into_inner);
    let fd = match copy.take() {
        Some(fd) => fd,
        None => make()?,
    };
    let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
    *copy = Some(fd);
    Ok(path)
}

fn make() -> io::Result<OwnedFd> {
    seal("smokegate", &mut File::open("/proc/self/exe")?)
}

/// A file in memory that can be executed and never be changed again.
pub(crate) fn seal(name: &str, from: &mut impl Read) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know MFD_EXEC; later ones may demand it (sysctl vm.memfd_noexec).
    let copy = match memfd_create(name, flags | MemfdFlags::EXEC) {
        Err(Errno::INVAL) => memfd_create(name, flags)?,
        other => other?,
    };
    let mut to = File::from(copy);
    io::copy(from, &mut to)?;
    to.rewind()?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    fcntl_add_seals(&to, seals)?;
    Ok(to.into())
}
