//! Every container under test: one static program that behaves as its words say.
//!
//! A word that only sets something up (`ignore-term`, `spawn-orphan`, `fork-bomb N`, `print TEXT`) is followed by
//! what to do next, so `ignore-term spawn-orphan serve --port 9000` reads as it runs. `then` begins the next thing
//! to do after one that ends: `try cat /a then id then exit 3`.

mod syscalls;
mod tree;

use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const SIGILL: i32 = 4;
const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;
const SIGSEGV: i32 = 11;
const SIGTERM: i32 = 15;
const SIG_DFL: usize = 0;
const SIG_IGN: usize = 1;
const PR_SET_SECCOMP: i32 = 22;
const SECCOMP_MODE_STRICT: u64 = 1;
const RLIMIT_CPU: i32 = 0;

unsafe extern "C" {
    fn signal(number: i32, handler: usize) -> usize;
    fn kill(pid: i32, number: i32) -> i32;
    fn prctl(option: i32, ...) -> i32;
    fn setrlimit(resource: i32, limit: *const [u64; 2]) -> i32;
    fn sync();
    fn _exit(code: i32) -> !;
    fn dup2(old: i32, new: i32) -> i32;
    fn syscall(number: i64, ...) -> i64;
    fn sigprocmask(how: i32, set: *const [u64; 16], old: *mut [u64; 16]) -> i32;
    fn sigwait(set: *const [u64; 16], number: *mut i32) -> i32;
    fn setuid(uid: u32) -> i32;
    fn setgroups(count: usize, list: *const u32) -> i32;
}

/// The signals that were ignored when the program started, as the mask SigIgn of proc(5). Taken before `main`, as
/// Rust's own start-up ignores SIGPIPE.
static IGNORED_AT_START: AtomicU64 = AtomicU64::new(0);

#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = note_ignored_signals;

extern "C" fn note_ignored_signals() {
    for number in 1..32 {
        // SIGKILL and SIGSTOP answer SIG_ERR.
        let was = unsafe { signal(number, SIG_DFL) };
        if was == SIG_IGN {
            unsafe { signal(number, SIG_IGN) };
            IGNORED_AT_START.fetch_or(1 << (number - 1), Ordering::Relaxed);
        }
    }
}

fn main() {
    let words: Vec<String> = env::args_os().skip(1).map(lossless).collect();
    for part in words.split(|word| word == "then") {
        if let Err(error) = run(part.to_vec().into()) {
            eprintln!("probe-target: {error}");
            process::exit(1);
        }
    }
}

fn lossless(word: OsString) -> String {
    String::from_utf8(word.into_vec()).expect("arguments are UTF-8")
}

struct Words(VecDeque<String>);

impl Words {
    fn next(&mut self, what: &str) -> io::Result<String> {
        self.0
            .pop_front()
            .ok_or_else(|| io::Error::other(format!("missing {what}")))
    }

    fn number(&mut self, what: &str) -> io::Result<u64> {
        let word = self.next(what)?;
        word.parse()
            .map_err(|_| io::Error::other(format!("{what} is no number: {word}")))
    }

    fn rest(&mut self) -> String {
        Vec::from(std::mem::take(&mut self.0)).join(" ")
    }
}

