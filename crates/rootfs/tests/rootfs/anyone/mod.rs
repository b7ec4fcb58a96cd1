//! What needs no privilege.

mod apply;
mod hostile;
mod hostile_fixtures;
mod model;
mod remove;
mod settle;
mod store;
