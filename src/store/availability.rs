//! How available a trunk was: the walk over its runs that gives the figures.
//!
//! It is apart from the back ends because it is the same for all of them, and pure so that it can be checked by hand.
//!
//! # What counts as what
//! - A registration holds its outcome from the beginning of a run until its next run begins.
//! - From `lost`, `refused` or `controller_down` of the PBX's link until its next `connected`, nobody could see the
//!   trunk: that time is unknown. So is the time before anything was seen of it.
//! - A `removed` registration counts no more; if there is no other, the trunk is down. One that was not seen yet does
//!   not count.
//! - An outage begins where the trunk is first seen down after it was registered, also when a time in which nobody
//!   could see it lies between, and ends where it is seen registered again. So the outages of adjacent spans add up.
//! - An outage that began before the span is in `down_seconds` and, with its part in the span, in
//!   `longest_outage_seconds`; it is no outage of this span. One that has not ended is.
//! - `mttr_seconds` is the mean over outages that began and ended in the span: the length of the others is not known.
//!   `mtbf_seconds` is registered time by outages. Unknown time within an outage does not make it longer.

use std::collections::BTreeMap;

use super::history::Availability;
use crate::{clock::Timestamp, health::RegisteredWhen};

/// The subject of the PBX's link among a PBX's entries of kind `pbx`.
pub(crate) const LINK: &str = "link";
/// The link's outcome while the PBX is heard.
pub(crate) const CONNECTED: &str = "connected";

/// What one entry says about availability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// A registration (or, without any, the trunk's health) is so from now on.
    Subject {
        /// Which one; any number that tells them apart.
        series: i64,
        /// Its outcome; `None` when that says nothing.
        word: Option<Word>,
    },
    /// The trunk can be seen from now on, or cannot.
    Link {
        /// Whether it can.
        seen: bool,
    },
}

/// A subject's outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Word {
    Registered,
    Down,
    Removed,
}

impl Word {
    /// Of an entry of kind `registration`.
    pub(crate) fn of_registration(to: &str) -> Option<Self> {
        match to {
            "registered" => Some(Self::Registered),
            "rejected" | "unregistered" => Some(Self::Down),
            "removed" => Some(Self::Removed),
            _ => None,
        }
    }

    /// Of an entry of kind `health`, for a trunk without registrations.
    pub(crate) fn of_health(to: &str) -> Option<Self> {
        match to {
            "stable" | "suspect" | "unstable" => Some(Self::Registered),
            "down" => Some(Self::Down),
            _ => None,
        }
    }
}

impl Change {
    /// Of an entry of the link.
    pub(crate) fn of_link(to: &str) -> Option<Self> {
        match to {
            CONNECTED => Some(Self::Link { seen: true }),
            "lost" | "refused" | "controller_down" => Some(Self::Link { seen: false }),
            _ => None,
        }
    }
}

/// How the trunk as a whole is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whole {
    Registered,
    Down,
    Unknown,
}

/// An outage under way.
#[derive(Debug, Clone, Copy)]
struct Outage {
    /// Its down time in the span so far.
    down_ms: i64,
    /// Whether it began in the span.
    begun_here: bool,
}

/// The walk: [`Tally::take`] every change in order of time, those before the span first, then [`Tally::finish`].
#[derive(Debug)]
pub(crate) struct Tally {
    since_ms: i64,
    until_ms: i64,
    when: RegisteredWhen,
    subjects: BTreeMap<i64, Word>,
    seen: bool,
    /// Up to where time has been counted.
    counted_ms: i64,
    /// Whether the first instant of the span was passed.
    entered: bool,
    /// The last thing that was seen, leaving out times in which nothing was.
    last: Whole,
    outage: Option<Outage>,
    registered_ms: i64,
    down_ms: i64,
    unknown_ms: i64,
    outages: u64,
    longest_ms: i64,
    repaired: u64,
    repaired_ms: i64,
}

impl Tally {
    /// A walk over `since_ms..until_ms`.
    pub(crate) fn new(since_ms: i64, until_ms: i64, when: RegisteredWhen) -> Self {
        Self {
            since_ms,
            until_ms: until_ms.max(since_ms),
            when,
            subjects: BTreeMap::new(),
            seen: true,
            counted_ms: since_ms,
            entered: false,
            last: Whole::Unknown,
            outage: None,
            registered_ms: 0,
            down_ms: 0,
            unknown_ms: 0,
            outages: 0,
            longest_ms: 0,
            repaired: 0,
            repaired_ms: 0,
        }
    }

    /// Takes in what changed at `at_ms`.
    pub(crate) fn take(&mut self, at_ms: i64, change: Change) {
        if at_ms >= self.since_ms {
            self.pass_to(at_ms.min(self.until_ms));
        }
        match change {
            Change::Subject { series, word: Some(word) } => {
                self.subjects.insert(series, word);
            }
            Change::Subject { series, word: None } => {
                self.subjects.remove(&series);
            }
            Change::Link { seen } => self.seen = seen,
        }
    }

