//! Containers of a pod. The only file that runs libcontainer.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use libcontainer::container::builder::ContainerBuilder;
use libcontainer::error::LibcontainerError;
use libcontainer::oci_spec::OciSpecError;
use libcontainer::oci_spec::runtime::Spec;
use libcontainer::syscall::syscall::SyscallType;
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use smokegate_image::{DEFAULT_PATH, Identity, resolve_user};

use super::executor::{ExecFailure, Failure, IdMap, NO_FD, Workload};
use super::id_watch::{IdWatch, Installation, Preparation, ids_of_pod};
use super::net_ns::{self, ContainerNetwork, PodNetwork};
use super::pod::RuntimeLog;
use super::rights::rights;
use super::rootfs::{Joined, join_layers};
use super::{binds, root, volume};
use crate::error::{HostError, StartError, Step};
use crate::id_calls::MappedIds;
use crate::isolation::Isolation;
use crate::pod::{ContainerSpec, MountSource, MountSpec, PodSpec, Storage, TerminalSize};
use crate::runtime_spec::{self, DEFAULT_SHM_SIZE, SpecInput, SpecMount, runtime_spec};
use crate::seccomp::Filter;

/// libcontainer's state directory.
const STATE: &str = "/run";
/// What docker gives a command with a terminal.
const TERM: &str = "TERM=xterm";
/// Larger than any sane /etc/passwd or /etc/group.
const MAX_USER_FILE: u64 = 4 << 20;

/// A container: its root, its network, and what its processes are given. It stays when its first process has ended, or
/// could not be started, so that a person can look around in it.
pub(super) struct Container {
    pub(super) name: String,
    /// While it runs.
    pub(super) first: Option<Running>,
    pub(super) network: ContainerNetwork,
    pub(super) not_given: Vec<String>,
    pub(super) storage: Storage,
    /// How long joining its layers took.
    pub(super) mount: Duration,
    /// Of its first process; what is exec'd differs in the arguments.
    workload: Workload,
    /// Kept open for what is exec'd later; the workload names them by number.
    _cgroups: Vec<OwnedFd>,
    dir: PathBuf,
    working_dir: String,
    isolation: Isolation,
}

/// A process that has become its program.
pub(super) struct Running {
    pub(super) pid: Pid,
    pub(super) pidfd: OwnedFd,
}

