//! `GET …/diagnosis`, the latest that was stored; `POST …/diagnose`, one made now; and `POST /diagnose`, of a capture or a log.

use std::{io::BufReader, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncSeekExt as _, AsyncWriteExt as _},
    sync::{Semaphore, mpsc::error::TrySendError, oneshot},
};

use super::{ApiState, Code, Problem, auth::Caller, extract::TrunkPath, problem::chain, trunks::unknown};
use crate::{
    decision::{EntryKind, ListedRegistration, TrunkRecord},
    diagnosis::{
        Diagnosis,
        capture::{KnownRegistration, analyse},
        layers::Examination,
    },
    ids::TrunkId,
    store::{HistoryQuery, Order},
};

/// Entries of kind `diagnosis` looked through for the latest cause: others say that it passed, or that it was tried again.
const LOOKED_THROUGH: u32 = 16;

/// A request for a diagnosis made now, and where the answer is awaited.
#[derive(Debug)]
pub struct AskDiagnosis {
    /// Of which trunk.
    pub trunk: TrunkId,
    /// One REGISTER is to be sent and watched first.
    pub attempt: bool,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Result<Examination, NoExamination>>,
}

/// Why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoExamination {
    /// No such trunk, or its PBX is not watched any more.
    #[error("the trunk is not known")]
    UnknownTrunk,
    /// The trunk does not register.
    #[error("the trunk has no registration, so there is nothing to diagnose")]
    NoRegistration,
    /// An attempt would un-register a trunk that is well.
    #[error("the trunk is registered; an attempt would interrupt it")]
    Registered,
    /// Its PBX cannot be asked.
    #[error("its PBX is not connected, so nothing can be attempted")]
    NoLink,
    /// Too many ask.
    #[error("too many diagnoses are asked for at once; try again")]
    Busy,
}

/// The body of `POST …/diagnose`; it may be left out.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Asked {
    attempt: bool,
}

/// `GET /trunks/{pbx}/{trunk}/diagnosis`
pub(super) async fn latest(
    State(state): State<ApiState>,
    TrunkPath(id): TrunkPath,
) -> Result<Json<Diagnosis>, Problem> {
    if state.board().trunk(&id).is_none() {
        return Err(unknown(&id));
    }
    let query = HistoryQuery {
        trunk: id.clone(),
        since: None,
        until: None,
        kinds: vec![EntryKind::Diagnosis],
        order: Order::NewestFirst,
        limit: LOOKED_THROUGH,
        after: None,
    };
    let page = state.store.history(&query).await?;
    let found = page.items.into_iter().find_map(|entry| serde_json::from_value::<Diagnosis>(entry.detail).ok());
    found.map(Json).ok_or_else(|| Problem::new(Code::NoDiagnosis, format!("there never was a diagnosis of {id}")))
}

/// `POST /trunks/{pbx}/{trunk}/diagnose`
pub(super) async fn now(
    State(state): State<ApiState>,
    TrunkPath(id): TrunkPath,
    caller: Caller,
    body: Bytes,
) -> Result<Json<Examination>, Problem> {
    let asked: Asked = if body.is_empty() {
        Asked::default()
    } else {
        serde_json::from_slice(&body).map_err(|error| Problem::new(Code::InvalidBody, format!("the body: {error}")))?
    };
    if asked.attempt && !caller.role.may_act() {
        let detail =
            format!("token {:?} has the role {}; an attempt needs operator or admin", caller.name, caller.role);
        return Err(Problem::new(Code::Forbidden, detail));
    }
    let (answer, answered) = oneshot::channel();
    let ask = AskDiagnosis { trunk: id.clone(), attempt: asked.attempt, answer };
    state.diagnoses.try_send(ask).map_err(|error| match error {
        TrySendError::Full(_) => Problem::new(Code::Busy, NoExamination::Busy.to_string()),
        TrySendError::Closed(_) => Problem::new(Code::Stopping, "the controller is stopping; nothing was done"),
    })?;
    let Ok(result) = answered.await else {
        return Err(Problem::new(Code::Stopping, "the controller stopped before it answered"));
    };
    result.map(Json).map_err(|why| match why {
        NoExamination::UnknownTrunk => unknown(&id),
        NoExamination::NoRegistration => Problem::new(Code::NoDiagnosis, format!("{id}: {why}")),
        NoExamination::Registered => Problem::new(Code::Registered, format!("{id}: {why}")),
        NoExamination::NoLink => Problem::new(Code::PbxUnreachable, format!("{id}: {why}")),
        NoExamination::Busy => Problem::new(Code::Busy, why.to_string()),
    })
}

