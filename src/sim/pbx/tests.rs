//! The simulated PBX seen from a raw socket, compared with recordings of Asterisk 22.10.1.
//!
//! The expected texts are taken from those recordings (`ami-framing`, `ami-registrations`, `ami-command-show-registrations`,
//! `ami-restart`, `ami-reload`, `ami-busy`); only times, ids and addresses are masked.

use std::time::Duration;

use secrecy::ExposeSecret;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;
use crate::{
    sim::provider::{Behaviour, Pace},
    wire::{
        hep,
        sip::{
            SipMessage,
            digest::{Match, Secret},
        },
    },
};

const PATIENCE: Duration = Duration::from_secs(10);

/// A simulation, and what ends it.
struct World {
    pbx: SimPbx,
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl World {
    async fn new(settings: SimSettings) -> Self {
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let pbx = SimPbx::start(settings, &tracker, stop.clone()).await.unwrap();
        Self { pbx, tracker, stop }
    }

    async fn end(self) {
        self.stop.cancel();
        self.tracker.close();
        timeout(PATIENCE, self.tracker.wait()).await.expect("everything started is stopped");
    }
}

/// Registers at once, with a round trip of nothing.
fn quick(name: &str) -> SimTrunk {
    let mut trunk = SimTrunk::named(name);
    if let Some(registration) = &mut trunk.registration {
        registration.max_random_initial_delay = Duration::ZERO;
    }
    trunk
}

fn quick_timing() -> Timing {
    Timing {
        pace: Pace { round_trip: Duration::ZERO, ..Pace::default() },
        down: Duration::from_millis(50),
        boot: Duration::from_millis(50),
        call_setup: Duration::ZERO,
        call_length: Duration::ZERO,
        login_penalty: Duration::from_millis(100),
        ..Timing::default()
    }
}

fn settings(trunks: Vec<SimTrunk>) -> SimSettings {
    SimSettings { trunks, timing: quick_timing(), ..SimSettings::default() }
}

/// A client that knows nothing but bytes.
struct Raw {
    stream: TcpStream,
    bytes: Vec<u8>,
}

impl Raw {
    async fn connect(pbx: &SimPbx) -> Self {
        let mut raw = Self { stream: TcpStream::connect(pbx.address()).await.unwrap(), bytes: Vec::new() };
        assert_eq!(raw.line().await, "Asterisk Call Manager/11.0.0\r\n");
        raw
    }

    async fn logged_in(pbx: &SimPbx) -> Self {
        let mut raw = Self::connect(pbx).await;
        raw.send("Action: Login\r\nUsername: trunkwarden\r\nSecret: sim\r\n\r\n").await;
        assert_eq!(raw.message().await, "Response: Success\r\nMessage: Authentication accepted\r\n\r\n");
        assert!(raw.message().await.starts_with("Event: FullyBooted\r\n"));
        raw.skip_to("SuccessfulAuth").await;
        raw
    }

    async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Sends an action and gives its answer.
    async fn ask(&mut self, text: &str) -> String {
        self.send(text).await;
        self.message().await
    }

    async fn more(&mut self) -> bool {
        let mut buffer = vec![0; 65_536];
        let count = timeout(PATIENCE, self.stream.read(&mut buffer)).await.expect("something comes").unwrap_or(0);
        self.bytes.extend_from_slice(&buffer[..count]);
        count > 0
    }

    async fn until(&mut self, end: &[u8]) -> String {
        loop {
            if let Some(place) = memchr::memmem::find(&self.bytes, end) {
                let taken: Vec<u8> = self.bytes.drain(..place + end.len()).collect();
                return String::from_utf8(taken).unwrap();
            }
            assert!(self.more().await, "ended after {:?}", String::from_utf8_lossy(&self.bytes));
        }
    }

    async fn line(&mut self) -> String {
        self.until(b"\r\n").await
    }

    async fn message(&mut self) -> String {
        self.until(b"\r\n\r\n").await
    }

    /// The next event of that name.
    async fn skip_to(&mut self, event: &str) -> String {
        loop {
            let message = self.message().await;
            if message.starts_with(&format!("Event: {event}\r\n")) {
                return message;
            }
        }
    }

    async fn ends(&mut self) -> Vec<u8> {
        while self.more().await {}
        std::mem::take(&mut self.bytes)
    }

