//! Logs of real programs, and what of them is shown.

use super::*;

/// What is shown, parts divided by `…`, and the headline.
fn shown(log: &str, most: usize) -> (Vec<String>, Option<String>) {
    let lines: Vec<&str> = log.lines().collect();
    let slice = LogSlice::of(&lines, most);
    let mut text = Vec::new();
    for part in &slice.parts {
        if part.start > 0 {
            text.push("…".to_owned());
        }
        text.extend(lines[part.clone()].iter().map(|line| (*line).to_owned()));
    }
    assert!(
        slice.parts.iter().map(Range::len).sum::<usize>() <= most,
        "{text:#?}"
    );
    (text, slice.headline)
}

const NOISE: &str = "starting\nlistening soon\nloading configuration\nconfiguration loaded\n";

#[test]
fn the_line_that_names_the_cause_is_found() {
    for (language, log, headline, first) in [
        (
            "Python 3.11",
            "Traceback (most recent call last):\n  File \"/app/app.py\", line 1, in <module>\n    import flask\nModuleNotFoundError: No module named 'flask'",
            "ModuleNotFoundError: No module named 'flask'",
            "Traceback (most recent call last):",
        ),
        (
            "Python 3.11, with a cause",
            "Traceback (most recent call last):\n  File \"/app/a.py\", line 2, in <module>\n    1/0\n    ~^~\nZeroDivisionError: division by zero\n\nDuring handling of the above exception, another exception occurred:\n\nTraceback (most recent call last):\n  File \"/app/a.py\", line 4, in <module>\n    raise SystemError('no database')\nSystemError: no database",
            "SystemError: no database",
            "Traceback (most recent call last):",
        ),
        (
            "Python 3.11, a module's own class",
            "Traceback (most recent call last):\n  File \"/usr/lib/python3/dist-packages/redis/connection.py\", line 624, in connect\n    raise ConnectionError(self._error_message(e))\nredis.exceptions.ConnectionError: Error 111 connecting to localhost:6379. Connection refused.\n[2026-01-01 00:00:00 +0000] [1] [INFO] Shutting down: Master",
            "redis.exceptions.ConnectionError: Error 111 connecting to localhost:6379. Connection refused.",
            "Traceback (most recent call last):",
        ),
        (
            "Python 3.11, syntax",
            "  File \"/app/app.py\", line 1\n    def f(:\n          ^\nSyntaxError: invalid syntax",
            "SyntaxError: invalid syntax",
            "  File \"/app/app.py\", line 1",
        ),
        (
            "Node 18, a module that is missing",
            "node:internal/modules/cjs/loader:1080\n  throw err;\n  ^\n\nError: Cannot find module 'express'\nRequire stack:\n- /app/server.js\n    at Module._resolveFilename (node:internal/modules/cjs/loader:1077:15)\n    at Module._load (node:internal/modules/cjs/loader:922:27)\n    at node:internal/main/run_main_module:23:47 {\n  code: 'MODULE_NOT_FOUND',\n  requireStack: [ '/app/server.js' ]\n}\n\nNode.js v18.19.0",
            "Error: Cannot find module 'express'",
            "node:internal/modules/cjs/loader:1080",
        ),
        (
            "Node 18, a connection",
            "node:events:495\n      throw er; // Unhandled 'error' event\n      ^\n\nError: connect ECONNREFUSED 127.0.0.1:6379\n    at TCPConnectWrap.afterConnect [as oncomplete] (node:net:1555:16)\nEmitted 'error' event on Socket instance at:\n    at emitErrorNT (node:internal/streams/destroy:151:8)\n    at process.processTicksAndRejections (node:internal/process/task_queues:82:21) {\n  errno: -111,\n  code: 'ECONNREFUSED'\n}\n\nNode.js v18.19.0",
            "Error: connect ECONNREFUSED 127.0.0.1:6379",
            "node:events:495",
        ),
        (
            "Java 17",
            "Exception in thread \"main\" java.lang.IllegalStateException: cannot start\n\tat Main.main(Main.java:5)\nCaused by: java.net.ConnectException: Connection refused\n\tat java.base/sun.nio.ch.Net.pollConnect(Native Method)\n\tat Main.main(Main.java:3)\n\t... 1 more",
            "java.net.ConnectException: Connection refused",
            "Caused by: java.net.ConnectException: Connection refused",
        ),
        (
            "Java 17, a class that is missing",
            "Exception in thread \"main\" java.lang.NoClassDefFoundError: org/slf4j/Logger\n\tat java.base/java.lang.Class.getDeclaredMethods0(Native Method)\n\tat java.base/sun.launcher.LauncherHelper.checkAndLoadMain(LauncherHelper.java:669)",
            "Exception in thread \"main\" java.lang.NoClassDefFoundError: org/slf4j/Logger",
            "Exception in thread \"main\" java.lang.NoClassDefFoundError: org/slf4j/Logger",
        ),
        (
            "Java 17, no main class",
            "Error: Could not find or load main class app.Main\nCaused by: java.lang.ClassNotFoundException: app.Main",
            "Error: Could not find or load main class app.Main",
            "Error: Could not find or load main class app.Main",
        ),
        (
            "Go 1.19",
            "panic: runtime error: invalid memory address or nil pointer dereference\n[signal SIGSEGV: segmentation violation code=0x1 addr=0x0 pc=0x45a2b8]\n\ngoroutine 1 [running]:\nmain.main()\n\t/src/main.go:9 +0x18\nexit status 2",
            "panic: runtime error: invalid memory address or nil pointer dereference",
            "panic: runtime error: invalid memory address or nil pointer dereference",
        ),
        (
            "Go 1.19, log.Fatal",
            "2026/01/01 00:00:00 FATAL: connecting to PostgreSQL: dial tcp 127.0.0.1:5432: connect: connection refused",
            "2026/01/01 00:00:00 FATAL: connecting to PostgreSQL: dial tcp 127.0.0.1:5432: connect: connection refused",
            "2026/01/01 00:00:00 FATAL: connecting to PostgreSQL: dial tcp 127.0.0.1:5432: connect: connection refused",
        ),
        (
            "Rust 1.89",
            "\nthread 'main' (17) panicked at src/main.rs:3:33:\ncalled `Result::unwrap()` on an `Err` value: NotPresent\nnote: run with `RUST_BACKTRACE=1` environment variable to display a backtrace",
            "thread 'main' (17) panicked at src/main.rs:3:33: called `Result::unwrap()` on an `Err` value: NotPresent",
            "thread 'main' (17) panicked at src/main.rs:3:33:",
        ),
        (
            "Rust 1.63",
            "thread 'main' panicked at 'no database', src/main.rs:2:5\nnote: run with `RUST_BACKTRACE=1` environment variable to display a backtrace",
            "thread 'main' panicked at 'no database', src/main.rs:2:5",
            "thread 'main' panicked at 'no database', src/main.rs:2:5",
        ),
        (
            "Ruby 3.1",
            "<internal:/usr/lib/ruby/vendor_ruby/rubygems/core_ext/kernel_require.rb>:85:in `require': cannot load such file -- sinatra (LoadError)\n\tfrom <internal:/usr/lib/ruby/vendor_ruby/rubygems/core_ext/kernel_require.rb>:85:in `require'\n\tfrom /app/app.rb:1:in `<main>'",
            "cannot load such file -- sinatra (LoadError)",
            "<internal:/usr/lib/ruby/vendor_ruby/rubygems/core_ext/kernel_require.rb>:85:in `require': cannot load such file -- sinatra (LoadError)",
        ),
        (
            ".NET 8",
            "Unhandled exception. System.IO.FileNotFoundException: Could not find file '/app/settings.json'.\n   at System.IO.File.ReadAllText(String path)\n   at Program.Main() in /src/Program.cs:line 3",
            "Unhandled exception. System.IO.FileNotFoundException: Could not find file '/app/settings.json'.",
            "Unhandled exception. System.IO.FileNotFoundException: Could not find file '/app/settings.json'.",
        ),
        (
            "PHP 8.2",
            "PHP Fatal error:  Uncaught Error: Class \"Redis\" not found in /app/index.php:3\nStack trace:\n#0 {main}\n  thrown in /app/index.php on line 3",
            "PHP Fatal error:  Uncaught Error: Class \"Redis\" not found in /app/index.php:3",
            "PHP Fatal error:  Uncaught Error: Class \"Redis\" not found in /app/index.php:3",
        ),
        (
            "nginx 1.22",
            "nginx: [emerg] host not found in upstream \"api\" in /etc/nginx/conf.d/default.conf:3",
            "nginx: [emerg] host not found in upstream \"api\" in /etc/nginx/conf.d/default.conf:3",
            "nginx: [emerg] host not found in upstream \"api\" in /etc/nginx/conf.d/default.conf:3",
        ),
        (
            "PostgreSQL 15",
            "2026-01-01 00:00:00.000 UTC [1] FATAL:  data directory \"/var/lib/postgresql/data\" has invalid permissions\n2026-01-01 00:00:00.000 UTC [1] DETAIL:  Permissions should be u=rwx (0700).",
            "2026-01-01 00:00:00.000 UTC [1] FATAL:  data directory \"/var/lib/postgresql/data\" has invalid permissions",
            "2026-01-01 00:00:00.000 UTC [1] FATAL:  data directory \"/var/lib/postgresql/data\" has invalid permissions",
        ),
        (
            "JSON lines",
            "{\"level\":\"error\",\"msg\":\"listen tcp :80: bind: permission denied\"}",
            "{\"level\":\"error\",\"msg\":\"listen tcp :80: bind: permission denied\"}",
            "{\"level\":\"error\",\"msg\":\"listen tcp :80: bind: permission denied\"}",
        ),
        (
            "dash",
            "/start: 3: /app/memory-plugin: not found",
            "/start: 3: /app/memory-plugin: not found",
            "/start: 3: /app/memory-plugin: not found",
        ),
    ] {
        let log = format!("{}{log}\n", NOISE.repeat(10));
        let (text, found) = shown(&log, 20);
        assert_eq!(found.as_deref(), Some(headline), "{language}: {text:#?}");
        assert!(
            text.iter().any(|line| line == first),
            "{language}: {text:#?}"
        );
        let is_noise = |line: &&String| NOISE.contains(line.as_str());
        let noise = text.iter().filter(is_noise).count();
        assert!(noise < 20 - 1, "{language}: {text:#?}");
    }
}

