//! The histories of DESIGN section 3 as campaigns live them, and the rules of holding and resuming.
//!
//! A simulated run: inputs at their seconds, a tick a second, and a dialer that takes every message at once unless the
//! test says otherwise.

use std::{collections::BTreeSet, time::Duration};

use super::*;
use crate::{
    clock::Timestamp,
    health::{Health, HealthPolicy},
    ids::{CampaignId, CampaignKey, DialerId, EndpointName, PbxId, RegistrationName, TrunkId},
    observation::{Fact, Observation, RegistrationState, Source},
};
use RegistrationState::{Registered, Rejected, Unregistered};

fn noon(seconds: f64) -> Timestamp {
    let noon = Timestamp::from_second(1_800_000_000).unwrap();
    noon.checked_add(jiff::SignedDuration::from_secs_f64(seconds)).unwrap()
}

fn second(at: Timestamp) -> f64 {
    at.duration_since(noon(0.0)).as_secs_f64()
}

fn trunk(name: &str) -> TrunkId {
    TrunkId::new(&pbx(), name).unwrap()
}

fn pbx() -> PbxId {
    PbxId::try_from("pbx1").unwrap()
}

fn key(id: &str) -> CampaignKey {
    CampaignKey { dialer: DialerId::try_from("crm").unwrap(), id: CampaignId::try_from(id).unwrap() }
}

fn campaign(id: &str, trunks: &[&str]) -> CampaignSpec {
    CampaignSpec {
        key: key(id),
        name: None,
        trunks: trunks.iter().map(|name| trunk(name)).collect(),
        hold_when: HoldWhen::Any,
        fallback: vec![],
        resume_window: None,
        resume_within: None,
    }
}

fn policy(campaigns: Vec<CampaignSpec>) -> ControlPolicy {
    let patience = DialerPolicy { pause_after: Duration::ZERO, pause_unknown_after: Duration::from_secs(60) };
    ControlPolicy {
        dialers: [(DialerId::try_from("crm").unwrap(), patience)].into(),
        campaigns: campaigns.into_iter().map(|spec| (spec.key.clone(), spec)).collect(),
        notify: vec![NotifyTarget {
            name: "people".to_owned(),
            types: BTreeSet::from([MessageType::Incident, MessageType::TrunkHealth]),
        }],
        ..ControlPolicy::default()
    }
}

fn event(at: f64, name: &str, state: RegistrationState) -> Input {
    let registration = RegistrationName::try_from(name).unwrap();
    let fact = Fact::Registration { registration, state, source: Source::Event };
    Input::Seen(Observation { trunk: trunk(name), at: noon(at), fact })
}

fn in_list(at: f64, name: &str, state: RegistrationState) -> Input {
    let registration = RegistrationName::try_from(name).unwrap();
    let fact = Fact::Registration { registration, state, source: Source::List };
    Input::Seen(Observation { trunk: trunk(name), at: noon(at), fact })
}

fn listed(at: f64, names: &[&str]) -> Input {
    let trunks = (names.iter())
        .map(|name| ListedTrunk {
            id: trunk(name),
            endpoints: vec![EndpointName::try_from(*name).unwrap()],
            registrations: vec![],
        })
        .collect();
    Input::Pbx { pbx: pbx(), at: noon(at), fact: PbxFact::Listed { trunks } }
}

fn lost(at: f64) -> Input {
    let fact = PbxFact::Lost { last_heard: noon(at), error: "end of stream".to_owned() };
    Input::Pbx { pbx: pbx(), at: noon(at), fact }
}

fn told(at: f64, id: &str, state: CampaignState) -> Input {
    let report = CampaignReport { key: key(id), name: None, trunks: None, state: Some(state) };
    Input::Campaign { at: noon(at), report }
}

fn refused(at: f64, name: &str, calls: u64) -> Input {
    Input::Refused { at: noon(at), calls: [(trunk(name), calls)].into() }
}

fn act(at: f64, name: &str, act: Act) -> Input {
    Input::Operator { at: noon(at), name: "ada".to_owned(), trunks: vec![trunk(name)], act }
}

/// What a run shows: `(second, what)`.
type Shown = Vec<(f64, String)>;

struct Run {
    board: Board,
    shown: Shown,
    /// What the dialer answers to a pause.
    was_running: Option<bool>,
    /// Whether the dialer answers at all.
    answers: bool,
    unanswered: Vec<Message>,
    sent: Vec<Message>,
    records: Vec<Record>,
    events: Vec<Event>,
    inputs: Vec<Input>,
    second: f64,
}

impl Run {
    /// A controller that found `names` registered at -60 and is on its way since.
    fn new(policy: ControlPolicy, names: &[&str]) -> Self {
        let mut run = Self {
            board: Board::new(7),
            shown: vec![],
            was_running: Some(true),
            answers: true,
            unanswered: vec![],
            sent: vec![],
            records: vec![],
            events: vec![],
            inputs: vec![],
            second: -61.0,
        };
        run.step(&Input::Started { at: noon(-61.0), unseen_since: noon(-61.0) });
        run.step(&Input::Configured { at: noon(-61.0), policy: Box::new(policy) });
        for name in names {
            run.step(&in_list(-60.0, name, Registered));
        }
        run.step(&listed(-60.0, names));
        run.shown.clear();
        run.second = 0.0;
        run
    }

