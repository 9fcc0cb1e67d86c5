//! What people ask of the past.
//!
//! All of it goes by series: within one, runs are in order of time and do not overlap (the schema says who keeps that),
//! so the one run that was current at an instant, or that reaches into a span from before it, is found by one look into
//! an index, and a page costs a few rows of each series, however long history is.

use futures_util::TryStreamExt;
use sqlx::{FromRow, QueryBuilder, Row, Sqlite, sqlite::SqliteRow};

use super::{
    SqliteStore,
    value::{PAGE, Step, entry_kind, from_json, ms, ms_up, scope, time},
};
use crate::{
    clock::Timestamp,
    decision::{EntryKind, Hold, Incident, Scope, TrunkRecord},
    health::RegisteredWhen,
    ids::TrunkId,
    store::{
        At, Availability, Entry, HistoryQuery, Order, Page, StoreError,
        availability::{CONNECTED, Change, LINK, Tally, Word},
        blame::{Blamed, LOOK_AHEAD_MS},
    },
};

const COLUMNS: &str = "e.entry_id, s.scope_kind, s.scope_id, s.kind, s.subject, e.previous, e.outcome, e.seen_count, \
                       e.first_at_ms, e.last_at_ms, e.detail";

impl SqliteStore {
    pub(super) async fn read_holds(&self, active: Option<bool>, limit: u32) -> Result<Vec<Hold>, StoreError> {
        let sql = match active {
            None => "select hold_id, body from hold order by since_ms desc, hold_id desc limit ?",
            Some(true) => {
                "select hold_id, body from hold where released_ms is null order by since_ms desc, hold_id desc limit ?"
            }
            Some(false) => {
                "select hold_id, body from hold where released_ms is not null
                 order by since_ms desc, hold_id desc limit ?"
            }
        };
        let rows: Vec<(String, String)> =
            sqlx::query_as(sql).bind(limit.min(PAGE)).fetch_all(&self.readers).await.step("reading holds")?;
        rows.into_iter().map(|(id, body)| from_json(&body, || format!("the hold {id:?}"))).collect()
    }

    pub(super) async fn read_incidents(&self, limit: u32) -> Result<Vec<Incident>, StoreError> {
        let rows: Vec<(String, String)> =
            sqlx::query_as("select incident_id, body from incident order by since_ms desc, incident_id desc limit ?")
                .bind(limit.min(PAGE))
                .fetch_all(&self.readers)
                .await
                .step("reading incidents")?;
        rows.into_iter().map(|(id, body)| from_json(&body, || format!("the incident {id:?}"))).collect()
    }

    pub(super) async fn read_history(&self, query: &HistoryQuery) -> Result<Page, StoreError> {
        let limit = query.limit.clamp(1, PAGE);
        let mut sql = QueryBuilder::<Sqlite>::new("select ");
        sql.push(COLUMNS).push(
            " from series s join entry e on e.entry_id in (
                 select i.entry_id from entry i where i.series_id = s.series_id",
        );
        if let Some(since) = query.since {
            // Of what began before, only the newest can reach into the span.
            sql.push(
                " and i.entry_id >= coalesce((select l.entry_id from entry l
                      where l.series_id = s.series_id and l.first_at_ms < ",
            )
            .push_bind(ms(since))
            .push(" order by l.first_at_ms desc, l.entry_id desc limit 1), 0) and i.last_at_ms >= ")
            .push_bind(ms(since));
        }
        if let Some(until) = query.until {
            sql.push(
                " and i.entry_id <= (select u.entry_id from entry u
                      where u.series_id = s.series_id and u.first_at_ms < ",
            )
            .push_bind(ms_up(until))
            .push(" order by u.first_at_ms desc, u.entry_id desc limit 1)");
        }
        let (beyond, order) = match query.order {
            Order::NewestFirst => (" and i.entry_id < ", "desc"),
            Order::OldestFirst => (" and i.entry_id > ", "asc"),
        };
        if let Some(after) = query.after {
            sql.push(beyond).push_bind(after);
        }
        // One more than asked for tells whether there is a next page.
        let more = i64::from(limit) + 1;
        sql.push(format_args!(" order by i.entry_id {order} limit ")).push_bind(more).push(") where ");
        push_scopes(&mut sql, &query.trunk);
        if !query.kinds.is_empty() {
            sql.push(" and s.kind in (");
            let mut kinds = sql.separated(", ");
            for kind in &query.kinds {
                kinds.push_bind(kind.as_str());
            }
            sql.push(")");
        }
        sql.push(format_args!(" order by e.entry_id {order} limit ")).push_bind(more);

        let rows: Vec<EntryRow> =
            sql.build_query_as().fetch_all(&self.readers).await.step("reading a page of history")?;
        let mut items = rows.into_iter().map(EntryRow::entry).collect::<Result<Vec<_>, _>>()?;
        let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
        let next = if items.len() > wanted {
            items.truncate(wanted);
            items.last().map(|entry| entry.seq)
        } else {
            None
        };
        Ok(Page { items, next })
    }

