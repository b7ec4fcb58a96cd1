//! From an archive to a registry.
