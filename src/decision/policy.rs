//! What the decisions are made by: the parameters this room takes, filled from the configuration.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{outcome::MessageType, window::Window};
use crate::{
    health::HealthPolicy,
    ids::{CampaignKey, DialerId, TrunkId},
};

/// Whether decisions are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// They are.
    #[default]
    Enforce,
    /// They are recorded only: nothing is sent, and the gate always allows and says so.
    Observe,
}

/// Which of a campaign's trunks must be held for it to be paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HoldWhen {
    /// One of them.
    #[default]
    Any,
    /// All of them.
    All,
}

/// How patient we are with one dialer's pauses.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DialerPolicy {
    /// How long a hold must last before a pause is sent.
    pub pause_after: Duration,
    /// How long a PBX must be unheard before a pause is sent, counted from the last byte heard.
    pub pause_unknown_after: Duration,
}

/// One campaign as the configuration gives it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CampaignSpec {
    /// Which campaign of which dialer.
    pub key: CampaignKey,
    /// What people call it.
    pub name: Option<String>,
    /// The trunks it dials on. One that is not known holds it.
    pub trunks: Vec<TrunkId>,
    /// Which of them must be held.
    pub hold_when: HoldWhen,
    /// Trunks the dialer might use instead; told to it, not acted on.
    pub fallback: Vec<TrunkId>,
    /// When a resume may be sent; always, if `None`.
    pub resume_window: Option<Window>,
    /// A pause older than this is a person's to resume.
    pub resume_within: Option<Duration>,
}

/// One `[[notify]]`: people, not dialers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NotifyTarget {
    /// Its name in the outbox: the URL without its query, which may hold a secret.
    pub name: String,
    /// What it wants to hear of.
    pub types: BTreeSet<MessageType>,
}

/// Everything the board decides by.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ControlPolicy {
    /// Enforce or observe.
    pub mode: Mode,
    /// The health policy of trunks without one of their own.
    pub health: HealthPolicy,
    /// Health policies by trunk (`[trunk.health]`, `registered_when`).
    #[serde(with = "pairs")]
    pub trunk_health: BTreeMap<TrunkId, HealthPolicy>,
    /// Trunks the configuration names.
    pub declared: BTreeSet<TrunkId>,
    /// By dialer.
    pub dialers: BTreeMap<DialerId, DialerPolicy>,
    /// The configured campaigns.
    #[serde(with = "pairs")]
    pub campaigns: BTreeMap<CampaignKey, CampaignSpec>,
    /// Who is told of what.
    pub notify: Vec<NotifyTarget>,
}

impl ControlPolicy {
    /// The health policy of `trunk`.
    #[must_use]
    pub fn health_of(&self, trunk: &TrunkId) -> &HealthPolicy {
        self.trunk_health.get(trunk).unwrap_or(&self.health)
    }
}

/// Maps with structured keys as lists of pairs: JSON's objects have text keys only.
pub(crate) mod pairs {
    use std::collections::BTreeMap;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(crate) fn serialize<K: Serialize, V: Serialize, S: Serializer>(
        map: &BTreeMap<K, V>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map.iter())
    }

    pub(crate) fn deserialize<'de, K, V, D>(deserializer: D) -> Result<BTreeMap<K, V>, D::Error>
    where
        K: Deserialize<'de> + Ord,
        V: Deserialize<'de>,
        D: Deserializer<'de>,
    {
        Ok(Vec::<(K, V)>::deserialize(deserializer)?.into_iter().collect())
    }
}
