//! What needs no privilege.

mod apply;
mod hostile;
mod model;
mod remove;
mod settle;
mod store;
