//! A simulated dialer: campaigns that originate calls over AMI, and a webhook receiver that pauses and resumes them.
//!
//! It is what a webhook dialer is expected to be: it checks the signature (Standard Webhooks), does a message once
//! however often it is delivered, answers a pause with whether the campaign was running, and never lets a resume start
//! what a person has stopped. It also keeps the count the whole project is about: calls that went out on a dead trunk,
//! and calls that did not because their campaign was paused.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::post,
};
use serde_json::{Value, json};
use standardwebhooks::{HEADER_WEBHOOK_ID, Webhook};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::pbx::SimError;
use crate::clock::{Clock, SystemClock, Timestamp};

/// How much of what was received is remembered.
const REMEMBERED: usize = 10_000;
/// How often campaigns look whether a call is due.
const TICK: Duration = Duration::from_millis(50);
/// The longest message read from AMI.
const MESSAGE_LIMIT: usize = 64 * 1024;

/// Whether a call on this endpoint would be connected now. The dialer cannot know; the one who plays the provider can.
pub type Judge = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A simulated dialer.
#[derive(Clone)]
pub struct SimDialerSettings {
    /// Its id in the controller's configuration.
    pub id: String,
    /// Where it takes webhooks; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The secret webhooks are signed with: `whsec_` and base64.
    pub secret: String,
    /// Its campaigns.
    pub campaigns: Vec<SimCampaign>,
    /// The AMI it originates over; without one it only takes webhooks.
    pub ami: Option<SimAmi>,
    /// Who knows whether a call would have been burned.
    pub judge: Option<Judge>,
}

impl fmt::Debug for SimDialerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDialerSettings")
            .field("id", &self.id)
            .field("campaigns", &self.campaigns)
            .finish_non_exhaustive()
    }
}

impl Default for SimDialerSettings {
    fn default() -> Self {
        Self {
            id: "crm".to_owned(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            secret: "whsec_c2ltdWxhdGVkLWRpYWxlci1zZWNyZXQtb2YtMzYtYnl0ZXMh".to_owned(),
            campaigns: Vec::new(),
            ami: None,
            judge: None,
        }
    }
}

/// Where and as whom calls are originated.
#[derive(Clone)]
pub struct SimAmi {
    /// Asterisk, or whatever stands in front of it.
    pub address: SocketAddr,
    /// The manager user.
    pub username: String,
    /// Its secret.
    pub secret: String,
}

/// One campaign.
#[derive(Debug, Clone)]
pub struct SimCampaign {
    /// Its id.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// The endpoints it dials on, in turn.
    pub endpoints: Vec<String>,
    /// How many calls it starts in a second.
    pub calls_per_second: f64,
    /// Its state at the start.
    pub state: SimCampaignState,
}

/// A campaign's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SimCampaignState {
    /// It dials.
    Running,
    /// A webhook has paused it.
    Paused,
    /// A person has stopped it; only a person starts it.
    Stopped,
}

/// What came of calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Calls {
    /// Originated.
    pub attempted: u64,
    /// Connected.
    pub connected: u64,
    /// Not connected.
    pub failed: u64,
    /// Refused by AMI itself.
    pub refused: u64,
    /// Not originated, because the campaign was paused.
    pub withheld: u64,
    /// Of those, how many would have failed: calls not burned.
    pub spared: u64,
}

/// A webhook that arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    /// When.
    pub at: Timestamp,
    /// Its `webhook-id`.
    pub id: String,
    /// Its type.
    pub kind: String,
    /// Its campaign, if it is about one.
    pub campaign: Option<String>,
    /// Its body; null when it could not be read.
    pub body: Value,
    /// What was made of it.
    pub verdict: Verdict,
    /// The answer's status.
    pub status: u16,
}

/// What was made of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was new, and was done.
    Done,
    /// It had been done before.
    Duplicate,
    /// Its signature was wrong or missing.
    BadSignature,
    /// It could not be read.
    Unreadable,
    /// It was told to fail ([`SimDialer::fail_with`]).
    ToldToFail,
}

