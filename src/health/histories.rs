//! The histories of DESIGN section 3, and the rules they leave open, as lists of observations.
//!
//! Times are seconds; 0 is an arbitrary noon. The holds, pauses and resumes of the same histories are tested where they
//! are decided (`decision::histories`).

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    clock::{Timestamp, after},
    ids::{ContactUri, RegistrationName, TrunkId},
    observation::{ContactStatus, Fact, NextAttempt, Observation, RegistrationParameters, RegistrationState, Source},
};
use Health::{Down, Stable, Suspect, Unknown, Unstable};
use RegistrationState::{Registered, Rejected, Unregistered};

fn noon(seconds: f64) -> Timestamp {
    let noon = Timestamp::from_second(1_800_000_000).unwrap();
    noon.checked_add(jiff::SignedDuration::from_secs_f64(seconds)).unwrap()
}

fn name(text: &str) -> RegistrationName {
    RegistrationName::try_from(text).unwrap()
}

fn seen(at: f64, fact: Fact) -> Observation {
    Observation { trunk: TrunkId::try_from("pbx1/airtel").unwrap(), at: noon(at), fact }
}

fn event(at: f64, state: RegistrationState) -> Observation {
    event_of(at, "airtel", state)
}

fn event_of(at: f64, registration: &str, state: RegistrationState) -> Observation {
    seen(at, Fact::Registration { registration: name(registration), state, source: Source::Event })
}

fn listed(at: f64, state: RegistrationState) -> [Observation; 2] {
    let fact = Fact::Registration { registration: name("airtel"), state, source: Source::List };
    [seen(at, fact), seen(at, Fact::Listed { present: true })]
}

fn contact(at: f64, status: ContactStatus) -> Observation {
    let contact = ContactUri::try_from("sip:203.0.113.9:5060").unwrap();
    seen(at, Fact::Contact { contact, status, rtt: Some(Duration::from_millis(20)) })
}

fn next(at: f64, state: RegistrationState, next: NextAttempt) -> Observation {
    seen(at, Fact::NextAttempt { registration: name("airtel"), state, next })
}

fn lost(at: f64, last_heard: f64) -> Observation {
    seen(at, Fact::LinkLost { last_heard: noon(last_heard) })
}

/// A trunk that is stable, was last seen registered at -600 and, with Asterisk's default expiration, is not overdue soon.
fn stable() -> TrunkHealth {
    stable_under(&HealthPolicy::default())
}

fn stable_under(policy: &HealthPolicy) -> TrunkHealth {
    let mut health = TrunkHealth::new(noon(-600.0));
    for observation in listed(-600.0, Registered) {
        health = fold(health, &observation, policy);
    }
    health
}

/// Folds a history with a tick a second until `end`, and gives each change of status or standing with its time.
fn told(
    mut health: TrunkHealth,
    history: &[Observation],
    end: f64,
    policy: &HealthPolicy,
) -> Vec<(f64, Health, Standing)> {
    let mut changes = Vec::new();
    let mut known = (health.status, health.standing);
    let mut history = history.iter().peekable();
    let mut second = history.peek().map_or(0.0, |first| (first.at.duration_since(noon(0.0))).as_secs_f64().min(0.0));
    while second <= end {
        let mut due = vec![];
        while let Some(observation) = history.next_if(|observation| observation.at <= noon(second)) {
            due.push(observation.clone());
        }
        due.push(seen(second, Fact::Tick));
        for observation in due {
            health = fold(health, &observation, policy);
        }
        if (health.status, health.standing) != known {
            known = (health.status, health.standing);
            changes.push((second, known.0, known.1));
        }
        second += 1.0;
    }
    assert_eq!(history.next(), None, "the history ends within the time it is told");
    changes
}

fn history(history: &[Observation], end: f64) -> Vec<(f64, Health, Standing)> {
    told(stable(), history, end, &HealthPolicy::default())
}

/// What is known at the end of a history.
fn at_the_end(history: &[Observation]) -> TrunkHealth {
    history.iter().fold(stable(), |health, observation| fold(health, observation, &HealthPolicy::default()))
}

use Standing::{Clear, Hold, Wait};

#[test]
fn history_1_a_rejection_holds_and_recovery_lets_go() {
    assert_eq!(
        history(&[event(0.0, Rejected), event(60.0, Registered)], 120.0),
        [(0.0, Down, Hold), (60.0, Unstable, Hold), (90.0, Stable, Clear)]
    );
}

