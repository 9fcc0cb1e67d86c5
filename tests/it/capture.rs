//! Captures: the recordings against what tshark 4.0.17 said of them, and captures that are broken in every way.

use std::{collections::BTreeMap, io::Read, ops::ControlFlow};

use etherparse::PacketBuilder;
use proptest::prelude::*;
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
        Happening::Sip(_)
        | Happening::Refused
        | Happening::Unanswered
        | Happening::TlsAlert { .. }
        | Happening::NameError { .. } => None,
    });
    assert_eq!(call_ids.collect::<Vec<_>>(), ["closed@fixture"; 2]);
    let messages: Vec<_> = seen.iter().filter_map(Seen::sip).collect();
    assert!(messages.iter().all(|message| message.defects().is_empty()));
    let invite = messages.iter().find(|message| message.method() == Some("INVITE")).expect("it was in fragments");
    assert_eq!((invite.raw().len() > 4000, invite.body()), (true, b"v=0\r\n".as_slice()));
}

// ------------------------------------------------------------------------------------------------ captures made here

/// A packet's bytes, and when it was captured, in microseconds.
type Made = (u64, Vec<u8>);

fn field(number: usize) -> [u8; 4] {
    u32::try_from(number).expect("a small number").to_le_bytes()
}

/// A pcap of a link type.
fn pcap_of(link: u32, packets: &[Made]) -> Vec<u8> {
    let mut file = [&[0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0][..], &[0; 8], &field(262_144), &link.to_le_bytes()].concat();
    for (at, packet) in packets {
        let (seconds, micros) = (
            usize::try_from(at / 1_000_000).expect("it is made here"),
            usize::try_from(at % 1_000_000).expect("it is made here"),
        );
        for number in [seconds, micros, packet.len(), packet.len()] {
            file.extend(field(number));
        }
        file.extend(packet);
    }
    file
}

const RAW: u32 = 101;
const CLIENT: [u8; 4] = [192, 0, 2, 1];
const SERVER: [u8; 4] = [192, 0, 2, 2];

fn udp(to_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    PacketBuilder::ipv4(CLIENT, SERVER, 64).udp(5071, to_port).write(&mut packet, payload).expect("it is made here");
    packet
}

/// A segment from the client's `port` to the server's 5090; `flags` of `SARF`.
fn tcp(port: u16, flags: &str, sequence: u32, payload: &[u8]) -> Vec<u8> {
    tcp_between((CLIENT, port), (SERVER, 5090), flags, sequence, payload)
}

fn tcp_between(from: ([u8; 4], u16), to: ([u8; 4], u16), flags: &str, sequence: u32, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    let mut builder = PacketBuilder::ipv4(from.0, to.0, 64).tcp(from.1, to.1, sequence, 8192);
    for flag in flags.chars() {
        builder = match flag {
            'S' => builder.syn(),
            'A' => builder.ack(1),
            'R' => builder.rst(),
            _ => builder.fin(),
        };
    }
    builder.write(&mut packet, payload).expect("it is made here");
    packet
}

