//! Holds and incidents: our recorded reasons for stopping campaigns.

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    diagnosis::Brief,
    health::Health,
    ids::{HoldId, IncidentId, PbxId, TrunkId},
};

/// Who decided.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", from = "String")]
pub enum By {
    /// The health policy.
    Policy,
    /// A person, by the name of their token; `cli` on loopback without tokens.
    Operator(String),
}

impl From<By> for String {
    fn from(by: By) -> Self {
        match by {
            By::Policy => "policy".to_owned(),
            By::Operator(name) => format!("operator:{name}"),
        }
    }
}

impl From<String> for By {
    fn from(text: String) -> Self {
        match text.strip_prefix("operator:") {
            Some(name) => Self::Operator(name.to_owned()),
            None => Self::Policy,
        }
    }
}

impl std::fmt::Display for By {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&String::from(self.clone()))
    }
}

/// One hold on one trunk, active or ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// `hold_…`.
    pub id: HoldId,
    /// The held trunk.
    pub trunk: TrunkId,
    /// Since when.
    pub since: Timestamp,
    /// When it ends by itself; only an operator's may have one.
    pub until: Option<Timestamp>,
    /// Whose it is.
    pub by: By,
    /// Why, in words.
    pub reason: String,
    /// The trunk's health when it began.
    pub health: Health,
    /// What was diagnosed; the policy's own hold only.
    #[serde(default)]
    pub diagnosis: Option<Brief>,
    /// Observe mode: nothing was sent and the gate stayed open.
    pub observed_only: bool,
    /// When it ended.
    pub released_at: Option<Timestamp>,
    /// Who ended it.
    pub released_by: Option<By>,
    /// Why it was ended, where a person said so.
    pub release_reason: Option<String>,
    /// Originates refused during it (the gateway counts them).
    pub refused_calls: u64,
}

impl Hold {
    /// Whether it still holds.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        self.released_at.is_none()
    }
}

/// Many trunks of one PBX failing together: one notice instead of many, and resumes that do not all come at once.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Incident {
    /// `incident_…`.
    pub id: IncidentId,
    /// Where.
    pub pbx: PbxId,
    /// When the first of its trunks failed.
    pub since: Timestamp,
    /// When the last of its trunks failed.
    pub last_at: Timestamp,
    /// When the last of its trunks was clear again, or none had failed for so long that what is left is on its own.
    pub ended_at: Option<Timestamp>,
    /// The trunks it took, in the order they failed.
    pub trunks: Vec<TrunkId>,
    /// When a campaign it took was last resumed: they come back one by one.
    pub last_resume_at: Option<Timestamp>,
    /// What it looks like, in words.
    pub summary: String,
    /// Calls that the gateway refused on its trunks until each was released.
    #[serde(default)]
    pub refused_calls: u64,
}
