//! Campaigns, and our claim on those we paused.

use serde::{Deserialize, Serialize};

use super::policy::CampaignSpec;
use crate::{
    clock::Timestamp,
    ids::{HoldId, MessageId, TrunkId},
};

/// A campaign's state at its dialer, as far as we were told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CampaignState {
    /// It dials.
    Running,
    /// It is paused.
    Paused,
    /// It was stopped.
    Stopped,
    /// Nobody said.
    #[default]
    Unknown,
}

impl CampaignState {
    /// The word of the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Unknown => "unknown",
        }
    }
}

/// How we know of a campaign.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Its dialer told of it.
    #[default]
    Told,
    /// The configuration names it.
    Configured,
    /// The configuration named it, and we still owe it a resume. Then it is forgotten.
    Retired,
}

/// A campaign and what we did to it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Campaign {
    /// What is configured, or was told by its dialer.
    pub spec: CampaignSpec,
    /// How we know of it.
    #[serde(default)]
    pub origin: Origin,
    /// Its state at the dialer.
    pub state: CampaignState,
    /// Since when.
    pub since: Timestamp,
    /// Ours, while we have paused it or are about to.
    pub claim: Option<Claim>,
}

/// Our claim on a campaign: from the pause we want to the resume that ends it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// The hold it is for.
    pub hold: HoldId,
    /// The trunk that is held.
    pub trunk: TrunkId,
    /// When the pause was decided.
    pub since: Timestamp,
    /// How far it got.
    pub stage: Stage,
    /// Calls that were refused by those holds on its trunks that ended since the pause was decided.
    #[serde(default)]
    pub refused_calls: u64,
}

impl Claim {
    /// Whether it may still lead to a resume of ours.
    #[must_use]
    pub const fn is_owed(&self) -> bool {
        match self.stage {
            Stage::Pausing { .. } | Stage::Paused { .. } | Stage::Resuming { .. } => true,
            Stage::WasNotRunning | Stage::Overridden | Stage::Failed { .. } | Stage::LeftToPerson => false,
        }
    }
}

/// How far a claim got.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub enum Stage {
    /// The pause is in the outbox.
    Pausing {
        /// The message.
        message: MessageId,
        /// An earlier pause was left to a person, who may not have resumed it: only the dialer's word that it was
        /// running makes it ours again.
        left: bool,
        /// The resume before it, which the dialer may not have taken yet.
        #[serde(default)]
        behind: Option<MessageId>,
    },
    /// The dialer took the pause, and the campaign was running.
    Paused {
        /// When.
        at: Timestamp,
    },
    /// The resume is in the outbox.
    Resuming {
        /// The message.
        message: MessageId,
    },
    /// The dialer took the pause and said that the campaign was not running: there is nothing to resume.
    WasNotRunning,
    /// Somebody resumed or stopped it while we held it: it is theirs until the hold is over.
    Overridden,
    /// The pause could not be delivered.
    Failed {
        /// The last error.
        error: String,
    },
    /// A person must resume it: it was paused for longer than `resume_within`, or the resume could not be delivered.
    LeftToPerson,
}

impl Stage {
    /// The word of the API's `intent`.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Pausing { .. } => "pausing",
            Self::Paused { .. } => "paused",
            Self::Resuming { .. } => "resuming",
            Self::WasNotRunning => "was_not_running",
            Self::Overridden => "overridden",
            Self::Failed { .. } => "failed",
            Self::LeftToPerson => "left_to_person",
        }
    }

    /// Whether the campaign is paused because of us.
    #[must_use]
    pub const fn is_paused_by_us(&self) -> bool {
        match self {
            Self::Paused { .. } | Self::Resuming { .. } | Self::LeftToPerson => true,
            Self::Pausing { .. } | Self::WasNotRunning | Self::Overridden | Self::Failed { .. } => false,
        }
    }
}