fn run(words: VecDeque<String>) -> io::Result<()> {
    let mut words = Words(words);
    loop {
        let verb = words.next("what to do")?;
        match verb.as_str() {
            // Words that are followed by another verb.
            "ignore-term" => unsafe {
                signal(SIGTERM, SIG_IGN);
                IGNORE_TERM.store(1, Ordering::Relaxed);
            },
            // It has a handler, and goes on all the same.
            "outlive-term" => unsafe {
                extern "C" fn go_on(_: i32) {}
                signal(SIGTERM, go_on as extern "C" fn(i32) as usize);
                IGNORE_TERM.store(1, Ordering::Relaxed);
            },
            "spawn-orphan" => spawn_orphan()?,
            "fork-bomb" => {
                for _ in 0..words.number("number of children")? {
                    Command::new("/proc/self/exe").arg("hang").spawn()?;
                }
            }
            // As inits do: no handler, the signal is fetched.
            "sigwait-term" => return sigwait_term(words),
            "brief-orphan" => return brief_orphan(),
            "print" => println!("{}", words.next("text")?),
            "sleep-then" => pause(&words.next("seconds")?)?,
            "into" => divert(&words.next("file")?)?,
            "wait-for" => wait_for(Path::new(&words.next("file")?)),

            "try" => {
                let answer = run(std::mem::take(&mut words.0));
                return match answer {
                    Ok(()) => print("succeeded\n"),
                    Err(error) => print(&format!("refused: {error}\n")),
                };
            }
            "serve" => return serve(words, Manner::Steady),
            "flap" => return serve(words, Manner::Flapping),
            "half-close-echo" => return half_close_echo(words),
            "connect" => return connect(&words.next("address")?),
            "ask-name" => {
                let (protocol, kind) = (words.next("udp or tcp")?, words.next("A or AAAA")?);
                return ask_name(&protocol, &kind, &words.next("name")?);
            }
            "resolve" => return resolve(&words.next("name")?),
            "send-udp" => return send_udp(&words.next("address")?),
            "exchange" => return exchange(&words.next("address")?, &words.rest()),
            // The host's side of a test of egress: a name server that knows one name.
            "name-server" => {
                let (address, name) = (words.next("address")?, words.next("name")?);
                return name_server(&address, &name, &words.next("its address")?);
            }
            "check-http" => {
                let port = words.next("port")?;
                return check_http(&port, &words.next("path")?);
            }
            "exit" => process::exit(words.number("exit code")? as i32),
            "print-then-exit" => {
                let code = words.number("exit code")?;
                println!("{}", words.rest());
                process::exit(code as i32);
            }
            "signal" => return die_by(&words.next("signal name")?),
            "sleep" => {
                on_term_exit();
                return pause(&words.next("seconds")?);
            }
            "hang" => {
                on_term_exit();
                loop {
                    thread::sleep(Duration::from_secs(3600));
                }
            }
            "log-lines" => return log_lines(words.number("number of lines")?),
            "env" => return print(&environment()),
            "id" => return print(&identity()?),
            "mounts" => return print(&fs::read_to_string("/proc/self/mountinfo")?),
            "hostname" => return print(&fs::read_to_string("/proc/sys/kernel/hostname")?),
            "cwd" => return print(&format!("{}\n", env::current_dir()?.display())),
            "getpid" => return print(&format!("{}\n", process::id())),
            "args" => return print(&format!("{:?}\n", words.0)),
            "cat" => return io::stdout().write_all(&fs::read(words.next("file")?)?),
            "write" => {
                let file = words.next("file")?;
                return fs::write(file, words.rest());
            }
            // In two writes, so that no reader gets it at once.
            "halves" => {
                let content = fs::read(words.next("file")?)?;
                let (first, second) = content.split_at(content.len() / 2);
                io::stdout().write_all(first)?;
                io::stdout().flush()?;
                thread::sleep(Duration::from_millis(300));
                return io::stdout().write_all(second);
            }
            // So many MiB, piece by piece.
            "fill" => {
                let count = words.number("MiB")?;
                let mut file = fs::File::create(words.next("file")?)?;
                return (0..count).try_for_each(|_| file.write_all(&[b'x'; 1 << 20]));
            }
            "stat" => return stat(&words.next("path")?),
            "ls" => return list(&words.next("path")?),
            "tree" => {
                let root = words.next("path")?;
                return tree::tree(Path::new(&root), &Vec::from(words.0));
            }
            "link" => {
                return print(&format!(
                    "{}\n",
                    fs::read_link(words.next("path")?)?.display()
                ));
            }
            "rename" => return fs::rename(words.next("file")?, words.next("new name")?),
            "grep" => {
                let text = words.next("text")?;
                let content = fs::read_to_string(words.next("file")?)?;
                let lines = content.lines().filter(|line| line.contains(&text));
                return print(&lines.map(|line| format!("{line}\n")).collect::<String>());
            }
            "bytes" => return first_bytes(words.number("how many")?, &words.next("file")?),
            "descriptors" => return descriptors(),
            "ignored-signals" => {
                let mask = IGNORED_AT_START.load(Ordering::Relaxed);
                return print(&format!("{mask:016x}\n"));
            }
            "syscalls" => return syscalls::syscalls(),
            #[cfg(target_arch = "x86_64")]
            "call-as-32-bit" => {
                let mut number = |what| Ok::<_, io::Error>(words.number(what)? as u32);
                let call = number("number of a call")?;
                let arguments = [
                    number("argument")?,
                    number("argument")?,
                    number("argument")?,
                ];
                return syscalls::as_32_bit_program(call, arguments);
            }
            "forbidden-calls" => return forbidden_calls(),
            "chown" => {
                let file = words.next("file")?;
                let (uid, gid) = (words.number("uid")?, words.number("gid")?);
                return std::os::unix::fs::lchown(file, Some(uid as u32), Some(gid as u32));
            }
            "setuid" => return answer_of(unsafe { setuid(words.number("uid")? as u32) }),
            "setgroups" => {
                let group = words.number("group")? as u32;
                return answer_of(unsafe { setgroups(1, &group) });
            }

            // Words for the host's side of a test: a kernel that says no.
            "refuse-unshare" => {
                let flags = words.number("flags")?;
                return refuse(Refused::Unshare(flags as u32), words);
            }
            "refuse-send-of" => {
                let length = words.number("length")?;
                return refuse(Refused::Send(length as u32), words);
            }
            "refuse-socket-protocol" => {
                let protocol = words.number("protocol")?;
                return refuse(Refused::SocketProtocol(protocol as u32), words);
            }
            "refuse-write-of" => {
                let length = words.number("length")?;
                return refuse(Refused::Write(length as u32), words);
            }
            other => return Err(io::Error::other(format!("unknown word `{other}`"))),
        }
    }
}

