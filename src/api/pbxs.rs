//! `GET /pbxs`: the Asterisk servers and how their links are.

use std::collections::HashMap;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use super::{ApiState, Items, campaigns::NoFilter, extract::ApiQuery, trunks};
use crate::{clock::Timestamp, ids::PbxId};

/// A PBX.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pbx {
    /// Its id.
    pub id: PbxId,
    /// Its AMI link.
    pub ami: Link,
    /// Its ARI link; `null` where there is none.
    pub ari: Option<Link>,
    /// How many trunks it has.
    pub trunks: u64,
    /// The last registration event of any of its trunks.
    pub last_event_at: Option<Timestamp>,
    /// How far behind the reading of its events is; `null` while nobody measures it.
    pub lag_ms: Option<u64>,
}

/// A link to a PBX.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// `connecting`, `connected`, `listed`, `lost` or `refused`.
    pub state: String,
    /// Since when.
    pub since: Timestamp,
    /// The other side's version.
    pub version: Option<String>,
    /// Why there is no link.
    pub error: Option<String>,
}

/// `GET /pbxs`
pub(super) async fn list(State(state): State<ApiState>, ApiQuery(NoFilter {}): ApiQuery<NoFilter>) -> Json<Items<Pbx>> {
    let board = state.board();
    let counts = trunks::counts(board.trunks().map(|(id, _)| id));
    let mut heard: HashMap<PbxId, Timestamp> = HashMap::new();
    for (id, record) in board.trunks() {
        if let Some(last) = record.health.registrations.values().filter_map(|one| one.last_event_at).max() {
            let newest = heard.entry(id.pbx()).or_insert(last);
            *newest = last.max(*newest);
        }
    }
    let items = board
        .pbxs()
        .map(|(id, record)| Pbx {
            id: id.clone(),
            ami: Link {
                state: record.state.clone(),
                since: record.since,
                version: record.version.clone(),
                error: record.error.clone(),
            },
            ari: None,
            trunks: counts.get(id).copied().unwrap_or_default(),
            last_event_at: heard.get(id).copied(),
            lag_ms: None,
        })
        .collect();
    Json(Items { items })
}
