//! The same conversation with Asterisk and with the gateway before it: byte by byte the same, but for what [`masked`] names.
//!
//! The client here knows nothing of AMI but how a message ends, so that no reading of ours hides a difference. The gateway runs in this
//! process, with a gate of the test's own; behind it is the lab's Asterisk, and the same user on both ways in.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
use secrecy::ExposeSecret as _;
use tokio::runtime::Runtime;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use trunkwarden::clock::{Clock as _, SystemClock};
use trunkwarden::decision::{Gate, GateState, GateTx};
use trunkwarden::gateway::{
    Gateway, GatewaySettings, GatewayUser, Limits, LocalPolicy, Parts, Refusals, TlsListen, Unguarded,
};
use trunkwarden::health::Health;
use trunkwarden::ids::{EndpointName, PbxId, TrunkId};
use trunkwarden::wire::ami::Classes;
use trunkwarden::wire::ami::client::{AmiSettings, Tls, md5_key};

use super::{Instance, Lab, eventually};

/// What is not answered within this is not answered.
const PATIENCE: Duration = Duration::from_secs(10);

/// Users that Asterisk and the gateway both know: name, read and write classes.
pub(super) const USERS: [(&str, &str, &str); 3] = [
    ("everything", "all", "all"),
    ("caller", "system,call,user", "system,call,user,originate,reporting"),
    ("unbooted", "call,user", "system,call,user,originate,reporting"),
];

/// The trunks that its gate knows.
const TRUNKS: [&str; 3] = ["prov-ok", "ok", "closed-tcp"];

