//! The files a container sees: the image's, the kernel's, and ours over them.

use super::*;

fn kernel_files(run_as: RunAs) {
    let Some(bench) = Bench::of_text(run_as, IMAGE) else {
        return;
    };
    let questions = [
        ("try bytes 4 /dev/zero", "00000000"),
        ("try bytes 4 /dev/null", ""),
        ("try write /dev/null x", "succeeded"),
        (
            "try write /dev/full x",
            "refused: No space left on device (os error 28)",
        ),
        (
            "try write /proc/sys/kernel/hostname x",
            "refused: Read-only file system (os error 30)",
        ),
        (
            "try write /proc/sysrq-trigger h",
            "refused: Read-only file system (os error 30)",
        ),
        (
            "try write /sys/class/net/eth0/mtu 1400",
            "refused: Read-only file system (os error 30)",
        ),
        // Masked files are empty, masked directories too.
        ("try cat /proc/keys", "succeeded"),
        ("try cat /proc/timer_list", "succeeded"),
        ("try bytes 16 /proc/kcore", ""),
        ("try ls /proc/acpi", "succeeded"),
        ("try ls /sys/firmware", "succeeded"),
        ("try write /dev/shm/file x", "succeeded"),
        ("link /dev/fd", "/proc/self/fd"),
        ("link /dev/stdout", "/proc/self/fd/1"),
        ("link /dev/ptmx", "pts/ptmx"),
        ("cat /proc/sys/net/ipv4/ip_unprivileged_port_start", "0"),
        ("link /etc/mtab", "/proc/mounts"),
    ];
    let mut words = String::new();
    for (question, _) in questions {
        let _ = write!(
            words,
            "print ?{} {question} then ",
            question.replace(' ', "_")
        );
    }
    words += "bytes 8 /dev/urandom then try write /dev/stdout through-its-name";
    for user in ["root", "app:web"] {
        let lines = bench.ask(&["--user", user], &words);
        for (question, expected) in questions {
            let marker = format!("?{}", question.replace(' ', "_"));
            let at = lines.iter().position(|line| *line == marker).unwrap();
            let answer = &lines[at + 1];
            // Not every kernel has every masked file.
            let absent = answer.contains("No such file") && question.contains("/proc/");
            // root is refused by the mount, others by the file's mode before.
            let denied = user != "root" && answer.contains("Permission denied");
            let refused = expected.starts_with("refused: Read-only") && denied;
            assert!(
                answer == expected || absent || refused,
                "{user}: {question}: {answer}"
            );
        }
        assert!(
            lines
                .iter()
                .any(|line| line.starts_with("through-its-name")),
            "{user}: {lines:?}"
        );
        let noise = &lines[lines.len() - 2];
        assert!(noise.len() == 16 && *noise != "0".repeat(16), "{noise}");
    }
}

#[test]
fn root_kernel_files_are_there_read_only_or_masked() {
    kernel_files(RunAs::Root);
}

#[test]
fn rootless_kernel_files_are_there_read_only_or_masked() {
    kernel_files(RunAs::OrdinaryUser);
}

fn etc_files(run_as: RunAs) {
    let Some(bench) = Bench::of_text(run_as, IMAGE) else {
        return;
    };
    let lines = bench.ask(
        &[],
        "cat /etc/hosts then cat /etc/hostname then try cat /etc/resolv.conf",
    );
    assert!(
        !lines.iter().any(|line| line.contains("from-the-image")),
        "{lines:?}"
    );
    assert!(
        lines.contains(&"127.0.0.1\tlocalhost".to_owned()),
        "{lines:?}"
    );
    let own = lines
        .iter()
        .find_map(|line| line.strip_suffix("\tapp"))
        .expect("its own address");
    assert!(
        !own.parse::<std::net::IpAddr>().unwrap().is_loopback(),
        "{own}"
    );
    assert!(
        lines.contains(&"app".to_owned()),
        "/etc/hostname: {lines:?}"
    );
    assert!(
        lines.iter().any(|line| line.ends_with("succeeded")),
        "resolv.conf: {lines:?}"
    );
    // It is the address that probes connect to.
    let mut passing = bench.arguments(&["--entrypoint", "/probe-target", "--"]);
    passing.extend(["serve", "--address", own]);
    bench.context.run(passing).assert_code(0);
}

#[test]
fn root_etc_files_name_the_container_and_its_address() {
    etc_files(RunAs::Root);
}

#[test]
fn rootless_etc_files_name_the_container_and_its_address() {
    etc_files(RunAs::OrdinaryUser);
}

