//! The layer store: settled layers on disk, shared by concurrent runs and by images with common layers.
//!
//! ```text
//! layers/{kept,single}/CHAINID/diff       the layer, an overlayfs lower directory
//! layers/{kept,single}/CHAINID/complete   its mark, see `mark`
//! locks/{kept,single}-CHAINID             held by whoever fills the entry
//! tmp/N-M/                                one filling; flock'ed while its process lives
//! ```
//! Users of an entry hold a shared flock on its directory, and pruning takes an exclusive one.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{
    AtFlags, CWD, FlockOperation, IFlags, Mode, OFlags, Timespec, Timestamps, UTIME_NOW,
    UTIME_OMIT, flock, fstat, ioctl_getflags, ioctl_setflags, mkdirat, openat, renameat, statat,
    syncfs, utimensat,
};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use smokegate_image::{ChainId, DiffId, LayerDigest};

use crate::mark::{self, Mark};
use crate::remove::list;
use crate::{Error, Owners, Stats, remove_tree};

const PRIVATE: Mode = Mode::RWXU;
const FLAVOURS: [Owners; 2] = [Owners::Keep, Owners::Ignore];

/// A store at one directory. Cheap to open; several processes may have it open.
#[derive(Debug)]
pub struct LayerStore {
    pub(crate) root: PathBuf,
    pub(crate) dir: OwnedFd,
    pub(crate) boot_id: String,
}

/// A complete layer; pruning spares it while this lives.
#[derive(Debug)]
pub struct StoredLayer {
    /// The layer applied on all below it.
    pub chain_id: ChainId,
    /// The layer's own content.
    pub diff_id: DiffId,
    /// The overlayfs lower directory.
    pub path: PathBuf,
    /// What it holds, and what of it could not be kept.
    pub stats: Stats,
    /// Whether it was there before.
    pub cached: bool,
    pub(crate) blobs: Vec<LayerDigest>,
    /// The entry's directory with a shared flock.
    pub(crate) entry: OwnedFd,
}

/// One line of `cache list`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedLayer {
    /// The layer applied on all below it.
    pub chain_id: ChainId,
    /// The layer's own content.
    pub diff_id: DiffId,
    /// The flavour of the store it is in.
    pub owners: Owners,
    /// Bytes of its regular files.
    pub bytes: u64,
    /// Entries of its tar.
    pub entries: u64,
    /// When a run last used it.
    pub last_used: SystemTime,
    /// The overlayfs lower directory.
    pub path: PathBuf,
}

fn at<'a>(action: &'static str, path: &'a str) -> impl Fn(Errno) -> Error + 'a {
    move |errno| Error::host(action, path.as_bytes(), errno)
}

fn read_only() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

pub(crate) fn entry_path(owners: Owners, chain_id: &ChainId) -> String {
    format!("layers/{}/{}", owners.directory(), chain_id.0.hex())
}

/// Lets ext4 spread the directories made in this one over the disk. Without it every file of a refilled layer
/// lands where the last was deleted, which on ext4 without a journal takes twenty times as long
/// (`recently_deleted` in fs/ext4/ialloc.c). Other filesystems have no such flag.
pub(crate) fn spread_children(dir: &OwnedFd) {
    if let Ok(flags) = ioctl_getflags(dir) {
        let _ = ioctl_setflags(dir, flags | IFlags::TOPDIR);
    }
}

