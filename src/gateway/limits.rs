//! How many calls at once, and how many a second, a trunk takes.
//!
//! Separate from the sessions because all of them share it, and pure but for a lock: time is data, and what is on a trunk
//! is told by [`calls`](super::calls). It assumes a clock that hardly steps back ([`SteadyClock`](crate::clock::SteadyClock)).
//!
//! - **Originates a second**: of rate `r`, never more than `n = max(1, floor(r))` in any `n / r` seconds: 5 a second is five
//!   in any one second, at once if they come at once (dialers originate in batches), and 0.5 a second is one in any two.
//! - **Calls at once**: live channels on the trunk, whoever began them, and calls admitted whose channel was not seen yet.
//!   Such a pending place is taken over by the next new channel on the trunk, or given up after [`PENDING`].
//! - **Ramp**: from its figures at the end of the hold evenly to the standing ones; where there is none, the ramp's stays
//!   until the ramp is over. A ramp never allows more than the standing limit.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use tokio::sync::watch;

use super::settings::{LONGEST_WAIT, Limits, Over, TrunkLimits};
use crate::{
    clock::{Timestamp, after, between},
    ids::TrunkId,
};

/// How long an admitted call keeps its place without a channel of its own: Asterisk makes one within milliseconds.
pub const PENDING: Duration = Duration::from_secs(10);
/// When to ask again for a call's place, if [`Limiter::changes`] says nothing sooner: pending places end without a word.
pub const POLL: Duration = Duration::from_millis(100);
/// Rates above are not told from it: so many times are remembered per trunk.
const FASTEST: f64 = 10_000.0;

