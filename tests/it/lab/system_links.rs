//! What becomes of the links: Asterisk stops and starts, the AMI user may do less, the secret is wrong, the link is cut, the
//! controller is killed. In the end nothing is left wrongly paused or running, and history tells of each gap.

use std::time::Duration;

use serde_json::{Value, json};

use super::program::{Dialer, Program, SOON, campaign, configuration, for_lab, now, seconds, time};
use super::raw_ami::{RawAmi, header};
use super::relay::Relay;
use super::{Behaviour, Instance, Lab, eventually};

/// A short patience for everything. Asterisk is back within 2 s and has registered within 2 s more.
const QUICK: &str = "[health]\nrecovery = \"2s\"\nunknown_after = \"6s\"\n";

fn register(lab: &Lab, name: &str) {
    let mut ami = RawAmi::login(lab.ami_address(), "trunkwarden", lab.secret("trunkwarden"));
    let answer = ami.act(&format!("Action: PJSIPRegister\r\nRegistration: {name}\r\n"));
    assert_eq!(header(&answer, "Response"), "Success");
}

/// The first entry of a PBX's link with this outcome at or after the `from`th.
fn pbx_entry(history: &[Value], from: usize, word: &str) -> Option<usize> {
    history.iter().skip(from).position(|entry| entry["to"] == word).map(|place| place + from)
}

#[test]
fn an_asterisk_that_goes_and_comes_back_is_followed_and_what_it_missed_is_recorded() {
    let Some(lab) = Lab::bare() else { return };
    lab.write_trunks(&[json!({ "name": "airtel" }), json!({ "name": "tata" })]);
    let dialer = Dialer::start();
    let more = [QUICK, &dialer.configuration("pause_unknown_after = \"1s\"\n"), &campaign("7", "pbx1/airtel", "")];
    let program = Program::start(&for_lab(&lab, &more.concat()));
    program.wait_for("pbx1/airtel", "stable", true, SOON);
    program.wait_for("pbx1/tata", "stable", true, SOON);

    // -- stopped as an operator stops it, and started: shorter than anybody's patience
    lab.stop(Instance::Pbx);
    let pbxs = eventually(SOON, "the link is lost", || {
        let pbxs = program.items("/api/v1/pbxs");
        (pbxs[0]["ami"]["state"] == "lost").then_some(pbxs)
    });
    assert_eq!(pbxs[0]["trunks"], 2);
    lab.start_again(Instance::Pbx);
    eventually(SOON, "the link is there", || {
        (program.words("pbx1/airtel", "pbx").last().map(String::as_str) == Some("connected")).then_some(())
    });
    let trunk = program.wait_for("pbx1/airtel", "stable", true, SOON);
    program.wait_for("pbx1/tata", "stable", true, SOON);
    assert_eq!(trunk["penalty"], 0.0, "{trunk:#}");
    for id in ["pbx1/airtel", "pbx1/tata"] {
        let history = program.history(id, "pbx");
        let told = program.words(id, "pbx");
        let down = pbx_entry(&history, 0, "shut_down").unwrap_or_else(|| panic!("{id}: {told:?}"));
        let lost = pbx_entry(&history, 0, "lost").unwrap_or_else(|| panic!("{id}: {told:?}"));
        let back = pbx_entry(&history, lost, "connected").unwrap_or_else(|| panic!("{id}: {told:?}"));
        assert_eq!(history[down]["detail"]["restart"], false);
        assert!(time(&history[lost]["at"]) < time(&history[back]["at"]), "{history:#?}");
        assert_eq!(program.holds(id), Vec::<Value>::new(), "{:#?}", program.history(id, ""));
    }
    assert_eq!(dialer.told("7"), Vec::<String>::new());

    // -- killed, and away for longer than `unknown_after`
    let before = program.history("pbx1/airtel", "pbx").len();
    let killed_at = now();
    lab.kill(Instance::Pbx);
    let trunk = program.wait_for("pbx1/airtel", "unknown", false, SOON);
    let since = time(&trunk["since"]);
    let waited = seconds(killed_at, since);
    assert!((4.0..7.5).contains(&waited), "unknown {waited} s after the kill");
    dialer.wait_for("7", &["campaign.pause"], SOON);
    lab.start_again(Instance::Pbx);
    let resume = dialer.wait_for("7", &["campaign.pause", "campaign.resume"], SOON);
    let trunk = program.wait_for("pbx1/airtel", "stable", true, SOON);
    assert_eq!(trunk["penalty"], 0.0, "being blind is no loss: {trunk:#}");
    let history = program.history("pbx1/airtel", "pbx");
    let lost = pbx_entry(&history, before, "lost").expect("the link was lost");
    let back = pbx_entry(&history, lost, "connected").expect("and is there");
    let listed_at = time(&history[back]["at"]);
    assert!(seconds(listed_at, resume.at) > 1.9, "resumed {} s after the first list", seconds(listed_at, resume.at));
    let holds = program.holds("pbx1/airtel");
    assert!(holds.len() == 1 && holds[0]["health"] == "unknown", "{holds:#?}");

    // -- what is told of the time in which nobody watched
    let availability = program.get("/api/v1/trunks/pbx1/airtel/availability?since=1h");
    let unknown = availability["unknown_seconds"].as_f64().expect("seconds");
    assert!(unknown >= seconds(killed_at, listed_at) - 1.0, "{availability:#}");
    program.end(&[lab.secret("trunkwarden")]);
    assert_eq!(dialer.told("7").len(), 2);
}

