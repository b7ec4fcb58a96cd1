//! What is gated and published: images of different shapes, each made once and kept in the target directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::Result;
use crate::workspace::{build_programs, run};

/// What `bench-image` writes last.
const FACTS: &str = "facts.json";

/// Shapes of images.
pub(crate) const SHAPES: [&str; 4] = ["debian", "one-layer", "sixty-layers", "tiny-files"];

/// How an image is packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Packing {
    /// An OCI image with gzip layers.
    Gzip,
    /// An OCI image with zstd layers.
    Zstd,
    /// What `docker save` writes: plain layers and no manifest.
    DockerArchive,
}

impl Packing {
    pub(crate) const ALL: [Self; 3] = [Self::Gzip, Self::Zstd, Self::DockerArchive];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::DockerArchive => "docker-archive",
        }
    }
}

/// One image.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) shape: &'static str,
    pub(crate) packing: Packing,
    dir: PathBuf,
}

impl Workload {
    /// Those that are named, `SHAPE` or `SHAPE/PACKING`; all where none is.
    pub(crate) fn named(names: &[String], images: &Path) -> Result<Vec<Self>> {
        let all = SHAPES.into_iter().flat_map(|shape| {
            Packing::ALL.map(|packing| Self {
                shape,
                packing,
                dir: images.join(shape),
            })
        });
        let all: Vec<Self> = all.collect();
        for name in names {
            if !all.iter().any(|workload| workload.is_called(name)) {
                let known: Vec<String> = all.iter().map(Self::name).collect();
                return Err(format!("no workload `{name}`; there are {}", known.join(", ")).into());
            }
        }
        let wanted =
            |workload: &Self| names.is_empty() || names.iter().any(|name| workload.is_called(name));
        Ok(all.into_iter().filter(wanted).collect())
    }

    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.shape, self.packing.name())
    }

    fn is_called(&self, name: &str) -> bool {
        name == self.shape || name == self.name()
    }

    /// The archive, that of a `docker save` also for those who read no OCI archives.
    pub(crate) fn archive(&self) -> PathBuf {
        self.dir.join(match self.packing {
            Packing::Gzip => "gzip.tar",
            Packing::Zstd => "zstd.tar",
            Packing::DockerArchive => "docker.tar",
        })
    }

    /// The archive that `docker save` would write, layers uncompressed.
    pub(crate) fn plain(&self) -> PathBuf {
        self.dir.join("docker.tar")
    }

    /// The image as containers-transports(5) names it: as the layout directory where there is one, which spares
    /// everybody taking an archive apart.
    pub(crate) fn transport(&self) -> String {
        match self.layout() {
            Some(layout) => format!("oci:{}:v1", layout.display()),
            None => format!("docker-archive:{}:bench:v1", self.plain().display()),
        }
    }

    /// What is in it, as it was noted when it was made: `layers`, `entries` and `bytes` of the uncompressed layers.
    pub(crate) fn facts(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&fs::read(self.dir.join(FACTS))?)?)
    }

    /// The same image as a layout directory, where it is an OCI image.
    pub(crate) fn layout(&self) -> Option<PathBuf> {
        match self.packing {
            Packing::Gzip => Some(self.dir.join("gzip.layout")),
            Packing::Zstd => Some(self.dir.join("zstd.layout")),
            Packing::DockerArchive => None,
        }
    }

    /// Files with the layers' blobs, where the image is an OCI image.
    pub(crate) fn layers(&self) -> Result<Vec<PathBuf>> {
        let magic: &[u8] = match self.packing {
            Packing::Gzip => &[0x1f, 0x8b],
            Packing::Zstd => &[0x28, 0xb5, 0x2f, 0xfd],
            Packing::DockerArchive => return Ok(Vec::new()),
        };
        let Some(layout) = self.layout() else {
            return Ok(Vec::new());
        };
        let mut layers = Vec::new();
        for blob in fs::read_dir(layout.join("blobs/sha256"))? {
            let path = blob?.path();
            if fs::read(&path)?.starts_with(magic) {
                layers.push(path);
            }
        }
        Ok(layers)
    }

    /// Makes the image, unless an earlier run did.
    pub(crate) fn make(&self) -> Result {
        if self.dir.join(FACTS).exists() {
            return Ok(());
        }
        println!("making the images of workload {}", self.shape);
        let programs = build_programs(&["smokegate-test-support"], false)?;
        if self.dir.exists() {
            fs::remove_dir_all(&self.dir)?;
        }
        let mut command = Command::new(programs.join("bench-image"));
        run(command.arg(self.shape).arg(&self.dir))
    }
}