impl LayerStore {
    /// Opens the store at `root`, which is made if it is not there, for its owner only.
    ///
    /// `boot_id` names this boot of the machine (`/proc/sys/kernel/random/boot_id`).
    ///
    /// # Errors
    /// What could not be made or opened.
    pub fn open(root: &Path, boot_id: &str) -> Result<Self, Error> {
        let shown = root.to_string_lossy();
        let failed = |error| Error::host("create the layer store", shown.as_bytes(), error);
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(root)
            .map_err(failed)?;
        let dir = openat(CWD, root, read_only() - OFlags::NOFOLLOW, Mode::empty())
            .map_err(|errno| failed(errno.into()))?;
        // Whoever owns a store decides what is run from it: root must not take layers that another user laid
        // there, and what root laid there another user could not remove.
        let owner = fstat(&dir).map_err(|errno| failed(errno.into()))?.st_uid;
        let own = rustix::process::geteuid().as_raw();
        if owner != own {
            return Err(failed(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("it belongs to user {owner}, and this is user {own}"),
            )));
        }
        let store = Self {
            root: root.to_owned(),
            dir,
            boot_id: boot_id.trim().to_owned(),
        };
        for path in ["layers", "layers/kept", "layers/single", "tmp", "locks"] {
            match mkdirat(&store.dir, path, PRIVATE) {
                Ok(()) if path != "locks" => spread_children(&store.open_dir(path)?),
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(at("create", path)(errno)),
            }
        }
        Ok(store)
    }

    /// The directory it is at.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn open_dir(&self, path: &str) -> Result<OwnedFd, Error> {
        openat(&self.dir, path, read_only(), Mode::empty()).map_err(at("open", path))
    }

    /// The entry if it is complete and to be trusted in this boot; counts as a use of it.
    pub(crate) fn acquire(
        &self,
        owners: Owners,
        chain_id: &ChainId,
    ) -> Result<Option<StoredLayer>, Error> {
        let path = entry_path(owners, chain_id);
        let Some((entry, mark)) = self.read_entry(&path, FlockOperation::LockShared)? else {
            return Ok(None);
        };
        if !mark.is_trusted(&self.boot_id) || mark.chain_id != *chain_id {
            return Ok(None);
        }
        let now = Timestamps {
            last_access: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_OMIT,
            },
            last_modification: Timespec {
                tv_sec: 0,
                tv_nsec: UTIME_NOW,
            },
        };
        match utimensat(&entry, mark::FILE, &now, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(()) | Err(Errno::ROFS) => {}
            Err(errno) => return Err(at("touch", &path)(errno)),
        }
        Ok(Some(self.stored(owners, entry, mark, true)))
    }

    pub(crate) fn stored(
        &self,
        owners: Owners,
        entry: OwnedFd,
        mark: Mark,
        cached: bool,
    ) -> StoredLayer {
        let path = self
            .root
            .join(entry_path(owners, &mark.chain_id))
            .join("diff");
        let Mark {
            chain_id,
            diff_id,
            stats,
            blobs,
            ..
        } = mark;
        StoredLayer {
            chain_id,
            diff_id,
            path,
            stats,
            cached,
            blobs,
            entry,
        }
    }

    /// Opens, locks and reads an entry; `None` if it is not there, incomplete, or locked by another where the
    /// operation does not wait.
    fn read_entry(
        &self,
        path: &str,
        operation: FlockOperation,
    ) -> Result<Option<(OwnedFd, Mark)>, Error> {
        let entry = match openat(&self.dir, path, read_only(), Mode::empty()) {
            Err(Errno::NOENT) => return Ok(None),
            result => result.map_err(at("open", path))?,
        };
        match rustix::io::retry_on_intr(|| flock(&entry, operation)) {
            Err(Errno::WOULDBLOCK) => return Ok(None),
            result => result.map_err(at("lock", path))?,
        }
        // Whoever waited for the lock may hold a directory that was pruned meanwhile.
        let opened = fstat(&entry).map_err(at("look at", path))?;
        match statat(&self.dir, path, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if (stat.st_dev, stat.st_ino) == (opened.st_dev, opened.st_ino) => {}
            Ok(_) | Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(at("look at", path)(errno)),
        }
        let mark = Mark::read(entry.as_fd())
            .map_err(|error| Error::host("read the mark of", path.as_bytes(), error))?;
        Ok(mark.map(|mark| (entry, mark)))
    }

    /// Waits until nobody else fills or changes the entry.
    pub(crate) fn lock_entry(&self, owners: Owners, chain_id: &ChainId) -> Result<OwnedFd, Error> {
        let path = format!("locks/{}-{}", owners.directory(), chain_id.0.hex());
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let lock = openat(&self.dir, path.as_str(), flags, Mode::RUSR | Mode::WUSR)
            .map_err(at("open", &path))?;
        rustix::io::retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive))
            .map_err(at("lock", &path))?;
        Ok(lock)
    }

    /// Changes the mark of an entry that is held.
    pub(crate) fn update_mark(
        &self,
        owners: Owners,
        chain_id: &ChainId,
        entry: &OwnedFd,
        change: impl FnOnce(&mut Mark),
    ) -> Result<(), Error> {
        let _lock = self.lock_entry(owners, chain_id)?;
        let path = entry_path(owners, chain_id);
        let failed = |error: io::Error| Error::host("update the mark of", path.as_bytes(), error);
        if let Some(mut mark) = Mark::read(entry.as_fd()).map_err(failed)? {
            change(&mut mark);
            mark.write(entry.as_fd()).map_err(failed)?;
        }
        Ok(())
    }

    /// Flushes what was filled in this boot, so that it counts after the next one too. One syncfs(2) for all:
    /// meant for the end of a run, when nobody waits for it.
    ///
    /// # Errors
    /// Failed system calls; the entries then count in this boot only.
    pub fn sync(&self) -> Result<(), Error> {
        let mut unsynced = Vec::new();
        for owners in FLAVOURS {
            for path in self.entries(owners)? {
                if let Some((entry, mark)) =
                    self.read_entry(&path, FlockOperation::NonBlockingLockShared)?
                    && !mark.synced
                    && mark.boot_id == self.boot_id
                {
                    unsynced.push((owners, mark.chain_id, entry));
                }
            }
        }
        if unsynced.is_empty() {
            return Ok(());
        }
        syncfs(&self.dir).map_err(at("flush", "."))?;
        for (owners, chain_id, entry) in unsynced {
            self.update_mark(owners, &chain_id, &entry, |mark| mark.synced = true)?;
        }
        Ok(())
    }

    fn entries(&self, owners: Owners) -> Result<Vec<String>, Error> {
        let parent = format!("layers/{}", owners.directory());
        let names = list(&self.open_dir(&parent)?).map_err(at("list", &parent))?;
        Ok(names
            .iter()
            .map(|name| format!("{parent}/{}", name.to_string_lossy()))
            .collect())
    }

    fn listed(
        &self,
        owners: Owners,
        path: &str,
        entry: &OwnedFd,
        mark: Mark,
    ) -> Result<ListedLayer, Error> {
        let stat = statat(entry, mark::FILE, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(at("look at the mark of", path))?;
        let last_used = SystemTime::UNIX_EPOCH
            + Duration::new(
                u64::try_from(stat.st_mtime).unwrap_or(0),
                u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            );
        let Mark {
            chain_id,
            diff_id,
            stats,
            ..
        } = mark;
        let path = self.root.join(path).join("diff");
        let Stats { bytes, entries, .. } = stats;
        Ok(ListedLayer {
            chain_id,
            diff_id,
            owners,
            bytes,
            entries,
            last_used,
            path,
        })
    }

    /// The complete layers, in no particular order.
    ///
    /// # Errors
    /// Failed system calls.
    pub fn list(&self) -> Result<Vec<ListedLayer>, Error> {
        let mut layers = Vec::new();
        for owners in FLAVOURS {
            for path in self.entries(owners)? {
                // Wait for no one: a shared lock is only refused while the entry is being removed.
                let entry = self.read_entry(&path, FlockOperation::NonBlockingLockShared)?;
                if let Some((entry, mark)) = entry {
                    layers.push(self.listed(owners, &path, &entry, mark)?);
                }
            }
        }
        Ok(layers)
    }

    /// Removes the layers that no run uses and, if given, that none used for `older_than`; also what killed runs
    /// left behind. Answers what it removed.
    ///
    /// # Errors
    /// The first entry that could not be removed.
    pub fn prune(&self, older_than: Option<Duration>) -> Result<Vec<ListedLayer>, Error> {
        self.remove_abandoned()?;
        let mut removed = Vec::new();
        let bin = Scratch::create(self)?;
        for owners in FLAVOURS {
            for path in self.entries(owners)? {
                let entry = self.read_entry(&path, FlockOperation::NonBlockingLockExclusive)?;
                let Some((entry, mark)) = entry else { continue };
                let layer = self.listed(owners, &path, &entry, mark)?;
                let age = layer.last_used.elapsed().unwrap_or_default();
                if older_than.is_some_and(|limit| age < limit) {
                    continue;
                }
                bin.swallow(self, &path)?;
                removed.push(layer);
            }
        }
        bin.remove()?;
        Ok(removed)
    }

    /// Removes the scratch directories of processes that are gone. A process holds the lock on its own.
    pub(crate) fn remove_abandoned(&self) -> Result<(), Error> {
        let tmp = self.open_dir("tmp")?;
        for name in list(&tmp).map_err(at("list", "tmp"))? {
            let Ok(dir) = openat(&tmp, name.as_c_str(), read_only(), Mode::empty()) else {
                continue;
            };
            if flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok() {
                remove_tree(tmp.as_fd(), name.to_bytes())
                    .map_err(|error| Error::host("remove", name.to_bytes(), error))?;
            }
        }
        Ok(())
    }
}

