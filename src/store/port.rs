//! The port every back end implements.

use std::{fmt::Debug, time::Duration};

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use super::history::{At, Availability, HistoryQuery, Page};
use crate::{
    clock::Timestamp,
    decision::{Board, Hold, Incident, Message, Outcome},
    health::RegisteredWhen,
    ids::{MessageId, TrunkId},
};

/// Why the store could not.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The URL names no store we know.
    #[error("{url:?} is no store: use sqlite:FILE")]
    Url {
        /// The URL, without a password.
        url: String,
    },
    /// It could not be opened.
    #[error("the store at {place} could not be opened")]
    Open {
        /// Where.
        place: String,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// Its schema could not be brought up to date, or is newer than this program.
    #[error("the store's schema could not be brought up to date")]
    Migrate(#[source] sqlx::migrate::MigrateError),
    /// A statement failed.
    #[error("the store failed at {step}")]
    Statement {
        /// At what.
        step: &'static str,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// A stored value cannot be read back.
    #[error("{what} in the store cannot be read")]
    Corrupt {
        /// Which value.
        what: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl StoreError {
    /// Whether trying again later may help.
    #[must_use]
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Open { .. } | Self::Statement { .. } => true,
            Self::Url { .. } | Self::Migrate(_) | Self::Corrupt { .. } => false,
        }
    }
}

/// What a controller that starts goes on from.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Restored {
    /// The board as it was last committed.
    pub board: Board,
    /// When the last run last wrote that it is alive; `None` on the first start.
    pub last_alive: Option<Timestamp>,
}

/// An outbox item's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutboxState {
    /// To be sent, or sent again.
    Pending,
    /// Taken by its recipient.
    Delivered,
    /// Given up.
    Abandoned,
}

impl OutboxState {
    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Abandoned => "abandoned",
        }
    }
}

/// An outbox item as people see it.
#[derive(Debug, Clone, PartialEq)]
pub struct OutboxItem {
    /// The message.
    pub message: Message,
    /// Its state.
    pub state: OutboxState,
    /// Attempts so far.
    pub attempts: u32,
    /// When the next one is due.
    pub next_at: Option<Timestamp>,
    /// Why the last one failed.
    pub last_error: Option<String>,
}

/// A message leased to a dispatcher for one attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct Leased {
    /// The message.
    pub message: Message,
    /// Attempts before this one.
    pub attempts: u32,
}

/// A journal row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JournalRow {
    /// Its place in the journal.
    pub seq: i64,
    /// When.
    pub at: Timestamp,
    /// `input`, `start`, or an event's type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The input, the board and policy at a start, or the event's data.
    pub body: serde_json::Value,
}

/// How long what is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// History entries, ended holds and settled outbox items.
    pub history: Duration,
    /// The journal.
    pub journal: Duration,
}

/// The port.
///
/// Guarantees every back end gives: a commit is whole or not at all, and durable once it returned; runs are extended,
/// never split, by equal outcomes; messages about one campaign (or to one recipient, without a campaign) are leased in
/// the order they were committed, the next only once the one before is settled; a lease that is not settled ends by
/// itself, so that a crashed dispatcher's message is sent again.
pub trait Store: Send + Sync + Debug {
    /// What the last run left: trunks, active holds, campaigns, open incidents.
    fn load(&self) -> BoxFuture<'_, Result<Restored, StoreError>>;

    /// Commits outcomes, in order, in one transaction; `alive` is noted as the time this controller was last alive.
    fn commit<'a>(&'a self, outcomes: &'a [Outcome], alive: Timestamp) -> BoxFuture<'a, Result<(), StoreError>>;

    /// Appends a journal row of its own, such as the `start` row a replay begins at. Returns its place.
    fn journal_append<'a>(
        &'a self,
        at: Timestamp,
        kind: &'a str,
        body: serde_json::Value,
    ) -> BoxFuture<'a, Result<i64, StoreError>>;

    /// The journal after `after`, oldest first.
    fn journal(&self, after: i64, limit: u32) -> BoxFuture<'_, Result<Vec<JournalRow>, StoreError>>;

    /// Leases messages that are due, each until `now + lease`.
    fn lease_due(&self, now: Timestamp, limit: u32, lease: Duration) -> BoxFuture<'_, Result<Vec<Leased>, StoreError>>;

    /// Notes a failed attempt: counts it, keeps the error, and sets when the next is due.
    fn postpone<'a>(
        &'a self,
        message: &'a MessageId,
        next_at: Timestamp,
        error: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// When the next message is due; `None` when nothing is pending.
    fn next_due(&self) -> BoxFuture<'_, Result<Option<Timestamp>, StoreError>>;

    /// The outbox, newest first.
    fn outbox(&self, state: Option<OutboxState>, limit: u32) -> BoxFuture<'_, Result<Vec<OutboxItem>, StoreError>>;

    /// Holds, newest first: the active ones, the ended ones, or both.
    fn holds(&self, active: Option<bool>, limit: u32) -> BoxFuture<'_, Result<Vec<Hold>, StoreError>>;

    /// Incidents, newest first.
    fn incidents(&self, limit: u32) -> BoxFuture<'_, Result<Vec<Incident>, StoreError>>;

    /// A page of a trunk's history.
    fn history<'a>(&'a self, query: &'a HistoryQuery) -> BoxFuture<'a, Result<Page, StoreError>>;

    /// A trunk as it was.
    fn at<'a>(&'a self, trunk: &'a TrunkId, time: Timestamp) -> BoxFuture<'a, Result<At, StoreError>>;

    /// A trunk's availability in a span; `registered_when` says what several registrations mean.
    fn availability<'a>(
        &'a self,
        trunk: &'a TrunkId,
        since: Timestamp,
        until: Timestamp,
        registered_when: RegisteredWhen,
    ) -> BoxFuture<'a, Result<Availability, StoreError>>;

    /// Deletes what is older than `retention` allows, but never a pending message, an active hold, or the newest entry
    /// of a run. Returns how many rows went.
    fn prune(&self, now: Timestamp, retention: Retention) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Closes it, once everything under way has ended.
    fn close(&self) -> BoxFuture<'_, ()>;
}
