//! The program that is process 1 of a container with `init: true`: passes signals on to the one child it is told of,
//! reaps whatever becomes its child, and ends as that child ends.
//!
//! A program of its own, static and without even the C library, as there may be none in a container; the crate's
//! build script compiles it, and `init.rs` executes it. Signals are blocked when it starts, so that none is lost.
#![no_std]
#![no_main]

use core::arch::{asm, global_asm};

const SIGCHLD: isize = 17;
const WNOHANG: usize = 1;
/// What shells and Docker add to a signal's number.
const KILLED_BY: i32 = 128;
/// All signals but those that tell of a fault of the process itself: SIGILL, SIGTRAP, SIGABRT, SIGBUS, SIGFPE,
/// SIGSEGV, SIGSYS (signal(7)).
const WAITED_FOR: u64 = !(1 << 3 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 30);

#[cfg(target_arch = "x86_64")]
mod number {
    pub const RT_SIGTIMEDWAIT: usize = 128;
    pub const WAIT4: usize = 61;
    pub const KILL: usize = 62;
    pub const EXIT_GROUP: usize = 231;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub const RT_SIGTIMEDWAIT: usize = 137;
    pub const WAIT4: usize = 260;
    pub const KILL: usize = 129;
    pub const EXIT_GROUP: usize = 94;
}

// The kernel starts a program with the number of its arguments at the stack pointer, and their addresses after it.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov rdi, rsp",
    "and rsp, -16",
    "call {main}",
    "ud2",
    main = sym main,
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start",
    "_start:",
    "mov x0, sp",
    "bl {main}",
    "brk 1",
    main = sym main,
);

/// A system call; the answer is the negative errno where it failed.
///
/// # Safety
/// What the call does with its arguments must be fine.
unsafe fn call(number: usize, [a, b, c, d]: [usize; 4]) -> isize {
    let answer;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the registers are those of the kernel's calling convention (syscall(2)).
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => answer,
            in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        asm!(
            "svc 0",
            in("x8") number,
            inlateout("x0") a => answer,
            in("x1") b, in("x2") c, in("x3") d,
            options(nostack),
        );
    }
    answer
}

/// `smokegate-init PID …`
unsafe extern "C" fn main(stack: *const usize) -> ! {
    // SAFETY: the kernel has put the address of the second argument there, a string that ends with a zero; there
    // is one, as `init.rs` says it.
    let child = unsafe { parse(*stack.add(2) as *const u8) };
    loop {
        let set = WAITED_FOR;
        // SAFETY: reads the set, and writes nothing, as no place for information is given.
        let signal = unsafe {
            let set = &raw const set as usize;
            call(number::RT_SIGTIMEDWAIT, [set, 0, 0, size_of::<u64>()])
        };
        if signal == SIGCHLD {
            reap(child);
        } else if signal > 0 {
            // SAFETY: only sends a signal.
            unsafe { call(number::KILL, [child as usize, signal as usize, 0, 0]) };
        }
    }
}

/// Collects what has ended, and ends once that is the child.
fn reap(child: isize) {
    loop {
        let mut status = 0_i32;
        // SAFETY: writes the status to its place.
        let pid = unsafe {
            let place = &raw mut status as usize;
            call(number::WAIT4, [usize::MAX, place, WNOHANG, 0])
        };
        if pid <= 0 {
            return;
        }
        if pid == child {
            let signal = status & 0x7f;
            let code = if signal == 0 {
                (status >> 8) & 0xff
            } else {
                KILLED_BY + signal
            };
            // SAFETY: ends this process.
            unsafe { call(number::EXIT_GROUP, [code as usize, 0, 0, 0]) };
        }
    }
}

/// Reads a number in digits.
///
/// # Safety
/// There must be a string that ends with something else than a digit.
unsafe fn parse(mut text: *const u8) -> isize {
    let mut number = 0;
    // SAFETY: the caller's.
    while let digit @ b'0'..=b'9' = unsafe { text.read() } {
        number = number * 10 + isize::from(i16::from(digit - b'0'));
        // SAFETY: the string goes on after a digit.
        text = unsafe { text.add(1) };
    }
    number
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {
        // SAFETY: ends this process.
        unsafe { call(number::EXIT_GROUP, [101, 0, 0, 0]) };
    }
}
