//! The runtime spec of a container: Docker's mounts, masked paths and namespaces, as libcontainer reads them.
//!
//! Ids, capabilities, seccomp and environment are not in it: the helper's executor sets them as its last
//! step, alike for a container and for what is exec'd into it.

use std::path::{Path, PathBuf};

use oci_spec::OciSpecError;
use oci_spec::runtime::{
    LinuxBuilder, LinuxNamespaceBuilder, LinuxNamespaceType, Mount, MountBuilder, Process,
    ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

/// What the spec is made from.
#[derive(Debug)]
pub(crate) struct SpecInput<'a> {
    pub(crate) name: &'a str,
    pub(crate) args: &'a [String],
    pub(crate) working_dir: &'a str,
    pub(crate) hostname: &'a str,
    /// The joined layers.
    pub(crate) rootfs: &'a Path,
    /// Files of ours that appear in the container: (file, absolute path).
    pub(crate) files: &'a [(PathBuf, &'static str)],
    /// Volumes, tmpfs and binds.
    pub(crate) mounts: &'a [SpecMount],
    /// A path that names the container's network namespace.
    pub(crate) net_namespace: &'a Path,
    /// Whether the terminals' group 5 exists in the id map.
    pub(crate) has_tty_group: bool,
    /// Whether the root, and our files in it, are read-only.
    pub(crate) read_only: bool,
    /// Bytes of /dev/shm.
    pub(crate) shm_size: u64,
    /// A sysfs that is mounted already, where the container cannot mount its own.
    pub(crate) sysfs: Option<&'a str>,
}

/// Docker's size of /dev/shm.
pub(crate) const DEFAULT_SHM_SIZE: u64 = 64 << 20;
/// A mount that was asked for.
#[derive(Debug)]
pub(crate) struct SpecMount {
    /// What is bound there, in the pod's root; a tmpfs where there is nothing.
    pub(crate) from: Option<PathBuf>,
    /// Absolute path in the container.
    pub(crate) to: PathBuf,
    /// Mount options.
    pub(crate) options: Vec<String>,
}

/// Docker's defaults (moby, oci/defaults.go).
const MASKED_PATHS: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
const READ_ONLY_PATHS: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

/// Options of /sys; the first for one that is mounted already.
const READ_ONLY_SYS: [&str; 5] = ["bind", "nosuid", "noexec", "nodev", "ro"];

/// Makes the spec. Does no I/O.
pub(crate) fn runtime_spec(input: &SpecInput<'_>) -> Result<Spec, OciSpecError> {
    let mut mounts = default_mounts(input)?;
    let access = if input.read_only { "ro" } else { "rw" };
    let mut own = Vec::new();
    for (file, destination) in input.files {
        let destination = Path::new(destination);
        // What was asked for wins over our files, as under Docker.
        if input.mounts.iter().all(|asked| asked.to != destination) {
            own.push(mount(destination, "bind", file, &["bind", access])?);
        }
    }
    for asked in input.mounts {
        let options: Vec<&str> = asked.options.iter().map(String::as_str).collect();
        own.push(match &asked.from {
            Some(from) => mount(&asked.to, "bind", from, &options)?,
            None => mount(&asked.to, "tmpfs", Path::new("tmpfs"), &options)?,
        });
    }
    // A mount must not hide one that belongs into it.
    own.sort_by_key(|mount| mount.destination().components().count());
    mounts.extend(own);
    let namespace = |kind, path: Option<&Path>| {
        let builder = LinuxNamespaceBuilder::default().typ(kind);
        match path {
            Some(path) => builder.path(path).build(),
            None => builder.build(),
        }
    };
    let strings = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let mut linux = LinuxBuilder::default()
        .namespaces(vec![
            namespace(LinuxNamespaceType::Mount, None)?,
            namespace(LinuxNamespaceType::Pid, None)?,
            namespace(LinuxNamespaceType::Ipc, None)?,
            namespace(LinuxNamespaceType::Uts, None)?,
            namespace(LinuxNamespaceType::Network, Some(input.net_namespace))?,
        ])
        // Absolute, so that libcontainer does not look for systemd.
        .cgroups_path(Path::new("/smokegate").join(input.name))
        .masked_paths(strings(&MASKED_PATHS))
        .readonly_paths(strings(&READ_ONLY_PATHS))
        .build()?;
    // Even an empty `resources` would demand the devices controller.
    linux
        .set_resources(None)
        .set_devices(None)
        .set_seccomp(None);

    let mut spec = SpecBuilder::default()
        .version("1.0.2")
        .hostname(input.hostname)
        .root(
            RootBuilder::default()
                .path(input.rootfs)
                .readonly(input.read_only)
                .build()?,
        )
        .mounts(mounts)
        .process(process(input.args, input.working_dir)?)
        .linux(linux)
        .build()?;
    spec.set_hooks(None);
    Ok(spec)
}

/// A process of a container, its first or one exec'd later: rights, limits and environment are the executor's.
pub(crate) fn process(args: &[String], working_dir: &str) -> Result<Process, OciSpecError> {
    let user = UserBuilder::default().uid(0u32).gid(0u32).build()?;
    let mut process = ProcessBuilder::default()
        .terminal(false)
        .user(user)
        .args(args.to_vec())
        .env(Vec::<String>::new())
        .cwd(working_dir)
        .build()?;
    // The defaults would lower the limit of open files, which an ordinary user cannot raise again, and set
    // no_new_privs.
    process
        .set_capabilities(None)
        .set_rlimits(None)
        .set_no_new_privileges(None);
    Ok(process)
}