fn message(call: usize, body: &str) -> Vec<u8> {
    format!(
        "MESSAGE sip:h SIP/2.0\r\nVia: SIP/2.0/TCP h;branch=z9hG4bK{call}\r\nFrom: <sip:a@h>;tag=1\r\nTo: <sip:b@h>\r\n\
         Call-ID: {call}\r\nCSeq: 1 MESSAGE\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

fn calls(seen: &[Seen]) -> Vec<String> {
    seen.iter().filter_map(Seen::sip).map(|message| message.call_id().unwrap_or_default().into_owned()).collect()
}

/// Packets a millisecond apart.
fn one_by_one(packets: impl IntoIterator<Item = Vec<u8>>) -> Vec<Made> {
    packets.into_iter().enumerate().map(|(index, packet)| (1_000_000 + index as u64 * 1000, packet)).collect()
}

fn read_raw(packets: &[Made]) -> (Vec<Seen>, CaptureReport) {
    read(pcap_of(RAW, packets).as_slice()).expect("a capture")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn the_messages_of_a_stream_do_not_depend_on_how_its_segments_come(
        cuts in prop::collection::btree_set(1usize..2000, 0..40),
        swaps in prop::collection::vec(0usize..40, 0..40),
        repeats in prop::collection::vec(0usize..40, 0..10),
        first in prop::sample::select(vec![1u32, u32::MAX, u32::MAX - 700, 0x7fff_ff00]),
    ) {
        let bodies = ["", "hello", "\r\n\r\nMESSAGE sip:h SIP/2.0\r\n"];
        let stream: Vec<u8> = (0..9).flat_map(|call| message(call, bodies[call % 3])).collect();
        let bounds: Vec<usize> =
            [0].into_iter().chain(cuts.into_iter().filter(|cut| *cut < stream.len())).chain([stream.len()]).collect();
        let mut segments: Vec<(usize, usize)> = bounds.windows(2).map(|pair| (pair[0], pair[1])).collect();
        for index in repeats {
            // Again, and a little more than it: retransmissions do not keep their bounds.
            let (begin, end) = segments[index % segments.len()];
            segments.push((begin.saturating_sub(3), (end + 5).min(stream.len())));
        }
        for index in swaps {
            let index = index % segments.len();
            let other = (index + 1) % segments.len();
            segments.swap(index, other);
        }
        let at = |offset: usize| first.wrapping_add(1).wrapping_add(u32::try_from(offset).expect("it is made here"));
        let packets = [tcp(40_000, "S", first, &[])]
            .into_iter()
            .chain(segments.iter().map(|(begin, end)| tcp(40_000, "A", at(*begin), &stream[*begin..*end])));
        let (seen, report) = read_raw(&one_by_one(packets));
        prop_assert_eq!(calls(&seen), ["0", "1", "2", "3", "4", "5", "6", "7", "8"]);
        prop_assert_eq!(report.skipped, pcap::Skipped::default());
    }

    #[test]
    fn flipped_bits_do_no_harm(
        which in 0..RECORDINGS.len() + 3,
        flips in prop::collection::vec((any::<prop::sample::Index>(), 0u8..8), 1..60),
    ) {
        let more = [capture!("loopback-cooked2.pcap"), capture!("loopback-two.pcapng"), capture!("loopback-nano.pcapng")];
        let (_, bytes) = RECORDINGS.into_iter().chain(more).nth(which).expect("one of them");
        let mut bytes = bytes.to_vec();
        for (place, bit) in flips {
            let place = place.index(bytes.len());
            bytes[place] ^= 1 << bit;
        }
        let_it_read(&bytes);
    }

    #[test]
    fn garbage_behind_a_good_header_does_no_harm(
        garbage in prop::collection::vec(any::<u8>(), 0..3000),
        link in prop::sample::select(vec![0u32, 1, 101, 113, 276]),
    ) {
        let_it_read(&[pcap_of(link, &[]), garbage.clone()].concat());
        let packets: Vec<Made> = garbage.chunks(97).map(|packet| (0, packet.to_vec())).collect();
        let_it_read(&pcap_of(link, &packets));
        let mut section = NG_SECTION.to_vec();
        section.extend(&garbage);
        let_it_read(&section);
        let_it_read(&garbage);
    }
}

/// A pcapng section's header, and an Ethernet interface.
const NG_SECTION: [u8; 48] = [
    0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255,
    28, 0, 0, 0, 1, 0, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 20, 0, 0, 0,
];

/// Reads what may be broken, and holds what must be true of it all the same.
fn let_it_read(bytes: &[u8]) {
    match read(bytes) {
        Ok((seen, report)) => {
            assert!(report.bytes <= bytes.len() as u64);
            assert!(report.sip <= seen.len() as u64);
            if let Some((offset, what)) = report.ended_early {
                assert!(offset <= bytes.len() as u64 && !what.is_empty());
            }
        }
        Err(CaptureError::NotACapture { looks_like }) => assert!(!looks_like.is_empty()),
        Err(CaptureError::HeaderCut { length }) => assert!(length < 24),
        Err(CaptureError::LinkType { offset, .. }) => assert!(offset < bytes.len() as u64),
        Err(CaptureError::Read { .. }) => panic!("memory can be read"),
    }
}

#[test]
fn a_capture_cut_anywhere_keeps_what_is_before_the_cut_and_says_where_that_is() {
    // (file, step): every length of the smallest; of the others as many as take no time.
    let files = [
        (capture!("stale-nonce.pcap"), 1),
        (capture!("loopback-cooked2.pcap"), 53),
        (capture!("no-response.pcap"), 997),
    ];
    for ((name, bytes), step) in files {
        let mut records = vec![24];
        while let Some(header) = bytes.get(records[records.len() - 1]..).filter(|rest| !rest.is_empty()) {
            let length = u32::from_le_bytes(header[8..12].try_into().expect("it is made here"));
            records.push(records[records.len() - 1] + 16 + usize::try_from(length).expect("it is made here"));
        }
        for length in (0..bytes.len()).step_by(step) {
            let outcome = read(&bytes[..length]);
            if length < 24 {
                let error = outcome.expect_err(name).to_string();
                assert!(error.contains(if length < 4 { "not a pcap" } else { "24 are needed" }), "{length}: {error}");
                continue;
            }
            let (_, report) = outcome.expect(name);
            let whole = records.partition_point(|record| *record <= length) - 1;
            assert_eq!(report.packets, whole as u64, "{name} cut at {length}");
            let ended = report.ended_early.map(|(offset, _)| usize::try_from(offset).expect("it is made here"));
            assert_eq!(ended, (records[whole] < length).then_some(records[whole]), "{name} cut at {length}");
        }
    }
    let (name, bytes) = capture!("loopback-nano.pcapng");
    for length in (28..bytes.len()).step_by(31) {
        let (_, report) = read(&bytes[..length]).expect(name);
        let offset = report.ended_early.map_or(length, |(offset, _)| usize::try_from(offset).expect("it is made here"));
        assert!(offset <= length && offset % 4 == 0, "{length}: {offset}");
    }
}

#[test]
fn what_is_no_capture_is_told_by_its_name() {
    for (bytes, said) in [
        (&b""[..], "empty"),
        (b"\x1f\x8b\x08\0", "gzip"),
        (b"[Nov 22 10:00:00] VERBOSE[1] res_pjsip_logger.c: <--- Transmitting", "text (\"[Nov 22 10:00:00] VERBO"),
        (b"\xde\xad\xbe\xef1234", "de ad be ef"),
        (b"\x0a\x0d\x0d\x0a\0\0\0\0\0\0\0\0", "0a 0d 0d 0a"),
    ] {
        let error = read(bytes).expect_err("it is none").to_string();
        assert!(error.starts_with("not a pcap or pcapng capture") && error.contains(said), "{error}");
    }
    assert!(read(std::io::repeat(b'x')).is_err(), "and is not read to its end, which it may not have");
    let error = read(pcap_of(105, &[(0, vec![0; 60])]).as_slice()).expect_err("802.11").to_string();
    assert!(error.contains("105 (at byte 20)") && error.contains("Ethernet (1)"), "{error}");
    let mut wireless = NG_SECTION.to_vec();
    wireless[36] = 105;
    wireless.extend(enhanced(0, 0, &[0; 8]));
    let error = read(wireless.as_slice()).expect_err("802.11").to_string();
    assert!(error.contains("105 (at byte 36)"), "{error}");
}

/// An enhanced packet block.
fn enhanced(interface: usize, ticks: u64, packet: &[u8]) -> Vec<u8> {
    let total = 32 + packet.len().next_multiple_of(4);
    let (high, low) = (
        usize::try_from(ticks >> 32).expect("it is made here"),
        usize::try_from(ticks & 0xffff_ffff).expect("it is made here"),
    );
    let mut block: Vec<u8> =
        [6, total, interface, high, low, packet.len(), packet.len()].into_iter().flat_map(field).collect();
    block.extend(packet);
    block.resize(total - 4, 0);
    block.extend(field(total));
    block
}

#[test]
fn sections_and_interfaces_each_have_their_own_clock_and_link() {
    let frame = |packet: Vec<u8>| [&[0; 12][..], &[8, 0], &packet].concat();
    // An interface of raw IP, 2^10 ticks a second, 100 s to add.
    let raw: &[u8] = &[
        1, 0, 0, 0, 44, 0, 0, 0, 101, 0, 0, 0, 0, 0, 0, 0, 9, 0, 1, 0, 0x8a, 0, 0, 0, 14, 0, 8, 0, 100, 0, 0, 0, 0, 0,
        0, 0, 0, 0, 0, 0, 44, 0, 0, 0,
    ];
    // Nobody knows it, and nobody needs it.
    let unknown = [[0xad, 0x0b, 0, 0x40], field(16), *b"what", field(16)].concat();
    let sip = |call: usize| udp(5060, &message(call, ""));
    let file = [
        &NG_SECTION[..],
        raw,
        &unknown,
        &enhanced(0, 5_000_001, &frame(sip(1))),
        &enhanced(1, 5 << 10 | 512, &sip(2)),
        &enhanced(7, 0, &sip(3)),
        &NG_SECTION,
        &enhanced(0, 7_000_000, &frame(sip(4))),
        &enhanced(1, 0, &sip(5)),
    ]
    .concat();
    let (seen, report) = read(file.as_slice()).expect("a capture");
    assert_eq!(calls(&seen), ["1", "2", "4"]);
    let at: Vec<String> = seen.iter().map(|one| one.at.to_string()).collect();
    assert_eq!(at, ["1970-01-01T00:00:05.000001Z", "1970-01-01T00:01:45.5Z", "1970-01-01T00:00:07Z"]);
    assert_eq!((report.packets, report.skipped.link, report.ended_early), (5, 2, None));
}

#[test]
fn both_byte_orders_and_both_clocks_of_pcap_are_read() {
    let packet = udp(5060, &message(1, ""));
    for (magic, big, header, fraction) in [
        (0xa1b2_c3d4_u32, false, 0, 250_000_u32),
        (0xa1b2_c3d4, true, 0, 250_000),
        (0xa1b2_3c4d, false, 0, 250_000_000),
        (0xa1b2_3c4d, true, 0, 250_000_000),
        (0xa1b2_cd34, false, 8, 250_000),
    ] {
        let field = |number: u32| if big { number.to_be_bytes() } else { number.to_le_bytes() };
        let length = u32::try_from(packet.len()).expect("it is made here");
        let version = if big { [0, 2, 0, 4] } else { [2, 0, 4, 0] };
        let mut file = [field(magic), version, [0; 4], [0; 4], field(65_535), field(RAW)].concat();
        file.extend([field(10), field(fraction), field(length), field(length)].concat());
        file.extend(vec![0; header]);
        file.extend(&packet);
        let (seen, report) = read(file.as_slice()).expect("a capture");
        assert_eq!((seen.len(), report.ended_early), (1, None), "{magic:x}");
        assert_eq!(seen[0].at.to_string(), "1970-01-01T00:00:10.25Z", "{magic:x}");
    }
}

#[test]
fn a_packet_that_claims_four_gigabytes_ends_the_capture_there() {
    let mut file = pcap_of(RAW, &[(0, udp(5060, &message(1, "")))]);
    let good = file.len() as u64;
    file.extend([field(0), field(0), [255; 4], [255; 4]].concat());
    let (seen, report) = read(file.as_slice().chain(std::io::repeat(0))).expect("a capture");
    assert_eq!(seen.len(), 1);
    let (offset, what) = report.ended_early.expect("nonsense");
    assert_eq!(offset, good);
    assert!(what.contains("4294967295"), "{what}");
}

#[test]
fn a_disk_that_fails_is_named_with_the_place() {
    struct Failing;
    impl Read for Failing {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::Error::other("the disk is gone"))
        }
    }
    let bytes = capture!("stale-nonce.pcap").1;
    let error = read(bytes.chain(Failing)).expect_err("it fails");
    assert_eq!(error.to_string(), format!("reading failed at byte {}", bytes.len()));
}

