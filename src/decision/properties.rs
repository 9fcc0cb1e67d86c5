//! What must hold whatever happens: random runs of PBXs, dialers, people and restarts, in any order.
//!
//! Beside the board stands a world of its own: registrars that accept or reject, dialers that run their campaigns and
//! answer late, twice or never, and people who start and stop campaigns. The board is judged by what becomes of that
//! world, not by its own account.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use proptest::prelude::*;

use super::*;
use crate::{
    clock::{Timestamp, after},
    health::Standing,
    ids::{CampaignId, CampaignKey, DialerId, HoldId, MessageId, PbxId, RegistrationName, TrunkId},
    observation::{Fact, Observation, RegistrationState, Source},
};

const TRUNKS: [&str; 5] = ["a", "b", "c", "d", "e"];
const CAMPAIGNS: [(&str, &[&str], HoldWhen); 4] = [
    ("1", &["a"], HoldWhen::Any),
    ("2", &["b", "c"], HoldWhen::Any),
    ("3", &["c", "d"], HoldWhen::All),
    ("4", &["e"], HoldWhen::Any),
];

fn pbx() -> PbxId {
    PbxId::try_from("pbx1").unwrap()
}

fn trunk(name: &str) -> TrunkId {
    TrunkId::new(&pbx(), name).unwrap()
}

fn key(id: &str) -> CampaignKey {
    CampaignKey { dialer: DialerId::try_from("crm").unwrap(), id: CampaignId::try_from(id).unwrap() }
}

/// What a run is configured with.
#[derive(Debug, Clone, Copy)]
struct Setup {
    observe: bool,
    pause_after: u64,
    /// Whether the dialer says what was running.
    tells: bool,
}

fn policy(setup: Setup) -> ControlPolicy {
    let patience = DialerPolicy {
        pause_after: Duration::from_secs(setup.pause_after),
        pause_unknown_after: Duration::from_secs(60),
    };
    let spec = |(id, trunks, hold_when): (&str, &[&str], HoldWhen)| CampaignSpec {
        key: key(id),
        name: None,
        trunks: trunks.iter().map(|name| trunk(name)).collect(),
        hold_when,
        fallback: vec![],
        resume_window: None,
        resume_within: None,
    };
    ControlPolicy {
        mode: if setup.observe { Mode::Observe } else { Mode::Enforce },
        dialers: [(DialerId::try_from("crm").unwrap(), patience)].into(),
        campaigns: CAMPAIGNS.map(|one| (key(one.0), spec(one))).into(),
        notify: vec![NotifyTarget { name: "people".to_owned(), types: MessageType::ALL.into() }],
        ..ControlPolicy::default()
    }
}

#[derive(Debug, Clone)]
enum Op {
    Wait(u32),
    /// The registrar's word changes, and its event comes if the link is up.
    Registry(usize, RegistrationState),
    Lose,
    Find,
    Hold(usize, Option<u64>),
    Release(usize),
    /// The dialer answers the first message of a campaign's lane.
    Answer(usize),
    /// The same, and the receipt comes twice.
    AnswerTwice(usize),
    /// The message is given up.
    Abandon(usize),
    Stop(usize),
    Start(usize),
    /// The gateway refused calls; it may say so after the gate opened.
    Refuse(usize, u64),
    Configure(bool),
    Restart,
}

fn any_op() -> impl Strategy<Value = Op> {
    let state = prop_oneof![
        3 => Just(RegistrationState::Registered),
        2 => Just(RegistrationState::Rejected),
        1 => Just(RegistrationState::Unregistered),
    ];
    prop_oneof![
        6 => (0_u32..100).prop_map(Op::Wait),
        8 => (0..TRUNKS.len(), state).prop_map(|(trunk, state)| Op::Registry(trunk, state)),
        1 => Just(Op::Lose),
        1 => Just(Op::Find),
        1 => (0..TRUNKS.len(), prop::option::of(1_u64..200)).prop_map(|(trunk, lasting)| Op::Hold(trunk, lasting)),
        2 => (0..TRUNKS.len()).prop_map(Op::Release),
        6 => (0..CAMPAIGNS.len()).prop_map(Op::Answer),
        1 => (0..CAMPAIGNS.len()).prop_map(Op::AnswerTwice),
        1 => (0..CAMPAIGNS.len()).prop_map(Op::Abandon),
        1 => (0..CAMPAIGNS.len()).prop_map(Op::Stop),
        1 => (0..CAMPAIGNS.len()).prop_map(Op::Start),
        4 => (0..TRUNKS.len(), 1_u64..9).prop_map(|(trunk, calls)| Op::Refuse(trunk, calls)),
        1 => any::<bool>().prop_map(Op::Configure),
        1 => Just(Op::Restart),
    ]
}

