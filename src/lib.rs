//! Trunkwarden: no campaign dials into a dead trunk, and every failed registration comes with its cause and the proof.
//!
//! The flow has one direction, and the rooms stand in its order:
//!
//! ```text
//! bytes -> wire -> observation -> health -> decision -> effect
//!                                   store and api at the sides
//! ```
//!
//! | room | answers |
//! |---|---|
//! | [`ids`], [`clock`] | what things are called; what time it is |
//! | [`wire`] | which protocol values these bytes are |
//! | [`observation`] | which facts about which trunk these values are |
//! | [`health`] | how the trunk is, given what was seen |
//! | [`diagnosis`] | why a registration fails, what proves it, what mends it |
//! | [`decision`] | what is held, paused, resumed; what the gate says |
//! | [`effect`] | how a decision reaches a dialer, at least once and in order |
//! | [`gateway`] | which calls pass to Asterisk |
//! | [`store`] | what survives a restart, and what history can be asked |
//! | [`api`], [`cli`] | how people and programs ask |
//! | [`config`], [`telemetry`], [`app`] | how it is set up, what it logs, how it starts and stops |
//! | [`sim`] | a PBX, a provider and a dialer for the demo and the tests |
//!
//! Who may import whom is DESIGN's table, kept by `tests/it/architecture.rs`.

pub mod api;
pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decision;
pub mod diagnosis;
pub mod effect;
pub mod gateway;
pub mod health;
pub mod ids;
pub mod observation;
pub mod sim;
pub mod store;
pub mod telemetry;
pub mod wire;
