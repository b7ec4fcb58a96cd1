//! System calls that take user or group ids, and the filter that stops those whose ids are not mapped.
//!
//! In a user namespace that lacks an id, `chown` to it and `setuid` to it answer EINVAL, and `setgroups` EPERM
//! where the map is a single id (user_namespaces(7)). The filter looks at the arguments itself, so that a call
//! which the map allows costs nothing but the filter.

use seccompiler::sock_filter;

use crate::bpf;
use crate::syscall_abi::SyscallAbi;

/// `(uid_t) -1`: leave as it is (chown(2), setresuid(2)).
const UNCHANGED: u32 = u32::MAX;
/// More ranges than any id map of a container has; the kernel takes 4096 instructions, for all tables of calls.
const MAX_RANGES: usize = 40;

/// What of a call is an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    User,
    Group,
}

/// A system call that takes ids.
#[derive(Debug)]
pub(crate) struct IdCall {
    pub(crate) name: &'static str,
    /// The argument that is a path, if any.
    pub(crate) path: Option<usize>,
    /// The arguments that are ids; none for `setgroups`, whose ids are in memory.
    pub(crate) ids: &'static [(u32, Kind)],
    /// The capability that the call needs (capabilities(7)), by its bit.
    pub(crate) capability: u32,
}

const CAP_CHOWN: u32 = 0;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;

const fn chown(name: &'static str, path: Option<usize>, ids: &'static [(u32, Kind)]) -> IdCall {
    IdCall {
        name,
        path,
        ids,
        capability: CAP_CHOWN,
    }
}

const fn set(name: &'static str, ids: &'static [(u32, Kind)], capability: u32) -> IdCall {
    IdCall {
        name,
        path: None,
        ids,
        capability,
    }
}

use Kind::{Group, User};

/// All that answer an error for an id that is not mapped; setfsuid and setfsgid never do.
const CALLS: &[IdCall] = &[
    chown("chown", Some(0), &[(1, User), (2, Group)]),
    chown("lchown", Some(0), &[(1, User), (2, Group)]),
    chown("fchown", None, &[(1, User), (2, Group)]),
    chown("fchownat", Some(1), &[(2, User), (3, Group)]),
    set("setuid", &[(0, User)], CAP_SETUID),
    set("setgid", &[(0, Group)], CAP_SETGID),
    set("setreuid", &[(0, User), (1, User)], CAP_SETUID),
    set("setregid", &[(0, Group), (1, Group)], CAP_SETGID),
    set("setresuid", &[(0, User), (1, User), (2, User)], CAP_SETUID),
    set(
        "setresgid",
        &[(0, Group), (1, Group), (2, Group)],
        CAP_SETGID,
    ),
    set("setgroups", &[], CAP_SETGID),
];

impl IdCall {
    /// The call of a notification: its architecture and number.
    pub(crate) fn of(arch: u32, number: u32) -> Option<&'static Self> {
        let abi = SyscallAbi::ALL.iter().find(|abi| abi.arch == arch)?;
        CALLS.iter().find(|call| call.number(abi) == Some(number))
    }

    /// 32-bit tables have two of each: one with ids of 16 bits, which nothing calls any more, and one that ends in 32.
    fn number(&self, abi: &SyscallAbi) -> Option<u32> {
        let wide = abi.number(&format!("{}32", self.name));
        wide.or_else(|| abi.number(self.name))
    }

    /// Whether it takes a list of groups instead of single ids.
    pub(crate) fn takes_list(&self) -> bool {
        self.ids.is_empty()
    }
}

/// The ids that exist in a user namespace, as inclusive ranges that do not touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct IdRanges(Vec<(u32, u32)>);

impl IdRanges {
    /// One id.
    pub(crate) fn single(id: u32) -> Self {
        Self(vec![(id, id)])
    }

