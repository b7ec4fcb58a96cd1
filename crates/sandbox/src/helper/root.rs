//! The pod's own root: a sparse tmpfs that holds what the helper needs of the host, and nothing else.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, XattrFlags};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
    mount_change, unmount,
};
use rustix::process::pivot_root;

use super::binds::Binds;
use crate::error::{HostError, Step};
use crate::pod::PodSpec;

/// Where the layer store is, in the pod's root.
pub(super) const STORE: &str = "/store";
/// Where the containers' directories are, when tmpfs keeps `user.*` attributes (kernel 6.6).
const CONTAINERS: &str = "/containers";
/// A directory on the store's disk, for the containers' directories otherwise.
const SCRATCH: &str = "/scratch";
/// Where named volumes are, on a tmpfs of their own: the pod's root is `nosuid`, and a volume of Docker's is not.
const VOLUMES: &str = "/volumes";
/// Where the files of secrets are: on the tmpfs of the pod's root, whatever else goes to the disk.
const SECRETS: &str = "/secrets";
/// What libcontainer binds into the container's /dev where mknod is not allowed.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// Builds the root on `spec.run_dir/root`, enters it and leaves the host's root behind.
pub(super) fn enter(spec: &PodSpec, binds: &Binds) -> Result<(), HostError> {
    let at = |call: String| move |error: io::Error| HostError::new(Step::Mounts, call, error);
    let private = MountPropagationFlags::REC | MountPropagationFlags::PRIVATE;
    mount_change("/", private).map_err(|errno| at("mount(/, MS_PRIVATE)".into())(errno.into()))?;

    let root = spec.run_dir.join("root");
    let scratch = spec.run_dir.join("scratch");
    make_dir(&root)?;
    make_dir(&scratch)?;
    let safe = MountFlags::NOSUID | MountFlags::NODEV;
    mount("tmpfs", &root, "tmpfs", safe, c"mode=0755")
        .map_err(|errno| at(format!("mount(tmpfs on {})", root.display()))(errno.into()))?;
    for name in [
        "store",
        "scratch",
        "proc",
        "sys",
        "dev",
        "run",
        "containers",
        "volumes",
        "secrets",
    ] {
        make_dir(&root.join(name))?;
    }
    binds.mount(&root)?;
    for (from, name) in [(&spec.store, "store"), (&scratch, "scratch")] {
        mount_bind_recursive(from, root.join(name))
            .map_err(|errno| at(format!("mount(bind {})", from.display()))(errno.into()))?;
    }
    for device in DEVICES {
        let (from, to) = (
            Path::new("/dev").join(device),
            root.join("dev").join(device),
        );
        fs::write(&to, "").map_err(at(format!("open({})", to.display())))?;
        mount_bind(&from, &to)
            .map_err(|errno| at(format!("mount(bind {})", from.display()))(errno.into()))?;
    }
    // A fresh proc of the pod's pid namespace. Refused where the host's own /proc is partly covered, as in
    // a Docker container without `--security-opt systempaths=unconfined` (fs/namespace.c, mount_too_revealing).
    mount(
        "proc",
        root.join("proc"),
        "proc",
        safe | MountFlags::NOEXEC,
        None,
    )
    .map_err(|errno| HostError::new(Step::Proc, "mount(proc)", errno))?;
    let sys = root.join("sys");
    let flags = safe | MountFlags::NOEXEC;
    mount("sysfs", &sys, "sysfs", flags, None)
        .map_err(|errno| at("mount(sysfs)".into())(errno.into()))
        .or_else(|_| mount_read_only_sysfs(&sys))?;
    // An empty directory here makes libcontainer see a cgroup-v1 host without controllers: it then leaves
    // cgroups alone, on v1, v2 and undelegated hosts alike.
    mount(
        "tmpfs",
        root.join("sys/fs/cgroup"),
        "tmpfs",
        safe,
        c"mode=0755",
    )
    .map_err(|errno| at("mount(tmpfs on /sys/fs/cgroup)".into())(errno.into()))?;

    std::env::set_current_dir(&root).map_err(at("chdir".into()))?;
    pivot_root(".", ".").map_err(|errno| at("pivot_root".into())(errno.into()))?;
    unmount(".", UnmountFlags::DETACH)
        .map_err(|errno| at("umount2(old root)".into())(errno.into()))?;
    std::env::set_current_dir("/").map_err(at("chdir(/)".into()))
}