    /// Nothing comes for a while. The one place that waits for the absence of something.
    async fn quiet(&mut self) {
        let nothing = timeout(Duration::from_millis(150), self.more()).await.is_err();
        assert!(nothing && self.bytes.is_empty(), "{:?}", String::from_utf8_lossy(&self.bytes));
    }
}

fn keys(message: &str) -> Vec<&str> {
    message.lines().filter_map(|line| line.split_once(':')).map(|(key, _)| key).collect()
}

/// Digits that are a time become `T`.
fn masked(text: &str) -> String {
    let mask = |line: &str| match line.strip_prefix("Timestamp: ") {
        Some(_) => "Timestamp: T".to_owned(),
        None => line.to_owned(),
    };
    text.split("\r\n").map(mask).collect::<Vec<_>>().join("\r\n")
}

#[tokio::test]
async fn odd_requests_are_answered_as_recorded() {
    let pong = |id: &str| format!("Response: Success\r\nActionID: {id}\r\nPing: Pong\r\nTimestamp: T\r\n\r\n");
    let error = |id: &str, text: &str| {
        let id = if id.is_empty() { String::new() } else { format!("ActionID: {id}\r\n") };
        format!("Response: Error\r\n{id}Message: {text}\r\n\r\n")
    };
    let missing = "Missing action in request";
    let long = |id: &str, length: usize| {
        format!("Action: Ping\r\nActionID: {id}\r\nX: {}\r\n\r\n", "x".repeat(length - "X: \r\n".len()))
    };
    let many =
        |id: &str, lines: usize| format!("Action: Ping\r\nActionID: {id}\r\n{}\r\n", "A: b\r\n".repeat(lines - 2));
    let unknown =
        |name: &str| format!("Invalid/unknown command: {name}. Use Action: ListCommands to show available commands.");
    let too_long = "Failed to parse message: line too long";
    let too_many = "Too many lines in message or allocation failure";
    let queued =
        |id: &str| format!("Response: Success\r\nActionID: {id}\r\nMessage: Originate successfully queued\r\n\r\n");
    let cases: Vec<(String, String)> = vec![
        ("Action: Ping\r\n\r\n".into(), error("", "Permission denied")),
        (
            "action:login\nusername:trunkwarden\nsecret:sim\nevents:off\n\n".into(),
            "Response: Success\r\nMessage: Authentication accepted\r\n\r\n".into(),
        ),
        ("Action:Ping\r\nActionID:x1\r\n\r\n".into(), pong("x1")),
        ("Action:  Ping   \r\nActionID: x2  \r\n\r\n".into(), error("x2  ", &unknown("Ping   "))),
        ("Action: Ping\r\nActionID: a\r\nActionID: b\r\n\r\n".into(), pong("a")),
        ("ActionID: late\r\nAction: Ping\r\n\r\n".into(), pong("late")),
        (
            "\r\n\r\nAction: Ping\r\nActionID: afterblank\r\n\r\n".into(),
            error("", missing) + &error("", missing) + &pong("afterblank"),
        ),
        ("ActionID: noact\r\n\r\n".into(), error("noact", missing)),
        ("Action: Nosuch\r\nActionID: u\r\n\r\n".into(), error("u", &unknown("Nosuch"))),
        ("Action: Ping\r\nActionID: nocolon\r\nno colon here\r\n\r\n".into(), pong("nocolon")),
        ("Action : Ping\r\nActionID: sp\r\n\r\n".into(), error("sp", missing)),
        (
            "Action: UserEvent\r\nActionID: utf\r\nUserEvent: X\r\nY: \u{00fc}\r\n\r\n".into(),
            "Response: Success\r\nActionID: utf\r\nMessage: Event Sent\r\n\r\n".into(),
        ),
        (long("L1024", 1024), pong("L1024")),
        (long("L1025", 1025), error("L1025", too_long) + &error("", missing)),
        (long("L1026", 1026), error("L1026", too_long)),
        (long("L1100", 1100), error("L1100", too_long)),
        (many("H128", 128), pong("H128")),
        (many("H129", 129), error("H129", too_many)),
        (many("H200", 200), error("H200", too_many)),
        (
            "Action: Originate\r\nActionID: o1\r\nChannel: PJSIP/1@t\r\nContext: c\r\nExten: s\r\nPriority: 1\r\nAsync: \
             true\r\n\r\n"
                .into(),
            queued("o1"),
        ),
        ("action:originate\nactionid:o2\nchannel:PJSIP/1@t\napplication:Wait\ndata:1\nasync:yes\n\n".into(), queued("o2")),
        (
            "Action: Login\r\nUsername: trunkwarden\r\nSecret: sim\r\n\r\n".into(),
            "Response: Success\r\nMessage: Already authenticated\r\n\r\n".into(),
        ),
        (
            "Action: PJSIPRegister\r\nActionID: p\r\nRegistration: nosuch\r\n\r\n".into(),
            "Response: Error\r\nActionID: p\r\nMessage: Unable to retrieve registration entry\n\r\n\r\n".into(),
        ),
        (
            "Action: Logoff\r\n\r\n".into(),
            "Response: Goodbye\r\nMessage: Thanks for all the fish.\r\n\r\n".into(),
        ),
    ];
    let world = World::new(settings(vec![quick("t")])).await;
    let mut raw = Raw::connect(&world.pbx).await;
    for (sent, expected) in cases {
        raw.send(&sent).await;
        let mut answer = String::new();
        while answer.matches("\r\n\r\n").count() < expected.matches("\r\n\r\n").count() {
            answer += &raw.message().await;
        }
        assert_eq!(masked(&answer), expected, "to {:?}", &sent[..sent.len().min(80)]);
    }
    assert!(raw.ends().await.is_empty());
    world.end().await;
}

#[tokio::test]
async fn a_wrong_secret_is_kept_waiting_refused_and_cut_off() {
    let world = World::new(settings(Vec::new())).await;
    let mut raw = Raw::connect(&world.pbx).await;
    let begun = Instant::now();
    let answer = raw.ask("Action: Login\r\nActionID: bad\r\nUsername: trunkwarden\r\nSecret: no\r\n\r\n").await;
    assert_eq!(answer, "Response: Error\r\nActionID: bad\r\nMessage: Authentication failed\r\n\r\n");
    assert!(begun.elapsed() >= quick_timing().login_penalty);
    assert!(raw.ends().await.is_empty());
    world.end().await;
}

#[tokio::test]
async fn an_md5_login_proves_the_secret_without_sending_it() {
    use md5::{Digest as _, Md5};
    let world = World::new(settings(Vec::new())).await;
    let mut raw = Raw::connect(&world.pbx).await;
    let answer = raw.ask("Action: Challenge\r\nAuthType: MD5\r\n\r\n").await;
    let number = answer.strip_prefix("Response: Success\r\nChallenge: ").unwrap().trim();
    assert!(number.len() <= 9 && number.bytes().all(|b| b.is_ascii_digit()), "{answer}");
    let key = plant::hex(&Md5::digest(format!("{number}sim").as_bytes()));
    let login = format!("Action: Login\r\nAuthType: MD5\r\nUsername: trunkwarden\r\nKey: {key}\r\n\r\n");
    assert!(raw.ask(&login).await.contains("Authentication accepted"));
    world.end().await;
}

#[tokio::test]
async fn fully_booted_follows_a_login_only_with_read_system() {
    let mut settings = settings(Vec::new());
    settings.users.push(SimUser { read: Classes::CALL, ..SimUser::all("calls", "x") });
    let world = World::new(settings).await;
    let mut raw = Raw::connect(&world.pbx).await;
    raw.send("Action: Login\r\nUsername: trunkwarden\r\nSecret: sim\r\n\r\n").await;
    raw.message().await;
    let booted = raw.message().await;
    assert_eq!(keys(&booted), ["Event", "Privilege", "Uptime", "LastReload", "Status"]);
    let auth = raw.message().await;
    let recorded = "Event Privilege Timestamp EventTV Severity Service EventVersion AccountID SessionID LocalAddress \
                    RemoteAddress UsingPassword SessionTV";
    assert_eq!(keys(&auth).join(" "), recorded);
    let mut raw = Raw::connect(&world.pbx).await;
    raw.ask("Action: Login\r\nUsername: calls\r\nSecret: x\r\n\r\n").await;
    assert!(raw.ask("Action: Ping\r\n\r\n").await.contains("Pong"));
    world.end().await;
}

#[tokio::test]
async fn rights_decide_as_asterisk_decides() {
    let mut settings = settings(vec![quick("a")]);
    settings.users.push(SimUser { write: Classes::REPORTING, ..SimUser::all("reporter", "x") });
    let world = World::new(settings).await;
    let mut raw = Raw::connect(&world.pbx).await;
    raw.ask("Action: Login\r\nUsername: reporter\r\nSecret: x\r\nEvents: off\r\n\r\n").await;
    for allowed in ["PJSIPShowRegistrationsOutbound", "CoreStatus", "CoreSettings", "ListCommands", "Ping"] {
        let answer = raw.ask(&format!("Action: {allowed}\r\nActionID: {allowed}\r\n\r\n")).await;
        assert!(answer.starts_with("Response: Success\r\n"), "{allowed}: {answer}");
        while allowed == "PJSIPShowRegistrationsOutbound" && !raw.message().await.contains("EventList: Complete") {}
    }
    for refused in ["PJSIPShowEndpoints", "Filter", "Command", "Originate", "ModuleCheck", "Reload", "UserEvent"] {
        let answer = raw.ask(&format!("Action: {refused}\r\n\r\n")).await;
        assert_eq!(answer, "Response: Error\r\nMessage: Permission denied\r\n\r\n", "{refused}");
    }
    let listed = raw.ask("Action: ListCommands\r\n\r\n").await;
    assert!(listed.contains("PJSIPRegister: ") && listed.contains("(Priv: system,reporting,all)"), "{listed}");
    assert!(!listed.contains("PJSIPShowEndpoints"));
    world.end().await;
}

#[tokio::test]
async fn the_list_of_registrations_has_the_recorded_shape() {
    let world =
        World::new(settings(vec![quick("a"), SimTrunk { behaviour: Behaviour::reject(403), ..quick("b") }])).await;
    let mut raw = Raw::logged_in(&world.pbx).await;
    world.until(|pbx| pbx.is_registered("a") && pbx.registrations()[1].1 == Some("Rejected")).await;
    raw.send("Action: Events\r\nEventMask: off\r\nActionID: e\r\n\r\n").await;
    while !raw.message().await.contains("ActionID: e\r\n") {}
    let start = raw.ask("Action: PJSIPShowRegistrationsOutbound\r\nActionID: regs\r\n\r\n").await;
    assert_eq!(
        start,
        "Response: Success\r\nActionID: regs\r\nEventList: start\r\nMessage: Following are Events for each Outbound \
         registration\r\n\r\n"
    );
    let detail = raw.message().await;
    let recorded = "Event ActionID ObjectType ObjectName MaxRetries ClientUri SecurityNegotiation AuthRejectionPermanent \
                    ServerUri MaxRandomInitialDelay SupportPath RetryInterval ContactHeaderParams Expiration Transport Line \
                    ContactUser Endpoint UserAgent ForbiddenRetryInterval OutboundAuth OutboundProxy FatalRetryInterval \
                    SupportOutbound Status NextReg";
    assert_eq!(keys(&detail).join(" "), recorded);
    assert!(detail.contains("Status: Registered\r\nNextReg: 0\r\n"), "{detail}");
    let auth = raw.message().await;
    let recorded = "Event ActionID ObjectType ObjectName OauthSecret PasswordDigest SupportedAlgorithmsUas RefreshToken \
                    Username Md5Cred Realm AuthType Password SupportedAlgorithmsUac NonceLifetime OauthClientid";
    assert_eq!(keys(&auth).join(" "), recorded);
    assert!(auth.contains("\r\nPassword: made-up-a\r\n"), "in clear, as Asterisk does it");
    raw.message().await;
    raw.message().await;
    assert_eq!(
        raw.message().await,
        "Event: OutboundRegistrationDetailComplete\r\nActionID: regs\r\nEventList: Complete\r\nListItems: \
         2\r\nRegistered: 1\r\nNotRegistered: 1\r\n\r\n"
    );
    // After PJSIPUnregister *all the entries have no state, and are not counted.
    assert!(raw.ask("Action: PJSIPUnregister\r\nRegistration: *all\r\n\r\n").await.contains("Unregistrations queued."));
    raw.send("Action: PJSIPShowRegistrationsOutbound\r\n\r\n").await;
    raw.message().await;
    assert!(!raw.message().await.contains("NextReg"));
    raw.until(b"ListItems: 0\r\nRegistered: 0\r\nNotRegistered: 0\r\n\r\n").await;
    world.end().await;
}

#[tokio::test]
async fn the_lists_of_endpoints_and_contacts_have_their_shape() {
    let world = World::new(settings(vec![quick("a")])).await;
    let mut raw = Raw::logged_in(&world.pbx).await;
    world.pbx.remove_registration("nosuch");
    raw.send("Action: Events\r\nEventMask: off\r\nActionID: e\r\n\r\n").await;
    while !raw.message().await.contains("ActionID: e\r\n") {}
    raw.ask("Action: PJSIPShowEndpoints\r\nActionID: x\r\n\r\n").await;
    assert_eq!(
        raw.message().await,
        "Event: EndpointList\r\nActionID: x\r\nObjectType: endpoint\r\nObjectName: a\r\nTransport: \r\nAor: a\r\nAuths: \
         \r\nOutboundAuths: a\r\nContacts: a/sip:sip.a.example,\r\nDeviceState: Not in use\r\nActiveChannels: 0\r\n\r\n"
    );
    assert!(
        raw.message()
            .await
            .contains("Event: EndpointListComplete\r\nActionID: x\r\nEventList: Complete\r\nListItems: 1")
    );
    // A configured contact is not in the list of contacts.
    let none = "Response: Error\r\nMessage: No Contacts found\n\r\n\r\n";
    assert_eq!(raw.ask("Action: PJSIPShowContacts\r\n\r\n").await, none);
    raw.ask("Action: PJSIPShowEndpoint\r\nEndpoint: PJSIP/a\r\n\r\n").await;
    let order = ["EndpointDetail", "AuthDetail", "AorDetail", "ContactStatusDetail", "EndpointDetailComplete"];
    let mut last = String::new();
    for event in order {
        last = raw.message().await;
        assert!(last.starts_with(&format!("Event: {event}\r\n")), "{last}");
        let recorded = "Event AOR URI UserAgent RegExpire Status RoundtripUsec EndpointName ID AuthenticateQualify \
                        OutboundProxy Path QualifyFrequency QualifyTimeout Qualify2xxOnly";
        assert!(event != "ContactStatusDetail" || keys(&last).join(" ") == recorded);
    }
    assert!(last.ends_with("EventList: Complete\r\nListItems: 4\r\n\r\n"), "{last}");
    let none = "Response: Error\r\nMessage: Unable to retrieve endpoint nosuch\n\r\n\r\n";
    assert_eq!(raw.ask("Action: PJSIPShowEndpoint\r\nEndpoint: PJSIP/nosuch\r\n\r\n").await, none);
    world.pbx.remove_registration("a");
    let none = "Response: Error\r\nMessage: No endpoints found\n\r\n\r\n";
    assert_eq!(raw.ask("Action: PJSIPShowEndpoints\r\n\r\n").await, none);
    world.end().await;
}

#[tokio::test]
async fn events_have_the_recorded_shape() {
    let world =
        World::new(settings(vec![quick("a"), SimTrunk { behaviour: Behaviour::reject(403), ..quick("b") }])).await;
    world.until(|pbx| pbx.is_registered("a")).await;
    let mut raw = Raw::logged_in(&world.pbx).await;
    world.pbx.attempt_now("a");
    assert_eq!(
        masked(&raw.skip_to("Registry").await),
        "Event: Registry\r\nPrivilege: system,all\r\nTimestamp: T\r\nChannelType: PJSIP\r\nUsername: \
         sip:a@sip.a.example\r\nDomain: sip:sip.a.example\r\nStatus: Registered\r\n\r\n"
    );
    world.pbx.reload();
    assert_eq!(
        masked(&raw.skip_to("Reload").await),
        "Event: Reload\r\nPrivilege: system,all\r\nTimestamp: T\r\nModule: res_pjsip.so\r\nStatus: 0\r\n\r\n"
    );
    let channel = "ChannelState ChannelStateDesc CallerIDNum CallerIDName ConnectedLineNum ConnectedLineName Language \
                   AccountCode Context Exten Priority Uniqueid Linkedid";
    let dest: Vec<String> = channel.split_whitespace().map(|key| format!("Dest{key}")).collect();
    let dest = dest.join(" ");
    let originate = |endpoint: &str| {
        format!(
            "Action: Originate\r\nActionID: o\r\nChannel: PJSIP/100@{endpoint}\r\nContext: camp\r\nExten: s\r\nPriority: \
             1\r\nCallerID: Camp <1000>\r\nAsync: true\r\n\r\n"
        )
    };
    raw.send(&originate("b")).await;
    for (event, more) in [
        ("Newchannel", ""),
        ("DialBegin", "DialString"),
        ("HangupRequest", "Cause TechCause"),
        ("DialEnd", "DialStatus"),
        ("Hangup", "Cause Cause-txt TechCause"),
    ] {
        let seen = raw.skip_to(event).await;
        let (first, rest) =
            if event.starts_with("Dial") { ("DestChannel", dest.as_str()) } else { ("Channel", channel) };
        assert_eq!(
            keys(&seen).join(" "),
            format!("Event Privilege Timestamp {first} {rest} {more}").trim_end(),
            "{event}"
        );
        assert!(
            !seen.contains("Cause-txt")
                || seen.ends_with("Cause: 21\r\nCause-txt: Call Rejected\r\nTechCause: 403\r\n\r\n")
        );
    }
    assert_eq!(
        masked(&raw.skip_to("OriginateResponse").await),
        "Event: OriginateResponse\r\nPrivilege: call,all\r\nTimestamp: T\r\nActionID: o\r\nResponse: Failure\r\nChannel: \
         PJSIP/100@b\r\nContext: camp\r\nExten: s\r\nReason: 0\r\nUniqueid: <unknown>\r\nCallerIDNum: \
         1000\r\nCallerIDName: Camp\r\n\r\n"
    );
    raw.send(&originate("a")).await;
    let response = raw.skip_to("OriginateResponse").await;
    assert!(response.contains("Response: Success\r\nChannel: PJSIP/a-0000000"), "{response}");
    assert!(raw.skip_to("Hangup").await.ends_with("Cause: 16\r\nCause-txt: Normal Clearing\r\n\r\n"));
    // Without Async the answer comes when the call is up, and there is no OriginateResponse.
    raw.send(&originate("a").replace("Async: true\r\n", "")).await;
    while !raw.message().await.contains("Message: Originate successfully queued") {}
    raw.send(&originate("b").replace("Async: true\r\n", "")).await;
    while !raw.message().await.contains("Message: Originate failed") {}
    assert_eq!(world.pbx.calls("b"), CallCount { attempted: 2, failed: 2 });
    world.end().await;
}

#[tokio::test]
async fn the_cli_prints_registrations_as_asterisk_does() {
    let world = World::new(settings(vec![quick("trunk-ok")])).await;
    world.until(|pbx| pbx.is_registered("trunk-ok")).await;
    let mut raw = Raw::logged_in(&world.pbx).await;
    let answer = raw.ask("Action: Command\r\nActionID: c1\r\nCommand: pjsip show registrations\r\n\r\n").await;
    let mut lines = answer.split("\r\n");
    for expected in [
        "Response: Success",
        "ActionID: c1",
        "Message: Command output follows",
        "Output: ",
        "Output:  <Registration/ServerURI..............................>  <Auth....................>  <Status.......>",
        "Output: ==========================================================================================",
        "Output: ",
    ] {
        assert_eq!(lines.next(), Some(expected));
    }
    assert!(lines.next().unwrap().contains("trunk-ok                    Registered        (exp. 35"));
    assert_eq!(lines.collect::<Vec<_>>(), ["Output: ", "Output: Objects found: 1", "Output: ", "", ""]);
    let answer = raw.ask("Action: Command\r\nCommand: pjsip reload\r\n\r\n").await;
    assert!(
        answer.starts_with(
            "Response: Error\r\nMessage: Command output follows\r\nOutput: No such command 'pjsip reload'"
        )
    );
    let answer = raw.ask("Action: Command\r\nCommand: module load x\r\n\r\n").await;
    assert_eq!(answer, "Response: Error\r\nMessage: Command blacklisted\r\n\r\n");
    world.end().await;
}

#[tokio::test]
async fn the_console_prints_transports_as_recorded_and_knows_no_history() {
    let world = World::new(settings(vec![quick("a")])).await;
    let mut raw = Raw::connect(&world.pbx).await;
    raw.ask("Action: Login\r\nUsername: trunkwarden\r\nSecret: sim\r\nEvents: off\r\n\r\n").await;
    let mut command = async |line: &str| -> Vec<String> {
        let answer = raw.ask(&format!("Action: Command\r\nCommand: {line}\r\n\r\n")).await;
        answer.split("\r\n").filter_map(|line| line.strip_prefix("Output: ")).map(str::to_owned).collect()
    };
    let row = "Transport:  transport-udp             udp      0      0  198.51.100.10:5060";
    let head = [
        "",
        "Transport:  <TransportId........>  <Type>  <cos>  <tos>  <BindAddress....................>",
        "==========================================================================================",
        "",
        row,
        "",
    ];
    let listed = command("pjsip show transports").await;
    assert_eq!(listed[..6], head);
    assert_eq!(listed[6..], ["Objects found: 1", ""]);
    let shown = command("pjsip show transport transport-udp").await;
    assert_eq!(shown[..6], head);
    assert_eq!(shown[6], " ParameterName               : ParameterValue");
    assert_eq!(shown[7], format!(" {}", "=".repeat(27 + 3 + "198.51.100.10:5060".len())));
    assert_eq!(shown[8], " allow_reload                : false");
    assert_eq!((shown.len(), shown[36].as_str()), (37, ""));
    assert_eq!(command("pjsip show transport nope").await, ["Unable to find object nope.", ""]);
    for (line, known) in
        [("pjsip show history entry 0", "pjsip show"), ("pjsip set history on", "pjsip set"), ("x y", "")]
    {
        let missing = format!("No such command '{line}' (type 'core show help {known}' for other possible commands)");
        assert_eq!(command(line).await[0], missing);
    }
    raw.send("Action: PJSIPShowAuths\r\n\r\n").await;
    assert!(raw.message().await.contains("EventList: start\r\nMessage: A listing of Auths follows"));
    assert!(raw.message().await.starts_with("Event: AuthList\r\nObjectType: auth\r\nObjectName: a\r\n"));
    assert!(raw.message().await.ends_with("EventList: Complete\r\nListItems: 1\r\n\r\n"));
    world.end().await;
}

/// What the feed sends, as the listener reads it.
struct Ear(tokio::net::UdpSocket);

impl Ear {
    async fn new() -> (Self, HepFeed) {
        let ear = Self(tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap());
        let feed = HepFeed { capture_id: 7, password: Some("pw".into()), ..HepFeed::new(ear.0.local_addr().unwrap()) };
        (ear, feed)
    }

