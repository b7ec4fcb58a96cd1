//! The tables of system calls that a process on this machine can use: the machine's own, and on x86_64 that of 32-bit
//! programs, where the same calls have other numbers (syscall(2), seccomp(2)).

/// One table. Its calls are known by name; a name that a table lacks has no number there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SyscallAbi {
    /// AUDIT_ARCH_… (linux/audit.h), as a filter and its notifications see it.
    pub(crate) arch: u32,
    number: fn(&str) -> Option<u32>,
}

impl SyscallAbi {
    /// The machine's own.
    pub(crate) const NATIVE: Self = Self {
        arch: NATIVE_ARCH,
        number: |name| name.parse::<syscalls::Sysno>().ok().map(|call| call as u32),
    };
    /// Of 32-bit programs on x86_64.
    #[cfg(target_arch = "x86_64")]
    pub(crate) const I386: Self = Self {
        arch: 0x4000_0003,
        number: |name| {
            name.parse::<syscalls::x86::Sysno>()
                .ok()
                .map(|call| call as u32)
        },
    };
    /// Those that containers may use, the machine's own first. 32-bit programs on arm64 are not among them.
    #[cfg(target_arch = "x86_64")]
    pub(crate) const ALL: &[Self] = &[Self::NATIVE, Self::I386];
    #[cfg(not(target_arch = "x86_64"))]
    pub(crate) const ALL: &[Self] = &[Self::NATIVE];

    /// The number of a call; `None` where this table has none of that name.
    pub(crate) fn number(&self, name: &str) -> Option<u32> {
        (self.number)(name)
    }
}

#[cfg(target_arch = "x86_64")]
const NATIVE_ARCH: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const NATIVE_ARCH: u32 = 0xc000_00b7;
#[cfg(target_arch = "riscv64")]
const NATIVE_ARCH: u32 = 0xc000_00f3;