fn host_is_out_of_reach(run_as: RunAs) {
    let Some(bench) = Bench::of_text(run_as, IMAGE) else {
        return;
    };
    let secret = bench.context.write("secret-of-the-host", "secret");
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = service.local_addr().unwrap().port();
    let words = format!(
        "try cat {} then try ls /proc/1/root{} then try connect 127.0.0.1:{port} then try connect 10.88.0.1:{port} \
         then ls / then mounts",
        secret.display(),
        bench.context.dir().display(),
    );
    let lines = bench.ask(&[], &words);
    let refused = |line: &str, why: &str| line.starts_with("refused: ") && line.contains(why);
    assert!(refused(&lines[0], "No such file"), "{lines:?}");
    assert!(refused(&lines[1], "No such file"), "{lines:?}");
    assert!(refused(&lines[2], "ConnectionRefused"), "{lines:?}");
    assert!(refused(&lines[3], "ConnectionRefused"), "{lines:?}");
    let root: Vec<_> = lines[4..]
        .iter()
        .take_while(|line| !line.contains(" / "))
        .collect();
    let expected = [
        "dev",
        "etc",
        "made",
        "opt",
        "private",
        "probe-target",
        "proc",
        "setgid",
        "setuid",
        "shared",
        "sys",
        "tmp",
    ];
    assert_eq!(root, expected);
    let own = bench.context.dir().to_str().unwrap();
    assert!(
        !lines[4..].iter().any(|line| line.contains(own)),
        "a place of the host: {lines:?}"
    );
}

#[test]
fn root_host_files_and_services_are_out_of_reach() {
    host_is_out_of_reach(RunAs::Root);
}

#[test]
fn rootless_host_files_and_services_are_out_of_reach() {
    host_is_out_of_reach(RunAs::OrdinaryUser);
}

/// Links in the image that point above its root, where the container's files and mounts are made.
fn links_stay_inside(run_as: RunAs) {
    let Some(context) = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as) else {
        return;
    };
    let outside = context.dir().join("outside");
    std::fs::create_dir(&outside).unwrap();
    run_as.own(&outside).unwrap();
    let up = "../".repeat(30);
    let place = outside.display();
    let cases = [
        format!("link /etc/hosts -> {up}{place}/hosts"),
        format!("link /etc/hosts -> {place}/hosts"),
        format!("link /etc/resolv.conf -> {up}store/planted"),
        format!("link /etc -> {up}store"),
        format!("link /volume -> {up}{place}"),
        format!("dir /real 0755 0:0\nlink /volume -> {up}real"),
        format!("link /workdir -> {place}"),
        format!("link /workdir -> {up}store"),
        format!("link /dev -> {up}{place}"),
        format!("link /proc -> {up}{place}"),
        format!("link /sys -> {up}{place}"),
    ];
    for links in cases {
        let text = format!(
            "entrypoint: /probe-target serve\nvolume: /volume/made\nworkdir: /workdir/made\nlayer gzip\n{links}\n\
             file /probe-target 0755 0:0 @probe-target"
        );
        let archive = context.archive("image", &ImageFixture::parse(&text).unwrap().build());
        let run = context.run([
            "gate",
            archive.to_str().unwrap(),
            "--publish",
            "0:8080",
            "--within",
            "20s",
        ]);
        let made: Vec<_> = std::fs::read_dir(&outside).unwrap().collect();
        assert!(made.is_empty(), "{links}: made on the host: {made:?}");
        assert!(
            !context.dir().join("cache/smokegate/planted").exists(),
            "{links}"
        );
        assert!(
            !context.dir().join("cache/smokegate/made").exists(),
            "{links}"
        );
        // Some of these run, others are refused as the image's fault.
        assert!(matches!(run.code(), Some(0 | 1)), "{links}: {}", run.stderr);
        let common = links.contains("/etc/hosts") || links.contains("/etc/resolv.conf");
        if common || links.contains("dir /real") {
            run.assert_code(0);
        }
    }
}

#[test]
fn root_links_of_an_image_lead_nowhere_on_the_host() {
    links_stay_inside(RunAs::Root);
}

#[test]
fn rootless_links_of_an_image_lead_nowhere_on_the_host() {
    links_stay_inside(RunAs::OrdinaryUser);
}

/// The answers of `stat` without the size and the time.
fn stats(bench: &Bench, flags: &[&str], paths: &[&str]) -> Vec<String> {
    let words: Vec<_> = paths
        .iter()
        .map(|path| format!("try stat {path}"))
        .collect();
    let lines = bench.ask(flags, &words.join(" then "));
    let without_size = |line: &String| match line.split_once(" size=") {
        Some((head, _)) => head.to_owned(),
        None => line.clone(),
    };
    lines
        .iter()
        .filter(|line| *line != "succeeded")
        .map(without_size)
        .collect()
}

