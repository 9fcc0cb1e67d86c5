//! Diagnoses of real recordings, through the door that the API and the commands use.
//!
//! `tests/fixtures/README.md` says where the recordings come from. In `provider-401-and-ok.pcap`, all at port 5080: acct1 is
//! the good one (its refresh falls outside), acct2 has a wrong password, acct3 another realm than is asked for, `nosuch` is
//! not known there, and so is asked for the provider Asterisk's default realm.

#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test may")]

use std::io::Cursor;

use jiff::tz::TimeZone;
use proptest::prelude::*;
use trunkwarden::{
    clock::Timestamp,
    diagnosis::{
        Cause, Diagnosis, Fault,
        capture::{AnalyseError, Analysis, Format, KnownRegistration, Reading, Report, analyse, analyse_with},
    },
    ids::{RegistrationName, TrunkId},
    wire::{
        ami::{DecodeLimits, Decoder, Frame, Message},
        pcap,
        pjsip::Objects,
        sip::{Seen, Source},
    },
};

const PROVIDER: &[u8] = include_bytes!("../fixtures/captures/provider-401-and-ok.pcap");
const LOG: &[u8] = include_bytes!("../fixtures/sip-logger.log");
const RECORDINGS: [(&str, &[u8]); 10] = [
    ("provider-401-and-ok", PROVIDER),
    ("rejected-403", include_bytes!("../fixtures/captures/rejected-403.pcap")),
    ("unavailable-503", include_bytes!("../fixtures/captures/unavailable-503.pcap")),
    ("no-response", include_bytes!("../fixtures/captures/no-response.pcap")),
    ("port-closed", include_bytes!("../fixtures/captures/port-closed.pcap")),
    ("flapping-403", include_bytes!("../fixtures/captures/flapping-403.pcap")),
    ("sha256-challenge", include_bytes!("../fixtures/captures/sha256-challenge.pcap")),
    ("short-expiry", include_bytes!("../fixtures/captures/short-expiry.pcap")),
    ("stale-nonce", include_bytes!("../fixtures/captures/stale-nonce.pcap")),
    ("nat-contact", include_bytes!("../fixtures/captures/nat-contact.pcap")),
];

fn recording(name: &str) -> &'static [u8] {
    RECORDINGS.iter().find(|(known, _)| *known == name).map(|(_, bytes)| *bytes).unwrap()
}

fn report(bytes: &[u8], objects: Option<&Objects>, known: &[KnownRegistration]) -> Report {
    let report = analyse(Cursor::new(bytes), objects, known, &mut |_| {}).unwrap();
    for diagnosis in &report.diagnoses {
        shows_no_secret(diagnosis);
        assert!(diagnosis.evidence.len() <= 24 && diagnosis.confidence < 1.0);
        assert!(diagnosis.evidence.iter().all(|one| one.line.len() <= 200));
    }
    report
}

/// No password of the laboratory, and nothing that looks like a digest or a cnonce.
#[track_caller]
fn shows_no_secret(diagnosis: &Diagnosis) {
    let json = serde_json::to_string(diagnosis).unwrap();
    for password in ["wrongpass", "whatever", "secret-acct1", "secret-acct3", "p403", "p503", "psil", "pref", "pflap"] {
        assert!(!json.contains(password), "{password} is in {json}");
    }
    for word in ["response=\\\"", "cnonce=\\\""] {
        for (at, _) in json.match_indices(word) {
            let rest = &json[at + word.len()..];
            let value = rest.split("\\\"").next().unwrap_or_default();
            assert!(!value.bytes().any(|byte| byte.is_ascii_hexdigit() && byte.is_ascii_digit()), "{word}{value}");
        }
    }
}

/// The configuration of the recordings' Asterisk, as AMI told it.
fn objects() -> Objects {
    let text = include_str!("../fixtures/ami-registrations.txt");
    let mut decoder = Decoder::new(DecodeLimits::default());
    for line in text.lines() {
        let written = line.strip_prefix("b'").map_or(line, |_| "Asterisk Call Manager/11.0.0");
        decoder.feed(written.trim_end_matches('\r').as_bytes());
        decoder.feed(b"\r\n");
    }
    decoder.feed(b"\r\n");
    let mut items: Vec<Message> = Vec::new();
    while let Some(frame) = decoder.next_frame().unwrap() {
        if let Frame::Message(message) = frame {
            items.push(message);
        }
    }
    let mut objects = Objects::default();
    objects.take_registrations(&items, true);
    assert_eq!(objects.registrations.len(), 10);
    objects
}

fn of<'a>(report: &'a Report, user: &str) -> &'a Diagnosis {
    let its = |one: &&Diagnosis| {
        one.subject.client_uri.as_deref().is_some_and(|uri| uri.starts_with(&format!("sip:{user}@")))
    };
    let all: Vec<&Diagnosis> = report.diagnoses.iter().filter(its).collect();
    assert_eq!(
        all.len(),
        1,
        "diagnoses of {user}: {:?}",
        report.diagnoses.iter().map(|one| &one.summary).collect::<Vec<_>>()
    );
    all[0]
}

