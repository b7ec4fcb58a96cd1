//! `${VAR}` as Compose has it, except that an unset variable without a default is an error.
//!
//! Works on one value at a time, after YAML was read: what a variable holds can never become structure.

use std::ops::Range;

/// How deep defaults may hold variables themselves.
const DEPTH: usize = 8;

/// Why a value could not be filled in, and which part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InterpolateError {
    pub(crate) message: String,
    pub(crate) hint: String,
    /// Bytes of the value.
    pub(crate) at: Range<usize>,
}

/// Fills variables in; `lookup` answers what is set.
pub(crate) fn interpolate(
    text: &str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<String, InterpolateError> {
    Filler {
        whole: text,
        lookup,
    }
    .fill(0..text.len(), DEPTH)
}

struct Filler<'a> {
    whole: &'a str,
    lookup: &'a dyn Fn(&str) -> Option<String>,
}

impl Filler<'_> {
    fn fill(&self, range: Range<usize>, depth: usize) -> Result<String, InterpolateError> {
        let mut filled = String::new();
        let mut at = range.start;
        while let Some(found) = self.whole[at..range.end].find('$') {
            let dollar = at + found;
            filled.push_str(&self.whole[at..dollar]);
            let rest = &self.whole[dollar + 1..range.end];
            if rest.starts_with('$') {
                filled.push('$');
                at = dollar + 2;
            } else if rest.starts_with('{') {
                let inner = dollar + 2;
                let length = closing_brace(&self.whole[inner..range.end])
                    .ok_or_else(|| malformed(dollar..range.end, "`${` is not closed"))?;
                at = inner + length + 1;
                filled.push_str(&self.braced(inner..inner + length, depth)?);
            } else {
                let length = name_length(rest);
                if length == 0 {
                    return Err(malformed(dollar..dollar + 1, "`$` begins no variable"));
                }
                at = dollar + 1 + length;
                let value = (self.lookup)(&rest[..length]);
                filled.push_str(&value.ok_or_else(|| unset(&rest[..length], dollar..at))?);
            }
        }
        filled.push_str(&self.whole[at..range.end]);
        Ok(filled)
    }

    /// What is between the braces.
    fn braced(&self, inner: Range<usize>, depth: usize) -> Result<String, InterpolateError> {
        let expression = &self.whole[inner.clone()];
        let around = inner.start - 2..inner.end + 1;
        let (name, rest) = expression.split_at(name_length(expression));
        if name.is_empty() {
            return Err(malformed(
                around,
                &format!("`${{{expression}}}` names no variable"),
            ));
        }
        let value = (self.lookup)(name);
        if rest.is_empty() {
            return value.ok_or_else(|| unset(name, around));
        }
        // With the colon, a variable that is set and empty counts as unset.
        let (value, operator, width) = match rest.strip_prefix(':') {
            Some(behind) => (value.filter(|value| !value.is_empty()), behind, 2),
            None => (value, rest, 1),
        };
        let word = inner.start + name.len() + width;
        let depth = depth
            .checked_sub(1)
            .ok_or_else(|| malformed(around.clone(), "defaults are nested too deeply"))?;
        match (operator.chars().next(), value) {
            (Some('-'), Some(value)) | (Some('?'), Some(value)) => Ok(value),
            (Some('-'), None) | (Some('+'), Some(_)) => self.fill(word..inner.end, depth),
            (Some('+'), None) => Ok(String::new()),
            (Some('?'), None) => {
                let said = self.fill(word..inner.end, depth)?;
                let message = match said.as_str() {
                    "" => format!("the variable `{name}` is required"),
                    said => format!("the variable `{name}` is required: {said}"),
                };
                Err(InterpolateError {
                    message,
                    hint: set_it(name),
                    at: around,
                })
            }
            _ => Err(malformed(
                around,
                &format!("`${{{expression}}}` is not a variable with a default"),
            )),
        }
    }
}

fn name_length(text: &str) -> usize {
    let first = |c: char| c.is_ascii_alphabetic() || c == '_';
    if !text.starts_with(first) {
        return 0;
    }
    text.find(|c: char| !first(c) && !c.is_ascii_digit())
        .unwrap_or(text.len())
}

