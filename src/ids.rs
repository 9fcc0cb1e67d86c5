//! The names everything else is keyed by.
