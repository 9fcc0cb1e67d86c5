//! The lab's failing trunks, its sources of evidence and its network behind a router, tested: what `system_causes.rs` takes as given.

use std::collections::BTreeMap;
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::program::{Program, for_lab};
use super::raw_ami::{RawAmi, header};
use super::{Instance, Lab, eventually};

const SOON: Duration = Duration::from_secs(15);

fn states(ami: &mut RawAmi<TcpStream>) -> BTreeMap<String, String> {
    let items = ami.list("Action: PJSIPShowRegistrationsOutbound\r\n", "OutboundRegistrationDetail");
    items.iter().map(|item| (header(item, "ObjectName").to_owned(), header(item, "Status").to_owned())).collect()
}

fn has(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// A file that grows, until it has the text.
fn file_with(file: &Path, text: &str) -> Vec<u8> {
    eventually(SOON, &format!("{text:?} in {}", file.display()), || {
        std::fs::read(file).ok().filter(|bytes| has(bytes, text))
    })
}

/// The chunks of a HEP packet by type, of vendor 0 (generic): the format is in the "HEP3 Network Protocol Specification".
fn chunks(packet: &[u8]) -> BTreeMap<u16, Vec<u8>> {
    assert!(packet.starts_with(b"HEP3"), "{packet:?}");
    let number = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    assert_eq!(usize::from(number(4)), packet.len());
    let mut chunks = BTreeMap::new();
    let mut at = 6;
    while at < packet.len() {
        let length = usize::from(number(at + 4));
        if number(at) == 0 {
            chunks.insert(number(at + 2), packet[at + 6..at + length].to_vec());
        }
        at += length;
    }
    chunks
}

#[test]
fn hep_log_and_capture_have_what_a_trunk_sends() {
    let Some(lab) = Lab::bare() else { return };
    let listener = UdpSocket::bind("127.0.0.1:0").expect("a port");
    listener.set_read_timeout(Some(SOON)).expect("a timeout");
    lab.hep(listener.local_addr().expect("an address").port(), 4711, "hep-secret");
    let (log, capture) = (lab.logger(), lab.capture());
    lab.write_trunks(&[json!({ "name": "airtel" })]);

    let mut packet = vec![0; 65536];
    let length = listener.recv(&mut packet).expect("a HEP packet");
    let hep = chunks(&packet[..length]);
    let (capture_id, key, correlation, payload) = (&hep[&0x0c], &hep[&0x0e], &hep[&0x11], &hep[&0x0f]);
    assert_eq!((capture_id.as_slice(), key.as_slice()), (&4711u32.to_be_bytes()[..], &b"hep-secret"[..]));
    assert!(payload.starts_with(b"REGISTER sip:"), "{}", String::from_utf8_lossy(payload));
    let call_id = String::from_utf8_lossy(correlation);
    assert!(has(payload, &format!("Call-ID: {}", call_id.trim_end_matches('\0'))), "{call_id}");

    let text = String::from_utf8_lossy(&file_with(&log, "<--- Received SIP response (")).into_owned();
    assert!(text.contains("<--- Transmitting SIP request ("), "{text}");
    let seen = file_with(&capture, "SIP/2.0 200 OK");
    assert_eq!(seen[..4], 0xa1b2_c3d4_u32.to_le_bytes(), "the magic of pcap with microseconds");
    assert!(has(&seen, "REGISTER sip:"));
    lab.end_captures();
    let whole = std::fs::metadata(&capture).expect("a file").len();
    lab.write_trunks(&[json!({ "name": "tata" })]);
    file_with(&log, "From: <sip:tata@");
    assert_eq!(std::fs::metadata(&capture).expect("a file").len(), whole, "it has ended");
    let history = lab.cli(Instance::Pbx, "module show like res_pjsip_history");
    assert!(history.contains("Running") && !history.contains("Not Running"), "{history}");
}

#[test]
fn every_cause_fails_as_it_is_named_and_the_others_register() {
    let Some(lab) = Lab::causes() else { return };
    let listener = UdpSocket::bind("127.0.0.1:0").expect("a port");
    lab.hep(listener.local_addr().expect("an address").port(), 1, "");
    let (log, capture) = (lab.logger(), lab.capture());
    lab.start_again(Instance::Pbx);
    let mut ami = RawAmi::login(lab.ami_address(), "trunkwarden", lab.secret("trunkwarden"));

    // In the first 32 s silence is still `Unregistered`.
    let registered = ["contact-rewritten", "goes-silent", "grants-10-seconds"];
    let unregistered = ["silent", "closed-udp", "proxy-silent", "expires-0"];
    let mut last = BTreeMap::new();
    let reached = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(SOON, "the states", || {
            last = states(&mut ami);
            last.retain(|name, state| {
                let well = name.starts_with("good") || registered.contains(&name.as_str());
                let wanted = match well {
                    true => "Registered",
                    false if unregistered.contains(&name.as_str()) => "Unregistered",
                    false => "Rejected",
                };
                state != wanted
            });
            last.is_empty().then_some(())
        });
    }));
    assert!(reached.is_ok(), "these differ: {last:#?}");

    // The registrar's side: what tells one cause from another.
    let seen = |name: &str| lab.account(name);
    let credentials = |name: &str| (seen(name).with_credentials > 0, seen(name).good_credentials > 0);
    for name in ["wrong-password", "wrong-auth-username", "realm-md5-cred", "realm-digest"] {
        assert_eq!(credentials(name), (true, false), "{name}");
    }
    assert_eq!(seen("wrong-password").last_username, "auth-wrong-password");
    assert_eq!(seen("wrong-auth-username").last_username, "wrong-auth-username", "the DID");
    for name in ["realm", "sha256-only", "no-auth", "auth-typo", "403-at-once", "proxy-305", "500", "600"] {
        assert_eq!(credentials(name), (false, false), "{name}");
        assert!(seen(name).registers > 0, "{name}");
    }
    assert_eq!(credentials("403-after-credentials"), (true, true));
    for name in ["tls-untrusted", "tls-misnamed", "tls-to-plain"] {
        assert_eq!(seen(name).registers, 0, "{name}");
    }
    eventually(SOON, "one try, and one more", || (seen("gave-up").registers == 2).then_some(()));
    assert!(seen("grants-10-seconds").registers > 4, "Asterisk registers without end");

    // Each source has the beginning.
    let text = String::from_utf8_lossy(&std::fs::read(&log).expect("a log")).into_owned();
    assert!(text.contains("From: <sip:expires-0@") && text.contains("Auth object 'auth-typo-auht' could not be found"));
    let bytes = std::fs::read(&capture).expect("a capture");
    assert!(has(&bytes, "From: <sip:expires-0@") && has(&bytes, "SIP/2.0 305 Use Proxy"));
    listener.set_nonblocking(true).expect("a socket");
    assert!(listener.recv(&mut [0; 65536]).is_ok(), "a HEP packet");
}

