//! The deciding loop and the committer behind it.
//!
//! One task decides: it takes inputs in the order they come, steps the board, and closes the gate for what is held
//! before it awaits anything. A second task commits what was decided, many steps in one transaction when they come
//! thick, and opens the gate for what was released only then. So a slow disk delays releases and never holds, and a
//! failing event is not kept waiting by the commit of the one before it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{
    sync::{
        Notify, broadcast,
        mpsc::{self, error::TrySendError},
        oneshot,
    },
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::replay;
use crate::{
    api::{Readiness, Submission, SubmitError, problem::chain},
    clock::{Clock, Timestamp, between},
    decision::{Board, EntryKind, Event, GateTx, Input, Mode, Outcome, Record, Scope},
    gateway::Refusals,
    ids::{HoldId, TrunkId},
    store::Store,
};

/// How often time is told to the board: how late a release, a pause or a confirmed failure can be.
pub const TICK: Duration = Duration::from_millis(250);
/// How many inputs may wait for the loop. Those who observe wait when it is full: the AMI link counts what it loses then.
pub const INPUTS: usize = 16_384;
/// How many decided steps may wait for the store, each for itself. What is decided beyond is kept as one; see [`Backlog`].
const UNCOMMITTED: usize = 16_384;
/// How many records of history one backlog keeps.
const BACKLOG_RECORDS: usize = 65_536;
/// How many steps are committed in one transaction.
const BATCH: usize = 512;
/// How often it is noted that this controller is alive, when nothing else is written: the most by which a restart
/// misjudges when the last run ended.
const ALIVE: Duration = Duration::from_secs(5);
/// How often refused calls are told to the board, if nothing that may end a hold asks for them earlier. Each time is a row
/// of the journal of some 100 bytes, and 30 more for each trunk: a dialer that never stops trying on a held trunk adds at
/// most 86,400 of them a day, about 11 MB, which the journal's retention bounds. Holds and trunks are rewritten in place.
const COUNTED: Duration = Duration::from_secs(1);
/// How long is waited between attempts at a store that fails: first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long a store that fails is tried on stopping.
const LAST_TRIES: Duration = Duration::from_secs(5);

/// A step that was decided and waits for its commit.
struct Decided {
    step: u64,
    outcome: Outcome,
    done: Vec<oneshot::Sender<Result<(), SubmitError>>>,
}

/// What was decided while no more steps could wait for the store.
///
/// Deciding must go on when the store does not: the gate is closed by nobody else. So these steps become one: the state
/// they led to, the messages to send, and of history what changed. Their inputs are not journaled; they are counted, in
/// an entry of each PBX, and the journal goes on from a `start` row.
struct Backlog {
    decided: Decided,
    /// Where each hold stands among those decided: of one that only counts calls, the last word is enough.
    holds: HashMap<HoldId, usize>,
    steps: u64,
    dropped_records: u64,
}

impl Backlog {
    fn new(first: Decided) -> Self {
        let mut backlog = Self {
            decided: Decided { step: first.step, outcome: Outcome::default(), done: Vec::new() },
            holds: HashMap::new(),
            steps: 0,
            dropped_records: 0,
        };
        backlog.add(first);
        backlog
    }

    fn add(&mut self, Decided { step, outcome, done }: Decided) {
        self.steps += 1;
        self.decided.step = step;
        self.decided.done.extend(done);
        let kept = &mut self.decided.outcome;
        let Outcome {
            input: _,
            records,
            events: _,
            trunks,
            campaigns,
            pbxs,
            minted,
            holds,
            incidents,
            messages,
            settled,
            gate,
        } = outcome;
        for record in records {
            // A run of equal outcomes is one entry anyway; here its count is lost, and no change is.
            let same = |known: &&Record| {
                (&known.scope, known.kind, &known.subject) == (&record.scope, record.kind, &record.subject)
            };
            let repeats = kept.records.iter().rev().take(4096).find(same).is_some_and(|known| known.to == record.to);
            if repeats || kept.records.len() >= BACKLOG_RECORDS {
                self.dropped_records += 1;
            } else {
                kept.records.push(record);
            }
        }
        kept.trunks.extend(trunks);
        kept.campaigns.extend(campaigns);
        kept.pbxs.extend(pbxs);
        kept.minted = minted.or(kept.minted);
        for hold in holds {
            match self.holds.get(&hold.id).and_then(|&place| kept.holds.get_mut(place)) {
                Some(known) => *known = hold,
                None => {
                    self.holds.insert(hold.id.clone(), kept.holds.len());
                    kept.holds.push(hold);
                }
            }
        }
        for incident in incidents {
            kept.incidents.retain(|known| known.id != incident.id);
            kept.incidents.push(incident);
        }
        kept.messages.extend(messages);
        kept.settled.extend(settled);
        kept.gate.extend(gate);
    }