/// A directory below `tmp` that is ours while we live; removed when dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    tmp: OwnedFd,
    name: String,
    pub(crate) dir: OwnedFd,
}

impl Scratch {
    pub(crate) fn create(store: &LayerStore) -> Result<Self, Error> {
        let tmp = store.open_dir("tmp")?;
        let process = std::process::id();
        for attempt in 0u64.. {
            let name = format!("{process}-{attempt}");
            match mkdirat(&tmp, name.as_str(), PRIVATE) {
                // Ids repeat: another thread, another pid namespace, or a dead process.
                Err(Errno::EXIST) => continue,
                result => result.map_err(at("create in", "tmp"))?,
            }
            let Ok(dir) = openat(&tmp, name.as_str(), read_only(), Mode::empty()) else {
                continue;
            };
            // Somebody who cleans up may have been faster than our lock; then the directory goes to them.
            if flock(&dir, FlockOperation::NonBlockingLockExclusive).is_ok()
                && statat(&tmp, name.as_str(), AtFlags::SYMLINK_NOFOLLOW).is_ok()
            {
                spread_children(&dir);
                return Ok(Self { tmp, name, dir });
            }
        }
        unreachable!("the attempts do not end")
    }

    /// Takes an entry out of the store in one step, to be removed with this.
    pub(crate) fn swallow(&self, store: &LayerStore, path: &str) -> Result<(), Error> {
        let name = format!("old-{}", path.replace('/', "-"));
        match renameat(&store.dir, path, &self.dir, name.as_str()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(at("remove", path)(errno)),
        }
    }

    /// Removes the directory and says whether that worked.
    pub(crate) fn remove(self) -> Result<(), Error> {
        remove_tree(self.tmp.as_fd(), self.name.as_bytes())
            .map_err(|error| Error::host("remove", self.name.as_bytes(), error))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next filling.
        let _ = remove_tree(self.tmp.as_fd(), self.name.as_bytes());
    }
}
