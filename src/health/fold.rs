//! The fold: takes one observation in, then judges.
//!
//! Three steps, each small: `take` writes the fact down, `judge` says how the trunk is by the facts alone, and
//! `settle` adds what needs memory: losses and their penalty, and the recovery after a hold.

use std::time::Duration;

use super::{
    policy::{HealthPolicy, OnSuspect, OnUnknown, RegisteredWhen},
    state::{Contact, Health, Reason, Registration, Standing, TrunkHealth, View},
};
use crate::{
    clock::{Timestamp, after, before, between},
    ids::{ContactUri, RegistrationName},
    observation::{
        ContactStatus, Fact, NextAttempt, Observation, RegistrationState, Source, observer::SLOW_ROUND_TRIP,
    },
};

/// Asterisk waits 32 s for an answer (64 × T1, `timer_b`); with a margin, 35 s after an attempt was due it has stopped.
const ANSWER_LIMIT: Duration = Duration::from_secs(35);
/// Asterisk refreshes 10 s before the binding expires (`REREGISTER_BUFFER_TIME`), so a refresh this late is not late yet.
const REFRESH_SLACK: Duration = Duration::from_secs(10);
/// On top of `max_random_initial_delay`: a re-registration takes two round trips and the list is read once a second.
const REREGISTRATION_SLACK: Duration = Duration::from_secs(5);
/// A refresh in flight reads `ago` too; a healthy one is answered long before this.
const UNANSWERED: Duration = Duration::from_secs(2);
/// How long a contact may be unreachable before the trunk is; long enough for one more qualify to say otherwise.
const CONTACT_GRACE: Duration = Duration::from_secs(30);

/// Takes one observation in.
///
/// Total: any fact in any order gives a health. An observation dated before what is already known counts as now.
#[must_use]
pub fn fold(mut health: TrunkHealth, seen: &Observation, policy: &HealthPolicy) -> TrunkHealth {
    if matches!(seen.fact, Fact::Started { .. }) {
        rebase(&mut health, seen.at);
    }
    let at = seen.at.max(health.at);
    // Between the last run's end and this start nobody watched: what would have come due then did not happen.
    if !matches!(seen.fact, Fact::Started { .. }) {
        while let Some(instant) = due(&health, policy)
            && instant <= at
        {
            settle(&mut health, instant, policy);
        }
    }
    take(&mut health, at, &seen.fact);
    settle(&mut health, at, policy);
    health
}

/// The next instant at which the health changes by itself, or may; always later than `health.at`.
#[must_use]
pub fn due(health: &TrunkHealth, policy: &HealthPolicy) -> Option<Timestamp> {
    let mut agenda = Agenda { now: health.at, next: None };
    let _ = judge(health, &mut agenda, policy);
    if let Some(since) = health.recovering_since {
        agenda.at(after(since, policy.recovery));
    }
    if health.suppressed_since.is_some() {
        agenda.at(end_of_suppression(health, policy));
    }
    agenda.next
}

/// Collects the instants at which a judgement may change, and keeps the next.
struct Agenda {
    now: Timestamp,
    next: Option<Timestamp>,
}

impl Agenda {
    fn at(&mut self, instant: Timestamp) {
        if instant > self.now {
            self.next = Some(self.next.map_or(instant, |next| next.min(instant)));
        }
    }

    /// Notes `instant`, and says whether it has come.
    fn reached(&mut self, instant: Timestamp) -> bool {
        self.at(instant);
        self.now >= instant
    }
}

