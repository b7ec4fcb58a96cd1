//! Who runs: smokegate, the tools that do the same in several steps, and single tools that do a part of it.

use std::fs;
use std::path::Path;

use super::registry::Registry;
use super::smokegate::{self, Ship};
use super::stages::Run;
use super::workload::{Packing, Workload};
use super::{alone, curl, docker, skopeo, storage, sweeper};
use crate::Result;
use crate::workspace::{is_installed, is_root};

/// Tools that lead from an archive to a registry, and are slow enough to be left out or run less often.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    /// `docker load`, `docker run`, asked until healthy, `docker push`.
    Docker,
    /// The same with `podman pull`.
    Podman,
    /// `buildah pull`, `buildah from`, `buildah push`: nothing is run.
    Buildah,
    /// `umoci unpack`, `skopeo copy`: nothing is run.
    Umoci,
}

impl Peer {
    pub(crate) const ALL: [Self; 4] = [Self::Docker, Self::Podman, Self::Buildah, Self::Umoci];

    /// As `--peers` has it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Buildah => "buildah",
            Self::Umoci => "umoci",
        }
    }
}

/// One of those that are timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Contender {
    /// `smokegate ship`.
    Ship(Ship),
    /// `smokegate gate` of this many variants of an app in Python, every layer in the store.
    Variants(usize),
    /// `smokegate push`.
    Push,
    /// `skopeo copy` to the registry alone.
    SkopeoPush,
    /// `curl` with the largest blob: what no push can be far below, as a registry takes one blob over one connection.
    LargestBlob,
    /// That many of the same app from the same files, at once and outside of any container.
    AppsAlone(usize),
    /// All the way with other tools.
    Peer(Peer),
    /// `igzip -dc` of the layers to /dev/null, one after the other: what no unpacking of gzip can be far below.
    Igzip,
    /// Each stage of unpacking by a tool that does nothing else.
    Stages,
}

/// Where the runs happen.
#[derive(Debug)]
pub(crate) struct Place<'a> {
    pub(crate) smokegate: &'a Path,
    /// Through all rounds of a workload.
    pub(crate) kept: &'a Path,
    /// Of this round.
    pub(crate) disk: &'a Path,
}

