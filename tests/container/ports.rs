//! What comes out of a container: its last lines, and its ports on the host.

use super::*;

fn last_words(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as, &ImageFixture::load("logs-and-dies")) else {
        return;
    };
    let run = bench.context.run(bench.arguments(&[]));
    run.assert_code(1);
    let lines = bench.context.app_log();
    for (name, last) in [
        ("out", "last words on stdout"),
        ("err", "last words on stderr"),
    ] {
        let mut expected: Vec<_> = (1..=10_000)
            .map(|line| format!("{name} {line} of 10000"))
            .collect();
        expected.push(last.to_owned());
        let of_stream = lines
            .iter()
            .filter(|line| line.starts_with(name) || *line == last);
        assert!(
            of_stream.eq(&expected),
            "lines of {name} are lost or out of order"
        );
    }
    assert_eq!(lines.len(), 20_002);
    assert_eq!(bench.context.receipt()["variants"][0]["log_lines"], 20_002);
    assert!(
        run.stderr.contains("last 15 of 20002 lines"),
        "{}",
        run.stderr
    );
    // The two pipes are read as they fill, so one stream may end a few hundred lines before the other.
    assert!(
        run.stderr.contains("  | last words on std"),
        "{}",
        run.stderr
    );
}

#[test]
fn root_no_line_is_lost_when_the_process_dies_at_once() {
    last_words(RunAs::Root);
}

#[test]
fn rootless_no_line_is_lost_when_the_process_dies_at_once() {
    last_words(RunAs::OrdinaryUser);
}

/// One HTTP/1.1 exchange.
fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.is_empty() {
        Err(ErrorKind::UnexpectedEof.into())
    } else {
        Ok(answer)
    }
}

/// Sends, ends that direction, and reads what comes back until the other direction ends.
fn echo(address: SocketAddr, sent: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(sent)?;
    stream.shutdown(Shutdown::Write)?;
    let mut received = Vec::new();
    stream.read_to_end(&mut received)?;
    Ok(received)
}

fn published_ports(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as, &ImageFixture::load("half-close")) else {
        return;
    };
    let (_running, ports) = bench.start(&["--publish", "0:9999"], 2);
    let [echoing, silent] = ports[..] else {
        unreachable!()
    };
    assert!(
        echoing.ip().is_loopback() && silent.ip().is_loopback(),
        "{ports:?}"
    );
    wait_for("the app listens", LIMIT, || echo(echoing, b"ready").ok());
    std::thread::scope(|scope| {
        for number in 0..20_usize {
            scope.spawn(move || {
                let sent: Vec<u8> = (0..300_000)
                    .map(|at: usize| (at * 31 + number) as u8)
                    .collect();
                let received = echo(echoing, &sent).unwrap();
                assert!(
                    received == sent,
                    "connection {number}: {} bytes came back",
                    received.len()
                );
            });
        }
    });
    // Accepted by the host's side, which cannot know before; then reset, not ended.
    let mut stream = TcpStream::connect(silent).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    let error = stream
        .read(&mut [0])
        .expect_err("a port nobody listens on was answered");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

#[test]
fn root_published_ports_carry_connections_at_once_and_half_closed() {
    published_ports(RunAs::Root);
}

#[test]
fn rootless_published_ports_carry_connections_at_once_and_half_closed() {
    published_ports(RunAs::OrdinaryUser);
}

fn busy_ports(run_as: RunAs) {
    let Some(bench) = Bench::new(run_as, &ImageFixture::load("serve")) else {
        return;
    };
    let gate = ["gate", bench.archive.to_str().unwrap()];
    // Busy already when somebody else has it; held so that it stays so.
    let default = TcpListener::bind("127.0.0.1:18080");
    let implicit = bench.context.run(gate);
    implicit.assert_code(0);
    let [port] = published(&implicit.stderr)[..] else {
        panic!("{}", implicit.stderr)
    };
    assert!(port.ip().is_loopback());
    if default.is_ok() {
        assert_ne!(port.port(), 18080);
        assert!(
            implicit.stderr.contains("(port 18080 is busy)"),
            "{}",
            implicit.stderr
        );
    }

    let named = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let held = TcpListener::bind(named).unwrap();
    let map = format!("{}:8080", named.port());
    let named_run = bench.context.run(["gate", gate[1], "--publish", &map]);
    named_run.assert_code(3);
    let expected = format!("error: cannot listen on {named}: Address already in use (os error 98)");
    assert!(
        named_run.stderr.lines().any(|line| line == expected),
        "{}",
        named_run.stderr
    );
    assert!(
        named_run.stderr.contains("hint: free the port"),
        "{}",
        named_run.stderr
    );
    assert_eq!(bench.context.receipt()["verdict"], "inconclusive");
    drop(held);
    let now_free = bench.context.run(["gate", gate[1], "--publish", &map]);
    now_free.assert_code(0);
    assert_eq!(published(&now_free.stderr), [named]);
}

#[test]
fn root_a_busy_port_is_refused_when_named_and_replaced_when_not() {
    busy_ports(RunAs::Root);
}

#[test]
fn rootless_a_busy_port_is_refused_when_named_and_replaced_when_not() {
    busy_ports(RunAs::OrdinaryUser);
}

/// All run at the same time: none can pass before its port was asked to let it.
fn concurrent_runs(run_as: RunAs) {
    const RUNS: usize = 20;
    let Some(bench) = Bench::new(run_as, &ImageFixture::load("serve")) else {
        return;
    };
    let start = |number: usize| {
        let report = format!("report-{number}");
        let archive = bench.archive.to_str().unwrap();
        let words = ["--interval", "100ms", "--report-dir", &report, "--"];
        let arguments = ["gate", archive, "--within", WITHIN]
            .into_iter()
            .chain(words);
        bench
            .context
            .start(arguments.chain(["--released-by", "/release"]))
    };
    let mut runs: Vec<Running> = (0..RUNS).map(start).collect();
    let ports: Vec<_> = runs
        .iter_mut()
        .map(|run| {
            run.wait_for_stderr("variant default: asking", LIMIT);
            let [port] = published(&run.stderr_so_far())[..] else {
                panic!("{}", run.stderr_so_far())
            };
            port
        })
        .collect();
    assert_eq!(
        ports.iter().collect::<BTreeSet<_>>().len(),
        RUNS,
        "{ports:?}"
    );
    for port in ports {
        let answer = wait_for("the app answers", LIMIT, || get(port, "/release").ok());
        assert!(answer.ends_with("released\n"), "{answer}");
    }
    for run in runs {
        run.wait(LIMIT).assert_code(0);
    }
    let left = std::fs::read_dir(bench.context.dir().join("cache/smokegate/run")).unwrap();
    assert_eq!(left.count(), 0, "directories of runs that ended");
}

#[test]
fn root_twenty_runs_of_one_image_at_once_pass_each_on_its_own_port() {
    concurrent_runs(RunAs::Root);
}

#[test]
fn rootless_twenty_runs_of_one_image_at_once_pass_each_on_its_own_port() {
    concurrent_runs(RunAs::OrdinaryUser);
}
