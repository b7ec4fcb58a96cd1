//! What an exit code or a signal means, together with what the process wrote before it ended.

use regex::Captures;
use smokegate_sandbox::ExitStatus;

use super::log_slice::LogSlice;
use super::refused_call;
use crate::log_capture::LogTail;

/// Lines at the end of a log that can tell why the process ended.
const LAST: usize = 40;

/// The id of a program that needs a newer CPU.
pub(crate) const CPU_LEVEL_ID: &str = "cpu-level";

/// What an end comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Clue {
    /// Names the kind of cause; never changes.
    pub(super) id: &'static str,
    /// Follows `exited with code 127 after 12 ms: `.
    pub(super) text: String,
    /// What to do.
    pub(super) hint: Option<&'static str>,
}

impl Clue {
    fn new(id: &'static str, text: impl Into<String>, hint: Option<&'static str>) -> Self {
        Self {
            id,
            text: text.into(),
            hint,
        }
    }
}

pub(super) fn ended(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("exited with code {code}"),
        ExitStatus::Signal(signal) => format!("was ended by {}", crate::signal::describe(signal)),
    }
}

/// What a process that failed wrote about it, else what its status means.
///
/// A code of 0 means nothing here: what was to go on running says why it did not by other means.
pub(super) fn clue(status: ExitStatus, log: &LogTail) -> Option<Clue> {
    if status == ExitStatus::Code(0) {
        return None;
    }
    let first = log.lines.len().saturating_sub(LAST);
    let lines: Vec<&str> = log.lines[first..]
        .iter()
        .map(|line| line.text.as_str())
        .collect();
    let library = lines.iter().find_map(|line| library_missing(line));
    let written = || lines.iter().rev().find_map(|line| of_line(line, status));
    library
        .or_else(written)
        .or_else(|| refused_call::clue(&lines))
        .or_else(|| of_signal(signal_of(status)?))
        .or_else(|| {
            let headline = LogSlice::of(&lines, LAST).headline?;
            Some(Clue::new("error-logged", format!("`{headline}`"), None))
        })
        .or_else(|| meaning(status))
}

/// The signal that ended a process, or one of its own whose code a shell passed on (128 and the signal's number).
fn signal_of(status: ExitStatus) -> Option<i32> {
    match status {
        ExitStatus::Signal(signal) => Some(signal),
        ExitStatus::Code(code @ 129..=192) => Some(code - 128),
        ExitStatus::Code(_) => None,
    }
}

/// What a shell means by an exit code.
fn meaning(status: ExitStatus) -> Option<Clue> {
    match status {
        ExitStatus::Code(126) => Some(Clue::new(
            "command-not-executable",
            "a command it ran is not executable",
            Some("RUN chmod +x it in the Dockerfile, or COPY --chmod=0755"),
        )),
        ExitStatus::Code(127) => Some(Clue::new(
            "command-not-found",
            "a command or library it needs is not in the image",
            Some(
                "smokegate lint IMAGE looks for it; install it in the image, or name it by its absolute path",
            ),
        )),
        _ => None,
    }
}

