//! The loop that sees each message through to its receipt.
//!
//! One task owns all the state and waits for nothing but the store; every attempt is a task of its own, which reports
//! its end to that loop. So there is no lock, and a recipient that does not answer occupies its own attempts only.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, Span, debug, info, info_span, warn};

use super::{Leased, Outbox, OutboxError, OutboxPolicy};
use crate::{
    clock::{Clock, Timestamp, after, between},
    decision::{Input, Message, ReceiptOutcome, Recipient},
    effect::{
        dialer::{AttemptError, Delivery, Dialer},
        reasons,
    },
    ids::{CampaignKey, MessageId},
};

/// Who can be sent to, as the configuration has it now.
pub type Recipients = BTreeMap<Recipient, Arc<dyn Dialer>>;

/// How many messages are leased in one statement.
const BATCH: u32 = 64;
/// How soon to look again when something is due that cannot be leased: it is under way, or waits for the one before it.
/// Its receipt's commit is followed by a nudge, so this is the net below it.
const BLOCKED: Duration = Duration::from_secs(1);
/// How long to leave a failing store alone.
const STORE_FAILED: Duration = Duration::from_secs(2);

/// The outbox dispatcher.
///
/// Flow: a nudge after a commit, or the next due time, has it lease what is due. Each message waits in its recipient's
/// line for one of that recipient's places, and is attempted. Taken, gone, or failed for a day: its
/// [`Input::Receipt`] goes to the deciding loop, whose commit settles the row, which lets the campaign's next message
/// be leased. Failed: it is postponed in the store.
///
/// Guarantees
/// - Every committed message is attempted until it is taken, its recipient is gone (410, or no longer configured), it
///   is given up ([`OutboxPolicy::give_up_after`]), or the board settles it: across crashes, since nothing but a commit
///   settles a row.
/// - Every attempt carries the same id.
/// - Messages about one campaign are attempted in the order they were decided, since the store leases the next only
///   once the one before is settled.
/// - While this process lives, a message whose receipt was handed over is not attempted again, however long its commit
///   takes. A lease that ends in the meantime has the same receipt handed over again.
/// - A recipient that is slow, dead or flooded delays no other.
/// - It stops within [`OutboxPolicy::grace`]. What is cut off then is sent again after the next start.
///
/// Assumptions
/// - The outbox keeps what [`Outbox`] promises, and this is its only dispatcher.
/// - The deciding loop takes a receipt for a message that is settled already without acting on it twice.
/// - Recipients tell a repeated message by its id and answer it as they did the first time.
/// - On stopping, the deciding loop goes on until this has ended; receipts handed to nobody mean attempts made twice.
///
/// Caveats
/// - At least once: after a crash between an answer and its commit the message is sent again.
/// - An attempt that timed out may still be acted on by its recipient, even after a later message.
/// - A message the board no longer wants is delivered all the same if it was leased before; its receipt tells.
/// - After a crash, messages that were leased wait for their lease to end.
#[derive(Debug)]
pub struct Dispatcher {
    /// Where messages come from.
    pub outbox: Arc<dyn Outbox>,
    /// Where they go. A new value is a new configuration: recipients that were gone are tried again.
    pub recipients: watch::Receiver<Arc<Recipients>>,
    /// Notified ([`Notify::notify_one`]) after every commit with messages, or with settled ones.
    pub nudge: Arc<Notify>,
    /// The deciding loop.
    pub inputs: mpsc::Sender<Input>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// How patient to be.
    pub policy: OutboxPolicy,
    /// Attempts are spawned through it.
    pub tasks: TaskTracker,
}

/// A message in our hands.
#[derive(Debug)]
struct Hand {
    leased: Leased,
    until: Timestamp,
    stage: Stage,
}

#[derive(Debug)]
enum Stage {
    /// In its recipient's line.
    Waiting,
    /// A task has it.
    UnderWay,
    /// Its receipt was handed over; its commit is not seen yet.
    Submitted(ReceiptOutcome),
}

