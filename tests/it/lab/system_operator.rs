//! What a person does: holds and releases that outlive the process, watching without acting, and a configuration that is
//! read again while everything goes on.

use serde_json::{Value, json};

use super::program::{Dialer, Program, SOON, campaign, configuration, for_lab, pbx, seconds, time};
use super::raw_ami::{RawAmi, header};
use super::relay::Relay;
use super::{Behaviour, Lab, eventually};

const QUICK: &str = "[health]\nrecovery = \"2s\"\nunknown_after = \"6s\"\n";

fn register(lab: &Lab, name: &str) {
    let mut ami = RawAmi::login(lab.ami_address(), "trunkwarden", lab.secret("trunkwarden"));
    let answer = ami.act(&format!("Action: PJSIPRegister\r\nRegistration: {name}\r\n"));
    assert_eq!(header(&answer, "Response"), "Success");
}

fn allowed(program: &Program, id: &str) -> bool {
    program.gate(id)["allow"] == true
}

/// Runs a command that must succeed.
fn done(program: &Program, args: &[&str]) -> String {
    let said = program.run(args);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{args:?}: {}", said.out);
    said.out
}

#[test]
fn an_operators_hold_outlives_the_process_and_outranks_the_policy() {
    let Some(lab) = Lab::bare() else { return };
    lab.write_trunks(&[json!({ "name": "airtel" }), json!({ "name": "tata" })]);
    let dialer = Dialer::start();
    let more = [QUICK, &dialer.configuration(""), &campaign("7", "pbx1/airtel", ""), &campaign("8", "pbx1/tata", "")];
    let mut program = Program::start(&for_lab(&lab, &more.concat()));
    program.wait_for("pbx1/airtel", "stable", true, SOON);
    program.wait_for("pbx1/tata", "stable", true, SOON);

    // -- one trunk, for an hour
    let said = done(&program, &["hold", "pbx1/airtel", "--reason", "SIM swap at the provider", "--for", "1h"]);
    assert!(said.starts_with("held pbx1/airtel until ") && said.contains("SIM swap at the provider"), "{said}");
    let said = program.run(&["gate", "pbx1/airtel"]);
    assert!(said.code == 1 && said.out.contains("SIM swap at the provider"), "{said:?}");
    assert!(allowed(&program, "pbx1/tata"));
    dialer.wait_for("7", &["campaign.pause"], SOON);
    let hold = program.holds("pbx1/airtel").pop().expect("a hold");
    let lasting = seconds(time(&hold["since"]), time(&hold["until"]));
    assert!(
        (lasting - 3600.0).abs() < 1.0 && hold["by"].as_str().is_some_and(|by| by.starts_with("operator:")),
        "{hold:#}"
    );
    assert!(done(&program, &["holds"]).contains("SIM swap at the provider"));

    // -- killed and started: it is still there, nothing is paused twice, and it is well for long enough in vain
    program.kill();
    program.start_again();
    assert!(!allowed(&program, "pbx1/airtel"), "from the first answer on");
    program.wait_for("pbx1/tata", "stable", true, SOON);
    let trunk = program.wait_for("pbx1/airtel", "stable", false, SOON);
    assert_eq!((&trunk["hold"]["id"], &trunk["hold"]["until"]), (&hold["id"], &hold["until"]));

    // -- under it, the policy's own hold comes and goes without opening anything
    lab.set("airtel", Behaviour::ForbiddenAtOnce);
    register(&lab, "airtel");
    program.wait_for("pbx1/airtel", "down", false, SOON);
    lab.set("airtel", Behaviour::Ok);
    register(&lab, "airtel");
    program.wait_for("pbx1/airtel", "stable", false, SOON);
    assert_eq!(dialer.told("7"), ["campaign.pause"]);
    let said = done(&program, &["release", "pbx1/airtel", "--reason", "swapped"]);
    assert!(said.contains("released pbx1/airtel"), "{said}");
    dialer.wait_for("7", &["campaign.pause", "campaign.resume"], SOON);
    assert!(allowed(&program, "pbx1/airtel"));
    let said = program.run(&["release", "pbx1/airtel", "--reason", "again"]);
    assert!(said.code == 1 && said.out.is_empty() && !said.err.is_empty(), "there is nothing to release: {said:?}");

    // -- all at once
    let said = done(&program, &["hold", "--all", "--reason", "maintenance"]);
    assert_eq!(said.lines().count(), 2, "{said}");
    assert!(!allowed(&program, "pbx1/airtel") && !allowed(&program, "pbx1/tata"));
    dialer.wait_for("8", &["campaign.pause"], SOON);
    let said = done(&program, &["release", "pbx1/*", "--reason", "done"]);
    assert_eq!(said.lines().count(), 2, "{said}");
    dialer.wait_for("8", &["campaign.pause", "campaign.resume"], SOON);
    let told = ["campaign.pause", "campaign.resume", "campaign.pause", "campaign.resume"];
    dialer.wait_for("7", &told, SOON);
    assert!(done(&program, &["holds"]).contains("nothing is held"));

    // -- a hold that ends by itself, and one of nothing
    done(&program, &["hold", "pbx1/tata", "--reason", "a moment", "--for", "2s"]);
    assert!(!allowed(&program, "pbx1/tata"));
    eventually(SOON, "its time is over", || allowed(&program, "pbx1/tata").then_some(()));
    let said = program.run(&["hold", "pbx1/nothing", "--reason", "x"]);
    assert!(said.code == 1 && said.err.contains("pbx1/nothing"), "{said:?}");

    // -- a release of the policy's hold is an override with an end
    lab.set("tata", Behaviour::ForbiddenAtOnce);
    register(&lab, "tata");
    program.wait_for("pbx1/tata", "down", false, SOON);
    done(&program, &["release", "pbx1/tata", "--reason", "calls go through anyway", "--for", "3s"]);
    let gate = program.gate("pbx1/tata");
    assert!(gate["allow"] == true && gate["health"] == "down", "{gate}");
    eventually(SOON, "the override ends", || (!allowed(&program, "pbx1/tata")).then_some(()));
    program.end(&[lab.secret("trunkwarden")]);
}

