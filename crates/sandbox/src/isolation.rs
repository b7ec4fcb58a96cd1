//! The isolation levels, from least to best.

use std::fmt;
use std::str::FromStr;

use rustix::thread::CapabilitySet;

/// How a container's user ids relate to the host's.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// One id: the container's own user is the caller. Needs nothing but user namespaces.
    Single,
    /// The caller's subordinate ids: every id that images use, without root.
    Subuid,
    /// The real root of this host (or of the user namespace smokegate was started in): every id.
    Root,
}

impl Isolation {
    /// Whether this process is root with the capability to make namespaces and mounts.
    pub(crate) fn is_privileged() -> bool {
        let capable = rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
        rustix::process::geteuid().is_root() && capable
    }

    /// Whether every id an image uses exists at this level, so that layers keep the owners they record.
    pub fn has_all_ids(self) -> bool {
        self != Self::Single
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Single => "single",
            Self::Subuid => "subuid",
            Self::Root => "root",
        })
    }
}

impl FromStr for Isolation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "single" => Ok(Self::Single),
            "subuid" => Ok(Self::Subuid),
            "root" => Ok(Self::Root),
            _ => Err(format!(
                "`{text}` is not an isolation level: use `root`, `subuid` or `single`"
            )),
        }
    }
}
