//! umoci's unpacked image, and crun with Docker's settings on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::answers::Answers;
use super::questions::Question;
use super::scratch::Scratch;
use crate::Result;
use crate::workspace::run;

/// Docker's default capabilities (moby, oci/caps/defaults.go).
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// Unpacks the image.
pub(super) fn unpack(scratch: &Scratch) -> Result<PathBuf> {
    let bundle = scratch.path("bundle");
    let image = format!("{}:v1", scratch.path("layout").display());
    let mut command = Command::new("umoci");
    command.args(["unpack", "--image", &image]).arg(&bundle);
    run(command.stdout(Stdio::null()))?;
    Ok(bundle)
}

/// The tree, told by the same program that tells it in a container.
pub(super) fn tree(bundle: &Path) -> Result<Answers> {
    let question = Question::root();
    let root = bundle.join("rootfs");
    let output = Command::new(root.join("probe-target"))
        .args(["print", "?tree", "tree"])
        .arg(&root)
        .args(["/dev", "/proc", "/sys"])
        .output()?;
    let mut answers = Answers::default();
    answers.add(&question, String::from_utf8_lossy(&output.stdout).lines());
    Ok(answers)
}

/// What crun makes of Docker's settings for root; users by name are not for a runtime to look up.
pub(super) fn answers_of_crun(bundle: &Path, questions: &[Question]) -> Result<Answers> {
    let mut answers = Answers::default();
    for question in questions
        .iter()
        .filter(|question| question.user == Some("0"))
    {
        let spec = serde_json::to_vec(&spec(question))?;
        fs::write(bundle.join("config.json"), spec)?;
        let output = Command::new("crun")
            // What it limits is not asked, and it knows fewer arrangements of cgroups than there are.
            .arg("--cgroup-manager=disabled")
            .arg("--root")
            .arg(bundle.join("state"))
            .args(["run", "--bundle"])
            .arg(bundle)
            .arg(format!("smokegate-oracle-{}", std::process::id()))
            .stdin(Stdio::null())
            .output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("crun: {}", said.trim()).into());
        }
        answers.add(question, String::from_utf8_lossy(&output.stdout).lines());
    }
    // The image's volumes, its WORKDIR and the files in /etc are made by what stands above a runtime.
    answers.retain(|fact| !fact.contains(" tree ") && !fact.contains("/etc/"));
    Ok(answers)
}

fn spec(question: &Question) -> Value {
    let mut args = vec!["/probe-target".to_owned()];
    args.extend(question.words());
    let mount = |to: &str, kind: &str, from: &str, options: &[&str]| json!({"destination": to, "type": kind, "source": from, "options": options});
    let namespaces = ["mount", "pid", "ipc", "uts", "network"].map(|kind| json!({"type": kind}));
    json!({
        "ociVersion": "1.0.2",
        "hostname": "app",
        "root": {"path": "rootfs"},
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": args,
            "env": ["PATH=/opt/bin:/usr/bin:/bin", "HOSTNAME=app", "FROM_IMAGE=image", "EMPTY=", "HOME=/root"],
            "cwd": "/made/by/workdir",
            "capabilities": {
                "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES,
            },
            "noNewPrivileges": false,
        },
        "mounts": [
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount(
                "/dev/pts", "devpts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            ),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        ],
        "linux": {
            "namespaces": namespaces,
            "sysctl": {
                "net.ipv4.ip_unprivileged_port_start": "0",
                "net.ipv4.ping_group_range": "0 2147483647",
            },
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/sys/devices/virtual/powercap", "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