/// Writes a fact down.
fn take(health: &mut TrunkHealth, at: Timestamp, fact: &Fact) {
    match fact {
        Fact::Declared => health.declared = true,
        Fact::Started { unseen_since } => {
            health.view = View::Unlisted { since: (*unseen_since).min(at), started: at };
            health.recovering_since = None;
            interrupt(health);
        }
        Fact::LinkLost { last_heard } => match health.view {
            View::Listed | View::Absent { .. } => {
                health.view = View::Lost { since: (*last_heard).min(at) };
                interrupt(health);
            }
            View::Lost { .. } | View::Unlisted { .. } => {}
        },
        Fact::Listed { present } => {
            if matches!(health.view, View::Lost { .. } | View::Unlisted { .. }) {
                for registration in health.registrations.values_mut() {
                    if registration.state == Some(RegistrationState::Registered) {
                        registration.last_registered_at = Some(at);
                    }
                }
            }
            health.view = match (*present, health.view) {
                (true, _) => View::Listed,
                (false, View::Absent { since }) => View::Absent { since },
                (false, View::Listed | View::Lost { .. } | View::Unlisted { .. }) => View::Absent { since: at },
            };
        }
        Fact::Parameters { registration, parameters } => {
            registration_of(health, registration, at).parameters = parameters.clone();
        }
        Fact::Registration { registration, state, source } => {
            attempt(registration_of(health, registration, at), at, *state, *source);
        }
        Fact::NextAttempt { registration, state, next } => {
            if let Some(known) = health.registrations.get_mut(registration)
                && known.state == Some(*state)
            {
                schedule(known, at, *state, *next);
            }
        }
        Fact::RegistrationRemoved { registration } => {
            let another = health.registrations.iter().any(|(name, r)| name != registration && r.state.is_some());
            if another {
                health.registrations.remove(registration);
            } else if let Some(removed) = health.registrations.get_mut(registration)
                && removed.state.is_some()
            {
                removed.state = None;
                removed.since = at;
                removed.left_at.get_or_insert(at);
            }
        }
        Fact::Contact { contact, status, rtt } => {
            let known = health.contacts.entry(contact.clone()).or_insert_with(|| Contact {
                status: *status,
                since: at,
                rtt: None,
                ever_reachable: false,
            });
            if known.status != *status {
                known.status = *status;
                known.since = at;
            }
            known.rtt = if *status == ContactStatus::Reachable { *rtt } else { None };
            known.ever_reachable |= *status == ContactStatus::Reachable;
        }
        Fact::ContactRemoved { contact } => {
            health.contacts.remove(contact);
        }
        Fact::Tick => {}
    }
}

/// Dates what is dated after `at` to `at`: a run begins, and the clock was set back since the last one. Without this the
/// trunk would stand still until the clock has caught up.
fn rebase(health: &mut TrunkHealth, at: Timestamp) {
    let now = |instant: &mut Timestamp| *instant = (*instant).min(at);
    if health.at <= at {
        return;
    }
    [&mut health.at, &mut health.since, &mut health.penalty_at].into_iter().for_each(now);
    health.suppressed_since.iter_mut().chain(&mut health.recovering_since).for_each(now);
    health.contacts.values_mut().for_each(|contact| now(&mut contact.since));
    for known in health.registrations.values_mut() {
        now(&mut known.since);
        [&mut known.left_at, &mut known.last_event_at, &mut known.last_registered_at]
            .into_iter()
            .for_each(|instant| instant.iter_mut().for_each(now));
    }
}

/// Nothing that spans a time in which we were blind may be learned from.
fn interrupt(health: &mut TrunkHealth) {
    for registration in health.registrations.values_mut() {
        registration.last_heartbeat_at = None;
        registration.unanswered_since = None;
        registration.next_attempt_at = None;
    }
}

/// The registration, known or new. One that was removed gives way to whatever comes after it.
fn registration_of<'a>(health: &'a mut TrunkHealth, name: &RegistrationName, at: Timestamp) -> &'a mut Registration {
    health.registrations.retain(|known, registration| known == name || registration.state.is_some());
    health.registrations.entry(name.clone()).or_insert_with(|| Registration::new(at))
}

fn attempt(known: &mut Registration, at: Timestamp, state: RegistrationState, source: Source) {
    let changed = known.state != Some(state);
    if changed {
        if known.state == Some(RegistrationState::Registered) {
            known.left_at = Some(at);
        }
        known.state = Some(state);
        known.since = at;
    }
    if changed || source == Source::Event {
        known.unanswered_since = None;
        known.next_attempt_at = None;
        known.gave_up = false;
    }
    if source == Source::Event {
        known.last_event_at = Some(at);
    }
    match state {
        RegistrationState::Registered => {
            if source == Source::Event {
                if let Some(last) = known.last_heartbeat_at {
                    if known.intervals.len() == Registration::INTERVALS {
                        known.intervals.remove(0);
                    }
                    known.intervals.push(between(last, at));
                }
                known.last_heartbeat_at = Some(at);
            }
            if changed || source == Source::Event {
                known.last_registered_at = Some(at);
            }
            known.left_at = None;
            known.lost = false;
            known.failures = 0;
        }
        RegistrationState::Rejected => {
            known.last_heartbeat_at = None;
            if changed || source == Source::Event {
                known.failures = known.failures.saturating_add(1);
            }
        }
        RegistrationState::Unregistered => known.last_heartbeat_at = None,
    }
}