/// A gateway before the lab's Asterisk, with a gate of the test's own.
pub(super) struct Front {
    pub(super) gateway: Gateway,
    pub(super) refusals: Refusals,
    gate: GateTx,
    step: u64,
    runtime: Runtime,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Front {
    /// With every one of [`USERS`] on both sides, all trunks allowed.
    pub(super) fn to(lab: &Lab, upstream: SocketAddr, change: impl FnOnce(&mut GatewaySettings)) -> Self {
        for (name, read, write) in USERS {
            lab.ami_user(name, read, write);
        }
        let user = |(name, read, write): (&str, &str, &str)| GatewayUser {
            name: name.to_owned(),
            secret: secret(name).into(),
            allow: Vec::new(),
            read: Classes::read(read),
            write: Classes::read(write),
            write_all: write == "all",
            actions: None,
            trunks: None,
            unguarded: if write == "all" { BTreeSet::from(Unguarded::ALL) } else { BTreeSet::new() },
        };
        let mut settings = GatewaySettings {
            pbx: pbx(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            allow: Vec::new(),
            auth_limit: 50,
            auth_timeout: Duration::from_secs(30),
            users: USERS.map(user).to_vec(),
            local: LocalPolicy::HoldWhenAnyHeld,
            rules: Vec::new(),
            limits: Limits::default(),
            upstream: AmiSettings::new("pbx1", upstream.to_string(), "everything", secret("everything").into()),
        };
        settings.upstream.backoff.max = Duration::from_secs(1);
        change(&mut settings);
        let (runtime, tasks, stop) = (Runtime::new().expect("a runtime"), TaskTracker::new(), CancellationToken::new());
        let (names, gate) = Gate::new();
        let refusals = Refusals::default();
        let parts = Parts {
            gate,
            refusals: refusals.clone(),
            clock: Arc::new(SystemClock),
            tasks: tasks.clone(),
            stop: stop.clone(),
        };
        let gateway = runtime.block_on(Gateway::start(settings, parts)).expect("a gateway");
        let mut front = Self { gateway, refusals, gate: names, step: 0, runtime, tasks, stop };
        for name in TRUNKS {
            let endpoints = [EndpointName::try_from(name).expect("an endpoint")];
            front.gate.name([(&trunk(name), &endpoints[..])].into_iter());
            front.say(name, true, Health::Stable, "stable: registered");
        }
        front.gate.listed(&pbx());
        front
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    pub(super) fn hold(&mut self, name: &str) {
        self.say(name, false, Health::Down, "down: rejected");
    }

    fn say(&mut self, name: &str, allow: bool, health: Health, reason: &str) {
        self.step += 1;
        let since = SystemClock.now();
        let state =
            GateState { allow, reason: reason.to_owned(), since, health, until: None, released: None, cause: None };
        let changes = [(trunk(name), state)].into();
        self.gate.close(self.step, &changes);
        self.gate.open(self.step, &changes);
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.close();
        let ended = self.runtime.block_on(async { tokio::time::timeout(PATIENCE, self.tasks.wait()).await });
        if !std::thread::panicking() {
            ended.expect("everything started is stopped");
        }
    }
}

fn pbx() -> PbxId {
    PbxId::try_from("pbx1").expect("a PBX")
}

pub(super) fn trunk(name: &str) -> TrunkId {
    TrunkId::new(&pbx(), name).expect("a trunk")
}

pub(super) fn secret(user: &str) -> String {
    format!("secret-{user}")
}

trait Stream: Read + Write {}
impl<S: Read + Write> Stream for S {}

/// A client that knows how a message ends.
pub(super) struct Wire {
    stream: Box<dyn Stream>,
    /// The same, if it is in clear.
    plain: Option<TcpStream>,
    bytes: Vec<u8>,
    pings: u32,
}

impl Wire {
    /// Connects, and reads the greeting.
    pub(super) fn connect(address: SocketAddr) -> Self {
        let stream = open(address);
        let plain = stream.try_clone().expect("a socket");
        Self { plain: Some(plain), ..Self::over(Box::new(stream)) }
    }

    fn over(stream: Box<dyn Stream>) -> Self {
        let mut wire = Self { stream, plain: None, bytes: Vec::new(), pings: 0 };
        let greeting = text(&wire.until(b"\r\n"));
        assert!(greeting.starts_with("Asterisk Call Manager/"), "{greeting}");
        wire
    }

    fn encrypted(address: SocketAddr, authority: &Path) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(authority).expect("a PEM file")).expect("an authority");
        let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("TLS versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let connection = rustls::ClientConnection::new(Arc::new(config), name).expect("a connection");
        Self::over(Box::new(rustls::StreamOwned::new(connection, open(address))))
    }

    /// As [`Wire::connect`], logged in.
    pub(super) fn login(address: SocketAddr, user: &str, more: &str) -> Self {
        let mut wire = Self::connect(address);
        wire.log_in(user, more);
        wire
    }

    fn log_in(&mut self, user: &str, more: &str) {
        let answer = self.ask(&format!("Action: Login\r\nUsername: {user}\r\nSecret: {}\r\n{more}\r\n", secret(user)));
        assert!(answer.starts_with("Response: Success"), "{answer}");
    }

    pub(super) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("a peer that reads");
        self.stream.flush().expect("a peer that reads");
    }

    /// Sends and gives the first response after it; events are left out.
    pub(super) fn ask(&mut self, request: &str) -> String {
        self.send(request);
        self.next(|message| message.trim_start().starts_with("Response:"))
    }

    /// The next message that fits; others are left out.
    pub(super) fn next(&mut self, fits: impl Fn(&str) -> bool) -> String {
        loop {
            let message = text(&self.until(b"\n\r\n"));
            if fits(&message) {
                return message;
            }
        }
    }

    pub(super) fn event(&mut self, name: &str) -> String {
        self.next(|message| message.starts_with(&format!("Event: {name}\r\n")))
    }

    /// As asterisk-java logs in, and what it is answered, to the end of `FullyBooted`.
    pub(super) fn md5_login(&mut self, user: &str) -> Vec<u8> {
        let answer = self.ask("action: Challenge\r\nactionid: 1_1#\r\nauthtype: MD5\r\n\r\n");
        let number = answer.lines().find_map(|line| line.strip_prefix("Challenge: ")).expect("a challenge").to_owned();
        let key = md5_key(&number, &secret(user).into());
        self.send(format!(
            "action: Login\r\nactionid: 1_2#\r\nauthtype: MD5\r\nkey: {}\r\nusername: {user}\r\n\r\n",
            key.expose_secret()
        ));
        let mut heard = [answer.into_bytes(), self.until(b"\n\r\n")].concat();
        heard.extend(self.until(b"\n\r\n"));
        heard
    }

    /// As [`Wire::ask`] for an action whose id is in it, and how long that took; answers to others are left out.
    pub(super) fn timed(&mut self, request: &str) -> (String, Duration) {
        let id = request.lines().find_map(|line| line.strip_prefix("actionid: ")).expect("an id");
        let line = format!("ActionID: {id}\r\n");
        #[expect(clippy::disallowed_methods, reason = "a test's patience is measured in real time, not in the crate's")]
        let began = std::time::Instant::now();
        self.send(request);
        let answer = self.next(|message| message.starts_with("Response:") && message.contains(&line));
        (answer, began.elapsed())
    }

    /// All that comes up to this event, that included.
    pub(super) fn seen_until(&mut self, event: &str) -> String {
        let mut seen = self.until(format!("Event: {event}\r\n").as_bytes());
        seen.extend(self.until(b"\n\r\n"));
        text(&seen)
    }

    /// Whether nothing comes for so long. In clear only: it leaves the patience of a read as it is.
    pub(super) fn is_quiet_for(&mut self, quiet: Duration) -> bool {
        if let Some(plain) = &self.plain {
            plain.set_read_timeout(Some(quiet)).expect("a timeout");
            let mut byte = [0];
            let nothing = self.bytes.is_empty() && plain.peek(&mut byte).is_err();
            plain.set_read_timeout(Some(PATIENCE)).expect("a timeout");
            return nothing;
        }
        panic!("a connection in clear is needed");
    }

    /// Everything up to the answer to a `Ping` sent now, without it: whatever is still to come for what was asked before.
    pub(super) fn settle(&mut self) -> Vec<u8> {
        self.pings += 1;
        let id = format!("settled-{}", self.pings);
        self.send(format!("Action: Ping\r\nActionID: {id}\r\n\r\n"));
        let mut all = self.until(format!("ActionID: {id}\r\n").as_bytes());
        self.until(b"\n\r\n");
        let start = all.windows(10).rposition(|part| part == b"Response: ").expect("a response");
        all.truncate(start);
        all
    }

    fn until(&mut self, end: &[u8]) -> Vec<u8> {
        let mut seen = 0;
        loop {
            let from = usize::saturating_sub(seen, end.len());
            if let Some(at) = self.bytes[from..].windows(end.len()).position(|part| part == end) {
                let rest = self.bytes.split_off(from + at + end.len());
                return std::mem::replace(&mut self.bytes, rest);
            }
            seen = self.bytes.len();
            let mut buffer = vec![0; 65_536];
            let count = self.stream.read(&mut buffer).unwrap_or_else(|error| {
                panic!("{error} while waiting for {:?}; so far: {}", text(end), text(&self.bytes))
            });
            assert!(count > 0, "closed; so far: {}", text(&self.bytes));
            self.bytes.extend_from_slice(&buffer[..count]);
        }
    }

    /// What comes until the other side closes.
    fn rest(&mut self) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.bytes);
        let _closed_or_reset = self.stream.read_to_end(&mut bytes);
        bytes
    }
}

