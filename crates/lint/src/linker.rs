//! Which libraries a program would get from the image's dynamic linker: ld.so(8) of glibc, and musl's.

use std::collections::BTreeMap;

use crate::elf::Elf;
use crate::index::Content;
use crate::tree::{ImageTree, NodeKind};

/// Directories that glibc's linker knows by itself; distributions add that of the architecture.
const DEFAULT_DIRS: [&str; 4] = ["/lib64", "/usr/lib64", "/lib", "/usr/lib"];
/// musl's, where no `/etc/ld-musl-ARCH.path` says otherwise.
const MUSL_DIRS: [&str; 3] = ["/lib", "/usr/local/lib", "/usr/lib"];
const MAX_LIBRARIES: usize = 2000;

/// The C library whose linker a program asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Libc {
    Glibc,
    Musl,
}

impl Libc {
    /// By the file name of the interpreter.
    pub(crate) fn of(interpreter: &str) -> Option<Self> {
        let name = interpreter.rsplit('/').next().unwrap_or_default();
        if name.starts_with("ld-musl-") {
            Some(Self::Musl)
        } else if name.starts_with("ld-linux") || name.starts_with("ld64.so") || name == "ld.so.1" {
            Some(Self::Glibc)
        } else {
            None
        }
    }
}

/// What the linker would complain about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unresolved {
    /// `library` was found nowhere the linker looks; `by` wants it.
    Library {
        library: String,
        by: String,
        elsewhere: Vec<String>,
        searched: Vec<String>,
    },
    /// `library` at `path` lacks a version that `by` was linked against.
    Version {
        version: String,
        path: String,
        by: String,
        newest: Option<String>,
    },
}

/// A program's libraries, followed to the last.
pub(crate) struct Linker<'t> {
    tree: &'t ImageTree,
    libc: Libc,
    /// `LD_LIBRARY_PATH` of the environment, split.
    environment: Vec<String>,
    system: Vec<String>,
    /// The names in `/etc/ld.so.cache`, as they stand there.
    cache: Vec<u8>,
    program: Elf,
}

struct Loaded {
    path: String,
    elf: Elf,
    /// RPATHs of those that led here, nearest first, `$ORIGIN` replaced.
    inherited: Vec<String>,
}

impl<'t> Linker<'t> {
    pub(crate) fn new(
        tree: &'t ImageTree,
        program: &Elf,
        libc: Libc,
        library_path: Option<&str>,
    ) -> Self {
        let split = |text: &str| {
            let parts = text.split([':', ';']).filter(|part| !part.is_empty());
            parts.map(str::to_owned).collect()
        };
        let system = match libc {
            Libc::Glibc => glibc_dirs(tree),
            Libc::Musl => musl_dirs(tree, program),
        };
        Self {
            tree,
            libc,
            environment: library_path.map_or_else(Vec::new, split),
            system,
            cache: text(tree, "/etc/ld.so.cache").unwrap_or_default().to_vec(),
            program: program.clone(),
        }
    }

    /// Everything that is missing, breadth first as the linker loads.
    pub(crate) fn unresolved(&self, path: &str) -> Vec<Unresolved> {
        let mut problems = Vec::new();
        let mut by_name: BTreeMap<String, Option<(String, Elf)>> = BTreeMap::new();
        let mut queue = vec![Loaded {
            path: path.to_owned(),
            elf: self.program.clone(),
            inherited: Vec::new(),
        }];
        let mut at = 0;
        while at < queue.len() && queue.len() < MAX_LIBRARIES {
            let Loaded {
                path,
                elf,
                inherited,
            } = &queue[at];
            let (path, elf) = (path.clone(), elf.clone());
            let dirs = self.dirs(&path, &elf, inherited);
            let rpath = if elf.runpath.is_empty() {
                let mut rpath = expand(&elf.rpath, &path);
                rpath.extend(inherited.iter().cloned());
                rpath
            } else {
                Vec::new()
            };
            at += 1;
            for library in &elf.needed {
                if !by_name.contains_key(library) {
                    let found = self.search(library, &dirs);
                    match &found {
                        Some((path, elf)) => queue.push(Loaded {
                            path: path.clone(),
                            elf: elf.clone(),
                            inherited: rpath.clone(),
                        }),
                        None if self.is_the_linker(library) => {}
                        // `$LIB` and `$PLATFORM` are known to the linker alone.
                        None if dirs.iter().any(|dir| dir.contains('$')) => {}
                        None => problems.push(Unresolved::Library {
                            library: library.clone(),
                            by: path.clone(),
                            elsewhere: self.tree.named(library),
                            searched: dirs.clone(),
                        }),
                    }
                    by_name.insert(library.clone(), found);
                }
            }
            for (library, versions) in &elf.versions_needed {
                let Some(Some((from, provider))) = by_name.get(library) else {
                    continue;
                };
                // A library without versions takes any.
                if self.libc == Libc::Musl || provider.versions_defined.is_empty() {
                    continue;
                }
                for version in versions {
                    if !provider.versions_defined.contains(version) {
                        problems.push(Unresolved::Version {
                            version: version.clone(),
                            path: from.clone(),
                            by: path.clone(),
                            newest: newest(&provider.versions_defined, version),
                        });
                    }
                }
            }
        }
        problems
    }

    /// musl's linker is its C library, and answers to these names whatever version follows (ldso/dynlink.c).
    fn is_the_linker(&self, library: &str) -> bool {
        const OWN: [&str; 7] = ["c", "pthread", "rt", "m", "dl", "util", "xnet"];
        match self.libc {
            Libc::Musl => library
                .strip_prefix("lib")
                .and_then(|name| name.split_once('.'))
                .is_some_and(|(name, _)| OWN.contains(&name)),
            // linux-vdso, and the linker itself where it stands under another name.
            Libc::Glibc => library.starts_with("ld-linux") || library.starts_with("ld64.so"),
        }
    }

