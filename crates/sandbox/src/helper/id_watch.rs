//! Watches a container for calls that fail only because the pod's id map lacks their ids.
//!
//! A filter stops such calls (`id_calls`) and the kernel tells the pod helper of each by a descriptor
//! (seccomp_unotify(2)). The helper notes the call and lets it go on, so that the program gets the kernel's own
//! answer. Should the helper end, the pod ends with it, so that no stopped call is ever left without an answer.

use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, PermissionsExt};

use seccompiler::sock_filter;
use serde::{Deserialize, Serialize};

use crate::id_calls::{IdCall, Kind, MappedIds};
use crate::pod::IdRefusal;
use crate::wire::Wire;

/// The most calls of one watch that are told of, so that a container cannot fill our memory.
const MAX_REFUSALS: usize = 16;
/// The most of a path and of a list of groups that is shown.
const MAX_PATH: usize = 128;
const MAX_GROUPS: usize = 16;
/// Set-user-id and set-group-id (inode(7)).
const SET_ID_BITS: u32 = 0o6000;

/// Makes the watch of one process, and of all that it starts.
#[derive(Debug)]
pub(super) struct Preparation {
    ours: Wire,
    theirs: OwnedFd,
    mapped: MappedIds,
}

/// What a process needs to be watched; cloned into the container's process by libcontainer.
#[derive(Clone, Debug)]
pub(super) struct Installation {
    filter: Vec<sock_filter>,
    /// A socket that the descriptor is sent through; close-on-exec.
    socket: RawFd,
}

/// What a process sends beside the descriptor.
#[derive(Debug, Serialize, Deserialize)]
enum Installed {
    Watched,
    /// The kernel did not give a descriptor.
    Refused {
        errno: i32,
    },
}

/// A watched process and its descendants.
pub(super) struct IdWatch {
    /// Whose they are.
    pub(super) container: String,
    listener: OwnedFd,
    mapped: MappedIds,
    seen: Vec<IdRefusal>,
}

/// The ids that processes of the pod have without a user namespace of their own.
pub(super) fn ids_of_pod() -> io::Result<MappedIds> {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}"));
    Ok(MappedIds {
        users: crate::id_calls::IdRanges::parse(&read("uid_map")?),
        groups: crate::id_calls::IdRanges::parse(&read("gid_map")?),
        denies_setgroups: read("setgroups")?.trim() == "deny",
    })
}

impl Preparation {
    /// `None` where every id is mapped, so that there is nothing to watch for.
    pub(super) fn new(mapped: MappedIds) -> io::Result<Option<(Self, Installation)>> {
        let Some(filter) = mapped.filter().filter(|_| !mapped.is_all()) else {
            return Ok(None);
        };
        let (ours, theirs) = Wire::pair()?;
        let theirs = theirs.into_fd();
        let socket = theirs.as_raw_fd();
        let preparation = Self {
            ours,
            theirs,
            mapped,
        };
        Ok(Some((preparation, Installation { filter, socket })))
    }

    /// Takes the watch over from a process that has become its program. `Err` says why there is none.
    pub(super) fn finish(self, container: &str) -> Result<IdWatch, String> {
        drop(self.theirs);
        let received = self.ours.receive::<Installed>();
        match received.map(|message| message.map(|(body, mut fds)| (body, fds.pop()))) {
            Ok(Some((Installed::Watched, Some(listener)))) => Ok(IdWatch {
                container: container.to_owned(),
                listener,
                mapped: self.mapped,
                seen: Vec::new(),
            }),
            Ok(Some((Installed::Refused { errno }, _))) => Err(crate::error::errno_text(errno)),
            Ok(_) => Err("the process sent no descriptor".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }
}

impl Installation {
    /// Puts this process under the watch. Needs CAP_SYS_ADMIN in its user namespace.
    ///
    /// A kernel that cannot do it, or another listener above us, leaves the process unwatched, which is told.
    pub(super) fn install(&self) -> io::Result<()> {
        // SAFETY: the descriptor was open when libcontainer cloned this process, which owns its copy.
        let wire = Wire::from_fd(unsafe { OwnedFd::from_raw_fd(self.socket) });
        let killable = libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV; // Linux 5.19
        let listener = match self.load(killable) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => self.load(0),
            result => result,
        };
        match listener {
            Ok(listener) => wire.send(&Installed::Watched, &[listener.as_fd()]),
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                wire.send(&Installed::Refused { errno }, &[])
            }
        }
    }

    fn load(&self, flags: libc::c_ulong) -> io::Result<OwnedFd> {
        let program = libc::sock_fprog {
            len: u16::try_from(self.filter.len()).map_err(io::Error::other)?,
            filter: self.filter.as_ptr().cast_mut().cast(),
        };
        // SAFETY: seccompiler's sock_filter has the kernel's layout (linux/filter.h); the kernel copies the
        // program before the call returns.
        let result = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER | flags,
                &raw const program,
            )
        };
        let fd = RawFd::try_from(result).map_err(io::Error::other)?;
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us; it is close-on-exec.
        Ok(unsafe { OwnedFd::from_raw_fd(fd) })
    }
}

impl AsFd for IdWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

