//! Holds: which there are, and a person's hold and release, of one trunk or of many at once.
//!
//! A bulk request is one input to the deciding loop, so it is in force everywhere or nowhere.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use super::{
    ApiState, Code, Items, Problem,
    auth::Caller,
    extract::{ApiJson, ApiQuery, TrunkPath, limit},
    submit::submit,
    trunks,
};
use crate::{
    clock::Timestamp,
    decision::{self, Act, Board, By, Input},
    diagnosis::Brief,
    health::Health,
    ids::{HoldId, TrunkId},
};

/// The longest reason, in characters: it is shown in tables, webhooks and AMI errors.
const LONGEST_REASON: usize = 300;
/// How long a release overrides the policy if nothing is said.
const DEFAULT_RELEASE: Duration = Duration::from_secs(15 * 60);
/// How long it does at most.
const LONGEST_RELEASE: Duration = Duration::from_secs(24 * 3600);
/// How long a hold with an end lasts at most; one without an end may last for ever.
const LONGEST_HOLD: Duration = Duration::from_secs(366 * 24 * 3600);

/// A hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// `hold_…`.
    pub id: HoldId,
    /// The held trunk.
    pub trunk: TrunkId,
    /// Since when.
    pub since: Timestamp,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
    /// `policy` or `operator:NAME`.
    pub by: By,
    /// Why.
    pub reason: String,
    /// The trunk's health when it began.
    pub health: Health,
    /// Why, without the evidence; of a policy's hold only.
    pub diagnosis: Option<Brief>,
    /// When it ended.
    pub released_at: Option<Timestamp>,
    /// Who ended it.
    pub released_by: Option<By>,
    /// Originates refused during it.
    pub refused_calls: u64,
    /// The campaigns paused for it now, as `dialer/id`.
    pub campaigns: Vec<String>,
}

/// Which campaigns are claimed for which hold.
#[derive(Debug, Default)]
pub struct CampaignsOfHolds(HashMap<HoldId, Vec<String>>);

impl CampaignsOfHolds {
    /// As the board has it.
    pub(super) fn on(board: &Board) -> Self {
        let mut claims: HashMap<HoldId, Vec<String>> = HashMap::new();
        for (key, campaign) in board.campaigns() {
            if let Some(claim) = &campaign.claim {
                claims.entry(claim.hold.clone()).or_default().push(key.to_string());
            }
        }
        Self(claims)
    }
}

impl Hold {
    /// A hold as the API shows it.
    pub(super) fn of(hold: &decision::Hold, campaigns: &CampaignsOfHolds) -> Self {
        Self {
            id: hold.id.clone(),
            trunk: hold.trunk.clone(),
            since: hold.since,
            until: hold.until,
            by: hold.by.clone(),
            reason: hold.reason.clone(),
            health: hold.health,
            diagnosis: hold.diagnosis.clone(),
            released_at: hold.released_at,
            released_by: hold.released_by.clone(),
            refused_calls: hold.refused_calls,
            campaigns: campaigns.0.get(&hold.id).cloned().unwrap_or_default(),
        }
    }
}

/// `?active=&limit=`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    active: Option<bool>,
    limit: Option<u32>,
}

/// `GET /holds`. The active ones come from memory, so that they can be seen while the store is away.
pub(super) async fn list(
    State(state): State<ApiState>,
    ApiQuery(filter): ApiQuery<Filter>,
) -> Result<Json<Items<Hold>>, Problem> {
    let limit = limit(filter.limit)?;
    if filter.active == Some(true) {
        let board = state.board();
        let campaigns = CampaignsOfHolds::on(&board);
        let mut items: Vec<_> = board
            .trunks()
            .flat_map(|(_, record)| record.operator_hold.iter().chain(&record.policy_hold))
            .filter(|hold| hold.is_active())
            .map(|hold| Hold::of(hold, &campaigns))
            .collect();
        items.sort_by(|a, b| (b.since, &b.id).cmp(&(a.since, &a.id)));
        items.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
        return Ok(Json(Items { items }));
    }
    let found = state.store.holds(filter.active, limit).await?;
    let board = state.board();
    let campaigns = CampaignsOfHolds::on(&board);
    Ok(Json(Items { items: found.iter().map(|hold| Hold::of(hold, &campaigns)).collect() }))
}

/// What a hold or a release of one trunk says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OneBody {
    reason: String,
    #[serde(rename = "for")]
    lasting: Option<String>,
}