#[test]
fn history_2_a_third_loss_within_minutes_suppresses() {
    let flapping = [0.0, 60.0, 120.0].map(|at| [event(at, Rejected), event(at + 10.0, Registered)]).concat();
    assert_eq!(
        history(&flapping, 700.0),
        [
            (0.0, Down, Hold),
            (10.0, Unstable, Hold),
            (40.0, Stable, Clear),
            (60.0, Down, Hold),
            (70.0, Unstable, Hold),
            (100.0, Stable, Clear),
            (120.0, Down, Hold),
            (130.0, Unstable, Hold),
            (663.0, Stable, Clear),
        ]
    );
}

#[test]
fn history_3_an_hour_of_rejections_is_one_loss() {
    let mut rejections: Vec<_> = (0..=720).map(|n| event(f64::from(n) * 5.0, Rejected)).collect();
    rejections.push(event(3605.0, Registered));
    assert_eq!(history(&rejections, 3700.0), [(0.0, Down, Hold), (3605.0, Unstable, Hold), (3635.0, Stable, Clear)]);
    assert_eq!(at_the_end(&rejections).losses, 1);
}

#[test]
fn history_4_a_loss_during_recovery_starts_it_anew() {
    assert_eq!(
        history(&[event(0.0, Rejected), event(10.0, Registered), event(30.0, Rejected), event(40.0, Registered)], 90.0),
        [(0.0, Down, Hold), (10.0, Unstable, Hold), (30.0, Down, Hold), (40.0, Unstable, Hold), (70.0, Stable, Clear)]
    );
}

#[test]
fn history_5_a_re_registration_closes_the_gate_and_nothing_more() {
    assert_eq!(
        history(&[event(0.0, Unregistered), event(7.0, Registered)], 60.0),
        [(0.0, Down, Wait), (7.0, Stable, Clear)]
    );
    let back = fold(
        fold(stable(), &event(0.0, Unregistered), &HealthPolicy::default()),
        &event(7.0, Registered),
        &HealthPolicy::default(),
    );
    assert_eq!((back.losses, back.penalty_value), (0, 0.0));
    assert_eq!(
        history(&[event(0.0, Unregistered), event(20.0, Registered)], 60.0),
        [(0.0, Down, Wait), (15.0, Down, Hold), (20.0, Unstable, Hold), (50.0, Stable, Clear)]
    );
}

#[test]
fn history_6_a_short_gap_changes_nothing_a_long_one_is_unknown() {
    let short = [vec![lost(0.0, 0.0)], listed(10.0, Registered).to_vec()].concat();
    assert_eq!(history(&short, 60.0), []);
    let long = [vec![lost(0.0, 0.0)], listed(100.0, Registered).to_vec()].concat();
    assert_eq!(history(&long, 150.0), [(15.0, Unknown, Hold), (100.0, Unstable, Hold), (130.0, Stable, Clear)]);
    let rejected = [vec![lost(0.0, 0.0)], listed(100.0, Rejected).to_vec()].concat();
    assert_eq!(history(&rejected, 150.0), [(15.0, Unknown, Hold), (100.0, Down, Hold)]);
    let end = at_the_end(&rejected);
    assert_eq!((end.losses, end.penalty_at), (1, noon(100.0)), "one loss, dated when it was seen");
    assert_eq!(at_the_end(&long).losses, 0, "our own blindness is no loss");
}

#[test]
fn a_silent_link_that_is_noticed_late_is_unknown_at_once() {
    let noticed = [lost(15.0, 0.0)];
    assert_eq!(history(&noticed, 30.0), [(15.0, Unknown, Hold)]);
}

#[test]
fn history_7_a_restart_goes_on_from_what_was_stored() {
    let started = seen(5.0, Fact::Started { unseen_since: noon(0.0) });
    let again = [vec![started.clone()], listed(6.0, Registered).to_vec()].concat();
    let policy = HealthPolicy::default();
    assert_eq!(told(stable(), &again, 60.0, &policy), [(5.0, Unknown, Wait), (6.0, Stable, Clear)]);
    let down = fold(stable(), &event(-20.0, Rejected), &policy);
    assert_eq!(
        told(down.clone(), &again, 60.0, &policy),
        [(5.0, Unknown, Wait), (6.0, Unstable, Hold), (36.0, Stable, Clear)]
    );
    let penalty = fold(down.clone(), &started, &policy).penalty(noon(280.0), policy.flap.half_life);
    assert!((penalty - 500.0).abs() < 1e-6, "decays through the gap: {penalty}");
    let never_listed = told(stable(), &[started], 60.0, &policy);
    assert_eq!(never_listed, [(5.0, Unknown, Wait), (20.0, Unknown, Hold)]);
}