/// The largest capture taken: an hour of a busy trunk's signalling.
pub const CAPTURE_LIMIT: u64 = 512 << 20;
/// Captures that are read at a time: each takes a core for a while.
const AT_A_TIME: usize = 2;
/// How long a body may pause.
const CHUNK: Duration = Duration::from_secs(10);
static READING: Semaphore = Semaphore::const_new(AT_A_TIME);

/// The answer to a capture.
#[derive(Debug, Serialize)]
pub(super) struct Analysed {
    /// Every registration something is wrong with, the worst first.
    items: Vec<Diagnosis>,
    /// Registrations in it with which all is well.
    healthy: usize,
    /// What should be known of the reading: where a cut capture ends, what was skipped.
    remarks: Vec<String>,
}

/// `POST /diagnose`: a capture (pcap, pcapng) or a log file of Asterisk's as the body. Nothing of it is kept.
pub(super) async fn capture(State(state): State<ApiState>, body: Body) -> Result<Json<Analysed>, Problem> {
    let Ok(turn) = READING.try_acquire() else {
        return Err(Problem::new(Code::Busy, "other captures are being read; try again in a moment"));
    };
    let file =
        tempfile::tempfile().map_err(|error| Problem::caused_by(Code::Internal, "no room for the capture", error))?;
    let mut file = tokio::fs::File::from_std(file);
    let mut chunks = body.into_data_stream();
    let mut length: u64 = 0;
    loop {
        // Whoever sends nothing must not keep others from their turn.
        let Ok(next) = tokio::time::timeout(CHUNK, chunks.next()).await else {
            return Err(Problem::new(Code::TimedOut, "the body did not go on; nothing was read"));
        };
        let Some(chunk) = next else { break };
        let chunk = chunk.map_err(|error| Problem::new(Code::InvalidBody, format!("the body ended early: {error}")))?;
        length += u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        if length > CAPTURE_LIMIT {
            let limit = CAPTURE_LIMIT >> 20;
            let hint = "`trunkwarden diagnose --pcap` reads any size";
            return Err(Problem::new(Code::TooLarge, format!("a capture may have {limit} MiB; {hint}")));
        }
        file.write_all(&chunk).await.map_err(unkept)?;
    }
    file.flush().await.map_err(unkept)?;
    file.rewind().await.map_err(unkept)?;
    let file = file.into_std().await;
    let known = known(&state);
    // The turn lasts as long as the reading, also when nobody waits for it any more.
    let reading = move || {
        let _turn = turn;
        analyse(BufReader::with_capacity(1 << 18, file), None, &known, &mut |_| {})
    };
    let read = tokio::task::spawn_blocking(reading).await;
    let read = read.map_err(|error| Problem::caused_by(Code::Internal, "reading the capture failed", error))?;
    let report = read.map_err(|error| Problem::new(Code::NotACapture, chain(&error)))?;
    Ok(Json(Analysed { items: report.diagnoses, healthy: report.healthy, remarks: report.remarks }))
}

fn unkept(error: std::io::Error) -> Problem {
    Problem::caused_by(Code::Internal, "the capture cannot be kept while it is read", error)
}

/// The registrations that are trunks here.
fn known(state: &ApiState) -> Vec<KnownRegistration> {
    let board = state.board();
    let of = |(id, record): (&TrunkId, &TrunkRecord)| {
        let id = id.clone();
        let known = move |listed: &ListedRegistration| KnownRegistration {
            trunk: Some(id.clone()),
            registration: listed.name.clone(),
            client_uri: listed.client_uri.clone(),
            server_uri: listed.server_uri.clone(),
        };
        record.registrations.iter().map(known).collect::<Vec<_>>()
    };
    board.trunks().flat_map(of).collect()
}
