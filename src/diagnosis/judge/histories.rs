//! Verdicts as histories: what was seen, second by second, and what is said of it.
//!
//! Times are seconds; 0 is an arbitrary noon. We are 192.0.2.10, the registrar is 203.0.113.5: documentation addresses
//! count as public.

use std::time::Duration;

use bytes::Bytes;
use md5::{Digest, Md5};
use proptest::prelude::*;
use secrecy::SecretString;

use super::{
    super::{
        case::{Case, RegistrationFacts, Watched},
        verdict::{Cause, Diagnosis, Fault},
    },
    diagnose,
};
use crate::{
    clock::Timestamp,
    ids::RegistrationName,
    observation::RegistrationState,
    wire::{
        logger::{LogFact, LogFactKind},
        pjsip::{Auth, Endpoint, Identify, Kind, Objects, Registration, Transport},
        sip::{Algorithm, Direction, Happening, Seen, SipMessage, Source, Unreachable, digest::Secret},
    },
};
use Cause::*;

const US: &str = "192.0.2.10:5060";
const THEM: &str = "203.0.113.5:5060";
const USER: &str = "airtel1";
const PASSWORD: &str = "s3cret-of-airtel";
const REALM: &str = "provider.example";

fn noon(seconds: f64) -> Timestamp {
    let noon = Timestamp::from_second(1_800_000_000).unwrap();
    noon.checked_add(jiff::SignedDuration::from_secs_f64(seconds)).unwrap()
}

fn sip(text: &str) -> SipMessage {
    SipMessage::parse(Bytes::from(text.replace('\n', "\r\n"))).unwrap()
}

fn packet(at: f64, from: &str, to: &str, text: &str) -> Seen {
    Seen {
        at: noon(at),
        source: Source::Capture,
        direction: None,
        transport: None,
        from: Some(from.parse().unwrap()),
        to: Some(to.parse().unwrap()),
        what: Happening::Sip(Box::new(sip(text))),
    }
}

/// A registration's words.
#[derive(Clone)]
struct Account {
    user: &'static str,
    contact: &'static str,
    via: &'static str,
    call: &'static str,
    us: &'static str,
    them: &'static str,
}

const AIRTEL: Account = Account {
    user: USER,
    contact: "sip:airtel1@192.0.2.10:5060",
    via: "SIP/2.0/UDP 192.0.2.10:5060;rport",
    call: "call-1",
    us: US,
    them: THEM,
};

impl Account {
    fn register(&self, at: f64, cseq: u32, extra: &str) -> Seen {
        let Self { user, contact, via, call, us, them } = self;
        let expires = if extra.contains("Expires:") { "" } else { "Expires: 3600\n" };
        packet(
            at,
            us,
            them,
            &format!(
                "REGISTER sip:sip.provider.example SIP/2.0\nVia: {via};branch=z9hG4bK{call}{cseq}\nFrom: <sip:{user}@sip.provider.example>;tag=a\nTo: <sip:{user}@sip.provider.example>\nCall-ID: {call}\nCSeq: {cseq} REGISTER\nContact: <{contact}>\n{expires}{extra}Content-Length: 0\n\n"
            ),
        )
    }

    fn answer(&self, at: f64, cseq: u32, status: &str, extra: &str) -> Seen {
        let Self { user, via, call, us, them, .. } = self;
        packet(
            at,
            them,
            us,
            &format!(
                "SIP/2.0 {status}\nVia: {via}=5060;received=192.0.2.10;branch=z9hG4bK{call}{cseq}\nFrom: <sip:{user}@sip.provider.example>;tag=a\nTo: <sip:{user}@sip.provider.example>;tag=b\nCall-ID: {call}\nCSeq: {cseq} REGISTER\n{extra}Content-Length: 0\n\n"
            ),
        )
    }

    /// REGISTER, challenge, REGISTER with credentials, and the answer to that.
    fn challenged(&self, at: f64, cseq: u32, end: &str, extra: &str) -> Vec<Seen> {
        vec![
            self.register(at, cseq, ""),
            self.answer(at + 0.01, cseq, "401 Unauthorized", &challenge(REALM, "MD5", "")),
            self.register(at + 0.02, cseq + 1, &credentials(self.user, REALM, PASSWORD)),
            self.answer(at + 0.03, cseq + 1, end, extra),
        ]
    }

    fn granted(&self, at: f64, cseq: u32, seconds: u32) -> Vec<Seen> {
        let contact = format!("Contact: <{}>;expires={seconds}\nExpires: {seconds}\n", self.contact);
        self.challenged(at, cseq, "200 OK", &contact)
    }
}

fn challenge(realm: &str, algorithm: &str, more: &str) -> String {
    format!("WWW-Authenticate: Digest realm=\"{realm}\", nonce=\"n0nce-{realm}\", algorithm={algorithm}{more}\n")
}