fn answer_of(result: i32) -> io::Result<()> {
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

fn print(text: &str) -> io::Result<()> {
    io::stdout().write_all(text.as_bytes())
}

fn pause(seconds: &str) -> io::Result<()> {
    let seconds: f64 = seconds.parse().map_err(io::Error::other)?;
    thread::sleep(Duration::from_secs_f64(seconds));
    Ok(())
}

static IGNORE_TERM: AtomicU64 = AtomicU64::new(0);

/// A signal's default action never reaches PID 1 of a pid namespace, so ending on SIGTERM takes a handler.
fn on_term_exit() {
    extern "C" fn end(_: i32) {
        unsafe { _exit(0) }
    }
    if IGNORE_TERM.load(Ordering::Relaxed) == 0 {
        unsafe { signal(SIGTERM, end as extern "C" fn(i32) as usize) };
    }
}

/// Leaves a process behind whose parent is gone: PID 1 inherits it.
fn spawn_orphan() -> io::Result<()> {
    if env::var_os("PROBE_TARGET_ORPHAN").is_some() {
        Command::new("/proc/self/exe").arg("hang").spawn()?;
        process::exit(0);
    }
    Command::new("/proc/self/exe")
        .args(["spawn-orphan", "exit", "0"])
        .env("PROBE_TARGET_ORPHAN", "1")
        .status()
        .map(drop)
}

/// Does the rest in a thread while the first one waits for SIGTERM.
fn sigwait_term(words: Words) -> io::Result<()> {
    const SIG_BLOCK: i32 = 0;
    // The kernel's set of 64 signals is the beginning of the C library's.
    let mut set = [0_u64; 16];
    set[0] = 1 << (SIGTERM - 1);
    unsafe { sigprocmask(SIG_BLOCK, &set, std::ptr::null_mut()) };
    thread::spawn(move || {
        if let Err(error) = run(words.0) {
            eprintln!("probe-target: {error}");
        }
    });
    let mut number = 0;
    unsafe { sigwait(&set, &mut number) };
    println!("fetched signal {number}");
    process::exit(0)
}

/// Says what becomes of a process whose parent is gone once it has ended: whether process 1 reaps it.
fn brief_orphan() -> io::Result<()> {
    const LONG: Duration = Duration::from_secs(3);
    if env::var_os("PROBE_TARGET_ORPHAN").is_some() {
        let mut sleep = Command::new("/proc/self/exe");
        let orphan = sleep.args(["sleep", "0.1"]).stdout(process::Stdio::null());
        println!("{}", orphan.spawn()?.id());
        process::exit(0);
    }
    let mut parent = Command::new("/proc/self/exe");
    let parent = parent.arg("brief-orphan").env("PROBE_TARGET_ORPHAN", "1");
    let pid = String::from_utf8_lossy(&parent.output()?.stdout)
        .trim()
        .to_owned();
    let stat = format!("/proc/{pid}/stat");
    let mut zombie_since = None;
    loop {
        let Ok(text) = fs::read_to_string(&stat) else {
            return print("reaped\n");
        };
        if text.contains(") Z ") {
            let since = zombie_since.get_or_insert_with(Instant::now);
            if since.elapsed() > LONG {
                return print("a zombie\n");
            }
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Dies by a signal, also as PID 1, whose own signals the kernel drops (pid_namespaces(7)).
fn die_by(name: &str) -> io::Result<()> {
    let number = match name.trim_start_matches("SIG") {
        "HUP" => 1,
        "ILL" => SIGILL,
        "ABRT" => SIGABRT,
        "KILL" => SIGKILL,
        "SEGV" => SIGSEGV,
        "TERM" => SIGTERM,
        "INT" => 2,
        "QUIT" => 3,
        other => return Err(io::Error::other(format!("unknown signal `{other}`"))),
    };
    io::stdout().flush()?;
    unsafe {
        signal(number, SIG_DFL);
        match number {
            // A real fault is the one signal of its own that PID 1 cannot drop.
            SIGSEGV => std::ptr::null_mut::<u8>().write_volatile(1),
            #[cfg(target_arch = "x86_64")]
            SIGILL => std::arch::asm!("ud2"),
            // Strict seccomp kills at the next call, PID 1 too; with a filter in force it is refused, and
            // then the CPU time limit does the same a second later.
            SIGKILL if process::id() == 1 => {
                if prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) == 0 {
                    sync();
                }
                setrlimit(RLIMIT_CPU, &[1, 1]);
                let spin = AtomicU64::new(0);
                loop {
                    spin.fetch_add(1, Ordering::Relaxed);
                }
            }
            _ => {}
        }
        kill(process::id() as i32, number);
    }
    Err(io::Error::other(format!(
        "still alive after {name}: PID 1 drops its own signals"
    )))
}

fn log_lines(count: u64) -> io::Result<()> {
    let (mut out, mut error) = (io::stdout().lock(), io::stderr().lock());
    for line in 1..=count {
        writeln!(out, "out {line} of {count}")?;
        writeln!(error, "err {line} of {count}")?;
    }
    // No newline at the end: the last line must not be lost for want of one.
    write!(out, "last words on stdout")?;
    out.flush()?;
    write!(error, "last words on stderr")
}

fn environment() -> String {
    env::vars_os()
        .map(|(name, value)| format!("{}={}\n", lossless(name), lossless(value)))
        .collect()
}

/// Who this process is, in the words of proc(5): ids, groups, capability sets, NoNewPrivs, Seccomp.
fn identity() -> io::Result<String> {
    let wanted = [
        "Uid:",
        "Gid:",
        "Groups:",
        "Cap",
        "NoNewPrivs:",
        "Seccomp:",
        "NSpid:",
    ];
    let status = fs::read_to_string("/proc/self/status")?;
    let lines = status
        .lines()
        .filter(|line| wanted.iter().any(|name| line.starts_with(name)));
    Ok(lines.map(|line| format!("{line}\n")).collect())
}

fn stat(path: &str) -> io::Result<()> {
    let meta = fs::symlink_metadata(path)?;
    let kind = match meta.file_type() {
        kind if kind.is_dir() => "directory",
        kind if kind.is_symlink() => "link",
        kind if kind.is_fifo() => "fifo",
        kind if kind.is_char_device() => "char",
        kind if kind.is_block_device() => "block",
        _ => "file",
    };
    let (mode, uid, gid) = (meta.mode() & 0o7777, meta.uid(), meta.gid());
    print(&format!(
        "{kind} mode={mode:04o} uid={uid} gid={gid} size={} mtime={} links={} dev={:x}\n",
        meta.size(),
        meta.mtime(),
        meta.nlink(),
        meta.rdev(),
    ))
}

fn list(path: &str) -> io::Result<()> {
    let mut names = fs::read_dir(path)?
        .map(|entry| Ok(lossless(entry?.file_name())))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort();
    print(
        &names
            .into_iter()
            .map(|name| name + "\n")
            .collect::<String>(),
    )
}

/// Standard output goes into a file from here on.
fn divert(file: &str) -> io::Result<()> {
    let file = fs::File::create(file)?;
    match unsafe { dup2(file.as_raw_fd(), 1) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

fn wait_for(file: &Path) {
    while !file.exists() {
        thread::sleep(Duration::from_millis(10));
    }
}

fn first_bytes(count: u64, file: &str) -> io::Result<()> {
    let mut bytes = Vec::new();
    fs::File::open(file)?.take(count).read_to_end(&mut bytes)?;
    print(
        &(bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
            + "\n"),
    )
}

/// Every open descriptor but the one that this takes.
fn descriptors() -> io::Result<()> {
    let own = format!("/proc/{}/fd", process::id());
    let mut lines = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let target = fs::read_link(entry.path())?;
        if target != Path::new(&own) {
            let number = lossless(entry.file_name());
            lines.push(format!("{number} {}\n", target.display()));
        }
    }
    lines.sort();
    print(&lines.concat())
}

/// Calls that Docker's seccomp profile refuses although some of them need no capability.
fn forbidden_calls() -> io::Result<()> {
    const NEW_USER: u64 = 0x1000_0000;
    const AF_VSOCK: u64 = 40;
    // keyctl(KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0)
    let session = [0, -3_i64 as u64, 0];
    // mknodat(AT_FDCWD, NAME, S_IFCHR | 0666, 0)
    let device = [-100_i64 as u64, c"/tmp/device".as_ptr() as u64, 0o2_0666];
    #[cfg(target_arch = "x86_64")]
    let calls = [
        ("mount", 165, [0; 3]),
        ("bpf", 321, [0; 3]),
        ("keyctl", 250, session),
        ("unshare", 272, [NEW_USER, 0, 0]),
        ("clone3", 435, [0; 3]),
        ("socket", 41, [AF_VSOCK, 1, 0]),
        ("io_uring_setup", 425, [0; 3]),
        ("mknodat", 259, device),
        ("newer-than-known", 479, [0; 3]),
    ];
    #[cfg(target_arch = "aarch64")]
    let calls = [
        ("mount", 40, [0; 3]),
        ("bpf", 280, [0; 3]),
        ("keyctl", 219, session),
        ("unshare", 97, [NEW_USER, 0, 0]),
        ("clone3", 435, [0; 3]),
        ("socket", 198, [AF_VSOCK, 1, 0]),
        ("io_uring_setup", 425, [0; 3]),
        ("mknodat", 33, device),
        ("newer-than-known", 479, [0; 3]),
    ];
    for (name, number, [first, second, third]) in calls {
        let zero = 0_u64;
        let answer = unsafe { syscall(number, first, second, third, zero, zero, zero) };
        let error = io::Error::last_os_error().raw_os_error().unwrap_or(0);
        let errno = if answer == -1 { error } else { 0 };
        print(&format!("{name} {errno}\n"))?;
    }
    Ok(())
}

enum Refused {
    /// unshare(2) with any of these flags.
    Unshare(u32),
    /// write(2) of exactly so many bytes.
    Write(u32),
    /// sendto(2) of exactly so many bytes.
    Send(u32),
    /// socket(2) for this protocol of its family.
    SocketProtocol(u32),
}

/// Runs the program that follows under a filter that answers a call with EPERM, as a container's seccomp profile
/// or AppArmor does (seccomp(2)).
fn refuse(refused: Refused, mut words: Words) -> io::Result<()> {
    const PR_SET_NO_NEW_PRIVS: i32 = 38;
    const SET_MODE_FILTER: u64 = 1;
    let (load, jump_equal, jump_any, answer) = (0x20, 0x15, 0x45, 0x06);
    let (allow, refuse_with_eperm) = (0x7fff_0000, 0x0005_0001);
    #[cfg(target_arch = "x86_64")]
    let (unshare, write, send, socket, seccomp) = (272, 1, 44, 41, 317);
    #[cfg(target_arch = "aarch64")]
    let (unshare, write, send, socket, seccomp) = (97, 64, 206, 198, 277);
    let (number, argument, jump, value) = match refused {
        Refused::Unshare(flags) => (unshare, 0, jump_any, flags),
        Refused::Write(length) => (write, 2, jump_equal, length),
        Refused::Send(length) => (send, 2, jump_equal, length),
        Refused::SocketProtocol(protocol) => (socket, 2, jump_equal, protocol),
    };
    // struct sock_filter and struct sock_fprog (linux/filter.h); seccomp_data has the number at 0 and the
    // arguments, 64 bits each, from 16 on.
    #[repr(C)]
    struct Instruction(u16, u8, u8, u32);
    #[repr(C)]
    struct Program(u16, *const Instruction);
    let instructions = [
        Instruction(load, 0, 0, 0),
        Instruction(jump_equal, 0, 3, number),
        Instruction(load, 0, 0, 16 + 8 * argument),
        Instruction(jump, 0, 1, value),
        Instruction(answer, 0, 0, refuse_with_eperm),
        Instruction(answer, 0, 0, allow),
    ];
    let program = Program(instructions.len() as u16, instructions.as_ptr());
    let words: Vec<String> = words.0.drain(..).collect();
    let [name, arguments @ ..] = words.as_slice() else {
        return Err(io::Error::other("missing program"));
    };
    unsafe {
        prctl(PR_SET_NO_NEW_PRIVS, 1_u64, 0_u64, 0_u64, 0_u64);
        if syscall(seccomp, SET_MODE_FILTER, 0_u64, &raw const program) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Err(Command::new(name).args(arguments).exec())
}

fn half_close_echo(mut words: Words) -> io::Result<()> {
    let mut port = "8080".to_owned();
    while let Ok(word) = words.next("option") {
        match word.as_str() {
            "--port" => port = words.next("port")?,
            other => return Err(io::Error::other(format!("unknown option `{other}`"))),
        }
    }
    on_term_exit();
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    println!("listening on 0.0.0.0:{port}");
    for stream in listener.incoming() {
        let mut stream = stream?;
        thread::spawn(move || -> io::Result<()> {
            let mut everything = Vec::new();
            stream.read_to_end(&mut everything)?;
            stream.write_all(&everything)
        });
    }
    Ok(())
}

fn connect(address: &str) -> io::Result<()> {
    match TcpStream::connect(address) {
        Ok(stream) => print(&format!("connected to {}\n", stream.peer_addr()?)),
        Err(error) => Err(io::Error::other(format!(
            "{address}: {:?}: {error}",
            error.kind()
        ))),
    }
}

/// What the C library makes of a name.
fn resolve(name: &str) -> io::Result<()> {
    let found = (name, 0).to_socket_addrs()?;
    let found: Vec<_> = found.map(|address| address.ip().to_string()).collect();
    print(&format!("{name} is {}\n", found.join(" ")))
}

/// A question as RFC 1035 writes it.
fn question(kind: &str, name: &str) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.as_bytes());
    }
    message.extend([0, 0, if kind == "AAAA" { 28 } else { 1 }, 0, 1]);
    message
}

/// Asks the name server of /etc/resolv.conf, and prints the code of its answer and how many records it has.
fn ask_name(protocol: &str, kind: &str, name: &str) -> io::Result<()> {
    let text = fs::read_to_string("/etc/resolv.conf")?;
    let server = text
        .lines()
        .find_map(|line| line.strip_prefix("nameserver "));
    let server = (
        server.ok_or_else(|| io::Error::other("no name server"))?,
        53,
    );
    let message = question(kind, name);
    let mut answer = vec![0; 512];
    let time = Some(Duration::from_secs(5));
    if protocol == "tcp" {
        let mut stream = TcpStream::connect(server)?;
        stream.set_read_timeout(time)?;
        stream.write_all(&[&(message.len() as u16).to_be_bytes(), &message[..]].concat())?;
        let mut length = [0; 2];
        stream.read_exact(&mut length)?;
        answer.truncate(u16::from_be_bytes(length).into());
        stream.read_exact(&mut answer)?;
    } else {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_read_timeout(time)?;
        socket.send_to(&message, server)?;
        let (length, _) = socket.recv_from(&mut answer)?;
        answer.truncate(length);
    }
    if answer.get(..2) != message.get(..2) {
        return Err(io::Error::other("an answer to something else"));
    }
    let (code, count) = (answer[3] & 15, answer[7]);
    print(&format!(
        "{protocol} {kind} {name}: code {code}, {count} answers\n"
    ))
}

fn send_udp(address: &str) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.connect(address)?;
    socket.send(b"?")?;
    // The refusal arrives with the next call.
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    match socket.recv(&mut [0; 16]) {
        Ok(_) => print("answered\n"),
        Err(error) => print(&format!("{address}: {:?}\n", error.kind())),
    }
}

/// Says something, says that it was all, and prints what comes back until the other side has no more.
fn exchange(address: &str, text: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    stream.write_all(text.as_bytes())?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    print(&format!("it said: {answer}\n"))
}

/// Answers questions for the address of one name; all others do not exist.
fn name_server(address: &str, name: &str, ip: &str) -> io::Result<()> {
    let socket = UdpSocket::bind(address)?;
    let ip: Ipv4Addr = ip.parse().map_err(io::Error::other)?;
    let mut buffer = [0; 512];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        let mut answer = buffer[..length].to_vec();
        answer[2] |= 0x80;
        let wanted = question("A", name);
        let end = wanted.len() - 4;
        if answer.get(12..end) != wanted.get(12..end) {
            answer[3] |= 3;
        } else if answer[end + 1] == 1 {
            answer.truncate(wanted.len());
            answer[7] = 1;
            answer[11] = 0;
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
            answer.extend(ip.octets());
        }
        socket.send_to(&answer, from)?;
    }
}

