//! Whole images, from the bytes of a source to the bytes of its layers.

mod compress;
mod content;
mod docker_archive;
mod layer_tar;
mod oci;
mod referrers;
mod refusals;
mod truncation;
