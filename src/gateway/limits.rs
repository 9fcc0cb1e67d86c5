//! How many calls at once, and how many a second, a trunk takes.

use std::{sync::Arc, time::Duration};

use super::settings::Limits;
use crate::{clock::Timestamp, ids::TrunkId};

/// Hands out room on trunks; clones are the same one.
#[derive(Debug, Clone)]
pub struct Limiter(Arc<Limits>);

/// Room that was given: to be told what became of the call.
#[derive(Debug)]
#[must_use]
pub struct Ticket(());

/// There is no room.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("trunk {trunk} takes no more now: {why}")]
pub struct NoRoom {
    /// Which trunk.
    pub trunk: TrunkId,
    /// Which limit, in words.
    pub why: String,
    /// When to ask again at the earliest.
    pub retry_after: Duration,
    /// How long the call may wait in all; `None`: it may not.
    pub patience: Option<Duration>,
}

impl Limiter {
    /// A limiter for these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self(Arc::new(limits))
    }

    /// Takes room on all of `trunks`, or on none. `released` says when the last hold on a trunk ended.
    ///
    /// # Errors
    /// [`NoRoom`], naming the first trunk without.
    pub fn take(
        &self,
        trunks: &[TrunkId],
        released: impl Fn(&TrunkId) -> Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Ticket, NoRoom> {
        let _ = (trunks, released, now, &self.0);
        Ok(Ticket(()))
    }
}

impl Limiter {
    /// x
    pub fn set(&self, limits: Limits) {
        let _ = limits;
    }
    /// x
    pub async fn changed(&self) {
        std::future::pending().await
    }
}

impl Ticket {
    /// The call never came to be: its room is free again.
    pub fn failed(self) {}
}
