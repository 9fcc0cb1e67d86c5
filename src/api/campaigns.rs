//! Campaigns: which there are, and what a dialer that can tell us says of its own.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use super::{
    ApiState, Code, Items, Problem,
    extract::{ApiJson, ApiPath, ApiQuery},
    submit::submit,
};
use crate::{
    clock::Timestamp,
    decision::{self, CampaignReport, CampaignState, Input},
    ids::{CampaignId, CampaignKey, DialerId, HoldId, TrunkId},
};

/// How many campaigns one dialer may tell of: a mistaken loop must not fill the memory.
const MOST_CAMPAIGNS: usize = 10_000;
/// How many trunks one campaign may dial on.
const MOST_TRUNKS: usize = 256;
/// How many trunks may be known before tellings may not add more.
const MOST_KNOWN_TRUNKS: usize = 20_000;
/// The longest name, in characters.
const LONGEST_NAME: usize = 200;

/// A campaign.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Campaign {
    /// Whose.
    pub dialer: DialerId,
    /// Which one.
    pub id: CampaignId,
    /// What people call it.
    pub name: Option<String>,
    /// The trunks it dials on.
    pub trunks: Vec<TrunkId>,
    /// `running`, `paused`, `stopped` or `unknown`, as its dialer said last.
    pub state: CampaignState,
    /// Our pause was taken and no resume of ours yet.
    pub paused_by_us: bool,
    /// Since when its state is so.
    pub since: Timestamp,
    /// The hold it is paused for.
    pub hold: Option<HoldId>,
    /// What we are about with it: `pausing`, `paused`, `resuming`, `was_not_running`, `overridden`, `failed`,
    /// `left_to_person`; `null` is nothing.
    pub intent: Option<String>,
}

impl Campaign {
    fn of(key: &CampaignKey, campaign: &decision::Campaign) -> Self {
        let claim = campaign.claim.as_ref();
        Self {
            dialer: key.dialer.clone(),
            id: key.id.clone(),
            name: campaign.spec.name.clone(),
            trunks: campaign.spec.trunks.clone(),
            state: campaign.state,
            paused_by_us: claim.is_some_and(|claim| claim.stage.is_paused_by_us()),
            since: campaign.since,
            hold: claim.map(|claim| claim.hold.clone()),
            intent: claim.map(|claim| claim.stage.as_str().to_owned()),
        }
    }
}

/// No parameters: a mistyped one must not look like an answer.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoFilter {}

/// `GET /campaigns`
pub(super) async fn list(
    State(state): State<ApiState>,
    ApiQuery(NoFilter {}): ApiQuery<NoFilter>,
) -> Json<Items<Campaign>> {
    let board = state.board();
    Json(Items { items: board.campaigns().map(|(key, campaign)| Campaign::of(key, campaign)).collect() })
}

/// What a dialer says of a campaign; what it leaves out stays as it was.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Telling {
    name: Option<String>,
    trunks: Option<Vec<TrunkId>>,
    state: Option<CampaignState>,
}

/// `PUT /campaigns/{dialer}/{id}`
pub(super) async fn tell(
    State(state): State<ApiState>,
    ApiPath((dialer, id)): ApiPath<(String, String)>,
    ApiJson(telling): ApiJson<Telling>,
) -> Result<Json<Campaign>, Problem> {
    let invalid = |error: crate::ids::NameError| Problem::new(Code::InvalidPath, error.to_string());
    let key = CampaignKey {
        dialer: DialerId::try_from(dialer).map_err(invalid)?,
        id: CampaignId::try_from(id).map_err(invalid)?,
    };
    check(&state, &key, &telling)?;
    let report = CampaignReport { key: key.clone(), name: telling.name, trunks: telling.trunks, state: telling.state };
    submit(&state, Input::Campaign { at: state.now(), report }).await?;
    let board = state.board();
    board.campaign(&key).map(|campaign| Json(Campaign::of(&key, campaign))).ok_or_else(|| {
        Problem::caused_by(
            Code::Internal,
            format!("campaign {key} is not to be found"),
            "a told campaign left no trace",
        )
    })
}

fn check(state: &ApiState, key: &CampaignKey, telling: &Telling) -> Result<(), Problem> {
    let board = state.board();
    if !board.policy().dialers.contains_key(&key.dialer) {
        return Err(Problem::new(
            Code::UnknownDialer,
            format!("there is no [[dialer]] with id {:?} in the configuration", key.dialer.as_str()),
        ));
    }
    let trunks = telling.trunks.as_deref().unwrap_or_default();
    if trunks.len() > MOST_TRUNKS {
        return Err(Problem::new(Code::TooMany, format!("a campaign dials on at most {MOST_TRUNKS} trunks")));
    }
    // A trunk that is told of is known from then on, and held until its PBX lists it.
    let new = trunks.iter().filter(|id| board.trunk(id).is_none()).count();
    if new > 0 && board.trunks().count() + new > MOST_KNOWN_TRUNKS {
        return Err(Problem::new(Code::TooMany, format!("more than {MOST_KNOWN_TRUNKS} trunks would be known")));
    }
    if telling.name.as_ref().is_some_and(|name| name.chars().count() > LONGEST_NAME || name.contains(char::is_control))
    {
        return Err(Problem::new(Code::InvalidBody, "name: at most 200 characters, none of them a control character"));
    }
    if board.campaign(key).is_none()
        && board.campaigns().filter(|(known, _)| known.dialer == key.dialer).count() >= MOST_CAMPAIGNS
    {
        return Err(Problem::new(Code::TooMany, format!("a dialer may tell of at most {MOST_CAMPAIGNS} campaigns")));
    }
    Ok(())
}
