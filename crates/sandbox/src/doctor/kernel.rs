//! The kernel's version against what the recipe needs.

use super::check::{Check, Noun, Status};
use super::wall::Wall;

/// Major and minor.
pub(super) type Version = (u32, u32);

/// libcontainer's mount_setattr(2); everything else we need is older.
pub(super) const NEEDED: Version = (5, 12);

/// What newer ones add, and what is done without.
const BETTER: [(Version, &str); 3] = [
    (
        (6, 5),
        "more than about 127 layers with long names are not joined by overlayfs but copied",
    ),
    (
        (6, 6),
        "what containers write goes to the store's disk instead of to memory",
    ),
    ((6, 13), "layers are given to overlayfs by name"),
];

/// That of this host; nothing where uname(2) answers what no kernel is called.
pub(super) fn running() -> Option<Version> {
    parse(rustix::system::uname().release().to_str().ok()?)
}

fn parse(release: &str) -> Option<Version> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

pub(super) fn check() -> Check {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    judge(&release)
}

fn judge(release: &str) -> Check {
    let (major, minor) = NEEDED;
    let tried = format!("uname -r, against {major}.{minor}");
    let Some(version) = parse(release) else {
        return Check::fine(
            Noun::Kernel,
            tried,
            format!("{release} is no version"),
            "the tries below say more",
        )
        .behind(Status::Limited, Wall::OldKernel);
    };
    if version < NEEDED {
        return Check::fine(Noun::Kernel, tried, release, "no container starts")
            .behind(Status::Failed, Wall::OldKernel);
    }
    let missing = BETTER.iter().filter(|(since, _)| version < *since);
    let missing: Vec<_> = missing
        .map(|((major, minor), without)| format!("before {major}.{minor}, {without}"))
        .collect();
    let means = match missing.as_slice() {
        [] => "everything is used that a run can use".to_owned(),
        missing => missing.join("; "),
    };
    Check::fine(Noun::Kernel, tried, release, means)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_as_numbers() {
        for (release, status, said) in [
            ("6.18.44-fc-v669", Status::Fine, "everything"),
            ("6.1.0-18-amd64", Status::Fine, "before 6.5"),
            ("5.15.0-1-generic", Status::Fine, "before 6.6"),
            ("5.12", Status::Fine, "before 6.13"),
            ("5.4.0-150-generic", Status::Failed, "no container"),
            ("4.18.0-553.el8_10.x86_64", Status::Failed, "no container"),
            ("what", Status::Limited, "tries below"),
        ] {
            let check = judge(release);
            assert_eq!(check.status, status, "{release}");
            assert!(check.means.contains(said), "{release}: {}", check.means);
            assert_eq!(check.wall.is_some(), status != Status::Fine, "{release}");
        }
    }
}
