//! Explains, without running anything, why an image's entrypoint could not start or work.
//!
//! Layers are read once, as streams, into an index of what a rule may ask about; nothing is unpacked and nothing of
//! the host is looked at.

mod access;
mod elf;
mod elf_stream;
mod finding;
mod image_lint;
mod index;
mod index_store;
mod linker;
mod program;
mod script;
mod tree;
mod words;
mod wrapper;

pub use finding::{Evidence, Finding, Severity};
pub use image_lint::{Subject, lint};
pub use index::LayerIndex;
pub use index_store::{IndexStore, UnprovenIndex};
pub use tree::ImageTree;