    /// Reads a map of proc(5): first id inside, first outside, count.
    pub(crate) fn parse(map: &str) -> Self {
        let mut ranges: Vec<(u32, u32)> = map
            .lines()
            .filter_map(|line| {
                let mut fields = line.split_whitespace();
                let first: u32 = fields.next()?.parse().ok()?;
                let count: u32 = fields.nth(1)?.parse().ok()?;
                Some((first, first.checked_add(count.checked_sub(1)?)?))
            })
            .collect();
        ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (first, last) in ranges {
            match merged.last_mut() {
                Some(below) if below.1.saturating_add(1) >= first => below.1 = below.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// The highest id there is.
    pub(crate) fn last(&self) -> Option<u32> {
        self.0.last().map(|(_, last)| *last)
    }

    pub(crate) fn contains(&self, id: u32) -> bool {
        self.0
            .iter()
            .any(|(first, last)| (*first..=*last).contains(&id))
    }

    fn is_all(&self) -> bool {
        self.0 == [(0, u32::MAX - 1)]
    }
}

/// The ids of a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MappedIds {
    pub(crate) users: IdRanges,
    pub(crate) groups: IdRanges,
    /// Whether setgroups(2) is denied, as it must be to map a single id without privilege.
    pub(crate) denies_setgroups: bool,
}

impl MappedIds {
    /// One user and one group.
    pub(crate) fn single(user: u32, group: u32) -> Self {
        Self {
            users: IdRanges::single(user),
            groups: IdRanges::single(group),
            denies_setgroups: true,
        }
    }

    /// Whether no call can fail for want of an id.
    pub(crate) fn is_all(&self) -> bool {
        self.users.is_all() && self.groups.is_all() && !self.denies_setgroups
    }

    pub(crate) fn has(&self, kind: Kind, id: u32) -> bool {
        let ranges = match kind {
            User => &self.users,
            Group => &self.groups,
        };
        id == UNCHANGED || ranges.contains(id)
    }

    /// The filter: SECCOMP_RET_USER_NOTIF for calls with an id that is not mapped and for every `setgroups`, whose
    /// ids a filter cannot read. `None` where the map has more ranges than a filter can look at.
    pub(crate) fn filter(&self) -> Option<Vec<sock_filter>> {
        if self.users.0.len().max(self.groups.0.len()) > MAX_RANGES {
            return None;
        }
        let mut program = Vec::new();
        for abi in SyscallAbi::ALL {
            let section = self.section(abi)?;
            program.extend(bpf::goto_unless_arch(abi.arch, section.len()));
            program.extend(section);
        }
        program.push(allow());
        Some(program)
    }

    /// The filter for one table of calls.
    fn section(&self, abi: &SyscallAbi) -> Option<Vec<sock_filter>> {
        let mut section = vec![bpf::load_number()];
        for call in CALLS {
            let Some(number) = call.number(abi) else {
                continue;
            };
            let mut body = Vec::new();
            for (argument, kind) in call.ids {
                body.extend(self.check(*argument, *kind));
            }
            body.push(if call.takes_list() { notify() } else { allow() });
            // A body may be longer than a conditional jump reaches.
            section.push(bpf::jump_equal(number, 1, 0));
            section.push(bpf::jump(u32::try_from(body.len()).ok()?));
            section.extend(body);
        }
        section.push(allow());
        Some(section)
    }

    /// Goes on behind itself where the argument is unchanged or mapped, and notifies otherwise. An id is the lower half
    /// of its argument; the kernel ignores the other.
    fn check(&self, argument: u32, kind: Kind) -> Vec<sock_filter> {
        let ranges = match kind {
            User => &self.users.0,
            Group => &self.groups.0,
        };
        let mut code = vec![bpf::load_argument(argument)];
        for (number, (first, last)) in ranges.iter().enumerate() {
            // Behind this pair: the pairs of the other ranges, the comparison and the notification.
            let left = 2 * (ranges.len() - number - 1) + 2;
            code.push(bpf::jump_at_least(*first, 0, 1));
            code.push(bpf::jump_above(
                *last,
                0,
                u8::try_from(left).unwrap_or(u8::MAX),
            ));
        }
        code.push(bpf::jump_equal(UNCHANGED, 1, 0));
        code.push(notify());
        code
    }
}

fn allow() -> sock_filter {
    bpf::answer(libc::SECCOMP_RET_ALLOW)
}

fn notify() -> sock_filter {
    bpf::answer(libc::SECCOMP_RET_USER_NOTIF)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(program: &[sock_filter], name: &str, arguments: &[u32]) -> u32 {
        let native = SyscallAbi::NATIVE;
        bpf::run(
            program,
            native.arch,
            native.number(name).unwrap(),
            arguments,
        )
    }

    #[test]
    fn the_filter_stops_calls_with_ids_that_are_not_mapped() {
        const NO: u32 = u32::MAX;
        let several = MappedIds {
            users: IdRanges::parse("0 1000 1\n1 100000 65536\n100000 1 5\n"),
            groups: IdRanges::parse("0 1000 1\n"),
            denies_setgroups: false,
        };
        assert_eq!(
            several.users,
            IdRanges(vec![(0, 65_536), (100_000, 100_004)])
        );
        let single = MappedIds::single(7, 8);
        let cases: [(&MappedIds, &str, &[u32], bool); 17] = [
            (&single, "fchown", &[3, 7, 8], false),
            (&single, "fchown", &[3, NO, 8], false),
            (&single, "fchown", &[3, 7, NO], false),
            (&single, "fchown", &[3, 8, 8], true),
            (&single, "fchown", &[3, 7, 7], true),
            (&single, "fchown", &[3, NO, 0], true),
            (&single, "fchownat", &[3, 0, 7, 8], false),
            (&single, "fchownat", &[3, 0, 7, 9], true),
            (&single, "setresuid", &[7, NO, 7], false),
            (&single, "setresuid", &[7, 7, 0], true),
            (&single, "setgroups", &[0], true),
            (&single, "write", &[0, 0, 0], false),
            (&several, "setuid", &[65_536], false),
            (&several, "setuid", &[65_537], true),
            (&several, "setuid", &[100_004], false),
            (&several, "setuid", &[100_005], true),
            (&several, "setgid", &[1], true),
        ];
        for (mapped, name, arguments, stopped) in cases {
            let program = mapped.filter().unwrap();
            let expected = if stopped {
                libc::SECCOMP_RET_USER_NOTIF
            } else {
                libc::SECCOMP_RET_ALLOW
            };
            let answer = answer(&program, name, arguments);
            assert_eq!(answer, expected, "{name} {arguments:?}");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn calls_of_32_bit_programs_are_stopped_too() {
        let program = MappedIds::single(7, 8).filter().unwrap();
        let i386 = SyscallAbi::I386;
        // As linux/arch/x86/entry/syscalls/syscall_32.tbl has them.
        for (name, number, arguments, stopped) in [
            ("lchown", 198, &[0, 7, 9][..], true),
            ("fchown", 207, &[3, 7, 8], false),
            ("fchown", 207, &[3, 8, 8], true),
            ("chown", 212, &[0, 0, 8], true),
            ("setgroups", 206, &[0], true),
            ("setuid", 213, &[7], false),
            ("setuid", 213, &[8], true),
        ] {
            assert_eq!(IdCall::of(i386.arch, number).unwrap().name, name);
            let answer = bpf::run(&program, i386.arch, number, arguments);
            assert_eq!(
                answer == libc::SECCOMP_RET_USER_NOTIF,
                stopped,
                "{name} {arguments:?}"
            );
        }
        // The numbers mean something else in the other table.
        assert!(IdCall::of(SyscallAbi::NATIVE.arch, 212).is_none());
    }

    #[test]
    fn a_filter_of_many_ranges_fits_the_kernels_limits() {
        let map = |count: u32| {
            let lines: Vec<_> = (0..count).map(|n| format!("{} 1 1\n", 2 * n)).collect();
            let ids = IdRanges::parse(&lines.concat());
            MappedIds {
                users: ids.clone(),
                groups: ids,
                denies_setgroups: false,
            }
        };
        let program = map(40).filter().unwrap();
        assert!(program.len() <= 4096, "{}", program.len()); // BPF_MAXINSNS
        assert_eq!(answer(&program, "setuid", &[0]), libc::SECCOMP_RET_ALLOW);
        assert_eq!(
            answer(&program, "setuid", &[1]),
            libc::SECCOMP_RET_USER_NOTIF
        );
        assert_eq!(map(41).filter(), None);
    }

    #[test]
    fn a_whole_map_needs_no_watch() {
        let all = IdRanges::parse("         0          0 4294967295\n");
        let mapped = MappedIds {
            users: all.clone(),
            groups: all,
            denies_setgroups: false,
        };
        assert!(mapped.is_all());
        assert!(!MappedIds::single(0, 0).is_all());
    }
}
