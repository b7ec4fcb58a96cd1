//! Whether a program of the image could be started: what execve(2) and the dynamic linker would say.

use smokegate_image::DEFAULT_PATH;

use crate::access::{Who, Wish};
use crate::elf::{Elf, machine_name};
use crate::finding::Finding;
use crate::index::Content;
use crate::linker::{Libc, Linker, Unresolved};
use crate::tree::{Found, ImageTree, Missing, NodeKind};

/// As many scripts in a row the kernel follows, each the interpreter of the one before (exec_binprm in fs/exec.c).
const MAX_INTERPRETERS: usize = 5;
/// The kernel reads no more of a script's first line (BINPRM_BUF_SIZE).
const MAX_SHEBANG: usize = 256;

/// In whose name and surroundings programs are looked up.
pub(crate) struct Programs<'a> {
    pub(crate) tree: &'a ImageTree,
    pub(crate) env: &'a [String],
    pub(crate) working_dir: &'a str,
    pub(crate) who: &'a Who,
    /// As in `linux/amd64`.
    pub(crate) architecture: &'a str,
    /// The level of x86-64 that the machine has, where one is asked about.
    pub(crate) cpu_level: Option<u8>,
}

/// Who starts a program; decides what is an error and how it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// The runtime, with the image's entrypoint.
    Entrypoint,
    /// The runtime, with the image's health check.
    Healthcheck,
}

impl Caller {
    fn what(self) -> &'static str {
        match self {
            Self::Entrypoint => "the entrypoint",
            Self::Healthcheck => "the health check",
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::Entrypoint => "config.Entrypoint",
            Self::Healthcheck => "config.Healthcheck",
        }
    }
}