/// What is delivered in order: a recipient's messages about one campaign, or about none.
type Key = (Recipient, Option<CampaignKey>);

fn key(message: &Message) -> Key {
    (message.to.clone(), message.campaign.clone())
}

/// A recipient's line.
#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<MessageId>,
    attempts: usize,
}

/// What the loop knows.
#[derive(Debug)]
struct State {
    hands: HashMap<MessageId, Hand>,
    /// Those of them whose receipt was handed over: one a key, since the key's next message proves the commit.
    submitted: BTreeMap<Key, MessageId>,
    lines: BTreeMap<Recipient, Line>,
    /// Who answered 410 since the configuration was read.
    gone: BTreeSet<Recipient>,
    /// Which configuration this is, so that a 410 to the one before disables nothing.
    generation: u64,
    under_way: usize,
    store_failed: bool,
    endings: mpsc::UnboundedSender<Ending>,
    cut: CancellationToken,
}

/// A task's last word.
#[derive(Debug)]
struct Ending {
    id: MessageId,
    to: Recipient,
    kind: TaskKind,
    end: End,
}

#[derive(Debug, Clone, Copy)]
enum TaskKind {
    /// It made an attempt, under this configuration.
    Attempt { generation: u64 },
    /// It handed over a receipt.
    Receipt,
}

#[derive(Debug)]
enum End {
    /// The receipt was handed over.
    Submitted { outcome: ReceiptOutcome, gone: bool },
    /// It is back in the store: postponed, or to be leased again.
    Back,
}

/// Sends a task's last word even if the task panics or is dropped.
struct LastWord {
    ending: Option<Ending>,
    to: mpsc::UnboundedSender<Ending>,
}

impl Drop for LastWord {
    fn drop(&mut self) {
        if let Some(ending) = self.ending.take() {
            // Nobody listens any more: nothing to tell.
            self.to.send(ending).ok();
        }
    }
}

impl LastWord {
    fn say(mut self, end: End) {
        if let Some(ending) = &mut self.ending {
            ending.end = end;
        }
    }
}

