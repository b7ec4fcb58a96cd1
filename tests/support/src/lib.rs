//! What the integration tests stand on: images built from text, a real registry, and the program under test.
//!
//! The functions panic where a test could do nothing but fail: they are never part of the product.

mod authority;
mod debian_image;
mod docker_archive;
mod docker_registry;
mod elf_file;
mod fake_ecr;
mod file_tree;
mod image_builder;
mod image_fixture;
mod layer_diff;
mod noise;
mod oci_content;
mod probe_target;
mod process_tree;
mod proxy;
mod requirements;
mod run_as;
mod smokegate;
mod tar_pieces;
mod wait;
mod whole_archive;

pub use authority::Authority;
pub use debian_image::{debian_image, debian_layers, on_debian};
pub use docker_registry::{DockerRegistry, RegistryOptions, free_port};
pub use fake_ecr::{
    EcrManners, EcrState, FakeEcr, FakeRepository, FakeRequest, FakeResponse, Fault, FaultSchedule,
};
pub use image_builder::{BuiltImage, BuiltLayer};
pub use image_fixture::{
    Entry, EntryKind, FileContent, ImageFixture, LayerContent, LayerFixture, Packing,
    ParseFixtureError, fixture_dir,
};
pub use noise::Noise;
pub use oci_content::{Attestations, OciContent};
pub use probe_target::probe_target;
pub use process_tree::{Process, ProcessTree};
pub use proxy::{Proxy, ProxyKind};
pub use requirements::{Need, find_program, program, require};
pub use run_as::{RunAs, is_root};
pub use smokegate::{Finished, Running, Smokegate};
pub use tar_pieces::TarPieces;
pub use wait::wait_for;
pub use whole_archive::compress_archive;