/// What a hold or a release of several trunks says.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManyBody {
    /// `pbx/trunk`, `pbx/*` or `*`.
    trunks: Vec<String>,
    reason: String,
    #[serde(rename = "for")]
    lasting: Option<String>,
}

/// Which of the two acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Hold,
    Release,
}

/// `POST …/hold`
pub(super) async fn hold_one(
    State(state): State<ApiState>,
    caller: Caller,
    TrunkPath(id): TrunkPath,
    ApiJson(body): ApiJson<OneBody>,
) -> Result<Json<Hold>, Problem> {
    one(&state, Kind::Hold, &caller, id, body).await
}

/// `POST …/release`
pub(super) async fn release_one(
    State(state): State<ApiState>,
    caller: Caller,
    TrunkPath(id): TrunkPath,
    ApiJson(body): ApiJson<OneBody>,
) -> Result<Json<Hold>, Problem> {
    one(&state, Kind::Release, &caller, id, body).await
}

/// `POST /holds`
pub(super) async fn hold_many(
    State(state): State<ApiState>,
    caller: Caller,
    ApiJson(body): ApiJson<ManyBody>,
) -> Result<Json<Items<Hold>>, Problem> {
    many(&state, Kind::Hold, &caller, body).await
}

/// `POST /holds/release`
pub(super) async fn release_many(
    State(state): State<ApiState>,
    caller: Caller,
    ApiJson(body): ApiJson<ManyBody>,
) -> Result<Json<Items<Hold>>, Problem> {
    many(&state, Kind::Release, &caller, body).await
}

async fn one(state: &ApiState, kind: Kind, caller: &Caller, id: TrunkId, body: OneBody) -> Result<Json<Hold>, Problem> {
    let act = act(kind, body.reason, body.lasting.as_deref())?;
    if state.board().trunk(&id).is_none() {
        return Err(trunks::unknown(&id));
    }
    let holds = carry_out(state, caller, act, BTreeSet::from([id.clone()])).await?;
    holds.into_iter().next().map(Json).ok_or_else(|| {
        Problem::caused_by(
            Code::Internal,
            format!("the hold on {id} is not to be found"),
            "a submitted hold left no trace",
        )
    })
}

async fn many(state: &ApiState, kind: Kind, caller: &Caller, body: ManyBody) -> Result<Json<Items<Hold>>, Problem> {
    let act = act(kind, body.reason, body.lasting.as_deref())?;
    let chosen = choose(&state.board(), &body.trunks)?;
    Ok(Json(Items { items: carry_out(state, caller, act, chosen).await? }))
}

/// The trunks that `patterns` mean. What means nothing is an error: a mistyped PBX must not look like success.
fn choose(board: &Board, patterns: &[String]) -> Result<BTreeSet<TrunkId>, Problem> {
    if patterns.is_empty() {
        return Err(Problem::new(Code::InvalidBody, "trunks: name at least one, as pbx/trunk, pbx/* or *"));
    }
    let mut chosen = BTreeSet::new();
    for pattern in patterns {
        let before = chosen.len();
        let mut matched = false;
        if let Some(pbx) = pattern.strip_suffix("/*").or_else(|| (pattern == "*").then_some("")) {
            for (id, _) in board.trunks().filter(|(id, _)| pbx.is_empty() || id.pbx_str() == pbx) {
                matched = true;
                chosen.insert(id.clone());
            }
        } else {
            let id = TrunkId::try_from(pattern.as_str())
                .map_err(|error| Problem::new(Code::InvalidBody, format!("trunks: {error}")))?;
            matched = board.trunk(&id).is_some();
            chosen.insert(id);
        }
        if !matched {
            debug_assert!(chosen.len() <= before + 1);
            return Err(Problem::new(
                Code::UnknownTrunk,
                format!("{pattern} is no known trunk; GET /api/v1/trunks lists the known ones"),
            ));
        }
    }
    Ok(chosen)
}

