//! What must hold for any bytes, one module a target. The fuzz targets and the replay of their corpora in
//! crates/rootfs/tests run the same functions.

pub mod archive;
pub mod config;
pub mod layer;
pub mod manifest;
mod tar;