#[test]
fn a_user_who_may_do_less_still_gives_the_states_and_check_says_what_is_missing() {
    let Some(lab) = Lab::bare() else { return };
    lab.write_trunks(&[json!({ "name": "airtel" }), json!({ "name": "tata" })]);
    let checked = |program: &Program| program.run(&["check", "--config", "trunkwarden.toml"]);

    // -- may read the lists, and nothing else: no events
    lab.ami_user("weak", "", "reporting");
    let mut program = Program::start(&configuration(lab.ami_address(), "weak", lab.secret("weak"), QUICK));
    program.wait_for("pbx1/airtel", "stable", true, SOON);
    program.wait_for("pbx1/tata", "stable", true, SOON);
    lab.set("airtel", Behaviour::ForbiddenAtOnce);
    register(&lab, "airtel");
    program.wait_for("pbx1/airtel", "down", false, SOON);
    lab.set("airtel", Behaviour::Ok);
    register(&lab, "airtel");
    program.wait_for("pbx1/airtel", "stable", true, SOON);
    let said = checked(&program);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    for word in ["read = system", "write = system", "write = command", "manager.conf", "manager reload"] {
        assert!(said.out.contains(word), "{word} is not in\n{}", said.out);
    }
    assert!(said.out.contains("PROBLEM") && !said.out.contains("nothing can be watched"), "{}", said.out);

    // -- rights taken away while it is connected count from the next login; then it says so, and trunks become unknown
    lab.ami_user("weak", "system", "call");
    program.terminate();
    program.start_again();
    program.wait_for_log(&["Permission denied"]);
    program.wait_for("pbx1/airtel", "unknown", false, SOON);
    let said = checked(&program);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    for word in ["PROBLEM", "PJSIPShowRegistrationsOutbound", "Permission denied", "write = system,command"] {
        assert!(said.out.contains(word), "{word} is not in\n{}", said.out);
    }

    // -- given again: a new connection has them
    lab.ami_user("weak", "system,call,security", "system,reporting,command");
    program.terminate();
    program.start_again();
    program.wait_for("pbx1/airtel", "stable", true, SOON);
    let said = checked(&program);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);
    assert!(!said.out.contains("warning") && !said.out.contains("PROBLEM"), "{}", said.out);
    program.end(&[lab.secret("weak")]);
}

