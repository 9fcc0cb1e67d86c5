//! What Asterisk's own log lines prove: why a challenge was not answered, and, where no SIP is in the log, how an attempt
//! ended.
//!
//! A line is what Asterisk says of itself, so it proves more than the wire does of the few things it speaks of. Its words
//! are told here in ours: a line may hold anything that somebody sent to the PBX.

use std::time::Duration;

use super::{
    super::verdict::{Cause, Fault},
    finding::{Finding, More},
    mend,
    scene::Scene,
    silent,
};
use crate::{
    clock::{Timestamp, between},
    diagnosis::tell,
    wire::{
        logger::{LogFact, LogFactKind},
        sip::{Challenge, Source},
    },
};
use Cause::{
    AccountForbidden, AddressForbidden, AlgorithmNotEnabled, DnsFailure, GaveUp, NoCredentialsConfigured, NoResponse,
    OutboundProxyRequired, PortClosed, ProviderUnavailable, RealmMismatch, TlsFailure, WrongAuthUsername,
    WrongPassword,
};

/// Lines of one happening: the log knows whole seconds, and the authenticator's line comes just before the other.
const TOGETHER: Duration = Duration::from_secs(3);

fn near(one: Timestamp, other: Timestamp) -> bool {
    between(one, other) <= TOGETHER && between(other, one) <= TOGETHER
}

/// Why the challenge that came at `at` was not answered.
pub(super) fn unanswered<'a>(
    scene: &Scene<'a>,
    at: Timestamp,
    challenges: &[Challenge],
    told: &str,
) -> Option<Finding<'a>> {
    let log = scene.log();
    let says = |fact: &&&'a LogFact| near(fact.at, at) && fact.kind.says_why();
    let fact = log.iter().rev().find(says)?;
    let (ranked, fault, why, fix): (Vec<(Cause, f64)>, Fault, String, _) = match &fact.kind {
        LogFactKind::NoAuth => (
            vec![(NoCredentialsConfigured, 0.97)],
            Fault::Configuration,
            "its log says that no auth section is named".to_owned(),
            mend::credentials(scene),
        ),
        LogFactKind::AuthNotFound { name } => (
            vec![(NoCredentialsConfigured, 0.97)],
            Fault::Configuration,
            format!("its log says that there is no auth section \"{}\"", tell::value(name)),
            mend::credentials(scene),
        ),
        LogFactKind::CredentialsNotSet => (
            vec![(NoCredentialsConfigured, 0.8), (RealmMismatch, 0.1)],
            Fault::Configuration,
            "its log says that the credentials could not be set".to_owned(),
            mend::credentials(scene),
        ),
        LogFactKind::NoAuthenticator => {
            let summary = format!("{told}: its log says that the digest module is not loaded");
            let found = Finding::unknown(0.8, &[], Fault::Pbx, summary, mend::reload(scene));
            return Some(found.line_at(fact.at, Source::Logger, words(&fact.kind)));
        }
        LogFactKind::NoMatchingAuth { offered } if offered.is_empty() => (
            vec![(AlgorithmNotEnabled, 0.95)],
            Fault::Configuration,
            "its log names no algorithm that it knows".to_owned(),
            mend::algorithm(scene, None, challenges),
        ),
        LogFactKind::NoMatchingAuth { offered } => {
            let md5 =
                offered.iter().any(|(_, algorithm)| algorithm.is_empty() || algorithm.eq_ignore_ascii_case("MD5"));
            let realm = offered.first().map(|(realm, _)| realm.as_str());
            let why = "its log says that no auth section answers this realm and algorithm".to_owned();
            if md5 {
                let ranked = vec![(RealmMismatch, 0.9), (AlgorithmNotEnabled, 0.05)];
                (ranked, Fault::Configuration, why, mend::realm(scene, None, realm))
            } else {
                let ranked = vec![(AlgorithmNotEnabled, 0.85), (RealmMismatch, 0.12)];
                (ranked, Fault::Configuration, why, mend::algorithm(scene, None, challenges))
            }
        }
        LogFactKind::Temporary { .. }
        | LogFactKind::NoResponse { .. }
        | LogFactKind::FatalRetrying { .. }
        | LogFactKind::FatalStopped { .. }
        | LogFactKind::GaveUp
        | LogFactKind::NotAnswered
        | LogFactKind::CredentialsRefused
        | LogFactKind::Unidentified { .. }
        | LogFactKind::Outcome { .. } => return None,
    };
    let found = Finding::new(&ranked, fault, format!("{told}; {why}"), fix);
    Some(found.line_at(fact.at, Source::Logger, words(&fact.kind)))
}

