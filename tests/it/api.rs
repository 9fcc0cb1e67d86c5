//! The HTTP edge and the commands, as a client sees them: a real server on loopback, a real store, the real board, and
//! the real program. Only what feeds the board is missing: a history is played into it instead.
//!
//! What parses and formats by itself is tested beside its code in `src/api` and `src/cli`.
#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test may")]

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::Output,
    sync::{Arc, RwLock},
    time::Duration,
};

use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    process::Command,
    sync::mpsc,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trunkwarden::{
    api::{self, Access, ApiState, Phase, Readiness, Role, Submission, Token, auth},
    app::steps::{self, Committer, Decider},
    clock::{Clock as _, ManualClock, SystemClock, Timestamp, after, before},
    decision::{
        Board, CampaignSpec, ControlPolicy, DialerPolicy, Gate, GateTx, HoldWhen, Input, ListedRegistration,
        ListedTrunk, Mode, PbxFact,
    },
    gateway::Refusals,
    ids::{CampaignId, CampaignKey, ContactUri, DialerId, EndpointName, PbxId, RegistrationName, TrunkId},
    observation::{ContactStatus, Fact, Observation, RegistrationState, Source},
    store::{self, Store},
};

/// A trunk whose name has everything in it that a path, a query or a spreadsheet would trip over.
const ODD: &str = "pbx1/a/b ü?#%&+\"=";

fn pbx() -> PbxId {
    PbxId::try_from("pbx1").unwrap()
}

fn trunk(id: &str) -> TrunkId {
    TrunkId::try_from(id).unwrap()
}

fn key(id: &str) -> CampaignKey {
    CampaignKey { dialer: DialerId::try_from("crm").unwrap(), id: CampaignId::try_from(id).unwrap() }
}

fn campaign(id: &str, trunks: &[&str], hold_when: HoldWhen) -> CampaignSpec {
    CampaignSpec {
        key: key(id),
        name: Some(format!("Campaign {id}")),
        trunks: trunks.iter().map(|id| trunk(id)).collect(),
        hold_when,
        fallback: Vec::new(),
        resume_window: None,
        resume_within: None,
    }
}

fn policy(mode: Mode) -> ControlPolicy {
    let patience = DialerPolicy { pause_after: Duration::ZERO, pause_unknown_after: Duration::from_secs(60) };
    ControlPolicy {
        mode,
        dialers: BTreeMap::from([(DialerId::try_from("crm").unwrap(), patience)]),
        campaigns: [
            campaign("7", &["pbx1/tata"], HoldWhen::Any),
            campaign("8", &["pbx1/airtel", "pbx1/tata"], HoldWhen::Any),
            campaign("9", &["pbx1/airtel", "pbx1/tata"], HoldWhen::All),
        ]
        .map(|spec| (spec.key.clone(), spec))
        .into(),
        ..ControlPolicy::default()
    }
}

fn listed(id: &str) -> ListedTrunk {
    let id = trunk(id);
    ListedTrunk {
        endpoints: vec![EndpointName::try_from(id.name()).unwrap()],
        registrations: vec![ListedRegistration {
            name: RegistrationName::try_from("reg").unwrap(),
            client_uri: "sip:100@provider.example".to_owned(),
            server_uri: "sip:provider.example".to_owned(),
            ambiguous: false,
        }],
        id,
    }
}

/// Plays inputs into a board, its gate and its store, before anybody asks them.
#[derive(Debug)]
struct Player {
    board: Arc<RwLock<Board>>,
    store: Arc<dyn Store>,
    gate: GateTx,
}

impl Player {
    async fn decide(&mut self, input: &Input) {
        let outcome = self.board.write().unwrap().step(input);
        self.store.commit(std::slice::from_ref(&outcome), input.at()).await.unwrap();
        let named = outcome.trunks.iter().filter_map(|(id, record)| Some((id, record.as_ref()?.endpoints.as_slice())));
        self.gate.name(named);
        // Step 0: the deciding loop counts its own from 1.
        self.gate.close(0, &outcome.gate);
        self.gate.open(0, &outcome.gate);
    }
}

/// A running controller without links: `airtel` and the odd one are stable, `tata` was rejected 90 seconds ago.
struct Server {
    address: SocketAddr,
    now: Timestamp,
    clock: Arc<ManualClock>,
    ready: Readiness,
    http: reqwest::Client,
    /// The deciding loop runs until this is dropped.
    inputs: mpsc::Sender<Input>,
    stop: CancellationToken,
    tasks: TaskTracker,
    store: Arc<dyn Store>,
    _directory: TempDir,
}

struct Setup {
    mode: Mode,
    tokens: Vec<Token>,
    /// Whether anybody takes submissions, and how many may wait.
    deciding: bool,
    queue: usize,
    /// What a gateway would count.
    refusals: Refusals,
}

impl Default for Setup {
    fn default() -> Self {
        Self { mode: Mode::Enforce, tokens: Vec::new(), deciding: true, queue: 16, refusals: Refusals::default() }
    }
}

async fn start() -> Server {
    start_with(Setup::default()).await
}

