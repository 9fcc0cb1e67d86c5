//! 3. How a trunk is: a pure fold of observations.
//!
//! [`fold()`] takes what was known of a trunk and one observation, and gives what is known now. It reads no clock, holds
//! no channel and compiles without a runtime, so a history is a list of observations and a test reads like one
//! (`histories.rs`). Time passing is an observation too, [`Fact::Tick`](crate::observation::Fact::Tick).
//!
//! # Why the fold walks through its own due times
//! A state may be due to change at an instant at which nothing is seen: a recovery ends, a failure counts as confirmed.
//! Before a fact is taken in, the fold passes every such instant on the way, in order. So the same facts give the same
//! health whether somebody ticked every 250 ms or not at all; ticks only make it happen on time, and a replay needs
//! none of them.

pub mod fold;
#[cfg(test)]
mod histories;
pub mod policy;
pub mod state;

pub use fold::{due, fold};
pub use policy::{FlapPolicy, HealthPolicy, OnSuspect, OnUnknown, RegisteredWhen};
pub use state::{Health, Reason, Standing, TrunkHealth, View};