fn open(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("a port");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("an option");
    stream
}

fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string().replace("\\r\\n", "\r\n").replace("\\'", "'").replace("\\\"", "\"")
}

/// The values that two moments have apart. All others must be the same.
const TIMES_AND_IDS: [&str; 13] = [
    "Timestamp",
    "Challenge",
    "Uptime",
    "LastReload",
    "NextReg",
    "RoundtripUsec",
    "RegExpire",
    "Uniqueid",
    "Linkedid",
    "DestUniqueid",
    "DestLinkedid",
    "Duration",
    "CoreCurrentCalls",
];

/// A conversation without its times and ids, and with the number at the end of channel names left out.
fn masked(bytes: &[u8]) -> Vec<String> {
    let line = |line: &[u8]| {
        let line = text(line);
        match line.split_once(": ") {
            Some((name, _)) if TIMES_AND_IDS.contains(&name) => format!("{name}: *"),
            Some((name, value)) if name.ends_with("Channel") => {
                format!("{name}: {}", value.rsplit_once('-').map_or(value, |(channel, _)| channel))
            }
            Some(_) | None => line,
        }
    };
    bytes.split_inclusive(|&byte| byte == b'\n').map(line).collect()
}

/// Where two conversations part; nothing if they do not.
fn difference(name: &str, direct: &[u8], through: &[u8]) -> Option<String> {
    let (direct, through) = (masked(direct), masked(through));
    if direct == through {
        return None;
    }
    let at = direct.iter().zip(&through).take_while(|(one, other)| one == other).count();
    let around = |lines: &[String]| lines[at.saturating_sub(3)..lines.len().min(at + 6)].concat();
    Some(format!("{name}, line {at}\n--- direct\n{}\n--- through\n{}", around(&direct), around(&through)))
}

