//! The gate: the answer to "may I dial on this trunk now?", from memory, for whoever asks.
//!
//! It is split in two: [`GateTx`] is held by the one loop that decides, [`Gate`] by everybody who asks. Those who ask
//! see answers, never the reasons' machinery. A trunk nobody has said anything about holds: a gate that does not know
//! must not wave calls through.

use std::{
    collections::{BTreeMap, HashMap},
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
pub struct Gate(Arc<RwLock<HashMap<TrunkId, Published>>>);

#[derive(Debug)]
struct Published {
    state: GateState,
    /// The step it comes from.
    step: u64,
}

impl Gate {
    /// What is said of `trunk`; `None` for one never heard of, which holds.
    #[must_use]
    pub fn state(&self, trunk: &TrunkId) -> Option<GateState> {
        let states = self.0.read().unwrap_or_else(PoisonError::into_inner);
        states.get(trunk).map(|published| published.state.clone())
    }

    /// The two sides of a new gate.
    #[must_use]
    pub fn new() -> (GateTx, Self) {
        let gate = Self::default();
        (GateTx(gate.clone()), gate)
    }
}

/// The deciding side. Its clones serve one decider: steps are numbered, and what an earlier step says never replaces
/// what a later one said. So an opening that waited for the store cannot undo a closing that did not wait.
#[derive(Debug, Clone)]
pub struct GateTx(Gate);

impl GateTx {
    /// Publishes those of `changes` that hold: to be called before anything is awaited.
    pub fn close(&self, step: u64, changes: &BTreeMap<TrunkId, GateState>) {
        self.publish(step, changes.iter().filter(|&(_, state)| !state.allow));
    }

    /// Publishes those of `changes` that allow: to be called once the store has them.
    pub fn open(&self, step: u64, changes: &BTreeMap<TrunkId, GateState>) {
        self.publish(step, changes.iter().filter(|&(_, state)| state.allow));
    }

    /// Forgets the answers for `trunks`: they hold, like any trunk nobody knows.
    pub fn forget<'a>(&self, trunks: impl Iterator<Item = &'a TrunkId>) {
        let mut trunks = trunks.peekable();
        if trunks.peek().is_some() {
            let mut states = self.0.0.write().unwrap_or_else(PoisonError::into_inner);
            for trunk in trunks {
                states.remove(trunk);
            }
        }
    }

    /// Forgets every answer, so that all hold: nobody decides any more.
    pub fn shut(&self) {
        self.0.0.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn publish<'a>(&self, step: u64, changes: impl Iterator<Item = (&'a TrunkId, &'a GateState)>) {
        let mut changes = changes.peekable();
        if changes.peek().is_none() {
            return;
        }
        let mut states = self.0.0.write().unwrap_or_else(PoisonError::into_inner);
        for (trunk, state) in changes {
            match states.get_mut(trunk) {
                Some(known) if known.step > step => {}
                Some(known) => *known = Published { state: state.clone(), step },
                None => {
                    states.insert(trunk.clone(), Published { state: state.clone(), step });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(allow: bool) -> GateState {
        let since = Timestamp::UNIX_EPOCH;
        GateState { allow, reason: String::new(), since, health: Health::Stable, until: None }
    }

    #[test]
    fn an_opening_that_waited_for_the_store_does_not_undo_a_later_closing() {
        let (tx, gate) = Gate::new();
        let trunk = TrunkId::try_from("pbx1/airtel").unwrap();
        let (opened, closed) = ([(trunk.clone(), state(true))].into(), [(trunk.clone(), state(false))].into());
        tx.open(1, &opened);
        assert!(gate.state(&trunk).unwrap().allow);
        tx.close(3, &closed);
        tx.open(2, &opened);
        assert!(!gate.state(&trunk).unwrap().allow, "step 2's commit ended after step 3 closed");
        tx.open(4, &opened);
        assert!(gate.state(&trunk).unwrap().allow);
    }

    #[test]
    fn each_side_publishes_only_its_own_half() {
        let (tx, gate) = Gate::new();
        let trunk = TrunkId::try_from("pbx1/airtel").unwrap();
        tx.close(1, &[(trunk.clone(), state(true))].into());
        assert_eq!(gate.state(&trunk), None);
        tx.open(1, &[(trunk.clone(), state(false))].into());
        assert_eq!(gate.state(&trunk), None);
    }
}
