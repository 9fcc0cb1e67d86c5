//! `GET …/availability`: how much of the time a trunk was registered.

use std::{collections::BTreeMap, time::Duration};

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use super::{
    ApiState, Code, Problem,
    extract::{ApiQuery, TrunkPath, instant},
    history::known_or_remembered,
};
use crate::{clock::before, store};

/// The span asked about if none is given: "how often this month".
const DEFAULT_SPAN: Duration = Duration::from_secs(30 * 24 * 3600);

/// A trunk's availability.
///
/// Units: seconds. What nobody could see is unknown: neither registered nor down, and not in the ratio.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Availability {
    /// Registered.
    pub registered_seconds: f64,
    /// Not registered.
    pub down_seconds: f64,
    /// Nobody could tell.
    pub unknown_seconds: f64,
    /// registered / (registered + down); `null` when nothing was seen at all.
    pub ratio: Option<f64>,
    /// Times it left registered.
    pub outages: u64,
    /// Mean registered time between outages.
    pub mtbf_seconds: Option<f64>,
    /// Mean length of an outage.
    pub mttr_seconds: Option<f64>,
    /// The longest outage.
    pub longest_outage_seconds: f64,
    /// Down seconds by whose fault it was.
    pub by_fault: BTreeMap<String, f64>,
    /// Originates refused while held.
    pub calls_refused: u64,
    /// Calls that failed by the trunk's fault.
    pub calls_failed: u64,
}

impl From<store::Availability> for Availability {
    fn from(found: store::Availability) -> Self {
        Self {
            registered_seconds: found.registered_seconds,
            down_seconds: found.down_seconds,
            unknown_seconds: found.unknown_seconds,
            ratio: found.ratio,
            outages: found.outages,
            mtbf_seconds: found.mtbf_seconds,
            mttr_seconds: found.mttr_seconds,
            longest_outage_seconds: found.longest_outage_seconds,
            by_fault: found.by_fault,
            calls_refused: found.calls_refused,
            calls_failed: found.calls_failed,
        }
    }
}

/// `?since=&until=`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Span {
    since: Option<String>,
    until: Option<String>,
}

/// `GET …/availability`: the last 30 days if nothing is said; never beyond now, of which nothing is known.
pub(super) async fn availability(
    State(state): State<ApiState>,
    TrunkPath(id): TrunkPath,
    ApiQuery(span): ApiQuery<Span>,
) -> Result<Json<Availability>, Problem> {
    let now = state.now();
    let until = span.until.map_or(Ok(now), |text| instant("until", &text, now))?.min(now);
    let since = span.since.map_or(Ok(before(until, DEFAULT_SPAN)), |text| instant("since", &text, now))?;
    if since >= until {
        return Err(Problem::new(Code::InvalidQuery, "since must be before until, and before now"));
    }
    known_or_remembered(&state, &id).await?;
    let registered_when = state.board().policy().health_of(&id).registered_when;
    Ok(Json(state.store.availability(&id, since, until, registered_when).await?.into()))
}
