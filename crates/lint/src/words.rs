//! Command lines as shells split them, as far as that can be told without running a shell.

/// The words of a simple command: no expansion, no redirection, no operator. `None` where there is any.
pub(crate) fn simple_command(text: &str) -> Option<Vec<String>> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut begun = false;
    let mut letters = text.trim().chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' => {
                begun = true;
                loop {
                    match letters.next()? {
                        '\'' => break,
                        letter => word.push(letter),
                    }
                }
            }
            '"' => {
                begun = true;
                loop {
                    match letters.next()? {
                        '"' => break,
                        '$' | '`' => return None,
                        '\\' => match letters.next()? {
                            letter @ ('"' | '\\' | '$' | '`') => word.push(letter),
                            letter => word.extend(['\\', letter]),
                        },
                        letter => word.push(letter),
                    }
                }
            }
            '\\' => {
                begun = true;
                word.push(letters.next()?);
            }
            ' ' | '\t' => {
                if begun {
                    words.push(std::mem::take(&mut word));
                    begun = false;
                }
            }
            '#' if !begun => break,
            '$' | '`' | '|' | '&' | ';' | '<' | '>' | '(' | ')' | '{' | '}' | '*' | '?' | '['
            | '~' | '!' | '\n' => return None,
            letter => {
                begun = true;
                word.push(letter);
            }
        }
    }
    if begun {
        words.push(word);
    }
    Some(words)
}

/// The first command of a shell text: its words up to the first operator, if none of them is expanded.
pub(crate) fn first_command(text: &str) -> Option<Vec<String>> {
    // What is found by another PATH, or has a second try, says nothing when it is missing here.
    let gives_up = |(_, rest): (&str, &str)| {
        let word = rest.split_whitespace().next().unwrap_or_default();
        ["exit", "false", "kill", "return"].contains(&word)
    };
    if text.contains("PATH=") || !text.split_once("||").is_none_or(gives_up) {
        return None;
    }
    let end = text
        .find([';', '|', '&', '<', '>', '\n'])
        .unwrap_or(text.len());
    let before = text[..end].trim();
    // `2>` belongs to the redirection.
    let before = before
        .strip_suffix(" 2")
        .or(before.strip_suffix(" 1"))
        .unwrap_or(before);
    let known = before.split(['$', '`']).next().unwrap_or_default();
    let is_quoted = known.matches('"').count() % 2 == 1;
    let words = simple_command(&format!("{known}{}", if is_quoted { "\"" } else { "" }))?;
    let skipped = words.iter().take_while(|word| is_assignment(word)).count();
    let words = words.get(skipped..).filter(|words| !words.is_empty())?;
    // The first word must end before what is expanded.
    let is_cut = known.len() < before.len() && words.len() == 1 && !known.ends_with([' ', '\t']);
    (!is_cut).then(|| words.to_vec())
}

pub(crate) fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| is_name(name))
}

pub(crate) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && !text.starts_with(|letter: char| letter.is_ascii_digit())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// What a shell does itself (POSIX.1-2024, XCU 2.15 and 1.7; bash and busybox have a few more).
pub(crate) fn is_builtin(word: &str) -> bool {
    const BUILTINS: &[&str] = &[
        ".", ":", "[", "[[", "alias", "bg", "break", "case", "cd", "command", "continue",
        "declare", "do", "done", "echo", "elif", "else", "esac", "eval", "exec", "exit", "export",
        "false", "fc", "fg", "fi", "for", "function", "getopts", "hash", "if", "jobs", "kill",
        "let", "local", "printf", "pwd", "read", "readonly", "return", "select", "set", "shift",
        "shopt", "source", "test", "then", "time", "times", "trap", "true", "type", "typeset",
        "ulimit", "umask", "unalias", "unset", "until", "wait", "while",
    ];
    BUILTINS.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::{first_command, simple_command};

    #[test]
    fn simple_commands_are_split_and_others_are_not() {
        let split = |text| simple_command(text).map(|words| words.join("|"));
        assert_eq!(split("a 'b c' \"d e\" f\\ g").unwrap(), "a|b c|d e|f g");
        assert_eq!(split("run --x='' # why").unwrap(), "run|--x=");
        for text in [
            "a; b", "a && b", "a | b", "a > b", "a $B", "a \"$B\"", "`a`", "a*", "'a",
        ] {
            assert_eq!(split(text), None, "{text}");
        }
    }

    #[test]
    fn the_first_command_ends_at_an_operator() {
        let first = |text| first_command(text).map(|words| words.join("|"));
        assert_eq!(
            first("curl -f http://localhost/ || exit 1").unwrap(),
            "curl|-f|http://localhost/"
        );
        assert_eq!(first("A=1 wget -q x 2>/dev/null").unwrap(), "wget|-q|x");
        assert_eq!(
            first("curl \"http://localhost:$PORT/\"").unwrap(),
            "curl|http://localhost:"
        );
        for text in ["$CHECK now", "python$V -m x", "a x || b x", "PATH=/x a; b"] {
            assert_eq!(first(text), None, "{text}");
        }
    }
}
