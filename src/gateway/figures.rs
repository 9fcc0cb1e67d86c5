//! What the gateway has done, in figures.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::ids::TrunkId;

/// Counters of one gateway, since it was started.
#[derive(Debug, Default)]
pub struct Figures {
    /// Clients connected now.
    pub clients: AtomicUsize,
    /// Clients that were cut off because they did not read.
    pub cut: AtomicU64,
    /// Events those clients did not get.
    pub events_lost: AtomicU64,
    /// Calls sent on to Asterisk.
    pub passed: AtomicU64,
    /// Calls refused because a trunk holds.
    pub refused: AtomicU64,
    /// Calls refused because their trunk had no room.
    pub limited: AtomicU64,
    /// Sessions at Asterisk that stand now.
    pub upstream: AtomicUsize,
}

impl Figures {
    pub(super) fn passed(&self, trunk: &TrunkId) {
        let _ = trunk;
        self.passed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, trunk: &TrunkId) {
        let _ = trunk;
        self.refused.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn limited(&self, trunk: &TrunkId) {
        let _ = trunk;
        self.limited.fetch_add(1, Ordering::Relaxed);
    }
}
