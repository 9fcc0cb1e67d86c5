//! Captures: the recordings against what tshark 4.0.17 said of them, and captures that are broken in every way.

use std::{collections::BTreeMap, io::Read, ops::ControlFlow};

use trunkwarden::wire::{
    pcap::{self, CaptureError, CaptureReport},
    sip::{Happening, Seen, Source, Unreachable},
};

macro_rules! capture {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../fixtures/captures/", $name)).as_slice())
    };
}

const RECORDINGS: [(&str, &[u8]); 10] = [
    capture!("flapping-403.pcap"),
    capture!("nat-contact.pcap"),
    capture!("no-response.pcap"),
    capture!("port-closed.pcap"),
    capture!("provider-401-and-ok.pcap"),
    capture!("rejected-403.pcap"),
    capture!("sha256-challenge.pcap"),
    capture!("short-expiry.pcap"),
    capture!("stale-nonce.pcap"),
    capture!("unavailable-503.pcap"),
];

fn read(input: impl Read) -> Result<(Vec<Seen>, CaptureReport), CaptureError> {
    let mut seen = Vec::new();
    let mut each = |one: Seen| {
        seen.push(one);
        ControlFlow::Continue(())
    };
    let report = pcap::read(input, &mut each, &mut |_| ())?;
    Ok((seen, report))
}

/// What was seen, counted by method, by status, and by kind.
fn counted(seen: &[Seen]) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for one in seen {
        let kind = match &one.what {
            Happening::Sip(message) => {
                let text = String::from_utf8_lossy(message.raw()).into_owned();
                let mut words = text.split_whitespace();
                let first = words.next().unwrap_or_default();
                (if first == "SIP/2.0" { words.next().unwrap_or_default() } else { first }).to_owned()
            }
            Happening::Unreachable { why: Unreachable::Port, .. } => "port".to_owned(),
            Happening::NameError { name, rcode } => format!("{name}/{rcode}"),
            Happening::TlsAlert { description } => format!("alert/{description}"),
            Happening::Refused => "refused".to_owned(),
            Happening::Unanswered => "unanswered".to_owned(),
            Happening::Unreachable { why, .. } => format!("{why:?}"),
        };
        *counts.entry(kind).or_default() += 1;
    }
    counts
}

#[test]
fn the_recordings_hold_what_tshark_says() {
    // Packets, ICMP messages, and messages by method or status. tshark also shows the requests that ICMP quotes: those
    // are not messages here, they are taken off. Of the ICMP messages ten quote HEP and are none of ours.
    let facts: [(&str, u64, u64, &str); 10] = [
        ("flapping-403.pcap", 108, 88, "200:8 401:2 OPTIONS:6 REGISTER:4 port:78"),
        ("nat-contact.pcap", 32, 0, "200:8 401:8 REGISTER:16"),
        ("no-response.pcap", 166, 88, "OPTIONS:68 REGISTER:10 port:78"),
        ("port-closed.pcap", 166, 88, "OPTIONS:69 REGISTER:9 port:78"),
        ("provider-401-and-ok.pcap", 236, 88, "200:6 401:68 OPTIONS:44 REGISTER:30 port:78"),
        ("rejected-403.pcap", 104, 88, "200:6 401:1 403:1 OPTIONS:6 REGISTER:2 port:78"),
        ("sha256-challenge.pcap", 36, 0, "200:8 401:10 REGISTER:18"),
        ("short-expiry.pcap", 100, 0, "200:25 401:25 REGISTER:50"),
        ("stale-nonce.pcap", 8, 0, "200:1 401:3 REGISTER:4"),
        ("unavailable-503.pcap", 110, 88, "200:6 503:5 OPTIONS:6 REGISTER:5 port:78"),
    ];
    for ((name, bytes), (fact, packets, icmp, messages)) in RECORDINGS.into_iter().zip(facts) {
        assert_eq!(name, fact);
        let (seen, report) = read(bytes).expect(name);
        let counts: Vec<String> = counted(&seen).iter().map(|(kind, count)| format!("{kind}:{count}")).collect();
        assert_eq!((counts.join(" ").as_str(), report.packets, report.icmp), (messages, packets, icmp), "{name}");
        assert_eq!(report.skipped, pcap::Skipped::default(), "{name}");
        assert_eq!((report.bytes, report.ended_early), (bytes.len() as u64, None), "{name}");
    }
}

