//! Captures: the recordings against what tshark 4.0.17 said of them, and captures that are broken in every way.

use std::{collections::BTreeMap, io::Read, ops::ControlFlow};

use trunkwarden::wire::{
    pcap::{self, CaptureError, CaptureReport},
    sip::{Happening, Seen, Unreachable},
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
            other => format!("{other:?}"),
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