fn modes(run_as: RunAs) {
    let Some(bench) = Bench::of_text(run_as, IMAGE) else {
        return;
    };
    let found = stats(
        &bench,
        &[],
        &[
            "/tmp", "/shared", "/setuid", "/setgid", "/private", "/made/by",
        ],
    );
    let expected = [
        "directory mode=1777 uid=0 gid=0",
        "directory mode=2775 uid=0 gid=0",
        "file mode=4755 uid=0 gid=0",
        "file mode=2755 uid=0 gid=0",
        "file mode=0600 uid=0 gid=0",
        "directory mode=0755 uid=0 gid=0",
    ];
    assert_eq!(found, expected);
}

#[test]
fn root_modes_are_the_images() {
    modes(RunAs::Root);
}

#[test]
fn rootless_modes_are_the_images() {
    modes(RunAs::OrdinaryUser);
}

fn volumes(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as, &ImageFixture::load("volumes")) else {
        return;
    };
    let words = "cat /var/lib/app/seed then stat /var/lib/app then try write /var/lib/app/new x \
                 then try ls /var/lib/app then try write /not/in/the/image/new y \
                 then try rename /var/lib/app/new /tmp/new then mounts";
    let lines = bench.ask(&[], words);
    let (owner, _) = if bench.is_root() {
        ("uid=1000 gid=1000", ())
    } else {
        ("uid=0 gid=0", ())
    };
    assert_eq!(lines[0], "from the image");
    assert!(
        lines[1].starts_with(&format!("directory mode=0750 {owner}")),
        "{lines:?}"
    );
    assert_eq!(
        lines[2..7],
        ["succeeded", "new", "seed", "succeeded", "succeeded"]
    );
    // A mount of its own: nothing can be renamed out of it (EXDEV).
    assert!(lines[7].contains("os error 18"), "{lines:?}");
    for volume in ["/var/lib/app", "/not/in/the/image"] {
        assert!(
            lines
                .iter()
                .any(|line| line.contains(&format!(" {volume} "))),
            "{volume}: {lines:?}"
        );
    }
    // A second run starts with the image's content again.
    let lines = bench.ask(&[], "ls /var/lib/app then ls /not/in/the/image");
    assert_eq!(lines, ["seed"]);
}

#[test]
fn root_volumes_are_mounts_with_the_images_content() {
    volumes(RunAs::Root);
}

#[test]
fn rootless_volumes_are_mounts_with_the_images_content() {
    volumes(RunAs::OrdinaryUser);
}

fn joined_layers(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as, &ImageFixture::load("whiteouts")) else {
        return;
    };
    let words = "ls /etc then ls /opaque then ls / then cat /etc/removed then cat /etc/replaced \
                 then cat /lib/extra.so then cat /usr/lib/base.so then cat /etc/kept-too \
                 then link /etc/dangling then try ls /removed-dir";
    let lines = bench.ask(&[], words);
    let expected = [
        // /etc, with the files that every container has
        "dangling",
        "hostname",
        "hosts",
        "kept",
        "kept-too",
        "mtab",
        "pipe",
        "removed",
        "replaced",
        "resolv.conf",
        // /opaque
        "above",
        // /
        "dev",
        "etc",
        "lib",
        "opaque",
        "probe-target",
        "proc",
        "sys",
        "tmp",
        "usr",
        "back again",
        "second",
        "extra",
        "base",
        "from the first layer",
        "/does/not/exist",
        "refused: No such file or directory (os error 2)",
    ];
    assert_eq!(lines, expected);
    let owner = if bench.is_root() {
        "uid=7 gid=8"
    } else {
        "uid=0 gid=0"
    };
    let found = stats(
        &bench,
        &[],
        &["/tmp", "/etc/replaced", "/etc/pipe", "/etc/kept"],
    );
    let expected = [
        "directory mode=1777 uid=0 gid=0".to_owned(),
        format!("file mode=0640 {owner}"),
        "fifo mode=0620 uid=0 gid=0".to_owned(),
        "file mode=0600 uid=0 gid=0".to_owned(),
    ];
    assert_eq!(found, expected);
}

#[test]
fn root_layers_look_joined_from_inside() {
    joined_layers(RunAs::Root);
}

#[test]
fn rootless_layers_look_joined_from_inside() {
    joined_layers(RunAs::OrdinaryUser);
}

#[test]
fn rootless_the_callers_umask_stays_outside() {
    let Some(bench) = Bench::new(RunAs::OrdinaryUser, &ImageFixture::parse(IMAGE).unwrap()) else {
        return;
    };
    let args = [
        "gate",
        bench.archive.to_str().unwrap(),
        "--publish",
        "0:8080",
        "--entrypoint",
        "/probe-target",
        "--",
        "stat",
        "/etc/hosts",
    ];
    let wrapper = ["sh", "-c", "umask 077; exec \"$@\"", "sh"];
    let command = bench.context.command_under(&wrapper, args);
    bench
        .context
        .start_command(command)
        .wait(LIMIT)
        .assert_code(1); // it says what was asked and ends
    let log = bench.context.app_log();
    assert!(log.iter().any(|line| line.contains("mode=0644")), "{log:?}");
}
