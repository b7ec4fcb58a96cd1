//! What lint says.

use std::fmt;

use serde::Serialize;

/// One thing that is wrong, or may be.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Finding {
    /// Names the rule; never changes.
    pub id: &'static str,
    /// How sure and how bad it is.
    pub severity: Severity,
    /// The cause in one sentence, without full stop.
    pub message: String,
    /// What shows it.
    pub evidence: Vec<Evidence>,
    /// What to do.
    pub fix: String,
}

/// How sure and how bad a finding is.
#[derive(Clone, Copy, Debug, Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth a look; the image may be right.
    Hint,
    /// Wrong under circumstances that cannot be told without running it.
    Warning,
    /// The container cannot start, or cannot work.
    Error,
}

/// A place in the image, and what stands there.
#[derive(Clone, Debug, Serialize, PartialEq, Eq)]
pub struct Evidence {
    /// A file of the image, or a key of its configuration such as `config.Entrypoint`.
    pub path: String,
    /// Counted from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// What stands there, control characters escaped.
    pub text: String,
}

impl Finding {
    pub(crate) fn new(id: &'static str, severity: Severity, message: impl Into<String>) -> Self {
        Self {
            id,
            severity,
            message: message.into(),
            evidence: Vec::new(),
            fix: String::new(),
        }
    }

    pub(crate) fn error(id: &'static str, message: impl Into<String>) -> Self {
        Self::new(id, Severity::Error, message)
    }

    pub(crate) fn at(mut self, path: impl Into<String>, text: impl fmt::Display) -> Self {
        self.evidence.push(Evidence {
            path: path.into(),
            line: None,
            text: text.to_string(),
        });
        self
    }

    pub(crate) fn at_line(mut self, path: &str, line: usize, text: impl fmt::Display) -> Self {
        self.evidence.push(Evidence {
            path: path.to_owned(),
            line: Some(line),
            text: text.to_string(),
        });
        self
    }

    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = fix.into();
        self
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Hint => "hint",
        })
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some(line) => write!(f, "{}:{line}: {}", self.path, self.text),
            None => write!(f, "{}: {}", self.path, self.text),
        }
    }
}
