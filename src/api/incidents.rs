//! `GET /incidents`: many trunks failing together, as one thing.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use super::{
    ApiState, Items, Problem,
    extract::{ApiQuery, limit},
};
use crate::{
    clock::Timestamp,
    decision,
    ids::{IncidentId, PbxId, TrunkId},
};

/// An incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Incident {
    /// `incident_…`.
    pub id: IncidentId,
    /// Where.
    pub pbx: PbxId,
    /// When the first of its trunks failed.
    pub since: Timestamp,
    /// When the last of its trunks was clear again.
    pub ended_at: Option<Timestamp>,
    /// The trunks it took, in the order they failed.
    pub trunks: Vec<TrunkId>,
    /// What it looks like.
    pub summary: String,
}

impl From<decision::Incident> for Incident {
    fn from(incident: decision::Incident) -> Self {
        let decision::Incident {
            id,
            pbx,
            since,
            ended_at,
            trunks,
            last_at: _,
            last_resume_at: _,
            summary,
            refused_calls: _,
        } = incident;
        Self { id, pbx, since, ended_at, trunks, summary }
    }
}

/// `?limit=`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    limit: Option<u32>,
}

/// `GET /incidents`, the newest first.
pub(super) async fn list(
    State(state): State<ApiState>,
    ApiQuery(filter): ApiQuery<Filter>,
) -> Result<Json<Items<Incident>>, Problem> {
    let found = state.store.incidents(limit(filter.limit)?).await?;
    Ok(Json(Items { items: found.into_iter().map(Incident::from).collect() }))
}