impl Dispatcher {
    /// Dispatches until `stop`, or until the deciding loop is gone.
    ///
    /// Cancel safety: dropping it cuts the attempts off, as the end of the grace period does.
    pub async fn run(mut self, stop: CancellationToken) {
        let (ended, mut endings) = mpsc::unbounded_channel();
        let cut = CancellationToken::new();
        let _cut_when_dropped = cut.clone().drop_guard();
        let mut state = State {
            hands: HashMap::new(),
            submitted: BTreeMap::new(),
            lines: BTreeMap::new(),
            gone: BTreeSet::new(),
            generation: 0,
            under_way: 0,
            store_failed: false,
            endings: ended,
            cut: cut.clone(),
        };
        let mut next = Instant::now();
        let mut reconfigurable = true;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = self.inputs.closed() => break,
                Some(ending) = endings.recv() => {
                    let back = matches!(ending.end, End::Back);
                    self.ended(&mut state, ending);
                    if back && !state.store_failed {
                        next = Instant::now(); // it was postponed: learn until when
                    }
                }
                changed = self.recipients.changed(), if reconfigurable => match changed {
                    Ok(()) => self.reconfigured(&mut state),
                    Err(_) => reconfigurable = false, // the last configuration stays
                },
                () = self.nudge.notified(), if !state.store_failed => next = Instant::now(),
                () = sleep_until(next) => {
                    tokio::select! {
                        biased;
                        () = stop.cancelled() => break,
                        wait = self.sweep(&mut state) => next = Instant::now() + wait,
                    }
                }
            }
        }
        let ending = async {
            while state.under_way > 0 {
                let Some(ending) = endings.recv().await else { break };
                state.note(&ending);
            }
        };
        if timeout(self.policy.grace, ending).await.is_err() {
            warn!(attempts = state.under_way, "attempts cut off; they are made again after the next start");
        }
        cut.cancel();
    }

    /// Takes what is due, and says how long to wait until it is time to look again.
    async fn sweep(&self, state: &mut State) -> Duration {
        let wait = match self.lease(state).await {
            Ok(wait) => wait,
            Err(error) => {
                if !state.store_failed {
                    warn!(error = reasons(&error), "the outbox cannot be read; messages wait");
                }
                state.store_failed = true;
                return STORE_FAILED;
            }
        };
        if state.store_failed {
            info!("the outbox can be read again");
        }
        state.store_failed = false;
        wait
    }

    async fn lease(&self, state: &mut State) -> Result<Duration, OutboxError> {
        let now = self.clock.now();
        let mut all = true;
        if self.outbox.next_due().await?.is_some_and(|due| due <= now) {
            loop {
                if state.hands.len().saturating_sub(state.submitted.len()) >= self.policy.in_hand {
                    all = false;
                    break;
                }
                let batch = self.outbox.lease_due(now, BATCH, self.policy.lease).await?;
                let last = batch.len() < usize::try_from(BATCH).unwrap_or(usize::MAX);
                let until = after(now, self.policy.lease);
                for leased in batch {
                    self.take(state, leased, until);
                }
                if last {
                    break;
                }
            }
        }
        if all {
            // What was handed over, and is not due although its lease has ended, was settled.
            let State { hands, submitted, .. } = state;
            submitted.retain(|_, id| {
                let kept = hands.get(id).is_some_and(|hand| hand.until > now);
                if !kept {
                    hands.remove(id);
                }
                kept
            });
        }
        let now = self.clock.now();
        Ok(match self.outbox.next_due().await? {
            None => self.policy.recheck,
            Some(due) if due <= now => BLOCKED.min(self.policy.recheck),
            Some(due) => between(now, due).min(self.policy.recheck),
        })
    }

    fn take(&self, state: &mut State, leased: Leased, until: Timestamp) {
        let id = leased.message.id.clone();
        if let Some(hand) = state.hands.get_mut(&id) {
            hand.until = until;
            match &hand.stage {
                Stage::Waiting => hand.leased = leased,
                Stage::UnderWay => {}
                Stage::Submitted(outcome) => {
                    let outcome = outcome.clone();
                    debug!(message.id = %id, "a receipt is not committed yet; it is handed over again");
                    self.hand_over(state, &id, outcome);
                }
            }
            return;
        }
        if let Some(before) = state.submitted.remove(&key(&leased.message)) {
            state.hands.remove(&before);
        }
        let to = leased.message.to.clone();
        state.hands.insert(id.clone(), Hand { leased, until, stage: Stage::Waiting });
        state.lines.entry(to.clone()).or_default().waiting.push_back(id);
        self.advance(state, &to);
    }

    /// Starts what a recipient's line has places for.
    fn advance(&self, state: &mut State, to: &Recipient) {
        let recipients = self.recipients.borrow().clone();
        let now = self.clock.now();
        loop {
            let Some(line) = state.lines.get_mut(to) else { return };
            if line.attempts >= self.policy.at_once {
                return;
            }
            let Some(id) = line.waiting.pop_front() else { break };
            let Some(hand) = state.hands.get(&id) else { continue };
            let message = &hand.leased.message;
            let given_up = if now >= after(message.at, self.policy.give_up_after) {
                Some(format!(
                    "not delivered within {}, after {} attempts",
                    humantime::format_duration(self.policy.give_up_after),
                    hand.leased.attempts
                ))
            } else if state.gone.contains(to) {
                Some("its recipient wants no messages any more (410)".to_owned())
            } else {
                None
            };
            match (given_up, recipients.get(to)) {
                (None, Some(_)) if between(now, hand.until) < self.policy.attempt_limit() => {
                    // It waited too long here: it is leased again when its lease has ended.
                    state.hands.remove(&id);
                }
                (None, Some(dialer)) => self.start(state, &id, Arc::clone(dialer)),
                (None, None) => self.give_up(state, &id, "its recipient is not in the configuration".to_owned()),
                (Some(error), _) => self.give_up(state, &id, error),
            }
        }
        if state.lines.get(to).is_some_and(|line| line.attempts == 0) {
            state.lines.remove(to);
        }
    }

    fn start(&self, state: &mut State, id: &MessageId, dialer: Arc<dyn Dialer>) {
        let Some(hand) = state.hands.get_mut(id) else { return };
        let to = hand.leased.message.to.clone();
        hand.stage = Stage::UnderWay;
        let leased = hand.leased.clone();
        if let Some(line) = state.lines.get_mut(&to) {
            line.attempts += 1;
        }
        let span = span(&leased);
        let attempt = Attempt {
            outbox: Arc::clone(&self.outbox),
            clock: Arc::clone(&self.clock),
            inputs: self.inputs.clone(),
            policy: self.policy,
            leased,
        };
        let kind = TaskKind::Attempt { generation: state.generation };
        self.spawn(state, id, to, kind, span, async move { attempt.make(dialer.as_ref()).await });
    }

    fn give_up(&self, state: &mut State, id: &MessageId, error: String) {
        let Some(hand) = state.hands.get(id) else { return };
        span(&hand.leased).in_scope(|| warn!(error, "message given up"));
        self.hand_over(state, id, ReceiptOutcome::Abandoned { error });
    }

    fn hand_over(&self, state: &mut State, id: &MessageId, outcome: ReceiptOutcome) {
        let Some(hand) = state.hands.get_mut(id) else { return };
        hand.stage = Stage::UnderWay;
        state.submitted.remove(&key(&hand.leased.message));
        let to = hand.leased.message.to.clone();
        let span = span(&hand.leased);
        let (inputs, clock, message) = (self.inputs.clone(), Arc::clone(&self.clock), id.clone());
        self.spawn(state, id, to, TaskKind::Receipt, span, async move {
            submit(&inputs, clock.as_ref(), message, outcome, false).await
        });
    }

    fn spawn(
        &self,
        state: &mut State,
        id: &MessageId,
        to: Recipient,
        kind: TaskKind,
        span: Span,
        work: impl Future<Output = End> + Send + 'static,
    ) {
        let ending = Some(Ending { id: id.clone(), to, kind, end: End::Back });
        let last_word = LastWord { ending, to: state.endings.clone() };
        let cut = state.cut.clone();
        state.under_way += 1;
        let task = async move {
            if let Some(end) = cut.run_until_cancelled(work).await {
                last_word.say(end);
            }
        };
        self.tasks.spawn(task.instrument(span));
    }

    fn ended(&self, state: &mut State, ending: Ending) {
        state.note(&ending);
        let Ending { id, to, kind, end } = ending;
        match end {
            End::Back => {
                state.hands.remove(&id);
            }
            End::Submitted { outcome, gone } => {
                if let Some(hand) = state.hands.get_mut(&id) {
                    hand.stage = Stage::Submitted(outcome);
                    if let Some(before) = state.submitted.insert(key(&hand.leased.message), id) {
                        state.hands.remove(&before);
                    }
                }
                let current = matches!(kind, TaskKind::Attempt { generation } if generation == state.generation);
                if gone && current && state.gone.insert(to.clone()) {
                    let recipient = name(&to);
                    warn!(recipient, "the recipient answered 410: disabled until the configuration is read again");
                }
            }
        }
        self.advance(state, &to);
    }

    fn reconfigured(&self, state: &mut State) {
        state.generation += 1;
        state.gone.clear();
        for to in state.lines.keys().cloned().collect::<Vec<_>>() {
            self.advance(state, &to);
        }
    }
}