#[test]
fn a_recovery_is_not_completed_by_a_time_nobody_watched() {
    let policy = HealthPolicy::default();
    let recovering = fold(fold(stable(), &event(-20.0, Rejected), &policy), &event(-10.0, Registered), &policy);
    let started = seen(1000.0, Fact::Started { unseen_since: noon(0.0) });
    let again = [vec![started], listed(1001.0, Registered).to_vec()].concat();
    assert_eq!(
        again.iter().fold(recovering, |health, o| fold(health, o, &policy)).status,
        Unstable,
        "nobody saw it well for 30 s"
    );
}

#[test]
fn history_8_an_overdue_refresh_is_seen_before_it_fails() {
    let beats: Vec<_> = [-100.0, -50.0, 0.0].iter().map(|at| event(*at, Registered)).collect();
    let policy = HealthPolicy::default();
    let start = [vec![seen(-101.0, Fact::Listed { present: true })], beats].concat();
    let unanswered =
        [start.clone(), vec![next(55.0, Registered, NextAttempt::Ago(Duration::from_secs(5))), event(82.0, Rejected)]]
            .concat();
    assert_eq!(told(stable(), &unanswered, 90.0, &policy), [(55.0, Suspect, Clear), (82.0, Down, Hold)]);
    assert_eq!(told(stable(), &start, 140.0, &policy), [(100.0, Suspect, Clear), (130.0, Unstable, Hold)]);
}

#[test]
fn a_refresh_answered_late_is_no_suspicion_any_more() {
    let policy = HealthPolicy::default();
    let health = fold(stable(), &event(0.0, Registered), &policy);
    let health = fold(health, &next(55.0, Registered, NextAttempt::Ago(Duration::from_secs(5))), &policy);
    assert_eq!(health.status, Suspect);
    assert_eq!(fold(health.clone(), &event(57.0, Registered), &policy).status, Stable);
    assert_eq!(fold(health, &next(57.0, Registered, NextAttempt::In(Duration::from_secs(50))), &policy).status, Stable);
    let in_flight = next(50.0, Registered, NextAttempt::Ago(Duration::from_secs(1)));
    assert_eq!(fold(stable(), &in_flight, &policy).status, Stable, "an attempt just in flight reads ago as well");
}

#[test]
fn a_registration_without_heartbeat_is_never_overdue() {
    let policy = HealthPolicy::default();
    let parameters = RegistrationParameters { heartbeat: false, ..RegistrationParameters::default() };
    let quiet = seen(-599.0, Fact::Parameters { registration: name("airtel"), parameters });
    assert_eq!(told(fold(stable(), &quiet, &policy), &[], 20_000.0, &policy), []);
}

#[test]
fn failures_may_need_confirmation() {
    let policy = HealthPolicy { confirm_failures: 3, ..HealthPolicy::default() };
    let three = [event(0.0, Rejected), event(5.0, Rejected), event(10.0, Rejected)];
    assert_eq!(told(stable(), &three, 20.0, &policy), [(0.0, Suspect, Clear), (10.0, Down, Hold)]);
    let one = [event(0.0, Rejected)];
    assert_eq!(
        told(stable(), &one, 200.0, &policy),
        [(0.0, Suspect, Clear), (95.0, Down, Hold)],
        "no further attempt within RetryInterval + 35 s"
    );
    let gave_up = [event(0.0, Rejected), next(40.0, Rejected, NextAttempt::Ago(Duration::from_secs(36)))];
    assert_eq!(told(stable(), &gave_up, 60.0, &policy), [(0.0, Suspect, Clear), (40.0, Down, Hold)]);
    let in_between = [event(0.0, Rejected), event(5.0, Registered), event(10.0, Rejected)];
    assert_eq!(
        told(stable(), &in_between, 20.0, &policy),
        [(0.0, Suspect, Clear), (5.0, Stable, Clear), (10.0, Suspect, Clear)],
        "what is registered again was never lost"
    );
}