fn check_http(port: &str, path: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(format!("127.0.0.1:{port}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    )?;
    let mut status = String::new();
    BufReader::new(stream).read_line(&mut status)?;
    println!("{}", status.trim_end());
    process::exit(if status.split(' ').nth(1) == Some("200") {
        0
    } else {
        1
    })
}

#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Steady,
    /// Every second answer is a 500.
    Flapping,
}

struct Service {
    path: String,
    released_by: Option<String>,
    released: AtomicBool,
    status: u16,
    body: String,
    header: String,
    manner: Manner,
    delay: Duration,
    exit_after: Option<u64>,
    answered: AtomicU64,
}

fn serve(mut words: Words, manner: Manner) -> io::Result<()> {
    let (mut port, mut address) = ("8080".to_owned(), "0.0.0.0".to_owned());
    let mut service = Service {
        path: "/healthz".to_owned(),
        released_by: None,
        released: AtomicBool::new(false),
        status: 200,
        body: "ok\n".to_owned(),
        header: String::new(),
        manner,
        delay: Duration::ZERO,
        exit_after: None,
        answered: AtomicU64::new(0),
    };
    on_term_exit();
    while let Ok(word) = words.next("option") {
        match word.as_str() {
            "--port" => port = words.next("port")?,
            "--address" => address = words.next("address")?,
            "--path" => service.path = words.next("path")?,
            "--status" => service.status = words.number("status")? as u16,
            "--body" => service.body = words.next("body")?,
            "--header" => service.header = words.next("header")? + "\r\n",
            // Nothing listens before: a connection is refused.
            "--after" => pause(&words.next("seconds")?)?,
            // It listens, and takes this long for each answer.
            "--delay" => {
                let seconds: f64 = words.next("seconds")?.parse().map_err(io::Error::other)?;
                service.delay = Duration::from_secs_f64(seconds);
            }
            // Answers 503 until somebody asked for this path.
            "--released-by" => service.released_by = Some(words.next("path")?),
            // Answers that many requests, then exits 3.
            "--exit-after" => service.exit_after = Some(words.number("requests")?),
            other => return Err(io::Error::other(format!("unknown option `{other}`"))),
        }
    }
    let listener = TcpListener::bind(format!("{address}:{port}"))?;
    println!("listening on {address}:{port}");
    let service = Arc::new(service);
    for stream in listener.incoming() {
        let (stream, service) = (stream?, Arc::clone(&service));
        thread::spawn(move || {
            if let Err(error) = answer(stream, &service) {
                eprintln!("request: {error}");
            }
        });
    }
    Ok(())
}

fn answer(mut stream: TcpStream, service: &Service) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut request = String::new();
    reader.read_line(&mut request)?;
    let mut header = String::new();
    while reader.read_line(&mut header)? > 2 {
        header.clear();
    }
    let path = request.split(' ').nth(1).unwrap_or_default();
    let count = service.answered.fetch_add(1, Ordering::SeqCst) + 1;
    thread::sleep(service.delay);
    let (status, body) = if path == service.path {
        let flapped = service.manner == Manner::Flapping && count % 2 == 0;
        let held = service.released_by.is_some() && !service.released.load(Ordering::SeqCst);
        let status = match (held, flapped) {
            (true, _) => 503,
            (false, true) => 500,
            (false, false) => service.status,
        };
        (status, service.body.clone())
    } else if Some(path) == service.released_by.as_deref() {
        service.released.store(true, Ordering::SeqCst);
        (200, "released\n".to_owned())
    } else if path == "/env" {
        (200, environment())
    } else if path == "/id" {
        (200, identity()?)
    } else {
        (404, "no such path\n".to_owned())
    };
    write!(
        stream,
        "HTTP/1.1 {status} Probe\r\nContent-Type: text/plain\r\n{}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        service.header,
        body.len(),
    )?;
    stream.flush()?;
    println!("{} {status}", request.trim_end());
    if service.exit_after.is_some_and(|limit| count >= limit) {
        println!("exiting after {count} requests");
        process::exit(3);
    }
    Ok(())
}