fn schedule(known: &mut Registration, at: Timestamp, state: RegistrationState, next: NextAttempt) {
    match next {
        NextAttempt::In(wait) => {
            let next = after(at, wait);
            // A schedule that came due and moved on was kept, although nothing was heard of it.
            if let Some(kept) = known.next_attempt_at.filter(|due| state == RegistrationState::Registered && *due <= at)
            {
                known.last_registered_at = known.last_registered_at.max(Some(kept));
            }
            // What Asterisk has scheduled is better than what intervals suggest: a provider may grant another time today.
            if let Some(last) = known.last_registered_at.filter(|_| state == RegistrationState::Registered) {
                known.intervals = vec![between(last, next)];
            }
            known.next_attempt_at = Some(next);
            known.unanswered_since = None;
            known.gave_up = false;
        }
        NextAttempt::Ago(late) => match state {
            RegistrationState::Registered => {
                if late >= UNANSWERED {
                    known.unanswered_since.get_or_insert(before(at, late));
                }
            }
            RegistrationState::Rejected | RegistrationState::Unregistered => {
                known.next_attempt_at = Some(before(at, late));
                known.gave_up = late > ANSWER_LIMIT;
            }
        },
    }
}

/// How the trunk is by the facts alone.
struct Judgement {
    status: Health,
    reason: Reason,
    standing: Standing,
}

/// How one registration is, the best first: the order is what `any` and `all` go by.
enum Grade {
    Up,
    Warned(Reason),
    Unconfirmed(Reason),
    Overdue(Reason),
    Leaving(Reason),
    Lost(Reason),
}

impl Grade {
    const fn rank(&self) -> u8 {
        match self {
            Self::Up => 0,
            Self::Warned(_) => 1,
            Self::Unconfirmed(_) => 2,
            Self::Overdue(_) => 3,
            Self::Leaving(_) => 4,
            Self::Lost(_) => 5,
        }
    }
}

fn judge(health: &TrunkHealth, agenda: &mut Agenda, policy: &HealthPolicy) -> Judgement {
    let unknown = |reason, hold| {
        // To allow the unknown is to go on blindly, not to begin: what was last seen to fail stays held.
        let goes_on = || {
            let seen = judge_seen(health, &mut Agenda { now: health.at, next: None }, policy);
            !health.held && seen.standing == Standing::Clear
        };
        let standing = match (policy.on_unknown, hold) {
            (OnUnknown::Allow, _) if goes_on() => Standing::Clear,
            (OnUnknown::Allow | OnUnknown::Hold, true) => Standing::Hold,
            (OnUnknown::Allow | OnUnknown::Hold, false) => Standing::Wait,
        };
        Judgement { status: Health::Unknown, reason, standing }
    };
    match health.view {
        View::Listed => {}
        View::Lost { since } => {
            if agenda.reached(after(since, policy.unknown_after)) {
                return unknown(Reason::PbxUnheard { since }, true);
            }
        }
        View::Unlisted { since, started } => {
            let hold = agenda.reached(after(started, policy.unknown_after));
            return unknown(Reason::PbxUnheard { since }, hold);
        }
        View::Absent { since } => {
            if health.registrations.is_empty() {
                let hold = agenda.reached(after(since, policy.unknown_after));
                return unknown(Reason::NotListed { since }, hold);
            }
        }
    }
    judge_seen(health, agenda, policy)
}

