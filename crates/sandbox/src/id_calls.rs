//! System calls that take user or group ids, and the filter that stops those whose ids are not mapped.
//!
//! In a user namespace that lacks an id, `chown` to it and `setuid` to it answer EINVAL, and `setgroups` EPERM
//! where the map is a single id (user_namespaces(7)). The filter looks at the arguments itself, so that a call
//! which the map allows costs nothing but the filter.

use seccompiler::sock_filter;

/// `(uid_t) -1`: leave as it is (chown(2), setresuid(2)).
const UNCHANGED: u32 = u32::MAX;
/// More ranges than any id map of a container has; a jump of BPF reaches 255 instructions.
const MAX_RANGES: usize = 64;

/// What of a call is an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    User,
    Group,
}

/// A system call that takes ids.
#[derive(Debug)]
pub(crate) struct IdCall {
    pub(crate) number: libc::c_long,
    pub(crate) name: &'static str,
    /// The argument that is a path, if any.
    pub(crate) path: Option<usize>,
    /// The arguments that are ids; none for `setgroups`, whose ids are in memory.
    pub(crate) ids: &'static [(usize, Kind)],
    /// The capability that the call needs (capabilities(7)), by its bit.
    pub(crate) capability: u32,
}

const CAP_CHOWN: u32 = 0;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;

const fn chown(
    number: libc::c_long,
    name: &'static str,
    path: Option<usize>,
    ids: &'static [(usize, Kind)],
) -> IdCall {
    IdCall {
        number,
        name,
        path,
        ids,
        capability: CAP_CHOWN,
    }
}

const fn set(
    number: libc::c_long,
    name: &'static str,
    ids: &'static [(usize, Kind)],
    capability: u32,
) -> IdCall {
    IdCall {
        number,
        name,
        path: None,
        ids,
        capability,
    }
}

use Kind::{Group, User};

/// All that answer an error for an id that is not mapped; setfsuid and setfsgid never do.
pub(crate) const CALLS: &[IdCall] = &[
    #[cfg(target_arch = "x86_64")]
    chown(libc::SYS_chown, "chown", Some(0), &[(1, User), (2, Group)]),
    #[cfg(target_arch = "x86_64")]
    chown(
        libc::SYS_lchown,
        "lchown",
        Some(0),
        &[(1, User), (2, Group)],
    ),
    chown(libc::SYS_fchown, "fchown", None, &[(1, User), (2, Group)]),
    chown(
        libc::SYS_fchownat,
        "fchownat",
        Some(1),
        &[(2, User), (3, Group)],
    ),
    set(libc::SYS_setuid, "setuid", &[(0, User)], CAP_SETUID),
    set(libc::SYS_setgid, "setgid", &[(0, Group)], CAP_SETGID),
    set(
        libc::SYS_setreuid,
        "setreuid",
        &[(0, User), (1, User)],
        CAP_SETUID,
    ),
    set(
        libc::SYS_setregid,
        "setregid",
        &[(0, Group), (1, Group)],
        CAP_SETGID,
    ),
    set(
        libc::SYS_setresuid,
        "setresuid",
        &[(0, User), (1, User), (2, User)],
        CAP_SETUID,
    ),
    set(
        libc::SYS_setresgid,
        "setresgid",
        &[(0, Group), (1, Group), (2, Group)],
        CAP_SETGID,
    ),
    set(libc::SYS_setgroups, "setgroups", &[], CAP_SETGID),
];

impl IdCall {
    pub(crate) fn of(number: libc::c_long) -> Option<&'static Self> {
        CALLS.iter().find(|call| call.number == number)
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
        // seccomp_data (linux/seccomp.h): nr, arch, instruction pointer, six arguments of 64 bits.
        let mut program = vec![load(4), jump_equal(ARCHITECTURE, 1, 0), allow(), load(0)];
        for call in CALLS {
            let mut body = Vec::new();
            for (argument, kind) in call.ids {
                body.extend(self.check(*argument, *kind));
            }
            body.push(if call.takes_list() { notify() } else { allow() });
            // A body may be longer than a conditional jump reaches.
            let number = u32::try_from(call.number).ok()?;
            program.push(jump_equal(number, 1, 0));
            program.push(jump(u32::try_from(body.len()).ok()?));
            program.extend(body);
        }
        program.push(allow());
        Some(program)
    }

    /// Goes on behind itself where the argument is unchanged or mapped, and notifies otherwise.
    fn check(&self, argument: usize, kind: Kind) -> Vec<sock_filter> {
        let ranges = match kind {
            User => &self.users.0,
            Group => &self.groups.0,
        };
        // An id is the lower half of its argument; the kernel ignores the other.
        let low = u32::from(cfg!(target_endian = "big")) * 4;
        let mut code = vec![load(16 + 8 * u32::try_from(argument).unwrap_or(0) + low)];
        for (number, (first, last)) in ranges.iter().enumerate() {
            // Behind this pair: the pairs of the other ranges, the comparison and the notification.
            let left = 2 * (ranges.len() - number - 1) + 2;
            code.push(jump_at_least(*first, 0, 1));
            code.push(jump_above(*last, 0, u8::try_from(left).unwrap_or(u8::MAX)));
        }
        code.push(jump_equal(UNCHANGED, 1, 0));
        code.push(notify());
        code
    }
}