    fn step(&mut self, input: &Input) {
        self.inputs.push(input.clone());
        let out = self.board.step(input);
        self.records.extend(out.records.iter().cloned());
        self.events.extend(out.events.iter().cloned());
        self.sent.extend(out.messages.iter().cloned());
        for event in &out.events {
            let at = second(event.at);
            let show = match event.kind.as_str() {
                "hold.begun" => format!("hold {}", event.data["trunk"].as_str().unwrap()),
                "hold.ended" => format!("release {}", event.data["trunk"].as_str().unwrap()),
                "campaign.pause" => format!("pause {}", event.data["campaign"].as_str().unwrap()),
                "campaign.resume" => format!("resume {}", event.data["campaign"].as_str().unwrap()),
                "campaign.left" => format!("left {}", event.data["campaign"].as_str().unwrap()),
                "campaign.overridden" => format!("overridden {}", event.data["campaign"].as_str().unwrap()),
                "incident" if event.data["ended_at"].is_null() => "incident".to_owned(),
                "incident" => "incident over".to_owned(),
                "gate" => format!("gate {}", if event.data["allow"] == true { "allow" } else { "hold" }),
                "trunk.health" => continue,
                other => panic!("an event nobody knows: {other}"),
            };
            self.shown.push((at, show));
        }
        for message in out.messages {
            if self.answers && message.campaign.is_some() {
                self.receipt(&message)
            } else {
                self.unanswered.push(message)
            }
        }
    }

    fn receipt(&mut self, message: &Message) {
        let was_running = self.was_running.filter(|_| message.kind == MessageType::CampaignPause);
        let outcome = ReceiptOutcome::Delivered { was_running };
        let at = noon(self.second);
        self.step(&Input::Receipt { at, message: message.id.clone(), outcome });
    }

    /// Runs the inputs at their times, and a tick each second, until `end`.
    fn run(mut self, inputs: &[Input], end: f64) -> Self {
        let mut inputs = inputs.iter().peekable();
        while self.second <= end {
            while let Some(input) = inputs.next_if(|input| input.at() <= noon(self.second)) {
                self.step(input);
            }
            self.step(&Input::Tick { at: noon(self.second) });
            self.second += 1.0;
        }
        assert_eq!(inputs.next(), None, "every input was within the run");
        self
    }

    fn shown(&self) -> Vec<(f64, &str)> {
        self.shown.iter().map(|(at, what)| (*at, what.as_str())).collect()
    }

    fn without_gate(&self) -> Vec<(f64, &str)> {
        self.shown().into_iter().filter(|(_, what)| !what.starts_with("gate")).collect()
    }

    /// What the history has of the gate and of holds: `(second, outcome, calls refused, of them without a hold)`.
    fn counts(&self, kind: EntryKind) -> Vec<(f64, &str, Option<u64>, Option<u64>)> {
        let of = |record: &&Record| record.kind == kind && record.at >= noon(0.0);
        let count = |record: &Record, what: &str| record.detail.get(what).and_then(serde_json::Value::as_u64);
        let shown = |record| (count(record, "refused_calls"), count(record, "refused_without_hold"));
        (self.records.iter().filter(of))
            .map(|record| (second(record.at), record.to.as_str(), shown(record).0, shown(record).1))
            .collect()
    }

    fn released(&self, name: &str) -> Option<f64> {
        self.board.trunk(&trunk(name)).unwrap().gate.released.map(second)
    }

    fn status(&self, name: &str) -> Health {
        self.board.trunk(&trunk(name)).unwrap().health.status
    }
}

fn one() -> Run {
    Run::new(policy(vec![campaign("7", &["airtel"])]), &["airtel"])
}

#[test]
fn history_1_one_hold_one_pause_one_resume() {
    let run = one().run(&[event(0.0, "airtel", Rejected), event(60.0, "airtel", Registered)], 200.0);
    assert_eq!(
        run.shown(),
        [
            (0.0, "hold pbx1/airtel"),
            (0.0, "gate hold"),
            (0.0, "pause 7"),
            (90.0, "release pbx1/airtel"),
            (90.0, "gate allow"),
            (90.0, "resume 7"),
        ]
    );
}

#[test]
fn history_2_a_flapping_trunk_is_held_until_its_penalty_has_decayed() {
    let flapping = [0.0, 60.0, 120.0].map(|at| [event(at, "airtel", Rejected), event(at + 10.0, "airtel", Registered)]);
    let run = one().run(&flapping.concat(), 800.0);
    let resumes: Vec<f64> = run.shown().iter().filter(|(_, what)| *what == "resume 7").map(|(at, _)| *at).collect();
    assert_eq!(resumes, [40.0, 100.0, 663.0]);
}

#[test]
fn history_3_and_4_a_hold_is_one_however_often_it_fails() {
    let mut hour: Vec<_> = (0..=720).map(|n| event(f64::from(n) * 5.0, "airtel", Rejected)).collect();
    hour.push(event(3605.0, "airtel", Registered));
    let expected = |released| {
        vec![(0.0, "hold pbx1/airtel"), (0.0, "pause 7"), (released, "release pbx1/airtel"), (released, "resume 7")]
    };
    assert_eq!(one().run(&hour, 3700.0).without_gate(), expected(3635.0));
    let again = [(0.0, Rejected), (10.0, Registered), (30.0, Rejected), (40.0, Registered)];
    let again: Vec<_> = again.into_iter().map(|(at, state)| event(at, "airtel", state)).collect();
    assert_eq!(one().run(&again, 200.0).without_gate(), expected(70.0));
}

#[test]
fn history_5_a_re_registration_closes_the_gate_and_pauses_nothing() {
    let run = one().run(&[event(0.0, "airtel", Unregistered), event(7.0, "airtel", Registered)], 100.0);
    assert_eq!(run.shown(), [(0.0, "gate hold"), (7.0, "gate allow")]);
    let run = one().run(&[event(0.0, "airtel", Unregistered), event(20.0, "airtel", Registered)], 100.0);
    assert_eq!(
        run.without_gate(),
        [(15.0, "hold pbx1/airtel"), (15.0, "pause 7"), (50.0, "release pbx1/airtel"), (50.0, "resume 7")]
    );
}