/// A running simulated dialer; clones are the same one. It ends with the token it was started with.
#[derive(Debug, Clone)]
pub struct SimDialer {
    shared: Arc<Shared>,
    address: SocketAddr,
}

struct Shared {
    id: String,
    webhook: Webhook,
    judge: Option<Judge>,
    clock: SystemClock,
    inner: Mutex<Inner>,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimDialer").field("id", &self.id).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Inner {
    campaigns: Vec<Running>,
    endpoints: BTreeMap<String, Calls>,
    received: VecDeque<Received>,
    /// What was answered to each id, and in which order they came.
    answered: HashMap<String, Value>,
    order: VecDeque<String>,
    fail_with: Option<StatusCode>,
    /// Calls that are under way: campaign and endpoint by action id.
    pending: HashMap<String, (usize, String)>,
    originated: u64,
}

#[derive(Debug)]
struct Running {
    campaign: SimCampaign,
    calls: Calls,
    /// Calls due, in fractions of one.
    due: f64,
    turn: usize,
}

impl SimDialer {
    /// Starts one; its tasks run in `tracker` until `stop`.
    ///
    /// # Errors
    /// [`SimError`] when its address is taken or its secret is no secret.
    pub async fn start(
        settings: SimDialerSettings,
        tracker: &TaskTracker,
        stop: CancellationToken,
    ) -> Result<Self, SimError> {
        let webhook = Webhook::new(&settings.secret).map_err(SimError::Secret)?;
        let refused = |source| SimError::Listen { address: settings.listen, source };
        let listener = TcpListener::bind(settings.listen).await.map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        let running = |campaign| Running { campaign, calls: Calls::default(), due: 0.0, turn: 0 };
        let campaigns = settings.campaigns.into_iter().map(running).collect();
        let inner = Mutex::new(Inner { campaigns, ..Inner::default() });
        let (id, judge, clock) = (settings.id, settings.judge, SystemClock);
        let shared = Arc::new(Shared { id, webhook, judge, clock, inner });
        let app = Router::new().route("/hooks", post(hook)).with_state(shared.clone());
        let ended = stop.clone().cancelled_owned();
        tracker.spawn(async move {
            // It only ends by its token; an accept error is retried by axum itself.
            let _ = axum::serve(listener, app).with_graceful_shutdown(ended).await;
        });
        if let Some(ami) = settings.ami {
            tracker.spawn(stop.run_until_cancelled_owned(originate(shared.clone(), ami)));
        }
        Ok(Self { shared, address })
    }

    /// Where webhooks go.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/hooks", self.address)
    }

    /// What was received, the oldest first.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.shared.inner().received.iter().cloned().collect()
    }

    /// A campaign's state, if there is such a campaign.
    #[must_use]
    pub fn state(&self, campaign: &str) -> Option<SimCampaignState> {
        let inner = self.shared.inner();
        inner.campaigns.iter().find(|running| running.campaign.id == campaign).map(|running| running.campaign.state)
    }

    /// A person starts or stops a campaign.
    pub fn set_state(&self, campaign: &str, state: SimCampaignState) {
        for running in self.shared.inner().campaigns.iter_mut().filter(|running| running.campaign.id == campaign) {
            running.campaign.state = state;
        }
    }

    /// A campaign's calls.
    #[must_use]
    pub fn calls(&self, campaign: &str) -> Calls {
        let inner = self.shared.inner();
        inner.campaigns.iter().find(|running| running.campaign.id == campaign).map_or_else(Calls::default, |r| r.calls)
    }

    /// The calls on an endpoint, of all campaigns.
    #[must_use]
    pub fn calls_on(&self, endpoint: &str) -> Calls {
        self.shared.inner().endpoints.get(endpoint).copied().unwrap_or_default()
    }

    /// Answers every webhook with this status and does nothing else, until called with `None`; a status that is none
    /// is a 500.
    pub fn fail_with(&self, status: Option<u16>) {
        let status = status.map(|code| StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR));
        self.shared.inner().fail_with = status;
    }
}

