//! Where this process may make cgroups: below its own on v1, and on v2 where controllers are given to children.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use super::{Controller, remove, wanted, write};
use crate::error::{HostError, Step};

/// A cgroup in which others are made.
#[derive(Debug)]
pub(super) enum Base {
    /// Any cgroup of v1.
    V1(PathBuf),
    /// A cgroup of v2 whose children have the controllers already.
    V2(PathBuf),
    /// This process's own cgroup of v2, which it has left so that its children can have controllers: a cgroup with
    /// processes cannot give any (cgroups(7), "no internal processes").
    Left {
        path: PathBuf,
        /// Where this process is meanwhile.
        leaf: PathBuf,
    },
}

impl Base {
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::V1(path) | Self::V2(path) | Self::Left { path, .. } => path,
        }
    }

    pub(super) fn is_v2(&self) -> bool {
        !matches!(self, Self::V1(_))
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        if let Self::Left { path, leaf } = self {
            // In the order in which the kernel allows it. What it refuses is left to whoever gave us the cgroup.
            let enabled = fs::read_to_string(path.join("cgroup.subtree_control"));
            for name in enabled.unwrap_or_default().split_whitespace() {
                let _ = write(&path.join("cgroup.subtree_control"), &format!("-{name}"));
            }
            let _ = write(&path.join("cgroup.procs"), &std::process::id().to_string());
            let _ = remove(leaf, std::time::Duration::ZERO);
        }
    }
}

/// A base, and the controllers that cgroups made in it have.
pub(super) type Given = (Arc<Base>, Vec<Controller>);

/// The one cgroup that this process has left, while some pod uses it.
static LEFT: Mutex<Weak<Base>> = Mutex::new(Weak::new());

/// The cgroups this process is in.
#[derive(Debug, Default)]
pub(super) struct Places {
    /// By controllers, in the names of /proc/self/cgroup.
    v1: Vec<(Vec<String>, PathBuf)>,
    v2: Option<Unified>,
}

#[derive(Debug)]
struct Unified {
    mount: PathBuf,
    own: PathBuf,
}

impl Places {
    pub(super) fn of_this_process() -> Result<Self, HostError> {
        let read = |file: &str| {
            fs::read_to_string(file)
                .map_err(|error| HostError::new(Step::Cgroup, format!("open({file})"), error))
        };
        Ok(Self::parse(
            &read("/proc/self/cgroup")?,
            &read("/proc/self/mountinfo")?,
        ))
    }

    /// From `ID:CONTROLLERS:PATH` lines (cgroups(7)) and mounts (proc(5)).
    fn parse(own: &str, mounts: &str) -> Self {
        let mut places = Self::default();
        for line in own.lines() {
            let mut parts = line.splitn(3, ':');
            let (Some(_), Some(controllers), Some(path)) =
                (parts.next(), parts.next(), parts.next())
            else {
                continue;
            };
            let controllers: Vec<String> = controllers.split(',').map(str::to_owned).collect();
            let is_v2 = controllers == [""];
            let found = mounts.lines().find_map(|mount| {
                let (root, point) = mount_of(mount, is_v2, &controllers)?;
                // A path outside the cgroup namespace begins with `/..`, and can be no place below the mount.
                let below = Path::new(path).strip_prefix(root).ok()?;
                // No slash at its end where nothing is below.
                let own = point
                    .components()
                    .chain(below.components())
                    .collect::<PathBuf>();
                Some((own, point))
            });
            match found {
                Some((own, mount)) if is_v2 => places.v2 = Some(Unified { mount, own }),
                Some((own, _)) => places.v1.push((controllers, own)),
                None => {}
            }
        }
        places
    }

    /// The bases in which a cgroup must be made so that it has `needed`, each with those it gives.
    pub(super) fn bases(&mut self, needed: &[Controller]) -> Result<Vec<Given>, HostError> {
        let mut bases: Vec<Given> = Vec::new();
        let mut of_v2 = Vec::new();
        for controller in needed {
            let v1 = self
                .v1
                .iter()
                .find(|(names, _)| names.iter().any(|name| name == controller.name()));
            match v1 {
                // One hierarchy may have several, as `cpu,cpuacct`; none of the others is needed here.
                Some((_, path)) => {
                    bases.push((Arc::new(Base::V1(path.clone())), vec![*controller]));
                }
                None => of_v2.push(*controller),
            }
        }
        if !of_v2.is_empty() {
            let missing = |of_v2: &[Controller]| {
                let names: Vec<_> = of_v2.iter().map(|c| c.name()).collect();
                HostError {
                    step: Step::Cgroup,
                    call: format!("no cgroup controller `{}`", names.join("`, `")),
                    errno: None,
                    detail: wanted(of_v2),
                }
            };
            let unified = self.v2.as_ref().ok_or_else(|| missing(&of_v2))?;
            let base = unified.base(&of_v2)?.ok_or_else(|| missing(&of_v2))?;
            bases.push((base, of_v2));
        }
        Ok(bases)
    }
}