#[test]
fn asterisk_gave_up_by_its_own_word_or_by_silence() {
    let policy = HealthPolicy::default();
    let rejected = fold(stable(), &event(0.0, Rejected), &policy);
    assert!(matches!(rejected.reason, Reason::Rejected { .. }));
    let silent = fold(rejected.clone(), &seen(95.0, Fact::Tick), &policy);
    assert!(matches!(silent.reason, Reason::GaveUp { .. }), "60 s retry interval + 35 s: {:?}", silent.reason);
    let long_wait = fold(rejected.clone(), &next(1.0, Rejected, NextAttempt::In(Duration::from_secs(600))), &policy);
    let still = fold(long_wait, &seen(500.0, Fact::Tick), &policy);
    assert!(matches!(still.reason, Reason::Rejected { .. }), "a Retry-After may be long: {:?}", still.reason);
    let in_flight = fold(rejected.clone(), &next(70.0, Rejected, NextAttempt::Ago(Duration::from_secs(31))), &policy);
    assert!(matches!(in_flight.reason, Reason::Rejected { .. }));
    let stopped = fold(rejected, &next(70.0, Rejected, NextAttempt::Ago(Duration::from_secs(36))), &policy);
    assert!(matches!(stopped.reason, Reason::GaveUp { .. }));
    assert!(matches!(fold(stopped, &event(80.0, Rejected), &policy).reason, Reason::Rejected { .. }));
}

#[test]
fn a_removed_registration_is_down_and_gives_way_to_its_successor() {
    let policy = HealthPolicy::default();
    let removed = fold(stable(), &seen(0.0, Fact::RegistrationRemoved { registration: name("airtel") }), &policy);
    assert_eq!((removed.status, removed.standing, removed.losses), (Down, Hold, 1));
    let successor = fold(removed, &event_of(5.0, "airtel-2", Registered), &policy);
    assert_eq!((successor.status, successor.registrations.len()), (Unstable, 1));
}

#[test]
fn of_several_registrations_one_is_enough_or_all_are_needed() {
    let any = HealthPolicy::default();
    let two = [event_of(-1.0, "airtel-2", Registered), event_of(0.0, "airtel-2", Rejected), event(20.0, Rejected)];
    assert_eq!(told(stable(), &two, 30.0, &any), [(0.0, Suspect, Clear), (20.0, Down, Hold)]);
    let all = HealthPolicy { registered_when: RegisteredWhen::All, ..HealthPolicy::default() };
    assert_eq!(told(stable_under(&all), &two[..2], 30.0, &all), [(0.0, Down, Hold)]);
}

#[test]
fn a_contact_that_answered_and_fell_silent_makes_a_registered_trunk_unstable_after_30_s() {
    let silent = [contact(-5.0, ContactStatus::Reachable), contact(0.0, ContactStatus::Unreachable)];
    let policy = HealthPolicy::default();
    assert_eq!(told(stable(), &silent, 60.0, &policy), [(0.0, Suspect, Clear), (30.0, Unstable, Hold)]);
    let back = [silent.to_vec(), vec![contact(40.0, ContactStatus::Reachable)]].concat();
    assert_eq!(
        told(stable(), &back, 90.0, &policy),
        [(0.0, Suspect, Clear), (30.0, Unstable, Hold), (70.0, Stable, Clear)]
    );
    assert_eq!(told(stable(), &[contact(0.0, ContactStatus::Unreachable)], 90.0, &policy), [], "it never answered");
    assert_eq!(told(stable(), &[contact(0.0, ContactStatus::NonQualified)], 90.0, &policy), []);
}

#[test]
fn a_trunk_without_registration_is_as_its_contact_is() {
    let policy = HealthPolicy::default();
    let fresh = || TrunkHealth::new(noon(-10.0));
    let present = seen(-9.0, Fact::Listed { present: true });
    let reachable = [contact(-9.0, ContactStatus::Reachable), present.clone()];
    assert_eq!(told(fresh(), &reachable, 30.0, &policy), [(-9.0, Stable, Clear)]);
    let silent = [contact(-9.0, ContactStatus::Unreachable), present.clone()];
    assert_eq!(told(fresh(), &silent, 60.0, &policy), [(-9.0, Unstable, Wait), (21.0, Unstable, Hold)]);
    let declared = [seen(-9.0, Fact::Declared), present];
    assert_eq!(told(fresh(), &declared, 60.0, &policy), [(-9.0, Stable, Clear)]);
    let absent = [seen(-9.0, Fact::Declared), seen(-9.0, Fact::Listed { present: false })];
    assert_eq!(told(fresh(), &absent, 60.0, &policy), [(6.0, Unknown, Hold)]);
}

#[test]
fn a_blind_trunk_may_be_allowed_by_policy() {
    let policy = HealthPolicy { on_unknown: OnUnknown::Allow, ..HealthPolicy::default() };
    let gap = [vec![lost(0.0, 0.0)], listed(100.0, Registered).to_vec()].concat();
    assert_eq!(told(stable_under(&policy), &gap, 150.0, &policy), [(15.0, Unknown, Clear), (100.0, Stable, Clear)]);
}

