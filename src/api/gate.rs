//! `GET /gate`: may I dial on this trunk now?
//!
//! Answered from memory, always: a dialer asks before each call, and the answer must not depend on a disk. What is not
//! known holds, with the reason; only a question that is none is an error, so that a mistake in the dialer is seen.

use std::time::Duration;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use super::{ApiState, Code, Problem, extract::ApiQuery};
use crate::{
    clock::{Timestamp, between},
    decision::{Board, Campaign, Gate, GateState, HoldWhen, Mode, Stage, trunks_of_channel},
    health::Health,
    ids::{CampaignId, CampaignKey, DialerId, PbxId, TrunkId},
};

/// How long an answer may be used at most: a hold reaches every asker within this time.
const VALID: Duration = Duration::from_secs(1);
/// How long it may be used at least, so that an instant just passed does not make everybody ask at once.
const VALID_AT_LEAST: Duration = Duration::from_millis(50);
/// When to ask again about a hold that has no known end.
const RETRY: Duration = Duration::from_secs(5);
/// When to ask again at the latest: most holds end earlier than they might.
const RETRY_AT_MOST: Duration = Duration::from_secs(60);

/// The gate's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GateAnswer {
    /// Whether a call may be originated.
    pub allow: bool,
    /// The trunk; empty where a channel belongs to none that is known.
    pub trunk: String,
    /// Its health.
    pub health: Health,
    /// Why.
    pub reason: String,
    /// When to ask again, if not allowed; else 0.
    pub retry_after_seconds: u64,
    /// How long the answer may be used.
    pub valid_for_ms: u64,
}

/// `?trunk=` or `?pbx=&channel=`, `[&campaign=]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    trunk: Option<String>,
    pbx: Option<String>,
    channel: Option<String>,
    campaign: Option<String>,
}

/// `GET /gate`
pub(super) async fn ask(
    State(state): State<ApiState>,
    ApiQuery(question): ApiQuery<Question>,
) -> Result<Json<GateAnswer>, Problem> {
    let now = state.now();
    let invalid = |error: crate::ids::NameError| Problem::new(Code::InvalidQuery, error.to_string());
    let trunk = match (question.trunk, question.pbx, question.channel) {
        (Some(trunk), None, None) => Some(TrunkId::try_from(trunk).map_err(invalid)?),
        (None, Some(pbx), Some(channel)) => {
            let pbx = PbxId::try_from(pbx).map_err(invalid)?;
            match way_of(&state.gate, &pbx, &channel) {
                Ok(trunk) => Some(trunk),
                Err(reason) => {
                    return Ok(Json(unheard(String::new(), &reason, state.board().policy().mode)));
                }
            }
        }
        (Some(_), _, _) | (None, None, _) | (None, Some(_), None) => None,
    };
    let Some(trunk) = trunk else {
        return Err(Problem::new(
            Code::InvalidQuery,
            "ask ?trunk=pbx/trunk, or ?pbx=pbx&channel=PJSIP/number@endpoint",
        ));
    };
    let Some(said) = state.gate.state(&trunk) else {
        let reason = "no such trunk is known, or its PBX was not listed yet";
        return Ok(Json(unheard(trunk.to_string(), reason, state.board().policy().mode)));
    };
    let mut answer = answer(&trunk, &said, now);
    // The board is asked for campaigns only: a plain question must not wait for a step that is being decided.
    if answer.allow
        && let Some(campaign) = question.campaign
        && let Some(reason) = campaign_held(&state.board(), &state.gate, &campaign)
    {
        answer.allow = false;
        answer.reason = reason;
        answer.retry_after_seconds = RETRY.as_secs();
    }
    Ok(Json(answer))
}

/// The trunk that a channel's answer is about: of several, one that holds.
///
/// # Errors
/// In words, when a way of it leads to no known trunk, and none of the others is held: nobody can say that it is well.
fn way_of(gate: &Gate, pbx: &PbxId, channel: &str) -> Result<TrunkId, String> {
    let ways = trunks_of_channel(gate, pbx, channel);
    let held = |trunk: &&TrunkId| gate.state(trunk).is_none_or(|said| !said.allow);
    let held = ways.trunks.iter().find(held).cloned();
    let unknown = || format!("{channel} goes out on no trunk of {pbx} that is known");
    match held {
        Some(trunk) => Ok(trunk),
        None if ways.uncertain => Err(unknown()),
        None => ways.trunks.into_iter().next().ok_or_else(unknown),
    }
}

fn answer(trunk: &TrunkId, said: &GateState, now: Timestamp) -> GateAnswer {
    let left = said.until.map(|until| between(now, until));
    let valid = left.map_or(VALID, |left| left.clamp(VALID_AT_LEAST, VALID));
    let retry = left.unwrap_or(RETRY).clamp(Duration::from_secs(1), RETRY_AT_MOST);
    GateAnswer {
        allow: said.allow,
        trunk: trunk.to_string(),
        health: said.health,
        reason: said.reason.clone(),
        retry_after_seconds: if said.allow {
            0
        } else {
            retry.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX)
        },
        valid_for_ms: valid.as_millis().try_into().unwrap_or(u64::MAX),
    }
}

