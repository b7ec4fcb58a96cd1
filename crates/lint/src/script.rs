//! What a shell script says about what it runs, as far as that can be read line by line.

use crate::words::{is_builtin, is_name, simple_command};

/// Longer scripts do more than can be told from outside.
const MAX_LINES: usize = 400;

/// A shell script's text.
pub(crate) struct Script<'t> {
    text: std::borrow::Cow<'t, str>,
}

/// A line of a script, counted from 1.
pub(crate) struct Line<'s> {
    pub(crate) number: usize,
    pub(crate) text: &'s str,
}

/// How a script ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Last {
    /// `exec "$@"`.
    ExecArguments,
    /// `exec prog args…`, with these words.
    Exec(Vec<String>),
    /// Something else, which cannot be followed.
    Other,
}

/// A program named by its absolute path.
pub(crate) struct Called<'s> {
    pub(crate) line: Line<'s>,
    pub(crate) program: String,
    /// Whether the script goes on when it cannot be started.
    pub(crate) in_background: bool,
}

impl<'t> Script<'t> {
    pub(crate) fn new(text: &'t [u8]) -> Self {
        Self {
            text: String::from_utf8_lossy(text),
        }
    }

    /// Lines that are no comment, trimmed; none of a script that is too long to be understood.
    fn lines(&self) -> impl DoubleEndedIterator<Item = Line<'_>> {
        let lines: Vec<_> = self.text.lines().collect();
        let lines = if lines.len() > MAX_LINES {
            Vec::new()
        } else {
            lines
        };
        lines.into_iter().enumerate().filter_map(|(index, text)| {
            let text = text.trim();
            let counts = !text.is_empty() && !text.starts_with('#');
            counts.then_some(Line {
                number: index + 1,
                text,
            })
        })
    }

    pub(crate) fn last(&self) -> Last {
        let Some(line) = self.lines().next_back() else {
            return Last::Other;
        };
        let Some(command) = line.text.strip_prefix("exec ") else {
            return Last::Other;
        };
        if matches!(command.trim(), "\"$@\"" | "$@" | "\"${@}\"") {
            return Last::ExecArguments;
        }
        match simple_command(command) {
            Some(words) if !words.is_empty() && !words[0].starts_with('-') => Last::Exec(words),
            _ => Last::Other,
        }
    }

    /// Commands that begin with an absolute path. What is quoted, or inside a here-document, is not looked at.
    ///
    /// What is named elsewhere too is left out: it may be made there, or its absence cared for.
    pub(crate) fn called(&self) -> Vec<Called<'_>> {
        let mut called = Vec::new();
        let mut here: Option<String> = None;
        let mut is_quoted = false;
        let mut goes_on = false;
        for line in self.lines() {
            if let Some(end) = &here {
                if line.text == *end {
                    here = None;
                }
                continue;
            }
            if let Some((_, word)) = line
                .text
                .split_once("<<")
                .filter(|(_, w)| !w.starts_with('<'))
            {
                let word = word.trim_start_matches(['-', ' ', '\'', '"']);
                let end = word.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                here = Some(word[..end.unwrap_or(word.len())].to_owned());
            }
            let is_inside = is_quoted || goes_on;
            is_quoted ^= line.text.matches('\'').count() % 2 == 1;
            goes_on = line.text.ends_with('\\');
            if is_inside {
                continue;
            }
            let command = line.text.strip_prefix("exec ").unwrap_or(line.text);
            let word: String = command
                .chars()
                .take_while(|c| {
                    !c.is_whitespace() && !matches!(c, ';' | '|' | '&' | '>' | '<' | ')')
                })
                .collect();
            let plain = word
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b"/._-+".contains(&b));
            let is_pattern = command[word.len()..].starts_with(')') || word.ends_with('/');
            let is_alone = self.text.matches(word.as_str()).count() == 1;
            if word.len() > 1 && word.starts_with('/') && plain && !is_pattern && is_alone {
                let in_background = line.text.ends_with('&') && !line.text.ends_with("&&");
                called.push(Called {
                    line,
                    program: word,
                    in_background,
                });
            }
        }
        called
    }

    /// Whether it changes what a program is found by, or what there is: what it runs later can then not be told.
    pub(crate) fn changes_surroundings(&self) -> bool {
        const CHANGING: [&str; 16] = [
            ".", "source", "cd", "pushd", "cp", "ln", "mv", "install", "chmod", "chown", "mkdir",
            "tar", "curl", "wget", "sed", "eval",
        ];
        self.lines().any(|line| {
            let first = line.text.split_whitespace().next().unwrap_or_default();
            CHANGING.contains(&first)
                || line.text.contains("PATH=")
                || line.text.contains("set -- ")
                || first == "shift"
                || line.text.contains(" > /")
        })
    }

    /// Variables that a condition looks at and that the script never sets: name and line.
    pub(crate) fn tested_variables(&self) -> Vec<(String, Line<'_>)> {
        let mut tested: Vec<(String, Line<'_>)> = Vec::new();
        for line in self.lines() {
            let is_condition = ["if ", "elif ", "while ", "[ ", "[[ ", "test ", "case "]
                .iter()
                .any(|word| line.text.starts_with(word));
            if !is_condition {
                continue;
            }
            for name in variables(line.text) {
                let known = tested.iter().any(|(other, _)| *other == name) || self.sets(&name);
                if !known {
                    let line = Line {
                        number: line.number,
                        text: line.text,
                    };
                    tested.push((name, line));
                }
            }
        }
        tested
    }

    fn sets(&self, name: &str) -> bool {
        self.lines().any(|line| {
            let words = line.text.split([' ', '\t', ';']);
            let assigned = words
                .map(|word| word.trim_start_matches(['(', '"', '\'']))
                .any(|word| {
                    word.strip_prefix(name)
                        .is_some_and(|rest| rest.starts_with('='))
                });
            let defaulted = line.text.contains(&format!("${{{name}:="));
            let looped = line.text.starts_with(&format!("for {name} "))
                || line.text.contains(&format!("read -r {name}"))
                || line.text.contains(&format!("read {name}"));
            assigned || defaulted || looped
        })
    }
}