    /// As one step: what was dropped is said, and the journal begins anew with the board as it is.
    fn close(self, board: &Board, at: Timestamp) -> Decided {
        let Self { mut decided, holds: _, steps, dropped_records } = self;
        warn!(steps, records = dropped_records, "steps decided while the store did not answer are stored as one");
        for (pbx, _) in board.pbxs() {
            decided.outcome.records.push(Record {
                scope: Scope::Pbx(pbx.clone()),
                kind: EntryKind::Pbx,
                subject: "journal".to_owned(),
                to: "dropped".to_owned(),
                at,
                detail: serde_json::json!({ "inputs": steps, "records": dropped_records }),
            });
        }
        match serde_json::to_value(board) {
            Ok(data) => decided.outcome.events.push(Event { kind: replay::START.to_owned(), at, data }),
            Err(error) => error!(%error, "the board cannot be written down; a replay ends here"),
        }
        decided
    }
}

/// The deciding loop.
#[derive(Debug)]
pub struct Decider {
    /// What is known; this loop alone writes it.
    pub board: Arc<RwLock<Board>>,
    /// The gate's deciding side.
    pub gate: GateTx,
    /// What is observed, and receipts.
    pub inputs: mpsc::Receiver<Input>,
    /// What people and dialers ask for.
    pub submissions: mpsc::Receiver<Submission>,
    /// What the gateway refused.
    pub refusals: Refusals,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// The committer.
#[derive(Debug)]
pub struct Committer {
    /// Where outcomes go.
    pub store: Arc<dyn Store>,
    /// The gate's deciding side, for releases.
    pub gate: GateTx,
    /// Notified when there is something to send, or to send next.
    pub nudge: Arc<Notify>,
    /// Told what was committed; who listens too slowly misses some.
    pub committed: broadcast::Sender<Arc<Outcome>>,
    /// Told whether the store answers.
    pub ready: Readiness,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
}

/// Runs the loop and its committer until every sender of inputs is gone, and everything decided is committed.
///
/// `stopping` only says that a store that fails should not be waited for any longer.
///
/// However it ends, by a panic too, the gate holds from then on: an answer that nobody will take back is worth nothing.
pub async fn run(decider: Decider, committer: Committer, stopping: CancellationToken) {
    let _shut = Shut(decider.gate.clone());
    let (commits, decided) = mpsc::channel(UNCOMMITTED);
    tokio::join!(decider.run(commits), committer.run(decided, stopping));
}

/// Shuts the gate when deciding ends.
struct Shut(GateTx);

impl Drop for Shut {
    fn drop(&mut self) {
        self.0.shut();
    }
}

impl Decider {
    async fn run(mut self, commits: mpsc::Sender<Decided>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut step = 0;
        let mut backlog: Option<Backlog> = None;
        let mut counted = Counted::default();
        'deciding: loop {
            let (input, done) = tokio::select! {
                room = commits.reserve(), if backlog.is_some() => {
                    let Ok(room) = room else { break 'deciding };
                    if let Some(backlog) = backlog.take() {
                        room.send(self.close(backlog));
                    }
                    continue;
                }
                input = self.inputs.recv() => match input {
                    Some(input) => (input, None),
                    None => break 'deciding,
                },
                Some(submission) = self.submissions.recv() => (submission.input, Some(submission.done)),
                _ = ticks.tick() => (Input::Tick { at: self.clock.now() }, None),
            };
            let refused = counted.before(&input, &self).map(|input| (input, None));
            for (input, done) in refused.into_iter().chain([(input, done)]) {
                step += 1;
                let outcome = self.board.write().unwrap_or_else(PoisonError::into_inner).step(&input);
                if let Input::Configured { policy, .. } = &input {
                    self.gate.observing(policy.mode == Mode::Observe);
                }
                self.tell_names(&outcome);
                self.gate.close(step, &outcome.gate);
                self.gate.forget(outcome.trunks.iter().filter(|(_, record)| record.is_none()).map(|(id, _)| id));
                tell(&outcome);
                if done.is_none() && outcome == Outcome::default() {
                    continue;
                }
                let decided = Decided { step, outcome, done: done.into_iter().collect() };
                match &mut backlog {
                    Some(backlog) => backlog.add(decided),
                    None => match commits.try_send(decided) {
                        Ok(()) => {}
                        Err(TrySendError::Full(decided)) => {
                            error!("too much waits for the store; what is decided now will be stored as one step");
                            backlog = Some(Backlog::new(decided));
                        }
                        // The committer outlives this loop, so a closed channel means that it gave up or panicked.
                        Err(TrySendError::Closed(_)) => {
                            error!("the committer is gone; deciding stops");
                            break 'deciding;
                        }
                    },
                }
            }
        }
        // The gateway stopped before: what it refused last is told to the board while the store can still be told.
        if let Some(input) = counted.rest(&self) {
            step += 1;
            let outcome = self.board.write().unwrap_or_else(PoisonError::into_inner).step(&input);
            let decided = Decided { step, outcome, done: Vec::new() };
            match &mut backlog {
                Some(backlog) => backlog.add(decided),
                // The committer gave up: it has said so.
                None => drop(commits.send(decided).await),
            }
        }
        if let Some(backlog) = backlog {
            // The committer gave up: it has said so.
            commits.send(self.close(backlog)).await.ok();
        }
        self.submissions.close();
        while let Some(submission) = self.submissions.recv().await {
            // Whoever asked may have gone; then there is nobody to tell.
            submission.done.send(Err(SubmitError::Stopping)).ok();
        }
    }

