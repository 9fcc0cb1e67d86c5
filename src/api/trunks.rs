//! `GET /trunks`, and one of them.

use std::collections::HashMap;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use super::{
    ApiState, Code, Items, Problem,
    extract::{ApiQuery, TrunkPath, words},
    holds::{CampaignsOfHolds, Hold},
};
use crate::{
    clock::Timestamp,
    decision::{Gate, TrunkRecord},
    diagnosis::Brief,
    health::{Health, HealthPolicy, TrunkHealth},
    ids::{EndpointName, PbxId, TrunkId},
};

/// A trunk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Trunk {
    /// `pbx/trunk`.
    pub id: TrunkId,
    /// Its PBX.
    pub pbx: PbxId,
    /// Its own name there.
    pub name: String,
    /// Its endpoints, as last listed.
    pub endpoints: Vec<EndpointName>,
    /// How it is.
    pub health: Health,
    /// Since when.
    pub since: Timestamp,
    /// What the gate says.
    pub gate: TrunkGate,
    /// Its registration; of several, the one that decides.
    pub registration: TrunkRegistration,
    /// Its contact; of several, the best.
    pub contact: TrunkContact,
    /// The flap penalty as it is now.
    pub penalty: f64,
    /// It came and went too often and is held for that.
    pub suppressed: bool,
    /// Its calls.
    pub calls: TrunkCalls,
    /// The active hold that counts: an operator's before the policy's.
    pub hold: Option<Hold>,
    /// Why it is as it is now, without the evidence.
    pub diagnosis: Option<Brief>,
}

/// The gate's answer, as a trunk shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrunkGate {
    /// Whether a call may be originated.
    pub allow: bool,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

impl TrunkGate {
    /// What `gate` says of the trunk; nothing said is a hold since the trunk is known.
    fn of(gate: &Gate, id: &TrunkId, record: &TrunkRecord) -> Self {
        match gate.state(id) {
            Some(state) => Self { allow: state.allow, reason: state.reason, since: state.since },
            None => {
                Self { allow: false, reason: "nothing was decided about it yet".to_owned(), since: record.health.since }
            }
        }
    }
}

/// A trunk's registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrunkRegistration {
    /// `registered`, `rejected`, `unregistered` or `none`.
    pub state: String,
    /// Who we say we are.
    pub client_uri: Option<String>,
    /// Where we register.
    pub server_uri: Option<String>,
    /// When the last attempt ended.
    pub last_event_at: Option<Timestamp>,
    /// Rejections since it was last registered.
    pub failures: u32,
    /// How long until Asterisk refreshes or tries again; negative when that is overdue.
    pub expires_in_seconds: Option<i64>,
    /// Asterisk has stopped trying.
    pub gave_up: bool,
}

/// A trunk's contact.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrunkContact {
    /// `reachable`, `unreachable`, `unknown`, `non_qualified` or `none`.
    pub status: String,
    /// Its last round trip.
    pub rtt_ms: Option<f64>,
}

/// A trunk's calls; `null` is "not counted", which is not zero.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrunkCalls {
    /// Under way.
    pub active: Option<u64>,
    /// Ended in the window.
    pub window_calls: Option<u64>,
    /// Of these, failed by the trunk's fault.
    pub window_trunk_faults: Option<u64>,
}

impl Trunk {
    fn of(
        id: &TrunkId,
        record: &TrunkRecord,
        gate: &Gate,
        policy: &HealthPolicy,
        campaigns: &CampaignsOfHolds,
        now: Timestamp,
    ) -> Self {
        let health = &record.health;
        Self {
            id: id.clone(),
            pbx: id.pbx(),
            name: id.name().to_owned(),
            endpoints: record.endpoints.clone(),
            health: health.status,
            since: health.since,
            gate: TrunkGate::of(gate, id, record),
            registration: TrunkRegistration::of(record, policy, now),
            contact: TrunkContact::of(health),
            penalty: rounded(health.penalty(now, policy.flap.half_life), 10.0),
            suppressed: health.suppressed_since.is_some(),
            calls: TrunkCalls::default(),
            hold: record.hold().map(|hold| Hold::of(hold, campaigns)),
            diagnosis: record.diagnosis.as_ref().filter(|known| known.current).map(|known| known.brief.clone()),
        }
    }
}

