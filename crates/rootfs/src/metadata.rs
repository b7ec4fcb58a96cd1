//! Mode, owner, times and extended attributes, and the record of those that could not be kept.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmodat,
    chownat, fchmod, fchown, fsetxattr, fstat, futimens, openat, unlinkat, utimensat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::tar_reader::Pairs;
use crate::{Owners, RootDir};

/// The directory's lower contents are hidden (kernel documentation, overlayfs, "user xattr").
pub(crate) const OPAQUE: &str = "user.overlay.opaque";

/// A modification time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mtime {
    /// Seconds since 1970; negative before.
    pub seconds: i64,
    /// Nanoseconds after `seconds`.
    pub nanos: u32,
}

impl Mtime {
    /// A PAX time: decimal seconds with an optional fraction, cut to nanoseconds.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let seconds: i64 = whole.parse().ok()?;
        if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let nanos: u32 = format!("{fraction:0<9.9}").parse().ok()?;
        if whole.starts_with('-') && nanos > 0 {
            return Some(Self {
                seconds: seconds.checked_sub(1)?,
                nanos: 1_000_000_000 - nanos,
            });
        }
        Some(Self { seconds, nanos })
    }

    fn timestamps(self) -> Timestamps {
        Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: self.seconds,
                tv_nsec: self.nanos.into(),
            },
        }
    }
}

/// What an entry says about its inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Mtime,
    pub(crate) xattrs: Pairs,
}

impl Metadata {
    /// Of a directory that no layer describes.
    pub(crate) fn implied(creator: &Creator, mtime: Mtime) -> Self {
        Self {
            mode: 0o755,
            uid: creator.uid,
            gid: creator.gid,
            mtime,
            xattrs: Vec::new(),
        }
    }

    /// Copies a lower directory's, except overlayfs's own attributes.
    pub(crate) fn of(fd: BorrowedFd<'_>) -> rustix::io::Result<Self> {
        let stat = fstat(fd)?;
        let mut xattrs = read_xattrs(fd)?;
        xattrs.retain(|(name, _)| !is_overlay(name));
        let nanos = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
        let mtime = Mtime {
            seconds: stat.st_mtime,
            nanos,
        };
        Ok(Self {
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            mtime,
            xattrs,
        })
    }
}

/// All extended attributes that can be seen.
pub(crate) fn read_xattrs(fd: BorrowedFd<'_>) -> rustix::io::Result<Pairs> {
    let mut names = vec![0u8; 64 * 1024];
    let length = match rustix::fs::flistxattr(fd, names.as_mut_slice()) {
        Err(Errno::OPNOTSUPP) => 0,
        result => result?,
    };
    let mut xattrs = Vec::new();
    for name in names[..length]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0u8; 64 * 1024];
        let length = rustix::fs::fgetxattr(fd, name, value.as_mut_slice())?;
        value.truncate(length);
        xattrs.push((name.to_vec(), value));
    }
    xattrs.sort();
    Ok(xattrs)
}

/// Attributes that overlayfs keeps for itself and does not show.
pub(crate) fn is_overlay(name: &[u8]) -> bool {
    name.starts_with(b"user.overlay.") || name.starts_with(b"trusted.overlay.")
}

/// Something a layer asks for that was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unkept {
    /// An owner whose id is not mapped here.
    Owner,
    /// A file capability: dropped where owners are not kept, or refused by the kernel.
    Capability,
    /// Another extended attribute, refused by the kernel or the filesystem.
    Xattr,
    /// An attribute that would steer overlayfs; never kept.
    OverlayXattr,
    /// A device node, which only root of the machine may make.
    Device,
    /// A character device 0/0, which is a whiteout to overlayfs; never made.
    WhiteoutDevice,
}

/// What a layer holds, and what of it could not be kept.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// Entries of the tar.
    pub entries: u64,
    /// Apparent bytes of its regular files.
    pub bytes: u64,
    /// Whiteouts and opaque directories that only a copy can show, as the store's filesystem refuses overlayfs's.
    #[serde(default)]
    pub portable_marks: u64,
    /// How many entries each cause touched.
    #[serde(default)]
    pub unkept: BTreeMap<Unkept, u64>,
}

impl Stats {
    pub(crate) fn leave_out(&mut self, cause: Unkept) {
        *self.unkept.entry(cause).or_default() += 1;
    }
}

/// What a file created here gets by itself, so that only differences cost a system call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Creator {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Mode bits that creation does not set (umask or a default ACL).
    masked: u32,
}

impl Creator {
    /// Finds out by creating a file: the umask is the process's and not ours to change.
    pub(crate) fn probe(dir: &RootDir) -> rustix::io::Result<Self> {
        const NAME: &str = ".smokegate-creator";
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let fd = openat(dir, NAME, flags, Mode::from_raw_mode(0o777))?;
        let stat = fstat(&fd);
        unlinkat(dir, NAME, AtFlags::empty())?;
        let stat = stat?;
        Ok(Self {
            uid: stat.st_uid,
            gid: stat.st_gid,
            masked: !stat.st_mode & 0o777,
        })
    }