/// What becomes a process's standard streams.
pub(super) enum Stdio {
    Streams {
        /// /dev/null where there is none.
        stdin: Option<OwnedFd>,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// A terminal of the container's own, whose other end is sent through the socket.
    Terminal { socket: OwnedFd, size: TerminalSize },
}

impl Container {
    /// Joins the layers and makes the network; nothing runs yet.
    ///
    /// On an error its directories stay until the pod ends.
    pub(super) fn prepare(
        spec: ContainerSpec,
        cgroups: Vec<OwnedFd>,
        pod: &PodSpec,
        pod_network: &mut PodNetwork,
    ) -> Result<Self, StartError> {
        let isolation = pod.isolation;
        let host = &spec.host_config;
        let rights = rights(host, isolation)?;
        let dir = root::container_dir(&spec.name, pod.writes_to_disk);
        let Joined {
            rootfs,
            storage,
            mount,
            not_kept,
        } = join_layers(&dir, &spec)?;
        let root_fd = open_root(&rootfs)?;
        let identity = identity_of(&spec.user, &root_fd)?;
        check_mount_points(&root_fd)?;
        link_mtab(&root_fd)?;
        make_dir_in_root(&root_fd, &spec.working_dir)
            .map_err(|errno| image_dir_error("WORKDIR", &spec.working_dir, errno))?;
        let mut mounts = Vec::new();
        for mount in &spec.mounts {
            mounts.push(mount_of(mount, &root_fd, pod.writes_to_disk)?);
        }
        mounts.extend(secrets(&spec, &identity, isolation)?);
        let network = pod_network
            .add_container(&spec.name)
            .map_err(StartError::Host)?;
        let sysfs = root::sys_is_read_only()
            .then(|| read_only_sysfs(&dir, pod_network, &network))
            .transpose()
            .map_err(StartError::Host)?;
        let files = write_files(&dir, &spec, pod_network, &network)?;
        for (_, destination) in &files {
            remove_dangling_link(&root_fd, Path::new(destination))
                .map_err(|errno| runtime_error(&format!("unlinkat({destination})"), errno))?;
        }

        let (id_map, set_groups, mut not_given) = match isolation {
            Isolation::Root | Isolation::Subuid => (IdMap::AsInPod, true, Vec::new()),
            Isolation::Single => single_id_map(&identity, &spec.user),
        };
        not_given.extend(rights.not_given);
        not_given.extend(not_kept);
        let workload = Workload {
            env: environment(&spec, &identity),
            args: spec.args.clone(),
            identity,
            id_map,
            set_groups,
            id_watch: None,
            filter: Filter::docker_default(rights.bounding),
            bounding: rights.bounding,
            ulimits: host.ulimits.clone(),
            no_new_privileges: host.no_new_privileges,
            init: host.init,
            cgroups: cgroups.iter().map(AsRawFd::as_raw_fd).collect(),
            terminal: None,
            report: NO_FD,
        };
        let bundle = dir.join("bundle");
        let net_namespace =
            PathBuf::from(format!("/proc/self/fd/{}", network.namespace.as_raw_fd()));
        let runtime = runtime_spec(&SpecInput {
            name: &spec.name,
            args: &spec.args,
            working_dir: &spec.working_dir,
            hostname: &spec.hostname,
            rootfs: &rootfs,
            files: &files,
            mounts: &mounts,
            net_namespace: &net_namespace,
            has_tty_group: isolation.has_all_ids(),
            read_only: host.read_only,
            shm_size: host.shm_size.unwrap_or(DEFAULT_SHM_SIZE),
            sysfs: sysfs.as_deref(),
        })
        .map_err(spec_error)?;
        runtime
            .save(bundle.join("config.json"))
            .map_err(spec_error)?;
        Ok(Self {
            name: spec.name,
            first: None,
            network,
            not_given,
            storage,
            mount,
            workload,
            _cgroups: cgroups,
            dir,
            working_dir: spec.working_dir,
            isolation,
        })
    }

    /// Starts the first process. On an error nothing runs.
    pub(super) fn start(
        &mut self,
        stdio: Stdio,
        log: &RuntimeLog,
    ) -> Result<Option<IdWatch>, StartError> {
        let bundle = self.dir.join("bundle");
        let place = Place::New {
            id: &self.name,
            bundle: &bundle,
        };
        let (running, watch) = self.launch(place, self.workload.clone(), stdio, log)?;
        self.first = Some(running);
        Ok(watch.unwrap_or_else(|why| {
            self.not_given.push(format!(
                "whether a call failed only because its ids are not mapped (seccomp(SECCOMP_FILTER_FLAG_NEW_LISTENER): {why})"
            ));
            None
        }))
    }

