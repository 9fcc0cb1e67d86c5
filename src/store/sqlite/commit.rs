//! One step in one transaction, and what a restart reads back.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
};

use sqlx::{Row, SqliteConnection};

use super::{
    SqliteStore,
    value::{PAGE, Readable, Step, from_json, json, ms, scope_columns, time},
};
use crate::{
    clock::Timestamp,
    decision::{
        Board, Campaign, EntryKind, Hold, Incident, Message, Outcome, Recipient, Record, Scope, Settled, TrunkRecord,
        board::PbxRecord,
    },
    ids::{CampaignId, CampaignKey, DialerId, PbxId, TrunkId},
    store::{
        JournalRow, Restored, StoreError,
        runs::{Run, Taken, take},
    },
};

/// Series remembered at most; then all are forgotten and read again when they are needed.
const REMEMBERED: usize = 100_000;

/// What the deciding loop remembers between commits, so that extending a run is one update by primary key.
///
/// It says what the file says, or nothing: a commit takes it out, and puts it back only once it is durable. Whatever
/// ends a commit early, an error or a dropped future, leaves it empty, and it is read from the file again.
#[derive(Debug, Default)]
pub(super) struct Memory {
    series: HashMap<(&'static str, String, EntryKind, String), Series>,
}

/// A series and its newest run.
#[derive(Debug)]
struct Series {
    series_id: i64,
    entry_id: i64,
    newest: Option<Run>,
    /// The run grew in this transaction and is not written yet.
    grew: bool,
}

impl SqliteStore {
    pub(super) async fn write(&self, outcomes: &[Outcome], alive: Timestamp) -> Result<(), StoreError> {
        let mut kept = self.memory.lock().await;
        let mut memory = mem::take(&mut *kept);
        // Immediate: a transaction that began by reading could not wait for a lock when it comes to write.
        let mut transaction = self.writer.begin_with("begin immediate").await.step("beginning a commit")?;
        write_all(&mut transaction, &mut memory, outcomes, alive).await?;
        transaction.commit().await.step("committing")?;
        if memory.series.len() <= REMEMBERED {
            *kept = memory;
        }
        Ok(())
    }

    pub(super) async fn append(&self, at: Timestamp, kind: &str, body: &serde_json::Value) -> Result<i64, StoreError> {
        let mut writer = self.writer.acquire().await.step("writing the journal")?;
        journal(&mut writer, at, kind, &json(body, "a journal row")?).await
    }

    pub(super) async fn read_journal(&self, after: i64, limit: u32) -> Result<Vec<JournalRow>, StoreError> {
        sqlx::query(
            "select journal_id, at_ms, kind, body from journal where journal_id > ? order by journal_id limit ?",
        )
        .bind(after)
        .bind(limit.min(PAGE))
        .fetch_all(&self.readers)
        .await
        .step("reading the journal")?
        .into_iter()
        .map(|row| {
            let seq: i64 = row.try_get(0).step("reading the journal")?;
            Ok(JournalRow {
                seq,
                at: time(row.try_get(1).step("reading the journal")?)?,
                kind: row.try_get(2).step("reading the journal")?,
                body: from_json(row.try_get(3).step("reading the journal")?, || format!("journal row {seq}"))?,
            })
        })
        .collect()
    }

