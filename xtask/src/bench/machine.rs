//! What the machine is, as far as it matters for times; nothing that tells whose it is or where.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::disk::Disk;

/// Processor, memory, kernel, the filesystem that `dir` is on, and the tools' versions.
pub(crate) fn describe(dir: &Path) -> Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let stat = ["-f", "-c", "%T"];
    json!({
        "cpu": model.unwrap_or_default().trim_start_matches([' ', '\t', ':']),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": memory.unwrap_or_default().trim(),
        "kernel": kernel.trim(),
        "filesystem": first_line(Command::new("stat").args(stat).arg(dir)),
        "runs_on": if Disk::is_its_own() {
            "an ext4 of their own with a journal, on a loop device"
        } else {
            "that filesystem"
        },
        "tools": {
            "docker client": first_line(Command::new("docker").arg("--version")),
            "docker": first_line(Command::new("dockerd").arg("--version")),
            "podman": first_line(Command::new("podman").arg("--version")),
            "buildah": first_line(Command::new("buildah").arg("--version")),
            "umoci": first_line(Command::new("umoci").arg("--version")),
            "skopeo": first_line(Command::new("skopeo").arg("--version")),
            "runc": first_line(Command::new("runc").arg("--version")),
            "crun": first_line(Command::new("crun").arg("--version")),
            "openssl": first_line(Command::new("openssl").arg("version")),
            "tar": first_line(Command::new("tar").arg("--version")),
            "igzip": first_line(Command::new("igzip").arg("--version")),
            "docker-registry": first_line(Command::new("docker-registry").arg("--version")),
        },
    })
}

/// Processes that wanted a processor in the last minute, on average: with more than one's own, walls mean little.
pub(crate) fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let first = text.split(' ').next().and_then(|first| first.parse().ok());
    first.unwrap_or(0.0)
}

/// What it printed first, `null` where it cannot be run.
fn first_line(command: &mut Command) -> Value {
    let output = command
        .output()
        .ok()
        .filter(|output| output.status.success());
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
    text.and_then(|text| text.lines().next().map(str::to_owned))
        .map_or(Value::Null, Value::from)
}
