//! The operator's file and the environment, turned into each room's own parameter struct.
