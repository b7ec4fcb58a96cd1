//! Reports of a run. They read events and the receipt; none can change a verdict.

pub(crate) mod cases;
pub(crate) mod details;
pub(crate) mod doctor;
pub(crate) mod files;
pub(crate) mod github;
pub(crate) mod html;
pub(crate) mod junit;
pub(crate) mod log_groups;
pub(crate) mod progress;
pub(crate) mod publishing;
pub(crate) mod sarif;
pub(crate) mod summary;
pub(crate) mod yaml;
