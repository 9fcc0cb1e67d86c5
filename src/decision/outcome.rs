//! What a step says: what changed, and what must be done. It is committed as a whole or not at all.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    board::{PbxRecord, TrunkRecord},
    campaign::Campaign,
    gate::GateState,
    hold::{Hold, Incident},
    input::Input,
};
use crate::{
    clock::Timestamp,
    ids::{CampaignKey, DialerId, MessageId, PbxId, TrunkId},
};

/// The result of one step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Outcome {
    /// The input, if it is to be journaled: a tick that changed nothing is not.
    pub input: Option<Input>,
    /// What history is to remember.
    pub records: Vec<Record>,
    /// Decisions, for the journal and the event stream.
    pub events: Vec<Event>,
    /// Trunks that changed, as they are after the step; `None` for one that was forgotten.
    pub trunks: BTreeMap<TrunkId, Option<TrunkRecord>>,
    /// Campaigns that changed, as they are after the step; `None` for one that is gone.
    pub campaigns: BTreeMap<CampaignKey, Option<Campaign>>,
    /// PBXs that changed, as they are after the step.
    pub pbxs: BTreeMap<PbxId, PbxRecord>,
    /// The board's seed and how many ids it has made by now, when it made some.
    pub minted: Option<(u64, u64)>,
    /// Holds begun or changed.
    pub holds: Vec<Hold>,
    /// Incidents begun or changed.
    pub incidents: Vec<Incident>,
    /// Messages to send.
    pub messages: Vec<Message>,
    /// Messages that need no more attempts.
    pub settled: Vec<Settled>,
    /// What the gate says from now on. Towards hold it is published before the commit, towards release after.
    pub gate: BTreeMap<TrunkId, GateState>,
}

/// What a record is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// One trunk.
    Trunk(TrunkId),
    /// A PBX: it is shown in the history of each of its trunks.
    Pbx(PbxId),
}

/// The kinds of history entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// A registration's attempts.
    Registration,
    /// A contact's status.
    Contact,
    /// The trunk's health.
    Health,
    /// A diagnosis.
    Diagnosis,
    /// A hold begun or ended.
    Hold,
    /// The gate's answer.
    Gate,
    /// Call figures.
    CallWindow,
    /// The PBX's link, or the controller itself.
    Pbx,
}

impl EntryKind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Registration,
        Self::Contact,
        Self::Health,
        Self::Diagnosis,
        Self::Hold,
        Self::Gate,
        Self::CallWindow,
        Self::Pbx,
    ];

    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Registration => "registration",
            Self::Contact => "contact",
            Self::Health => "health",
            Self::Diagnosis => "diagnosis",
            Self::Hold => "hold",
            Self::Gate => "gate",
            Self::CallWindow => "call_window",
            Self::Pbx => "pbx",
        }
    }
}

/// One outcome for history. The store makes runs of them: where the newest entry of the same scope, kind and subject
/// has the same `to`, its count and `last_at` grow; else a new entry begins, whose `from` is the old one's `to`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Whose history.
    pub scope: Scope,
    /// Of which kind.
    pub kind: EntryKind,
    /// What in it, where there may be several: a registration's name, a contact's URI; else empty.
    pub subject: String,
    /// The outcome.
    pub to: String,
    /// When.
    pub at: Timestamp,
    /// More about it, kept from the first of a run; of a diagnosis, from the last.
    pub detail: serde_json::Value,
}

/// The types of messages and events, part of the public contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum MessageType {
    /// Pause a campaign.
    #[serde(rename = "campaign.pause")]
    CampaignPause,
    /// Resume it.
    #[serde(rename = "campaign.resume")]
    CampaignResume,
    /// A trunk's health changed.
    #[serde(rename = "trunk.health")]
    TrunkHealth,
    /// A failure was diagnosed.
    #[serde(rename = "trunk.diagnosis")]
    TrunkDiagnosis,
    /// Many trunks failed together.
    #[serde(rename = "incident")]
    Incident,
}

impl MessageType {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::CampaignPause, Self::CampaignResume, Self::TrunkHealth, Self::TrunkDiagnosis, Self::Incident];

    /// The word of the contract.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CampaignPause => "campaign.pause",
            Self::CampaignResume => "campaign.resume",
            Self::TrunkHealth => "trunk.health",
            Self::TrunkDiagnosis => "trunk.diagnosis",
            Self::Incident => "incident",
        }
    }
}

/// To whom a message goes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Recipient {
    /// A dialer.
    Dialer(DialerId),
    /// A `[[notify]]`, by its name.
    Notify(String),
}

/// A message for the outbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Its id, and the `webhook-id` of every attempt.
    pub id: MessageId,
    /// To whom.
    pub to: Recipient,
    /// About which campaign: messages about one campaign are delivered in order.
    pub campaign: Option<CampaignKey>,
    /// Of which type.
    pub kind: MessageType,
    /// The whole body: `{"type","timestamp","data":{…}}`.
    pub body: serde_json::Value,
    /// When it was decided.
    pub at: Timestamp,
}

/// A message that needs no more attempts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// Which one.
    pub message: MessageId,
    /// `None` when it was delivered; else why it was given up or is not wanted any more.
    pub error: Option<String>,
    /// When.
    pub at: Timestamp,
}

/// A decision, as the journal and the event stream know it. `data` is shaped as a webhook's body's `data`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// `trunk.health`, `hold.begun`, `hold.ended`, `campaign.pause`, `campaign.resume`, `campaign.left`, `gate`,
    /// `incident`.
    #[serde(rename = "type")]
    pub kind: String,
    /// When.
    pub at: Timestamp,
    /// What.
    pub data: serde_json::Value,
}