/// Root and place of a mount, if it is of the hierarchy that has `controllers`.
fn mount_of<'a>(line: &'a str, is_v2: bool, controllers: &[String]) -> Option<(&'a Path, PathBuf)> {
    let (fields, rest) = line.split_once(" - ")?;
    let mut fields = fields.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    let mut rest = rest.split(' ');
    let (kind, options) = (rest.next()?, rest.nth(1)?);
    let is_it = match kind {
        "cgroup2" => is_v2,
        "cgroup" if !is_v2 => controllers
            .iter()
            .all(|wanted| options.split(',').any(|option| option == wanted)),
        _ => false,
    };
    is_it.then(|| (Path::new(root), PathBuf::from(unescaped(point))))
}

/// Spaces and the like are octal in mountinfo (proc(5)).
fn unescaped(text: &str) -> String {
    ["\\040", "\\011", "\\134"]
        .iter()
        .zip([" ", "\t", "\\"])
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

impl Unified {
    /// This process's own cgroup if it is alone there and may give controllers to children, else the nearest one
    /// above that does so already and may be written, else the root. `None` where none of them has the controllers.
    fn base(&self, needed: &[Controller]) -> Result<Option<Arc<Base>>, HostError> {
        let mut left = LEFT.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(base) = left.upgrade() {
            enable(base.path(), needed).map_err(|error| {
                refused("write(cgroup.subtree_control)", base.path(), error, needed)
            })?;
            return Ok(Some(base));
        }
        let mut refusal = None;
        if has(&self.own, "cgroup.controllers", needed) && self.is_alone() {
            match self.leave(needed) {
                Ok(base) => {
                    let base = Arc::new(base);
                    *left = Arc::downgrade(&base);
                    return Ok(Some(base));
                }
                Err(error) => refusal = Some(error),
            }
        }
        for dir in self
            .own
            .ancestors()
            .take_while(|dir| dir.starts_with(&self.mount))
        {
            let is_root = !dir.join("cgroup.type").exists();
            let gives = has(dir, "cgroup.subtree_control", needed);
            if is_root && !gives && has(dir, "cgroup.controllers", needed) {
                // Only the root may have processes and give controllers.
                let _ = enable(dir, needed);
            }
            if !has(dir, "cgroup.subtree_control", needed) {
                continue;
            }
            match may_write(dir) {
                Ok(()) => return Ok(Some(Arc::new(Base::V2(dir.to_owned())))),
                Err(error) => {
                    refusal.get_or_insert_with(|| refused("access", dir, error, needed));
                }
            }
        }
        match refusal {
            Some(error) => Err(error),
            None if has(&self.own, "cgroup.controllers", needed) => {
                let error = HostError {
                    step: Step::Cgroup,
                    call: format!("{} has other processes", self.own.display()),
                    errno: None,
                    detail: format!(
                        "so it cannot give its controllers to a container; {}",
                        wanted(needed)
                    ),
                };
                Err(error)
            }
            None => Ok(None),
        }
    }

    fn is_alone(&self) -> bool {
        let own = std::process::id().to_string();
        fs::read_to_string(self.own.join("cgroup.procs")).is_ok_and(|procs| procs.trim() == own)
    }

    /// Moves this process into a cgroup below its own, so that the containers' can be made beside it.
    fn leave(&self, needed: &[Controller]) -> Result<Base, HostError> {
        let leaf = self.own.join(format!("smokegate-{}", std::process::id()));
        fs::create_dir(&leaf).map_err(|error| refused("mkdir", &leaf, error, needed))?;
        let base = Base::Left {
            path: self.own.clone(),
            leaf: leaf.clone(),
        };
        // From here on dropping it undoes what was done.
        let own = std::process::id().to_string();
        write(&leaf.join("cgroup.procs"), &own)
            .map_err(|error| refused("write(cgroup.procs)", &leaf, error, needed))?;
        enable(&self.own, needed)
            .map_err(|error| refused("write(cgroup.subtree_control)", &self.own, error, needed))?;
        Ok(base)
    }
}

fn refused(call: &str, dir: &Path, error: io::Error, needed: &[Controller]) -> HostError {
    let call = format!("{call} in {}", dir.display());
    let mut error = HostError::new(Step::Cgroup, call, error);
    error.detail = wanted(needed);
    error
}

/// Whether a cgroup's list of controllers has all that are needed.
fn has(dir: &Path, list: &str, needed: &[Controller]) -> bool {
    let text = fs::read_to_string(dir.join(list)).unwrap_or_default();
    needed.iter().all(|controller| {
        text.split_whitespace()
            .any(|name| name == controller.name())
    })
}

/// Gives controllers to a cgroup's children.
fn enable(dir: &Path, needed: &[Controller]) -> io::Result<()> {
    let text: Vec<_> = needed.iter().map(|c| format!("+{}", c.name())).collect();
    write(&dir.join("cgroup.subtree_control"), &text.join(" "))
}

/// Whether a cgroup may be made in `dir` and processes be moved across it.
fn may_write(dir: &Path) -> io::Result<()> {
    use rustix::fs::{Access, access};
    access(dir, Access::WRITE_OK)?;
    Ok(access(dir.join("cgroup.procs"), Access::WRITE_OK)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 23 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid - cgroup2 cgroup2 rw,nsdelegate
33 30 0:29 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory
34 30 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 30 0:31 /docker/1 /sys/fs/cgroup/pids\\040x rw,relatime - cgroup cgroup rw,pids
";

    #[test]
    fn own_cgroups_are_found_by_hierarchy_and_root_of_the_mount() {
        let own = "9:memory:/job\n8:cpu,cpuacct:/\n7:pids:/docker/1/job\n6:freezer:/x\n0::/job\n";
        let mut places = Places::parse(own, HYBRID);
        let all = [Controller::Memory, Controller::Cpu, Controller::Pids];
        let bases = places.bases(&all).unwrap();
        let paths: Vec<_> = bases
            .iter()
            .map(|(base, _)| base.path().to_str().unwrap())
            .collect();
        assert_eq!(
            paths,
            [
                "/sys/fs/cgroup/memory/job",
                "/sys/fs/cgroup/cpu,cpuacct",
                "/sys/fs/cgroup/pids x/job"
            ]
        );
        assert!(bases.iter().all(|(base, _)| !base.is_v2()));
        // Outside what is mounted here.
        let places = Places::parse("7:pids:/docker/2\n9:memory:/../x\n", HYBRID);
        assert_eq!(places.v1.len(), 1, "{places:?}");
    }

    /// A tree of files that stands for a cgroup v2 file system.
    fn tree(cgroups: &[(&str, &str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, controllers, given) in cgroups {
            let dir = root.path().join(path);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("cgroup.controllers"), controllers).unwrap();
            fs::write(dir.join("cgroup.subtree_control"), given).unwrap();
            fs::write(dir.join("cgroup.procs"), "1\n2\n").unwrap();
            if !path.is_empty() {
                fs::write(dir.join("cgroup.type"), "domain").unwrap();
            }
        }
        root
    }

    #[test]
    fn on_v2_the_nearest_cgroup_that_gives_the_controllers_is_taken() {
        let needed = [Controller::Memory, Controller::Pids];
        let root = tree(&[
            ("", "cpu memory pids", "cpu memory pids"),
            ("user", "cpu memory pids", "memory pids"),
            ("user/session", "memory pids", ""),
        ]);
        let unified = |own: &str| Unified {
            mount: root.path().to_owned(),
            own: root.path().join(own),
        };
        let base = unified("user/session").base(&needed).unwrap().unwrap();
        assert_eq!(base.path(), root.path().join("user"));
        // `cpu` is given by the root only.
        let base = unified("user/session").base(&[Controller::Cpu]).unwrap();
        assert_eq!(base.unwrap().path(), root.path());

        // Nobody gives them, and the own cgroup has other processes.
        let root = tree(&[("job", "memory pids", "")]);
        let unified = Unified {
            mount: root.path().join("job"),
            own: root.path().join("job"),
        };
        let error = unified.base(&needed).unwrap_err().to_string();
        assert!(error.contains("has other processes"), "{error}");
        assert!(unified.base(&[Controller::Cpu]).unwrap().is_none());
    }

    #[test]
    fn a_process_alone_in_its_cgroup_makes_room_and_goes_back() {
        let root = tree(&[("scope", "memory pids", "")]);
        let own = root.path().join("scope");
        let id = std::process::id();
        fs::write(own.join("cgroup.procs"), format!("{id}\n")).unwrap();
        let leaf = own.join(format!("smokegate-{id}"));
        let unified = Unified {
            mount: root.path().to_owned(),
            own: own.clone(),
        };
        // A directory of these tests has no file of the kernel's: refused half-way, and undone.
        let error = unified.base(&[Controller::Memory]).unwrap_err().to_string();
        assert!(error.contains("write(cgroup.procs) in"), "{error}");
        assert!(!leaf.exists());
    }
}
