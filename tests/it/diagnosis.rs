//! Diagnoses of real recordings.

use std::{fs::File, io::BufReader};

use trunkwarden::diagnosis::capture::{Report, analyse};

fn report(name: &str) -> Report {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/captures/").to_owned() + name;
    analyse(BufReader::new(File::open(path).unwrap()), None, &[], &mut |_| {}).unwrap()
}

#[test]
fn print_them() {
    for name in [
        "provider-401-and-ok",
        "rejected-403",
        "unavailable-503",
        "no-response",
        "port-closed",
        "flapping-403",
        "sha256-challenge",
        "short-expiry",
        "stale-nonce",
        "nat-contact",
    ] {
        let report = report(&format!("{name}.pcap"));
        println!(
            "\n=== {name}: healthy {} undecided {} messages {} {:?}",
            report.healthy, report.undecided, report.messages, report.remarks
        );
        for d in &report.diagnoses {
            println!(
                "- {} {:.2} {:?} {:?}\n  {}",
                d.cause,
                d.confidence,
                d.fault,
                d.alternatives.iter().map(|a| (a.cause.as_str(), a.confidence)).collect::<Vec<_>>(),
                d.summary
            );
            for e in &d.evidence {
                println!("    {} {:?} {} {} x{}", e.at, e.direction, e.source, e.line, e.repeats);
            }
            println!("    FIX {}\n{}", d.fix.text, d.fix.config);
        }
    }
}
