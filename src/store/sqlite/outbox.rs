//! The outbox as the dispatcher and people see it.
//!
//! A message can be leased when it is pending, due, not leased to anybody, and the oldest pending one of its lane. That
//! last rule is what keeps a resume behind its pause, whatever fails and is tried again.

use std::time::Duration;

use sqlx::{FromRow, Row, sqlite::SqliteRow};

use super::{
    SqliteStore,
    value::{PAGE, Readable, Step, from_json, message_type, ms, ms_up, time},
};
use crate::{
    clock::{Timestamp, after},
    decision::{Message, Recipient},
    ids::{CampaignId, CampaignKey, DialerId, MessageId},
    store::{Leased, OutboxItem, OutboxState, StoreError},
};

impl SqliteStore {
    pub(super) async fn lease(&self, now: Timestamp, limit: u32, lease: Duration) -> Result<Vec<Leased>, StoreError> {
        // The `+` in the order keeps SQLite from walking all there ever was, to save itself the sorting of a few.
        let mut rows: Vec<ItemRow> = sqlx::query_as(
            "update outbox set leased_until_ms = ?1
             where outbox_id in (
                 select o.outbox_id from outbox o
                 where o.state = 'pending' and o.next_at_ms <= ?2 and coalesce(o.leased_until_ms, ?2) <= ?2
                   and not exists (
                       select 1 from outbox p
                       where p.lane = o.lane and p.state = 'pending' and p.outbox_id < o.outbox_id)
                 order by +o.outbox_id limit ?3)
             returning *",
        )
        .bind(ms_up(after(now, lease)))
        .bind(ms(now))
        .bind(limit)
        .fetch_all(&self.writer)
        .await
        .step("leasing messages")?;
        rows.sort_unstable_by_key(|row| row.outbox_id);
        rows.into_iter().map(|row| Ok(Leased { attempts: row.attempts, message: row.message()? })).collect()
    }

    pub(super) async fn put_off(&self, message: &MessageId, next_at: Timestamp, error: &str) -> Result<(), StoreError> {
        sqlx::query(
            "update outbox set attempts = attempts + 1, next_at_ms = ?, last_error = ?, leased_until_ms = null
             where message_id = ? and state = 'pending'",
        )
        .bind(ms_up(next_at))
        .bind(error)
        .bind(message.as_str())
        .execute(&self.writer)
        .await
        .step("postponing a message")?;
        Ok(())
    }

    pub(super) async fn earliest_due(&self) -> Result<Option<Timestamp>, StoreError> {
        let due: Option<i64> = sqlx::query_scalar(
            "select min(max(o.next_at_ms, coalesce(o.leased_until_ms, o.next_at_ms))) from outbox o
             where o.state = 'pending'
               and not exists (
                   select 1 from outbox p
                   where p.lane = o.lane and p.state = 'pending' and p.outbox_id < o.outbox_id)",
        )
        .fetch_one(&self.readers)
        .await
        .step("asking when a message is due")?;
        due.map(time).transpose()
    }

    pub(super) async fn read_outbox(
        &self,
        state: Option<OutboxState>,
        limit: u32,
    ) -> Result<Vec<OutboxItem>, StoreError> {
        // The pending ones by their own index: they are few among many that are settled.
        let sql = match state {
            None => "select * from outbox order by outbox_id desc limit ?",
            Some(OutboxState::Pending) => {
                "select * from outbox where state = 'pending' order by +outbox_id desc limit ?"
            }
            Some(OutboxState::Delivered) => {
                "select * from outbox where state = 'delivered' order by outbox_id desc limit ?"
            }
            Some(OutboxState::Abandoned) => {
                "select * from outbox where state = 'abandoned' order by outbox_id desc limit ?"
            }
        };
        let rows: Vec<ItemRow> =
            sqlx::query_as(sql).bind(limit.min(PAGE)).fetch_all(&self.readers).await.step("reading the outbox")?;
        rows.into_iter().map(ItemRow::item).collect()
    }
}

/// A row of the table.
struct ItemRow {
    outbox_id: i64,
    message_id: String,
    recipient_kind: String,
    recipient: String,
    dialer_id: Option<String>,
    campaign_id: Option<String>,
    kind: String,
    body: String,
    at_ms: i64,
    state: String,
    attempts: u32,
    next_at_ms: i64,
    last_error: Option<String>,
}

impl FromRow<'_, SqliteRow> for ItemRow {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            outbox_id: row.try_get("outbox_id")?,
            message_id: row.try_get("message_id")?,
            recipient_kind: row.try_get("recipient_kind")?,
            recipient: row.try_get("recipient")?,
            dialer_id: row.try_get("dialer_id")?,
            campaign_id: row.try_get("campaign_id")?,
            kind: row.try_get("kind")?,
            body: row.try_get("body")?,
            at_ms: row.try_get("at_ms")?,
            state: row.try_get("state")?,
            attempts: row.try_get("attempts")?,
            next_at_ms: row.try_get("next_at_ms")?,
            last_error: row.try_get("last_error")?,
        })
    }
}

impl ItemRow {
    fn message(&self) -> Result<Message, StoreError> {
        let named = || format!("the message {:?}", self.message_id);
        // The schema allows `dialer` and `notify`.
        let to = if self.recipient_kind == "dialer" {
            Recipient::Dialer(DialerId::try_from(self.recipient.as_str()).readable(named)?)
        } else {
            Recipient::Notify(self.recipient.clone())
        };
        let campaign = match (&self.dialer_id, &self.campaign_id) {
            (Some(dialer), Some(id)) => Some(CampaignKey {
                dialer: DialerId::try_from(dialer.as_str()).readable(named)?,
                id: CampaignId::try_from(id.as_str()).readable(named)?,
            }),
            (Some(_) | None, Some(_) | None) => None,
        };
        Ok(Message {
            id: MessageId::try_from(self.message_id.as_str()).readable(named)?,
            to,
            campaign,
            kind: message_type(&self.kind)?,
            body: from_json(&self.body, named)?,
            at: time(self.at_ms)?,
        })
    }

    fn item(self) -> Result<OutboxItem, StoreError> {
        let message = self.message()?;
        // The schema allows these three.
        let state = match self.state.as_str() {
            "pending" => OutboxState::Pending,
            "delivered" => OutboxState::Delivered,
            _ => OutboxState::Abandoned,
        };
        let next_at = match state {
            OutboxState::Pending => Some(time(self.next_at_ms)?),
            OutboxState::Delivered | OutboxState::Abandoned => None,
        };
        Ok(OutboxItem { message, state, attempts: self.attempts, next_at, last_error: self.last_error })
    }
}