fn any_setup() -> impl Strategy<Value = Setup> {
    (prop::bool::weighted(0.1), prop_oneof![Just(0_u64), Just(5), Just(40)], any::<bool>())
        .prop_map(|(observe, pause_after, tells)| Setup { observe, pause_after, tells })
}

/// A campaign as its dialer has it.
#[derive(Debug)]
struct Dialed {
    state: CampaignState,
    lane: VecDeque<Message>,
    /// A message to it was given up: nobody promises anything then.
    forsaken: bool,
}

struct World {
    setup: Setup,
    board: Board,
    /// What a store would have of it.
    stored: Board,
    gate: Gate,
    gate_tx: GateTx,
    step: u64,
    now: Timestamp,
    link: bool,
    registrar: BTreeMap<&'static str, RegistrationState>,
    dialed: BTreeMap<CampaignKey, Dialed>,
    open: BTreeSet<HoldId>,
    ended: BTreeSet<HoldId>,
    /// Calls that were refused, and what was made of them: by holds as stored, and in entries of the gate.
    refused: u64,
    by_hold: BTreeMap<HoldId, u64>,
    unheld: u64,
    /// Pauses the dialer took from a running campaign, and that no resume followed.
    owed: BTreeSet<CampaignKey>,
    /// The journal: inputs, and what was decided.
    journal: Vec<(Input, Vec<Event>)>,
    from: Board,
}

impl World {
    fn new(setup: Setup) -> Self {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let (gate_tx, gate) = Gate::new();
        let dialed = CAMPAIGNS.map(|(id, _, _)| {
            (key(id), Dialed { state: CampaignState::Running, lane: VecDeque::new(), forsaken: false })
        });
        let mut world = Self {
            setup,
            board: Board::new(11),
            stored: Board::new(11),
            gate,
            gate_tx,
            step: 0,
            now,
            link: true,
            registrar: TRUNKS.map(|name| (name, RegistrationState::Registered)).into(),
            dialed: dialed.into(),
            open: BTreeSet::new(),
            ended: BTreeSet::new(),
            refused: 0,
            by_hold: BTreeMap::new(),
            unheld: 0,
            owed: BTreeSet::new(),
            journal: vec![],
            from: Board::new(11),
        };
        world.step(Input::Started { at: now, unseen_since: now });
        world.step(Input::Configured { at: now, policy: Box::new(policy(setup)) });
        world.list();
        world
    }

    fn step(&mut self, input: Input) {
        let out = self.board.step(&input);
        match &out.input {
            Some(input) => self.journal.push((input.clone(), out.events.clone())),
            None => assert_eq!(out, Outcome::default(), "what is decided is journaled"),
        }
        self.step += 1;
        self.gate_tx.close(self.step, &out.gate);
        self.gate_tx.open(self.step, &out.gate);
        for record in out.records.iter().filter(|record| record.kind == EntryKind::Gate) {
            self.unheld += record.detail["refused_without_hold"].as_u64().unwrap_or(0);
        }
        for hold in &out.holds {
            self.by_hold.insert(hold.id.clone(), hold.refused_calls);
            if matches!(input, Input::Refused { .. }) {
                assert!(hold.is_active() && self.open.contains(&hold.id), "an ended hold counts no more: {hold:?}");
            } else if hold.is_active() {
                assert!(self.open.insert(hold.id.clone()), "a hold begins once: {hold:?}");
            } else {
                assert!(self.open.remove(&hold.id), "only what began ends, and once: {hold:?}");
                assert!(self.ended.insert(hold.id.clone()));
            }
        }
        for settled in &out.settled {
            for dialed in self.dialed.values_mut() {
                dialed.lane.retain(|message| message.id != settled.message);
            }
        }
        for message in &out.messages {
            let Some(dialed) = message.campaign.as_ref().and_then(|key| self.dialed.get_mut(key)) else { continue };
            let key = message.campaign.clone().unwrap();
            if message.kind == MessageType::CampaignResume {
                assert!(self.owed.remove(&key), "a resume of what we did not pause, or the second one: {message:?}");
            }
            dialed.lane.push_back(message.clone());
        }
        if out != Outcome::default() {
            self.store(&out);
            self.check();
        }
    }

