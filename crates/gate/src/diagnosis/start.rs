//! Why a first process did not come to run, by what `execve` answered.

use smokegate_sandbox::{StartError, errno_text};

// The same numbers on every Linux (asm-generic/errno-base.h).
const ENOENT: i32 = 2;
const ENOEXEC: i32 = 8;
const EACCES: i32 = 13;
const EISDIR: i32 = 21;

/// The kind of cause, by the name that lint has for it.
pub(super) fn id(error: &StartError) -> &'static str {
    match error {
        StartError::Exec {
            errno: ENOENT,
            file_exists: true,
            ..
        } => "interpreter-missing",
        StartError::Exec { errno: ENOENT, .. } => "program-not-found",
        StartError::Exec { errno: EISDIR, .. } => "program-is-directory",
        StartError::Exec { errno: EACCES, .. } => "program-not-executable",
        StartError::Exec { errno: ENOEXEC, .. } => "exec-format",
        StartError::Exec { .. } => "exec-failed",
        StartError::NoSuchUser { .. } => "user-unknown",
        StartError::Image(_) => "configuration",
        StartError::IdMap(_) => "id-map",
        StartError::NotGiven { .. } => "right-not-given",
        StartError::Host(_) => "host",
    }
}

/// The cause in one sentence.
pub(super) fn cause(error: &StartError) -> String {
    match error {
        StartError::Exec {
            program,
            path: Some(path),
            errno: ENOENT,
            file_exists: false,
        } => {
            format!("the entrypoint `{program}` is not on the image's PATH ({path})")
        }
        StartError::Exec {
            program,
            errno: ENOENT,
            file_exists: true,
            ..
        } => format!(
            "the entrypoint `{program}` is in the image, but its interpreter is not (the program of its `#!` line, or the dynamic loader of its C library)"
        ),
        StartError::Exec {
            program,
            errno: ENOENT,
            ..
        } => {
            format!("the entrypoint `{program}` does not exist in the image")
        }
        StartError::Exec {
            program,
            errno: EISDIR,
            ..
        } => format!("the entrypoint `{program}` is a directory"),
        StartError::Exec {
            program,
            errno: EACCES,
            ..
        } => {
            format!("the entrypoint `{program}` is not executable by the container's user")
        }
        StartError::Exec {
            program,
            errno: ENOEXEC,
            ..
        } => format!(
            "the entrypoint `{program}` is not a program this machine can run (exec format error: another architecture, or a script without a `#!` line)"
        ),
        StartError::Exec { program, errno, .. } => {
            format!(
                "the entrypoint `{program}` cannot be run: {}",
                errno_text(*errno)
            )
        }
        other => other.to_string(),
    }
}
