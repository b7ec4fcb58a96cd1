//! Capabilities by name, Docker's default ones, and what `cap_add` and `cap_drop` make of them.

use std::fmt;
use std::io;

use rustix::thread::CapabilitySet;
use serde::{Deserialize, Serialize};

/// capabilities(7), in the order of their numbers.
const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Docker's default (moby, oci/caps/defaults.go): what a process may regain by a file or as root.
pub(crate) const DEFAULT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

/// What a user namespace's owner can use in full: the kernel asks for these in the namespace that owns the thing
/// (network, process, file), and for all others, at least in part, in the host's own (capabilities(7),
/// user_namespaces(7)).
const NAMESPACED: CapabilitySet = DEFAULT
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::NET_BROADCAST)
    .union(CapabilitySet::NET_ADMIN)
    .union(CapabilitySet::IPC_OWNER)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::SYS_BOOT)
    .union(CapabilitySet::CHECKPOINT_RESTORE);

/// One word of `cap_add` or `cap_drop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Capability {
    /// `ALL`.
    All,
    /// One, by its number.
    One(u8),
}

impl Capability {
    /// Reads `NET_ADMIN`, `cap_net_admin` and `all`; `None` for what is no capability.
    pub fn parse(text: &str) -> Option<Self> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if name == "ALL" {
            return Some(Self::All);
        }
        let number = NAMES.iter().position(|known| *known == name)?;
        u8::try_from(number).ok().map(Self::One)
    }

    /// Every name, without `CAP_`.
    pub fn names() -> &'static [&'static str] {
        &NAMES
    }

    fn set(self) -> CapabilitySet {
        match self {
            Self::All => all(),
            Self::One(number) => CapabilitySet::from_bits_truncate(1 << number),
        }
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::All => "ALL",
            Self::One(number) => NAMES.get(usize::from(*number)).unwrap_or(&"?"),
        })
    }
}

fn all() -> CapabilitySet {
    CapabilitySet::from_bits_truncate((1 << NAMES.len()) - 1)
}

fn union(list: &[Capability]) -> CapabilitySet {
    list.iter()
        .fold(CapabilitySet::empty(), |set, one| set.union(one.set()))
}

/// The bounding set that Docker gives for these words (moby, oci/caps/utils.go): adding `ALL` leaves out only what
/// is dropped by name, and what is added by name stays whatever is dropped.
pub(crate) fn bounding(add: &[Capability], drop: &[Capability]) -> CapabilitySet {
    if add.contains(&Capability::All) {
        let by_name: Vec<_> = drop
            .iter()
            .copied()
            .filter(|one| *one != Capability::All)
            .collect();
        return all().difference(union(&by_name));
    }
    DEFAULT.difference(union(drop)).union(union(add))
}

/// What of `set` counts, at least in part, on the host only: given to the owner of a user namespace it is less than
/// what Docker gives.
pub(crate) fn beyond_a_namespace(set: CapabilitySet) -> CapabilitySet {
    set.difference(NAMESPACED)
}

/// `NET_ADMIN, SYS_TIME`.
pub(crate) fn list(set: CapabilitySet) -> String {
    let names = NAMES.iter().enumerate();
    let names = names.filter(|(number, _)| set.bits() >> number & 1 == 1);
    names.map(|(_, name)| *name).collect::<Vec<_>>().join(", ")
}

/// What this process has, and so can pass on: a runner that lacks some itself cannot give them to a container.
pub(crate) fn own() -> io::Result<CapabilitySet> {
    Ok(rustix::thread::capabilities(None)?.permitted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_set_is_the_mask_docker_shows_in_proc() {
        assert_eq!(DEFAULT.bits(), 0xa804_25fb);
        assert_eq!(all().bits(), 0x1ff_ffff_ffff);
    }

    #[test]
    fn names_and_numbers_agree_with_the_kernels() {
        for (name, set) in [
            ("CHOWN", CapabilitySet::CHOWN),
            ("cap_net_admin", CapabilitySet::NET_ADMIN),
            ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN),
            ("SYS_RESOURCE", CapabilitySet::SYS_RESOURCE),
            ("checkpoint_restore", CapabilitySet::CHECKPOINT_RESTORE),
            ("ALL", all()),
        ] {
            assert_eq!(Capability::parse(name).unwrap().set(), set, "{name}");
        }
        assert_eq!(Capability::parse("NET"), None);
        assert_eq!(
            Capability::parse("cap_net_raw").unwrap().to_string(),
            "NET_RAW"
        );
        let set = CapabilitySet::SYS_TIME.union(CapabilitySet::NET_ADMIN);
        assert_eq!(list(set), "NET_ADMIN, SYS_TIME");
    }

    #[test]
    fn added_and_dropped_words_combine_as_in_docker() {
        let words = |text: &str| -> Vec<Capability> {
            let words = text.split_whitespace();
            words.map(|word| Capability::parse(word).unwrap()).collect()
        };
        let raw = CapabilitySet::NET_RAW;
        for (add, drop, expected) in [
            ("", "", DEFAULT),
            ("", "ALL", CapabilitySet::empty()),
            ("NET_RAW", "ALL", raw),
            ("", "NET_RAW", DEFAULT.difference(raw)),
            ("NET_RAW", "NET_RAW", DEFAULT),
            ("ALL", "", all()),
            ("ALL", "NET_RAW", all().difference(raw)),
            ("ALL", "ALL", all()),
            (
                "SYS_TIME",
                "MKNOD",
                DEFAULT
                    .difference(CapabilitySet::MKNOD)
                    .union(CapabilitySet::SYS_TIME),
            ),
        ] {
            assert_eq!(
                bounding(&words(add), &words(drop)),
                expected,
                "{add} - {drop}"
            );
        }
    }
}