/// What is said of what was never heard of: hold, unless nothing is ever held.
fn unheard(trunk: String, reason: &str, mode: Mode) -> GateAnswer {
    let (allow, reason) = match mode {
        Mode::Enforce => (false, reason.to_owned()),
        Mode::Observe => (true, format!("observing only; would hold: {reason}")),
    };
    GateAnswer {
        allow,
        trunk,
        health: Health::Unknown,
        reason,
        retry_after_seconds: if allow { 0 } else { RETRY.as_secs() },
        valid_for_ms: VALID.as_millis().try_into().unwrap_or(u64::MAX),
    }
}

/// Why the campaign may not dial although the asked trunk may be dialed on.
///
/// `asked` is `dialer/id`, or an id alone, which then means every dialer's campaign of that id: where it cannot be told
/// which is meant, any hold counts. A campaign that nobody told us of is held by its trunk only.
fn campaign_held(board: &Board, gate: &Gate, asked: &str) -> Option<String> {
    if board.policy().mode == Mode::Observe {
        return None;
    }
    let exact = asked.split_once('/').and_then(|(dialer, id)| {
        let key = CampaignKey { dialer: DialerId::try_from(dialer).ok()?, id: CampaignId::try_from(id).ok()? };
        board.campaign(&key).map(|campaign| (key, campaign))
    });
    match exact {
        Some((key, campaign)) => why_held(board, gate, &key, campaign),
        None => board
            .campaigns()
            .filter(|(key, _)| key.id.as_str() == asked)
            .find_map(|(key, campaign)| why_held(board, gate, key, campaign)),
    }
}

fn why_held(board: &Board, gate: &Gate, key: &CampaignKey, campaign: &Campaign) -> Option<String> {
    if let Some(claim) = &campaign.claim {
        match claim.stage {
            Stage::Pausing { .. } | Stage::Paused { .. } => {
                return Some(format!("campaign {key} is paused since {:.0} for {}", claim.since, claim.trunk));
            }
            Stage::LeftToPerson => {
                return Some(format!(
                    "campaign {key} was paused for too long to go on by itself: a person must resume it"
                ));
            }
            // A person wants it to dial in spite of the hold; the asked trunk's own gate was asked before.
            Stage::Overridden => return None,
            Stage::Resuming { .. } | Stage::WasNotRunning | Stage::Failed { .. } => {}
        }
    }
    let trunks = &campaign.spec.trunks;
    let held: Vec<_> = trunks.iter().filter_map(|id| trunk_held(board, gate, id)).collect();
    let stopped = match campaign.spec.hold_when {
        HoldWhen::Any => !held.is_empty(),
        HoldWhen::All => !trunks.is_empty() && held.len() == trunks.len(),
    };
    let which = match campaign.spec.hold_when {
        HoldWhen::Any => "one of its trunks",
        HoldWhen::All => "all of its trunks",
    };
    held.first().filter(|_| stopped).map(|why| format!("campaign {key} is held with {which}: {why}"))
}

/// Why a campaign's trunk counts as held: it is not known, or has a hold that the gate is in force for.
fn trunk_held(board: &Board, gate: &Gate, id: &TrunkId) -> Option<String> {
    let Some(record) = board.trunk(id) else {
        return Some(format!("{id} is not known"));
    };
    let hold = record.hold()?;
    let closed = gate.state(id).is_none_or(|said| !said.allow);
    closed.then(|| format!("{id} is held: {}", hold.reason))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::after;

    fn said(allow: bool, until: Option<Timestamp>) -> GateState {
        GateState {
            allow,
            reason: "x".to_owned(),
            since: Timestamp::UNIX_EPOCH,
            health: Health::Down,
            until,
            released: None,
            cause: None,
        }
    }

    #[test]
    fn an_answer_is_not_valid_beyond_the_instant_it_may_change_at() {
        let trunk = TrunkId::try_from("pbx1/airtel").unwrap();
        let now = Timestamp::UNIX_EPOCH;
        let ask = |allow, millis: Option<u64>| {
            let answer = answer(&trunk, &said(allow, millis.map(|ms| after(now, Duration::from_millis(ms)))), now);
            (answer.retry_after_seconds, answer.valid_for_ms)
        };
        assert_eq!(ask(false, None), (5, 1000));
        assert_eq!(ask(false, Some(30_000)), (30, 1000));
        assert_eq!(ask(false, Some(29_100)), (30, 1000));
        assert_eq!(ask(false, Some(400)), (1, 400));
        assert_eq!(ask(false, Some(0)), (1, 50));
        assert_eq!(ask(false, Some(3_600_000)), (60, 1000));
        assert_eq!(ask(true, Some(400)), (0, 400));
        assert_eq!(ask(true, None), (0, 1000));
    }

    #[test]
    fn what_was_never_heard_of_holds_unless_nothing_is_held() {
        assert!(!unheard(String::new(), "x", Mode::Enforce).allow);
        let observed = unheard(String::new(), "x", Mode::Observe);
        assert!(observed.allow && observed.reason.contains("would hold"));
    }
}
