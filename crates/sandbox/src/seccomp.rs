//! Docker's default seccomp profile, compiled to BPF: which calls a container may make.
//!
//! What the profile allows with a capability follows the container's bounding set, as there. It is compiled here, so
//! that no system library is linked (docs/decisions/0005-seccomp.md).

mod profile;

use std::collections::BTreeMap;
use std::io;

use rustix::thread::CapabilitySet;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use crate::bpf;
use crate::syscall_abi::SyscallAbi;
use profile::{ALLOWED, ALLOWED_WITH, CLONE_NAMESPACES, NODE_TYPES, PERSONAS, REFUSED_FAMILIES};

/// The profile, compiled; loading it needs CAP_SYS_ADMIN or no_new_privs.
#[derive(Clone, Debug)]
pub(crate) struct Filter {
    programs: Vec<BpfProgram>,
}

impl Filter {
    /// Docker's default profile for this architecture and a bounding set.
    pub(crate) fn docker_default(bounding: CapabilitySet) -> Self {
        let allow_list = allow_list(bounding);
        let last_known = newest_call();
        let fallback = not_implemented(last_known, !bounding.contains(CapabilitySet::SYS_ADMIN));
        // Of two errors the kernel gives that of the program that was loaded last.
        let programs = vec![allow_list, fallback];
        Self { programs }
    }

