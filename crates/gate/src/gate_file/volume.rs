//! `volumes`: named ones that live as long as the pod, tmpfs, and read-only binds from beside the gate file.

use std::path::{Component, Path};

use serde_json::{Value, json};

use super::node::{Kind, Node};
use super::reader::{Definitions, FromText, Reader, Shape, keyed};
use super::scalar::{Size, choice};
use super::span::{Span, Spanned};

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// What is mounted.
    pub source: VolumeSource,
    /// Where, absolute.
    pub target: String,
    /// Whether the container may not write; always so for a bind.
    pub read_only: bool,
    /// Where it was written.
    pub span: Span,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// A volume of the pod: fresh for each variant, the same for all containers that name it.
    Named(String),
    /// Memory, for this container alone.
    Tmpfs {
        /// At most this much.
        size: Option<Size>,
        /// Permissions of its root.
        mode: Option<u32>,
    },
    /// A file or directory below the gate file's directory: a relative path without `..`.
    Bind(String),
}

choice! {
    /// The `type` of a volume's long form.
    pub(crate) enum VolumeKind: "`volume`, `bind` or `tmpfs`" {
        /// A volume of the pod.
        #[default]
        Volume = "volume",
        /// A bind.
        Bind = "bind",
        /// Memory.
        Tmpfs = "tmpfs",
    }
}

/// Permissions as an octal number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mode(u32);

impl FromText for Mode {
    const EXPECTED: &'static str = "an octal mode";
    const EXAMPLE: &'static str = "0755";

    fn from_text(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        match u32::from_str_radix(digits, 8) {
            Ok(mode) if mode <= 0o7777 && !digits.starts_with('+') => Ok(Self(mode)),
            _ => Err(String::new()),
        }
    }

    fn schema() -> Value {
        json!({"type": ["string", "integer"]})
    }
}

keyed! {
    /// Options of a tmpfs.
    pub(crate) struct TmpfsOptions {
        /// At most this much memory, for example `64m`.
        size: Option<Spanned<Size>>,
        /// Permissions of its root, octal.
        mode: Option<Spanned<Mode>>,
    }
}

keyed! {
    /// A volume's long form.
    pub(crate) struct VolumeKeys [required "type", "target"] {
        /// `volume`, `bind` or `tmpfs`.
        kind ("type"): Option<Spanned<VolumeKind>>,
        /// The name of a volume, or a path below the gate file.
        source: Option<Spanned<String>>,
        /// Where in the container, absolute.
        target: Option<Spanned<String>>,
        /// Whether the container may not write; a bind must say `true`.
        read_only: Option<Spanned<bool>>,
        /// Options of a tmpfs.
        tmpfs: Option<TmpfsOptions>,
    }
}

impl Shape for Volume {
    fn read(node: &Node, reader: &mut Reader<'_>) -> Option<Self> {
        const EXPECTED: &str = "a volume";
        const EXAMPLE: &str = "data:/var/lib/app";
        let read = match &node.kind {
            Kind::Scalar(_) => {
                let text = reader.text(node, EXPECTED, EXAMPLE)?;
                short_form(&text.text).map_err(|(why, hint)| {
                    (format!("{} is not {EXPECTED}: {why}", text.shown), hint)
                })
            }
            Kind::Mapping(_) => long_form(VolumeKeys::read(node, reader)?)?
                .map_err(|(why, hint)| (format!("this is not {EXPECTED}: {why}"), hint)),
            Kind::Sequence(_) => {
                reader.wrong_type(node, EXPECTED, EXAMPLE);
                return None;
            }
        };
        match read {
            Ok((source, target, read_only)) => Some(Self {
                source,
                target,
                read_only,
                span: node.span,
            }),
            Err((message, hint)) => {
                reader.problem(node.span, &message, Some(hint));
                None
            }
        }
    }

    fn schema(definitions: &mut Definitions) -> Value {
        let long = VolumeKeys::schema(definitions);
        json!({"anyOf": [{"type": "string", "examples": ["data:/var/lib/app", "./conf:/etc/app:ro"]}, long]})
    }
}

type Parts = (VolumeSource, String, bool);
type Refusal = (&'static str, &'static str);

const HINT: &str = "write `NAME:/PATH`, `./PATH:/PATH:ro`, or `{type: tmpfs, target: /PATH}`";