#[test]
fn history_6_a_lost_link_holds_at_15_and_pauses_at_60() {
    let back = |at: f64, state| [in_list(at, "airtel", state), listed(at, &["airtel"])];
    let short = [vec![lost(0.0)], back(10.0, Registered).to_vec()].concat();
    assert_eq!(one().run(&short, 100.0).shown(), []);
    let long = [vec![lost(0.0)], back(100.0, Registered).to_vec()].concat();
    assert_eq!(
        one().run(&long, 200.0).without_gate(),
        [(15.0, "hold pbx1/airtel"), (60.0, "pause 7"), (130.0, "release pbx1/airtel"), (130.0, "resume 7")]
    );
    let medium = [vec![lost(0.0)], back(40.0, Registered).to_vec()].concat();
    assert_eq!(
        one().run(&medium, 200.0).without_gate(),
        [(15.0, "hold pbx1/airtel"), (70.0, "release pbx1/airtel")],
        "seen again and registered, it recovers: nothing failed that would be worth a pause"
    );
    let failed = [vec![lost(0.0)], back(40.0, Rejected).to_vec()].concat();
    assert_eq!(one().run(&failed, 50.0).without_gate(), [(15.0, "hold pbx1/airtel"), (40.0, "pause 7")]);
    let run = one().run(&[lost(0.0)], 20.0);
    let said = &run.board.trunk(&trunk("airtel")).unwrap().gate.reason;
    assert!(said.contains("unknown") && said.contains(&format!("{:.0}", noon(0.0))), "it says since when: {said}");
}

#[test]
fn history_7_a_restart_neither_pauses_nor_forgets() {
    let again = |board: &Board| {
        // What a restart goes through: the board as stored, without anything that is reckoned anew.
        let stored = serde_json::to_string(board).unwrap();
        let mut run = one();
        run.board = serde_json::from_str(&stored).unwrap();
        run.second = 5.0;
        run
    };
    let up = [
        Input::Started { at: noon(5.0), unseen_since: noon(0.0) },
        Input::Configured { at: noon(5.0), policy: Box::new(policy(vec![campaign("7", &["airtel"])])) },
    ];
    let seen = [in_list(6.0, "airtel", Registered), listed(6.0, &["airtel"])];
    let restart = [up.to_vec(), seen.to_vec()].concat();
    let stable = one().run(&[], 0.0);
    assert_eq!(again(&stable.board).run(&restart, 100.0).shown(), [(5.0, "gate hold"), (6.0, "gate allow")]);
    let mut down = one();
    down.second = -20.0;
    let down = down.run(&[event(-20.0, "airtel", Rejected)], 0.0);
    assert_eq!(
        again(&down.board).run(&restart, 100.0).without_gate(),
        [(36.0, "release pbx1/airtel"), (36.0, "resume 7")],
        "the pause of the last run is resumed by this one, once"
    );
}

#[test]
fn what_was_not_running_is_not_resumed() {
    let mut run = one();
    run.was_running = Some(false);
    let run = run.run(&[event(0.0, "airtel", Rejected), event(60.0, "airtel", Registered)], 200.0);
    assert_eq!(run.without_gate(), [(0.0, "hold pbx1/airtel"), (0.0, "pause 7"), (90.0, "release pbx1/airtel")]);
    assert_eq!(run.board.campaign(&key("7")).unwrap().claim, None);
    let stopped =
        [told(-1.0, "7", CampaignState::Stopped), event(0.0, "airtel", Rejected), event(60.0, "airtel", Registered)];
    assert_eq!(
        one().run(&stopped, 200.0).without_gate(),
        [(0.0, "hold pbx1/airtel"), (90.0, "release pbx1/airtel")],
        "a campaign that is known not to run is not even paused"
    );
}

#[test]
fn what_a_person_took_over_is_theirs() {
    let fails = |then: Input| vec![event(0.0, "airtel", Rejected), then, event(60.0, "airtel", Registered)];
    let restarted = one().run(&fails(told(20.0, "7", CampaignState::Running)), 200.0);
    assert_eq!(
        restarted.without_gate(),
        [(0.0, "hold pbx1/airtel"), (0.0, "pause 7"), (20.0, "overridden 7"), (90.0, "release pbx1/airtel")]
    );
    let stopped = one().run(&fails(told(20.0, "7", CampaignState::Stopped)), 200.0);
    assert_eq!(stopped.without_gate()[2..], [(20.0, "overridden 7"), (90.0, "release pbx1/airtel")]);
    let echoed = one().run(&fails(told(20.0, "7", CampaignState::Paused)), 200.0);
    assert_eq!(echoed.without_gate()[2..], [(90.0, "release pbx1/airtel"), (90.0, "resume 7")], "an echo is no act");
}

#[test]
fn a_campaign_that_starts_during_a_hold_is_paused() {
    let run = one().run(
        &[
            told(-1.0, "7", CampaignState::Stopped),
            event(0.0, "airtel", Rejected),
            told(30.0, "7", CampaignState::Running),
        ],
        40.0,
    );
    assert_eq!(run.without_gate(), [(0.0, "hold pbx1/airtel"), (30.0, "pause 7")]);
}

#[test]
fn a_resume_waits_for_the_receipt_of_its_pause() {
    let mut run = one();
    run.answers = false;
    let mut run = run.run(&[event(0.0, "airtel", Rejected), event(60.0, "airtel", Registered)], 120.0);
    assert_eq!(run.without_gate().last(), Some(&(90.0, "release pbx1/airtel")), "no resume yet");
    run.answers = true;
    let pause = run.unanswered.iter().find(|message| message.kind == MessageType::CampaignPause).unwrap().clone();
    run.receipt(&pause);
    assert_eq!(run.without_gate().last(), Some(&(121.0, "resume 7")));
    let again = Input::Receipt {
        at: noon(122.0),
        message: pause.id.clone(),
        outcome: ReceiptOutcome::Delivered { was_running: Some(true) },
    };
    run.step(&again);
    assert_eq!(run.without_gate().iter().filter(|(_, what)| *what == "resume 7").count(), 1);
}

