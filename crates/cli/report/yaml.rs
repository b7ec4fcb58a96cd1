//! A JSON value as YAML, for people: block style, keys in order, the same text every time.

use serde_json::Value;

/// The text, with a line end.
pub(crate) fn text(value: &Value) -> String {
    let mut text = String::new();
    block(value, 0, &mut text);
    text
}

/// A value on lines of its own.
fn block(value: &Value, depth: usize, text: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(map) if !map.is_empty() => {
            for (key, value) in map {
                text.push_str(&format!("{indent}{}:", plain(key)));
                after_key(value, depth, text);
            }
        }
        Value::Array(items) if !items.is_empty() => {
            for item in items {
                let mut nested = String::new();
                block(item, depth + 1, &mut nested);
                // The first line stands behind the dash, where the others are indented to.
                text.push_str(&format!("{indent}- {}", nested.trim_start()));
            }
        }
        scalar => text.push_str(&format!("{indent}{}\n", inline(scalar))),
    }
}

fn after_key(value: &Value, depth: usize, text: &mut String) {
    let is_block = match value {
        Value::Object(map) => !map.is_empty(),
        Value::Array(items) => items.iter().any(|item| item.is_object() || item.is_array()),
        _ => false,
    };
    if is_block {
        text.push('\n');
        block(value, depth + 1, text);
    } else {
        text.push_str(&format!(" {}\n", inline(value)));
    }
}

/// A scalar, or a list of them, as it stands within a line.
fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => plain(text),
        Value::Array(items) => {
            let items: Vec<_> = items.iter().map(inline).collect();
            format!("[{}]", items.join(", "))
        }
        other => other.to_string(),
    }
}

/// Text without quotes where YAML reads it as that text and nothing else, else as JSON, which YAML reads too.
fn plain(text: &str) -> String {
    let first = text
        .chars()
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '/');
    let safe = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "_-./@+".contains(c));
    let word = matches!(
        text.to_ascii_lowercase().as_str(),
        "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "y" | "n"
    );
    if first && safe && !word {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn values_are_in_blocks_and_text_is_quoted_where_it_must_be() {
        let value = json!({
            "empty": {}, "none": null, "list": ["a", "1", "yes", "x: y"], "number": 2,
            "blocks": [{"a": 1, "b": ["/c"]}, {"a": {"d": "e f"}}],
        });
        let wanted = "\
blocks:
  - a: 1
    b: [/c]
  - a:
      d: \"e f\"
empty: {}
list: [a, \"1\", \"yes\", \"x: y\"]
none: null
number: 2
";
        assert_eq!(super::text(&value), wanted);
    }
}
