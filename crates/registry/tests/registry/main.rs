//! The publisher against a real registry, against a scripted one, and against layouts on disk.

mod docker_registry;
mod ecr;
mod ecr_credentials;
mod faults;
mod ferro;
mod images;
mod layouts;
mod moto;
mod pull;
mod real;
mod referrers;
mod schedules;
mod scripted;
mod tag_moves;
mod tokens;