#[track_caller]
fn says(diagnosis: &Diagnosis, cause: Cause, fault: Fault, alternative: Option<Cause>) {
    let first = diagnosis.alternatives.first().map(|one| one.cause);
    assert_eq!((diagnosis.cause, diagnosis.fault, first), (cause, fault, alternative), "{}", diagnosis.summary);
}

#[test]
fn wrong_password_unknown_user_and_realm_mismatch_are_told_apart_without_the_configuration() {
    let report = report(PROVIDER, None, &[]);
    assert_eq!((report.format, report.diagnoses.len(), report.messages), (Format::Capture, 3, 148));
    says(of(&report, "acct2"), Cause::WrongPassword, Fault::Configuration, Some(Cause::WrongAuthUsername));
    says(of(&report, "nosuch"), Cause::WrongAuthUsername, Fault::Configuration, Some(Cause::WrongPassword));
    says(of(&report, "acct3"), Cause::RealmMismatch, Fault::Configuration, Some(Cause::NoCredentialsConfigured));
    assert!(report.diagnoses.iter().all(|one| one.sources == [Source::Capture]));
}

#[test]
fn and_more_surely_with_it() {
    let known = [KnownRegistration {
        trunk: Some(TrunkId::try_from("pbx1/trunk-badpass").unwrap()),
        registration: RegistrationName::try_from("trunk-badpass").unwrap(),
        client_uri: "sip:acct2@127.0.0.1:5080".to_owned(),
        server_uri: "sip:127.0.0.1:5080".to_owned(),
    }];
    let report = report(PROVIDER, Some(&objects()), &known);
    let wrong = of(&report, "acct2");
    says(wrong, Cause::WrongPassword, Fault::Configuration, Some(Cause::WrongAuthUsername));
    assert_eq!(wrong.trunk.as_ref().map(TrunkId::as_str), Some("pbx1/trunk-badpass"));
    assert_eq!(wrong.subject.registration.as_deref(), Some("trunk-badpass"));
    assert!(wrong.summary.contains("the right one for the password in [trunk-badpass]"), "{}", wrong.summary);
    assert!(wrong.fix.config.starts_with("[trunk-badpass]\npassword="));
    says(of(&report, "nosuch"), Cause::WrongAuthUsername, Fault::Configuration, Some(Cause::WrongPassword));
    let realm = of(&report, "acct3");
    says(realm, Cause::RealmMismatch, Fault::Configuration, None);
    assert!(realm.confidence > 0.9);
    assert!(
        realm.evidence.iter().any(|one| one.line.starts_with("[trunk-realm] realm=other.realm")),
        "{:?}",
        realm.evidence
    );
}

#[test]
fn each_recording_has_its_cause() {
    let only = |name: &str, cause, fault, alternative| {
        let report = report(recording(name), None, &[]);
        assert_eq!(report.diagnoses.len(), 1, "{name}");
        says(&report.diagnoses[0], cause, fault, alternative);
        report.diagnoses.into_iter().next().unwrap()
    };
    only("rejected-403", Cause::AccountForbidden, Fault::Provider, Some(Cause::WrongPassword));
    let busy = only("unavailable-503", Cause::ProviderUnavailable, Fault::Provider, None);
    assert!(busy.summary.contains("in 7 s") && busy.summary.contains("5 attempts"), "{}", busy.summary);
    let silent = only("no-response", Cause::NoResponse, Fault::Network, Some(Cause::OutboundProxyRequired));
    assert_eq!(silent.evidence[0].repeats, 6);
    let closed = only("port-closed", Cause::PortClosed, Fault::Configuration, Some(Cause::OutboundProxyRequired));
    assert!(closed.evidence.iter().any(|one| one.line == "ICMP: port unreachable"));
    only("short-expiry", Cause::ExpiryTooShort, Fault::Provider, None);
    let stale = only("stale-nonce", Cause::ProviderUnavailable, Fault::Provider, Some(Cause::WrongPassword));
    assert!(stale.summary.contains("well again since 2026-11-22T19:12:05Z"), "{}", stale.summary);
}

#[test]
fn a_trunk_that_registers_throughout_is_well() {
    // The 403s of this flapping trunk fell outside the half minute that was recorded.
    let report = report(recording("flapping-403"), None, &[]);
    assert_eq!((report.diagnoses.len(), report.healthy, report.undecided), (0, 1, 0));
}