/// Panics with every difference of the table.
fn none_of(differences: impl IntoIterator<Item = Option<String>>) {
    let differences: Vec<String> = differences.into_iter().flatten().collect();
    assert!(differences.is_empty(), "{} differ:\n{}", differences.len(), differences.join("\n====\n"));
}

fn originate(more: &str) -> String {
    format!("Action: Originate\r\nActionID: o_1#ACME\r\n{more}\r\n")
}

/// One request after the other, what is asked and what it is called.
fn requests() -> Vec<(String, Vec<u8>)> {
    let mut table: Vec<(String, Vec<u8>)> = Vec::new();
    for action in [
        "Ping",
        "CoreSettings",
        "CoreStatus",
        "ListCommands",
        "PJSIPShowEndpoints",
        "PJSIPShowAors",
        "PJSIPShowAuths",
        "PJSIPShowContacts",
        "PJSIPShowRegistrationsOutbound",
        "PJSIPShowRegistrationsInbound",
        "PJSIPShowRegistrationInboundContactStatuses",
        "PJSIPShowResourceLists",
        "PJSIPShowSubscriptionsInbound",
        "PJSIPShowSubscriptionsOutbound",
        "CoreShowChannels",
        "Status",
        "DeviceStateList",
        "BridgeList",
        "NoSuchAction",
        "Login",
        "ping",
    ] {
        table.push((action.to_owned(), format!("Action: {action}\r\nActionID: a_1#ACME\r\n\r\n").into_bytes()));
        table.push((format!("{action}, no id"), format!("Action: {action}\r\n\r\n").into_bytes()));
    }
    for more in [
        "Action: PJSIPShowEndpoint\r\nActionID: 1\r\nEndpoint: prov-ok",
        "Action: PJSIPShowEndpoint\r\nActionID: 1\r\nEndpoint: nobody",
        "Action: PJSIPShowEndpoint\r\nActionID: 1",
        "Action: PJSIPQualify\r\nActionID: 1\r\nEndpoint: nobody",
        "Action: PJSIPUnregister\r\nActionID: 1\r\nRegistration: nobody",
        "Action: Command\r\nActionID: 1\r\nCommand: core show version",
        "Action: Command\r\nActionID: 1\r\nCommand: no such command",
        "Action: Command\r\nActionID: 1\r\nCommand: core show functions",
        "Action: Command\r\nActionID: 1\r\nCommand: manager show commands",
        "Action: Command\r\nActionID: 1\r\nCommand: module unload res_pjsip.so",
        "Action: Command\r\nActionID: 1",
        "Action: Getvar\r\nActionID: 1\r\nVariable: G",
        "Action: Setvar\r\nActionID: 1\r\nVariable: G\r\nValue: caf\u{e9} \u{4f60}",
        "Action: Getvar\r\nActionID: \u{4f60}\r\nVariable: G",
        "Action: Setvar\r\nActionID: 1",
        "Action: DBPut\r\nActionID: 1\r\nFamily: f\r\nKey: k\r\nVal: v:w",
        "Action: DBGet\r\nActionID: 1\r\nFamily: f\r\nKey: k",
        "Action: DBGet\r\nActionID: 1\r\nFamily: f\r\nKey: none",
        "Action: Hangup\r\nActionID: 1\r\nChannel: none",
        "Action: Events\r\nActionID: 1\r\nEventMask: on",
        "Action: Events\r\nActionID: 1\r\nEventMask: system,call",
        "Action: Events\r\nActionID: 1\r\nEventMask: nonsense",
        "Action: Events\r\nActionID: 1\r\nEventMask: 3",
        "Action: Events\r\nActionID: 1\r\nEventMask:",
        "Action: Events\r\nActionID: 1",
        "Action: Events\r\nActionID: 1\r\nEventMask: off",
        "Action: Filter\r\nActionID: 1\r\nOperation: Add\r\nMatchCriteria: name(Registry)\r\nFilter: ",
        "Action: Filter\r\nActionID: 1\r\nOperation: Add\r\nMatchCriteria: name(Registry),action(exclude)",
        "Action: Filter\r\nActionID: 1\r\nOperation: Add\r\nMatchCriteria: nonsense\r\nFilter: x",
        "Action: Filter\r\nActionID: 1\r\nOperation: Add\r\nFilter: Event: (",
        "Action: Filter\r\nActionID: 1\r\nOperation: Remove\r\nFilter: x",
        "Action: Filter\r\nActionID: 1",
        "action: challenge\r\nauthtype: md5",
        "Action: Challenge\r\nActionID: 1\r\nAuthType: sha",
        // how it is written
        "actionid: 1\r\nACTION:ping",
        "Action: Ping  \r\nActionID: 1",
        "Action : Ping\r\nActionID: 1",
        "Action: Ping\r\nAction: CoreStatus\r\nActionID: 1\r\nActionID: 2",
        "Action:\r\nActionID: 1",
        "ActionID: 1",
        "no colon\r\nAction: Ping\r\nActionID: 1",
        "Action: Ping\r\nActionID:   1 2  ",
        "Action: Ping\r\nActionID:",
        "Action: CoreShowChannel\r\nActionID: 1",
    ] {
        table.push((more.to_owned(), format!("{more}\r\n\r\n").into_bytes()));
    }
    let mut bytes = |name: &str, bytes: &[u8]| table.push((name.to_owned(), bytes.to_vec()));
    bytes("LF only", b"Action: Ping\nActionID: 1\n\n");
    bytes("blank lines before", b"\r\n\r\nAction: Ping\r\nActionID: 1\r\n\r\n");
    bytes("a blank line after", b"Action: Ping\r\nActionID: 1\r\n\r\n\r\n");
    bytes("not UTF-8", b"Action: Setvar\r\nActionID: \xff\xfe\r\nVariable: H\r\nValue: \xe9\x80\r\n\r\n");
    bytes("not UTF-8 back", b"Action: Getvar\r\nActionID: \xff\xfe\r\nVariable: H\r\n\r\n");
    bytes("an unknown action that is not UTF-8", b"Action: N\xff\r\nActionID: 1\r\n\r\n");
    for length in [1022, 1023, 1024, 1025, 1026, 2000] {
        let start = "Action: Ping\r\nActionID: 1\r\nX: ";
        bytes(&format!("a line of {length}"), format!("{start}{}\r\n\r\n", "x".repeat(length - 5)).as_bytes());
        bytes(&format!("a line of {length}, LF"), format!("{start}{}\n\n", "x".repeat(length - 4)).as_bytes());
    }
    for headers in [127, 128, 129, 200] {
        let more = "V: 1\r\n".repeat(headers - 2);
        bytes(&format!("{headers} headers"), format!("Action: Ping\r\nActionID: 1\r\n{more}\r\n").as_bytes());
    }
    table
}

