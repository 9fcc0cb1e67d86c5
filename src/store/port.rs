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
    /// The URL names a store that a later version brings.
    #[error("{scheme} is not supported yet: use sqlite:FILE")]
    NotYet {
        /// What was asked for.
        scheme: String,
    },
    /// The directory it is to be in is not there.
    #[error("{place}: there is no such directory; make it, owned by the user that runs the controller")]
    NoDirectory {
        /// The directory.
        place: String,
    },
    /// The file can be neither made nor written.
    #[error("{place} cannot be written; check the owner and mode of the file and its directory")]
    Unwritable {
        /// The file.
        place: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Another controller has it open.
    #[error("{place} is in use by another controller; stop that one, or give this one a file of its own")]
    InUse {
        /// The file.
        place: String,
    },
    /// It holds something else.
    #[error("{place} is no store of this program, or its beginning is damaged; it is left as it is, name another file")]
    Foreign {
        /// The file.
        place: String,
    },
    /// It is damaged.
    #[error("{place} is damaged; move it and its -wal file away and put a backup in their place, or start without one")]
    Damaged {
        /// The file.
        place: String,
        /// What was found.
        #[source]
        source: sqlx::Error,
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
    /// A newer version of this program wrote it.
    #[error("{place} was written by a newer version (schema {version}, this one knows {known}); run that version")]
    Newer {
        /// Where.
        place: String,
        /// The first of its migrations that is not known here.
        version: i64,
        /// The newest one that is.
        known: i64,
    },
    /// Its schema could not be brought up to date.
    #[error("the schema of {place} could not be brought up to date")]
    Migrate {
        /// Where.
        place: String,
        /// Why.
        #[source]
        source: sqlx::migrate::MigrateError,
    },
    /// A statement failed.
    #[error("the store failed at {step}")]
    Statement {
        /// At what.
        step: &'static str,
        /// Why.
        #[source]
        source: sqlx::Error,
    },
    /// A value cannot be written down.
    #[error("{what} cannot be stored")]
    Unstorable {
        /// Which value.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
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
    /// Whether the same call may succeed later without anybody changing the configuration or the file.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Open { source, .. } | Self::Statement { source, .. } => passes(source),
            Self::InUse { .. } => true,
            Self::Url { .. }
            | Self::NotYet { .. }
            | Self::NoDirectory { .. }
            | Self::Unwritable { .. }
            | Self::Foreign { .. }
            | Self::Damaged { .. }
            | Self::Newer { .. }
            | Self::Migrate { .. }
            | Self::Unstorable { .. }
            | Self::Corrupt { .. } => false,
        }
    }
}

/// A full disk, a lock, a pool too busy pass; a statement the schema refuses is refused again.
fn passes(source: &sqlx::Error) -> bool {
    match sqlite_code(source) {
        // BUSY, LOCKED, NOMEM, READONLY, INTERRUPT, IOERR, FULL, CANTOPEN, PROTOCOL of SQLite's result codes.
        Some(code) => matches!(code, 5 | 6 | 7 | 8 | 9 | 10 | 13 | 14 | 15),
        None => matches!(source, sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed),
    }
}

/// SQLite's primary result code (<https://www.sqlite.org/rescode.html>); the extended one has it in its lowest byte.
pub(crate) fn sqlite_code(source: &sqlx::Error) -> Option<u32> {
    let error = source.as_database_error()?.try_downcast_ref::<sqlx::sqlite::SqliteError>()?;
    let extended: u32 = sqlx::error::DatabaseError::code(error)?.parse().ok()?;
    Some(extended & 0xff)
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
/// never split, by equal outcomes; messages to one recipient about one campaign (or to one recipient, without a
/// campaign) are leased in the order they were committed, the next only once the one before is settled; a lease that is
/// not settled ends by itself, so that a crashed dispatcher's message is sent again.
///
/// Precision: times that people query by (entries, messages, journal rows) are kept to the millisecond; the board, holds
/// and incidents to the nanosecond.
///
/// Cancel safety: a call whose future is dropped has happened whole or not at all.
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

    /// Notes a failed attempt: counts it, keeps the error, ends the lease, and sets when the next is due. A message that
    /// was settled meanwhile stays so.
    fn postpone<'a>(
        &'a self,
        message: &'a MessageId,
        next_at: Timestamp,
        error: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>>;

    /// When the next message can be leased: due, the first of its lane, its lease over. `None` when nothing is pending.
    fn next_due(&self) -> BoxFuture<'_, Result<Option<Timestamp>, StoreError>>;

    /// The outbox, newest first. `next_at` is `None` once nothing is due any more.
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

    /// Deletes what is older than `retention` allows, but never a pending message, an active hold, an open incident, or
    /// an entry that was still current when the retention begins, let alone the newest of its series. Returns how many
    /// rows went. It works in small transactions, so that a commit waits for one of them at most.
    fn prune(&self, now: Timestamp, retention: Retention) -> BoxFuture<'_, Result<u64, StoreError>>;

    /// Closes it, once everything under way has ended.
    fn close(&self) -> BoxFuture<'_, ()>;
}