    /// Runs a command with the identity and rights of the first process: beside it, or where that does not run, as the
    /// only program of another container with the same root and network. `number` is no other command's.
    pub(super) fn exec(
        &self,
        number: u64,
        args: Vec<String>,
        stdio: Stdio,
        log: &RuntimeLog,
    ) -> Result<(Running, Option<IdWatch>), StartError> {
        let mut workload = self.workload.clone();
        if matches!(stdio, Stdio::Terminal { .. }) && !has(&workload.env, "TERM=") {
            workload.env.push(TERM.to_owned());
        }
        let process = runtime_spec::process(&args, &self.working_dir).map_err(spec_error)?;
        workload.args = args;
        let (running, watch) = match &self.first {
            Some(first) => {
                let user_namespace;
                if matches!(workload.id_map, IdMap::Nested) {
                    let path = format!("/proc/{}/ns/user", first.pid.as_raw_nonzero());
                    user_namespace =
                        File::open(path).map_err(|e| runtime_error("open(ns/user)", e))?;
                    workload.id_map = IdMap::Joined(user_namespace.as_raw_fd());
                }
                workload.init = false;
                let file = self.dir.join("bundle/process.json");
                serde_json::to_vec(&process)
                    .map_err(std::io::Error::from)
                    .and_then(|text| fs::write(&file, text))
                    .map_err(|error| runtime_error("write(process.json)", error))?;
                self.launch(Place::Beside { process: &file }, workload, stdio, log)?
            }
            None => {
                // As process 1 it would not get the signals of a terminal, nor expect to reap (pid_namespaces(7)).
                workload.init = true;
                let first = self.dir.join("bundle/config.json");
                let mut runtime = Spec::load(first).map_err(spec_error)?;
                runtime.set_process(Some(process));
                let bundle = self.dir.join(format!("bundle-{number}"));
                root::make_dir(&bundle).map_err(StartError::Host)?;
                let file = bundle.join("config.json");
                runtime.save(file).map_err(spec_error)?;
                let id = format!("{}-{number}", self.name);
                let place = Place::New {
                    id: &id,
                    bundle: &bundle,
                };
                self.launch(place, workload, stdio, log)?
            }
        };
        // Where there is none, the container's start has told of it.
        Ok((running, watch.ok().flatten()))
    }