/// How it is by what was seen last, whether or not it can be seen now.
fn judge_seen(health: &TrunkHealth, agenda: &mut Agenda, policy: &HealthPolicy) -> Judgement {
    let by_registration = judge_registrations(health, agenda, policy);
    let by_contact = judge_contacts(health, agenda, by_registration.is_none());
    let worst = match (by_registration, by_contact) {
        (Some(registration), Some(contact)) => {
            if severity(contact.status) > severity(registration.status) {
                contact
            } else {
                registration
            }
        }
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => clear(Health::Stable, Reason::Declared),
    };
    match (worst.status, policy.on_suspect) {
        (Health::Suspect, OnSuspect::Hold) => Judgement { standing: Standing::Hold, ..worst },
        (
            Health::Stable | Health::Suspect | Health::Unstable | Health::Down | Health::Unknown,
            OnSuspect::Allow | OnSuspect::Hold,
        ) => worst,
    }
}

const fn severity(status: Health) -> u8 {
    match status {
        Health::Stable => 0,
        Health::Suspect => 1,
        Health::Unstable => 2,
        Health::Down => 3,
        Health::Unknown => 4,
    }
}

const fn clear(status: Health, reason: Reason) -> Judgement {
    Judgement { status, reason, standing: Standing::Clear }
}

const fn hold(status: Health, reason: Reason) -> Judgement {
    Judgement { status, reason, standing: Standing::Hold }
}

/// `None` for a trunk that does not register.
fn judge_registrations(health: &TrunkHealth, agenda: &mut Agenda, policy: &HealthPolicy) -> Option<Judgement> {
    let mut best: Option<Grade> = None;
    let mut worst: Option<(Grade, &RegistrationName)> = None;
    for (name, registration) in &health.registrations {
        let graded = grade(name, registration, agenda, policy);
        if worst.as_ref().is_none_or(|(known, _)| graded.rank() > known.rank()) {
            worst = Some((grade(name, registration, agenda, policy), name));
        }
        if best.as_ref().is_none_or(|known| graded.rank() < known.rank()) {
            best = Some(graded);
        }
    }
    let (best, (worst, failing)) = (best?, worst?);
    let speaking = match (policy.registered_when, &best, &worst) {
        (RegisteredWhen::All, _, _) => worst,
        (RegisteredWhen::Any, Grade::Up, Grade::Warned(_)) => worst,
        (RegisteredWhen::Any, Grade::Up, Grade::Up) => best,
        (
            RegisteredWhen::Any,
            Grade::Up,
            Grade::Unconfirmed(_) | Grade::Overdue(_) | Grade::Leaving(_) | Grade::Lost(_),
        ) => Grade::Warned(Reason::PartFailed { registration: failing.clone() }),
        (
            RegisteredWhen::Any,
            Grade::Warned(_) | Grade::Unconfirmed(_) | Grade::Overdue(_) | Grade::Leaving(_) | Grade::Lost(_),
            _,
        ) => best,
    };
    Some(match speaking {
        Grade::Up => clear(Health::Stable, Reason::Registered),
        Grade::Warned(reason) | Grade::Unconfirmed(reason) => clear(Health::Suspect, reason),
        Grade::Overdue(reason) => hold(Health::Unstable, reason),
        Grade::Leaving(reason) => Judgement { status: Health::Down, reason, standing: Standing::Wait },
        Grade::Lost(reason) => hold(Health::Down, reason),
    })
}