    /// What `store` does, and what it reads back.
    fn store(&mut self, out: &Outcome) {
        for (id, record) in &out.trunks {
            match record {
                Some(record) => {
                    let json = serde_json::to_string(record).unwrap();
                    self.stored.trunks.insert(id.clone(), serde_json::from_str(&json).unwrap());
                }
                None => {
                    self.stored.trunks.remove(id);
                }
            }
        }
        for (key, campaign) in &out.campaigns {
            match campaign {
                Some(campaign) => {
                    let json = serde_json::to_string(campaign).unwrap();
                    self.stored.campaigns.insert(key.clone(), serde_json::from_str(&json).unwrap());
                }
                None => {
                    self.stored.campaigns.remove(key);
                }
            }
        }
        self.stored.pbxs.extend(out.pbxs.clone());
        for incident in &out.incidents {
            self.stored.incidents.insert(incident.id.clone(), incident.clone());
        }
        if let Some((_, minted)) = out.minted {
            self.stored.minted = minted;
        }
    }

    fn check(&self) {
        let active: BTreeSet<HoldId> = (self.board.trunks())
            .flat_map(|(_, record)| record.policy_hold.iter().chain(&record.operator_hold))
            .map(|hold| hold.id.clone())
            .collect();
        assert_eq!(active, self.open, "every hold that began is on the board until it ends");
        let unheld: u64 = self.board.trunks().map(|(_, record)| record.refused_without_hold).sum();
        let counted = self.by_hold.values().sum::<u64>() + self.unheld + unheld;
        assert_eq!(counted, self.refused, "each refused call is counted, and once");
        let enforced = self.board.policy().mode == Mode::Enforce;
        for (id, record) in self.board.trunks() {
            let said = self.gate.state(id);
            assert!(said.is_none_or(|said| said == record.gate), "the gate says what the board says");
            if record.gate.allow && enforced {
                assert!(!record.held, "{id} is let go of and that is not said: {record:?}");
                assert!(record.hold().is_none(), "{id} is held and may be dialed: {record:?}");
                assert!(record.override_.is_some() || record.health.standing == Standing::Clear, "{record:?}");
            }
        }
        for (id, record) in &self.board.trunks {
            let mut kept = self.stored.trunks.get(id).cloned().unwrap_or_else(|| panic!("{id} was never stored"));
            kept.due = record.due;
            let (mut kept_health, mut health) = (kept.health.clone(), record.health.clone());
            // A tick that changes nothing moves `at` alone, and is not stored.
            (kept_health.at, health.at) = (self.now, self.now);
            assert_eq!(kept_health, health, "what is stored of {id} is what is known");
            assert_eq!((&kept.policy_hold, &kept.operator_hold), (&record.policy_hold, &record.operator_hold));
            assert_eq!((&kept.override_, &kept.gate), (&record.override_, &record.gate));
            let counts = |of: &TrunkRecord| (of.refused_calls, of.refused_without_hold, of.held);
            assert_eq!(counts(&kept), counts(record));
            assert!(record.gate.released.is_none() || record.gate.allow || record.hold().is_none(), "{record:?}");
        }
        assert_eq!(self.stored.campaigns, self.board.campaigns);
    }

