//! The deciding loop and the committer behind it.
//!
//! One task decides: it takes inputs in the order they come, steps the board, and closes the gate for what is held
//! before it awaits anything. A second task commits what was decided, many steps in one transaction when they come
//! thick, and opens the gate for what was released only then. So a slow disk delays releases and never holds, and a
//! failing event is not kept waiting by the commit of the one before it.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{
    sync::{Notify, broadcast, mpsc, oneshot},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::{
    api::{Readiness, Submission, SubmitError},
    clock::Clock,
    decision::{Board, GateTx, Input, Outcome},
    store::Store,
};

/// How often time is told to the board: how late a release, a pause or a confirmed failure can be.
pub const TICK: Duration = Duration::from_millis(250);
/// How many inputs may wait for the loop. Those who observe wait when it is full: the AMI link counts what it loses then.
pub const INPUTS: usize = 16_384;
/// How many decided steps may wait for the store.
const UNCOMMITTED: usize = 65_536;
/// How many steps are committed in one transaction.
const BATCH: usize = 512;
/// How often it is noted that this controller is alive, when nothing else is written: the most by which a restart
/// misjudges when the last run ended.
const ALIVE: Duration = Duration::from_secs(5);
/// How long is waited between attempts at a store that fails: first, and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long a store that fails is tried on stopping.
const LAST_TRIES: Duration = Duration::from_secs(5);

/// A step that was decided and waits for its commit.
struct Decided {
    step: u64,
    outcome: Outcome,
    done: Option<oneshot::Sender<Result<(), SubmitError>>>,
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
pub async fn run(decider: Decider, committer: Committer, stopping: CancellationToken) {
    let (commits, decided) = mpsc::channel(UNCOMMITTED);
    tokio::join!(decider.run(commits), committer.run(decided, stopping));
}

impl Decider {
    async fn run(mut self, commits: mpsc::Sender<Decided>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut step = 0;
        loop {
            let (input, done) = tokio::select! {
                input = self.inputs.recv() => match input {
                    Some(input) => (input, None),
                    None => break,
                },
                Some(submission) = self.submissions.recv() => (submission.input, Some(submission.done)),
                _ = ticks.tick() => (Input::Tick { at: self.clock.now() }, None),
            };
            step += 1;
            let outcome = self.board.write().unwrap_or_else(PoisonError::into_inner).step(&input);
            self.gate.close(step, &outcome.gate);
            tell(&outcome);
            if done.is_some() || outcome != Outcome::default() {
                // The committer outlives this loop, so a closed channel means that it panicked; then nothing is left to do.
                if commits.send(Decided { step, outcome, done }).await.is_err() {
                    error!("the committer is gone; deciding stops");
                    break;
                }
            }
        }
        self.submissions.close();
        while let Some(submission) = self.submissions.recv().await {
            // Whoever asked may have gone; then there is nobody to tell.
            submission.done.send(Err(SubmitError::Stopping)).ok();
        }
    }
}

/// The log's line for each decision.
fn tell(outcome: &Outcome) {
    for event in &outcome.events {
        match event.kind.as_str() {
            "gate" => debug!(event.kind = "gate", event.data = %event.data, "gate changed"),
            kind => info!(event.kind = kind, event.data = %event.data, "decided"),
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
                if let Some(done) = done {
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

/// An error and its causes on one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
