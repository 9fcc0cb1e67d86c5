//! Why a registration fails, found out by the running program: from the HEP feed, from Asterisk's own history, after a crash,
//! and what is done about it. And that no digest is left anywhere.

use std::{net::UdpSocket, sync::Arc, time::Duration};

use serde_json::{Value, json};
use trunkwarden::{
    app::{Controller, Parameters, evidence::Patience},
    clock::{Clock, SystemClock},
    config::Config,
};

use super::program::{Dialer, Program, SOON, campaign, for_lab, now, runtime, seconds, time};
use super::raw_ami::{RawAmi, header};
use super::{Behaviour, Instance, Lab, eventually};

/// A free port for the feed; the kernel does not give it out again so soon.
fn free_port() -> u16 {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    socket.local_addr().expect("its address").port()
}

fn feed(port: u16) -> String {
    format!("[hep]\nlisten = \"127.0.0.1:{port}\"\npassword = \"hep-knows\"\n")
}

/// The latest diagnosis, once there is one that fits.
fn diagnosed(program: &Program, trunk: &str, within: Duration, fits: impl Fn(&Value) -> bool) -> Value {
    let path = format!("/api/v1/trunks/{trunk}/diagnosis");
    let mut last = None;
    let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(within, "a diagnosis", || {
            last = program.try_get(&path).filter(|(status, _)| *status == 200).map(|(_, body)| body);
            last.clone().filter(|body| fits(body))
        })
    }));
    found.unwrap_or_else(|_| panic!("{trunk}: no such diagnosis within {within:?}; last {last:#?}\n{}", program.log()))
}

fn of(cause: &str) -> impl Fn(&Value) -> bool {
    move |body| body["cause"] == cause
}