    fn wait(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.now = after(self.now, Duration::from_secs(1));
            self.step(Input::Tick { at: self.now });
        }
    }

    fn say(&mut self, name: &str, source: Source) {
        let state = self.registrar[name];
        let registration = RegistrationName::try_from(name).unwrap();
        let fact = Fact::Registration { registration, state, source };
        self.step(Input::Seen(Observation { trunk: trunk(name), at: self.now, fact }));
    }

    fn list(&mut self) {
        for name in TRUNKS {
            self.say(name, Source::List);
        }
        let trunks =
            TRUNKS.map(|name| ListedTrunk { id: trunk(name), endpoints: vec![], registrations: vec![] }).to_vec();
        self.step(Input::Pbx { pbx: pbx(), at: self.now, fact: PbxFact::Listed { trunks } });
    }

    fn receipt(&mut self, message: MessageId, outcome: ReceiptOutcome) {
        self.step(Input::Receipt { at: self.now, message, outcome });
    }

    /// The dialer takes the first message of a lane.
    fn answer(&mut self, key: &CampaignKey, times: usize) -> bool {
        let tells = self.setup.tells;
        let Some(dialed) = self.dialed.get_mut(key) else { return false };
        let Some(message) = dialed.lane.pop_front() else { return false };
        let ran = dialed.state == CampaignState::Running;
        let outcome = match message.kind {
            MessageType::CampaignPause => {
                if ran {
                    dialed.state = CampaignState::Paused;
                }
                if ran || !tells {
                    self.owed.insert(key.clone());
                }
                ReceiptOutcome::Delivered { was_running: tells.then_some(ran) }
            }
            MessageType::CampaignResume => {
                assert_ne!(dialed.state, CampaignState::Stopped, "a campaign somebody stopped was started");
                dialed.state = CampaignState::Running;
                ReceiptOutcome::Delivered { was_running: None }
            }
            MessageType::TrunkHealth | MessageType::TrunkDiagnosis | MessageType::Incident => unreachable!(),
        };
        for _ in 0..times {
            self.receipt(message.id.clone(), outcome.clone());
        }
        true
    }

    fn tell(&mut self, key: &CampaignKey, state: CampaignState) {
        if let Some(dialed) = self.dialed.get_mut(key) {
            dialed.state = state;
        }
        let report = CampaignReport { key: key.clone(), name: None, trunks: None, state: Some(state) };
        self.step(Input::Campaign { at: self.now, report });
    }

    fn restart(&mut self) {
        let mut board = self.stored.clone();
        board.incidents.retain(|_, incident| incident.ended_at.is_none());
        self.finish();
        self.from = board.clone();
        self.stored = board.clone();
        self.board = board;
        (self.gate_tx, self.gate) = Gate::new();
        self.link = false;
        let unseen_since = self.now;
        self.now = after(self.now, Duration::from_secs(5));
        self.step(Input::Started { at: self.now, unseen_since });
        let policy = Box::new(policy(self.setup));
        self.step(Input::Configured { at: self.now, policy });
        for id in self.board.trunks.keys() {
            let closed = self.gate.state(id).is_none_or(|said| !said.allow);
            let overridden = self.board.trunks[id].override_.is_some();
            assert!(closed || overridden || self.setup.observe, "the gate holds until the first list");
        }
    }

    /// The journal since the start, by way of JSON, gives the same decisions.
    fn finish(&mut self) {
        let mut replayed: Board = serde_json::from_str(&serde_json::to_string(&self.from).unwrap()).unwrap();
        for (input, events) in self.journal.drain(..) {
            let journaled: Input = serde_json::from_str(&serde_json::to_string(&input).unwrap()).unwrap();
            assert_eq!(replayed.step(&journaled).events, events, "{journaled:?}");
        }
        assert_eq!(replayed.campaigns, self.board.campaigns);
        assert_eq!(replayed.incidents, self.board.incidents);
    }

    fn act(&mut self, op: &Op) {
        let nth = |index: usize| key(CAMPAIGNS[index].0);
        match op {
            Op::Wait(seconds) => self.wait(*seconds),
            Op::Registry(index, state) => {
                self.registrar.insert(TRUNKS[*index], *state);
                if self.link {
                    self.say(TRUNKS[*index], Source::Event);
                }
            }
            Op::Lose => {
                if std::mem::take(&mut self.link) {
                    let fact = PbxFact::Lost { last_heard: self.now, error: "reset".to_owned() };
                    self.step(Input::Pbx { pbx: pbx(), at: self.now, fact });
                }
            }
            Op::Find => {
                self.link = true;
                self.list();
            }
            Op::Hold(index, lasting) => {
                let act = Act::Hold { reason: "by hand".to_owned(), lasting: lasting.map(Duration::from_secs) };
                self.operate(*index, act);
            }
            Op::Release(index) => self.operate(*index, Act::Release { reason: "by hand".to_owned(), lasting: None }),
            Op::Answer(index) => drop(self.answer(&nth(*index), 1)),
            Op::AnswerTwice(index) => drop(self.answer(&nth(*index), 2)),
            Op::Abandon(index) => {
                let key = nth(*index);
                if let Some(dialed) = self.dialed.get_mut(&key)
                    && let Some(message) = dialed.lane.pop_front()
                {
                    dialed.forsaken = true;
                    self.receipt(message.id, ReceiptOutcome::Abandoned { error: "410 Gone".to_owned() });
                }
            }
            Op::Stop(index) => self.tell(&nth(*index), CampaignState::Stopped),
            Op::Start(index) => self.tell(&nth(*index), CampaignState::Running),
            Op::Refuse(index, calls) => {
                self.refused += calls;
                self.step(Input::Refused { at: self.now, calls: [(trunk(TRUNKS[*index]), *calls)].into() });
            }
            Op::Configure(observe) => {
                self.setup.observe = *observe;
                self.step(Input::Configured { at: self.now, policy: Box::new(policy(self.setup)) });
            }
            Op::Restart => self.restart(),
        }
    }

    fn operate(&mut self, index: usize, act: Act) {
        let trunks = vec![trunk(TRUNKS[index])];
        self.step(Input::Operator { at: self.now, name: "ada".to_owned(), trunks, act });
    }

    /// Every trunk is in `state`, nothing is held by hand, every message is answered, and time passes.
    fn come_to_rest(&mut self, state: RegistrationState) {
        self.link = true;
        for name in TRUNKS {
            self.registrar.insert(name, state);
        }
        self.list();
        for (index, name) in TRUNKS.iter().enumerate() {
            if self.board.trunk(&trunk(name)).is_some_and(|record| record.operator_hold.is_some()) {
                self.operate(index, Act::Release { reason: "the end".to_owned(), lasting: None });
            }
        }
        let keys: Vec<_> = self.dialed.keys().cloned().collect();
        for _ in 0..250 {
            for key in &keys {
                while self.answer(key, 1) {}
            }
            self.now = after(self.now, Duration::from_secs(10));
            for name in TRUNKS {
                self.say(name, Source::Event);
            }
            self.step(Input::Tick { at: self.now });
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn once_all_is_well_nothing_of_ours_stands_still(setup in any_setup(), ops in prop::collection::vec(any_op(), 0..60)) {
        let mut world = World::new(setup);
        for op in &ops {
            world.act(op);
        }
        world.come_to_rest(RegistrationState::Registered);
        prop_assert!(world.open.is_empty(), "holds that never end: {:?}", world.open);
        prop_assert_eq!(world.board.incidents().count(), 0);
        for (id, record) in world.board.trunks() {
            prop_assert!(record.gate.allow, "{} holds for ever: {:?}", id, record);
        }
        for (key, dialed) in &world.dialed {
            let campaign = world.board.campaign(key).unwrap();
            let stage = campaign.claim.as_ref().map(|claim| &claim.stage);
            prop_assert!(
                !matches!(stage, Some(Stage::Pausing { .. } | Stage::Paused { .. } | Stage::Resuming { .. })),
                "{}: {:?}", key, campaign
            );
            prop_assert!(
                dialed.forsaken || dialed.state != CampaignState::Paused,
                "{} stands still because of us: {:?}", key, campaign
            );
        }
        prop_assert!(world.board.incidents.is_empty(), "{:?}", world.board.incidents);
        world.finish();
    }

    #[test]
    fn while_a_trunk_is_down_nothing_runs_on_it(setup in any_setup(), ops in prop::collection::vec(any_op(), 0..60)) {
        let mut world = World::new(setup);
        for op in &ops {
            world.act(op);
        }
        world.setup.observe = false;
        world.step(Input::Configured { at: world.now, policy: Box::new(policy(world.setup)) });
        world.come_to_rest(RegistrationState::Rejected);
        for (id, record) in world.board.trunks() {
            prop_assert!(!record.gate.allow, "{} is down: {:?}", id, record);
        }
        for (key, dialed) in &world.dialed {
            let campaign = world.board.campaign(key).unwrap();
            let theirs = matches!(campaign.claim.as_ref().map(|claim| &claim.stage), Some(Stage::Overridden));
            prop_assert!(
                dialed.forsaken || theirs || dialed.state != CampaignState::Running,
                "{} dials into a dead trunk: {:?}", key, campaign
            );
        }
    }
}

/// Not run by default: figures, not facts.
#[test]
#[ignore = "prints how long steps take with many trunks and campaigns"]
fn measure() {
    for count in [1250_usize, 2500, 5000] {
        let names: Vec<String> = (0..count).map(|n| format!("trunk{n:05}")).collect();
        let mut policy = policy(Setup { observe: false, pause_after: 0, tells: true });
        policy.campaigns = (0..1000)
            .map(|n| {
                let id = format!("c{n}");
                let spec = CampaignSpec {
                    key: key(&id),
                    name: None,
                    trunks: (0..4).map(|m| trunk(&names[(n * 4 + m) % count])).collect(),
                    hold_when: HoldWhen::Any,
                    fallback: vec![],
                    resume_window: None,
                    resume_within: None,
                };
                (key(&id), spec)
            })
            .collect();
        let at = |second: i64| Timestamp::from_second(1_800_000_000 + second).unwrap();
        let mut board = Board::new(1);
        let mut timed = |what: &str, inputs: Vec<Input>| {
            let many = inputs.len();
            #[expect(clippy::disallowed_methods, reason = "a figure, not a decision")]
            let began = std::time::Instant::now();
            let mut size = 0;
            let mut slowest = Duration::ZERO;
            for input in inputs {
                #[expect(clippy::disallowed_methods, reason = "a figure, not a decision")]
                let one = std::time::Instant::now();
                let out = board.step(&input);
                slowest = slowest.max(one.elapsed());
                size += out.incidents.iter().map(|incident| incident.trunks.len()).sum::<usize>();
            }
            eprintln!(
                "{count} trunks: {what}: {many} steps in {:?}, slowest {slowest:?}; trunks named in incidents: {size}",
                began.elapsed()
            );
        };
        timed("started", vec![Input::Started { at: at(0), unseen_since: at(0) }]);
        timed("configured", vec![Input::Configured { at: at(0), policy: Box::new(policy.clone()) }]);
        let seen = |second, state| {
            let fact = |name: &String| {
                let registration = RegistrationName::try_from(name.as_str()).unwrap();
                let fact = Fact::Registration { registration, state, source: Source::Event };
                Input::Seen(Observation { trunk: trunk(name), at: at(second), fact })
            };
            names.iter().map(fact).collect::<Vec<_>>()
        };
        let trunks: Vec<_> = (names.iter())
            .map(|name| ListedTrunk { id: trunk(name), endpoints: vec![], registrations: vec![] })
            .collect();
        let listed = |second| {
            let fact = PbxFact::Listed { trunks: trunks.clone() };
            vec![Input::Pbx { pbx: pbx(), at: at(second), fact }]
        };
        timed("registered one by one", seen(1, RegistrationState::Registered));
        timed("listed", listed(1));
        timed("ticks with nothing to do", (0..10).map(|_| Input::Tick { at: at(2) }).collect());
        let fact = PbxFact::Lost { last_heard: at(10), error: "reset".to_owned() };
        timed("lost", vec![Input::Pbx { pbx: pbx(), at: at(10), fact }]);
        timed("tick that makes all unknown", vec![Input::Tick { at: at(26) }]);
        timed("listed again", listed(30));
        timed("ticks while recovering", (0..10).map(|_| Input::Tick { at: at(40) }).collect());
        timed("tick that lets all go", vec![Input::Tick { at: at(61) }]);
        timed("rejected one by one", seen(100, RegistrationState::Rejected));
        timed("registered one by one", seen(110, RegistrationState::Registered));
        timed("tick that lets all go", vec![Input::Tick { at: at(141) }]);
        timed("ticks while campaigns wait for their turn", (0..10).map(|n| Input::Tick { at: at(142 + n) }).collect());
    }
}
