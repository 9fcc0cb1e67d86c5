//! `GET /incidents`: many trunks failing together, as one thing.

use axum::{Json, extract::State};
use serde::Deserialize;

use super::{
    ApiState, Items, Problem,
    extract::{ApiQuery, limit},
};
use crate::decision::Incident;

/// `?limit=`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    limit: Option<u32>,
}

/// `GET /incidents`, the newest first: `id pbx since ended_at trunks summary`.
pub(super) async fn list(
    State(state): State<ApiState>,
    ApiQuery(filter): ApiQuery<Filter>,
) -> Result<Json<Items<Incident>>, Problem> {
    Ok(Json(Items { items: state.store.incidents(limit(filter.limit)?).await? }))
}
