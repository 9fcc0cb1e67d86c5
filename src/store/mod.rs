//! What must survive a restart, behind ports; `sqlite/` implements them.

pub mod sqlite;