async fn start_with(setup: Setup) -> Server {
    // The commands read the machine's clock, so the server's stands near it.
    let now = Timestamp::from_second(SystemClock.now().as_second()).unwrap();
    let ago = |seconds| before(now, Duration::from_secs(seconds));
    let directory = tempfile::tempdir().unwrap();
    let store = store::open(&format!("sqlite:{}", directory.path().join("t.db").display())).await.unwrap();
    let board = Arc::new(RwLock::new(Board::new(7)));
    let (gate_tx, gate) = Gate::new();
    let mut player = Player { board: Arc::clone(&board), store: Arc::clone(&store), gate: gate_tx.clone() };
    play(&mut player, &policy(setup.mode), &ago).await;

    let stop = CancellationToken::new();
    let tasks = TaskTracker::new();
    let clock = Arc::new(ManualClock::new(now));
    let (submissions, waiting) = mpsc::channel::<Submission>(setup.queue);
    let (inputs, observed) = mpsc::channel::<Input>(16);
    let ready = Readiness::new();
    ready.set_phase(Phase::Running);
    if setup.deciding {
        let decider = Decider {
            board: Arc::clone(&board),
            gate: gate_tx.clone(),
            inputs: observed,
            submissions: waiting,
            refusals: setup.refusals.clone(),
            clock: Arc::clone(&clock) as _,
        };
        let committer = Committer {
            committed: tokio::sync::broadcast::channel(1).0,
            store: Arc::clone(&store),
            gate: gate_tx,
            nudge: Arc::default(),
            ready: ready.clone(),
            clock: Arc::clone(&clock) as _,
        };
        tasks.spawn(steps::run(decider, committer, stop.clone()));
    } else {
        let stopped = stop.clone();
        tasks.spawn(async move {
            stopped.cancelled().await;
            drop(waiting);
        });
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (diagnoses, mut asks) = mpsc::channel::<api::AskDiagnosis>(8);
    let asked = stop.clone();
    tasks.spawn(asked.run_until_cancelled_owned(async move {
        // Nobody watches a PBX here.
        while let Some(ask) = asks.recv().await {
            let _gone = ask.answer.send(Err(api::NoExamination::NoRegistration));
        }
    }));
    let state = ApiState {
        board,
        gate,
        store: Arc::clone(&store),
        submissions,
        diagnoses,
        access: Access::new(setup.tokens),
        clock: Arc::clone(&clock) as _,
        ready: ready.clone(),
        metrics: || "counted_elsewhere 7\n".to_owned(),
        version: "0.0.0-test",
    };
    let stopped = stop.clone();
    tasks.spawn(async move { api::serve(listener, state, stopped).await.unwrap() });
    tasks.close();
    Server { address, now, clock, ready, http: client(), inputs, stop, tasks, store, _directory: directory }
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap()
}

async fn play(player: &mut Player, policy: &ControlPolicy, ago: &impl Fn(u64) -> Timestamp) {
    let ids = ["pbx1/airtel", "pbx1/tata", ODD];
    let registered = |id: &str, state, source| Fact::Registration {
        registration: RegistrationName::try_from(if id == "pbx1/tata" { "=tata-reg" } else { "reg" }).unwrap(),
        state,
        source,
    };
    let configured = Input::Configured { at: ago(2980), policy: Box::new(policy.clone()) };
    let connected = PbxFact::Connected { version: "9.0.0".to_owned() };
    player.decide(&configured).await;
    player.decide(&Input::Started { at: ago(2980), unseen_since: ago(2980) }).await;
    player.decide(&Input::Pbx { pbx: pbx(), at: ago(2980), fact: connected }).await;
    for id in ids {
        let fact = registered(id, RegistrationState::Registered, Source::List);
        player.decide(&Input::Seen(Observation { trunk: trunk(id), at: ago(2975), fact })).await;
    }
    let mut trunks: Vec<_> = ids.into_iter().map(listed).collect();
    trunks[1].registrations[0].name = RegistrationName::try_from("=tata-reg").unwrap();
    player.decide(&Input::Pbx { pbx: pbx(), at: ago(2975), fact: PbxFact::Listed { trunks } }).await;
    for (id, status) in [("pbx1/airtel", ContactStatus::Reachable), ("pbx1/tata", ContactStatus::Unreachable)] {
        let rtt = (status == ContactStatus::Reachable).then_some(Duration::from_micros(12_345));
        let contact = ContactUri::try_from("sip:provider.example").unwrap();
        let fact = Fact::Contact { contact, status, rtt };
        player.decide(&Input::Seen(Observation { trunk: trunk(id), at: ago(2900), fact })).await;
    }
    let fact = registered("pbx1/tata", RegistrationState::Rejected, Source::Event);
    player.decide(&Input::Seen(Observation { trunk: trunk("pbx1/tata"), at: ago(90), fact })).await;
}

/// What came back.
#[derive(Debug)]
struct Reply {
    status: StatusCode,
    headers: header::HeaderMap,
    text: String,
}

impl Reply {
    fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {}", self.text))
    }

    fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.json()
    }

    /// Asserts a whole problem of `code` and gives its detail.
    #[track_caller]
    fn problem(&self, status: u16, code: &str) -> String {
        assert_eq!(self.status.as_u16(), status, "{}", self.text);
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        let body = self.json();
        assert_eq!(fields(&body), ["code", "detail", "request_id", "status", "title", "type"]);
        assert_eq!((body["code"].as_str(), body["status"].as_u64()), (Some(code), Some(u64::from(status))));
        assert_eq!(body["type"], format!("urn:trunkwarden:problem:{code}"));
        assert_eq!(body["request_id"], self.headers["x-request-id"].to_str().unwrap());
        body["detail"].as_str().unwrap().to_owned()
    }
}

fn fields(value: &Value) -> Vec<&str> {
    value.as_object().unwrap_or_else(|| panic!("{value} is no object")).keys().map(String::as_str).collect()
}

impl Server {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Reply {
        let response = request.send().await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        Reply { status, headers, text: response.text().await.unwrap() }
    }

    async fn get(&self, path: &str) -> Reply {
        self.send(self.http.get(self.url(path))).await
    }

    async fn post(&self, path: &str, body: &Value) -> Reply {
        self.send(self.http.post(self.url(path)).json(body)).await
    }

    async fn put(&self, path: &str, body: &Value) -> Reply {
        self.send(self.http.put(self.url(path)).json(body)).await
    }

    /// Runs the program against this server; local time is that of Kolkata.
    async fn cli(&self, line: &[&str]) -> Output {
        cli(&format!("http://{}", self.address), None, line).await
    }

    fn time(&self, seconds_ago: u64) -> String {
        before(self.now, Duration::from_secs(seconds_ago)).to_string()
    }

    async fn stop(self) {
        drop(self.inputs);
        self.stop.cancel();
        self.tasks.wait().await;
        self.store.close().await;
    }
}