/// The brace that ends an expression; those of variables within its default are passed over.
fn closing_brace(text: &str) -> Option<usize> {
    let mut open = 0_usize;
    let mut before = '\0';
    for (at, c) in text.char_indices() {
        match c {
            '{' if before == '$' => open += 1,
            '}' if open == 0 => return Some(at),
            '}' => open -= 1,
            _ => {}
        }
        before = c;
    }
    None
}

fn malformed(at: Range<usize>, message: &str) -> InterpolateError {
    InterpolateError {
        message: message.to_owned(),
        hint: "write `${NAME}` or `${NAME:-default}`, and `$$` for a dollar sign".to_owned(),
        at,
    }
}

fn unset(name: &str, at: Range<usize>) -> InterpolateError {
    InterpolateError {
        message: format!("the variable `{name}` is not set"),
        hint: set_it(name),
        at,
    }
}

fn set_it(name: &str) -> String {
    format!("set `{name}` in the environment, or give a default: `${{{name}:-default}}`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(name: &str) -> Option<String> {
        match name {
            "SET" => Some("value".to_owned()),
            "EMPTY" => Some(String::new()),
            "DOLLAR" => Some("${SET}".to_owned()),
            _ => None,
        }
    }

    #[test]
    fn variables_are_filled_in_as_compose_does_it() {
        for (text, expected) in [
            ("plain", "plain"),
            ("", ""),
            ("${SET}", "value"),
            ("$SET", "value"),
            ("a-${SET}-b$SET.c", "a-value-bvalue.c"),
            ("$$SET $${SET} $$$$", "$SET ${SET} $$"),
            ("${EMPTY}", ""),
            ("${EMPTY:-default}", "default"),
            ("${EMPTY-default}", ""),
            ("${NONE:-default}", "default"),
            ("${NONE-default}", "default"),
            ("${NONE:-}", ""),
            ("${SET:-default}", "value"),
            ("${SET:?needed}", "value"),
            ("${EMPTY?needed}", ""),
            ("${SET:+other}", "other"),
            ("${EMPTY:+other}", ""),
            ("${EMPTY+other}", "other"),
            ("${NONE+other}", ""),
            ("${NONE:-http://h:1/?a=b}", "http://h:1/?a=b"),
            ("${NONE:-${SET}}", "value"),
            ("${NONE:-${NEITHER:-${SET}s}}/x", "values/x"),
            ("${NONE:-{\"a\"}", "{\"a\""),
            // What a variable holds is not looked at again.
            ("${DOLLAR}", "${SET}"),
            ("é${SET}é", "évalueé"),
        ] {
            assert_eq!(
                interpolate(text, &lookup).as_deref(),
                Ok(expected),
                "{text}"
            );
        }
    }

    #[test]
    fn what_cannot_be_filled_in_says_which_part() {
        for (text, message, part) in [
            ("a ${NONE} b", "the variable `NONE` is not set", "${NONE}"),
            ("é$NONE", "the variable `NONE` is not set", "$NONE"),
            (
                "${EMPTY:?}",
                "the variable `EMPTY` is required",
                "${EMPTY:?}",
            ),
            (
                "${NONE:?say which}",
                "the variable `NONE` is required: say which",
                "${NONE:?say which}",
            ),
            (
                "${NONE:-$NEITHER}",
                "the variable `NEITHER` is not set",
                "$NEITHER",
            ),
            ("x ${SET", "`${` is not closed", "${SET"),
            ("costs 5$", "`$` begins no variable", "$"),
            ("${}", "`${}` names no variable", "${}"),
            ("${1A}", "`${1A}` names no variable", "${1A}"),
            (
                "${SET/x}",
                "`${SET/x}` is not a variable with a default",
                "${SET/x}",
            ),
            (
                "${SET:}",
                "`${SET:}` is not a variable with a default",
                "${SET:}",
            ),
        ] {
            let error = interpolate(text, &lookup).unwrap_err();
            assert_eq!(
                (error.message.as_str(), &text[error.at]),
                (message, part),
                "{text}"
            );
        }
        let deep = format!("{}x{}", "${NONE:-".repeat(20), "}".repeat(20));
        assert!(
            interpolate(&deep, &lookup)
                .unwrap_err()
                .message
                .contains("nested")
        );
    }
}