    fn dirs(&self, path: &str, elf: &Elf, inherited: &[String]) -> Vec<String> {
        let mut dirs = Vec::new();
        if elf.runpath.is_empty() || self.libc == Libc::Musl {
            dirs.extend(expand(&elf.rpath, path));
            dirs.extend(inherited.iter().cloned());
        }
        dirs.extend(self.environment.iter().cloned());
        dirs.extend(expand(&elf.runpath, path));
        dirs.extend(self.system.iter().cloned());
        let mut unique: Vec<String> = Vec::new();
        for dir in dirs {
            if !unique.contains(&dir) {
                unique.push(dir);
            }
        }
        unique
    }

    fn search(&self, library: &str, dirs: &[String]) -> Option<(String, Elf)> {
        if library.contains('/') {
            return self.fitting(library);
        }
        let listed = || {
            // The cache is newer than its configuration where a directory was removed from that.
            let mut needle = library.as_bytes().to_vec();
            needle.push(0);
            let is_listed =
                self.libc == Libc::Glibc && self.cache.windows(needle.len()).any(|at| at == needle);
            if !is_listed {
                return None;
            }
            let mut paths = self.tree.named(library).into_iter();
            paths.find_map(|path| self.fitting(&path))
        };
        dirs.iter()
            .find_map(|dir| self.fitting(&format!("{dir}/{library}")))
            .or_else(listed)
    }

    /// The library at `path`, if it is one for this program's machine: the linker skips others.
    fn fitting(&self, path: &str) -> Option<(String, Elf)> {
        let found = self.tree.find(path).ok()?;
        let NodeKind::File(summary) = &found.node.kind else {
            return None;
        };
        let Content::Elf(elf) = &summary.content else {
            return None;
        };
        let fits = elf.machine == self.program.machine
            && elf.is_64 == self.program.is_64
            && elf.little_endian == self.program.little_endian;
        fits.then(|| (found.path, (**elf).clone()))
    }
}

/// `$ORIGIN` is the directory of the file that says it.
fn expand(dirs: &[String], path: &str) -> Vec<String> {
    let origin = path.rsplit_once('/').map_or("", |(dir, _)| dir);
    dirs.iter()
        .map(|dir| dir.replace("${ORIGIN}", origin).replace("$ORIGIN", origin))
        .collect()
}

/// `ld.so.conf` with what it includes, then the linker's own.
fn glibc_dirs(tree: &ImageTree) -> Vec<String> {
    let mut dirs = Vec::new();
    read_conf(tree, "/etc/ld.so.conf", &mut dirs, 0);
    for parent in ["/lib", "/usr/lib"] {
        let names = tree.names_in(parent);
        let architecture = names.iter().filter(|name| name.ends_with("-linux-gnu"));
        dirs.extend(architecture.map(|name| format!("{parent}/{name}")));
    }
    dirs.extend(DEFAULT_DIRS.map(str::to_owned));
    dirs
}

fn read_conf(tree: &ImageTree, path: &str, dirs: &mut Vec<String>, depth: usize) {
    let Some(conf) = text(tree, path).filter(|_| depth < 8) else {
        return;
    };
    for line in String::from_utf8_lossy(conf).lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        if let Some(pattern) = line
            .strip_prefix("include")
            .filter(|p| p.starts_with([' ', '\t']))
        {
            let pattern = pattern.trim();
            let pattern = if pattern.starts_with('/') {
                pattern.to_owned()
            } else {
                format!("/etc/{pattern}")
            };
            let Some((dir, name)) = pattern.rsplit_once('/') else {
                continue;
            };
            let (before, after) = name.split_once('*').unwrap_or((name, ""));
            for found in tree.names_in(dir) {
                if found.starts_with(before) && found.ends_with(after) {
                    read_conf(tree, &format!("{dir}/{found}"), dirs, depth + 1);
                }
            }
        } else if line.starts_with('/') {
            dirs.push(line.trim_end_matches('/').to_owned());
        }
    }
}

fn musl_dirs(tree: &ImageTree, program: &Elf) -> Vec<String> {
    let interpreter = program.interpreter.as_deref().unwrap_or_default();
    let name = interpreter.rsplit('/').next().unwrap_or_default();
    let name = name.split(".so").next().unwrap_or_default();
    match text(tree, &format!("/etc/{name}.path")) {
        Some(path) => String::from_utf8_lossy(path)
            .split([':', '\n'])
            .filter(|dir| !dir.is_empty())
            .map(str::to_owned)
            .collect(),
        None => MUSL_DIRS.map(str::to_owned).to_vec(),
    }
}

pub(crate) fn text<'t>(tree: &'t ImageTree, path: &str) -> Option<&'t [u8]> {
    match &tree.find(path).ok()?.node.kind {
        NodeKind::File(summary) => match &summary.content {
            Content::Text(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// Of the versions that are there, the highest of the same name: `GLIBC_2.36` for `GLIBC_2.38`.
fn newest(defined: &[String], wanted: &str) -> Option<String> {
    let family = wanted.split_once('_')?.0;
    let number = |version: &str| -> Option<Vec<u32>> {
        let numbers = version.strip_prefix(family)?.strip_prefix('_')?;
        numbers.split('.').map(|part| part.parse().ok()).collect()
    };
    defined
        .iter()
        .filter_map(|version| Some((number(version)?, version)))
        .max()
        .map(|(_, version)| version.clone())
}