fn grade(name: &RegistrationName, known: &Registration, agenda: &mut Agenda, policy: &HealthPolicy) -> Grade {
    let registration = name.clone();
    match known.state {
        None => Grade::Lost(Reason::Removed { registration }),
        Some(RegistrationState::Registered) => {
            let reckoned = (known.last_registered_at.filter(|_| known.parameters.heartbeat))
                .map(|last| after(after(last, known.refresh_interval()), REFRESH_SLACK));
            let expected = match (reckoned, known.unanswered_since) {
                (Some(reckoned), Some(unanswered)) => reckoned.min(unanswered),
                (Some(expected), None) | (None, Some(expected)) => expected,
                (None, None) => return Grade::Up,
            };
            let warned = after(expected, policy.refresh_grace);
            let overdue = agenda.reached(after(warned, policy.recovery));
            let warned = agenda.reached(warned) || known.unanswered_since.is_some();
            let reason = Reason::RefreshOverdue { registration, expected };
            if overdue {
                Grade::Overdue(reason)
            } else if warned {
                Grade::Warned(reason)
            } else {
                Grade::Up
            }
        }
        Some(RegistrationState::Rejected) => {
            let since = known.left_at.unwrap_or(known.since);
            let last = known.last_event_at.unwrap_or(known.since).max(known.since);
            let timing = &known.parameters;
            let longest = timing.retry_interval.max(timing.forbidden_retry_interval).max(timing.fatal_retry_interval);
            let next = known.next_attempt_at.unwrap_or_else(|| after(last, longest));
            let gave_up = agenda.reached(after(next, ANSWER_LIMIT)) || known.gave_up;
            let silent = agenda.reached(after(after(last, timing.retry_interval), ANSWER_LIMIT));
            let counted = known.failures >= policy.confirm_failures;
            if known.lost || gave_up || silent || counted || known.left_at.is_none() {
                Grade::Lost(if gave_up {
                    Reason::GaveUp { registration, since }
                } else {
                    Reason::Rejected { registration, since }
                })
            } else {
                Grade::Unconfirmed(Reason::Unconfirmed { registration, failures: known.failures })
            }
        }
        Some(RegistrationState::Unregistered) => {
            let since = known.left_at.unwrap_or(known.since);
            let until = after(after(since, known.parameters.max_random_initial_delay), REREGISTRATION_SLACK);
            let reason = Reason::Unregistered { registration, since };
            if agenda.reached(until) || known.lost { Grade::Lost(reason) } else { Grade::Leaving(reason) }
        }
    }
}

/// What the contacts add: nothing (`None`), a warning, or, where there is no registration, the whole verdict.
fn judge_contacts(health: &TrunkHealth, agenda: &mut Agenda, alone: bool) -> Option<Judgement> {
    let with = |status| health.contacts.iter().filter(move |(_, contact)| contact.status == status);
    if let Some((contact, fastest)) = with(ContactStatus::Reachable).min_by_key(|(_, contact)| contact.rtt) {
        let slow = fastest.rtt.filter(|rtt| *rtt >= SLOW_ROUND_TRIP);
        return match slow {
            Some(rtt) => Some(clear(Health::Suspect, Reason::ContactSlow { contact: contact.clone(), rtt })),
            None => alone.then(|| clear(Health::Stable, Reason::Reachable)),
        };
    }
    let newest = |found: Option<(&ContactUri, &Contact)>| found.map(|(uri, contact)| (uri.clone(), contact.since));
    let went = with(ContactStatus::Unreachable).filter(|(_, contact)| contact.ever_reachable);
    if let Some((contact, since)) = newest(went.max_by_key(|(_, contact)| contact.since)) {
        let confirmed = agenda.reached(after(since, CONTACT_GRACE));
        let reason = Reason::ContactUnreachable { contact, since };
        return Some(if confirmed { hold(Health::Unstable, reason) } else { clear(Health::Suspect, reason) });
    }
    if !alone {
        return None; // a contact that never answered is no sign
    }
    let silent = with(ContactStatus::Unreachable).chain(with(ContactStatus::Unknown));
    let (contact, since) = newest(silent.max_by_key(|(_, contact)| contact.since))?;
    let standing = if agenda.reached(after(since, CONTACT_GRACE)) { Standing::Hold } else { Standing::Wait };
    Some(Judgement { status: Health::Unstable, reason: Reason::ContactUnreachable { contact, since }, standing })
}

/// Judges at `at`, and adds what needs memory.
fn settle(health: &mut TrunkHealth, at: Timestamp, policy: &HealthPolicy) {
    health.at = at;
    note_losses(health, at, policy);
    if !is_blind(health) && health.suppressed_since.is_some() && at >= end_of_suppression(health, policy) {
        health.suppressed_since = None;
    }
    let mut agenda = Agenda { now: at, next: None };
    let judged = judge(health, &mut agenda, policy);
    let judged = hold_down(health, at, judged, policy);
    if health.status != judged.status {
        health.status = judged.status;
        health.since = at;
    }
    health.reason = judged.reason;
    health.standing = judged.standing;
}

