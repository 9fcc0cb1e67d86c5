//! The outbox dispatcher and the webhook dialer, against a receiver that speaks real HTTP and checks real signatures.
//!
//! What depends on minutes and hours runs under paused time with a scripted recipient; what depends on HTTP runs over
//! loopback sockets with short delays. The outbox is a small one in memory that keeps what the port promises: leases,
//! and order for each campaign.

#![expect(clippy::unwrap_used, reason = "a test that cannot be set up has failed")]

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, Response, Uri},
};
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    sync::{Notify, mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trunkwarden::{
    clock::{Clock, SystemClock, Timestamp, after, before},
    decision::{Input, Message, MessageType, ReceiptOutcome, Recipient},
    effect::{
        AttemptError, Delivery, Dialer, Dispatcher, Leased, Outbox, OutboxError, OutboxPolicy, Recipients,
        dialer::{Webhook, WebhookTarget, http},
    },
    ids::{CampaignKey, MessageId},
};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// Longer than anything here takes, shorter than a person's patience.
const SOON: Duration = Duration::from_secs(10);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

// --- messages

fn id(n: u32) -> MessageId {
    MessageId::try_from(format!("msg_{n:04}")).unwrap()
}

fn dialer(name: &str) -> Recipient {
    Recipient::Dialer(name.parse().unwrap())
}

fn message(n: u32, to: &str, campaign: &str, kind: MessageType, at: Timestamp) -> Message {
    let campaign = CampaignKey { dialer: to.parse().unwrap(), id: campaign.parse().unwrap() };
    Message {
        id: id(n),
        to: dialer(to),
        body: serde_json::json!({
            "type": kind.as_str(), "timestamp": at, "data": {"dialer": to, "campaign": campaign.id, "reason": "ü"},
        }),
        campaign: Some(campaign),
        kind,
        at,
    }
}

// --- the outbox in memory

#[derive(Debug, Clone)]
struct Row {
    message: Message,
    attempts: u32,
    next_at: Timestamp,
    leased_until: Option<Timestamp>,
    settled: bool,
    errors: Vec<String>,
}

impl Row {
    fn due_at(&self) -> Timestamp {
        self.leased_until.map_or(self.next_at, |until| until.max(self.next_at))
    }
}

#[derive(Debug, Default)]
struct Rows {
    rows: Mutex<Vec<Row>>,
    failing: AtomicBool,
}

impl Rows {
    fn check(&self) -> Result<(), OutboxError> {
        if self.failing.load(Ordering::SeqCst) {
            return Err(OutboxError { step: "reading", source: "disk full".into() });
        }
        Ok(())
    }

    fn row(&self, id: &MessageId) -> Row {
        lock(&self.rows).iter().find(|row| row.message.id == *id).unwrap().clone()
    }

    fn settle(&self, id: &MessageId) {
        lock(&self.rows).iter_mut().find(|row| row.message.id == *id).unwrap().settled = true;
    }

    /// The first of each campaign that is not settled.
    fn heads(rows: &mut [Row]) -> Vec<&mut Row> {
        let mut heads = Vec::new();
        let mut seen = Vec::new();
        for row in rows.iter_mut().filter(|row| !row.settled) {
            let key = (row.message.to.clone(), row.message.campaign.clone());
            if !seen.contains(&key) {
                seen.push(key);
                heads.push(row);
            }
        }
        heads
    }
}

impl Outbox for Rows {
    fn lease_due(
        &self,
        now: Timestamp,
        limit: u32,
        lease: Duration,
    ) -> BoxFuture<'_, Result<Vec<Leased>, OutboxError>> {
        async move {
            self.check()?;
            let mut rows = lock(&self.rows);
            Ok(Self::heads(&mut rows)
                .into_iter()
                .filter(|row| row.due_at() <= now)
                .take(limit as usize)
                .map(|row| {
                    row.leased_until = Some(after(now, lease));
                    Leased { message: row.message.clone(), attempts: row.attempts }
                })
                .collect())
        }
        .boxed()
    }

    fn postpone<'a>(
        &'a self,
        message: &'a MessageId,
        next_at: Timestamp,
        error: &'a str,
    ) -> BoxFuture<'a, Result<(), OutboxError>> {
        async move {
            self.check()?;
            let mut rows = lock(&self.rows);
            let row = rows.iter_mut().find(|row| row.message.id == *message && !row.settled);
            if let Some(row) = row {
                row.attempts += 1;
                row.next_at = next_at;
                row.leased_until = None;
                row.errors.push(error.to_owned());
            }
            Ok(())
        }
        .boxed()
    }

    fn next_due(&self) -> BoxFuture<'_, Result<Option<Timestamp>, OutboxError>> {
        async move {
            self.check()?;
            Ok(Self::heads(&mut lock(&self.rows)).into_iter().map(|row| row.due_at()).min())
        }
        .boxed()
    }
}

