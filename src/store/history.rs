//! What can be asked of history, and the shapes of the answers.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Timestamp,
    decision::{EntryKind, Scope},
    ids::TrunkId,
};

/// One entry: a run of equal outcomes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// Its place in the history of everything; newer entries have greater ones.
    pub seq: i64,
    /// When the run began; the same as `first_at`.
    pub at: Timestamp,
    /// Whose history.
    pub scope: Scope,
    /// Of which kind.
    pub kind: EntryKind,
    /// What in it (a registration's name, a contact's URI), or empty.
    pub subject: String,
    /// The outcome before this run.
    pub from: Option<String>,
    /// The outcome.
    pub to: String,
    /// How often it was seen in a row.
    pub count: u64,
    /// The first time.
    pub first_at: Timestamp,
    /// The last time.
    pub last_at: Timestamp,
    /// More about the first time.
    pub detail: serde_json::Value,
}

/// In which order entries are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// The newest first.
    #[default]
    NewestFirst,
    /// The oldest first.
    OldestFirst,
}

/// A page of a trunk's history, its PBX's entries among it.
///
/// An entry belongs to the span `since..until` when its run overlaps it (`last_at >= since`, `first_at < until`).
#[derive(Debug, Clone, PartialEq)]
pub struct HistoryQuery {
    /// Whose.
    pub trunk: TrunkId,
    /// From when.
    pub since: Option<Timestamp>,
    /// Until when, exclusive.
    pub until: Option<Timestamp>,
    /// Of these kinds only; all, if empty.
    pub kinds: Vec<EntryKind>,
    /// The order.
    pub order: Order,
    /// How many at most; one at least, and no more than 10 000, are given.
    pub limit: u32,
    /// Go on after this entry.
    pub after: Option<i64>,
}

/// A page of entries.
#[derive(Debug, Clone, PartialEq)]
pub struct Page {
    /// The entries.
    pub items: Vec<Entry>,
    /// Pass it as `after` for the next page; `None` at the end.
    pub next: Option<i64>,
}

/// A trunk as it was: the entry of each kind and subject that was current then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct At {
    /// When.
    pub time: Timestamp,
    /// The current entries, by kind and subject.
    pub entries: Vec<Entry>,
    /// Whether the PBX link was up and the controller running then.
    pub observed: bool,
}

/// How available a trunk was in a span of time.
///
/// Units: seconds. A time in which nobody could see it (`pbx` entries) is unknown, neither registered nor down.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Availability {
    /// From when.
    pub since: Option<Timestamp>,
    /// Until when.
    pub until: Option<Timestamp>,
    /// Registered (without a registration: not down).
    pub registered_seconds: f64,
    /// Not registered.
    pub down_seconds: f64,
    /// Nobody could tell.
    pub unknown_seconds: f64,
    /// registered / (registered + down); `None` when both are zero.
    pub ratio: Option<f64>,
    /// Times it left registered.
    pub outages: u64,
    /// Mean registered time between outages.
    pub mtbf_seconds: Option<f64>,
    /// Mean length of an outage.
    pub mttr_seconds: Option<f64>,
    /// The longest outage.
    pub longest_outage_seconds: f64,
    /// Down seconds by whose fault it was, where diagnosed; `unknown` otherwise.
    pub by_fault: BTreeMap<String, f64>,
    /// Originates refused by the gateway: those of holds that reach into the span, and those that no hold counts, at the
    /// time at which the gate next turned.
    pub calls_refused: u64,
    /// Calls that failed by the trunk's fault.
    pub calls_failed: u64,
}

impl Availability {
    /// The span it is about.
    #[must_use]
    pub fn span(&self) -> Duration {
        match (self.since, self.until) {
            (Some(since), Some(until)) => crate::clock::between(since, until),
            (Some(_) | None, None) | (None, Some(_)) => Duration::ZERO,
        }
    }
}