#[test]
fn a_pause_that_cannot_be_delivered_is_not_tried_for_ever_and_never_resumed() {
    let mut run = one();
    run.answers = false;
    let mut run = run.run(&[event(0.0, "airtel", Rejected)], 5.0);
    let pause = run.unanswered.iter().find(|message| message.campaign.is_some()).unwrap().id.clone();
    let gone = ReceiptOutcome::Abandoned { error: "410 Gone".to_owned() };
    run.step(&Input::Receipt { at: noon(6.0), message: pause, outcome: gone });
    let run = run.run(&[event(60.0, "airtel", Registered)], 200.0);
    assert_eq!(run.without_gate(), [(0.0, "hold pbx1/airtel"), (0.0, "pause 7"), (90.0, "release pbx1/airtel")]);
}

#[test]
fn a_pause_that_could_not_be_delivered_is_tried_again_with_a_new_configuration() {
    let mut run = one();
    run.answers = false;
    let mut run = run.run(&[event(0.0, "airtel", Rejected)], 5.0);
    let pause = run.unanswered.iter().find(|message| message.campaign.is_some()).unwrap().id.clone();
    let gone = ReceiptOutcome::Abandoned { error: "410 Gone".to_owned() };
    run.step(&Input::Receipt { at: noon(6.0), message: pause, outcome: gone });
    let again = policy(vec![campaign("7", &["airtel"])]);
    let run = run.run(&[Input::Configured { at: noon(10.0), policy: Box::new(again) }], 20.0);
    assert_eq!(run.without_gate(), [(0.0, "hold pbx1/airtel"), (0.0, "pause 7"), (10.0, "pause 7")]);
}

#[test]
fn a_resume_outside_its_window_waits_and_one_too_late_is_left_to_a_person() {
    let mut spec = campaign("7", &["airtel"]);
    spec.resume_within = Some(Duration::from_secs(80));
    let late = [event(0.0, "airtel", Rejected), event(60.0, "airtel", Registered)];
    let run = Run::new(policy(vec![spec.clone()]), &["airtel"]).run(&late, 200.0);
    assert_eq!(run.without_gate()[2..], [(90.0, "release pbx1/airtel"), (90.0, "left 7")]);
    let mut again = run;
    again.was_running = None;
    let again = again.run(&[event(300.0, "airtel", Rejected), event(310.0, "airtel", Registered)], 400.0);
    assert_eq!(
        again.without_gate()[4..],
        [(300.0, "hold pbx1/airtel"), (300.0, "pause 7"), (340.0, "release pbx1/airtel")],
        "what was left to a person is resumed by a person"
    );
}

#[test]
fn any_or_all_of_a_campaigns_trunks() {
    let mut all = campaign("7", &["airtel", "tata"]);
    all.hold_when = HoldWhen::All;
    let any = campaign("8", &["airtel", "tata"]);
    let run = Run::new(policy(vec![all, any]), &["airtel", "tata"]);
    let run = run
        .run(&[event(0.0, "airtel", Rejected), event(50.0, "tata", Rejected), event(60.0, "tata", Registered)], 120.0);
    assert_eq!(
        run.without_gate(),
        [
            (0.0, "hold pbx1/airtel"),
            (0.0, "pause 8"),
            (50.0, "hold pbx1/tata"),
            (50.0, "pause 7"),
            (90.0, "release pbx1/tata"),
            (90.0, "resume 7"),
        ]
    );
}

#[test]
fn a_campaign_on_a_trunk_nobody_knows_is_held() {
    let run = Run::new(policy(vec![campaign("7", &["airtell"])]), &["airtel"]);
    let run = run.run(&[], 30.0);
    assert_eq!(run.without_gate(), [(0.0, "hold pbx1/airtell"), (0.0, "pause 7")], "never listed since -61");
    let record = run.board.trunk(&trunk("airtell")).unwrap();
    assert_eq!((record.health.status, record.gate.allow), (Health::Unknown, false));
    assert!(record.gate.reason.contains("not in the PBX's lists"), "{}", record.gate.reason);
    assert!(run.board.campaign(&key("7")).unwrap().claim.is_some());
}

#[test]
fn an_operators_hold_outranks_everything_and_ends_when_they_say() {
    let hold = |lasting: Option<u64>| Act::Hold {
        reason: "maintenance".to_owned(),
        lasting: lasting.map(Duration::from_secs),
    };
    let release = Act::Release { reason: "done".to_owned(), lasting: None };
    let run = one().run(&[act(0.0, "airtel", hold(None)), act(500.0, "airtel", release.clone())], 600.0);
    assert_eq!(
        run.shown(),
        [
            (0.0, "hold pbx1/airtel"),
            (0.0, "gate hold"),
            (0.0, "pause 7"),
            (500.0, "release pbx1/airtel"),
            (500.0, "gate allow"),
            (500.0, "resume 7"),
        ]
    );
    let run = one().run(&[act(0.0, "airtel", hold(Some(60)))], 100.0);
    assert_eq!(run.without_gate()[2..], [(60.0, "release pbx1/airtel"), (60.0, "resume 7")]);
    let both = [
        act(0.0, "airtel", hold(None)),
        event(10.0, "airtel", Rejected),
        event(20.0, "airtel", Registered),
        act(30.0, "airtel", release),
    ];
    let run = one().run(&both, 100.0);
    assert_eq!(
        run.without_gate()[2..],
        [(10.0, "hold pbx1/airtel"), (30.0, "release pbx1/airtel"), (50.0, "release pbx1/airtel"), (50.0, "resume 7")],
        "the policy's own hold goes on"
    );
}

