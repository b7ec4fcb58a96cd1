//! GitHub's and Gitea's workflow commands: annotations, the step summary, outputs, and a fence around text
//! of a container, so that none of it can act as a command.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;

use crate::printer::{Printer, harmless, without_secrets};
use crate::receipt::Receipt;
use crate::settings::ActionsEnvironment;

/// GitHub shows at most 4 KiB of an annotation.
const MAX_ANNOTATION: usize = 4000;

/// Commands between `stop` and `resume` are not obeyed; the token cannot be guessed by a container.
#[derive(Clone, Debug)]
pub(crate) struct Fence {
    token: String,
}

impl Fence {
    pub(crate) fn new() -> io::Result<Self> {
        let mut bytes = [0; 16];
        io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
        Ok(Self {
            token: bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
        })
    }

    pub(crate) fn stop(&self) -> String {
        format!("::stop-commands::{}", self.token)
    }

    pub(crate) fn resume(&self) -> String {
        format!("::{}::", self.token)
    }
}

/// One annotation for a failed variant.
pub(crate) fn annotate(printer: Printer, variant: &str, cause: &str) {
    let title = property(&format!("smokegate: variant {variant}"));
    printer.always(format!("::error title={title}::{}", data(cause)));
}

/// Appends to the step summary and writes the step's outputs.
pub(crate) fn record(
    actions: &ActionsEnvironment,
    receipt: &Receipt,
    refs: &[String],
) -> io::Result<()> {
    if let Some(file) = &actions.step_summary {
        append(file, &super::summary::markdown(receipt))?;
    }
    if let Some(file) = &actions.output {
        let verdict = receipt.verdict.map_or("none", |word| match word {
            crate::receipt::VerdictWord::Passed => "passed",
            crate::receipt::VerdictWord::Failed => "failed",
            crate::receipt::VerdictWord::Inconclusive => "inconclusive",
        });
        // References and digests hold no line end, so that none can add an output of its own.
        let (digest, refs) = (&receipt.image.digest, refs.join(" "));
        append(
            file,
            &format!("digest={digest}\nverdict={verdict}\nrefs={refs}\n"),
        )?;
    }
    Ok(())
}

fn append(file: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .open(file)?
        .write_all(text.as_bytes())
}

/// Escapes the text of a workflow command (actions/toolkit, command.ts).
fn data(text: &str) -> String {
    let end = (0..=text.len().min(MAX_ANNOTATION))
        .rev()
        .find(|at| text.is_char_boundary(*at));
    // Before it is encoded, which values are not.
    without_secrets(&harmless(&text[..end.unwrap_or(0)]))
        .replace('%', "%25")
        .replace('\r', "%0D")
        .replace('\n', "%0A")
}

/// Escapes a property of a workflow command.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_leave_its_command() {
        assert_eq!(data("100%\n::error::x"), "100%25 ::error::x");
        assert_eq!(property("a,b:c"), "a%2Cb%3Ac");
        assert!(data(&"ü".repeat(5000)).len() <= MAX_ANNOTATION);
    }

    #[test]
    fn a_fence_is_never_the_same_twice() {
        assert_ne!(Fence::new().unwrap().token, Fence::new().unwrap().token);
    }
}
