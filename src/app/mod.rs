//! The composition root: what is started, in which order, and stopped again.

pub mod replay;
pub mod steps;
