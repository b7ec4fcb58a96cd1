//! What is asked of every container, in the words of the probe target.

/// One process in a container that answers on several topics.
#[derive(Clone, Debug)]
pub(super) struct Question {
    /// Who asks, and in which process; part of each fact's name.
    pub(super) name: &'static str,
    /// As `docker run --user` takes it; none is the image's.
    pub(super) user: Option<&'static str>,
    /// Whether the process is exec'd into a container that runs.
    pub(super) exec: bool,
    topics: Vec<(String, String)>,
}

/// Files and directories of the kernel: those that Docker masks, makes read-only, or leaves.
const KERNEL: [&str; 24] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/bus",
    "/proc/fs",
    "/proc/interrupts",
    "/proc/irq",
    "/proc/kallsyms",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/self/attr",
    "/proc/sys",
    "/proc/sys/kernel/hostname",
    "/proc/sys/kernel/sysrq",
    "/proc/sysrq-trigger",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/cgroup",
    "/sys/kernel",
    "/sys/class/net/lo/mtu",
];

/// Settings of the kernel that a container has of its own.
const SETTINGS: [&str; 7] = [
    "/proc/sys/net/ipv4/ip_unprivileged_port_start",
    "/proc/sys/net/ipv4/ping_group_range",
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv6/conf/all/disable_ipv6",
    "/proc/sys/kernel/shmmax",
    "/proc/sys/kernel/domainname",
    "/proc/self/oom_score_adj",
];

impl Question {
    pub(super) fn all() -> Vec<Self> {
        let asked = |name, user, exec, topics| Self {
            name,
            user,
            exec,
            topics,
        };
        let topic = |name: &str, words: &str| (name.to_owned(), words.to_owned());
        let process = || {
            let mut topics = vec![
                topic("environment", "env"),
                topic("id", "id"),
                topic("limit", "cat /proc/self/limits"),
                topic("cwd", "cwd"),
                topic("ignored", "ignored-signals"),
            ];
            for name in [
                "Umask",
                "SigBlk",
                "CoreDumping",
                "THP_enabled",
                "Speculation",
            ] {
                topics.push(topic("status", &format!("grep {name} /proc/self/status")));
            }
            topics
        };
        let mut whole = process();
        whole.extend([
            topic("hostname", "hostname"),
            topic("mount", "mounts"),
            topic("device", "tree /dev"),
            topic("tree", "tree / /dev /proc /sys"),
            topic("/etc/hosts", "cat /etc/hosts"),
            topic("/etc/hostname", "cat /etc/hostname"),
            topic("/etc/resolv.conf", "cat /etc/resolv.conf"),
        ]);
        for path in KERNEL {
            whole.push(topic(
                &format!("bytes {path}"),
                &format!("try bytes 1 {path}"),
            ));
            whole.push(topic(&format!("list {path}"), &format!("try ls {path}")));
            whole.push(topic(
                &format!("write {path}"),
                &format!("try write {path}"),
            ));
        }
        for path in SETTINGS {
            whole.push(topic(path, &format!("try cat {path}")));
        }
        let with_calls = |mut topics: Vec<_>| {
            topics.push(topic("syscall", "syscalls"));
            topics
        };
        vec![
            asked("root", Some("0"), false, with_calls(whole)),
            asked("app", None, false, with_calls(process())),
            asked("app:web", Some("app:web"), false, process()),
            asked("4242", Some("4242"), false, process()),
            asked("4242:4343", Some("4242:4343"), false, process()),
            asked("exec", None, true, with_calls(process())),
        ]
    }

    /// The one that asks for everything.
    pub(super) fn root() -> Self {
        Self {
            name: "root",
            user: Some("0"),
            exec: false,
            topics: Vec::new(),
        }
    }

    /// The probe target's arguments; a line before each topic says which it is.
    pub(super) fn words(&self) -> Vec<String> {
        let mut words = Vec::new();
        for (topic, ask) in &self.topics {
            if !words.is_empty() {
                words.push("then".to_owned());
            }
            words.extend(["print".to_owned(), format!("?{topic}")]);
            words.extend(ask.split(' ').map(str::to_owned));
        }
        words
    }
}
