//! The gate: the answer to "may I dial on this trunk now?", from memory, for whoever asks.
//!
//! It is split in two: [`GateTx`] is held by the one loop that decides, [`Gate`] by everybody who asks. Those who ask
//! see answers, never the reasons' machinery. A trunk nobody has said anything about holds: a gate that does not know
//! must not wave calls through.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use serde::{Deserialize, Serialize};

use crate::{clock::Timestamp, health::Health, ids::TrunkId};

/// The gate's answer for one trunk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GateState {
    /// Whether a call may be originated.
    pub allow: bool,
    /// Why, in words a person can act on.
    pub reason: String,
    /// Since when the answer is this one.
    pub since: Timestamp,
    /// The trunk's health.
    pub health: Health,
    /// When the answer may change by itself (a recovery, an override, a hold with an end), as far as is known.
    pub until: Option<Timestamp>,
}

/// The asking side.
#[derive(Debug, Clone, Default)]
pub struct Gate(Arc<RwLock<HashMap<TrunkId, GateState>>>);

impl Gate {
    /// What is said of `trunk`; `None` for one never heard of, which holds.
    #[must_use]
    pub fn state(&self, trunk: &TrunkId) -> Option<GateState> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(trunk).cloned()
    }

    /// The two sides of a new gate.
    #[must_use]
    pub fn new() -> (GateTx, Self) {
        let gate = Self::default();
        (GateTx(gate.clone()), gate)
    }
}

/// The deciding side; there is one.
#[derive(Debug)]
pub struct GateTx(Gate);

impl GateTx {
    /// Publishes those of `changes` that hold: to be called before anything is awaited.
    pub fn close(&self, changes: &[(TrunkId, GateState)]) {
        self.publish(changes.iter().filter(|(_, state)| !state.allow));
    }

    /// Publishes those of `changes` that allow: to be called once the store has them.
    pub fn open(&self, changes: &[(TrunkId, GateState)]) {
        self.publish(changes.iter().filter(|(_, state)| state.allow));
    }

    fn publish<'a>(&self, changes: impl Iterator<Item = &'a (TrunkId, GateState)>) {
        let mut changes = changes.peekable();
        if changes.peek().is_none() {
            return;
        }
        let mut states = self.0.0.write().unwrap_or_else(PoisonError::into_inner);
        for (trunk, state) in changes {
            states.insert(trunk.clone(), state.clone());
        }
    }
}
