//! Room: on the store's disk, in the temporary directory, in memory.

use std::fs;
use std::io::Write;
use std::path::Path;

use rustix::fs::statvfs;

use super::check::{Check, Noun, Status};
use super::wall::Wall;
use crate::error::{HostError, errno_text};

/// Below this an image of some hundred megabytes does not fit beside its archive.
const LITTLE_DISK: u64 = 1 << 30;
/// Below this an app that writes a little is refused it.
const LITTLE_MEMORY: u64 = 256 << 20;

/// Whether a directory can be written, and how much room there is.
pub(super) fn store(dir: &Path) -> Check {
    let means = Noun::Store.needed_for();
    directory(
        Noun::Store,
        dir,
        means,
        Wall::StoreNotWritable,
        Wall::StoreFull,
    )
}

/// The same of where compressed archives and standard input are spooled.
pub(super) fn temporary_directory(dir: &Path) -> Check {
    let means = "an archive that is compressed, or comes from standard input, is spooled here";
    let wall = Wall::TemporaryDirectory;
    let mut check = directory(Noun::TemporaryDirectory, dir, means, wall, wall);
    if check.status == Status::Failed {
        // Plain archives and layout directories are read in place.
        check.status = Status::Limited;
    }
    check
}

fn directory(noun: Noun, dir: &Path, means: &str, not_writable: Wall, full: Wall) -> Check {
    let shown = dir.display();
    let tried = format!("writing 64 KiB to a file in {shown}");
    let check = |result: String| Check::fine(noun, tried.clone(), result, means);
    if let Err(error) = try_directory(dir) {
        let wall = if error.is_out_of_space() {
            full
        } else {
            not_writable
        };
        let answered = error.errno.map_or(error.detail, errno_text);
        return check(answered).behind(Status::Failed, wall);
    }
    let Ok(room) = statvfs(dir) else {
        return check("it can be written".to_owned());
    };
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    // A filesystem in memory without a limit says nothing about its size.
    if room.f_blocks == 0 {
        return check("it can be written; its filesystem says nothing of its size".to_owned());
    }
    let check = check(format!("it can be written, and {} are free", size(free)));
    if free < LITTLE_DISK {
        return check.behind(Status::Limited, full);
    }
    check
}

/// Makes a directory if need be, and writes a little to a file without a name in it.
pub(super) fn try_directory(dir: &Path) -> Result<(), HostError> {
    let failed = |what: &str, error| HostError::store(&format!("{what} {}", dir.display()), error);
    fs::create_dir_all(dir).map_err(|error| failed("making a directory in", error))?;
    let written = tempfile::tempfile_in(dir).and_then(|mut file| file.write_all(&[0; 64 << 10]));
    written.map_err(|error| failed("writing to a file in", error))
}

/// What is left of the machine's memory and of the cgroup's that this process is in.
pub(super) fn memory() -> Check {
    let info = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let tried = "/proc/meminfo, and the limits of the own cgroup";
    let means = "what containers write to files that are no volume of the disk's is kept in memory";
    let Some(available) = available(&info) else {
        return Check::fine(Noun::Memory, tried, "neither says anything", means);
    };
    let (left, by) = match own_limit().filter(|limit| *limit < available) {
        Some(limit) => (limit, "by the cgroup's limit"),
        None => (available, "by the machine"),
    };
    let check = Check::fine(
        Noun::Memory,
        tried,
        format!("{} are available {by}", size(left)),
        means,
    );
    if left < LITTLE_MEMORY {
        return check.behind(Status::Limited, Wall::LittleMemory);
    }
    check
}

/// `MemAvailable:  1234 kB`
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib << 10)
}

/// The limit of the own cgroup, which in a container is where the hierarchy is mounted.
fn own_limit() -> Option<u64> {
    let files = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let read = |file: &&str| fs::read_to_string(file).ok()?.trim().parse().ok();
    files.iter().find_map(read)
}

/// In the units people read.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (name, unit) in UNITS {
        if bytes >= unit {
            let tenths = bytes / (unit / 10);
            return format!("{}.{} {name}", tenths / 10, tenths % 10);
        }
    }
    format!("{bytes} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_memory_are_read() {
        assert_eq!(size(0), "0 bytes");
        assert_eq!(size(1536), "1.5 KiB");
        assert_eq!(size(3 << 30), "3.0 GiB");
        let text = "MemTotal:       24684084 kB\nMemFree:  1 kB\nMemAvailable:    2048 kB\n";
        assert_eq!(available(text), Some(2 << 20));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_told_from_a_full_one() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let check = store(&file.path().join("below"));
        assert_eq!(check.status, Status::Failed);
        assert_eq!(check.wall, Some(Wall::StoreNotWritable));
        assert!(check.result.starts_with("ENOTDIR"), "{}", check.result);
        let check = temporary_directory(&file.path().join("below"));
        assert_eq!(check.status, Status::Limited);
    }
}
