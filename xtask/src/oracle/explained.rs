//! The differences that are meant, with their reasons; docs/decisions/0015-oracle.md has them at length.

/// Which differences a reason is for. `*` at either end of a text stands for anything.
struct Explained {
    /// `docker`, `umoci`, `crun` or `*`.
    oracle: &'static str,
    /// `root`, `subuid`, `single` or `*`.
    level: &'static str,
    /// The fact's name without the question.
    fact: &'static str,
    theirs: &'static str,
    ours: &'static str,
    reason: &'static str,
}

const EXPLAINED: [Explained; 0] = [];

/// Why the two may differ, if they may.
pub(super) fn reason(
    oracle: &str,
    level: &str,
    fact: &str,
    theirs: Option<&str>,
    ours: Option<&str>,
) -> Option<&'static str> {
    // What one did not state at all.
    let (theirs, ours) = (theirs.unwrap_or("-"), ours.unwrap_or("-"));
    let found = EXPLAINED.iter().find(|explained| {
        matches(explained.oracle, oracle)
            && matches(explained.level, level)
            && matches(explained.fact, fact)
            && matches(explained.theirs, theirs)
            && matches(explained.ours, ours)
    });
    found.map(|explained| explained.reason)
}

fn matches(pattern: &str, text: &str) -> bool {
    match (pattern.strip_prefix('*'), pattern.strip_suffix('*')) {
        (Some(rest), Some(_)) => rest
            .strip_suffix('*')
            .is_none_or(|inner| text.contains(inner)),
        (Some(end), None) => text.ends_with(end),
        (None, Some(start)) => text.starts_with(start),
        (None, None) => pattern == text,
    }
}