    /// Whether creating with `mode` is not enough: bits the umask takes, and those that a write or chown clears.
    fn needs_chmod(self, mode: u32) -> bool {
        mode & 0o7000 != 0 || mode & self.masked != 0
    }

    fn owner(self, metadata: &Metadata, owners: Owners) -> Option<(Uid, Gid)> {
        let same = metadata.uid == self.uid && metadata.gid == self.gid;
        let wanted = owners == Owners::Keep && !same;
        wanted.then(|| (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid)))
    }

    /// The mode to create a file with: private while attributes are still to be written.
    pub(crate) fn initial_mode(metadata: &Metadata) -> Mode {
        let mode = if metadata.xattrs.is_empty() {
            metadata.mode & 0o777
        } else {
            0o600
        };
        Mode::from_raw_mode(mode)
    }

    /// Finishes a file or directory that is open. `created` is the mode it was created with.
    pub(crate) fn finish(
        self,
        fd: &OwnedFd,
        created: Mode,
        metadata: &Metadata,
        owners: Owners,
        stats: &mut Stats,
    ) -> rustix::io::Result<()> {
        // chown clears setuid bits and capabilities, so it comes first.
        if let Some((uid, gid)) = self.owner(metadata, owners) {
            not_mapped(fchown(fd, Some(uid), Some(gid)), stats)?;
        }
        set_xattrs(fd.as_fd(), &metadata.xattrs, owners, stats)?;
        if created.as_raw_mode() != metadata.mode || self.needs_chmod(metadata.mode) {
            fchmod(fd, Mode::from_raw_mode(metadata.mode))?;
        }
        futimens(fd, &metadata.mtime.timestamps())
    }

    /// Finishes a symlink, fifo or device that was just created and cannot be opened.
    pub(crate) fn finish_special(
        self,
        dir: &OwnedFd,
        name: &[u8],
        metadata: &Metadata,
        symlink: bool,
        owners: Owners,
        stats: &mut Stats,
    ) -> rustix::io::Result<()> {
        if let Some((uid, gid)) = self.owner(metadata, owners) {
            let flags = AtFlags::SYMLINK_NOFOLLOW;
            not_mapped(chownat(dir, name, Some(uid), Some(gid), flags), stats)?;
        }
        // user.* is not allowed on them (xattr(7)), and the rest is of no use in a container.
        if !metadata.xattrs.is_empty() {
            stats.leave_out(Unkept::Xattr);
        }
        if !symlink && self.needs_chmod(metadata.mode) {
            // Follows no symlink: `name` was created as something else by the caller, in a tree of its own.
            chmodat(
                dir,
                name,
                Mode::from_raw_mode(metadata.mode),
                AtFlags::empty(),
            )?;
        }
        utimensat(
            dir,
            name,
            &metadata.mtime.timestamps(),
            AtFlags::SYMLINK_NOFOLLOW,
        )
    }
}

fn not_mapped(result: rustix::io::Result<()>, stats: &mut Stats) -> rustix::io::Result<()> {
    match result {
        Err(Errno::INVAL | Errno::PERM) => {
            stats.leave_out(Unkept::Owner);
            Ok(())
        }
        result => result,
    }
}

fn set_xattrs(
    fd: BorrowedFd<'_>,
    xattrs: &[(Vec<u8>, Vec<u8>)],
    owners: Owners,
    stats: &mut Stats,
) -> rustix::io::Result<()> {
    for (name, value) in xattrs {
        let capability = name == b"security.capability";
        if is_overlay(name) {
            stats.leave_out(Unkept::OverlayXattr);
            continue;
        }
        if capability && owners == Owners::Ignore {
            stats.leave_out(Unkept::Capability);
            continue;
        }
        match fsetxattr(fd, name.as_slice(), value, XattrFlags::empty()) {
            Ok(()) => {}
            // ext4 answers ENOSPC where the attributes of one inode are over its limit of a block.
            Err(
                Errno::OPNOTSUPP
                | Errno::PERM
                | Errno::ACCESS
                | Errno::INVAL
                | Errno::NOSPC
                | Errno::TOOBIG
                | Errno::RANGE,
            ) => stats.leave_out(if capability {
                Unkept::Capability
            } else {
                Unkept::Xattr
            }),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pax_times() {
        let cases = [
            ("12", Some((12, 0))),
            ("12.5", Some((12, 500_000_000))),
            ("12.000000001999", Some((12, 1))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-0.5", Some((-1, 500_000_000))),
            ("", None),
            ("1.x", None),
        ];
        for (text, expected) in cases {
            let expected = expected.map(|(seconds, nanos)| Mtime { seconds, nanos });
            assert_eq!(Mtime::parse(text.as_bytes()), expected, "{text}");
        }
    }
}
