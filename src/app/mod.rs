//! The composition root: what is started, in which order, and stopped again.

pub mod check;
pub mod check_gateway;
pub mod configuration;
pub mod controller;
pub mod demo;
pub mod evidence;
mod outbox;
pub mod parameters;
pub mod pbx;
pub mod replay;
pub mod run;
pub mod steps;

pub use controller::{Controller, Parameters};
