//! Subordinate ids: whether this user has them, and what is done without.

use std::ffi::OsStr;

use super::check::{Check, Noun, Status};
use super::wall::Wall;
use crate::error::HostError;
use crate::id_map::IdMap;
use crate::isolation::Isolation;

const TRIED: &str =
    "looking for ranges in /etc/subuid and /etc/subgid, and for newuidmap and newgidmap on PATH";

/// The line for a run at `level`; `asked` is what the user named. `refused` is what newuidmap answered.
pub(super) fn check(
    level: Isolation,
    asked: Option<Isolation>,
    refused: Option<&HostError>,
    path: &OsStr,
) -> Check {
    let line =
        |result: String, means: &str| Check::fine(Noun::SubordinateIds, TRIED, result, means);
    if let Some(error) = refused {
        let means = "isolation level `subuid` cannot be had, which a run would take by itself; `--isolation single` does without";
        return line(error.to_string(), means).behind(Status::Failed, Wall::IdMapper);
    }
    match (level, IdMap::at(Isolation::Subuid, path)) {
        (Isolation::Root, _) => line(
            "not looked for".to_owned(),
            "a run as root has every id by itself",
        )
        .behind(Status::NotNeeded, None),
        (Isolation::Subuid, _) => line(
            "both are there, and the ranges were mapped".to_owned(),
            Noun::SubordinateIds.needed_for(),
        ),
        (Isolation::Single, _) if asked == Some(Isolation::Single) => line(
            "not looked for".to_owned(),
            "`--isolation single` maps one id",
        )
        .behind(Status::NotNeeded, None),
        (Isolation::Single, found) => {
            let (result, wall) = match found {
                Err(why) => (why.to_string(), Wall::of_level(&why)),
                Ok(_) => ("they were refused".to_owned(), Wall::IdMapper),
            };
            line(
                result,
                "a run gets isolation level `single`, one id: a chown or setuid to another one fails, and a run that fails for that is inconclusive (exit 3)",
            )
            .behind(if asked == Some(Isolation::Subuid) { Status::Failed } else { Status::Limited }, wall)
        }
    }
}
