//! `GET /outbox`: what is to be sent, was sent, or was given up.

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};

use super::{
    ApiState, Items, Problem,
    extract::{ApiQuery, limit, words},
};
use crate::{
    clock::Timestamp,
    decision::{MessageType, Recipient},
    ids::{CampaignId, MessageId},
    store::{self, OutboxState},
};

const STATES: [OutboxState; 3] = [OutboxState::Pending, OutboxState::Delivered, OutboxState::Abandoned];

/// An outbox item.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OutboxItem {
    /// Its id, and the `webhook-id` of every attempt.
    pub id: MessageId,
    /// Of which type.
    #[serde(rename = "type")]
    pub kind: MessageType,
    /// To which dialer; `notify:NAME` for people. A dialer's id has no colon.
    pub dialer: String,
    /// About which of the dialer's campaigns.
    pub campaign: Option<CampaignId>,
    /// `pending`, `delivered` or `abandoned`.
    pub state: OutboxState,
    /// Attempts so far.
    pub attempts: u32,
    /// When the next one is due.
    pub next_at: Option<Timestamp>,
    /// Why the last one failed.
    pub last_error: Option<String>,
}

impl From<store::OutboxItem> for OutboxItem {
    fn from(item: store::OutboxItem) -> Self {
        Self {
            id: item.message.id,
            kind: item.message.kind,
            dialer: match item.message.to {
                Recipient::Dialer(id) => id.into(),
                Recipient::Notify(name) => format!("notify:{name}"),
            },
            campaign: item.message.campaign.map(|key| key.id),
            state: item.state,
            attempts: item.attempts,
            next_at: item.next_at,
            last_error: item.last_error,
        }
    }
}

/// `?state=&limit=`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filter {
    state: Option<String>,
    limit: Option<u32>,
}

/// `GET /outbox`
pub(super) async fn list(
    State(state): State<ApiState>,
    ApiQuery(filter): ApiQuery<Filter>,
) -> Result<Json<Items<OutboxItem>>, Problem> {
    let limit = limit(filter.limit)?;
    let wanted = match &filter.state {
        Some(text) => words("state", text, &STATES, OutboxState::as_str)?.first().copied(),
        None => None,
    };
    let found = state.store.outbox(wanted, limit).await?;
    Ok(Json(Items { items: found.into_iter().map(OutboxItem::from).collect() }))
}
