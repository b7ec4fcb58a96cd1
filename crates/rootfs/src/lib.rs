//! Turns image layers into directories that overlayfs can join, and keeps them in the layer store.
//!
//! Every name that comes from a layer is looked up beneath one directory descriptor, a component at a time;
//! nothing here follows a layer's symlink outside it. Sync, no `unsafe`, no network, no environment.

mod apply;
mod copy;
mod entry;
mod error;
mod fill;
mod layer_tree;
mod lookup;
mod mark;
mod merged;
mod metadata;
mod overlay;
mod path;
mod policy;
mod remove;
mod root_dir;
mod scan;
mod settle;
mod sparse;
mod store;
mod tar_reader;
mod tree_dump;

pub use apply::{Applied, apply_layer};
pub use copy::copy_merged;
pub use entry::{Entry, EntryKind};
pub use error::{EntryProblem, Error, ErrorKind};
pub use fill::{FillEvent, FillLayer, FillPlan};
pub use layer_tree::Unsettled;
pub use mark::is_overlay_layer;
pub use merged::{MergedDir, MergedView, Node};
pub use metadata::{Mtime, Stats, Unkept};
pub use overlay::{OverlayLayers, mount_overlay};
pub use policy::{Limits, Owners, Policy};
pub use remove::remove_tree;
pub use root_dir::RootDir;
pub use scan::{EntryData, LayerVisitor, scan_layer};
pub use settle::settle;
pub use store::{LayerStore, ListedLayer, StoredLayer};
pub use tree_dump::tree_dump;
