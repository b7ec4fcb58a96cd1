//! The last step of a container process before `execve`: id map, capabilities, signals, and the call itself.
//!
//! libcontainer runs everything up to here as id 0 of the pod's user namespace with all its capabilities;
//! one executor then serves a container's first process and what is exec'd into it later, so that both end
//! with the same rights. What it cannot do it reports through a pipe that a successful `execve` closes.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ffi::{CString, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use libcontainer::oci_spec::runtime::Spec;
use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, setrlimit};
use rustix::pty::OpenptFlags;
use rustix::termios::Winsize;
use rustix::thread::{CapabilitySet, CapabilitySets, Gid, LinkNameSpaceType, Uid, UnshareFlags};
use serde::{Deserialize, Serialize};
use smokegate_image::Identity;

use super::id_watch::Installation;
use super::init;
use super::user_ns::{map_single_id, unshare};
use crate::capabilities;
use crate::host_config::Ulimit;
use crate::pod::TerminalSize;
use crate::seccomp::Filter;
use crate::wire::Wire;

/// Where the process's ids come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum IdMap {
    /// The pod's user namespace has the ids already.
    AsInPod,
    /// The pod's one id becomes the identity's, in a user namespace made for this process.
    Nested,
    /// The user namespace that the container's first process made, by descriptor.
    Joined(RawFd),
}

/// Everything the last step needs; cloned into the container's process by libcontainer.
#[derive(Clone, Debug)]
pub(super) struct Workload {
    pub(super) identity: Identity,
    pub(super) id_map: IdMap,
    /// Whether `setgroups` is to be called: not where the id map denies it.
    pub(super) set_groups: bool,
    pub(super) filter: Filter,
    /// Set where the id map lacks ids.
    pub(super) id_watch: Option<Installation>,
    /// The capabilities that were asked for; what of them this process does not have itself it cannot pass on.
    pub(super) bounding: CapabilitySet,
    pub(super) ulimits: Vec<Ulimit>,
    pub(super) no_new_privileges: bool,
    /// Whether this process stays behind as an init.
    pub(super) init: bool,
    pub(super) args: Vec<String>,
    pub(super) env: Vec<String>,
    /// `cgroup.procs` of the container's cgroups, opened for writing by the parent; close-on-exec.
    pub(super) cgroups: Vec<RawFd>,
    /// Where the other end of a terminal goes, and its size: a terminal becomes the three standard streams. The socket
    /// is close-on-exec.
    pub(super) terminal: Option<(RawFd, TerminalSize)>,
    /// Where a [`Failure`] is written; close-on-exec.
    pub(super) report: RawFd,
}

/// A descriptor that is not known yet.
pub(super) const NO_FD: RawFd = -1;

/// Why a process did not reach its program.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    pub(super) call: String,
    pub(super) errno: i32,
    /// Set when the call was `execve` itself.
    pub(super) exec: Option<ExecFailure>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct ExecFailure {
    pub(super) program: String,
    pub(super) path: Option<String>,
    pub(super) file_exists: bool,
}

impl Executor for Workload {
    fn exec(&self, _: &Spec) -> Result<(), ExecutorError> {
        let failure = self.become_program();
        let text = serde_json::to_vec(&failure).unwrap_or_default();
        // SAFETY: the descriptor was open when libcontainer cloned this process, and is only closed by execve.
        let report = unsafe { BorrowedFd::borrow_raw(self.report) };
        let _ = rustix::io::write(report, &text);
        Err(ExecutorError::Other(failure.call))
    }

    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(()) // `execve` is the judge; its errno is reported.
    }

    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(()) // The environment is an argument of `execve`.
    }
}

impl Workload {
    /// Returns only when it failed.
    fn become_program(&self) -> Failure {
        if let Err((call, error)) = self.prepare() {
            return Failure {
                call: call.into_owned(),
                errno: error.raw_os_error().unwrap_or(0),
                exec: None,
            };
        }
        default_signals();
        self.execute()
    }

    fn prepare(&self) -> Result<(), (Cow<'static, str>, io::Error)> {
        if let Some((socket, size)) = self.terminal {
            self.take_terminal(socket, size)?;
        }
        self.take_identity()?;
        if self.init {
            init::stay_behind(&self.env_strings()).map_err(|(call, error)| (call.into(), error))?;
            if self.terminal.is_some() {
                // The init is not in front of the terminal, which would stop whoever reads from it. The signal that
                // stops us for this call is blocked.
                rustix::termios::tcsetpgrp(io::stdin(), rustix::process::getpid())
                    .map_err(|errno| ("tcsetpgrp".into(), errno.into()))?;
            }
        }
        Ok(())
    }