#[test]
fn a_suspect_trunk_may_be_held_by_policy() {
    let policy = HealthPolicy { on_suspect: OnSuspect::Hold, confirm_failures: 2, ..HealthPolicy::default() };
    let once = [event(0.0, Rejected), event(5.0, Registered)];
    assert_eq!(
        told(stable_under(&policy), &once, 60.0, &policy),
        [(0.0, Suspect, Hold), (5.0, Unstable, Hold), (35.0, Stable, Clear)]
    );
}

#[test]
fn no_suppression_outlasts_its_limit() {
    let flapping: Vec<_> = (0..40)
        .flat_map(|n| [event(f64::from(n) * 4.0, Rejected), event(f64::from(n) * 4.0 + 2.0, Registered)])
        .collect();
    let changes = history(&flapping, 3000.0);
    let (released, status, _) = *changes.last().unwrap();
    assert_eq!(status, Stable);
    assert!(released <= 8.0 + 1800.0 + 1.0, "suppressed by the third loss at 8 s, for 30 min at most: {released}");
}

#[test]
fn a_clock_that_steps_back_does_not_undo_anything() {
    let policy = HealthPolicy::default();
    let health = fold(stable(), &event(0.0, Rejected), &policy);
    let health = fold(health, &event(-500.0, Registered), &policy);
    assert_eq!((health.status, health.recovering_since), (Unstable, Some(noon(0.0))));
}

/// Any fact that can be seen while the controller runs.
fn any_fact() -> impl Strategy<Value = Fact> {
    let state = prop_oneof![Just(Registered), Just(Rejected), Just(Unregistered)];
    let which = prop_oneof![Just("airtel"), Just("airtel-2")];
    let wait = (0_u64..100).prop_map(Duration::from_secs);
    let status = prop_oneof![
        Just(ContactStatus::Reachable),
        Just(ContactStatus::Unreachable),
        Just(ContactStatus::Unknown),
        Just(ContactStatus::NonQualified)
    ];
    let source = prop_oneof![Just(Source::Event), Just(Source::List)];
    prop_oneof![
        4 => (which.clone(), state.clone(), source).prop_map(|(which, state, source)| Fact::Registration {
            registration: name(which),
            state,
            source
        }),
        1 => (which.clone(), state, wait, any::<bool>()).prop_map(|(which, state, wait, ago)| Fact::NextAttempt {
            registration: name(which),
            state,
            next: if ago { NextAttempt::Ago(wait) } else { NextAttempt::In(wait) },
        }),
        1 => which.prop_map(|which| Fact::RegistrationRemoved { registration: name(which) }),
        2 => (status, 0_u64..3000).prop_map(|(status, rtt)| Fact::Contact {
            contact: ContactUri::try_from("sip:203.0.113.9").unwrap(),
            status,
            rtt: Some(Duration::from_millis(rtt))
        }),
        1 => any::<bool>().prop_map(|present| Fact::Listed { present }),
        1 => (0_u64..30).prop_map(|s| Fact::LinkLost { last_heard: noon(f64::from(u32::try_from(s).unwrap())) }),
    ]
}

