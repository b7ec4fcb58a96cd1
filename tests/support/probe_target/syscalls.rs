//! Which system calls are refused, and how: each is tried in a process of its own.

use std::io::{self, Write};

const EPERM: i32 = 1;
/// One more than the highest number that the kernels of today know.
const END: i64 = 480;
#[cfg(target_arch = "x86_64")]
const VFORK: Option<i64> = Some(58);
#[cfg(not(target_arch = "x86_64"))]
const VFORK: Option<i64> = None;

unsafe extern "C" {
    fn alarm(seconds: u32) -> u32;
    fn fork() -> i32;
    fn getpid() -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn syscall(number: i64, ...) -> i64;
    fn _exit(code: i32) -> !;
}

/// Calls whose arguments a filter looks at, by number of x86_64 and arm64: a name, then the arguments.
const BY_ARGUMENT: [(&str, i64, i64, [u64; 3]); 11] = [
    ("clone(CLONE_NEWUSER)", 56, 220, [0x1000_0000, 0, 0]),
    ("clone(CLONE_NEWNS)", 56, 220, [0x2_0000, 0, 0]),
    ("unshare(CLONE_NEWUSER)", 272, 97, [0x1000_0000, 0, 0]),
    ("unshare(0)", 272, 97, [0, 0, 0]),
    ("personality(0)", 135, 92, [0, 0, 0]),
    ("personality(PER_LINUX32)", 135, 92, [8, 0, 0]),
    ("personality(ADDR_NO_RANDOMIZE)", 135, 92, [0x4_0000, 0, 0]),
    ("socket(AF_VSOCK)", 41, 198, [40, 1, 0]),
    ("socket(AF_ALG)", 41, 198, [38, 5, 0]),
    ("socket(AF_NETLINK)", 41, 198, [16, 3, 0]),
    ("socket(AF_INET, SOCK_RAW)", 41, 198, [2, 3, 1]),
];

/// Writes `NUMBER ERRNO` for every system call with nothing but -1 as arguments, `NUMBER signal SIGNAL` where that ends the
/// process or the call never returns, and the like for calls whose arguments matter. A filter answers before the
/// kernel looks at an argument, so that a refusal shows as EPERM or ENOSYS where another error would stand.
pub(crate) fn syscalls() -> io::Result<()> {
    let mut out = io::stdout().lock();
    // A process that vfork made would return on its parent's stack.
    for number in (0..END).filter(|number| Some(*number) != VFORK) {
        writeln!(out, "{number} {}", answer(number, [u64::MAX; 3], u64::MAX)?)?;
    }
    for (name, x86_64, arm64, arguments) in BY_ARGUMENT {
        let number = if cfg!(target_arch = "x86_64") {
            x86_64
        } else {
            arm64
        };
        writeln!(out, "{name} {}", answer(number, arguments, 0)?)?;
    }
    out.flush()
}

/// As a 32-bit program calls it, which a process of x86_64 can do too: with that table's number and registers of 32 bits
/// (arch/x86/entry/entry_64_compat.S). Writes the errno, 0, or the signal that it ended with.
#[cfg(target_arch = "x86_64")]
pub(crate) fn as_32_bit_program(number: u32, arguments: [u32; 3]) -> io::Result<()> {
    let [first, second, third] = arguments;
    let call = || unsafe {
        let returned: i64;
        // LLVM keeps rbx for itself, so it is exchanged for the call.
        std::arch::asm!(
            "xchg {first:r}, rbx", "int 0x80", "xchg {first:r}, rbx",
            first = inout(reg) u64::from(first) => _,
            inlateout("rax") i64::from(number) => returned,
            in("rcx") u64::from(second), in("rdx") u64::from(third),
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
        // An error is a negative errno of 32 bits.
        let returned = returned as i32;
        if (-4095..0).contains(&returned) {
            -returned
        } else {
            0
        }
    };
    writeln!(io::stdout(), "{}", in_a_child(call)?)
}

fn answer(number: i64, [first, second, third]: [u64; 3], rest: u64) -> io::Result<String> {
    in_a_child(|| unsafe {
        let own = getpid();
        let returned = syscall(number, first, second, third, rest, rest, rest);
        let errno = io::Error::last_os_error().raw_os_error().unwrap_or(EPERM);
        // What the call itself made is not asked.
        let failed = returned == -1 && getpid() == own;
        if failed { errno } else { 0 }
    })
}

/// The exit code of a process of its own that makes a call, or the signal that ended it.
fn in_a_child(call: impl FnOnce() -> i32) -> io::Result<String> {
    unsafe {
        let child = fork();
        if child == -1 {
            return Err(io::Error::last_os_error());
        }
        if child == 0 {
            alarm(1);
            _exit(call());
        }
        let mut status = 0;
        if waitpid(child, &mut status, 0) == -1 {
            return Err(io::Error::last_os_error());
        }
        // wait(2): the low bits are the signal, the next eight the exit code.
        Ok(match status & 0x7f {
            0 => format!("{}", (status >> 8) & 0xff),
            signal => format!("signal {signal}"),
        })
    }
}