    /// Makes a terminal of the container's own (pts(4)), which this process, the leader of its session, controls.
    fn take_terminal(
        &self,
        socket: RawFd,
        size: TerminalSize,
    ) -> Result<(), (Cow<'static, str>, io::Error)> {
        let failed = |call: &'static str| move |errno: Errno| (Cow::from(call), errno.into());
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let controller = rustix::pty::openpt(flags).map_err(failed("open(/dev/ptmx)"))?;
        rustix::pty::unlockpt(&controller).map_err(failed("ioctl(TIOCSPTLCK)"))?;
        let terminal = rustix::pty::ioctl_tiocgptpeer(&controller, flags)
            .map_err(failed("ioctl(TIOCGPTPEER)"))?;
        let size = Winsize {
            ws_row: size.rows,
            ws_col: size.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(&controller, size).map_err(failed("ioctl(TIOCSWINSZ)"))?;
        // Where the ids are mapped anew, the one that exists here becomes the user's.
        if matches!(self.id_map, IdMap::AsInPod) {
            let owner = rustix::fs::Uid::from_raw(self.identity.uid);
            rustix::fs::fchown(&terminal, Some(owner), None).map_err(failed("fchown(terminal)"))?;
        }
        rustix::process::ioctl_tiocsctty(&terminal).map_err(failed("ioctl(TIOCSCTTY)"))?;
        rustix::stdio::dup2_stdin(&terminal).map_err(failed("dup2"))?;
        rustix::stdio::dup2_stdout(&terminal).map_err(failed("dup2"))?;
        rustix::stdio::dup2_stderr(&terminal).map_err(failed("dup2"))?;
        // SAFETY: the descriptor was open when libcontainer cloned this process, which owns its copy.
        let wire = Wire::from_fd(unsafe { OwnedFd::from_raw_fd(socket) });
        wire.send(&(), &[controller.as_fd()])
            .map_err(|error| ("sendmsg(terminal)".into(), error))
    }

    fn take_identity(&self) -> Result<(), (Cow<'static, str>, io::Error)> {
        let failed = |call: &'static str| move |errno: Errno| (Cow::from(call), errno.into());
        for fd in &self.cgroups {
            // SAFETY: the helper holds them open as long as the container is there; closed here by execve.
            let procs = unsafe { BorrowedFd::borrow_raw(*fd) };
            // 0 is the writer, in whichever pid namespace (cgroups(7)). The rights are those of who opened it.
            rustix::io::write(procs, b"0").map_err(failed("write(cgroup.procs)"))?;
        }
        self.enter_id_map()
            .map_err(|(call, error)| (call.into(), error))?;
        let own = capabilities::own().map_err(|e| ("capget".into(), e))?;
        let allowed = self.bounding.intersection(own);
        let dropped = CapabilitySet::all().difference(allowed);
        for capability in dropped.iter() {
            match rustix::thread::remove_capability_from_bounding_set(capability) {
                // A capability that this kernel does not know cannot be regained either.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(errno) => return Err(failed("prctl(PR_CAPBSET_DROP)")(errno)),
            }
        }
        // Loading without no_new_privs needs CAP_SYS_ADMIN, so it comes before the sets are cut down.
        self.filter
            .load()
            .map_err(|e| ("seccomp(SECCOMP_SET_MODE_FILTER)".into(), e))?;
        // As the one who may raise them, where that can be had.
        for ulimit in &self.ulimits {
            let set = match ulimit.resource() {
                Some(resource) => setrlimit(resource, ulimit.rlimit()),
                None => Err(Errno::INVAL),
            };
            set.map_err(|errno| (format!("setrlimit({})", ulimit.name).into(), errno.into()))?;
        }
        let Identity {
            uid, gid, groups, ..
        } = &self.identity;
        if self.set_groups {
            // The primary one too, as Docker has it since CVE-2022-36109: what setgid(2) leaves must not be more.
            let all = std::iter::once(gid).chain(groups);
            let groups: Vec<Gid> = all.copied().map(Gid::from_raw).collect();
            rustix::thread::set_thread_groups(&groups).map_err(failed("setgroups"))?;
        }
        let gid = Gid::from_raw(*gid);
        rustix::thread::set_thread_res_gid(gid, gid, gid).map_err(failed("setresgid"))?;
        let id = Uid::from_raw(*uid);
        rustix::thread::set_thread_res_uid(id, id, id).map_err(failed("setresuid"))?;
        // After the ids are set, as nobody would let a stopped call of ours go on yet; before CAP_SYS_ADMIN goes.
        if let Some(watch) = &self.id_watch {
            watch
                .install()
                .map_err(|e| ("sendmsg(seccomp listener)".into(), e))?;
        }
        let own = if *uid == 0 {
            allowed
        } else {
            CapabilitySet::empty()
        };
        let sets = CapabilitySets {
            effective: own,
            permitted: own,
            inheritable: CapabilitySet::empty(),
        };
        rustix::thread::set_capabilities(None, sets).map_err(failed("capset"))?;
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true).map_err(failed("prctl(PR_SET_NO_NEW_PRIVS)"))?;
        }
        Ok(())
    }

    fn enter_id_map(&self) -> Result<(), (&'static str, io::Error)> {
        match self.id_map {
            IdMap::AsInPod => Ok(()),
            IdMap::Nested => {
                unshare(UnshareFlags::NEWUSER).map_err(|e| ("unshare(CLONE_NEWUSER)", e))?;
                // libcontainer made the process non-dumpable; its own /proc/self/uid_map is then root's.
                rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)
                    .map_err(|e| ("prctl(PR_SET_DUMPABLE)", e.into()))?;
                map_single_id((self.identity.uid, 0), (self.identity.gid, 0))
            }
            IdMap::Joined(fd) => {
                // SAFETY: opened by the helper before libcontainer cloned this process, closed by execve.
                let namespace = unsafe { BorrowedFd::borrow_raw(fd) };
                rustix::thread::move_into_link_name_space(namespace, Some(LinkNameSpaceType::User))
                    .map_err(|e| ("setns(CLONE_NEWUSER)", e.into()))
            }
        }
    }

    /// The environment without what no program can be given.
    fn env_strings(&self) -> Vec<CString> {
        let strings = self.env.iter().map(|entry| CString::new(entry.as_bytes()));
        strings.filter_map(Result::ok).collect()
    }

    fn execute(&self) -> Failure {
        let word = self.args.first().cloned().unwrap_or_default();
        let path = self
            .env
            .iter()
            .find_map(|entry| entry.strip_prefix("PATH="));
        let (program, searched) = if word.contains('/') {
            (Ok(PathBuf::from(&word)), None)
        } else {
            (find_on_path(&word, path.unwrap_or_default()), path)
        };
        let (program, errno, file_exists) = match program {
            Ok(program) => {
                let errno = match execve(&program, &self.args, &self.env) {
                    // As Docker says it; the kernel's word for a directory is the same as for a missing x bit.
                    libc::EACCES if program.is_dir() => libc::EISDIR,
                    errno => errno,
                };
                let file_exists = program.exists();
                (program, errno, file_exists)
            }
            Err(errno) => (PathBuf::from(&word), errno, false),
        };
        let program = program.display().to_string();
        let path = searched.map(str::to_owned);
        Failure {
            call: format!("execve({program})"),
            errno,
            exec: Some(ExecFailure {
                program,
                path,
                file_exists,
            }),
        }
    }
}

