//! Platforms as OCI writes them, and which of an index fits.

use std::fmt;
use std::str::FromStr;

/// `os/architecture[/variant]`, in Go's names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64`, `arm64`.
    pub architecture: String,
    /// `v7`, `v8`.
    pub variant: Option<String>,
}

impl Platform {
    /// The platform smokegate was built for.
    pub fn host() -> Self {
        let variant = if cfg!(target_arch = "arm") {
            Some("v7".to_owned())
        } else {
            None
        };
        Self {
            os: std::env::consts::OS.to_owned(),
            architecture: go_architecture(std::env::consts::ARCH).0.to_owned(),
            variant,
        }
    }

    /// How well `candidate` serves where `self` is wanted: lower is better, `None` is not at all.
    ///
    /// As containerd's matcher does it: a processor runs its own variant and those below it, so `arm/v7`
    /// takes `arm/v6` where nothing better is there, and `amd64` never takes `amd64/v3`.
    pub fn rank(&self, candidate: &Platform) -> Option<u32> {
        let (architecture, wanted) = self.normalized();
        let (other, offered) = candidate.normalized();
        if self.os.to_lowercase() != candidate.os.to_lowercase() || architecture != other {
            return None;
        }
        match (level(&wanted), level(&offered)) {
            (Some(wanted), Some(offered)) => wanted.checked_sub(offered),
            _ => (wanted == offered).then_some(0),
        }
    }

    /// Architecture and variant with every default written out.
    fn normalized(&self) -> (String, String) {
        let lower = self.architecture.to_lowercase();
        let (architecture, implied) = go_architecture(&lower);
        let variant = self.variant.as_deref().unwrap_or_default().to_lowercase();
        let variant = match (architecture, variant.as_str()) {
            ("arm", "") => implied.unwrap_or("v7"),
            ("arm64", "" | "8") => "v8",
            ("amd64", "") => "v1",
            ("arm", "5") => "v5",
            ("arm", "6") => "v6",
            ("arm", "7") => "v7",
            (_, written) => written,
        };
        (architecture.to_owned(), variant.to_owned())
    }
}

/// Go's name for what `uname -m` or Rust says, and the variant that the name implies.
fn go_architecture(name: &str) -> (&str, Option<&'static str>) {
    match name {
        "x86_64" | "x86-64" => ("amd64", None),
        "aarch64" => ("arm64", None),
        "x86" | "i386" | "i486" | "i586" | "i686" => ("386", None),
        "armhf" | "armv7l" => ("arm", Some("v7")),
        "armel" | "armv6l" => ("arm", Some("v6")),
        "powerpc64le" => ("ppc64le", None),
        "loongarch64" => ("loong64", None),
        other => (other, None),
    }
}

/// The number of a `v8`; a variant such as `v8.1` has none and matches only itself.
fn level(variant: &str) -> Option<u32> {
    variant.strip_prefix('v')?.parse().ok()
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            Some(variant) if !variant.is_empty() => write!(f, "/{variant}"),
            _ => Ok(()),
        }
    }
}

/// A string that is not a platform.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a platform: write `os/architecture` or `os/architecture/variant`, as in `linux/arm64`"
)]
pub struct ParsePlatformError(pub String);

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let word = |part: &&str| {
            !part.is_empty()
                && part
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
        };
        let parts: Vec<&str> = text.split('/').collect();
        if !(2..=3).contains(&parts.len()) || !parts.iter().all(word) {
            return Err(ParsePlatformError(text.to_owned()));
        }
        Ok(Self {
            os: parts[0].to_owned(),
            architecture: go_architecture(parts[1]).0.to_owned(),
            variant: parts
                .get(2)
                .copied()
                .or(go_architecture(parts[1]).1)
                .map(str::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap()
    }

    #[test]
    fn parses_and_displays() {
        let cases = [
            ("linux/amd64", "linux/amd64"),
            ("linux/x86_64", "linux/amd64"),
            ("linux/aarch64", "linux/arm64"),
            ("linux/arm64/v8", "linux/arm64/v8"),
            ("linux/armhf", "linux/arm/v7"),
        ];
        for (text, shown) in cases {
            assert_eq!(platform(text).to_string(), shown);
        }
        for text in ["", "linux", "linux/", "/amd64", "a/b/c/d", "linux/am d64"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn ranks_as_containerd_does() {
        let cases = [
            ("linux/arm64", "linux/arm64/v8", Some(0)),
            ("linux/arm64/v8", "linux/arm64", Some(0)),
            ("linux/arm/v7", "linux/arm/v6", Some(1)),
            ("linux/arm/v7", "linux/arm/v5", Some(2)),
            ("linux/arm/v6", "linux/arm/v7", None),
            ("linux/arm", "linux/arm/v7", Some(0)),
            ("linux/amd64", "linux/amd64/v3", None),
            ("linux/amd64/v3", "linux/amd64", Some(2)),
            ("linux/amd64", "linux/arm64", None),
            ("linux/amd64", "windows/amd64", None),
            ("linux/s390x", "linux/s390x", Some(0)),
            ("linux/mips64le/softfloat", "linux/mips64le", None),
        ];
        for (wanted, offered, rank) in cases {
            assert_eq!(
                platform(wanted).rank(&platform(offered)),
                rank,
                "{wanted} {offered}"
            );
        }
    }
}