impl State {
    /// Counts a task that ended.
    fn note(&mut self, ending: &Ending) {
        self.under_way = self.under_way.saturating_sub(1);
        match ending.kind {
            TaskKind::Attempt { .. } => {
                if let Some(line) = self.lines.get_mut(&ending.to) {
                    line.attempts = line.attempts.saturating_sub(1);
                }
            }
            TaskKind::Receipt => {}
        }
    }
}

/// One attempt of one message, and what follows from it.
struct Attempt {
    outbox: Arc<dyn Outbox>,
    clock: Arc<dyn Clock>,
    inputs: mpsc::Sender<Input>,
    policy: OutboxPolicy,
    leased: Leased,
}

impl Attempt {
    async fn make(self, dialer: &dyn Dialer) -> End {
        let Leased { message, attempts } = &self.leased;
        let limit = self.policy.attempt_limit();
        let delivery = timeout(limit, dialer.deliver(message, attempts.saturating_add(1)))
            .await
            .unwrap_or(Delivery::Retry { error: AttemptError::TimedOut { limit }, after: None });
        match delivery {
            Delivery::Delivered { was_running } => {
                info!(was_running, "message delivered");
                self.submit(ReceiptOutcome::Delivered { was_running }, false).await
            }
            Delivery::Gone { error } => {
                let error = reasons(&error);
                warn!(error, "message given up");
                self.submit(ReceiptOutcome::Abandoned { error }, true).await
            }
            Delivery::Retry { error, after } => self.failed(message, &reasons(&error), after).await,
        }
    }

