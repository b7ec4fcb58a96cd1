//! Whether this host can execute programs of a platform: its own, or by an emulator that the kernel knows.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use smokegate_image::Platform;

/// How often a file is tried that another thread's fork still holds open for writing (ETXTBSY).
const TRIES: u32 = 20;

/// Why programs of a platform cannot be executed here, in words; `None` when they can.
///
/// Emulators are found by trying: a header of the foreign kind, written to `dir`, is executed. What is registered in
/// binfmt_misc works in a container too, where its list is mostly not mounted. Where nothing can be executed from
/// `dir`, nothing is found out and `None` is the answer.
pub fn cannot_execute(platform: &Platform, dir: &Path) -> Option<String> {
    let host = Platform::host();
    if platform.os != host.os {
        return Some(format!("programs of {} need another kernel", platform.os));
    }
    if platform.architecture == host.architecture {
        return lacks_level(platform);
    }
    match (host.architecture.as_str(), platform.architecture.as_str()) {
        ("amd64", "386") | ("arm64", "arm") => {
            Some("the seccomp filter of containers knows 64-bit programs only".to_owned())
        }
        (_, other) => {
            let is_run = header(other).is_some_and(|header| is_run(&header, dir));
            let why = "no emulator for them is registered with the kernel (binfmt_misc)";
            (!is_run).then(|| why.to_owned())
        }
    }
}

/// The levels of x86-64 (its psABI) that a variant asks for and this processor lacks.
#[cfg(target_arch = "x86_64")]
fn lacks_level(platform: &Platform) -> Option<String> {
    use std::arch::is_x86_feature_detected as has;
    let v2 = has!("sse4.2") && has!("popcnt") && has!("ssse3");
    let v3 = v2 && has!("avx2") && has!("bmi2") && has!("fma") && has!("lzcnt");
    let v4 = v3 && has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl");
    let level = platform.variant.as_deref().unwrap_or("v1");
    let is_there = match level {
        "v2" => v2,
        "v3" => v3,
        "v4" => v4,
        _ => true,
    };
    (!is_there).then(|| format!("this processor lacks the instructions of x86-64-{level}"))
}

#[cfg(not(target_arch = "x86_64"))]
fn lacks_level(_: &Platform) -> Option<String> {
    None
}

/// The ELF header of an empty program (elf(5)), for the architectures that emulators are registered for.
fn header(architecture: &str) -> Option<Vec<u8>> {
    let (is_64, is_little, machine): (bool, bool, u16) = match architecture {
        "386" => (false, true, 3),
        "amd64" => (true, true, 62),
        "arm" => (false, true, 40),
        "arm64" => (true, true, 183),
        "loong64" => (true, true, 258),
        "mips64le" => (true, true, 8),
        "ppc64le" => (true, true, 21),
        "riscv64" => (true, true, 243),
        "s390x" => (true, false, 22),
        _ => return None,
    };
    let half = |value: u16| match is_little {
        true => value.to_le_bytes(),
        false => value.to_be_bytes(),
    };
    let mut bytes = vec![0x7f, b'E', b'L', b'F'];
    bytes.extend([if is_64 { 2 } else { 1 }, if is_little { 1 } else { 2 }, 1]);
    bytes.resize(16, 0);
    bytes.extend(half(2)); // ET_EXEC
    bytes.extend(half(machine));
    bytes.resize(if is_64 { 64 } else { 52 }, 0);
    Some(bytes)
}

/// Whether the kernel finds something that runs it; what that makes of an empty program does not matter.
fn is_run(header: &[u8], dir: &Path) -> bool {
    let Ok(mut file) = tempfile::Builder::new()
        .prefix("smokegate-")
        .tempfile_in(dir)
    else {
        return true;
    };
    let executable = std::fs::Permissions::from_mode(0o700);
    let written = file
        .write_all(header)
        .and_then(|()| file.as_file().set_permissions(executable));
    if written.is_err() {
        return true;
    }
    let path = file.into_temp_path();
    for _ in 0..TRIES {
        let mut command = Command::new(&path);
        command
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        match command.spawn() {
            Ok(mut child) => {
                let _ = child.wait();
                return true;
            }
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => {
                std::thread::sleep(Duration::from_millis(5));
            }
            // ENOEXEC: nobody wants it. ENOENT: the emulator is registered, and gone.
            Err(error) => {
                return !matches!(error.raw_os_error(), Some(libc::ENOEXEC | libc::ENOENT));
            }
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_platform_is_executed_and_another_kernels_is_not() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(cannot_execute(&Platform::host(), dir.path()), None);
        for (platform, why) in [
            ("windows/amd64", "another kernel"),
            ("linux/no-such", "binfmt_misc"),
        ] {
            let words = cannot_execute(&platform.parse().unwrap(), dir.path()).unwrap();
            assert!(words.contains(why), "{platform}: {words}");
        }
    }

    #[test]
    fn a_header_that_nobody_runs_is_found_out() {
        let dir = tempfile::tempdir().unwrap();
        let mut nobodys = header("s390x").unwrap();
        nobodys[18..20].copy_from_slice(&0xfffe_u16.to_be_bytes());
        assert!(!is_run(&nobodys, dir.path()));
        assert!(is_run(b"#!/bin/true\n", dir.path()));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