/// Calls: what `Originate` says, and what of `OriginateResponse` comes of it.
fn calls() -> Vec<String> {
    [
        "Channel: PJSIP/100@prov-ok\r\nApplication: Wait\r\nData: 1\r\nTimeout: 5000\r\n",
        "Channel: PJSIP/100@prov-ok\r\nContext: answering\r\nExten: 1\r\nPriority: 1\r\nAsync: true\r\n",
        "Channel: PJSIP/100@prov-ok\r\nApplication: Wait\r\nData: 1\r\nAsync: yes\r\nVariable: A=1\r\nVariable: B=2,C=3\r\nVariable: A=4\r\n",
        "Channel: PJSIP/100@nobody\r\nApplication: Wait\r\nData: 1\r\n",
        "Channel: PJSIP/100@nobody\r\nApplication: Wait\r\nData: 1\r\nAsync: true\r\n",
        "Channel: PJSIP/100@closed-tcp\r\nApplication: Wait\r\nData: 1\r\n",
        "Channel: PJSIP/100@closed-tcp\r\nApplication: Wait\r\nData: 1\r\nAsync: true\r\n",
        "Channel: Local/100@answering\r\nApplication: Wait\r\nData: 0\r\nCallerID: \"caf\u{e9}\" <123>\r\n",
        "Channel: nonsense\r\nApplication: Wait\r\n",
        "Channel: PJSIP/100@prov-ok\r\nContext: answering\r\nExten: 1\r\nPriority: nonsense\r\n",
        "Channel: PJSIP/100@prov-ok\r\nContext: nowhere\r\nExten: 1\r\nPriority: 1\r\n",
        "Channel: PJSIP/100@prov-ok\r\nApplication: Wait\r\nTimeout: nonsense\r\n",
        "Channel: PJSIP/100@prov-ok\r\n",
        "Application: Wait\r\n",
        "",
    ]
    .map(originate)
    .to_vec()
}