    /// Has libcontainer run a process, and waits until it is its program. The watch's error says why there is none.
    fn launch(
        &self,
        place: Place<'_>,
        mut workload: Workload,
        stdio: Stdio,
        log: &RuntimeLog,
    ) -> Result<(Running, Result<Option<IdWatch>, String>), StartError> {
        let (report_read, report_write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
            .map_err(|errno| runtime_error("pipe2", errno))?;
        workload.report = report_write.as_raw_fd();
        let (prepared, id_watch) = prepare_watch(self.workload.id_map, &self.workload.identity)?;
        workload.id_watch = id_watch;
        give_away(&stdio, &self.workload.identity, self.isolation)?;
        let socket;
        let mut streams = None;
        match stdio {
            Stdio::Streams {
                stdin,
                stdout,
                stderr,
            } => streams = Some((stdin, stdout, stderr)),
            Stdio::Terminal { socket: fd, size } => {
                socket = fd;
                workload.terminal = Some((socket.as_raw_fd(), size));
            }
        }
        log.clear();
        let id = match place {
            Place::New { id, .. } => id,
            Place::Beside { .. } => &self.name,
        };
        let builder = ContainerBuilder::new(id.to_owned(), SyscallType::Linux)
            .with_root_path(STATE)
            .map(|builder| builder.with_executor(workload))
            .map(|builder| match streams {
                Some((stdin, stdout, stderr)) => {
                    let builder = builder.with_stdout(stdout).with_stderr(stderr);
                    match stdin {
                        Some(stdin) => builder.with_stdin(stdin),
                        None => builder,
                    }
                }
                None => builder,
            })
            .map_err(|error| libcontainer_error(&error, log))?;
        let running = match place {
            Place::New { bundle, .. } => {
                let mut container = builder
                    .as_init(bundle)
                    .with_systemd(false)
                    .build()
                    .map_err(|error| libcontainer_error(&error, log))?;
                let running = Running::of(container.pid().map(|pid| pid.as_raw()))?;
                if let Err(error) = container.start() {
                    // It waits to be started, for ever.
                    let kill = rustix::process::Signal::KILL;
                    let _ = rustix::process::pidfd_send_signal(&running.pidfd, kill);
                    return Err(libcontainer_error(&error, log));
                }
                drop(report_write);
                reached_program(report_read)?;
                running
            }
            Place::Beside { process } => {
                let tenant = builder.as_tenant().with_process(Some(process));
                let pid = tenant.with_detach(true).build();
                drop(report_write);
                // The executor's own report says more than libcontainer's flattened text.
                reached_program(report_read)?;
                let pid = pid.map_err(|error| libcontainer_error(&error, log))?;
                Running::of(Some(pid.as_raw()))?
            }
        };
        let watch = prepared.map(|prepared| prepared.finish(&self.name));
        Ok((running, watch.transpose()))
    }
}

/// Where a process is put.
enum Place<'a> {
    /// It is the first of a container of libcontainer's.
    New { id: &'a str, bundle: &'a Path },
    /// It joins the first one of this container.
    Beside { process: &'a Path },
}

impl Running {
    fn of(pid: Option<i32>) -> Result<Self, StartError> {
        let pid = pid.and_then(Pid::from_raw).ok_or_else(|| {
            let error = std::io::Error::other("the process has no pid");
            runtime_error("libcontainer", error)
        })?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())
            .map_err(|errno| runtime_error("pidfd_open", errno))?;
        Ok(Self { pid, pidfd })
    }
}

/// What watches a process for calls with ids that its map lacks. A process without privilege could not make them
/// anyway, except through a set-user-id program, which works where the pod has all ids but the highest.
fn prepare_watch(
    id_map: IdMap,
    identity: &Identity,
) -> Result<(Option<Preparation>, Option<Installation>), StartError> {
    let failed = |error| runtime_error("preparing the watch for ids", error);
    let mapped = match id_map {
        IdMap::Nested | IdMap::Joined(_) => MappedIds::single(identity.uid, identity.gid),
        IdMap::AsInPod if identity.uid == 0 => ids_of_pod().map_err(failed)?,
        IdMap::AsInPod => return Ok((None, None)),
    };
    Ok(Preparation::new(mapped).map_err(failed)?.unzip())
}

/// So that the program may open /dev/stdout again under its own user. In a single-id map only id 0 exists here, and the
/// nested map makes that the container's user.
fn give_away(stdio: &Stdio, identity: &Identity, isolation: Isolation) -> Result<(), StartError> {
    let Stdio::Streams {
        stdin,
        stdout,
        stderr,
    } = stdio
    else {
        return Ok(());
    };
    if isolation.has_all_ids() {
        let owner = Some(rustix::fs::Uid::from_raw(identity.uid));
        let group = Some(rustix::fs::Gid::from_raw(identity.gid));
        for stream in stdin.iter().chain([stdout, stderr]) {
            rustix::fs::fchown(stream, owner, group)
                .map_err(|errno| id_error("fchown(stdout)", errno.raw_os_error()))?;
        }
    }
    Ok(())
}

fn runtime_error(call: &str, error: impl Into<std::io::Error>) -> StartError {
    StartError::Host(HostError::new(Step::Runtime, call, error))
}

fn spec_error(error: OciSpecError) -> StartError {
    runtime_error("runtime spec", std::io::Error::other(error))
}

fn libcontainer_error(error: &LibcontainerError, log: &RuntimeLog) -> StartError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    let records = log.take();
    if !records.is_empty() {
        text = format!("{text}; its log: {records}");
    }
    runtime_error("libcontainer", std::io::Error::other(text))
}

/// Waits until the process is its program or has said why not.
fn reached_program(report: OwnedFd) -> Result<(), StartError> {
    let mut text = Vec::new();
    File::from(report)
        .read_to_end(&mut text)
        .map_err(|e| runtime_error("read(report)", e))?;
    if text.is_empty() {
        return Ok(());
    }
    let failure: Failure = serde_json::from_slice(&text)
        .map_err(|error| runtime_error("read(report)", std::io::Error::other(error)))?;
    let errno = failure.errno;
    Err(match failure.exec {
        Some(ExecFailure {
            program,
            path,
            file_exists,
        }) => StartError::Exec {
            program,
            path,
            errno,
            file_exists,
        },
        None => id_error(&failure.call, errno),
    })
}

/// A call that gives a process its ids; it answers EINVAL for an id that the map does not have.
fn id_error(call: &str, errno: i32) -> StartError {
    match (call, errno) {
        (
            "setresuid" | "setresgid" | "setgroups" | "fchown(stdout)" | "fchown(secret)",
            libc::EINVAL,
        ) => StartError::IdMap(format!(
            "{call} answered {}: the container's user is not in the id map of this isolation level",
            crate::error::errno_text(errno)
        )),
        _ => runtime_error(call, std::io::Error::from_raw_os_error(errno)),
    }
}

