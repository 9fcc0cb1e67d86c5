//! The gateway in front of a simulated PBX: what a client can tell of it, and what it cannot.
#![expect(clippy::unwrap_used, reason = "a test's helpers may panic as the test may")]

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trunkwarden::{
    clock::{SystemClock, Timestamp},
    decision::{Gate, GateState, GateTx},
    gateway::{Gateway, GatewaySettings, GatewayUser, Limits, LocalPolicy, Parts, Refusals},
    health::Health,
    ids::{EndpointName, PbxId, TrunkId},
    sim::{SimPbx, SimSettings, SimTrunk, Timing},
    wire::ami::{
        Classes,
        client::{AmiSettings, Backoff},
    },
};

mod calls;
mod load;
mod login;
mod upstream;
mod wire;

pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A simulated PBX with two trunks, a gateway in front of it, and the gate's deciding side.
pub(crate) struct World {
    pub(crate) pbx: SimPbx,
    pub(crate) gateway: Gateway,
    pub(crate) gate: GateTx,
    pub(crate) refusals: Refusals,
    pub(crate) settings: GatewaySettings,
    step: u64,
    tasks: TaskTracker,
    stop: CancellationToken,
}

pub(crate) fn user(name: &str, read: &str, write: &str) -> GatewayUser {
    let classes = Classes::read(write);
    GatewayUser {
        name: name.to_owned(),
        secret: format!("{name}-secret").into(),
        allow: Vec::new(),
        read: Classes::read(read),
        write: if write == "all" { classes.without(Classes::COMMAND) } else { classes },
        write_all: write == "all",
        actions: None,
        trunks: None,
        unguarded: BTreeSet::new(),
    }
}

pub(crate) fn pbx_id() -> PbxId {
    PbxId::try_from("pbx1").unwrap()
}

pub(crate) fn trunk(name: &str) -> TrunkId {
    TrunkId::new(&pbx_id(), name).unwrap()
}

/// A PBX as quick as it can be.
pub(crate) fn quick() -> SimSettings {
    let timing = Timing {
        down: Duration::from_millis(50),
        boot: Duration::from_millis(50),
        call_setup: Duration::ZERO,
        call_length: Duration::ZERO,
        login_penalty: Duration::from_millis(100),
        ..Timing::default()
    };
    SimSettings { trunks: ["airtel", "tata"].map(SimTrunk::named).to_vec(), timing, ..SimSettings::default() }
}

/// Gateway settings for that PBX: `dialer` may do all, `watcher` may read calls.
pub(crate) fn gateway_to(pbx: SocketAddr) -> GatewaySettings {
    let mut upstream = AmiSettings::new("pbx1", pbx.to_string(), "trunkwarden", "sim".into());
    let short = Duration::from_millis(20);
    upstream.backoff = Backoff { first: short, max: short * 5, ..upstream.backoff };
    GatewaySettings {
        pbx: pbx_id(),
        listen: SocketAddr::from(([127, 0, 0, 1], 0)),
        tls: None,
        allow: Vec::new(),
        auth_limit: 50,
        auth_timeout: Duration::from_secs(30),
        users: vec![user("dialer", "all", "all"), user("watcher", "call", "call,reporting")],
        local: LocalPolicy::HoldWhenAnyHeld,
        rules: Vec::new(),
        limits: Limits::default(),
        upstream,
    }
}

impl World {
    pub(crate) async fn new(sim: SimSettings, change: impl FnOnce(&mut GatewaySettings)) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let pbx = SimPbx::start(sim, &tasks, stop.clone()).await.unwrap();
        let mut settings = gateway_to(pbx.address());
        change(&mut settings);
        let (gate_tx, gate) = Gate::new();
        let refusals = Refusals::default();
        let parts = Parts {
            gate,
            refusals: refusals.clone(),
            clock: Arc::new(SystemClock),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let gateway = Gateway::start(settings.clone(), parts).await.unwrap();
        let mut world = Self { pbx, gateway, gate: gate_tx, refusals, settings, step: 0, tasks, stop };
        for name in ["airtel", "tata"] {
            let endpoints = [EndpointName::try_from(name).unwrap()];
            world.gate.name([(&trunk(name), &endpoints[..])].into_iter());
            world.allow(name);
        }
        world.gate.listed(&pbx_id());
        world
    }