#[test]
fn who_has_seen_enough_ends_the_reading() {
    let mut count = 0;
    let mut each = |_: Seen| {
        count += 1;
        if count == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let mut progress = Vec::new();
    let bytes = capture!("provider-401-and-ok.pcap").1;
    let report = pcap::read(bytes, &mut each, &mut |bytes| progress.push(bytes)).expect("a capture");
    assert_eq!((count, report.sip), (3, 3));
    assert!(report.packets < 10);
    pcap::read(bytes, &mut |_| ControlFlow::Continue(()), &mut |bytes| progress.push(bytes)).expect("a capture");
    assert_eq!(progress.last(), Some(&(bytes.len() as u64)));
}

#[test]
fn tags_of_networks_are_skipped() {
    let packet = udp(5060, &message(1, ""));
    for tags in [
        &[0x81, 0, 0, 5, 8, 0][..],
        &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 6, 8, 0],
        &[0x88, 0x64, 0x11, 0, 0, 1, 0, 9, 0, 0x21],
    ] {
        let frame = [&[2; 12][..], tags, &packet].concat();
        let (seen, report) = read(pcap_of(1, &[(0, frame)]).as_slice()).expect("a capture");
        assert_eq!((seen.len(), report.skipped), (1, pcap::Skipped::default()), "{tags:x?}");
    }
    let loopback = [&[2, 0, 0, 0][..], &packet].concat();
    assert_eq!(read(pcap_of(0, &[(0, loopback)]).as_slice()).expect("a capture").0.len(), 1);
    let arp = [&[2; 12][..], &[8, 6], &[0; 28]].concat();
    assert_eq!(read(pcap_of(1, &[(0, arp)]).as_slice()).expect("a capture").1.skipped.no_ip, 1);
}