    async fn next(&self) -> SipMessage {
        let mut packet = vec![0; 65_536];
        let size = timeout(PATIENCE, self.0.recv(&mut packet)).await.expect("a packet").unwrap();
        let packet = hep::parse(&packet[..size]).unwrap();
        assert_eq!(
            (packet.capture_id, packet.password.as_ref().map(ExposeSecret::expose_secret)),
            (Some(7), Some("pw"))
        );
        let message = hep::messages(&packet).remove(0).sip().unwrap().clone();
        let (near, far) = if message.is_response() { (packet.to, packet.from) } else { (packet.from, packet.to) };
        assert_eq!((near, far.port()), (crate::sim::sip::PBX_ADDRESS, 5060));
        assert_eq!(packet.call_id.as_deref(), message.call_id().as_deref());
        message
    }
}

#[tokio::test]
async fn the_feed_tells_what_the_registrations_say_and_hear() {
    let (ear, feed) = Ear::new().await;
    let world = World::new(SimSettings { hep: Some(feed), ..settings(vec![quick("a")]) }).await;
    let mut calls = Vec::new();
    for kind in ["REGISTER", "401", "REGISTER", "200"] {
        let message = ear.next().await;
        let code = message.status().map(|status| status.to_string());
        assert_eq!(code.as_deref().or(message.method()), Some(kind), "{message:?}");
        for sent in message.credentials() {
            let secret = Secret::Password("made-up-a".into());
            assert_eq!(sent.made_of(&secret, "a", "REGISTER", b""), Match::Yes);
        }
        calls.push(message.call_id().unwrap().into_owned());
    }
    world.until(|pbx| pbx.is_registered("a")).await;
    // The same state object, the same Call-ID; and PJSIPRegister un-REGISTERs first.
    let mut raw = Raw::logged_in(&world.pbx).await;
    raw.send("Action: PJSIPRegister\r\nRegistration: a\r\n\r\n").await;
    let expires: Vec<Option<u32>> = [ear.next().await, ear.next().await, ear.next().await, ear.next().await]
        .iter()
        .inspect(|message| calls.push(message.call_id().unwrap().into_owned()))
        .map(SipMessage::expires)
        .collect();
    assert_eq!(expires, [Some(0), None, Some(0), Some(0)]);
    assert!(calls.iter().all(|call| *call == calls[0]), "{calls:?}");
    world.pbx.set_behaviour("a", Behaviour::Bar { code: 403 });
    let barred = async || loop {
        if ear.next().await.status() == Some(403) {
            break;
        }
    };
    world.pbx.attempt_now("a");
    barred().await;
    // Nobody hears anything over a network that is cut.
    world.pbx.cut();
    world.pbx.attempt_now("a");
    world.pbx.mend();
    world.pbx.remove_registration("a");
    world.pbx.add_registration(quick("a"));
    let first = ear.next().await;
    assert!(first.method() == Some("REGISTER") && first.call_id().unwrap() != calls[0], "a new state object");
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_registrar_is_asked_again_until_the_attempt_is_broken_off() {
    let (ear, feed) = Ear::new().await;
    let silent = SimTrunk { behaviour: Behaviour::Silent, ..quick("a") };
    let world = World::new(SimSettings { hep: Some(feed), ..settings(vec![silent]) }).await;
    let mut seen = Vec::new();
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(5) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut packet = vec![0; 65_536];
        while let Ok(size) = ear.0.try_recv(&mut packet) {
            seen.push(packet[..size].to_vec());
        }
        if seen.len() == 3 {
            world.pbx.attempt_now("a");
        }
    }
    let cseq = |packet: &Vec<u8>| hep::messages(&hep::parse(packet).unwrap())[0].sip().unwrap().cseq().unwrap().0;
    let cseqs: Vec<u32> = seen.iter().map(cseq).collect();
    // 0, 0.5, 1.5 s; then a new one at 1.55, 2.05, 3.05 s, and no fourth of the old at 3.5 s.
    let first = cseqs[0];
    assert_eq!(cseqs[..6], [first, first, first, first + 1, first + 1, first + 1]);
    assert!(cseqs[6..].iter().all(|cseq| *cseq == first + 1), "{cseqs:?}");
    world.end().await;
}

/// Seen on a 22.10.1, asked the same things in the same order.
#[tokio::test]
async fn what_is_not_recorded_was_compared_side_by_side() {
    let world = World::new(settings(vec![quick("a")])).await;
    let mut raw = Raw::connect(&world.pbx).await;
    raw.ask("Action: Login\r\nUsername: trunkwarden\r\nSecret: sim\r\nEvents: off\r\n\r\n").await;
    let core = raw.ask("Action: CoreStatus\r\n\r\n").await;
    let seen =
        "Response CoreStartupDate CoreStartupTime CoreReloadDate CoreReloadTime CoreCurrentCalls CoreProcessedCalls";
    assert_eq!(keys(&core).join(" "), seen);
    let core = raw.ask("Action: CoreSettings\r\n\r\n").await;
    let seen = "Response AMIversion AsteriskVersion SystemName CoreMaxCalls CoreMaxLoadAvg CoreRunUser CoreRunGroup \
                CoreMaxFilehandles CoreRealTimeEnabled CoreCDRenabled CoreHTTPenabled SoundsSearchCustomDir";
    assert_eq!(keys(&core).join(" "), seen);
    let error = |text: &str| format!("Response: Error\r\nMessage: {text}\r\n\r\n");
    let success = |line: &str| format!("Response: Success\r\n{line}\r\n\r\n");
    let exten = "Originate with 'Exten' requires 'Context' and 'Priority'";
    for (sent, expected) in [
        ("Challenge", error("Must specify AuthType")),
        ("Events", error("Invalid event mask")),
        ("Events\r\nEventMask: bogus", success("Events: Off")),
        ("Events\r\nEventMask: call,system", success("Events: On")),
        ("Events\r\nEventMask: off", success("Events: Off")),
        ("ModuleCheck\r\nModule: res_pjsip", success("Version: ")),
        ("ModuleCheck\r\nModule: res_pjsip.so", success("Version: ")),
        ("ModuleCheck\r\nModule: nosuch", error("Module not loaded")),
        ("ModuleCheck", error("Module not loaded")),
        ("PJSIPQualify", error("Endpoint parameter missing.")),
        ("PJSIPQualify\r\nEndpoint: nosuch", error("Unable to retrieve endpoint\n")),
        ("PJSIPQualify\r\nEndpoint: a", success("Message: Endpoint found, will qualify")),
        ("PJSIPRegister", error("Registration parameter missing.")),
        ("PJSIPUnregister", error("Registration parameter missing.")),
        ("Reload\r\nModule: nosuch", error("No such module")),
        ("Reload\r\nModule: res_pjsip.so", success("Message: Module Reloaded")),
        ("Originate", error("Channel not specified")),
        ("Originate\r\nChannel: abc", error("Invalid channel")),
        ("Originate\r\nChannel: PJSIP/1@a", error(exten)),
        ("Originate\r\nChannel: PJSIP/1@a\r\nPriority: x\r\nContext: a\r\nExten: s", error("Invalid priority")),
        ("Originate\r\nChannel: PJSIP/1@a\r\nTimeout: x", error("Invalid timeout")),
        ("Command", error("No command provided")),
        ("Filter\r\nOperation: Add\r\nMatchCriteria: name(x)", success("Message: Success")),
    ] {
        assert_eq!(raw.ask(&format!("Action: {sent}\r\n\r\n")).await, expected, "{sent}");
    }
    let mut other = Raw::logged_in(&world.pbx).await;
    other.send("Action: UserEvent\r\nUserEvent: Foo\r\nActionID: q\r\nA:   b\r\nActionID: z\r\n\r\n").await;
    let event = other.skip_to("UserEvent").await;
    assert!(event.ends_with("UserEvent: Foo\r\nActionID: q\r\nA:   b\r\nActionID: z\r\n\r\n"), "{event}");
    world.end().await;
}

#[test]
fn rows_of_the_cli_are_the_recorded_ones() {
    let recorded = [
        (
            " trunk-403/sip:127.0.0.1:5091                            trunk-403                   Rejected          (exp. 16s)",
            "trunk-403",
            "sip:127.0.0.1:5091",
            "Rejected",
            16,
        ),
        (
            " trunk-dns/sip:nosuchhost.invalid                        trunk-dns                   Rejected          (exp. 5s)",
            "trunk-dns",
            "sip:nosuchhost.invalid",
            "Rejected",
            5,
        ),
        (
            " trunk-ok/sip:127.0.0.1:5080                             trunk-ok                    Registered        (exp. 49s)",
            "trunk-ok",
            "sip:127.0.0.1:5080",
            "Registered",
            49,
        ),
        (
            " trunk-silent/sip:127.0.0.1:5093                         trunk-silent                Rejected          (exp. 10s ago)",
            "trunk-silent",
            "sip:127.0.0.1:5093",
            "Rejected",
            -10,
        ),
    ];
    for (row, name, server, status, seconds) in recorded {
        assert_eq!(actions::registration_row(name, server, name, status, actions::expires(seconds)), row);
    }
    // Without a state object.
    assert!(actions::registration_row("a", "sip:b", "a", "Unregistered", "0").ends_with("Unregistered     0"));
}

#[tokio::test]
async fn masks_and_filters_keep_events_away_but_never_list_items() {
    let world = World::new(settings(vec![quick("a")])).await;
    let mut raw = Raw::logged_in(&world.pbx).await;
    raw.send("Action: Filter\r\nActionID: f\r\nOperation: Add\r\nMatchCriteria: name(Wanted),method(none)\r\n\r\n")
        .await;
    while !raw.message().await.contains("ActionID: f\r\nMessage: Success\r\n") {}
    world.pbx.emit_raw("Unwanted", Classes::SYSTEM, &[]);
    world.pbx.emit_raw("Wanted", Classes::SYSTEM, &[("Key", "value")]);
    let event = raw.message().await;
    assert!(event.starts_with("Event: Wanted\r\n") && event.ends_with("Key: value\r\n\r\n"), "{event}");
    raw.send("Action: PJSIPShowEndpoints\r\n\r\n").await;
    raw.until(b"Event: EndpointListComplete").await;
    raw.message().await;
    assert_eq!(raw.ask("Action: Events\r\nEventMask: call\r\n\r\n").await, "Response: Success\r\nEvents: On\r\n\r\n");
    world.pbx.emit_raw("Wanted", Classes::SYSTEM, &[]);
    // An event of two classes needs both.
    world.pbx.emit_raw("Wanted", Classes::SYSTEM.and(Classes::CALL), &[]);
    raw.quiet().await;
    let answer = raw.ask("Action: Filter\r\nOperation: Remove\r\nFilter: x\r\n\r\n").await;
    assert_eq!(answer, "Response: Error\r\nMessage: Unknown operation\r\n\r\n");
    world.end().await;
}

#[tokio::test]
async fn a_restart_is_shutdown_eof_refusal_login_and_then_fully_booted() {
    let mut settings = settings(vec![quick("a")]);
    settings.timing.boot = Duration::from_millis(200);
    let world = World::new(settings).await;
    world.until(|pbx| pbx.is_registered("a")).await;
    let mut raw = Raw::logged_in(&world.pbx).await;
    world.pbx.restart();
    let shutdown = raw.skip_to("Shutdown").await;
    assert!(shutdown.ends_with("Shutdown: Cleanly\r\nRestart: True\r\n\r\n"), "{shutdown}");
    assert!(raw.ends().await.is_empty());
    assert!(TcpStream::connect(world.pbx.address()).await.is_err(), "nobody listens while it is down");
    let patience = Instant::now() + PATIENCE;
    let stream = loop {
        match TcpStream::connect(world.pbx.address()).await {
            Ok(stream) => break stream,
            Err(_) => assert!(Instant::now() < patience),
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    let mut raw = Raw { stream, bytes: Vec::new() };
    raw.line().await;
    raw.ask("Action: Login\r\nUsername: trunkwarden\r\nSecret: sim\r\n\r\n").await;
    // The PJSIP modules are not there yet.
    let answer = raw.ask("Action: PJSIPShowEndpoints\r\n\r\n").await;
    let answer = if answer.contains("SuccessfulAuth") { raw.message().await } else { answer };
    assert!(answer.contains("Invalid/unknown command: PJSIPShowEndpoints."), "{answer}");
    let booted = raw.skip_to("FullyBooted").await;
    assert_eq!(keys(&booted), ["Event", "Privilege", "Timestamp", "Status", "Uptime", "LastReload"]);
    assert!(raw.skip_to("Registry").await.contains("Status: Registered"));
    world.end().await;
}

#[tokio::test]
async fn a_cut_link_refuses_a_frozen_one_says_nothing_and_dropping_is_only_once() {
    let world = World::new(settings(vec![quick("a")])).await;
    let mut raw = Raw::logged_in(&world.pbx).await;
    world.pbx.drop_connections();
    raw.ends().await;
    let mut raw = Raw::logged_in(&world.pbx).await;
    world.pbx.cut();
    raw.ends().await;
    world.until_async(async |pbx| TcpStream::connect(pbx.address()).await.is_err()).await;
    world.pbx.mend();
    world.until_async(async |pbx| TcpStream::connect(pbx.address()).await.is_ok()).await;
    let mut raw = Raw::logged_in(&world.pbx).await;
    raw.ask("Action: Ping\r\n\r\n").await;
    world.pbx.freeze();
    raw.bytes.clear();
    raw.send("Action: Ping\r\nActionID: frozen\r\n\r\n").await;
    raw.quiet().await;
    world.pbx.thaw();
    while !raw.message().await.contains("ActionID: frozen") {}
    world.end().await;
}

#[tokio::test]
async fn thousands_of_registrations_start_within_a_second() {
    let begun = Instant::now();
    let trunks = (0..5000).map(|n| SimTrunk { start: Start::Registered, ..quick(&format!("trunk-{n:04}")) }).collect();
    let world = World::new(settings(trunks)).await;
    let started = begun.elapsed();
    // A debug build on a busy machine is given three times as long.
    assert!(started < Duration::from_secs(3), "{started:?}");
    let mut raw = Raw::logged_in(&world.pbx).await;
    raw.send("Action: PJSIPShowRegistrationsOutbound\r\nActionID: r\r\n\r\n").await;
    raw.until(b"ListItems: 5000\r\nRegistered: 5000\r\nNotRegistered: 0\r\n\r\n").await;
    // All of them refused at once: each says so, in one burst.
    for n in 0..5000 {
        let name = format!("trunk-{n:04}");
        world.pbx.set_behaviour(&name, Behaviour::reject(403));
        world.pbx.attempt_now(&name);
    }
    let mut rejected = 0;
    while rejected < 5000 {
        // A refresh that was due in between is seen too.
        rejected += usize::from(raw.skip_to("Registry").await.ends_with("Status: Rejected\r\n\r\n"));
    }
    world.end().await;
}

#[tokio::test]
async fn hostile_input_neither_grows_nor_stops_it() {
    let world = World::new(settings(vec![quick("a")])).await;
    let mut raw = Raw::logged_in(&world.pbx).await;
    raw.send(&"x".repeat(1 << 20)).await;
    raw.send("\r\n\r\n").await;
    while !raw.message().await.contains("Failed to parse message: line too long") {}
    assert!(raw.ask("Action: Ping\r\n\r\n").await.contains("Pong"), "the session survives");
    raw.stream.write_all(b"\xff\xfe\0\r\nAction: Ping\r\n\r\n").await.unwrap();
    assert!(raw.message().await.contains("Pong"));
    // More than authlimit without a login: closed without a banner, and there is room again afterwards.
    let mut crowd = Vec::new();
    for _ in 0..UNAUTHENTICATED {
        crowd.push(Raw::connect(&world.pbx).await);
    }
    let mut one_more = Raw { stream: TcpStream::connect(world.pbx.address()).await.unwrap(), bytes: Vec::new() };
    assert!(one_more.ends().await.is_empty());
    drop(crowd);
    world.until(|pbx| pbx.shared.unauthenticated.load(Ordering::Relaxed) == 0).await;
    Raw::connect(&world.pbx).await;
    world.end().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let mut settings = settings(vec![quick("a")]);
    settings.timing.write_timeout = Duration::from_millis(100);
    let world = World::new(settings).await;
    let raw = Raw::logged_in(&world.pbx).await;
    let filler = "f".repeat(1000);
    while world.pbx.sessions() > 0 {
        for _ in 0..1000 {
            world.pbx.emit_raw("Filler", Classes::SYSTEM, &[("F", &filler)]);
        }
        tokio::task::yield_now().await;
    }
    drop(raw);
    world.end().await;
}

#[tokio::test(start_paused = true)]
async fn time_passes_for_registrations_as_configured() {
    let mut trunk = SimTrunk::named("a");
    if let Some(registration) = &mut trunk.registration {
        registration.expiration = Duration::from_secs(60);
        registration.retry_interval = Duration::from_secs(5);
    }
    let world = World::new(SimSettings { trunks: vec![trunk], ..SimSettings::default() }).await;
    let state = || world.pbx.registrations()[0].1;
    assert_eq!(state(), Some("Unregistered"));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(state(), Some("Registered"), "within 1 + max_random_initial_delay");
    world.pbx.set_behaviour("a", Behaviour::Silent);
    world.pbx.attempt_now("a");
    tokio::time::sleep(Duration::from_secs(31)).await;
    assert_eq!(state(), Some("Registered"), "a dead registrar shows only after 32 s");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(state(), Some("Rejected"));
    world.pbx.set_behaviour("a", Behaviour::Ok);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(state(), Some("Registered"));
    world.end().await;
}

impl World {
    async fn until(&self, what: impl Fn(&SimPbx) -> bool) {
        self.until_async(async |pbx| what(pbx)).await;
    }

    async fn until_async(&self, what: impl AsyncFn(&SimPbx) -> bool) {
        let patience = Instant::now() + PATIENCE;
        while !what(&self.pbx).await {
            assert!(Instant::now() < patience, "{:?}", self.pbx.registrations());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
