//! Mistakes in a gate file as people read them: place, message, the line with the text underlined, hint.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use super::span::Span;

/// The largest gate file that is read.
const MAX_SIZE: usize = 1024 * 1024;
/// How much of a long line is shown.
const SHOWN: usize = 120;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    /// The line, from 1.
    pub line: usize,
    /// The character in it, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to do, where the message does not say it already.
    pub hint: Option<String>,
    /// `FILE:LINE:COLUMN: message`, the line, the text underlined, and the hint; no line feed at the end.
    pub rendered: String,
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.rendered)
    }
}

/// A gate file that cannot be used, with everything that is wrong in it, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateFileError {
    /// At least one.
    pub diagnostics: Vec<Diagnostic>,
}

impl fmt::Display for GateFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, diagnostic) in self.diagnostics.iter().enumerate() {
            let between = if at == 0 { "" } else { "\n\n" };
            write!(f, "{between}{diagnostic}")?;
        }
        Ok(())
    }
}

impl std::error::Error for GateFileError {}

/// What was read, and under which name; cheap to clone.
#[derive(Clone, Debug)]
pub struct Source {
    name: Arc<str>,
    text: Arc<str>,
}

impl Source {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        Self {
            name: name.into(),
            text: text.into(),
        }
    }

    /// The bytes of a gate file, under the name the user knows it by.
    ///
    /// # Errors
    /// More than 1 MiB, or not UTF-8.
    pub fn read(name: &str, bytes: &[u8]) -> Result<Self, GateFileError> {
        let refuse = |text: &str, at: usize, message: &str| {
            let span = Span { start: at, end: at };
            let diagnostics = vec![Self::new(name, text).diagnose(span, message, None)];
            Err(GateFileError { diagnostics })
        };
        if bytes.len() > MAX_SIZE {
            return refuse(
                "",
                0,
                "the file is larger than 1 MiB, more than a gate file can be",
            );
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(Self::new(name, text)),
            Err(error) => {
                let text = String::from_utf8_lossy(bytes);
                refuse(
                    &text,
                    error.valid_up_to(),
                    "the file is not UTF-8 from here on",
                )
            }
        }
    }

    /// The name of the file as the user gave it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The line of a place, from 1.
    pub(crate) fn line(&self, span: Span) -> usize {
        let start = self.boundary(span.start);
        self.text[..start].matches('\n').count() + 1
    }

    /// A diagnostic about a place: for whoever resolves the file and finds what reading alone cannot.
    pub fn diagnose(&self, span: Span, message: &str, hint: Option<&str>) -> Diagnostic {
        self.render(span, message, hint, false)
    }

    /// `hidden` text is pointed at without being shown.
    pub(crate) fn render(
        &self,
        span: Span,
        message: &str,
        hint: Option<&str>,
        hidden: bool,
    ) -> Diagnostic {
        let start = self.boundary(span.start);
        let line_start = self.text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line = self.text[line_start..].lines().next().unwrap_or_default();
        let before = self.text[line_start..start].chars().count();
        let end = self
            .boundary(span.end)
            .clamp(start, line_start + line.len().max(start - line_start));
        let marked = self.text[start..end].trim_end().chars().count().max(1);
        let (number, column) = (self.line(span), before + 1);
        let message = printable(message);
        let hint = hint.map(printable);

        let (shown, carets) = underline(line, before..before + marked, hidden);
        let gutter = " ".repeat(number.to_string().len());
        let mut rendered = format!(
            "{}:{number}:{column}: {message}\n{gutter} |\n{number} | {shown}\n{gutter} | {carets}",
            printable(&self.name)
        );
        if let Some(hint) = &hint {
            rendered.push_str(&format!("\nhint: {hint}"));
        }
        Diagnostic {
            line: number,
            column,
            message,
            hint,
            rendered,
        }
    }

    fn boundary(&self, at: usize) -> usize {
        let mut at = at.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }
}

/// The line as a terminal may have it, and carets beneath the marked characters.
fn underline(line: &str, marked: Range<usize>, hidden: bool) -> (String, String) {
    let skipped = if marked.end > SHOWN {
        marked.start.saturating_sub(SHOWN / 2)
    } else {
        0
    };
    let (mut shown, mut carets) = (String::new(), String::new());
    if skipped > 0 {
        shown.push('…');
        carets.push(' ');
    }
    for (at, c) in line.chars().enumerate().skip(skipped) {
        if at >= skipped + SHOWN {
            shown.push('…');
            break;
        }
        shown.push(match c {
            _ if hidden && marked.contains(&at) => '*',
            c if c.is_control() || reorders(c) => ' ',
            c => c,
        });
        if at < marked.end {
            carets.push(if at < marked.start { ' ' } else { '^' });
        }
    }
    if !carets.contains('^') {
        carets.push('^');
    }
    (shown.trim_end().to_owned(), carets)
}

/// What a terminal or a CI log would act on is written as an escape.
fn printable(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let escaped = c.is_control() || reorders(c);
            let escape = escaped.then(|| c.escape_default());
            escape.into_iter().flatten().chain((!escaped).then_some(c))
        })
        .collect()
}

/// Unicode's explicit directional characters, which make a line read differently from what it says.
fn reorders(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(text: &str, start: usize, end: usize) -> String {
        let source = Source::new("f.yaml", text);
        source.diagnose(Span { start, end }, "no", None).rendered
    }

    #[test]
    fn the_text_is_underlined_where_it_stands() {
        assert_eq!(
            rendered("a: 1\n  bé: xyz  \n", 12, 17),
            "f.yaml:2:7: no\n  |\n2 |   bé: xyz\n  |       ^^^"
        );
        assert_eq!(
            rendered("a:\n", 2, 2),
            "f.yaml:1:3: no\n  |\n1 | a:\n  |   ^"
        );
        assert_eq!(rendered("", 0, 0), "f.yaml:1:1: no\n  |\n1 | \n  | ^");
        // A value of several lines is underlined on its first; a place beyond the end is the end.
        assert_eq!(
            rendered("a: b\n c\n", 3, 8),
            "f.yaml:1:4: no\n  |\n1 | a: b\n  |    ^"
        );
        assert!(rendered("a", 90, 99).starts_with("f.yaml:1:2: no"));
    }

    #[test]
    fn long_lines_and_escapes_stay_on_one_line() {
        let long = format!("{}bad{}", "x".repeat(1000), "y".repeat(1000));
        let shown = rendered(&long, 1000, 1003);
        assert!(
            shown.lines().all(|line| line.chars().count() < 140),
            "{shown}"
        );
        assert!(shown.contains("^^^"), "{shown}");
        let source = Source::new("f", "a: \x1b[31m\n");
        let shown = source.diagnose(Span { start: 3, end: 8 }, "bad \x1b[0m\u{202e}", None);
        assert!(!shown.rendered.contains('\x1b'), "{shown}");
        assert!(shown.message.contains("\\u{1b}[0m\\u{202e}"), "{shown}");
    }
}