fn of_signal(signal: i32) -> Option<Clue> {
    // signal(7), the numbers of x86 and ARM.
    let (id, text, hint) = match signal {
        4 => (
            "illegal-instruction",
            "an instruction that this CPU does not have, or a trap that the compiler put there",
            "build it for an older CPU (-march=x86-64-v2, GOAMD64=v1, RUSTFLAGS=-Ctarget-cpu=x86-64-v2), or run it where production runs",
        ),
        5 => (
            "trap",
            "a trap, as runtimes raise it for a broken assertion",
            "its log above says which; a debug build says more",
        ),
        6 => (
            "aborted",
            "it aborted itself: a failed assertion, an uncaught exception, or corrupt memory",
            "its log above says which",
        ),
        7 => (
            "bus-error",
            "a bus error: memory whose file is shorter or full, as /dev/shm is with its 64 MiB",
            "give it more shared memory: `shm_size: 256m` in the gate file",
        ),
        8 => (
            "arithmetic",
            "an arithmetic error such as a division by zero",
            "a debug build says where",
        ),
        9 => (
            "killed",
            "something killed it: a process of its own, or the host as it ran out of memory; its own memory limit did not",
            "see whether the host ran out of memory (dmesg), and what in the image kills processes",
        ),
        11 => (
            "segmentation-fault",
            "a segmentation fault: a bug of the program, or libraries that do not fit it",
            "run it with the libraries it was built with; a debug build says where",
        ),
        15 => (
            "terminated",
            "a process of its own terminated it: smokegate had not asked it to end",
            "its log above says what else went wrong first",
        ),
        31 => (
            "bad-system-call",
            "a seccomp filter of its own refused it a call: smokegate's answers EPERM and ends nothing",
            "allow the call in the program's own sandbox, or switch that off in containers (such as --no-sandbox)",
        ),
        _ => return None,
    };
    Some(Clue::new(id, text, Some(hint)))
}

// glibc's ld.so: `/app: error while loading shared libraries: libpq.so.5: cannot open shared object file: …`.
pattern!(
    GLIBC_LIBRARY,
    r"^(?P<program>\S+): error while loading shared libraries: (?P<library>\S+): cannot open shared object file"
);
// musl's: `Error loading shared library libpq.so.5: No such file or directory (needed by /app)`.
pattern!(
    MUSL_LIBRARY,
    r"^Error loading shared library (?P<library>\S+): .*\(needed by (?P<program>\S+)\)"
);
// glibc's: `/app: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by /app)`.
pattern!(
    GLIBC_VERSION,
    r"^\S+: (?P<library>\S+): version [`'](?P<version>[^']+)' not found \(required by (?P<program>\S+)\)"
);
// musl's: `Error relocating /app: __snprintf_chk: symbol not found`.
pattern!(
    MUSL_SYMBOL,
    r"^Error relocating (?P<program>\S+): (?P<symbol>\S+): symbol not found"
);
// glibc's: `/app: CPU ISA level is lower than required`.
pattern!(
    CPU_LEVEL,
    r"^(?P<program>\S+): (?:\S+: )?CPU ISA level is lower than required"
);
// `/start: 3: app: not found` (dash), `/start: line 3: app: command not found` (bash), `…: No such file or directory`,
// `/start: 3: exec: app: not found`, `sh: app: not found`.
pattern!(
    SHELL_NOT_FOUND,
    r"^(?P<script>\S+): (?:line )?(?:(?P<line>\d+): )?(?:exec: )?(?P<program>[^:\s]+): (?:command )?(?:not found|No such file or directory)$"
);
// `/start: 3: /app: Permission denied`.
pattern!(
    SHELL_DENIED,
    r"^(?P<script>\S+): (?:line )?(?:(?P<line>\d+): )?(?:exec: )?(?P<program>[^:\s]+): Permission denied$"
);
// `/start: 3: /app: Exec format error`, `/start: line 3: /app: cannot execute binary file: Exec format error`.
pattern!(
    SHELL_FORMAT,
    r"^(?P<script>\S+): (?:line )?(?:(?P<line>\d+): )?(?:exec: )?(?P<program>[^:\s]+): (?:cannot execute binary file: )?Exec format error$"
);
// `env: 'python3': No such file or directory`, busybox's `env: can't execute 'python3': …`.
pattern!(
    ENV_NOT_FOUND,
    r"^\S*env: (?:can't execute )?[‘'`]?(?P<program>[^:’']+?)[’']?: No such file or directory"
);