#[test]
fn a_message_that_the_snapshot_length_cuts_is_kept_as_far_as_it_goes() {
    let mut file = pcap_of(RAW, &[]);
    let packet = udp(5060, &message(1, ""));
    file.extend([field(0), field(0), field(90), field(packet.len())].concat());
    file.extend(&packet[..90]);
    let (seen, report) = read(file.as_slice()).expect("a capture");
    assert_eq!((report.skipped.truncated, seen.len()), (1, 1));
    assert_eq!(seen[0].sip().and_then(|message| message.method()), Some("MESSAGE"));
}

#[test]
fn a_lost_segment_costs_its_message_and_no_other() {
    let one = message(1, "the first");
    let two = message(2, &"x".repeat(500));
    let three = message(3, "the third");
    let stream = [one.clone(), two, three].concat();
    let lost = one.len() + 300..one.len() + 400;
    let at = |offset: usize| u32::try_from(100 + offset).expect("it is made here");
    let mut packets = one_by_one([
        tcp(40_000, "S", 99, &[]),
        tcp(40_000, "A", at(0), &stream[..lost.start]),
        tcp(40_000, "A", at(lost.end), &stream[lost.end..]),
    ]);
    let (seen, report) = read_raw(&packets);
    assert_eq!((calls(&seen), report.skipped.tcp_gaps), (vec!["1".into(), "2".into(), "3".into()], 1), "at the end");
    // Long after it, another one: it does not wait for the end of the capture.
    packets.push((9_000_000, tcp(40_000, "A", at(stream.len()), &message(4, ""))));
    let (seen, report) = read_raw(&packets);
    assert_eq!((calls(&seen).join(" "), report.skipped.tcp_gaps), ("1 2 3 4".to_owned(), 1));
    let broken: Vec<usize> = seen.iter().filter_map(Seen::sip).map(|message| message.body().len()).collect();
    assert!(broken[1] < 500 && broken[2] == 9, "{broken:?}");
}