async fn cli(api: &str, token: Option<&str>, line: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_trunkwarden"));
    command.args(line).env_clear().env("TRUNKWARDEN_API", api).env("TZ", "Asia/Kolkata").kill_on_drop(true);
    if let Some(token) = token {
        command.env("TRUNKWARDEN_TOKEN", token);
    }
    command.output().await.unwrap()
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

/// A path's segment, percent-encoded to the last character.
fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn ids(items: &Value) -> Vec<&str> {
    items["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect()
}

const TRUNK: [&str; 14] = [
    "calls",
    "contact",
    "diagnosis",
    "endpoints",
    "gate",
    "health",
    "hold",
    "id",
    "name",
    "pbx",
    "penalty",
    "registration",
    "since",
    "suppressed",
];
const HOLD: [&str; 12] = [
    "by",
    "campaigns",
    "diagnosis",
    "health",
    "id",
    "reason",
    "refused_calls",
    "released_at",
    "released_by",
    "since",
    "trunk",
    "until",
];
const ENTRY: [&str; 10] = ["at", "count", "detail", "first_at", "from", "kind", "last_at", "seq", "to", "trunk"];

#[tokio::test]
async fn a_trunk_has_the_fields_of_the_contract_and_no_others() {
    let server = start().await;
    let list = server.get("/api/v1/trunks").await.ok();
    assert_eq!(fields(&list), ["items"]);
    assert_eq!(ids(&list), [ODD, "pbx1/airtel", "pbx1/tata"]);
    for item in list["items"].as_array().unwrap() {
        assert_eq!(fields(item), TRUNK);
        assert_eq!(fields(&item["gate"]), ["allow", "reason", "since"]);
        assert_eq!(
            fields(&item["registration"]),
            ["client_uri", "expires_in_seconds", "failures", "gave_up", "last_event_at", "server_uri", "state"]
        );
        assert_eq!(fields(&item["contact"]), ["rtt_ms", "status"]);
        assert_eq!(fields(&item["calls"]), ["active", "window_calls", "window_trunk_faults"]);
    }
    let airtel = server.get("/api/v1/trunks/pbx1/airtel").await.ok();
    assert_eq!(airtel, list["items"][1], "one trunk looks as it does in the list");
    assert_eq!(
        (&airtel["pbx"], &airtel["name"], &airtel["endpoints"]),
        (&json!("pbx1"), &json!("airtel"), &json!(["airtel"]))
    );
    assert_eq!(
        (&airtel["health"], &airtel["gate"]["allow"], &airtel["hold"]),
        (&json!("stable"), &json!(true), &json!(null))
    );
    assert_eq!(airtel["contact"], json!({"status": "reachable", "rtt_ms": 12.345}));
    assert_eq!(airtel["registration"]["state"], "registered");
    assert_eq!(airtel["registration"]["server_uri"], "sip:provider.example");
    assert_eq!((&airtel["penalty"], &airtel["suppressed"]), (&json!(0.0), &json!(false)));

    let tata = server.get("/api/v1/trunks/pbx1/tata").await.ok();
    assert_eq!((&tata["health"], &tata["since"]), (&json!("down"), &json!(server.time(90))));
    assert_eq!((&tata["gate"]["allow"], &tata["gate"]["since"]), (&json!(false), &json!(server.time(90))));
    assert_eq!((&tata["registration"]["state"], &tata["registration"]["failures"]), (&json!("rejected"), &json!(1)));
    assert_eq!(tata["registration"]["last_event_at"], server.time(90));
    // 1000, halving in 300 s, after 90 s.
    assert_eq!(tata["penalty"], json!(812.3));
    assert_eq!(fields(&tata["hold"]), HOLD);
    assert_eq!((&tata["hold"]["by"], &tata["hold"]["campaigns"]), (&json!("policy"), &json!(["crm/7", "crm/8"])));
    server.stop().await;
}

#[tokio::test]
async fn trunks_are_filtered_and_a_mistyped_filter_is_no_answer() {
    let server = start().await;
    assert_eq!(ids(&server.get("/api/v1/trunks?health=down").await.ok()), ["pbx1/tata"]);
    assert_eq!(ids(&server.get("/api/v1/trunks?health=down,stable&pbx=pbx1").await.ok()).len(), 3);
    assert_eq!(ids(&server.get("/api/v1/trunks?pbx=pbx2").await.ok()).len(), 0);
    let detail = server.get("/api/v1/trunks?health=dwon").await.problem(400, "invalid_query");
    assert!(detail.contains("stable, suspect, unstable, down, unknown"), "{detail}");
    server.get("/api/v1/trunks?helth=down").await.problem(400, "invalid_query");
    server.stop().await;
}

#[tokio::test]
async fn a_trunk_with_an_odd_name_is_reached_by_its_percent_encoded_name() {
    let server = start().await;
    let name = encoded(&ODD["pbx1/".len()..]);
    let path = format!("/api/v1/trunks/pbx1/{name}");
    assert_eq!(server.get(&path).await.ok()["id"], ODD);
    assert!(!server.get(&format!("{path}/history")).await.ok()["items"].as_array().unwrap().is_empty());
    assert_eq!(server.get(&format!("/api/v1/gate?trunk={}", encoded(ODD))).await.ok()["allow"], true);
    let output = server.cli(&["gate", ODD]).await;
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
    let output = server.cli(&["hold", ODD, "--reason", "works"]).await;
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
    assert!(stdout(&output).starts_with(&format!("held {ODD} until it is released: works (hold_")));
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_there_says_so_with_a_stable_code() {
    let server = start().await;
    for path in ["", "/history", "/availability", "/at?time=1h", "/diagnosis"] {
        server.get(&format!("/api/v1/trunks/pbx1/nobody{path}")).await.problem(404, "unknown_trunk");
    }
    server.post("/api/v1/trunks/pbx1/nobody/hold", &json!({"reason": "x"})).await.problem(404, "unknown_trunk");
    server.get("/api/v1/trunks/pbx1/airtel/diagnosis").await.problem(404, "no_diagnosis");
    server.get("/api/v1/trunks/pb%2Fx/airtel").await.problem(400, "invalid_path");
    server.get("/api/v1/trunks/pbx1/%FF%FE").await.problem(400, "invalid_path");
    server.get("/api/v1/trunks/pbx1/a%0D%0AAction:%20x").await.problem(400, "invalid_path");
    server.get("/api/v1/nothing").await.problem(404, "unknown_route");
    server.get("/elsewhere").await.problem(404, "unknown_route");
    let reply = server.send(server.http.delete(server.url("/api/v1/trunks"))).await;
    reply.problem(405, "method_not_allowed");
    assert_eq!(reply.headers[header::ALLOW], "GET,HEAD");
    for path in ["/api/v1/events", "/api/v1/openapi.json"] {
        server.get(path).await.problem(501, "not_yet");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_diagnosis_is_asked_for_and_a_capture_is_read() {
    let server = start_with(Setup::default()).await;
    let diagnose = "/api/v1/trunks/pbx1/airtel/diagnose";
    server.post(diagnose, &json!({})).await.problem(404, "no_diagnosis");
    let bare = server.send(server.http.post(server.url(diagnose))).await;
    bare.problem(404, "no_diagnosis");
    server.post(diagnose, &json!({"atempt": true})).await.problem(400, "invalid_body");
    let capture = |bytes: &'static [u8]| server.send(server.http.post(server.url("/api/v1/diagnose")).body(bytes));
    capture(b"").await.problem(422, "not_a_capture");
    capture(b"\x7fELF\x02\x01\x01").await.problem(422, "not_a_capture");
    let read = capture(include_bytes!("../fixtures/captures/rejected-403.pcap")).await;
    assert_eq!(read.status, 200, "{}", read.text);
    let causes: Vec<Value> = read.json()["items"].as_array().unwrap().iter().map(|one| one["cause"].clone()).collect();
    assert!(causes.contains(&json!("account_forbidden")), "{causes:?}");
    assert!(!read.text.contains("response=\""), "{}", read.text);
    server.stop().await;
}

#[tokio::test]
async fn history_is_paged_without_gap_or_repetition_in_both_orders() {
    let server = start().await;
    let path = "/api/v1/trunks/pbx1/tata/history";
    let whole = server.get(path).await.ok();
    assert_eq!(fields(&whole), ["items", "next"]);
    assert_eq!(whole["next"], Value::Null);
    let mut all: Vec<i64> = whole["items"].as_array().unwrap().iter().map(|e| e["seq"].as_i64().unwrap()).collect();
    assert!(all.len() >= 8, "{whole}");
    assert!(all.is_sorted_by(|a, b| a > b), "newest first");
    for entry in whole["items"].as_array().unwrap() {
        assert_eq!(fields(entry), ENTRY);
        assert_eq!(entry["trunk"], "pbx1/tata", "a pbx entry too stands in its trunk's history");
    }
    for order in ["desc", "asc"] {
        let (mut seen, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = server.get(&format!("{path}?limit=3&order={order}{cursor}")).await.ok();
            let items = page["items"].as_array().unwrap();
            assert!((1..=3).contains(&items.len()));
            seen.extend(items.iter().map(|e| e["seq"].as_i64().unwrap()));
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(seen, all, "{order}");
        all.reverse();
    }
    let next = server.get(&format!("{path}?limit=1")).await.ok()["next"].as_str().unwrap().to_owned();
    server.get(&format!("{path}?order=asc&cursor={next}")).await.problem(400, "invalid_cursor");
    server.get(&format!("{path}?cursor=17")).await.problem(400, "invalid_cursor");
    for query in ["limit=0", "limit=1001", "limit=x", "kind=nothing", "order=up", "since=soon", "since=1h&until=2h"] {
        server.get(&format!("{path}?{query}")).await.problem(400, "invalid_query");
    }
    let recent = server.get(&format!("{path}?since=5m&kind=health,hold")).await.ok();
    let kinds: Vec<_> =
        recent["items"].as_array().unwrap().iter().map(|e| (e["kind"].clone(), e["to"].clone())).collect();
    assert!(
        kinds.contains(&(json!("health"), json!("down"))) && kinds.contains(&(json!("hold"), json!("held"))),
        "{recent}"
    );
    let since = server.time(91).replace('Z', "+00:00");
    assert_eq!(server.get(&format!("{path}?since={since}&kind=registration")).await.ok()["items"][0]["to"], "rejected");
    server.stop().await;
}

#[tokio::test]
async fn history_as_csv_runs_nothing_in_a_spreadsheet() {
    let server = start().await;
    let path = "/api/v1/trunks/pbx1/tata/history?kind=registration";
    let reply = server.send(server.http.get(server.url(path)).header(header::ACCEPT, "text/csv")).await;
    assert_eq!(reply.headers[header::CONTENT_TYPE], "text/csv; charset=utf-8; header=present");
    let rejected = server.time(90);
    let mut lines = reply.text.split("\r\n");
    assert_eq!(lines.next(), Some("seq,at,trunk,kind,from,to,count,first_at,last_at,detail"));
    let row = lines.next().unwrap();
    let (_, row) = row.split_once(',').unwrap();
    assert_eq!(
        row,
        format!(
            "{rejected},pbx1/tata,registration,registered,rejected,1,{rejected},{rejected},\
             \"{{\"\"source\"\":\"\"event\"\",\"\"subject\"\":\"\"=tata-reg\"\"}}\""
        )
    );
    let name = encoded(&ODD["pbx1/".len()..]);
    let reply = server
        .send(
            server
                .http
                .get(server.url(&format!("/api/v1/trunks/pbx1/{name}/history")))
                .header(header::ACCEPT, "text/csv"),
        )
        .await;
    assert!(reply.text.contains("\"pbx1/a/b ü?#%&+\"\"=\""), "{}", reply.text);
    for cell in reply.text.lines().flat_map(|line| line.split(',')) {
        assert!(!cell.trim_matches('"').starts_with(['=', '+', '-', '@']), "{cell}");
    }
    let reply = server
        .send(
            server.http.get(server.url("/api/v1/trunks/pbx1/tata/history?limit=2")).header(header::ACCEPT, "text/csv"),
        )
        .await;
    let link = reply.headers[header::LINK].to_str().unwrap();
    assert!(link.starts_with("<?limit=2&cursor=") && link.ends_with(">; rel=\"next\""), "{link}");
    server.stop().await;
}

#[tokio::test]
async fn a_trunk_is_shown_as_it_was() {
    let server = start().await;
    let path = "/api/v1/trunks/pbx1/tata/at";
    let then = server.get(&format!("{path}?time={}", server.time(100))).await.ok();
    assert_eq!(
        fields(&then),
        ["contact", "entries", "gate", "health", "id", "name", "observed", "pbx", "registration", "since", "time"]
    );
    assert_eq!((&then["health"], &then["observed"]), (&json!("stable"), &json!(true)));
    assert_eq!((&then["registration"]["state"], &then["gate"]["allow"]), (&json!("registered"), &json!(true)));
    assert_eq!(then["contact"]["status"], "unreachable");
    let now = server.get(&format!("{path}?time=1s")).await.ok();
    assert_eq!((&now["health"], &now["gate"]["allow"]), (&json!("down"), &json!(false)));
    assert!(now["entries"].as_array().unwrap().iter().all(|entry| fields(entry) == ENTRY));
    assert_eq!(server.get(&format!("{path}?time=10d")).await.ok()["health"], Value::Null);
    server.get(path).await.problem(400, "invalid_query");
    server
        .get(&format!("{path}?time={}", after(server.now, Duration::from_secs(60))))
        .await
        .problem(400, "invalid_query");
    server.stop().await;
}

#[tokio::test]
async fn availability_counts_what_was_seen() {
    let server = start().await;
    let path = "/api/v1/trunks/pbx1/tata/availability";
    let found = server.get(&format!("{path}?since={}&until={}", server.time(990), server.time(0))).await.ok();
    assert_eq!(
        fields(&found),
        [
            "by_fault",
            "calls_failed",
            "calls_refused",
            "down_seconds",
            "longest_outage_seconds",
            "mtbf_seconds",
            "mttr_seconds",
            "outages",
            "ratio",
            "registered_seconds",
            "unknown_seconds"
        ]
    );
    assert_eq!((&found["registered_seconds"], &found["down_seconds"]), (&json!(900.0), &json!(90.0)));
    assert_eq!((&found["outages"], &found["longest_outage_seconds"]), (&json!(1), &json!(90.0)));
    let whole = server.get(path).await.ok();
    assert!(whole["unknown_seconds"].as_f64().unwrap() > 28.0 * 86_400.0, "a month is asked about by default: {whole}");
    server.get(&format!("{path}?since=1h&until=2h")).await.problem(400, "invalid_query");
    server.stop().await;
}

#[tokio::test]
async fn an_operator_holds_and_releases() {
    let server = start().await;
    let hold = server
        .post("/api/v1/trunks/pbx1/airtel/hold", &json!({"reason": " works on the line ", "for": "1h"}))
        .await
        .ok();
    assert_eq!(fields(&hold), HOLD);
    assert_eq!(
        (&hold["trunk"], &hold["by"], &hold["reason"]),
        (&json!("pbx1/airtel"), &json!("operator:cli"), &json!("works on the line"))
    );
    assert_eq!(
        (&hold["since"], &hold["until"]),
        (&json!(server.time(0)), &json!(after(server.now, Duration::from_secs(3600)).to_string()))
    );
    assert_eq!((&hold["health"], &hold["released_at"]), (&json!("stable"), &json!(null)));
    let gate = server.get("/api/v1/gate?trunk=pbx1/airtel").await.ok();
    assert_eq!((&gate["allow"], &gate["reason"]), (&json!(false), &json!("held by operator:cli: works on the line")));
    let trunk = server.get("/api/v1/trunks/pbx1/airtel").await.ok();
    assert_eq!(trunk["hold"]["id"], hold["id"]);
    assert_eq!(ids(&server.get("/api/v1/holds?active=true").await.ok()).len(), 2);

    server.clock.advance(Duration::from_secs(5));
    let released = server.post("/api/v1/trunks/pbx1/airtel/release", &json!({"reason": "done"})).await.ok();
    let at = after(server.now, Duration::from_secs(5)).to_string();
    assert_eq!(
        (&released["id"], &released["released_at"], &released["released_by"]),
        (&hold["id"], &json!(at), &json!("operator:cli"))
    );
    assert_eq!(server.get("/api/v1/gate?trunk=pbx1/airtel").await.ok()["allow"], true);
    let ended = server.get("/api/v1/holds?active=false").await.ok();
    assert_eq!(ended["items"][0], released, "the store tells the same of it");
    assert_eq!(ids(&server.get("/api/v1/holds").await.ok()).len(), 2);
    server.post("/api/v1/trunks/pbx1/airtel/release", &json!({"reason": "again"})).await.problem(409, "not_held");

    let released =
        server.post("/api/v1/trunks/pbx1/tata/release", &json!({"reason": "I know better", "for": "2h"})).await.ok();
    assert_eq!(released["by"], "policy");
    let gate = server.get("/api/v1/gate?trunk=pbx1/tata").await.ok();
    assert_eq!((&gate["allow"], &gate["health"]), (&json!(true), &json!("down")));
    let reason = gate["reason"].as_str().unwrap();
    assert!(reason.starts_with("released by operator:cli until "), "{gate}");
    assert!(reason.contains("(I know better) although down"), "{gate}");
    server.stop().await;
}

#[tokio::test]
async fn refused_calls_are_told_of_a_hold_its_release_and_the_trunk() {
    let refusals = Refusals::default();
    let server = start_with(Setup { refusals: refusals.clone(), ..Setup::default() }).await;
    server.post("/api/v1/trunks/pbx1/airtel/hold", &json!({"reason": "works"})).await.ok();
    for _ in 0..1204 {
        refusals.count(&trunk("pbx1/airtel"));
    }
    refusals.count(&trunk("pbx1/tata"));
    // What is counted is told once a second.
    server.clock.advance(Duration::from_secs(2));
    let told = async || server.get("/api/v1/trunks/pbx1/airtel").await.ok()["hold"]["refused_calls"] == 1204;
    tokio::time::timeout(Duration::from_secs(10), async {
        while !told().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    let active = server.get("/api/v1/holds?active=true").await.ok();
    let counts: Vec<_> =
        active["items"].as_array().unwrap().iter().map(|hold| (&hold["trunk"], &hold["refused_calls"])).collect();
    assert_eq!(counts, [(&json!("pbx1/airtel"), &json!(1204)), (&json!("pbx1/tata"), &json!(1))]);
    let output = server.cli(&["holds"]).await;
    assert!(stdout(&output).contains("REFUSED") && stdout(&output).contains("1204"), "{}", stdout(&output));
    let output = server.cli(&["trunks"]).await;
    assert!(stdout(&output).contains("REFUSED") && stdout(&output).contains("1204"), "{}", stdout(&output));

    // And without waiting for that before a release, which must have all of them.
    refusals.count(&trunk("pbx1/airtel"));
    let released = server.post("/api/v1/trunks/pbx1/airtel/release", &json!({"reason": "done"})).await.ok();
    assert_eq!(released["refused_calls"], 1205);
    let ended = server.get("/api/v1/holds?active=false").await.ok();
    assert_eq!(ended["items"][0]["refused_calls"], 1205, "the store has it too");
    let entries = server.get("/api/v1/trunks/pbx1/airtel/history?kind=gate,hold").await.ok();
    let detail = |kind: &str| {
        let of = |entry: &&Value| entry["kind"] == kind;
        entries["items"].as_array().unwrap().iter().find(of).map(|entry| entry["detail"].clone()).unwrap()
    };
    assert_eq!(detail("hold")["refused_calls"], 1205);
    assert_eq!((&detail("gate")["refused_calls"], &detail("gate")["refused_without_hold"]), (&json!(1205), &json!(0)));
    let available = server.get("/api/v1/trunks/pbx1/airtel/availability?since=1h").await.ok();
    assert_eq!(available["calls_refused"], 1205);
    let output = server.cli(&["history", "pbx1/airtel", "--kind", "hold"]).await;
    assert!(stdout(&output).contains("1205 calls refused"), "{}", stdout(&output));
    server.stop().await;
}

#[tokio::test]
async fn metrics_tell_of_trunks_gates_and_holds_and_of_what_was_counted_elsewhere() {
    let server = start().await;
    let reply = server.get("/metrics").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.headers[header::CONTENT_TYPE], "text/plain; version=0.0.4; charset=utf-8");
    for line in [
        "# TYPE trunkwarden_trunk_health gauge",
        "trunkwarden_trunk_health{trunk=\"pbx1/tata\",health=\"down\"} 1",
        "trunkwarden_trunk_health{trunk=\"pbx1/tata\",health=\"stable\"} 0",
        "trunkwarden_trunk_gate_allow{trunk=\"pbx1/airtel\"} 1",
        "trunkwarden_trunk_gate_allow{trunk=\"pbx1/tata\"} 0",
        "trunkwarden_holds_active 1",
        "trunkwarden_hold_refused_calls{trunk=\"pbx1/tata\"} 0",
        "counted_elsewhere 7",
    ] {
        assert!(reply.text.lines().any(|said| said == line), "{line}\n{}", reply.text);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_bulk_hold_is_in_force_everywhere_or_nowhere() {
    let server = start().await;
    let reply = server.post("/api/v1/holds", &json!({"trunks": ["pbx1/airtel", "pbx2/*"], "reason": "x"})).await;
    reply.problem(404, "unknown_trunk");
    assert_eq!(ids(&server.get("/api/v1/holds?active=true").await.ok()).len(), 1, "airtel was not held");
    let held =
        server.post("/api/v1/holds", &json!({"trunks": ["pbx1/*", "pbx1/airtel"], "reason": "storm"})).await.ok();
    assert_eq!(held["items"].as_array().unwrap().len(), 3);
    assert!(held["items"].as_array().unwrap().iter().all(|hold| fields(hold) == HOLD && hold["reason"] == "storm"));
    let released = server.post("/api/v1/holds/release", &json!({"trunks": ["*"], "reason": "over"})).await.ok();
    assert_eq!(released["items"].as_array().unwrap().len(), 3);
    assert_eq!(ids(&server.get("/api/v1/holds?active=true").await.ok()).len(), 1, "the policy's own stays");
    for (body, code) in [
        (json!({"trunks": [], "reason": "x"}), "invalid_body"),
        (json!({"trunks": ["airtel"], "reason": "x"}), "invalid_body"),
    ] {
        server.post("/api/v1/holds", &body).await.problem(400, code);
    }
    server.stop().await;
}

#[tokio::test]
async fn a_hold_that_makes_no_sense_is_refused_before_anything_is_done() {
    let server = start().await;
    let path = "/api/v1/trunks/pbx1/airtel/hold";
    for body in [
        json!({}),
        json!({"reason": ""}),
        json!({"reason": "   "}),
        json!({"reason": "a\r\nAction: Originate"}),
        json!({"reason": "x".repeat(301)}),
        json!({"reason": 7}),
        json!({"reason": "x", "for": "0s"}),
        json!({"reason": "x", "for": "-1h"}),
        json!({"reason": "x", "for": "soon"}),
        json!({"reason": "x", "fro": "1h"}),
        json!(["x"]),
    ] {
        server.post(path, &body).await.problem(400, "invalid_body");
    }
    server
        .post("/api/v1/trunks/pbx1/tata/release", &json!({"reason": "x", "for": "25h"}))
        .await
        .problem(400, "invalid_body");
    let text = server.http.post(server.url(path)).header(header::CONTENT_TYPE, "text/plain").body("{\"reason\":\"x\"}");
    server.send(text).await.problem(415, "unsupported_media_type");
    let broken =
        server.http.post(server.url(path)).header(header::CONTENT_TYPE, "application/json").body("{\"reason\":");
    server.send(broken).await.problem(400, "invalid_body");
    server.post(path, &json!({"reason": "x".repeat(api::BODY_LIMIT)})).await.problem(413, "too_large");
    assert_eq!(server.get("/api/v1/trunks/pbx1/airtel").await.ok()["hold"], Value::Null);
    server.stop().await;
}

#[tokio::test]
async fn the_gate_answers_from_memory_whatever_is_asked() {
    let server = start().await;
    server.store.close().await;
    let fields_of_gate = ["allow", "health", "reason", "retry_after_seconds", "trunk", "valid_for_ms"];
    for (query, allow, trunk, health) in [
        ("trunk=pbx1/airtel", true, "pbx1/airtel", "stable"),
        ("trunk=pbx1/tata", false, "pbx1/tata", "down"),
        ("trunk=pbx1/nobody", false, "pbx1/nobody", "unknown"),
        ("pbx=pbx1&channel=PJSIP/100@airtel", true, "pbx1/airtel", "stable"),
        ("pbx=pbx1&channel=PJSIP/100@tata", false, "pbx1/tata", "down"),
        // Any leg that holds holds it, and a leg that nobody can judge.
        ("pbx=pbx1&channel=PJSIP/100@airtel%26PJSIP/100@tata", false, "pbx1/tata", "down"),
        ("pbx=pbx1&channel=PJSIP/100@airtel%26PJSIP/100@nobody", false, "", "unknown"),
        ("pbx=pbx1&channel=PJSIP/100@tata/sip:x@host", false, "pbx1/tata", "down"),
        ("pbx=pbx1&channel=Local/100@outgoing", false, "", "unknown"),
        ("pbx=pbx2&channel=PJSIP/100@airtel", false, "", "unknown"),
        // 7 and 8 dial on tata too; 9 is held only when both are; nobody told of 99.
        ("trunk=pbx1/airtel&campaign=8", false, "pbx1/airtel", "stable"),
        ("trunk=pbx1/airtel&campaign=crm/8", false, "pbx1/airtel", "stable"),
        ("trunk=pbx1/airtel&campaign=9", true, "pbx1/airtel", "stable"),
        ("trunk=pbx1/airtel&campaign=99", true, "pbx1/airtel", "stable"),
    ] {
        let said = server.get(&format!("/api/v1/gate?{query}")).await.ok();
        assert_eq!(fields(&said), fields_of_gate);
        let found = (said["allow"].as_bool(), said["trunk"].as_str(), said["health"].as_str());
        assert_eq!(found, (Some(allow), Some(trunk), Some(health)), "{query}: {said}");
        assert!(!said["reason"].as_str().unwrap().is_empty());
        assert_eq!(said["retry_after_seconds"].as_u64().unwrap() == 0, allow);
        assert_eq!(said["valid_for_ms"], 1000);
    }
    for query in
        ["", "channel=PJSIP/1@airtel", "pbx=pbx1", "trunk=airtel", "trunk=pbx1/airtel&pbx=pbx1", "trnk=pbx1/airtel"]
    {
        server.get(&format!("/api/v1/gate?{query}")).await.problem(400, "invalid_query");
    }
    server.get("/api/v1/holds").await.problem(503, "store_unavailable");
    server.get("/api/v1/trunks").await.ok();
    server.get("/api/v1/holds?active=true").await.ok();
    server.stop().await;
}

#[tokio::test]
async fn an_observing_gate_allows_everything_and_says_so() {
    let server = start_with(Setup { mode: Mode::Observe, ..Setup::default() }).await;
    for query in ["trunk=pbx1/tata", "trunk=pbx1/nobody", "pbx=pbx1&channel=Local/1@x", "trunk=pbx1/tata&campaign=7"] {
        let said = server.get(&format!("/api/v1/gate?{query}")).await.ok();
        assert_eq!((&said["allow"], &said["retry_after_seconds"]), (&json!(true), &json!(0)), "{query}");
        assert!(said["reason"].as_str().unwrap().contains("would hold"), "{said}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_dialer_tells_of_its_campaigns() {
    let server = start().await;
    let list = server.get("/api/v1/campaigns").await.ok();
    let fields_of_campaign = ["dialer", "hold", "id", "intent", "name", "paused_by_us", "since", "state", "trunks"];
    assert_eq!(ids(&list), ["7", "8", "9"]);
    for item in list["items"].as_array().unwrap() {
        assert_eq!(fields(item), fields_of_campaign);
    }
    assert_eq!((&list["items"][0]["intent"], &list["items"][2]["intent"]), (&json!("pausing"), &json!(null)));
    let hold = server.get("/api/v1/trunks/pbx1/tata").await.ok()["hold"]["id"].clone();
    assert_eq!((&list["items"][0]["hold"], &list["items"][0]["paused_by_us"]), (&hold, &json!(false)));

    let body = json!({"trunks": ["pbx1/airtel"], "state": "running", "name": "Spring"});
    let told = server.put("/api/v1/campaigns/crm/new%2F1", &body).await.ok();
    assert_eq!(fields(&told), fields_of_campaign);
    assert_eq!(
        (&told["id"], &told["state"], &told["trunks"]),
        (&json!("new/1"), &json!("running"), &json!(["pbx1/airtel"]))
    );
    assert_eq!(
        server.put("/api/v1/campaigns/crm/new%2F1", &json!({"state": "stopped"})).await.ok()["trunks"],
        json!(["pbx1/airtel"])
    );
    server.put("/api/v1/campaigns/nobody/1", &body).await.problem(404, "unknown_dialer");
    server.put("/api/v1/campaigns/crm/1", &json!({"state": "dialing"})).await.problem(400, "invalid_body");
    server.put("/api/v1/campaigns/crm/1", &json!({"trunks": ["airtel"]})).await.problem(400, "invalid_body");
    let many: Vec<_> = (0..257).map(|n| format!("pbx1/t{n}")).collect();
    server.put("/api/v1/campaigns/crm/1", &json!({"trunks": many})).await.problem(422, "too_many");
    server.stop().await;
}

#[tokio::test]
async fn pbxs_outbox_and_incidents_have_the_fields_of_the_contract() {
    let server = start().await;
    let pbxs = server.get("/api/v1/pbxs").await.ok();
    assert_eq!(
        pbxs,
        json!({"items": [{
            "id": "pbx1", "ami": {"state": "listed", "since": server.time(2975), "version": "9.0.0", "error": null}, "ari": null,
            "trunks": 3, "last_event_at": server.time(90), "lag_ms": null,
        }]})
    );
    let outbox = server.get("/api/v1/outbox?state=pending").await.ok();
    let items = outbox["items"].as_array().unwrap();
    assert_eq!(items.len(), 2, "campaigns 7 and 8 are paused: {outbox}");
    for item in items {
        assert_eq!(fields(item), ["attempts", "campaign", "dialer", "id", "last_error", "next_at", "state", "type"]);
        assert_eq!(
            (&item["type"], &item["dialer"], &item["attempts"]),
            (&json!("campaign.pause"), &json!("crm"), &json!(0))
        );
    }
    assert_eq!(server.get("/api/v1/outbox?state=delivered").await.ok(), json!({"items": []}));
    server.get("/api/v1/outbox?state=sent").await.problem(400, "invalid_query");
    assert_eq!(server.get("/api/v1/incidents").await.ok(), json!({"items": []}));
    server.stop().await;
}

#[tokio::test]
async fn health_is_open_and_readiness_follows_loop_and_store() {
    let tokens = vec![Token { name: "ops".to_owned(), role: Role::Operator, sha256: auth::hash("tw_ops") }];
    let server = start_with(Setup { tokens, deciding: false, ..Setup::default() }).await;
    assert_eq!(server.get("/healthz").await.ok()["status"], "ok");
    let ready = server.get("/readyz").await.ok();
    assert_eq!(fields(&ready), ["checks", "status"]);
    assert_eq!(ready["checks"][2], json!({"name": "pbxs", "ok": true, "required": false, "state": "1 of 1 listed"}));
    assert!(server.get("/").await.text.contains("GET  /api/v1/gate"));
    server.ready.set_store(false);
    let reply = server.get("/readyz").await;
    assert_eq!((reply.status.as_u16(), &reply.json()["status"]), (503, &json!("not_ready")));
    server.ready.set_store(true);
    server.ready.set_phase(Phase::Starting);
    assert_eq!(server.get("/readyz").await.status, 503);
    assert_eq!(server.get("/healthz").await.status, 200);
    server.stop().await;
}

#[tokio::test]
async fn each_role_may_do_what_it_is_for() {
    let roles = [
        ("tw_viewer", Role::Viewer),
        ("tw_operator", Role::Operator),
        ("tw_admin", Role::Admin),
        ("tw_gate", Role::Gate),
    ];
    let tokens = roles.map(|(text, role)| Token { name: role.to_string(), role, sha256: auth::hash(text) });
    let server = start_with(Setup { tokens: tokens.into(), ..Setup::default() }).await;
    let (look, gate, act) = ("look", "gate", "act");
    let trunk = "/api/v1/trunks/pbx1/airtel";
    let routes = [
        ("GET", "/api/v1/trunks".to_owned(), look),
        ("GET", trunk.to_owned(), look),
        ("GET", format!("{trunk}/history"), look),
        ("GET", format!("{trunk}/at?time=1h"), look),
        ("GET", format!("{trunk}/availability"), look),
        ("GET", format!("{trunk}/diagnosis"), look),
        ("GET", "/api/v1/holds".to_owned(), look),
        ("GET", "/api/v1/campaigns".to_owned(), look),
        ("GET", "/api/v1/pbxs".to_owned(), look),
        ("GET", "/api/v1/outbox".to_owned(), look),
        ("GET", "/api/v1/incidents".to_owned(), look),
        ("GET", "/api/v1/events".to_owned(), look),
        ("GET", "/api/v1/openapi.json".to_owned(), look),
        ("GET", "/api/v1/no-such-route".to_owned(), look),
        ("GET", "/metrics".to_owned(), look),
        ("HEAD", "/api/v1/trunks".to_owned(), look),
        ("GET", "/api/v1/gate?trunk=pbx1/airtel".to_owned(), gate),
        ("POST", format!("{trunk}/hold"), act),
        ("POST", format!("{trunk}/release"), act),
        ("POST", format!("{trunk}/diagnose"), look),
        ("POST", "/api/v1/diagnose".to_owned(), look),
        ("POST", "/api/v1/holds".to_owned(), act),
        ("POST", "/api/v1/holds/release".to_owned(), act),
        ("PUT", "/api/v1/campaigns/crm/7".to_owned(), act),
        ("POST", "/healthz".to_owned(), act),
        ("POST", "/api/v1/gate".to_owned(), act),
    ];
    let body = json!({"reason": "x", "trunks": ["pbx1/airtel"]});
    for (method, path, need) in &routes {
        let ask = |token: Option<&str>| {
            let method: Method = method.parse().unwrap();
            let request = server.http.request(method, server.url(path)).json(&body);
            token.map_or(request.try_clone().unwrap(), |token| request.bearer_auth(token))
        };
        for token in [None, Some("tw_unknown"), Some("")] {
            let reply = server.send(ask(token)).await;
            assert_eq!(reply.status, 401, "{method} {path} with {token:?}");
            assert_eq!(reply.headers[header::WWW_AUTHENTICATE], "Bearer realm=\"trunkwarden\"");
        }
        for (token, role) in roles {
            let may = match role {
                Role::Viewer => need != &act,
                Role::Operator | Role::Admin => true,
                Role::Gate => need == &gate,
            };
            let reply = server.send(ask(Some(token))).await;
            assert_ne!(reply.status, 401, "{method} {path} as {role}");
            assert_eq!(reply.status != 403, may, "{method} {path} as {role}: {}", reply.text);
        }
    }
    let attempt = |token| {
        let request = server.http.post(server.url(&format!("{trunk}/diagnose"))).json(&json!({"attempt": true}));
        server.send(request.bearer_auth(token))
    };
    attempt("tw_viewer").await.problem(403, "forbidden");
    attempt("tw_operator").await.problem(404, "no_diagnosis");
    let basic = server.http.get(server.url("/api/v1/trunks")).basic_auth("x", Some("tw_admin"));
    server.send(basic).await.problem(401, "unauthorized");
    let denied = server.send(server.http.get(server.url("/api/v1/trunks")).bearer_auth("tw_gate")).await;
    assert!(!denied.problem(403, "forbidden").contains("tw_"));
    let foreign =
        server.http.get(server.url("/api/v1/trunks")).header(header::HOST, "pbx.example").bearer_auth("tw_viewer");
    server.send(foreign).await.ok();
    let held =
        server.http.post(server.url(&format!("{trunk}/hold"))).bearer_auth("tw_operator").json(&json!({"reason": "x"}));
    assert_eq!(server.send(held).await.ok()["by"], "operator:operator", "a hold names the token it was made with");
    server.stop().await;
}

#[tokio::test]
async fn without_tokens_a_web_page_gets_nowhere() {
    let server = start().await;
    let port = server.address.port();
    for host in ["evil.example".to_owned(), format!("rebound.example:{port}"), "127.0.0.1.evil.example".to_owned()] {
        for path in ["/api/v1/trunks", "/healthz", "/"] {
            let request = server.http.get(server.url(path)).header(header::HOST, host.as_str());
            server.send(request).await.problem(403, "host_not_allowed");
        }
    }
    for host in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), "[::1]:1".to_owned()] {
        server.send(server.http.get(server.url("/api/v1/trunks")).header(header::HOST, host)).await.ok();
    }
    let hold = |origin: &str| {
        let request = server.http.post(server.url("/api/v1/trunks/pbx1/airtel/hold")).json(&json!({"reason": "x"}));
        request.header(header::ORIGIN, origin)
    };
    for origin in ["http://evil.example", "null", "http://127.0.0.1:1"] {
        server.send(hold(origin)).await.problem(403, "host_not_allowed");
    }
    server.send(hold(&format!("http://127.0.0.1:{port}"))).await.ok();
    let preflight =
        server.http.request(Method::OPTIONS, server.url("/api/v1/holds")).header(header::ORIGIN, "http://evil.example");
    let reply = server.send(preflight).await;
    assert_eq!(reply.status, 403);
    assert!(!reply.headers.keys().any(|name| name.as_str().starts_with("access-control")));
    server.stop().await;
}

#[tokio::test]
async fn every_answer_has_an_id_and_is_not_cached() {
    let server = start().await;
    let (one, two) = (server.get("/api/v1/trunks").await, server.get("/api/v1/nothing").await);
    for reply in [&one, &two] {
        assert!(reply.headers["x-request-id"].to_str().unwrap().starts_with("req_"));
        assert_eq!(reply.headers[header::CACHE_CONTROL], "no-store");
        assert_eq!(reply.headers[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
    }
    assert_ne!(one.headers["x-request-id"], two.headers["x-request-id"]);
    server.stop().await;
}

#[tokio::test]
async fn a_full_queue_and_a_stopping_controller_refuse_at_once() {
    let server = start_with(Setup { deciding: false, queue: 1, ..Setup::default() }).await;
    let path = "/api/v1/trunks/pbx1/airtel/hold";
    let body = json!({"reason": "x"});
    // Nobody takes it: it fills the queue and waits until the connection is given up below.
    let waiting = server.http.post(server.url(path)).json(&body).timeout(Duration::from_millis(300)).send();
    assert!(waiting.await.unwrap_err().is_timeout());
    let reply = server.post(path, &body).await;
    reply.problem(503, "busy");
    assert_eq!(reply.headers[header::RETRY_AFTER], "1");
    server.ready.set_phase(Phase::Stopping);
    server.post(path, &body).await.problem(503, "stopping");
    server.stop().await;
}

#[tokio::test]
async fn a_client_that_says_nonsense_or_nothing_stops_nobody() {
    let server = start().await;
    let mut silent = TcpStream::connect(server.address).await.unwrap();
    silent.write_all(b"GET /api/v1/trunks HTTP/1.1\r\nHost: localhost\r\nX-Half").await.unwrap();
    let mut garbage = TcpStream::connect(server.address).await.unwrap();
    garbage.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 garbage\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    garbage.read_to_end(&mut answer).await.unwrap();
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    server.get("/api/v1/trunks").await.ok();
    let begun = std::time::Duration::from_secs(10);
    tokio::time::timeout(begun, server.stop()).await.expect("stopping does not wait for a silent client for ever");
}

#[tokio::test]
async fn the_trunks_command_prints_an_aligned_table_in_local_time() {
    let server = start().await;
    let zone = jiff::tz::TimeZone::get("Asia/Kolkata").unwrap();
    let local = |ago: u64| {
        let at = before(server.now, Duration::from_secs(ago)).to_zoned(zone.clone());
        at.strftime("%Y-%m-%d %H:%M:%S%:z").to_string()
    };
    let output = server.cli(&["trunks"]).await;
    assert_eq!(stderr(&output), "");
    let (stable, down) = (local(2975), local(90));
    assert_eq!(
        stdout(&output),
        format!(
            "TRUNK              HEALTH  SINCE                      AGE  GATE   REGISTRATION  REASON\n\
             {ODD}  stable  {stable}  49m  allow  registered    registered\n\
             pbx1/airtel        stable  {stable}  49m  allow  registered    registered\n\
             pbx1/tata          down    {down}  1m   hold   rejected      =tata-reg rejected for 1m\n"
        )
    );
    let output = server.cli(&["trunks", "--utc", "--health", "down"]).await;
    let utc = server.time(90).replace('T', " ");
    assert!(stdout(&output).contains(&format!("pbx1/tata  down    {utc}  1m   hold")), "{}", stdout(&output));
    let output = server.cli(&["trunks", "--pbx", "pbx2"]).await;
    assert_eq!(stdout(&output), "no such trunks; without --pbx and --health all are listed\n");
    let output = server.cli(&["trunks", "--json"]).await;
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said, server.get("/api/v1/trunks").await.ok());
    server.stop().await;
}

#[tokio::test]
async fn the_gate_command_answers_by_its_exit_code() {
    let server = start().await;
    for (line, code, said) in [
        (vec!["gate", "pbx1/airtel"], 0, "allow pbx1/airtel (stable): registered\n"),
        (
            vec!["gate", "pbx1/nobody"],
            1,
            "hold pbx1/nobody (unknown): no such trunk is known, or its PBX was not listed yet\n",
        ),
        (vec!["gate", "--pbx", "pbx1", "--channel", "PJSIP/1@airtel"], 0, "allow pbx1/airtel (stable): registered\n"),
    ] {
        let output = server.cli(&line).await;
        assert_eq!((output.status.code(), stdout(&output)), (Some(code), said), "{line:?} {}", stderr(&output));
    }
    let output = server.cli(&["gate", "pbx1/airtel", "--campaign", "8"]).await;
    assert_eq!(output.status.code(), Some(1));
    let output = server.cli(&["gate", "pbx1/tata", "--json"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["allow"], false);
    let output = server.cli(&["gate", "airtel"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("write it as pbx/trunk"), "{}", stderr(&output));
    let api = format!("http://{}", server.address);
    server.stop().await;
    let output = cli(&api, None, &["gate", "pbx1/airtel"]).await;
    assert_eq!((output.status.code(), stdout(&output)), (Some(2), ""));
    assert!(stderr(&output).contains("start one with `trunkwarden run`"), "{}", stderr(&output));
    assert_eq!(stderr(&output).matches("no controller answers").count(), 1, "said once: {}", stderr(&output));
    let output = cli(&api, None, &["trunks"]).await;
    assert_eq!(output.status.code(), Some(1));
}

#[tokio::test]
async fn the_history_command_gives_all_pages_in_each_format() {
    let server = start().await;
    let whole = server.get("/api/v1/trunks/pbx1/tata/history?since=24h").await.ok();
    let output = server.cli(&["history", "pbx1/tata", "--format", "json"]).await;
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), whole);
    let output = server.cli(&["history", "pbx1/tata", "--format", "csv"]).await;
    assert_eq!(stdout(&output).lines().count(), whole["items"].as_array().unwrap().len() + 1);
    assert!(stdout(&output).starts_with("seq,at,trunk,kind,from,to,count,first_at,last_at,detail\r\n"));
    let output = server.cli(&["history", "pbx1/tata", "--utc", "--kind", "registration", "--since", "5m"]).await;
    let at = server.time(90).replace('T', " ");
    assert_eq!(
        stdout(&output),
        format!(
            "AT                    KIND          FROM        TO        COUNT  LAST  DETAIL\n\
             {at}  registration  registered  rejected  1            =tata-reg\n"
        )
    );
    let output = server.cli(&["history", "pbx1/tata", "--limit", "2"]).await;
    assert_eq!(stdout(&output).lines().count(), 3);
    assert!(stderr(&output).contains("there is more"), "{}", stderr(&output));
    let output = server.cli(&["history", "pbx1/nobody"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("pbx1/nobody is not known") && stderr(&output).contains("unknown_trunk"));
    let output = server.cli(&["history", "pbx1/tata", "--since", "yesterday"]).await;
    assert!(stderr(&output).contains("\"yesterday\" is no time: write 24h"), "{}", stderr(&output));
    server.stop().await;
}

#[tokio::test]
async fn hold_release_and_the_lists_work_from_the_terminal() {
    let server = start().await;
    let output = server.cli(&["hold", "pbx1/*", "--reason", "storm", "--for", "1h"]).await;
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
    assert_eq!(stdout(&output).lines().count(), 3);
    let output = server.cli(&["holds"]).await;
    assert_eq!(stdout(&output).lines().count(), 1 + 4, "three of the operator's, one of the policy's");
    assert!(stdout(&output).starts_with("TRUNK"), "{}", stdout(&output));
    let output = server.cli(&["release", "--all", "--reason", "over"]).await;
    assert_eq!(output.status.code(), Some(0));
    assert!(stdout(&output).contains("released pbx1/airtel, held by operator:cli since "), "{}", stdout(&output));
    let output = server.cli(&["release", "pbx1/airtel", "--reason", "again"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("There is no hold to release"), "{}", stderr(&output));
    let output = server.cli(&["hold", "airtel", "--reason", "x"]).await;
    assert!(stderr(&output).contains("write it as pbx/trunk"), "{}", stderr(&output));
    let output = server.cli(&["campaigns"]).await;
    assert!(stdout(&output).contains("crm/7     Campaign 7  unknown"), "{}", stdout(&output));
    let output = server.cli(&["outbox", "--state", "pending"]).await;
    assert!(stdout(&output).contains("campaign.pause"), "{}", stdout(&output));
    let output = server.cli(&["availability", "pbx1/tata", "--since", "1h"]).await;
    assert!(stdout(&output).contains("outages                   1\n"), "{}", stdout(&output));
    server.stop().await;
}

#[tokio::test]
async fn a_token_made_here_opens_the_api() {
    let made = cli("http://127.0.0.1:1", None, &["token", "new", "--name", "night-shift", "--json"]).await;
    let made: Value = serde_json::from_slice(&made.stdout).unwrap();
    let token = made["token"].as_str().unwrap();
    assert!(token.starts_with("tw_") && token.len() == 3 + 64);
    let bytes: Vec<u8> = (0..64)
        .step_by(2)
        .map(|i| u8::from_str_radix(&made["sha256"].as_str().unwrap()[i..i + 2], 16).unwrap())
        .collect();
    let tokens =
        vec![Token { name: "night-shift".to_owned(), role: Role::Operator, sha256: bytes.try_into().unwrap() }];
    let server = start_with(Setup { tokens, ..Setup::default() }).await;
    let api = format!("http://{}", server.address);
    let output = cli(&api, Some(token), &["hold", "pbx1/airtel", "--reason", "x"]).await;
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), ""));
    assert_eq!(server.store.holds(Some(true), 1).await.unwrap()[0].by.to_string(), "operator:night-shift");
    let output = cli(&api, None, &["trunks"]).await;
    assert!(stderr(&output).contains("put a token into TRUNKWARDEN_TOKEN"), "{}", stderr(&output));
    let output = cli(&api, Some("tw_wrong"), &["trunks"]).await;
    assert!(!stderr(&output).contains("tw_wrong") && stderr(&output).contains("not one of this controller's"));
    server.stop().await;

    let text = cli("http://127.0.0.1:1", None, &["token", "new"]).await;
    assert!(stdout(&text).contains("[[api.token]]\nname = \"ops\"\nrole = \"operator\"\nsha256 = \""));
}

#[tokio::test]
async fn a_command_of_a_later_version_says_so_with_64() {
    for line in [vec!["events"], vec!["init"]] {
        let output = cli("http://127.0.0.1:1", None, &line).await;
        assert_eq!(output.status.code(), Some(64), "{line:?}");
        assert!(stderr(&output).starts_with("trunkwarden: not yet: "), "{}", stderr(&output));
    }
    let output = cli("http://127.0.0.1:1", None, &["trunk"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("trunks"), "the nearest command is named: {}", stderr(&output));
}

#[tokio::test]
async fn what_answers_but_is_no_controller_is_not_believed() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let api = format!("http://{}", listener.local_addr().unwrap());
    let tasks = TaskTracker::new();
    tasks.spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).await.unwrap();
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nhi").await;
    });
    tasks.close();
    let output = cli(&api, None, &["gate", "pbx1/airtel"]).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("not as a trunkwarden does; is --api right?"), "{}", stderr(&output));
    tasks.wait().await;
}