    /// Tells the gate under which names trunks are dialed, before what is said of them.
    fn tell_names(&self, outcome: &Outcome) {
        let named = outcome.trunks.iter().filter_map(|(id, record)| Some((id, record.as_ref()?.endpoints.as_slice())));
        self.gate.name(named);
        for (pbx, _) in outcome.pbxs.iter().filter(|(_, record)| record.state == "listed") {
            self.gate.listed(pbx);
        }
    }

    fn close(&self, backlog: Backlog) -> Decided {
        let board = self.board.read().unwrap_or_else(PoisonError::into_inner);
        backlog.close(&board, self.clock.now())
    }
}

/// Refused calls on their way to the board.
///
/// A notice that a hold is over must have all of its calls, but most inputs end none: so what was counted waits for
/// [`COUNTED`], and goes before every input that may end a hold on a trunk that it is about. A failing event is kept
/// waiting by no other trunk's count.
#[derive(Debug, Default)]
struct Counted {
    waiting: BTreeMap<TrunkId, u64>,
    last: Option<Timestamp>,
}

impl Counted {
    /// What must be stepped before `input`, if anything must.
    fn before(&mut self, input: &Input, decider: &Decider) -> Option<Input> {
        self.collect(&decider.refusals);
        if self.waiting.is_empty() {
            return None;
        }
        let at = input.at();
        match input {
            Input::Configured { .. } | Input::Started { .. } | Input::Pbx { .. } | Input::Operator { .. } => {
                Some(self.take(at))
            }
            Input::Seen(seen) => {
                let count = self.waiting.remove(&seen.trunk)?;
                Some(Input::Refused { at, calls: [(seen.trunk.clone(), count)].into() })
            }
            Input::Tick { .. } => {
                // A clock that was set back must not keep them waiting.
                let long_ago = self.last.is_none_or(|last| at < last || between(last, at) >= COUNTED);
                let due = || {
                    let board = decider.board.read().unwrap_or_else(PoisonError::into_inner);
                    self.waiting.keys().any(|trunk| board.trunk(trunk).is_some_and(|record| record.is_due(at)))
                };
                (long_ago || due()).then(|| self.take(at))
            }
            Input::Diagnosed { .. }
            | Input::Healed { .. }
            | Input::Campaign { .. }
            | Input::Receipt { .. }
            | Input::Refused { .. } => None,
        }
    }