    pub(super) async fn read_board(&self) -> Result<Restored, StoreError> {
        const STEP: &str = "loading the board";
        // This process has the store's lock, so whoever leased a message is gone: it need not wait for the lease's end.
        sqlx::query("update outbox set leased_until_ms = null where state = 'pending' and leased_until_ms is not null")
            .execute(&self.writer)
            .await
            .step(STEP)?;
        // One transaction, so that all of it is of one commit.
        let mut reader = self.readers.begin().await.step(STEP)?;
        let (seed, minted, alive): (i64, i64, Option<i64>) =
            sqlx::query_as("select seed, minted, alive_ms from controller").fetch_one(&mut *reader).await.step(STEP)?;
        let mut board = Board::new(seed.cast_unsigned());
        board.minted = minted.cast_unsigned();

        let rows: Vec<(String, String)> =
            sqlx::query_as("select trunk_id, body from trunk").fetch_all(&mut *reader).await.step(STEP)?;
        for (id, body) in rows {
            let record: TrunkRecord = from_json(&body, || format!("the trunk {id:?}"))?;
            board.trunks.insert(TrunkId::try_from(id.as_str()).readable(|| format!("the trunk {id:?}"))?, record);
        }
        let rows: Vec<(String, String, String)> = sqlx::query_as("select dialer_id, campaign_id, body from campaign")
            .fetch_all(&mut *reader)
            .await
            .step(STEP)?;
        for (dialer, id, body) in rows {
            let named = || format!("the campaign {dialer}/{id}");
            let campaign: Campaign = from_json(&body, named)?;
            let key = CampaignKey {
                dialer: DialerId::try_from(dialer.as_str()).readable(named)?,
                id: CampaignId::try_from(id.as_str()).readable(named)?,
            };
            board.campaigns.insert(key, campaign);
        }
        let rows: Vec<(String, String)> =
            sqlx::query_as("select pbx_id, body from pbx").fetch_all(&mut *reader).await.step(STEP)?;
        for (id, body) in rows {
            let record: PbxRecord = from_json(&body, || format!("the PBX {id:?}"))?;
            board.pbxs.insert(PbxId::try_from(id.as_str()).readable(|| format!("the PBX {id:?}"))?, record);
        }
        let rows: Vec<(String, String)> =
            sqlx::query_as("select incident_id, body from incident where ended_ms is null order by since_ms")
                .fetch_all(&mut *reader)
                .await
                .step(STEP)?;
        for (id, body) in rows {
            let incident: Incident = from_json(&body, || format!("the incident {id:?}"))?;
            board.incidents.insert(incident.id.clone(), incident);
        }
        reader.commit().await.step(STEP)?;
        Ok(Restored { board, last_alive: alive.map(time).transpose()? })
    }
}

async fn write_all(
    writer: &mut SqliteConnection,
    memory: &mut Memory,
    outcomes: &[Outcome],
    alive: Timestamp,
) -> Result<(), StoreError> {
    // Of what changed several times only the last is written.
    let mut trunks = BTreeMap::new();
    let mut campaigns = BTreeMap::new();
    let mut pbxs = BTreeMap::new();
    let mut minted = None;
    for outcome in outcomes {
        if let Some(input) = &outcome.input {
            journal(writer, input.at(), "input", &json(input, "an input")?).await?;
        }
        for event in &outcome.events {
            journal(writer, event.at, &event.kind, &json(&event.data, "an event")?).await?;
        }
        for record in &outcome.records {
            remember(writer, &mut memory.series, record).await?;
        }
        for hold in &outcome.holds {
            put_hold(writer, hold).await?;
        }
        for incident in &outcome.incidents {
            put_incident(writer, incident).await?;
        }
        for message in &outcome.messages {
            put_message(writer, message).await?;
        }
        for settled in &outcome.settled {
            settle(writer, settled).await?;
        }
        trunks.extend(&outcome.trunks);
        campaigns.extend(&outcome.campaigns);
        pbxs.extend(&outcome.pbxs);
        minted = outcome.minted.or(minted);
    }
    for series in memory.series.values_mut().filter(|series| series.grew) {
        write_growth(writer, series).await?;
    }
    for (id, record) in trunks {
        put_trunk(writer, id, record.as_ref()).await?;
    }
    for (key, campaign) in campaigns {
        put_campaign(writer, key, campaign.as_ref()).await?;
    }
    for (id, record) in pbxs {
        put_pbx(writer, id, record).await?;
    }
    if let Some((seed, minted)) = minted {
        sqlx::query("update controller set seed = ?, minted = ?")
            .bind(seed.cast_signed())
            .bind(minted.cast_signed())
            .execute(&mut *writer)
            .await
            .step("writing how many ids were made")?;
    }
    sqlx::query("update controller set alive_ms = ?")
        .bind(ms(alive))
        .execute(writer)
        .await
        .step("writing that it is alive")?;
    Ok(())
}

async fn journal(writer: &mut SqliteConnection, at: Timestamp, kind: &str, body: &str) -> Result<i64, StoreError> {
    let done = sqlx::query("insert into journal (at_ms, kind, body) values (?, ?, ?)")
        .bind(ms(at))
        .bind(kind)
        .bind(body)
        .execute(writer)
        .await
        .step("writing the journal")?;
    Ok(done.last_insert_rowid())
}

/// Takes a record into its series.
async fn remember(
    writer: &mut SqliteConnection,
    known: &mut HashMap<(&'static str, String, EntryKind, String), Series>,
    record: &Record,
) -> Result<(), StoreError> {
    let (scope_kind, scope_id) = scope_columns(&record.scope);
    let key = (scope_kind, scope_id.to_owned(), record.kind, record.subject.clone());
    if !known.contains_key(&key) {
        let found = find_series(writer, &record.scope, record.kind, &record.subject).await?;
        known.insert(key.clone(), found);
    }
    let Some(series) = known.get_mut(&key) else { return Ok(()) };
    let before = series.newest.clone();
    match take(&mut series.newest, &record.to, ms(record.at)) {
        Taken::Extended => {
            series.grew = true;
            // The same cause again, on better evidence: the newer word is kept.
            if record.kind == EntryKind::Diagnosis && !record.detail.is_null() {
                sqlx::query("update entry set detail = ? where entry_id = ?")
                    .bind(json(&record.detail, "an entry's detail")?)
                    .bind(series.entry_id)
                    .execute(&mut *writer)
                    .await
                    .step("renewing a diagnosis")?;
            }
        }
        Taken::Begun { from } => {
            if series.grew {
                let begun = mem::replace(&mut series.newest, before);
                write_growth(writer, series).await?;
                series.newest = begun;
            }
            series.entry_id = begin_run(writer, series, from.as_deref(), &record.detail).await?;
        }
    }
    Ok(())
}

async fn find_series(
    writer: &mut SqliteConnection,
    scope: &Scope,
    kind: EntryKind,
    subject: &str,
) -> Result<Series, StoreError> {
    const STEP: &str = "finding a series";
    let (scope_kind, scope_id) = scope_columns(scope);
    let found: Option<i64> = sqlx::query_scalar(
        "select series_id from series where scope_kind = ? and scope_id = ? and kind = ? and subject = ?",
    )
    .bind(scope_kind)
    .bind(scope_id)
    .bind(kind.as_str())
    .bind(subject)
    .fetch_optional(&mut *writer)
    .await
    .step(STEP)?;
    let Some(series_id) = found else {
        let done = sqlx::query("insert into series (scope_kind, scope_id, kind, subject) values (?, ?, ?, ?)")
            .bind(scope_kind)
            .bind(scope_id)
            .bind(kind.as_str())
            .bind(subject)
            .execute(writer)
            .await
            .step("beginning a series")?;
        return Ok(Series { series_id: done.last_insert_rowid(), entry_id: 0, newest: None, grew: false });
    };
    let newest: Option<(i64, String, i64, i64, i64)> = sqlx::query_as(
        "select entry_id, outcome, seen_count, first_at_ms, last_at_ms from entry
         where series_id = ? order by entry_id desc limit 1",
    )
    .bind(series_id)
    .fetch_optional(writer)
    .await
    .step(STEP)?;
    Ok(match newest {
        Some((entry_id, to, count, first_ms, last_ms)) => {
            let run = Run { to, count: u64::try_from(count).unwrap_or(1), first_ms, last_ms };
            Series { series_id, entry_id, newest: Some(run), grew: false }
        }
        None => Series { series_id, entry_id: 0, newest: None, grew: false },
    })
}

/// Writes the run a series now has as its newest as a new entry.
async fn begin_run(
    writer: &mut SqliteConnection,
    series: &Series,
    from: Option<&str>,
    detail: &serde_json::Value,
) -> Result<i64, StoreError> {
    let Some(run) = &series.newest else { return Ok(series.entry_id) };
    let detail = if detail.is_null() { None } else { Some(json(detail, "an entry's detail")?) };
    let done = sqlx::query(
        "insert into entry (series_id, previous, outcome, seen_count, first_at_ms, last_at_ms, detail)
         values (?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(series.series_id)
    .bind(from)
    .bind(&run.to)
    .bind(i64::try_from(run.count).unwrap_or(i64::MAX))
    .bind(run.first_ms)
    .bind(run.last_ms)
    .bind(detail)
    .execute(writer)
    .await
    .step("beginning a run")?;
    Ok(done.last_insert_rowid())
}

async fn write_growth(writer: &mut SqliteConnection, series: &mut Series) -> Result<(), StoreError> {
    series.grew = false;
    let Some(run) = &series.newest else { return Ok(()) };
    sqlx::query("update entry set seen_count = ?, last_at_ms = ? where entry_id = ?")
        .bind(i64::try_from(run.count).unwrap_or(i64::MAX))
        .bind(run.last_ms)
        .bind(series.entry_id)
        .execute(writer)
        .await
        .step("extending a run")?;
    Ok(())
}

async fn put_hold(writer: &mut SqliteConnection, hold: &Hold) -> Result<(), StoreError> {
    sqlx::query(
        "insert into hold (hold_id, trunk_id, since_ms, released_ms, refused_calls, body) values (?, ?, ?, ?, ?, ?)
         on conflict (hold_id) do update set trunk_id = excluded.trunk_id, since_ms = excluded.since_ms,
             released_ms = excluded.released_ms, refused_calls = excluded.refused_calls, body = excluded.body",
    )
    .bind(hold.id.as_str())
    .bind(hold.trunk.as_str())
    .bind(ms(hold.since))
    .bind(hold.released_at.map(ms))
    .bind(i64::try_from(hold.refused_calls).unwrap_or(i64::MAX))
    .bind(json(hold, "a hold")?)
    .execute(writer)
    .await
    .step("writing a hold")?;
    Ok(())
}

async fn put_incident(writer: &mut SqliteConnection, incident: &Incident) -> Result<(), StoreError> {
    sqlx::query(
        "insert into incident (incident_id, pbx_id, since_ms, ended_ms, body) values (?, ?, ?, ?, ?)
         on conflict (incident_id) do update set pbx_id = excluded.pbx_id, since_ms = excluded.since_ms,
             ended_ms = excluded.ended_ms, body = excluded.body",
    )
    .bind(incident.id.as_str())
    .bind(incident.pbx.as_str())
    .bind(ms(incident.since))
    .bind(incident.ended_at.map(ms))
    .bind(json(incident, "an incident")?)
    .execute(writer)
    .await
    .step("writing an incident")?;
    Ok(())
}

/// A message that is there already stays as it is: its id names the decision that made it.
async fn put_message(writer: &mut SqliteConnection, message: &Message) -> Result<(), StoreError> {
    let (recipient_kind, recipient) = match &message.to {
        Recipient::Dialer(dialer) => ("dialer", dialer.as_str()),
        Recipient::Notify(name) => ("notify", name.as_str()),
    };
    // The parts as JSON: whatever is in a name, two lanes are never one.
    let lane = json(&(&message.to, &message.campaign), "a message's lane")?;
    sqlx::query(
        "insert into outbox (message_id, lane, recipient_kind, recipient, dialer_id, campaign_id, kind, body, at_ms,
             state, next_at_ms)
         values (?, ?, ?, ?, ?, ?, ?, ?, ?, 'pending', ?)
         on conflict (message_id) do nothing",
    )
    .bind(message.id.as_str())
    .bind(lane)
    .bind(recipient_kind)
    .bind(recipient)
    .bind(message.campaign.as_ref().map(|key| key.dialer.as_str()))
    .bind(message.campaign.as_ref().map(|key| key.id.as_str()))
    .bind(message.kind.as_str())
    .bind(json(&message.body, "a message's body")?)
    .bind(ms(message.at))
    .bind(ms(message.at))
    .execute(writer)
    .await
    .step("writing a message")?;
    Ok(())
}

/// A message that is leased is being sent, so the attempt that settles it counts.
async fn settle(writer: &mut SqliteConnection, settled: &Settled) -> Result<(), StoreError> {
    let state = if settled.error.is_none() { "delivered" } else { "abandoned" };
    sqlx::query(
        "update outbox set state = ?, settled_ms = ?, last_error = coalesce(?, last_error),
             attempts = attempts + (leased_until_ms is not null), leased_until_ms = null
         where message_id = ? and state = 'pending'",
    )
    .bind(state)
    .bind(ms(settled.at))
    .bind(&settled.error)
    .bind(settled.message.as_str())
    .execute(writer)
    .await
    .step("settling a message")?;
    Ok(())
}

async fn put_trunk(
    writer: &mut SqliteConnection,
    id: &TrunkId,
    record: Option<&TrunkRecord>,
) -> Result<(), StoreError> {
    let query = match record {
        Some(record) => sqlx::query(
            "insert into trunk (trunk_id, body) values (?, ?) on conflict (trunk_id) do update set body = excluded.body",
        )
        .bind(id.as_str())
        .bind(json(record, "a trunk")?),
        None => sqlx::query("delete from trunk where trunk_id = ?").bind(id.as_str()),
    };
    query.execute(writer).await.step("writing a trunk")?;
    Ok(())
}

async fn put_campaign(
    writer: &mut SqliteConnection,
    key: &CampaignKey,
    campaign: Option<&Campaign>,
) -> Result<(), StoreError> {
    let query = match campaign {
        Some(campaign) => sqlx::query(
            "insert into campaign (dialer_id, campaign_id, body) values (?, ?, ?)
             on conflict (dialer_id, campaign_id) do update set body = excluded.body",
        )
        .bind(key.dialer.as_str())
        .bind(key.id.as_str())
        .bind(json(campaign, "a campaign")?),
        None => sqlx::query("delete from campaign where dialer_id = ? and campaign_id = ?")
            .bind(key.dialer.as_str())
            .bind(key.id.as_str()),
    };
    query.execute(writer).await.step("writing a campaign")?;
    Ok(())
}

async fn put_pbx(writer: &mut SqliteConnection, id: &PbxId, record: &PbxRecord) -> Result<(), StoreError> {
    sqlx::query("insert into pbx (pbx_id, body) values (?, ?) on conflict (pbx_id) do update set body = excluded.body")
        .bind(id.as_str())
        .bind(json(record, "a PBX")?)
        .execute(writer)
        .await
        .step("writing a PBX")?;
    Ok(())
}
