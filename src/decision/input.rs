//! What a step may start from. Whatever changes a decision comes in here, so that a journal of inputs replays a run.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::policy::ControlPolicy;
use crate::{
    clock::Timestamp,
    diagnosis::{Cause, Diagnosis},
    ids::{CampaignKey, MessageId, PbxId, RegistrationName, TrunkId},
    observation::{Observation, PbxFact},
};

/// One input of a step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "input", rename_all = "snake_case")]
pub enum Input {
    /// The configuration was read, at the start or again.
    Configured {
        /// When.
        at: Timestamp,
        /// What decisions are made by from now on.
        policy: Box<ControlPolicy>,
    },
    /// This controller starts; nobody watched since `unseen_since`.
    Started {
        /// When.
        at: Timestamp,
        /// When the last run was last alive; `at` on the first start.
        unseen_since: Timestamp,
    },
    /// A fact about one trunk.
    Seen(Observation),
    /// A fact about a whole PBX.
    Pbx {
        /// Which one.
        pbx: PbxId,
        /// When.
        at: Timestamp,
        /// What.
        fact: PbxFact,
    },
    /// A trunk was diagnosed.
    Diagnosed {
        /// When.
        at: Timestamp,
        /// Which trunk.
        trunk: TrunkId,
        /// What was found; `None` when nothing is wrong any more.
        diagnosis: Option<Box<Diagnosis>>,
    },
    /// One `PJSIPRegister` was sent for a registration that Asterisk gave up.
    Healed {
        /// When.
        at: Timestamp,
        /// Which trunk.
        trunk: TrunkId,
        /// Which registration.
        registration: RegistrationName,
        /// Why: the cause that was diagnosed.
        cause: Cause,
        /// `None` when Asterisk took it; else what it answered.
        error: Option<String>,
    },
    /// A person acts.
    Operator {
        /// When.
        at: Timestamp,
        /// Who: the token's name.
        name: String,
        /// On which trunks.
        trunks: Vec<TrunkId>,
        /// What they do.
        act: Act,
    },
    /// A dialer tells of a campaign.
    Campaign {
        /// When.
        at: Timestamp,
        /// What it says.
        report: CampaignReport,
    },
    /// A message was delivered, or never will be.
    Receipt {
        /// When.
        at: Timestamp,
        /// Which message.
        message: MessageId,
        /// What became of it.
        outcome: ReceiptOutcome,
    },
    /// The gateway refused calls since it said so last.
    Refused {
        /// When.
        at: Timestamp,
        /// How many on each trunk that held.
        #[serde(with = "super::policy::pairs")]
        calls: BTreeMap<TrunkId, u64>,
    },
    /// Time passed.
    Tick {
        /// It is now.
        at: Timestamp,
    },
}

impl Input {
    /// When it was.
    #[must_use]
    pub const fn at(&self) -> Timestamp {
        match self {
            Self::Seen(observation) => observation.at,
            Self::Configured { at, .. }
            | Self::Started { at, .. }
            | Self::Pbx { at, .. }
            | Self::Diagnosed { at, .. }
            | Self::Healed { at, .. }
            | Self::Operator { at, .. }
            | Self::Campaign { at, .. }
            | Self::Receipt { at, .. }
            | Self::Refused { at, .. }
            | Self::Tick { at } => *at,
        }
    }
}

/// What a person does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "act", rename_all = "snake_case")]
pub enum Act {
    /// Hold.
    Hold {
        /// Why.
        reason: String,
        /// For how long; until released, if `None`.
        lasting: Option<Duration>,
    },
    /// Release: an operator's hold ends, a policy's is overridden.
    Release {
        /// Why.
        reason: String,
        /// For how long a policy hold is overridden.
        lasting: Option<Duration>,
    },
}

/// What a dialer tells of one of its campaigns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CampaignReport {
    /// Which campaign.
    pub key: CampaignKey,
    /// What people call it, if it says.
    pub name: Option<String>,
    /// The trunks it dials on, if it says.
    pub trunks: Option<Vec<TrunkId>>,
    /// Its state, if it says.
    pub state: Option<super::campaign::CampaignState>,
}

/// What became of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum ReceiptOutcome {
    /// It was taken.
    Delivered {
        /// `{"was_running":…}` of a pause's receipt, where it said so.
        was_running: Option<bool>,
    },
    /// It never will be: 410, or a day of failures.
    Abandoned {
        /// The last error.
        error: String,
    },
}