/// Docker's mounts without the cgroup hierarchy, which the sandbox does not have.
fn default_mounts(input: &SpecInput<'_>) -> Result<Vec<Mount>, OciSpecError> {
    let mut pts = vec![
        "nosuid",
        "noexec",
        "newinstance",
        "ptmxmode=0666",
        "mode=0620",
    ];
    if input.has_tty_group {
        pts.push("gid=5");
    }
    let shm_size = format!("size={}", input.shm_size);
    [
        ("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"][..]),
        // Always a tmpfs: device nodes would otherwise land in the container's upper layer.
        (
            "/dev",
            "tmpfs",
            "tmpfs",
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        ("/dev/pts", "devpts", "devpts", &pts),
        match input.sysfs {
            None => ("/sys", "sysfs", "sysfs", &READ_ONLY_SYS[1..]),
            Some(sysfs) => ("/sys", "bind", sysfs, &READ_ONLY_SYS[..]),
        },
        (
            "/dev/mqueue",
            "mqueue",
            "mqueue",
            &["nosuid", "noexec", "nodev"],
        ),
        (
            "/dev/shm",
            "tmpfs",
            "shm",
            &["nosuid", "noexec", "nodev", "mode=1777", &shm_size],
        ),
    ]
    .into_iter()
    .map(|(to, kind, from, options)| mount(Path::new(to), kind, Path::new(from), options))
    .collect()
}

fn mount(to: &Path, kind: &str, from: &Path, options: &[&str]) -> Result<Mount, OciSpecError> {
    MountBuilder::default()
        .destination(to)
        .typ(kind)
        .source(from)
        .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bind(from: &str, to: &str) -> SpecMount {
        SpecMount {
            from: Some(PathBuf::from(from)),
            to: PathBuf::from(to),
            options: vec!["bind".to_owned()],
        }
    }

    fn spec(has_tty_group: bool, read_only: bool) -> serde_json::Value {
        let input = SpecInput {
            name: "app",
            args: &["/app".to_owned(), "serve".to_owned()],
            working_dir: "/srv",
            hostname: "app",
            rootfs: Path::new("/containers/app/rootfs"),
            files: &[
                (PathBuf::from("/containers/app/hosts"), "/etc/hosts"),
                (PathBuf::from("/containers/app/hostname"), "/etc/hostname"),
            ],
            mounts: &[
                bind("/volumes/conf", "/data/etc/conf"),
                bind("/containers/app/rootfs/data", "/data"),
                bind("/binds/0", "/etc/hosts"),
                SpecMount {
                    from: None,
                    to: PathBuf::from("/cache"),
                    options: vec!["size=4096".to_owned()],
                },
            ],
            net_namespace: Path::new("/proc/self/fd/9"),
            has_tty_group,
            read_only,
            shm_size: DEFAULT_SHM_SIZE,
            sysfs: None,
        };
        serde_json::to_value(runtime_spec(&input).unwrap()).unwrap()
    }

    #[test]
    fn nothing_that_the_executor_or_the_helper_decides_is_in_the_spec() {
        let spec = spec(true, false);
        for pointer in [
            "/linux/resources",
            "/linux/seccomp",
            "/linux/devices",
            "/linux/uidMappings",
            "/process/capabilities",
            "/process/rlimits",
            "/process/noNewPrivileges",
            "/hooks",
        ] {
            assert!(spec.pointer(pointer).is_none(), "{pointer}");
        }
        let kinds: Vec<_> = spec["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .collect();
        assert!(!kinds.iter().any(|kind| kind["type"] == "user"));
        assert_eq!(kinds[4]["path"], "/proc/self/fd/9");
        assert_eq!(spec["process"]["user"]["uid"], 0);
    }

    #[test]
    fn mounts_are_dockers_then_ours_and_none_hides_another() {
        let mounts = spec(false, false)["mounts"].clone();
        let mounts = mounts.as_array().unwrap();
        let at: Vec<_> = mounts
            .iter()
            .map(|m| m["destination"].as_str().unwrap())
            .collect();
        assert_eq!(
            at,
            [
                "/proc",
                "/dev",
                "/dev/pts",
                "/sys",
                "/dev/mqueue",
                "/dev/shm",
                "/data",
                "/cache",
                "/etc/hostname",
                "/etc/hosts",
                "/data/etc/conf"
            ]
        );
        assert!(!mounts[2]["options"].to_string().contains("gid=5"));
        assert!(
            spec(true, false)["mounts"][2]["options"]
                .to_string()
                .contains("gid=5")
        );
        assert!(mounts[3]["options"].to_string().contains("\"ro\""));
        assert_eq!(mounts[7]["type"], "tmpfs");
        assert_eq!(mounts[9]["source"], "/binds/0");
    }

    #[test]
    fn a_read_only_root_is_dockers() {
        for (read_only, access) in [(false, "rw"), (true, "ro")] {
            let spec = spec(true, read_only);
            assert_eq!(spec["root"]["readonly"], read_only);
            // What is made to be written to stays so: /proc has its own read-only parts, volumes are the user's.
            for (number, expected) in [
                (0, false),
                (1, false),
                (5, false),
                (6, false),
                (8, read_only),
            ] {
                let options = spec["mounts"][number]["options"].as_array().unwrap();
                assert_eq!(
                    options.contains(&"ro".into()),
                    expected,
                    "{number}: {options:?}"
                );
            }
            assert_eq!(spec["mounts"][8]["options"][1], access);
        }
        assert_eq!(
            spec(true, false)["mounts"][5]["options"][4],
            "size=67108864"
        );
    }
}