impl Shared {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// --- webhooks ------------------------------------------------------------------------------------------------------

async fn hook(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let id = headers.get(HEADER_WEBHOOK_ID).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
    let signed = shared.webhook.verify(&body, &headers).is_ok();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let kind = body["type"].as_str().unwrap_or_default().to_owned();
    let campaign = body["data"]["campaign"].as_str().map(str::to_owned);
    let mut inner = shared.inner();
    let (verdict, status, answer) = if !signed {
        (Verdict::BadSignature, StatusCode::UNAUTHORIZED, json!({"error": "signature"}))
    } else if let Some(status) = inner.fail_with {
        (Verdict::ToldToFail, status, json!({"error": "told to fail"}))
    } else if kind.is_empty() {
        (Verdict::Unreadable, StatusCode::BAD_REQUEST, json!({"error": "no type"}))
    } else if let Some(answer) = inner.answered.get(&id) {
        (Verdict::Duplicate, StatusCode::OK, answer.clone())
    } else {
        let answer = inner.obey(&kind, campaign.as_deref());
        inner.remember(id.clone(), answer.clone());
        (Verdict::Done, StatusCode::OK, answer)
    };
    if inner.received.len() == REMEMBERED {
        inner.received.pop_front();
    }
    let (at, code) = (shared.clock.now(), status.as_u16());
    inner.received.push_back(Received { at, id, kind, campaign, body, verdict, status: code });
    drop(inner);
    (status, Json(answer)).into_response()
}

impl Inner {
    /// Does what a webhook says, and gives its receipt.
    fn obey(&mut self, kind: &str, campaign: Option<&str>) -> Value {
        let found = self.campaigns.iter_mut().find(|running| Some(running.campaign.id.as_str()) == campaign);
        let Some(running) = found else { return json!({}) };
        let state = &mut running.campaign.state;
        match (kind, *state) {
            ("campaign.pause", was) => {
                if was == SimCampaignState::Running {
                    *state = SimCampaignState::Paused;
                }
                json!({"was_running": was == SimCampaignState::Running})
            }
            ("campaign.resume", SimCampaignState::Paused) => {
                *state = SimCampaignState::Running;
                running.due = 0.0;
                json!({})
            }
            _ => json!({}),
        }
    }

    fn remember(&mut self, id: String, answer: Value) {
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.answered.remove(&oldest);
        }
        self.order.push_back(id.clone());
        self.answered.insert(id, answer);
    }
}

// --- calls ---------------------------------------------------------------------------------------------------------