#[test]
fn a_release_overrides_the_policy_for_a_while_and_shows_it() {
    let release = Act::Release { reason: "I know better".to_owned(), lasting: Some(Duration::from_secs(100)) };
    let run = one().run(&[event(0.0, "airtel", Rejected), act(10.0, "airtel", release.clone())], 50.0);
    let gate = &run.board.trunk(&trunk("airtel")).unwrap().gate;
    assert!(gate.allow && gate.reason.contains("ada") && gate.reason.contains("I know better"), "{}", gate.reason);
    assert_eq!(gate.until, Some(noon(110.0)));
    let run = run.run(&[], 120.0);
    assert_eq!(
        run.without_gate(),
        [
            (0.0, "hold pbx1/airtel"),
            (0.0, "pause 7"),
            (10.0, "release pbx1/airtel"),
            (10.0, "resume 7"),
            (110.0, "hold pbx1/airtel"),
            (110.0, "pause 7"),
        ]
    );
    let run = one().run(
        &[
            event(0.0, "airtel", Rejected),
            act(10.0, "airtel", release),
            event(20.0, "airtel", Registered),
            event(60.0, "airtel", Rejected),
        ],
        70.0,
    );
    assert_eq!(
        run.without_gate()[4..],
        [(60.0, "hold pbx1/airtel"), (60.0, "pause 7")],
        "stable at 50 ended the override"
    );
}

#[test]
fn observing_holds_nothing_and_says_so() {
    let observing = ControlPolicy { mode: Mode::Observe, ..policy(vec![campaign("7", &["airtel"])]) };
    let run = Run::new(observing, &["airtel"]).run(&[event(0.0, "airtel", Rejected)], 10.0);
    assert_eq!(run.shown(), [(0.0, "hold pbx1/airtel")], "what would have been held is recorded");
    let record = run.board.trunk(&trunk("airtel")).unwrap();
    assert!(record.gate.allow && record.gate.reason.starts_with("observing only, would hold: down"));
    assert!(record.policy_hold.as_ref().unwrap().observed_only);
    assert!(run.unanswered.iter().all(|message| message.campaign.is_none()), "nothing is sent to a dialer");
}

#[test]
fn observing_lets_go_what_enforcing_had_paused() {
    let observing = ControlPolicy { mode: Mode::Observe, ..policy(vec![campaign("7", &["airtel"])]) };
    let configured = Input::Configured { at: noon(10.0), policy: Box::new(observing) };
    let run = one().run(&[event(0.0, "airtel", Rejected), configured], 20.0);
    assert_eq!(run.without_gate(), [(0.0, "hold pbx1/airtel"), (0.0, "pause 7"), (10.0, "resume 7")]);
}

#[test]
fn a_mass_failure_is_one_incident_and_its_campaigns_come_back_one_by_one() {
    let names = ["a", "b", "c", "d"];
    let campaigns = names.map(|name| campaign(name, &[name])).to_vec();
    let fail: Vec<_> = names.iter().zip([0.0, 10.0, 20.0, 30.0]).map(|(name, at)| event(at, name, Rejected)).collect();
    let back: Vec<_> = names.iter().map(|name| event(60.0, name, Registered)).collect();
    let run = Run::new(policy(campaigns), &names).run(&[fail, back].concat(), 200.0);
    let of = |what: &str| -> Vec<f64> {
        run.shown().iter().filter(|(_, shown)| shown.starts_with(what)).map(|(at, _)| *at).collect()
    };
    assert_eq!(of("hold"), [0.0, 10.0, 20.0, 30.0], "holds as ever");
    assert_eq!(of("incident"), [20.0, 90.0], "one incident, begun by the third, over with the last");
    assert_eq!(of("resume"), [90.0, 95.0, 100.0, 105.0]);
    let notices = run.unanswered.iter().filter(|message| message.kind == MessageType::Incident).count();
    assert_eq!(notices, 2);
    let after = run.unanswered.iter().filter(|message| message.kind == MessageType::TrunkHealth).count();
    assert!(after < 12, "the fourth trunk's failure is part of the incident: {after}");
    assert_eq!(run.board.incidents().count(), 0, "forgotten once nobody waits for it");
}

#[test]
fn one_trunk_that_is_dead_for_good_does_not_keep_an_incident_open_for_ever() {
    let names = ["a", "b", "c"];
    let fail: Vec<_> = names.iter().map(|name| event(0.0, name, Rejected)).collect();
    let back = vec![event(60.0, "a", Registered), event(60.0, "b", Registered)];
    let later = vec![event(700.0, "a", Rejected)];
    let run = Run::new(policy(vec![]), &names).run(&[fail, back, later].concat(), 720.0);
    let incidents: Vec<_> = run.shown().into_iter().filter(|(_, what)| what.starts_with("incident")).collect();
    assert_eq!(incidents, [(0.0, "incident"), (600.0, "incident over")]);
    let told = |message: &&Message| message.kind == MessageType::TrunkHealth && message.at >= noon(700.0);
    assert_eq!(run.unanswered.iter().filter(told).count(), 1, "people hear of single trunks again");
}

#[test]
fn what_is_found_dead_at_first_sight_is_no_incident() {
    let mut run = Run::new(policy(vec![]), &[]);
    for name in ["a", "b", "c"] {
        run.step(&in_list(0.0, name, Rejected));
    }
    run.step(&listed(0.0, &["a", "b", "c"]));
    let run = run.run(&[], 60.0);
    assert_eq!(
        run.without_gate().iter().filter(|(_, what)| what.starts_with("incident")).count(),
        0,
        "{:?}",
        run.shown()
    );
    assert_eq!(run.without_gate().len(), 3, "held they are");
}