/// AUDIT_ARCH_… (linux/audit.h): calls of another architecture's table have other numbers.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;
#[cfg(target_arch = "riscv64")]
const ARCHITECTURE: u32 = 0xc000_00f3;

fn instruction(code: u32, jt: u8, jf: u8, k: u32) -> sock_filter {
    let code = u16::try_from(code).unwrap_or(0);
    sock_filter { code, jt, jf, k }
}

fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
}

fn jump(instructions: u32) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JA, 0, 0, instructions)
}

fn jump_equal(value: u32, jt: u8, jf: u8) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, jt, jf, value)
}

fn jump_at_least(value: u32, jt: u8, jf: u8) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, jt, jf, value)
}

fn jump_above(value: u32, jt: u8, jf: u8) -> sock_filter {
    instruction(libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K, jt, jf, value)
}

fn allow() -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW)
}

fn notify() -> sock_filter {
    let answer = libc::SECCOMP_RET_USER_NOTIF;
    instruction(libc::BPF_RET | libc::BPF_K, 0, 0, answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the filter answers to a call, by its own instructions.
    fn answer(program: &[sock_filter], number: libc::c_long, arguments: &[u32]) -> u32 {
        let (mut at, mut accumulator) = (0, 0u32);
        loop {
            let step = &program[at];
            let code = u32::from(step.code);
            at += 1;
            match code & 0x07 {
                libc::BPF_RET => return step.k,
                libc::BPF_LD => {
                    accumulator = match step.k {
                        0 => u32::try_from(number).unwrap(),
                        4 => ARCHITECTURE,
                        offset => {
                            let argument = usize::try_from((offset - 16) / 8).unwrap();
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
        let cases: [(&MappedIds, libc::c_long, &[u32], bool); 17] = [
            (&single, libc::SYS_fchown, &[3, 7, 8], false),
            (&single, libc::SYS_fchown, &[3, NO, 8], false),
            (&single, libc::SYS_fchown, &[3, 7, NO], false),
            (&single, libc::SYS_fchown, &[3, 8, 8], true),
            (&single, libc::SYS_fchown, &[3, 7, 7], true),
            (&single, libc::SYS_fchown, &[3, NO, 0], true),
            (&single, libc::SYS_fchownat, &[3, 0, 7, 8], false),
            (&single, libc::SYS_fchownat, &[3, 0, 7, 9], true),
            (&single, libc::SYS_setresuid, &[7, NO, 7], false),
            (&single, libc::SYS_setresuid, &[7, 7, 0], true),
            (&single, libc::SYS_setgroups, &[0], true),
            (&single, libc::SYS_write, &[0, 0, 0], false),
            (&several, libc::SYS_setuid, &[65_536], false),
            (&several, libc::SYS_setuid, &[65_537], true),
            (&several, libc::SYS_setuid, &[100_004], false),
            (&several, libc::SYS_setuid, &[100_005], true),
            (&several, libc::SYS_setgid, &[1], true),
        ];
        for (mapped, number, arguments, stopped) in cases {
            let program = mapped.filter().unwrap();
            let expected = if stopped {
                libc::SECCOMP_RET_USER_NOTIF
            } else {
                libc::SECCOMP_RET_ALLOW
            };
            let answer = answer(&program, number, arguments);
            assert_eq!(answer, expected, "{number} {arguments:?}");
        }
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
        let program = map(64).filter().unwrap();
        assert!(program.len() <= 4096, "{}", program.len()); // BPF_MAXINSNS
        assert_eq!(
            answer(&program, libc::SYS_setuid, &[0]),
            libc::SECCOMP_RET_ALLOW
        );
        assert_eq!(
            answer(&program, libc::SYS_setuid, &[1]),
            libc::SECCOMP_RET_USER_NOTIF
        );
        assert_eq!(map(65).filter(), None);
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