/// What a dynamic linker says of a library that it did not find. What it says after that follows from it.
fn library_missing(line: &str) -> Option<Clue> {
    let found = GLIBC_LIBRARY
        .captures(line)
        .or_else(|| MUSL_LIBRARY.captures(line))?;
    Some(Clue::new(
        "library-missing",
        format!(
            "`{}` needs the library `{}`, which is not in the image where the linker looks",
            &found["program"], &found["library"]
        ),
        Some(
            "install the package that has it, or add its directory to LD_LIBRARY_PATH or /etc/ld.so.conf.d and run ldconfig",
        ),
    ))
}

/// What a line of a shell or a dynamic linker says, where the code is one that goes with it.
fn of_line(line: &str, status: ExitStatus) -> Option<Clue> {
    of_linker(line).or_else(|| match status {
        ExitStatus::Code(126) => of_shell_not_run(line),
        ExitStatus::Code(127) => of_shell_not_found(line),
        _ => None,
    })
}

fn of_linker(line: &str) -> Option<Clue> {
    if let Some(found) = GLIBC_VERSION.captures(line) {
        let library = found["library"].rsplit('/').next().unwrap_or_default();
        return Some(Clue::new(
            "library-too-old",
            format!(
                "`{}` needs {}, and the image's `{library}` is older",
                &found["program"], &found["version"]
            ),
            Some("build it on the image's own release, or use a newer base image"),
        ));
    }
    if let Some(found) = MUSL_SYMBOL.captures(line) {
        return Some(Clue::new(
            "symbol-missing",
            format!(
                "`{}` needs `{}`, which no library of the image has, as when a program built for glibc meets musl",
                &found["program"], &found["symbol"]
            ),
            Some(
                "build it on Alpine, or statically, or use a base image with glibc such as debian:slim",
            ),
        ));
    }
    let found = CPU_LEVEL.captures(line)?;
    Some(Clue::new(
        CPU_LEVEL_ID,
        format!(
            "`{}` was built for a newer CPU than this machine has",
            &found["program"]
        ),
        Some("build it for an older CPU (-march=x86-64-v2), or run it where production runs"),
    ))
}

fn of_shell_not_found(line: &str) -> Option<Clue> {
    let (place, program) = match ENV_NOT_FOUND.captures(line) {
        Some(found) => ("`env`".to_owned(), found["program"].to_owned()),
        None => place_and_program(&SHELL_NOT_FOUND.captures(line)?),
    };
    Some(Clue::new(
        "command-not-found",
        format!("{place} runs `{program}`, which is not in the image"),
        Some("install it in the image, or name it by its absolute path"),
    ))
}

fn of_shell_not_run(line: &str) -> Option<Clue> {
    if let Some(found) = SHELL_DENIED.captures(line) {
        let (place, program) = place_and_program(&found);
        return Some(Clue::new(
            "command-not-executable",
            format!("{place} runs `{program}`, which is not executable"),
            Some("RUN chmod +x it in the Dockerfile, or COPY --chmod=0755"),
        ));
    }
    let (place, program) = place_and_program(&SHELL_FORMAT.captures(line)?);
    Some(Clue::new(
        "exec-format",
        format!("{place} runs `{program}`, which this machine cannot execute"),
        Some("build it for this machine (docker buildx build --platform …)"),
    ))
}