    pub(crate) fn allow(&mut self, name: &str) {
        self.say(name, true, Health::Stable, "stable: registered");
    }

    pub(crate) fn hold(&mut self, name: &str) {
        self.say(name, false, Health::Down, "down: rejected");
    }

    fn say(&mut self, name: &str, allow: bool, health: Health, reason: &str) {
        self.step += 1;
        let since = Timestamp::from_second(1_795_400_000).unwrap();
        let state =
            GateState { allow, reason: reason.to_owned(), since, health, until: None, released: None, cause: None };
        let changes = [(trunk(name), state)].into();
        self.gate.close(self.step, &changes);
        self.gate.open(self.step, &changes);
    }

    pub(crate) async fn client(&self) -> Client {
        Client::connect(self.gateway.address()).await
    }

    /// A client that is logged in and has its session at Asterisk.
    pub(crate) async fn dialer(&self) -> Client {
        let mut client = self.client().await;
        client.log_in("dialer").await;
        client.skip_to("FullyBooted").await;
        client
    }

    pub(crate) async fn end(self) {
        self.stop.cancel();
        self.tasks.close();
        timeout(PATIENCE, self.tasks.wait()).await.expect("everything started is stopped");
    }
}

/// A client that knows nothing but bytes.
pub(crate) struct Client {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Client {
    /// Connects, and reads the greeting.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let mut client = Self::silent(address).await;
        assert!(client.line().await.starts_with("Asterisk Call Manager/"));
        client
    }

    /// Connects.
    pub(crate) async fn silent(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), bytes: Vec::new() }
    }

    pub(crate) async fn log_in(&mut self, name: &str) {
        let answer = self.ask(&format!("Action: Login\r\nUsername: {name}\r\nSecret: {name}-secret\r\n\r\n")).await;
        assert_eq!(answer, "Response: Success\r\nMessage: Authentication accepted\r\n\r\n");
    }

    pub(crate) async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).await.unwrap();
    }

    /// Says that nothing more comes, and goes on listening.
    pub(crate) async fn end_half(&mut self) {
        self.stream.shutdown().await.unwrap();
    }

    /// Sends an action and gives the first response after it.
    pub(crate) async fn ask(&mut self, text: impl AsRef<[u8]>) -> String {
        self.send(text).await;
        self.response().await
    }

    /// The next response; events before it are left out.
    pub(crate) async fn response(&mut self) -> String {
        loop {
            let message = self.message().await;
            if message.trim_start().starts_with("Response:") {
                return message;
            }
        }
    }

    pub(crate) async fn skip_to(&mut self, event: &str) -> String {
        loop {
            let message = self.message().await;
            if message.trim_start().starts_with(&format!("Event: {event}\r\n")) {
                return message;
            }
        }
    }

    /// The next message, with its blank line.
    pub(crate) async fn message(&mut self) -> String {
        self.until(b"\n\r\n").await.expect("a message")
    }

    /// The next line.
    pub(crate) async fn line(&mut self) -> String {
        self.until(b"\r\n").await.expect("a line")
    }

    /// What comes up to `end`; `None` when the connection ended before.
    pub(crate) async fn until(&mut self, end: &[u8]) -> Option<String> {
        loop {
            if let Some(at) = self.bytes.windows(end.len()).position(|part| part == end) {
                let rest = self.bytes.split_off(at + end.len());
                return Some(String::from_utf8(std::mem::replace(&mut self.bytes, rest)).unwrap());
            }
            if !self.more().await {
                return None;
            }
        }
    }

    async fn more(&mut self) -> bool {
        let mut buffer = vec![0; 65_536];
        let count = timeout(PATIENCE, self.stream.read(&mut buffer)).await.expect("something comes").unwrap_or(0);
        self.bytes.extend_from_slice(&buffer[..count]);
        count > 0
    }

    /// Whether the other side has closed, everything before it read and thrown away.
    pub(crate) async fn is_closed(&mut self) -> bool {
        while self.more().await {
            self.bytes.clear();
        }
        true
    }

    /// Whether nothing comes for a moment.
    pub(crate) async fn is_quiet(&mut self) -> bool {
        let mut buffer = [0; 1];
        self.bytes.is_empty() && timeout(Duration::from_millis(150), self.stream.peek(&mut buffer)).await.is_err()
    }
}
