//! Real images, made from Debian packages, and the fixtures: what a container of them sees, and whether they run.

mod serving;
mod tree;

use std::path::PathBuf;
use std::time::Duration;

use smokegate_test_support::{BuiltImage, Finished, RunAs, Smokegate};

use crate::subuid::SubuidUser;

/// Longer than a run takes on a busy machine, so that what smokegate says decides.
const LIMIT: Duration = Duration::from_secs(300);

/// How a container's ids relate to the host's, and who has them so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Root,
    Subuid,
    Single,
}

impl Level {
    const ALL: [Self; 3] = [Self::Root, Self::Subuid, Self::Single];
}

/// A user of one level, and an image where that user can read it.
struct Host {
    level: Level,
    user: User,
    archive: PathBuf,
}

enum User {
    Plain(Smokegate),
    Subuid(SubuidUser),
}

impl Host {
    fn new(level: Level, image: &BuiltImage) -> Option<Self> {
        let plain = |run_as| {
            let mut context = Smokegate::new(env!("CARGO_BIN_EXE_smokegate"), run_as)?;
            context.limit(LIMIT);
            Some(context)
        };
        let user = match level {
            Level::Root => User::Plain(plain(RunAs::Root)?),
            Level::Subuid => User::Subuid(SubuidUser::new()?),
            Level::Single => User::Plain(plain(RunAs::OrdinaryUser)?),
        };
        let archive = user.context().archive("image", image);
        Some(Self {
            level,
            user,
            archive,
        })
    }

    /// `gate` with a free port.
    fn gate(&self, arguments: &[&str]) -> Finished {
        let mut all = vec!["gate", self.archive.to_str().unwrap(), "--publish"];
        // Where the arguments name a port, theirs is the container's.
        let (port, rest) = match arguments.split_first() {
            Some((first, rest)) if first.starts_with("0:") => (*first, rest),
            _ => ("0:8080", arguments),
        };
        all.push(port);
        all.extend(rest);
        match &self.user {
            User::Plain(context) => context.run(all),
            User::Subuid(user) => user.run(&all),
        }
    }

    fn context(&self) -> &Smokegate {
        self.user.context()
    }
}

impl User {
    fn context(&self) -> &Smokegate {
        match self {
            Self::Plain(context) => context,
            Self::Subuid(user) => &user.0,
        }
    }
}