fn short_form(text: &str) -> Result<Parts, Refusal> {
    let mut parts = text.splitn(3, ':');
    let (source, target) = (parts.next().unwrap_or_default(), parts.next());
    let Some(target) = target else {
        return Err(("it has no name", HINT));
    };
    let read_only = match parts.next() {
        None | Some("rw") => false,
        Some("ro") => true,
        Some(_) => return Err(("its option is neither `ro` nor `rw`", HINT)),
    };
    if source.starts_with(['.', '/', '~']) || source.contains('/') {
        bind(source, target, read_only)
    } else {
        named(source, target, read_only)
    }
}

/// `None` where the keys that are needed were missing or wrong, which was said already.
fn long_form(keys: VolumeKeys) -> Option<Result<Parts, Refusal>> {
    let (kind, target) = (keys.kind?.value, keys.target?.value);
    let read_only = keys.read_only.is_some_and(|read_only| read_only.value);
    if kind != VolumeKind::Tmpfs && keys.tmpfs.is_some() {
        return Some(Err(("`tmpfs` options belong to `type: tmpfs`", HINT)));
    }
    let source = keys.source.map(|source| source.value);
    Some(match (kind, source) {
        (VolumeKind::Tmpfs, None) => absolute(&target).map(|target| {
            let options = keys.tmpfs.unwrap_or_default();
            let source = VolumeSource::Tmpfs {
                size: options.size.map(|size| size.value),
                mode: options.mode.map(|mode| mode.value.0),
            };
            (source, target, read_only)
        }),
        (VolumeKind::Tmpfs, Some(_)) => Err(("a tmpfs has no `source`", HINT)),
        (_, None) => Err(("it has no `source`", HINT)),
        (VolumeKind::Bind, Some(source)) => bind(&source, &target, read_only),
        (VolumeKind::Volume, Some(source)) => named(&source, &target, read_only),
    })
}

fn named(name: &str, target: &str, read_only: bool) -> Result<Parts, Refusal> {
    if !super::reader::is_name(name) {
        return Err((
            "its name is not one of letters, digits, `_`, `.` and `-`",
            HINT,
        ));
    }
    Ok((
        VolumeSource::Named(name.to_owned()),
        absolute(target)?,
        read_only,
    ))
}

fn bind(source: &str, target: &str, read_only: bool) -> Result<Parts, Refusal> {
    let inside = Path::new(source)
        .components()
        .all(|part| matches!(part, Component::CurDir | Component::Normal(_)));
    if !inside || source.starts_with('~') || source.is_empty() {
        let hint = "a path of the host must lie below the gate file's directory: `./PATH:/PATH:ro`";
        return Err(("it leaves the gate file's directory", hint));
    }
    if !read_only {
        let hint =
            "add `:ro` (or `read_only: true`); what the container writes goes to a named volume";
        return Err(("a path of the host can only be mounted read-only", hint));
    }
    Ok((
        VolumeSource::Bind(source.to_owned()),
        absolute(target)?,
        true,
    ))
}

fn absolute(target: &str) -> Result<String, Refusal> {
    let path = Path::new(target);
    let plain = path
        .components()
        .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    if !plain || !path.is_absolute() || target == "/" {
        return Err(("its place in the container is not an absolute path", HINT));
    }
    Ok(target.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_forms_read_as_in_compose() {
        let named = |name: &str| VolumeSource::Named(name.to_owned());
        let bind = |path: &str| VolumeSource::Bind(path.to_owned());
        for (text, source, target, read_only) in [
            ("data:/d", named("data"), "/d", false),
            ("data:/d:ro", named("data"), "/d", true),
            ("data:/d:rw", named("data"), "/d", false),
            ("./conf:/etc/app:ro", bind("./conf"), "/etc/app", true),
            (
                "conf/x.toml:/x.toml:ro",
                bind("conf/x.toml"),
                "/x.toml",
                true,
            ),
        ] {
            assert_eq!(
                short_form(text),
                Ok((source, target.to_owned(), read_only)),
                "{text}"
            );
        }
        for text in [
            "",
            "/d",
            "data",
            "data:d",
            "data:/",
            "data:/a/../b",
            "./a:/a",
            "./a:/a:rw",
            "../a:/a:ro",
            "a/../../b:/a:ro",
            "/etc:/etc:ro",
            "~/a:/a:ro",
            "data:/d:z",
            "-x:/d",
            ":/d",
        ] {
            assert!(short_form(text).is_err(), "{text}");
        }
    }
}