#[test]
fn a_connection_that_the_capture_begins_amid_is_found() {
    let packets = one_by_one([
        tcp(40_000, "A", 7000, b"rest of something\r\nContent-Length: 0\r\n\r\n"),
        tcp(40_000, "A", 7040, &[message(1, ""), message(2, "")].concat()),
    ]);
    assert_eq!(calls(&read_raw(&packets).0), ["1", "2"]);
    // On a port of which nothing is known, from the first segment that begins a message.
    let other = |sequence, bytes: &[u8]| tcp_between((CLIENT, 40_000), (SERVER, 8000), "A", sequence, bytes);
    let packets =
        one_by_one([other(1, b"a=sendrecv\r\n"), other(13, &message(1, "")), other(13 + 180, b"POST / HTTP/1.1\r\n")]);
    assert_eq!(calls(&read_raw(&packets).0), ["1"]);
}

#[test]
fn a_retransmission_is_another_message_and_a_copy_is_none() {
    let register = udp(5060, &message(1, ""));
    let (seen, report) = read_raw(&[(0, register.clone()), (3000, register.clone()), (500_000, register)]);
    assert_eq!((seen.len(), report.skipped.copies), (2, 1));
}

#[test]
fn failing_connections_are_told_of_ports_that_matter() {
    let syn = |port| tcp_between((CLIENT, 40_000), (SERVER, port), "S", 1, &[]);
    let reset = |port| tcp_between((SERVER, port), (CLIENT, 40_000), "RA", 0, &[]);
    let of = |seen: &[Seen]| -> Vec<String> {
        let told = seen.iter().filter(|one| one.sip().is_none());
        told.map(|one| {
            format!("{:?} {} {}", one.what, one.at.as_millisecond(), one.to.expect("it is made here").port())
        })
        .collect()
    };
    let refused = [(0, syn(9000)), (1000, reset(9000)), (2000, syn(5061)), (3000, reset(5061))];
    assert_eq!(of(&read_raw(&refused).0), ["Refused 3 5061"]);
    let mut asked = Vec::new();
    let mut each = |one| {
        asked.push(one);
        ControlFlow::Continue(())
    };
    let options = pcap::Options { ports: vec![9000] };
    pcap::read_with(&options, pcap_of(RAW, &refused).as_slice(), &mut each, &mut |_| ()).expect("a capture");
    assert_eq!(of(&asked), ["Refused 1 9000", "Refused 3 5061"]);
    // A server of SIP makes its port matter.
    let after_sip = [(0, udp(9000, &message(1, ""))), (1000, syn(9000)), (2000, reset(9000))];
    assert_eq!(of(&read_raw(&after_sip).0), ["Refused 2 9000"]);

    let (second, third) = ((1_000_000, syn(5060)), (3_000_000, syn(5060)));
    let silence = [(0, syn(5060)), second.clone(), third.clone(), (60_000_000, udp(1, b"x"))];
    assert_eq!(of(&read_raw(&silence).0), ["Unanswered 0 5060", "Unanswered 1000 5060", "Unanswered 3000 5060"]);
    let at_last =
        [(0, syn(5060)), second, (1_100_000, tcp_between((SERVER, 5060), (CLIENT, 40_000), "SA", 9, &[])), third];
    assert_eq!(of(&read_raw(&at_last).0)[..1], ["Unanswered 0 5060"]);
}

