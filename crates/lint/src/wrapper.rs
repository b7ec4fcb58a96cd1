//! Programs that only start another one: what they start, from their arguments.

/// The command line that `argv` would start in turn, where it is a known wrapper.
pub(crate) fn wrapped(argv: &[String]) -> Option<Vec<String>> {
    let name = argv.first()?.rsplit('/').next()?;
    let options = match name {
        "tini" | "tini-static" | "docker-init" => Options::with(&["-p", "-e"]),
        "dumb-init" => Options::with(&["--rewrite", "-r"]),
        "catatonit" | "nohup" | "setsid" => Options::with(&[]),
        "env" => {
            let options = Options::with(&["-u", "--unset", "-C", "--chdir"]);
            let rest = options.skip(&argv[1..])?;
            let assignments = rest.iter().take_while(|word| word.contains('=')).count();
            return some(&rest[assignments..]);
        }
        "nice" => Options::with(&["-n", "--adjustment"]),
        "stdbuf" => Options::with(&["-i", "-o", "-e"]),
        "timeout" => {
            let options = Options::with(&["-k", "--kill-after", "-s", "--signal"]);
            return some(options.skip(&argv[1..])?.get(1..)?);
        }
        "gosu" | "su-exec" => {
            return some(Options::with(&[]).skip(&argv[1..])?.get(1..)?);
        }
        "setpriv" => Options::with(&[
            "--reuid",
            "--regid",
            "--groups",
            "--inh-caps",
            "--bounding-set",
            "--ambient-caps",
        ]),
        _ => return None,
    };
    some(options.skip(&argv[1..])?)
}

/// Options of a wrapper that take a word of their own.
struct Options {
    with_value: &'static [&'static str],
}

impl Options {
    fn with(with_value: &'static [&'static str]) -> Self {
        Self { with_value }
    }

    /// What follows the options.
    fn skip<'a>(&self, words: &'a [String]) -> Option<&'a [String]> {
        let mut at = 0;
        while let Some(word) = words.get(at) {
            if word == "--" {
                return words.get(at + 1..);
            }
            if !word.starts_with('-') || word == "-" {
                break;
            }
            at += if self.with_value.contains(&word.as_str()) {
                2
            } else {
                1
            };
        }
        words.get(at..)
    }
}

fn some(words: &[String]) -> Option<Vec<String>> {
    (!words.is_empty()).then(|| words.to_vec())
}

/// For an interpreter, the file that it would read: `python3 app.py`, `node server.js`, `java -jar app.jar`.
pub(crate) fn interpreted_file(argv: &[String]) -> Option<&str> {
    let name = argv.first()?.rsplit('/').next()?;
    let base = name.trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    // What follows these is text, a module or a class, not a file; or they take a value we do not know.
    let (text, with_value): (&[&str], &[&str]) = match base {
        "python" | "pypy" => (&["-c", "-m"], &["-W", "-X"]),
        "node" | "nodejs" => (
            &["-e", "-p", "--eval", "--print"],
            &[
                "-r",
                "--require",
                "--import",
                "--loader",
                "--experimental-loader",
                "-C",
                "--conditions",
                "--env-file",
                "--title",
                "--input-type",
            ],
        ),
        "ruby" => (&["-e"], &["-r", "-I"]),
        "perl" => (&["-e", "-E"], &["-I"]),
        "php" => (&["-r", "-S"], &["-c", "-d", "-t"]),
        "sh" | "bash" | "dash" | "ash" => (&["-c", "-s"], &["-o", "-O", "--rcfile", "--init-file"]),
        "java" => {
            let jar = argv.iter().position(|word| word == "-jar")?;
            return argv.get(jar + 1).map(String::as_str);
        }
        _ => return None,
    };
    let mut words = argv[1..].iter();
    while let Some(word) = words.next() {
        // Options of one letter stand together: `-uc`.
        let letters = word.strip_prefix('-').filter(|rest| !rest.starts_with('-'));
        let has_text = |option: &&str| {
            option.len() == 2 && letters.is_some_and(|letters| letters.contains(&option[1..]))
        };
        if text.contains(&word.as_str()) || text.iter().any(has_text) {
            return None;
        }
        if with_value.contains(&word.as_str()) {
            words.next();
        } else if word == "--" {
            return words.next().map(String::as_str);
        } else if word == "-" {
            return None;
        } else if !word.starts_with('-') {
            return Some(word);
        } else if base == "php" && word == "-f" {
            return words.next().map(String::as_str);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::{interpreted_file, wrapped};

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn wrappers_give_way_to_what_they_start() {
        for (line, inner) in [
            ("/sbin/tini -g -p SIGTERM -- /app -x", "/app -x"),
            ("tini app", "app"),
            ("dumb-init --rewrite 15:3 app --flag", "app --flag"),
            ("/usr/bin/env -u A B=1 C=2 python3 x.py", "python3 x.py"),
            (
                "gosu postgres:postgres postgres -D /data",
                "postgres -D /data",
            ),
            ("setpriv --reuid 5 --clear-groups app", "app"),
            ("timeout -k 5 10 app", "app"),
        ] {
            assert_eq!(wrapped(&words(line)).unwrap().join(" "), inner, "{line}");
        }
        for line in ["app -- x", "env", "tini --"] {
            assert_eq!(wrapped(&words(line)), None, "{line}");
        }
    }

    #[test]
    fn interpreters_name_the_file_they_read() {
        for (line, file) in [
            ("python3 -u /srv/app.py", Some("/srv/app.py")),
            ("python3.11 -W ignore app.py", Some("app.py")),
            ("python3 -m http.server", None),
            ("python3 -uc print()", None),
            ("node --env-file .env server.js", Some("server.js")),
            ("node --require ./x server.js", Some("server.js")),
            ("node -e 1", None),
            ("java -Xmx1g -jar app.jar", Some("app.jar")),
            ("java -cp x Main", None),
            ("sh -c x", None),
            ("bash -e /entry", Some("/entry")),
        ] {
            assert_eq!(interpreted_file(&words(line)), file, "{line}");
        }
    }
}