/// The names behind `$` in a text that are no parameters of the shell itself.
fn variables(text: &str) -> Vec<String> {
    const SHELLS_OWN: &[&str] = &[
        "PATH",
        "HOME",
        "HOSTNAME",
        "PWD",
        "OLDPWD",
        "IFS",
        "UID",
        "EUID",
        "PPID",
        "RANDOM",
        "SHELL",
        "USER",
        "TERM",
        "OPTARG",
        "OPTIND",
        "LINENO",
        "BASH_SOURCE",
        "BASH_VERSION",
        "FUNCNAME",
        "SECONDS",
        "REPLY",
    ];
    let mut names = Vec::new();
    for (at, _) in text.match_indices('$') {
        let rest = text[at + 1..].trim_start_matches('{');
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let name = &rest[..end.unwrap_or(rest.len())];
        // The convention for what comes from outside is upper case.
        let outside = is_name(name) && name.bytes().all(|b| !b.is_ascii_lowercase());
        if outside && name.len() > 1 && !SHELLS_OWN.contains(&name) && !is_builtin(name) {
            names.push(name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::{Last, Script};

    #[test]
    fn the_last_line_tells_what_follows() {
        for (text, last) in [
            ("#!/bin/sh\nset -e\nexec \"$@\"\n", Last::ExecArguments),
            (
                "exec /app/run --x\n\n# end\n",
                Last::Exec(vec!["/app/run".into(), "--x".into()]),
            ),
            ("exec $RUN", Last::Other),
            ("/app/run", Last::Other),
            ("", Last::Other),
        ] {
            assert_eq!(Script::new(text.as_bytes()).last(), last, "{text}");
        }
    }

    #[test]
    fn programs_and_conditions_are_found_with_their_lines() {
        let text = b"#!/bin/sh\nMODE=x\nif [ -n \"$PLUGIN_URL\" ] && [ \"$MODE\" = x ]; then\n  /app/plugin &\nfi\n\
            cat <<EOF\n/not/a/command\nEOF\n/opt/$X/y\nexec /app/run\n";
        let script = Script::new(text);
        let called: Vec<_> = script
            .called()
            .iter()
            .map(|c| (c.line.number, c.program.clone(), c.in_background))
            .collect();
        assert_eq!(
            called,
            [
                (4, "/app/plugin".to_owned(), true),
                (10, "/app/run".to_owned(), false)
            ]
        );
        let tested = script.tested_variables();
        assert_eq!(tested.len(), 1);
        assert_eq!(
            (tested[0].0.as_str(), tested[0].1.number),
            ("PLUGIN_URL", 3)
        );
    }
}