#[test]
fn icmp_is_told_of_what_was_sip_even_if_it_quotes_eight_bytes() {
    let register = udp(5099, &message(1, ""));
    let other = udp(9060, b"HEP3 whatever");
    let unreachable = |quoted: &[u8], code: u8| {
        let mut packet = Vec::new();
        let builder = PacketBuilder::ipv4([192, 0, 2, 9], CLIENT, 64).icmpv4_raw(3, code, [0; 4]);
        builder.write(&mut packet, quoted).expect("it is made here");
        packet
    };
    let packets = one_by_one([
        unreachable(&register[..28], 1),
        register.clone(),
        unreachable(&register[..28], 13),
        other.clone(),
        unreachable(&other, 3),
        unreachable(&register[..register.len() - 25], 0),
    ]);
    let (seen, report) = read_raw(&packets);
    let told: Vec<_> = seen
        .iter()
        .filter_map(|one| match &one.what {
            Happening::Unreachable { why, call_id } => {
                Some((*why, call_id.as_deref(), one.to.expect("it is made here").port()))
            }
            Happening::Sip(_)
            | Happening::Refused
            | Happening::Unanswered
            | Happening::TlsAlert { .. }
            | Happening::NameError { .. } => None,
        })
        .collect();
    assert_eq!(told, [(Unreachable::Prohibited, None, 5099), (Unreachable::Network, Some("1"), 5099)]);
    assert_eq!(report.icmp, 4);
}

#[test]
fn the_first_fragment_alone_is_used() {
    let large = udp(5060, &message(1, &"x".repeat(3000)));
    let mut first = large[..1500].to_vec();
    first[2..4].copy_from_slice(&1500_u16.to_be_bytes());
    first[6..8].copy_from_slice(&0x2000_u16.to_be_bytes());
    let packets = [(0, first.clone()), (31_000_000, first)];
    let (seen, report) = read_raw(&packets);
    assert_eq!((calls(&seen), report.skipped.fragments), (vec!["1".to_owned(), "1".to_owned()], 2));
}

// ---------------------------------------------------------------------------------------- more than memory could hold

/// A stream made while it is read: of packet after packet, as often as is wanted.
struct Endless<F> {
    make: F,
    index: u64,
    packets: u64,
    pending: std::io::Cursor<Vec<u8>>,
}

