//! One client's session under any order of what may happen to it: what must hold whatever comes.
//!
//! - Every action with an `ActionID` is answered once, whether Asterisk was there, went away or came back.
//! - A call reaches Asterisk only when nothing before it is unanswered there, and never while its trunk holds.
//! - Calls that made no channel leave no place taken behind them.

use std::{collections::BTreeMap, collections::VecDeque, sync::Arc, time::Duration};

use proptest::prelude::*;
use tokio::time::Instant;

use super::{
    rights::Catalogue,
    server::Shared,
    session::{Session, Upstream},
    settings::{GatewaySettings, GatewayUser, Limits, LocalPolicy, Over, TrunkLimits},
};
use crate::{
    clock::{Clock as _, ManualClock},
    decision::{Gate, GateState, GateTx},
    health::Health,
    ids::{PbxId, TrunkId},
    wire::ami::{
        Classes, Message,
        client::AmiSettings,
        request::{Incoming, Reader, Request},
    },
};

#[derive(Debug, Clone)]
enum Op {
    /// The client asks, with an id or without.
    Ask(&'static str, bool),
    /// Asterisk answers the first that it was asked.
    Answer(bool),
    /// A call that was taken made no channel.
    NoChannel,
    /// Something from Asterisk that nobody asked for.
    Event(&'static str),
    Away,
    Connected,
    Gate(bool),
    Pass(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let actions = prop::sample::select(vec![
        "Action: Ping",
        "Action: Originate\nChannel: PJSIP/1@airtel\nApplication: Wait\nAsync: true",
        "Action: Originate\nChannel: PJSIP/200\nApplication: Wait\nAsync: true",
        "Action: Events\nEventMask: call",
        "Action: Filter\nOperation: Add\nFilter: !Event: x",
        "Action: CoreShowChannels",
        "Action: ListCommands",
        "Action: AGI\nCommand: EXEC Dial x",
        "Action: Nonsense",
        "X: y",
    ]);
    let events = prop::sample::select(vec![
        "Event: FullyBooted\r\n\r\n",
        "Event: Hangup\r\nChannel: PJSIP/airtel-1\r\n\r\n",
        "Response: Success\r\nActionID: nobody\r\n\r\n",
        "Event: OriginateResponse\r\nActionID: nobody\r\nResponse: Failure\r\nReason: 0\r\n\r\n",
        "Event: CoreShowChannelsComplete\r\nEventList: Complete\r\n\r\n",
        "\r\n\r\n",
    ]);
    let op = prop_oneof![
        6 => (actions, any::<bool>()).prop_map(|(text, with_id)| Op::Ask(text, with_id)),
        6 => any::<bool>().prop_map(Op::Answer),
        1 => Just(Op::NoChannel),
        1 => events.prop_map(Op::Event),
        1 => Just(Op::Away),
        2 => Just(Op::Connected),
        1 => any::<bool>().prop_map(Op::Gate),
        2 => (0_u64..400).prop_map(Op::Pass),
    ];
    prop::collection::vec(op, 1..120)
}

struct Scene {
    session: Session,
    shared: Arc<Shared>,
    gate: GateTx,
    step: u64,
    allow: bool,
    clock: Arc<ManualClock>,
    now: Instant,
    asked: u64,
    ids: Vec<String>,
    /// What Asterisk was asked and has not answered.
    asterisk: VecDeque<Request>,
    reader: Reader,
    /// Calls that Asterisk took.
    taken: Vec<String>,
    out: Vec<u8>,
}

fn trunk() -> TrunkId {
    TrunkId::try_from("pbx1/airtel").unwrap()
}

fn scene() -> Scene {
    let pbx = PbxId::try_from("pbx1").unwrap();
    let user = GatewayUser {
        name: "dialer".to_owned(),
        secret: "secret".into(),
        allow: Vec::new(),
        read: Classes::ALL,
        write: Classes::ALL,
        write_all: true,
        actions: None,
        trunks: None,
        unguarded: [].into(),
    };
    let every = TrunkLimits { calls: Some(2), over: Over::Wait(Duration::from_millis(300)), ..TrunkLimits::default() };
    let settings = GatewaySettings {
        pbx: pbx.clone(),
        listen: ([127, 0, 0, 1], 0).into(),
        tls: None,
        allow: Vec::new(),
        auth_limit: 50,
        auth_timeout: Duration::from_secs(30),
        users: vec![user],
        local: LocalPolicy::HoldWhenAnyHeld,
        rules: Vec::new(),
        limits: Limits { every, trunks: BTreeMap::new() },
        upstream: AmiSettings::new("pbx1", "127.0.0.1:1".to_owned(), "up", "up".into()),
    };
    let (names, gate) = Gate::new();
    names.name([(&trunk(), &[][..])].into_iter());
    names.listed(&pbx);
    let clock = Arc::new(ManualClock::new(jiff::Timestamp::UNIX_EPOCH));
    let list = "Response: Success\nPing: x  (Priv: <none>)\nOriginate: x  (Priv: originate,all)\nEvents: x  (Priv: <none>)\nFilter: x  (Priv: system,all)\nCoreShowChannels: x  (Priv: system,reporting,all)\nListCommands: x  (Priv: <none>)\nAGI: x  (Priv: agi,all)\n";
    let catalogue = Catalogue::of(&Message::from_text(list));
    let shared = Arc::new(Shared::alone(settings, gate, catalogue, Arc::<ManualClock>::clone(&clock)));
    let mut session = Session::new(Arc::clone(&shared), [127, 0, 0, 1].into());
    // The greeting is no message.
    session.out.clear();
    let mut scene = Scene {
        session,
        shared,
        gate: names,
        step: 0,
        allow: true,
        clock,
        now: Instant::now(),
        asked: 0,
        ids: Vec::new(),
        asterisk: VecDeque::new(),
        reader: Reader::default(),
        taken: Vec::new(),
        out: Vec::new(),
    };
    scene.say(true);
    scene.ask("Action: Login\nUsername: dialer\nSecret: secret", true);
    scene
}

impl Scene {
    fn say(&mut self, allow: bool) {
        self.step += 1;
        self.allow = allow;
        let health = if allow { Health::Stable } else { Health::Down };
        let state = GateState {
            allow,
            reason: String::new(),
            since: self.clock.now(),
            health,
            until: None,
            released: None,
            cause: None,
        };
        let changes = [(trunk(), state)].into();
        self.gate.close(self.step, &changes);
        self.gate.open(self.step, &changes);
    }

    fn ask(&mut self, text: &str, with_id: bool) {
        let mut request = Request::default();
        text.lines().for_each(|line| request.push(line.as_bytes()));
        if with_id {
            self.asked += 1;
            let id = format!("id-{}", self.asked);
            request.push(format!("ActionID: {id}").as_bytes());
            self.ids.push(id);
        }
        self.session.take(Incoming::Message(request), self.now);
    }

    fn answer(&mut self, well: bool) {
        let Some(request) = self.asterisk.pop_front() else { return };
        let id = request.header("ActionID").into_owned();
        let word = if well { "Success" } else { "Error" };
        let id_line = if id.is_empty() { String::new() } else { format!("ActionID: {id}\r\n") };
        let list = if well && request.action() == "CoreShowChannels" { "EventList: start\r\n" } else { "" };
        self.session.hand_on(format!("Response: {word}\r\n{id_line}{list}Message: m\r\n\r\n").as_bytes());
        if well && !id.is_empty() && request.action() == "Originate" {
            self.taken.push(id);
        }
    }

    /// Moves on what can be, and looks at what reaches Asterisk.
    fn settle(&mut self) {
        let _again = self.session.pump(self.now);
        self.out.extend_from_slice(&self.session.out.split());
        let sent = std::mem::take(&mut self.session.up_out);
        let (asterisk, allow) = (&mut self.asterisk, self.allow);
        self.reader.feed(&sent, |incoming| {
            let request = incoming.request().clone();
            if request.action() == "Originate" {
                assert!(asterisk.is_empty(), "a call behind what is unanswered: {asterisk:?}");
                assert!(allow || request.header("Channel") != "PJSIP/1@airtel", "a call on a trunk that holds");
            }
            asterisk.push_back(request);
        });
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Ask(text, with_id) => {
                if self.session.takes_more() {
                    self.ask(text, with_id);
                }
            }
            Op::Answer(well) => self.answer(well),
            Op::NoChannel => {
                if let Some(id) = self.taken.pop() {
                    let text =
                        format!("Event: OriginateResponse\r\nActionID: {id}\r\nResponse: Failure\r\nReason: 0\r\n\r\n");
                    self.session.hand_on(text.as_bytes());
                }
            }
            Op::Event(text) => {
                if *self.session.upstream() == Upstream::Up {
                    self.session.hand_on(text.as_bytes());
                }
            }
            Op::Away => {
                self.session.away("gone");
                self.asterisk.clear();
                self.taken.clear();
            }
            Op::Connected => {
                if *self.session.upstream() != Upstream::Up {
                    self.session.connected();
                }
            }
            Op::Gate(allow) => self.say(allow),
            Op::Pass(millis) => {
                self.now += Duration::from_millis(millis);
                self.clock.advance(Duration::from_millis(millis));
            }
        }
        self.settle();
    }

    fn answers(&self, id: &str) -> usize {
        let text = String::from_utf8_lossy(&self.out);
        let of_it = |message: &&str| {
            message.trim_start().starts_with("Response:")
                && message.lines().any(|line| line.strip_prefix("ActionID: ") == Some(id))
        };
        text.split("\r\n\r\n").filter(of_it).count()
    }
}

proptest! {
    #[test]
    fn every_action_is_answered_once_and_no_call_is_sent_that_must_not_be(ops in ops()) {
        let mut scene = scene();
        for op in ops {
            scene.apply(op);
        }
        scene.apply(Op::Connected);
        for _ in 0..400 {
            scene.apply(Op::Answer(true));
            scene.apply(Op::Pass(20));
        }
        for id in &scene.ids {
            prop_assert_eq!(scene.answers(id), 1, "{}: {}", id, String::from_utf8_lossy(&scene.out));
        }
    }

    #[test]
    fn calls_that_made_no_channel_leave_no_place_taken(calls in 1_usize..40) {
        let mut scene = scene();
        scene.apply(Op::Connected);
        for _ in 0..calls {
            scene.apply(Op::Ask("Action: Originate\nChannel: PJSIP/1@airtel\nAsync: true\nApplication: Wait", true));
            prop_assert_eq!(scene.asterisk.len(), 1, "there is room");
            scene.apply(Op::Answer(true));
            prop_assert_eq!(scene.shared.limiter.in_flight(&trunk(), scene.clock.now()), (0, 1));
            scene.apply(Op::NoChannel);
            prop_assert_eq!(scene.shared.limiter.in_flight(&trunk(), scene.clock.now()), (0, 0));
        }
    }
}