/// Submits the act and gives the holds it began, changed or ended.
async fn carry_out(
    state: &ApiState,
    caller: &Caller,
    act: Act,
    mut chosen: BTreeSet<TrunkId>,
) -> Result<Vec<Hold>, Problem> {
    let releasing = matches!(act, Act::Release { .. });
    let before: Vec<decision::Hold> = {
        let board = state.board();
        chosen.iter().filter_map(|id| board.trunk(id)?.hold().cloned()).collect()
    };
    if releasing {
        chosen = before.iter().map(|hold| hold.trunk.clone()).collect();
        if chosen.is_empty() {
            return Err(Problem::new(
                Code::NotHeld,
                "nothing is held there; the gate's reason says why it does not allow",
            ));
        }
    }
    let at = state.now();
    let trunks: Vec<TrunkId> = chosen.into_iter().collect();
    submit(state, Input::Operator { at, name: caller.name.clone(), trunks: trunks.clone(), act }).await?;
    let board = state.board();
    let campaigns = CampaignsOfHolds::on(&board);
    if !releasing {
        let begun = trunks.iter().filter_map(|id| board.trunk(id)?.operator_hold.as_ref());
        return Ok(begun.map(|hold| Hold::of(hold, &campaigns)).collect());
    }
    let ended = before.into_iter().map(|mut hold| {
        let current = board.trunk(&hold.trunk).and_then(|record| {
            record.operator_hold.iter().chain(&record.policy_hold).find(|current| current.id == hold.id)
        });
        // An overridden policy hold may stay on the board; an ended one has left it for history.
        if let Some(current) = current {
            return Hold::of(current, &campaigns);
        }
        // More may have been refused between the question and the release.
        let last = board.trunk(&hold.trunk).and_then(|record| record.last_ended.as_ref());
        if let Some((_, calls)) = last.filter(|(id, _)| *id == hold.id) {
            hold.refused_calls = *calls;
        }
        hold.released_at = Some(at);
        hold.released_by = Some(By::Operator(caller.name.clone()));
        Hold::of(&hold, &campaigns)
    });
    Ok(ended.collect())
}

/// The act a body asks for.
fn act(kind: Kind, reason: String, lasting: Option<&str>) -> Result<Act, Problem> {
    let reason = checked_reason(&reason)?;
    Ok(match kind {
        Kind::Hold => Act::Hold { reason, lasting: lasting.map(|text| span(text, LONGEST_HOLD)).transpose()? },
        Kind::Release => {
            let lasting = lasting.map_or(Ok(DEFAULT_RELEASE), |text| span(text, LONGEST_RELEASE))?;
            Act::Release { reason, lasting: Some(lasting) }
        }
    })
}

fn checked_reason(reason: &str) -> Result<String, Problem> {
    let reason = reason.trim();
    let fault = if reason.is_empty() {
        "must say why"
    } else if reason.chars().count() > LONGEST_REASON {
        "is longer than 300 characters"
    } else if reason.chars().any(char::is_control) {
        "must be one line, without control characters"
    } else {
        return Ok(reason.to_owned());
    };
    Err(Problem::new(Code::InvalidBody, format!("reason: {fault}")))
}

fn span(text: &str, longest: Duration) -> Result<Duration, Problem> {
    let fault = match humantime::parse_duration(text) {
        Ok(span) if span.is_zero() => "must be longer than nothing".to_owned(),
        Ok(span) if span > longest => format!("is longer than {}", humantime::format_duration(longest)),
        Ok(span) => return Ok(span),
        Err(_) => "is no span of time: use 30s, 15m, 1h, 2d".to_owned(),
    };
    Err(Problem::new(Code::InvalidBody, format!("for: {text:?} {fault}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_that_says_something() {
        assert_eq!(checked_reason(" maintenance ").unwrap(), "maintenance");
        for reason in ["", "  \t", "a\r\nAction: x", "bell\u{7}", "x".repeat(301).as_str()] {
            assert!(checked_reason(reason).is_err(), "{reason:?}");
        }
        assert!(checked_reason(&"ü".repeat(300)).is_ok());
    }

    #[test]
    fn a_release_is_bounded_and_a_hold_need_not_end() {
        let release = |lasting| act(Kind::Release, "x".to_owned(), lasting);
        assert_eq!(
            release(None).unwrap(),
            Act::Release { reason: "x".to_owned(), lasting: Some(Duration::from_secs(900)) }
        );
        assert!(release(Some("24h")).is_ok());
        assert!(release(Some("24h 1s")).is_err());
        assert!(release(Some("0s")).is_err());
        assert!(release(Some("soon")).is_err());
        let hold = |lasting| act(Kind::Hold, "x".to_owned(), lasting);
        assert_eq!(hold(None).unwrap(), Act::Hold { reason: "x".to_owned(), lasting: None });
        assert!(hold(Some("30d")).is_ok());
        assert!(hold(Some("100000d")).is_err());
    }
}
