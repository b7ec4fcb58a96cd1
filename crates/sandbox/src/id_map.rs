//! Which host ids a run's containers get, and what maps them.
//!
//! A range of subordinate ids (subuid(5)) can be mapped only by newuidmap and newgidmap, which are setuid
//! programs of the host; they are run if, and only if, a run uses that level.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{HostError, Step};
use crate::isolation::Isolation;

const PASSWD: &str = "/etc/passwd";
/// Begins the names of the stores of subordinate ids, which lie in the caller's own.
pub(crate) const MAPPED_STORE: &str = "subuid-";

/// How a run's ids are mapped, settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdMap {
    /// As they are: smokegate is root.
    Root,
    /// Id 0 is the caller, and the ids above it are the caller's subordinate ones.
    Subordinate(SubordinateIds),
    /// One id only.
    Single,
}

/// A caller's subordinate ids and the programs that map them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubordinateIds {
    uids: Mapper,
    gids: Mapper,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Mapper {
    program: PathBuf,
    /// The caller's own id, which becomes 0.
    own: u32,
    first: u32,
    count: u32,
}

/// Why a level cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// Not root, or root without CAP_SYS_ADMIN.
    NotPrivileged,
    /// A program is not on PATH.
    NoProgram(&'static str),
    /// The file has no range for the caller.
    NoRange(&'static str),
    /// Set-user-id programs gain nothing when this process starts them (prctl(2), PR_SET_NO_NEW_PRIVS).
    NoNewPrivileges,
    /// The user namespace that smokegate was started in lacks ids that images use.
    TooFewIds(Isolation),
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotPrivileged => f.write_str(
                "isolation level `root` needs root with CAP_SYS_ADMIN, which this process does not have",
            ),
            Self::NoProgram(name) => {
                write!(f, "isolation level `subuid` needs the program `{name}`, which is not on PATH")
            }
            Self::NoRange(file) => write!(
                f,
                "isolation level `subuid` needs a range of ids for this user in {file}, which has none"
            ),
            Self::NoNewPrivileges => f.write_str(
                "isolation level `subuid` needs newuidmap to gain rights, which no_new_privs forbids this process",
            ),
            Self::TooFewIds(level) => write!(
                f,
                "isolation level `{level}` needs the ids from 0 to 65535, which the user namespace of this process lacks"
            ),
        }
    }
}

impl std::error::Error for Unavailable {}

impl IdMap {
    /// The level that this map gives.
    pub fn isolation(&self) -> Isolation {
        match self {
            Self::Root => Isolation::Root,
            Self::Subordinate(_) => Isolation::Subuid,
            Self::Single => Isolation::Single,
        }
    }

    /// The best map that this process can have; `path` is where programs are looked for.
    pub fn best(path: &OsStr) -> Self {
        [Isolation::Root, Isolation::Subuid]
            .into_iter()
            .find_map(|level| Self::at(level, path).ok())
            .unwrap_or(Self::Single)
    }

    /// The map of a level.
    ///
    /// # Errors
    /// [`Unavailable`] says what is missing.
    pub fn at(level: Isolation, path: &OsStr) -> Result<Self, Unavailable> {
        match level {
            Isolation::Root if !Isolation::is_privileged() => Err(Unavailable::NotPrivileged),
            // Root of `unshare --map-root-user` has one id, and newuidmap cannot map what is not there.
            Isolation::Root | Isolation::Subuid if !own_namespace_has_all_ids() => {
                Err(Unavailable::TooFewIds(level))
            }
            Isolation::Root => Ok(Self::Root),
            Isolation::Subuid => SubordinateIds::find(path).map(Self::Subordinate),
            Isolation::Single => Ok(Self::Single),
        }
    }

    /// Where in a store directory the layers of this map are: files of subordinate ids mean something under
    /// their own range only.
    pub fn store_in(&self, store: &Path) -> PathBuf {
        match self {
            Self::Root | Self::Single => store.to_owned(),
            Self::Subordinate(ids) => store.join(format!(
                "{MAPPED_STORE}{}-{}",
                ids.uids.first, ids.gids.first
            )),
        }
    }

    /// Maps the ids of a helper that made its user namespace and waits.
    pub(crate) fn write(&self, pid: u32) -> Result<(), HostError> {
        match self {
            Self::Subordinate(ids) => {
                ids.uids.run(pid)?;
                ids.gids.run(pid)
            }
            Self::Root | Self::Single => Ok(()),
        }
    }
}

