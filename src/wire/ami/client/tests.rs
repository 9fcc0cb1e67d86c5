//! The link against a hand-driven Asterisk: in memory with paused time, and over real TLS on loopback.

use std::{
    collections::VecDeque,
    fmt, io,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::BoxFuture;
use secrecy::ExposeSecret as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex},
    sync::mpsc,
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::session::md5_key;
use super::*;
use crate::{
    clock::{Clock, SystemClock, Timestamp, after, between},
    wire::ami::{
        action::Action,
        codec::{DecodeError, DecodeLimits, Decoder, Frame},
        message::Message,
    },
};

const SECRET: &str = "hush-hush";
const BANNER: &str = "Asterisk Call Manager/11.0.0\r\n";
const BOOTED: &str =
    "Event: FullyBooted\r\nPrivilege: system,all\r\nUptime: 9\r\nLastReload: 9\r\nStatus: Fully Booted\r\n\r\n";

/// Opens pipes, and hands their other ends to the test.
struct Pipes {
    accepted: mpsc::UnboundedSender<(Instant, DuplexStream)>,
    refuse: Mutex<bool>,
    security: Security,
}

impl fmt::Debug for Pipes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pipes")
    }
}

impl Transport for Pipes {
    fn connect(&self) -> BoxFuture<'_, Result<Connection, ConnectError>> {
        Box::pin(async {
            let (ours, theirs) = duplex(4096);
            let refuse = *self.refuse.lock().unwrap();
            let _gone = self.accepted.send((Instant::now(), theirs));
            if refuse {
                let source = io::ErrorKind::ConnectionRefused.into();
                return Err(ConnectError::Tcp { address: "pipe".to_owned(), source });
            }
            Ok(Connection { io: Box::new(ours), peer: "pipe".to_owned(), security: self.security })
        })
    }
}

/// The far end of one connection, driven by the test.
struct Peer<T = DuplexStream> {
    io: T,
    decoder: Decoder,
    waiting: VecDeque<Message>,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Peer<T> {
    fn new(io: T) -> Self {
        Self { io, decoder: Decoder::new(DecodeLimits::default()), waiting: VecDeque::new() }
    }

    async fn send(&mut self, text: &str) {
        self.io.write_all(text.as_bytes()).await.unwrap();
        self.io.flush().await.unwrap();
    }

    /// The next action, whatever it is; none at the end of the connection.
    async fn next(&mut self) -> Option<Message> {
        loop {
            while let Some(Frame::Message(message)) = self.decoder.next_frame().unwrap() {
                self.waiting.push_back(message);
            }
            if let Some(message) = self.waiting.pop_front() {
                return Some(message);
            }
            if self.io.read_buf(self.decoder.buffer_mut(1024)).await.ok()? == 0 {
                return None;
            }
        }
    }

    async fn expect(&mut self, action: &str) -> Message {
        let message = self.next().await.unwrap_or_else(|| panic!("connection ended instead of {action}"));
        assert_eq!(message.get("Action").unwrap(), action, "{message:?}");
        message
    }

    async fn answer(&mut self, to: &Message, lines: &str) {
        let id = to.action_id().unwrap();
        let (first, rest) = lines.split_once('\n').unwrap_or((lines, ""));
        let rest: String = rest.lines().map(|line| format!("{line}\r\n")).collect();
        self.send(&format!("{first}\r\nActionID: {id}\r\n{rest}\r\n")).await;
    }

    async fn expect_and_answer(&mut self, action: &str, lines: &str) -> Message {
        let message = self.expect(action).await;
        self.answer(&message, lines).await;
        message
    }

    /// Lets the client log in; gives its login back.
    async fn log_in(&mut self) -> Message {
        self.send(BANNER).await;
        self.expect_and_answer("Challenge", "Response: Success\nChallenge: 840415273").await;
        let login = self.expect_and_answer("Login", "Response: Success\nMessage: Authentication accepted").await;
        assert_eq!(login.secret("Key").unwrap().expose_secret(), md5_key("840415273", &SECRET.into()).expose_secret());
        login
    }

    async fn identify(&mut self) {
        self.expect_and_answer("CoreSettings", "Response: Success\nAsteriskVersion: 22.10.1\nSystemName:").await;
        let started = "Response: Success\nCoreStartupDate: 2026-11-22\nCoreStartupTime: 18:00:00";
        self.expect_and_answer("CoreStatus", started).await;
    }
}

/// Wall time that goes with the paused time of the runtime.
#[derive(Debug)]
struct PausedClock(Instant);

impl Clock for PausedClock {
    fn now(&self) -> Timestamp {
        after(Timestamp::UNIX_EPOCH, self.0.elapsed())
    }
}

/// A link and the test's side of it.
struct Bench {
    handle: LinkHandle,
    events: LinkEvents,
    accepted: mpsc::UnboundedReceiver<(Instant, DuplexStream)>,
    pipes: Arc<Pipes>,
    tracker: TaskTracker,
    stop: CancellationToken,
}

fn settings() -> AmiSettings {
    let mut settings = AmiSettings::new("pbx1", "pipe:5038", "tw", SECRET.into());
    settings.backoff.jitter = false;
    settings
}

impl Bench {
    fn new(settings: AmiSettings) -> Self {
        Self::over(settings, Security::Clear)
    }

    fn over(settings: AmiSettings, security: Security) -> Self {
        let (accept, accepted) = mpsc::unbounded_channel();
        let pipes = Arc::new(Pipes { accepted: accept, refuse: Mutex::new(false), security });
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let clock: Arc<dyn Clock> = Arc::new(PausedClock(Instant::now()));
        let transport: Arc<dyn Transport> = Arc::clone(&pipes) as _;
        let (handle, events) = AmiLink::start(settings, transport, clock, &tracker, stop.clone());
        Self { handle, events, accepted, pipes, tracker, stop }
    }