#[test]
fn behind_the_router_contacts_are_private_and_the_firewall_does_as_it_is_told() {
    let Some(lab) = Lab::behind_nat() else { return };
    let capture = lab.capture();
    lab.start_again(Instance::Pbx);
    let mut ami = RawAmi::login(lab.ami_address(), "trunkwarden", lab.secret("trunkwarden"));
    eventually(SOON, "the open ones", || {
        let states = states(&mut ami);
        (states["nat"] == "Registered" && states["good-nat"] == "Registered").then_some(())
    });
    assert!(lab.account("nat").last_contact.contains("@10.20.30.2:5060"), "{}", lab.account("nat").last_contact);
    let external = lab.account("good-nat").last_contact;
    assert!(external.contains("@203.0.113.2:5062"), "{external}");

    // What comes back to the PBX: the address the router gave it, ICMP from the far host and from the firewall, or nothing.
    let bytes = file_with(&capture, "received=203.0.113.2");
    assert_eq!(bytes[20..24], 276_u32.to_le_bytes(), "cooked v2: all of its network");
    let icmp = |from: [u8; 4], about: [u8; 4]| {
        // Protocol 1, checksum, addresses; type 3 code 3; then the header of what it is about.
        bytes.windows(48).any(|packet| {
            packet[0] == 0x45
                && packet[9] == 1
                && packet[12..16] == from
                && packet[20..22] == [3, 3]
                && packet[44..48] == about
        })
    };
    assert!(icmp([198, 51, 100, 11], [198, 51, 100, 11]), "the closed port");
    assert!(icmp([10, 20, 30, 1], [198, 51, 100, 10]), "the firewall's word");
    assert_eq!(lab.account("firewall-requests").registers, 0);
    eventually(SOON, "a request whose answer is dropped", || {
        (lab.account("firewall-replies").registers > 0).then_some(())
    });
    let answered = |bytes: &[u8], from: [u8; 4]| bytes.windows(8).any(|pair| pair == [from, [10, 20, 30, 2]].concat());
    assert!(!answered(&bytes, [198, 51, 100, 9]) && answered(&bytes, [198, 51, 100, 7]));

    // The program beside it, and the commands that ask it.
    let program = Program::start_beside(&lab, &for_lab(&lab, ""));
    program.wait_for("pbx1/nat", "stable", true, SOON);
    assert_eq!(program.run(&["gate", "pbx1/nat"]).code, 0);

    // A firewall that is opened lets the retransmission through.
    lab.firewall("198.51.100.9", "open");
    lab.firewall("198.51.100.8", "open");
    eventually(SOON, "both register", || {
        let states = states(&mut ami);
        (states["firewall-requests"] == "Registered" && states["firewall-replies"] == "Registered").then_some(())
    });
    program.end(&[lab.secret("trunkwarden")]);
    let namespace = lab.namespace().expect("a namespace").to_path_buf();
    assert!(namespace.exists());
    drop(lab);
    assert!(!namespace.exists());
}

#[test]
fn a_supervisor_that_is_killed_leaves_no_network_and_no_capture_behind() {
    let Some(mut lab) = Lab::behind_nat() else { return };
    let capture = lab.capture();
    let namespace = lab.namespace().expect("a namespace").to_path_buf();
    let capturing = || {
        let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
        let lines = processes.filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
        lines.into_iter().any(|line| line.starts_with(b"tcpdump") && has(&line, &capture.to_string_lossy()))
    };
    assert!(capturing() && namespace.exists());
    lab.supervisor.kill().expect("a running supervisor");
    eventually(SOON, "the end of all of it", || (!capturing() && !namespace.exists()).then_some(()));
}
