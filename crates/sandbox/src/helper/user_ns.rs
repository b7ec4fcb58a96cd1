//! Entering the namespaces of a helper: the user namespace first, as everything else needs its rights.

use std::fs;
use std::io;

use rustix::thread::UnshareFlags;

use crate::error::{HostError, Step};
use crate::isolation::Isolation;
use crate::protocol::{Message, Request, RequestBody};
use crate::wire::Wire;

/// `unshare(2)` of the calling thread, which must be the only one.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: the flags used here (new namespaces, never CLONE_FILES) do not change what descriptors or
    // memory mean to this process.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(Into::into)
}

/// Makes the user namespace that `isolation` asks for; nothing for root.
///
/// A range of ids is mapped by the parent, which alone can run the host's setuid programs.
pub(super) fn enter_user_namespace(isolation: Isolation, wire: &Wire) -> Result<(), HostError> {
    let unshare_user = || {
        unshare(UnshareFlags::NEWUSER)
            .map_err(|error| HostError::new(Step::UserNamespace, "unshare(CLONE_NEWUSER)", error))
    };
    match isolation {
        Isolation::Root => Ok(()),
        Isolation::Subuid => {
            unshare_user()?;
            let lost = |error: io::Error| HostError::lost(error.to_string());
            wire.send(&Message::MapIds, &[]).map_err(lost)?;
            match wire.receive::<Request>().map_err(lost)? {
                Some((
                    Request {
                        body: RequestBody::IdsMapped,
                        ..
                    },
                    _,
                )) => Ok(()),
                _ => Err(HostError::lost("the parent did not map the ids")),
            }
        }
        Isolation::Single => {
            let uid = rustix::process::geteuid().as_raw();
            let gid = rustix::process::getegid().as_raw();
            unshare_user()?;
            map_single_id((0, uid), (0, gid)).map_err(|(file, error)| {
                HostError::new(Step::IdMap, format!("write({file})"), error)
            })
        }
    }
}

/// Maps one inside id to one outside id in the user namespace this process just entered.
///
/// `setgroups` must be denied first (user_namespaces(7), CVE-2014-8989).
pub(super) fn map_single_id(
    (inside_uid, outside_uid): (u32, u32),
    (inside_gid, outside_gid): (u32, u32),
) -> Result<(), (&'static str, io::Error)> {
    let write =
        |file: &'static str, text: String| fs::write(file, text).map_err(|error| (file, error));
    write("/proc/self/setgroups", "deny".to_owned())?;
    write(
        "/proc/self/uid_map",
        format!("{inside_uid} {outside_uid} 1"),
    )?;
    write(
        "/proc/self/gid_map",
        format!("{inside_gid} {outside_gid} 1"),
    )
}
