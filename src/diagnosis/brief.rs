//! A diagnosis without its evidence: what rides on health, holds and webhooks.

use serde::{Deserialize, Serialize};

use super::verdict::{Alternative, Cause, Diagnosis, Fault, Fix, Subject};
use crate::clock::Timestamp;

/// A diagnosis without its evidence. It is small enough to be carried along with every step of a trunk.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Brief {
    /// Which registration.
    pub subject: Subject,
    /// When the last thing it rests on was seen.
    pub at: Timestamp,
    /// Why.
    pub cause: Cause,
    /// How sure, 0 to 1.
    pub confidence: f64,
    /// On whose side.
    pub fault: Fault,
    /// One sentence for people.
    pub summary: String,
    /// What else it may be.
    pub alternatives: Vec<Alternative>,
    /// What mends it.
    pub fix: Fix,
}

impl Brief {
    /// Whether it says the same: the same cause of the same registration, about as surely, with the same remedy. The summary
    /// may have counts and times in it.
    #[must_use]
    pub fn says_the_same(&self, other: &Self) -> bool {
        let surely = |brief: &Self| (brief.confidence * 20.0).round();
        let said = |brief: &Self| (brief.cause, brief.fault, brief.subject.registration.clone());
        said(self) == said(other) && (surely(self) - surely(other)).abs() < 1.5 && self.fix.config == other.fix.config
    }
}

impl From<&Diagnosis> for Brief {
    fn from(diagnosis: &Diagnosis) -> Self {
        Self {
            subject: diagnosis.subject.clone(),
            at: diagnosis.at,
            cause: diagnosis.cause,
            confidence: diagnosis.confidence,
            fault: diagnosis.fault,
            summary: diagnosis.summary.clone(),
            alternatives: diagnosis.alternatives.clone(),
            fix: diagnosis.fix.clone(),
        }
    }
}