#[test]
fn algorithms_that_are_not_enabled_are_told_from_those_that_are() {
    let report = report(recording("sha256-challenge"), None, &[]);
    assert_eq!(report.healthy, 3);
    says(of(&report, "sha1x"), Cause::AlgorithmNotEnabled, Fault::Configuration, Some(Cause::RealmMismatch));
    assert!(of(&report, "sha1x").fix.config.contains("supported_algorithms_uac=SHA-256,MD5"));
    let unknown = of(&report, "unk5x");
    says(unknown, Cause::AlgorithmNotEnabled, Fault::Configuration, Some(Cause::RealmMismatch));
    assert!(unknown.fix.text.contains("no SHA-999") && unknown.fix.config.is_empty());
}

#[test]
fn of_four_contacts_only_the_private_one_towards_a_public_registrar_is_told() {
    let report = report(recording("nat-contact"), None, &[]);
    assert_eq!((report.diagnoses.len(), report.healthy), (1, 3));
    says(of(&report, "ok60n3"), Cause::NatContact, Fault::Configuration, None);
}

#[test]
fn the_log_of_the_same_minute_says_the_same_and_more() {
    let reading =
        Reading { zone: TimeZone::UTC, not_after: Some("2026-11-23T00:00:00Z".parse::<Timestamp>().unwrap()) };
    let all = objects();
    let read = |objects| analyse_with(&reading, Cursor::new(LOG), objects, &[], &mut |_| {}).unwrap();
    for report in [read(None), read(Some(&all))] {
        assert_eq!(report.format, Format::Logger);
        report.diagnoses.iter().for_each(shows_no_secret);
        let cause = |user| of(&report, user).cause;
        assert_eq!(cause("acct2"), Cause::WrongPassword);
        assert_eq!(cause("nosuch"), Cause::WrongAuthUsername);
        assert_eq!(cause("acct3"), Cause::RealmMismatch);
        assert!(of(&report, "acct3").confidence >= 0.9, "the log names the realm");
        assert_eq!(cause("u503"), Cause::ProviderUnavailable);
        assert_eq!(cause("usil"), Cause::NoResponse);
        // A log shows no ICMP: a closed port is silence to it.
        assert_eq!(cause("uref"), Cause::NoResponse);
        assert_eq!(of(&report, "uref").alternatives[0].cause, Cause::PortClosed);
        // Nothing was sent for this one, while SIP of the others is there.
        assert_eq!(cause("udns"), Cause::DnsFailure);
    }
}

#[test]
fn what_is_no_trace_is_refused_with_a_word() {
    let refused = |bytes: &[u8]| analyse(Cursor::new(bytes.to_vec()), None, &[], &mut |_| {}).unwrap_err().to_string();
    assert_eq!(refused(b""), "the file is empty");
    assert!(refused(b"\x1f\x8b\x08\x00").contains("gzip"));
    assert!(refused(&[0, 1, 2, 3, 4, 5]).contains("00 01 02 03"));
    assert!(matches!(analyse(Cursor::new(&PROVIDER[..10]), None, &[], &mut |_| {}), Err(AnalyseError::Capture(_))));
    let text = analyse(Cursor::new(b"hello\n"), None, &[], &mut |_| {}).unwrap();
    assert!(text.diagnoses.is_empty() && text.remarks.iter().any(|one| one.contains("no SIP in it")));
}

#[test]
fn a_cut_capture_is_judged_as_far_as_it_goes() {
    let report = report(&PROVIDER[..PROVIDER.len() - 33], None, &[]);
    assert_eq!(report.diagnoses.len(), 3);
    assert!(report.remarks.iter().any(|one| one.contains("ends early, at byte")), "{:?}", report.remarks);
}

fn everything() -> Vec<Seen> {
    let mut all = Vec::new();
    for (_, bytes) in RECORDINGS {
        let mut each = |seen: Seen| {
            all.push(seen);
            std::ops::ControlFlow::Continue(())
        };
        pcap::read(Cursor::new(bytes), &mut each, &mut |_| {}).unwrap();
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn recordings_cut_and_shuffled_give_sound_diagnoses_or_none(
        seed in any::<u64>(), keep in 1usize..6, near in any::<bool>(), configured in any::<bool>()
    ) {
        let mut state = seed;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(state >> 40).unwrap()
        };
        let mut seen: Vec<Seen> = everything().into_iter().filter(|_| next() % keep == 0).collect();
        let length = seen.len().max(1);
        for at in 0..seen.len() {
            let other = if near { (at + next() % 5) % length } else { next() % length };
            seen.swap(at, other);
        }
        let mut analysis = Analysis::default();
        seen.into_iter().for_each(|one| analysis.take(one));
        let all = objects();
        for diagnosis in analysis.finish(configured.then_some(&all), &[]) {
            shows_no_secret(&diagnosis);
            prop_assert!(diagnosis.evidence.len() <= 24);
            prop_assert!(diagnosis.alternatives.iter().all(|one| one.confidence <= diagnosis.confidence));
        }
    }
}
