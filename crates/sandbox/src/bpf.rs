//! Instructions of seccomp's filters, for what seccompiler cannot say (seccomp(2), linux/filter.h).

use seccompiler::sock_filter;

/// Offsets in struct seccomp_data (linux/seccomp.h): nr, arch, instruction pointer, six arguments of 64 bits.
const NUMBER: u32 = 0;
const ARCH: u32 = 4;
const ARGUMENTS: u32 = 16;

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    let code = u16::try_from(code).unwrap_or(0);
    sock_filter { code, jt, jf, k }
}

fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
}

pub(crate) fn load_number() -> sock_filter {
    load(NUMBER)
}

/// Loads the lower half of an argument.
pub(crate) fn load_argument(argument: u32) -> sock_filter {
    let low = u32::from(cfg!(target_endian = "big")) * 4;
    load(ARGUMENTS + 8 * argument + low)
}

/// Skips as many instructions, more than a conditional jump can.
pub(crate) fn jump(instructions: u32) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JA, 0, 0, instructions)
}

/// Skips `jt` instructions where what was loaded is the value, else `jf`.
pub(crate) fn jump_equal(value: u32, jt: u8, jf: u8) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, jt, jf, value)
}

pub(crate) fn jump_at_least(value: u32, jt: u8, jf: u8) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, jt, jf, value)
}

pub(crate) fn jump_above(value: u32, jt: u8, jf: u8) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, jt, jf, value)
}

/// SECCOMP_RET_…
pub(crate) fn answer(action: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, action)
}

/// Skips a section of that length where the call is of another table.
pub(crate) fn goto_unless_arch(arch: u32, length: usize) -> Vec<sock_filter> {
    let length = u32::try_from(length).unwrap_or(u32::MAX); // the kernel refuses such a program
    vec![load(ARCH), jump_equal(arch, 1, 0), jump(length)]
}

/// What a program answers to a call.
#[cfg(test)]
pub(crate) fn run(program: &[sock_filter], arch: u32, number: u32, arguments: &[u32]) -> u32 {
    let (mut at, mut accumulator) = (0, 0u32);
    loop {
        let step = &program[at];
        let code = u32::from(step.code);
        at += 1;
        match code & 0x07 {
            libc::BPF_RET => return step.k,
            libc::BPF_ALU if code & 0xf0 == libc::BPF_AND => accumulator &= step.k,
            libc::BPF_LD => {
                accumulator = match step.k {
                    NUMBER => number,
                    ARCH => arch,
                    // Arguments of 64 bits, of which the tests set the lower half.
                    offset if (offset - ARGUMENTS) % 8 == 4 => 0,
                    offset => {
                        let argument = usize::try_from((offset - ARGUMENTS) / 8).unwrap();
                        arguments.get(argument).copied().unwrap_or(0)
                    }
                };
            }
            libc::BPF_JMP if code & 0xf0 == libc::BPF_JA => at += step.k as usize,
            libc::BPF_JMP => {
                let holds = match code & 0xf0 {
                    libc::BPF_JEQ => accumulator == step.k,
                    libc::BPF_JGE => accumulator >= step.k,
                    libc::BPF_JGT => accumulator > step.k,
                    other => panic!("{other:#x}"),
                };
                at += usize::from(if holds { step.jt } else { step.jf });
            }
            other => panic!("{other:#x}"),
        }
    }
}