impl Contender {
    /// In the order they run: `AppsAlone` uses the files that `Stages` wrote.
    pub(crate) const ALL: [Self; 21] = [
        Self::Ship(Ship::Cold),
        Self::Ship(Ship::Warm),
        Self::Ship(Ship::Compressed),
        Self::Ship(Ship::Ahead),
        Self::Variants(1),
        Self::Variants(2),
        Self::Variants(4),
        Self::Variants(8),
        Self::Push,
        Self::SkopeoPush,
        Self::LargestBlob,
        Self::Peer(Peer::Docker),
        Self::Peer(Peer::Podman),
        Self::Peer(Peer::Buildah),
        Self::Peer(Peer::Umoci),
        Self::Igzip,
        Self::Stages,
        Self::AppsAlone(1),
        Self::AppsAlone(2),
        Self::AppsAlone(4),
        Self::AppsAlone(8),
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ship(Ship::Cold) => "smokegate, empty store",
            Self::Ship(Ship::Warm) => "smokegate, warm store",
            Self::Ship(Ship::Compressed) => "smokegate --compress zstd",
            Self::Ship(Ship::Ahead) => "smokegate --upload-ahead",
            Self::Variants(1) => "gate of 1 variant",
            Self::Variants(2) => "gate of 2 variants",
            Self::Variants(4) => "gate of 4 variants",
            Self::Variants(_) => "gate of 8 variants",
            Self::Push => "smokegate push",
            Self::SkopeoPush => "skopeo copy",
            Self::LargestBlob => "curl, the largest blob alone",
            Self::AppsAlone(1) => "its app, no container",
            Self::AppsAlone(2) => "2 of its app, no container",
            Self::AppsAlone(4) => "4 of its app, no container",
            Self::AppsAlone(_) => "8 of its app, no container",
            Self::Peer(Peer::Docker) => "docker load+run+push",
            Self::Peer(Peer::Podman) => "podman pull+run+push",
            Self::Peer(Peer::Buildah) => "buildah pull+from+push",
            Self::Peer(Peer::Umoci) => "umoci unpack, skopeo push",
            Self::Igzip => "igzip -dc, one thread",
            Self::Stages => "stages of unpacking alone",
        }
    }

    /// Whether it is smokegate, without which nothing is compared.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Ship(_) | Self::Variants(_) | Self::Push)
    }

    /// Whether it has anything to say of a workload.
    pub(crate) fn concerns(self, workload: &Workload) -> bool {
        let (shape, packing) = (workload.shape, workload.packing);
        match self {
            Self::Ship(Ship::Compressed) => packing == Packing::DockerArchive,
            Self::Push | Self::SkopeoPush | Self::LargestBlob => packing != Packing::DockerArchive,
            Self::Igzip | Self::Stages => packing == Packing::Gzip,
            Self::Variants(_) | Self::AppsAlone(_) => shape == "debian" && packing == Packing::Gzip,
            Self::Ship(_) | Self::Peer(_) => true,
        }
    }

    /// Why it cannot take part here.
    pub(crate) fn missing(self, smokegate: &Path, peers: &[Peer]) -> Option<String> {
        let needed: &[&str] = match self {
            Self::Peer(peer) if !peers.contains(&peer) => return Some("not asked for".to_owned()),
            Self::Peer(Peer::Docker | Peer::Podman | Peer::Umoci) | Self::AppsAlone(_)
                if !is_root() =>
            {
                return Some("needs root".to_owned());
            }
            Self::Ship(Ship::Ahead) if !smokegate::can_upload_ahead(smokegate) => {
                return Some("`ship` has no --upload-ahead".to_owned());
            }
            Self::Ship(_) | Self::Variants(_) | Self::Push | Self::AppsAlone(_) => &[],
            Self::SkopeoPush => &["skopeo"],
            Self::LargestBlob => &["curl"],
            Self::Peer(Peer::Docker) => &["docker", "dockerd"],
            Self::Peer(Peer::Podman) => &["podman"],
            Self::Peer(Peer::Buildah) => &["buildah"],
            Self::Peer(Peer::Umoci) => &["umoci", "skopeo"],
            Self::Igzip => &["igzip"],
            Self::Stages => &["igzip", "openssl", "tar"],
        };
        let missing = needed.iter().find(|program| !is_installed(program));
        missing.map(|program| format!("`{program}` is not installed"))
    }

    /// Runs it once, with everything in a place of its own, and leaves nothing running or mounted there.
    pub(crate) fn run(self, workload: &Workload, place: &Place<'_>) -> Result<Run> {
        let dir = place.disk.join(self.directory());
        fs::create_dir(&dir)?;
        let run = Registry::start(&dir.join("registry"))
            .and_then(|registry| self.run_with(workload, place, &dir, &registry));
        sweeper::end_all_of(&dir);
        run
    }

    fn run_with(
        self,
        workload: &Workload,
        place: &Place<'_>,
        dir: &Path,
        registry: &Registry,
    ) -> Result<Run> {
        let target = format!("{}/bench:v1", registry.address());
        match self {
            Self::Ship(how) => smokegate::ship(how, workload, place, dir, &target),
            Self::Variants(count) => smokegate::gate_variants(count, workload, place, dir),
            Self::Push => smokegate::push(workload, place, dir, &target),
            Self::AppsAlone(count) => {
                alone::apps(count, &place.disk.join(Self::Stages.directory()))
            }
            Self::SkopeoPush => skopeo::push(workload, &target),
            Self::LargestBlob => curl::largest_blob(workload, &registry.address()),
            Self::Peer(Peer::Docker) => docker::run(workload, dir, &target),
            Self::Peer(Peer::Podman) => storage::podman(workload, dir, &target),
            Self::Peer(Peer::Buildah) => storage::buildah(workload, dir, &target),
            Self::Peer(Peer::Umoci) => skopeo::with_umoci(workload, dir, &target),
            Self::Igzip => alone::igzip(workload),
            Self::Stages => alone::stages(workload, place, dir),
        }
    }

    /// Of its own in the disk of a round: no blanks, and short, as sockets are made below it.
    fn directory(self) -> String {
        let own = Self::ALL.iter().position(|one| *one == self);
        format!("c{}", own.unwrap_or_default())
    }
}