fn open_root(rootfs: &Path) -> Result<OwnedFd, StartError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(rootfs, flags, Mode::empty()).map_err(|e| runtime_error("open(rootfs)", e))
}

fn resolve() -> ResolveFlags {
    ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS
}

/// Makes an absolute directory in the container's root with its parents, and opens it.
fn make_dir_in_root(root: &OwnedFd, path: &str) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat2(root, ".", flags, Mode::empty(), resolve())?;
    let mut walked = PathBuf::new();
    for component in Path::new(path).components() {
        let std::path::Component::Normal(name) = component else {
            continue;
        };
        walked.push(name);
        match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno),
        }
        at = openat2(root, &walked, flags, Mode::empty(), resolve())?;
    }
    Ok(at)
}

/// Makes ready what a mount shows, and its place in the container.
fn mount_of(mount: &MountSpec, root: &OwnedFd, to_disk: bool) -> Result<SpecMount, StartError> {
    let target = &mount.target;
    let name = match mount.source {
        MountSource::Image => "VOLUME",
        _ => "the place of the volume",
    };
    let make_place =
        || make_dir_in_root(root, target).map_err(|errno| image_dir_error(name, target, errno));
    let (from, options) = match &mount.source {
        MountSource::Image => {
            // Bound onto itself: a mount of its own that starts with the image's content and owners.
            let place = make_place()?;
            let from = fs::read_link(format!("/proc/self/fd/{}", place.as_raw_fd()))
                .map_err(|error| runtime_error("readlink(volume)", error))?;
            (Some(from), vec!["bind".to_owned()])
        }
        MountSource::Named(name) => {
            // Looked at before it is made: a place that the image lacks leaves the volume as it is.
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let relative = target.trim_start_matches('/');
            let image = openat2(root, relative, flags, Mode::empty(), resolve());
            make_place()?;
            let volumes = root::volumes_dir(to_disk).map_err(StartError::Host)?;
            let failed =
                |call: &str, error| runtime_error(&format!("{call}(volume {name})"), error);
            let from = volume::open(&volumes, name).map_err(|error| failed("mkdir", error))?;
            if let Ok(image) = image {
                volume::seed(&from, &image).map_err(|error| failed("copy", error))?;
            }
            (Some(from), vec!["bind".to_owned()])
        }
        MountSource::Tmpfs { size, mode } => {
            make_place()?;
            // Docker's options (moby, daemon/oci_linux.go) and mode.
            let mut options = ["nosuid", "nodev", "noexec"].map(str::to_owned).to_vec();
            options.push(format!("mode={:o}", mode.unwrap_or(0o1777)));
            options.extend(size.map(|size| format!("size={size}")));
            (None, options)
        }
        MountSource::Bind(number) => {
            let from = Path::new(binds::BINDS).join(number.to_string());
            if from.is_dir() {
                make_place()?;
            } else {
                make_file_place(root, target)?;
            }
            let options = ["rbind", "nosuid", "nodev"].map(str::to_owned).to_vec();
            (Some(from), options)
        }
    };
    let mut options = options;
    options.push(if mount.read_only { "ro" } else { "rw" }.to_owned());
    Ok(SpecMount {
        from,
        to: PathBuf::from(target),
        options,
    })
}

/// Makes room for a file that is mounted: its directory, and nothing where the image has a directory.
fn make_file_place(root: &OwnedFd, target: &str) -> Result<(), StartError> {
    let what = "the place of the volume";
    let parent = Path::new(target).parent().and_then(Path::to_str);
    if let Some(parent) = parent {
        make_dir_in_root(root, parent).map_err(|errno| image_dir_error(what, parent, errno))?;
    }
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let relative = target.trim_start_matches('/');
    match openat2(root, relative, flags, Mode::empty(), resolve()) {
        Ok(_) => Err(StartError::Image(format!(
            "{what} `{target}` is a directory in the image, and what is mounted there is a file"
        ))),
        Err(_) => remove_dangling_link(root, Path::new(target))
            .map_err(|errno| runtime_error(&format!("unlinkat({target})"), errno)),
    }
}