    pub(super) async fn read_at(&self, trunk: &TrunkId, at: Timestamp) -> Result<At, StoreError> {
        let mut sql = QueryBuilder::<Sqlite>::new("select ");
        sql.push(COLUMNS)
            .push(
                " from series s join entry e on e.entry_id = (
                     select i.entry_id from entry i where i.series_id = s.series_id and i.first_at_ms <= ",
            )
            .push_bind(ms(at))
            .push(" order by i.first_at_ms desc, i.entry_id desc limit 1) where ");
        push_scopes(&mut sql, trunk);
        sql.push(" order by s.kind, s.subject");
        let rows: Vec<EntryRow> =
            sql.build_query_as().fetch_all(&self.readers).await.step("reading a trunk as it was")?;
        let entries = rows.into_iter().map(EntryRow::entry).collect::<Result<Vec<_>, _>>()?;
        let observed = entries.iter().any(|entry| is_link(entry) && entry.to == CONNECTED);
        Ok(At { time: at, entries, observed })
    }

    pub(super) async fn tally(
        &self,
        trunk: &TrunkId,
        since: Timestamp,
        until: Timestamp,
        registered_when: RegisteredWhen,
    ) -> Result<Availability, StoreError> {
        const STEP: &str = "reading runs for availability";
        let (since_ms, until_ms) = (ms(since), ms(until));
        let registers: bool = sqlx::query_scalar(
            "select exists (select 1 from series where scope_kind = 'trunk' and scope_id = ? and kind = ?)",
        )
        .bind(trunk.as_str())
        .bind(EntryKind::Registration.as_str())
        .fetch_one(&self.readers)
        .await
        .step(STEP)?;
        let kind = if registers { EntryKind::Registration } else { EntryKind::Health };

        // Of a trunk's own series everything since it was last well before the span: there the outage that reaches into it
        // began. Of the others, what was current when the span began.
        let mut tally = Tally::new(since_ms, until_ms, registered_when);
        let mut rows = sqlx::query_as::<_, (i64, String, String, i64, i64, String, Option<String>)>(
            "select s.series_id, s.scope_kind, s.kind, e.first_at_ms, e.last_at_ms, e.outcome,
                    iif(s.kind = ?9, json_extract(e.detail, '$.fault'), null)
             from series s join entry e on e.series_id = s.series_id
             where ((s.scope_kind = 'trunk' and s.scope_id = ?1 and s.kind in (?2, ?9))
                    or (s.scope_kind = 'pbx' and s.scope_id = ?3 and s.kind = ?4 and s.subject = ?5))
               and e.first_at_ms < ?7 + ?8
               and e.first_at_ms >= coalesce(
                   (select l.first_at_ms from entry l
                    where l.series_id = s.series_id and l.first_at_ms < ?6
                      and (s.kind <> ?2 or l.outcome in ('registered', 'stable', 'suspect', 'unstable'))
                    order by l.first_at_ms desc limit 1), iif(s.kind = ?2, 0, ?6))
             order by e.first_at_ms, e.entry_id",
        )
        .bind(trunk.as_str())
        .bind(kind.as_str())
        .bind(trunk.pbx_str())
        .bind(EntryKind::Pbx.as_str())
        .bind(LINK)
        .bind(since_ms)
        .bind(until_ms)
        .bind(LOOK_AHEAD_MS)
        .bind(EntryKind::Diagnosis.as_str())
        .fetch(&self.readers);
        while let Some((series, scope_kind, of, first_ms, last_ms, to, fault)) = rows.try_next().await.step(STEP)? {
            let change = if scope_kind == "pbx" {
                Change::of_link(&to)
            } else if of == EntryKind::Diagnosis.as_str() {
                let run = Blamed::of_diagnosis(&to, fault.as_deref(), first_ms, last_ms);
                run.map(|run| Change::Diagnosed { series, run })
            } else if registers {
                Some(Change::Subject { series, word: Word::of_registration(&to) })
            } else {
                Some(Change::Subject { series, word: Word::of_health(&to) })
            };
            if let Some(change) = change {
                tally.take(first_ms, change);
            }
        }
        drop(rows);

        let refused: i64 = sqlx::query_scalar(
            "select coalesce(sum(refused_calls), 0) from hold
             where trunk_id = ?1 and since_ms < ?3 and (released_ms is null or released_ms > ?2)",
        )
        .bind(trunk.as_str())
        .bind(since_ms)
        .bind(until_ms)
        .fetch_one(&self.readers)
        .await
        .step("counting refused calls")?;
        let unheld = self.refused_without_hold(trunk, since_ms, until_ms).await?;
        Ok(tally.finish(since, until, u64::try_from(refused).unwrap_or(0).saturating_add(unheld)))
    }
}

