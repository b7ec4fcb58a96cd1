//! The command line: usage errors, help, inspect, cache.
