//! Whose fault down time was: the part of the availability walk that follows diagnoses.
//!
//! Apart from [`super::availability`] because it looks beyond the span on both sides: an outage that reaches into the span
//! may have been diagnosed before it, and one at its end just after. Pure, as that is.
//!
//! # What counts as what
//! - Down time takes the fault of the newest diagnosis of its outage that had begun by then; the time before the outage's
//!   first diagnosis takes that first one's, and an outage without any is `unknown`.
//! - An outage is as the availability walk has it: from where the trunk is first seen down until it is seen registered
//!   again. Diagnoses made while nobody could see the trunk belong to the outage around them.
//! - Diagnoses are runs of equal causes. One that began before the outage and was made again in it (its `last_at` is in or
//!   after it) holds from the outage's beginning: that the trunk fails as it did last time is a diagnosis too.
//! - One made up to [`AHEAD_MS`] before the loss is the loss's own.

use std::collections::BTreeMap;

use serde::{Deserialize as _, de::IntoDeserializer as _};

use crate::diagnosis::{Cause, Fault};

/// The failing response is on the wire (and may be judged) before Asterisk tells of the failed attempt.
const AHEAD_MS: i64 = 2_000;

/// So long after a span a first diagnosis may still come: silence alone takes Asterisk 32 s to notice, and a controller
/// that was down then somewhat longer.
pub(crate) const LOOK_AHEAD_MS: i64 = 300_000;

/// A run of equal diagnoses of one subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Blamed {
    /// When it was first made.
    pub(crate) first_ms: i64,
    /// When it was last made.
    pub(crate) last_ms: i64,
    /// Whose fault it says it is.
    pub(crate) fault: Fault,
}

impl Blamed {
    /// Of an entry of kind `diagnosis`; `None` if its cause says nothing about being down. A word of a later version is
    /// a cause like any other, and its fault, if that is new too, unknown.
    pub(crate) fn of_diagnosis(to: &str, fault: Option<&str>, first_ms: i64, last_ms: i64) -> Option<Self> {
        let cause = Cause::deserialize(word(to));
        if cause.is_ok_and(Cause::concerns_registered) {
            return None;
        }
        let fault = fault.and_then(|fault| Fault::deserialize(word(fault)).ok()).unwrap_or(Fault::Unknown);
        Some(Self { first_ms, last_ms, fault })
    }
}

fn word(text: &str) -> serde::de::value::StrDeserializer<'_, serde::de::value::Error> {
    text.into_deserializer()
}

/// How the trunk is, as far as blame goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    Up,
    Down,
    /// Nobody can tell: an outage goes on, if there is one, but no down time is counted.
    Unseen,
}

#[derive(Debug, Clone, Copy)]
struct Outage {
    since_ms: i64,
    /// The fault in force.
    fault: Option<Fault>,
    /// Its down time in the span that no diagnosis has spoken for yet.
    open_ms: i64,
}

/// The walk: [`Blame::pass`] every stretch of time and [`Blame::take`] every run, in order of time, then
/// [`Blame::finish`].
#[derive(Debug)]
pub(crate) struct Blame {
    since_ms: i64,
    until_ms: i64,
    /// Of each series the newest run that has begun.
    newest: BTreeMap<i64, Blamed>,
    outage: Option<Outage>,
    down_ms: BTreeMap<&'static str, i64>,
}

impl Blame {
    /// A walk that counts in `since_ms..until_ms`.
    pub(crate) fn new(since_ms: i64, until_ms: i64) -> Self {
        Self { since_ms, until_ms, newest: BTreeMap::new(), outage: None, down_ms: BTreeMap::new() }
    }

    /// From `from_ms` to `to_ms` the trunk was so.
    pub(crate) fn pass(&mut self, from_ms: i64, to_ms: i64, standing: Standing) {
        if from_ms >= to_ms {
            return;
        }
        match standing {
            Standing::Unseen => {}
            Standing::Up => self.settle(),
            Standing::Down => {
                let counted = (to_ms.min(self.until_ms) - from_ms.max(self.since_ms)).max(0);
                let outage = self.outage.get_or_insert_with(|| {
                    let made = self.newest.values().filter(|run| run.last_ms >= from_ms - AHEAD_MS);
                    let fault = made.max_by_key(|run| run.first_ms).map(|run| run.fault);
                    Outage { since_ms: from_ms, fault, open_ms: 0 }
                });
                match outage.fault {
                    Some(fault) => add(&mut self.down_ms, fault, counted),
                    None => outage.open_ms += counted,
                }
            }
        }
    }

    /// A run begins; all time before it has been passed.
    pub(crate) fn take(&mut self, series: i64, run: Blamed) {
        self.newest.insert(series, run);
        if let Some(outage) = &mut self.outage {
            if run.last_ms < outage.since_ms - AHEAD_MS {
                return;
            }
            add(&mut self.down_ms, run.fault, std::mem::take(&mut outage.open_ms));
            outage.fault = Some(run.fault);
        }
    }

    /// Milliseconds of down time by fault; what is zero is left out.
    pub(crate) fn finish(mut self) -> BTreeMap<&'static str, i64> {
        self.settle();
        self.down_ms.retain(|_, ms| *ms > 0);
        self.down_ms
    }

    fn settle(&mut self) {
        if let Some(outage) = self.outage.take() {
            add(&mut self.down_ms, Fault::Unknown, outage.open_ms);
        }
    }
}

fn add(down_ms: &mut BTreeMap<&'static str, i64>, fault: Fault, ms: i64) {
    *down_ms.entry(fault.as_str()).or_default() += ms;
}