#[test]
fn a_wrong_secret_is_said_once_and_tried_slowly() {
    let Some(lab) = Lab::bare() else { return };
    lab.write_trunks(&[json!({ "name": "airtel" })]);
    let relay = Relay::to(lab.ami_address());
    let wrong = "not-the-secret-of-trunkwarden";
    let program = Program::start(&configuration(relay.address(), "trunkwarden", wrong, QUICK));
    program.wait_for_log(&["refused"]);
    let refused_at = now();
    eventually(SOON, "the PBX is shown as refusing", || {
        (program.items("/api/v1/pbxs").first()?["ami"]["state"] == "refused").then_some(())
    });
    let said = program.run(&["check", "--config", "trunkwarden.toml"]);
    assert_eq!(said.code, 1, "{}{}", said.out, said.err);
    for line in ["[trunkwarden]", "secret = ", "read = system", "write = system,command", "manager reload"] {
        assert!(said.out.contains(line), "{line} is not in\n{}", said.out);
    }
    let gate = program.gate("pbx1/airtel");
    assert_eq!((&gate["allow"], &gate["health"]), (&json!(false), &json!("unknown")), "{gate}");

    // Whoever is refused waits for 10 s and more, lest it be banned; and does not say it again.
    let by_now = relay.accepted();
    eventually(SOON, "the next attempt", || (relay.accepted() > by_now).then_some(()));
    let waited = seconds(refused_at, now());
    assert!((8.0..20.0).contains(&waited), "tried again {waited} s after the refusal");
    let log = program.log();
    let told = log.lines().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect::<Vec<_>>();
    assert_eq!(told.len(), 1, "{told:#?}");
    program.configure(&configuration(relay.address(), "trunkwarden", lab.secret("trunkwarden"), QUICK));
    program.hang_up();
    program.wait_for("pbx1/airtel", "stable", true, SOON);
    let told = program.words("pbx1/airtel", "pbx");
    assert!(told.contains(&"refused".to_owned()), "what happened before a trunk was known is in its history: {told:?}");
    let seen = lab.addresses(Instance::Pbx).log.clone();
    let refusals = std::fs::read_to_string(seen).expect("Asterisk's log");
    assert!(refusals.contains("failed to authenticate"), "Asterisk has seen the wrong secret");
    program.end(&[lab.secret("trunkwarden"), wrong]);
}

#[test]
fn a_reload_that_adds_and_removes_a_registration_is_followed() {
    let Some(lab) = Lab::bare() else { return };
    lab.write_trunks(&[json!({ "name": "airtel" }), json!({ "name": "tata" })]);
    let dialer = Dialer::start();
    let more = [QUICK, &dialer.configuration(""), &campaign("7", "pbx1/tata", ""), &campaign("9", "pbx1/vodafone", "")];
    let program = Program::start(&for_lab(&lab, &more.concat()));
    program.wait_for("pbx1/airtel", "stable", true, SOON);
    program.wait_for("pbx1/tata", "stable", true, SOON);
    // A campaign on a trunk that is not there is held, and `check` says so.
    let gate = program.gate("pbx1/vodafone");
    assert_eq!(gate["allow"], false, "{gate}");
    let said = program.run(&["check", "--config", "trunkwarden.toml"]);
    assert!(said.code == 1 && said.out.contains("pbx1/vodafone is not known"), "{}", said.out);

    let removed_at = now();
    lab.drop_trunks(&["tata"]);
    // Its un-REGISTER may be heard first; that it is gone is the last word.
    eventually(SOON, "it is gone, and said to be", || {
        let trunk = program.wait_for("pbx1/tata", "down", false, SOON);
        trunk["gate"]["reason"].as_str().is_some_and(|reason| reason.contains("no longer configured")).then_some(())
    });
    eprintln!("MEASURED a removed registration was down {:.2} s after the reload began", seconds(removed_at, now()));
    dialer.wait_for("7", &["campaign.pause"], SOON);
    assert!(program.words("pbx1/airtel", "pbx").contains(&"reloaded".to_owned()));
    assert_eq!(program.holds("pbx1/airtel"), Vec::<Value>::new());

    let added_at = now();
    lab.write_trunks(&[json!({ "name": "vodafone" })]);
    program.wait_for("pbx1/vodafone", "stable", true, SOON);
    eprintln!("MEASURED an added registration was stable {:.2} s after the reload began", seconds(added_at, now()));
    let said = program.run(&["gate", "--pbx", "pbx1", "--channel", "PJSIP/100@vodafone"]);
    assert_eq!(said.code, 0, "{}{}", said.out, said.err);

    // Back again: the same trunk, with its history.
    lab.write_trunks(&[json!({ "name": "tata" })]);
    dialer.wait_for("7", &["campaign.pause", "campaign.resume"], SOON);
    program.wait_for("pbx1/tata", "stable", true, SOON);
    assert_eq!(program.holds("pbx1/tata").len(), 1);
    program.end(&[lab.secret("trunkwarden")]);
}

