//! A trunk fails and comes back on a real Asterisk: the gate, the hold, and what the dialer is told.

use serde_json::json;
use trunkwarden::clock::Timestamp;

use super::program::{Dialer, Program, SOON, campaign, for_lab, now, seconds, time};
use super::raw_ami::{RawAmi, header};
use super::{Behaviour, Lab, eventually};

/// Two losses within seconds suppress: 1000 after the first has decayed little when the second adds 1000.
const QUICK: &str = "[health]\nrecovery = \"3s\"\n[health.flap]\npenalty = 1000\nsuppress = 1300\nreuse = 750\nhalf_life = \"10s\"\nmax_suppress = \"5m\"\n";

struct Registrations(RawAmi<std::net::TcpStream>);

impl Registrations {
    fn of(lab: &Lab) -> Self {
        Self(RawAmi::login(lab.ami_address(), "trunkwarden", lab.secret("trunkwarden")))
    }

    /// Has it registered anew, and gives when the next event with this status came.
    fn register(&mut self, name: &str, until: &str) -> Timestamp {
        let answer = self.0.act(&format!("Action: PJSIPRegister\r\nRegistration: {name}\r\n"));
        assert_eq!(header(&answer, "Response"), "Success");
        loop {
            if self.0.registry(name, 1) == [until] {
                return now();
            }
        }
    }
}