/// The first executable regular file of that name, as Docker's runtime looks it up (Go's exec.LookPath).
fn find_on_path(word: &str, path: &str) -> Result<PathBuf, i32> {
    let mut errno = libc::ENOENT;
    for dir in path.split(':') {
        let candidate = Path::new(if dir.is_empty() { "." } else { dir }).join(word);
        match candidate.metadata() {
            Ok(found) if found.is_file() && found.permissions().mode() & 0o111 != 0 => {
                return Ok(candidate);
            }
            Ok(found) if found.is_file() => errno = libc::EACCES,
            _ => {}
        }
    }
    Err(errno)
}

/// Returns only on failure, with its errno.
fn execve(program: &Path, args: &[String], env: &[String]) -> i32 {
    let c_string = |bytes: &OsStr| CString::new(bytes.as_bytes());
    let strings = |list: &[String]| -> Result<Vec<CString>, std::ffi::NulError> {
        list.iter()
            .map(|item| CString::new(item.as_bytes()))
            .collect()
    };
    let (Ok(program), Ok(args), Ok(env)) =
        (c_string(program.as_os_str()), strings(args), strings(env))
    else {
        return libc::EINVAL;
    };
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter()
            .map(|item| item.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (argv, envp) = (pointers(&args), pointers(&env));
    // SAFETY: the arrays end with a null pointer, and they and their strings live until the call returns.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
        .raw_os_error()
        .unwrap_or(libc::EIO)
}

/// Gives every signal its default action and blocks none: Rust's runtime ignores SIGPIPE, which would
/// otherwise be inherited (signal(7), execve(2)).
fn default_signals() {
    for signal in 1..=libc::SIGRTMAX() {
        // SAFETY: sets a disposition without a handler; SIGKILL and SIGSTOP answer EINVAL, which is fine.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let mut none = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set that sigprocmask then reads.
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}