fn hex(text: &str) -> String {
    Md5::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn credentials(user: &str, realm: &str, password: &str) -> String {
    let ha1 = hex(&format!("{user}:{realm}:{password}"));
    credentials_of_hash(user, realm, &ha1)
}

fn credentials_of_hash(user: &str, realm: &str, ha1: &str) -> String {
    let nonce = format!("n0nce-{realm}");
    let ha2 = hex("REGISTER:sip:sip.provider.example");
    let response = hex(&format!("{ha1}:{nonce}:{ha2}"));
    format!(
        "Authorization: Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"sip:sip.provider.example\", response=\"{response}\", algorithm=MD5\n"
    )
}

fn icmp(at: f64, why: Unreachable) -> Seen {
    Seen {
        at: noon(at),
        source: Source::Capture,
        direction: None,
        transport: None,
        from: Some(US.parse().unwrap()),
        to: Some(THEM.parse().unwrap()),
        what: Happening::Unreachable { why, call_id: Some("call-1".to_owned()) },
    }
}

fn network(at: f64, what: Happening) -> Seen {
    Seen { what, ..icmp(at, Unreachable::Other) }
}

fn objects() -> Objects {
    let mut all = Objects::default();
    all.registrations.insert(
        "airtel-reg".to_owned(),
        Registration {
            client_uri: format!("sip:{USER}@sip.provider.example"),
            server_uri: "sip:SIP.provider.example:5060".to_owned(),
            contact_user: Some(USER.to_owned()),
            transport: Some("udp-nat".to_owned()),
            outbound_auth: vec!["airtel-auth".to_owned()],
            endpoint: Some("airtel".to_owned()),
            ..Registration::default()
        },
    );
    all.auths.insert(
        "airtel-auth".to_owned(),
        Auth {
            username: Some(USER.to_owned()),
            secrets: vec![Secret::Password(SecretString::from(PASSWORD))],
            ..Auth::default()
        },
    );
    all.endpoints.insert("airtel".to_owned(), Endpoint::default());
    all.transports.insert("udp-nat".to_owned(), Transport { protocol: Some("udp".to_owned()), ..Transport::default() });
    all.complete.registrations = true;
    all.complete.auths = true;
    all.complete.endpoints = true;
    all
}

/// One of the objects, changed.
fn objects_with(change: impl FnOnce(&mut Objects)) -> Objects {
    let mut all = objects();
    change(&mut all);
    all
}

fn judged(seen: &[Seen], objects: Option<&Objects>) -> Option<Diagnosis> {
    let last = seen.iter().map(|seen| seen.at).max();
    let now = last.map(|last| crate::clock::after(last, Duration::from_secs(60)));
    diagnose(&Case { registration: named(objects), seen, objects, now, ..Case::default() })
}

fn named(objects: Option<&Objects>) -> Option<RegistrationName> {
    objects.map(|_| RegistrationName::try_from("airtel-reg").unwrap())
}

fn after_last(seen: &[Seen]) -> Diagnosis {
    judged(seen, None).expect("something is wrong")
}

fn with_configuration(seen: &[Seen], objects: &Objects) -> Diagnosis {
    judged(seen, Some(objects)).expect("something is wrong")
}

fn facts(state: RegistrationState, at: f64) -> RegistrationFacts {
    RegistrationFacts {
        state: Some(state),
        since: noon(at),
        last_event_at: Some(noon(at)),
        last_attempt_took: None,
        failures: 1,
        gave_up: false,
        refresh_overdue_since: None,
        ever_registered: false,
        same_secret_registered: None,
        registered_in_10s: 0,
    }
}

fn told(facts: RegistrationFacts, seen: &[Seen], watched: &[Source], now: f64) -> Option<Diagnosis> {
    let all = objects();
    diagnose(&Case {
        registration: named(Some(&all)),
        objects: Some(&all),
        seen,
        watched: watched.iter().map(|&source| Watched { source, since: noon(-1000.0) }).collect(),
        facts: Some(facts),
        now: Some(noon(now)),
        ..Case::default()
    })
}

#[track_caller]
fn says(diagnosis: &Diagnosis, cause: Cause, fault: Fault, first: Option<Cause>) {
    let alternatives: Vec<Cause> = diagnosis.alternatives.iter().map(|one| one.cause).collect();
    assert_eq!(
        (diagnosis.cause, diagnosis.fault, alternatives.first().copied()),
        (cause, fault, first),
        "{}",
        diagnosis.summary
    );
    sound(diagnosis);
}

/// What holds of every diagnosis.
#[track_caller]
fn sound(diagnosis: &Diagnosis) {
    assert!(diagnosis.confidence > 0.0 && diagnosis.confidence < 1.0, "{diagnosis:?}");
    assert!(
        diagnosis.alternatives.iter().all(|one| one.confidence <= diagnosis.confidence && one.cause != diagnosis.cause)
    );
    assert!(diagnosis.evidence.len() <= 24, "{}", diagnosis.evidence.len());
    assert!(diagnosis.evidence.iter().all(|one| one.line.len() <= 200));
    assert!(diagnosis.evidence.iter().all(|one| one.message.as_ref().is_none_or(|text| text.len() <= 4096)));
    assert!(diagnosis.evidence.is_sorted_by_key(|one| one.source == Source::Configuration));
    assert!(!diagnosis.summary.is_empty() && !diagnosis.fix.text.is_empty());
    let json = serde_json::to_string(diagnosis).unwrap();
    assert!(!json.contains(PASSWORD), "the password is in it: {json}");
    for digest in [hex("x"), hex(PASSWORD)] {
        assert!(!json.contains(&digest));
    }
    let quoted = regex_of_digests(&json);
    assert!(quoted.is_empty(), "a digest is in it: {quoted:?}");
}

/// Runs of 32 and more hexadecimal digits.
fn regex_of_digests(text: &str) -> Vec<&str> {
    text.split(|c: char| !c.is_ascii_hexdigit()).filter(|run| run.len() >= 32).collect()
}

// --- refused ---

#[test]
fn a_second_challenge_is_the_password_rather_than_the_user_and_never_certain() {
    let diagnosis = after_last(&AIRTEL.challenged(0.0, 1, "401 Unauthorized", &challenge(REALM, "MD5", "")));
    says(&diagnosis, WrongPassword, Fault::Configuration, Some(WrongAuthUsername));
    assert!(diagnosis.confidence <= 0.7);
    assert_eq!(diagnosis.evidence.len(), 4, "the exchange is whole");
    assert_eq!(
        diagnosis.evidence[2].line,
        "REGISTER sip:sip.provider.example, Authorization Digest username=\"airtel1\", realm=\"provider.example\", algorithm=MD5, Contact <sip:airtel1@192.0.2.10:5060>, Expires 3600"
    );
    assert_eq!(diagnosis.evidence[3].line, "401 Unauthorized, Digest realm=\"provider.example\", algorithm=MD5");
    assert_eq!(diagnosis.evidence[0].direction, Some(Direction::Out));
    assert!(!diagnosis.to_know_more.is_empty(), "the configuration would tell more");
}

#[test]
fn the_configured_secret_that_gives_the_digest_sent_is_said_to() {
    let seen = AIRTEL.challenged(0.0, 1, "401 Unauthorized", &challenge(REALM, "MD5", ""));
    let diagnosis = with_configuration(&seen, &objects());
    says(&diagnosis, WrongPassword, Fault::Configuration, Some(WrongAuthUsername));
    assert!(diagnosis.summary.contains("the right one for the password in [airtel-auth]"), "{}", diagnosis.summary);
    assert!(diagnosis.fix.config.starts_with("[airtel-auth]\npassword="), "{}", diagnosis.fix.config);
    assert_eq!(diagnosis.sources, [Source::Capture, Source::Configuration]);
    assert!(diagnosis.to_know_more.is_empty());
    assert_eq!(diagnosis.subject.registration.as_deref(), Some("airtel-reg"));
}

#[test]
fn a_secret_that_gives_another_digest_was_changed_and_not_loaded() {
    let seen = AIRTEL.challenged(0.0, 1, "401 Unauthorized", &challenge(REALM, "MD5", ""));
    let all = objects_with(|all| {
        all.auths.get_mut("airtel-auth").unwrap().secrets = vec![Secret::Password(SecretString::from("another"))];
    });
    let diagnosis = with_configuration(&seen, &all);
    says(&diagnosis, WrongPassword, Fault::Pbx, Some(WrongAuthUsername));
    assert!(diagnosis.fix.config.contains("module reload res_pjsip.so"), "{}", diagnosis.fix.config);
}

#[test]
fn another_user_than_is_configured_was_changed_and_not_loaded() {
    let seen = AIRTEL.challenged(0.0, 1, "401 Unauthorized", &challenge(REALM, "MD5", ""));
    let all = objects_with(|all| all.auths.get_mut("airtel-auth").unwrap().username = Some("4711".to_owned()));
    says(&with_configuration(&seen, &all), WrongAuthUsername, Fault::Pbx, Some(WrongPassword));
}

#[test]
fn a_number_as_authentication_user_is_suspect() {
    let number = Account { user: "+911140001234", ..AIRTEL };
    let diagnosis = after_last(&number.challenged(0.0, 1, "401 Unauthorized", &challenge(REALM, "MD5", "")));
    says(&diagnosis, WrongAuthUsername, Fault::Configuration, Some(WrongPassword));
    assert!(diagnosis.confidence <= 0.5);
}

#[test]
fn a_user_who_is_asked_for_another_realm_than_all_others_is_unknown() {
    let mut seen = AIRTEL.challenged(0.0, 1, "401 Unauthorized", &challenge(REALM, "MD5", ""));
    let other = Account { user: "tata7", call: "call-2", contact: "sip:tata7@192.0.2.10:5060", ..AIRTEL };
    seen.push(other.register(1.0, 1, ""));
    seen.push(other.answer(1.1, 1, "401 Unauthorized", &challenge("asterisk", "MD5", "")));
    seen.push(other.register(1.2, 2, &credentials("tata7", "asterisk", "x")));
    seen.push(other.answer(1.3, 2, "401 Unauthorized", &challenge("asterisk", "MD5", "")));
    assert_eq!(after_last(&seen).cause, WrongPassword, "of two realms nobody knows which is the usual one");
    assert_eq!(with_configuration(&seen, &objects()).cause, WrongPassword);
    seen.extend(Account { user: "jio3", call: "call-3", ..AIRTEL }.granted(-5.0, 1, 3600));
    let diagnosis = after_last(&seen); // of the last one in the trace
    says(&diagnosis, WrongAuthUsername, Fault::Configuration, Some(WrongPassword));
    assert_eq!(diagnosis.subject.client_uri.as_deref(), Some("sip:tata7@sip.provider.example"));
    assert_eq!(with_configuration(&seen, &objects()).cause, WrongPassword);
}

#[test]
fn a_stale_nonce_is_no_wrong_password() {
    let diagnosis =
        after_last(&AIRTEL.challenged(0.0, 1, "401 Unauthorized", &challenge(REALM, "MD5", ", stale=true")));
    says(&diagnosis, ProviderUnavailable, Fault::Provider, Some(WrongPassword));
    assert!(diagnosis.fix.config.contains("auth_rejection_permanent=no"));
}

#[test]
fn who_registered_before_has_the_right_user() {
    let mut seen = AIRTEL.granted(0.0, 1, 60);
    seen.extend(AIRTEL.challenged(50.0, 3, "401 Unauthorized", &challenge(REALM, "MD5", "")));
    let diagnosis = with_configuration(&seen, &objects());
    says(&diagnosis, WrongPassword, Fault::Provider, Some(AccountForbidden));
    assert_eq!(diagnosis.evidence.len(), 6, "the success before, the exchange, and the auth section");
}

#[test]
fn one_challenge_for_each_refresh_is_no_loop() {
    let mut seen = AIRTEL.granted(0.0, 1, 60);
    seen.extend(AIRTEL.granted(50.0, 3, 60));
    seen.extend(AIRTEL.granted(100.0, 5, 60));
    assert_eq!(judged(&seen, None), None);
}

#[test]
fn a_challenge_that_is_not_answered_is_the_realm_or_the_missing_auth() {
    let seen =
        [AIRTEL.register(0.0, 1, ""), AIRTEL.answer(0.1, 1, "401 Unauthorized", &challenge("asterisk", "MD5", ""))];
    says(&after_last(&seen), RealmMismatch, Fault::Configuration, Some(NoCredentialsConfigured));

    let other = objects_with(|all| all.auths.get_mut("airtel-auth").unwrap().realm = Some("foo".to_owned()));
    let diagnosis = with_configuration(&seen, &other);
    says(&diagnosis, RealmMismatch, Fault::Configuration, None);
    assert!(diagnosis.confidence > 0.9);
    assert!(diagnosis.fix.config.contains("[airtel-auth]\nrealm=") && diagnosis.fix.config.contains("realm=asterisk"));
    assert!(diagnosis.evidence.iter().any(|one| one.line == "[airtel-auth] realm=foo"));

    let none = objects_with(|all| all.registrations.get_mut("airtel-reg").unwrap().outbound_auth.clear());
    let diagnosis = with_configuration(&seen, &none);
    says(&diagnosis, NoCredentialsConfigured, Fault::Configuration, None);
    assert!(diagnosis.fix.config.contains("[airtel-reg]\noutbound_auth="), "{}", diagnosis.fix.config);

    let typo = objects_with(|all| {
        all.registrations.get_mut("airtel-reg").unwrap().outbound_auth = vec!["airtel-auht".to_owned()]
    });
    let diagnosis = with_configuration(&seen, &typo);
    assert_eq!(diagnosis.cause, NoCredentialsConfigured);
    assert!(diagnosis.fix.config.contains("outbound_auth=airtel-auth\n"), "the nearest: {}", diagnosis.fix.config);

    let diagnosis = with_configuration(&seen, &objects());
    says(&diagnosis, Unknown, Fault::Pbx, Some(RealmMismatch));
}

#[test]
fn a_realm_in_other_letters_is_the_same() {
    let seen = AIRTEL.challenged(0.0, 1, "403 Forbidden", "");
    let all = objects_with(|all| all.auths.get_mut("airtel-auth").unwrap().realm = Some("PROVIDER.example".to_owned()));
    assert_eq!(with_configuration(&seen, &all).cause, AccountForbidden);
}

#[test]
fn an_algorithm_that_is_not_enabled_is_not_answered() {
    let seen =
        [AIRTEL.register(0.0, 1, ""), AIRTEL.answer(0.1, 1, "401 Unauthorized", &challenge(REALM, "SHA-256", ""))];
    says(&after_last(&seen), AlgorithmNotEnabled, Fault::Configuration, Some(RealmMismatch));
    let diagnosis = with_configuration(&seen, &objects());
    says(&diagnosis, AlgorithmNotEnabled, Fault::Configuration, None);
    assert!(
        diagnosis.fix.config.contains("[airtel-auth]\nsupported_algorithms_uac=SHA-256,MD5"),
        "{}",
        diagnosis.fix.config
    );
    let enabled = objects_with(|all| {
        all.auths.get_mut("airtel-auth").unwrap().supported_algorithms_uac = vec!["sha-256".to_owned()];
    });
    assert_eq!(with_configuration(&seen, &enabled).cause, Unknown, "enabled in the file, and not answered");
}

#[test]
fn the_log_proves_why_a_challenge_was_not_answered() {
    let seen = [AIRTEL.register(0.0, 1, ""), AIRTEL.answer(0.1, 1, "401 Unauthorized", &challenge(REALM, "MD5", ""))];
    let line = |kind| LogFact {
        at: noon(0.0),
        kind,
        server_uri: Some("sip:sip.provider.example".to_owned()),
        client_uri: Some("sip:airtel1@sip.provider.example".to_owned()),
        detail: String::new(),
    };
    let by = |kind| {
        let log = [line(kind)];
        diagnose(&Case { seen: &seen, log: &log, now: Some(noon(60.0)), ..Case::default() }).unwrap()
    };
    says(&by(LogFactKind::NoAuth), NoCredentialsConfigured, Fault::Configuration, None);
    let offered = vec![(REALM.to_owned(), "MD5".to_owned())];
    says(&by(LogFactKind::NoMatchingAuth { offered }), RealmMismatch, Fault::Configuration, Some(AlgorithmNotEnabled));
    assert_eq!(by(LogFactKind::NoMatchingAuth { offered: Vec::new() }).cause, AlgorithmNotEnabled);
}

#[test]
fn a_challenge_that_came_just_now_is_not_yet_a_failure() {
    let seen = [AIRTEL.register(0.0, 1, ""), AIRTEL.answer(0.1, 1, "401 Unauthorized", &challenge(REALM, "MD5", ""))];
    assert_eq!(diagnose(&Case { seen: &seen, now: Some(noon(0.2)), ..Case::default() }), None);
    assert_eq!(diagnose(&Case { seen: &seen[..1], now: Some(noon(0.2)), ..Case::default() }), None);
}

#[test]
fn a_hash_that_was_made_for_another_realm_fails_with_a_second_challenge() {
    let ha1 = hex(&format!("{USER}:other.realm:{PASSWORD}"));
    let seen = [
        AIRTEL.register(0.0, 1, ""),
        AIRTEL.answer(0.1, 1, "401 Unauthorized", &challenge(REALM, "MD5", "")),
        AIRTEL.register(0.2, 2, &credentials_of_hash(USER, REALM, &ha1)),
        AIRTEL.answer(0.3, 2, "401 Unauthorized", &challenge(REALM, "MD5", "")),
    ];
    let hash = Secret::Ha1(Algorithm::Md5, SecretString::from(ha1.clone()));
    let all = objects_with(|all| all.auths.get_mut("airtel-auth").unwrap().secrets = vec![hash.clone()]);
    let diagnosis = with_configuration(&seen, &all);
    says(&diagnosis, RealmMismatch, Fault::Configuration, Some(WrongPassword));
    let both = objects_with(|all| all.auths.get_mut("airtel-auth").unwrap().secrets.insert(0, hash));
    let diagnosis = with_configuration(&seen, &both);
    assert_eq!(diagnosis.cause, RealmMismatch);
    assert!(diagnosis.confidence >= 0.9, "the password beside it proves it");
    assert!(!serde_json::to_string(&diagnosis).unwrap().contains(&ha1));
}

#[test]
fn a_403_to_credentials_is_the_account_and_surely_so_only_if_they_were_good() {
    let seen = AIRTEL.challenged(0.0, 1, "403 Forbidden", "");
    let diagnosis = after_last(&seen);
    says(&diagnosis, AccountForbidden, Fault::Provider, Some(WrongPassword));
    assert!(diagnosis.confidence <= 0.6);

    let mut flapping = AIRTEL.granted(0.0, 1, 60);
    flapping.extend(AIRTEL.challenged(50.0, 3, "403 Forbidden", ""));
    let diagnosis = after_last(&flapping);
    says(&diagnosis, AccountForbidden, Fault::Provider, Some(WrongPassword));
    assert!(diagnosis.confidence > 0.8);
    assert!(diagnosis.summary.contains("; 1 attempt before it or between succeeded"), "{}", diagnosis.summary);

    let changed = RegistrationFacts { same_secret_registered: Some(false), ..facts(RegistrationState::Rejected, 0.03) };
    says(&told(changed, &seen, &[], 1.0).unwrap(), WrongPassword, Fault::Configuration, Some(AccountForbidden));
    let words = after_last(&AIRTEL.challenged(0.0, 1, "403 Account suspended", ""));
    assert!(words.cause == AccountForbidden && words.confidence >= 0.9);
}

#[test]
fn a_403_at_once_is_the_address() {
    let at_once = [AIRTEL.register(0.0, 1, ""), AIRTEL.answer(0.1, 1, "403 Forbidden", "")];
    let diagnosis = after_last(&at_once);
    says(&diagnosis, AddressForbidden, Fault::Provider, Some(AccountForbidden));
    assert!(diagnosis.fix.text.contains("192.0.2.10"), "the address the provider sees: {}", diagnosis.fix.text);
    let mut banned = AIRTEL.challenged(0.0, 1, "401 Unauthorized", &challenge(REALM, "MD5", ""));
    banned.extend([AIRTEL.register(60.0, 3, ""), AIRTEL.answer(60.1, 3, "403 Forbidden", "")]);
    assert!(after_last(&banned).summary.contains("barred since"));
}

#[test]
fn an_answer_that_sends_us_elsewhere_wants_a_proxy() {
    let once =
        |status: &str, extra: &str| after_last(&[AIRTEL.register(0.0, 1, ""), AIRTEL.answer(0.1, 1, status, extra)]);
    let diagnosis = once("305 Use Proxy", "Contact: <sip:proxy.provider.example:5060>\n");
    says(&diagnosis, OutboundProxyRequired, Fault::Configuration, None);
    assert!(
        diagnosis.fix.config.contains("outbound_proxy=sip:proxy.provider.example:5060\\;lr"),
        "{}",
        diagnosis.fix.config
    );
    says(
        &once("480 Temporarily Unavailable", ""),
        OutboundProxyRequired,
        Fault::Configuration,
        Some(ProviderUnavailable),
    );
    says(&once("403 Use outbound proxy", ""), OutboundProxyRequired, Fault::Configuration, Some(AddressForbidden));
    says(&once("404 Not Found", ""), WrongAuthUsername, Fault::Configuration, Some(OutboundProxyRequired));
    says(&once("405 Method Not Allowed", ""), Unknown, Fault::Configuration, Some(OutboundProxyRequired));
}

#[test]
fn a_404_beside_a_host_that_serves_the_domain_wants_that_host() {
    let other =
        Account { user: "tata7", call: "call-2", contact: "sip:tata7@192.0.2.10", them: "203.0.113.9:5060", ..AIRTEL };
    let mut seen = other.granted(0.0, 1, 3600);
    seen.extend([AIRTEL.register(1.0, 1, ""), AIRTEL.answer(1.1, 1, "404 Not Found", "")]);
    let diagnosis = after_last(&seen);
    says(&diagnosis, OutboundProxyRequired, Fault::Configuration, Some(WrongAuthUsername));
    assert!(diagnosis.fix.config.contains("outbound_proxy=sip:203.0.113.9:5060\\;lr"), "{}", diagnosis.fix.config);
}

#[test]
fn a_404_to_credentials_knows_no_such_user() {
    says(
        &after_last(&AIRTEL.challenged(0.0, 1, "404 Not Found", "")),
        WrongAuthUsername,
        Fault::Configuration,
        Some(AccountForbidden),
    );
}

#[test]
fn a_provider_in_trouble_says_so() {
    for (status, extra) in [
        ("503 Service Unavailable", "Retry-After: 7\n"),
        ("500 Server Internal Error", ""),
        ("600 Busy Everywhere", ""),
        ("403 Forbidden", "Retry-After: 300\n"),
    ] {
        let diagnosis = after_last(&[AIRTEL.register(0.0, 1, ""), AIRTEL.answer(0.1, 1, status, extra)]);
        assert_eq!((diagnosis.cause, diagnosis.fault), (ProviderUnavailable, Fault::Provider), "{status}");
        sound(&diagnosis);
    }
}

#[test]
fn a_423_is_part_of_its_attempt() {
    let mut seen = AIRTEL.challenged(0.0, 1, "423 Interval Too Brief", "Min-Expires: 7200\n");
    assert_eq!(after_last(&seen).cause, Unknown);
    assert!(after_last(&seen).fix.config.contains("expiration=7200"));
    seen.extend(AIRTEL.granted(0.1, 3, 7200));
    assert_eq!(judged(&seen, None), None);
}

// --- silent ---

/// Asterisk's retransmissions: 500 ms, doubling to 4 s.
fn retransmitted(times: usize) -> Vec<Seen> {
    let at = [0.0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5, 19.5, 23.5, 27.5, 31.5];
    at.iter().take(times).map(|&at| AIRTEL.register(at, 1, "")).collect()
}

#[test]
fn silence_to_the_end_is_no_response() {
    let diagnosis = after_last(&retransmitted(11));
    says(&diagnosis, NoResponse, Fault::Network, Some(OutboundProxyRequired));
    assert_eq!((diagnosis.evidence.len(), diagnosis.evidence[0].repeats), (1, 10));
    assert!(diagnosis.summary.contains("11 times in 31.5 s"), "{}", diagnosis.summary);
    assert!(diagnosis.fix.config.contains("ufw allow 5060/udp"));
}

#[test]
fn silence_so_far_is_less_sure_and_two_transmissions_are_nothing() {
    let whole = after_last(&retransmitted(11));
    let case = |seen: &[Seen], now: f64| diagnose(&Case { seen, now: Some(noon(now)), ..Case::default() });
    let so_far = case(&retransmitted(4), 4.0).unwrap();
    assert_eq!(so_far.cause, NoResponse);
    assert!(so_far.confidence < whole.confidence);
    assert_eq!(case(&retransmitted(2), 1.0), None);
}

#[test]
fn what_two_sources_saw_counts_once() {
    let mut seen = retransmitted(11);
    let also: Vec<Seen> = seen.iter().map(|one| Seen { source: Source::Hep, ..one.clone() }).collect();
    seen.extend(also);
    // A capture at two interfaces sees everything twice.
    let twice: Vec<Seen> = retransmitted(11)
        .into_iter()
        .map(|one| Seen { at: crate::clock::after(one.at, Duration::from_millis(1)), ..one })
        .collect();
    seen.extend(twice);
    assert_eq!(after_last(&seen).evidence[0].repeats, 10);
}

#[test]
fn a_request_seen_once_over_udp_was_answered_and_the_source_did_not_show_it() {
    let seen = [AIRTEL.register(0.0, 1, ""), AIRTEL.register(60.0, 2, "")];
    assert_eq!(judged(&seen, None), None);
}

#[test]
fn icmp_tells_a_closed_port_from_a_firewall() {
    let with = |why| {
        let mut seen = retransmitted(5);
        seen.push(icmp(0.001, why));
        after_last(&seen)
    };
    says(&with(Unreachable::Port), PortClosed, Fault::Configuration, Some(OutboundProxyRequired));
    says(&with(Unreachable::Prohibited), NoResponse, Fault::Network, Some(PortClosed));
    says(&with(Unreachable::Host), NoResponse, Fault::Network, Some(ProviderUnavailable));
}

#[test]
fn a_registrar_that_answers_others_is_not_behind_a_firewall() {
    let mut seen = Account { user: "tata7", call: "call-2", ..AIRTEL }.granted(-10.0, 1, 3600);
    seen.extend(retransmitted(11));
    let diagnosis = after_last(&seen);
    assert_eq!((diagnosis.cause, diagnosis.fault), (NoResponse, Fault::Provider), "{}", diagnosis.summary);
}

#[test]
fn an_answer_that_does_not_arrive_is_seen_to_go_astray() {
    let mut seen = retransmitted(6);
    seen.extend([0.2, 0.7, 1.7, 3.7].map(|at| AIRTEL.answer(at, 1, "401 Unauthorized", &challenge(REALM, "MD5", ""))));
    let diagnosis = after_last(&seen);
    says(&diagnosis, NoResponse, Fault::Network, Some(NatContact));
    assert!(diagnosis.summary.contains("does not reach it"), "{}", diagnosis.summary);
}

#[test]
fn a_private_via_without_rport_may_be_why() {
    let inside = Account { via: "SIP/2.0/UDP 192.168.1.5:5060", ..AIRTEL };
    let seen: Vec<Seen> = [0.0, 0.5, 1.5, 3.5, 7.5, 11.5, 15.5].iter().map(|&at| inside.register(at, 1, "")).collect();
    says(&after_last(&seen), NoResponse, Fault::Network, Some(NatContact));
}

#[test]
fn credentials_that_are_not_answered_are_another_silence() {
    let mut seen = AIRTEL.challenged(0.0, 1, "401 Unauthorized", "");
    seen.pop();
    seen.extend(
        [0.5, 1.5, 3.5, 7.5, 11.5, 15.5].map(|at| AIRTEL.register(at + 0.02, 2, &credentials(USER, REALM, PASSWORD))),
    );
    says(&after_last(&seen), NoResponse, Fault::Unknown, Some(WrongPassword));
}

#[test]
fn the_network_speaks_before_any_sip() {
    let all = objects();
    let case = |what: Happening| {
        let seen = [network(0.0, what)];
        let literal = objects_with(|all| {
            all.registrations.get_mut("airtel-reg").unwrap().server_uri = "sip:203.0.113.5;transport=tls".to_owned();
        });
        let tls = [Seen { to: Some("203.0.113.5:5061".parse().unwrap()), ..seen[0].clone() }];
        judged(&tls, Some(&literal)).or_else(|| judged(&seen, Some(&all)))
    };
    says(&case(Happening::Refused).unwrap(), PortClosed, Fault::Configuration, None);
    says(&case(Happening::Unanswered).unwrap(), NoResponse, Fault::Network, Some(PortClosed));
    let alert = case(Happening::TlsAlert { description: 48 }).unwrap();
    says(&alert, TlsFailure, Fault::Configuration, None);
    assert!(alert.summary.contains("unknown_ca") && alert.fix.config.contains("ca_list_file"));
    assert_eq!(case(Happening::TlsAlert { description: 0 }), None, "an orderly end");
    let name = |name: &str| case(Happening::NameError { name: name.to_owned(), rcode: 3 });
    says(&name("sip.provider.example").unwrap(), DnsFailure, Fault::Configuration, None);
    assert_eq!(name("another.example"), None);
    assert!(name("_sip._udp.sip.provider.example").unwrap().confidence < 0.6, "a missing SRV record is usual");
}

#[test]
fn a_failure_with_nothing_on_the_wire_is_the_name_the_connection_or_tls() {
    let rejected =
        || RegistrationFacts { last_attempt_took: Some(Duration::ZERO), ..facts(RegistrationState::Rejected, 0.0) };
    let diagnosis = told(rejected(), &[], &[Source::Hep], 1.0).unwrap();
    says(&diagnosis, DnsFailure, Fault::Network, Some(NoResponse));
    let over = |server: &str| {
        let all = objects_with(|all| all.registrations.get_mut("airtel-reg").unwrap().server_uri = server.to_owned());
        let watched = vec![Watched { source: Source::Hep, since: noon(-1000.0) }];
        let case = Case {
            registration: named(Some(&all)),
            objects: Some(&all),
            watched,
            facts: Some(rejected()),
            now: Some(noon(1.0)),
            ..Case::default()
        };
        diagnose(&case).unwrap()
    };
    says(&over("sip:203.0.113.5;transport=tcp"), PortClosed, Fault::Configuration, Some(NoResponse));
    says(&over("sips:sip.provider.example"), TlsFailure, Fault::Unknown, Some(PortClosed));
    says(&over("sip:203.0.113.5"), Unknown, Fault::Pbx, Some(NoResponse));
    // What was seen to begin was not without SIP, though its end was lost.
    let lost = [AIRTEL.register(-0.5, 1, "")];
    let diagnosis = told(rejected(), &lost, &[Source::Hep], 1.0).unwrap();
    says(&diagnosis, Unknown, Fault::Unknown, Some(WrongPassword));
    assert_eq!(diagnosis.evidence.len(), 2);
    // Nobody listened: then nothing seen says nothing.
    assert_eq!(told(rejected(), &[], &[], 1.0).unwrap().cause, Unknown);
}

// --- AMI alone ---

#[test]
fn events_alone_say_what_they_can_and_what_to_switch_on() {
    let slow = RegistrationFacts {
        last_attempt_took: Some(Duration::from_secs(32)),
        ..facts(RegistrationState::Rejected, 0.0)
    };
    let diagnosis = told(slow, &[], &[], 1.0).unwrap();
    says(&diagnosis, NoResponse, Fault::Network, Some(PortClosed));
    assert_eq!(diagnosis.sources, [Source::Ami]);
    assert!(diagnosis.to_know_more.iter().any(|line| line.contains("hep.conf")));
    assert!(diagnosis.to_know_more.iter().any(|line| line.contains("history = \"auto\"")));

    let quick = RegistrationFacts {
        last_attempt_took: Some(Duration::from_secs(1)),
        ..facts(RegistrationState::Rejected, 0.0)
    };
    says(&told(quick, &[], &[], 1.0).unwrap(), Unknown, Fault::Unknown, Some(WrongPassword));

    let gave_up = RegistrationFacts { gave_up: true, ..facts(RegistrationState::Rejected, 0.0) };
    let diagnosis = told(gave_up, &[], &[], 200.0).unwrap();
    says(&diagnosis, GaveUp, Fault::Pbx, Some(WrongPassword));
    assert!(diagnosis.fix.config.contains("pjsip send register airtel-reg"));

    let overdue =
        RegistrationFacts { refresh_overdue_since: Some(noon(0.0)), ..facts(RegistrationState::Registered, -50.0) };
    says(&told(overdue, &[], &[], 20.0).unwrap(), RefreshOverdue, Fault::Unknown, Some(NoResponse));

    let looping = RegistrationFacts { registered_in_10s: 200, ..facts(RegistrationState::Registered, 0.0) };
    says(&told(looping, &[], &[], 1.0).unwrap(), ExpiryTooShort, Fault::Provider, None);

    says(
        &told(facts(RegistrationState::Unregistered, 0.0), &[], &[], 60.0).unwrap(),
        Unknown,
        Fault::Unknown,
        Some(BindingRefused),
    );
    assert_eq!(told(facts(RegistrationState::Registered, 0.0), &[], &[], 1.0), None);
}

#[test]
fn an_un_register_is_no_failure_of_the_provider() {
    let mut seen = AIRTEL.granted(0.0, 1, 60);
    let leaving = AIRTEL.register(10.0, 3, "Expires: 0\n");
    seen.extend([leaving, AIRTEL.answer(10.1, 3, "200 OK", "")]);
    let diagnosis = told(facts(RegistrationState::Unregistered, 10.1), &seen, &[Source::Hep], 30.0).unwrap();
    says(&diagnosis, Unknown, Fault::Pbx, None);
    assert_eq!(judged(&seen, None), None, "a capture of it shows nothing wrong");
}

#[test]
fn what_registered_since_is_not_judged_by_the_failure_before() {
    let seen = AIRTEL.challenged(0.0, 1, "403 Forbidden", "");
    assert_eq!(told(facts(RegistrationState::Registered, 60.0), &seen, &[], 61.0), None);
    // And one that failed since, unseen, is not judged as sure.
    let sure = told(facts(RegistrationState::Rejected, 0.05), &seen, &[], 1.0).unwrap();
    let stale = told(facts(RegistrationState::Rejected, 600.0), &seen, &[], 601.0).unwrap();
    assert_eq!((sure.cause, stale.cause), (AccountForbidden, AccountForbidden));
    assert!(stale.confidence < sure.confidence);
}

#[test]
fn a_trunk_that_was_given_up_is_told_with_its_cause() {
    let seen = AIRTEL.challenged(0.0, 1, "403 Forbidden", "");
    let gave_up = RegistrationFacts { gave_up: true, ..facts(RegistrationState::Rejected, 0.05) };
    let diagnosis = told(gave_up, &seen, &[], 120.0).unwrap();
    assert_eq!(diagnosis.cause, AccountForbidden);
    assert!(
        diagnosis.summary.contains("has stopped trying")
            && diagnosis.fix.text.contains("pjsip send register airtel-reg")
    );
}

// --- registered ---

#[test]
fn a_grant_of_nothing_is_a_refusal_and_a_short_one_a_loop() {
    says(&after_last(&AIRTEL.granted(0.0, 1, 0)), BindingRefused, Fault::Provider, Some(ProviderUnavailable));
    says(&after_last(&AIRTEL.granted(0.0, 1, 10)), ExpiryTooShort, Fault::Provider, None);
    assert_eq!(judged(&AIRTEL.granted(0.0, 1, 11), None), None);
    let refused = told(facts(RegistrationState::Unregistered, 0.05), &AIRTEL.granted(0.0, 1, 0), &[], 1.0).unwrap();
    assert_eq!(refused.cause, BindingRefused);
}

#[test]
fn a_private_contact_towards_a_public_registrar_is_told() {
    let inside = Account { contact: "sip:airtel1@192.168.1.5:5060", us: "192.168.1.5:5060", ..AIRTEL };
    let seen = inside.granted(0.0, 1, 3600);
    let diagnosis = with_configuration(&seen, &objects());
    says(&diagnosis, NatContact, Fault::Configuration, None);
    assert!(
        diagnosis.fix.config.starts_with("[udp-nat]\nexternal_signaling_address=192.0.2.10\n"),
        "{}",
        diagnosis.fix.config
    );
    let neighbour = Account { them: "192.168.1.1:5060", via: "SIP/2.0/UDP 192.168.1.5:5060;rport", ..inside };
    let private: Vec<Seen> = neighbour
        .granted(0.0, 1, 3600)
        .into_iter()
        .map(|one| {
            let text = String::from_utf8(one.sip().unwrap().raw().to_vec())
                .unwrap()
                .replace("received=192.0.2.10", "received=192.168.1.5");
            Seen { what: Happening::Sip(Box::new(SipMessage::parse(Bytes::from(text)).unwrap())), ..one }
        })
        .collect();
    assert_eq!(judged(&private, None), None, "among neighbours it is right");
}

#[test]
fn an_external_address_that_is_out_of_date_is_told() {
    let moved = Account { contact: "sip:airtel1@198.51.100.7:5060", ..AIRTEL };
    says(&after_last(&moved.granted(0.0, 1, 3600)), NatContact, Fault::Configuration, None);
}

#[test]
fn a_binding_of_another_is_told() {
    let list = |contacts: &str| AIRTEL.challenged(0.0, 1, "200 OK", &format!("{contacts}Expires: 3600\n"));
    let taken = after_last(&list("Contact: <sip:phone@198.51.100.20:5062>;expires=1800\n"));
    says(&taken, BindingLost, Fault::Provider, None);
    let rewritten = after_last(&list("Contact: <sip:airtel1@198.51.100.20:62000>;expires=1800\n"));
    says(&rewritten, BindingLost, Fault::Network, Some(NatContact));
    let both = list("Contact: <sip:phone@198.51.100.20:5062>;expires=1800, <sip:airtel1@192.0.2.10>;expires=3600\n");
    assert_eq!(judged(&both, None), None);
    assert_eq!(judged(&list(""), None), None, "an answer without Contacts says nothing of them");
}

// --- calls ---

fn invite(at: f64, call: &str, inbound: bool, to: &str, extra: &str, body: &str) -> Seen {
    let (from, towards) = if inbound { (THEM, US) } else { (US, THEM) };
    let (target, contact) = if inbound {
        ("sip:airtel1@192.0.2.10:5060", "sip:203.0.113.5")
    } else {
        ("sip:x@sip.provider.example", "sip:airtel1@192.0.2.10")
    };
    let caller = if inbound { "15550001" } else { USER };
    packet(
        at,
        from,
        towards,
        &format!(
            "INVITE {target} SIP/2.0\nVia: SIP/2.0/UDP h;branch=z9hG4bK{call}{at}\nFrom: <sip:{caller}@x>;tag=f\nTo: <sip:{to}@y>\nCall-ID: {call}\nCSeq: {} INVITE\nContact: <{contact}>\n{extra}Content-Length: {}\n\n{body}",
            if extra.is_empty() { 1 } else { 2 },
            body.len() + body.matches('\n').count(),
        ),
    )
}

fn replied(at: f64, call: &str, inbound: bool, cseq: u32, status: &str, body: &str) -> Seen {
    let (from, towards) = if inbound { (US, THEM) } else { (THEM, US) };
    packet(
        at,
        from,
        towards,
        &format!(
            "SIP/2.0 {status}\nVia: SIP/2.0/UDP h;branch=z9hG4bK{call}\nFrom: <sip:a@x>;tag=f\nTo: <sip:b@y>;tag=t\nCall-ID: {call}\nCSeq: {cseq} INVITE\nContact: <sip:z@{from}>\nContent-Length: {}\n\n{body}",
            body.len() + body.matches('\n').count(),
        ),
    )
}

#[test]
fn a_call_of_the_provider_that_we_challenge_matches_no_identify() {
    let mut seen = AIRTEL.granted(0.0, 1, 3600);
    seen.extend([invite(10.0, "in-1", true, USER, "", ""), replied(10.1, "in-1", true, 1, "401 Unauthorized", "")]);
    let diagnosis = with_configuration(&seen, &objects());
    says(&diagnosis, IdentifyMissing, Fault::Configuration, None);
    assert!(
        diagnosis.fix.config.contains("type=identify\nendpoint=airtel\nmatch=203.0.113.5\n"),
        "{}",
        diagnosis.fix.config
    );
    let asks = objects_with(|all| {
        all.endpoints.get_mut("airtel").unwrap().auth = vec!["in-auth".to_owned()];
        let matches = vec!["203.0.113.0/24".to_owned()];
        all.identifies.insert(
            "airtel-id".to_owned(),
            Identify { endpoint: Some("airtel".to_owned()), matches, ..Identify::default() },
        );
    });
    says(&with_configuration(&seen, &asks), CallsRejected, Fault::Configuration, Some(IdentifyMissing));
    seen.extend([invite(20.0, "in-2", true, USER, "", ""), replied(20.1, "in-2", true, 1, "200 OK", "")]);
    assert_eq!(judged(&seen, Some(&objects())), None, "mended since");
}

#[test]
fn a_registered_trunk_whose_calls_are_rejected_is_told() {
    let rejected = |at: f64, call: &str, to: &str| {
        [invite(at, call, false, to, "", ""), replied(at + 0.1, call, false, 1, "403 Forbidden", "")]
    };
    let mut seen = AIRTEL.granted(0.0, 1, 3600);
    seen.extend(rejected(10.0, "out-1", "491"));
    says(&after_last(&seen), CallsRejected, Fault::Provider, None);
    assert!(after_last(&seen).confidence <= 0.6, "one number may be barred");
    seen.extend(rejected(11.0, "out-2", "492"));
    seen.extend(rejected(12.0, "out-3", "493"));
    assert!(after_last(&seen).confidence > 0.8);
    seen.extend([invite(20.0, "out-4", false, "494", "", ""), replied(20.1, "out-4", false, 1, "200 OK", "")]);
    assert_eq!(judged(&seen, None), None, "a call came through since");

    let mut refused = AIRTEL.granted(0.0, 1, 3600);
    refused.extend([
        invite(10.0, "out-1", false, "491", "", ""),
        replied(10.1, "out-1", false, 1, "401 Unauthorized", ""),
        invite(10.2, "out-1", false, "491", &credentials(USER, REALM, "x"), ""),
        replied(10.3, "out-1", false, 2, "401 Unauthorized", ""),
    ]);
    says(&after_last(&refused), CallsRejected, Fault::Configuration, None);
}

#[test]
fn a_private_address_in_sdp_towards_a_public_peer_blocks_media() {
    let sdp = "v=0\nc=IN IP4 192.168.1.5\nm=audio 10000 RTP/AVP 0\n";
    let mut seen = AIRTEL.granted(0.0, 1, 3600);
    seen.extend([invite(10.0, "out-1", false, "491", "", sdp), replied(10.1, "out-1", false, 1, "200 OK", "")]);
    says(&after_last(&seen), MediaBlocked, Fault::Configuration, Some(NatContact));
}

// --- whose it is ---

#[test]
fn a_phone_that_registers_with_us_is_no_trunk() {
    let seen: Vec<Seen> = AIRTEL
        .challenged(0.0, 1, "403 Forbidden", "")
        .into_iter()
        .map(|one| {
            let direction = if one.sip().unwrap().status().is_some() { Direction::Out } else { Direction::In };
            Seen { source: Source::History, direction: Some(direction), ..one }
        })
        .collect();
    assert_eq!(judged(&seen, None), None);
}

#[test]
fn twins_are_told_apart_by_their_contact_user() {
    let two = Account { contact: "sip:two@192.0.2.10:5060", call: "call-2", ..AIRTEL };
    let mut seen = AIRTEL.granted(0.0, 1, 3600);
    seen.extend(two.challenged(1.0, 1, "403 Forbidden", ""));
    let all = objects_with(|all| {
        let mut twin = all.registrations["airtel-reg"].clone();
        twin.contact_user = Some("two".to_owned());
        all.registrations.insert("airtel-two".to_owned(), twin);
    });
    assert_eq!(judged(&seen, Some(&all)), None);
    let two = RegistrationName::try_from("airtel-two").unwrap();
    let case =
        Case { registration: Some(two), objects: Some(&all), seen: &seen, now: Some(noon(9.0)), ..Case::default() };
    assert_eq!(diagnose(&case).unwrap().cause, AccountForbidden);
}

#[test]
fn whole_seconds_and_any_order_of_arrival_change_nothing() {
    let exact = AIRTEL.challenged(0.2, 1, "403 Forbidden", "");
    let expected = after_last(&exact);
    let mut history: Vec<Seen> = exact
        .into_iter()
        .map(|one| {
            let out = one.sip().unwrap().status().is_none();
            let far = one.to.filter(|_| out).or(one.from.filter(|_| !out));
            Seen {
                at: noon(0.0),
                source: Source::History,
                direction: Some(if out { Direction::Out } else { Direction::In }),
                from: far.filter(|_| !out),
                to: far.filter(|_| out),
                ..one
            }
        })
        .collect();
    history.reverse();
    let diagnosis = after_last(&history);
    assert_eq!((diagnosis.cause, diagnosis.confidence), (expected.cause, expected.confidence));
    let lines = |diagnosis: &Diagnosis| diagnosis.evidence.iter().map(|one| one.line.clone()).collect::<Vec<_>>();
    assert_eq!(lines(&diagnosis), lines(&expected));
}

#[test]
fn a_password_in_a_uri_is_not_told() {
    let all = objects_with(|all| {
        all.registrations.get_mut("airtel-reg").unwrap().client_uri =
            format!("sip:{USER}:{PASSWORD}@sip.provider.example");
    });
    sound(&with_configuration(&AIRTEL.challenged(0.0, 1, "403 Forbidden", ""), &all));
}

#[test]
fn a_section_s_place_is_named() {
    let seen = AIRTEL.challenged(0.0, 1, "401 Unauthorized", &challenge(REALM, "MD5", ""));
    let all = objects_with(|all| {
        let place = crate::wire::pjsip::Place { file: "pjsip.conf".to_owned(), line: 42 };
        all.auths.get_mut("airtel-auth").unwrap().place = Some(place);
    });
    let diagnosis = with_configuration(&seen, &all);
    assert!(
        diagnosis.fix.config.starts_with("[airtel-auth]          ; pjsip.conf line 42\n"),
        "{}",
        diagnosis.fix.config
    );
    assert!(diagnosis.evidence.iter().any(|one| one.line.ends_with("(pjsip.conf line 42)")));
    assert!(all.is_missing(Kind::Auth, "nowhere"));
}

// --- anything at all ---

/// Sightings of every kind, of several registrations.
fn pool() -> Vec<Seen> {
    let two = Account { user: "tata7", call: "call-2", contact: "sip:tata7@192.168.1.5", ..AIRTEL };
    let mut all = AIRTEL.granted(0.0, 1, 60);
    all.extend(AIRTEL.challenged(50.0, 3, "401 Unauthorized", &challenge(REALM, "MD5", ", stale=true")));
    all.extend(AIRTEL.challenged(60.0, 5, "403 Forbidden", "Retry-After: 5\n"));
    all.extend(AIRTEL.challenged(70.0, 7, "423 Interval Too Brief", "Min-Expires: 99\n"));
    all.extend(two.granted(1.0, 1, 5));
    all.extend(two.challenged(2.0, 3, "302 Moved", "Contact: <sip:other@198.51.100.1>\n"));
    all.extend(retransmitted(11));
    all.push(icmp(1.0, Unreachable::Port));
    all.push(network(2.0, Happening::Refused));
    all.push(network(3.0, Happening::TlsAlert { description: 42 }));
    all.push(network(4.0, Happening::NameError { name: "sip.provider.example".to_owned(), rcode: 2 }));
    all.extend([invite(10.0, "in-1", true, USER, "", ""), replied(10.1, "in-1", true, 1, "401 Unauthorized", "")]);
    all.extend([invite(11.0, "out-1", false, "491", "", ""), replied(11.1, "out-1", false, 1, "503 Busy", "")]);
    all.push(packet(5.0, US, THEM, "REGISTER sip:x SIP/2.0\nCall-ID: call-1\n\n"));
    all.push(packet(5.0, THEM, US, "SIP/2.0 999 \nCSeq: 4294967295 REGISTER\nCall-ID: call-1\n\n"));
    all
}

fn any_facts() -> impl Strategy<Value = Option<RegistrationFacts>> {
    let state = prop_oneof![
        Just(Some(RegistrationState::Registered)),
        Just(Some(RegistrationState::Rejected)),
        Just(Some(RegistrationState::Unregistered)),
        Just(None)
    ];
    let fact = (state, -100.0..200.0, proptest::option::of(0u64..60), any::<bool>(), any::<Option<bool>>(), 0u32..300);
    proptest::option::of(fact.prop_map(|(state, at, took, yes, same, count)| RegistrationFacts {
        state,
        last_attempt_took: took.map(Duration::from_secs),
        gave_up: yes,
        ever_registered: !yes,
        same_secret_registered: same,
        refresh_overdue_since: yes.then(|| noon(at)),
        registered_in_10s: count,
        failures: count,
        ..facts(RegistrationState::Rejected, at)
    }))
}

proptest! {
    #[test]
    fn any_sightings_in_any_order_give_a_sound_verdict_or_none(
        order in proptest::sample::subsequence((0..pool().len()).collect::<Vec<_>>(), 0..pool().len()).prop_shuffle(),
        shift in proptest::collection::vec(-40.0f64..40.0, 0..8),
        facts in any_facts(),
        configured in any::<bool>(),
        now in proptest::option::of(-50.0..300.0),
    ) {
        let pool = pool();
        let seen: Vec<Seen> = order
            .iter()
            .enumerate()
            .map(|(place, &index)| {
                let mut one = pool[index].clone();
                let by = shift.get(place % shift.len().max(1)).copied().unwrap_or_default();
                one.at = one.at.checked_add(jiff::SignedDuration::from_secs_f64(by)).unwrap();
                if place % 3 == 0 { one.source = Source::History; }
                one
            })
            .collect();
        let all = objects();
        let objects = configured.then_some(&all);
        let watched = vec![Watched { source: Source::Hep, since: noon(0.0) }];
        let case = Case { registration: named(objects), objects, seen: &seen, watched, facts, now: now.map(noon), ..Case::default() };
        if let Some(diagnosis) = diagnose(&case) {
            sound(&diagnosis);
        }
    }
}
