//! A process with all its descendants, remembered so that a test can ask later what is left of them.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

/// The processes that descended from one at a moment, and the network namespaces they were in.
#[derive(Clone, Debug)]
pub struct ProcessTree {
    /// The first is the one that was asked about.
    pub members: Vec<Process>,
    /// Network namespaces of the members other than the test's own.
    networks: BTreeSet<PathBuf>,
}

/// One process; its id together with its start time names no other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Process {
    /// In the test's pid namespace.
    pub pid: u32,
    /// What it executes, as `/proc/PID/comm` cuts it off.
    pub name: String,
    /// Clock ticks after boot.
    start: String,
    /// The most memory it has had so far, in KiB; shared pages count in each process.
    pub peak_memory: u64,
}

impl ProcessTree {
    /// Looks at the process `pid` and those below it.
    pub fn of(pid: u32) -> Self {
        let mut members: Vec<_> = Process::read(pid).into_iter().collect();
        let mut next = 0;
        while let Some(parent) = members.get(next).map(|member| member.pid) {
            members.extend(children(parent).into_iter().filter_map(Process::read));
            next += 1;
        }
        let own = network(std::process::id());
        let networks = members.iter().filter_map(|member| network(member.pid));
        let networks = networks
            .filter(|network| Some(network) != own.as_ref())
            .collect();
        Self { members, networks }
    }

    /// The members that still run (a zombie runs no more).
    pub fn alive(&self) -> Vec<Process> {
        let same = |member: &&Process| {
            Process::read(member.pid).is_some_and(|now| now.start == member.start)
        };
        self.members.iter().filter(same).cloned().collect()
    }

    /// Processes, members or not, that still hold one of the members' network namespaces.
    pub fn in_its_networks(&self) -> Vec<Process> {
        let Ok(entries) = fs::read_dir("/proc") else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .filter(|pid| network(*pid).is_some_and(|network| self.networks.contains(&network)))
            .filter_map(Process::read)
            .collect()
    }

    /// How many network namespaces other than the test's own the members were in.
    pub fn network_count(&self) -> usize {
        self.networks.len()
    }
}

impl Process {
    /// None when there is no such process, or only a zombie.
    fn read(pid: u32) -> Option<Self> {
        // proc_pid_stat(5): the name is in parentheses and may itself hold some; state and start time follow
        // as fields 3 and 22.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (head, tail) = stat.rsplit_once(") ")?;
        let fields: Vec<&str> = tail.split(' ').collect();
        if matches!(fields.first(), Some(&"Z" | &"X")) {
            return None;
        }
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        Some(Self {
            pid,
            name: head.split_once('(')?.1.to_owned(),
            start: (*fields.get(19)?).to_owned(),
            peak_memory: peak
                .and_then(|text| text.split_whitespace().next()?.parse().ok())
                .unwrap_or(0),
        })
    }
}

/// Of all threads: a child belongs to the thread that forked it.
fn children(pid: u32) -> Vec<u32> {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else {
        return Vec::new();
    };
    threads
        .flatten()
        .filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok())
        .flat_map(|text| {
            text.split_whitespace()
                .flat_map(str::parse)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// None where the process is gone or may not be looked at.
fn network(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}
