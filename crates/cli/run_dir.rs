//! The directory of one run below the store: mount points and scratch space of its pods.
//!
//! A run holds a lock on its own; what a killed run left behind is removed by the next one.

use std::ffi::OsStr;
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use smokegate_sandbox::HostError;

/// A name that no variant has, whose directories are beside it.
const LOCK: &str = ".lock";
const PREFIX: &str = "run-";

/// A run's directory; removed when dropped.
#[derive(Debug)]
pub(crate) struct RunDir {
    parent: PathBuf,
    name: std::ffi::OsString,
    _lock: File,
}

impl RunDir {
    /// Makes one below `store/run`, and removes those whose runs are gone.
    pub(crate) fn create(store: &Path) -> io::Result<Self> {
        let parent = store.join("run");
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&parent)?;
        remove_abandoned(&parent)?;
        let made = tempfile::Builder::new()
            .prefix(PREFIX)
            .tempdir_in(&parent)?
            .keep();
        // Locked before it has its name: a run that looks for abandoned directories must never find a lock
        // of this one that it can take.
        let unnamed = made.join("unnamed-lock");
        let lock = File::create(&unnamed)?;
        lock.try_lock().map_err(io::Error::from)?;
        fs::rename(&unnamed, made.join(LOCK))?;
        let name = made.file_name().unwrap_or_default().to_owned();
        Ok(Self {
            parent,
            name,
            _lock: lock,
        })
    }

    /// Makes one as [`RunDir::create`] does, in a store that is made if need be.
    pub(crate) fn below(store: &Path) -> Result<Self, HostError> {
        let made = fs::create_dir_all(store).and_then(|()| Self::create(store));
        made.map_err(|error| {
            let call = format!("making a directory in {}", store.display());
            HostError::store(&call, error)
        })
    }

    /// What tells it from others, for people.
    pub(crate) fn id(&self) -> String {
        id_of(&self.name)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.parent.join(&self.name)
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // What cannot be removed now is tried again by the next run.
        let _ = remove(&self.parent, self.name.as_bytes());
    }
}

/// The ids and directories of all runs of a store, also of those that were killed.
pub(crate) fn all(store: &Path) -> Vec<(String, PathBuf)> {
    let entries = fs::read_dir(store.join("run")).into_iter().flatten();
    let entries = entries.filter_map(Result::ok);
    entries
        .map(|entry| (id_of(&entry.file_name()), entry.path()))
        .collect()
}

fn id_of(name: &OsStr) -> String {
    let name = name.to_string_lossy();
    name.strip_prefix(PREFIX).unwrap_or(&name).to_owned()
}

/// Removes a run's directory and the cgroups that its pods made. While one of these is in use, the record of it stays.
fn remove(parent: &Path, name: &[u8]) -> io::Result<()> {
    for pod in fs::read_dir(parent.join(OsStr::from_bytes(name)))? {
        smokegate_sandbox::remove_cgroups(&pod?.path())?;
    }
    smokegate_rootfs::remove_tree(File::open(parent)?.as_fd(), name)
}

fn remove_abandoned(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let lock = match File::open(entry.path().join(LOCK)) {
            Ok(lock) => lock,
            // Between the making of a directory and of its lock; only an old one is abandoned.
            Err(_) if is_young(&entry.path()) => continue,
            Err(_) => {
                let _ = remove(parent, entry.file_name().as_bytes());
                continue;
            }
        };
        match lock.try_lock() {
            Ok(()) => {
                let _ = remove(parent, entry.file_name().as_bytes());
            }
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error),
        }
    }
    Ok(())
}

fn is_young(path: &Path) -> bool {
    const YOUNG: std::time::Duration = std::time::Duration::from_secs(60);
    let modified = fs::symlink_metadata(path).and_then(|found| found.modified());
    modified.is_ok_and(|time| time.elapsed().map_or(true, |age| age < YOUNG))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_removes_its_own_directory_and_those_of_dead_runs() {
        let store = tempfile::tempdir().unwrap();
        let live = RunDir::create(store.path()).unwrap();
        let dead = store.path().join("run/run-dead");
        fs::create_dir_all(dead.join("app/scratch")).unwrap();
        File::create(dead.join(LOCK)).unwrap();
        let other = RunDir::create(store.path()).unwrap();
        assert!(!dead.exists());
        assert!(live.path().exists());
        let path = other.path();
        drop(other);
        assert!(!path.exists());
    }

    #[test]
    fn runs_that_begin_at_once_leave_each_other_alone() {
        let store = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..100 {
                        let run = RunDir::create(store.path()).unwrap();
                        assert!(run.path().join(LOCK).exists());
                    }
                });
            }
        });
    }
}
