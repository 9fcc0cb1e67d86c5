//! What the dispatcher needs of a store, and no more.
//!
//! It is this room's own port because `effect` does not see `store`: `app` sees both and joins them. The promises are
//! those of the store's port, repeated where the dispatcher rests on them.

use std::{error::Error, fmt::Debug, time::Duration};

use futures_util::future::BoxFuture;

use crate::{clock::Timestamp, decision::Message, ids::MessageId};

/// The store failed.
#[derive(Debug, thiserror::Error)]
#[error("the outbox failed at {step}")]
pub struct OutboxError {
    /// At what.
    pub step: &'static str,
    /// Why.
    #[source]
    pub source: Box<dyn Error + Send + Sync>,
}

/// A message leased for one attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Leased {
    /// The message.
    pub message: Message,
    /// Attempts before this one.
    pub attempts: u32,
}

/// The outbox, as the dispatcher sees it.
///
/// Assumptions on whoever implements it: messages about one campaign (or to one recipient, without a campaign) are
/// leased in the order they were committed, the next only once the one before is settled; a leased message is not
/// leased again before its lease ends; a lease that is neither settled nor postponed ends by itself; postponing a
/// settled message changes nothing.
pub trait Outbox: Send + Sync + Debug {
    /// Leases up to `limit` messages that are due, each until `now + lease`.
    fn lease_due(&self, now: Timestamp, limit: u32, lease: Duration)
    -> BoxFuture<'_, Result<Vec<Leased>, OutboxError>>;

    /// Notes a failed attempt: counts it, keeps the error, ends the lease, and sets when the next is due.
    fn postpone<'a>(
        &'a self,
        message: &'a MessageId,
        next_at: Timestamp,
        error: &'a str,
    ) -> BoxFuture<'a, Result<(), OutboxError>>;

    /// When the next message is due; `None` when nothing is pending.
    fn next_due(&self) -> BoxFuture<'_, Result<Option<Timestamp>, OutboxError>>;
}