/// Writes the secrets of a container where only its user can read them, and gives the mount that shows them.
fn secrets(
    spec: &ContainerSpec,
    identity: &Identity,
    isolation: Isolation,
) -> Result<Option<SpecMount>, StartError> {
    const PLACE: &str = "/run/secrets";
    if spec.secrets.is_empty() {
        return Ok(None);
    }
    let dir = root::secrets_dir(&spec.name);
    root::make_dir(&dir).map_err(StartError::Host)?;
    for secret in &spec.secrets {
        // Neither name nor value is in a message: a value may be long, and the name is the caller's to show.
        let failed = |call: &str, error| runtime_error(&format!("{call}(secret)"), error);
        let mut options = File::options();
        options.write(true).create_new(true).mode(0o400);
        let mut file = options
            .open(dir.join(&secret.name))
            .map_err(|error| failed("open", error))?;
        file.write_all(secret.value.expose())
            .map_err(|error| failed("write", error))?;
        // In a single-id map the one id that exists here is the container's user in its own.
        if isolation.has_all_ids() {
            let owner = rustix::fs::Uid::from_raw(identity.uid);
            let group = rustix::fs::Gid::from_raw(identity.gid);
            rustix::fs::fchown(&file, Some(owner), Some(group))
                .map_err(|errno| id_error("fchown(secret)", errno.raw_os_error()))?;
        }
    }
    let options = ["bind", "nosuid", "nodev", "noexec", "ro"];
    Ok(Some(SpecMount {
        from: Some(dir),
        to: PathBuf::from(PLACE),
        options: options.map(str::to_owned).to_vec(),
    }))
}

fn image_dir_error(instruction: &str, path: &str, errno: Errno) -> StartError {
    let what = match errno {
        Errno::NOTDIR => "is not a directory in the image".to_owned(),
        Errno::LOOP => "runs in a circle of symbolic links".to_owned(),
        Errno::NOENT => "is behind a symbolic link to nowhere".to_owned(),
        errno => format!(
            "cannot be made: {}",
            crate::error::errno_text(errno.raw_os_error())
        ),
    };
    StartError::Image(format!("{instruction} `{path}` {what}"))
}

fn identity_of(user: &str, root: &OwnedFd) -> Result<Identity, StartError> {
    let read = |path: &str| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mut text = String::new();
        if let Ok(fd) = openat2(root, path, flags, Mode::empty(), resolve()) {
            let mut bytes = Vec::new();
            let _ = File::from(fd).take(MAX_USER_FILE).read_to_end(&mut bytes);
            text = String::from_utf8_lossy(&bytes).into_owned();
        }
        text
    };
    resolve_user(user, &read("etc/passwd"), &read("etc/group")).map_err(StartError::no_identity)
}

/// A sysfs of the container's network namespace. libcontainer would mount one first and make it read-only then, which is
/// refused where the host's is read-only already.
fn read_only_sysfs(
    dir: &Path,
    pod_network: &PodNetwork,
    network: &ContainerNetwork,
) -> Result<String, HostError> {
    let place = dir.join("sys");
    root::make_dir(&place)?;
    pod_network.inside(&network.namespace, || root::mount_read_only_sysfs(&place))?;
    Ok(place.to_string_lossy().into_owned())
}

/// The id map of a single-id pod for one container, and what it takes from the container.
fn single_id_map(identity: &Identity, user: &str) -> (IdMap, bool, Vec<String>) {
    let mut not_given = Vec::new();
    if !identity.groups.is_empty() {
        let groups = identity
            .groups
            .iter()
            .map(u32::to_string)
            .collect::<Vec<_>>()
            .join(", ");
        not_given.push(format!("supplementary groups {groups} of user `{user}`"));
    }
    if identity.uid != 0 {
        not_given.push(format!(
            "whether user {} may read, write and run what the layers give to other users: every file is its own",
            identity.uid
        ));
    }
    let id_map = if identity.uid == 0 && identity.gid == 0 {
        IdMap::AsInPod
    } else {
        IdMap::Nested
    };
    (id_map, false, not_given)
}