/// Whether what happens to the trunk now would not be seen.
const fn is_blind(health: &TrunkHealth) -> bool {
    match health.view {
        View::Lost { .. } | View::Unlisted { .. } => true,
        View::Listed | View::Absent { .. } => false,
    }
}

/// A loss is one leaving of registered, confirmed, and seen: what happens while we are blind is dated when we see it.
fn note_losses(health: &mut TrunkHealth, at: Timestamp, policy: &HealthPolicy) {
    if is_blind(health) || health.registrations.is_empty() {
        return;
    }
    let mut agenda = Agenda { now: at, next: None };
    let (mut up, mut lost, mut all) = (0_usize, 0_usize, 0_usize);
    let graded: Vec<_> =
        health.registrations.iter().map(|(name, known)| grade(name, known, &mut agenda, policy)).collect();
    for (known, graded) in health.registrations.values_mut().zip(&graded) {
        all += 1;
        match graded {
            Grade::Lost(_) => {
                known.lost = true;
                lost += 1;
            }
            Grade::Up | Grade::Warned(_) | Grade::Overdue(_) => up += 1,
            Grade::Unconfirmed(_) | Grade::Leaving(_) => {}
        }
    }
    let (registered, failed) = match policy.registered_when {
        RegisteredWhen::Any => (up > 0, lost == all),
        RegisteredWhen::All => (up == all, lost > 0),
    };
    if registered {
        health.lost = false;
        health.ever_registered = true;
    } else if failed && !health.lost {
        health.lost = true;
        if health.ever_registered {
            health.losses = health.losses.saturating_add(1);
            penalise(health, at, policy);
        }
    }
}

fn penalise(health: &mut TrunkHealth, at: Timestamp, policy: &HealthPolicy) {
    let flap = &policy.flap;
    // RFC 2439 section 4.2: the ceiling that lets a suppression end within `max_suppress`.
    let ceiling = match flap.half_life.is_zero() {
        true => flap.suppress,
        false => flap.reuse * (flap.max_suppress.as_secs_f64() / flap.half_life.as_secs_f64()).exp2(),
    };
    let grown = health.penalty(at, flap.half_life) + flap.penalty;
    health.penalty_value = grown.min(ceiling.max(flap.suppress));
    health.penalty_at = at;
    if grown > flap.suppress {
        health.suppressed_since.get_or_insert(at);
    }
}

/// When the penalty falls below `reuse`, or `max_suppress` has passed.
fn end_of_suppression(health: &TrunkHealth, policy: &HealthPolicy) -> Timestamp {
    let flap = &policy.flap;
    let longest = after(health.suppressed_since.unwrap_or(health.penalty_at), flap.max_suppress);
    let halvings = (health.penalty_value / flap.reuse).log2().max(0.0);
    match Duration::try_from_secs_f64(flap.half_life.as_secs_f64() * halvings) {
        Ok(decay) => longest.min(after(health.penalty_at, decay + Duration::from_millis(1))),
        Err(_) => longest,
    }
}

/// After a hold a trunk must be well for `recovery`, and not suppressed, before it is let go.
fn hold_down(health: &mut TrunkHealth, at: Timestamp, judged: Judgement, policy: &HealthPolicy) -> Judgement {
    match (judged.status, judged.standing) {
        (Health::Stable | Health::Suspect, Standing::Clear) => {
            if !health.held && health.suppressed_since.is_none() {
                return judged;
            }
            health.held = true;
            let since = *health.recovering_since.get_or_insert(at);
            if let Some(since) = health.suppressed_since {
                return hold(Health::Unstable, Reason::Suppressed { since });
            }
            // A link that was just lost may be silent about the next failure: nothing is let go until it is heard again.
            if at < after(since, policy.recovery) || is_blind(health) {
                return hold(Health::Unstable, Reason::Recovering { since });
            }
            health.held = false;
            health.recovering_since = None;
            judged
        }
        (
            Health::Stable | Health::Suspect | Health::Unstable | Health::Down | Health::Unknown,
            Standing::Clear | Standing::Wait | Standing::Hold,
        ) => {
            health.recovering_since = None;
            health.held |= judged.standing == Standing::Hold;
            judged
        }
    }
}