#[test]
fn what_is_long_gone_and_named_by_nobody_is_forgotten() {
    let week = 7.0 * 24.0 * 3600.0;
    let gone = |run: &mut Run, at: f64| {
        let registration = RegistrationName::try_from("tata").unwrap();
        let fact = Fact::RegistrationRemoved { registration };
        run.step(&Input::Seen(Observation { trunk: trunk("tata"), at: noon(at), fact }));
        run.step(&listed(at, &["airtel"]));
    };
    let mut run = Run::new(policy(vec![]), &["airtel", "tata"]);
    gone(&mut run, 0.0);
    run.step(&Input::Tick { at: noon(week - 1.0) });
    assert!(run.board.trunk(&trunk("tata")).is_some_and(|record| record.policy_hold.is_some()));
    let out = run.board.step(&Input::Tick { at: noon(week) });
    assert_eq!(out.trunks.get(&trunk("tata")), Some(&None));
    assert!(out.holds.iter().all(|hold| !hold.is_active()) && out.holds.len() == 1, "its hold ends with it");
    assert!(run.board.trunk(&trunk("tata")).is_none() && run.board.trunk(&trunk("airtel")).is_some());

    let mut named = Run::new(policy(vec![campaign("7", &["tata"])]), &["airtel", "tata"]);
    gone(&mut named, 0.0);
    named.step(&Input::Tick { at: noon(2.0 * week) });
    assert!(named.board.trunk(&trunk("tata")).is_some(), "a campaign dials on it, so it is held for it");
}

#[test]
fn a_replay_gives_the_same_board_and_the_same_ids() {
    let flapping = [0.0, 60.0, 120.0].map(|at| [event(at, "airtel", Rejected), event(at + 10.0, "airtel", Registered)]);
    let run = one().run(&flapping.concat(), 800.0);
    let mut replayed = Board::new(7);
    for input in &run.inputs {
        let journaled: Input = serde_json::from_str(&serde_json::to_string(input).unwrap()).unwrap();
        replayed.step(&journaled);
    }
    assert_eq!(replayed, run.board);
    assert_eq!(run.status("airtel"), Health::Stable);
}

#[test]
fn a_tick_that_changes_nothing_is_not_journaled() {
    let mut run = one();
    assert_eq!(run.board.step(&Input::Tick { at: noon(5.0) }), Outcome::default());
    run.step(&event(10.0, "airtel", Rejected));
    run.step(&event(20.0, "airtel", Registered));
    assert!(run.board.step(&Input::Tick { at: noon(51.0) }).input.is_some(), "a recovery ended");
}

#[test]
fn the_health_policy_of_a_trunk_is_its_own() {
    let mut policy = policy(vec![]);
    policy.trunk_health.insert(trunk("airtel"), HealthPolicy { confirm_failures: 2, ..HealthPolicy::default() });
    let run =
        Run::new(policy, &["airtel", "tata"]).run(&[event(0.0, "airtel", Rejected), event(0.0, "tata", Rejected)], 5.0);
    assert_eq!((run.status("airtel"), run.status("tata")), (Health::Suspect, Health::Down));
}

/// A run whose dialer has not answered yet.
fn unanswered() -> Run {
    let mut run = one();
    run.answers = false;
    run
}

fn message(run: &Run, kind: MessageType) -> Message {
    run.unanswered.iter().rfind(|message| message.kind == kind).unwrap().clone()
}

#[test]
fn what_was_stopped_before_its_pause_arrived_is_not_resumed() {
    let mut run = unanswered();
    run.was_running = None;
    let mut run = run.run(&[event(0.0, "airtel", Rejected), told(10.0, "7", CampaignState::Stopped)], 20.0);
    run.answers = true;
    run.receipt(&message(&run, MessageType::CampaignPause));
    let run = run.run(&[event(60.0, "airtel", Registered)], 200.0);
    assert!(!run.shown().iter().any(|(_, what)| *what == "resume 7"), "{:?}", run.without_gate());
}

#[test]
fn a_resume_that_was_not_sent_yet_is_withdrawn_when_the_campaign_is_stopped() {
    let mut run = one();
    run.second = 0.0;
    let mut run = run.run(&[event(0.0, "airtel", Rejected)], 10.0);
    run.answers = false;
    let mut run = run.run(&[event(60.0, "airtel", Registered)], 100.0);
    let resume = message(&run, MessageType::CampaignResume);
    let out = run.board.step(&told(101.0, "7", CampaignState::Stopped));
    assert!(out.settled.iter().any(|settled| settled.message == resume.id && settled.error.is_some()), "{out:?}");
}

#[test]
fn a_dialers_word_that_it_runs_again_may_come_before_the_resumes_receipt() {
    let mut patient = policy(vec![campaign("7", &["airtel"])]);
    patient.dialers.values_mut().for_each(|dialer| dialer.pause_after = Duration::from_secs(5));
    let mut run = Run::new(patient, &["airtel"]).run(&[event(0.0, "airtel", Rejected)], 10.0);
    run.answers = false;
    let run = run.run(
        &[event(60.0, "airtel", Registered), event(91.0, "airtel", Rejected), told(92.0, "7", CampaignState::Running)],
        100.0,
    );
    assert_eq!(
        run.without_gate()[2..],
        [(90.0, "release pbx1/airtel"), (90.0, "resume 7"), (91.0, "hold pbx1/airtel"), (96.0, "pause 7")],
        "it runs, and its trunk is down"
    );
}

#[test]
fn a_campaign_that_was_not_running_and_starts_during_the_hold_is_paused() {
    let mut run = one();
    run.was_running = Some(false);
    let mut run = run.run(&[event(0.0, "airtel", Rejected)], 10.0);
    run.was_running = Some(true);
    let run = run.run(&[told(30.0, "7", CampaignState::Running)], 40.0);
    assert_eq!(run.without_gate(), [(0.0, "hold pbx1/airtel"), (0.0, "pause 7"), (30.0, "pause 7")]);
}

