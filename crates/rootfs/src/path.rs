//! Names inside a layer: bytes, relative to its root, components joined by `/`, no `.` and no `..`.

use std::fmt;

use crate::{EntryProblem, Error};

/// Shows a name from a layer so that no byte of it can act on a terminal or a log.
pub(crate) struct Shown<'a>(pub(crate) &'a [u8]);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for char in chunk.valid().chars() {
                match char {
                    '\\' => f.write_str("\\\\")?,
                    char if char.is_control() => write!(f, "{}", char.escape_default())?,
                    // Bidirectional overrides and invisible characters make a name look like another.
                    '\u{200b}'..='\u{200f}'
                    | '\u{2028}'..='\u{202e}'
                    | '\u{2066}'..='\u{2069}'
                    | '\u{feff}' => {
                        write!(f, "{}", char.escape_unicode())?;
                    }
                    char => write!(f, "{char}")?,
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

/// The components of `path` that mean something: not empty, not `.`. `..` is among them.
pub(crate) fn components(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
}

/// Makes a name from a tar relative to the root, as Docker and containerd do: leading slashes mean nothing.
pub(crate) fn normalize(name: &[u8]) -> Result<Vec<u8>, Error> {
    let refuse = |problem| Err(Error::entry(name, problem));
    if name.contains(&0) {
        return refuse(EntryProblem::Nul);
    }
    let mut path = Vec::with_capacity(name.len());
    for component in components(name) {
        if component == b".." {
            return refuse(EntryProblem::ParentComponent);
        }
        push(&mut path, component);
    }
    Ok(path)
}

/// Appends a component.
pub(crate) fn push(path: &mut Vec<u8>, name: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
}

/// `parent` and `name` joined.
pub(crate) fn join(parent: &[u8], name: &[u8]) -> Vec<u8> {
    let mut path = Vec::with_capacity(parent.len() + 1 + name.len());
    path.extend_from_slice(parent);
    push(&mut path, name);
    path
}

/// The parent's path and the last component; `None` for the root.
pub(crate) fn split_last(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    Some(match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    })
}

/// Whether `path` is strictly below `dir`.
pub(crate) fn is_below(path: &[u8], dir: &[u8]) -> bool {
    match path.strip_prefix(dir) {
        Some(rest) => !rest.is_empty() && (dir.is_empty() || rest[0] == b'/'),
        None => false,
    }
}

/// `path`, which is `from` or below it, as it is called when `from` is called `to`.
pub(crate) fn rebase(path: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let rest = path[from.len()..]
        .strip_prefix(b"/")
        .unwrap_or(&path[from.len()..]);
    if rest.is_empty() {
        to.to_vec()
    } else {
        join(to, rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_relative_to_the_root() {
        let cases: [(&[u8], Option<&[u8]>); 9] = [
            (b"a/b", Some(b"a/b")),
            (b"./a//b/", Some(b"a/b")),
            (b"///etc/passwd", Some(b"etc/passwd")),
            (b"./", Some(b"")),
            (b"a/.../b", Some(b"a/.../b")),
            (b"../a", None),
            (b"a/../b", None),
            (b"a/..", None),
            (b"a\0b", None),
        ];
        for (name, expected) in cases {
            assert_eq!(normalize(name).ok().as_deref(), expected, "{}", Shown(name));
        }
    }

    #[test]
    fn below_is_strict_and_by_component() {
        for (path, dir, expected) in [
            ("a/b", "a", true),
            ("a", "a", false),
            ("ab", "a", false),
            ("a", "", true),
            ("", "", false),
        ] {
            assert_eq!(
                is_below(path.as_bytes(), dir.as_bytes()),
                expected,
                "{path} {dir}"
            );
        }
        assert_eq!(rebase(b"lib/x/y", b"lib", b"usr/lib"), b"usr/lib/x/y");
        assert_eq!(rebase(b"lib", b"lib", b"usr/lib"), b"usr/lib");
        assert_eq!(rebase(b"lib/x", b"lib", b""), b"x");
    }

    #[test]
    fn shown_names_cannot_act_on_a_terminal() {
        assert_eq!(
            Shown(b"a\x1b[31m\n\xff\\").to_string(),
            "a\\u{1b}[31m\\n\\xff\\\\"
        );
        assert_eq!(Shown("é\u{202e}".as_bytes()).to_string(), "é\\u{202e}");
    }
}
