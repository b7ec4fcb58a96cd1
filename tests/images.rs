//! Real images, made from Debian packages, and the fixtures: what a container of them sees, and whether they run.

mod serving;
mod tree;

use std::path::PathBuf;
use std::time::Duration;

use smokegate_test_support::{BuiltImage, Finished, RunAs, Smokegate};

use crate::subuid::{SubuidUser, UID};

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

/// How the layers of an image are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Storage {
    Overlay,
    /// The store lies on two overlays, and the kernel refuses a third (FILESYSTEM_MAX_STACK_DEPTH in linux/fs.h).
    Copy,
}

impl Storage {
    const ALL: [Self; 2] = [Self::Overlay, Self::Copy];

    /// As the receipt has it.
    fn word(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Copy => "copy",
        }
    }
}

/// A script that mounts one overlay on another, at `place/twice`.
fn two_overlays(options: &str) -> String {
    let mount = |lower: &str, upper: &str, work: &str, at: &str| {
        format!(
            "mount -t overlay -o lowerdir={lower},upperdir={upper},workdir={work}{options} overlay {at}"
        )
    };
    format!(
        "mkdir -p place && mount -t tmpfs none place && cd place && mkdir none one once two twice w1 w2 && \
         {} && {} && cd ..",
        mount("none", "one", "w1", "once"),
        mount("once", "two", "w2", "twice")
    )
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

    /// `gate` with a free port, and with a store whose layers are joined this way.
    fn gate_on(&self, storage: Storage, arguments: &[&str]) -> Finished {
        let finished = match storage {
            Storage::Overlay => self.gate(arguments),
            Storage::Copy => self.gate_on_overlays(arguments),
        };
        let receipt = self.context().receipt();
        let found = &receipt["variants"][0]["storage"];
        assert_eq!(found, storage.word(), "{}", finished.stderr);
        finished
    }

    /// Root mounts the overlays, or who is root of a user namespace with one id.
    fn gate_on_overlays(&self, arguments: &[&str]) -> Finished {
        let mut all = vec!["gate", self.archive.to_str().unwrap()];
        all.extend(["--publish", "0:8080", "--store", "place/twice/store"]);
        all.extend(arguments);
        let context = match &self.user {
            User::Plain(context) => context,
            User::Subuid(user) => {
                let script = format!("{} && chown {UID}:{UID} place/twice", two_overlays(""));
                return user.run_after(&script, &all);
            }
        };
        let mut wrapper = vec!["unshare", "--mount"];
        let mut script = two_overlays("");
        if context.run_as() == RunAs::OrdinaryUser {
            wrapper.extend(["--user", "--map-root-user"]);
            script = two_overlays(",userxattr");
            all.extend(["--isolation", "single"]);
        }
        script.push_str(" && exec \"$@\"");
        wrapper.extend(["sh", "-c", &script, "sh"]);
        let command = context.command_under(&wrapper, all);
        context.start_command(command).wait(LIMIT)
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