    /// Puts the calling thread under the filter, for good.
    pub(crate) fn load(&self) -> io::Result<()> {
        for program in &self.programs {
            let filter = libc::sock_fprog {
                len: u16::try_from(program.len()).map_err(io::Error::other)?,
                filter: program.as_ptr().cast_mut().cast(),
            };
            // SAFETY: seccompiler's sock_filter has the kernel's layout (linux/filter.h); the kernel copies
            // the program before the call returns.
            let result = unsafe {
                libc::syscall(
                    libc::SYS_seccomp,
                    libc::SECCOMP_SET_MODE_FILTER,
                    0,
                    &raw const filter,
                )
            };
            if result != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(())
    }
}

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// A section for each table of calls. The last one ends a process that uses another table, as each alone would.
fn allow_list(bounding: CapabilitySet) -> BpfProgram {
    let mut program = Vec::new();
    for (place, abi) in SyscallAbi::ALL.iter().enumerate() {
        let section = section(abi, bounding);
        if place + 1 < SyscallAbi::ALL.len() {
            program.extend(bpf::goto_unless_arch(abi.arch, section.len()));
        }
        program.extend(section);
    }
    program
}

/// The filter for one table of calls, which begins with a look at whose table it is.
fn section(abi: &SyscallAbi, bounding: CapabilitySet) -> BpfProgram {
    let native = TargetArch::try_from(std::env::consts::ARCH)
        .expect("built for an architecture seccompiler knows");
    let refused = SeccompAction::Errno(libc::EPERM as u32);
    let rules = allow_rules(abi, bounding);
    let mut section: BpfProgram = SeccompFilter::new(rules, refused, SeccompAction::Allow, native)
        .and_then(TryInto::try_into)
        .expect("the profile is constant and compiles, as the tests below show");
    // seccompiler knows no 32-bit tables; but for that look, a section of theirs differs by its numbers alone.
    for step in &mut section {
        if step.k == SyscallAbi::NATIVE.arch {
            step.k = abi.arch;
        }
    }
    section
}

/// The highest number of a call that the profile knows of, in any table.
fn newest_call() -> u32 {
    let numbers = |abi: &SyscallAbi| {
        allow_rules(abi, CapabilitySet::all())
            .into_keys()
            .next_back()
    };
    let newest = SyscallAbi::ALL.iter().filter_map(numbers).max();
    newest
        .and_then(|number| u32::try_from(number).ok())
        .unwrap_or(u32::MAX)
}

fn allow_rules(abi: &SyscallAbi, bounding: CapabilitySet) -> Rules {
    let given = ALLOWED_WITH
        .iter()
        .filter(|(capability, _)| bounding.contains(*capability));
    let plain = given.map(|(_, calls)| *calls).chain([ALLOWED]).flatten();
    let mut rules = Rules::new();
    let mut insert = |name: &str, conditions| {
        if let Some(number) = abi.number(name) {
            rules.insert(i64::from(number), conditions);
        }
    };
    for name in plain {
        insert(name, Vec::new());
    }
    let clone = if bounding.contains(CapabilitySet::SYS_ADMIN) {
        Vec::new()
    } else {
        vec![rule(&[(0, SeccompCmpOp::MaskedEq(CLONE_NAMESPACES), 0)])]
    };
    insert("clone", clone);
    let families = REFUSED_FAMILIES.map(|family| (0, SeccompCmpOp::Ne, family));
    insert("socket", vec![rule(&families)]);
    let personas = PERSONAS.map(|persona| rule(&[(0, SeccompCmpOp::Eq, persona)]));
    insert("personality", personas.into());
    for (name, argument) in [("mknod", 1), ("mknodat", 2)] {
        let masked = SeccompCmpOp::MaskedEq(u64::from(libc::S_IFMT));
        let nodes = NODE_TYPES.map(|kind| rule(&[(argument, masked.clone(), kind)]));
        insert(name, nodes.into());
    }
    rules
}

/// A rule on arguments, counted from 0, all of which must hold.
fn rule(conditions: &[(u8, SeccompCmpOp, u64)]) -> SeccompRule {
    let conditions: Result<Vec<_>, _> = conditions
        .iter()
        .map(|(argument, operator, value)| {
            let length = SeccompCmpArgLen::Dword;
            SeccompCondition::new(*argument, length, operator.clone(), *value)
        })
        .collect();
    conditions
        .and_then(SeccompRule::new)
        .expect("the arguments exist and the conditions are not none")
}

/// Answers ENOSYS to calls that are newer than the profile, and to `clone3` where `clone`, whose flags a filter can read,
/// is to be called instead. By hand, as seccompiler compares no numbers of calls. These numbers are the same in all tables.
fn not_implemented(last_known: u32, clone3: bool) -> BpfProgram {
    let refused = if clone3 {
        libc::SYS_clone3 as u32
    } else {
        last_known + 1
    };
    vec![
        bpf::load_number(),
        bpf::jump_above(last_known, 1, 0),
        bpf::jump_equal(refused, 0, 1),
        bpf::answer(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32),
        bpf::answer(libc::SECCOMP_RET_ALLOW),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities::DEFAULT;

    const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
    const EPERM: u32 = libc::SECCOMP_RET_ERRNO | libc::EPERM as u32;
    const ENOSYS: u32 = libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32;

    /// What the kernel answers to a call: the first program's answer, unless that allows it.
    fn answer(filter: &Filter, abi: &SyscallAbi, name: &str, arguments: &[u32]) -> u32 {
        let number = abi.number(name).unwrap();
        let mut answers = filter
            .programs
            .iter()
            .rev()
            .map(|program| bpf::run(program, abi.arch, number, arguments));
        answers.find(|answer| *answer != ALLOW).unwrap_or(ALLOW)
    }

    #[test]
    fn the_profile_compiles_and_fits_the_kernels_limit() {
        for bounding in [CapabilitySet::empty(), DEFAULT, CapabilitySet::all()] {
            let filter = Filter::docker_default(bounding);
            assert_eq!(filter.programs.len(), 2);
            for program in &filter.programs {
                // BPF_MAXINSNS
                assert!((1..=4096).contains(&program.len()), "{}", program.len());
            }
        }
    }

    #[test]
    fn every_name_is_a_call_of_some_table() {
        let names = ALLOWED_WITH
            .iter()
            .flat_map(|(_, names)| *names)
            .chain(ALLOWED);
        for name in names {
            let known = SyscallAbi::ALL.iter().any(|abi| abi.number(name).is_some());
            assert!(known || !cfg!(target_arch = "x86_64"), "{name}");
        }
    }

    #[test]
    fn what_docker_answers_is_answered_in_every_table() {
        let filter = Filter::docker_default(DEFAULT);
        for abi in SyscallAbi::ALL {
            for (name, arguments, expected) in [
                ("read", &[][..], ALLOW),
                ("execve", &[], ALLOW),
                ("removexattrat", &[], ALLOW),
                ("clone", &[17], ALLOW),
                ("clone", &[0x1000_0000], EPERM),
                ("clone3", &[], ENOSYS),
                ("socket", &[2], ALLOW),
                ("socket", &[38], EPERM),
                ("socket", &[40], EPERM),
                ("personality", &[8], ALLOW),
                ("personality", &[0x4_0000], EPERM),
                ("mknodat", &[0, 0, libc::S_IFIFO | 0o644], ALLOW),
                ("mknodat", &[0, 0, libc::S_IFCHR | 0o644], EPERM),
                ("chroot", &[], ALLOW),
                ("mount", &[], EPERM),
                ("umount2", &[], EPERM),
                ("unshare", &[], EPERM),
                ("setns", &[], EPERM),
                ("bpf", &[], EPERM),
                ("keyctl", &[], EPERM),
                ("add_key", &[], EPERM),
                ("reboot", &[], EPERM),
                ("init_module", &[], EPERM),
                ("kexec_load", &[], EPERM),
                ("open_by_handle_at", &[], EPERM),
                ("perf_event_open", &[], EPERM),
                ("userfaultfd", &[], EPERM),
                ("io_uring_setup", &[], EPERM),
                ("move_mount", &[], EPERM),
                ("pivot_root", &[], EPERM),
            ] {
                let answer = answer(&filter, abi, name, arguments);
                assert_eq!(answer, expected, "{name} {arguments:?} of {:#x}", abi.arch);
            }
        }
        // Newer than all that is known, and a table that no rules were made for.
        for program in &filter.programs[1..] {
            assert_eq!(bpf::run(program, SyscallAbi::NATIVE.arch, 600, &[]), ENOSYS);
        }
        let unknown = bpf::run(&filter.programs[0], 0x4000_0028, 1, &[]);
        assert_eq!(unknown, libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn capabilities_open_their_calls_and_no_other() {
        for abi in SyscallAbi::ALL {
            let none = allow_rules(abi, CapabilitySet::empty());
            for (capability, calls) in ALLOWED_WITH {
                let rules = allow_rules(abi, *capability);
                let numbers: Vec<_> = calls.iter().filter_map(|name| abi.number(name)).collect();
                for number in &numbers {
                    let number = i64::from(*number);
                    assert!(!none.contains_key(&number), "{number} without a capability");
                    assert!(rules[&number].is_empty(), "{number} with {capability:?}");
                }
                assert_eq!(rules.len(), none.len() + numbers.len(), "{capability:?}");
            }
        }
        // Whatever is given: keys, kexec and the like stay closed, and mknod makes no devices.
        let all = Filter::docker_default(CapabilitySet::all());
        for abi in SyscallAbi::ALL {
            for name in [
                "keyctl",
                "kexec_load",
                "userfaultfd",
                "io_uring_setup",
                "pivot_root",
            ] {
                assert_eq!(answer(&all, abi, name, &[]), EPERM, "{name}");
            }
            let device = [0, 0, libc::S_IFBLK];
            assert_eq!(answer(&all, abi, "mknodat", &device), EPERM);
            assert_eq!(answer(&all, abi, "clone", &[0x1000_0000]), ALLOW);
            assert_eq!(answer(&all, abi, "clone3", &[]), ALLOW);
        }
    }
}