/// Keeps a connection and originates over it, for as long as it is let.
async fn originate(shared: Arc<Shared>, ami: SimAmi) {
    loop {
        if let Ok(stream) = TcpStream::connect(ami.address).await {
            // An end of the connection is all that can go wrong; calls under way are forgotten with it.
            let _ = dial(&shared, &ami, stream).await;
            shared.inner().pending.clear();
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
}

async fn dial(shared: &Shared, ami: &SimAmi, stream: TcpStream) -> std::io::Result<()> {
    let (mut reader, mut writer) = stream.into_split();
    let login = format!(
        "Action: Login\r\nUsername: {}\r\nSecret: {}\r\nEvents: call\r\nActionID: login\r\n\r\n",
        ami.username, ami.secret
    );
    writer.write_all(login.as_bytes()).await?;
    let (mut logged_in, mut last) = (false, Instant::now());
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let (mut text, mut buffer) = (Vec::new(), [0_u8; 4096]);
    loop {
        tokio::select! {
            read = reader.read(&mut buffer) => {
                let count = read?;
                if count == 0 || text.len() + count > MESSAGE_LIMIT {
                    return Ok(());
                }
                text.extend_from_slice(&buffer[..count]);
                while let Some(end) = memchr::memmem::find(&text, b"\r\n\r\n") {
                    let message: Vec<u8> = text.drain(..end + 4).collect();
                    let message = String::from_utf8_lossy(&message);
                    let header = |name: &str| {
                        message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
                    };
                    let id = header("ActionID").unwrap_or_default();
                    match (header("Response"), header("Event")) {
                        (Some("Success"), None) if id == "login" => logged_in = true,
                        (Some("Error"), None) => shared.inner().ended(id, |calls| calls.refused += 1),
                        (Some("Success"), Some("OriginateResponse")) => {
                            shared.inner().ended(id, |calls| calls.connected += 1);
                        }
                        (Some(_), Some("OriginateResponse")) => shared.inner().ended(id, |calls| calls.failed += 1),
                        _ => {}
                    }
                }
            }
            _ = tick.tick() => {
                let elapsed = last.elapsed();
                last = Instant::now();
                if !logged_in {
                    continue;
                }
                let actions = shared.due(elapsed);
                for action in actions {
                    writer.write_all(action.as_bytes()).await?;
                }
            }
        }
    }
}

impl Shared {
    /// The calls that have come due in `elapsed`, as actions; those of paused campaigns are only counted.
    fn due(&self, elapsed: Duration) -> Vec<String> {
        let mut inner = self.inner();
        let Inner { campaigns, endpoints, pending, originated, .. } = &mut *inner;
        let mut actions = Vec::new();
        for (place, running) in campaigns.iter_mut().enumerate() {
            let campaign = &running.campaign;
            let stopped = campaign.state == SimCampaignState::Stopped;
            if stopped || campaign.endpoints.is_empty() {
                continue;
            }
            running.due += elapsed.as_secs_f64() * campaign.calls_per_second;
            while running.due >= 1.0 {
                running.due -= 1.0;
                let endpoint = &campaign.endpoints[running.turn % campaign.endpoints.len()];
                running.turn = running.turn.wrapping_add(1);
                let counts = [&mut running.calls, endpoints.entry(endpoint.clone()).or_default()];
                if campaign.state == SimCampaignState::Paused {
                    let burned = self.judge.as_ref().is_some_and(|judge| !judge(endpoint));
                    for calls in counts {
                        calls.withheld += 1;
                        calls.spared += u64::from(burned);
                    }
                    continue;
                }
                for calls in counts {
                    calls.attempted += 1;
                }
                *originated += 1;
                let id = format!("{}-{}-{originated}", self.id, campaign.id);
                actions.push(format!(
                    "Action: Originate\r\nActionID: {id}\r\nChannel: PJSIP/555{originated:07}@{endpoint}\r\nContext: \
                     camp\r\nExten: s\r\nPriority: 1\r\nCallerID: Camp <1000>\r\nAsync: true\r\nVariable: \
                     CAMPAIGN={}\r\n\r\n",
                    campaign.id
                ));
                if pending.len() < REMEMBERED {
                    pending.insert(id, (place, endpoint.clone()));
                }
            }
        }
        actions
    }
}

impl Inner {
    fn ended(&mut self, id: &str, count: impl Fn(&mut Calls)) {
        let Some((place, endpoint)) = self.pending.remove(id) else { return };
        if let Some(running) = self.campaigns.get_mut(place) {
            count(&mut running.calls);
        }
        count(self.endpoints.entry(endpoint).or_default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::{Behaviour, SimPbx, SimSettings, SimTrunk};

    fn campaign(id: &str, endpoint: &str) -> SimCampaign {
        SimCampaign {
            id: id.to_owned(),
            name: id.to_owned(),
            endpoints: vec![endpoint.to_owned()],
            calls_per_second: 50.0,
            state: SimCampaignState::Running,
        }
    }

    /// Posts `body` by hand, signed with `secret`.
    async fn post(dialer: &SimDialer, secret: &str, id: &str, body: &Value) -> (u16, String) {
        let body = body.to_string();
        let now = SystemClock.now().as_second();
        let signature = Webhook::new(secret).unwrap().sign(id, now, body.as_bytes()).unwrap();
        let mut stream = TcpStream::connect(dialer.address).await.unwrap();
        let request = format!(
            "POST /hooks HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: \
             {}\r\nwebhook-id: {id}\r\nwebhook-timestamp: {now}\r\nwebhook-signature: {signature}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.rsplit("\r\n\r\n").next().unwrap().to_owned())
    }

    fn about(kind: &str, campaign: &str) -> Value {
        json!({"type": kind, "timestamp": "2026-11-22T18:00:00Z", "data": {"dialer": "crm", "campaign": campaign}})
    }

    #[tokio::test]
    async fn a_webhook_is_done_once_if_its_signature_is_right() {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let mut settings = SimDialerSettings { campaigns: vec![campaign("7", "a")], ..SimDialerSettings::default() };
        settings.campaigns.push(SimCampaign { state: SimCampaignState::Stopped, ..campaign("8", "a") });
        let secret = settings.secret.clone();
        let dialer = SimDialer::start(settings, &tracker, stop.clone()).await.unwrap();

        let (status, _) = post(&dialer, "whsec_d3Jvbmc=", "msg_0", &about("campaign.pause", "7")).await;
        assert_eq!((status, dialer.state("7")), (401, Some(SimCampaignState::Running)));
        let pause = about("campaign.pause", "7");
        assert_eq!(post(&dialer, &secret, "msg_1", &pause).await, (200, r#"{"was_running":true}"#.to_owned()));
        assert_eq!(dialer.state("7"), Some(SimCampaignState::Paused));
        // The same message again has the same answer; another pause has another.
        assert_eq!(post(&dialer, &secret, "msg_1", &pause).await.1, r#"{"was_running":true}"#);
        assert_eq!(post(&dialer, &secret, "msg_2", &pause).await.1, r#"{"was_running":false}"#);
        // What a person stopped stays stopped.
        assert_eq!(post(&dialer, &secret, "msg_3", &about("campaign.pause", "8")).await.1, r#"{"was_running":false}"#);
        post(&dialer, &secret, "msg_4", &about("campaign.resume", "8")).await;
        assert_eq!(dialer.state("8"), Some(SimCampaignState::Stopped));
        dialer.fail_with(Some(503));
        assert_eq!(post(&dialer, &secret, "msg_5", &about("campaign.resume", "7")).await.0, 503);
        dialer.fail_with(None);
        assert_eq!(post(&dialer, &secret, "msg_5", &about("campaign.resume", "7")).await.0, 200);
        assert_eq!(dialer.state("7"), Some(SimCampaignState::Running));
        let verdicts: Vec<_> = dialer.received().iter().map(|received| received.verdict).collect();
        let done = Verdict::Done;
        let expected = [Verdict::BadSignature, done, Verdict::Duplicate, done, done, done, Verdict::ToldToFail, done];
        assert_eq!(verdicts, expected);
        stop.cancel();
        tracker.close();
        tracker.wait().await;
    }

    #[tokio::test]
    async fn calls_are_counted_as_connected_failed_and_spared() {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let trunks = vec![SimTrunk::named("a"), SimTrunk { behaviour: Behaviour::reject(403), ..SimTrunk::named("b") }];
        let pbx =
            SimPbx::start(SimSettings { trunks, ..SimSettings::default() }, &tracker, stop.clone()).await.unwrap();
        let truth = pbx.clone();
        let settings = SimDialerSettings {
            campaigns: vec![campaign("7", "a"), campaign("8", "b")],
            ami: Some(SimAmi { address: pbx.address(), username: "trunkwarden".into(), secret: "sim".into() }),
            judge: Some(Arc::new(move |endpoint| truth.would_connect(endpoint))),
            ..SimDialerSettings::default()
        };
        let dialer = SimDialer::start(settings, &tracker, stop.clone()).await.unwrap();
        let wait_for = async |what: &dyn Fn() -> bool| {
            let patience = Instant::now() + Duration::from_secs(10);
            while !what() {
                assert!(Instant::now() < patience, "{:?} {:?}", dialer.calls("7"), dialer.calls("8"));
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        wait_for(&|| dialer.calls("7").connected > 0 && dialer.calls_on("b").failed > 0).await;
        assert_eq!((dialer.calls("7").failed, dialer.calls("8").connected), (0, 0));
        assert!(pbx.calls("b").failed > 0 && pbx.calls("a").failed == 0);
        dialer.set_state("8", SimCampaignState::Paused);
        let attempted = dialer.calls("8").attempted;
        wait_for(&|| dialer.calls("8").spared > 3).await;
        assert_eq!((dialer.calls("8").attempted, dialer.calls("8").withheld), (attempted, dialer.calls("8").spared));
        stop.cancel();
        tracker.close();
        tracker.wait().await;
    }
}