#[test]
fn a_campaign_that_left_the_configuration_is_not_paused_any_more() {
    let configured = Input::Configured { at: noon(10.0), policy: Box::new(policy(vec![])) };
    let run = one().run(&[configured.clone(), event(20.0, "airtel", Rejected)], 30.0);
    assert_eq!(run.without_gate(), [(20.0, "hold pbx1/airtel")]);
    let run = one().run(&[event(0.0, "airtel", Rejected), configured, event(60.0, "airtel", Registered)], 120.0);
    assert_eq!(run.without_gate().last(), Some(&(90.0, "resume 7")), "what we paused we resume all the same");
    assert_eq!(run.board.campaign(&key("7")), None, "and then it is forgotten");
}

#[test]
fn a_suppression_longer_than_the_default_survives_a_restart() {
    let mut patient = policy(vec![]);
    patient.health.flap.half_life = Duration::from_secs(3600);
    patient.health.flap.max_suppress = Duration::from_secs(4 * 3600);
    let flapping = [0.0, 60.0, 120.0].map(|at| [event(at, "airtel", Rejected), event(at + 10.0, "airtel", Registered)]);
    let run = Run::new(patient.clone(), &["airtel"]).run(&flapping.concat(), 1500.0);
    let mut again = one();
    again.board = serde_json::from_str(&serde_json::to_string(&run.board).unwrap()).unwrap();
    // What a store keeps of a board does not include its policy.
    again.board.policy = ControlPolicy::default();
    again.second = 1600.0;
    again.step(&Input::Started { at: noon(1600.0), unseen_since: noon(1500.0) });
    again.step(&Input::Configured { at: noon(1600.0), policy: Box::new(patient) });
    let again = again.run(&[in_list(1600.0, "airtel", Registered), listed(1600.0, &["airtel"])], 1700.0);
    assert_eq!(again.status("airtel"), Health::Unstable);
}

#[test]
fn a_mass_failure_in_one_step_is_told_once() {
    let names = ["a", "b", "c", "d"];
    let run = Run::new(policy(vec![]), &names).run(&[lost(0.0)], 30.0);
    let told: Vec<_> = run.unanswered.iter().map(|message| message.kind).collect();
    assert_eq!(told.iter().filter(|kind| **kind == MessageType::Incident).count(), 1, "{told:?}");
    let early =
        run.unanswered.iter().filter(|message| message.at >= noon(0.0) && message.kind == MessageType::TrunkHealth);
    assert_eq!(early.count(), 0, "one notice instead of many");
}

#[test]
fn a_stop_withdraws_the_resume_that_a_pause_waits_behind() {
    let mut run = one().run(&[event(0.0, "airtel", Rejected)], 10.0);
    run.answers = false;
    let mut run = run.run(&[event(60.0, "airtel", Registered), event(95.0, "airtel", Rejected)], 100.0);
    let waiting = [MessageType::CampaignResume, MessageType::CampaignPause].map(|kind| message(&run, kind).id);
    let out = run.board.step(&told(101.0, "7", CampaignState::Stopped));
    assert_eq!(out.settled.into_iter().map(|settled| settled.message).collect::<Vec<_>>(), waiting);
    assert_eq!(run.board.campaign(&key("7")).unwrap().claim, None);
}

#[test]
fn an_incident_does_not_wait_for_a_person() {
    let names = ["a", "b", "c"];
    let mut spec = campaign("7", &["a"]);
    spec.resume_within = Some(Duration::from_secs(10));
    let back = names.map(|name| in_list(70.0, name, Registered));
    let inputs = [&[lost(0.0)], &back[..], &[listed(70.0, &names)]].concat();
    let run = Run::new(policy(vec![spec]), &names).run(&inputs, 200.0);
    let claim = run.board.campaign(&key("7")).unwrap().claim.as_ref();
    assert_eq!(claim.map(|claim| &claim.stage), Some(&Stage::LeftToPerson));
    assert!(run.board.incidents.is_empty(), "{:?}", run.board.incidents);
}

#[test]
fn refused_calls_are_counted_once_and_told_at_the_release() {
    let inputs = [
        event(0.0, "airtel", Unregistered),
        refused(5.0, "airtel", 3),
        refused(20.0, "airtel", 1200),
        event(30.0, "airtel", Registered),
        refused(40.0, "airtel", 1),
        refused(61.0, "airtel", 2),
    ];
    let run = one().run(&inputs, 100.0);
    assert_eq!(
        run.counts(EntryKind::Gate),
        [(0.0, "hold", None, None), (60.0, "allow", Some(1204), Some(3))],
        "those before the hold are the gate's, and no hold's"
    );
    assert_eq!(run.counts(EntryKind::Hold), [(15.0, "held", None, None), (60.0, "released", Some(1201), None)]);
    let of = |kind: &str, key: &str| {
        let found: Vec<_> =
            run.events.iter().filter(|event| event.kind == kind).map(|event| event.data[key].clone()).collect();
        found
    };
    assert_eq!(of("hold.ended", "refused_calls"), [1201]);
    let notice = run.sent.iter().rfind(|message| message.kind == MessageType::TrunkHealth).unwrap();
    let data = &notice.body["data"];
    assert_eq!((&data["to"], &data["refused_calls"]), (&"stable".into(), &1204.into()));
    assert!(data["reason"].as_str().unwrap().ends_with("; 1,204 calls not burned"), "{data}");
    let resume = run.sent.iter().find(|message| message.kind == MessageType::CampaignResume).unwrap();
    let data = &resume.body["data"];
    assert_eq!(data["refused_calls"], 1201);
    assert!(data["reason"].as_str().unwrap().ends_with("; 1,201 calls not burned"), "{data}");
    // What was refused before the gate opened and heard of after it is told by the next entry, and starts no new count.
    let run = run.run(&[event(101.0, "airtel", Rejected), refused(102.0, "airtel", 7)], 103.0);
    assert_eq!(run.counts(EntryKind::Gate)[2..], [(101.0, "hold", None, Some(2))]);
    let record = run.board.trunk(&trunk("airtel")).unwrap();
    assert_eq!((record.refused_calls, record.refused_without_hold, record.hold().unwrap().refused_calls), (7, 0, 7));
}

