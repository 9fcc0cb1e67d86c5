//! Retention.
//!
//! Rows go in batches of their own transactions: a commit waits for one batch at most, and the write-ahead log stays
//! small. The file does not shrink; its free pages are used again.

use sqlx::Executor;

use super::{
    SqliteStore,
    value::{Step, ms},
};
use crate::{
    clock::{Timestamp, before},
    store::{Retention, StoreError},
};

/// Rows in one transaction.
const BATCH: i64 = 1_000;

impl SqliteStore {
    pub(super) async fn delete_old(&self, now: Timestamp, retention: Retention) -> Result<u64, StoreError> {
        let history_ms = ms(before(now, retention.history));
        let journal_ms = ms(before(now, retention.journal));
        let mut gone = self.delete_old_entries(history_ms).await?;
        gone += self
            .delete_batches(
                "pruning holds",
                "delete from hold where hold_id in (select hold_id from hold where released_ms < ? limit ?)",
                history_ms,
            )
            .await?;
        gone += self
            .delete_batches(
                "pruning incidents",
                "delete from incident where incident_id in (select incident_id from incident where ended_ms < ? limit ?)",
                history_ms,
            )
            .await?;
        gone += self
            .delete_batches(
                "pruning the outbox",
                "delete from outbox where outbox_id in (
                     select outbox_id from outbox where state <> 'pending' and settled_ms < ? limit ?)",
                history_ms,
            )
            .await?;
        gone += self.delete_old_journal(journal_ms).await?;
        Ok(gone)
    }

    /// A series keeps the run that was current at `until_ms`, which says what the trunk was then, and all after it.
    async fn delete_old_entries(&self, until_ms: i64) -> Result<u64, StoreError> {
        const STEP: &str = "pruning history";
        let series: Vec<i64> =
            sqlx::query_scalar("select series_id from series").fetch_all(&self.readers).await.step(STEP)?;
        let mut gone = 0;
        for series_id in series {
            let current: Option<i64> = sqlx::query_scalar(
                "select entry_id from entry where series_id = ? and first_at_ms <= ?
                 order by first_at_ms desc, entry_id desc limit 1",
            )
            .bind(series_id)
            .bind(until_ms)
            .fetch_optional(&self.readers)
            .await
            .step(STEP)?;
            let Some(current) = current else { continue };
            loop {
                let query = sqlx::query(
                    "delete from entry where entry_id in (
                         select entry_id from entry where series_id = ? and entry_id < ? order by entry_id limit ?)",
                )
                .bind(series_id)
                .bind(current)
                .bind(BATCH);
                // An empty batch is found without waiting for the disk: nothing is written.
                let rows = self.writer.execute(query).await.step(STEP)?.rows_affected();
                gone += rows;
                if rows < BATCH.unsigned_abs() {
                    break;
                }
            }
        }
        Ok(gone)
    }

    async fn delete_batches(&self, step: &'static str, sql: &'static str, until_ms: i64) -> Result<u64, StoreError> {
        let mut gone = 0;
        loop {
            let query = sqlx::query(sql).bind(until_ms).bind(BATCH);
            let rows = self.writer.execute(query).await.step(step)?.rows_affected();
            gone += rows;
            if rows < BATCH.unsigned_abs() {
                return Ok(gone);
            }
        }
    }

    /// The journal is in order of writing, which is nearly that of time, so it needs no index on time: it is walked from
    /// its oldest row to the first batch that has nothing old in it.
    async fn delete_old_journal(&self, until_ms: i64) -> Result<u64, StoreError> {
        const STEP: &str = "pruning the journal";
        let (mut gone, mut after) = (0, 0);
        loop {
            let last: Option<i64> = sqlx::query_scalar(
                "select max(journal_id) from (
                     select journal_id from journal where journal_id > ? order by journal_id limit ?)",
            )
            .bind(after)
            .bind(BATCH)
            .fetch_one(&self.readers)
            .await
            .step(STEP)?;
            let Some(last) = last else { return Ok(gone) };
            let query = sqlx::query("delete from journal where journal_id > ? and journal_id <= ? and at_ms < ?")
                .bind(after)
                .bind(last)
                .bind(until_ms);
            let rows = self.writer.execute(query).await.step(STEP)?.rows_affected();
            if rows == 0 {
                return Ok(gone);
            }
            gone += rows;
            after = last;
        }
    }
}
