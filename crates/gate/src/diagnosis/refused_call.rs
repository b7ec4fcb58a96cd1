//! Calls that the kernel refused a container for want of a right, as far as the program wrote about them.
//!
//! A filter that returns EPERM tells nobody, and the kernel's audit log is not for ordinary users: the call itself is
//! not observed, what the program says of it is.

use super::exit::Clue;

/// What programs write when a call is refused: parts of the line, in lower case, and the right that the call needs.
const REFUSALS: &[(&[&str], &str)] = &[
    (&["iptables", "permission denied"], "NET_ADMIN"),
    (&["iptables", "operation not permitted"], "NET_ADMIN"),
    (&["rtnetlink answers: operation not permitted"], "NET_ADMIN"),
    (&["tun", "operation not permitted"], "NET_ADMIN"),
    (&["siocsif", "operation not permitted"], "NET_ADMIN"),
    (&["mount", "permission denied"], "SYS_ADMIN"),
    (&["mount", "operation not permitted"], "SYS_ADMIN"),
    (&["unshare", "operation not permitted"], "SYS_ADMIN"),
    (&["clone", "operation not permitted"], "SYS_ADMIN"),
    (&["no usable sandbox"], "SYS_ADMIN"),
    (&["sethostname", "operation not permitted"], "SYS_ADMIN"),
    (&["perf_event_open", "operation not permitted"], "PERFMON"),
    (&["bpf", "operation not permitted"], "BPF"),
    (&["io_uring", "operation not permitted"], ""),
    (&["keyctl", "operation not permitted"], ""),
    (&["userfaultfd", "operation not permitted"], ""),
    (&["ptrace", "operation not permitted"], "SYS_PTRACE"),
    (
        &["sched_setscheduler", "operation not permitted"],
        "SYS_NICE",
    ),
    (&["setpriority", "operation not permitted"], "SYS_NICE"),
    (&["mbind", "operation not permitted"], "SYS_NICE"),
    (&["settimeofday", "operation not permitted"], "SYS_TIME"),
    (&["set the date", "operation not permitted"], "SYS_TIME"),
    (&["mlockall", "operation not permitted"], "IPC_LOCK"),
    (&["mlock", "cannot allocate memory"], "IPC_LOCK"),
    (&["modprobe", "operation not permitted"], "SYS_MODULE"),
    (&["reboot", "operation not permitted"], "SYS_BOOT"),
];

/// The last line of a log that tells of such a call.
pub(super) fn clue(lines: &[&str]) -> Option<Clue> {
    lines.iter().rev().find_map(|line| {
        let line = line.to_lowercase();
        let mut known = REFUSALS.iter();
        let (_, right) = known.find(|(words, _)| words.iter().all(|word| line.contains(word)))?;
        Some(match *right {
            "" => Clue {
                id: "call-refused",
                text: "it was refused a call that the default seccomp profile of containers does not allow".to_owned(),
                hint: Some("switch the feature off in the program, as Docker would refuse it too"),
            },
            right => Clue {
                id: "right-missing",
                text: format!("it was refused what needs the right {right}, which containers do not have by default"),
                hint: Some("if production gives it, so can the gate file: `cap_add:`; the call itself was not observed, only what the log says of it"),
            },
        })
    })
}