// --- the dispatcher under test, with a deciding loop that commits each receipt

/// Wall time that goes with tokio's, so that it can be paused.
#[derive(Debug)]
struct TokioClock(Timestamp, Instant);

impl TokioClock {
    fn start() -> Self {
        Self("2026-03-01T00:00:00Z".parse().unwrap(), Instant::now())
    }
}

impl Clock for TokioClock {
    fn now(&self) -> Timestamp {
        after(self.0, self.1.elapsed())
    }
}

struct Rig {
    /// How long a receipt may take: days, where time is paused.
    patience: Duration,
    outbox: Arc<Rows>,
    clock: Arc<dyn Clock>,
    nudge: Arc<Notify>,
    recipients: watch::Sender<Arc<Recipients>>,
    inputs: Option<mpsc::Receiver<Input>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Short delays, for real sockets.
fn quick() -> OutboxPolicy {
    OutboxPolicy {
        first_delay: Duration::from_millis(10),
        longest_delay: Duration::from_millis(40),
        grace: Duration::from_secs(2),
        ..OutboxPolicy::default()
    }
}

impl Rig {
    fn start(policy: OutboxPolicy, clock: Arc<dyn Clock>, recipients: Recipients) -> Self {
        let (inputs, receipts) = mpsc::channel(64);
        let (recipients, configured) = watch::channel(Arc::new(recipients));
        let rig = Self {
            patience: SOON,
            outbox: Arc::default(),
            clock,
            nudge: Arc::default(),
            recipients,
            inputs: Some(receipts),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let dispatcher = Dispatcher {
            outbox: Arc::clone(&rig.outbox) as Arc<dyn Outbox>,
            recipients: configured,
            nudge: Arc::clone(&rig.nudge),
            inputs,
            clock: Arc::clone(&rig.clock),
            policy,
            tasks: rig.tasks.clone(),
        };
        rig.tasks.spawn(dispatcher.run(rig.stop.clone()));
        rig
    }

    /// With real time, and `to` told by webhook.
    fn webhook(policy: OutboxPolicy, to: &[(&str, WebhookTarget)]) -> Self {
        Self::start(policy, Arc::new(SystemClock), webhooks(to))
    }

    fn commit(&self, messages: impl IntoIterator<Item = Message>) {
        lock(&self.outbox.rows).extend(messages.into_iter().map(|message| Row {
            next_at: message.at,
            message,
            attempts: 0,
            leased_until: None,
            settled: false,
            errors: Vec::new(),
        }));
        self.nudge.notify_one();
    }

    fn pause(&self, n: u32, to: &str, campaign: &str) {
        self.commit([message(n, to, campaign, MessageType::CampaignPause, self.clock.now())]);
    }

    /// The next receipt, not committed.
    async fn receipt(&mut self) -> (MessageId, ReceiptOutcome) {
        let inputs = self.inputs.as_mut().expect("the deciding loop is there");
        match timeout(self.patience, inputs.recv()).await.expect("a receipt in time") {
            Some(Input::Receipt { message, outcome, .. }) => (message, outcome),
            other => panic!("no receipt: {other:?}"),
        }
    }

    /// The next receipt, committed.
    async fn settled(&mut self) -> (MessageId, ReceiptOutcome) {
        let (message, outcome) = self.receipt().await;
        self.outbox.settle(&message);
        self.nudge.notify_one();
        (message, outcome)
    }

    async fn stop(mut self) {
        self.stop.cancel();
        self.tasks.close();
        timeout(SOON, self.tasks.wait()).await.expect("everything ended");
        if let Some(inputs) = &mut self.inputs {
            assert!(inputs.try_recv().is_err(), "a receipt nobody waited for");
        }
    }
}

fn delivered(was_running: Option<bool>) -> ReceiptOutcome {
    ReceiptOutcome::Delivered { was_running }
}

fn abandoned(outcome: ReceiptOutcome) -> String {
    match outcome {
        ReceiptOutcome::Abandoned { error } => error,
        ReceiptOutcome::Delivered { .. } => panic!("it was delivered"),
    }
}

// --- a receiver that speaks HTTP

#[derive(Debug, Clone)]
enum Answer {
    Status(u16),
    With(u16, &'static str, String),
    Body(u16, Vec<u8>),
    /// A status at once, and a body without end.
    Endless(u16),
    /// A status at once, and a body of which nothing comes.
    Stuck(u16),
    Never,
}

#[derive(Debug, Clone)]
struct Arrival {
    at: Instant,
    path: String,
    headers: HeaderMap,
    body: Bytes,
}

impl Arrival {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    fn verify(&self) -> Result<(), standardwebhooks::WebhookError> {
        standardwebhooks::Webhook::new(SECRET)?.verify(&self.body, &self.headers)
    }
}

#[derive(Debug)]
struct Receiver {
    address: SocketAddr,
    arrivals: Arc<Mutex<Vec<Arrival>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

type Script = (Arc<Mutex<VecDeque<Answer>>>, Arc<Mutex<Vec<Arrival>>>);

impl Receiver {
    /// Answers as scripted, and 204 afterwards.
    async fn start(script: impl IntoIterator<Item = Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script: Script = (Arc::new(Mutex::new(script.into_iter().collect())), Arc::default());
        let arrivals = Arc::clone(&script.1);
        let router = Router::new().fallback(receive).with_state(script);
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let stopped = stop.clone();
        tasks.spawn(async move { stopped.run_until_cancelled(async { axum::serve(listener, router).await }).await });
        Self { address, arrivals, tasks, stop }
    }

