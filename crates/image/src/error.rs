//! Why an image cannot be read.

use std::path::PathBuf;

/// Why an image cannot be read. Each names what and where.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source is not there or cannot be opened: the user's mistake (exit 2).
    #[error("cannot open `{path}`")]
    Open {
        /// What was asked for.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}