#[test]
fn observing_records_what_would_have_been_held_and_does_nothing() {
    let Some(lab) = Lab::bare() else { return };
    lab.write_trunks(&[json!({ "name": "airtel" })]);
    let dialer = Dialer::start();
    let more = ["[control]\nmode = \"observe\"\n", QUICK, &dialer.configuration(""), &campaign("7", "pbx1/airtel", "")];
    let program = Program::start(&for_lab(&lab, &more.concat()));
    program.wait_for("pbx1/airtel", "stable", true, SOON);
    lab.set("airtel", Behaviour::ForbiddenAtOnce);
    register(&lab, "airtel");
    program.wait_for("pbx1/airtel", "down", true, SOON);
    // What the gate says where it allows follows the store.
    eventually(SOON, "the gate says what it would hold", || {
        let gate = program.gate("pbx1/airtel");
        let reason = gate["reason"].as_str().expect("a reason");
        (reason.contains("observ") && reason.contains("rejected")).then_some(())
    });
    let said = program.run(&["gate", "pbx1/airtel"]);
    assert!(said.code == 0 && said.out.contains("observ"), "{said:?}");
    eventually(SOON, "the hold is recorded", || (program.holds("pbx1/airtel").len() == 1).then_some(()));
    lab.set("airtel", Behaviour::Ok);
    register(&lab, "airtel");
    program.wait_for("pbx1/airtel", "stable", true, SOON);
    // The store follows the board.
    eventually(SOON, "the hold is released", || {
        program.holds("pbx1/airtel")[0]["released_at"].is_string().then_some(())
    });
    assert_eq!(program.words("pbx1/airtel", "hold"), ["held", "released"]);
    assert_eq!(program.items("/api/v1/outbox"), Vec::<Value>::new());

    // From observing to enforcing without a restart, in the middle of a failure.
    lab.set("airtel", Behaviour::ForbiddenAtOnce);
    register(&lab, "airtel");
    program.wait_for("pbx1/airtel", "down", true, SOON);
    program.configure(&for_lab(&lab, &[QUICK, &dialer.configuration(""), &campaign("7", "pbx1/airtel", "")].concat()));
    program.hang_up();
    program.wait_for("pbx1/airtel", "down", false, SOON);
    dialer.wait_for("7", &["campaign.pause"], SOON);
    lab.set("airtel", Behaviour::Ok);
    register(&lab, "airtel");
    dialer.wait_for("7", &["campaign.pause", "campaign.resume"], SOON);
    program.end(&[lab.secret("trunkwarden")]);
}