impl<F: FnMut(u64) -> Vec<Vec<u8>>> Endless<F> {
    fn new(packets: u64, make: F) -> Self {
        Self { make, index: 0, packets, pending: std::io::Cursor::new(pcap_of(RAW, &[])) }
    }
}

impl<F: FnMut(u64) -> Vec<Vec<u8>>> Read for Endless<F> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.pending.position() == self.pending.get_ref().len() as u64 && self.index < self.packets {
            let at = 1_000_000 + self.index * 10;
            let made = (self.make)(self.index).into_iter().map(|packet| (at, packet));
            self.pending = std::io::Cursor::new(pcap_of(RAW, &made.collect::<Vec<_>>())[24..].to_vec());
            self.index += 1;
        }
        self.pending.read(buffer)
    }
}

/// A connection that sends a part of a message, and never the rest.
fn unfinished(index: u64) -> Vec<Vec<u8>> {
    let address = 0x0a00_0000 + u32::try_from(index % 0x00ff_ffff).expect("it is made here");
    let from = (address.to_be_bytes(), 40_000);
    let mut begun = message(0, "");
    begun.truncate(begun.len() - 2);
    begun.resize(1400, b';');
    // Of every third the second segment is missing, so that the third waits for it.
    let next = if index.is_multiple_of(3) { 9000 } else { 1401 };
    [("S", 0, &[][..]), ("A", 1, &begun), ("A", next, &begun)]
        .map(|(flags, sequence, bytes)| tcp_between(from, (SERVER, 5060), flags, sequence, bytes))
        .into()
}

/// A datagram's first fragment, and never the rest.
fn fragment(index: u64) -> Vec<Vec<u8>> {
    let mut packet = udp(5060, &[b'x'; 1480 - 8]);
    packet[4..6].copy_from_slice(&u16::try_from(index & 0xffff).expect("it is made here").to_be_bytes());
    packet[6..8].copy_from_slice(&0x3fff_u16.to_be_bytes());
    vec![packet]
}

#[test]
fn what_never_ends_is_given_up_and_counted() {
    let (_, report) = read(Endless::new(40_000, unfinished)).expect("a capture");
    assert!(report.skipped.connections > 20_000, "{report:?}");
    let (seen, report) = read(Endless::new(10_000, fragment)).expect("a capture");
    assert_eq!((seen.len(), report.skipped.fragments), (0, 10_000));
    let (seen, report) = read(Endless::new(40_000, |index| unfinished(index)[..1].to_vec())).expect("a capture");
    assert_eq!(seen.len() as u64 + report.skipped.attempts, 40_000, "{report:?}");
    assert!(seen.len() < 10_000 && seen.iter().all(|one| matches!(one.what, Happening::Unanswered)));
}

/// Takes minutes without optimisation, and a process of its own for its figure:
/// `cargo test --release --test it capture::two_gibibytes -- --ignored --nocapture`.
#[test]
#[ignore = "2 GiB through the reader, for the figure of its memory"]
fn two_gibibytes_are_read_in_bounded_memory() {
    let large = |index: u64| match index % 4 {
        0 => unfinished(index),
        1 => fragment(index),
        2 => vec![tcp_between(
            ([10, 9, 8, 7], 40_000),
            (SERVER, 8080),
            "A",
            1400 * u32::try_from(index & 0xffff).expect("it is made here"),
            &[b'x'; 1400],
        )],
        _ => vec![
            udp(40_000, &[0x80; 172]),
            udp(5060, &message(usize::try_from(index).expect("it is made here"), &"x".repeat(8000))),
        ],
    };
    let before = peak_kib();
    let mut messages = 0;
    let report = pcap::read(
        Endless::new(800_000, large),
        &mut |_| {
            messages += 1;
            ControlFlow::Continue(())
        },
        &mut |_| (),
    )
    .expect("a capture");
    let grown = peak_kib() - before;
    eprintln!(
        "{} MiB, {} packets, {messages} seen: memory grew by {grown} KiB; {:?}",
        report.bytes >> 20,
        report.packets,
        report.skipped
    );
    assert!(report.bytes > 2 << 30, "{report:?}");
    assert!(grown < 128 << 10, "{grown} KiB");
}

fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux has it");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("it tells the peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
