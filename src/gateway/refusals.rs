//! How many calls were refused on which trunk, until the deciding loop asks.

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use crate::ids::TrunkId;

/// Counts refused calls; clones are the same one.
#[derive(Debug, Clone, Default)]
pub struct Refusals(Arc<Mutex<BTreeMap<TrunkId, u64>>>);

impl Refusals {
    /// One call on `trunk` was refused because it holds.
    pub fn count(&self, trunk: &TrunkId) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match counts.get_mut(trunk) {
            Some(count) => *count += 1,
            None => {
                counts.insert(trunk.clone(), 1);
            }
        }
    }

    /// What was counted since the last time this was asked.
    #[must_use]
    pub fn take(&self) -> BTreeMap<TrunkId, u64> {
        mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