/// Log lines only: how the last attempt ended.
pub(super) fn only<'a>(scene: &Scene<'a>) -> Option<Finding<'a>> {
    let log = scene.log();
    let fact = *log.iter().rev().find(|fact| ends(&fact.kind))?;
    let gave_up = matches!(
        fact.kind,
        LogFactKind::GaveUp | LogFactKind::FatalStopped { .. } | LogFactKind::NoResponse { retry_in: None }
    );
    let found = match code(&fact.kind) {
        Some(status) => by_code(scene, fact, status),
        None if matches!(fact.kind, LogFactKind::NoResponse { .. }) => no_response(scene, fact),
        None => {
            // It gave up; the lines before say on what.
            let before = log.iter().rev().find(|one| one.at <= fact.at && code(&one.kind).is_some());
            match before.and_then(|one| Some((one, code(&one.kind)?))) {
                Some((one, status)) => by_code(scene, one, status),
                None => {
                    let summary = format!(
                        "Asterisk has stopped trying to register {} at {}: the most retries are reached",
                        scene.account(),
                        scene.registrar(),
                    );
                    Finding::new(&[(GaveUp, 0.7)], Fault::Pbx, summary, mend::again(scene))
                }
            }
        }
    };
    let found = found.line_at(fact.at, Source::Logger, words(&fact.kind)).more([More::Trace]);
    Some(if gave_up { found.also("; Asterisk has stopped trying") } else { found })
}

fn by_code<'a>(scene: &Scene<'a>, fact: &'a LogFact, status: u16) -> Finding<'a> {
    let told = format!("Asterisk's log says that {} answers {} with {status}", scene.registrar(), scene.account());
    match status {
        401 | 407 => {
            if let Some(found) =
                unanswered(scene, fact.at, &[], &format!("{told}, and it did not answer the challenge"))
            {
                return found;
            }
            let refused = scene.log().iter().any(|one| near(one.at, fact.at) && one.kind == LogFactKind::NotAnswered);
            if refused {
                let summary = format!("{told}, and that it could not answer the challenge");
                let ranked = [(RealmMismatch, 0.4), (NoCredentialsConfigured, 0.35), (AlgorithmNotEnabled, 0.15)];
                return Finding::new(&ranked, Fault::Configuration, summary, mend::realm(scene, None, None))
                    .more([More::Configuration]);
            }
            let ranked = [(WrongPassword, 0.5), (WrongAuthUsername, 0.3)];
            Finding::new(&ranked, Fault::Configuration, told, mend::password(scene))
        }
        403 => {
            let ranked = [(AccountForbidden, 0.45), (AddressForbidden, 0.25), (WrongPassword, 0.2)];
            Finding::new(&ranked, Fault::Provider, told, mend::account(scene))
        }
        404 | 410 | 480 => {
            let ranked = [(WrongAuthUsername, 0.45), (OutboundProxyRequired, 0.3), (AccountForbidden, 0.1)];
            Finding::new(&ranked, Fault::Configuration, told, mend::auth_username(scene))
        }
        300..=399 => {
            Finding::new(&[(OutboundProxyRequired, 0.65)], Fault::Configuration, told, mend::proxy(scene, None))
        }
        408 | 429 | 500..=699 => Finding::new(
            &[(ProviderUnavailable, 0.8), (NoResponse, 0.1)],
            Fault::Provider,
            told,
            mend::wait(scene, None),
        ),
        _ => Finding::unknown(0.4, &[], Fault::Unknown, told, mend::look(scene)),
    }
}