/// Each request of the table, on both ways in.
fn compare(direct: &mut Wire, through: &mut Wire, table: &[(String, Vec<u8>)]) -> Vec<Option<String>> {
    let mut ask = |name: &str, request: &[u8]| {
        let heard = [&mut *direct, &mut *through].map(|wire| {
            wire.send(request);
            wire.settle()
        });
        assert!(!masked(&heard[0]).is_empty(), "{name}: Asterisk says something");
        difference(name, &heard[0], &heard[1])
    };
    table.iter().map(|(name, request)| ask(name, request)).collect()
}

#[test]
fn every_login_is_answered_as_asterisk_answers_it() {
    let Some(lab) = Lab::bare() else { return };
    let front = Front::to(&lab, lab.ami_address(), |_| {});
    let ways_in = [lab.ami_address(), front.address()];
    let [direct, through] = ways_in.map(|address| Wire::connect(address).md5_login("everything"));
    let mut found = vec![difference("MD5", &direct, &through)];
    for (user, more) in [
        ("caller", ""),
        ("caller", "ActionID: 1\r\n"),
        ("everything", "Events: off\r\n"),
        ("everything", "Events: call\r\nActionID: 2\r\n"),
        ("caller", "AuthType: plain\r\n"),
        ("unbooted", ""),
    ] {
        let [direct, through] = ways_in.map(|address| {
            let mut wire = Wire::connect(address);
            wire.send(format!("Action: Login\r\nUsername: {user}\r\nSecret: {}\r\n{more}\r\n", secret(user)));
            wire.settle()
        });
        found.push(difference(&format!("{user} {more}"), &direct, &through));
    }
    for wrong in [
        "Action: Login\r\nActionID: 7\r\nUsername: everything\r\nSecret: wrong\r\n\r\n",
        "Action: Login\r\nUsername: nobody\r\nSecret: wrong\r\n\r\n",
        "Action: Login\r\nUsername: everything\r\nAuthType: MD5\r\nKey: 00\r\n\r\n",
        "Action: Login\r\n\r\n",
        "Action: CoreStatus\r\nActionID: 1\r\n\r\nAction: Logoff\r\nActionID: 2\r\n\r\n",
        "Action: NoSuchAction\r\n\r\nAction: Logoff\r\n\r\n",
        "\r\nAction: Logoff\r\n\r\n",
    ] {
        let [direct, through] = ways_in.map(|address| {
            let mut wire = Wire::connect(address);
            wire.send(wrong);
            wire.rest()
        });
        found.push(difference(wrong, &direct, &through));
    }
    none_of(found);
}

#[test]
fn every_answer_is_asterisks_own() {
    let Some(lab) = Lab::up() else { return };
    let front = Front::to(&lab, lab.ami_address(), |_| {});
    let mut found = Vec::new();
    for user in ["everything", "caller"] {
        let mut direct = Wire::login(lab.ami_address(), user, "Events: off\r\n");
        let mut through = Wire::login(front.address(), user, "Events: off\r\n");
        direct.settle();
        through.settle();
        let ours = compare(&mut direct, &mut through, &requests());
        found.extend(ours.into_iter().map(|one| one.map(|text| format!("{user}: {text}"))));
    }
    none_of(found);
}

