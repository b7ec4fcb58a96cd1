//! Starts the init of a container with `init: true`: process 1 becomes `init_program.rs`, its child the program.
//!
//! The init is executed, from a sealed file in memory, rather than run as a fork of the helper: the helper's memory is
//! none of the container's business, and a process that is not dumpable could not be joined by what is exec'd later.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use crate::sealed;

/// The program, compiled by the build script.
pub(crate) const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/init"));
/// What it is called in process lists.
const NAME: &str = "smokegate-init";

/// Returns in a child, the leader of its own process group, which is to become the program; in the caller, process 1,
/// on failure only.
///
/// Signals are blocked in both: the child's are its own business to unblock before it becomes the program.
pub(super) fn stay_behind(env: &[CString]) -> Result<(), (&'static str, io::Error)> {
    let program = sealed::seal(NAME, &mut &*PROGRAM).map_err(|e| ("memfd_create(init)", e))?;
    // Before the fork, so that none is lost until it is waited for: process 1 never sees a signal that it neither
    // blocks nor handles (pid_namespaces(7)).
    let mut all = MaybeUninit::uninit();
    // SAFETY: sigfillset initialises the set that sigprocmask then reads.
    unsafe {
        libc::sigfillset(all.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), std::ptr::null_mut());
    }
    // SAFETY: this process has one thread, so the child may run any code.
    let child = match unsafe { libc::fork() } {
        -1 => return Err(("fork", io::Error::last_os_error())),
        0 => {
            // SAFETY: a plain call. It can only fail for a process that has executed a program.
            unsafe { libc::setpgid(0, 0) };
            return Ok(());
        }
        child => child,
    };
    let args =
        [NAME.to_owned(), child.to_string()].map(|text| CString::new(text).unwrap_or_default());
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        let items = list.iter().map(|item| item.as_ptr());
        items.chain([std::ptr::null()]).collect()
    };
    let (argv, envp) = (pointers(&args), pointers(env));
    // SAFETY: the arrays end with a null pointer, and they and their strings live until the call returns; that it
    // does only on failure. Then the child must not go on without its init.
    let error = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            argv.as_ptr(),
            envp.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
        let error = io::Error::last_os_error();
        libc::kill(child, libc::SIGKILL);
        error
    };
    Err(("execveat(init)", error))
}
