//! The composition root: what is started, in which order, and stopped again.

pub mod controller;
mod outbox;
pub mod pbx;
pub mod replay;
pub mod steps;

pub use controller::{Controller, Parameters};