    /// What is left at the end.
    fn rest(&mut self, decider: &Decider) -> Option<Input> {
        self.collect(&decider.refusals);
        (!self.waiting.is_empty()).then(|| self.take(decider.clock.now()))
    }

    fn collect(&mut self, refusals: &Refusals) {
        for (trunk, count) in refusals.take() {
            *self.waiting.entry(trunk).or_default() += count;
        }
    }

    fn take(&mut self, at: Timestamp) -> Input {
        self.last = Some(at);
        Input::Refused { at, calls: std::mem::take(&mut self.waiting) }
    }
}

/// The log's line for each decision.
fn tell(outcome: &Outcome) {
    for event in &outcome.events {
        match event.kind.as_str() {
            "gate" => debug!(event.kind = "gate", event.data = %event.data, "gate changed"),
            kind => {
                let text = |key: &str| event.data.get(key).and_then(serde_json::Value::as_str);
                info!(
                    event.kind = kind,
                    trunk.id = text("trunk"),
                    campaign.id = text("campaign"),
                    dialer.id = text("dialer"),
                    hold.id = text("hold"),
                    from = text("from"),
                    to = text("to"),
                    reason = text("reason"),
                    "decided"
                );
            }
        }
    }
}

impl Committer {
    async fn run(self, mut decided: mpsc::Receiver<Decided>, stopping: CancellationToken) {
        let mut alive = tokio::time::interval(ALIVE);
        alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                taken = decided.recv_many(&mut batch, BATCH) => if taken == 0 { break },
                _ = alive.tick() => {}
            }
            let (steps, outcomes): (Vec<_>, Vec<_>) =
                batch.drain(..).map(|one: Decided| ((one.step, one.done), one.outcome)).unzip();
            if !self.commit(&outcomes, &stopping).await {
                error!(steps = outcomes.len(), "stopping with decisions that could not be stored");
                return;
            }
            for ((step, done), outcome) in steps.into_iter().zip(&outcomes) {
                self.gate.open(step, &outcome.gate);
                for done in done {
                    // Whoever asked may have gone; the decision stands.
                    done.send(Ok(())).ok();
                }
            }
            let sends = |outcome: &Outcome| !outcome.messages.is_empty() || !outcome.settled.is_empty();
            if outcomes.iter().any(sends) {
                self.nudge.notify_one();
            }
            if self.committed.receiver_count() > 0 {
                for outcome in outcomes {
                    // Nobody listens any more: nothing to tell.
                    self.committed.send(Arc::new(outcome)).ok();
                }
            }
        }
    }

    /// Commits, again and again while the store fails: what was decided holds in memory meanwhile, releases wait.
    /// Gives up only when stopping.
    async fn commit(&self, outcomes: &[Outcome], stopping: &CancellationToken) -> bool {
        let mut wait = RETRY.0;
        let mut last_tries = None;
        loop {
            match self.store.commit(outcomes, self.clock.now()).await {
                Ok(()) => {
                    if !self.ready.store_answers() {
                        info!("the store takes commits again");
                    }
                    self.ready.set_store(true);
                    return true;
                }
                Err(error) => {
                    if self.ready.store_answers() {
                        warn!(error = %chain(&error), "the store does not take commits; releases wait, holds do not");
                    }
                    self.ready.set_store(false);
                }
            }
            if stopping.is_cancelled() {
                let until = *last_tries.get_or_insert_with(|| tokio::time::Instant::now() + LAST_TRIES);
                if tokio::time::Instant::now() >= until {
                    return false;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = stopping.cancelled(), if !stopping.is_cancelled() => {}
            }
            wait = (wait * 2).min(RETRY.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        decision::{Gate, ListedTrunk, PbxFact},
        ids::{RegistrationName, TrunkId},
        observation::{Fact, Observation, RegistrationState, Source},
    };

    #[derive(Debug)]
    struct Still(Timestamp);

    impl Clock for Still {
        fn now(&self) -> Timestamp {
            self.0
        }
    }

    fn seen(at: Timestamp, trunk: &TrunkId, state: RegistrationState) -> Input {
        let registration = RegistrationName::try_from(trunk.name()).unwrap();
        let fact = Fact::Registration { registration, state, source: Source::Event };
        Input::Seen(Observation { trunk: trunk.clone(), at, fact })
    }

    #[test]
    fn the_gate_holds_once_nobody_decides() {
        let (tx, gate) = Gate::new();
        let trunk = TrunkId::try_from("pbx1/airtel").unwrap();
        let since = Timestamp::UNIX_EPOCH;
        let state = crate::decision::GateState {
            allow: true,
            reason: String::new(),
            since,
            health: crate::health::Health::Stable,
            until: None,
            released: None,
            cause: None,
        };
        tx.open(1, &[(trunk.clone(), state)].into());
        assert!(gate.state(&trunk).is_some());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _shut = Shut(tx.clone());
            panic!("the deciding loop");
        }));
        assert!(panicked.is_err());
        assert_eq!(gate.state(&trunk), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_takes_nothing_does_not_keep_the_gate_open() {
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        let trunk = TrunkId::try_from("pbx1/airtel").unwrap();
        let board = Arc::new(RwLock::new(Board::new(3)));
        let (tx, gate) = Gate::new();
        let (inputs, inputs_rx) = mpsc::channel(64);
        let (_submissions, submissions) = mpsc::channel(1);
        let decider = Decider {
            board: Arc::clone(&board),
            gate: tx.clone(),
            inputs: inputs_rx,
            submissions,
            refusals: Refusals::default(),
            clock: Arc::new(Still(at)),
        };
        let tasks = tokio_util::task::TaskTracker::new();
        let (commits, mut decided) = mpsc::channel(3);
        tasks.spawn(decider.run(commits));
        let trunks = vec![ListedTrunk { id: trunk.clone(), endpoints: vec![], registrations: vec![] }];
        let listed = Input::Pbx { pbx: trunk.pbx(), at, fact: PbxFact::Listed { trunks } };
        inputs.send(Input::Started { at, unseen_since: at }).await.unwrap();
        inputs.send(seen(at, &trunk, RegistrationState::Registered)).await.unwrap();
        inputs.send(listed).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        tx.open(3, &[(trunk.clone(), board.read().unwrap().trunk(&trunk).unwrap().gate.clone())].into());
        assert!(gate.state(&trunk).unwrap().allow);
        // Nothing was committed, and there is no more room.
        inputs.send(seen(at, &trunk, RegistrationState::Rejected)).await.unwrap();
        inputs.send(seen(at, &trunk, RegistrationState::Rejected)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert!(!gate.state(&trunk).unwrap().allow, "the fourth step closed it");
        drop(inputs);
        let mut kept = Vec::new();
        while let Some(one) = decided.recv().await {
            kept.push(one);
        }
        tasks.close();
        tasks.wait().await;
        let last = kept.last().unwrap();
        assert_eq!((kept.len(), last.outcome.holds.len()), (4, 1), "two steps became one");
        assert!(last.outcome.records.iter().any(|record| record.subject == "journal" && record.detail["inputs"] == 2));
        assert_eq!(last.outcome.events.iter().map(|event| event.kind.as_str()).collect::<Vec<_>>(), [replay::START]);
        assert!(last.outcome.trunks.contains_key(&trunk) && !last.outcome.gate[&trunk].allow);
    }

    /// A decider of a board with one trunk, which is held.
    fn holding(at: Timestamp, trunk: &TrunkId) -> (Decider, mpsc::Sender<Input>, mpsc::Sender<Submission>) {
        let mut board = Board::new(3);
        let trunks = vec![ListedTrunk { id: trunk.clone(), endpoints: vec![], registrations: vec![] }];
        board.step(&Input::Started { at, unseen_since: at });
        board.step(&seen(at, trunk, RegistrationState::Registered));
        board.step(&Input::Pbx { pbx: trunk.pbx(), at, fact: PbxFact::Listed { trunks } });
        board.step(&seen(at, trunk, RegistrationState::Rejected));
        let (inputs, observed) = mpsc::channel(64);
        let (submissions, waiting) = mpsc::channel(1);
        let decider = Decider {
            board: Arc::new(RwLock::new(board)),
            gate: Gate::new().0,
            inputs: observed,
            submissions: waiting,
            refusals: Refusals::default(),
            clock: Arc::new(Still(at)),
        };
        (decider, inputs, submissions)
    }

    #[test]
    fn refused_calls_are_told_once_a_second_and_before_what_may_end_their_hold() {
        let start = Timestamp::from_second(1_800_000_000).unwrap();
        let at = |millis| crate::clock::after(start, Duration::from_millis(millis));
        let (trunk, other) = (TrunkId::try_from("pbx1/airtel").unwrap(), TrunkId::try_from("pbx1/tata").unwrap());
        let (decider, _inputs, _submissions) = holding(start, &trunk);
        let mut counted = Counted::default();
        let refuse = || decider.refusals.count(&trunk);
        let mut told = |input: &Input| match counted.before(input, &decider) {
            Some(Input::Refused { calls, at }) if at == input.at() => calls.get(&trunk).copied(),
            None => None,
            other => panic!("{other:?}"),
        };
        assert_eq!(told(&Input::Tick { at: at(0) }), None, "nothing was refused");
        refuse();
        assert_eq!(told(&Input::Tick { at: at(250) }), Some(1));
        refuse();
        refuse();
        assert_eq!(told(&Input::Tick { at: at(500) }), None);
        assert_eq!(told(&seen(at(600), &other, RegistrationState::Rejected)), None, "another trunk's event");
        assert_eq!(told(&Input::Tick { at: at(1250) }), Some(2));
        refuse();
        assert_eq!(told(&seen(at(1300), &trunk, RegistrationState::Registered)), Some(1));
        refuse();
        let act = crate::decision::Act::Release { reason: "x".to_owned(), lasting: None };
        let released = Input::Operator { at: at(1400), name: "ada".to_owned(), trunks: vec![trunk.clone()], act };
        assert_eq!(told(&released), Some(1));
        refuse();
        assert_eq!(told(&Input::Tick { at: at(1500) }), None);
        decider.board.write().unwrap().step(&seen(at(1600), &trunk, RegistrationState::Registered));
        assert_eq!(told(&Input::Tick { at: at(31_599) }), Some(1));
        refuse();
        assert_eq!(told(&Input::Tick { at: at(31_600) }), Some(1), "the recovery is over with this tick");
        refuse();
        assert_eq!(told(&Input::Tick { at: at(0) }), Some(1), "the clock was set back");
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_refused_last_is_stored_when_deciding_ends() {
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        let trunk = TrunkId::try_from("pbx1/airtel").unwrap();
        let (decider, inputs, _submissions) = holding(at, &trunk);
        decider.refusals.count(&trunk);
        drop(inputs);
        let (commits, mut decided) = mpsc::channel(8);
        decider.run(commits).await;
        let mut refused = Vec::new();
        while let Some(one) = decided.recv().await {
            refused.extend(one.outcome.holds.iter().map(|hold| hold.refused_calls));
        }
        assert_eq!(refused, [1]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_gate_knows_that_nothing_is_held_while_observing() {
        let at = Timestamp::from_second(1_800_000_000).unwrap();
        let trunk = TrunkId::try_from("pbx1/airtel").unwrap();
        for (mode, observing) in [(Mode::Observe, true), (Mode::Enforce, false)] {
            let (mut decider, inputs, _submissions) = holding(at, &trunk);
            let (tx, gate) = Gate::new();
            tx.observing(!observing);
            decider.gate = tx;
            let policy = Box::new(crate::decision::ControlPolicy { mode, ..Default::default() });
            inputs.send(Input::Configured { at, policy }).await.unwrap();
            drop(inputs);
            decider.run(mpsc::channel(8).0).await;
            assert_eq!(gate.is_observing(), observing);
        }
    }
}
