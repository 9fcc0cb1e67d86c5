//! What the gateway has done, in figures: for whoever holds it, and for the metrics.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::ids::TrunkId;

/// Counters of one gateway, since it was started.
#[derive(Debug, Default)]
pub struct Figures {
    clients: AtomicUsize,
    cut: AtomicU64,
    events_lost: AtomicU64,
    passed: AtomicU64,
    refused: AtomicU64,
}

impl Figures {
    /// Clients that are logged in now.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }

    /// Clients that were cut off because they did not read.
    #[must_use]
    pub fn cut(&self) -> u64 {
        self.cut.load(Ordering::Relaxed)
    }

    /// Messages those clients did not get.
    #[must_use]
    pub fn events_lost(&self) -> u64 {
        self.events_lost.load(Ordering::Relaxed)
    }

    /// Calls sent on to Asterisk.
    #[must_use]
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Calls refused because their trunk holds.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    pub(super) fn client_came(&self) {
        self.clients.fetch_add(1, Ordering::Relaxed);
        metrics::gauge!("trunkwarden_gateway_clients").increment(1.0);
    }

    pub(super) fn client_left(&self) {
        self.clients.fetch_sub(1, Ordering::Relaxed);
        metrics::gauge!("trunkwarden_gateway_clients").decrement(1.0);
    }

    pub(super) fn client_cut(&self, lost: u64) {
        self.cut.fetch_add(1, Ordering::Relaxed);
        self.events_lost.fetch_add(lost, Ordering::Relaxed);
        metrics::counter!("trunkwarden_gateway_clients_cut_total").increment(1);
        metrics::counter!("trunkwarden_gateway_events_lost_total").increment(lost);
    }

    pub(super) fn asterisk_is(&self, reached: bool) {
        metrics::gauge!("trunkwarden_gateway_upstream_up").set(if reached { 1.0 } else { 0.0 });
    }

    pub(super) fn call_passed(&self, trunks: &[TrunkId]) {
        self.passed.fetch_add(1, Ordering::Relaxed);
        for trunk in trunks {
            originate(trunk.as_str(), "passed");
        }
        if trunks.is_empty() {
            originate("", "passed");
        }
    }

    pub(super) fn call_refused(&self, trunk: &TrunkId) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        originate(trunk.as_str(), "refused");
    }

    pub(super) fn call_limited(&self, trunk: &TrunkId) {
        originate(trunk.as_str(), "limited");
    }

    /// Asterisk was away.
    pub(super) fn call_lost(&self) {
        originate("", "away");
    }

    pub(super) fn action(&self, outcome: &'static str) {
        metrics::counter!("trunkwarden_gateway_actions_total", "outcome" => outcome).increment(1);
    }
}

/// `trunk` is empty for a call that goes out on none, or is not known to.
fn originate(trunk: &str, outcome: &'static str) {
    metrics::counter!("trunkwarden_gateway_originates_total", "trunk" => trunk.to_owned(), "outcome" => outcome)
        .increment(1);
}