#[test]
fn every_form_of_originate_is_answered_as_asterisk_answers_it() {
    let Some(lab) = Lab::up() else { return };
    let front = Front::to(&lab, lab.ami_address(), |_| {});
    let mut found = Vec::new();
    // With events, an OriginateResponse; without, none, whoever asked.
    for (events, expected) in [("call", true), ("off", false)] {
        let login = format!("Events: {events}\r\n");
        let mut direct = Wire::login(lab.ami_address(), "everything", &login);
        let mut through = Wire::login(front.address(), "everything", &login);
        for request in calls() {
            let heard = [&mut direct, &mut through].map(|wire| {
                wire.settle();
                wire.send(&request);
                let mut heard = wire.until(b"\n\r\n");
                while !text(&heard).contains("Response: Success") && !text(&heard).contains("Response: Error") {
                    heard = wire.until(b"\n\r\n");
                }
                if request.contains("Async") && text(&heard).starts_with("Response: Success") {
                    // The watcher is a session of its own: the end of the call is known whoever is told of it.
                    if expected {
                        heard.extend(wire.event("OriginateResponse").into_bytes());
                    } else {
                        std::thread::sleep(Duration::from_millis(1200));
                        heard.extend(wire.settle());
                    }
                }
                eventually(PATIENCE, "no channel is left", || {
                    lab.cli(Instance::Pbx, "channel request hangup all");
                    lab.cli(Instance::Pbx, "core show channels count").starts_with("0 active channels").then_some(())
                });
                heard
            });
            found.push(difference(&format!("{events}: {request}"), &heard[0], &heard[1]));
        }
    }
    none_of(found);
}

#[test]
fn two_watchers_one_on_each_way_see_the_same_events_in_the_same_order() {
    let Some(lab) = Lab::up() else { return };
    let front = Front::to(&lab, lab.ami_address(), |_| {});
    let filter = |more: &str| format!("Action: Filter\r\nOperation: Add\r\n{more}\r\n\r\n");
    let watched = [
        ("all", String::new()),
        ("call,user", String::new()),
        ("on", filter("MatchCriteria: name(Newchannel)") + &filter("MatchCriteria: name(UserEvent)")),
        ("on", filter("MatchCriteria: action(exclude),name(VarSet)") + &filter("Filter: !Event: Newexten")),
        ("on", filter("Filter: Event: (Hangup|UserEvent)")),
    ];
    let mut watchers: Vec<(String, Wire, Wire)> = watched
        .into_iter()
        .map(|(mask, filters)| {
            let [direct, through] = [lab.ami_address(), front.address()].map(|address| {
                let mut wire = Wire::login(address, "everything", "");
                wire.send(format!("{filters}Action: Events\r\nEventMask: {mask}\r\n\r\n"));
                wire.settle();
                wire
            });
            (format!("{mask} {filters}"), direct, through)
        })
        .collect();
    let mut dialer = Wire::login(front.address(), "caller", "Events: off\r\n");
    let marker = |name: &str| {
        format!("Action: UserEvent\r\nUserEvent: {name}\r\nH: caf\u{e9}\r\nH: second\r\nH2: \u{4f60}\r\nEmpty:\r\n\r\n")
    };
    assert!(dialer.ask(&marker("Begin")).contains("Success"));
    for channel in ["PJSIP/100@prov-ok", "PJSIP/100@nobody"] {
        dialer.ask(&originate(&format!("Channel: {channel}\r\nApplication: Wait\r\nData: 0\r\nVariable: A=1\r\n")));
    }
    eventually(PATIENCE, "the end of the call", || {
        lab.cli(Instance::Pbx, "core show channels count").starts_with("0 active channels").then_some(())
    });
    assert!(dialer.ask(&marker("End")).contains("Success"));
    let mut found = Vec::new();
    for (name, direct, through) in &mut watchers {
        let [direct, through] = [direct, through].map(|wire| {
            wire.until(b"UserEvent: Begin\r\n");
            let mut seen = wire.until(b"UserEvent: End\r\n");
            seen.extend(wire.until(b"\n\r\n"));
            seen
        });
        assert!(direct.len() > 200, "{name}: {}", text(&direct));
        // The same events, so nothing at all may differ.
        if direct != through {
            found.push(difference(name, &direct, &through).or_else(|| Some(format!("{name}: times or ids"))));
        }
    }
    none_of(found);
}