#[test]
fn a_trunk_that_is_refused_is_held_and_let_go_once_it_has_been_well_for_long_enough() {
    let Some(lab) = Lab::bare() else { return };
    lab.write_trunks(&[json!({ "name": "airtel" }), json!({ "name": "tata" })]);
    let dialer = Dialer::start();
    let more = [
        QUICK,
        &dialer.configuration(""),
        &campaign("7", "pbx1/airtel", "fallback = [\"pbx1/tata\"]"),
        &campaign("8", "pbx1/tata", ""),
    ];
    let program = Program::start(&for_lab(&lab, &more.concat()));
    program.wait_for("pbx1/airtel", "stable", true, SOON);
    program.wait_for("pbx1/tata", "stable", true, SOON);
    let allowed = program.run(&["gate", "pbx1/airtel"]);
    assert_eq!((allowed.code, allowed.out.starts_with("allow")), (0, true), "{allowed:?}");
    let mut registrations = Registrations::of(&lab);

    // -- refused: as quickly as it can be seen from outside
    lab.set("airtel", Behaviour::ForbiddenAtOnce);
    dialer.fail(1);
    let began = now();
    let seen_closed = std::thread::scope(|scope| {
        // Without a pause between two questions, so not with `eventually`.
        let closed = scope.spawn(|| {
            while program.gate("pbx1/airtel")["allow"] == true {
                assert!(seconds(began, now()) < SOON.as_secs_f64(), "the gate stays open");
            }
            now()
        });
        let refused_at = registrations.register("airtel", "Rejected");
        seconds(refused_at, closed.join().expect("the poller")) * 1000.0
    });
    eprintln!("MEASURED the gate was seen closed {seen_closed:.2} ms after another AMI session had read the event");
    let held = program.run(&["gate", "pbx1/airtel"]);
    assert_eq!((held.code, held.out.starts_with("hold pbx1/airtel (down): ")), (1, true), "{held:?}");
    let channel = program.get("/api/v1/gate?pbx=pbx1&channel=PJSIP/100@airtel");
    assert_eq!((&channel["allow"], &channel["trunk"]), (&json!(false), &json!("pbx1/airtel")));
    assert_eq!(
        program.get("/api/v1/gate?trunk=pbx1/tata&campaign=7")["allow"],
        false,
        "campaign 7 is held with airtel"
    );
    assert_eq!(program.get("/api/v1/gate?trunk=pbx1/tata&campaign=8")["allow"], true);

    let pause = dialer.wait_for("7", &["campaign.pause"], SOON);
    let hold = program.holds("pbx1/airtel").pop().expect("a hold");
    assert_eq!((&hold["by"], &hold["health"], &hold["released_at"]), (&json!("policy"), &json!("down"), &json!(null)));
    assert_eq!(hold["campaigns"], json!(["crm/7"]));
    assert_eq!(pause.data["hold"], hold["id"]);
    assert_eq!((&pause.data["trunks"], &pause.data["fallback"]), (&json!(["pbx1/airtel"]), &json!(["pbx1/tata"])));
    assert!(pause.data["reason"].as_str().is_some_and(|reason| reason.contains("rejected")), "{}", pause.data);
    eventually(SOON, "the pause's receipt", || {
        let campaigns = program.items("/api/v1/campaigns");
        (campaigns.iter().any(|one| one["id"] == "7" && one["paused_by_us"] == true)).then_some(())
    });
    let again = dialer.messages().into_iter().find(|message| message.id == pause.id).expect("the pause");
    assert_eq!(again.attempts, 2, "the first answer was a 503");

    // -- well again: one resume, not before it has been well for `recovery`
    lab.set("airtel", Behaviour::Ok);
    let registered_at = registrations.register("airtel", "Registered");
    program.wait_for("pbx1/airtel", "unstable", false, SOON);
    assert_eq!(program.run(&["gate", "pbx1/airtel"]).code, 1);
    let resume = dialer.wait_for("7", &["campaign.pause", "campaign.resume"], SOON);
    let waited = seconds(registered_at, resume.at);
    assert!((2.9..4.5).contains(&waited), "resumed {waited} s after the registration");
    assert_eq!(resume.data["hold"], hold["id"]);
    program.wait_for("pbx1/airtel", "stable", true, SOON);

    // -- again, while the penalty of the first loss is still there: recovery alone does not let it go
    lab.set("airtel", Behaviour::ForbiddenAfterCredentials);
    registrations.register("airtel", "Rejected");
    let told = ["campaign.pause", "campaign.resume", "campaign.pause"];
    dialer.wait_for("7", &told, SOON);
    lab.set("airtel", Behaviour::Ok);
    let registered_at = registrations.register("airtel", "Registered");
    let trunk = program.wait_for("pbx1/airtel", "unstable", false, SOON);
    assert_eq!(trunk["suppressed"], true, "{trunk:#}");
    let penalty = trunk["penalty"].as_f64().expect("a penalty");
    assert!((1300.0..2000.0).contains(&penalty), "{penalty}");
    let decays = 10.0 * (penalty / 750.0).log2();
    let resume = dialer.wait_for("7", &[&told[..], &["campaign.resume"]].concat(), SOON);
    let waited = seconds(registered_at, resume.at);
    assert!(
        waited > 4.5 && (decays - 1.0..decays + 2.0).contains(&waited),
        "{waited} s where the penalty takes {decays} s"
    );
    let trunk = program.wait_for("pbx1/airtel", "stable", true, SOON);
    assert!(trunk["penalty"].as_f64().is_some_and(|penalty| penalty <= 750.0), "{trunk:#}");

    // -- what is left of it
    let holds = program.holds("pbx1/airtel");
    assert_eq!(holds.len(), 2);
    assert!(holds.iter().all(|hold| hold["released_by"] == "policy"), "{holds:#?}");
    let healths = program.words("pbx1/airtel", "health");
    let wanted = ["stable", "down", "unstable", "stable", "down", "unstable", "stable"];
    assert_eq!(healths.iter().rev().take(7).rev().collect::<Vec<_>>(), wanted);
    let registration = program.history("pbx1/airtel", "registration");
    for pair in registration.windows(2) {
        assert!(time(&pair[0]["at"]) <= time(&pair[1]["at"]) && pair[1]["from"] == pair[0]["to"], "{pair:#?}");
    }
    assert_eq!(program.words("pbx1/airtel", "hold"), ["held", "released", "held", "released"]);
    assert_eq!(program.holds("pbx1/tata"), Vec::<serde_json::Value>::new());
    eventually(SOON, "the receipts", || {
        let outbox = program.items("/api/v1/outbox");
        (outbox.len() == 4 && outbox.iter().all(|item| item["state"] == "delivered")).then_some(())
    });
    for command in [
        &["history", "pbx1/airtel"][..],
        &["availability", "pbx1/airtel"],
        &["holds", "--all"],
        &["campaigns"],
        &["outbox"],
    ] {
        let said = program.run(command);
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{command:?}: {}", said.out);
    }
    let availability = program.get("/api/v1/trunks/pbx1/airtel/availability?since=1h");
    assert_eq!(availability["outages"], 2, "{availability:#}");
    assert_eq!(dialer.told("8"), Vec::<String>::new());
    program.end(&[lab.secret("trunkwarden")]);
    assert_eq!(dialer.told("7").len(), 4, "and nothing was sent on the way out");
}