/// What `tests/fixtures/captures/record.py` did, once over IPv4 and once over IPv6; the last three over IPv4 only.
const CONVERSATION: &str = "200:6 INVITE:2 MESSAGE:2 OPTIONS:6 REGISTER:2 alert/48:1 port:2 refused:2 \
                            sip.nowhere.invalid/3:2 unanswered:2";

#[test]
fn one_conversation_is_the_same_in_every_kind_of_capture() {
    let kinds = [
        capture!("loopback-ethernet.pcap"),
        capture!("loopback-cooked.pcap"),
        capture!("loopback-cooked2.pcap"),
        capture!("loopback-raw.pcapng"),
        capture!("loopback-nano.pcapng"),
    ];
    for (name, bytes) in kinds {
        let (seen, report) = read(bytes).expect(name);
        let counts: Vec<String> = counted(&seen).iter().map(|(kind, count)| format!("{kind}:{count}")).collect();
        assert_eq!(counts.join(" "), CONVERSATION, "{name}");
        assert_eq!((report.packets, report.sip, report.icmp), (91, 18, 2), "{name}");
        assert_eq!((report.skipped, report.ended_early), (pcap::Skipped::default(), None), "{name}");
        let span = report.span.expect("there are packets");
        assert_eq!(span.1.duration_since(span.0).as_millis() / 10, 202, "{name}");
        assert!(seen.iter().all(|one| one.source == Source::Capture && one.direction.is_none()));
        assert!(seen.iter().all(|one| one.from.is_some() && one.to.is_some() && one.transport.is_some()));
    }
}

#[test]
fn what_was_captured_twice_is_there_once() {
    let (seen, report) = read(capture!("loopback-two.pcapng").1).expect("a capture");
    let counts: Vec<String> = counted(&seen).iter().map(|(kind, count)| format!("{kind}:{count}")).collect();
    assert_eq!(counts.join(" "), CONVERSATION.replace("port:2", "port:4").replace("invalid/3:2", "invalid/3:4"));
    assert_eq!(report.skipped, pcap::Skipped { copies: 6, ..pcap::Skipped::default() });
}

#[test]
fn an_event_names_who_wanted_what_of_whom() {
    let (seen, _) = read(capture!("loopback-cooked2.pcap").1).expect("a capture");
    let shown = |kind: fn(&Happening) -> bool| -> Vec<String> {
        let chosen = seen.iter().filter(|one| kind(&one.what));
        chosen
            .map(|one| {
                let [from, to] = [one.from, one.to].map(|address| address.expect("an address"));
                let known = |port: u16| if port < 10_000 { port.to_string() } else { "any".to_owned() };
                format!("{:?} {} {} {}", one.transport.expect("one"), from.ip(), known(from.port()), to)
            })
            .collect()
    };
    let ends = |kind: fn(&Happening) -> bool, wanted: &[&str]| {
        let shown = shown(kind);
        assert_eq!(shown.len(), wanted.len());
        assert!(shown.iter().zip(wanted).all(|(shown, wanted)| shown == wanted), "{shown:?} {wanted:?}");
    };
    ends(|what| matches!(what, Happening::Refused), &["Tcp 127.0.0.1 any 127.0.0.1:5091", "Tcp ::1 any [::1]:5091"]);
    ends(|what| matches!(what, Happening::Unanswered), &["Tcp 127.0.0.1 any 127.0.0.1:5092"; 2]);
    ends(|what| matches!(what, Happening::TlsAlert { .. }), &["Tls 127.0.0.1 any 127.0.0.1:6061"]);
    ends(
        |what| matches!(what, Happening::Unreachable { .. }),
        &["Udp 127.0.0.1 any 127.0.0.1:5091", "Udp ::1 any [::1]:5091"],
    );
    let shown = shown(|what| matches!(what, Happening::NameError { .. }));
    assert!(shown[0].starts_with("Udp 127.0.0.1 53 127.0.0.1:") && shown[1].starts_with("Udp ::1 53 [::1]:"));
    let call_ids = seen.iter().filter_map(|one| match &one.what {
        Happening::Unreachable { call_id, .. } => call_id.as_deref(),
        _ => None,
    });
    assert_eq!(call_ids.collect::<Vec<_>>(), ["closed@fixture"; 2]);
    let messages: Vec<_> = seen.iter().filter_map(Seen::sip).collect();
    assert!(messages.iter().all(|message| message.defects().is_empty()));
    let invite = messages.iter().find(|message| message.method() == Some("INVITE")).expect("it was in fragments");
    assert_eq!((invite.raw().len() > 4000, invite.body()), (true, b"v=0\r\n".as_slice()));
}