proptest! {
    /// Ticks make it happen on time, and nothing else: the same facts give the same health with and without them.
    #[test]
    fn ticks_change_nothing_but_the_moment(facts in prop::collection::vec((0_u64..120_000, any_fact()), 1..40)) {
        let policy = HealthPolicy { confirm_failures: 2, ..HealthPolicy::default() };
        let (mut ticked, mut bare) = (stable_under(&policy), stable_under(&policy));
        let mut now = 0.0;
        for (pause, fact) in facts {
            #[expect(clippy::cast_precision_loss, reason = "a test's milliseconds")]
            let then = now + pause as f64 / 1000.0;
            while now + 7.3 < then {
                now += 7.3;
                ticked = fold(ticked, &seen(now, Fact::Tick), &policy);
            }
            now = then;
            ticked = fold(ticked, &seen(now, fact.clone()), &policy);
            bare = fold(bare, &seen(now, fact), &policy);
            prop_assert_eq!(&ticked, &bare);
        }
    }

    /// Whatever happened, a trunk that is well for `max_suppress` and a recovery is stable.
    #[test]
    fn every_hold_ends_once_the_trunk_is_well(facts in prop::collection::vec((0_u64..120_000, any_fact()), 0..40)) {
        let policy = HealthPolicy::default();
        let mut health = stable_under(&policy);
        let mut now = 0.0;
        for (pause, fact) in facts {
            #[expect(clippy::cast_precision_loss, reason = "a test's milliseconds")]
            { now += pause as f64 / 1000.0; }
            health = fold(health, &seen(now, fact), &policy);
        }
        let well = [
            seen(now, Fact::RegistrationRemoved { registration: name("airtel-2") }),
            seen(now, Fact::ContactRemoved { contact: ContactUri::try_from("sip:203.0.113.9").unwrap() }),
            seen(now, Fact::Listed { present: true }),
        ];
        let refreshes = (0..=41).map(|n| event(now + f64::from(n) * 45.0, Registered));
        let health = well.into_iter().chain(refreshes).fold(health, |health, o| fold(health, &o, &policy));
        prop_assert_eq!((health.status, health.standing), (Stable, Clear), "{:?}", health);
    }

    /// `due` is always ahead, so that walking through it ends.
    #[test]
    fn the_next_instant_is_always_ahead(facts in prop::collection::vec((0_u64..120_000, any_fact()), 0..40)) {
        let policy = HealthPolicy::default();
        let mut health = stable_under(&policy);
        let mut now = noon(0.0);
        for (pause, fact) in facts {
            now = after(now, Duration::from_millis(pause));
            health = fold(health, &Observation { at: now, ..seen(0.0, fact) }, &policy);
            if let Some(instant) = due(&health, &policy) {
                prop_assert!(instant > health.at);
            }
        }
    }
}

#[test]
fn asterisks_own_schedule_replaces_what_intervals_suggest() {
    let policy = HealthPolicy::default();
    let beats = [-100.0, -50.0, 0.0].map(|at| event(at, Registered));
    let regranted = next(5.0, Registered, NextAttempt::In(Duration::from_secs(3585)));
    let history = [beats.to_vec(), vec![regranted]].concat();
    assert_eq!(told(stable(), &history, 3600.0, &policy), [], "the provider grants an hour today");
    assert_eq!(told(stable(), &history, 3650.0, &policy), [(3640.0, Suspect, Clear)]);
}

#[test]
fn a_recovery_does_not_end_while_nobody_can_see_it() {
    let history = [event(0.0, Rejected), event(60.0, Registered), lost(80.0, 80.0)];
    let unseen = told(stable(), &history, 94.0, &HealthPolicy::default());
    assert_eq!(unseen.last().unwrap().1, Unstable, "{unseen:?}");
    let back = [&history[..], &listed(93.0, Registered)[..]].concat();
    let seen = told(stable(), &back, 100.0, &HealthPolicy::default());
    assert_eq!(seen.last().unwrap(), &(93.0, Stable, Standing::Clear));
}

#[test]
fn allowing_the_unknown_does_not_allow_what_was_last_seen_to_fail() {
    let policy = HealthPolicy { on_unknown: OnUnknown::Allow, ..HealthPolicy::default() };
    for failing in [vec![event(0.0, Rejected)], vec![event(0.0, Unregistered)]] {
        let history = [&failing[..], &[lost(1.0, 1.0)]].concat();
        let changes = told(stable(), &history, 300.0, &policy);
        let (_, status, standing) = changes.last().unwrap();
        assert_eq!((*status, *standing), (Unknown, Standing::Hold), "{changes:?}");
    }
}

#[test]
fn a_refresh_that_only_the_list_shows_is_no_silence() {
    let history: Vec<_> = (0_u32..40)
        .map(|n| {
            let at = f64::from(n) * 30.0;
            let wait = Duration::from_secs(u64::from(50 - (n * 30) % 50));
            next(at, Registered, NextAttempt::In(wait))
        })
        .collect();
    assert_eq!(told(stable(), &history, 1200.0, &HealthPolicy::default()), []);
}

#[test]
fn a_run_that_begins_before_the_last_one_ended_does_not_stand_still() {
    let failed =
        [event(0.0, Rejected)].iter().fold(stable(), |health, one| fold(health, one, &HealthPolicy::default()));
    let started = seen(-3600.0, Fact::Started { unseen_since: noon(-3600.0) });
    let again = [&[started], &listed(-3599.0, Registered)[..]].concat();
    let changes = told(failed, &again, -3500.0, &HealthPolicy::default());
    assert_eq!(changes.last().unwrap(), &(-3569.0, Stable, Clear), "{changes:?}");
}
