//! Named volumes: directories of the pod that start as the image of the first container that mounts them has them.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
    chownat, fchmod, fchown, fgetxattr, flistxattr, fsetxattr, fstat, futimens, linkat, mkdirat,
    mknodat, openat, readlinkat, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

/// Opens the volume `name` below `volumes`, made when nobody has used it before.
pub(super) fn open(volumes: &Path, name: &str) -> io::Result<PathBuf> {
    let path = volumes.join(name);
    match fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(path),
    }
}

/// Fills a volume that is empty with what the image has at its place: content, owners, modes, times, attributes, hard
/// links. One that has content stays as it is, as under Docker.
pub(super) fn seed(volume: &Path, image: &OwnedFd) -> io::Result<()> {
    if fs::read_dir(volume)?.next().is_some() {
        return Ok(());
    }
    let to = open_dir(rustix::fs::CWD, volume)?;
    let mut seeding = Seeding {
        root: to.try_clone()?,
        links: Vec::new(),
    };
    // Opened anew, as the descriptor may be one of a path only.
    let from = open_dir(image.as_fd(), Path::new("."))?;
    seeding.copy_dir(&from, &to, &PathBuf::new())?;
    Ok(())
}

struct Seeding {
    /// The volume.
    root: OwnedFd,
    /// Files with several names that were copied: device and inode in the image, and the path of the copy.
    links: Vec<((u64, u64), PathBuf)>,
}

fn open_dir(at: BorrowedFd<'_>, path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(at, path, flags, Mode::empty())
}

impl Seeding {
    /// Copies the content of a directory, then what it is itself: its times change while it is filled.
    fn copy_dir(&mut self, from: &OwnedFd, to: &OwnedFd, path: &Path) -> io::Result<()> {
        for entry in Dir::read_from(from)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") {
                continue;
            }
            use std::os::unix::ffi::OsStrExt;
            let name = Path::new(std::ffi::OsStr::from_bytes(name.to_bytes()));
            self.copy_entry(from, to, name, &path.join(name))?;
        }
        copy_metadata(from, to)
    }

    fn copy_entry(
        &mut self,
        from: &OwnedFd,
        to: &OwnedFd,
        name: &Path,
        path: &Path,
    ) -> io::Result<()> {
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind == FileType::Directory {
            mkdirat(to, name, Mode::RWXU)?;
            let (from, to) = (open_dir(from.as_fd(), name)?, open_dir(to.as_fd(), name)?);
            return self.copy_dir(&from, &to, path);
        }
        let inode = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1 {
            if let Some((_, copy)) = self.links.iter().find(|(known, _)| *known == inode) {
                return Ok(linkat(&self.root, copy, to, name, AtFlags::empty())?);
            }
            self.links.push((inode, path.to_owned()));
        }
        match kind {
            FileType::RegularFile => {
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let from = openat(from, name, flags, Mode::empty())?;
                let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
                let to = openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
                let (mut from, mut to) = (File::from(from), File::from(to));
                io::copy(&mut from, &mut to)?;
                copy_metadata(&from.into(), &to.into())
            }
            FileType::Symlink => {
                let target = readlinkat(from, name, Vec::new())?;
                symlinkat(target.as_c_str(), to, name)?;
                own_and_date(to, name, &stat)
            }
            _ => {
                // A device node could not be opened on a volume, which is mounted `nodev`; to make one takes the
                // rights of the host's root, without which the layer store has none either.
                let mode = Mode::from_raw_mode(stat.st_mode);
                match mknodat(to, name, kind, mode, stat.st_rdev) {
                    Ok(()) => own_and_date(to, name, &stat),
                    Err(Errno::PERM) => Ok(()),
                    Err(errno) => Err(errno.into()),
                }
            }
        }
    }
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds: i64, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.cast_signed(),
    };
    Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    }
}

fn owner(stat: &Stat) -> (Option<Uid>, Option<Gid>) {
    (
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )
}

/// Owner and times of what has no attributes to copy.
fn own_and_date(dir: &OwnedFd, name: &Path, stat: &Stat) -> io::Result<()> {
    let (uid, gid) = owner(stat);
    chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(utimensat(
        dir,
        name,
        &times(stat),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

fn copy_metadata(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = fstat(from)?;
    let (uid, gid) = owner(&stat);
    fchown(to, uid, gid)?;
    // After the owner: a change of it clears the setuid bit, and capabilities.
    fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    copy_attributes(from, to)?;
    Ok(futimens(to, &times(&stat))?)
}

/// Extended attributes, as far as the volume's file system takes them.
fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let mut names = vec![0; 64 * 1024]; // the most there can be (xattr(7))
    let length = match flistxattr(from, &mut names[..]) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => return Ok(()),
        Err(errno) => return Err(errno.into()),
    };
    for name in names[..length].split(|byte| *byte == 0) {
        if name.is_empty() {
            continue;
        }
        let mut value = vec![0; 64 * 1024];
        let length = fgetxattr(from, name, &mut value[..])?;
        match fsetxattr(to, name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn an_empty_volume_takes_everything_and_a_full_one_nothing() {
        let image = tempfile::tempdir().unwrap();
        let at = |name: &str| image.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        fs::write(at("sub/a"), "a").unwrap();
        fs::set_permissions(at("sub/a"), fs::Permissions::from_mode(0o4751)).unwrap();
        fs::hard_link(at("sub/a"), at("b")).unwrap();
        symlink("/nowhere", at("link")).unwrap();
        fs::set_permissions(at("sub"), fs::Permissions::from_mode(0o1770)).unwrap();
        fs::set_permissions(image.path(), fs::Permissions::from_mode(0o750)).unwrap();
        let fd = OwnedFd::from(File::open(image.path()).unwrap());

        let volumes = tempfile::tempdir().unwrap();
        let volume = open(volumes.path(), "data").unwrap();
        seed(&volume, &fd).unwrap();
        let mode = |name: &str| fs::symlink_metadata(volume.join(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode(""), mode("sub"), mode("b")), (0o750, 0o1770, 0o4751));
        let inode = |name: &str| fs::metadata(volume.join(name)).unwrap().ino();
        assert_eq!(inode("b"), inode("sub/a"));
        assert_eq!(
            fs::read_link(volume.join("link")).unwrap(),
            Path::new("/nowhere")
        );
        let time = |path: &Path| fs::metadata(path).unwrap().modified().unwrap();
        assert_eq!(time(&volume.join("sub")), time(&at("sub")));

        fs::remove_file(volume.join("b")).unwrap();
        let again = open(volumes.path(), "data").unwrap();
        seed(&again, &fd).unwrap();
        assert!(!again.join("b").exists());
    }
}