#[test]
fn a_later_change_of_health_tells_of_no_calls_again() {
    let inputs = [event(0.0, "airtel", Rejected), refused(5.0, "airtel", 9), event(10.0, "airtel", Registered)];
    let mut run = one().run(&inputs, 100.0);
    let qualified = |at, status| {
        let contact = crate::ids::ContactUri::try_from("sip:carrier").unwrap();
        let fact = Fact::Contact { contact, status, rtt: None };
        Input::Seen(Observation { trunk: trunk("airtel"), at: noon(at), fact })
    };
    use crate::observation::ContactStatus::{Reachable, Unreachable};
    let sent = run.sent.len();
    let changes = [(110.0, Reachable), (120.0, Unreachable), (130.0, Reachable)];
    run = run.run(&changes.map(|(at, status)| qualified(at, status)), 140.0);
    let notices = &run.sent[sent..];
    assert!(!notices.is_empty(), "its health changed");
    assert!(notices.iter().all(|notice| notice.body["data"]["refused_calls"] == 0), "{notices:?}");
}

#[test]
fn refused_calls_are_the_hold_s_that_counts_and_no_unknown_trunk_s() {
    let hold = act(10.0, "airtel", Act::Hold { reason: "works".to_owned(), lasting: None });
    let inputs = [
        event(0.0, "airtel", Rejected),
        refused(5.0, "airtel", 4),
        hold,
        refused(15.0, "airtel", 5),
        refused(16.0, "nobody", 6),
    ];
    let run = one().run(&inputs, 20.0);
    let record = run.board.trunk(&trunk("airtel")).unwrap();
    let of = |hold: &Option<Hold>| hold.as_ref().unwrap().refused_calls;
    assert_eq!((of(&record.policy_hold), of(&record.operator_hold), record.refused_calls), (4, 5, 9));
    assert_eq!(run.board.trunk(&trunk("nobody")), None);
}

#[test]
fn calls_refused_are_told_once_however_the_gate_opens_again() {
    let told = |run: &Run| -> Vec<u64> {
        let notices = run.sent.iter().filter(|message| message.kind == MessageType::TrunkHealth);
        notices.filter_map(|notice| notice.body["data"]["refused_calls"].as_u64()).filter(|&calls| calls > 0).collect()
    };
    let hold = || act(10.0, "airtel", Act::Hold { reason: "works".to_owned(), lasting: None });
    let release = |at| act(at, "airtel", Act::Release { reason: "done".to_owned(), lasting: None });
    // A person's hold on a trunk that is well.
    let run = one().run(&[hold(), refused(15.0, "airtel", 5), release(20.0)], 30.0);
    assert_eq!(told(&run), [5]);
    // A policy's hold, released while the trunk is down: not again when it is well.
    let inputs =
        [event(0.0, "airtel", Rejected), refused(5.0, "airtel", 7), release(10.0), event(20.0, "airtel", Registered)];
    assert_eq!(told(&one().run(&inputs, 100.0)), [7]);
    // A person's hold that outlasts the recovery.
    let inputs = [
        event(0.0, "airtel", Rejected),
        hold(),
        event(11.0, "airtel", Registered),
        refused(30.0, "airtel", 9),
        release(80.0),
    ];
    assert_eq!(told(&one().run(&inputs, 100.0)), [9]);
}

#[test]
fn a_release_is_the_end_of_a_hold_and_of_nothing_else() {
    let fails = [event(0.0, "airtel", Rejected), event(10.0, "airtel", Registered)];
    let reloads = [event(100.0, "airtel", Unregistered), event(107.0, "airtel", Registered)];
    let run = one().run(&reloads, 120.0);
    assert_eq!(run.released("airtel"), None, "a gate that closed for seconds, without a hold, released nothing");
    let run = one().run(&fails, 30.0);
    assert_eq!(run.released("airtel"), None);
    let run = run.run(&[], 50.0);
    assert_eq!(run.released("airtel"), Some(40.0));
    let mut run = run.run(&reloads, 120.0);
    assert_eq!(run.released("airtel"), Some(40.0), "and changes nothing about the last release");
    // A restart: the board as stored.
    run.board = serde_json::from_str(&serde_json::to_string(&run.board).unwrap()).unwrap();
    let up = [
        Input::Started { at: noon(125.0), unseen_since: noon(121.0) },
        Input::Configured { at: noon(125.0), policy: Box::new(policy(vec![])) },
        in_list(126.0, "airtel", Registered),
        listed(126.0, &["airtel"]),
    ];
    let run = run.run(&up, 130.0);
    assert_eq!(run.released("airtel"), Some(40.0));
    assert!(run.board.trunk(&trunk("airtel")).unwrap().gate.allow);
    let run = run.run(&[event(131.0, "airtel", Rejected)], 132.0);
    assert_eq!(run.released("airtel"), None);
    let let_go = act(140.0, "airtel", Act::Release { reason: "must call".to_owned(), lasting: None });
    let run = run.run(&[let_go], 141.0);
    assert_eq!(run.released("airtel"), Some(140.0), "a person's release is one too");
}

#[test]
fn a_hold_that_ends_while_the_gate_is_closed_for_another_reason_is_released_when_it_opens() {
    let hold = act(0.0, "airtel", Act::Hold { reason: "works".to_owned(), lasting: None });
    let let_go = act(12.0, "airtel", Act::Release { reason: "done".to_owned(), lasting: None });
    let inputs = [hold, event(10.0, "airtel", Unregistered), let_go];
    let run = one().run(&inputs, 15.0);
    assert!(!run.board.trunk(&trunk("airtel")).unwrap().gate.allow);
    assert_eq!(run.released("airtel"), None);
    assert_eq!(run.run(&[event(16.0, "airtel", Registered)], 20.0).released("airtel"), Some(16.0));
}
