//! The store in one SQLite file.
//!
//! - `open.rs`: the file, its connections, its schema.
//! - `commit.rs`: one step in one transaction; `load` is its other half.
//! - `outbox.rs`: leases.
//! - `query.rs`: what people ask.
//! - `prune.rs`: retention.
//!
//! # Why one writer and some readers
//! SQLite lets one connection write at a time. With a single writing connection nobody ever waits for a lock inside
//! this process, and in write-ahead mode readers neither wait for it nor hold it up: a report over a year of history
//! does not delay a pause.
//!
//! # Why `synchronous = full`
//! A commit returns once the disk has it. With the weaker setting a power cut could lose the last commits whole: a pause
//! that was sent, and taken by the dialer, would be forgotten, and the campaign would stay paused for good.

use std::{fs::File, sync::Mutex, time::Duration};

use futures_util::future::BoxFuture;
use sqlx::SqlitePool;

use super::{
    history::{At, Availability, HistoryQuery, Page},
    port::{JournalRow, Leased, OutboxItem, OutboxState, Restored, Retention, Store, StoreError, sqlite_code},
};
use crate::{
    clock::Timestamp,
    decision::{Hold, Incident, Outcome},
    health::RegisteredWhen,
    ids::{MessageId, TrunkId},
};

mod commit;
mod open;
mod outbox;
mod prune;
mod query;
mod value;

pub use open::{Migrated, Place};

/// The store in one SQLite file.
#[derive(Debug)]
pub struct SqliteStore {
    /// For errors: where it is.
    place: String,
    /// The one connection that writes.
    writer: SqlitePool,
    /// Those that only read.
    readers: SqlitePool,
    /// What the deciding loop remembers between commits. Held over a commit, so that commits are one after the other.
    memory: tokio::sync::Mutex<commit::Memory>,
    /// Keeps a second controller out, until the store is closed.
    lock: Mutex<Option<File>>,
    /// What opening did to the schema.
    migrated: Migrated,
}

impl SqliteStore {
    /// What opening did to the schema.
    #[must_use]
    pub const fn migrated(&self) -> Migrated {
        self.migrated
    }

    /// Says which file is damaged, where a statement found that out.
    fn found<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        match result {
            Err(StoreError::Statement { source, .. }) if is_damage(&source) => {
                Err(StoreError::Damaged { place: self.place.clone(), source })
            }
            other => other,
        }
    }
}

/// CORRUPT and NOTADB of SQLite's result codes.
fn is_damage(source: &sqlx::Error) -> bool {
    matches!(sqlite_code(source), Some(11 | 26))
}

impl Store for SqliteStore {
    fn load(&self) -> BoxFuture<'_, Result<Restored, StoreError>> {
        Box::pin(async move { self.found(self.read_board().await) })
    }

    fn commit<'a>(&'a self, outcomes: &'a [Outcome], alive: Timestamp) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.found(self.write(outcomes, alive).await) })
    }

    fn journal_append<'a>(
        &'a self,
        at: Timestamp,
        kind: &'a str,
        body: serde_json::Value,
    ) -> BoxFuture<'a, Result<i64, StoreError>> {
        Box::pin(async move { self.found(self.append(at, kind, &body).await) })
    }

    fn journal(&self, after: i64, limit: u32) -> BoxFuture<'_, Result<Vec<JournalRow>, StoreError>> {
        Box::pin(async move { self.found(self.read_journal(after, limit).await) })
    }

    fn lease_due(&self, now: Timestamp, limit: u32, lease: Duration) -> BoxFuture<'_, Result<Vec<Leased>, StoreError>> {
        Box::pin(async move { self.found(self.lease(now, limit, lease).await) })
    }

    fn postpone<'a>(
        &'a self,
        message: &'a MessageId,
        next_at: Timestamp,
        error: &'a str,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.found(self.put_off(message, next_at, error).await) })
    }

    fn next_due(&self) -> BoxFuture<'_, Result<Option<Timestamp>, StoreError>> {
        Box::pin(async move { self.found(self.earliest_due().await) })
    }

    fn outbox(&self, state: Option<OutboxState>, limit: u32) -> BoxFuture<'_, Result<Vec<OutboxItem>, StoreError>> {
        Box::pin(async move { self.found(self.read_outbox(state, limit).await) })
    }

    fn holds(&self, active: Option<bool>, limit: u32) -> BoxFuture<'_, Result<Vec<Hold>, StoreError>> {
        Box::pin(async move { self.found(self.read_holds(active, limit).await) })
    }

    fn incidents(&self, limit: u32) -> BoxFuture<'_, Result<Vec<Incident>, StoreError>> {
        Box::pin(async move { self.found(self.read_incidents(limit).await) })
    }

    fn history<'a>(&'a self, query: &'a HistoryQuery) -> BoxFuture<'a, Result<Page, StoreError>> {
        Box::pin(async move { self.found(self.read_history(query).await) })
    }

    fn at<'a>(&'a self, trunk: &'a TrunkId, time: Timestamp) -> BoxFuture<'a, Result<At, StoreError>> {
        Box::pin(async move { self.found(self.read_at(trunk, time).await) })
    }

    fn availability<'a>(
        &'a self,
        trunk: &'a TrunkId,
        since: Timestamp,
        until: Timestamp,
        registered_when: RegisteredWhen,
    ) -> BoxFuture<'a, Result<Availability, StoreError>> {
        Box::pin(async move { self.found(self.tally(trunk, since, until, registered_when).await) })
    }

    fn prune(&self, now: Timestamp, retention: Retention) -> BoxFuture<'_, Result<u64, StoreError>> {
        Box::pin(async move { self.found(self.delete_old(now, retention).await) })
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.shut())
    }
}
