//! Cgroups: whether a container's memory, processors and processes could be limited here.

use std::fs;
use std::path::Path;

use super::check::{Check, Noun, Status};
use super::wall::Wall;
use crate::cgroup::Cgroups;
use crate::pod::ResourceLimits;

/// Makes a cgroup with each limit as a run would, and removes it.
pub(super) fn check(scratch: &Path) -> Check {
    let none = ResourceLimits::default();
    let tries = [
        (
            "mem_limit",
            ResourceLimits {
                memory: Some(64 << 20),
                ..none
            },
        ),
        (
            "cpus",
            ResourceLimits {
                cpus: Some(1000),
                ..none
            },
        ),
        (
            "pids_limit",
            ResourceLimits {
                pids: Some(64),
                ..none
            },
        ),
    ];
    let mut refused = Vec::new();
    for (key, limits) in tries {
        if let Err(error) = Cgroups::make(&[("trial".to_owned(), limits)], scratch) {
            refused.push((key, error));
        }
    }
    let versions = versions(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default());
    let line = |result: String, means: &str| {
        let tried =
            "making a cgroup below the own one, with a limit on memory, processors and processes";
        Check::fine(Noun::Cgroups, tried, format!("{versions}: {result}"), means)
    };
    let Some((_, first)) = refused.first() else {
        return line(
            "all three can be limited".to_owned(),
            Noun::Cgroups.needed_for(),
        );
    };
    let keys: Vec<_> = refused.iter().map(|(key, _)| *key).collect();
    let result = format!("not {}: {first}", keys.join(", "));
    line(
        result,
        "runs that ask for these limits end with exit 3; all others need no cgroup",
    )
    .behind(Status::Limited, Wall::NoCgroup)
}

/// Which versions are mounted, by mountinfo (proc(5)).
fn versions(mounts: &str) -> &'static str {
    let has = |wanted: &str| {
        mounts.lines().any(|line| {
            let kind = line.split_once(" - ").map_or("", |(_, rest)| rest);
            kind.split(' ').next() == Some(wanted)
        })
    };
    match (has("cgroup"), has("cgroup2")) {
        (true, true) => "versions 1 and 2 (hybrid)",
        (true, false) => "version 1",
        (false, true) => "version 2",
        (false, false) => "none is mounted",
    }
}

#[cfg(test)]
mod tests {
    use super::versions;

    #[test]
    fn versions_are_told_by_what_is_mounted() {
        let v1 = "31 30 0:26 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n";
        let v2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate\n";
        assert_eq!(versions(v1), "version 1");
        assert_eq!(versions(v2), "version 2");
        assert_eq!(versions(&format!("{v1}{v2}")), "versions 1 and 2 (hybrid)");
        assert_eq!(
            versions("30 23 0:26 / / rw - ext4 /dev/x rw\n"),
            "none is mounted"
        );
    }
}