/// "No response received" is said of silence, of a name that does not resolve, and of a connection that fails.
fn no_response<'a>(scene: &Scene<'a>, fact: &'a LogFact) -> Finding<'a> {
    let told = format!("Asterisk's log says that no answer came from {} for {}", scene.registrar(), scene.account());
    let reason = scene.case.log.iter().find_map(|one| {
        let LogFactKind::Outcome { reason, .. } = &one.kind else { return None };
        (near(one.at, fact.at) && concerns(scene, one)).then(|| reason.to_ascii_lowercase())
    });
    if let Some(reason) = reason {
        let has = |any: &[&str]| any.iter().any(|word| reason.contains(word));
        let summary = format!("{told}: {}", tell::value(&reason));
        if has(&["refused"]) {
            return Finding::new(&[(PortClosed, 0.95)], Fault::Configuration, summary, mend::port(scene));
        }
        if has(&["dns", "resolv", "no answer record"]) {
            return Finding::new(&[(DnsFailure, 0.95)], Fault::Network, summary, mend::name(scene));
        }
        if has(&["tls", "ssl", "certificate"]) {
            return Finding::new(&[(TlsFailure, 0.9)], Fault::Configuration, summary, mend::tls(scene, None));
        }
        if has(&["timeout", "timed out"]) {
            let ranked = [(NoResponse, 0.85), (PortClosed, 0.1)];
            return Finding::new(&ranked, Fault::Network, summary, mend::silence(scene));
        }
    }
    // The log shows SIP, and none of this registration: nothing was sent.
    let shown_before = scene.case.seen.iter().any(|seen| {
        seen.source == Source::Logger && seen.sip().is_some() && between(seen.at, fact.at) > Duration::from_secs(1)
    });
    if shown_before && scene.attempts.is_empty() {
        return silent::nothing_sent(scene, fact.at);
    }
    if let Some(found) = silent::failed_at_once(scene, fact.at, &told) {
        return found;
    }
    let ranked = [(NoResponse, 0.5), (DnsFailure, 0.2), (PortClosed, 0.2)];
    Finding::new(&ranked, Fault::Network, told, mend::silence(scene)).more([More::Capture])
}

/// Whether a line that names no registration may be about this one: it is said of one, or of none.
fn concerns(scene: &Scene<'_>, fact: &LogFact) -> bool {
    fact.client_uri.is_none() || scene.log().contains(&fact)
}

/// Whether a line is said at the end of an attempt.
pub(super) fn ends(kind: &LogFactKind) -> bool {
    code(kind).is_some() || matches!(kind, LogFactKind::NoResponse { .. } | LogFactKind::GaveUp)
}

fn code(kind: &LogFactKind) -> Option<u16> {
    match kind {
        LogFactKind::Temporary { code, .. }
        | LogFactKind::FatalRetrying { code, .. }
        | LogFactKind::FatalStopped { code } => Some(*code),
        LogFactKind::NoResponse { .. }
        | LogFactKind::GaveUp
        | LogFactKind::NotAnswered
        | LogFactKind::NoMatchingAuth { .. }
        | LogFactKind::NoAuth
        | LogFactKind::AuthNotFound { .. }
        | LogFactKind::CredentialsNotSet
        | LogFactKind::NoAuthenticator
        | LogFactKind::CredentialsRefused
        | LogFactKind::Unidentified { .. }
        | LogFactKind::Outcome { .. } => None,
    }
}

/// A line in our words.
pub(super) fn words(kind: &LogFactKind) -> String {
    let wait =
        |wait: &Option<Duration>| wait.map(|wait| format!(", next try in {} s", wait.as_secs())).unwrap_or_default();
    match kind {
        LogFactKind::Temporary { code, retry_in } => format!("log: {code} received{}", wait(retry_in)),
        LogFactKind::NoResponse { retry_in: None } => "log: no response received, stopped".to_owned(),
        LogFactKind::NoResponse { retry_in } => format!("log: no response received{}", wait(retry_in)),
        LogFactKind::FatalRetrying { code, retry_in } => format!("log: fatal {code} received{}", wait(retry_in)),
        LogFactKind::FatalStopped { code } => format!("log: fatal {code} received, stopped"),
        LogFactKind::GaveUp => "log: the most retries are reached, stopped".to_owned(),
        LogFactKind::NotAnswered => "log: the challenge could not be answered".to_owned(),
        LogFactKind::NoMatchingAuth { offered } => {
            let offered: Vec<String> = offered
                .iter()
                .map(|(realm, algorithm)| format!("{}/{}", tell::value(realm), tell::value(algorithm)))
                .collect();
            format!("log: no auth matches the challenge's realm and algorithm: {}", offered.join(", "))
        }
        LogFactKind::NoAuth => "log: no outbound_auth is named".to_owned(),
        LogFactKind::AuthNotFound { name } => format!("log: there is no auth \"{}\"", tell::value(name)),
        LogFactKind::CredentialsNotSet => "log: the credentials could not be set".to_owned(),
        LogFactKind::NoAuthenticator => "log: no authenticator for outbound challenges is loaded".to_owned(),
        LogFactKind::CredentialsRefused => "log: the credentials were not accepted".to_owned(),
        LogFactKind::Unidentified { method, remote, .. } => {
            let remote = remote.map(|remote| remote.to_string()).unwrap_or_default();
            format!("log: {} from {remote} matches no endpoint", tell::value(method))
        }
        LogFactKind::Outcome { code, reason } => {
            format!("log: the attempt ended with {code} ({})", tell::value(reason))
        }
    }
}