    async fn failed(&self, message: &Message, error: &str, retry_after: Option<Duration>) -> End {
        let next_at = after(self.clock.now(), self.policy.delay(self.leased.attempts, retry_after));
        if next_at >= after(message.at, self.policy.give_up_after) {
            warn!(error, "message given up");
            let error = format!(
                "not delivered within {}, after {} attempts; the last: {error}",
                humantime::format_duration(self.policy.give_up_after),
                self.leased.attempts.saturating_add(1)
            );
            return self.submit(ReceiptOutcome::Abandoned { error }, false).await;
        }
        match self.outbox.postpone(&message.id, next_at, error).await {
            Ok(()) => warn!(error, %next_at, "message not delivered; it will be sent again"),
            Err(failure) => {
                // Not counted then, but sent again all the same: when its lease has ended.
                warn!(error, store = reasons(&failure), "message not delivered, which cannot be noted");
            }
        }
        End::Back
    }

    async fn submit(&self, outcome: ReceiptOutcome, gone: bool) -> End {
        submit(&self.inputs, self.clock.as_ref(), self.leased.message.id.clone(), outcome, gone).await
    }
}

async fn submit(
    inputs: &mpsc::Sender<Input>,
    clock: &dyn Clock,
    message: MessageId,
    outcome: ReceiptOutcome,
    gone: bool,
) -> End {
    // The room comes first, the time after it: receipts are in order with what the loop hears from others.
    let Ok(room) = inputs.reserve().await else {
        debug!("the deciding loop is gone; the receipt is lost, and the message will be sent again");
        return End::Back;
    };
    room.send(Input::Receipt { at: clock.now(), message, outcome: outcome.clone() });
    End::Submitted { outcome, gone }
}

fn span(leased: &Leased) -> Span {
    let Leased { message, attempts } = leased;
    info_span!(
        "outbox.deliver",
        message.id = %message.id,
        message.r#type = message.kind.as_str(),
        recipient = name(&message.to),
        campaign.id = message.campaign.as_ref().map(tracing::field::display),
        attempt = attempts.saturating_add(1),
    )
}

fn name(recipient: &Recipient) -> &str {
    match recipient {
        Recipient::Dialer(id) => id.as_str(),
        Recipient::Notify(name) => name,
    }
}