    /// The figures, with `calls_refused` as counted elsewhere.
    pub(crate) fn finish(mut self, since: Timestamp, until: Timestamp, calls_refused: u64) -> Availability {
        self.pass_to(self.until_ms);
        if let Some(outage) = self.outage {
            self.longest_ms = self.longest_ms.max(outage.down_ms);
        }
        let (registered, down) = (seconds(self.registered_ms), seconds(self.down_ms));
        let observed = registered + down;
        let mut by_fault = BTreeMap::new();
        if self.down_ms > 0 {
            by_fault.insert("unknown".to_owned(), down);
        }
        Availability {
            since: Some(since),
            until: Some(until),
            registered_seconds: registered,
            down_seconds: down,
            unknown_seconds: seconds(self.unknown_ms),
            ratio: (observed > 0.0).then(|| registered / observed),
            outages: self.outages,
            mtbf_seconds: mean(self.registered_ms, self.outages),
            mttr_seconds: mean(self.repaired_ms, self.repaired),
            longest_outage_seconds: seconds(self.longest_ms),
            by_fault,
            calls_refused,
            calls_failed: 0,
        }
    }

    /// Counts the time up to `to_ms` as what the trunk is now. What is changed and changed back at one instant never
    /// was: several registrations may swap within a millisecond.
    fn pass_to(&mut self, to_ms: i64) {
        if !self.entered {
            self.entered = true;
            self.last = self.subjects_say();
            if self.last == Whole::Down {
                self.outage = Some(Outage { down_ms: 0, begun_here: false });
            }
        }
        let lasted = to_ms - self.counted_ms;
        if lasted <= 0 {
            return;
        }
        self.counted_ms = to_ms;
        match if self.seen { self.subjects_say() } else { Whole::Unknown } {
            Whole::Unknown => self.unknown_ms += lasted,
            Whole::Registered => {
                self.registered_ms += lasted;
                self.last = Whole::Registered;
                if let Some(outage) = self.outage.take() {
                    self.longest_ms = self.longest_ms.max(outage.down_ms);
                    if outage.begun_here {
                        self.repaired += 1;
                        self.repaired_ms += outage.down_ms;
                    }
                }
            }
            Whole::Down => {
                self.down_ms += lasted;
                let left = self.last == Whole::Registered;
                self.last = Whole::Down;
                self.outages += u64::from(left);
                self.outage.get_or_insert(Outage { down_ms: 0, begun_here: left }).down_ms += lasted;
            }
        }
    }

    /// What its subjects say, whether or not anybody could see them.
    fn subjects_say(&self) -> Whole {
        let counted = || self.subjects.values().filter(|word| **word != Word::Removed);
        let registered = |word: &Word| *word == Word::Registered;
        if self.subjects.is_empty() {
            return Whole::Unknown;
        }
        let up = match self.when {
            RegisteredWhen::Any => counted().any(registered),
            RegisteredWhen::All => counted().next().is_some() && counted().all(registered),
        };
        if up { Whole::Registered } else { Whole::Down }
    }
}

fn seconds(ms: i64) -> f64 {
    std::time::Duration::from_millis(u64::try_from(ms).unwrap_or(0)).as_secs_f64()
}