impl SqliteStore {
    /// Calls that no hold counts: each time the gate turned, its entry tells of those before; what came since is the
    /// trunk's own.
    async fn refused_without_hold(&self, trunk: &TrunkId, since_ms: i64, until_ms: i64) -> Result<u64, StoreError> {
        const STEP: &str = "counting calls refused without a hold";
        let told: i64 = sqlx::query_scalar(
            "select coalesce(sum(json_extract(e.detail, '$.refused_without_hold')), 0)
             from series s join entry e on e.series_id = s.series_id
             where s.scope_kind = 'trunk' and s.scope_id = ?1 and s.kind = ?2
               and e.first_at_ms >= ?3 and e.first_at_ms < ?4",
        )
        .bind(trunk.as_str())
        .bind(EntryKind::Gate.as_str())
        .bind(since_ms)
        .bind(until_ms)
        .fetch_one(&self.readers)
        .await
        .step(STEP)?;
        let body: Option<String> = sqlx::query_scalar("select body from trunk where trunk_id = ?")
            .bind(trunk.as_str())
            .fetch_optional(&self.readers)
            .await
            .step(STEP)?;
        let record = body.map(|body| from_json::<TrunkRecord>(&body, || format!("the trunk {trunk}"))).transpose()?;
        // While the gate holds they may have come at any time since; while it allows, in the instant before it did.
        let current = record.filter(|record| {
            let turned_ms = ms(record.gate.since);
            turned_ms < until_ms && (!record.gate.allow || turned_ms >= since_ms)
        });
        let current = current.map_or(0, |record| record.refused_without_hold);
        Ok(u64::try_from(told).unwrap_or(0).saturating_add(current))
    }
}

/// The trunk's series, and its PBX's.
fn push_scopes(sql: &mut QueryBuilder<Sqlite>, trunk: &TrunkId) {
    sql.push("((s.scope_kind = 'trunk' and s.scope_id = ")
        .push_bind(trunk.as_str().to_owned())
        .push(") or (s.scope_kind = 'pbx' and s.scope_id = ")
        .push_bind(trunk.pbx_str().to_owned())
        .push("))");
}

fn is_link(entry: &Entry) -> bool {
    matches!(entry.scope, Scope::Pbx(_)) && entry.kind == EntryKind::Pbx && entry.subject == LINK
}

/// An entry with the names of its series.
struct EntryRow {
    entry_id: i64,
    scope_kind: String,
    scope_id: String,
    kind: String,
    subject: String,
    previous: Option<String>,
    outcome: String,
    seen_count: i64,
    first_at_ms: i64,
    last_at_ms: i64,
    detail: Option<String>,
}

impl FromRow<'_, SqliteRow> for EntryRow {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            entry_id: row.try_get(0)?,
            scope_kind: row.try_get(1)?,
            scope_id: row.try_get(2)?,
            kind: row.try_get(3)?,
            subject: row.try_get(4)?,
            previous: row.try_get(5)?,
            outcome: row.try_get(6)?,
            seen_count: row.try_get(7)?,
            first_at_ms: row.try_get(8)?,
            last_at_ms: row.try_get(9)?,
            detail: row.try_get(10)?,
        })
    }
}

impl EntryRow {
    fn entry(self) -> Result<Entry, StoreError> {
        let seq = self.entry_id;
        let first_at = time(self.first_at_ms)?;
        Ok(Entry {
            seq,
            at: first_at,
            scope: scope(&self.scope_kind, &self.scope_id)?,
            kind: entry_kind(&self.kind)?,
            subject: self.subject,
            from: self.previous,
            to: self.outcome,
            count: u64::try_from(self.seen_count).unwrap_or(0),
            first_at,
            last_at: time(self.last_at_ms)?,
            detail: match self.detail {
                Some(text) => from_json(&text, || format!("the detail of entry {seq}"))?,
                None => serde_json::Value::Null,
            },
        })
    }
}