    async fn accept_at(&mut self) -> (Instant, Peer) {
        let (at, io) = self.accepted.recv().await.unwrap();
        (at, Peer::new(io))
    }

    async fn accept(&mut self) -> Peer {
        self.accept_at().await.1
    }

    /// Brings both sessions up to `Ready`.
    async fn up(&mut self) -> (Peer, Peer) {
        let actions = self.accept().await;
        self.up_from(actions).await
    }

    async fn up_from(&mut self, mut actions: Peer) -> (Peer, Peer) {
        assert_eq!(actions.log_in().await.get("Events").unwrap(), "off");
        let mut events = self.accept().await;
        assert_eq!(events.log_in().await.get("Events").unwrap(), "system");
        events.send(BOOTED).await;
        for _ in 0..6 {
            events.expect_and_answer("Filter", "Response: Success\nMessage: Success").await;
        }
        actions.identify().await;
        assert!(matches!(self.event().await, LinkEvent::Connected { .. }));
        let ready = self.event().await;
        assert!(matches!(&ready, LinkEvent::Ready { filters: FilterState::Active, booted: Some(_), .. }), "{ready:?}");
        (actions, events)
    }

    async fn event(&mut self) -> LinkEvent {
        timeout(Duration::from_secs(3600), self.events.recv()).await.expect("an event").expect("the link runs")
    }