impl<'a> Programs<'a> {
    /// The value of a variable of the container's environment; the last one counts.
    pub(crate) fn variable(&self, name: &str) -> Option<&'a str> {
        let mut values = self.env.iter().filter_map(|pair| pair.split_once('='));
        values
            .rfind(|(key, _)| *key == name)
            .map(|(_, value)| value)
    }

    /// A path as the container's process would take it.
    pub(crate) fn absolute(&self, path: &str) -> String {
        if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("{}/{path}", self.working_dir.trim_end_matches('/'))
        }
    }

    /// Where `program` is, searched as runc searches; the findings if nowhere.
    pub(crate) fn locate(&self, program: &str, caller: Caller) -> Result<Found<'a>, Box<Finding>> {
        if program.contains('/') {
            let path = self.absolute(program);
            return self
                .tree
                .find(&path)
                .map_err(|missing| Box::new(self.missing(program, &missing, caller)));
        }
        let path = self.variable("PATH").unwrap_or(DEFAULT_PATH);
        let mut refused = None;
        for dir in path.split(':') {
            let dir = if dir.is_empty() { "." } else { dir };
            let Ok(found) = self.tree.find(&self.absolute(&format!("{dir}/{program}"))) else {
                continue;
            };
            let is_file = matches!(found.node.kind, NodeKind::File(_));
            if is_file && found.node.mode & 0o111 != 0 {
                return Ok(found);
            }
            refused.get_or_insert(found);
        }
        if let Some(found) = refused {
            return Ok(found);
        }
        let what = caller.what();
        let mut finding = Finding::error(
            "program-not-found",
            format!("{what} `{program}` is in no directory of PATH"),
        )
        .at(caller.key(), program)
        .at("config.Env", format!("PATH={path}"));
        let others = self.tree.named(program);
        for other in others.iter().take(3) {
            finding = finding.at(other, "has this name");
        }
        Err(Box::new(match others.first() {
            Some(other) => {
                let dir = other.rsplit_once('/').map_or("/", |(dir, _)| dir);
                finding.fix(format!(
                    "name it by its path, `{other}`, or add `{dir}` to PATH"
                ))
            }
            None => finding.fix(format!(
                "install `{program}` in the image, or correct its name"
            )),
        }))
    }

    fn missing(&self, program: &str, missing: &Missing, caller: Caller) -> Finding {
        let what = caller.what();
        let id = "program-not-found";
        let (finding, fix) = match missing {
            Missing::Dangling { link, target } => (
                Finding::error(
                    "link-dangling",
                    if *link == self.absolute(program) {
                        format!("{what} `{program}` is a symbolic link to `{target}`, which the image has not")
                    } else {
                        format!("{what} `{program}` leads through `{link}`, a symbolic link to `{target}`, which the image has not")
                    },
                )
                .at(link, format!("-> {target}")),
                format!("copy `{target}` into the image too, or correct the link"),
            ),
            Missing::Loop => (
                Finding::error("link-loop", format!("{what} `{program}` is a circle of symbolic links")),
                "make one of the links point to a file".to_owned(),
            ),
            Missing::NotDirectory(path) => (
                Finding::error(id, format!("{what} `{program}` does not exist: `{path}` is no directory"))
                    .at(path, "is no directory"),
                "correct the path".to_owned(),
            ),
            Missing::Absent(path) => {
                let finding = Finding::error(id, format!("{what} `{program}` does not exist in the image"))
                    .at(path, "does not exist");
                let name = program.rsplit('/').next().unwrap_or(program);
                match self.tree.named(name).first() {
                    Some(other) => (
                        finding.at(other, "has this name"),
                        format!("the image has `{other}`; correct the path, or copy it to `{}`", self.absolute(program)),
                    ),
                    None if program.contains(' ') => (
                        finding,
                        "this is one word with a space; write the words as separate strings, or use the shell form"
                            .to_owned(),
                    ),
                    None => (finding, format!("copy `{program}` into the image, or correct its name")),
                }
            }
        };
        finding.at(caller.key(), program).fix(fix)
    }

    /// Everything that keeps `found` from being executed, and the interpreter's command line in front of it.
    pub(crate) fn check(&self, found: &Found<'a>, caller: Caller) -> Vec<Finding> {
        self.check_file(found, caller, 0)
    }

    fn check_file(&self, found: &Found<'a>, caller: Caller, depth: usize) -> Vec<Finding> {
        let what = if depth == 0 {
            caller.what()
        } else {
            "the interpreter"
        };
        let path = &found.path;
        let summary = match &found.node.kind {
            NodeKind::File(summary) => summary,
            NodeKind::Dir => {
                return vec![
                    Finding::error(
                        "program-is-directory",
                        format!("{what} `{path}` is a directory"),
                    )
                    .at(path, "is a directory")
                    .fix("name the program in it"),
                ];
            }
            _ => {
                return vec![
                    Finding::error(
                        "program-not-a-file",
                        format!("{what} `{path}` is no regular file"),
                    )
                    .at(path, "is a device or a pipe")
                    .fix("name a program"),
                ];
            }
        };
        if found.node.mode & 0o111 == 0 {
            return vec![
                Finding::error(
                    "program-not-executable",
                    format!("{what} `{path}` is not executable"),
                )
                .at(path, format!("mode {:04o}", found.node.mode))
                .fix(format!("`RUN chmod +x {path}`, or `COPY --chmod=755`")),
            ];
        }
        if let Some(at) = self.who.refused(found, Wish::Execute) {
            let (uid, gid) = (self.who.uid, self.who.gid);
            let mode = self.tree.find(&at).map_or(0, |at| at.node.mode);
            let owner = self
                .tree
                .find(&at)
                .map_or((0, 0), |at| (at.node.uid, at.node.gid));
            return vec![
                Finding::error(
                    "program-not-permitted",
                    format!("user {uid}:{gid} may not execute {what} `{path}`"),
                )
                .at(
                    &at,
                    format!("mode {mode:04o}, owner {}:{}", owner.0, owner.1),
                )
                .fix(format!(
                    "`COPY --chown={uid}:{gid}` it, or let others execute `{at}`"
                )),
            ];
        }
        match &summary.content {
            Content::Sparse => Vec::new(),
            Content::Elf(elf) => self.check_elf(path, elf, what),
            Content::BrokenElf(problem) => vec![
                Finding::error("elf-broken", format!("{what} `{path}` is a damaged ELF file: {problem}"))
                    .at(path, format!("{} bytes", summary.size))
                    .fix("build or copy it again"),
            ],
            Content::Text(text) if text.starts_with(b"#!") => {
                self.check_script(found, text, caller, depth)
            }
            Content::Text(text) if text.starts_with(b"\xef\xbb\xbf#!") => vec![
                Finding::error(
                    "script-byte-order-mark",
                    format!("the script `{path}` begins with a byte order mark, so that the kernel does not see its `#!`"),
                )
                .at_line(path, 1, "EF BB BF 23 21")
                .fix("save it as UTF-8 without a byte order mark"),
            ],
            Content::Text(head) | Content::Other(head) => {
                let problem = if summary.size == 0 {
                    "is empty".to_owned()
                } else if head.starts_with(b"MZ") {
                    "is a program for Windows".to_owned()
                } else if head.starts_with(b"\xcf\xfa\xed\xfe") || head.starts_with(b"\xca\xfe\xba\xbe") {
                    "is a program for macOS, or a Java class".to_owned()
                } else if is_text(head) {
                    "is a script without a `#!` line, which the kernel does not execute".to_owned()
                } else {
                    "is nothing that the kernel can execute".to_owned()
                };
                let id = if problem.contains("#!") { "script-no-shebang" } else { "exec-format" };
                let first = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
                vec![
                    Finding::error(id, format!("{what} `{path}` {problem}"))
                        .at_line(path, 1, first.escape_ascii())
                        .fix(if id == "script-no-shebang" {
                            "make its first line `#!/bin/sh`, or whatever it is written for"
                        } else {
                            "copy a program that was built for Linux"
                        }),
                ]
            }
        }
    }

    fn check_script(
        &self,
        found: &Found<'a>,
        text: &[u8],
        caller: Caller,
        depth: usize,
    ) -> Vec<Finding> {
        let path = &found.path;
        let line = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let shown = String::from_utf8_lossy(&line[..line.len().min(MAX_SHEBANG)]).into_owned();
        if let Some(at) = self.who.refused(found, Wish::Read) {
            return vec![
                Finding::error(
                    "script-not-readable",
                    format!("the script `{path}` may be executed but not read, and its interpreter has to read it"),
                )
                .at(at, format!("mode {:04o}", found.node.mode))
                .fix(format!("`RUN chmod +rx {path}`")),
            ];
        }
        let words = shown[2..].trim_start_matches([' ', '\t']);
        let (interpreter, argument) = match words.split_once([' ', '\t']) {
            Some((interpreter, argument)) => (interpreter, argument.trim_matches([' ', '\t'])),
            None => (words, ""),
        };
        if shown.ends_with('\r') {
            return vec![
                Finding::error(
                    "script-crlf",
                    if argument.is_empty() {
                        let interpreter = interpreter.trim_end_matches('\r');
                        format!("the script `{path}` has Windows line ends, so that its interpreter would be `{interpreter}\\r`")
                    } else {
                        let argument = argument.trim_end_matches('\r');
                        format!("the script `{path}` has Windows line ends, so that `{interpreter}` would be given `{argument}\\r`")
                    },
                )
                .at_line(path, 1, shown.escape_debug())
                .fix("convert it with `sed -i 's/\\r$//'`, and have Git check it out with `eol=lf`"),
            ];
        }
        if interpreter.is_empty() {
            return vec![
                Finding::error(
                    "script-no-interpreter",
                    format!("the script `{path}` names no interpreter"),
                )
                .at_line(path, 1, &shown)
                .fix("write `#!/bin/sh`, or whatever it is written for"),
            ];
        }
        if depth >= MAX_INTERPRETERS {
            return vec![
                Finding::error(
                    "script-too-deep",
                    format!("`{path}` is the script behind {MAX_INTERPRETERS} others that it interprets, and there the kernel gives up"),
                )
                .at_line(path, 1, &shown)
                .fix("let a program interpret them"),
            ];
        }
        let target = match self.tree.find(&self.absolute(interpreter)) {
            Ok(target) => target,
            Err(missing) => {
                let why = match &missing {
                    Missing::Dangling { target, .. } => {
                        format!(" (a link to `{target}`, which does not exist)")
                    }
                    _ => String::new(),
                };
                let name = interpreter.rsplit('/').next().unwrap_or(interpreter);
                let others = self.tree.named(name);
                let fix = match (others.first(), name) {
                    (Some(other), _) => format!("the image has `{other}`: write `#!{other}`"),
                    (None, "bash") => {
                        "install bash in the image, or write the script for `#!/bin/sh`".to_owned()
                    }
                    (None, _) => format!("install `{name}` in the image"),
                };
                return vec![
                    Finding::error(
                        "interpreter-missing",
                        format!("the script `{path}` needs `{interpreter}`, which the image has not{why}"),
                    )
                    .at_line(path, 1, &shown)
                    .fix(fix),
                ];
            }
        };
        let mut findings = self.check_file(&target, caller, depth + 1);
        for finding in &mut findings {
            let evidence = Finding::error("", "").at_line(path, 1, &shown).evidence;
            finding.evidence.splice(0..0, evidence);
        }
        let name = interpreter.rsplit('/').next().unwrap_or_default();
        if findings.is_empty() && name == "env" {
            // `-S`, alone or among other letters, makes env split what follows.
            let splits = argument.starts_with("--split-string")
                || argument.starts_with('-')
                    && !argument.starts_with("--")
                    && argument
                        .split(char::is_whitespace)
                        .next()
                        .is_some_and(|word| word.contains('S'));
            let words = argument.strip_prefix("-S").unwrap_or(argument);
            let mut words = words.split_whitespace().filter(|word| !word.contains('='));
            if let Some(program) = words.find(|word| !word.starts_with('-')) {
                if argument.contains([' ', '\t']) && !splits {
                    findings.push(
                        Finding::error(
                            "env-one-word",
                            format!("the script `{path}` asks env for a program named `{argument}`: the kernel hands everything behind the interpreter over as one word"),
                        )
                        .at_line(path, 1, &shown)
                        .fix(format!("write `#!{interpreter} -S {argument}`")),
                    );
                } else if let Err(missing) = self.locate(program, caller) {
                    findings.push(
                        Finding::error(
                            "env-target-missing",
                            format!("the script `{path}` needs `{program}`, which is in no directory of PATH"),
                        )
                        .at_line(path, 1, &shown)
                        .fix(missing.fix),
                    );
                } else if let Ok(program) = self.locate(program, caller) {
                    findings.extend(self.check_file(&program, caller, depth + 1));
                }
            }
        }
        findings
    }

    fn check_elf(&self, path: &str, elf: &Elf, what: &str) -> Vec<Finding> {
        let machine = machine_name(elf.machine, elf.is_64);
        let wanted = self.architecture;
        // An amd64 kernel runs 386 too, and some arm64 ones arm.
        let runs = machine == wanted
            || matches!(
                (wanted, machine.as_str()),
                ("amd64", "386" | "x32") | ("arm64", "arm")
            )
            || (wanted.starts_with("ppc64") && machine == "ppc64")
            || (wanted.starts_with("mips") && machine == "mips");
        let little_endian = !matches!(wanted, "ppc64" | "s390x" | "mips" | "mips64");
        if !runs || elf.little_endian != little_endian {
            let order = match elf.little_endian {
                _ if !runs => "",
                true => ", little-endian",
                false => ", big-endian",
            };
            return vec![
                Finding::error(
                    "wrong-architecture",
                    format!(
                        "`{path}` is a program for {machine}{order}, and the image is for {wanted}"
                    ),
                )
                .at(
                    path,
                    format!(
                        "ELF e_machine {}, EI_DATA {}",
                        elf.machine,
                        if elf.little_endian { 1 } else { 2 }
                    ),
                )
                .fix(format!(
                    "build it for {wanted}, or the image for the platform linux/{machine}"
                )),
            ];
        }
        if !matches!(elf.kind, 2 | 3) {
            return vec![
                Finding::error(
                    "elf-not-a-program",
                    format!("{what} `{path}` is no linked program"),
                )
                .at(path, format!("ELF e_type {}", elf.kind))
                .fix("link it"),
            ];
        }
        if let (Some(needed), Some(has)) = (elf.cpu_level, self.cpu_level)
            && needed > has
        {
            let level = |level: u8| match level {
                1 => "x86-64".to_owned(),
                level => format!("x86-64-v{level}"),
            };
            let (needed, has) = (level(needed), level(has));
            return vec![
                Finding::error(
                    "cpu-level",
                    format!("`{path}` needs a CPU of level {needed}, and this machine's has {has}"),
                )
                .at(path, format!("GNU property: ISA needed {needed}"))
                .fix(format!(
                    "build it for {has}, or run it on a machine like those of production"
                )),
            ];
        }
        let Some(interpreter) = &elf.interpreter else {
            return Vec::new();
        };
        let libc = Libc::of(interpreter);
        let musl = self
            .tree
            .names_in("/lib")
            .iter()
            .any(|name| name.starts_with("ld-musl-"));
        if !self.tree.exists(interpreter) {
            let glibc = ["/lib64", "/lib"].iter().any(|dir| {
                self.tree
                    .names_in(dir)
                    .iter()
                    .any(|name| name.starts_with("ld-linux"))
            });
            let (why, fix) = match libc {
                Some(Libc::Glibc) if musl => (
                    "it was built for glibc, and this image has musl (Alpine)",
                    "build it on Alpine, or statically, or use a base image with glibc such as debian:slim",
                ),
                Some(Libc::Musl) if glibc => (
                    "it was built for musl (Alpine), and this image has glibc",
                    "build it on the image's own distribution, or statically",
                ),
                Some(Libc::Glibc) => (
                    "it is linked to glibc dynamically, and this image has no C library",
                    "link it statically (for Go: CGO_ENABLED=0), or use a base image with glibc",
                ),
                Some(Libc::Musl) => (
                    "it is linked to musl dynamically, and this image has no C library",
                    "link it statically, or use Alpine as the base image",
                ),
                None => (
                    "the image has not got its dynamic linker",
                    "copy it into the image, or link the program statically",
                ),
            };
            return vec![
                Finding::error(
                    "loader-missing",
                    format!("`{path}` cannot start, as `{interpreter}` is not in the image: {why}"),
                )
                .at(path, format!("PT_INTERP {interpreter}"))
                .fix(fix),
            ];
        }
        let Some(libc) = libc else {
            return Vec::new();
        };
        // Alpine's gcompat stands in for glibc's linker and answers for its libraries, in ways of its own.
        if libc == Libc::Glibc && musl {
            return Vec::new();
        }
        let linker = Linker::new(self.tree, elf, libc, self.variable("LD_LIBRARY_PATH"));
        let problems = linker.unresolved(path);
        problems
            .iter()
            .take(8)
            .map(|problem| unresolved(path, problem))
            .collect()
    }
}