#[test]
fn pings_in_one_write_are_all_answered_in_order_and_the_ids_of_others_do_not_matter() {
    let Some(lab) = Lab::bare() else { return };
    let front = Front::to(&lab, lab.ami_address(), |_| {});
    let mut clients = [0, 1].map(|_| Wire::login(front.address(), "caller", "Events: off\r\n"));
    let pipelined: String = (0..500).map(|n| format!("Action: Ping\r\nActionID: {n}\r\n\r\n")).collect();
    for client in &mut clients {
        client.settle();
        client.send(&pipelined);
    }
    for n in 0..500 {
        for client in &mut clients {
            let answer = client.next(|message| message.starts_with("Response:"));
            assert!(answer.contains(&format!("ActionID: {n}\r\n")) && answer.contains("Pong"), "{n}: {answer}");
        }
    }
    // Equal ids, unequal questions, at the same time.
    for round in 0..50 {
        let [one, other] = &mut clients;
        one.send("Action: CoreSettings\r\nActionID: same\r\n\r\n");
        other.send("Action: CoreStatus\r\nActionID: same\r\n\r\n");
        let heard = [one.settle(), other.settle()].map(|bytes| text(&bytes));
        assert!(heard[0].contains("AMIversion") && !heard[0].contains("CoreReloadTime"), "{round}: {}", heard[0]);
        assert!(heard[1].contains("CoreReloadTime") && !heard[1].contains("AMIversion"), "{round}: {}", heard[1]);
    }
}

#[test]
fn over_tls_on_both_sides_it_is_the_same_and_long_actions_do_not_stall() {
    let Some(lab) = Lab::up() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    let (certificate, key) = (folder.path().join("own.pem"), folder.path().join("own.key"));
    std::fs::write(&certificate, own.cert.pem()).expect("written");
    std::fs::write(&key, own.signing_key.serialize_pem()).expect("written");
    let front = Front::to(&lab, lab.ami_tls_address(), |settings| {
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        settings.tls = Some(TlsListen { listen, certificate: certificate.clone(), key });
        settings.upstream.tls = Tls::On { ca_file: Some(lab.ca_file().to_owned()), server_name: None };
    });
    let mut direct = Wire::encrypted(lab.ami_tls_address(), lab.ca_file());
    let mut through = Wire::encrypted(front.gateway.tls_address().expect("a TLS port"), &certificate);
    for wire in [&mut direct, &mut through] {
        wire.log_in("everything", "Events: off\r\n");
        wire.settle();
    }
    // Directly, what is longer than Asterisk's buffer stalls; so only the others are compared.
    let table: Vec<_> = requests().into_iter().filter(|(_, request)| request.len() < 900).collect();
    none_of(compare(&mut direct, &mut through, &table));

    let variables: String = (0..60).map(|n| format!("Variable: V{n}={}\r\n", "x".repeat(30))).collect();
    let call = originate(&format!("Channel: PJSIP/100@nobody\r\nApplication: Wait\r\n{variables}"));
    assert!(call.len() > 2700, "{}", call.len());
    let long_line = format!("Action: Ping\r\nActionID: long\r\nX: {}\r\n\r\n", "x".repeat(1019));
    let pings: String = (0..60).map(|n| format!("Action: Ping\r\nActionID: {n}\r\n\r\n")).collect();
    for _ in 0..5 {
        assert!(through.ask(&call).starts_with("Response: Error\r\nActionID: o_1#ACME\r\n"));
        assert!(through.ask(&long_line).contains("ActionID: long\r\n"));
        through.send(&pings);
        for n in 0..60 {
            let answer = through.next(|message| message.starts_with("Response:"));
            assert!(answer.contains(&format!("ActionID: {n}\r\n")), "{n}: {answer}");
        }
    }
}
