//! The isolation levels, from best to least, and which one this process can have.

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
    /// The real root of this host (or of the user namespace smokegate was started in): every id.
    Root,
}

impl Isolation {
    /// The best level this process can have: root with CAP_SYS_ADMIN, else a single id.
    pub fn best() -> Self {
        let privileged = rustix::thread::capabilities(None)
            .is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
        if rustix::process::geteuid().is_root() && privileged {
            Self::Root
        } else {
            Self::Single
        }
    }

    /// Whether layers keep the owners they record at this level.
    pub fn keeps_owners(self) -> bool {
        self == Self::Root
    }
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Single => "single",
            Self::Root => "root",
        })
    }
}

impl FromStr for Isolation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "single" => Ok(Self::Single),
            "root" => Ok(Self::Root),
            _ => Err(format!(
                "`{text}` is not an isolation level: use `root` or `single`"
            )),
        }
    }
}