/// Whether the beginning of a file, cut anywhere, is text.
fn is_text(head: &[u8]) -> bool {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&head[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => return false,
    };
    !text
        .chars()
        .any(|letter| letter.is_control() && !letter.is_ascii_whitespace())
}

fn unresolved(path: &str, problem: &Unresolved) -> Finding {
    match problem {
        Unresolved::Library {
            library,
            by,
            elsewhere,
            searched,
        } => {
            let through = if by == path {
                String::new()
            } else {
                format!(", which `{by}` needs")
            };
            let finding = Finding::error(
                "library-missing",
                format!("`{path}` needs the library `{library}`{through}, and the linker does not find it"),
            )
            .at(by, format!("DT_NEEDED {library}"));
            match elsewhere.first() {
                Some(other) => finding
                    .at(other, format!("is not in {}", searched.join(":")))
                    .fix(format!(
                        "run ldconfig after adding its directory to /etc/ld.so.conf.d, or set LD_LIBRARY_PATH={}",
                        other.rsplit_once('/').map_or("/", |(dir, _)| dir)
                    )),
                None => finding.fix(format!("install the package that has `{library}`")),
            }
        }
        Unresolved::Version {
            version,
            path: provider,
            by,
            newest,
        } => {
            let has = newest.as_ref().map_or_else(
                || "has no such version".to_owned(),
                |newest| format!("goes up to {newest}"),
            );
            Finding::error(
                "library-too-old",
                format!("`{by}` needs {version}, and the image's `{provider}` {has}"),
            )
            .at(by, format!("needs version {version}"))
            .at(provider, &has)
            .fix("build it on the distribution release of the image, or use a newer base image")
        }
    }
}