/// Every digest that went over the wire, as Asterisk's own log has them.
fn digests(log: &str) -> Vec<String> {
    let mut found: Vec<String> = (log.split("response=\"").skip(1))
        .filter_map(|rest| rest.split('"').next())
        .filter(|digest| digest.len() >= 32)
        .map(ToOwned::to_owned)
        .collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn the_feed_explains_a_refusal_at_once_and_no_digest_is_left_anywhere() {
    let Some(lab) = Lab::bare() else { return };
    lab.write_trunks(&[json!({ "name": "airtel" }), json!({ "name": "tata" })]);
    let port = free_port();
    lab.hep(port, 7, "hep-knows");
    let sip_log = lab.logger();
    let dialer = Dialer::start();
    let told = Dialer::start();
    let people = told.configuration("").replace("[[dialer]]\nid = \"crm\"\nkind = \"webhook\"\n", "[[notify]]\n");
    let people = format!("{people}types = [\"trunk.diagnosis\"]\n");
    let more = [feed(port), dialer.configuration(""), campaign("7", "pbx1/airtel", ""), people].concat();
    let program = Program::start(&for_lab(&lab, &more));
    program.wait_for("pbx1/airtel", "stable", true, SOON);
    let none = program.try_get("/api/v1/trunks/pbx1/airtel/diagnosis").expect("an answer");
    assert_eq!((none.0, &none.1["code"]), (404, &json!("no_diagnosis")));

    // -- refused for good: `password` is right and was accepted before, so it is the account
    lab.set("airtel", Behaviour::ForbiddenAfterCredentials);
    let mut ami = RawAmi::login(lab.ami_address(), "trunkwarden", lab.secret("trunkwarden"));
    let answer = ami.act("Action: PJSIPRegister\r\nRegistration: airtel\r\n");
    assert_eq!(header(&answer, "Response"), "Success");
    assert_eq!(ami.registry("airtel", 1), ["Rejected"]);
    let refused = now();
    let diagnosis = diagnosed(&program, "pbx1/airtel", SOON, of("account_forbidden"));
    let entry = program.history("pbx1/airtel", "diagnosis").remove(0);
    let took = seconds(refused, time(&entry["first_at"]));
    eprintln!("MEASURED with HEP: diagnosis decided {:.0} ms after the event was read elsewhere", took * 1000.0);
    assert!(took < 2.0, "{took} s: {entry:#}");
    assert_eq!(diagnosis["sources"][0], "hep");
    assert!(diagnosis["confidence"].as_f64().expect("a number") >= 0.7, "the same secret was accepted: {diagnosis:#}");
    let lines: Vec<&str> = (diagnosis["evidence"].as_array().expect("evidence").iter())
        .filter_map(|evidence| evidence["line"].as_str())
        .collect();
    assert!(lines.iter().any(|line| line.starts_with("403 Forbidden")), "{lines:?}");
    assert!(lines.iter().any(|line| line.contains("username=\"airtel\"")), "{lines:?}");

    // -- it is in the hold, the gate, the pause or the notice
    let hold = eventually(SOON, "the hold says why", || {
        program.holds("pbx1/airtel").pop().filter(|hold| hold["diagnosis"]["cause"] == "account_forbidden")
    });
    assert!(hold["reason"].as_str().expect("a reason").contains("account_forbidden"), "{hold:#}");
    assert!(program.gate("pbx1/airtel")["reason"].as_str().expect("a reason").contains("account_forbidden"));
    assert_eq!(program.trunk("pbx1/airtel").expect("it")["diagnosis"]["fault"], "provider");
    let said =
        eventually(SOON, "people are told", || told.messages().into_iter().find(|m| m.kind == "trunk.diagnosis"));
    assert_eq!(said.data["diagnosis"]["cause"], "account_forbidden");
    dialer.wait_for("7", &["campaign.pause"], SOON);

    // -- the same again and again is one entry, and is told once
    let failures = || program.trunk("pbx1/airtel").expect("it")["registration"]["failures"].as_u64().expect("a count");
    for _ in 0..2 {
        let before = failures();
        ami.act("Action: PJSIPRegister\r\nRegistration: airtel\r\n");
        eventually(SOON, "it fails again", || (failures() > before).then_some(()));
    }
    assert_eq!(program.words("pbx1/airtel", "diagnosis"), ["account_forbidden"]);
    assert_eq!(told.messages().iter().filter(|m| m.kind == "trunk.diagnosis").count(), 1);

    // -- the command
    let shown = program.run(&["diagnose", "pbx1/airtel"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    for words in ["account_forbidden", "403 Forbidden", "REGISTER", "FIX"] {
        assert!(shown.out.contains(words), "{words} is not in\n{}", shown.out);
    }
    assert!(shown.out.lines().all(|line| line.chars().count() <= 100), "{}", shown.out);
    let refused = program.run(&["diagnose", "pbx1/tata", "--attempt"]);
    assert_eq!(refused.code, 1, "a registered trunk is not interrupted: {refused:?}");
    let well = program.run(&["diagnose", "pbx1/tata"]);
    assert_eq!(well.code, 0, "{well:?}");

    // -- and it passes
    lab.set("airtel", Behaviour::Ok);
    ami.act("Action: PJSIPRegister\r\nRegistration: airtel\r\n");
    eventually(SOON, "it is past", || (program.words("pbx1/airtel", "diagnosis").len() == 2).then_some(()));
    assert_eq!(program.words("pbx1/airtel", "diagnosis"), ["account_forbidden", "cleared"]);
    let availability = program.get("/api/v1/trunks/pbx1/airtel/availability?since=1h");
    // Before it was first registered nothing was wrong, and nobody's fault.
    let of_fault = |fault: &str| availability["by_fault"][fault].as_f64().unwrap_or_default();
    let outage = availability["longest_outage_seconds"].as_f64().expect("seconds");
    assert!((of_fault("provider") - outage).abs() < 0.01 && outage > 0.5, "{availability:#}");

    let sip = String::from_utf8_lossy(&std::fs::read(&sip_log).expect("Asterisk's log")).into_owned();
    let mut secrets = digests(&sip);
    assert!(secrets.len() >= 4, "the log has digests: {}", secrets.len());
    secrets.extend(["pw-airtel", "pw-tata", "hep-knows"].map(ToOwned::to_owned));
    let secrets: Vec<&str> = secrets.iter().map(String::as_str).collect();
    for message in told.messages().into_iter().chain(dialer.messages()) {
        let body = message.data.to_string();
        assert!(secrets.iter().all(|secret| !body.contains(secret)), "{body}");
    }
    program.end(&secrets);
}

#[test]
fn without_a_feed_asterisks_history_is_read_and_switched_off_again() {
    let Some(lab) = Lab::bare() else { return };
    lab.write_trunks(&[json!({ "name": "airtel" }), json!({ "name": "tata" })]);
    lab.cli(Instance::Pbx, "module load res_pjsip_history.so");
    let program = Program::start(&for_lab(&lab, ""));
    program.wait_for("pbx1/airtel", "stable", true, SOON);
    lab.set("airtel", Behaviour::Loop401);
    let mut ami = RawAmi::login(lab.ami_address(), "trunkwarden", lab.secret("trunkwarden"));
    ami.act("Action: PJSIPRegister\r\nRegistration: airtel\r\n");
    // The first attempt was not recorded; of the next ones, the first that was seen whole decides.
    let mut events = Vec::new();
    let diagnosis = loop {
        assert_eq!(ami.registry("airtel", 1), ["Rejected"]);
        events.push(now());
        let path = "/api/v1/trunks/pbx1/airtel/diagnosis";
        let known =
            || program.try_get(path).filter(|(status, body)| *status == 200 && body["cause"] == "wrong_password");
        let deadline = now();
        let found = loop {
            match known() {
                Some((_, body)) => break Some(body),
                None if seconds(deadline, now()) > 4.0 => break None,
                None => std::thread::sleep(Duration::from_millis(50)),
            }
        };
        if let Some(body) = found {
            break body;
        }
        assert!(events.len() < 8, "{} attempts and no cause\n{}", events.len(), program.log());
    };
    assert_eq!(diagnosis["sources"][0], "history", "{diagnosis:#}");
    let stored = program.history("pbx1/airtel", "diagnosis").pop().expect("an entry");
    let took = seconds(*events.last().expect("an event"), time(&stored["first_at"]));
    eprintln!(
        "MEASURED with AMI history: diagnosis decided {took:.2} s after the event of its attempt, attempt {}",
        events.len()
    );
    assert!(took < 5.0, "{took} s");
    // -- off and cleared
    program.wait_for_log(&["SIP history is off and cleared"]);
    let left = lab.cli(Instance::Pbx, "pjsip show history entry 0");
    assert!(left.contains("does not exist"), "{left}");
    let recorded = program.history("pbx1/airtel", "pbx");
    let words: Vec<&str> = (recorded.iter())
        .filter(|entry| entry["detail"]["subject"] == "sip_history")
        .filter_map(|entry| entry["to"].as_str())
        .collect();
    assert_eq!(words.last(), Some(&"off"), "{recorded:#?}");
    program.end(&["pw-airtel"]);
}

#[test]
fn a_history_left_on_by_a_crash_is_switched_off_at_the_next_start() {
    let Some(lab) = Lab::bare() else { return };
    lab.write_trunks(&[json!({ "name": "airtel" })]);
    lab.cli(Instance::Pbx, "module load res_pjsip_history.so");
    lab.set("airtel", Behaviour::Loop401);
    let mut program = Program::start(&for_lab(&lab, ""));
    let mut ami = RawAmi::login(lab.ami_address(), "trunkwarden", lab.secret("trunkwarden"));
    ami.act("Action: PJSIPRegister\r\nRegistration: airtel\r\n");
    program.wait_for_log(&["SIP history is on"]);
    program.kill();
    eventually(SOON, "it is recorded on and on", || {
        let first = lab.cli(Instance::Pbx, "pjsip show history entry 0");
        first.contains("History Entry").then_some(())
    });
    program.start_again();
    program.wait_for_log(&["left on by an earlier run, is off and cleared"]);
    // -- nothing is recorded any more, unless it is wanted again; then that is said
    let log = program.log_of_this_run();
    if !log.contains("SIP history is on") {
        let left = lab.cli(Instance::Pbx, "pjsip show history entry 0");
        assert!(left.contains("does not exist"), "{left}");
    }
    program.end(&["pw-airtel"]);
}

#[test]
fn a_history_that_a_person_keeps_is_read_and_left_alone() {
    let Some(lab) = Lab::bare() else { return };
    lab.write_trunks(&[json!({ "name": "airtel" })]);
    lab.cli(Instance::Pbx, "module load res_pjsip_history.so");
    lab.cli(Instance::Pbx, "pjsip set history on");
    lab.set("airtel", Behaviour::Loop401);
    let mut ami = RawAmi::login(lab.ami_address(), "trunkwarden", lab.secret("trunkwarden"));
    ami.act("Action: PJSIPRegister\r\nRegistration: airtel\r\n");
    assert_eq!(ami.registry("airtel", 1), ["Rejected"]);
    let program = Program::start(&for_lab(&lab, ""));
    let diagnosis = diagnosed(&program, "pbx1/airtel", Duration::from_secs(45), of("wrong_password"));
    assert_eq!(diagnosis["sources"][0], "history");
    program.end(&["pw-airtel"]);
    let kept = lab.cli(Instance::Pbx, "pjsip show history entry 0");
    assert!(kept.contains("History Entry"), "{kept}");
}

#[test]
fn what_asterisk_gave_up_is_tried_once_more_where_that_may_help_and_never_after_a_refusal() {
    let Some(lab) = Lab::bare() else { return };
    lab.set("granted-nothing", Behaviour::ExpiresZero);
    lab.set("refused", Behaviour::ForbiddenAtOnce);
    lab.write_trunks(&[json!({ "name": "granted-nothing" }), json!({ "name": "refused", "quick": false })]);
    let port = free_port();
    lab.hep(port, 7, "hep-knows");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("trunkwarden.toml");
    let text = for_lab(&lab, &feed(port)).replace("[pbx.ami]", "[pbx.evidence]\nheal = \"once\"\n[pbx.ami]");
    let text = text.replace("sqlite:trunkwarden.db", &format!("sqlite:{}", folder.path().join("t.db").display()));
    std::fs::write(&file, text).expect("a configuration");
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let config = Config::load(Some(&file), std::iter::empty()).expect("a good configuration");
    let mut parameters = Parameters::of(&config, &clock).expect("good parameters");
    parameters.patience = Patience { heal_first: Duration::from_secs(2), ..Patience::default() };
    let controller = runtime().block_on(Controller::start(parameters, clock)).expect("a controller");
    let mut ami = RawAmi::login(lab.ami_address(), "trunkwarden", lab.secret("trunkwarden"));
    for name in ["granted-nothing", "refused"] {
        ami.act(&format!("Action: PJSIPRegister\r\nRegistration: {name}\r\n"));
    }
    let trunk = |name: &str| format!("pbx1/{name}").parse().expect("a trunk");
    let cause = |name: &str| {
        let board = controller.board.read().expect("the board");
        board.trunk(&trunk(name)).and_then(|record| record.diagnosis.as_ref()).map(|known| known.brief.cause.as_str())
    };
    eventually(SOON, "both are diagnosed", || {
        (cause("granted-nothing") == Some("binding_refused") && cause("refused") == Some("address_forbidden"))
            .then_some(())
    });
    lab.set("granted-nothing", Behaviour::Ok);
    let asked = lab.registrar_count("refused");
    eventually(Duration::from_secs(60), "it is registered again", || {
        let board = controller.board.read().expect("the board");
        let registered = |registration: &trunkwarden::health::state::Registration| {
            registration.state == Some(trunkwarden::observation::RegistrationState::Registered)
        };
        let record = board.trunk(&trunk("granted-nothing"))?;
        record.health.registrations.values().any(registered).then_some(())
    });
    assert_eq!(lab.registrar_count("refused"), asked, "nothing was sent to who refused us");
    let query = trunkwarden::store::HistoryQuery {
        trunk: trunk("granted-nothing"),
        since: None,
        until: None,
        kinds: vec![trunkwarden::decision::EntryKind::Diagnosis],
        order: trunkwarden::store::Order::OldestFirst,
        limit: 10,
        after: None,
    };
    let page = runtime().block_on(controller.store.history(&query)).expect("a page");
    let words: Vec<&str> = page.items.iter().map(|entry| entry.to.as_str()).collect();
    assert_eq!(words, ["binding_refused", "healed", "cleared"]);
    runtime().block_on(controller.stop());
}

#[test]
fn an_attempt_that_is_asked_for_shows_why_asterisk_gave_up() {
    let Some(lab) = Lab::bare() else { return };
    lab.set("airtel", Behaviour::ForbiddenAfterCredentials);
    lab.set("other", Behaviour::Silent);
    lab.write_trunks(&[json!({ "name": "airtel", "quick": false }), json!({ "name": "other" })]);
    lab.cli(Instance::Pbx, "module load res_pjsip_history.so");
    let mut ami = RawAmi::login(lab.ami_address(), "trunkwarden", lab.secret("trunkwarden"));
    ami.act("Action: PJSIPRegister\r\nRegistration: airtel\r\n");
    assert_eq!(ami.registry("airtel", 1), ["Rejected"]);
    let program = Program::start(&for_lab(&lab, ""));
    program.wait_for("pbx1/airtel", "down", false, SOON);
    let shown = program.run(&["diagnose", "pbx1/airtel", "--attempt"]);
    assert_eq!(shown.code, 0, "{shown:?}");
    for words in ["account_forbidden", "403 Forbidden", "by Asterisk's SIP history"] {
        assert!(shown.out.contains(words), "{words} is not in\n{}\n{}", shown.out, program.log());
    }
    program.end(&["pw-airtel"]);
}