fn mean(total_ms: i64, of: u64) -> Option<f64> {
    let of = u32::try_from(of).unwrap_or(u32::MAX);
    (of > 0).then(|| seconds(total_ms) / f64::from(of))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Seconds, series (0 is the link) and outcome.
    fn tally(since: i64, until: i64, when: RegisteredWhen, changes: &[(i64, i64, &str)]) -> Availability {
        let mut tally = Tally::new(since * 1000, until * 1000, when);
        for &(second, series, to) in changes {
            let change = match series {
                0 => Change::of_link(to).unwrap(),
                _ => Change::Subject { series, word: Word::of_registration(to) },
            };
            tally.take(second * 1000, change);
        }
        tally.finish(at(since), at(until), 0)
    }

    /// Registered, down, unknown seconds and outages.
    fn split(of: &Availability) -> (f64, f64, f64, u64) {
        (of.registered_seconds, of.down_seconds, of.unknown_seconds, of.outages)
    }

    #[test]
    fn nothing_seen_is_unknown_and_gives_no_ratio() {
        let got = tally(0, 100, RegisteredWhen::Any, &[]);
        assert_eq!(split(&got), (0.0, 0.0, 100.0, 0));
        assert_eq!((got.ratio, got.mtbf_seconds, got.mttr_seconds), (None, None, None));
        assert!(got.by_fault.is_empty());
    }

    #[test]
    fn the_time_before_the_first_observation_is_unknown() {
        let got = tally(0, 100, RegisteredWhen::Any, &[(40, 1, "registered")]);
        assert_eq!(split(&got), (60.0, 0.0, 40.0, 0));
        assert_eq!(got.ratio, Some(1.0));
    }

    #[test]
    fn two_outages_by_hand() {
        let changes = [
            (-50, 1, "registered"),
            (10, 1, "rejected"),
            (20, 1, "registered"),
            (50, 1, "rejected"),
            (80, 1, "registered"),
        ];
        let got = tally(0, 100, RegisteredWhen::Any, &changes);
        assert_eq!(split(&got), (60.0, 40.0, 0.0, 2));
        assert_eq!(got.ratio, Some(0.6));
        assert_eq!((got.mtbf_seconds, got.mttr_seconds, got.longest_outage_seconds), (Some(30.0), Some(20.0), 30.0));
        assert_eq!(got.by_fault.get("unknown"), Some(&40.0));
    }

    #[test]
    fn an_outage_that_began_before_the_span_is_down_time_but_no_outage_of_it() {
        let got =
            tally(0, 100, RegisteredWhen::Any, &[(-50, 1, "registered"), (-5, 1, "rejected"), (30, 1, "registered")]);
        assert_eq!(split(&got), (70.0, 30.0, 0.0, 0));
        assert_eq!((got.mtbf_seconds, got.mttr_seconds, got.longest_outage_seconds), (None, None, 30.0));
    }

    #[test]
    fn an_open_outage_counts_but_does_not_flatter_the_mean() {
        let got = tally(0, 100, RegisteredWhen::Any, &[(0, 1, "registered"), (90, 1, "rejected")]);
        assert_eq!(split(&got), (90.0, 10.0, 0.0, 1));
        assert_eq!((got.mtbf_seconds, got.mttr_seconds, got.longest_outage_seconds), (Some(90.0), None, 10.0));
    }

    #[test]
    fn the_outages_of_adjacent_spans_add_up() {
        let changes = [(0, 1, "registered"), (50, 1, "rejected"), (60, 1, "registered")];
        let halves: u64 =
            [(0, 50), (50, 100)].map(|(a, b)| tally(a, b, RegisteredWhen::Any, &changes).outages).into_iter().sum();
        assert_eq!(halves, 1);
        assert_eq!(tally(0, 100, RegisteredWhen::Any, &changes).outages, 1);
    }

    #[test]
    fn a_gap_between_registered_times_is_no_outage() {
        let changes = [(0, 0, "connected"), (0, 1, "registered"), (30, 0, "lost"), (50, 0, "connected")];
        assert_eq!(split(&tally(0, 100, RegisteredWhen::Any, &changes)), (80.0, 0.0, 20.0, 0));
    }

    #[test]
    fn a_trunk_found_down_after_a_gap_was_left_once() {
        let changes = [
            (0, 1, "registered"),
            (30, 0, "controller_down"),
            (50, 0, "connected"),
            (50, 1, "rejected"),
            (60, 0, "lost"),
            (65, 0, "connected"),
            (70, 1, "registered"),
        ];
        let got = tally(0, 100, RegisteredWhen::Any, &changes);
        assert_eq!(split(&got), (60.0, 15.0, 25.0, 1));
        assert_eq!((got.mttr_seconds, got.longest_outage_seconds), (Some(15.0), 15.0));
    }

    #[test]
    fn a_span_that_begins_in_a_gap_begins_unknown() {
        let changes = [(-20, 1, "registered"), (-10, 0, "refused"), (10, 0, "connected"), (10, 1, "rejected")];
        let got = tally(0, 100, RegisteredWhen::Any, &changes);
        assert_eq!(split(&got), (0.0, 90.0, 10.0, 1));
    }

    #[test]
    fn any_and_all_of_two_registrations() {
        let changes = [
            (0, 1, "registered"),
            (0, 2, "registered"),
            (10, 2, "rejected"),
            (30, 1, "unregistered"),
            (40, 1, "registered"),
        ];
        assert_eq!(split(&tally(0, 100, RegisteredWhen::Any, &changes)), (90.0, 10.0, 0.0, 1));
        assert_eq!(split(&tally(0, 100, RegisteredWhen::All, &changes)), (10.0, 90.0, 0.0, 1));
    }

    #[test]
    fn a_removed_registration_counts_only_when_it_is_the_last() {
        let changes = [(0, 1, "registered"), (0, 2, "rejected"), (20, 2, "removed"), (60, 1, "removed")];
        assert_eq!(split(&tally(0, 100, RegisteredWhen::All, &changes)), (40.0, 60.0, 0.0, 1));
        assert_eq!(split(&tally(0, 100, RegisteredWhen::Any, &changes)), (60.0, 40.0, 0.0, 1));
    }

    #[test]
    fn a_swap_within_one_instant_is_no_outage() {
        let changes = [(0, 1, "registered"), (0, 2, "rejected"), (50, 1, "rejected"), (50, 2, "registered")];
        assert_eq!(split(&tally(0, 100, RegisteredWhen::Any, &changes)), (100.0, 0.0, 0.0, 0));
    }

    #[test]
    fn an_empty_or_backward_span_is_all_zero() {
        let got = tally(100, 50, RegisteredWhen::Any, &[(0, 1, "registered")]);
        assert_eq!(split(&got), (0.0, 0.0, 0.0, 0));
        assert_eq!(got.ratio, None);
    }
}
