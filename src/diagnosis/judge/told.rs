//! What AMI alone can tell: not much, and honestly so.

use std::time::Duration;

use super::{
    super::{
        attempt::Outcome,
        verdict::{Cause, Fault},
    },
    finding::{Finding, More},
    mend,
    scene::{Scene, granted},
    silent,
};
use crate::clock::between;
use Cause::{
    AccountForbidden, AlgorithmNotEnabled, BindingRefused, ExpiryTooShort, GaveUp, NoCredentialsConfigured, NoResponse,
    PortClosed, ProviderUnavailable, RealmMismatch, RefreshOverdue, WrongPassword,
};

/// An attempt that took so long ended in silence: timer B is 32 s, and nothing else takes nearly that.
const SILENCE: std::ops::RangeInclusive<u64> = 28..=40;
/// So many `Registered` in ten seconds are no refreshes.
const LOOPS: u32 = 5;

/// Its failure was reported, and nothing of it was seen.
pub(super) fn rejected<'a>(scene: &Scene<'a>) -> Option<Finding<'a>> {
    let facts = scene.case.facts.as_ref()?;
    let at = facts.last_event_at.unwrap_or(facts.since);
    let took = facts.last_attempt_took;
    let unseen_end = scene.unseen_end(at);
    let told = format!("Asterisk rejected the registration of {} at {}", scene.account(), scene.registrar());
    if let Some(found) = silent::failed_at_once(scene, at, &told) {
        return Some(found.told_at(at, "Registry: Rejected".to_owned()));
    }
    if scene.watched_alone(at) && unseen_end.is_none() {
        return Some(silent::nothing_sent(scene, at));
    }
    if let Some(found) = silent::before_any(scene) {
        return Some(found);
    }
    let registrar = scene.registrar();
    let account = scene.account();
    let more = [More::Trace, More::Configuration];
    // Over TLS a handshake that fails late takes as long, so there the time alone says nothing.
    let tls = matches!(scene.protocol().as_deref(), Some("tls" | "wss"));
    if let Some(took) = took.filter(|took| !tls && SILENCE.contains(&took.as_secs())) {
        let summary = format!(
            "{registrar} did not answer {account}: the attempt took {} s, which is how long Asterisk waits",
            took.as_secs(),
        );
        let mut ranked = vec![(NoResponse, 0.65), (PortClosed, 0.2)];
        if facts.ever_registered {
            ranked.push((ProviderUnavailable, 0.1));
        }
        let line = format!("Registry: Rejected, {} s after the attempt was due", took.as_secs());
        return Some(Finding::new(&ranked, Fault::Network, summary, mend::silence(scene)).told_at(at, line).more(more));
    }
    let failures = if facts.failures > 1 { format!(", {} times", facts.failures) } else { String::new() };
    let line = format!("Registry: Rejected{failures}");
    // What the configuration shows to be missing would be the cause of any challenge that fails.
    let mut perhaps = perhaps(facts.ever_registered);
    if scene.registration.is_some_and(|own| own.outbound_auth.is_empty()) {
        perhaps.insert(0, (NoCredentialsConfigured, 0.3));
    }
    if facts.gave_up {
        let summary = format!("Asterisk has stopped trying to register {account} at {registrar}, and does not say why");
        let mut ranked = vec![(GaveUp, 0.7)];
        ranked.extend(perhaps);
        return Some(
            Finding::new(&ranked, Fault::Pbx, summary, mend::again(scene))
                .told_at(at, format!("{line}; nothing since, for longer than any retry interval"))
                .more(more),
        );
    }
    let quick = took.filter(|took| *took < Duration::from_secs(SILENCE.start().saturating_sub(1)));
    let how =
        quick.map(|took| format!(" within {:.0} s, so it is not silence", took.as_secs_f64())).unwrap_or_default();
    let summary =
        format!("the registration of {account} at {registrar} was rejected{failures}{how}; Asterisk does not say why");
    let found =
        Finding::unknown(0.3, &perhaps, Fault::Unknown, summary, mend::look(scene)).told_at(at, line).more(more);
    Some(match unseen_end {
        Some(attempt) => found.also(", and the end of its exchange was not seen").of_attempt(attempt),
        None => found,
    })
}

/// What a rejection mostly is.
fn perhaps(registered_before: bool) -> Vec<(Cause, f64)> {
    if registered_before {
        vec![(ProviderUnavailable, 0.25), (AccountForbidden, 0.25), (WrongPassword, 0.15)]
    } else {
        vec![(WrongPassword, 0.3), (AccountForbidden, 0.2), (RealmMismatch, 0.1), (AlgorithmNotEnabled, 0.05)]
    }
}

/// Not registered, and not rejected.
pub(super) fn unregistered<'a>(scene: &Scene<'a>, at: Option<usize>) -> Finding<'a> {
    let account = scene.account();
    let registrar = scene.registrar();
    let gave_up = at.and_then(|at| scene.attempts.get(at)).filter(|one| one.unregister);
    let since = scene.case.facts.as_ref().map_or(scene.now, |facts| facts.last_event_at.unwrap_or(facts.since));
    if let (Some(_), Some(at)) = (gave_up, at) {
        let summary = format!(
            "Asterisk itself un-registered {account} at {registrar}: PJSIPUnregister, a reload, or the first half of a PJSIPRegister"
        );
        return Finding::unknown(0.6, &[], Fault::Pbx, summary, mend::again(scene)).of_attempt(at);
    }
    let summary = format!(
        "{account} is not registered at {registrar}, and was not rejected: un-registered here, not tried yet, or granted no time by the provider"
    );
    Finding::unknown(0.3, &[(BindingRefused, 0.25)], Fault::Unknown, summary, mend::again(scene))
        .told_at(since, "Registry: Unregistered".to_owned())
        .more([More::Trace])
}

/// What AMI tells of a registered trunk.
pub(super) fn registered<'a>(scene: &Scene<'a>) -> Option<Finding<'a>> {
    let facts = scene.case.facts.as_ref()?;
    let at = facts.last_event_at.unwrap_or(facts.since);
    let account = scene.account();
    let registrar = scene.registrar();
    // Somebody may re-register it by hand again and again; what was seen to be granted says more.
    let seen = scene.attempts.iter().rev().filter(|one| one.outcome == Outcome::Granted).find_map(granted);
    if facts.registered_in_10s >= LOOPS && seen.is_none_or(|granted| granted <= 10) {
        let summary = format!(
            "{account} registers at {registrar} without end, {} times in ten seconds: it is granted 10 s or less",
            facts.registered_in_10s,
        );
        let line = format!("Registry: Registered, {} times in 10 s", facts.registered_in_10s);
        return Some(
            Finding::new(&[(ExpiryTooShort, 0.85)], Fault::Provider, summary, mend::expiry(scene)).told_at(at, line),
        );
    }
    let due = facts.refresh_overdue_since?;
    let late = between(due, scene.now).as_secs();
    let summary = format!(
        "the refresh of {account} at {registrar} was due {late} s ago and has not come; Asterisk still says Registered"
    );
    let ranked = [(RefreshOverdue, 0.7), (NoResponse, 0.4), (ProviderUnavailable, 0.1)];
    Some(
        Finding::new(&ranked, Fault::Unknown, summary, mend::overdue(scene))
            .told_at(due, "the refresh was due".to_owned())
            .more([More::Trace]),
    )
}