/// Where a shell's message says that it was, and what it was to run there.
fn place_and_program(found: &Captures<'_>) -> (String, String) {
    let script = &found["script"];
    let place = match found.name("line") {
        Some(line) => format!("line {} of `{script}`", line.as_str()),
        None => format!("`{script}`"),
    };
    (place, found["program"].to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::log_capture::{LogLine, Stream};

    fn log(text: &str) -> LogTail {
        let line = |text: &str| LogLine {
            at: Duration::ZERO,
            stream: Stream::Stderr,
            text: text.to_owned(),
        };
        LogTail {
            lines: text.lines().map(line).collect(),
            total: text.lines().count() as u64,
        }
    }

    #[test]
    fn an_end_is_explained_by_what_was_written_or_by_its_code() {
        use ExitStatus::{Code, Signal};
        for (status, written, id, says) in [
            (
                Code(127),
                "/bin/sh: 1: gunicorn: not found",
                "command-not-found",
                "line 1 of `/bin/sh` runs `gunicorn`, which is not in the image",
            ),
            (
                Code(127),
                "/start.sh: line 3: ./app: No such file or directory",
                "command-not-found",
                "line 3 of `/start.sh` runs `./app`, which is not in the image",
            ),
            (
                Code(127),
                "/start: 2: exec: /app: not found",
                "command-not-found",
                "line 2 of `/start` runs `/app`, which is not in the image",
            ),
            (
                Code(127),
                "bash: line 1: nginx: command not found",
                "command-not-found",
                "line 1 of `bash` runs `nginx`, which is not in the image",
            ),
            (
                Code(127),
                "/usr/bin/env: 'python3': No such file or directory",
                "command-not-found",
                "`env` runs `python3`, which is not in the image",
            ),
            (
                Code(127),
                "env: can't execute 'node': No such file or directory",
                "command-not-found",
                "`env` runs `node`, which is not in the image",
            ),
            (
                Code(127),
                "/app: error while loading shared libraries: libpq.so.5: cannot open shared object file: No such file or directory",
                "library-missing",
                "`/app` needs the library `libpq.so.5`, which is not in the image where the linker looks",
            ),
            (
                Code(127),
                "Error loading shared library libpq.so.5: No such file or directory (needed by /app)",
                "library-missing",
                "`/app` needs the library `libpq.so.5`, which is not in the image where the linker looks",
            ),
            (
                Code(1),
                "/app: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.38' not found (required by /app)",
                "library-too-old",
                "`/app` needs GLIBC_2.38, and the image's `libc.so.6` is older",
            ),
            (
                Code(127),
                "Error relocating /app: __snprintf_chk: symbol not found",
                "symbol-missing",
                "`/app` needs `__snprintf_chk`, which no library of the image has, as when a program built for glibc meets musl",
            ),
            (
                Code(127),
                "/app: CPU ISA level is lower than required",
                "cpu-level",
                "`/app` was built for a newer CPU than this machine has",
            ),
            (
                Code(126),
                "/start: 1: /app: Permission denied",
                "command-not-executable",
                "line 1 of `/start` runs `/app`, which is not executable",
            ),
            (
                Code(126),
                "/start: line 2: /app: cannot execute binary file: Exec format error",
                "exec-format",
                "line 2 of `/start` runs `/app`, which this machine cannot execute",
            ),
            (
                Code(126),
                "",
                "command-not-executable",
                "a command it ran is not executable",
            ),
            (
                Code(127),
                "",
                "command-not-found",
                "a command or library it needs is not in the image",
            ),
            (
                Code(1),
                "x\nFATAL: no database\nbye",
                "error-logged",
                "`FATAL: no database`",
            ),
            (
                Code(139),
                "",
                "segmentation-fault",
                "a segmentation fault: a bug of the program, or libraries that do not fit it",
            ),
            (
                Signal(31),
                "FATAL: x",
                "bad-system-call",
                "a seccomp filter of its own refused it a call: smokegate's answers EPERM and ends nothing",
            ),
            (
                Code(1),
                "iptables v1.8.9 (nf_tables): Could not fetch rule set generation id: Permission denied (you must be root)",
                "right-missing",
                "it was refused what needs the right NET_ADMIN, which containers do not have by default",
            ),
        ] {
            let clue = clue(status, &log(written)).unwrap_or_else(|| panic!("{written}"));
            assert_eq!((clue.id, clue.text.as_str()), (id, says), "{written}");
        }
        // A script may ask for a program that it can do without.
        assert_eq!(
            clue(Code(3), &log("/start: 2: git: not found\nbye"))
                .unwrap()
                .id,
            "error-logged"
        );
        assert_eq!(clue(Code(3), &log("bye")), None);
        assert_eq!(clue(Code(0), &log("ERROR: x")), None);
    }
}
