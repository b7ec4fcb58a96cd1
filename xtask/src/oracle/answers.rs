//! What a container answered, as facts by name.

use std::collections::BTreeMap;
use std::fs;

use super::questions::Question;

/// Every time in the image, as the probe target writes it.
const IMAGE_TIME: &str = "1577836800.000000000";

/// Facts by name: `QUESTION TOPIC NAME`.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers(BTreeMap<String, String>);

impl Answers {
    /// Adds what the probe target wrote for a question.
    pub(super) fn add<'a>(
        &mut self,
        question: &Question,
        lines: impl IntoIterator<Item = &'a str>,
    ) {
        let calls = call_names();
        let mut topic = String::new();
        for line in lines {
            if let Some(name) = line.strip_prefix('?') {
                topic = name.to_owned();
                continue;
            }
            let facts = match topic.as_str() {
                "environment" => pair(line, '='),
                "id" | "status" => pair(line, ':'),
                "limit" => limit(line),
                "mount" => mount(line),
                "device" | "tree" => file(line, topic == "device"),
                "syscall" => call(line, &calls),
                // In any order, and with tabs or spaces.
                "/etc/hosts" | "/etc/resolv.conf" => {
                    let words: Vec<_> = line.split_whitespace().collect();
                    vec![(words.join(" "), "there".to_owned())]
                }
                _ => vec![(String::new(), line.to_owned())],
            };
            for (name, value) in facts {
                let fact = format!("{} {topic} {name}", question.name);
                let known = self.0.entry(fact.trim_end().to_owned()).or_default();
                // The lines of a file are one fact.
                if !known.is_empty() {
                    known.push_str("; ");
                }
                known.push_str(&value);
            }
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.0.retain(|fact, _| keep(fact));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(fact, value)| (fact.as_str(), value.as_str()))
    }

    pub(super) fn get(&self, fact: &str) -> Option<&str> {
        self.0.get(fact).map(String::as_str)
    }
}

fn pair(line: &str, between: char) -> Vec<(String, String)> {
    let (name, value) = line.split_once(between).unwrap_or((line, ""));
    let mut value: Vec<_> = value.split_whitespace().collect();
    if name == "Groups" {
        // The kernel sorts them or not, by version.
        value.sort_unstable();
    }
    vec![(name.to_owned(), value.join(" "))]
}

/// A line of /proc/PID/limits, which has columns (proc(5)).
fn limit(line: &str) -> Vec<(String, String)> {
    let (Some(name), Some(values)) = (line.get(..26), line.get(26..)) else {
        return Vec::new();
    };
    let mut values = values.split_whitespace();
    let (soft, hard) = (values.next(), values.next());
    match name.trim() {
        "Limit" => Vec::new(),
        name => vec![(
            name.to_owned(),
            format!("{}:{}", soft.unwrap_or_default(), hard.unwrap_or_default()),
        )],
    }
}

/// A line of /proc/PID/mountinfo: where, and what of it is the same on every machine.
fn mount(line: &str) -> Vec<(String, String)> {
    let Some((own, of_file_system)) = line.split_once(" - ") else {
        return Vec::new();
    };
    let own: Vec<_> = own.split(' ').collect();
    let of_file_system: Vec<_> = of_file_system.split(' ').collect();
    let ([_, _, _, root, at, options, ..], [kind, source, others]) =
        (own.as_slice(), of_file_system.as_slice())
    else {
        return Vec::new();
    };
    let virtual_kinds = [
        "proc", "sysfs", "tmpfs", "devpts", "mqueue", "overlay", "cgroup", "cgroup2",
    ];
    let value = if virtual_kinds.contains(kind) && !at.starts_with("/etc/") {
        let kept = ["size=", "mode=", "gid=", "ptmxmode=", "nr_inodes="];
        let mut others: Vec<_> = others
            .split(',')
            .filter(|option| kept.iter().any(|name| option.starts_with(name)))
            .collect();
        others.sort_unstable();
        let source = if *kind == "overlay" { "" } else { source };
        let root = if *kind == "cgroup" || *kind == "overlay" {
            "/"
        } else {
            root
        };
        format!("{kind} {source} {root} {options} {}", others.join(","))
    } else {
        // A file or directory of the host, on whatever file system.
        format!("bind {options}")
    };
    vec![((*at).to_owned(), value.trim_end().to_owned())]
}

/// A line of the probe target's `tree`.
fn file(line: &str, device: bool) -> Vec<(String, String)> {
    let mut fields: Vec<_> = line.split('\t').map(str::to_owned).collect();
    let path = fields.remove(0);
    // Times of what was made for the container say when it was.
    if let Some(time) = fields.get_mut(3) {
        match (device, time == IMAGE_TIME) {
            (true, _) => time.clear(),
            (_, true) => "image".clone_into(time),
            (_, false) => "now".clone_into(time),
        }
    }
    // Compared by their text elsewhere.
    let text = ["/etc/hosts", "/etc/hostname", "/etc/resolv.conf"];
    if text.contains(&path.as_str())
        && let Some(content) = fields.get_mut(4)
    {
        content.clear();
    }
    vec![(path, fields.join(" ").trim_end().to_owned())]
}

/// `NUMBER ERRNO`, or `NAME(ARGUMENTS) ERRNO`.
fn call(line: &str, names: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let split = match line.find(" signal ") {
        Some(at) => Some(line.split_at(at)),
        None => line.rfind(' ').map(|at| line.split_at(at)),
    };
    let (call, answer) = split.unwrap_or((line, ""));
    let name = match names.get(call) {
        Some(name) => name.clone(),
        // Numbers that no call has are answered alike.
        None if call.bytes().all(|byte| byte.is_ascii_digit()) && !names.is_empty() => {
            format!("number {call}")
        }
        None => call.to_owned(),
    };
    let answer = match answer.trim() {
        "0" => "allowed",
        "1" => "EPERM",
        "38" => "ENOSYS",
        other if other.starts_with("signal") => other,
        // The kernel's own answer to nonsense, so the call reached it.
        _ => "allowed",
    };
    vec![(name, answer.to_owned())]
}

/// By number, from the C library's header; empty where there is none.
fn call_names() -> BTreeMap<String, String> {
    let arch = std::env::consts::ARCH;
    let files = [
        format!("/usr/include/{arch}-linux-gnu/asm/unistd_64.h"),
        "/usr/include/asm/unistd_64.h".to_owned(),
    ];
    let text = files.iter().find_map(|file| fs::read_to_string(file).ok());
    let text = text.unwrap_or_default();
    let name = |line: &str| {
        let (name, number) = line.strip_prefix("#define __NR_")?.split_once(' ')?;
        Some((number.trim().to_owned(), name.to_owned()))
    };
    text.lines().filter_map(name).collect()
}
