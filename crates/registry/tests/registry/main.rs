//! The publisher against a real registry, against a scripted one, and against layouts on disk.

mod docker_registry;
mod faults;
mod images;
mod layouts;
mod real;
mod scripted;
mod tokens;
