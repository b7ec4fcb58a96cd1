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

/// How the layers of an image are joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Storage {
    Overlay,
    /// The store lies on two overlays, and the kernel refuses a third (FILESYSTEM_MAX_STACK_DEPTH in linux/fs.h).
    Copy,
}

impl Storage {
    /// As the receipt has it.
    fn word(self) -> &'static str {
        match self {
            Self::Overlay => "overlay",
            Self::Copy => "copy",
        }
    }
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

    /// The ways that can be had at this level.
    fn storages(&self) -> &'static [Storage] {
        match self.user {
            User::Plain(_) => &[Storage::Overlay, Storage::Copy],
            // Newuidmap's user cannot mount the overlays below the store first.
            User::Subuid(_) => &[Storage::Overlay],
        }
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

    /// As root, or as one who is root of a user namespace with one id, as nobody else can mount.
    fn gate_on_overlays(&self, arguments: &[&str]) -> Finished {
        let User::Plain(context) = &self.user else {
            panic!("mounts are made as the user with a single id, or as root");
        };
        let (mut wrapper, own_attributes) = match context.run_as() {
            RunAs::Root => (vec!["unshare", "--mount"], ""),
            RunAs::OrdinaryUser => (
                vec!["unshare", "--mount", "--user", "--map-root-user"],
                ",userxattr",
            ),
        };
        let script = format!(
            "mkdir -p place && mount -t tmpfs none place && cd place && mkdir none one once two twice w1 w2 && \
             mount -t overlay -o lowerdir=none,upperdir=one,workdir=w1{own_attributes} overlay once && \
             mount -t overlay -o lowerdir=once,upperdir=two,workdir=w2{own_attributes} overlay twice && \
             cd .. && exec \"$@\""
        );
        wrapper.extend(["sh", "-c", &script, "sh"]);
        let mut all = vec!["gate", self.archive.to_str().unwrap()];
        all.extend(["--publish", "0:8080", "--store", "place/twice/store"]);
        if context.run_as() == RunAs::OrdinaryUser {
            all.extend(["--isolation", "single"]);
        }
        all.extend(arguments);
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
