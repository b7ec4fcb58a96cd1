//! What people see on standard error, and the only place that writes to the standard streams.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::OnceLock;

use smokegate_gate::Mask;

use crate::args::CommonArgs;

/// Writes lines; knows whether progress is wanted and whether colour is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    quiet: bool,
    verbose: bool,
    color: bool,
}

/// What no message may hold, once it is known: for the whole process, as is standard error.
static HIDDEN: OnceLock<Mask> = OnceLock::new();

/// Hides the values of a run's secrets from here on.
pub(crate) fn hide(mask: Mask) {
    // A process runs one plan.
    let _ = HIDDEN.set(mask);
}

/// The text as it may be shown or written to a report.
pub(crate) fn without_secrets(text: &str) -> Cow<'_, str> {
    match HIDDEN.get() {
        Some(mask) => mask.text(text),
        None => Cow::Borrowed(text),
    }
}

/// A colour for a word that stands without it too.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tone {
    Good,
    Bad,
    Hint,
}

impl Printer {
    pub(crate) fn new(args: &CommonArgs, no_color_is_set: bool) -> Self {
        let color = !args.no_color && !no_color_is_set && std::io::stderr().is_terminal();
        Self {
            quiet: args.quiet,
            verbose: args.verbose,
            color,
        }
    }

    /// A step of the run; not shown when quiet. The text may hold words of an image or a registry.
    pub(crate) fn step(self, text: impl AsRef<str>) {
        if !self.quiet {
            self.always(harmless(text.as_ref()));
        }
    }

    /// A step that says how something ended.
    pub(crate) fn step_ended(self, what: &str, tone: Tone, how: &str, more: &str) {
        if !self.quiet {
            let (what, more) = (harmless(what), harmless(more));
            self.always(format!("{what}: {} {more}", self.paint(tone, how)));
        }
    }

    /// A detail that only `-v` shows. The text may hold words of an image or a registry.
    pub(crate) fn detail(self, text: impl AsRef<str>) {
        if self.verbose {
            self.always(harmless(text.as_ref()));
        }
    }

    /// What is shown however quiet, as it is but for the values of secrets.
    pub(crate) fn always(self, text: impl AsRef<str>) {
        // Whoever reads it may be gone: no reason to stop a run half-way.
        let _ = writeln!(std::io::stderr(), "{}", without_secrets(text.as_ref()));
    }

    /// Data, on standard output. A reader that has seen enough (`| head -1`) is no failure.
    pub(crate) fn data(self, text: impl AsRef<str>) {
        let mut stdout = std::io::stdout();
        let written = writeln!(stdout, "{}", text.as_ref()).and_then(|()| stdout.flush());
        match written {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                self.always(format!("warning: cannot write to standard output: {error}"));
            }
            _ => {}
        }
    }

    /// A word in a colour, where colour is wanted.
    pub(crate) fn paint(self, tone: Tone, word: &str) -> String {
        if !self.color {
            return word.to_owned();
        }
        let code = match tone {
            Tone::Good => 32,
            Tone::Bad => 31,
            Tone::Hint => 36,
        };
        format!("\u{1b}[1;{code}m{word}\u{1b}[0m")
    }
}

/// Text from a container or a registry with its escapes and control characters taken out: it must not move
/// the reader's cursor, hide lines, set titles or begin a workflow command.
pub(crate) fn harmless(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\u{1b}' => skip_escape(&mut chars),
            '\t' => clean.push(char),
            '\n' => clean.push(' '),
            // C0, DEL, C1 and the marks that reorder text (Unicode TR 9; "Trojan Source", CVE-2021-42574).
            _ if char.is_control()
                || matches!(char, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}') => {}
            _ => clean.push(char),
        }
    }
    // The older form of GitHub's workflow commands is obeyed anywhere in a line (actions/runner,
    // ActionCommand.cs).
    clean.replace("##[", "# #[")
}

/// Skips what follows an ESC: a control sequence up to its final byte, or a string up to BEL or ST (ECMA-48).
fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    match chars.next() {
        Some('[') => while chars.next().is_some_and(|c| !('@'..='~').contains(&c)) {},
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while let Some(c) = chars.next() {
                if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                    break;
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::harmless;

    #[test]
    fn escapes_and_controls_are_taken_out() {
        for (raw, clean) in [
            ("plain\ttext", "plain\ttext"),
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}]0;title\u{7}after", "after"),
            ("\u{1b}]8;;http://x\u{1b}\\link", "link"),
            ("a\rb\u{8}c\u{0}", "abc"),
            ("\u{202e}evil", "evil"),
            ("grüße", "grüße"),
            ("\u{1b}", ""),
            ("a\n::error::b", "a ::error::b"),
            ("x ##[add-mask]y", "x # #[add-mask]y"),
            ("one\ntwo", "one two"),
            (
                "##[error]x and #\u{1b}[0m#[error]y",
                "# #[error]x and # #[error]y",
            ),
        ] {
            assert_eq!(harmless(raw), clean);
        }
    }
}