/// The image's and the user's variables, with the ones Docker adds where they are missing.
fn environment(spec: &ContainerSpec, identity: &Identity) -> Vec<String> {
    let mut env = spec.env.clone();
    if !has(&env, "PATH=") {
        env.insert(0, format!("PATH={DEFAULT_PATH}"));
    }
    if !has(&env, "HOSTNAME=") {
        env.push(format!("HOSTNAME={}", spec.hostname));
    }
    if !has(&env, "HOME=") {
        env.push(format!("HOME={}", identity.home));
    }
    env
}

fn has(env: &[String], name: &str) -> bool {
    env.iter().any(|entry| entry.starts_with(name))
}

/// The directories that are mounted over must be none or directories: libcontainer would refuse, for good
/// reasons, but in words that blame the host.
fn check_mount_points(root: &OwnedFd) -> Result<(), StartError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    for path in ["/proc", "/sys", "/dev"] {
        match openat2(root, path, flags, Mode::empty(), resolve()) {
            Ok(_) | Err(Errno::NOENT) => {}
            Err(_) => return Err(image_dir_error("mount point", path, Errno::NOTDIR)),
        }
    }
    match make_dir_in_root(root, "/etc") {
        Ok(_) => Ok(()),
        Err(errno) => Err(image_dir_error("mount point", "/etc", errno)),
    }
}

/// Docker's link for programs that look for mounts where there once was a file, unless the image has something there.
fn link_mtab(root: &OwnedFd) -> Result<(), StartError> {
    let failed = |errno| image_dir_error("mount point", "/etc", errno);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let etc = openat2(root, "/etc", flags, Mode::empty(), resolve()).map_err(failed)?;
    match rustix::fs::symlinkat("/proc/mounts", etc, "mtab") {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}

/// Makes room for a file that is put over the image's: a link to nowhere would stop its mount. Images of systems
/// that ran systemd-resolved have one at /etc/resolv.conf.
fn remove_dangling_link(root: &OwnedFd, path: &Path) -> Result<(), Errno> {
    let open = |path: &Path, flags| openat2(root, path, flags, Mode::empty(), resolve());
    if open(path, OFlags::PATH | OFlags::CLOEXEC).is_ok() {
        return Ok(());
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let Ok(parent) = open(parent, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC) else {
        return Ok(()); // libcontainer makes it.
    };
    match rustix::fs::unlinkat(parent, name, rustix::fs::AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// The lines that every container of Docker has (moby, libnetwork/etchosts).
const HOSTS: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\n\
                     ff00::0\tip6-mcastprefix\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n";

/// Files that Docker puts over the image's: their place here, and in the container.
fn write_files(
    dir: &Path,
    spec: &ContainerSpec,
    pod_network: &PodNetwork,
    network: &ContainerNetwork,
) -> Result<Vec<(PathBuf, &'static str)>, StartError> {
    let hostname = &spec.hostname;
    let mut hosts = String::from(HOSTS);
    for (name, address) in &spec.host_config.extra_hosts {
        hosts.push_str(&format!("{address}\t{name}\n"));
    }
    for (name, address) in pod_network.hosts() {
        hosts.push_str(&format!("{address}\t{name}\n"));
    }
    if *hostname != spec.name {
        hosts.push_str(&format!("{}\t{hostname}\n", network.address));
    }
    let resolv_conf = format!("nameserver {}\n", net_ns::OWN_ADDRESS);
    [
        ("hosts", "/etc/hosts", hosts),
        ("hostname", "/etc/hostname", format!("{hostname}\n")),
        ("resolv.conf", "/etc/resolv.conf", resolv_conf),
    ]
    .into_iter()
    .map(|(name, destination, text)| {
        let file = dir.join(name);
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o644);
        options
            .open(&file)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(|error| runtime_error("write(/etc file)", error))?;
        Ok((file, destination))
    })
    .collect()
}