#[test]
fn a_long_traceback_keeps_its_ends_and_what_follows_it() {
    let frames = |count: usize| {
        (0..count)
            .map(|n| format!("  File \"/app/a.py\", line {n}, in f\n    f()\n"))
            .collect::<String>()
    };
    let log = format!(
        "up\nTraceback (most recent call last):\n{}RecursionError: maximum recursion depth exceeded\nbye\n",
        frames(60)
    );
    let (text, headline) = shown(&log, 8);
    assert_eq!(
        headline.unwrap(),
        "RecursionError: maximum recursion depth exceeded"
    );
    assert_eq!(text[1], "Traceback (most recent call last):");
    assert_eq!(text[2], "…");
    assert_eq!(
        text[text.len() - 2..],
        ["RecursionError: maximum recursion depth exceeded", "bye"]
    );

    let log = format!(
        "panic: lost\n\ngoroutine 1 [running]:\n{}",
        "main.f()\n\t/src/main.go:3 +0x1\n".repeat(40)
    );
    let (text, _) = shown(&log, 8);
    assert_eq!(text[..3], ["panic: lost", "", "goroutine 1 [running]:"]);
    assert_eq!(text.len(), 8);
}

#[test]
fn an_error_far_from_the_end_is_shown_with_both() {
    let log = format!(
        "{}FATAL: no configuration\n{}",
        NOISE.repeat(10),
        "waiting\n".repeat(100)
    );
    let (text, headline) = shown(&log, 10);
    assert_eq!(headline.unwrap(), "FATAL: no configuration");
    assert!(
        text.contains(&"FATAL: no configuration".to_owned()),
        "{text:?}"
    );
    assert_eq!(text.last().unwrap(), "waiting");
    assert_eq!(
        text.iter().filter(|line| *line == "…").count(),
        2,
        "{text:?}"
    );
}

#[test]
fn without_any_error_the_last_lines_are_shown() {
    let log = "one\ntwo\nthree: 0 errors\nfour\nfive\nsix\nerrors: none found\n";
    let (text, headline) = shown(log, 4);
    assert_eq!((text.len(), headline), (5, None));
    assert_eq!(text[1..], ["four", "five", "six", "errors: none found"]);
    assert_eq!(shown("", 10), (Vec::new(), None));
    assert_eq!(shown("::error::injected\n", 10).1, None);
    let long = format!("ERROR {}", "ü".repeat(1000));
    assert_eq!(
        shown(&long, 10).1.unwrap().chars().count(),
        MAX_HEADLINE + 1
    );
}
