//! The board: everything the controller knows at one instant, and the one step that changes it.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    campaign::Campaign,
    diagnosed::Diagnosed,
    gate::GateState,
    hold::{Hold, Incident},
    policy::{ControlPolicy, pairs},
};
use crate::{
    clock::Timestamp,
    health::TrunkHealth,
    ids::{CampaignKey, EndpointName, HoldId, IncidentId, PbxId, TrunkId},
    observation::ListedRegistration,
};

/// Everything the controller knows at one instant.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Board {
    /// The trunks.
    #[serde(with = "pairs")]
    pub(crate) trunks: BTreeMap<TrunkId, TrunkRecord>,
    /// The campaigns, configured and told.
    #[serde(with = "pairs")]
    pub(crate) campaigns: BTreeMap<CampaignKey, Campaign>,
    /// The PBXs heard of.
    pub(crate) pbxs: BTreeMap<PbxId, PbxRecord>,
    /// Incidents that have not ended, and ended ones some campaign of ours still waits for.
    pub(crate) incidents: BTreeMap<IncidentId, Incident>,
    /// Those of them that took more trunks since they were last written.
    #[serde(skip)]
    pub(crate) grown: BTreeSet<IncidentId>,
    /// What decisions are made by; [`Input::Configured`](super::Input::Configured) sets it.
    pub(crate) policy: ControlPolicy,
    /// What ids are made of; see [`Board::new`].
    pub(crate) seed: u64,
    /// How many ids were made.
    pub(crate) minted: u64,
}

/// A trunk on the board.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TrunkRecord {
    /// How it is.
    pub health: TrunkHealth,
    /// Its endpoints, as last listed.
    pub endpoints: Vec<EndpointName>,
    /// Its registrations, as last listed.
    pub registrations: Vec<ListedRegistration>,
    /// The policy's active hold.
    pub policy_hold: Option<Hold>,
    /// An operator's active hold; it outranks everything.
    pub operator_hold: Option<Hold>,
    /// A policy hold was released by an operator.
    pub override_: Option<Override>,
    /// The latest diagnosis.
    #[serde(default)]
    pub diagnosis: Option<Diagnosed>,
    /// What the gate said last.
    pub gate: GateState,
    /// Calls that were refused since the gate last closed; while it allows, of the time that it last held.
    #[serde(default)]
    pub refused_calls: u64,
    /// Those of them that no hold has counted and no entry of history tells yet: the gate closes before a hold begins,
    /// and what was refused in the last instant before it opened is heard of after.
    #[serde(default)]
    pub refused_without_hold: u64,
    /// The hold that ended last, and the calls that were refused during it: what ended is on the board no more, and who
    /// ended it is told.
    #[serde(default)]
    pub last_ended: Option<(HoldId, u64)>,
    /// The gate is closed for a hold, or was since it closed: when it allows again, that is a release.
    #[serde(default)]
    pub(crate) held: bool,
    /// When its health may change by itself; reckoned anew after each fold.
    #[serde(skip)]
    pub(crate) due: Option<Timestamp>,
}

impl TrunkRecord {
    /// The hold that counts: an operator's before the policy's.
    #[must_use]
    pub fn hold(&self) -> Option<&Hold> {
        self.operator_hold.as_ref().or(self.policy_hold.as_ref())
    }

    /// Whether the next tick, at `now`, may change it: its health, an operator's hold or an override is due.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        let expires = self.operator_hold.as_ref().and_then(|hold| hold.until);
        let overridden = self.override_.as_ref().map(|over| over.until);
        [self.due, expires, overridden].into_iter().flatten().any(|instant| instant <= now)
    }
}

/// An operator lets a trunk be dialed on although the policy would hold it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Override {
    /// Who.
    pub by: String,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when at the latest; it ends early when the trunk is stable.
    pub until: Timestamp,
}

/// A PBX on the board.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PbxRecord {
    /// `connecting`, `connected`, `listed`, `lost` or `refused`.
    pub state: String,
    /// Since when.
    pub since: Timestamp,
    /// AMI's version.
    pub version: Option<String>,
    /// Why it is lost or refused.
    pub error: Option<String>,
    /// We switched its SIP history on, and not off again yet.
    #[serde(default)]
    pub recording: bool,
}

impl Board {
    /// An empty board. Ids of holds and messages are ULIDs made of the input's time, `seed` and a count, so that a
    /// replay with the same seed makes the same ones; live, the seed is random.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { seed, ..Self::default() }
    }

    /// Whether nothing was ever stored of it: it needs a seed.
    #[must_use]
    pub fn is_new(&self) -> bool {
        self.seed == 0
    }

    /// The trunks, by id.
    pub fn trunks(&self) -> impl Iterator<Item = (&TrunkId, &TrunkRecord)> {
        self.trunks.iter()
    }

    /// One trunk.
    #[must_use]
    pub fn trunk(&self, id: &TrunkId) -> Option<&TrunkRecord> {
        self.trunks.get(id)
    }

    /// The campaigns, by dialer and id.
    pub fn campaigns(&self) -> impl Iterator<Item = (&CampaignKey, &Campaign)> {
        self.campaigns.iter()
    }

    /// One campaign.
    #[must_use]
    pub fn campaign(&self, key: &CampaignKey) -> Option<&Campaign> {
        self.campaigns.get(key)
    }

    /// The PBXs heard of.
    pub fn pbxs(&self) -> impl Iterator<Item = (&PbxId, &PbxRecord)> {
        self.pbxs.iter()
    }

    /// The incidents that have not ended.
    pub fn incidents(&self) -> impl Iterator<Item = &Incident> {
        self.incidents.values().filter(|incident| incident.ended_at.is_none())
    }

    /// What decisions are made by.
    #[must_use]
    pub fn policy(&self) -> &ControlPolicy {
        &self.policy
    }
}