impl IdWatch {
    /// Lets one stopped call go on, and answers it if it fails for want of an id and is the first of its kind.
    ///
    /// # Errors
    /// The watch is of no more use: nothing that it watched is left.
    pub(super) fn serve(&mut self) -> io::Result<Option<IdRefusal>> {
        let mut notice = MaybeUninit::<libc::seccomp_notif>::zeroed();
        // SAFETY: the kernel fills the structure, which it wants zeroed before.
        match unsafe { self.ioctl(libc::SECCOMP_IOCTL_NOTIF_RECV, notice.as_mut_ptr().cast()) } {
            Ok(()) => {}
            // The process was killed meanwhile, or a signal came.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINTR)) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        // SAFETY: filled by the kernel; every bit pattern is a value.
        let notice = unsafe { notice.assume_init() };
        let refusal = self.look_at(&notice);
        let mut answer = libc::seccomp_notif_resp {
            id: notice.id,
            val: 0,
            error: 0,
            flags: u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).unwrap_or(1),
        };
        // SAFETY: the kernel reads the structure. A process that is gone needs no answer.
        let _ = unsafe { self.ioctl(libc::SECCOMP_IOCTL_NOTIF_SEND, (&raw mut answer).cast()) };
        Ok(refusal)
    }

    fn look_at(&mut self, notice: &libc::seccomp_notif) -> Option<IdRefusal> {
        if self.seen.len() >= MAX_REFUSALS {
            return None;
        }
        let call = IdCall::of(notice.data.arch, notice.data.nr.cast_unsigned())?;
        let refusal = self.describe(call, notice.pid, &notice.data.args)?;
        if self.seen.contains(&refusal) || !may_otherwise(call, notice.pid) {
            return None;
        }
        let mut id = notice.id;
        // What was read of the process counts only if it is still the one that waits.
        // SAFETY: the kernel reads the number.
        unsafe { self.ioctl(libc::SECCOMP_IOCTL_NOTIF_ID_VALID, (&raw mut id).cast()) }.ok()?;
        self.seen.push(refusal.clone());
        Some(refusal)
    }

    /// The call as strace would show it; `None` when the map has its ids.
    fn describe(&self, call: &IdCall, pid: u32, arguments: &[u64; 6]) -> Option<IdRefusal> {
        let mut shown = Vec::new();
        let errno = if call.takes_list() {
            // The kernel takes an int.
            let count = usize::try_from(arguments[0] & 0xffff_ffff).unwrap_or(0);
            let groups = read_groups(pid, arguments[1], count.min(MAX_GROUPS));
            if !self.mapped.denies_setgroups
                && groups.iter().all(|id| self.mapped.has(Kind::Group, *id))
            {
                return None;
            }
            let ellipsis = if count > groups.len() { ", …" } else { "" };
            let list: Vec<_> = groups.iter().map(u32::to_string).collect();
            shown.push(format!("[{}{ellipsis}]", list.join(", ")));
            if self.mapped.denies_setgroups {
                libc::EPERM
            } else {
                libc::EINVAL
            }
        } else {
            if let Some(path) = call.path {
                shown.push(format!("{:?}", read_path(pid, arguments[path])));
            }
            for (argument, _) in call.ids {
                // uid_t and gid_t are the lower half; -1 leaves as it is.
                let id = u32::try_from(arguments[*argument as usize] & 0xffff_ffff).unwrap_or(0);
                shown.push(id.cast_signed().to_string());
            }
            libc::EINVAL
        };
        let program = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Some(IdRefusal {
            call: format!("{}({})", call.name, shown.join(", ")),
            errno,
            program: program.trim_end().to_owned(),
        })
    }

    /// # Safety
    /// `argument` must point to what the request reads or writes.
    unsafe fn ioctl(&self, request: libc::Ioctl, argument: *mut libc::c_void) -> io::Result<()> {
        // SAFETY: by this function's own contract.
        match unsafe { libc::ioctl(self.listener.as_raw_fd(), request, argument) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}

/// Whether the process could make the call if its ids existed: it has the capability, or runs a program that would
/// have given it one where files have their recorded owners. A call that Docker would refuse too is the image's own.
fn may_otherwise(call: &IdCall, pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    if field("CapEff:").is_some_and(|set| set >> call.capability & 1 == 1) {
        return true;
    }
    let set_id = std::fs::metadata(format!("/proc/{pid}/exe"))
        .is_ok_and(|program| program.permissions().mode() & SET_ID_BITS != 0);
    set_id && field("NoNewPrivs:") == Some(0)
}

fn read_groups(pid: u32, address: u64, count: usize) -> Vec<u32> {
    let mut bytes = vec![0; count * size_of::<u32>()];
    let read = File::open(format!("/proc/{pid}/mem"))
        .and_then(|memory| memory.read_exact_at(&mut bytes, address));
    if read.is_err() {
        return Vec::new();
    }
    bytes
        .as_chunks()
        .0
        .iter()
        .map(|id| u32::from_ne_bytes(*id))
        .collect()
}

/// As much of a path as is mapped and shown.
fn read_path(pid: u32, address: u64) -> String {
    let mut bytes = [0; MAX_PATH];
    let read = File::open(format!("/proc/{pid}/mem"))
        .and_then(|memory| memory.read_at(&mut bytes, address))
        .unwrap_or(0);
    let path = bytes[..read].split(|byte| *byte == 0).next();
    String::from_utf8_lossy(path.unwrap_or_default()).into_owned()
}