impl SubordinateIds {
    fn find(path: &OsStr) -> Result<Self, Unavailable> {
        let (uid, gid) = (
            rustix::process::getuid().as_raw(),
            rustix::process::getgid().as_raw(),
        );
        let passwd = std::fs::read_to_string(PASSWD).unwrap_or_default();
        let name = user_name(&passwd, uid);
        let mapper = |program: &'static str, file: &'static str, own| {
            let ranges = std::fs::read_to_string(file).unwrap_or_default();
            let (first, count) =
                range(&ranges, uid, name.as_deref()).ok_or(Unavailable::NoRange(file))?;
            let program = find_program(path, program).ok_or(Unavailable::NoProgram(program))?;
            Ok(Mapper {
                program,
                own,
                first,
                count,
            })
        };
        let found = Self {
            uids: mapper("newuidmap", "/etc/subuid", uid)?,
            gids: mapper("newgidmap", "/etc/subgid", gid)?,
        };
        // As in most hardened containers: to take the level below is better than to fail at this one.
        if rustix::thread::no_new_privs().unwrap_or(false) {
            return Err(Unavailable::NoNewPrivileges);
        }
        Ok(found)
    }
}

impl Mapper {
    fn run(&self, pid: u32) -> Result<(), HostError> {
        let Self {
            program,
            own,
            first,
            count,
        } = self;
        let arguments = [pid, 0, *own, 1, 1, *first, *count].map(|number| number.to_string());
        let call = format!("{} {}", program.display(), arguments.join(" "));
        let failed = |error| HostError::new(Step::IdMap, call.clone(), error);
        let output = Command::new(program)
            .args(&arguments)
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .map_err(failed)?;
        if output.status.success() {
            return Ok(());
        }
        let text = String::from_utf8_lossy(&output.stderr);
        Err(failed(std::io::Error::other(text.trim().to_owned())))
    }
}

fn own_namespace_has_all_ids() -> bool {
    ["/proc/self/uid_map", "/proc/self/gid_map"]
        .into_iter()
        .all(|file| std::fs::read_to_string(file).is_ok_and(|map| has_all_ids(&map)))
}

/// Whether a map (user_namespaces(7): first id inside, first outside, count) holds as many ids as images use.
fn has_all_ids(map: &str) -> bool {
    const USED: u64 = 1 << 16;
    let count = |line: &str| line.split_whitespace().nth(2)?.parse::<u64>().ok();
    map.lines().filter_map(count).sum::<u64>() >= USED
}

fn find_program(path: &OsStr, name: &str) -> Option<PathBuf> {
    std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(name))
        .find(|candidate: &PathBuf| {
            Path::metadata(candidate)
                .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
        })
}

/// name:password:uid:… (passwd(5))
fn user_name(passwd: &str, uid: u32) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

/// The largest range of a user, by number or name: `user:first:count` (subuid(5)).
fn range(ranges: &str, uid: u32, name: Option<&str>) -> Option<(u32, u32)> {
    let of_user = ranges.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let user = fields.next()?;
        let is_user = Some(user) == name || user.parse() == Ok(uid);
        let range = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        is_user.then_some(range)
    });
    of_user
        .filter(|(_, count)| *count > 0)
        .max_by_key(|(_, count)| *count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_has_all_ids_or_too_few() {
        assert!(has_all_ids("         0          0 4294967295\n"));
        assert!(has_all_ids("0 1000 1\n1 100000 65536\n"));
        assert!(!has_all_ids("         0       1000          1\n"));
        assert!(!has_all_ids(""));
    }

    #[test]
    fn ranges_are_found_by_name_and_number() {
        let file = "# comment\nother:1:2\nrunner:100000:65536\n1000:300000:10\nbad:x:y\n";
        assert_eq!(range(file, 1000, Some("runner")), Some((100_000, 65_536)));
        assert_eq!(range(file, 1000, None), Some((300_000, 10)));
        assert_eq!(range(file, 7, Some("bad")), None);
        assert_eq!(range("", 1000, Some("runner")), None);
        assert_eq!(
            user_name("root:x:0:0::/:\nrunner:x:1000:1000::/:\n", 1000),
            Some("runner".into())
        );
    }
}