/// Mounts the sysfs of the network namespace this process is in. Where the host's own is read-only, as in every Docker
/// container without `--privileged`, a user may mount it only so (fs/namespace.c, mount_too_revealing).
pub(super) fn mount_read_only_sysfs(place: &Path) -> Result<(), HostError> {
    let safe = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("sysfs", place, "sysfs", safe | MountFlags::RDONLY, None)
        .map_err(|errno| HostError::new(Step::Mounts, "mount(sysfs)", errno))
}

/// Whether the pod has it so.
pub(super) fn sys_is_read_only() -> bool {
    rustix::fs::statvfs("/sys").is_ok_and(|sys| sys.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// The directory for a container's upper layer and files: on tmpfs where that is wanted and can hold overlay's marks.
pub(super) fn container_dir(name: &str, to_disk: bool) -> PathBuf {
    let flags = XattrFlags::empty();
    let tmpfs_keeps_marks =
        || rustix::fs::setxattr(CONTAINERS, c"user.overlay.probe", b"y", flags).is_ok();
    if !to_disk && tmpfs_keeps_marks() {
        return Path::new(CONTAINERS).join(name);
    }
    Path::new(SCRATCH).join(name)
}

/// The directory of all named volumes.
pub(super) fn volumes_dir(to_disk: bool) -> Result<PathBuf, HostError> {
    if to_disk {
        // No container is called so: a name has no dot at its start.
        let dir = Path::new(SCRATCH).join(".volumes");
        make_dir(&dir)?;
        return Ok(dir);
    }
    let failed = |call: &str, errno: rustix::io::Errno| {
        HostError::new(Step::Mounts, format!("{call}({VOLUMES})"), errno)
    };
    let device = |path: &str| {
        rustix::fs::stat(path)
            .map(|stat| stat.st_dev)
            .map_err(|errno| failed("stat", errno))
    };
    if device(VOLUMES)? == device("/")? {
        mount("tmpfs", VOLUMES, "tmpfs", MountFlags::NODEV, c"mode=0755")
            .map_err(|errno| failed("mount(tmpfs)", errno))?;
    }
    Ok(PathBuf::from(VOLUMES))
}

/// The directory of a container's secrets.
pub(super) fn secrets_dir(name: &str) -> PathBuf {
    Path::new(SECRETS).join(name)
}

/// A directory for a container on the store's disk.
pub(super) fn scratch_dir(name: &str) -> PathBuf {
    Path::new(SCRATCH).join(name)
}

/// Removes what containers left on the store's disk: the caller could not, where files have other owners than it.
pub(super) fn remove_scratch() {
    let (Ok(scratch), Ok(entries)) = (fs::File::open(SCRATCH), fs::read_dir(SCRATCH)) else {
        return;
    };
    for entry in entries.flatten() {
        // Where layers were joined or copied.
        for mount in ["rootfs", "copy"] {
            let _ = unmount(entry.path().join(mount), UnmountFlags::DETACH);
        }
        // What cannot be removed now is tried again by the caller.
        let _ = smokegate_rootfs::remove_tree(scratch.as_fd(), entry.file_name().as_bytes());
    }
}

/// Makes one directory of the pod's root; one that is there already is fine.
pub(super) fn make_dir(path: &Path) -> Result<(), HostError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(HostError::new(
            Step::Mounts,
            format!("mkdir({})", path.display()),
            error,
        )),
        _ => Ok(()),
    }
}