    /// Stops the link; every task must end.
    async fn finish(self) {
        self.stop.cancel();
        self.tracker.close();
        timeout(Duration::from_secs(5), self.tracker.wait()).await.expect("all tasks ended");
        assert_eq!(*self.handle.phase().borrow(), LinkPhase::Stopped);
    }
}

fn seconds(count: f64) -> Duration {
    Duration::from_secs_f64(count)
}

/// Paused time rounds timers up to a millisecond.
fn assert_about(found: Duration, expected: f64) {
    let off = found.abs_diff(seconds(expected));
    assert!(off <= Duration::from_millis(5), "{found:?} instead of {expected} s");
}

#[test]
fn the_login_key_is_md5_of_challenge_and_secret_in_lower_case_hex() {
    // md5sum of "840415273secret".
    assert_eq!(md5_key("840415273", &"secret".into()).expose_secret(), "81c3ab5534a432bec402f6d988ee45b4");
}

#[test]
fn every_name_that_can_be_filtered_is_one_that_asterisk_sends() {
    let recordings = [
        include_str!("../../../../tests/fixtures/ami-busy.ami"),
        include_str!("../../../../tests/fixtures/ami-restart.txt"),
        include_str!("../../../../tests/fixtures/ami-reload.txt"),
        include_str!("../../../../tests/fixtures/ami-security-unidentified.txt"),
    ];
    let seen = |line: &str| recordings.iter().any(|text| text.lines().any(|found| found == line));
    for event in WatchedEvent::ALL {
        // Not in the recordings; the names are those of `main/security_events.c` and `main/channel.c`.
        if matches!(event, WatchedEvent::InvalidPassword | WatchedEvent::Rename) {
            continue;
        }
        assert!(seen(&format!("Event: {}", event.name())), "{} was never recorded", event.name());
        let class = format!("Privilege: {},all", event.class());
        let with_class = recordings.iter().any(|text| {
            let lines: Vec<_> = text.lines().collect();
            lines.windows(2).any(|pair| pair[0] == format!("Event: {}", event.name()) && pair[1] == class)
        });
        assert!(with_class, "{} is not of class {}", event.name(), event.class());
    }
}

#[tokio::test(start_paused = true)]
async fn a_link_logs_in_twice_filters_by_name_and_says_who_answered() {
    let mut bench = Bench::new(settings());
    let mut actions = bench.accept().await;
    assert_eq!(actions.log_in().await.get("Username").unwrap(), "tw");
    let mut events = bench.accept().await;
    events.log_in().await;
    events.send(BOOTED).await;
    let mut names = Vec::new();
    for _ in 0..6 {
        let filter = events.expect_and_answer("Filter", "Response: Success").await;
        assert_eq!(filter.get("Operation").unwrap(), "Add");
        names.push(filter.get("MatchCriteria").unwrap().into_owned());
    }
    assert_eq!(
        names,
        [
            "name(FullyBooted),method(none)",
            "name(Shutdown),method(none)",
            "name(Reload),method(none)",
            "name(Registry),method(none)",
            "name(ContactStatus),method(none)",
            "name(PeerStatus),method(none)",
        ]
    );
    assert!(matches!(bench.handle.call(&Action::ping()).await, Err(CallError::NotSent(NotSent::NotReady))));
    actions.identify().await;
    let LinkEvent::Connected { banner, .. } = bench.event().await else { panic!("connected first") };
    assert_eq!(banner.version().unwrap().major, 11);
    let LinkEvent::Ready { identity, booted, .. } = bench.event().await else { panic!("then ready") };
    assert_eq!(identity.asterisk_version.as_deref(), Some("22.10.1"));
    assert_eq!(identity.started.as_deref(), Some("2026-11-22 18:00:00"));
    assert_eq!(booted.unwrap().uptime, Some(Duration::from_secs(9)));
    assert_eq!(*bench.handle.phase().borrow(), LinkPhase::Ready);
    events.send("Event: Registry\r\nChannelType: PJSIP\r\nStatus: Rejected\r\n\r\nResponse: Stray\r\n\r\n").await;
    let LinkEvent::Event { message, .. } = bench.event().await else { panic!("an event") };
    assert_eq!(message.get("Status").unwrap(), "Rejected");
    let call = async {
        let asked = actions.expect("Ping").await;
        assert!(asked.action_id().unwrap().len() < 64);
        actions.answer(&asked, "Response: Success\nPing: Pong").await;
    };
    let ping = Action::ping();
    let (reply, ()) = tokio::join!(bench.handle.call(&ping), call);
    assert_eq!(reply.unwrap().response.get("Ping").unwrap(), "Pong");
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_login_is_said_once_and_slowed_to_five_minutes() {
    let mut bench = Bench::new(settings());
    let mut at = Vec::new();
    for _ in 0..8 {
        let (accepted, mut peer) = bench.accept_at().await;
        at.push(accepted);
        peer.send(BANNER).await;
        peer.expect_and_answer("Challenge", "Response: Success\nChallenge: 1").await;
        let login = peer.expect("Login").await;
        // Asterisk takes its time to say no.
        tokio::time::sleep(seconds(1.0)).await;
        peer.answer(&login, "Response: Error\nMessage: Authentication failed").await;
    }
    for (pair, wait) in at.windows(2).zip([10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0]) {
        assert_about(pair[1] - pair[0], wait + 1.0);
    }
    let LinkEvent::LoginRefused { refusal, retry_in, .. } = bench.event().await else { panic!("refused") };
    assert_eq!(refusal, Refusal::Credentials { message: "Authentication failed".to_owned() });
    assert_eq!(retry_in, Duration::from_secs(10));
    assert!(timeout(seconds(0.1), bench.events.recv()).await.is_err(), "said once");
    assert_eq!(*bench.handle.phase().borrow(), LinkPhase::Refused);
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_pbx_that_is_not_there_is_tried_at_half_a_second_doubling_to_ten() {
    let mut bench = Bench::new(settings());
    *bench.pipes.refuse.lock().unwrap() = true;
    let mut at = Vec::new();
    for _ in 0..8 {
        at.push(bench.accept_at().await.0);
    }
    for (pair, wait) in at.windows(2).zip([0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0]) {
        assert_about(pair[1] - pair[0], wait);
    }
    assert!(matches!(bench.event().await, LinkEvent::ConnectFailed { retry_in, .. } if retry_in == seconds(0.5)));
    assert!(timeout(seconds(0.1), bench.events.recv()).await.is_err(), "the same reason is said once");
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_waits_grow_over_short_lives_and_start_anew_after_a_stable_one() {
    let mut bench = Bench::new(settings());
    let mut lost: Option<(Instant, f64)> = None;
    for (life, wait) in [(0.0, 0.5), (0.0, 1.0), (0.0, 2.0), (31.0, 0.5), (0.0, 1.0)] {
        let (at, peer) = bench.accept_at().await;
        if let Some((lost, wait)) = lost {
            assert_about(at - lost, wait);
        }
        let (mut actions, mut events) = bench.up_from(peer).await;
        let until = Instant::now() + seconds(life);
        while Instant::now() < until {
            actions.expect_and_answer("Ping", "Response: Success\nPing: Pong").await;
            events.expect_and_answer("Ping", "Response: Success\nPing: Pong").await;
        }
        lost = Some((Instant::now(), wait));
        drop((actions, events));
        assert!(matches!(bench.event().await, LinkEvent::Lost { .. }));
    }
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_half_open_link_is_asked_and_then_lost_within_unknown_after_of_the_last_byte() {
    let mut bench = Bench::new(settings());
    let (mut actions, mut events) = bench.up().await;
    let last_byte = Instant::now();
    let answering = async {
        while let Some(ping) = actions.next().await {
            // The link closes this session together with the deaf one.
            let pong = format!("Response: Success\r\nActionID: {}\r\nPing: Pong\r\n\r\n", ping.action_id().unwrap());
            let _closed = actions.io.write_all(pong.as_bytes()).await;
        }
    };
    let deaf = async {
        let mut asked = Vec::new();
        while let Some(ping) = events.next().await {
            assert_eq!(ping.get("Action").unwrap(), "Ping");
            asked.push(last_byte.elapsed());
        }
        asked
    };
    let lost = async {
        let LinkEvent::Lost { error, at, since } = bench.event().await else { panic!("lost") };
        assert!(matches!(*error, SessionError::Silent { .. }), "{error:?}");
        assert_about(between(since, at), 15.0);
        last_byte.elapsed()
    };
    let (asked, lost, ()) = tokio::join!(deaf, lost, answering);
    assert_about(lost, 15.0);
    assert_eq!(asked.len(), 2);
    assert_about(asked[0], 5.0);
    assert_about(asked[1], 10.0);
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_link_whose_actions_are_dead_is_lost_though_events_flow() {
    let mut bench = Bench::new(settings());
    let (_actions, mut events) = bench.up().await;
    let start = Instant::now();
    let flowing = async {
        loop {
            events.send("Event: Registry\r\nStatus: Registered\r\n\r\n").await;
            tokio::time::sleep(seconds(1.0)).await;
        }
    };
    let lost = async {
        loop {
            if let LinkEvent::Lost { at, since, .. } = bench.event().await {
                assert!(between(since, at) <= seconds(1.1), "events came until a moment ago");
                break start.elapsed();
            }
        }
    };
    tokio::select! {
        () = flowing => unreachable!(),
        lost = lost => assert_about(lost, 15.0),
    }
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_link_tells_what_was_sent_from_what_was_not_and_repeats_nothing() {
    let mut bench = Bench::new(settings());
    let (mut actions, events) = bench.up().await;
    let (first, second) = (Action::pjsip_register("a").unwrap(), Action::pjsip_register("b").unwrap());
    let cut = async {
        actions.expect("PJSIPRegister").await;
        // The second waits for the first one's answer.
        assert!(timeout(seconds(1.0), actions.next()).await.is_err());
        drop(actions);
    };
    let (one, two, ()) = tokio::join!(bench.handle.call(&first), bench.handle.call(&second), cut);
    assert!(matches!(one, Err(CallError::OutcomeUnknown(OutcomeUnknown::ConnectionLost))), "{one:?}");
    assert!(matches!(two, Err(CallError::NotSent(NotSent::ConnectionLost))), "{two:?}");
    assert!(matches!(bench.event().await, LinkEvent::Lost { .. }));
    assert!(matches!(bench.handle.call(&first).await, Err(CallError::NotSent(NotSent::NotReady))));
    drop(events);
    // The next connection gets nothing but the link's own questions.
    let (mut actions, _events) = bench.up().await;
    assert_eq!(actions.next().await.unwrap().get("Action").unwrap(), "Ping");
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn deadlines_tell_the_same_difference_and_late_answers_reach_nobody_else() {
    let mut bench = Bench::new(settings());
    let (mut actions, _events) = bench.up().await;
    let (slow, behind, after) =
        (Action::command("slow").unwrap(), Action::command("behind").unwrap(), Action::command("after").unwrap());
    let server = async {
        let asked = actions.expect("Command").await;
        tokio::time::sleep(seconds(4.0)).await;
        actions.answer(&asked, "Response: Success\nOutput: slow").await;
        let asked = actions.expect("Command").await;
        assert_eq!(asked.get("Command").unwrap(), "after", "what was withdrawn is not sent");
        actions.answer(&asked, "Response: Success\nOutput: after").await;
    };
    let after = async {
        tokio::time::sleep(seconds(3.0)).await;
        bench.handle.call(&after).await
    };
    let (slow, behind, after, ()) = tokio::join!(
        bench.handle.call_within(&slow, seconds(2.0)),
        bench.handle.call_within(&behind, seconds(1.0)),
        after,
        server
    );
    assert!(matches!(slow, Err(CallError::OutcomeUnknown(OutcomeUnknown::Deadline))), "{slow:?}");
    assert!(matches!(behind, Err(CallError::NotSent(NotSent::Deadline))), "{behind:?}");
    assert_eq!(after.unwrap().response.output().collect::<Vec<_>>(), ["after"]);
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_action_whose_caller_went_away_is_not_sent_and_a_full_queue_is_said() {
    let mut settings = settings();
    settings.limits.queued_actions = 2;
    let mut bench = Bench::new(settings);
    let (mut actions, _events) = bench.up().await;
    let commands: Vec<_> = (0..4).map(|n| Action::command(&format!("c{n}")).unwrap()).collect();
    let mut first = Box::pin(bench.handle.call(&commands[0]));
    assert!(timeout(seconds(0.1), &mut first).await.is_err(), "under way");
    let mut gone = Box::pin(bench.handle.call(&commands[1]));
    assert!(timeout(seconds(0.1), &mut gone).await.is_err(), "waiting");
    drop(gone);
    let mut waiting = Box::pin(bench.handle.call(&commands[2]));
    assert!(timeout(seconds(0.1), &mut waiting).await.is_err(), "waiting");
    let full = bench.handle.call(&commands[3]).await;
    assert!(matches!(full, Err(CallError::NotSent(NotSent::QueueFull { limit: 2 }))), "{full:?}");
    for expected in ["c0", "c2"] {
        let asked = actions.expect_and_answer("Command", "Response: Success").await;
        assert_eq!(asked.get("Command").unwrap(), expected);
    }
    first.await.unwrap();
    waiting.await.unwrap();
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_error_inside_a_list_does_not_end_it() {
    let mut bench = Bench::new(settings());
    let (mut actions, _events) = bench.up().await;
    let action = Action::show_endpoint("airtel").unwrap();
    let server = async {
        let asked = actions.expect("PJSIPShowEndpoint").await;
        actions.answer(&asked, "Response: Success\nEventList: start\nMessage: Following").await;
        actions.answer(&asked, "Event: EndpointDetail\nObjectName: airtel").await;
        actions.answer(&asked, "Response: Error\nMessage: Unable to retrieve transport t\n\n").await;
        actions.send("Event: EndpointDetail\r\nActionID: somebody-else\r\nObjectName: other\r\n\r\n").await;
        actions.answer(&asked, "Event: AorDetail\nObjectName: airtel").await;
        actions.answer(&asked, "Event: EndpointDetailComplete\nEventList: Complete\nListItems: 2").await;
    };
    let (reply, ()) = tokio::join!(bench.handle.call(&action), server);
    let reply = reply.unwrap();
    let names: Vec<_> = reply.items.iter().map(|item| item.event().unwrap().into_owned()).collect();
    assert_eq!(names, ["EndpointDetail", "AorDetail"]);
    assert_eq!(reply.injected[0].get("Message").unwrap(), "Unable to retrieve transport t");
    assert!(reply.complete.unwrap().is_event("EndpointDetailComplete"));
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_list_without_end_costs_no_memory_and_not_the_session() {
    let mut settings = settings();
    settings.limits.list_items = 3;
    let mut bench = Bench::new(settings);
    let (mut actions, _events) = bench.up().await;
    let (list, ping) = (Action::show_contacts(), Action::ping());
    let server = async {
        let asked = actions.expect("PJSIPShowContacts").await;
        actions.answer(&asked, "Response: Success\nEventList: start").await;
        for _ in 0..100 {
            actions.answer(&asked, "Event: ContactList\nObjectName: x").await;
        }
        actions.answer(&asked, "Event: ContactListComplete\nEventList: Complete").await;
        actions.expect_and_answer("Ping", "Response: Success").await;
    };
    let calls = async {
        let list = bench.handle.call(&list).await;
        assert!(matches!(list, Err(CallError::TooLarge { items: 3, .. })), "{list:?}");
        bench.handle.call(&ping).await.unwrap();
    };
    tokio::join!(calls, server);
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_action_says_why() {
    let mut bench = Bench::new(settings());
    let (mut actions, _events) = bench.up().await;
    let action = Action::show_endpoints();
    let server = actions.expect_and_answer("PJSIPShowEndpoints", "Response: Error\nMessage: Permission denied");
    let (denied, _) = tokio::join!(bench.handle.call(&action), server);
    let denied = denied.unwrap_err();
    assert!(denied.is_permission_denied() && !denied.is_unknown_action());
    assert_eq!(denied.to_string(), "Asterisk refused the action: Permission denied");
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_does_not_look_loses_events_but_no_signal_and_is_told_where() {
    let mut settings = settings();
    settings.limits.queued_events = 10;
    let mut bench = Bench::new(settings);
    let (actions, mut events) = bench.up().await;
    for n in 0..25 {
        events.send(&format!("Event: Registry\r\nN: {n}\r\n\r\n")).await;
    }
    let mut phase = bench.handle.phase();
    drop((actions, events));
    phase.wait_for(|phase| *phase == LinkPhase::Connecting).await.unwrap();
    for n in 0..10 {
        let LinkEvent::Event { message, .. } = bench.event().await else { panic!("event {n}") };
        assert_eq!(message.get("N").unwrap(), n.to_string());
    }
    assert!(matches!(bench.event().await, LinkEvent::Overflow { lost: 15 }));
    assert!(matches!(bench.event().await, LinkEvent::Lost { .. }));
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn another_service_on_the_port_is_named() {
    let mut bench = Bench::new(settings());
    bench.accept().await.send("SSH-2.0-OpenSSH_9.2p1\r\n").await;
    let LinkEvent::ConnectFailed { error, .. } = bench.event().await else { panic!("failed") };
    assert!(error.to_string().contains("SSH-2.0-OpenSSH_9.2p1"), "{error}");
    bench.accept().await.send(&"x".repeat(4000)).await;
    assert!(matches!(bench.event().await, LinkEvent::ConnectFailed { .. }));
    // And one that says nothing.
    let _silent = bench.accept().await;
    let LinkEvent::ConnectFailed { error, .. } = bench.event().await else { panic!("failed") };
    assert_eq!(error.to_string(), "no banner within 5000 ms");
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_line_without_end_ends_the_session_with_bounded_memory() {
    let mut bench = Bench::new(settings());
    let (_actions, mut events) = bench.up().await;
    let endless = async {
        // Up to a gibibyte, as far as it is taken.
        let mut taken = 0_usize;
        let chunk = [b'x'; 4096];
        while taken < 1 << 30 && events.io.write_all(&chunk).await.is_ok() {
            taken += chunk.len();
        }
        taken
    };
    let (taken, lost) = tokio::join!(endless, bench.event());
    let LinkEvent::Lost { error, .. } = lost else { panic!("lost") };
    assert!(matches!(*error, SessionError::Decode(DecodeError::LineTooLong { limit: 65_536 })), "{error:?}");
    assert!(taken < 256 << 10, "{taken}");
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn without_the_right_to_read_system_the_link_says_so_and_goes_on() {
    let mut bench = Bench::new(settings());
    let mut actions = bench.accept().await;
    actions.log_in().await;
    let mut events = bench.accept().await;
    let begin = Instant::now();
    events.log_in().await;
    events.expect_and_answer("Filter", "Response: Error\nMessage: Permission denied").await;
    let serve = async {
        loop {
            let Some(action) = actions.next().await else { break };
            actions.answer(&action, "Response: Error\nMessage: Permission denied").await;
        }
    };
    let check = async {
        assert!(matches!(bench.event().await, LinkEvent::Connected { .. }));
        let right = |event| if let LinkEvent::RightMissing { right, .. } = event { right } else { panic!("{event:?}") };
        assert_eq!(right(bench.event().await), MissingRight::ReadSystem);
        assert_about(begin.elapsed(), 10.0);
        assert_eq!(right(bench.event().await), MissingRight::WriteReporting);
        let ready = bench.event().await;
        assert!(
            matches!(&ready, LinkEvent::Ready { booted: None, filters: FilterState::NotPermitted, .. }),
            "{ready:?}"
        );
        // It was a slow boot after all.
        events.send(BOOTED).await;
        let ready = bench.event().await;
        assert!(matches!(&ready, LinkEvent::Ready { booted: Some(_), .. }), "{ready:?}");
    };
    tokio::select! {
        () = serve => panic!("the session ended"),
        () = check => {}
    }
    bench.finish().await;
}

/// Brings a link up to where the filters are set.
async fn until_filters(bench: &mut Bench, banner: &str) -> (Peer, Peer) {
    let mut peers = Vec::new();
    for _ in 0..2 {
        let mut peer = bench.accept().await;
        peer.send(banner).await;
        peer.expect_and_answer("Challenge", "Response: Success\nChallenge: 1").await;
        peer.expect_and_answer("Login", "Response: Success").await;
        peers.push(peer);
    }
    let (mut events, actions) = (peers.pop().unwrap(), peers.pop().unwrap());
    events.send(BOOTED).await;
    assert!(matches!(bench.event().await, LinkEvent::Connected { .. }));
    (actions, events)
}

async fn ready_filters(bench: &mut Bench) -> FilterState {
    let event = bench.event().await;
    let LinkEvent::Ready { filters, .. } = event else { panic!("{event:?}") };
    filters
}

#[tokio::test(start_paused = true)]
async fn an_older_asterisk_gets_the_filter_form_that_it_understands() {
    let mut bench = Bench::new(settings());
    let (mut actions, mut events) = until_filters(&mut bench, "Asterisk Call Manager/5.0.5\r\n").await;
    for name in ["FullyBooted", "Shutdown", "Reload", "Registry", "ContactStatus", "PeerStatus"] {
        let filter = events.expect_and_answer("Filter", "Response: Success").await;
        assert_eq!(filter.get("Filter").unwrap(), format!("Event: {name}"));
        assert!(filter.header("MatchCriteria").is_none());
    }
    actions.identify().await;
    assert_eq!(ready_filters(&mut bench).await, FilterState::Active);
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn behind_a_proxy_that_hides_the_version_nothing_is_filtered() {
    let mut bench = Bench::new(settings());
    let (mut actions, _events) = until_filters(&mut bench, "Asterisk Call Manager/Proxy\r\n").await;
    actions.identify().await;
    assert_eq!(ready_filters(&mut bench).await, FilterState::Off);
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn half_a_set_of_filters_is_not_kept() {
    let mut bench = Bench::new(settings());
    let (_actions, mut events) = until_filters(&mut bench, BANNER).await;
    events.expect_and_answer("Filter", "Response: Success").await;
    events.expect_and_answer("Filter", "Response: Error\nMessage: Filter did not compile.").await;
    let lost = bench.event().await;
    assert!(
        matches!(&lost, LinkEvent::Lost { error, .. } if matches!(**error, SessionError::FiltersIncomplete)),
        "{lost:?}"
    );
    let (mut actions, _events) = until_filters(&mut bench, BANNER).await;
    actions.identify().await;
    assert_eq!(ready_filters(&mut bench).await, FilterState::Dropped);
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn dropping_the_filters_renews_the_event_session_alone() {
    let mut bench = Bench::new(settings());
    let (mut actions, mut events) = bench.up().await;
    bench.handle.drop_filters();
    assert!(events.next().await.is_none(), "the old one ends");
    let mut anew = bench.accept().await;
    anew.log_in().await;
    anew.send(BOOTED).await;
    actions.identify().await;
    assert_eq!(ready_filters(&mut bench).await, FilterState::Dropped);
    anew.send("Event: Registry\r\n\r\n").await;
    assert!(matches!(bench.event().await, LinkEvent::Event { .. }));
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn an_asterisk_on_its_way_down_is_no_refused_login() {
    let mut bench = Bench::new(settings());
    let mut peer = bench.accept().await;
    peer.send(BANNER).await;
    peer.expect_and_answer("Challenge", "Response: Error\nMessage: Asterisk is shutting down").await;
    let failed = bench.event().await;
    assert!(
        matches!(&failed, LinkEvent::ConnectFailed { error, retry_in, .. }
            if matches!(**error, SessionError::ShuttingDown) && *retry_in == seconds(0.5)),
        "{failed:?}"
    );
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_secret_itself_is_sent_only_where_that_is_safe() {
    use PlainLogin::{Anywhere, Never, WhereSafe};
    use Security::{Clear, Loopback, Tls};
    for (policy, security, allowed) in [
        (WhereSafe, Clear, false),
        (WhereSafe, Loopback, true),
        (WhereSafe, Tls, true),
        (Never, Tls, false),
        (Never, Loopback, false),
        (Anywhere, Clear, true),
    ] {
        let mut settings = settings();
        settings.plain_login = policy;
        let mut bench = Bench::over(settings, security);
        let mut peer = bench.accept().await;
        peer.send(BANNER).await;
        peer.expect_and_answer("Challenge", "Response: Error\nMessage: Must specify AuthType").await;
        if allowed {
            let login = peer.expect("Login").await;
            assert_eq!(login.secret("Secret").unwrap().expose_secret(), SECRET, "{policy:?} {security:?}");
            assert!(login.header("AuthType").is_none());
        } else {
            assert!(peer.next().await.is_none(), "{policy:?} {security:?}");
            let refused = bench.event().await;
            assert!(
                matches!(&refused, LinkEvent::LoginRefused { refusal: Refusal::PlainForbidden { .. }, .. }),
                "{refused:?}"
            );
        }
        bench.finish().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_user_who_may_log_in_only_once_is_told_from_a_wrong_secret() {
    let mut bench = Bench::new(settings());
    let mut actions = bench.accept().await;
    actions.log_in().await;
    let mut events = bench.accept().await;
    events.send(BANNER).await;
    events.expect_and_answer("Challenge", "Response: Success\nChallenge: 1").await;
    events.expect_and_answer("Login", "Response: Error\nMessage: Login Already In Use").await;
    let refused = bench.event().await;
    assert!(matches!(&refused, LinkEvent::LoginRefused { refusal: Refusal::AlreadyInUse { .. }, .. }), "{refused:?}");
    assert!(actions.next().await.is_none(), "the first session does not stay behind");
    bench.finish().await;
}

#[tokio::test(start_paused = true)]
async fn the_socket_is_read_though_the_consumer_is_not_there_and_every_event_is_accounted_for() {
    let mut bench = Bench::new(settings());
    let (_actions, mut events) = bench.up().await;
    // Would block for good if the session waited for its consumer: the pipe holds 4 kB.
    for _ in 0..20_000 {
        events.send("Event: Registry\r\nChannelType: PJSIP\r\nStatus: Registered\r\n\r\n").await;
    }
    drop(events);
    bench.handle.phase().wait_for(|phase| *phase == LinkPhase::Connecting).await.unwrap();
    let (mut seen, mut lost_count) = (0, 0);
    let last = loop {
        let event = bench.event().await;
        if let LinkEvent::Event { .. } = event {
            seen += 1;
        } else if let LinkEvent::Overflow { lost } = event {
            lost_count += lost;
        } else {
            break event;
        }
    };
    assert!(matches!(last, LinkEvent::Lost { .. }), "{last:?}");
    assert_eq!((seen, lost_count), (8192, 20_000 - 8192));
    bench.finish().await;
}

/// Collects what would be logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn no_log_at_any_level_contains_a_secret() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_span_events(tracing_subscriber::fmt::format::FmtSpan::FULL)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let settings = settings();
    tracing::info!(?settings, "settings");
    let mut bench = Bench::new(settings);
    let (mut actions, mut events) = bench.up().await;
    events.send("Event: AuthDetail\r\nPassword: trunk-pass\r\n\r\n").await;
    let event = bench.event().await;
    tracing::info!(?event, "event");
    let action = Action::show_registrations_outbound();
    let server = async {
        let asked = actions.expect("PJSIPShowRegistrationsOutbound").await;
        actions.answer(&asked, "Response: Success\nEventList: start").await;
        actions.answer(&asked, "Event: AuthDetail\nObjectName: a\nPassword: trunk-pass").await;
        actions.answer(&asked, "Event: OutboundRegistrationDetailComplete\nEventList: Complete").await;
    };
    let (reply, ()) = tokio::join!(bench.handle.call(&action), server);
    tracing::info!(?reply, "reply");
    assert_eq!(reply.unwrap().items[0].secret("Password").unwrap().expose_secret(), "trunk-pass");
    bench.finish().await;
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("ami.session") && text.contains("AMI link ready"), "{text}");
    let key = md5_key("840415273", &SECRET.into());
    for secret in [SECRET, "trunk-pass", key.expose_secret()] {
        assert!(!text.contains(secret), "{secret} in the log");
    }
}

/// The waits between connections may be spread, but never below what hosts ban for.
#[test]
fn jitter_spreads_ordinary_waits_and_never_shortens_the_one_after_a_refusal() {
    let mut different = std::collections::HashSet::new();
    for _ in 0..100 {
        let mut delays = link::Delays::new(Backoff::default());
        let ordinary = delays.next(false);
        assert!((seconds(0.375)..=seconds(0.625)).contains(&ordinary), "{ordinary:?}");
        different.insert(ordinary);
        let refused = delays.next(true);
        assert!((seconds(10.0)..=seconds(12.5)).contains(&refused), "{refused:?}");
    }
    assert!(different.len() > 50);
}

mod tls {
    //! A real TLS server on loopback with a CA made for the test. Real time: nothing here waits for a timer.

    use std::{
        net::SocketAddr,
        path::PathBuf,
        pin::Pin,
        task::{Context, Poll},
    };

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
    use tempfile::TempDir;
    use tokio::{
        io::ReadBuf,
        net::{TcpListener, TcpStream},
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;

    struct Ca {
        issuer: CertifiedIssuer<'static, KeyPair>,
    }

    impl Ca {
        fn new() -> Self {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
        }

        fn file(&self, dir: &TempDir) -> PathBuf {
            let path = dir.path().join("ca.pem");
            std::fs::write(&path, self.issuer.pem()).unwrap();
            path
        }

        fn acceptor(&self, name: &str) -> TlsAcceptor {
            let key = KeyPair::generate().unwrap();
            let certificate =
                CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let config = ServerConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(vec![certificate.der().clone()], PrivatePkcs8KeyDer::from(key.serialize_der()).into())
                .unwrap();
            TlsAcceptor::from(Arc::new(config))
        }
    }

    /// Keeps what the client wrote, as it was on the wire.
    struct Tap {
        tcp: TcpStream,
        read: Arc<Mutex<Vec<u8>>>,
    }

    impl AsyncRead for Tap {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            let before = buf.filled().len();
            let polled = Pin::new(&mut self.tcp).poll_read(cx, buf);
            self.read.lock().unwrap().extend_from_slice(&buf.filled()[before..]);
            polled
        }
    }

    impl AsyncWrite for Tap {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.tcp).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.tcp).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.tcp).poll_shutdown(cx)
        }
    }

    async fn listen() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn on(ca_file: PathBuf, server_name: Option<&str>) -> Tls {
        Tls::On { ca_file: Some(ca_file), server_name: server_name.map(str::to_owned) }
    }

    /// What the client says about a server whose certificate is for `name`, signed by `signer`.
    async fn connect(signer: &Ca, trusted: &Ca, name: &str, server_name: Option<&str>) -> Result<Security, String> {
        let dir = TempDir::new().unwrap();
        let (listener, address) = listen().await;
        let transport = TcpTransport::new(address.to_string(), &on(trusted.file(&dir), server_name)).unwrap();
        let acceptor = signer.acceptor(name);
        let server = async {
            let (tcp, _) = listener.accept().await.unwrap();
            let _refused_by_the_client = acceptor.accept(tcp).await;
        };
        let (connected, ()) = tokio::join!(transport.connect(), server);
        connected.map(|connection| connection.security).map_err(|error| {
            let source = std::error::Error::source(&error).unwrap().to_string();
            format!("{error}: {source}")
        })
    }

    #[tokio::test]
    async fn a_certificate_of_our_ca_for_the_address_or_the_given_name_is_accepted() {
        let ca = Ca::new();
        assert_eq!(connect(&ca, &ca, "127.0.0.1", None).await, Ok(Security::Tls));
        assert_eq!(connect(&ca, &ca, "pbx.example", Some("pbx.example")).await, Ok(Security::Tls));
    }

    #[tokio::test]
    async fn another_name_is_refused() {
        let ca = Ca::new();
        let refused = connect(&ca, &ca, "pbx.example", Some("other.example")).await.unwrap_err();
        assert!(refused.contains("not valid for name"), "{refused}");
        let refused = connect(&ca, &ca, "pbx.example", None).await.unwrap_err();
        assert!(refused.contains("not valid for name"), "the address itself is checked: {refused}");
    }

    #[tokio::test]
    async fn another_ca_is_refused() {
        let refused = connect(&Ca::new(), &Ca::new(), "127.0.0.1", None).await.unwrap_err();
        assert!(refused.contains("invalid peer certificate"), "{refused}");
    }

    #[tokio::test]
    async fn a_ca_file_that_is_missing_or_empty_or_no_certificate_is_said_before_connecting() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("ca.pem");
        let refused = || TcpTransport::new("127.0.0.1:5039", &on(path.clone(), None)).unwrap_err();
        assert!(matches!(refused(), TransportError::CaFile { .. }));
        std::fs::write(&path, "# nothing here\n").unwrap();
        assert!(matches!(refused(), TransportError::EmptyCaFile { .. }));
        std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
        assert!(matches!(refused(), TransportError::BadCa { .. }));
        std::fs::write(&path, Ca::new().issuer.pem()).unwrap();
        assert!(TcpTransport::new("127.0.0.1:5039", &on(path.clone(), None)).is_ok());
        let name = TcpTransport::new("127.0.0.1:5039", &on(path, Some("no name"))).unwrap_err();
        assert!(matches!(name, TransportError::ServerName { .. }));
    }

    #[tokio::test]
    async fn a_link_works_over_tls_in_records_that_asterisk_can_read() {
        let (ca, dir) = (Ca::new(), TempDir::new().unwrap());
        let (listener, address) = listen().await;
        let mut settings = settings();
        settings.address = address.to_string();
        settings.filter = false;
        settings.tls = on(ca.file(&dir), None);
        let transport = Arc::new(TcpTransport::new(settings.address.clone(), &settings.tls).unwrap());
        let (tracker, stop) = (TaskTracker::new(), CancellationToken::new());
        let (handle, mut link_events) =
            AmiLink::start(settings, transport, Arc::new(SystemClock), &tracker, stop.clone());
        let acceptor = ca.acceptor("127.0.0.1");
        let read = Arc::new(Mutex::new(Vec::new()));
        let mut peers = Vec::new();
        for _ in 0..2 {
            let (tcp, _) = listener.accept().await.unwrap();
            let tap = Tap { tcp, read: Arc::clone(&read) };
            let mut peer = Peer::new(acceptor.accept(tap).await.unwrap());
            peer.log_in().await;
            // Only what comes from here on is looked at: records, in the first session alone.
            peers.push(peer);
        }
        let (mut events, mut actions) = (peers.pop().unwrap(), peers.pop().unwrap());
        events.send(BOOTED).await;
        actions.identify().await;
        assert!(matches!(link_events.recv().await, Some(LinkEvent::Connected { .. })));
        assert!(matches!(link_events.recv().await, Some(LinkEvent::Ready { .. })));
        // The largest action there is: some 127 kB.
        let value = "x".repeat(1000);
        let large =
            (0..126).try_fold(Action::new("Large").unwrap(), |action, _| action.with("Variable", &value)).unwrap();
        read.lock().unwrap().clear();
        let server = async {
            let asked = actions.expect_and_answer("Large", "Response: Success").await;
            assert_eq!(asked.get_all("Variable").count(), 126);
        };
        let (reply, ()) = tokio::join!(handle.call(&large), server);
        reply.unwrap();
        let wire = read.lock().unwrap().clone();
        let (mut rest, mut records) = (wire.as_slice(), 0);
        while let [_kind, _major, _minor, high, low, tail @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            assert!(length + 5 <= 1024, "a record of {length} bytes");
            rest = &tail[length..];
            records += 1;
        }
        assert!(records > 126 && rest.is_empty(), "{records} records");
        stop.cancel();
        tracker.close();
        tracker.wait().await;
    }

    #[tokio::test]
    async fn a_plain_connection_to_loopback_knows_that_it_is_one() {
        let (listener, address) = listen().await;
        let transport = TcpTransport::new(address.to_string(), &Tls::Off).unwrap();
        let (connected, _) = tokio::join!(transport.connect(), listener.accept());
        assert_eq!(connected.unwrap().security, Security::Loopback);
    }

    #[tokio::test]
    async fn a_closed_port_is_an_error_with_its_address() {
        let (listener, address) = listen().await;
        drop(listener);
        let refused = TcpTransport::new(address.to_string(), &Tls::Off).unwrap().connect().await.unwrap_err();
        assert_eq!(refused.to_string(), format!("cannot connect to {address}"));
    }
}
