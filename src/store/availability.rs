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
//! - Whose fault down time was: `blame.rs`.

use std::collections::BTreeMap;

use super::{
    blame::{Blame, Blamed, Standing},
    history::Availability,
};
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
    /// A run of diagnoses begins.
    Diagnosed {
        /// Of which series.
        series: i64,
        /// What it says.
        run: Blamed,
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

/// The walk: [`Tally::take`] every change in order of time, those before the span first, then [`Tally::finish`]. Changes
/// after the span matter only for whose fault its end was.
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
    blame: Blame,
    /// Up to where blame was told how the trunk was: from the first change on, before and after the span too.
    told_ms: Option<i64>,
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
            blame: Blame::new(since_ms, until_ms),
            told_ms: None,
        }
    }

    /// Takes in what changed at `at_ms`.
    pub(crate) fn take(&mut self, at_ms: i64, change: Change) {
        if at_ms >= self.since_ms {
            self.pass_to(at_ms.min(self.until_ms));
        }
        self.tell_to(at_ms);
        match change {
            Change::Subject { series, word: Some(word) } => {
                self.subjects.insert(series, word);
            }
            Change::Subject { series, word: None } => {
                self.subjects.remove(&series);
            }
            Change::Link { seen } => self.seen = seen,
            Change::Diagnosed { series, run } => self.blame.take(series, run),
        }
    }

    /// The figures, with `calls_refused` as counted elsewhere.
    pub(crate) fn finish(mut self, since: Timestamp, until: Timestamp, calls_refused: u64) -> Availability {
        self.pass_to(self.until_ms);
        self.tell_to(self.until_ms);
        if let Some(outage) = self.outage {
            self.longest_ms = self.longest_ms.max(outage.down_ms);
        }
        let (registered, down) = (seconds(self.registered_ms), seconds(self.down_ms));
        let observed = registered + down;
        let by_fault = self.blame.finish().into_iter();
        let by_fault = by_fault.map(|(fault, ms)| (fault.to_owned(), seconds(ms))).collect();
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

    /// Tells blame how the trunk was up to `to_ms`.
    fn tell_to(&mut self, to_ms: i64) {
        let from_ms = self.told_ms.unwrap_or(to_ms);
        if to_ms < from_ms {
            return;
        }
        let standing = match if self.seen { self.subjects_say() } else { Whole::Unknown } {
            Whole::Registered => Standing::Up,
            Whole::Down => Standing::Down,
            Whole::Unknown => Standing::Unseen,
        };
        self.blame.pass(from_ms, to_ms, standing);
        self.told_ms = Some(to_ms);
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

    // -- whose fault it was -------------------------------------------------------------------------------------------------------

    /// Changes of one registration, and diagnoses as (first second, last second, series, cause, fault).
    fn blamed(
        span: (i64, i64),
        changes: &[(i64, i64, &str)],
        diagnoses: &[(i64, i64, i64, &str, &str)],
    ) -> Vec<(String, f64)> {
        let mut all: Vec<(i64, Change)> = Vec::new();
        for &(second, series, to) in changes {
            let change = match series {
                0 => Change::of_link(to).unwrap(),
                _ => Change::Subject { series, word: Word::of_registration(to) },
            };
            all.push((second, change));
        }
        for &(first, last, series, to, fault) in diagnoses {
            let run = Blamed::of_diagnosis(to, Some(fault), first * 1000, last * 1000);
            all.extend(run.map(|run| (first, Change::Diagnosed { series, run })));
        }
        all.sort_by_key(|(second, _)| *second);
        let mut tally = Tally::new(span.0 * 1000, span.1 * 1000, RegisteredWhen::Any);
        all.into_iter().for_each(|(second, change)| tally.take(second * 1000, change));
        let got = tally.finish(at(span.0), at(span.1), 0);
        let sum: f64 = got.by_fault.values().sum();
        assert!((sum - got.down_seconds).abs() < 1e-6, "{got:?}");
        got.by_fault.into_iter().collect()
    }

    fn faults<const N: usize>(of: [(&str, f64); N]) -> Vec<(String, f64)> {
        of.map(|(fault, seconds)| (fault.to_owned(), seconds)).into()
    }

    /// Up at 0, down at 100, up at 200.
    const OUTAGE: [(i64, i64, &str); 3] = [(0, 1, "registered"), (100, 1, "rejected"), (200, 1, "registered")];

    #[test]
    fn an_outage_without_a_diagnosis_is_nobodys_fault() {
        assert_eq!(blamed((0, 300), &OUTAGE, &[]), faults([("unknown", 100.0)]));
        assert_eq!(blamed((0, 50), &OUTAGE, &[]), faults([]));
    }

    #[test]
    fn the_time_before_the_first_diagnosis_is_the_first_ones_and_the_next_takes_over_when_it_is_made() {
        let made = [(105, 105, 9, "no_response", "network"), (140, 140, 9, "provider_unavailable", "provider")];
        assert_eq!(blamed((0, 300), &OUTAGE, &made), faults([("network", 40.0), ("provider", 60.0)]));
        // Spans that cut the outage add up to it.
        assert_eq!(blamed((0, 120), &OUTAGE, &made), faults([("network", 20.0)]));
        assert_eq!(blamed((120, 300), &OUTAGE, &made), faults([("network", 20.0), ("provider", 60.0)]));
        assert_eq!(blamed((150, 180), &OUTAGE, &made), faults([("provider", 30.0)]));
    }

    #[test]
    fn a_diagnosis_just_after_the_span_speaks_for_the_outage_it_is_of() {
        let made = [(132, 132, 9, "no_response", "network")];
        assert_eq!(blamed((0, 120), &OUTAGE, &made), faults([("network", 20.0)]));
        let next_outage = [OUTAGE.as_slice(), &[(210, 1, "rejected")]].concat();
        let made = [(212, 212, 9, "no_response", "network")];
        assert_eq!(blamed((0, 190), &next_outage, &made), faults([("unknown", 90.0)]));
    }

    #[test]
    fn a_diagnosis_of_an_earlier_outage_says_nothing_unless_it_was_made_again() {
        let twice = [
            (0, 1, "registered"),
            (100, 1, "rejected"),
            (200, 1, "registered"),
            (300, 1, "rejected"),
            (330, 1, "registered"),
        ];
        let once = [(101, 150, 9, "wrong_password", "configuration")];
        assert_eq!(blamed((0, 400), &twice, &once), faults([("configuration", 100.0), ("unknown", 30.0)]));
        assert_eq!(blamed((250, 400), &twice, &once), faults([("unknown", 30.0)]));
        // The same cause as last time: one run, made again in the second outage.
        let again = [(101, 302, 9, "wrong_password", "configuration")];
        assert_eq!(blamed((0, 400), &twice, &again), faults([("configuration", 130.0)]));
        assert_eq!(blamed((250, 400), &twice, &again), faults([("configuration", 30.0)]));
        // Another subject's newer run, of the first outage only, does not hide it.
        let other = [again[0], (150, 150, 8, "no_response", "network")];
        assert_eq!(blamed((250, 400), &twice, &other), faults([("configuration", 30.0)]));
    }

    #[test]
    fn an_outage_that_began_long_before_the_span_has_the_diagnosis_made_then() {
        // Never registered; a reload in between is no end of it.
        let changes = [(-500, 1, "rejected"), (-300, 1, "unregistered"), (-299, 1, "rejected")];
        let made = [(-499, -499, 9, "wrong_password", "configuration")];
        assert_eq!(blamed((0, 100), &changes, &made), faults([("configuration", 100.0)]));
    }

    #[test]
    fn a_diagnosis_made_just_before_or_at_the_instant_of_the_loss_is_the_losss() {
        for second in [99, 100] {
            let made = [(second, second, 9, "account_forbidden", "provider")];
            assert_eq!(blamed((0, 300), &OUTAGE, &made), faults([("provider", 100.0)]), "{second}");
        }
        let made = [(90, 90, 9, "refresh_overdue", "network")];
        assert_eq!(blamed((0, 300), &OUTAGE, &made), faults([("unknown", 100.0)]));
    }

    #[test]
    fn what_concerns_registered_trunks_is_no_reason_for_being_down() {
        let made = [(110, 110, 9, "nat_contact", "network"), (150, 150, 8, "account_forbidden", "provider")];
        assert_eq!(blamed((0, 300), &OUTAGE, &made), faults([("provider", 100.0)]));
        for cause in
            ["nat_contact", "identify_missing", "binding_lost", "expiry_too_short", "calls_rejected", "media_blocked"]
        {
            assert_eq!(Blamed::of_diagnosis(cause, Some("network"), 0, 0), None);
        }
    }

    #[test]
    fn words_of_a_later_version_are_nobodys_fault() {
        let made = [(101, 101, 9, "solar_flare", "sun")];
        assert_eq!(blamed((0, 300), &OUTAGE, &made), faults([("unknown", 100.0)]));
        let made = [(101, 101, 9, "solar_flare", "network")];
        assert_eq!(blamed((0, 300), &OUTAGE, &made), faults([("network", 100.0)]));
    }

    #[test]
    fn an_outage_with_a_gap_in_it_keeps_its_diagnosis_and_counts_no_gap() {
        let changes = [
            (0, 1, "registered"),
            (100, 1, "rejected"),
            (120, 0, "lost"),
            (160, 0, "connected"),
            (200, 1, "registered"),
        ];
        let made = [(101, 101, 9, "no_response", "network")];
        assert_eq!(blamed((0, 300), &changes, &made), faults([("network", 60.0)]));
        // Diagnosed (from HEP, say) while AMI was away.
        let made = [(140, 140, 9, "no_response", "network")];
        assert_eq!(blamed((0, 300), &changes, &made), faults([("network", 60.0)]));
    }
}