    fn target(&self) -> WebhookTarget {
        target(&format!("http://{}/hooks", self.address))
    }

    fn arrivals(&self) -> Vec<Arrival> {
        lock(&self.arrivals).clone()
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

fn target(url: &str) -> WebhookTarget {
    WebhookTarget { url: url.into(), secret: Some(SECRET.into()), timeout: Duration::from_secs(5) }
}

/// Why the first attempt failed, once it has.
async fn first_error(rig: &Rig, message: &MessageId) -> String {
    let noted = async {
        loop {
            if let Some(error) = rig.outbox.row(message).errors.first() {
                break error.clone();
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, noted).await.unwrap()
}

fn webhooks(to: &[(&str, WebhookTarget)]) -> Recipients {
    let client = http::client().unwrap();
    to.iter()
        .map(|(name, target)| {
            let webhook = Webhook::new(target, client.clone(), Arc::new(SystemClock)).unwrap();
            (dialer(name), Arc::new(webhook) as Arc<dyn Dialer>)
        })
        .collect()
}

async fn receive(
    State((script, arrivals)): State<Script>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    lock(&arrivals).push(Arrival { at: Instant::now(), path: uri.to_string(), headers, body });
    let answer = lock(&script).pop_front().unwrap_or(Answer::Status(204));
    let response = Response::builder();
    match answer {
        Answer::Status(status) => response.status(status).body(Body::empty()),
        Answer::With(status, header, value) => response.status(status).header(header, value).body(Body::empty()),
        Answer::Body(status, body) => response.status(status).body(body.into()),
        Answer::Endless(status) => response
            .status(status)
            .body(Body::from_stream(stream::repeat(Bytes::from_static(&[b' '; 8192])).map(Ok::<_, std::io::Error>))),
        Answer::Stuck(status) => {
            response.status(status).body(Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>()))
        }
        Answer::Never => std::future::pending().await,
    }
    .unwrap()
}

// --- a recipient without a socket

type Scripted = Box<dyn Fn(&Message, u32) -> BoxFuture<'static, Delivery> + Send + Sync>;

/// Notes each attempt, and lets `answer` say what comes of it.
struct Recorder {
    answer: Scripted,
    attempts: Mutex<Vec<(MessageId, u32, Instant)>>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recorder")
    }
}

impl Recorder {
    fn new(answer: impl Fn(&Message, u32) -> BoxFuture<'static, Delivery> + Send + Sync + 'static) -> Arc<Self> {
        Arc::new(Self { answer: Box::new(answer), attempts: Mutex::default() })
    }

    fn taking() -> Arc<Self> {
        Self::new(|_, _| async { Delivery::Delivered { was_running: None } }.boxed())
    }

    fn ids(&self) -> Vec<MessageId> {
        lock(&self.attempts).iter().map(|(id, _, _)| id.clone()).collect()
    }
}

impl Dialer for Recorder {
    fn deliver<'a>(&'a self, message: &'a Message, attempt: u32) -> BoxFuture<'a, Delivery> {
        lock(&self.attempts).push((message.id.clone(), attempt, Instant::now()));
        (self.answer)(message, attempt)
    }
}

fn failed() -> Delivery {
    Delivery::Retry { error: AttemptError::TimedOut { limit: Duration::from_secs(1) }, after: None }
}

fn recorders(to: &[(&str, &Arc<Recorder>)]) -> Recipients {
    to.iter().map(|(name, recorder)| (dialer(name), Arc::clone(recorder) as Arc<dyn Dialer>)).collect()
}

fn paused(recipients: Recipients) -> Rig {
    paused_by(OutboxPolicy::default(), recipients)
}

fn paused_by(policy: OutboxPolicy, recipients: Recipients) -> Rig {
    let rig = Rig::start(policy, Arc::new(TokioClock::start()), recipients);
    Rig { patience: 2 * policy.give_up_after, ..rig }
}

// --- over HTTP

#[tokio::test]
async fn a_message_arrives_signed_and_its_2xx_is_the_receipt() {
    let crm = Receiver::start([]).await;
    let mut rig = Rig::webhook(quick(), &[("crm", crm.target())]);
    rig.pause(1, "crm", "7");
    assert_eq!(rig.settled().await, (id(1), delivered(None)));

    let [arrival] = &crm.arrivals()[..] else { panic!("one arrival") };
    arrival.verify().unwrap();
    assert_eq!(arrival.header("webhook-id"), "msg_0001");
    assert_eq!(arrival.header("content-type"), "application/json");
    assert!(arrival.header("user-agent").starts_with("trunkwarden/"));
    let body: serde_json::Value = serde_json::from_slice(&arrival.body).unwrap();
    assert_eq!((&body["type"], &body["data"]["reason"]), (&"campaign.pause".into(), &"ü".into()));
    rig.stop().await;
    crm.stop().await;
}

#[tokio::test]
async fn a_target_without_a_secret_gets_id_and_time_but_no_signature() {
    let chat = Receiver::start([]).await;
    let mut rig = Rig::webhook(quick(), &[("chat", WebhookTarget { secret: None, ..chat.target() })]);
    rig.pause(1, "chat", "7");
    rig.settled().await;
    let arrival = &chat.arrivals()[0];
    assert_eq!(arrival.header("webhook-id"), "msg_0001");
    assert!(arrival.headers.contains_key("webhook-timestamp") && !arrival.headers.contains_key("webhook-signature"));
    rig.stop().await;
    chat.stop().await;
}

#[tokio::test]
async fn every_attempt_has_the_same_id_and_body_and_no_redirect_is_followed() {
    let elsewhere = Receiver::start([]).await;
    let crm = Receiver::start([
        Answer::Status(500),
        Answer::With(307, "location", format!("http://{}/stolen", elsewhere.address)),
        Answer::With(302, "location", "/other".to_owned()),
        Answer::Status(404),
        Answer::Status(204),
    ])
    .await;
    let mut rig = Rig::webhook(quick(), &[("crm", crm.target())]);
    rig.pause(1, "crm", "7");
    assert_eq!(rig.settled().await, (id(1), delivered(None)));

    let arrivals = crm.arrivals();
    assert_eq!(arrivals.len(), 5);
    for arrival in &arrivals {
        arrival.verify().unwrap();
        assert_eq!((arrival.header("webhook-id"), arrival.path.as_str()), ("msg_0001", "/hooks"));
        assert_eq!(arrival.body, arrivals[0].body);
    }
    assert!(elsewhere.arrivals().is_empty());
    let errors = rig.outbox.row(&id(1)).errors;
    assert!(errors[0].contains("500") && errors[1].contains("307") && errors[1].contains("redirect"), "{errors:?}");
    assert!(!errors.iter().any(|error| error.contains("stolen")), "{errors:?}");
    rig.stop().await;
    crm.stop().await;
    elsewhere.stop().await;
}

#[tokio::test]
async fn the_timestamp_is_the_attempts_own() {
    let crm = Receiver::start([Answer::Status(500)]).await;
    let mut rig = Rig::webhook(
        OutboxPolicy { first_delay: Duration::from_millis(2_400), longest_delay: SOON, ..quick() },
        &[("crm", crm.target())],
    );
    rig.pause(1, "crm", "7");
    rig.settled().await;
    let at: Vec<i64> = crm.arrivals().iter().map(|a| a.header("webhook-timestamp").parse().unwrap()).collect();
    assert!(at[1] > at[0], "{at:?}");
    rig.stop().await;
    crm.stop().await;
}

#[tokio::test]
async fn a_410_gives_up_this_message_and_those_after_it_until_the_configuration_is_read_again() {
    let crm = Receiver::start([Answer::Status(410)]).await;
    let mut rig = Rig::webhook(quick(), &[("crm", crm.target())]);
    rig.pause(1, "crm", "7");
    let (message, outcome) = rig.settled().await;
    assert_eq!(message, id(1));
    assert!(abandoned(outcome).contains("410"));
    rig.pause(2, "crm", "8");
    let (message, outcome) = rig.settled().await;
    assert_eq!(message, id(2));
    assert!(abandoned(outcome).contains("410"));
    assert_eq!(crm.arrivals().len(), 1, "the second was not sent");

    rig.recipients.send_replace(Arc::new(webhooks(&[("crm", crm.target())])));
    rig.pause(3, "crm", "9");
    assert_eq!(rig.settled().await, (id(3), delivered(None)));
    rig.stop().await;
    crm.stop().await;
}

#[tokio::test]
async fn retry_after_is_honoured_within_its_bound() {
    for status in [429, 503] {
        let crm = Receiver::start([Answer::With(status, "retry-after", "86400".to_owned())]).await;
        let policy = OutboxPolicy { longest_retry_after: Duration::from_millis(400), ..quick() };
        let mut rig = Rig::webhook(policy, &[("crm", crm.target())]);
        rig.pause(1, "crm", "7");
        rig.settled().await;
        let arrivals = crm.arrivals();
        let waited = arrivals[1].at - arrivals[0].at;
        assert!(waited >= Duration::from_millis(395), "{status}: {waited:?}"); // the delay alone is at most 10 ms
        rig.stop().await;
        crm.stop().await;
    }
}

#[tokio::test]
async fn what_a_pauses_receipt_says_is_passed_on_and_nothing_else_of_it_matters() {
    let long = format!(r#"{{"was_running":false,"pad":"{}"}}"#, "x".repeat(64 * 1024));
    let cases: Vec<(Answer, Option<bool>)> = vec![
        (Answer::Body(200, br#"{"was_running":false}"#.to_vec()), Some(false)),
        (Answer::Body(200, br#"{"was_running":true,"more":[1]}"#.to_vec()), Some(true)),
        (Answer::Body(202, br#"{"was_running":null}"#.to_vec()), None),
        (Answer::Body(200, br#"{"was_running":"no"}"#.to_vec()), None),
        (Answer::Body(200, br#"[{"was_running":false}]"#.to_vec()), None),
        (Answer::Body(200, vec![0xff, 0x00, b'{']), None),
        (Answer::Body(200, b"OK".to_vec()), None),
        (Answer::Body(200, long.into_bytes()), None),
        (Answer::Endless(200), None),
        (Answer::Stuck(200), None),
    ];
    let crm = Receiver::start(cases.iter().map(|(answer, _)| answer.clone())).await;
    let target = WebhookTarget { timeout: Duration::from_millis(500), ..crm.target() };
    let mut rig = Rig::webhook(quick(), &[("crm", target)]);
    for (n, (answer, was_running)) in (1..).zip(&cases) {
        rig.pause(n, "crm", "7");
        assert_eq!(rig.settled().await, (id(n), delivered(*was_running)), "{answer:?}");
    }
    assert_eq!(crm.arrivals().len(), cases.len(), "each was taken at the first attempt");
    rig.stop().await;
    crm.stop().await;
}

#[tokio::test]
async fn only_a_pauses_receipt_is_read() {
    let crm = Receiver::start([Answer::Body(200, br#"{"was_running":false}"#.to_vec()), Answer::Stuck(200)]).await;
    let mut rig = Rig::webhook(quick(), &[("crm", crm.target())]);
    for n in [1, 2] {
        rig.commit([message(n, "crm", "7", MessageType::CampaignResume, rig.clock.now())]);
        let begun = Instant::now();
        assert_eq!(rig.settled().await, (id(n), delivered(None)));
        assert!(begun.elapsed() < Duration::from_secs(4), "it did not wait for the body");
    }
    rig.stop().await;
    crm.stop().await;
}

#[tokio::test]
async fn an_endless_refusal_is_not_read() {
    let crm = Receiver::start([Answer::Endless(500), Answer::Stuck(503)]).await;
    let mut rig = Rig::webhook(quick(), &[("crm", crm.target())]);
    let begun = Instant::now();
    rig.pause(1, "crm", "7");
    assert_eq!(rig.settled().await, (id(1), delivered(None)));
    assert!(begun.elapsed() < Duration::from_secs(4));
    rig.stop().await;
    crm.stop().await;
}

#[tokio::test]
async fn a_receiver_that_never_answers_is_asked_again() {
    let crm = Receiver::start([Answer::Never, Answer::Never]).await;
    let target = WebhookTarget { timeout: Duration::from_millis(100), ..crm.target() };
    let mut rig = Rig::webhook(quick(), &[("crm", target)]);
    rig.pause(1, "crm", "7");
    assert_eq!(rig.settled().await, (id(1), delivered(None)));
    assert_eq!(rig.outbox.row(&id(1)).errors, ["no answer within 100ms"; 2]);
    rig.stop().await;
    crm.stop().await;
}

#[tokio::test]
async fn garbage_and_hang_ups_are_failures_like_others_and_no_error_shows_the_url() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let tasks = TaskTracker::new();
    tasks.spawn(async move {
        for answer in [&b"\x00\xff\x16\x03 garbage\r\n\r\n"[..], b"", b"HTTP/1.1 2", b"HTTP/1.1 204 No Content\r\n\r\n"]
        {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            stream.write_all(answer).await.unwrap();
        }
        // Its end closes the listener: whoever comes then is refused.
    });
    let target = target(&format!("http://bot:hunter2@{address}/T0PS3CR3T?token=T0PS3CR3T"));
    let mut rig = Rig::webhook(quick(), &[("crm", target)]);
    rig.pause(1, "crm", "7");
    assert_eq!(rig.settled().await, (id(1), delivered(None)));
    assert_eq!(rig.outbox.row(&id(1)).attempts, 3);
    tasks.close();
    tasks.wait().await;

    rig.pause(2, "crm", "7");
    let refused = first_error(&rig, &id(2)).await;
    assert!(refused.contains("cannot be reached") && refused.contains("refused"), "{refused}");
    for error in rig.outbox.row(&id(1)).errors.iter().chain([&refused]) {
        assert!(!error.contains("hunter2") && !error.contains("T0PS3CR3T"), "{error}");
    }
    rig.stop().await;
}

#[tokio::test]
async fn tls_that_fails_is_a_failure_like_others() {
    let plain = Receiver::start([]).await; // answers a handshake with an HTTP error
    let rig = Rig::webhook(quick(), &[("crm", target(&format!("https://{}/hooks", plain.address)))]);
    rig.pause(1, "crm", "7");
    let error = first_error(&rig, &id(1)).await;
    assert!(error.contains("cannot be reached"), "{error}");
    rig.stop().await;
    plain.stop().await;
}

#[tokio::test]
async fn stopping_lets_an_attempt_end_and_its_receipt_be_handed_over() {
    let slow = Recorder::new(|_, _| {
        async {
            sleep(Duration::from_millis(200)).await;
            Delivery::Delivered { was_running: Some(true) }
        }
        .boxed()
    });
    let mut rig = Rig::start(quick(), Arc::new(SystemClock), recorders(&[("crm", &slow)]));
    rig.pause(1, "crm", "7");
    while slow.ids().is_empty() {
        sleep(Duration::from_millis(1)).await;
    }
    rig.stop.cancel();
    assert_eq!(rig.receipt().await, (id(1), delivered(Some(true))));
    rig.stop().await;
}

#[tokio::test]
async fn stopping_cuts_off_an_attempt_that_outlasts_the_grace_and_the_message_stays() {
    let crm = Receiver::start([Answer::Never]).await;
    let policy = OutboxPolicy { grace: Duration::from_millis(100), ..quick() };
    let rig = Rig::webhook(policy, &[("crm", WebhookTarget { timeout: SOON, ..crm.target() })]);
    rig.pause(1, "crm", "7");
    while crm.arrivals().is_empty() {
        sleep(Duration::from_millis(1)).await;
    }
    let outbox = Arc::clone(&rig.outbox);
    let begun = Instant::now();
    rig.stop().await;
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let row = outbox.row(&id(1));
    assert!(!row.settled && row.attempts == 0, "{row:?}");
    crm.stop().await;
}

// --- under paused time

#[tokio::test(start_paused = true)]
async fn messages_about_a_campaign_keep_their_order_while_they_fail() {
    // Each is refused three times; other campaigns go on meanwhile.
    let crm = Recorder::new(|_, attempt| {
        async move { if attempt <= 3 { failed() } else { Delivery::Delivered { was_running: None } } }.boxed()
    });
    let mut rig = paused(recorders(&[("crm", &crm)]));
    let now = rig.clock.now();
    rig.commit((1..=6).map(|n| {
        let campaign = if n % 2 == 0 { "even" } else { "odd" };
        message(n, "crm", campaign, MessageType::CampaignPause, now)
    }));
    let mut settled = Vec::new();
    for _ in 0..6 {
        settled.push(rig.settled().await.0);
    }
    for parity in [0, 1] {
        let expected: Vec<_> = (1..=6).filter(|n| n % 2 == parity).map(id).collect();
        let of_campaign =
            |ids: &[MessageId]| -> Vec<_> { ids.iter().filter(|i| expected.contains(i)).cloned().collect() };
        assert_eq!(of_campaign(&settled), expected);
        let mut attempts = of_campaign(&crm.ids());
        assert_eq!(attempts.len(), 12);
        attempts.dedup();
        assert_eq!(attempts, expected, "the next begins when the one before is settled");
    }
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_recipient_with_many_campaigns_delays_no_other() {
    let dead = Recorder::new(|_, _| std::future::pending().boxed());
    let alive = Recorder::taking();
    let mut rig = paused(recorders(&[("dead", &dead), ("alive", &alive)]));
    let now = rig.clock.now();
    rig.commit((0..500).map(|n| message(n, "dead", &n.to_string(), MessageType::CampaignPause, now)));
    for n in 500..510 {
        sleep(Duration::from_secs(7)).await;
        let begun = Instant::now();
        rig.pause(n, "alive", "7");
        assert_eq!(rig.settled().await.0, id(n));
        assert!(begun.elapsed() < Duration::from_millis(50), "{:?}", begun.elapsed());
    }
    let policy = OutboxPolicy::default();
    assert!(dead.ids().len() >= policy.at_once && dead.ids().len() <= 4 * policy.at_once, "{}", dead.ids().len());
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_line_longer_than_its_leases_is_worked_off_with_one_attempt_each() {
    let slow = Recorder::new(|_, _| {
        async {
            sleep(Duration::from_secs(10)).await;
            Delivery::Delivered { was_running: None }
        }
        .boxed()
    });
    let mut rig = paused(recorders(&[("crm", &slow)]));
    let now = rig.clock.now();
    rig.commit((0..200).map(|n| message(n, "crm", &n.to_string(), MessageType::CampaignPause, now)));
    for _ in 0..200 {
        rig.settled().await;
    }
    let mut ids = slow.ids();
    ids.sort();
    assert_eq!(ids, (0..200).map(id).collect::<Vec<_>>());
    // 200 messages of 10 s, 8 at once: 250 s; waiting for leases may add some.
    let taken = between_first_and_last(&slow);
    assert!(taken < Duration::from_secs(500), "{taken:?}");
    rig.stop().await;
}

fn between_first_and_last(recorder: &Recorder) -> Duration {
    let attempts = lock(&recorder.attempts);
    attempts[attempts.len() - 1].2 - attempts[0].2
}

#[tokio::test(start_paused = true)]
async fn a_receipt_whose_commit_takes_long_is_handed_over_again_and_the_message_is_not_sent_again() {
    let crm = Recorder::taking();
    let mut rig = paused(recorders(&[("crm", &crm)]));
    rig.pause(1, "crm", "7");
    rig.pause(2, "crm", "7");
    for _ in 0..3 {
        assert_eq!(rig.receipt().await, (id(1), delivered(None)), "handed over, again after each lease");
    }
    assert_eq!(crm.ids(), [id(1)]);
    rig.outbox.settle(&id(1));
    rig.nudge.notify_one();
    assert_eq!(rig.settled().await, (id(2), delivered(None)));
    assert_eq!(crm.ids(), [id(1), id(2)]);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn more_messages_than_may_be_in_hand_wait_in_the_store() {
    let crm = Recorder::new(|_, _| {
        async {
            sleep(Duration::from_millis(100)).await;
            Delivery::Delivered { was_running: None }
        }
        .boxed()
    });
    let policy = OutboxPolicy { in_hand: 64, ..OutboxPolicy::default() };
    let mut rig = paused_by(policy, recorders(&[("crm", &crm)]));
    let now = rig.clock.now();
    rig.commit((0..500).map(|n| message(n, "crm", &n.to_string(), MessageType::CampaignPause, now)));
    sleep(Duration::from_millis(50)).await;
    let leased = lock(&rig.outbox.rows).iter().filter(|row| row.leased_until.is_some()).count();
    assert_eq!(leased, 64);
    for _ in 0..500 {
        rig.settled().await;
    }
    assert_eq!(crm.ids().len(), 500);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_dialer_that_keeps_no_time_limit_of_its_own_is_held_to_ours() {
    let crm = Recorder::new(|_, attempt| {
        async move {
            if attempt == 1 {
                std::future::pending::<()>().await;
            }
            Delivery::Delivered { was_running: None }
        }
        .boxed()
    });
    let mut rig = paused(recorders(&[("crm", &crm)]));
    rig.pause(1, "crm", "7");
    assert_eq!(rig.settled().await, (id(1), delivered(None)));
    assert_eq!(rig.outbox.row(&id(1)).errors, ["no answer within 30s"]);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn after_a_day_of_failures_a_message_is_given_up_with_its_last_error() {
    let dead = Recorder::new(|_, _| async { failed() }.boxed());
    let mut rig = paused(recorders(&[("crm", &dead)]));
    rig.pause(1, "crm", "7");
    let begun = Instant::now();
    let error = abandoned(rig.settled().await.1);
    assert!(error.contains("1day") && error.contains("no answer within 1s"), "{error}");
    let hours = begun.elapsed().as_secs_f64() / 3600.0;
    assert!((23.9..=24.0).contains(&hours), "{hours}");
    // About 10 while it doubles to 5 min, then one each 150 to 300 s.
    assert!((290..600).contains(&dead.ids().len()), "{}", dead.ids().len());
    let attempts: Vec<_> = lock(&dead.attempts).iter().map(|(_, attempt, _)| *attempt).collect();
    assert!(attempts.iter().zip(1..).all(|(a, b)| *a == b), "attempts are counted");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_older_than_a_day_is_not_sent_at_all() {
    let crm = Recorder::taking();
    let mut rig = paused(recorders(&[("crm", &crm)]));
    let old = before(rig.clock.now(), Duration::from_secs(24 * 3600));
    rig.commit([message(1, "crm", "7", MessageType::CampaignPause, old)]);
    assert!(abandoned(rig.settled().await.1).contains("1day"));
    assert!(crm.ids().is_empty());
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_to_a_recipient_that_is_not_configured_is_given_up_at_once() {
    let mut rig = paused(BTreeMap::new());
    let begun = Instant::now();
    rig.pause(1, "crm", "7");
    assert!(abandoned(rig.settled().await.1).contains("not in the configuration"));
    assert!(begun.elapsed() < Duration::from_secs(1));
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_is_asked_again_and_nothing_is_lost() {
    let crm = Recorder::taking();
    let mut rig = paused(recorders(&[("crm", &crm)]));
    rig.outbox.failing.store(true, Ordering::SeqCst);
    rig.pause(1, "crm", "7");
    sleep(Duration::from_secs(60)).await;
    assert!(crm.ids().is_empty());
    rig.outbox.failing.store(false, Ordering::SeqCst);
    let begun = Instant::now();
    assert_eq!(rig.settled().await, (id(1), delivered(None)));
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_that_cannot_be_noted_is_made_again_when_its_lease_has_ended() {
    let crm = Recorder::new(|_, _| {
        async {
            sleep(Duration::from_secs(1)).await;
            failed()
        }
        .boxed()
    });
    let rig = paused(recorders(&[("crm", &crm)]));
    rig.pause(1, "crm", "7");
    sleep(Duration::from_millis(500)).await; // the attempt is under way
    rig.outbox.failing.store(true, Ordering::SeqCst);
    sleep(Duration::from_secs(5)).await;
    rig.outbox.failing.store(false, Ordering::SeqCst);
    sleep(Duration::from_secs(50)).await;
    assert_eq!((crm.ids().len(), rig.outbox.row(&id(1)).attempts), (1, 0));
    sleep(Duration::from_secs(10)).await;
    assert!(crm.ids().len() >= 2 && rig.outbox.row(&id(1)).attempts >= 1);
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_dialer_that_panics_harms_its_own_message_only() {
    let crm = Recorder::new(|message, _| {
        let bad = message.id == id(1);
        async move {
            assert!(!bad, "expected by this test");
            Delivery::Delivered { was_running: None }
        }
        .boxed()
    });
    let mut rig = paused(recorders(&[("crm", &crm)]));
    rig.pause(1, "crm", "bad");
    for n in 2..30 {
        rig.pause(n, "crm", "good");
        assert_eq!(rig.settled().await.0, id(n));
        sleep(Duration::from_secs(10)).await;
    }
    let again = crm.ids().iter().filter(|i| **i == id(1)).count();
    assert!((3..=6).contains(&again), "once a lease: {again}");
    rig.stop().await;
}

#[tokio::test(start_paused = true)]
async fn without_a_deciding_loop_there_is_nothing_to_dispatch_for() {
    let crm = Recorder::taking();
    let mut rig = paused(recorders(&[("crm", &crm)]));
    rig.inputs = None;
    rig.tasks.close();
    timeout(SOON, rig.tasks.wait()).await.expect("it ended by itself");
}