/// Hands out room on trunks; clones are the same one.
#[derive(Debug, Clone)]
pub struct Limiter(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limits: RwLock<Arc<Limits>>,
    trunks: Mutex<Trunks>,
    changed: watch::Sender<()>,
    counting: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct Trunks {
    states: BTreeMap<TrunkId, State>,
    tickets: u64,
}

/// What is on one trunk.
#[derive(Debug, Default)]
struct State {
    live: u32,
    /// Tickets whose channel was not seen yet, and when they are given up; the oldest first.
    pending: VecDeque<(u64, Timestamp)>,
    /// When calls were admitted, the newest last; as many as the fastest rate in force needs.
    admitted: VecDeque<Timestamp>,
}

/// Room that was given: to be told what became of the call. Dropped, it keeps its places as for a call that comes to be.
#[derive(Debug)]
#[must_use = "a call that fails must give its room back"]
pub struct Ticket(Option<Places>);

#[derive(Debug)]
struct Places {
    limiter: Limiter,
    number: u64,
    trunks: Vec<TrunkId>,
}

/// There is no room.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("trunk {trunk} takes no more now: {why}")]
pub struct NoRoom {
    /// Which trunk.
    pub trunk: TrunkId,
    /// Which limit, in words.
    pub why: String,
    /// When to ask again at the earliest: exact for rates that stand, and [`POLL`] for calls ([`Limiter::changes`] may be
    /// sooner).
    pub retry_after: Duration,
    /// How long the call may wait in all; `None`: it may not.
    pub patience: Option<Duration>,
}

impl Limiter {
    /// A limiter for these limits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        let counting = watch::Sender::new(limits.count_calls());
        Self(Arc::new(Shared {
            limits: RwLock::new(Arc::new(limits)),
            trunks: Mutex::default(),
            changed: watch::Sender::new(()),
            counting,
        }))
    }

    /// Other limits from now on; what is on the trunks stays.
    pub fn set(&self, limits: Limits) {
        let counts = limits.count_calls();
        *self.0.limits.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(limits);
        self.0.counting.send_if_modified(|counting| std::mem::replace(counting, counts) != counts);
        self.0.changed.send_replace(());
    }

    /// Takes room on all of `trunks`, or on none. `released` says when the last hold on a trunk ended.
    ///
    /// Who waits asks the gate again before each further attempt: the trunk may hold by then.
    ///
    /// # Errors
    /// [`NoRoom`], naming the first trunk without.
    pub fn take(
        &self,
        trunks: &[TrunkId],
        released: impl Fn(&TrunkId) -> Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Ticket, NoRoom> {
        let limits = self.limits();
        let mut asked: Vec<(&TrunkId, Room)> = Vec::new();
        for trunk in trunks {
            let limits = limits.of(trunk);
            if limits.calls.is_none() && limits.per_second.is_none() && limits.ramp.is_none() {
                continue;
            }
            if !asked.iter().any(|(known, _)| *known == trunk) {
                asked.push((trunk, Room::of(limits, released(trunk), now)));
            }
        }
        if asked.is_empty() {
            return Ok(Ticket(None));
        }
        let mut state = self.trunks();
        for (trunk, room) in &asked {
            if let Some(known) = state.states.get_mut(*trunk)
                && let Some((why, retry_after)) = known.lacks(room, now)
            {
                return Err(room.refused(trunk, why, retry_after));
            }
            if let Some((why, retry_after)) = room.none_at_all() {
                return Err(room.refused(trunk, why, retry_after));
            }
        }
        state.tickets += 1;
        let number = state.tickets;
        let mut places = Vec::new();
        for (trunk, room) in asked {
            let known = state.states.entry(trunk.clone()).or_default();
            known.admit(&room, number, now);
            if room.count {
                places.push(trunk.clone());
            }
        }
        drop(state);
        Ok(Ticket((!places.is_empty()).then(|| Places { limiter: self.clone(), number, trunks: places })))
    }

    /// A channel began on `trunk`: it takes over the oldest pending place, if there is one.
    pub fn began(&self, trunk: &TrunkId, now: Timestamp) {
        let mut trunks = self.trunks();
        let state = trunks.states.entry(trunk.clone()).or_default();
        state.give_up(now);
        state.pending.pop_front();
        state.live = state.live.saturating_add(1);
    }

    /// A channel that was elsewhere is on `trunk` now; no pending place is its own.
    pub fn joined(&self, trunk: &TrunkId) {
        let mut trunks = self.trunks();
        let state = trunks.states.entry(trunk.clone()).or_default();
        state.live = state.live.saturating_add(1);
    }

    /// A channel on `trunk` ended.
    pub fn ended(&self, trunk: &TrunkId) {
        if let Some(state) = self.trunks().states.get_mut(trunk) {
            state.live = state.live.saturating_sub(1);
        }
        self.0.changed.send_replace(());
    }

    /// So many channels are on each trunk, and none on any other. New ones among them take over pending places.
    pub fn recount(&self, mut live: BTreeMap<TrunkId, u32>, now: Timestamp) {
        let mut trunks = self.trunks();
        for (trunk, state) in &mut trunks.states {
            let counted = live.remove(trunk).unwrap_or(0);
            state.give_up(now);
            for _ in state.live..counted {
                state.pending.pop_front();
            }
            state.live = counted;
        }
        for (trunk, counted) in live {
            trunks.states.insert(trunk, State { live: counted, ..State::default() });
        }
        drop(trunks);
        self.0.changed.send_replace(());
    }

    /// Live channels on `trunk`, and calls admitted whose channel was not seen yet.
    #[must_use]
    pub fn in_flight(&self, trunk: &TrunkId, now: Timestamp) -> (u32, u32) {
        let trunks = self.trunks();
        let Some(state) = trunks.states.get(trunk) else { return (0, 0) };
        let pending = state.pending.iter().filter(|(_, until)| *until > now).count();
        (state.live, u32::try_from(pending).unwrap_or(u32::MAX))
    }

    /// Told when room may have come free. To be subscribed before [`Limiter::take`] is asked, so that nothing is missed
    /// between.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<()> {
        self.0.changed.subscribe()
    }

    /// Whether calls must be counted, now and from now on.
    pub(super) fn counting(&self) -> watch::Receiver<bool> {
        self.0.counting.subscribe()
    }

    fn limits(&self) -> Arc<Limits> {
        Arc::clone(&self.0.limits.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn trunks(&self) -> MutexGuard<'_, Trunks> {
        // Nothing here panics while it holds the lock.
        self.0.trunks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Whether there is anything to give back.
    pub(super) const fn holds_room(&self) -> bool {
        self.0.is_some()
    }

    /// The call never came to be (`Response: Error`, or `OriginateResponse` with reason 0): its places are free again.
    ///
    /// To be told only where no channel was made: one that was made ends with a `Hangup` of its own.
    pub fn failed(self) {
        let Some(places) = self.0 else { return };
        let mut trunks = places.limiter.trunks();
        for trunk in &places.trunks {
            if let Some(state) = trunks.states.get_mut(trunk) {
                state.pending.retain(|(number, _)| *number != places.number);
            }
        }
        drop(trunks);
        places.limiter.0.changed.send_replace(());
    }
}

impl State {
    /// Pending places whose time is over are free.
    fn give_up(&mut self, now: Timestamp) {
        while self.pending.front().is_some_and(|(_, until)| *until <= now) {
            self.pending.pop_front();
        }
    }

    /// What there is no room for, and when to ask again.
    fn lacks(&mut self, room: &Room, now: Timestamp) -> Option<(String, Duration)> {
        self.give_up(now);
        // A clock that was set back must not close the trunk until it has caught up.
        for at in self.admitted.iter_mut().rev().take_while(|at| **at > now) {
            *at = now;
        }
        if let Some(calls) = room.calls {
            let taken = usize::try_from(self.live).unwrap_or(usize::MAX).saturating_add(self.pending.len());
            if taken >= usize::try_from(calls).unwrap_or(usize::MAX) {
                return Some((room.calls_in_words(calls), POLL));
            }
        }
        let rate = room.per_second.filter(|rate| *rate > 0.0)?;
        let (burst, window) = window(rate);
        let first = *self.admitted.get(self.admitted.len().checked_sub(burst)?)?;
        let free = after(first, window);
        (free > now).then(|| (room.rate_in_words(rate), between(now, free)))
    }

    fn admit(&mut self, room: &Room, number: u64, now: Timestamp) {
        if room.count {
            self.pending.push_back((number, after(now, PENDING)));
        }
        if room.remember > 0 {
            self.admitted.push_back(now);
        }
        while self.admitted.len() > room.remember {
            self.admitted.pop_front();
        }
    }
}

/// What a trunk takes at one moment.
#[derive(Debug)]
struct Room {
    calls: Option<u32>,
    per_second: Option<f64>,
    /// Calls are limited, if not now then at other times.
    count: bool,
    /// So many admissions must be remembered.
    remember: usize,
    /// The ramp it comes from, in words: how long after its hold ended.
    ramping: Option<Duration>,
    patience: Option<Duration>,
}

impl Room {
    fn of(limits: &TrunkLimits, released: Option<Timestamp>, now: Timestamp) -> Self {
        let ramp = limits.ramp.as_ref();
        let remember = [limits.per_second, ramp.and_then(|ramp| ramp.per_second)];
        let mut room = Self {
            calls: limits.calls,
            per_second: limits.per_second,
            count: limits.calls.is_some() || ramp.is_some_and(|ramp| ramp.calls.is_some()),
            remember: remember.into_iter().flatten().map(|rate| window(rate).0).max().unwrap_or(0),
            ramping: None,
            patience: match limits.over {
                Over::Error => None,
                Over::Wait(patience) => Some(patience.min(LONGEST_WAIT)),
            },
        };
        let (Some(ramp), Some(released)) = (ramp, released) else { return room };
        let elapsed = between(released, now);
        if elapsed >= ramp.lasting {
            return room;
        }
        room.ramping = Some(elapsed);
        room.calls = match (ramp.calls, limits.calls) {
            (Some(from), Some(to)) => {
                let from = from.min(to);
                let grown = u128::from(to - from) * elapsed.as_nanos() / ramp.lasting.as_nanos();
                Some(u32::try_from(grown).map_or(to, |grown| from + grown))
            }
            (Some(only), None) | (None, Some(only)) => Some(only),
            (None, None) => None,
        };
        room.per_second = match (ramp.per_second, limits.per_second) {
            (Some(from), Some(to)) => {
                let from = from.min(to);
                Some(((to - from).mul_add(elapsed.div_duration_f64(ramp.lasting), from)).min(to))
            }
            (Some(only), None) | (None, Some(only)) => Some(only),
            (None, None) => None,
        };
        room
    }

    /// A limit of nothing refuses on a trunk that never had a call, too.
    fn none_at_all(&self) -> Option<(String, Duration)> {
        match (self.calls, self.per_second) {
            (Some(0), _) => Some((self.calls_in_words(0), POLL)),
            // NaN is no rate either.
            (_, Some(rate)) if rate.is_nan() || rate <= 0.0 => Some((self.rate_in_words(0.0), POLL)),
            (Some(_) | None, Some(_) | None) => None,
        }
    }

    fn refused(&self, trunk: &TrunkId, why: String, retry_after: Duration) -> NoRoom {
        NoRoom { trunk: trunk.clone(), why, retry_after, patience: self.patience }
    }

    fn calls_in_words(&self, calls: u32) -> String {
        self.in_words(calls.to_string(), "call", "at once")
    }

    fn rate_in_words(&self, rate: f64) -> String {
        self.in_words(((rate * 100.0).round() / 100.0).to_string(), "originate", "a second")
    }

    fn in_words(&self, figure: String, what: &str, how: &str) -> String {
        let plural = if figure == "1" { "" } else { "s" };
        let ramp =
            self.ramping.map(|since| format!(", {} s after its hold ended", since.as_secs())).unwrap_or_default();
        format!("{figure} {what}{plural} {how}{ramp}")
    }
}

/// How many originates in how long a window a rate stands for.
fn window(rate: f64) -> (usize, Duration) {
    let whole = rate.clamp(1.0, FASTEST).floor();
    let burst = whole as usize; // 1 to 10 000 by the line above
    (burst, Duration::try_from_secs_f64(whole / rate).unwrap_or(Duration::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::gateway::settings::Ramp;

    fn trunk(name: &str) -> TrunkId {
        TrunkId::try_from(format!("pbx1/{name}").as_str()).unwrap()
    }

    fn at(millis: u64) -> Timestamp {
        after(Timestamp::UNIX_EPOCH, Duration::from_millis(millis))
    }

    fn limiter(every: TrunkLimits) -> Limiter {
        Limiter::new(Limits { every, trunks: BTreeMap::new() })
    }

    fn take(limiter: &Limiter, name: &str, millis: u64) -> Result<Ticket, NoRoom> {
        limiter.take(&[trunk(name)], |_| None, at(millis))
    }

    fn calls(calls: u32) -> TrunkLimits {
        TrunkLimits { calls: Some(calls), ..TrunkLimits::default() }
    }

    fn rate(per_second: f64) -> TrunkLimits {
        TrunkLimits { per_second: Some(per_second), ..TrunkLimits::default() }
    }

    #[test]
    fn a_batch_of_a_second_passes_at_once_and_the_next_when_the_second_is_over() {
        let limiter = limiter(rate(5.0));
        for _ in 0..5 {
            drop(take(&limiter, "a", 1000).unwrap());
        }
        let refused = take(&limiter, "a", 1300).unwrap_err();
        assert_eq!(refused.to_string(), "trunk pbx1/a takes no more now: 5 originates a second");
        assert_eq!((refused.retry_after, refused.patience), (Duration::from_millis(700), None));
        assert!(take(&limiter, "a", 1999).is_err());
        drop(take(&limiter, "a", 2000).unwrap());
        drop(take(&limiter, "b", 1300).unwrap());
    }

    #[test]
    fn less_than_one_a_second_is_one_in_so_many_seconds() {
        let limiter = limiter(rate(0.5));
        drop(take(&limiter, "a", 0).unwrap());
        let refused = take(&limiter, "a", 500).unwrap_err();
        assert_eq!(
            (refused.why.as_str(), refused.retry_after),
            ("0.5 originates a second", Duration::from_millis(1500))
        );
        drop(take(&limiter, "a", 2000).unwrap());
    }

    #[test]
    fn nothing_passes_where_nothing_is_allowed() {
        for none in [rate(0.0), rate(-1.0), rate(f64::NAN), calls(0)] {
            assert!(take(&limiter(none.clone()), "a", 0).is_err(), "{none:?}");
        }
    }

    #[test]
    fn a_place_is_taken_over_by_the_channel_and_free_with_its_end() {
        let limiter = limiter(calls(2));
        let _one = take(&limiter, "a", 0).unwrap();
        let _two = take(&limiter, "a", 0).unwrap();
        assert_eq!(take(&limiter, "a", 1).unwrap_err().why, "2 calls at once");
        limiter.began(&trunk("a"), at(5));
        limiter.began(&trunk("a"), at(5));
        assert_eq!(limiter.in_flight(&trunk("a"), at(5)), (2, 0));
        assert!(take(&limiter, "a", 60_000).is_err(), "live calls do not expire");
        let mut changes = limiter.changes();
        limiter.ended(&trunk("a"));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        drop(take(&limiter, "a", 60_000).unwrap());
        assert!(take(&limiter, "a", 60_000).is_err());
    }

    #[test]
    fn a_call_that_failed_gives_its_place_back_and_one_never_seen_after_a_while() {
        let limiter = limiter(calls(1));
        let ticket = take(&limiter, "a", 0).unwrap();
        let changes = limiter.changes();
        ticket.failed();
        assert!(changes.has_changed().unwrap());
        drop(take(&limiter, "a", 0).unwrap());
        assert!(take(&limiter, "a", 9_999).is_err());
        drop(take(&limiter, "a", 10_000).unwrap());
        assert_eq!(limiter.in_flight(&trunk("a"), at(10_000)), (0, 1));
    }

    #[test]
    fn a_late_failure_does_not_free_the_place_of_another() {
        let limiter = limiter(calls(1));
        let ticket = take(&limiter, "a", 0).unwrap();
        limiter.began(&trunk("a"), at(1));
        ticket.failed();
        assert_eq!(limiter.in_flight(&trunk("a"), at(1)), (1, 0));
        assert!(take(&limiter, "a", 1).is_err());
    }

    #[test]
    fn a_call_on_two_trunks_takes_both_or_none() {
        let mut limits = Limits { every: calls(5), trunks: BTreeMap::new() };
        limits.trunks.insert(trunk("b"), calls(1));
        let limiter = Limiter::new(limits);
        let both = [trunk("a"), trunk("b"), trunk("a")];
        let ticket = limiter.take(&both, |_| None, at(0)).unwrap();
        assert_eq!(limiter.in_flight(&trunk("a"), at(0)), (0, 1), "named twice is one call");
        assert_eq!(limiter.take(&both, |_| None, at(0)).unwrap_err().trunk, trunk("b"));
        assert_eq!(limiter.in_flight(&trunk("a"), at(0)), (0, 1));
        ticket.failed();
        assert_eq!((limiter.in_flight(&trunk("a"), at(0)), limiter.in_flight(&trunk("b"), at(0))), ((0, 0), (0, 0)));
    }

    #[test]
    fn a_ramp_begins_at_its_figure_and_says_so_and_ends_at_the_standing_one() {
        let ramp = Ramp { calls: Some(2), per_second: None, lasting: Duration::from_secs(40) };
        let limiter = limiter(TrunkLimits { ramp: Some(ramp), over: Over::Wait(Duration::from_secs(60)), ..calls(10) });
        limiter.recount([(trunk("a"), 5)].into(), at(0));
        let ask = |millis| limiter.take(&[trunk("a")], |_| Some(at(0)), at(millis));
        let refused = ask(12_000).unwrap_err();
        assert_eq!(refused.why, "4 calls at once, 12 s after its hold ended");
        assert_eq!(refused.patience, Some(LONGEST_WAIT));
        assert!(ask(19_999).is_err());
        drop(ask(20_000).unwrap());
        limiter.recount([(trunk("a"), 10)].into(), at(40_000));
        assert_eq!(ask(40_000).unwrap_err().why, "10 calls at once");
    }

    #[test]
    fn a_ramp_without_a_standing_limit_stays_until_it_is_over() {
        let ramp = Ramp { calls: Some(1), per_second: Some(1.0), lasting: Duration::from_secs(10) };
        let limiter = limiter(TrunkLimits { ramp: Some(ramp), ..TrunkLimits::default() });
        limiter.recount([(trunk("a"), 1)].into(), at(0));
        let ask = |millis| limiter.take(&[trunk("a")], |_| Some(at(0)), at(millis));
        assert_eq!(ask(9_999).unwrap_err().why, "1 call at once, 9 s after its hold ended");
        drop(ask(10_000).unwrap());
        drop(limiter.take(&[trunk("a")], |_| None, at(0)).unwrap());
    }

    #[test]
    fn a_list_takes_over_pending_places_and_new_limits_keep_what_is_there() {
        let limiter = limiter(calls(5));
        for _ in 0..3 {
            drop(take(&limiter, "a", 0).unwrap());
        }
        limiter.recount([(trunk("a"), 2), (trunk("b"), 7)].into(), at(1));
        assert_eq!(limiter.in_flight(&trunk("a"), at(1)), (2, 1));
        assert_eq!(limiter.in_flight(&trunk("b"), at(1)), (7, 0));
        limiter.set(Limits { every: calls(3), trunks: BTreeMap::new() });
        assert_eq!(take(&limiter, "a", 1).unwrap_err().why, "3 calls at once");
        limiter.recount(BTreeMap::new(), at(1));
        assert_eq!((limiter.in_flight(&trunk("a"), at(1)), limiter.in_flight(&trunk("b"), at(1))), ((0, 1), (0, 0)));
        limiter.set(Limits::default());
        assert!(!*limiter.counting().borrow());
        drop(take(&limiter, "a", 1).unwrap());
        assert_eq!(limiter.in_flight(&trunk("a"), at(1)), (0, 1), "without limits nothing is kept");
    }

    #[test]
    fn a_clock_set_back_closes_the_trunk_for_one_window_only() {
        let limiter = limiter(rate(1.0));
        drop(take(&limiter, "a", 3_600_000).unwrap());
        assert_eq!(take(&limiter, "a", 0).unwrap_err().retry_after, Duration::from_secs(1));
        drop(take(&limiter, "a", 1000).unwrap());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Take,
        Fail(usize),
        Began,
        Ended,
        Pass(u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => Just(Step::Take),
            1 => (0_usize..8).prop_map(Step::Fail),
            2 => Just(Step::Began),
            2 => Just(Step::Ended),
            3 => (0_u64..1500).prop_map(Step::Pass),
        ];
        proptest::collection::vec(step, 1..200)
    }

    proptest! {
        #[test]
        fn no_window_ever_has_more_than_the_rate_and_the_time_to_ask_again_is_exact(
            rate in 0.1_f64..20.0, gaps in proptest::collection::vec(0_u64..700, 1..300),
        ) {
            let limiter = limiter(TrunkLimits { per_second: Some(rate), ..TrunkLimits::default() });
            let (burst, window) = window(rate);
            let (mut now, mut admitted) = (at(0), Vec::new());
            for gap in gaps {
                now = after(now, Duration::from_millis(gap));
                match limiter.take(&[trunk("a")], |_| None, now) {
                    Ok(_) => admitted.push(now),
                    Err(refused) => {
                        let just = refused.retry_after.checked_sub(Duration::from_nanos(1)).unwrap();
                        prop_assert!(limiter.take(&[trunk("a")], |_| None, after(now, just)).is_err());
                        now = after(now, refused.retry_after);
                        prop_assert!(limiter.take(&[trunk("a")], |_| None, now).is_ok());
                        admitted.push(now);
                    }
                }
            }
            for pair in admitted.windows(burst + 1) {
                prop_assert!(between(pair[0], pair[burst]) >= window);
            }
        }

        #[test]
        fn a_ramp_only_grows_and_never_past_the_standing_limit(
            from in 0_u32..50, to in 0_u32..50, lasting in 1_u64..100_000, mut times in proptest::collection::vec(0_u64..120_000, 2..20),
        ) {
            let ramp = Ramp { calls: Some(from), per_second: Some(from.into()), lasting: Duration::from_millis(lasting) };
            let limits = TrunkLimits { per_second: Some(to.into()), ramp: Some(ramp), ..calls(to) };
            times.sort_unstable();
            let rooms: Vec<_> = times.iter().map(|&time| Room::of(&limits, Some(at(0)), at(time))).collect();
            for pair in rooms.windows(2) {
                prop_assert!(pair[0].calls <= pair[1].calls && pair[0].per_second <= pair[1].per_second);
            }
            for (room, time) in rooms.iter().zip(times) {
                prop_assert!(room.calls >= Some(from.min(to)) && room.calls <= Some(to));
                prop_assert!(time < lasting || room.calls == Some(to));
            }
        }

        #[test]
        fn places_are_conserved_and_never_more_are_given_than_there_are(cap in 1_u32..8, steps in steps()) {
            let limiter = limiter(calls(cap));
            let (mut now, mut live) = (at(0), 0_u32);
            // Tickets that wait for their channel, with the time they were given; the model of what the limiter keeps.
            let mut tickets: Vec<(u64, Ticket)> = Vec::new();
            let mut pending: Vec<(u64, Timestamp)> = Vec::new();
            let mut number = 0;
            for step in steps {
                pending.retain(|(_, given)| between(*given, now) < PENDING);
                match step {
                    Step::Take => {
                        let room = usize::try_from(live).unwrap() + pending.len() < usize::try_from(cap).unwrap();
                        let taken = limiter.take(&[trunk("a")], |_| None, now);
                        prop_assert_eq!(taken.is_ok(), room);
                        if let Ok(ticket) = taken {
                            number += 1;
                            tickets.push((number, ticket));
                            pending.push((number, now));
                        }
                    }
                    Step::Fail(which) if which < tickets.len() => {
                        let (failed, ticket) = tickets.remove(which);
                        ticket.failed();
                        pending.retain(|(number, _)| *number != failed);
                    }
                    Step::Began => {
                        limiter.began(&trunk("a"), now);
                        live += 1;
                        if !pending.is_empty() {
                            pending.remove(0);
                        }
                    }
                    Step::Ended => {
                        limiter.ended(&trunk("a"));
                        live = live.saturating_sub(1);
                    }
                    Step::Pass(millis) => now = after(now, Duration::from_millis(millis)),
                    Step::Fail(_) => {}
                }
                pending.retain(|(_, given)| between(*given, now) < PENDING);
                prop_assert_eq!(limiter.in_flight(&trunk("a"), now), (live, u32::try_from(pending.len()).unwrap()));
            }
        }
    }
}