#[test]
fn a_configuration_read_again_changes_what_it_changes_and_drops_no_connection() {
    let Some(lab) = Lab::bare() else { return };
    lab.write_trunks(&[json!({ "name": "airtel" }), json!({ "name": "tata" })]);
    let (first, second) = (Relay::to(lab.ami_address()), Relay::to(lab.ami_address()));
    let secret = lab.secret("trunkwarden");
    let dialer = Dialer::start();
    let text = |more: &[&str]| configuration(first.address(), "trunkwarden", secret, &more.concat());
    let (crm, seven) = (dialer.configuration(""), campaign("7", "pbx1/airtel", ""));
    let program = Program::start(&text(&[QUICK, &crm, &seven]));
    program.wait_for("pbx1/airtel", "stable", true, SOON);
    program.wait_for("pbx1/tata", "stable", true, SOON);
    let connections = first.accepted();
    assert_eq!(connections, 2, "one for events, one for actions");

    // -- a mistake changes nothing
    program.configure(&text(&["[health]\nrecovery = \"soon\"\n"]));
    program.hang_up();
    program.wait_for_log(&["ERROR", "not taken", "health.recovery"]);

    // -- another policy: two refusals in a row make a failure now
    program.configure(&text(&[
        "[health]\nrecovery = \"1s\"\nunknown_after = \"6s\"\nconfirm_failures = 2\n",
        &crm,
        &seven,
        &campaign("9", "pbx1/tata", ""),
    ]));
    program.hang_up();
    eventually(SOON, "a campaign more", || (program.items("/api/v1/campaigns").len() == 2).then_some(()));
    lab.set("airtel", Behaviour::ForbiddenAtOnce);
    register(&lab, "airtel");
    program.wait_for("pbx1/airtel", "suspect", true, SOON);
    register(&lab, "airtel");
    program.wait_for("pbx1/airtel", "down", false, SOON);
    dialer.wait_for("7", &["campaign.pause"], SOON);
    lab.set("airtel", Behaviour::Ok);
    register(&lab, "airtel");
    dialer.wait_for("7", &["campaign.pause", "campaign.resume"], SOON);
    lab.set("tata", Behaviour::ForbiddenAtOnce);
    register(&lab, "tata");
    register(&lab, "tata");
    dialer.wait_for("9", &["campaign.pause"], SOON);

    // -- a PBX more: its own link, and the first one's stays
    let two = [QUICK, &crm, &seven, &pbx("pbx2", second.address(), "trunkwarden", secret)].concat();
    program.configure(&text(&[&two]));
    program.hang_up();
    program.wait_for("pbx2/airtel", "stable", true, SOON);
    program.wait_for("pbx2/tata", "down", false, SOON);
    assert_eq!((first.accepted(), second.accepted()), (connections, 2));

    // -- and one less: what nobody watches any more is not allowed on, and says why
    program.configure(&text(&[QUICK, &crm, &seven]));
    program.hang_up();
    let trunk = program.wait_for("pbx2/airtel", "unknown", false, SOON);
    assert!(trunk["gate"]["reason"].as_str().is_some_and(|reason| reason.contains("not heard")), "{trunk:#}");
    let pbxs = program.items("/api/v1/pbxs");
    eprintln!(
        "MEASURED the PBX that was taken out shows as {}",
        pbxs.iter().find(|pbx| pbx["id"] == "pbx2").unwrap_or(&Value::Null)
    );
    assert!(allowed(&program, "pbx1/airtel"));
    assert_eq!((first.accepted(), second.accepted()), (connections, 2), "no connection was dropped or made");
    assert_eq!(dialer.told("7").len(), 2);
    program.end(&[secret]);
}

#[test]
fn patience_that_changes_drops_no_connection_either() {
    let Some(lab) = Lab::bare() else { return };
    lab.write_trunks(&[json!({ "name": "airtel" })]);
    let relay = Relay::to(lab.ami_address());
    let text = |more: &str| configuration(relay.address(), "trunkwarden", lab.secret("trunkwarden"), more);
    let program = Program::start(&text("[health]\nrecovery = \"2s\"\nunknown_after = \"6s\"\n"));
    program.wait_for("pbx1/airtel", "stable", true, SOON);
    let connections = relay.accepted();
    for changed in [text("[health]\nrecovery = \"2s\"\n"), text("").replace("reconcile = \"5s\"", "reconcile = \"7s\"")]
    {
        let before = program.log().matches("the configuration was read again").count();
        program.configure(&changed);
        program.hang_up();
        eventually(SOON, "it is read", || {
            (program.log().matches("the configuration was read again").count() > before).then_some(())
        });
        program.wait_for("pbx1/airtel", "stable", true, SOON);
        assert_eq!(relay.accepted(), connections);
    }
    program.end(&[lab.secret("trunkwarden")]);
}
