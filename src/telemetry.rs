//! Tracing: how the log is written.