impl TrunkRegistration {
    fn of(record: &TrunkRecord, policy: &HealthPolicy, now: Timestamp) -> Self {
        let speaking = record.health.speaking_registration(policy.registered_when);
        let Some((name, one, state)) = speaking.and_then(|(name, one)| Some((name, one, one.state?))) else {
            return Self {
                state: "none".to_owned(),
                client_uri: None,
                server_uri: None,
                last_event_at: None,
                failures: 0,
                expires_in_seconds: None,
                gave_up: false,
            };
        };
        let listed = record.registrations.iter().find(|listed| listed.name == *name);
        Self {
            state: state.as_str().to_owned(),
            client_uri: listed.map(|listed| listed.client_uri.clone()),
            server_uri: listed.map(|listed| listed.server_uri.clone()),
            last_event_at: one.last_event_at,
            failures: one.failures,
            expires_in_seconds: one.next_attempt_at.map(|next| next.duration_since(now).as_secs()),
            gave_up: one.gave_up,
        }
    }
}

impl TrunkContact {
    fn of(health: &TrunkHealth) -> Self {
        let rank = |status: &str| match status {
            "reachable" => 0_u8,
            "unreachable" => 1,
            "unknown" => 2,
            _ => 3,
        };
        match health.contacts.values().min_by_key(|contact| rank(contact.status.as_str())) {
            Some(contact) => Self {
                status: contact.status.as_str().to_owned(),
                rtt_ms: contact.rtt.map(|rtt| rounded(rtt.as_secs_f64() * 1000.0, 1000.0)),
            },
            None => Self { status: "none".to_owned(), rtt_ms: None },
        }
    }
}

/// To so many parts of one: more digits would say more than is known.
fn rounded(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

/// `?pbx=&health=`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    pbx: Option<String>,
    health: Option<String>,
}

/// `GET /trunks`
pub(super) async fn list(
    State(state): State<ApiState>,
    ApiQuery(filter): ApiQuery<Filter>,
) -> Result<Json<Items<Trunk>>, Problem> {
    let healths = match &filter.health {
        Some(text) => words("health", text, &Health::ALL, Health::as_str)?,
        None => Health::ALL.to_vec(),
    };
    let now = state.now();
    let board = state.board();
    let policy = board.policy();
    let campaigns = CampaignsOfHolds::on(&board);
    let items = board
        .trunks()
        .filter(|(id, record)| {
            filter.pbx.as_deref().is_none_or(|pbx| pbx == id.pbx_str()) && healths.contains(&record.health.status)
        })
        .map(|(id, record)| Trunk::of(id, record, &state.gate, policy.health_of(id), &campaigns, now))
        .collect();
    Ok(Json(Items { items }))
}

/// `GET /trunks/{pbx}/{trunk}`
pub(super) async fn one(State(state): State<ApiState>, TrunkPath(id): TrunkPath) -> Result<Json<Trunk>, Problem> {
    let now = state.now();
    let board = state.board();
    let policy = board.policy();
    let record = board.trunk(&id).ok_or_else(|| unknown(&id))?;
    let campaigns = CampaignsOfHolds::on(&board);
    Ok(Json(Trunk::of(&id, record, &state.gate, policy.health_of(&id), &campaigns, now)))
}

/// The problem of a trunk that is not known.
pub(super) fn unknown(id: &TrunkId) -> Problem {
    Problem::new(Code::UnknownTrunk, format!("{id} is not known; GET /api/v1/trunks lists the known ones"))
}

/// How many trunks each PBX has.
pub(super) fn counts<'a>(trunks: impl Iterator<Item = &'a TrunkId>) -> HashMap<PbxId, u64> {
    let mut counts = HashMap::new();
    for id in trunks {
        *counts.entry(id.pbx()).or_default() += 1;
    }
    counts
}
