//! The differences that are meant, with their reasons; docs/decisions/0015-oracle.md has them at length.

/// Which differences a reason is for. `*` at either end of a text stands for anything, `-` for nothing said.
struct Explained {
    /// `docker`, `umoci`, `crun` or `*`.
    oracle: &'static str,
    /// `root`, `subuid`, `single`, `user` for both of the latter, or `*`.
    level: &'static str,
    /// The fact's name without the question.
    fact: &'static str,
    theirs: &'static str,
    ours: &'static str,
    reason: &'static str,
}

/// Two texts, then what they said, then why.
const fn of(
    [oracle, level]: [&'static str; 2],
    fact: &'static str,
    [theirs, ours]: [&'static str; 2],
    reason: &'static str,
) -> Explained {
    Explained {
        oracle,
        level,
        fact,
        theirs,
        ours,
        reason,
    }
}

const NEWER: &str = "the profile of newer Docker, which is ours, says so; the one asked is older";
const CGROUPS: &str = "the pod has no cgroup hierarchy (0008)";
const DEVICES: &str =
    "Docker keeps devices from being opened by a device cgroup, which the pod has not (0008, 0005)";
const HOSTS_NODES: &str = "nobody can make a device in a user namespace: the host's nodes are bound, whose owner has \
                           no id there";
const USER_MOUNT: &str =
    "the kernel states the group of a mount made in a user namespace as the host's";
const NO_ENTRY: &str = "Docker's overlay2 makes a directory that its layer has no entry for anew, so that the lower \
                        layer's mode and owner are lost; builders write the entry";
const LINK_ENTRY: &str = "Docker applies the mode and owner in a hard link's entry; archivers write the file's own \
                          there, which this fixture does not";
const ONE_ID: &str =
    "level `single` has one id, which owns everything; the receipt says what it cannot test";
const OURS: &str = "made for the container when it started";
const KERNEL_FILE: &str = "the file belongs to the host's root, whom the user namespace does not have: the kernel \
                           looks at the mode before capabilities";
const TIME: &str = "of a directory that the layer has no entry for, or that it added to: whoever unpacks says when";

const EXPLAINED: &[Explained] = &[
    // What newer Docker answers.
    of(
        ["docker", "*"],
        "syscall io_uring_*",
        ["allowed", "EPERM"],
        NEWER,
    ),
    of(
        ["docker", "*"],
        "syscall name_to_handle_at",
        ["EPERM", "allowed"],
        NEWER,
    ),
    of(
        ["docker", "*"],
        "syscall pkey_*",
        ["EPERM", "allowed"],
        NEWER,
    ),
    of(
        ["docker", "*"],
        "syscall process_vm_*",
        ["EPERM", "allowed"],
        NEWER,
    ),
    of(
        ["docker", "*"],
        "syscall set_mempolicy_home_node",
        ["ENOSYS", "EPERM"],
        NEWER,
    ),
    of(
        ["docker", "*"],
        "syscall socket(AF_VSOCK)",
        ["allowed", "EPERM"],
        NEWER,
    ),
    of(
        ["docker", "*"],
        "syscall socket(AF_ALG)",
        ["allowed", "EPERM"],
        NEWER,
    ),
    of(
        ["docker", "*"],
        "syscall number *",
        ["ENOSYS", "allowed"],
        NEWER,
    ),
    of(
        ["docker", "*"],
        "bytes /proc/interrupts",
        ["*", "succeeded"],
        "newer Docker masks it",
    ),
    of(
        ["docker", "*"],
        "mount /proc/interrupts",
        ["-", "*"],
        "newer Docker masks it",
    ),
    of(
        ["docker", "*"],
        "/proc/sys/net/ipv6/conf/all/disable_ipv6",
        ["1*", "0*"],
        "older Docker turns IPv6 off in all of a container, newer on its networks' interfaces; ::1 answers here",
    ),
    // Devices and cgroups.
    of(["*", "*"], "syscall mknod*", ["allowed", "EPERM"], DEVICES),
    of(
        ["docker", "*"],
        "mount /",
        ["overlay* rw,relatime", "overlay* rw,nodev,relatime"],
        DEVICES,
    ),
    of(["*", "*"], "mount /sys/fs/cgroup*", ["*", "-"], CGROUPS),
    of(
        ["*", "*"],
        "list /sys/fs/cgroup",
        ["*", "succeeded"],
        CGROUPS,
    ),
    of(
        ["docker", "*"],
        "syscall personality",
        ["EPERM", "allowed"],
        "asked with 64 bits set: the kernel looks at 32 of them, and so does our filter; it is the query then",
    ),
    // Files and mounts of the container.
    of(
        ["docker", "*"],
        "/etc/hosts 10.88.0.*",
        ["-", "*"],
        "its address in the pod; Docker was asked without a network",
    ),
    of(
        ["docker", "*"],
        "/etc/resolv.conf *",
        ["*", "*"],
        "the pod answers names itself (0006)",
    ),
    of(
        ["docker", "*"],
        "mount /etc/*",
        ["bind rw,relatime", "bind rw,nosuid,nodev,relatime"],
        "one file without device or setuid bit lies there: nothing can tell",
    ),
    of(
        ["docker", "*"],
        "mount /var/lib/app",
        ["bind *", "overlay *"],
        "a volume ends with the run, so its files are in the container's own upper layer (0007); nodev as above",
    ),
    of(
        ["docker", "*"],
        "mount /not/in/the/image",
        ["bind *", "overlay *"],
        "a volume ends with the run, so its files are in the container's own upper layer (0007); nodev as above",
    ),
    of(
        ["docker", "*"],
        "tree /.dockerenv",
        ["*", "-"],
        "it says that Docker runs the container; containerd and Kubernetes do not have it either",
    ),
    of(
        ["docker", "*"],
        "tree /below*",
        ["dir 0755 0:0 now", "*"],
        NO_ENTRY,
    ),
    of(
        ["docker", "*"],
        "tree /var*",
        ["dir 0755 0:0 now", "*"],
        NO_ENTRY,
    ),
    of(
        ["docker", "*"],
        "tree /var/lib/app/again",
        ["file 0644 0:0*", "file 0640 *"],
        LINK_ENTRY,
    ),
    of(
        ["docker", "*"],
        "tree /var/lib/app/seed",
        ["file 0644 0:0*", "file 0640 *"],
        LINK_ENTRY,
    ),
    of(
        ["umoci", "*"],
        "tree /var/lib/app*",
        ["* now", "* image"],
        TIME,
    ),
    of(["umoci", "*"], "tree /etc*", ["*", "*now"], OURS),
    of(["umoci", "*"], "tree /etc/mtab", ["-", "*"], OURS),
    of(["umoci", "*"], "tree /made*", ["-", "*"], OURS),
    of(["umoci", "*"], "tree /not*", ["-", "*"], OURS),
    // What differs by the id map alone.
    of(
        ["docker", "user"],
        "device /*",
        ["char *", "char 0666 65534:65534 *"],
        HOSTS_NODES,
    ),
    of(
        ["docker", "user"],
        "mount /dev/*",
        ["-", "bind *"],
        HOSTS_NODES,
    ),
    of(
        ["docker", "user"],
        "mount /proc/*",
        ["tmpfs tmpfs /null *", "bind *"],
        HOSTS_NODES,
    ),
    of(
        ["docker", "user"],
        "mount *",
        ["tmpfs *", "tmpfs *gid=*"],
        USER_MOUNT,
    ),
    of(
        ["docker", "subuid"],
        "mount /dev/pts",
        ["* gid=5,*", "* gid=300004,*"],
        USER_MOUNT,
    ),
    of(
        ["docker", "single"],
        "mount /dev/pts",
        ["* gid=5,*", "devpts *"],
        ONE_ID,
    ),
    of(
        ["docker", "user"],
        "bytes /proc/kmsg",
        ["refused: *", "refused: *"],
        KERNEL_FILE,
    ),
    of(
        ["docker", "user"],
        "write /proc/k*",
        ["*", "refused: *"],
        KERNEL_FILE,
    ),
    of(
        ["docker", "single"],
        "syscall setgroups",
        ["allowed", "EPERM"],
        ONE_ID,
    ),
    of(["docker", "single"], "id Groups", ["*", "*"], ONE_ID),
    of(["docker", "single"], "tree *", ["*", "* 0:0 *"], ONE_ID),
    of(
        ["docker", "user"],
        "/proc/sys/net/ipv4/ping_group_range*",
        ["*", "*"],
        "the kernel takes ids of the user namespace only: all there are",
    ),
    of(
        ["docker", "*"],
        "id NSpid",
        ["*", "*"],
        "how many processes there were in the container before",
    ),
];

/// Why the two may differ, if they may.
pub(super) fn reason(
    oracle: &str,
    level: &str,
    fact: &str,
    theirs: Option<&str>,
    ours: Option<&str>,
) -> Option<&'static str> {
    let (theirs, ours) = (theirs.unwrap_or("-"), ours.unwrap_or("-"));
    let is_level = |wanted: &str| matches(wanted, level) || wanted == "user" && level != "root";
    let found = EXPLAINED.iter().find(|explained| {
        matches(explained.oracle, oracle)
            && is_level(explained.level)
            && matches(explained.fact, fact)
            && matches(explained.theirs, theirs)
            && matches(explained.ours, ours)
    });
    found.map(|explained| explained.reason)
}

/// `*` stands for any text, also for none.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<_> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        match rest.split_once(part) {
            Some((_, behind)) => rest = behind,
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("a", "a", true),
            ("a", "ab", false),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abde", false),
            ("ab*b", "ab", false),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn only_what_is_listed_is_explained() {
        let root = |fact, theirs, ours| reason("docker", "root", fact, Some(theirs), Some(ours));
        assert!(root("syscall mknod", "allowed", "EPERM").is_some());
        assert!(root("syscall mknod", "EPERM", "allowed").is_none());
        assert!(root("id CapEff", "00000000a80425fb", "0000003fffffffff").is_none());
        assert!(
            root(
                "device /null",
                "char 0666 0:0 103",
                "char 0666 65534:65534 103"
            )
            .is_none()
        );
    }
}
