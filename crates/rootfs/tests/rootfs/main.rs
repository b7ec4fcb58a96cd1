//! Layers built in code, applied, settled, stored and joined on a real filesystem.
//!
//! Everything in `anyone` also runs as an ordinary user and as the only user of a user namespace.

mod anyone;
mod corpus;
mod hostile_fixture;
mod layer;
mod mounted;
mod users;
