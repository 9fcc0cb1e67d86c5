//! The program finds every trunk of the lab, with the state that Asterisk itself says it has.

use std::collections::BTreeMap;
use std::time::Duration;

use super::program::{Program, SOON, for_lab, now, seconds};
use super::raw_ami::{RawAmi, header};
use super::{Lab, eventually};

/// The trunks whose name is not that of their one registration, with their registrations.
const NAMED_APART: [(&str, &[&str]); 4] = [
    ("named", &["named-out"]),
    ("shared-auth", &["shared-out"]),
    ("double", &["double-a", "double-b"]),
    ("wizard", &["wizard-reg-0"]),
];
/// A trunk without a registration, which is one because the configuration says so.
const DECLARED: &str = "[[trunk]]\npbx = \"pbx1\"\nname = \"unregistered\"\nendpoints = [\"unregistered\"]\n";

/// By trunk: the registration's state as Asterisk lists it, and the health and gate that follow.
fn truth(ami: &mut RawAmi<std::net::TcpStream>) -> BTreeMap<String, (String, String, bool)> {
    let listed = ami.list("Action: PJSIPShowRegistrationsOutbound\r\n", "OutboundRegistrationDetail");
    let mut truth = BTreeMap::new();
    for item in &listed {
        let name = header(item, "ObjectName");
        let trunk = NAMED_APART
            .iter()
            .find(|(_, registrations)| registrations.contains(&name))
            .map_or(name, |(trunk, _)| trunk);
        let state = header(item, "Status").to_lowercase();
        let registered = state == "registered";
        let health = if registered { "stable" } else { "down" };
        truth.insert(format!("pbx1/{trunk}"), (state, health.to_owned(), registered));
    }
    truth.insert("pbx1/unregistered".to_owned(), ("none".to_owned(), "stable".to_owned(), true));
    truth
}

fn told(program: &Program) -> BTreeMap<String, (String, String, bool)> {
    let word = |value: &serde_json::Value| value.as_str().expect("a word").to_owned();
    let read = |trunk: serde_json::Value| {
        (word(&trunk["registration"]["state"]), word(&trunk["health"]), trunk["gate"]["allow"] == true)
    };
    program.trunks().into_iter().map(|(id, trunk)| (id, read(trunk))).collect()
}

/// Waits until the program says what Asterisk says, and gives how long that took from `began`.
fn agree(program: &Program, ami: &mut RawAmi<std::net::TcpStream>, within: Duration) -> Duration {
    let began = now();
    let mut last = (BTreeMap::new(), BTreeMap::new());
    let agreed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(within, "the program agrees with Asterisk", || {
            last = (truth(ami), told(program));
            (last.0 == last.1).then_some(())
        });
    }));
    if agreed.is_err() {
        let differs = last.0.iter().filter(|(id, state)| last.1.get(*id) != Some(state)).collect::<Vec<_>>();
        let more = last.1.iter().filter(|(id, state)| last.0.get(*id) != Some(state)).collect::<Vec<_>>();
        panic!("Asterisk: {differs:#?}\nthe program: {more:#?}\n{}", program.log());
    }
    Duration::from_secs_f64(seconds(began, now()))
}

#[test]
fn every_trunk_of_the_lab_is_found_with_its_state_within_5_s_of_the_start() {
    let Some(lab) = Lab::up() else { return };
    let mut ami = RawAmi::login(lab.ami_address(), "trunkwarden", lab.secret("trunkwarden"));

    // While Asterisk is still trying: what changes is followed.
    let configuration = for_lab(&lab, DECLARED);
    let mut program = Program::start(&configuration);
    agree(&program, &mut ami, SOON);
    // Until all but the slow ones are settled; silence is `Unregistered` for 32 s.
    let count = |ami: &mut _, word: &str| truth(ami).values().filter(|(state, _, _)| state == word).count();
    eventually(SOON, "Asterisk has tried them all", || {
        (count(&mut ami, "registered") >= 15 && count(&mut ami, "rejected") >= 12).then_some(())
    });
    agree(&program, &mut ami, Duration::from_secs(2));
    assert!(program.terminate().success());

    // A new controller, which knows nothing, and an Asterisk in which nothing happens but refreshes.
    for file in ["trunkwarden.db", "trunkwarden.db-wal", "trunkwarden.db-shm"] {
        let _ = std::fs::remove_file(program.path(file));
    }
    let began = now();
    program.start_again();
    agree(&program, &mut ami, Duration::from_secs(5));
    let took = seconds(began, now());
    eprintln!("MEASURED found all {} trunks {took:.2} s after the program was started", truth(&mut ami).len());
    assert!(took < 5.0, "{took} s");

    // What one trunk shows, against the lab's own configuration of it.
    // Until its first OPTIONS Asterisk says `NonQualified` of a contact that will be qualified.
    let reached = |trunk: &serde_json::Value| trunk["contact"]["status"] == "reachable";
    let trunk = eventually(SOON, "the qualified contact", || program.trunk("pbx1/ok").filter(reached));
    let registrar = lab.registrar_address();
    assert_eq!(trunk["registration"]["client_uri"], format!("sip:ok@{registrar}"));
    assert_eq!(trunk["registration"]["server_uri"], format!("sip:{registrar}"));
    assert_eq!(trunk["endpoints"], serde_json::json!(["ok"]));
    assert!(trunk["contact"]["rtt_ms"].as_f64().is_some_and(|rtt| rtt > 0.0 && rtt < 1000.0), "{trunk}");
    assert!(trunk["registration"]["expires_in_seconds"].as_i64().is_some_and(|left| left <= 60), "{trunk}");
    assert_eq!(program.trunk("pbx1/double").expect("a trunk")["endpoints"].as_array().map(Vec::len), Some(1));

    // No trunk that is registered was ever held; each that is not has one hold, and no more.
    for (id, (_, health, _)) in told(&program) {
        let wanted = usize::from(health == "down");
        assert!(program.holds(&id).len() <= wanted, "{id} is {health}: {:?}", program.holds(&id));
    }
    for rejected in ["pbx1/403-at-once", "pbx1/loop401", "pbx1/prov-wrong-password", "pbx1/no-dns"] {
        eventually(SOON, rejected, || (program.holds(rejected).len() == 1).then_some(()));
    }

    let said = program.run(&["check", "--config", "trunkwarden.toml"]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert!(said.out.contains("connected: Asterisk 22."), "{}", said.out);
    assert!(said.out.contains("alone") && said.out.contains("twin"), "alone and the twins are findings:\n{}", said.out);
    let tables = program.run(&["trunks", "--health", "down"]);
    assert!(tables.code == 0 && tables.out.contains("pbx1/403-at-once") && !tables.out.contains("pbx1/ok "));

    let (rss, most) = program.memory();
    eprintln!("MEASURED memory with {} trunks: {rss} KiB, at most {most} KiB", program.trunks().len());
    assert!(rss < 100_000, "{rss} KiB");
    program.end(&[lab.secret("trunkwarden")]);
}