#[test]
fn a_controller_killed_during_a_hold_goes_on_with_it() {
    let Some(lab) = Lab::bare() else { return };
    lab.write_trunks(&[json!({ "name": "airtel" }), json!({ "name": "tata" })]);
    let dialer = Dialer::start();
    let more = [QUICK, &dialer.configuration(""), &campaign("7", "pbx1/airtel", ""), &campaign("8", "pbx1/tata", "")];
    let mut program = Program::start(&for_lab(&lab, &more.concat()));
    program.wait_for("pbx1/airtel", "stable", true, SOON);
    program.wait_for("pbx1/tata", "stable", true, SOON);
    lab.set("airtel", Behaviour::ForbiddenAtOnce);
    register(&lab, "airtel");
    dialer.wait_for("7", &["campaign.pause"], SOON);
    let hold = program.holds("pbx1/airtel").pop().expect("a hold");

    // -- killed while it is held; it is still refused when it comes back
    program.kill();
    let killed_at = now();
    assert_eq!(program.run(&["gate", "pbx1/airtel"]).code, 2, "nobody answers");
    program.start_again();
    let gate = program.gate("pbx1/airtel");
    assert_eq!(gate["allow"], false, "from the first answer on: {gate}");
    program.wait_for("pbx1/airtel", "down", false, SOON);
    program.wait_for("pbx1/tata", "stable", true, SOON);
    let after = program.holds("pbx1/airtel");
    assert_eq!((after.len(), &after[0]["id"], &after[0]["since"]), (1, &hold["id"], &hold["since"]));
    for id in ["pbx1/airtel", "pbx1/tata"] {
        let history = program.history(id, "pbx");
        let gap = pbx_entry(&history, 0, "controller_down").expect("the gap is recorded");
        let back = pbx_entry(&history, gap, "connected").expect("and its end");
        let began = time(&history[gap]["at"]);
        assert!(seconds(began, killed_at) > -0.1 && seconds(began, killed_at) < 6.0, "{history:#?}");
        assert!(time(&history[back]["at"]) > killed_at);
    }
    assert_eq!(program.holds("pbx1/tata"), Vec::<Value>::new());

    // -- killed again, and well when it comes back: one resume, after the recovery
    program.kill();
    lab.set("airtel", Behaviour::Ok);
    register(&lab, "airtel");
    eventually(SOON, "a registration that nobody watches", || lab.account("airtel").registered.then_some(()));
    program.start_again();
    let started_at = now();
    let resume = dialer.wait_for("7", &["campaign.pause", "campaign.resume"], SOON);
    assert!(seconds(started_at, resume.at) > 1.5, "not before it has been seen well for `recovery`");
    assert_eq!(resume.data["hold"], hold["id"]);
    program.wait_for("pbx1/airtel", "stable", true, SOON);

    // -- killed right after a refusal that the gate has seen, before anybody could be sure of the pause
    lab.set("airtel", Behaviour::ForbiddenAtOnce);
    register(&lab, "airtel");
    eventually(SOON, "the gate closes", || (program.gate("pbx1/airtel")["allow"] == false).then_some(()));
    program.kill();
    program.start_again();
    let told = ["campaign.pause", "campaign.resume", "campaign.pause"];
    dialer.wait_for("7", &told, SOON);
    lab.set("airtel", Behaviour::Ok);
    register(&lab, "airtel");
    dialer.wait_for("7", &[&told[..], &["campaign.resume"]].concat(), SOON);
    program.wait_for("pbx1/airtel", "stable", true, SOON);
    assert_eq!(program.holds("pbx1/airtel").len(), 2);
    assert_eq!(dialer.told("8"), Vec::<String>::new());
    program.end(&[lab.secret("trunkwarden")]);
    assert_eq!(dialer.told("7").len(), 4);
}

