//! `--limit NAME=VALUE`: how much of anything an image may cost, and which limit a refusal speaks of.

use clap::ValueEnum;
use smokegate_image::Limits;

/// A limit that can be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LimitName {
    LayerSize,
    LayerEntries,
    FileSize,
    ArchiveSize,
    ArchiveMembers,
}

/// A limit as typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    name: LimitName,
    value: u64,
}

/// What refusals say, by the limit that they speak of.
const REFUSALS: [(&str, LimitName); 5] = [
    (
        "which looks like a decompression bomb",
        LimitName::LayerSize,
    ),
    (
        "the number of entries up to it is over",
        LimitName::LayerEntries,
    ),
    (": its size is over the limit", LimitName::FileSize),
    ("bytes when decompressed", LimitName::ArchiveSize),
    (" members", LimitName::ArchiveMembers),
];

impl LimitName {
    fn text(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl Limit {
    /// Reads `NAME=VALUE`; sizes are bytes, or with `k`, `m`, `g` or `t` after the number, as in Compose.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let names = || {
            let names: Vec<_> = LimitName::value_variants()
                .iter()
                .map(|n| n.text())
                .collect();
            names.join(", ")
        };
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| format!("`{text}` is not NAME=VALUE; the names are {}", names()))?;
        let name = LimitName::from_str(name, false)
            .map_err(|_| format!("there is no limit `{name}`; the names are {}", names()))?;
        let (digits, unit) = match value.find(|c: char| !c.is_ascii_digit()) {
            Some(at) => value.split_at(at),
            None => (value, ""),
        };
        let shift = match (unit.to_ascii_lowercase().trim_end_matches('b'), name) {
            ("", _) => 0,
            (_, LimitName::LayerEntries | LimitName::ArchiveMembers) => {
                return Err(format!("`{value}` is not a number"));
            }
            ("k", _) => 10,
            ("m", _) => 20,
            ("g", _) => 30,
            ("t", _) => 40,
            _ => return Err(format!("`{value}` is not a size, for example 500m or 200g")),
        };
        let value = digits
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(1 << shift))
            .filter(|number| *number > 0)
            .ok_or_else(|| format!("`{value}` is not a number above zero"))?;
        Ok(Self { name, value })
    }

    pub(crate) fn apply(self, limits: &mut Limits) {
        let value = self.value;
        match self.name {
            LimitName::LayerSize => {
                limits.layer_bytes = value;
                // Whoever names a size means it, however well the layer compresses.
                limits.ratio_grace = value;
            }
            LimitName::LayerEntries => limits.layer_entries = value,
            LimitName::FileSize => limits.file_bytes = value,
            LimitName::ArchiveSize => limits.spool_bytes = value,
            LimitName::ArchiveMembers => {
                limits.members = usize::try_from(value).unwrap_or(usize::MAX);
            }
        }
    }
}

/// The hint to a refusal that speaks of a limit.
pub(crate) fn hint(refusal: &str) -> Option<String> {
    let (_, name) = REFUSALS.iter().find(|(says, name)| {
        refusal.contains(says)
            && (*name != LimitName::ArchiveMembers || refusal.contains("more than "))
    })?;
    let example = match name {
        LimitName::LayerEntries => "10000000",
        LimitName::ArchiveMembers => "1000000",
        _ => "500g",
    };
    Some(format!(
        "if you trust this image, raise the limit: --limit {}={example}",
        name.text()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_read_as_sizes_and_numbers() {
        for (text, name, value) in [
            ("layer-size=200g", LimitName::LayerSize, 200 << 30),
            ("layer-size=1KB", LimitName::LayerSize, 1024),
            ("file-size=5", LimitName::FileSize, 5),
            ("archive-size=2t", LimitName::ArchiveSize, 2 << 40),
            ("layer-entries=7000000", LimitName::LayerEntries, 7_000_000),
        ] {
            assert_eq!(Limit::parse(text), Ok(Limit { name, value }), "{text}");
        }
        for (text, says) in [
            ("layer-size", "is not NAME=VALUE"),
            (
                "layers=1",
                "there is no limit `layers`; the names are layer-size, layer-entries",
            ),
            ("layer-size=", "is not a number above zero"),
            ("layer-size=0", "is not a number above zero"),
            ("layer-size=1x", "is not a size"),
            ("layer-size=99999999t", "is not a number above zero"),
            ("layer-entries=1k", "`1k` is not a number"),
        ] {
            let error = Limit::parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
