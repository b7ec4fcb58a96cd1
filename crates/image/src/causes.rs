//! An error with all that caused it.

use std::error::Error;

/// An error and its causes as one sentence. A cause that the text ends with already, as some libraries repeat one in
/// their own, is not said twice.
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let next = cause.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        source = cause.source();
    }
    text
}