#[test]
fn a_link_that_is_cut_for_long_holds_and_says_since_when() {
    let Some(lab) = Lab::bare() else { return };
    lab.write_trunks(&[json!({ "name": "airtel" })]);
    let relay = Relay::to(lab.ami_address());
    let dialer = Dialer::start();
    let more = [
        "[health]\nrecovery = \"2s\"\nunknown_after = \"4s\"\n",
        &dialer.configuration("pause_unknown_after = \"8s\"\n"),
        &campaign("7", "pbx1/airtel", ""),
    ];
    let secret = lab.secret("trunkwarden");
    let program = Program::start(&configuration(relay.address(), "trunkwarden", secret, &more.concat()));
    program.wait_for("pbx1/airtel", "stable", true, SOON);
    let gates = |program: &Program| program.words("pbx1/airtel", "gate").len();

    // -- ended, and there again at once: an entry, and nothing else
    let before = (gates(&program), program.words("pbx1/airtel", "health").len());
    relay.hang_up();
    eventually(SOON, "the gap", || program.words("pbx1/airtel", "pbx").contains(&"lost".to_owned()).then_some(()));
    eventually(SOON, "its end", || {
        (program.words("pbx1/airtel", "pbx").last().map(String::as_str) == Some("connected")).then_some(())
    });
    assert_eq!((gates(&program), program.words("pbx1/airtel", "health").len()), before);
    assert_eq!(program.gate("pbx1/airtel")["allow"], true);

    // -- cut: nothing comes, and nobody says so
    relay.cut();
    let cut_at = now();
    let trunk = program.wait_for("pbx1/airtel", "unknown", false, SOON);
    let waited = seconds(cut_at, now());
    eprintln!(
        "MEASURED unknown {waited:.2} s after the cut, where unknown_after is 4 s and a third of it is between two pings"
    );
    assert!((2.5..6.5).contains(&waited), "{waited}");
    let gate = program.gate("pbx1/airtel");
    assert_eq!(gate["health"], "unknown");
    let reason = gate["reason"].as_str().expect("a reason").to_owned();
    let since = reason.split("since ").nth(1).and_then(|rest| rest.get(..20)).unwrap_or_else(|| panic!("{reason}"));
    let off = seconds(time(&Value::from(since)), cut_at);
    assert!((-1.0..3.0).contains(&off), "{reason}, and it was cut at {cut_at}");
    let hold = trunk["hold"].clone();
    assert_eq!(hold["health"], "unknown", "{trunk:#}");
    assert_eq!(dialer.told("7"), Vec::<String>::new(), "a pause is dear");
    let pause = dialer.wait_for("7", &["campaign.pause"], SOON);
    assert!(pause.data["reason"].as_str().is_some_and(|reason| reason.contains("since")), "{}", pause.data);
    let silent = seconds(cut_at, pause.at);
    assert!((6.0..10.0).contains(&silent), "paused {silent} s after the cut");

    // -- mended
    relay.mend();
    let resume = dialer.wait_for("7", &["campaign.pause", "campaign.resume"], Duration::from_secs(40));
    assert_eq!(resume.data["hold"], hold["id"]);
    let trunk = program.wait_for("pbx1/airtel", "stable", true, SOON);
    assert_eq!(trunk["penalty"], 0.0);
    let gaps = program.history("pbx1/airtel", "pbx").iter().filter(|entry| entry["to"] == "lost").count();
    assert!(gaps >= 1, "{:#?}", program.history("pbx1/airtel", "pbx"));
    program.end(&[secret]);
    assert_eq!(dialer.told("7").len(), 2);
}
